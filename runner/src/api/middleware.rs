//! What lies around the handlers: tokens, request ids, bounds on bodies, times and requests at a time, and no panic that
//! takes a connection down without an answer.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, header};
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
};
use tracing::Instrument as _;

use super::{App, callers, error::ApiError};
use crate::{
    auth::{TokenHash, bearer},
    telemetry::Api,
};

/// The largest JSON body in bytes. Logs, artifacts and webhooks have limits of their own.
pub const BODY_LIMIT: usize = 4 * 1024 * 1024;
/// People's requests at a time.
const PUBLIC_AT_A_TIME: usize = 256;
/// Workers' requests at a time: two long polls per worker, one per job that runs, and logs.
const WORKERS_AT_A_TIME: usize = 4096;
/// Requests of hosts at a time: one long poll each, and what they fetch.
const HOSTS_AT_A_TIME: usize = 2048;
/// How long people's requests take at most until the answer begins; streams go on after that.
const PUBLIC_LIMIT: Duration = Duration::from_secs(60);
/// A body up to this is read by the connection itself, whatever the handler does with it.
const UNREAD_BYTES: u64 = 4 * 1024;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Around people's API.
pub fn public(router: Router<Arc<App>>, app: &Arc<App>) -> Router<Arc<App>> {
    router
        .fallback(no_such_path)
        .layer(from_fn(within_limit))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(GlobalConcurrencyLimitLayer::new(PUBLIC_AT_A_TIME))
        .layer(from_fn_with_state(app.clone(), need_admin))
}

/// Around the workers' API.
pub fn worker(router: Router<Arc<App>>, app: &Arc<App>) -> Router<Arc<App>> {
    router
        .fallback(no_such_path)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(GlobalConcurrencyLimitLayer::new(WORKERS_AT_A_TIME))
        .layer(from_fn_with_state(app.clone(), need_worker))
}

/// Around the API of hosts that joined: what each sends is signed, which its handler checks.
pub fn host(router: Router<Arc<App>>, app: &Arc<App>) -> Router<Arc<App>> {
    router
        .fallback(no_such_path)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(GlobalConcurrencyLimitLayer::new(HOSTS_AT_A_TIME))
        .layer(from_fn_with_state(app.clone(), count_host))
}

/// Around everything.
pub fn everywhere(router: Router) -> Router {
    router
        .fallback(no_such_path)
        .layer(from_fn(close_after_refusal))
        .layer(from_fn(in_span))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            ApiError::internal("a fault of the server; its log says more").into_response()
        }))
}

async fn need_admin(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let response = guarded(&app.tokens.admin, request, next).await;
    app.metrics.request(Api::Public, response.status());
    response
}

async fn need_worker(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let response = callers::admit(&app, request, next).await;
    app.metrics.request(Api::Worker, response.status());
    response
}

async fn count_host(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    app.metrics.request(Api::Host, response.status());
    response
}

async fn guarded(wanted: &TokenHash, request: Request, next: Next) -> Response {
    let hint = "it lies in `admin-token` of the server's data directory";
    match bearer(request.headers()) {
        Some(token) if wanted.is(token) => next.run(request).await,
        Some(_) => ApiError::unauthorized(format!("this is not the admin token: {hint}")).into_response(),
        None => {
            ApiError::unauthorized(format!("send the admin token as `Authorization: Bearer`: {hint}")).into_response()
        }
    }
}

async fn within_limit(request: Request, next: Next) -> Response {
    match tokio::time::timeout(PUBLIC_LIMIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::unavailable(format!("no answer within {} s", PUBLIC_LIMIT.as_secs())).into_response(),
    }
}

/// An error that is answered before the body was read leaves the rest of it on the connection, which then can't be used
/// again: the sender is told so, else its next request would be lost.
async fn close_after_refusal(request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let is_large = length.map_or(request.headers().contains_key(header::TRANSFER_ENCODING), |n: u64| n > UNREAD_BYTES);
    let mut response = next.run(request).await;
    if is_large && (response.status().is_client_error() || response.status().is_server_error()) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn in_span(request: Request, next: Next) -> Response {
    let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    // the query is left out: it may be long, and a value in it may be nobody's business
    let span = tracing::debug_span!("request", id, method = %request.method(), path = request.uri().path());
    next.run(request).instrument(span).await
}

async fn no_such_path(request: Request) -> ApiError {
    ApiError::not_found(format!("there is no {} {}", request.method(), request.uri().path()))
}
