//! What was done at a host without the server, put on record once the server hears of it: an emergency rollback leaves its
//! mark in the host's route until the next change; what it carries of previews against what there is to be; and what it serves against what
//! the other hosts of its environments do. Comes in: a host's state. Goes out: records in the store.
//!
//! Whatever the mark, no claim is given out from then on at or below an epoch that a host has seen.

use segue_pipelines::preview::ENVIRONMENT;
use segue_schemas::host_api::{EmergencyResult, HostState, Instance, InstanceState, RouteState};

use crate::{
    control::{Carried, serving, whole},
    store::{Result, Store},
};

/// Records every emergency rollback that a host's state shows. One that is on record already changes nothing.
///
/// # Errors
/// Those of the store; the worker tells the state again when it next reaches the host. One service that can't be recorded does
/// not keep the others from it.
pub async fn host(store: &Store, host: &str, state: &HostState) -> Result<()> {
    if store.is_host(host).await? {
        store.proxy_listens(host, &state.listen);
        store.keep_host_state(host, state).await?;
    }
    let mut failed = Ok(());
    for route in &state.routes {
        if let Err(error) = self::route(store, host, route, state).await {
            failed = Err(error);
        }
    }
    store.keep_in_step(host, state).await?;
    let carried = state.routes.iter().filter(|route| route.environment == ENVIRONMENT);
    store.host_carries(host, carried.filter_map(|route| preview(route, state)).collect()).await?;
    failed
}

/// What a route of the environment of previews carries; `None`: nothing that is known.
fn preview(route: &RouteState, state: &HostState) -> Option<Carried> {
    let release = serving(route, state)?.clone();
    let of_pair =
        |instance: &&Instance| instance.environment == route.environment && instance.release.service == route.service;
    Some(Carried {
        name: route.service.clone(),
        address: route.rules.iter().find_map(|rule| rule.host.clone()),
        release,
        is_asleep: state.instances.iter().filter(of_pair).all(|one| one.state == InstanceState::Asleep),
    })
}

async fn route(store: &Store, host: &str, route: &RouteState, state: &HostState) -> Result<()> {
    let (environment, service) = (&route.environment, &route.service);
    let overtaken = match &route.restored {
        Some(restored) => store.is_overtaken(host, environment, service, restored).await?,
        None => false,
    };
    let recorded = match emergency(route, state).filter(|_| !overtaken) {
        None => Ok(()),
        Some((result, reason)) => {
            let epoch = result.epoch;
            match store.record_emergency(environment, service, result, reason.clone(), Some(host)).await {
                Ok((rollout, is_new)) => {
                    if is_new {
                        tracing::warn!(host, environment, service, reason, %epoch, %rollout, "an emergency rollback is on record");
                    }
                    store.others_follow(host, environment, service, rollout).await
                }
                Err(error) => Err(error),
            }
        }
    };
    store.epoch_seen(environment, service, route.epoch).await?;
    if route.dead_man_at.is_none()
        && let Some(release) = whole(route, state)
    {
        store.host_shows(host, environment, service, release).await?;
    }
    recorded
}

/// The emergency rollback that a route shows, if it shows one and the release that serves is known.
fn emergency(route: &RouteState, state: &HostState) -> Option<(EmergencyResult, String)> {
    let restored = route.restored.as_ref().filter(|restored| restored.reason.starts_with("emergency"))?;
    let to = serving(route, state)?.clone();
    let result =
        EmergencyResult { epoch: restored.epoch, from: None, to, took_us: 0, before: Vec::new(), stands: None };
    let reason = match &state.router_trouble {
        Some(trouble) => format!("{} ({trouble})", restored.reason),
        None => restored.reason.clone(),
    };
    Some((result, reason))
}
