//! What a driver asks of the server: five calls, and three ways in which they can fail.

use std::time::Duration;

use async_trait::async_trait;
use segue_schemas::{
    host_api::HostState,
    id::RolloutId,
    worker_api::{RolloutClaim, RolloutHandBack, RolloutRenewed, RolloutReport},
};

use crate::control_plane::{ControlPlane, ControlPlaneError};

/// Why a call to the server changed nothing that the driver may rely on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// Another owner has the rollout, or it has ended: this one stops, and touches nothing more.
    #[error("the server says that this worker does not own the rollout any more: {0}")]
    Stale(String),
    /// No answer, or one that says "later". The call may have been carried out; it may be repeated.
    #[error("the server can't be reached: {0}")]
    Away(String),
    /// The server understood and said no; asking again brings the same.
    #[error("the server refused: {0}")]
    Refused(String),
}

/// The server's side of a rollout.
///
/// Every call may be repeated: a report whose entries the server has already (by their sequence) changes nothing, and a
/// hand-back of a rollout that is not owned is [`ServerError::Stale`]. Dropping a call's future leaves it open whether
/// it was carried out.
#[async_trait]
pub trait RolloutServer: Send + Sync + 'static {
    /// Waits up to `wait_ms` for a rollout that nobody drives, and leases it.
    async fn claim(&self, wait_ms: u64) -> Result<Option<RolloutClaim>, ServerError>;

    /// Extends the lease at once; answers when there is a person's word, else after `wait_ms`.
    async fn renew(&self, claim: &RolloutClaim, wait_ms: u64) -> Result<RolloutRenewed, ServerError>;

    /// Adds entries to the journal and says where the rollout stands; durable when it answers.
    async fn report(&self, rollout: RolloutId, report: &RolloutReport) -> Result<(), ServerError>;

    /// Ends the lease, so that another can go on at once.
    async fn hand_back(&self, rollout: RolloutId, hand_back: &RolloutHandBack) -> Result<(), ServerError>;

    /// Tells what a host carries: what was done there without the server is put on record, and later claims have epochs
    /// above those that the host has seen.
    async fn tell_host(&self, host: &str, state: &HostState) -> Result<(), ServerError>;
}

/// A server over HTTP, and what this worker offers to it.
#[derive(Debug, Clone)]
pub struct HttpServer {
    /// The client.
    pub control_plane: ControlPlane,
    /// What the worker offers.
    pub labels: Vec<String>,
}

#[async_trait]
impl RolloutServer for HttpServer {
    async fn claim(&self, wait_ms: u64) -> Result<Option<RolloutClaim>, ServerError> {
        let claim = self.control_plane.claim_rollout(&self.labels, Duration::from_millis(wait_ms)).await?;
        Ok(claim.map(|mut claim| {
            let spec = &claim.rollout.spec;
            let releases = [Some(&spec.release), spec.previous.as_ref()];
            let digests: Vec<_> = releases.into_iter().flatten().map(|release| release.digest.clone()).collect();
            for digest in digests {
                // what is no file of the server's machine, hosts fetch as this worker would
                let source = || self.control_plane.artifact_source(&digest);
                claim.artifacts.entry(digest.clone()).or_insert_with(source);
            }
            claim
        }))
    }

    async fn renew(&self, claim: &RolloutClaim, wait_ms: u64) -> Result<RolloutRenewed, ServerError> {
        let wait = Duration::from_millis(wait_ms);
        Ok(self.control_plane.renew_rollout(claim.rollout.id, claim.epoch, wait).await?)
    }

    async fn report(&self, rollout: RolloutId, report: &RolloutReport) -> Result<(), ServerError> {
        Ok(self.control_plane.journal(rollout, report).await.map(drop)?)
    }

    async fn hand_back(&self, rollout: RolloutId, hand_back: &RolloutHandBack) -> Result<(), ServerError> {
        Ok(self.control_plane.hand_back_rollout(rollout, hand_back).await.map(drop)?)
    }

    async fn tell_host(&self, host: &str, state: &HostState) -> Result<(), ServerError> {
        Ok(self.control_plane.tell_host(host, state).await.map(drop)?)
    }
}

impl From<ControlPlaneError> for ServerError {
    fn from(error: ControlPlaneError) -> Self {
        let said = error.to_string();
        match error {
            ControlPlaneError::StaleEpoch { .. } => Self::Stale(said),
            ControlPlaneError::Unreachable { .. } => Self::Away(said),
            ControlPlaneError::Unauthorized { .. }
            | ControlPlaneError::Refused { .. }
            | ControlPlaneError::Unreadable { .. }
            | ControlPlaneError::Local { .. } => Self::Refused(said),
        }
    }
}
