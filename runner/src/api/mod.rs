//! The HTTP API: people's under `/api/v1`, the workers' under `/api/v1/worker`, that of hosts on other machines under `/api/v1/host`, and what is open to everybody
//! (`/healthz`, `/readyz`, `/metrics`, the webhook).
//!
//! Comes in: requests with a bearer token. Goes out: what the store knows, as the types of [`segue_schemas::api`] and
//! [`segue_schemas::worker_api`]. Every body, wait and stream is bounded; a long poll ends with its listener, a stream
//! remembers a position and no data. Never here: decisions, SQL; `error` alone knows which error has which HTTP code.

mod backups;
mod callers;
pub mod error;
mod extract;
mod fleet;
mod hand_over;
mod hosts;
mod jobs;
mod joined;
mod machines;
mod middleware;
mod open;
mod people;
mod previews;
mod promotions;
mod queue;
mod rollouts;
mod runs;
pub mod serve;
mod stream;
mod views;
mod worker;

use std::{path::PathBuf, sync::Arc};

use axum::Router;
use segue_schemas::{config::Config, time::Timestamp};
use tokio_util::sync::CancellationToken;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    auth::Tokens, mirror::Mirrors, planner::Planner, queue::Queue, store::Store, telemetry::Metrics, webhook::Intake,
};

/// What the handlers stand on.
pub struct App {
    /// The store.
    pub store: Store,
    /// The mirrors of the repositories.
    pub mirrors: Arc<Mirrors>,
    /// Plans what people start by hand.
    pub planner: Arc<Planner>,
    /// The webhook's intake.
    pub intake: Arc<Intake>,
    /// What opens the API.
    pub tokens: Tokens,
    /// The operator's configuration.
    pub config: Arc<Config>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The message queue, where there is one.
    pub queue: Option<Queue>,
    /// The data directory.
    pub data: PathBuf,
    /// When the server was started.
    pub started_at: Timestamp,
    /// Cancelled when the server stops: long polls and streams end.
    pub stopping: CancellationToken,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Segue", description = "From push to production: runs, logs, releases and rollouts."),
    servers((url = "/api/v1")),
    security(("token" = [])),
    modifiers(&BearerToken),
)]
struct Description;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("token", scheme);
    }
}

/// Every route of the server.
pub fn router(app: Arc<App>) -> Router {
    let (public, openapi) = public_routes().split_for_parts();
    let public = middleware::public(public.merge(open::description(openapi)), &app).with_state(app.clone());
    let worker = middleware::worker(worker::routes(), &app).with_state(app.clone());
    let hosts = middleware::host(joined::routes(), &app).with_state(app.clone());
    let open = open::routes().with_state(app.clone());
    let all = Router::new()
        .nest("/api/v1/worker", worker)
        .nest("/api/v1/host", hosts)
        .nest("/api/v1", public)
        .merge(open)
        .merge(crate::webhook::router(app.intake.clone()));
    middleware::everywhere(all)
}

/// The OpenAPI description of people's API, as `/api/v1/openapi.json` gives it.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    public_routes().into_openapi()
}

fn public_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .merge(runs::routes())
        .merge(jobs::routes())
        .merge(rollouts::routes())
        .merge(backups::routes())
        .merge(promotions::routes())
        .merge(fleet::routes())
        .merge(hosts::routes())
        .merge(machines::routes())
        .merge(previews::routes())
        .merge(people::routes())
        .merge(queue::routes())
}

#[cfg(test)]
mod tests;
