//! A job's lease, held by renewing it for as long as the job goes on.
//!
//! On this side it is measured by `CLOCK_BOOTTIME`, which also counts while the machine sleeps, from the moment at which
//! a renewal was sent: the server's count begins later. What the job runs is told to end early enough to be gone before
//! the lease is, and the step supervisor is given the same deadline, should this process not be able to.

use std::{sync::Arc, time::Duration};

use segue_schemas::{
    id::{Epoch, JobId},
    worker_api::Registered,
};
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    control_plane::{ControlPlane, ControlPlaneError},
    queue::Told,
    supervisor::boot_time,
};

/// Before the first renewal: most jobs are over by then, and were spared it.
const FIRST_RENEWAL_AFTER: Duration = Duration::from_millis(150);
/// Between two tries while the server can't be reached.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// Of the lease, what is kept for the killing and for clocks that run differently.
const MARGIN: Duration = Duration::from_secs(1);

/// Pushes the supervisor's deadline.
pub type Deadline = Arc<dyn Fn(Duration) + Send + Sync>;

/// What became of a lease. Each token is cancelled when its word is true.
#[derive(Debug, Clone, Default)]
pub struct LeaseSigns {
    /// The job is to be cancelled.
    pub cancel: CancellationToken,
    /// The lease could not be renewed and is about to end: everything must stop now.
    pub ending: CancellationToken,
    /// The lease is another's: everything must stop, and nothing may be reported.
    pub lost: CancellationToken,
    /// The server is being told that the job is no longer held: from here on a lease that is gone is no surprise.
    pub over: CancellationToken,
}

/// Renews a lease until it is dropped.
#[derive(Debug)]
pub struct Lease {
    /// What became of it.
    pub signs: LeaseSigns,
    task: JoinHandle<()>,
}

/// What a lease is of.
pub struct Leased {
    /// The server.
    pub control_plane: ControlPlane,
    /// The job.
    pub job: JobId,
    /// The epoch.
    pub epoch: Epoch,
    /// How long, how often.
    pub registered: Registered,
    /// How long the job needs to be stopped.
    pub kill_grace: Duration,
    /// Where words for the job come without being asked for; otherwise the server holds its answers open.
    pub told: Option<Told>,
}

impl Lease {
    /// Holds a lease that was claimed at `claimed_at` of [`boot_time`].
    #[must_use]
    pub fn hold(leased: Leased, claimed_at: Duration, deadline: Deadline) -> Self {
        let signs = LeaseSigns::default();
        // before anything is started: whatever becomes of this process then, what it starts ends with the lease
        deadline((claimed_at + Duration::from_millis(leased.registered.lease_ms)).saturating_sub(MARGIN));
        let task = tokio::spawn(renew(leased, claimed_at, deadline, signs.clone()));
        Self { signs, task }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn renew(mut leased: Leased, claimed_at: Duration, deadline: Deadline, signs: LeaseSigns) {
    let lease = Duration::from_millis(leased.registered.lease_ms);
    let wait = Duration::from_millis(leased.registered.renew_ms);
    let mut ends_at = claimed_at + lease;
    sleep(FIRST_RENEWAL_AFTER.min(wait)).await;
    loop {
        let asked_at = boot_time();
        let cancelled = signs.cancel.is_cancelled();
        // After a cancel there is no more to hear, and each answer comes at once; as it does where words come by themselves.
        let is_told = leased.told.as_ref().is_some_and(Told::is_listening);
        let hold = if cancelled || is_told { Duration::ZERO } else { wait };
        let stop_at = stop_at(ends_at, &leased);
        let renewal = leased.control_plane.renew_job(leased.job, leased.epoch, hold);
        match in_boot_time(stop_at, renewal).await {
            Some(Ok(renewed)) => {
                ends_at = asked_at + lease;
                deadline(ends_at.saturating_sub(MARGIN));
                if renewed.cancel {
                    signs.cancel.cancel();
                }
                if cancelled {
                    sleep(wait).await;
                } else if is_told {
                    word_or(wait, &mut leased).await;
                }
            }
            Some(Err(ControlPlaneError::StaleEpoch { .. })) if signs.over.is_cancelled() => return,
            Some(Err(error @ ControlPlaneError::StaleEpoch { .. })) => {
                tracing::warn!(job = %leased.job, %error, "the lease is lost");
                signs.lost.cancel();
                return;
            }
            Some(Err(error)) => {
                tracing::debug!(job = %leased.job, %error, "the lease is not renewed");
                sleep(TRY_AGAIN_AFTER).await;
            }
            None => {}
        }
        if boot_time() >= self::stop_at(ends_at, &leased) && !signs.ending.is_cancelled() {
            tracing::warn!(job = %leased.job, "the lease could not be renewed; its job is stopped before it ends");
            signs.ending.cancel();
        }
        if boot_time() >= ends_at {
            // Whether another has the job by now is for the server to say, when its end is reported.
            return;
        }
    }
}

/// Returns after a while, or when there is word of the job.
async fn word_or(wait: Duration, leased: &mut Leased) {
    let word = async {
        match &mut leased.told {
            Some(told) => told.word_of(leased.job).await,
            None => std::future::pending().await,
        }
    };
    let _ = tokio::time::timeout(wait, word).await;
}

/// Whether a lease that was claimed at `claimed_at` of [`boot_time`] is as good as over: its answer lay about for too long, and who
/// hears it now begins nothing.
#[must_use]
pub fn is_over(registered: &Registered, claimed_at: Duration) -> bool {
    let lease = Duration::from_millis(registered.lease_ms);
    boot_time() + lease / 4 >= claimed_at + lease
}

/// When the job must be told to stop, to be gone when the lease ends.
fn stop_at(ends_at: Duration, leased: &Leased) -> Duration {
    let lease = Duration::from_millis(leased.registered.lease_ms);
    ends_at.saturating_sub((leased.kill_grace + MARGIN * 2).min(lease / 2))
}

/// The future's output, or `None` when the clock that counts sleep as well passes `until`.
async fn in_boot_time<T>(until: Duration, future: impl Future<Output = T>) -> Option<T> {
    let left = until.saturating_sub(boot_time()).max(TRY_AGAIN_AFTER);
    tokio::time::timeout(left, future).await.ok()
}
