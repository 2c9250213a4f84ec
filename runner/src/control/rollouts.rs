use segue_schemas::{
    id::{Epoch, JobId, RolloutId},
    worker_api::{
        ClaimRequest, CreateRollout, CreatedRollout, Reported, RolloutClaim, RolloutHandBack, RolloutRenewed,
        RolloutReport,
    },
};

use crate::store::{Result, Store};

impl Store {
    /// Stores the rollout that a step asks for, and the release if it is new. The same step of the same job gets the same
    /// rollout. [`crate::store::StoreError::Refused`] where the environment requires another one first.
    pub async fn create_rollout(&self, job: JobId, create: CreateRollout) -> Result<CreatedRollout> {
        later((job, create))
    }

    /// Leases a rollout: one that lost its driver, else the first of a free pair, rollbacks before others. `None`: listen
    /// to [`crate::store::Bell::Rollouts`] and ask again.
    pub async fn claim_rollout(&self, request: &ClaimRequest) -> Result<Option<RolloutClaim>> {
        later(request)
    }

    /// Extends a rollout's lease and gives a person's word, again and again until the journal has it. To hold the answer
    /// back, listen to [`crate::store::Bell::Rollout`] and ask [`Store::rollout_command`].
    pub async fn renew_rollout(&self, rollout: RolloutId, epoch: Epoch) -> Result<RolloutRenewed> {
        later((rollout, epoch))
    }

    /// A person's word to a held rollout. [`crate::store::StoreError::StaleEpoch`] when its lease has gone.
    pub async fn rollout_command(&self, rollout: RolloutId, epoch: Epoch) -> Result<RolloutRenewed> {
        later((rollout, epoch))
    }

    /// Appends to a rollout's journal and stores where it stands; durable when this returns. At its end the waiting job goes
    /// on, the release becomes current and a rollback point, and whoever is to be told is told.
    pub async fn report_rollout(&self, rollout: RolloutId, report: RolloutReport) -> Result<Reported> {
        later((rollout, report))
    }

    /// A rollout is claimable again at once (or after `not_before_ms`), as it stands.
    pub async fn hand_back_rollout(&self, rollout: RolloutId, hand_back: RolloutHandBack) -> Result<Reported> {
        later((rollout, hand_back))
    }
}

fn later<T, R>(_: T) -> Result<R> {
    Err(crate::store::StoreError::Unavailable("this operation is not there yet".into()))
}
