//! The host of a rollout, with patience: every call of its API may be repeated, so what fails on the way is tried again
//! until the host answers, and what the host refuses is not.

use std::{future::Future, time::Duration};

use segue_schemas::{
    gpu_health::GpuReport,
    host_api::{
        ApplyRoute, ArtifactSource, Backup, DrainInstance, DrainResult, HostErrorCode, HostState, Instance,
        ObservationBatch, Probe, ProbeResult, RemoveRoute, Removed, RenewDeadMan, Restore, RestoreBackup,
        RetireInstance, RouteState, StartInstance, StopBackup, StopInstance, TakeBackup,
    },
    host_join::{HostAccess, TLS},
    id::{BackupId, InstanceId, RolloutId},
    sync::{Arrived, BackupPiece, CopyPiece, DataCopy, DropCopy, ImportBackup, MakeCopy},
};
use tokio::time::{Instant, sleep};

use crate::host::{
    channel::Channel,
    client::{HostClient, HostClientError},
};

/// The pause after the first failed call; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How a call to the host came to nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HostTrouble {
    /// The host has seen a higher epoch: an emergency rollback, or another owner.
    #[error("{0}")]
    Stale(String),
    /// The host understood and can't; asking again brings the same.
    #[error("{0}")]
    Refused(String),
    /// Its router refuses changes as things are, and carries what it carried before; asking again brings the same until it is mended.
    #[error("{0}")]
    Router(String),
    /// What is to be started fits there only once another release has stopped.
    #[error("{0}")]
    Full(String),
    /// The host is broken, whatever is to be started there.
    #[error("{0}")]
    Faulty(String),
    /// It was not to be had within the patience. The call may have been carried out.
    #[error("{0}")]
    Away(String),
}

/// One `segue host`, spoken to with patience.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its name.
    pub name: String,
    client: HostClient,
    patience: Duration,
    /// Whether it is another machine's, which fetches artifacts from its server by itself.
    is_joined: bool,
}

impl Host {
    /// The host `name` at `address` (the path of a unix socket, or `tls://HOST:PORT`, which `access` opens). A call is repeated for
    /// `patience` before it counts as failed.
    ///
    /// # Errors
    /// In words, where what opens it is missing or can't be read.
    pub fn new(name: &str, address: &str, access: Option<&HostAccess>, patience: Duration) -> Result<Self, String> {
        let channel = Channel::to(name, address, access)?;
        let is_joined = address.starts_with(TLS);
        Ok(Self { name: name.to_owned(), client: HostClient::over(channel), patience, is_joined })
    }

    /// Goes by another certificate from now on.
    pub fn renew_access(&self, access: &HostAccess) {
        if let Err(error) = self.client.channel().renew(access) {
            tracing::error!(host = %self.name, error, "what opens the host can't be read; the one before is used on");
        }
    }

    /// Everything that it carries.
    pub async fn state(&self) -> Result<HostState, HostTrouble> {
        self.patiently(|| self.client.state()).await
    }

    /// The same once there is news, as its `restorations` are others than `after`, or `wait` has passed. Not repeated: whoever waits asks again.
    pub async fn state_after(&self, after: Option<u64>, wait: Duration) -> Result<HostState, HostTrouble> {
        match after {
            Some(after) => self.client.state_after(after, wait).await.map_err(trouble),
            None => self.client.state().await.map_err(trouble),
        }
    }

    /// Starts an instance; the same name again changes nothing.
    pub async fn start(&self, start: &StartInstance) -> Result<Instance, HostTrouble> {
        let joined = (self.is_joined && start.release.image.is_none())
            .then(|| StartInstance { artifact: ArtifactSource::Joined, ..start.clone() });
        let start = joined.as_ref().unwrap_or(start);
        self.patiently(|| self.client.start_instance(start)).await
    }

    /// An instance, after at most `wait` for a change of it.
    pub async fn instance(&self, instance: &InstanceId, wait: Duration) -> Result<Instance, HostTrouble> {
        self.patiently(|| self.client.instance(instance, wait)).await
    }

    /// One request to an instance.
    pub async fn probe(&self, instance: &InstanceId, probe: &Probe) -> Result<ProbeResult, HostTrouble> {
        self.patiently(|| self.client.probe(instance, probe)).await
    }

    /// Has an instance drained and stopped by the host's own timer.
    pub async fn retire(&self, instance: &InstanceId, retire: &RetireInstance) -> Result<Instance, HostTrouble> {
        self.patiently(|| self.client.retire(instance, retire)).await
    }

    /// Waits until an instance has nothing in flight.
    pub async fn drain(&self, instance: &InstanceId, limit: Duration) -> Result<DrainResult, HostTrouble> {
        let drain = DrainInstance { limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) };
        self.patiently(|| self.client.drain(instance, &drain)).await
    }

    /// Stops an instance.
    pub async fn stop(&self, instance: &InstanceId, stop: &StopInstance) -> Result<Instance, HostTrouble> {
        self.patiently(|| self.client.stop(instance, stop)).await
    }

    /// Sets where the traffic goes.
    pub async fn apply_route(&self, apply: &ApplyRoute) -> Result<RouteState, HostTrouble> {
        self.patiently(|| self.client.apply_route(apply)).await
    }

    /// Takes a service away.
    pub async fn remove(&self, remove: &RemoveRoute) -> Result<Removed, HostTrouble> {
        self.patiently(|| self.client.remove(remove)).await
    }

    /// Has a backup taken; the same name again changes nothing.
    pub async fn take_backup(&self, take: &TakeBackup) -> Result<Backup, HostTrouble> {
        self.patiently(|| self.client.take_backup(take)).await
    }

    /// A backup, after at most `wait` for its end.
    pub async fn backup(&self, id: &BackupId, wait: Duration) -> Result<Backup, HostTrouble> {
        self.patiently(|| self.client.backup(id, wait)).await
    }

    /// Ends the taking of a backup.
    pub async fn stop_backup(&self, id: &BackupId, stop: &StopBackup) -> Result<Backup, HostTrouble> {
        self.patiently(|| self.client.stop_backup(id, stop)).await
    }

    /// Has a backup brought back; the same again changes nothing.
    pub async fn restore_backup(&self, restore: &RestoreBackup) -> Result<Restore, HostTrouble> {
        self.patiently(|| self.client.restore_backup(restore)).await
    }

    /// What has become of that, after at most `wait` for its end.
    pub async fn restore(&self, id: RolloutId, wait: Duration) -> Result<Restore, HostTrouble> {
        self.patiently(|| self.client.restore(id, wait)).await
    }

    /// Has a copy of data made that is harmless; the same again changes nothing.
    pub async fn make_copy(&self, copy: &MakeCopy) -> Result<DataCopy, HostTrouble> {
        self.patiently(|| self.client.make_copy(copy)).await
    }

    /// A copy, after at most `wait` for its end.
    pub async fn copy(&self, id: RolloutId, wait: Duration) -> Result<DataCopy, HostTrouble> {
        self.patiently(|| self.client.copy(id, wait)).await
    }

    /// The piece of a copy that begins there.
    pub async fn copy_piece(&self, id: RolloutId, from: u64) -> Result<CopyPiece, HostTrouble> {
        self.patiently(|| self.client.copy_piece(id, from)).await
    }

    /// Takes a copy away. Not repeated: it goes by itself after a while.
    pub async fn drop_copy(&self, id: RolloutId, drop: &DropCopy) -> Result<DataCopy, HostTrouble> {
        self.client.drop_copy(id, drop).await.map_err(trouble)
    }

    /// Has a backup come from elsewhere; the same again changes nothing.
    pub async fn import_backup(&self, import: &ImportBackup) -> Result<Backup, HostTrouble> {
        self.patiently(|| self.client.import_backup(import)).await
    }

    /// Brings a piece of it; the same again changes nothing.
    pub async fn bring_piece(&self, id: &BackupId, piece: &BackupPiece) -> Result<Arrived, HostTrouble> {
        self.patiently(|| self.client.bring_piece(id, piece)).await
    }

    /// How its GPUs are, once that is another report than `after`, or `wait` has passed. Not repeated: whoever waits asks again.
    pub async fn gpus_after(&self, after: u64, wait: Duration) -> Result<GpuReport, HostTrouble> {
        self.client.gpus_after(after, wait).await.map_err(trouble)
    }

    /// How its GPUs are now. Not repeated: it is wanted soon or not at all.
    pub async fn gpus_now(&self, limit: Duration) -> Result<GpuReport, HostTrouble> {
        self.client.gpus_now(limit).await.map_err(trouble)
    }

    /// Puts the dead-man's deadline off. Not repeated: the next one comes in time or the deadline does.
    pub async fn renew(&self, renew: &RenewDeadMan) -> Result<RouteState, HostTrouble> {
        self.client.renew(renew).await.map_err(trouble)
    }

    /// Observations after a position; waits up to `wait` for the first.
    pub async fn observations(
        &self,
        environment: &str,
        service: &str,
        after: u64,
        wait: Duration,
        limit: u32,
    ) -> Result<ObservationBatch, HostTrouble> {
        self.patiently(|| self.client.observations(environment, service, after, wait, limit)).await
    }

    async fn patiently<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, HostTrouble>
    where
        F: Future<Output = Result<T, HostClientError>>,
    {
        let deadline = Instant::now() + self.patience;
        let mut pause = FIRST_PAUSE;
        loop {
            match call().await.map_err(trouble) {
                Err(HostTrouble::Away(why)) if Instant::now() + pause < deadline => {
                    tracing::debug!(host = %self.name, why, "the host does not answer; asking again");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                other => return other,
            }
        }
    }
}

fn trouble(error: HostClientError) -> HostTrouble {
    let said = error.to_string();
    match error {
        HostClientError::Host(error) => match error.code {
            HostErrorCode::StaleEpoch => HostTrouble::Stale(said),
            HostErrorCode::Unavailable => HostTrouble::Away(said),
            HostErrorCode::Full => HostTrouble::Full(said),
            HostErrorCode::Faulty => HostTrouble::Faulty(said),
            HostErrorCode::Router => HostTrouble::Router(said),
            HostErrorCode::BadRequest | HostErrorCode::NotFound | HostErrorCode::Artifact => HostTrouble::Refused(said),
        },
        HostClientError::Unreachable(_) | HostClientError::Timeout(_) | HostClientError::Protocol(_) => {
            HostTrouble::Away(said)
        }
    }
}
