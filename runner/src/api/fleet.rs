//! Workers: who is alive and what they do, who is to take no new work, and the tokens that they come with.

use std::sync::Arc;

use axum::{Json, extract::State};
use http::StatusCode;
use secrecy::ExposeSecret as _;
use segue_schemas::{
    api::{NewWorkerToken, Revoked, WorkerList, WorkerTokenList, WorkerTokenMade},
    id::WorkerId,
    worker_api::ErrorBody,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    error::Result,
    extract::{Body, Path},
    views,
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(workers))
        .routes(routes!(drain, undrain))
        .routes(routes!(worker_tokens, create_worker_token))
        .routes(routes!(revoke_worker_token))
}

/// The workers: who is alive, what they offer, and what each runs.
#[utoipa::path(get, path = "/workers", tag = "workers", responses((status = 200, body = WorkerList)))]
async fn workers(State(app): State<Arc<App>>) -> Result<Json<WorkerList>> {
    let (alive_for, now) = (app.store.worker_patience(), app.store.now());
    let view = |record| views::worker(record, now, alive_for);
    Ok(Json(WorkerList { items: app.store.workers().await?.into_iter().map(view).collect() }))
}

/// Has a worker take no new work. It ends what it holds, and goes on with what it has begun. Holds until it is taken back.
#[utoipa::path(put, path = "/workers/{id}/drain", tag = "workers", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = ErrorBody)))]
async fn drain(State(app): State<Arc<App>>, Path(worker): Path<WorkerId>) -> Result<StatusCode> {
    app.store.drain_worker(&worker, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Has a worker take new work again.
#[utoipa::path(delete, path = "/workers/{id}/drain", tag = "workers", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = ErrorBody)))]
async fn undrain(State(app): State<Arc<App>>, Path(worker): Path<WorkerId>) -> Result<StatusCode> {
    app.store.drain_worker(&worker, false).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The tokens of workers: names, never tokens.
#[utoipa::path(get, path = "/worker-tokens", tag = "workers", responses((status = 200, body = WorkerTokenList)))]
async fn worker_tokens(State(app): State<Arc<App>>) -> Result<Json<WorkerTokenList>> {
    let items = app.store.worker_tokens().await?.into_iter().map(views::worker_token).collect();
    Ok(Json(WorkerTokenList { items }))
}

/// Makes a token for a worker, or for several that are alike. It can't be read again.
#[utoipa::path(post, path = "/worker-tokens", tag = "workers", request_body = NewWorkerToken,
    responses((status = 201, body = WorkerTokenMade), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn create_worker_token(
    State(app): State<Arc<App>>,
    Body(wanted): Body<NewWorkerToken>,
) -> Result<(StatusCode, Json<WorkerTokenMade>)> {
    let token = app.store.create_worker_token(&wanted.name, wanted.labels).await?;
    tracing::info!(name = wanted.name, "a worker token was made");
    let made = WorkerTokenMade { name: wanted.name, token: token.expose_secret().to_owned() };
    Ok((StatusCode::CREATED, Json(made)))
}

/// Takes a token back, at once. What its workers hold is lost as if they had died.
#[utoipa::path(delete, path = "/worker-tokens/{name}", tag = "workers", params(("name" = String, Path)),
    responses((status = 200, body = Revoked), (status = 404, body = ErrorBody)))]
async fn revoke_worker_token(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<Revoked>> {
    let workers = app.store.revoke_worker_token(&name).await?;
    tracing::info!(name, "a worker token was revoked");
    Ok(Json(Revoked { workers }))
}

#[cfg(test)]
mod tests;
