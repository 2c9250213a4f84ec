//! Secrets, what waits, and how the server stands.

use std::sync::Arc;

use axum::{Json, extract::State};
use http::StatusCode;
use segue_schemas::{
    api::{Limit, QueueList, SecretList, SecretScope, SecretValue, ServerStatus},
    status::JobStatus,
    worker_api::ErrorBody,
};
use utoipa_axum::{router::OpenApiRouter, routes};
use zeroize::Zeroizing;

use super::{
    App,
    error::{ApiError, Result},
    extract::{Body, Path, Query},
    views,
};
use crate::{mirror::RepositoryName, store};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(secrets))
        .routes(routes!(put_secret, delete_secret))
        .routes(routes!(queue))
}

/// How the server stands.
#[utoipa::path(get, path = "/status", tag = "server", responses((status = 200, body = ServerStatus)))]
async fn status(State(app): State<Arc<App>>) -> Result<Json<ServerStatus>> {
    let figures = app.store.figures().await?;
    let of = |wanted: &[JobStatus]| figures.jobs.iter().filter(|(s, _)| wanted.contains(s)).map(|(_, n)| n).sum();
    let disk_free_mib = disk_free_mib(&app.data)?;
    Ok(Json(ServerStatus {
        version: env!("CARGO_PKG_VERSION").into(),
        started_at: app.started_at,
        disk_free_mib,
        is_disk_low: disk_free_mib < app.config.retention.low_disk_mib,
        unplanned_deliveries: figures.deliveries_waiting,
        queued_jobs: of(&[JobStatus::Queued]),
        running_jobs: of(&[JobStatus::Leased, JobStatus::Running]),
        active_rollouts: figures.rollouts_open,
    }))
}

fn disk_free_mib(data: &std::path::Path) -> Result<u64> {
    let disk = nix::sys::statvfs::statvfs(data);
    let disk = disk.map_err(|error| ApiError::unavailable(format!("{}: {error}", data.display())))?;
    Ok(disk.blocks_available().saturating_mul(disk.fragment_size()) >> 20)
}

/// The secrets that are set: names, never values.
#[utoipa::path(get, path = "/secrets", tag = "secrets", responses((status = 200, body = SecretList)))]
async fn secrets(State(app): State<Arc<App>>) -> Result<Json<SecretList>> {
    Ok(Json(SecretList { items: app.store.secrets().await?.into_iter().map(views::secret).collect() }))
}

/// Sets a secret. It can't be read back.
#[utoipa::path(put, path = "/secrets/{name}", tag = "secrets", request_body = SecretValue,
    params(("name" = String, Path), SecretScope), responses((status = 204), (status = 422, body = ErrorBody)))]
async fn put_secret(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(scope): Query<SecretScope>,
    Body(secret): Body<SecretValue>,
) -> Result<StatusCode> {
    let value = Zeroizing::new(secret.value);
    app.store.put_secret(checked(scope)?, &name, value, "admin".into()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a secret.
#[utoipa::path(delete, path = "/secrets/{name}", tag = "secrets", params(("name" = String, Path), SecretScope),
    responses((status = 204), (status = 404, body = ErrorBody)))]
async fn delete_secret(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(scope): Query<SecretScope>,
) -> Result<StatusCode> {
    if app.store.delete_secret(checked(scope)?, &name).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found(format!("there is no secret {name} in that scope")))
    }
}

fn checked(scope: SecretScope) -> Result<store::SecretScope> {
    if let Some(repository) = &scope.repository {
        RepositoryName::parse(repository)?;
    }
    Ok(store::SecretScope { repository: scope.repository, environment: scope.environment })
}

/// What waits and what for, oldest first: why nothing happens.
#[utoipa::path(get, path = "/queue", tag = "server", params(Limit), responses((status = 200, body = QueueList)))]
async fn queue(State(app): State<Arc<App>>, Query(limit): Query<Limit>) -> Result<Json<QueueList>> {
    let limit = views::limit(limit.limit);
    let items = app.store.queue(limit).await?.into_iter().map(views::queued).collect();
    let pools = app.store.queued_pools().await?.into_iter().map(views::queued_pool).collect();
    let rollouts = app.store.queued_rollouts(limit).await?.into_iter().map(views::queued_rollout).collect();
    Ok(Json(QueueList { items, pools, rollouts }))
}
