//! What a host's word says of who serves there. Pure.

use segue_schemas::{
    deploy::Release,
    host_api::{HostState, Instance, RouteState},
};

/// The release that has all the traffic, if one has.
pub fn whole<'s>(route: &RouteState, state: &'s HostState) -> Option<&'s Release> {
    let release = serving(route, state)?;
    let has_it = |instance: &Instance| instance.release.id == release.id;
    let mut weighty = route.targets.iter().filter(|target| target.weight > 0);
    weighty.all(|t| state.instances.iter().any(|i| i.id == t.instance && has_it(i))).then_some(release)
}

/// The release of the target with the most weight.
pub fn serving<'s>(route: &RouteState, state: &'s HostState) -> Option<&'s Release> {
    let target = route.targets.iter().filter(|target| target.weight > 0).max_by_key(|target| target.weight)?;
    state.instances.iter().find(|instance| instance.id == target.instance).map(|instance| &instance.release)
}
