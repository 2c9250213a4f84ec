//! The dead letters of the message queue.

use std::{collections::BTreeSet, sync::Arc};

use axum::{Json, extract::State};
use segue_schemas::{
    queue::{DeadLetterList, RequeueRequest, Requeued},
    worker_api::ErrorBody,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    error::{ApiError, Result},
    extract::Body,
};
use crate::queue::Queue;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(dead_letters)).routes(routes!(requeue))
}

/// Messages that nobody could do anything with, and why.
#[utoipa::path(get, path = "/queue/dead-letters", tag = "server",
    responses((status = 200, body = DeadLetterList), (status = 422, body = ErrorBody)))]
async fn dead_letters(State(app): State<Arc<App>>) -> Result<Json<DeadLetterList>> {
    Ok(Json(DeadLetterList { items: queue(&app)?.dead_letters().await? }))
}

/// Puts dead letters back into the queues that they came from.
#[utoipa::path(post, path = "/queue/dead-letters/requeue", tag = "server", request_body = RequeueRequest,
    responses((status = 200, body = Requeued), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn requeue(State(app): State<Arc<App>>, Body(request): Body<RequeueRequest>) -> Result<Json<Requeued>> {
    if request.all != request.ids.is_empty() {
        return Err(ApiError::bad_request("name `ids`, or say `all`"));
    }
    let wanted: BTreeSet<String> = request.ids.into_iter().collect();
    let ids = queue(&app)?.requeue_dead_letters((!request.all).then_some(&wanted)).await?;
    if let Some(missing) = wanted.iter().find(|id| !ids.contains(id)) {
        return Err(ApiError::not_found(format!("there is no dead letter {missing}; put back: {}", ids.len())));
    }
    Ok(Json(Requeued { ids }))
}

fn queue(app: &App) -> Result<&Queue> {
    app.queue.as_ref().ok_or_else(|| {
        ApiError::refused("this server has no message queue: without `broker` in segue.yaml there are no dead letters")
    })
}
