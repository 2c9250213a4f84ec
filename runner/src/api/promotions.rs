//! Having what serves in one environment serve in another.

use std::sync::Arc;

use axum::{Json, extract::State, response::IntoResponse};
use http::StatusCode;
use segue_schemas::{
    api::{PromotionList, PromotionRequest, PromotionView},
    worker_api::ErrorBody,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, error::Result, extract::Body, runs::somebody, views};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(promote))
}

/// Promotes what serves in one environment to another: a run for each service that differs, through the gates of the target.
#[utoipa::path(post, path = "/promotions", tag = "releases", request_body = PromotionRequest,
    responses((status = 200, body = PromotionList), (status = 201, body = PromotionList), (status = 422, body = ErrorBody)))]
async fn promote(State(app): State<Arc<App>>, Body(mut request): Body<PromotionRequest>) -> Result<impl IntoResponse> {
    request.by = Some(somebody(request.by));
    let promoted = app.planner.promote(&request).await?;
    let has_begun = promoted.iter().any(|one| one.run.is_some());
    let items = promoted.into_iter().map(|one| PromotionView { run: one.run.map(views::run), ..one.view }).collect();
    let status = if has_begun { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(PromotionList { items })))
}
