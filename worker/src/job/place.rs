//! What a built-in step sees of the job that it belongs to.

use async_trait::async_trait;
use segue_schemas::{
    artifact::Artifact,
    id::Digest,
    worker_api::{JobClaim, Serving},
};

use super::error::StepError;

/// What a built-in step that asks for a rollout sees of its job. Paths are relative to the workspace.
///
/// Calls are made one at a time. A dropped future leaves at most an artifact that nothing names.
#[async_trait]
pub trait StepPlace: Send {
    /// The job.
    fn claim(&self) -> &JobClaim;

    /// The step's index in the job's plan.
    fn step(&self) -> usize;

    /// A file of the workspace; of the repository at the job's commit where the workspace has no checkout; `None` where
    /// there is no such file. Never a file outside the workspace, and never more than `max_bytes` of one.
    ///
    /// # Errors
    /// [`StepError::Configuration`] where it is no plain file or too large.
    async fn read_file(&mut self, path: &str, max_bytes: u64) -> Result<Option<Vec<u8>>, StepError>;

    /// Packs a directory (or one file) as an artifact and uploads it, unless the server has it already.
    ///
    /// # Errors
    /// [`StepError::Configuration`] where it can't be packed.
    async fn pack_and_upload(&mut self, path: &str) -> Result<Digest, StepError>;

    /// The artifact that a job of the same attempt named so.
    ///
    /// # Errors
    /// [`StepError::ControlPlane`].
    async fn artifact(&mut self, name: &str) -> Result<Option<Artifact>, StepError>;

    /// The image that a name means now, by its digest; for one that only this worker's engine has, the digest alone.
    ///
    /// # Errors
    /// [`StepError::Configuration`] where nobody has it, or this worker has no engine to ask.
    async fn resolve_image(&mut self, image: &str) -> Result<String, StepError>;

    /// What serves as this service in an environment; `None` where nothing does.
    ///
    /// # Errors
    /// [`StepError::ControlPlane`].
    async fn serving(&mut self, environment: &str, service: &str) -> Result<Option<Serving>, StepError>;
}
