use segue_schemas::status::JobStatus;
use serde::{Deserialize, Serialize};

use super::JobView;

/// What is to be done with a job that has begun, when its run is cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum CancelAction {
    /// Mark the job and tell the worker that holds it, or will. It ends by the worker's report, or by the reaper.
    Signal {
        /// Which.
        job: String,
    },
    /// Mark the job and abort the rollout that it waits for. It goes on, or ends, when that has ended.
    AbortRollout {
        /// Which.
        job: String,
    },
}

/// What a cancellation means for the jobs that have begun; the others are decided by [`super::advance`] with `cancelled` set.
/// Asking again for a second cancellation reaches the jobs that began because of the first one (`if: always()`).
#[must_use]
pub fn cancel(jobs: &[JobView]) -> Vec<CancelAction> {
    let of = |job: &JobView| {
        let key = job.key.clone();
        match job.status {
            JobStatus::Leased | JobStatus::Running | JobStatus::Recovering => Some(CancelAction::Signal { job: key }),
            JobStatus::Queued if job.has_started && !job.begins_again => Some(CancelAction::Signal { job: key }),
            JobStatus::Waiting if job.has_started => Some(CancelAction::AbortRollout { job: key }),
            JobStatus::Pending
            | JobStatus::Queued
            | JobStatus::Waiting
            | JobStatus::Succeeded
            | JobStatus::Failed
            | JobStatus::Cancelled
            | JobStatus::Skipped => None,
        }
    };
    jobs.iter().filter_map(of).collect()
}
