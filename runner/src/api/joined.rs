//! What hosts on other machines ask of their server, as [`segue_schemas::host_join`] describes it. The server may speak plain HTTP: a
//! join is signed by its token, everything else by the host's key, with the time, so that nothing can be changed on its way and little
//! be sent once more.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body as StreamBody, Bytes},
    extract::State,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use http::{HeaderMap, Method, Uri, header};
use ring::{
    digest::{SHA256, digest},
    signature::{ED25519, UnparsedPublicKey},
};
use segue_schemas::{
    host_join::{
        CLOCK_SKEW_MS, Certified, HOST_HEADER, HostHeard, HostWord, JoinHost, RenewHost, SIGNATURE_HEADER, TIME_HEADER,
        WORD_LIMIT_MS, request_text,
    },
    id::Digest,
    time::Timestamp,
};
use serde::de::DeserializeOwned;

use super::{
    App,
    error::{ApiError, Result},
    extract::{Body, Path},
};
use crate::{
    reconcile,
    store::{Bell, JoinedHost, Listener, Store, StoreError},
};

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/join", post(join))
        .route("/renew", post(renew))
        .route("/word", post(word))
        .route("/artifacts/{digest}", get(artifact))
}

async fn join(State(app): State<Arc<App>>, Body(join): Body<JoinHost>) -> Result<Json<Certified>> {
    let (name, address) = (join.name.clone(), join.address.clone());
    match app.store.join_host(join).await {
        Ok(certified) => {
            tracing::info!(host = name, address, "a host has joined");
            Ok(Json(certified))
        }
        Err(error) => {
            tracing::warn!(host = name.escape_debug().to_string(), %error, "a machine was refused as a host");
            Err(error.into())
        }
    }
}

async fn renew(
    State(app): State<Arc<App>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Certified>> {
    let host = signed(&app, &method, &uri, &headers, &body).await?;
    let certified = app.store.renew_host(&host.name, read::<RenewHost>(&body)?).await?;
    tracing::info!(host = host.name, "a host's certificate was renewed");
    Ok(Json(certified))
}

/// Takes in what a host carries, and holds the answer back until there is news for it.
async fn word(
    State(app): State<Arc<App>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<HostHeard>> {
    let host = signed(&app, &method, &uri, &headers, &body).await?;
    let word = read::<HostWord>(&body)?;
    let mut news = app.store.doorbell().listen(Bell::Hosts);
    match &word.state {
        Some(state) => {
            let state = app.store.believable(&host.name, state).await?;
            match reconcile::host(&app.store, &host.name, &state).await {
                // it was heard, and the same again brings the same; what is revoked it must hear of all the same
                Err(error @ (StoreError::Refused(_) | StoreError::Conflict(_) | StoreError::NotFound { .. })) => {
                    tracing::warn!(host = host.name, %error, "not all that a host tells can be put on record");
                }
                taken => taken?,
            }
        }
        None => {
            app.store.host_heard(&host.name).await?;
            // what is revoked, and who has certificates by now, it must hear of all the same
            if let Err(error) = app.store.keep_in_step_as_told(&host.name).await {
                tracing::warn!(host = host.name, %error, "it can't be brought to what is on record now");
            }
        }
    }
    let mut open = Open { store: &app.store, name: &host.name, is_open: true };
    let answer = next_news(&app, &host.name, &word, &mut news).await;
    open.is_open = false;
    answer
}

/// The request that a host keeps open. Where it is dropped before there is an answer, the host has gone, or the way to it.
struct Open<'h> {
    store: &'h Store,
    name: &'h str,
    is_open: bool,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.store.host_was_cut(self.name);
        }
    }
}

async fn next_news(app: &App, host: &str, word: &HostWord, news: &mut Listener) -> Result<Json<HostHeard>> {
    let over = tokio::time::sleep(Duration::from_millis(word.wait_ms.min(WORD_LIMIT_MS)));
    tokio::pin!(over);
    loop {
        // one that was revoked meanwhile is told
        app.store.joined_host(host).await?;
        let heard = app.store.host_news(word.revision).await?;
        if heard.revision != word.revision {
            return Ok(Json(heard));
        }
        tokio::select! {
            () = news.rung() => {}
            () = &mut over => return Ok(Json(heard)),
            () = app.stopping.cancelled() => return Ok(Json(heard)),
        }
    }
}

async fn artifact(
    State(app): State<Arc<App>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Path(digest): Path<Digest>,
) -> Result<Response> {
    signed(&app, &method, &uri, &headers, &[]).await?;
    let content = app.store.artifacts().read(&digest).await?;
    let content = content.ok_or_else(|| ApiError::not_found(format!("there is no artifact {digest}")))?;
    let head =
        [(header::CONTENT_TYPE, "application/zstd".to_owned()), (header::CONTENT_LENGTH, content.bytes.to_string())];
    Ok((head, StreamBody::from_stream(content.stream)).into_response())
}

/// The host that has signed a request.
async fn signed(app: &App, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<JoinedHost> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(name), Some(at), Some(signature)) = (text(HOST_HEADER), text(TIME_HEADER), text(SIGNATURE_HEADER)) else {
        return Err(ApiError::unauthorized("only hosts that joined are answered here, and they sign what they ask"));
    };
    let host = app.store.joined_host(name).await?;
    let at = Timestamp(at.parse().map_err(|_| ApiError::bad_request("the time of the signature can't be read"))?);
    let path = uri.path_and_query().map_or_else(|| uri.path(), http::uri::PathAndQuery::as_str);
    let signed = request_text(name, method.as_str(), path, at, &hex::encode(digest(&SHA256, body)));
    let (key, signature) = (hex::decode(&host.key).unwrap_or_default(), hex::decode(signature).unwrap_or_default());
    if UnparsedPublicKey::new(&ED25519, key).verify(&signed, &signature).is_err() {
        return Err(ApiError::unauthorized(format!(
            "this is not signed by the key that the host `{name}` joined with"
        )));
    }
    let apart = app.store.now().0.saturating_sub(at.0);
    if apart.abs() > CLOCK_SKEW_MS {
        let words =
            format!("the clocks of the host `{name}` and of the server are {} s apart: set them right", apart / 1000);
        return Err(ApiError::unauthorized(words));
    }
    Ok(host)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|e| ApiError::bad_request(e.to_string()))
}
