use segue_schemas::{
    plan::{JobPlan, StepPlan},
    status::{Conclusion, FailureClass, RolloutStatus, StepStatus},
};
use serde::{Deserialize, Serialize};

use crate::expr::uses_status_function;

/// What a rollout's end means for the step that waited for it, and for the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AfterRollout {
    /// The step's status.
    pub step: StepStatus,
    /// The step's outcome, before `continue-on-error`.
    pub outcome: Conclusion,
    /// Why the step failed.
    pub reason: Option<String>,
    /// How the job goes on.
    pub next: Next,
}

/// How a job goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "next")]
pub enum Next {
    /// Queued again, to go on at this step.
    Requeue {
        /// From 0.
        next_step: usize,
    },
    /// Ended; the steps after it are skipped.
    Finish {
        /// How.
        conclusion: Conclusion,
        /// Why, unless it succeeded.
        reason: Option<String>,
        /// What kind of failure.
        class: Option<FailureClass>,
    },
}

/// What follows when the rollout that step `step` of a job waits for has ended as `rollout`. `cancelled`: the job is to be
/// cancelled. `None` for a rollout that has not ended.
#[must_use]
pub fn after_rollout(
    plan: &JobPlan,
    step: usize,
    rollout: RolloutStatus,
    reason: Option<&str>,
    cancelled: bool,
) -> Option<AfterRollout> {
    let why = |what: &str| Some(reason.map_or_else(|| what.to_owned(), |reason| format!("{what}: {reason}")));
    let (outcome, reason) = match rollout {
        RolloutStatus::Succeeded => (Conclusion::Success, None),
        RolloutStatus::RolledBack => (Conclusion::Failure, why("the rollout was rolled back")),
        RolloutStatus::Failed => (Conclusion::Failure, why("the new release took no traffic")),
        RolloutStatus::Queued | RolloutStatus::Running | RolloutStatus::Held | RolloutStatus::RollingBack => {
            return None;
        }
    };
    let step_status = match outcome {
        Conclusion::Success => StepStatus::Succeeded,
        _ if cancelled => StepStatus::Cancelled,
        _ => StepStatus::Failed,
    };
    let tolerated = plan.steps.get(step).is_some_and(|s| s.continue_on_error);
    let is_well = (outcome == Conclusion::Success || tolerated) && !cancelled;
    let later = plan.steps.get(step + 1..).unwrap_or_default();
    let goes_on = if is_well { !later.is_empty() } else { later.iter().any(may_run_after_failure) };
    let next = if goes_on {
        Next::Requeue { next_step: step + 1 }
    } else if is_well {
        Next::Finish { conclusion: Conclusion::Success, reason: None, class: None }
    } else if cancelled {
        Next::Finish { conclusion: Conclusion::Cancelled, reason: Some("the run was cancelled".into()), class: None }
    } else {
        Next::Finish { conclusion: Conclusion::Failure, reason: reason.clone(), class: Some(FailureClass::Rollout) }
    };
    Some(AfterRollout { step: step_status, outcome, reason, next })
}

/// Whether the step's `if` might hold after a failure or a cancellation: it asks for the status. One that can't be read is left to
/// the worker, which says what is wrong with it.
fn may_run_after_failure(step: &StepPlan) -> bool {
    step.condition.as_deref().is_some_and(|condition| uses_status_function(condition).unwrap_or(true))
}
