//! Runs and deliveries: lists, one with all that belongs to it, its changes live, and what people do to it.

use std::sync::Arc;

use axum::{
    Json,
    body::Body as StreamBody,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use segue_pipelines::{attempts, progress::Deploys, protection::Yes};
use segue_schemas::{
    api::{
        ApproveRequest, Approved, AttemptsDiff, AttemptsQuery, CancelRequest, DeliveryPage, DeliveryQuery,
        DeliveryView, DispatchRequest, Dispatched, RepositoryDispatchRequest, RerunRequest, RunEvent, RunPage,
        RunQuery, RunSummary, RunView,
    },
    id::{DeliveryId, RunId},
    worker_api::ErrorBody,
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    error::{ApiError, Result},
    extract::{Body, OptionalBody, Path, Query},
    stream, views,
};
use crate::{
    mirror::RefName,
    store::{Again, AttemptKind, RunFilter, RunRecord},
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(artifact))
        .routes(routes!(compare_attempts))
        .routes(routes!(events))
        .routes(routes!(dispatch))
        .routes(routes!(repository_dispatch))
        .routes(routes!(rerun))
        .routes(routes!(cancel))
        .routes(routes!(approve))
        .routes(routes!(deliveries))
        .routes(routes!(delivery))
}

/// Runs, newest first.
#[utoipa::path(get, path = "/runs", tag = "runs", params(RunQuery),
    responses((status = 200, body = RunPage), (status = 400, body = ErrorBody)))]
async fn list(State(app): State<Arc<App>>, Query(query): Query<RunQuery>) -> Result<Json<RunPage>> {
    let limit = views::limit(query.limit);
    let git_ref = query.r#ref.as_deref().map(RefName::parse_branch_or_ref).transpose()?;
    let filter = RunFilter {
        repository: query.repository,
        pipeline: query.pipeline,
        event: query.event,
        git_ref: git_ref.map(RefName::into_string),
        commit: query.commit,
        status: query.status,
        before: query.before,
        limit,
    };
    let items: Vec<RunSummary> = app.store.runs(filter).await?.into_iter().map(views::run).collect();
    let next = items.last().map(|run| run.id).filter(|_| items.len() == limit as usize);
    Ok(Json(RunPage { items, next }))
}

#[derive(Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct WhichAttempt {
    /// Which attempt; the newest where it is left out.
    attempt: Option<u32>,
}

/// A run with its jobs, steps, artifacts and rollouts.
#[utoipa::path(get, path = "/runs/{id}", tag = "runs", params(("id" = RunId, Path), WhichAttempt),
    responses((status = 200, body = RunView), (status = 404, body = ErrorBody)))]
async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<RunId>,
    Query(which): Query<WhichAttempt>,
) -> Result<Json<RunView>> {
    let detail = app.store.run_detail(id, which.attempt).await?;
    let attempts = app.store.attempts(id).await?.into_iter().map(views::attempt).collect();
    let attempt = detail.attempt.attempt;
    let artifacts = app.store.run_artifacts(id, attempt).await?;
    let (run, rollouts) = (views::run(detail.run.clone()), detail.rollouts.clone());
    let approvals = detail.given.clone();
    Ok(Json(RunView { run, attempts, attempt, jobs: views::jobs(detail), artifacts, rollouts, approvals }))
}

/// What an artifact of a run holds: a zstd-compressed tar.
#[utoipa::path(get, path = "/runs/{id}/artifacts/{name}", tag = "runs", params(("id" = RunId, Path), ("name" = String, Path), WhichAttempt),
    responses((status = 200, content_type = "application/zstd"), (status = 404, body = ErrorBody)))]
async fn artifact(
    State(app): State<Arc<App>>,
    Path((id, name)): Path<(RunId, String)>,
    Query(which): Query<WhichAttempt>,
) -> Result<Response> {
    let attempt = match which.attempt {
        Some(attempt) => attempt,
        None => app.store.run(id).await?.attempt,
    };
    let found = app.store.run_artifacts(id, attempt).await?.into_iter().find(|artifact| artifact.name == name);
    let absent = || ApiError::not_found(format!("attempt {attempt} of run {id} has no artifact `{name}`"));
    let digest = found.ok_or_else(absent)?.digest;
    let gone = || {
        ApiError::not_found(format!("the content of `{name}` was kept for as long as `retention` says, and is gone"))
    };
    let content = app.store.artifacts().read(&digest).await?.ok_or_else(gone)?;
    let head =
        [(header::CONTENT_TYPE, "application/zstd".to_owned()), (header::CONTENT_LENGTH, content.bytes.to_string())];
    Ok((head, StreamBody::from_stream(content.stream)).into_response())
}

/// Two attempts of a run side by side: which job and which step came out otherwise.
#[utoipa::path(get, path = "/runs/{id}/attempts/compare", tag = "runs", params(("id" = RunId, Path), AttemptsQuery),
    responses((status = 200, body = AttemptsDiff), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn compare_attempts(
    State(app): State<Arc<App>>,
    Path(id): Path<RunId>,
    Query(query): Query<AttemptsQuery>,
) -> Result<Json<AttemptsDiff>> {
    let to = app.store.run_detail(id, query.to).await?;
    let before = query.from.unwrap_or(to.attempt.attempt.saturating_sub(1));
    if before == 0 {
        let number = to.attempt.attempt;
        return Err(ApiError::refused(format!(
            "there is no attempt before attempt {number} of run {id}: run it again, or name two attempts"
        )));
    }
    let from = app.store.run_detail(id, Some(before)).await?;
    let (before, after) = (views::attempt(from.attempt.clone()), views::attempt(to.attempt.clone()));
    let jobs = attempts::compare(&views::jobs(from), &views::jobs(to));
    Ok(Json(AttemptsDiff { run: id, from: before, to: after, first: attempts::first_difference(&jobs), jobs }))
}

/// Server-sent events: the run as it stands, then each change, `end` last.
#[utoipa::path(get, path = "/runs/{id}/events", tag = "runs", params(("id" = RunId, Path)),
    responses((status = 200, body = RunEvent, content_type = "text/event-stream"), (status = 404, body = ErrorBody)))]
async fn events(State(app): State<Arc<App>>, Path(id): Path<RunId>) -> Result<impl IntoResponse> {
    stream::run_events(app, id).await
}

/// Runs a commit by hand.
#[utoipa::path(post, path = "/repositories/{owner}/{name}/dispatches", tag = "runs", request_body = DispatchRequest,
    params(("owner" = String, Path), ("name" = String, Path)),
    responses((status = 201, body = Dispatched), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn dispatch(
    State(app): State<Arc<App>>,
    Path((owner, name)): Path<(String, String)>,
    OptionalBody(request): OptionalBody<DispatchRequest>,
) -> Result<impl IntoResponse> {
    let (delivery, made) = app.planner.dispatch(&format!("{owner}/{name}"), request).await?;
    Ok((StatusCode::CREATED, Json(dispatched(delivery, made))))
}

/// Tells a repository that something happened elsewhere.
#[utoipa::path(post, path = "/repositories/{owner}/{name}/events", tag = "runs",
    request_body = RepositoryDispatchRequest, params(("owner" = String, Path), ("name" = String, Path)),
    responses((status = 201, body = Dispatched), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn repository_dispatch(
    State(app): State<Arc<App>>,
    Path((owner, name)): Path<(String, String)>,
    Body(request): Body<RepositoryDispatchRequest>,
) -> Result<impl IntoResponse> {
    let (delivery, made) = app.planner.repository_dispatch(&format!("{owner}/{name}"), request).await?;
    Ok((StatusCode::CREATED, Json(dispatched(delivery, made))))
}

fn dispatched(delivery: DeliveryId, made: Vec<RunRecord>) -> Dispatched {
    Dispatched { delivery, runs: made.into_iter().map(views::run).collect() }
}

/// Runs a run once more: a new attempt with the same commit, and the same inputs unless others are given.
#[utoipa::path(post, path = "/runs/{id}/rerun", tag = "runs", request_body = RerunRequest, params(("id" = RunId, Path)),
    responses((status = 200, body = RunSummary), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 422, body = ErrorBody)))]
async fn rerun(
    State(app): State<Arc<App>>,
    Path(id): Path<RunId>,
    OptionalBody(request): OptionalBody<RerunRequest>,
) -> Result<Json<RunSummary>> {
    let kind = match (request.failed, &request.from) {
        (true, Some(_)) => {
            return Err(ApiError::bad_request("`failed` and `from` exclude each other: give one of them"));
        }
        (true, None) => AttemptKind::Failed,
        (false, Some(_)) => AttemptKind::Step,
        (false, None) => AttemptKind::Whole,
    };
    let inputs = match request.inputs {
        changed if changed.is_empty() => None,
        changed => Some(app.planner.changed_inputs(id, changed).await?),
    };
    let again = Again {
        kind,
        from: request.from.map(|from| from.trim().to_owned()),
        by: somebody(request.by),
        reason: reason(request.reason),
        deploys: request.deploy.map(|deploy| if deploy { Deploys::Repeat } else { Deploys::LeaveOut }),
        debug: request.debug,
        inputs,
    };
    Ok(Json(views::run(app.store.rerun(id, again).await?)))
}

/// Cancels a run. One that has ended is left as it is.
#[utoipa::path(post, path = "/runs/{id}/cancel", tag = "runs", request_body = CancelRequest, params(("id" = RunId, Path)),
    responses((status = 200, body = RunSummary), (status = 404, body = ErrorBody)))]
async fn cancel(
    State(app): State<Arc<App>>,
    Path(id): Path<RunId>,
    OptionalBody(request): OptionalBody<CancelRequest>,
) -> Result<Json<RunSummary>> {
    let by = with_reason(somebody(request.by), request.reason);
    Ok(Json(views::run(app.store.cancel_run(id, by).await?)))
}

/// Approves what a run waits for, for the commit that it has, or lets it pass by its environment's rules.
#[utoipa::path(post, path = "/runs/{id}/approve", tag = "runs", request_body = ApproveRequest, params(("id" = RunId, Path)),
    responses((status = 200, body = Approved), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 422, body = ErrorBody)))]
async fn approve(
    State(app): State<Arc<App>>,
    Path(id): Path<RunId>,
    OptionalBody(request): OptionalBody<ApproveRequest>,
) -> Result<Json<Approved>> {
    let bypass = match request.bypass {
        None => None,
        given => Some(reason(given).ok_or_else(|| ApiError::bad_request("`bypass` says why, and this says nothing"))?),
    };
    // whoever has the server's own token is taken at their word
    let yes = Yes { by: somebody(request.by), teams: Vec::new(), bypass };
    let jobs = app.store.approve(id, request.job.as_deref(), yes).await?;
    Ok(Json(Approved { jobs }))
}

/// Deliveries, newest first: what came in, and what became of it.
#[utoipa::path(get, path = "/deliveries", tag = "deliveries", params(DeliveryQuery),
    responses((status = 200, body = DeliveryPage)))]
async fn deliveries(State(app): State<Arc<App>>, Query(query): Query<DeliveryQuery>) -> Result<Json<DeliveryPage>> {
    let limit = views::limit(query.limit);
    let records = app.store.deliveries(query.before, limit).await?;
    let next = records.last().map(|record| record.position).filter(|_| records.len() == limit as usize);
    let mut items = Vec::with_capacity(records.len());
    for record in records {
        let runs = app.store.runs_of_delivery(&record.id).await?;
        items.push(views::delivery(record, runs));
    }
    Ok(Json(DeliveryPage { items, next }))
}

/// One delivery.
#[utoipa::path(get, path = "/deliveries/{guid}", tag = "deliveries", params(("guid" = DeliveryId, Path)),
    responses((status = 200, body = DeliveryView), (status = 404, body = ErrorBody)))]
async fn delivery(State(app): State<Arc<App>>, Path(id): Path<DeliveryId>) -> Result<Json<DeliveryView>> {
    let record = app.store.delivery(&id).await?;
    let runs = app.store.runs_of_delivery(&id).await?;
    Ok(Json(views::delivery(record, runs)))
}

/// Who it was, for the record.
pub fn somebody(by: Option<String>) -> String {
    by.map(|by| by.trim().chars().take(100).collect::<String>())
        .filter(|by| !by.is_empty())
        .unwrap_or_else(|| "admin".into())
}

/// Who it was and why, for the record.
pub fn with_reason(by: String, reason: Option<String>) -> String {
    match self::reason(reason) {
        Some(reason) => format!("{by}: {reason}"),
        None => by,
    }
}

/// Why, for the record: one line of bounded length.
fn reason(given: Option<String>) -> Option<String> {
    let line = |text: String| -> String {
        let plain: String = text.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect();
        plain.trim().to_owned()
    };
    given.map(line).filter(|reason| !reason.is_empty())
}
