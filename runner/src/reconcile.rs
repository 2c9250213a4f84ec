//! What was done at a host without the server, put on record once the server hears of it: an emergency rollback leaves its
//! mark in the host's route until the next change; what it carries of previews against what there is to be; and what it serves against what
//! the other hosts of its environments do. Comes in: a host's state. Goes out: records in the store.
//!
//! Whatever the mark, no claim is given out from then on at or below an epoch that a host has seen.

use segue_pipelines::preview::ENVIRONMENT;
use segue_schemas::{
    deploy::Release,
    host_api::{EmergencyResult, HostState, Instance, InstanceState, RouteState},
};

use crate::{
    control::{Carried, Shown},
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
    let shown = |route: &RouteState| Shown {
        environment: route.environment.clone(),
        service: route.service.clone(),
        release: whole(route, state).map(|release| release.id),
    };
    store.keep_in_step(host, &state.routes.iter().map(shown).collect::<Vec<_>>()).await?;
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
        Some(restored) => store.is_overtaken(host, environment, service, restored.at).await?,
        None => false,
    };
    let recorded = match emergency(route, state).filter(|_| !overtaken) {
        None => Ok(()),
        Some((result, reason)) => {
            let epoch = result.epoch;
            match store.record_emergency(environment, service, result, reason.clone()).await {
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
    Some((result, restored.reason.clone()))
}

/// The release that has all the traffic, if one has.
fn whole<'s>(route: &RouteState, state: &'s HostState) -> Option<&'s Release> {
    let release = serving(route, state)?;
    let has_it = |instance: &Instance| instance.release.id == release.id;
    let mut weighty = route.targets.iter().filter(|target| target.weight > 0);
    weighty.all(|t| state.instances.iter().any(|i| i.id == t.instance && has_it(i))).then_some(release)
}

/// The release of the target with the most weight.
fn serving<'s>(route: &RouteState, state: &'s HostState) -> Option<&'s Release> {
    let target = route.targets.iter().filter(|target| target.weight > 0).max_by_key(|target| target.weight)?;
    state.instances.iter().find(|instance| instance.id == target.instance).map(|instance| &instance.release)
}
