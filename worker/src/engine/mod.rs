//! What runs the steps of a job.
//!
//! Comes in: tasks, one at a time. Goes out: their output, into a descriptor; how they ended; nothing that outlives its
//! job. Never here: what a step is, the log, the server.

pub mod docker;
pub mod scripted;
pub mod shell;
pub mod user;

use std::{fmt, os::fd::BorrowedFd, sync::Arc, time::Duration};

use async_trait::async_trait;
use segue_schemas::id::JobId;

pub use crate::supervisor::{
    client::SupervisorError,
    protocol::{Exit, Task, UserIds, Work},
};

/// Runs jobs.
#[async_trait]
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// A place for the tasks of one job. Dropped, it leaves nothing behind, though not at once; [`EngineJob::kill`] waits.
    ///
    /// # Errors
    /// Where the engine itself can't work.
    async fn open(&self, job: JobId) -> Result<Box<dyn EngineJob>, SupervisorError>;
}

/// The tasks of one job.
///
/// **Order.** `start`, then `exited` until it answers, then the next `start`. `kill` and the deadline at any time.
/// **Idempotence.** None: a `start` runs the task, again if asked again. `kill` again changes nothing.
/// **A cancelled future.** Of `start`: the task may run; `kill` ends it. Of `exited`: nothing, it can be asked again. Of
/// `kill`: the killing goes on.
/// **What lives on.** Processes that a task leaves in the background live until the next `kill` or until this is dropped.
#[async_trait]
pub trait EngineJob: Send + Sync {
    /// Starts a task; its output goes to `output`, and `archive` is what it packs into or unpacks.
    ///
    /// # Errors
    /// [`SupervisorError::NotStarted`] where the task is at fault, else the engine.
    async fn start(
        &mut self,
        task: &Task,
        output: BorrowedFd<'_>,
        archive: Option<BorrowedFd<'_>>,
    ) -> Result<(), SupervisorError>;

    /// Starts a script of the job's: as a task, where the job has no container of its own.
    ///
    /// # Errors
    /// As those of `start`.
    async fn script(&mut self, task: &Task, output: BorrowedFd<'_>) -> Result<(), SupervisorError> {
        self.start(task, output, None).await
    }

    /// Waits for the end of the task that was started last.
    ///
    /// # Errors
    /// Where the engine lost it, or the deadline passed.
    async fn exited(&mut self) -> Result<Exit, SupervisorError>;

    /// Ends everything that the job runs: asks, waits for `grace`, kills. When it answers, nothing is left. The end of the
    /// running task, if there was one.
    ///
    /// # Errors
    /// Where the engine is gone, and everything with it.
    async fn kill(&mut self, grace: Duration) -> Result<Option<Exit>, SupervisorError>;

    /// Removes what was made for the job beside its processes, once those are gone.
    ///
    /// # Errors
    /// Where something is left, or nobody knows. It is removed as soon as that can be done.
    async fn close(&mut self) -> Result<(), SupervisorError> {
        Ok(())
    }

    /// Puts off, from anywhere, when everything is killed without being asked to. In [`crate::supervisor::boot_time`].
    fn deadline(&self) -> Arc<dyn Fn(Duration) + Send + Sync>;

    /// The job has ended. What is left of it ends as if this was dropped; where nothing is, the place may serve another job.
    fn done(self: Box<Self>) {}
}
