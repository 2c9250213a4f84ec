//! What a driver asks of the server: four calls, and three ways in which they can fail.

use async_trait::async_trait;
use segue_schemas::{
    id::RolloutId,
    worker_api::{RolloutClaim, RolloutHandBack, RolloutRenewed, RolloutReport},
};

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
}
