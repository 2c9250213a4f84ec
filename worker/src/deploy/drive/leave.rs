//! How a driver stops before its rollout has ended, and what it tells the server then.

use std::time::Duration;

use segue_schemas::{
    deploy::JournalKind,
    status::RolloutStatus,
    worker_api::{RolloutClaim, RolloutHandBack, RolloutReport},
};
use serde_json::json;

use super::{
    super::{
        Timing,
        hosts::HostTrouble,
        journal::{self, Journal},
        lease::Lease,
        server::{RolloutServer, ServerError},
    },
    Leftover, Outcome, millis, now,
};

/// Why a driver stops before its rollout has ended.
pub(super) enum Leave {
    /// The lease is another's, or can't be renewed: nothing may be changed, and the server needn't be told.
    Lost(String),
    /// This worker can't go on; another owner, or this one later, can.
    HandBack { why: String, not_before: Duration },
}

/// Whether a rollout that has changed nothing yet could not be begun for so long that it is given up. One that has changed
/// something is not: only its host can say what serves, and says it when it is back.
pub(super) fn out_of_patience(claim: &RolloutClaim, timing: Timing) -> bool {
    let is_untouched = claim.rollout.state.is_none() && claim.rollout.weight == 0;
    let first_tried = claim.journal.iter().find(|entry| entry.kind == JournalKind::Claimed).map(|entry| entry.at);
    is_untouched && first_tried.is_some_and(|at| now().since(at) >= timing.begin_limit)
}

/// Ends a rollout that has changed nothing.
pub(super) async fn give_up(server: &dyn RolloutServer, claim: &RolloutClaim, lease: &Lease, why: String) -> Outcome {
    let reason = format!("nothing was changed, because the rollout could not begin: {why}");
    let mut journal = Journal::after(claim, "");
    let serves = json!({ "status": RolloutStatus::Failed, "serves": "former", "reason": reason });
    journal.note(JournalKind::Ended, serves);
    let report = RolloutReport {
        entries: journal.into_unsent(),
        status: RolloutStatus::Failed,
        reason: Some(reason.clone()),
        ..stands(claim)
    };
    match journal::send(server, claim, lease, &report).await {
        Ok(()) => Outcome::Ended,
        Err(error) => Outcome::Left { why: error.to_string(), leftover: None },
    }
}

/// Where the rollout stood when it was claimed; the first who could not begin it writes that down.
pub(super) fn stands(claim: &RolloutClaim) -> RolloutReport {
    let rollout = &claim.rollout;
    let mut journal = Journal::after(claim, "");
    if claim.journal.is_empty() {
        let message = "a worker took the rollout over, but could not begin it";
        journal.note(JournalKind::Claimed, json!({ "message": message }));
    }
    RolloutReport {
        epoch: claim.epoch,
        entries: journal.into_unsent(),
        status: rollout.status,
        weight: rollout.weight,
        stage: rollout.stage,
        reason: rollout.reason.clone(),
        verdict: rollout.verdict.clone(),
        state: rollout.state.clone(),
    }
}

pub(super) async fn leave_to_others(
    server: &dyn RolloutServer,
    claim: &RolloutClaim,
    leave: Leave,
    stands: RolloutReport,
    leftover: Option<Leftover>,
) -> Outcome {
    let why = match leave {
        Leave::Lost(why) => why,
        Leave::HandBack { why, not_before } => {
            let not_before_ms = millis(not_before);
            let hand_back = RolloutHandBack { epoch: claim.epoch, reason: why.clone(), not_before_ms };
            let report = RolloutReport { reason: Some(why.clone()), ..stands };
            let tell = async {
                // why it does not go on is seen where the rollout is shown; a worker that stops is nobody's concern
                if !not_before.is_zero() {
                    server.report(claim.rollout.id, &report).await?;
                }
                server.hand_back(claim.rollout.id, &hand_back).await
            };
            // where this does not arrive, the lease runs out by itself
            if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(2), tell).await {
                tracing::debug!(rollout = %claim.rollout.id, %error, "the rollout could not be handed back");
            }
            why
        }
    };
    Outcome::Left { why, leftover }
}

pub(super) fn hand_back_later(why: String) -> Leave {
    Leave::HandBack { why, not_before: Duration::from_secs(30) }
}

pub(super) fn left_by(trouble: HostTrouble) -> Leave {
    let not_before = match trouble {
        HostTrouble::Stale(_) => Duration::ZERO,
        HostTrouble::Refused(_) | HostTrouble::Away(_) => Duration::from_secs(5),
    };
    Leave::HandBack { why: trouble.to_string(), not_before }
}

pub(super) fn lost_by(error: ServerError) -> Leave {
    match error {
        ServerError::Stale(_) | ServerError::Away(_) => Leave::Lost(error.to_string()),
        ServerError::Refused(_) => hand_back_later(error.to_string()),
    }
}
