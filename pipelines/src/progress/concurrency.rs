//! Concurrency groups: of all runs and jobs of a repository that name the same group, one is at work.

use std::collections::BTreeMap;

use segue_schemas::{id::RunId, plan::ConcurrencyPlan, time::Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Gate, settle};
use crate::expr::{Contexts, Value};

/// A run or a job that has not ended and names a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimant {
    /// The run.
    pub run: RunId,
    /// The job's key; `None`: the run as a whole.
    pub job: Option<String>,
    /// When the run's attempt began: what is newer is newer by this, then by its run.
    pub since: Timestamp,
    /// Whether it changes an environment.
    pub deploys: bool,
    /// Whether it has the group's slot.
    pub at_work: bool,
    /// Whether it could begin now, if it had the slot.
    pub ready: bool,
}

impl Claimant {
    fn age(&self) -> (Timestamp, RunId) {
        (self.since, self.run)
    }

    fn name(&self) -> String {
        match &self.job {
            Some(job) => format!("`{job}` of run {}", self.run),
            None => format!("run {}", self.run),
        }
    }
}

/// What becomes of one that is in the group already, or of one that comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fate")]
pub enum Fate {
    /// It stays.
    Stays,
    /// It has not begun, and never will: skipped.
    Superseded {
        /// Why.
        reason: String,
    },
    /// It is cancelled, whether or not it has begun.
    Cancelled {
        /// Why.
        reason: String,
    },
}

/// What becomes of those in the group when another one comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    /// Of the one that comes.
    pub own: Fate,
    /// Of the others, in their order.
    pub others: Vec<Fate>,
}

/// Somebody comes into a group. With `cancel_in_progress` everything older is cancelled. Otherwise nothing that has begun is; of
/// the deploys that have not, the newest supersedes the others, and all else waits for its turn. What is of one run leaves each
/// other alone.
#[must_use]
pub fn enter(new: &Claimant, group: &str, cancel_in_progress: bool, others: &[Claimant]) -> Entered {
    let fate = |other: &Claimant| {
        if other.run == new.run || other.age() > new.age() {
            return Fate::Stays;
        }
        if cancel_in_progress {
            let reason =
                format!("{} is newer in the concurrency group `{group}`, and cancels what is in progress", new.name());
            return Fate::Cancelled { reason };
        }
        if new.deploys && other.deploys && !other.at_work {
            return Fate::Superseded { reason: superseded(new, group) };
        }
        Fate::Stays
    };
    let newer = others.iter().find(|other| {
        new.deploys && other.deploys && !other.at_work && other.run != new.run && other.age() > new.age()
    });
    let own = newer.map_or(Fate::Stays, |newer| Fate::Superseded { reason: superseded(newer, group) });
    Entered { own, others: others.iter().map(fate).collect() }
}

fn superseded(by: &Claimant, group: &str) -> String {
    format!("superseded by {}, the newer deploy in the concurrency group `{group}`", by.name())
}

/// Whether one that waits may take the group's slot: nobody has it, and nobody who is older waits for it.
#[must_use]
pub fn turn(own: &Claimant, group: &str, others: &[Claimant]) -> Gate {
    if own.at_work {
        return Gate::Open;
    }
    if let Some(holder) = others.iter().find(|other| other.at_work) {
        return Gate::Closed { reason: format!("{} has the concurrency group `{group}`", holder.name()) };
    }
    match others.iter().find(|other| other.ready && other.run != own.run && other.age() < own.age()) {
        Some(before) => {
            Gate::Closed { reason: format!("{} comes before it in the concurrency group `{group}`", before.name()) }
        }
        None => Gate::Open,
    }
}

/// `concurrency` of a pipeline, evaluated; the group in small letters. `contexts`: `github`, `vars`, `inputs`.
///
/// # Errors
/// What is wrong, naming the key, for people.
pub fn evaluate_concurrency(
    plan: &ConcurrencyPlan,
    contexts: &BTreeMap<String, Json>,
) -> Result<ConcurrencyPlan, String> {
    let mut visible = Contexts::new();
    for name in ["github", "vars", "inputs"] {
        visible.set(name, contexts.get(name).map_or_else(|| Value::object([]), Value::from));
    }
    settle::concurrency(plan, &visible)
}
