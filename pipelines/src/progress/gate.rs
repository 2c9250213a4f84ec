use segue_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::preview;

/// What the claim's transaction knows of a job's gates, in database time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateFacts {
    /// The environment that the job changes.
    pub environment: Option<String>,
    /// What the environment's own rules say ([`crate::protection::Rules::judge`]).
    pub protection: Gate,
    /// Who refused, if somebody did.
    pub refused_by: Option<String>,
    /// Whether the code is the repository's own.
    pub trusted: bool,
    /// Whether somebody let this commit of foreign code run.
    pub foreign_code_approved: bool,
    /// Whether it runs in no container, where foreign code is not let in.
    pub keeps_foreign_out: bool,
    /// Who holds the environment's slot, if another job does.
    pub environment_held_by: Option<String>,
    /// Free disk in MiB.
    pub free_disk_mib: u64,
    /// The limit below which no job starts, in MiB.
    pub low_disk_mib: u64,
}

/// Whether a job may start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "gate")]
pub enum Gate {
    /// It may be claimed.
    Open,
    /// A person has to act: the job is shown as `waiting`.
    AwaitPerson {
        /// For what.
        reason: String,
    },
    /// It opens when somebody else has ended; the job stays `queued`.
    Closed {
        /// Until what.
        reason: String,
    },
    /// It opens at a time, if nothing else keeps it closed then: the job is shown as `waiting`.
    ClosedUntil {
        /// For what.
        reason: String,
        /// Not before.
        until: Timestamp,
    },
    /// It will never open: the job fails.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Whether a job may be claimed now. What never opens comes first, then what needs a person, then what passes by itself.
#[must_use]
pub fn gate(facts: &GateFacts) -> Gate {
    if let Some(who) = &facts.refused_by {
        return Gate::Refused { reason: format!("refused by {who}") };
    }
    // a fork's preview stands apart, and is asked for under rules of its own
    if let Some(environment) =
        facts.environment.as_deref().filter(|name| !facts.trusted && *name != preview::ENVIRONMENT)
    {
        let reason = format!("code from outside the repository does not come into the environment `{environment}`");
        return Gate::Refused { reason };
    }
    if let Gate::Refused { .. } = &facts.protection {
        return facts.protection.clone();
    }
    if !facts.trusted && facts.keeps_foreign_out {
        let reason = "code from outside the repository does not run on a worker's host: give the job a `container`, or let it by \
                      `github.forks-on-host: true` in segue.yaml";
        return Gate::Refused { reason: reason.into() };
    }
    if !facts.trusted && !facts.foreign_code_approved {
        let reason = "the code comes from outside the repository; it runs once somebody has approved this commit";
        return Gate::AwaitPerson { reason: reason.into() };
    }
    if facts.protection != Gate::Open {
        return facts.protection.clone();
    }
    if facts.free_disk_mib < facts.low_disk_mib {
        let reason = format!(
            "only {} MiB of disk are free, and no job starts below {} MiB; free some space",
            facts.free_disk_mib, facts.low_disk_mib
        );
        return Gate::Closed { reason };
    }
    match (&facts.environment, &facts.environment_held_by) {
        (Some(environment), Some(holder)) => Gate::Closed { reason: format!("{holder} is changing `{environment}`") },
        _ => Gate::Open,
    }
}
