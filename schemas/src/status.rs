//! The states of runs, jobs, steps and rollouts, and the one `match` for each that says which may follow which.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A change of state that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {kind} that is {from} cannot become {to}")]
pub struct IllegalTransition {
    /// `run`, `job`, `step` or `rollout`.
    pub kind: &'static str,
    /// The state it is in.
    pub from: &'static str,
    /// The state that was asked for.
    pub to: &'static str,
}

macro_rules! status {
    ($(#[$doc:meta])* $name:ident, $kind:literal, { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every state.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word that is stored and shown.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The state that a stored word names.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($text => Some(Self::$variant),)* _ => None }
            }

            /// Moves on to `to`, or says that this is not allowed. Staying where it is, is not a transition.
            ///
            /// # Errors
            /// [`IllegalTransition`] where the table of this type does not hold the pair.
            pub fn transition(self, to: Self) -> Result<Self, IllegalTransition> {
                if self.may_become(to) {
                    Ok(to)
                } else {
                    Err(IllegalTransition { kind: $kind, from: self.as_str(), to: to.as_str() })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

status!(
    /// A run, or one attempt of it.
    RunStatus, "run", {
        /// Planned; no job has started.
        Queued = "queued",
        /// At least one job has started.
        Running = "running",
        /// Nothing runs, and something waits for a person, a gate or a rollout.
        Waiting = "waiting",
        /// Every job ended well or was skipped by its own condition.
        Succeeded = "succeeded",
        /// At least one job failed.
        Failed = "failed",
        /// It was cancelled.
        Cancelled = "cancelled",
        /// Every job was skipped.
        Skipped = "skipped",
    }
);

status!(
    /// A job.
    JobStatus, "job", {
        /// Not claimable yet: its needs are not done.
        Pending = "pending",
        /// Claimable, once its gates are open.
        Queued = "queued",
        /// Claimed by a worker that has not reported a step yet.
        Leased = "leased",
        /// Steps run.
        Running = "running",
        /// It holds no slot and waits for a rollout or for an approval.
        Waiting = "waiting",
        /// Its worker was lost while it was changing an environment; somebody looks after what it left.
        Recovering = "recovering",
        /// Ended well.
        Succeeded = "succeeded",
        /// Ended badly; the reason is stored.
        Failed = "failed",
        /// It was cancelled.
        Cancelled = "cancelled",
        /// Not run; the reason is stored.
        Skipped = "skipped",
    }
);

status!(
    /// A step.
    StepStatus, "step", {
        /// Not started.
        Pending = "pending",
        /// It runs.
        Running = "running",
        /// It started a rollout, and waits for its end.
        Waiting = "waiting",
        /// Exit code 0.
        Succeeded = "succeeded",
        /// Any other end.
        Failed = "failed",
        /// Cancelled, or ended with its job.
        Cancelled = "cancelled",
        /// Its condition was false, or an earlier step failed.
        Skipped = "skipped",
    }
);

status!(
    /// A rollout.
    RolloutStatus, "rollout", {
        /// Stored; nobody drives it yet.
        Queued = "queued",
        /// A worker drives it.
        Running = "running",
        /// It holds its weight and waits for evidence or for a person.
        Held = "held",
        /// Traffic goes back.
        RollingBack = "rolling_back",
        /// The target is wholly new.
        Succeeded = "succeeded",
        /// The target is wholly old, because of a verdict or a person.
        RolledBack = "rolled_back",
        /// It never took traffic: the target is wholly old, because the new release did not become ready.
        Failed = "failed",
    }
);

impl RunStatus {
    /// Whether nothing follows.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Skipped)
    }

    const fn may_become(self, to: Self) -> bool {
        use RunStatus::{Cancelled, Failed, Queued, Running, Skipped, Succeeded, Waiting};
        match (self, to) {
            (Queued, Running | Waiting | Succeeded | Failed | Cancelled | Skipped)
            | (Running, Queued | Waiting | Succeeded | Failed | Cancelled | Skipped)
            | (Waiting, Queued | Running | Succeeded | Failed | Cancelled | Skipped) => true,
            // a rerun opens a new attempt of a run that has ended
            (Succeeded | Failed | Cancelled | Skipped, Queued) => true,
            _ => false,
        }
    }
}

impl JobStatus {
    /// Whether nothing follows.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Skipped)
    }

    /// Whether a worker holds it.
    #[must_use]
    pub const fn is_held(self) -> bool {
        matches!(self, Self::Leased | Self::Running)
    }

    const fn may_become(self, to: Self) -> bool {
        use JobStatus::{Cancelled, Failed, Leased, Pending, Queued, Recovering, Running, Skipped, Succeeded, Waiting};
        match (self, to) {
            (Pending, Queued | Waiting | Skipped | Cancelled | Failed)
            | (Queued, Leased | Waiting | Skipped | Cancelled | Failed)
            // handed back, or its worker was lost: queued again
            | (Leased, Running | Queued | Waiting | Recovering | Succeeded | Failed | Cancelled)
            | (Running, Queued | Waiting | Recovering | Succeeded | Failed | Cancelled)
            | (Waiting, Queued | Recovering | Succeeded | Failed | Cancelled | Skipped)
            | (Recovering, Queued | Waiting | Succeeded | Failed | Cancelled) => true,
            _ => false,
        }
    }
}

impl StepStatus {
    /// Whether nothing follows.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Skipped)
    }

    #[expect(clippy::match_like_matches_macro, reason = "one table per kind of thing, all of one form")]
    const fn may_become(self, to: Self) -> bool {
        use StepStatus::{Cancelled, Failed, Pending, Running, Skipped, Succeeded, Waiting};
        match (self, to) {
            (Pending, Running | Skipped | Cancelled)
            | (Running, Waiting | Succeeded | Failed | Cancelled)
            | (Waiting, Succeeded | Failed | Cancelled) => true,
            _ => false,
        }
    }
}

impl RolloutStatus {
    /// Whether nothing follows.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::RolledBack | Self::Failed)
    }

    const fn may_become(self, to: Self) -> bool {
        use RolloutStatus::{Failed, Held, Queued, RolledBack, RollingBack, Running, Succeeded};
        match (self, to) {
            (Queued, Running | Failed | RolledBack)
            | (Running, Held | RollingBack | Succeeded | Failed)
            | (Held, Running | RollingBack | Succeeded | Failed)
            // where nothing of the former release can be brought back, the target stays wholly new
            // (`Failed`: its host stayed away for so long that nobody can say what serves there)
            | (RollingBack, RolledBack | Succeeded | Failed) => true,
            _ => false,
        }
    }
}

/// How a job or a step ended, as expressions see it in `result`, `outcome` and `conclusion`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// Ended well.
    Success,
    /// Ended badly.
    Failure,
    /// Was cancelled.
    Cancelled,
    /// Did not run.
    Skipped,
}

impl Conclusion {
    /// GitHub's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }

    /// The status that a job with this conclusion ends in.
    #[must_use]
    pub const fn job_status(self) -> JobStatus {
        match self {
            Self::Success => JobStatus::Succeeded,
            Self::Failure => JobStatus::Failed,
            Self::Cancelled => JobStatus::Cancelled,
            Self::Skipped => JobStatus::Skipped,
        }
    }
}

/// What kind of thing went wrong, so that retries and statistics can tell causes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// A command of the pipeline failed.
    Script,
    /// A time limit was reached.
    Timeout,
    /// The worker was lost.
    WorkerLost,
    /// The runner's own surroundings failed: disk, network, engine.
    Infrastructure,
    /// The pipeline or the configuration is wrong.
    Configuration,
    /// A rollout was rolled back or did not become ready.
    Rollout,
}

impl FailureClass {
    /// The word that is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Script => "script",
            Self::Timeout => "timeout",
            Self::WorkerLost => "worker-lost",
            Self::Infrastructure => "infrastructure",
            Self::Configuration => "configuration",
            Self::Rollout => "rollout",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_state_is_left_by_nothing_but_a_new_attempt() {
        for &from in JobStatus::ALL.iter().filter(|s| s.is_final()) {
            for &to in JobStatus::ALL {
                assert!(from.transition(to).is_err(), "{from} -> {to}");
            }
        }
        for &from in RolloutStatus::ALL.iter().filter(|s| s.is_final()) {
            for &to in RolloutStatus::ALL {
                assert!(from.transition(to).is_err(), "{from} -> {to}");
            }
        }
        for &from in RunStatus::ALL.iter().filter(|s| s.is_final()) {
            for &to in RunStatus::ALL {
                assert_eq!(from.transition(to).is_ok(), to == RunStatus::Queued, "{from} -> {to}");
            }
        }
    }

    #[test]
    fn words_and_states_are_one_to_one() {
        for &status in JobStatus::ALL {
            assert_eq!(JobStatus::parse(status.as_str()), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        for &status in RolloutStatus::ALL {
            assert_eq!(RolloutStatus::parse(status.as_str()), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }

    #[test]
    fn an_illegal_transition_names_both_ends() {
        let error = JobStatus::Succeeded.transition(JobStatus::Running).unwrap_err();
        assert_eq!(error.to_string(), "a job that is succeeded cannot become running");
    }
}
