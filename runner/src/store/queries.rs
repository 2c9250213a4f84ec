use segue_schemas::{
    artifact::Artifact,
    deploy::{JournalEntry, Release},
    id::{JobId, ReleaseId, RolloutId, RunId},
};

use super::{
    AttemptRecord, Figures, JobRecord, LogRecord, QueuedJob, Result, RollbackPoint, RolloutFilter, RolloutRecord,
    RunDetail, RunFilter, RunRecord, Store, WorkerRecord,
};

impl Store {
    /// Runs, newest first.
    pub async fn runs(&self, filter: RunFilter) -> Result<Vec<RunRecord>> {
        later(filter)
    }

    /// One run.
    pub async fn run(&self, id: RunId) -> Result<RunRecord> {
        later(id)
    }

    /// One attempt of a run (`None`: the newest) with its jobs, steps and rollouts.
    pub async fn run_detail(&self, id: RunId, attempt: Option<u32>) -> Result<RunDetail> {
        later((id, attempt))
    }

    /// Every attempt of a run, oldest first.
    pub async fn attempts(&self, id: RunId) -> Result<Vec<AttemptRecord>> {
        later(id)
    }

    /// One job.
    pub async fn job(&self, id: JobId) -> Result<JobRecord> {
        later(id)
    }

    /// Where a job's log lies; `None` before its first claim.
    pub async fn job_log(&self, id: JobId) -> Result<Option<LogRecord>> {
        later(id)
    }

    /// The artifacts of an attempt, by name.
    pub async fn run_artifacts(&self, id: RunId, attempt: u32) -> Result<Vec<Artifact>> {
        later((id, attempt))
    }

    /// What waits, what for, oldest first: why nothing happens.
    pub async fn queue(&self, limit: u32) -> Result<Vec<QueuedJob>> {
        later(limit)
    }

    /// Rollouts, newest first.
    pub async fn rollouts(&self, filter: RolloutFilter) -> Result<Vec<RolloutRecord>> {
        later(filter)
    }

    /// One rollout.
    pub async fn rollout(&self, id: RolloutId) -> Result<RolloutRecord> {
        later(id)
    }

    /// A rollout's journal after a sequence number, oldest first.
    pub async fn journal(&self, id: RolloutId, after: i64) -> Result<Vec<JournalEntry>> {
        later((id, after))
    }

    /// One release.
    pub async fn release(&self, id: ReleaseId) -> Result<Release> {
        later(id)
    }

    /// Rollback points, newest first, of one environment or service or of all.
    pub async fn rollback_points(
        &self,
        environment: Option<&str>,
        service: Option<&str>,
    ) -> Result<Vec<RollbackPoint>> {
        later((environment, service))
    }

    /// Workers by name.
    pub async fn workers(&self) -> Result<Vec<WorkerRecord>> {
        later(())
    }

    /// Numbers for `/metrics`.
    pub async fn figures(&self) -> Result<Figures> {
        later(())
    }
}

fn later<T, R>(_: T) -> Result<R> {
    Err(crate::store::StoreError::Unavailable("this operation is not there yet".into()))
}
