//! Acts: the changes that are made at the hosts. Each is announced in the journal, made under the lease's epoch, and
//! what was seen is given back.

use std::time::Duration;

use segue_pipelines::rollout::{Action, KEPT};
use segue_schemas::{
    deploy::JournalKind,
    host_api::{ApplyRoute, Fence, Instance, RetireInstance, RouteState, StartInstance, StopInstance, Target},
    id::InstanceId,
    worker_api::{RolloutClaim, RolloutReport},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    group::{Answers, Hosts},
    hosts::{Host, HostTrouble},
    journal,
    lease::Lease,
    place,
    server::{RolloutServer, ServerError},
};

/// How long the traffic's way back waits for the journal. A durable write takes a millisecond or two.
const JOURNAL_PATIENCE: Duration = Duration::from_millis(30);

/// How long a host whose GPUs are broken is spoken to: the others wait meanwhile.
const QUARANTINE_PATIENCE: Duration = Duration::from_secs(2);

/// How long answers of an instance that was taken over warm may go on, should it be cleared away without having had traffic.
const KEPT_DRAIN_MS: u64 = 30_000;

/// A change of the world.
#[derive(Debug)]
pub(super) enum Act {
    /// Start an instance.
    Start(Box<StartInstance>),
    /// Change weights.
    Shift { number: u32, percent: u8, apply: ApplyRoute, only: Option<Vec<String>> },
    /// Put the new release beside what serves, without a share.
    StandBy(ApplyRoute),
    /// Take the traffic from everybody.
    Interrupt(ApplyRoute),
    /// Let the host drain and stop an instance later.
    Retire(InstanceId, RetireInstance),
    /// Stop an instance.
    Stop(InstanceId, StopInstance),
    /// Leave a host out, and give its traffic to what served there.
    Quarantine { host: String, back: Option<ApplyRoute>, stop: Vec<InstanceId>, fence: StopInstance },
}

/// An act, and what came of it.
#[derive(Debug)]
pub(super) struct Done {
    /// The host that it was made at alone.
    pub(super) at: Option<String>,
    pub(super) act: Act,
    /// The report that the server has taken; none where it could not be reached and the traffic went back nevertheless.
    pub(super) reported: Option<RolloutReport>,
    pub(super) seen: Seen,
    /// The host's part of it.
    pub(super) took: Duration,
}

/// What was seen.
#[derive(Debug)]
pub(super) enum Seen {
    /// The journal could not be written, so nothing was done.
    NotBegun(ServerError),
    /// The instance as it is now, on each host.
    Instance(Answers<Instance>),
    /// The route as each host's proxy carries it now.
    Route(Answers<RouteState>),
    /// The host takes no part any more, whether or not it could be spoken to.
    Left,
    /// The host could not, would not, or was not to be had.
    Trouble(HostTrouble),
}

/// A change of weights that nothing follows by itself.
fn change(claim: &RolloutClaim, fence: Fence, targets: Vec<Target>, fallback: Vec<Target>) -> ApplyRoute {
    let spec = &claim.rollout.spec;
    ApplyRoute {
        fence,
        rules: place::rules(spec),
        assignment: place::assignment(spec),
        targets,
        fallback,
        dead_man_ms: None,
        leaves: false,
        left: None,
        follows: false,
    }
}

/// What an action means at the host, and how the journal announces it.
///
/// # Errors
/// In words, where the claim does not hold what the act needs. Actions that change nothing at a host are none.
pub(super) fn act(
    claim: &RolloutClaim,
    action: Action,
    dead_man: Duration,
) -> Result<(Act, (JournalKind, Value)), String> {
    let fence = place::fence(claim);
    match action {
        Action::Start { instance, release } => {
            let message = format!("starting instance {instance} of release {}", release.id);
            let detail = json!({ "message": message, "instance": instance, "release": release.id });
            let start = place::start(claim, instance, release)?;
            Ok((Act::Start(Box::new(start)), (JournalKind::StartIntent, detail)))
        }
        Action::Shift { number, percent, targets, hosts: only, fallback, dead_man: is_watched } => {
            let release = claim.rollout.spec.release.id;
            let message = match &only {
                Some(hosts) => format!("giving all traffic of {} to release {release}", named(hosts)),
                None if percent == 0 => match &claim.rollout.spec.previous {
                    Some(former) if former.id != release => {
                        format!("giving all of the traffic back to release {}", former.id)
                    }
                    _ => "giving all of the traffic back to what served before".to_owned(),
                },
                None => format!("giving {percent} % of the traffic to release {release}"),
            };
            let detail = json!({ "message": message, "from": claim.rollout.weight, "weight": percent,
                "targets": targets, "hosts": only, "fallback": fallback });
            let dead_man_ms = is_watched.then(|| u64::try_from(dead_man.as_millis()).unwrap_or(u64::MAX));
            // once it is all there, and nobody is to come back by himself; what serves again after all is good again by that
            let leaves = claim.rollout.spec.is_rollback && percent == 100 && !is_watched;
            let follows = claim.rollout.spec.is_repair();
            let left = claim.rollout.spec.previous.as_ref().filter(|_| leaves).map(|former| former.id);
            let apply = ApplyRoute { dead_man_ms, leaves, left, follows, ..change(claim, fence, targets, fallback) };
            Ok((Act::Shift { number, percent, apply, only }, (JournalKind::ShiftIntent, detail)))
        }
        Action::StandBy { targets, fallback } => {
            let release = claim.rollout.spec.release.id;
            let message = if fallback.is_empty() {
                format!("release {release} gets no traffic yet, though nothing served before")
            } else {
                format!("putting release {release} beside what serves, without a share of the traffic")
            };
            let detail = json!({ "message": message, "from": claim.rollout.weight, "weight": 0,
                "targets": targets, "fallback": fallback });
            let apply = change(claim, fence, targets, fallback);
            Ok((Act::StandBy(apply), (JournalKind::ShiftIntent, detail)))
        }
        Action::Interrupt { message } => {
            let detail = json!({ "message": message, "weight": 0 });
            let (targets, fallback) = (Vec::new(), Vec::new());
            let apply = change(claim, fence, targets, fallback);
            Ok((Act::Interrupt(apply), (JournalKind::GapIntent, detail)))
        }
        Action::Retire { instance, after, drain } => {
            let message = format!("retiring instance {instance}, which stays warm for {after}");
            let detail = json!({ "message": message, "instance": instance });
            let retire = RetireInstance { fence, after_ms: after.as_millis(), drain_ms: drain.as_millis() };
            Ok((Act::Retire(instance, retire), (JournalKind::RetireIntent, detail)))
        }
        Action::Stop { instance } => {
            let detail = json!({ "message": format!("stopping instance {instance}"), "instance": instance });
            Ok((Act::Stop(instance, StopInstance { fence }), (JournalKind::RetireIntent, detail)))
        }
        Action::Quarantine { host, reason, targets, stop } => {
            let message = format!("host `{host}` takes no part any more: {reason}");
            // until it was told, a new owner tells it once more
            let detail = json!({ "message": message, "reason": reason, "pending": true });
            let fallback = targets.clone();
            let stop_fence = StopInstance { fence: fence.clone() };
            let back = change(claim, fence, targets, fallback);
            let back = Some(back).filter(|back| !back.targets.is_empty());
            Ok((Act::Quarantine { host, back, stop, fence: stop_fence }, (JournalKind::Quarantined, detail)))
        }
        Action::At { .. }
        | Action::LookAtGpus
        | Action::AwaitReady { .. }
        | Action::Record { .. }
        | Action::Drain { .. }
        | Action::Finish { .. } => Err(format!("{action:?} changes nothing at a host")),
    }
}

/// Hosts, as people read them.
pub(super) fn named(hosts: &[String]) -> String {
    format!("{} `{}`", if hosts.len() == 1 { "host" } else { "hosts" }, hosts.join("`, `"))
}

/// Announces the act, then makes it.
///
/// Only the traffic's way back does not wait for a server that can't be reached: safety comes first, the host records its own
/// state, and the journal gets it as soon as the server answers again. A server that answers and says that the rollout is
/// another's is obeyed even then.
pub(super) async fn perform(
    server: &dyn RolloutServer,
    claim: &RolloutClaim,
    lease: &Lease,
    (hosts, at): (&Hosts, Option<String>),
    report: RolloutReport,
    act: Act,
) -> Done {
    let goes_back = matches!(act, Act::Shift { percent: 0, .. });
    let announced = announce(server, claim, lease, &report, goes_back).await;
    let reported = match announced {
        Ok(is_durable) => is_durable.then_some(report),
        Err(error) => return Done { at, act, reported: None, seen: Seen::NotBegun(error), took: Duration::ZERO },
    };
    if !lease.is_valid() {
        let error = ServerError::Away("the lease has run out".into());
        return Done { at, act, reported, seen: Seen::NotBegun(error), took: Duration::ZERO };
    }
    let begun = Instant::now();
    let seen = match &act {
        Act::Start(start) => {
            let started = hosts.of_instance(&start.instance, |host, instance| async move {
                start_and_keep(&host, &StartInstance { instance, ..(**start).clone() }).await
            });
            started.await.map(Seen::Instance)
        }
        Act::Shift { percent, apply, only, .. } => {
            let shifted = match hosts.apply_route(apply, only.as_deref()).await {
                // what is refused may be the new release's own rules, and the traffic never have gone to it
                Err(HostTrouble::Router(why)) if *percent == 0 => {
                    hosts.standing(apply).await.ok_or(HostTrouble::Router(why))
                }
                other => other,
            };
            shifted.map(Seen::Route)
        }
        Act::StandBy(apply) | Act::Interrupt(apply) => hosts.apply_route(apply, None).await.map(Seen::Route),
        Act::Quarantine { host, back, stop, fence } => {
            hosts.quarantine(host, back.as_ref(), (stop, fence), QUARANTINE_PATIENCE).await;
            Ok(Seen::Left)
        }
        Act::Retire(id, retire) => {
            hosts.of_instance(id, |host, id| async move { host.retire(&id, retire).await }).await.map(Seen::Instance)
        }
        Act::Stop(id, stop) => {
            hosts.of_instance(id, |host, id| async move { host.stop(&id, stop).await }).await.map(Seen::Instance)
        }
    };
    Done { at, act, reported, seen: seen.unwrap_or_else(Seen::Trouble), took: begun.elapsed() }
}

/// Starts an instance. One that is there already, kept warm from an earlier rollout, must not be retired by its host
/// before it gets traffic; with the traffic the host forgets the retirement.
async fn start_and_keep(host: &Host, start: &StartInstance) -> Result<Instance, HostTrouble> {
    let instance = host.start(start).await?;
    if instance.retire_at.is_none() {
        return Ok(instance);
    }
    let put_off = RetireInstance { fence: start.fence.clone(), after_ms: KEPT.as_millis(), drain_ms: KEPT_DRAIN_MS };
    host.retire(&start.instance, &put_off).await
}

/// Whether the report is durable; an error where the act must not be made.
async fn announce(
    server: &dyn RolloutServer,
    claim: &RolloutClaim,
    lease: &Lease,
    report: &RolloutReport,
    goes_back: bool,
) -> Result<bool, ServerError> {
    if !goes_back {
        return journal::send(server, claim, lease, report).await.map(|()| true);
    }
    match tokio::time::timeout(JOURNAL_PATIENCE, server.report(claim.rollout.id, report)).await {
        Ok(Ok(())) => Ok(true),
        Ok(Err(ServerError::Away(_))) | Err(_) => Ok(false),
        Ok(Err(error)) => Err(error),
    }
}
