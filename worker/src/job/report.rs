//! Reports of steps, gathered for a moment so that a short job sends none but its end.

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
use crate::control_plane::{ControlPlane, retry};

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

#[derive(Debug, Default)]
struct Shared {
    steps: Mutex<Steps>,
    changed: Notify,
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
        let shared = Arc::new(Shared::default());
        lock(&shared.steps).all.extend(before.iter().map(|step| (step.index, step.clone())));
        let task = tokio::spawn(send(shared.clone(), control_plane, job, epoch, signs));
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

async fn send(shared: Arc<Shared>, control_plane: ControlPlane, job: JobId, epoch: Epoch, signs: LeaseSigns) {
    loop {
        shared.changed.notified().await;
        sleep(GATHER).await;
        let unsent = std::mem::take(&mut lock(&shared.steps).unsent);
        if unsent.is_empty() {
            continue;
        }
        let report = JobReport { epoch, steps: unsent.into_values().collect() };
        match retry(PATIENCE, || control_plane.report(job, &report)).await {
            Ok(reported) if reported.cancel => signs.cancel.cancel(),
            Ok(_) => {}
            Err(error) if error.is_stale_epoch() => {
                signs.lost.cancel();
                return;
            }
            Err(error) => {
                tracing::warn!(%job, %error, "steps could not be reported yet");
                let mut steps = lock(&shared.steps);
                for step in report.steps {
                    steps.unsent.entry(step.index).or_insert(step);
                }
                if error.is_unreachable() {
                    shared.changed.notify_one();
                }
            }
        }
    }
}

fn lock(steps: &Mutex<Steps>) -> std::sync::MutexGuard<'_, Steps> {
    steps.lock().unwrap_or_else(PoisonError::into_inner)
}
