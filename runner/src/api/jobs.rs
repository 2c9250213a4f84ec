//! Jobs and their logs: as plain text by bytes, or followed live.

use std::{io, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use futures_util::stream::try_unfold;
use http::{HeaderMap, HeaderName, header};
use segue_schemas::{
    api::{JobView, LogQuery},
    id::JobId,
    worker_api::ErrorBody,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    error::{ApiError, Result},
    extract::{Path, Query},
    stream, views,
};
use crate::store::{JobRecord, LogRecord, Store, StoreError};

/// Bytes of a log that are read at a time: all of it that is in memory for one reader.
const PART_BYTES: usize = 256 * 1024;
/// Says where a log ends now.
const LOG_END: HeaderName = HeaderName::from_static("segue-log-end");

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(show)).routes(routes!(summary)).routes(routes!(logs))
}

/// A job with its steps.
#[utoipa::path(get, path = "/jobs/{id}", tag = "jobs", params(("id" = JobId, Path)),
    responses((status = 200, body = JobView), (status = 404, body = ErrorBody)))]
async fn show(State(app): State<Arc<App>>, Path(id): Path<JobId>) -> Result<Json<JobView>> {
    let record = app.store.job(id).await?;
    let detail = app.store.run_detail(record.run, Some(record.attempt)).await?;
    let found = views::jobs(detail).into_iter().find(|job| job.id == id);
    let mut job = found.ok_or_else(|| StoreError::not_found("job", id))?;
    let origin = origin(&app.store, record.clone()).await?;
    if let Some(log) = app.store.job_log(origin.id).await? {
        job.log_bytes = app.store.logs().bytes(log.job, &log.path).await?;
    }
    Ok(Json(job))
}

/// What the steps of a job wrote as their summaries, in Markdown, one after another.
#[utoipa::path(get, path = "/jobs/{id}/summary", tag = "jobs", params(("id" = JobId, Path)),
    responses((status = 200, body = String, content_type = "text/markdown"), (status = 404, body = ErrorBody)))]
async fn summary(State(app): State<Arc<App>>, Path(id): Path<JobId>) -> Result<Response> {
    let job = app.store.job(id).await?;
    let texts = app.store.job_summary(job.id).await?;
    Ok(([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], texts.join("\n")).into_response())
}

/// A job's log: plain text from a byte on, or (with `follow=true`) server-sent events until the job has ended.
#[utoipa::path(get, path = "/jobs/{id}/logs", tag = "jobs", params(("id" = JobId, Path), LogQuery),
    responses(
        (status = 200, body = String, content_type = "text/plain", headers(("segue-log-end" = u64, description = "where it ends now"))),
        (status = 404, body = ErrorBody)))]
async fn logs(
    State(app): State<Arc<App>>,
    Path(id): Path<JobId>,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    // who follows and was cut off goes on where it stopped
    let seen = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
    let offset = seen.filter(|_| query.follow).or(query.offset).unwrap_or(0);
    let job = origin(&app.store, app.store.job(id).await?).await?;
    if query.follow {
        return Ok(stream::log_events(app, job, offset).into_response());
    }
    match app.store.job_log(job.id).await? {
        Some(log) => Ok(plain(&app, &log, offset, query.limit).await?.into_response()),
        None => Ok(([(LOG_END, "0")], "").into_response()),
    }
}

/// The job itself, or the one of an earlier attempt whose end it took over: that one wrote the log.
async fn origin(store: &Store, mut job: JobRecord) -> Result<JobRecord> {
    while let Some(earlier) = job.carried_from {
        job = store.job(earlier).await?;
    }
    Ok(job)
}

/// The log as it is now: what is written later is not waited for.
async fn plain(app: &App, log: &LogRecord, offset: u64, limit: Option<u64>) -> Result<impl IntoResponse + use<>> {
    still_there(log)?;
    let log_end = app.store.logs().bytes(log.job, &log.path).await?;
    let until = limit.map_or(log_end, |limit| offset.saturating_add(limit).min(log_end));
    let (job, logs) = (log.job, app.store.logs().clone());
    let parts = try_unfold((logs, log.path.clone(), offset), move |(logs, path, offset)| async move {
        let wanted = usize::try_from(until.saturating_sub(offset)).unwrap_or(PART_BYTES).min(PART_BYTES);
        if wanted == 0 {
            return Ok::<_, io::Error>(None);
        }
        let part = logs.read(job, &path, offset, wanted).await.map_err(io::Error::other)?;
        let next = offset + part.len() as u64;
        Ok((!part.is_empty()).then_some((part, (logs, path, next))))
    });
    let head = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (LOG_END, log_end.to_string()),
    ];
    Ok((head, Body::from_stream(parts)))
}

/// # Errors
/// The log was removed by retention.
pub fn still_there(log: &LogRecord) -> Result<()> {
    if log.removed {
        return Err(ApiError::not_found(format!("the log of job {} was removed, as old as it was", log.job)));
    }
    Ok(())
}
