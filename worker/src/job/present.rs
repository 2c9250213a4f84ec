//! Which jobs are at work here. One that was lost, or handed back to begin anew, may come again at once, to another slot of the same
//! worker: it begins when what is left of it here is cleaned up. Its workspace, user and spool go by the job, not by the lease.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use segue_schemas::id::JobId;
use tokio::sync::Notify;

/// The jobs that are at work here, none twice.
#[derive(Debug, Default)]
pub struct Present {
    jobs: Mutex<HashSet<JobId>>,
    left: Notify,
}

/// A job at work, until this is dropped.
#[derive(Debug)]
pub struct Entered<'p> {
    present: &'p Present,
    job: JobId,
}

impl Present {
    /// Waits until the job is not at work here any more, and has it at work.
    pub async fn enter(&self, job: JobId) -> Entered<'_> {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            if self.jobs().insert(job) {
                return Entered { present: self, job };
            }
            left.await;
        }
    }

    fn jobs(&self) -> MutexGuard<'_, HashSet<JobId>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.present.jobs().remove(&self.job);
        self.present.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_job_that_comes_again_waits_for_itself_and_for_no_other() {
        let present = Present::default();
        let (one, other) = (JobId(uuid::Uuid::from_u128(1)), JobId(uuid::Uuid::from_u128(2)));
        let first = present.enter(one).await;
        let _other = present.enter(other).await;
        let soon = Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, present.enter(one)).await.is_err());
        let (again, ()) = tokio::join!(present.enter(one), async { drop(first) });
        drop(again);
        drop(present.enter(one).await);
    }
}
