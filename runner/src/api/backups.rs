//! Backups of services: which there are, and having one brought back.

use std::sync::Arc;

use axum::{Json, extract::State, response::IntoResponse};
use http::StatusCode;
use segue_schemas::{
    api::{BackupList, BackupQuery, BackupStatus, BackupView, RestoreRequest},
    deploy::Rollout,
    host_api::{Backup, BackupState},
    id::{BackupId, InvalidId},
    sync::SyncRequest,
    worker_api::ErrorBody,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::control::sync::Asked;

use super::{
    App,
    error::{ApiError, Result},
    extract::{Body, OptionalBody, Path, Query},
    runs::{somebody, with_reason},
    views,
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(restore)).routes(routes!(sync))
}

/// The backups of services that hosts keep, take, or could not take lately, newest first.
#[utoipa::path(get, path = "/backups", tag = "backups", params(BackupQuery),
    responses((status = 200, body = BackupList)))]
async fn list(State(app): State<Arc<App>>, Query(query): Query<BackupQuery>) -> Result<Json<BackupList>> {
    let is_wanted = |one: &Backup| {
        query.environment.as_ref().is_none_or(|wanted| *wanted == one.environment)
            && query.service.as_ref().is_none_or(|wanted| *wanted == one.service)
    };
    let all = app.store.backups().await?.into_iter().filter(|(_, one)| is_wanted(one));
    let limit = usize::try_from(views::limit(query.limit)).unwrap_or(usize::MAX);
    Ok(Json(BackupList { items: all.take(limit).map(|(host, one)| view(host, one)).collect() }))
}

/// Brings a backup back: a rollout of its own, which backs up what is there now first.
#[utoipa::path(post, path = "/backups/{id}/restore", tag = "backups", request_body = RestoreRequest,
    params(("id" = BackupId, Path)), responses((status = 201, body = Rollout), (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn restore(
    State(app): State<Arc<App>>,
    Path(id): Path<BackupId>,
    OptionalBody(request): OptionalBody<RestoreRequest>,
) -> Result<impl IntoResponse> {
    let by = with_reason(somebody(request.by), request.reason);
    tracing::info!(backup = %id, by, "a backup is to be brought back");
    let rollout = app.store.create_restore(&id, by).await?;
    Ok((StatusCode::CREATED, Json(views::rollout(app.store.rollout(rollout).await?.rollout))))
}

/// Brings data of one environment to another, without what is personal in them: a rollout of its own, which backs up what is there first.
#[utoipa::path(post, path = "/backups/sync", tag = "backups", request_body = SyncRequest,
    responses((status = 201, body = Rollout), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 422, body = ErrorBody)))]
async fn sync(State(app): State<Arc<App>>, Body(request): Body<SyncRequest>) -> Result<impl IntoResponse> {
    let SyncRequest { from, to, service, data, reason, by } = request;
    let by = with_reason(somebody(by), reason);
    let data = data.as_deref().unwrap_or("fresh").parse();
    let data = data.map_err(|error: InvalidId| ApiError::bad_request(error.to_string()))?;
    tracing::info!(from, to, service, by, "data are to come from another environment");
    let rollout = app.store.create_sync(Asked { from, to, service, data, by }).await?;
    Ok((StatusCode::CREATED, Json(views::rollout(app.store.rollout(rollout).await?.rollout))))
}

fn view(host: String, one: Backup) -> BackupView {
    let (status, bytes, sha256, reason) = match one.state {
        BackupState::Taking => (BackupStatus::Taking, None, None, None),
        BackupState::Kept { bytes, sha256, .. } => (BackupStatus::Kept, Some(bytes), Some(sha256), None),
        BackupState::Failed { reason, said, .. } => {
            let lines: Vec<String> = std::iter::once(reason).chain(said).collect();
            (BackupStatus::Failed, None, None, Some(lines.join("\n")))
        }
    };
    BackupView {
        id: one.id,
        host,
        environment: one.environment,
        service: one.service,
        release: one.release,
        commit: one.commit,
        begun_at: one.begun_at,
        why: one.why,
        status,
        bytes,
        sha256,
        reason,
    }
}
