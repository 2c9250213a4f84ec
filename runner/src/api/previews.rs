//! Previews.

use std::sync::Arc;

use axum::{Json, extract::State};
use segue_schemas::preview::PreviewList;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, error::Result};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(previews))
}

/// The previews of open pull requests, and those that are being taken away.
#[utoipa::path(get, path = "/previews", tag = "rollouts", responses((status = 200, body = PreviewList)))]
async fn previews(State(app): State<Arc<App>>) -> Result<Json<PreviewList>> {
    Ok(Json(PreviewList { items: app.store.previews().await? }))
}
