//! The typed client of `segue host`'s API.

use std::{path::PathBuf, time::Duration};

use http::Method;
use segue_schemas::{
    gpu_health::GpuReport,
    host_api::{
        ApplyRoute, Backup, DrainInstance, DrainResult, EmergencyResult, EmergencyRollback, HostError, HostState,
        Instance, ObservationBatch, Probe, ProbeResult, RemoveRoute, Removed, RenewDeadMan, Restore, RestoreBackup,
        RetireInstance, RouteState, Shutdown, StartInstance, StopBackup, StopInstance, TakeBackup,
    },
    id::{BackupId, InstanceId, RolloutId},
    sync::{Arrived, BackupPiece, CopyPiece, DataCopy, DropCopy, ImportBackup, MakeCopy},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{channel::Channel, unix_http::CallError};

/// A call that does nothing but read or write a few records.
const SHORT: Duration = Duration::from_secs(10);

/// A change of routes: longer than another program than our own takes to refuse one, with its configuration tested twice.
const ROUTE: Duration = Duration::from_secs(60);

/// A start: the artifact may have to be fetched and unpacked first.
const START: Duration = Duration::from_secs(15 * 60);

/// An emergency rollback: the release may have to be started and become healthy first.
const EMERGENCY: Duration = Duration::from_secs(5 * 60);

/// A piece of data, over a slow line.
const PIECE: Duration = Duration::from_secs(60);

/// What the network and the host may add to a wait that the caller chose.
const MARGIN: Duration = Duration::from_secs(10);

/// Why a call to the host brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum HostClientError {
    /// The host answered, and refused or failed.
    #[error("{0}")]
    Host(#[from] HostError),
    /// No host listens there; nothing was sent.
    #[error("the host can't be reached: {0}; is `segue host` running?")]
    Unreachable(String),
    /// No answer in time. The host may have carried the call out: every call may be repeated safely.
    #[error("the host did not answer in time: {0}")]
    Timeout(String),
    /// The answer broke off or is not what the API promises. The host may have carried the call out.
    #[error("the host's answer can't be used: {0}")]
    Protocol(String),
}

/// Speaks to one `segue host`. Cheap to clone; every call has a time limit.
#[derive(Debug, Clone)]
pub struct HostClient {
    channel: Channel,
}

impl HostClient {
    /// A client of the host that listens on `socket`. Connects with each call, not before.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self::over(Channel::Unix(socket.into()))
    }

    /// A client of the host that is reached in this way.
    #[must_use]
    pub const fn over(channel: Channel) -> Self {
        Self { channel }
    }

    /// How the host is reached.
    #[must_use]
    pub const fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Everything that the host carries.
    pub async fn state(&self) -> Result<HostState, HostClientError> {
        self.get("/v1/state".into(), SHORT).await
    }

    /// The same, after a look whether the router's configuration holds. A host of an earlier version does not look.
    pub async fn state_looked(&self) -> Result<HostState, HostClientError> {
        self.get("/v1/state?look=1".into(), ROUTE).await
    }

    /// The state, once there is news, as its `restorations` are others than `known`, or `wait` has passed.
    pub async fn state_after(&self, known: u64, wait: Duration) -> Result<HostState, HostClientError> {
        self.get(format!("/v1/state?after={known}&wait_ms={}", wait.as_millis()), wait + MARGIN).await
    }

    /// How the GPUs are, once that is another report than `after`, or `wait` has passed.
    pub async fn gpus_after(&self, after: u64, wait: Duration) -> Result<GpuReport, HostClientError> {
        self.get(format!("/v1/gpus?after={after}&wait_ms={}", wait.as_millis()), wait + MARGIN).await
    }

    /// How the GPUs are now: the host looks at them.
    pub async fn gpus_now(&self, limit: Duration) -> Result<GpuReport, HostClientError> {
        self.get("/v1/gpus?fresh=1".into(), limit).await
    }

    /// Starts an instance. Answers once its process was started; 15 minutes at most.
    pub async fn start_instance(&self, start: &StartInstance) -> Result<Instance, HostClientError> {
        self.send(Method::POST, "/v1/instances".into(), start, START).await
    }

    /// An instance as it is, after at most `wait` for a change of its state or process.
    pub async fn instance(&self, instance: &InstanceId, wait: Duration) -> Result<Instance, HostClientError> {
        self.get(format!("/v1/instances/{instance}?wait_ms={}", wait.as_millis()), wait + MARGIN).await
    }

    /// One GET to an instance. An instance that does not answer is a [`ProbeResult`], not an error.
    pub async fn probe(&self, instance: &InstanceId, probe: &Probe) -> Result<ProbeResult, HostClientError> {
        let limit = Duration::from_millis(probe.timeout_ms) + MARGIN;
        self.send(Method::POST, format!("/v1/instances/{instance}/probe"), probe, limit).await
    }

    /// Has the host drain and stop an instance by itself, later.
    pub async fn retire(&self, instance: &InstanceId, retire: &RetireInstance) -> Result<Instance, HostClientError> {
        self.send(Method::POST, format!("/v1/instances/{instance}/retire"), retire, SHORT).await
    }

    /// Waits until an instance has nothing in flight, or its limit has passed.
    pub async fn drain(&self, instance: &InstanceId, drain: &DrainInstance) -> Result<DrainResult, HostClientError> {
        let limit = Duration::from_millis(drain.limit_ms) + MARGIN;
        self.send(Method::POST, format!("/v1/instances/{instance}/drain"), drain, limit).await
    }

    /// Stops an instance: TERM to its process group, then KILL after the instance's own limit. Answers when it has ended.
    pub async fn stop(&self, instance: &InstanceId, stop: &StopInstance) -> Result<Instance, HostClientError> {
        self.send(Method::POST, format!("/v1/instances/{instance}/stop"), stop, EMERGENCY).await
    }

    /// Sets where a service's traffic goes. Every request that is accepted after the answer goes by the new weights.
    pub async fn apply_route(&self, apply: &ApplyRoute) -> Result<RouteState, HostClientError> {
        let path = format!("/v1/routes/{}/{}", apply.fence.environment, apply.fence.service);
        self.send(Method::PUT, path, apply, ROUTE).await
    }

    /// Takes a service away. Every request that is accepted after the answer finds no route.
    pub async fn remove(&self, remove: &RemoveRoute) -> Result<Removed, HostClientError> {
        let path = format!("/v1/routes/{}/{}", remove.fence.environment, remove.fence.service);
        self.send(Method::DELETE, path, remove, ROUTE).await
    }

    /// Puts the dead-man's deadline off.
    pub async fn renew(&self, renew: &RenewDeadMan) -> Result<RouteState, HostClientError> {
        let path = format!("/v1/routes/{}/{}/renew", renew.fence.environment, renew.fence.service);
        self.send(Method::POST, path, renew, SHORT).await
    }

    /// Observations after position `after`, at most `limit`; waits up to `wait` for the first.
    pub async fn observations(
        &self,
        environment: &str,
        service: &str,
        after: u64,
        wait: Duration,
        limit: u32,
    ) -> Result<ObservationBatch, HostClientError> {
        let query = format!("after={after}&wait_ms={}&limit={limit}", wait.as_millis());
        self.get(format!("/v1/routes/{environment}/{service}/observations?{query}"), wait + MARGIN).await
    }

    /// Straight back to the last good release, or to a kept one.
    pub async fn emergency_rollback(
        &self,
        environment: &str,
        service: &str,
        rollback: &EmergencyRollback,
    ) -> Result<EmergencyResult, HostClientError> {
        let path = format!("/v1/routes/{environment}/{service}/emergency-rollback");
        self.send(Method::POST, path, rollback, EMERGENCY).await
    }

    /// Has a backup taken. Answers once that is recorded.
    pub async fn take_backup(&self, take: &TakeBackup) -> Result<Backup, HostClientError> {
        self.send(Method::POST, "/v1/backups".into(), take, SHORT).await
    }

    /// A backup, once it is not being taken any more, or `wait` has passed.
    pub async fn backup(&self, id: &BackupId, wait: Duration) -> Result<Backup, HostClientError> {
        self.get(format!("/v1/backups/{id}?wait_ms={}", wait.as_millis()), wait + MARGIN).await
    }

    /// Ends the taking of a backup. Answers when it has ended.
    pub async fn stop_backup(&self, id: &BackupId, stop: &StopBackup) -> Result<Backup, HostClientError> {
        self.send(Method::POST, format!("/v1/backups/{id}/stop"), stop, EMERGENCY).await
    }

    /// Has a backup brought back. Answers once that is recorded.
    pub async fn restore_backup(&self, restore: &RestoreBackup) -> Result<Restore, HostClientError> {
        self.send(Method::POST, "/v1/restores".into(), restore, SHORT).await
    }

    /// What has become of bringing a backup back, once it has ended, or `wait` has passed.
    pub async fn restore(&self, id: RolloutId, wait: Duration) -> Result<Restore, HostClientError> {
        self.get(format!("/v1/restores/{id}?wait_ms={}", wait.as_millis()), wait + MARGIN).await
    }

    /// Has a copy of data made that is harmless. Answers once that is recorded.
    pub async fn make_copy(&self, copy: &MakeCopy) -> Result<DataCopy, HostClientError> {
        self.send(Method::POST, "/v1/copies".into(), copy, SHORT).await
    }

    /// A copy, once it is not being made any more, or `wait` has passed.
    pub async fn copy(&self, id: RolloutId, wait: Duration) -> Result<DataCopy, HostClientError> {
        self.get(format!("/v1/copies/{id}?wait_ms={}", wait.as_millis()), wait + MARGIN).await
    }

    /// The piece of a copy that begins there.
    pub async fn copy_piece(&self, id: RolloutId, from: u64) -> Result<CopyPiece, HostClientError> {
        self.get(format!("/v1/copies/{id}/bytes?from={from}"), PIECE).await
    }

    /// Takes a copy away; ends its making.
    pub async fn drop_copy(&self, id: RolloutId, drop: &DropCopy) -> Result<DataCopy, HostClientError> {
        self.send(Method::DELETE, format!("/v1/copies/{id}"), drop, EMERGENCY).await
    }

    /// Has a backup come from elsewhere. Answers once that is recorded.
    pub async fn import_backup(&self, import: &ImportBackup) -> Result<Backup, HostClientError> {
        self.send(Method::POST, "/v1/backups/imports".into(), import, SHORT).await
    }

    /// Brings a piece of it.
    pub async fn bring_piece(&self, id: &BackupId, piece: &BackupPiece) -> Result<Arrived, HostClientError> {
        self.send(Method::PUT, format!("/v1/backups/{id}/bytes"), piece, PIECE).await
    }

    /// Ends the host; with `services`, after its proxy has drained and its services have stopped.
    pub async fn shutdown(&self, shutdown: Shutdown) -> Result<Shutdown, HostClientError> {
        self.send(Method::POST, "/v1/shutdown".into(), &shutdown, EMERGENCY).await
    }

    async fn get<A: DeserializeOwned>(&self, path: String, limit: Duration) -> Result<A, HostClientError> {
        read_answer(self.channel.call(Method::GET, &path, None, limit).await)
    }

    async fn send<B: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        body: &B,
        limit: Duration,
    ) -> Result<A, HostClientError> {
        let body = serde_json::to_vec(body).map_err(|e| HostClientError::Protocol(e.to_string()))?;
        read_answer(self.channel.call(method, &path, Some(body), limit).await)
    }
}

fn read_answer<A: DeserializeOwned>(
    answer: Result<(http::StatusCode, bytes::Bytes), CallError>,
) -> Result<A, HostClientError> {
    let (status, body) = answer.map_err(|error| match &error {
        CallError::Unreachable { .. } => HostClientError::Unreachable(error.to_string()),
        CallError::Timeout { .. } => HostClientError::Timeout(error.to_string()),
        CallError::Broken { .. } => HostClientError::Protocol(error.to_string()),
    })?;
    let unreadable = |e: serde_json::Error| HostClientError::Protocol(format!("HTTP {status}: {e}"));
    if status.is_success() {
        serde_json::from_slice(&body).map_err(unreadable)
    } else {
        Err(HostClientError::Host(serde_json::from_slice(&body).map_err(unreadable)?))
    }
}
