//! Releases, environments and rollouts: what serves where, what is on its way, and going back.

use std::sync::Arc;

use axum::{Json, extract::State, response::IntoResponse};
use http::{HeaderMap, HeaderName, StatusCode};
use segue_pipelines::protection::{Rules, required_approvals};
use segue_schemas::{
    api::{
        EmergencyReport, EnvironmentList, EnvironmentView, ReleaseList, ReleaseQuery, RollbackRequest, RolloutEvent,
        RolloutList, RolloutQuery, RolloutView, RolloutWord, ServiceView,
    },
    config::{Config, EnvironmentConfig},
    deploy::{Rollout, RolloutCommand},
    id::{ReleaseId, RolloutId, is_name},
    worker_api::ErrorBody,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    error::{ApiError, Result},
    extract::{Body, OptionalBody, Path, Query},
    runs::{somebody, with_reason},
    stream, views,
};
use crate::store::{ReleaseFilter, RollbackTarget, RolloutFilter, ServedRecord};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(releases))
        .routes(routes!(environments))
        .routes(routes!(roll_back))
        .routes(routes!(record_emergency))
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(events))
        .routes(routes!(promote))
        .routes(routes!(abort))
        .routes(routes!(skip))
}

/// Releases, newest first, with their rollback points.
#[utoipa::path(get, path = "/releases", tag = "releases", params(ReleaseQuery),
    responses((status = 200, body = ReleaseList)))]
async fn releases(State(app): State<Arc<App>>, Query(query): Query<ReleaseQuery>) -> Result<Json<ReleaseList>> {
    let filter = ReleaseFilter {
        repository: query.repository,
        service: query.service,
        environment: query.environment,
        limit: views::limit(query.limit),
    };
    let releases = app.store.releases(filter).await?;
    let items = releases.into_iter().map(|(release, points)| views::release(release, points)).collect();
    Ok(Json(ReleaseList { items }))
}

/// The environments and what serves in them.
#[utoipa::path(get, path = "/environments", tag = "releases", responses((status = 200, body = EnvironmentList)))]
async fn environments(State(app): State<Arc<App>>) -> Result<Json<EnvironmentList>> {
    let mut served = app.store.served().await?;
    let mut items = Vec::new();
    for name in environment_names(&app.config, &served) {
        let own = served.extract_if(.., |record| record.environment == name).map(service).collect();
        items.push(environment(&app, name, own));
    }
    Ok(Json(EnvironmentList { items }))
}

/// Those of the operator's file, the two that exist without being named, and those that something serves in.
fn environment_names(config: &Config, served: &[ServedRecord]) -> Vec<String> {
    let mut names: Vec<String> = config.environments.keys().cloned().collect();
    let others = ["staging", "production"].into_iter().chain(served.iter().map(|record| record.environment.as_str()));
    for name in others {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

fn environment(app: &App, name: String, services: Vec<ServiceView>) -> EnvironmentView {
    let default = EnvironmentConfig::default();
    let settings = app.config.environments.get(&name).unwrap_or(&default);
    let required_by_default = if name == "production" { vec!["staging".to_owned()] } else { Vec::new() };
    EnvironmentView {
        hosts: settings.hosts.clone(),
        requires: settings.requires.clone().unwrap_or(required_by_default),
        required_approvals: required_approvals(settings),
        freeze: Rules::of(&name, settings).ok().and_then(|rules| rules.freeze_in_words(app.store.now())),
        services,
        name,
    }
}

fn service(record: ServedRecord) -> ServiceView {
    ServiceView { service: record.service, current: record.current, active_rollout: record.open_rollout }
}

/// Goes back to an earlier release: a rollout of it. One that runs is aborted first.
#[utoipa::path(post, path = "/environments/{environment}/services/{service}/rollback", tag = "releases",
    request_body = RollbackRequest, params(("environment" = String, Path), ("service" = String, Path)),
    responses((status = 201, body = Rollout), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn roll_back(
    State(app): State<Arc<App>>,
    Path((environment, service)): Path<(String, String)>,
    OptionalBody(request): OptionalBody<RollbackRequest>,
) -> Result<impl IntoResponse> {
    let target = match request.to {
        None => RollbackTarget::Previous,
        Some(to) => to.parse::<ReleaseId>().map_or(RollbackTarget::Tag(to), RollbackTarget::Release),
    };
    let by = with_reason(somebody(request.by), request.reason);
    let id = app.store.create_rollback(&environment, &service, target, by).await?;
    Ok((StatusCode::CREATED, Json(views::rollout(app.store.rollout(id).await?.rollout))))
}

/// Puts an emergency rollback on record that was done at the host. The same one again changes nothing.
#[utoipa::path(post, path = "/environments/{environment}/services/{service}/emergency", tag = "releases",
    request_body = EmergencyReport, params(("environment" = String, Path), ("service" = String, Path)),
    responses((status = 200, body = Rollout), (status = 404, body = ErrorBody)))]
async fn record_emergency(
    State(app): State<Arc<App>>,
    Path((environment, service)): Path<(String, String)>,
    Body(report): Body<EmergencyReport>,
) -> Result<Json<Rollout>> {
    if !is_name(&environment) || !is_name(&service) {
        return Err(ApiError::bad_request(format!("`{environment}/{service}` names no service of an environment")));
    }
    let (id, _) = app.store.record_emergency(&environment, &service, report.result, report.reason, None).await?;
    Ok(Json(views::rollout(app.store.rollout(id).await?.rollout)))
}

/// Rollouts, newest first.
#[utoipa::path(get, path = "/rollouts", tag = "rollouts", params(RolloutQuery),
    responses((status = 200, body = RolloutList)))]
async fn list(State(app): State<Arc<App>>, Query(query): Query<RolloutQuery>) -> Result<Json<RolloutList>> {
    let filter = RolloutFilter {
        run: query.run,
        release: query.release,
        environment: query.environment,
        service: query.service,
        open: query.active,
        limit: views::limit(query.limit),
    };
    let records = app.store.rollouts(filter).await?;
    Ok(Json(RolloutList { items: records.into_iter().map(|record| views::rollout(record.rollout)).collect() }))
}

/// A rollout with its journal.
#[utoipa::path(get, path = "/rollouts/{id}", tag = "rollouts", params(("id" = RolloutId, Path)),
    responses((status = 200, body = RolloutView), (status = 404, body = ErrorBody)))]
async fn show(State(app): State<Arc<App>>, Path(id): Path<RolloutId>) -> Result<Json<RolloutView>> {
    let rollout = views::rollout(app.store.rollout(id).await?.rollout);
    Ok(Json(RolloutView { rollout, journal: app.store.journal(id, 0).await? }))
}

/// Server-sent events: the rollout and its journal so far, then each change, `end` last.
#[utoipa::path(get, path = "/rollouts/{id}/events", tag = "rollouts", params(("id" = RolloutId, Path)),
    responses((status = 200, body = RolloutEvent, content_type = "text/event-stream"), (status = 404, body = ErrorBody)))]
async fn events(State(app): State<Arc<App>>, Path(id): Path<RolloutId>) -> Result<impl IntoResponse> {
    stream::rollout_events(app, id).await
}

/// To 100 % now.
#[utoipa::path(post, path = "/rollouts/{id}/promote", tag = "rollouts", request_body = RolloutWord,
    params(("id" = RolloutId, Path), ("Idempotency-Key" = Option<String>, Header, description = "The same where it is asked for again")),
    responses((status = 200, body = Rollout), (status = 409, body = ErrorBody)))]
async fn promote(
    State(app): State<Arc<App>>,
    Path(id): Path<RolloutId>,
    headers: HeaderMap,
    OptionalBody(word): OptionalBody<RolloutWord>,
) -> Result<Json<Rollout>> {
    say(&app, id, RolloutCommand::Promote, &headers, word).await
}

/// Back to the release before, now.
#[utoipa::path(post, path = "/rollouts/{id}/abort", tag = "rollouts", request_body = RolloutWord,
    params(("id" = RolloutId, Path), ("Idempotency-Key" = Option<String>, Header, description = "The same where it is asked for again")),
    responses((status = 200, body = Rollout), (status = 409, body = ErrorBody)))]
async fn abort(
    State(app): State<Arc<App>>,
    Path(id): Path<RolloutId>,
    headers: HeaderMap,
    OptionalBody(word): OptionalBody<RolloutWord>,
) -> Result<Json<Rollout>> {
    say(&app, id, RolloutCommand::Abort, &headers, word).await
}

/// On to the next stage now.
#[utoipa::path(post, path = "/rollouts/{id}/skip", tag = "rollouts", request_body = RolloutWord,
    params(("id" = RolloutId, Path), ("Idempotency-Key" = Option<String>, Header, description = "The same where it is asked for again")),
    responses((status = 200, body = Rollout), (status = 409, body = ErrorBody)))]
async fn skip(
    State(app): State<Arc<App>>,
    Path(id): Path<RolloutId>,
    headers: HeaderMap,
    OptionalBody(word): OptionalBody<RolloutWord>,
) -> Result<Json<Rollout>> {
    say(&app, id, RolloutCommand::Skip, &headers, word).await
}

/// What tells a word that is asked for again, because its answer was lost, from another one.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const MOST_OF_A_KEY: usize = 64;

async fn say(
    app: &App,
    id: RolloutId,
    command: RolloutCommand,
    headers: &HeaderMap,
    word: RolloutWord,
) -> Result<Json<Rollout>> {
    let key = headers.get(IDEMPOTENCY_KEY).map(|key| {
        let key = key.to_str().ok().filter(|key| (1..=MOST_OF_A_KEY).contains(&key.len()));
        key.map(str::to_owned).ok_or_else(|| {
            ApiError::bad_request(format!(
                "`Idempotency-Key` has 1 to {MOST_OF_A_KEY} visible characters, such as a UUID"
            ))
        })
    });
    let by = with_reason(somebody(word.by), word.reason);
    app.store.command_rollout_once(id, command, by, key.transpose()?).await?;
    Ok(Json(views::rollout(app.store.rollout(id).await?.rollout)))
}
