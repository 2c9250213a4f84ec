use segue_schemas::{
    id::{RolloutId, WorkerId},
    status::{FailureClass, StepStatus},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

/// Starts of a job in one attempt, when its worker is lost each time: the first, and three tries again.
pub const MAX_STARTS: u32 = 4;

/// How a job was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Its worker let the lease run out, or started again without it.
    Unheard,
    /// Its worker could not renew the lease, stopped what it ran, and has said so.
    Stopped,
}

/// A job that its worker has lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostJob {
    /// How.
    pub loss: Loss,
    /// The worker.
    pub worker: WorkerId,
    /// When it was last heard, before it came back to say that it has stopped.
    pub last_heard: Timestamp,
    /// The environment that the job changes.
    pub environment: Option<String>,
    /// Whether it may be run again although it has one.
    pub idempotent: bool,
    /// Whether it is to be cancelled.
    pub cancelled: bool,
    /// How often its worker was lost before, in this attempt of the run.
    pub losses_before: u32,
    /// The rollout that its running step has asked for, if it has.
    pub rollout: Option<RolloutId>,
    /// Its steps that are not `pending`, in order.
    pub steps: Vec<LostStep>,
}

/// A step of a lost job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostStep {
    /// Position in the job, from 0.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Where it stood.
    pub status: StepStatus,
    /// Whether it cannot have changed anything but the workspace and the server: checkout, artifacts.
    pub is_contained: bool,
}

/// What becomes of a lost job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "on_loss")]
pub enum OnLoss {
    /// Queued again, from its beginning.
    Requeue {
        /// Why.
        reason: String,
    },
    /// It waits for the rollout that its step had asked for, as if the worker had said so.
    AwaitRollout {
        /// The rollout.
        rollout: RolloutId,
        /// The step.
        step: usize,
    },
    /// It fails.
    Fail {
        /// Names worker, time and step.
        reason: String,
        /// `worker-lost`.
        class: FailureClass,
    },
    /// It was to be cancelled anyway.
    Cancel {
        /// Why.
        reason: String,
    },
}

/// What becomes of a job whose worker was lost. Nothing that may have changed the world is run again in silence.
#[must_use]
pub fn on_worker_lost(job: &LostJob) -> OnLoss {
    let running = job.steps.iter().find(|s| !s.status.is_final()).or(job.steps.last());
    let at = match running {
        Some(step) => format!("in step {} `{}`", step.index + 1, step.name),
        None => "before its first step".to_owned(),
    };
    let (worker, heard) = (&job.worker, job.last_heard);
    let lost = match job.loss {
        Loss::Unheard => format!("worker `{worker}` was lost {at}; it was last heard at {heard}"),
        Loss::Stopped => format!(
            "worker `{worker}` could not reach the server from {heard} on, and stopped the job {at} before its lease ended"
        ),
    };
    if let (Some(rollout), Some(step)) = (job.rollout, running) {
        return OnLoss::AwaitRollout { rollout, step: step.index };
    }
    if job.cancelled {
        return OnLoss::Cancel { reason: format!("the run was cancelled, and {lost}") };
    }
    let fail = |reason| OnLoss::Fail { reason, class: FailureClass::WorkerLost };
    match job.environment.as_deref() {
        Some(environment) if !job.idempotent && job.steps.iter().any(|s| !s.is_contained) => fail(format!(
            "{lost}. `{environment}` may have been changed: look at it, then rerun the job or mark it `idempotent`"
        )),
        _ if job.losses_before + 1 >= MAX_STARTS => fail(format!("{lost}. That was the last of {MAX_STARTS} starts")),
        _ => OnLoss::Requeue { reason: lost },
    }
}
