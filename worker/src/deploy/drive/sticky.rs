//! Whether the hosts of a rollout can keep clients at a release, asked before anything is changed. One of an older version would leave the cookie
//! out without a word, and draw each request anew.

use futures_util::future::join_all;
use segue_schemas::{deploy::Strategy, strategy::STICKY, worker_api::RolloutClaim};

use super::{super::Timing, hosts_of, save::Stop};

/// Ends a rollout that would draw clients at a host that can't keep them. One that does not answer is no matter of this.
pub(super) async fn refuse_older_hosts(claim: &RolloutClaim, timing: Timing) -> Result<(), Stop> {
    let spec = &claim.rollout.spec;
    let draws =
        spec.service.sticky.is_some() && spec.previous.is_some() && matches!(spec.strategy, Strategy::Canary(_));
    if !draws || claim.rollout.state.is_some() {
        return Ok(());
    }
    let Ok((hosts, _)) = hosts_of(claim, timing) else { return Ok(()) };
    let asked = hosts.iter().map(async |host| (&host.name, host.state().await));
    for (host, state) in join_all(asked).await {
        if let Ok(state) = state
            && !state.carries.iter().any(|what| what == STICKY)
        {
            return Err(Stop::unchanged(&format!(
                "host `{host}` (segue {}) can't keep clients at a release, which {} asks for with `sticky`; bring the host to this version, \
                 or take `sticky` out of the service's file",
                state.version, spec.service.name
            )));
        }
    }
    Ok(())
}
