//! Runs tasks as processes of this machine, through the step supervisor.

use std::{ffi::OsString, os::fd::BorrowedFd, sync::Arc, time::Duration};

use async_trait::async_trait;
use segue_schemas::id::JobId;

use super::{Engine, EngineJob, Exit, SupervisorError, Task};
use crate::supervisor::client::{Keeper, Nursery};

/// The engine `shell`.
#[derive(Debug)]
pub struct Shell {
    nursery: Nursery,
}

impl Shell {
    /// An engine whose supervisor is started by this command, ahead of the first job.
    ///
    /// # Errors
    /// [`SupervisorError::NoNursery`].
    pub async fn start(supervisor_command: Vec<OsString>) -> Result<Self, SupervisorError> {
        let nursery = Nursery::new(supervisor_command);
        nursery.start().await?;
        Ok(Self { nursery })
    }
}

#[async_trait]
impl Engine for Shell {
    async fn open(&self, _: JobId) -> Result<Box<dyn EngineJob>, SupervisorError> {
        Ok(Box::new(self.nursery.keeper().await?))
    }
}

#[async_trait]
impl EngineJob for Keeper {
    async fn start(
        &mut self,
        task: &Task,
        output: BorrowedFd<'_>,
        archive: Option<BorrowedFd<'_>>,
    ) -> Result<(), SupervisorError> {
        Self::start(self, task, output, archive).await.map(drop)
    }

    async fn exited(&mut self) -> Result<Exit, SupervisorError> {
        Self::exited(self).await
    }

    async fn kill(&mut self, grace: Duration) -> Result<Option<Exit>, SupervisorError> {
        Self::kill(self, grace).await
    }

    fn deadline(&self) -> Arc<dyn Fn(Duration) + Send + Sync> {
        let deadline = Self::deadline(self);
        // A keeper that is gone has killed everything, and says so to whoever waits for it.
        Arc::new(move |at| drop(deadline.set(at)))
    }

    fn done(self: Box<Self>) {
        Self::done(*self);
    }
}
