//! Whether the hosts of a rollout can keep clients at a release, asked before anything is changed. One of an older version would leave the cookie
//! out without a word, and draw each request anew.

use futures_util::future::join_all;
use segue_schemas::{deploy::Strategy, host_api::HostState, strategy::STICKY, worker_api::RolloutClaim};

use super::{super::Timing, hosts_of, save::Stop};

/// Ends a rollout that would draw clients at a host that can't keep them. One that does not answer now is asked again where it is decided who
/// takes part.
pub(super) async fn refuse_older_hosts(claim: &RolloutClaim, timing: Timing) -> Result<(), Stop> {
    if !is_asked(claim) {
        return Ok(());
    }
    let Ok((hosts, _)) = hosts_of(claim, timing) else { return Ok(()) };
    let asked = hosts.iter().map(async |host| (&host.name, host.state().await));
    for (host, state) in join_all(asked).await {
        if let Some(why) = state.ok().and_then(|state| why_not(claim, host, &state)) {
            return Err(Stop::unchanged(&why));
        }
    }
    Ok(())
}

/// Why a rollout that has changed nothing yet can't begin at a host that says this of itself.
pub(super) fn why_not(claim: &RolloutClaim, host: &str, state: &HostState) -> Option<String> {
    (is_asked(claim) && !state.carries.iter().any(|what| what == STICKY)).then(|| {
        format!(
            "host `{host}` (segue {}) can't keep clients at a release, which {} asks for with `sticky`; bring the host to this version, or take \
             `sticky` out of the service's file",
            state.version, claim.rollout.spec.service.name
        )
    })
}

fn is_asked(claim: &RolloutClaim) -> bool {
    let spec = &claim.rollout.spec;
    let draws = spec.service.sticky.is_some() && spec.previous.is_some();
    draws && matches!(spec.strategy, Strategy::Canary(_)) && claim.rollout.state.is_none()
}
