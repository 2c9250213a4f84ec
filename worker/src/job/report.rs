//! Reports of steps, gathered for a moment so that a short job sends none but its end.
//!
//! The exception is a step that may change the world: that it begins is told before its process starts, and the process
//! waits until the server has it ([`Reporter::tell_now`]). Otherwise a worker that dies within the moment of gathering would
//! leave a step that ran but counts as not begun, and its job would be run again in silence.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use segue_schemas::{
    id::{Epoch, JobId},
    worker_api::{JobReport, StepReport},
};
use tokio::{sync::Notify, task::JoinHandle, time::sleep};

use super::lease::LeaseSigns;
use crate::control_plane::{ControlPlane, ControlPlaneError, retry};

/// How long a change may lie before it is reported.
const GATHER: Duration = Duration::from_millis(200);
/// How long a report is tried again before it is gathered with what came after it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Every step's report, and the task that sends what changed.
#[derive(Debug)]
pub struct Reporter {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// A report on its way to the server, see [`Reporter::tell_now`]. Dropped, it is not awaited any more, and what it carried goes
/// with the next gathered report.
#[derive(Debug)]
pub struct Telling(JoinHandle<Result<(), ControlPlaneError>>);

impl Telling {
    /// Waits until the server has it, however long the server is away: what ends the wait is the lease's end.
    ///
    /// # Errors
    /// The server refuses it, or the lease is lost.
    pub async fn told(mut self) -> Result<(), ControlPlaneError> {
        match (&mut self.0).await {
            Ok(told) => told,
            // aborted or panicked: it was not told
            Err(error) => Err(ControlPlaneError::Local { call: "a step's report".into(), reason: error.to_string() }),
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
struct Shared {
    steps: Mutex<Steps>,
    changed: Notify,
    control_plane: ControlPlane,
    job: JobId,
    epoch: Epoch,
    signs: LeaseSigns,
}

#[derive(Debug, Default)]
struct Steps {
    all: BTreeMap<usize, StepReport>,
    unsent: BTreeMap<usize, StepReport>,
}

impl Reporter {
    /// Begins with the steps that ended before.
    #[must_use]
    pub fn start(
        control_plane: ControlPlane,
        job: JobId,
        epoch: Epoch,
        before: &[StepReport],
        signs: LeaseSigns,
    ) -> Self {
        let steps = Steps { all: before.iter().map(|step| (step.index, step.clone())).collect(), ..Steps::default() };
        let (steps, changed) = (Mutex::new(steps), Notify::new());
        let shared = Arc::new(Shared { steps, changed, control_plane, job, epoch, signs });
        let task = tokio::spawn(gather(shared.clone()));
        Self { shared, task }
    }

    /// A step began or ended.
    pub fn set(&self, step: StepReport) {
        let mut steps = lock(&self.shared.steps);
        steps.unsent.insert(step.index, step.clone());
        steps.all.insert(step.index, step);
        drop(steps);
        self.shared.changed.notify_one();
    }

    /// Sends a step that was set, and what else is unsent, at once.
    #[must_use]
    pub fn tell_now(&self, index: usize) -> Telling {
        let shared = self.shared.clone();
        Telling(tokio::spawn(async move {
            loop {
                match shared.deliver(Some(index)).await {
                    Err(error) if error.is_unreachable() => {}
                    told => return told,
                }
            }
        }))
    }

    /// Every step so far.
    #[must_use]
    pub fn all(&self) -> Vec<StepReport> {
        lock(&self.shared.steps).all.values().cloned().collect()
    }

    /// One step.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<StepReport> {
        lock(&self.shared.steps).all.get(&index).cloned()
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn gather(shared: Arc<Shared>) {
    loop {
        shared.changed.notified().await;
        sleep(GATHER).await;
        match shared.deliver(None).await {
            Ok(()) => {}
            Err(error) if error.is_stale_epoch() => return,
            Err(error) => {
                tracing::warn!(job = %shared.job, %error, "steps could not be reported yet");
                if error.is_unreachable() {
                    shared.changed.notify_one();
                }
            }
        }
    }
}

impl Shared {
    /// Sends what is unsent, and in any case `also`. What could not be sent is unsent again.
    async fn deliver(&self, also: Option<usize>) -> Result<(), ControlPlaneError> {
        let steps = {
            let mut steps = lock(&self.steps);
            let mut unsent = std::mem::take(&mut steps.unsent);
            if let Some(step) = also.and_then(|index| steps.all.get(&index)) {
                unsent.insert(step.index, step.clone());
            }
            unsent
        };
        if steps.is_empty() {
            return Ok(());
        }
        let mut unsent =
            Unsent { shared: self, report: JobReport { epoch: self.epoch, steps: steps.into_values().collect() } };
        match retry(PATIENCE, || self.control_plane.report(self.job, &unsent.report)).await {
            Ok(reported) => {
                unsent.report.steps.clear();
                if reported.cancel {
                    self.signs.cancel.cancel();
                }
                Ok(())
            }
            Err(error) => {
                if error.is_stale_epoch() {
                    self.signs.lost.cancel();
                }
                Err(error)
            }
        }
    }
}

/// A report that is on its way; when that is given up, its steps are unsent again.
struct Unsent<'a> {
    shared: &'a Shared,
    report: JobReport,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        let mut steps = lock(&self.shared.steps);
        for step in self.report.steps.drain(..) {
            steps.unsent.entry(step.index).or_insert(step);
        }
    }
}

fn lock(steps: &Mutex<Steps>) -> std::sync::MutexGuard<'_, Steps> {
    steps.lock().unwrap_or_else(PoisonError::into_inner)
}
