//! What is open to everybody, and the description of the API.

use std::sync::Arc;

use axum::{Json, Router, extract::State, response::IntoResponse, routing::get};
use http::header;

use super::{
    App,
    error::{ApiError, Result},
};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `/healthz`, `/readyz`, `/metrics`.
pub fn routes() -> Router<Arc<App>> {
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).route("/metrics", get(metrics))
}

/// `/openapi.json`.
pub fn description(openapi: utoipa::openapi::OpenApi) -> Router<Arc<App>> {
    let openapi = Arc::new(openapi);
    Router::new().route("/openapi.json", get(async move || Json(openapi.as_ref().clone())))
}

/// The process answers.
async fn healthz() -> &'static str {
    "ok\n"
}

/// The store takes writes and the server does not stop.
async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str> {
    if app.stopping.is_cancelled() {
        return Err(ApiError::unavailable("the server stops"));
    }
    app.store.check().await?;
    Ok("ready\n")
}

async fn metrics(State(app): State<Arc<App>>) -> Result<impl IntoResponse> {
    let figures = app.store.figures().await?;
    let oldest_queued = figures.oldest_queued_at.map(|at| app.store.now().since(at)).unwrap_or_default();
    let text = app.metrics.encode(&figures, oldest_queued).map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, OPENMETRICS)], text))
}
