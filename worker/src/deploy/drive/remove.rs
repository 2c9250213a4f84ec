//! A rollout that takes a service away. It is claimed, fenced and journaled as every other; there is nothing to decide on the way,
//! and nothing to go back to.

use segue_pipelines::rollout::fleet::Fleet;
use segue_schemas::{
    deploy::JournalKind,
    host_api::RemoveRoute,
    id::InstanceId,
    status::RolloutStatus,
    worker_api::{RolloutClaim, RolloutReport},
};
use serde_json::json;

use super::{
    super::{Timing, group::Hosts, journal, journal::Journal, lease::Lease, place, server::RolloutServer},
    Outcome, after_telling, hosts_of,
    leave::{GivenUp, Leave, give_up, hand_back_later, leave_to_others, left_by, lost_by, stands},
    now,
};

/// Takes it away, or leaves that to another try: the host does it once, however often it is asked.
pub(super) async fn drive(server: &dyn RolloutServer, claim: &RolloutClaim, lease: &Lease, timing: Timing) -> Outcome {
    let gone = match hosts_of(claim, timing).map(|(hosts, left_out)| Hosts::new(hosts, Fleet::default(), &[], left_out))
    {
        Ok(hosts) => take_away(server, claim, lease, &hosts).await,
        Err(why) => Err(hand_back_later(why)),
    };
    let Err(leave) = gone else { return Outcome::Ended };
    let leave = after_telling(server, claim, timing, leave).await;
    let why = leave.why();
    let began = claim.journal.first().map(|entry| entry.at);
    if leave.is_hand_back() && began.is_some_and(|at| now().since(at) >= timing.absent_limit) {
        let end = GivenUp { serves: "unknown", reason: format!("it could not be taken away: {why}") };
        return give_up(server, claim, lease, end).await;
    }
    leave_to_others(server, claim, leave, stands(claim, &why), None).await
}

async fn take_away(
    server: &dyn RolloutServer,
    claim: &RolloutClaim,
    lease: &Lease,
    hosts: &Hosts,
) -> Result<(), Leave> {
    let service = &claim.rollout.spec.service.name;
    let mut journal = Journal::after(claim, hosts.only());
    let message = format!("a worker took the removal over, epoch {}", claim.epoch);
    journal.note(JournalKind::Claimed, json!({ "message": message }));
    let message = format!("taking {service} away: its route, and what runs of it");
    journal.note(JournalKind::RetireIntent, json!({ "message": message }));
    let intent = report(claim, &journal, RolloutStatus::Running);
    journal::send(server, claim, lease, &intent).await.map_err(lost_by)?;
    journal.sent(&intent);
    if !lease.is_valid() {
        return Err(Leave::Lost("the lease has run out".into()));
    }
    let removed = hosts.remove(&RemoveRoute { fence: place::fence(claim) }).await.map_err(left_by)?;
    for left_out in hosts.take_left_out() {
        journal.note_of(JournalKind::Quarantined, Some(left_out.host), json!({ "reason": left_out.reason }));
    }
    let instances: Vec<InstanceId> = removed.into_iter().flat_map(|(_, removed)| removed.instances).collect();
    let told = instances.len();
    let message = format!("no request reaches {service} any more; {told} of its instances were told to end");
    journal.note(JournalKind::Retired, json!({ "message": message, "instances": instances }));
    let message = format!("{service} is taken away");
    journal.note(JournalKind::Ended, json!({ "message": message, "status": "succeeded", "serves": "none" }));
    let end = report(claim, &journal, RolloutStatus::Succeeded);
    journal::send(server, claim, lease, &end).await.map_err(lost_by)
}

fn report(claim: &RolloutClaim, journal: &Journal, status: RolloutStatus) -> RolloutReport {
    RolloutReport {
        epoch: claim.epoch,
        entries: journal.unsent().to_vec(),
        status,
        weight: 0,
        stage: 0,
        reason: claim.rollout.reason.clone(),
        verdict: None,
        state: None,
    }
}
