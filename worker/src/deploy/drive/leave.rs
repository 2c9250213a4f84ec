//! How a driver stops before its rollout has ended, and what it tells the server then.

use std::time::Duration;

use segue_schemas::{
    deploy::{JournalEntry, JournalKind},
    duration::Span,
    status::RolloutStatus,
    worker_api::{RolloutClaim, RolloutHandBack, RolloutReport},
};
use serde_json::json;

use super::{
    super::{
        Timing,
        group::Hosts,
        hosts::HostTrouble,
        journal::{self, Journal},
        lease::Lease,
        server::{RolloutServer, ServerError},
    },
    Leftover, Outcome, millis, now,
};

/// How long it is tried to tell the server what the host has seen.
const TELLING: Duration = Duration::from_secs(5);

/// Why a driver stops before its rollout has ended.
pub(super) enum Leave {
    /// The lease is another's, or can't be renewed: nothing may be changed, and the server needn't be told.
    Lost(String),
    /// This worker can't go on; another owner, or this one later, can.
    HandBack { why: String, not_before: Duration },
    /// The host has seen a higher epoch although the lease may be valid: an emergency there, or a server that was put back
    /// to an earlier state. The server gives out a higher one once it has heard of it.
    Overtaken(String),
}

impl Leave {
    pub(super) fn why(&self) -> String {
        match self {
            Self::Lost(why) | Self::HandBack { why, .. } | Self::Overtaken(why) => why.clone(),
        }
    }

    /// Whether it is tried again after a pause, by whomever.
    pub(super) fn is_hand_back(&self) -> bool {
        matches!(self, Self::HandBack { not_before, .. } if !not_before.is_zero())
    }
}

/// What a rollout that could not be gone on with for too long ends with.
pub(super) struct GivenUp {
    pub(super) serves: &'static str,
    pub(super) reason: String,
}

/// Whether a rollout could not be gone on with for so long that it is given up. One that has changed nothing is given up soon,
/// and that is certain. One that has changed something waits for long, because only its host can say what serves there; then it
/// ends with the word that this is not known, and what serves is put on record when the host is back.
pub(super) fn out_of_patience(claim: &RolloutClaim, timing: Timing, why: &str) -> Option<GivenUp> {
    let passed = |entry: Option<&JournalEntry>, limit: Duration| entry.is_some_and(|e| now().since(e.at) >= limit);
    if is_untouched(claim) {
        let first_tried = first_tried(&claim.journal);
        let reason = format!("nothing was changed, because the rollout could not begin: {why}");
        return passed(first_tried, timing.begin_limit).then_some(GivenUp { serves: "former", reason });
    }
    let away_since = claim.journal.last().filter(|entry| is_away(entry));
    // what only brings one host to what the others serve keeps no release of theirs waiting
    let limit =
        if claim.rollout.spec.is_repair() { timing.begin_limit.min(timing.absent_limit) } else { timing.absent_limit };
    let hosts = claim.rollout.spec.hosts.join("`, `");
    let reason = format!(
        "what serves at host `{hosts}` is unknown, and put on record when it is back: for {} the rollout could not go on: {why}",
        Span(limit)
    );
    passed(away_since, limit).then_some(GivenUp { serves: "unknown", reason })
}

/// From when on a rollout that has changed nothing could not begin. A backup may take long, and is no try to begin; the same of data that
/// come: while that goes on, it counts from when its host was away first, and until then not at all.
fn first_tried(journal: &[JournalEntry]) -> Option<&JournalEntry> {
    if is_backing_up(journal) {
        return None;
    }
    let is_try = |entry: &&JournalEntry| {
        let is_over = matches!(entry.kind, JournalKind::BackedUp | JournalKind::Copied | JournalKind::Claimed);
        is_over || may_last(entry.kind) || is_away(entry)
    };
    journal.iter().rfind(is_try)
}

fn is_untouched(claim: &RolloutClaim) -> bool {
    let brings_back = claim.journal.iter().any(|entry| entry.kind == JournalKind::RestoreIntent);
    claim.rollout.state.is_none() && claim.rollout.weight == 0 && !brings_back
}

/// Whether a backup, or data that come, were begun and not ended: it may have taken longer than a rollout may take to begin.
fn is_backing_up(journal: &[JournalEntry]) -> bool {
    journal.last().is_some_and(|entry| may_last(entry.kind))
}

const fn may_last(kind: JournalKind) -> bool {
    matches!(kind, JournalKind::BackUpIntent | JournalKind::CopyIntent | JournalKind::ImportIntent)
}

/// Whether an entry says that the host does not answer. Nothing is written after it while that lasts.
fn is_away(entry: &JournalEntry) -> bool {
    entry.kind == JournalKind::Held && entry.detail["is_away"] == true
}

/// Ends a rollout that was given up.
pub(super) async fn give_up(server: &dyn RolloutServer, claim: &RolloutClaim, lease: &Lease, end: GivenUp) -> Outcome {
    let GivenUp { serves, reason } = end;
    let mut journal = Journal::after(claim, None);
    let detail = json!({ "status": RolloutStatus::Failed, "serves": serves, "reason": reason });
    journal.note(JournalKind::Ended, detail);
    let report = RolloutReport {
        entries: journal.into_unsent(),
        status: RolloutStatus::Failed,
        reason: Some(reason),
        ..stands(claim, "")
    };
    match journal::send(server, claim, lease, &report).await {
        Ok(()) => Outcome::Ended,
        Err(error) => Outcome::Left { why: error.to_string(), leftover: None },
    }
}

/// Where the rollout stood when it was claimed; the first who could not begin it, or go on with it, writes that down.
pub(super) fn stands(claim: &RolloutClaim, why: &str) -> RolloutReport {
    let rollout = &claim.rollout;
    let mut journal = Journal::after(claim, None);
    if claim.journal.is_empty() {
        let message = "a worker took the rollout over, but could not begin it";
        journal.note(JournalKind::Claimed, json!({ "message": message }));
    } else if (!is_untouched(claim) || is_backing_up(&claim.journal)) && !claim.journal.last().is_some_and(is_away) {
        let message = format!("it waits for its host: {why}");
        journal.note(JournalKind::Held, json!({ "message": message, "is_away": true }));
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

/// Tells the server what the hosts have seen that it has not, and hands the rollout back: what follows is claimed above it. An
/// emergency that is put on record by this ends the rollout, and there is nothing left to hand back.
pub(super) async fn overtaken(server: &dyn RolloutServer, hosts: &Hosts, why: String) -> Leave {
    let told = hosts.each_apart(TELLING, |host| async move {
        let state = host.state().await.map_err(|trouble| trouble.to_string())?;
        server.tell_host(&host.name, &state).await.map_err(|error| error.to_string())
    });
    let told: Result<(), String> = told.await.into_iter().collect();
    match told {
        Ok(()) => Leave::HandBack { why, not_before: Duration::ZERO },
        Err(error) => {
            let why = format!("{why}; the server could not be told: {error}");
            Leave::HandBack { why, not_before: Duration::from_secs(5) }
        }
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
        Leave::Lost(why) | Leave::Overtaken(why) => why,
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
    let why = trouble.to_string();
    match trouble {
        HostTrouble::Stale(_) => Leave::Overtaken(why),
        HostTrouble::Refused(_)
        | HostTrouble::Router(_)
        | HostTrouble::Full(_)
        | HostTrouble::Faulty(_)
        | HostTrouble::Away(_) => Leave::HandBack { why, not_before: Duration::from_secs(5) },
    }
}

pub(super) fn lost_by(error: ServerError) -> Leave {
    match error {
        ServerError::Stale(_) | ServerError::Away(_) => Leave::Lost(error.to_string()),
        ServerError::Refused(_) => hand_back_later(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use segue_schemas::{id::Epoch, time::Timestamp};

    use super::*;

    #[test]
    fn what_may_last_is_given_up_only_by_how_long_its_host_is_away() {
        use JournalKind::{BackUpIntent, BackedUp, Claimed, Copied, CopyIntent, Held, ImportIntent};
        let journal = |kinds: &[JournalKind]| -> Vec<JournalEntry> {
            let entries = kinds.iter().zip(1..).map(|(kind, sequence)| JournalEntry {
                sequence,
                epoch: Epoch(1),
                at: Timestamp(sequence),
                kind: *kind,
                host: None,
                detail: json!({ "is_away": *kind == JournalKind::Held }),
            });
            entries.collect()
        };
        let check = |kinds: &[JournalKind], since: Option<i64>| {
            assert_eq!(first_tried(&journal(kinds)).map(|entry| entry.sequence), since, "{kinds:?}");
        };
        check(&[Claimed], Some(1));
        for lasting in [BackUpIntent, CopyIntent, ImportIntent] {
            check(&[Claimed, lasting], None);
            check(&[Claimed, lasting, Held], Some(3));
        }
        check(&[Claimed, CopyIntent, Copied], Some(3));
        check(&[Claimed, BackUpIntent, BackedUp], Some(3));
        check(&[], None);
    }
}
