use segue_schemas::{
    artifact::Artifact,
    id::{Epoch, JobId},
    worker_api::{AttachArtifact, JobFinish, JobHandBack, JobReport, JobWait, Reported},
};

use crate::store::{Result, Store};

impl Store {
    /// Extends a job's lease; says whether it is to be cancelled. To hold the answer back, listen to
    /// [`crate::store::Bell::Job`] and ask [`Store::job_cancel_requested`] when it rings.
    pub async fn renew_job(&self, job: JobId, epoch: Epoch) -> Result<Reported> {
        later((job, epoch))
    }

    /// Whether a held job is to be cancelled. [`crate::store::StoreError::StaleEpoch`] when its lease has gone to somebody else.
    pub async fn job_cancel_requested(&self, job: JobId, epoch: Epoch) -> Result<bool> {
        later((job, epoch))
    }

    /// Stores steps that started or ended; counts as a renewal.
    pub async fn report_steps(&self, job: JobId, report: JobReport) -> Result<Reported> {
        later((job, report))
    }

    /// Ends a job and does what follows from it: jobs that became claimable are, those that never will be are skipped
    /// with their reason, the run's status follows. The same end under the same epoch once more changes nothing.
    pub async fn finish_job(&self, job: JobId, finish: JobFinish) -> Result<Reported> {
        later((job, finish))
    }

    /// A job gives its slot back until its rollout has ended.
    pub async fn wait_job(&self, job: JobId, wait: JobWait) -> Result<Reported> {
        later((job, wait))
    }

    /// A job is queued again, to go on at a step.
    pub async fn hand_back_job(&self, job: JobId, hand_back: JobHandBack) -> Result<Reported> {
        later((job, hand_back))
    }

    /// Names an uploaded content in the job's attempt. The same name with another content is a conflict.
    pub async fn attach_artifact(&self, job: JobId, attach: AttachArtifact) -> Result<Artifact> {
        later((job, attach))
    }

    /// An artifact of the job's attempt, by name.
    pub async fn job_artifact(&self, job: JobId, name: &str) -> Result<Artifact> {
        later((job, name))
    }
}

fn later<T, R>(_: T) -> Result<R> {
    Err(crate::store::StoreError::Unavailable("this operation is not there yet".into()))
}
