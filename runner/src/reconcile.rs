//! What was done at a host without the server, put on record once the server hears of it: an emergency rollback leaves its
//! mark in the host's route until the next change. Comes in: a host's state. Goes out: records in the store.

use segue_schemas::{
    deploy::Release,
    host_api::{EmergencyResult, HostState, RouteState},
};

use crate::store::{Result, Store};

/// Records every emergency rollback that a host's state shows. One that is on record already changes nothing.
///
/// # Errors
/// Those of the store; the worker tells the state again when it next reaches the host.
pub async fn host(store: &Store, host: &str, state: &HostState) -> Result<()> {
    for route in &state.routes {
        let Some((result, reason)) = emergency(route, state) else { continue };
        let (environment, service) = (&route.environment, &route.service);
        tracing::warn!(host, environment, service, reason, epoch = %result.epoch, "an emergency rollback is on record now");
        store.record_emergency(environment, service, result, reason).await?;
    }
    Ok(())
}

/// The emergency rollback that a route shows, if it shows one and the release that serves is known.
fn emergency(route: &RouteState, state: &HostState) -> Option<(EmergencyResult, String)> {
    let restored = route.restored.as_ref().filter(|restored| restored.reason.starts_with("emergency"))?;
    let to = serving(route, state)?.clone();
    let result = EmergencyResult { epoch: restored.epoch, from: None, to, took_us: 0 };
    Some((result, restored.reason.clone()))
}

/// The release of the target with the most weight.
fn serving<'s>(route: &RouteState, state: &'s HostState) -> Option<&'s Release> {
    let target = route.targets.iter().filter(|target| target.weight > 0).max_by_key(|target| target.weight)?;
    state.instances.iter().find(|instance| instance.id == target.instance).map(|instance| &instance.release)
}
