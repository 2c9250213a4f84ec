//! Decides what follows for the jobs of one attempt of a run. Comes in: the jobs as the store has them, what was asked or
//! lost. Goes out: actions, for one transaction to perform. Never here: SQL, clocks, what a step does.
//!
//! Everything is derived from the rows of the jobs: calling [`advance`] again after its actions were stored changes nothing.

mod advance;
mod call;
mod cancel;
mod concurrency;
mod expand;
mod gate;
mod groups;
mod rerun;
mod retry;
mod rollout_end;
mod settle;
mod worker_loss;

use std::collections::BTreeMap;

use indexmap::IndexMap;
use segue_schemas::{
    plan::{CallPlan, Called, Combination, JobPlan, StrategyPlan},
    status::{Conclusion, FailureClass, JobStatus, RunStatus},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use advance::play;
pub use advance::{advance, run_status};
pub use call::called_jobs;
pub use cancel::{CancelAction, cancel};
pub use concurrency::{Claimant, Entered, Fate, enter, evaluate_concurrency, turn};
pub use expand::{MAX_RUN_JOBS, Part};
pub use gate::{Gate, GateFacts, gate};
pub use groups::needs_context;
pub use rerun::{Deploys, Rerun, RerunError, Selection, rerun};
pub use retry::begin_again;
pub use rollout_end::{AfterRollout, Next, after_rollout, first_failure};
pub use settle::{is_settled, settle, strategy_context};
pub use worker_loss::{Loss, LostJob, LostStep, MAX_STARTS, OnLoss, on_worker_lost};

/// One attempt of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunView {
    /// The run's status as stored.
    pub status: RunStatus,
    /// Whether its cancellation was asked for.
    pub cancelled: bool,
    /// Every job of the attempt, in its order.
    pub jobs: Vec<JobView>,
    /// The contexts `github`, `vars` and `inputs`, by name, for the jobs' `if`; one that is left out is empty.
    pub contexts: BTreeMap<String, Value>,
}

/// One job of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// Its key; unique in the attempt.
    pub key: String,
    /// The keys of the jobs that must end before.
    pub needs: Vec<String>,
    /// `if:`; `None`: `success()`.
    pub condition: Option<String>,
    /// Whether it changes an environment.
    pub has_environment: bool,
    /// Whether it has begun to change an environment, in this attempt or in the one that it was taken over from.
    #[serde(default)]
    pub has_deployed: bool,
    /// Where it stands.
    pub status: JobStatus,
    /// Whether a worker has had it in this attempt: it is queued or waits in order to go on, not to begin.
    pub has_started: bool,
    /// Whether it is queued to begin once more, from its first step: it was lost, or failed and has tries left. Nobody has it.
    pub begins_again: bool,
    /// Why it was skipped, if it was. A skipped job without a cause counts as one that its own condition skipped.
    pub skip_cause: Option<SkipCause>,
    /// What it set, once it has ended.
    pub outputs: IndexMap<String, String>,
    /// Its matrix, while that is not evaluated.
    pub strategy: Option<StrategyPlan>,
    /// Which combination of a matrix it is.
    pub combination: Option<Combination>,
    /// The values of that.
    pub matrix: IndexMap<String, Value>,
    /// The pipeline that it calls.
    pub call: Option<Box<CallPlan>>,
    /// The call that it is a part of.
    pub called: Option<Called>,
    /// Whether its failure is none for the run and for what needs it.
    pub may_fail: bool,
    /// Whether it was told to stop.
    pub stopped: bool,
}

impl JobView {
    /// A job that has not begun, as planned.
    #[must_use]
    pub fn planned(plan: &JobPlan) -> Self {
        Self {
            key: plan.key.clone(),
            needs: plan.needs.clone(),
            condition: plan.condition.clone(),
            has_environment: plan.environment.is_some(),
            has_deployed: false,
            status: JobStatus::Pending,
            has_started: false,
            begins_again: false,
            skip_cause: None,
            outputs: IndexMap::new(),
            strategy: plan.strategy.clone().filter(|_| plan.combination.is_none()),
            combination: plan.combination.clone(),
            matrix: plan.matrix.clone(),
            call: plan.call.clone(),
            called: plan.called.clone(),
            may_fail: plan.continue_on_error,
            stopped: false,
        }
    }

    /// Its key in the file, which `needs` names.
    #[must_use]
    pub fn file_key(&self) -> &str {
        self.combination.as_ref().map_or(&self.key, |combination| &combination.job)
    }

    /// Whether it failed, and that is not allowed.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.status == JobStatus::Failed && !self.may_fail
    }

    /// How it ended, as `needs.<key>.result` shows it: a failure that is allowed is a success there.
    #[must_use]
    pub fn result(&self) -> Option<Conclusion> {
        match self.status {
            JobStatus::Succeeded => Some(Conclusion::Success),
            JobStatus::Failed if self.may_fail => Some(Conclusion::Success),
            JobStatus::Failed => Some(Conclusion::Failure),
            JobStatus::Cancelled => Some(Conclusion::Cancelled),
            JobStatus::Skipped => Some(Conclusion::Skipped),
            JobStatus::Pending
            | JobStatus::Queued
            | JobStatus::Leased
            | JobStatus::Running
            | JobStatus::Waiting
            | JobStatus::Recovering => None,
        }
    }
}

/// Why a job did not run; decides what that means for the jobs that need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipCause {
    /// Its own `if` was false. Counts as satisfied, except before a job with an environment.
    Condition,
    /// Something before it failed, was cancelled or was skipped in turn.
    Upstream,
    /// A newer run took its place.
    Superseded,
}

impl SkipCause {
    /// The word that is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Condition => "condition",
            Self::Upstream => "upstream",
            Self::Superseded => "superseded",
        }
    }

    /// The cause that a stored word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Condition, Self::Upstream, Self::Superseded].into_iter().find(|cause| cause.as_str() == word)
    }
}

/// What is to be stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    /// The job becomes `queued`.
    Queue {
        /// Which.
        job: String,
    },
    /// The job becomes `skipped`.
    Skip {
        /// Which.
        job: String,
        /// Why, for the jobs after it.
        cause: SkipCause,
        /// Why, for people.
        reason: String,
    },
    /// The job becomes `cancelled` without having run.
    Cancel {
        /// Which.
        job: String,
        /// Why.
        reason: String,
    },
    /// The job becomes `failed` without having run.
    Fail {
        /// Which.
        job: String,
        /// What kind of failure.
        class: FailureClass,
        /// Why.
        reason: String,
    },
    /// The job's matrix is evaluated: these take its place, and stand where it stood.
    Expand {
        /// Which.
        job: String,
        /// Its combinations, in order; at least one.
        into: Vec<Part>,
    },
    /// The job's pipeline is called: it becomes `waiting`, and the [`called_jobs`] begin behind it.
    Call {
        /// Which.
        job: String,
        /// The context `inputs` of what it calls.
        inputs: IndexMap<String, Value>,
    },
    /// The jobs of the pipeline that it called have ended, and it ends with them.
    Return {
        /// Which.
        job: String,
        /// How.
        status: JobStatus,
        /// Why it was skipped, where all of them were.
        cause: Option<SkipCause>,
        /// What `needs` shows of it.
        outputs: IndexMap<String, String>,
        /// Why, unless all went well.
        reason: Option<String>,
    },
    /// The job has begun, and is to be ended: marked, and its worker told, or the rollout that it waits for aborted.
    Stop {
        /// Which.
        job: String,
        /// Why.
        reason: String,
    },
    /// The run's status changes. At most once, and last.
    Run {
        /// The new status.
        status: RunStatus,
    },
}
