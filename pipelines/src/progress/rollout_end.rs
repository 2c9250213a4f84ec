use segue_schemas::{
    plan::{JobPlan, StepPlan},
    status::{Conclusion, FailureClass, RolloutStatus, StepStatus},
    worker_api::StepReport,
};
use serde::{Deserialize, Serialize};

use crate::{actions, expr::uses_status_function};

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

/// Which failure the steps of a job have met with so far, and what kind of failure it is: the first one that was not allowed.
#[must_use]
pub fn first_failure(plan: &JobPlan, steps: &[StepReport]) -> Option<(FailureClass, String)> {
    let failed = |step: &&StepReport| matches!(step.status, StepStatus::Failed | StepStatus::Cancelled);
    let step = steps.iter().find(failed)?;
    let uses = plan.steps.get(step.index).and_then(|plan| plan.action.uses());
    let deploys = uses.and_then(actions::find).is_some_and(|action| action.deploys);
    let class = if deploys { FailureClass::Rollout } else { FailureClass::Script };
    let reason = step.reason.as_deref().unwrap_or("it failed");
    Some((class, format!("step `{}`: {reason}", step.name)))
}

/// What follows when the rollout that step `step` of a job waits for has ended as `rollout`. `may_fail`: what the step's
/// `continue-on-error` came to when it began to wait; `None`: as the plan says. `before`: the failure that the job
/// has met with in an earlier step, as [`first_failure`] finds it; a step that runs after one does not mend the job. `cancelled`:
/// the job is to be cancelled. `None` for a rollout that has not ended.
#[must_use]
pub fn after_rollout(
    plan: &JobPlan,
    step: usize,
    may_fail: Option<bool>,
    before: Option<(FailureClass, String)>,
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
    let tolerated = may_fail.unwrap_or_else(|| plan.steps.get(step).is_some_and(|s| s.continue_on_error));
    let passed = outcome == Conclusion::Success || tolerated;
    let step_status = match outcome {
        Conclusion::Success => StepStatus::Succeeded,
        _ if cancelled => StepStatus::Cancelled,
        _ if tolerated => StepStatus::Succeeded,
        _ => StepStatus::Failed,
    };
    let is_well = passed && before.is_none() && !cancelled;
    let later = plan.steps.get(step + 1..).unwrap_or_default();
    let goes_on = if is_well { !later.is_empty() } else { later.iter().any(may_run_after_failure) };
    let next = if goes_on {
        Next::Requeue { next_step: step + 1 }
    } else if is_well {
        Next::Finish { conclusion: Conclusion::Success, reason: None, class: None }
    } else if cancelled {
        Next::Finish { conclusion: Conclusion::Cancelled, reason: Some("the run was cancelled".into()), class: None }
    } else {
        let (class, reason) = match before {
            Some((class, reason)) => (class, Some(reason)),
            None => (FailureClass::Rollout, reason.clone()),
        };
        Next::Finish { conclusion: Conclusion::Failure, reason, class: Some(class) }
    };
    Some(AfterRollout { step: step_status, outcome, reason, next })
}

/// Whether the step's `if` might hold after a failure or a cancellation: it asks for the status. One that can't be read is left to
/// the worker, which says what is wrong with it.
fn may_run_after_failure(step: &StepPlan) -> bool {
    step.condition.as_deref().is_some_and(|condition| uses_status_function(condition).unwrap_or(true))
}
