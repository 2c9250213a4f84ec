use segue_schemas::{deploy::RolloutCommand, host_api::EmergencyResult, id::RolloutId};

use crate::store::{Result, RollbackTarget, Store};

impl Store {
    /// A person's word to a rollout. One that nobody has started yet is ended by `Abort` at once; `Promote` and `Skip` are
    /// refused there.
    pub async fn command_rollout(&self, rollout: RolloutId, command: RolloutCommand, by: String) -> Result<()> {
        later((rollout, command, by))
    }

    /// Goes back to an earlier release of a service. A rollout that runs is aborted first, those that wait for the pair are
    /// ended; where the abort alone brings the target back, the rollout that is aborted is the answer.
    pub async fn create_rollback(
        &self,
        environment: &str,
        service: &str,
        target: RollbackTarget,
        by: String,
    ) -> Result<RolloutId> {
        later((environment, service, target, by))
    }

    /// Records an emergency rollback that was done at a host without the server: the epoch rises past the host's, what
    /// drove the pair is ended, the release that serves is current. Once recorded, the same epoch changes nothing.
    pub async fn record_emergency(
        &self,
        environment: &str,
        service: &str,
        result: EmergencyResult,
        reason: String,
    ) -> Result<RolloutId> {
        later((environment, service, result, reason))
    }
}

fn later<T, R>(_: T) -> Result<R> {
    Err(crate::store::StoreError::Unavailable("this operation is not there yet".into()))
}
