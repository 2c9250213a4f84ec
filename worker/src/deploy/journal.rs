//! The rollout's journal, as its driver writes it: entries in order, kept until the server has them, each with one line for
//! people.

use std::time::Duration;

use segue_pipelines::rollout::RolloutMachine;
use segue_schemas::{
    deploy::{JournalEntry, JournalKind},
    id::Epoch,
    status::RolloutStatus,
    time::Timestamp,
    worker_api::{RolloutClaim, RolloutReport},
};
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::{
    lease::Lease,
    server::{RolloutServer, ServerError},
};

/// Pauses between tries to reach the server.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Entries that the server does not have yet. The driver begins no change before the server has what announces it, so that
/// there are never more than a few; where the traffic goes back without the server, there may be a few more.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    epoch: Epoch,
    /// The host, where there is only one.
    host: Option<String>,
    next_sequence: i64,
    unsent: Vec<JournalEntry>,
    /// Why an earlier owner could not go on: shown until this one does.
    put_off: Option<String>,
}

impl Journal {
    /// Goes on after the last entry of the claim.
    pub(super) fn after(claim: &RolloutClaim, host: Option<&str>) -> Self {
        let last = claim.journal.iter().map(|entry| entry.sequence).max().unwrap_or(0);
        Self {
            epoch: claim.epoch,
            host: host.map(str::to_owned),
            next_sequence: last + 1,
            unsent: Vec::new(),
            put_off: claim.rollout.reason.clone().filter(|_| claim.rollout.status == RolloutStatus::Running),
        }
    }

    /// Takes over what an earlier driver of this process could not send, if the server has nothing newer.
    pub(super) fn adopt(&mut self, entries: Vec<JournalEntry>) -> bool {
        let fits = entries.first().is_some_and(|first| first.sequence == self.next_sequence);
        if fits {
            for mut entry in entries {
                entry.epoch = self.epoch;
                self.push(entry);
            }
        }
        fits
    }

    /// Adds an entry; `detail` gets a `message` where it has none.
    pub(super) fn note(&mut self, kind: JournalKind, detail: Value) {
        let host = self.host.clone().filter(|_| concerns_host(kind));
        self.note_of(kind, host, detail);
    }

    /// The same of one host of several.
    pub(super) fn note_of(&mut self, kind: JournalKind, host: Option<String>, detail: Value) {
        let entry = JournalEntry {
            sequence: 0,
            epoch: self.epoch,
            at: Timestamp::default(),
            kind,
            host,
            detail: with_message(kind, detail),
        };
        tracing::info!(kind = ?kind, message = entry.detail["message"].as_str(), "rollout");
        if goes_on(kind) {
            self.put_off = None;
        }
        self.push(entry);
    }

    fn push(&mut self, mut entry: JournalEntry) {
        entry.detail["message"] = json!(in_one_line(entry.detail["message"].as_str().unwrap_or_default()));
        entry.sequence = self.next_sequence;
        self.next_sequence += 1;
        self.unsent.push(entry);
    }

    /// Whether there is something to send.
    pub(super) fn has_news(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// What the server does not have yet.
    pub(super) fn unsent(&self) -> &[JournalEntry] {
        &self.unsent
    }

    /// What the server does not have, for a later driver of this process.
    pub(super) fn into_unsent(self) -> Vec<JournalEntry> {
        self.unsent
    }

    /// Everything that the server does not have yet, and where the rollout stands.
    pub(super) fn report(&self, machine: &RolloutMachine) -> RolloutReport {
        RolloutReport {
            epoch: self.epoch,
            entries: self.unsent.clone(),
            status: machine.status(),
            weight: machine.weight(),
            stage: machine.stage(),
            reason: machine.reason().or(self.put_off.as_deref()).map(str::to_owned),
            verdict: machine.told_verdict(),
            state: serde_json::to_value(machine).ok(),
        }
    }

    /// The server has everything up to this entry.
    pub(super) fn sent(&mut self, report: &RolloutReport) {
        let last = report.entries.last().map_or(0, |entry| entry.sequence);
        self.unsent.retain(|entry| entry.sequence > last);
    }
}

/// Sends a report, again and again while the server can't be reached and the lease is valid.
///
/// # Errors
/// [`ServerError::Away`] when the lease ran out meanwhile; the others as they come.
pub(super) async fn send(
    server: &dyn RolloutServer,
    claim: &RolloutClaim,
    lease: &Lease,
    report: &RolloutReport,
) -> Result<(), ServerError> {
    let mut pause = FIRST_PAUSE;
    loop {
        match server.report(claim.rollout.id, report).await {
            Err(ServerError::Away(why)) if lease.left() > pause => {
                if pause == FIRST_PAUSE {
                    tracing::warn!(rollout = %claim.rollout.id, why, "the journal can't be written just now; it is tried on");
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            other => return other,
        }
    }
}

/// What programs print comes in several lines; an entry is read as one.
fn in_one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Whether something has come of what an owner did.
const fn goes_on(kind: JournalKind) -> bool {
    use JournalKind::{Claimed, Recovered, StartIntent};
    !matches!(kind, Claimed | Recovered | StartIntent)
}

const fn concerns_host(kind: JournalKind) -> bool {
    !matches!(kind, JournalKind::Claimed | JournalKind::Verdict | JournalKind::Held | JournalKind::Command)
}

/// The detail as an object with a `message`: one line for people.
fn with_message(kind: JournalKind, detail: Value) -> Value {
    let mut fields = match detail {
        Value::Object(fields) => fields,
        Value::Null => Map::new(),
        other => Map::from_iter([("value".to_owned(), other)]),
    };
    if !fields.get("message").is_some_and(Value::is_string) {
        let message = message(kind, &fields);
        fields.insert("message".into(), json!(message));
    }
    Value::Object(fields)
}

fn message(kind: JournalKind, fields: &Map<String, Value>) -> String {
    let text = |name: &str| match fields.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let because = |what: &str| match text("reason") {
        reason if reason.is_empty() => what.to_owned(),
        reason => format!("{what}: {reason}"),
    };
    match kind {
        JournalKind::Verdict => {
            let decision = text("decision").replace('_', " ");
            format!("verdict at {} %: {decision}, {}", text("stage_percent"), text("reason"))
        }
        JournalKind::Held => because("held"),
        JournalKind::Command => {
            let by = match text("by") {
                by if by.is_empty() => String::new(),
                by => format!(" by {by}"),
            };
            let what_of_it = match (text("is_again").as_str(), text("taken").as_str()) {
                ("true", _) => ", told again: it counts once",
                (_, "false") => ", which can't be followed now",
                _ => "",
            };
            format!("command `{}`{by}{what_of_it}", text("command"))
        }
        JournalKind::RollBackIntent => because("rolling back"),
        JournalKind::RolledBack => because("traffic is back where it was"),
        JournalKind::NotReady => text("reason"),
        JournalKind::Retired => match text("left_over").as_str() {
            "true" => because(&format!("instance {} could not be cleaned up and may be left over", text("instance"))),
            _ => format!("instance {} is retired", text("instance")),
        },
        JournalKind::RetireIntent => {
            format!("instance {}: {} answers were still in flight at the drain's limit", text("instance"), text("cut"))
        }
        JournalKind::Emergency => because("changed at the host itself"),
        JournalKind::Recovered => format!("a new owner goes on where the last one stopped ({})", text("phase")),
        JournalKind::Quarantined => because("a host takes no part any more"),
        JournalKind::Ended => {
            let serves = match text("serves").as_str() {
                "new" => "the new release has all the traffic",
                "unknown" => "what has the traffic is not known",
                "none" => "nobody has the traffic",
                _ => "what served before has all the traffic",
            };
            let status = text("status").replace('_', " ");
            because(&format!("ended {status}; {serves}"))
        }
        JournalKind::Claimed
        | JournalKind::StartIntent
        | JournalKind::Started
        | JournalKind::Ready
        | JournalKind::ShiftIntent
        | JournalKind::GapIntent
        | JournalKind::GpuBaseline
        | JournalKind::GpuFinding
        | JournalKind::Shifted
        | JournalKind::BackUpIntent
        | JournalKind::BackedUp
        | JournalKind::RestoreIntent
        | JournalKind::Restored
        | JournalKind::CopyIntent
        | JournalKind::Copied
        | JournalKind::ImportIntent => because(&format!("{kind:?}")),
    }
}
