//! What is said to `segue host`: HTTP/1.1 with JSON bodies over its unix socket, and to one that joined from another machine over
//! TLS 1.3, where both ends show a certificate ([`crate::host_join`]).
//!
//! | request | body -> answer |
//! | --- | --- |
//! | `GET /v1/state?after=&wait_ms=&look=` | -> [`HostState`]; with `after` and `wait_ms`, waits until `restorations` is another number than `after`; with `look=1`, after a look whether the router's configuration holds |
//! | `GET /v1/gpus?after=&wait_ms=&fresh=` | -> [`GpuReport`]; with `after` and `wait_ms`, waits until its `revision` is another one, and the host looks often meanwhile; with `fresh=1`, after another look, and `unavailable` where that one could not ask after them |
//! | `POST /v1/instances` | [`StartInstance`] -> [`Instance`], once its process was started or could not be (`failed`); an artifact that can't be had is an error and leaves nothing behind; the same instance again changes nothing, one that was stopped is started anew |
//! | `GET /v1/instances/{id}?wait_ms=` | -> [`Instance`]; with `wait_ms`, returns early when its state or process changes |
//! | `POST /v1/instances/{id}/probe` | [`Probe`] -> [`ProbeResult`] |
//! | `POST /v1/instances/{id}/retire` | [`RetireInstance`] -> [`Instance`]; drained and stopped by the host itself when `after_ms` has passed |
//! | `POST /v1/instances/{id}/drain` | [`DrainInstance`] -> [`DrainResult`]; waits until nothing is in flight or the limit is reached |
//! | `POST /v1/instances/{id}/stop` | [`StopInstance`] -> [`Instance`] |
//! | `PUT /v1/routes/{environment}/{service}` | [`ApplyRoute`] -> [`RouteState`], once the proxy carries it |
//! | `DELETE /v1/routes/{environment}/{service}` | [`RemoveRoute`] -> [`Removed`], once the proxy gives it no request any more; what runs of it has been told to end, and what was kept of it is forgotten; once more changes nothing |
//! | `POST /v1/routes/{environment}/{service}/renew` | [`RenewDeadMan`] -> [`RouteState`] |
//! | `GET /v1/routes/{environment}/{service}/observations?after=&wait_ms=&limit=` | -> [`ObservationBatch`] |
//! | `POST /v1/routes/{environment}/{service}/emergency-rollback` | [`EmergencyRollback`] -> [`EmergencyResult`] |
//! | `POST /v1/backups` | [`TakeBackup`] -> [`Backup`], once that is recorded; the same backup again changes nothing, it is taken under the newer right |
//! | `GET /v1/backups/{id}?wait_ms=` | -> [`Backup`]; with `wait_ms`, returns early when it is not being taken any more |
//! | `POST /v1/backups/{id}/stop` | [`StopBackup`] -> [`Backup`]; one that is being taken is ended and leaves nothing |
//! | `POST /v1/backups/imports` | `ImportBackup` -> [`Backup`], once that is recorded; the same backup again changes nothing |
//! | `PUT /v1/backups/{id}/bytes` | `BackupPiece` -> `Arrived`; a piece that is there already changes nothing |
//! | `POST /v1/copies` | `MakeCopy` -> `DataCopy`; the same copy again changes nothing but whose it is |
//! | `GET /v1/copies/{id}?wait_ms=` | -> `DataCopy`; with `wait_ms`, returns early when it is not being made any more |
//! | `GET /v1/copies/{id}/bytes?from=` | -> `CopyPiece` |
//! | `DELETE /v1/copies/{id}` | `DropCopy` -> `DataCopy`, as it was |
//! | `POST /v1/restores` | [`RestoreBackup`] -> [`Restore`], once that is recorded; the same one again changes nothing |
//! | `GET /v1/restores/{id}?wait_ms=` | -> [`Restore`]; with `wait_ms`, returns early when it has ended |
//! | `POST /v1/shutdown` | [`Shutdown`] -> [`Shutdown`]; the host ends once it has answered; over its unix socket alone. TERM ends the host alone |
//!
//! `ImportBackup`, `BackupPiece`, `Arrived`, `MakeCopy`, `DataCopy`, `CopyPiece` and `DropCopy` are in [`crate::sync`].
//!
//! Every mutation carries a [`Fence`]. Errors are [`HostError`] with the status of [`HostErrorCode::http_status`].

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::{
    assignment::Assignment,
    deploy::{BackupKeep, DataSpec, Health, Observation, Release, RouteRule, ServiceContainer, ServiceResources},
    gpu::{GpuNeed, GpuOffer},
    gpu_health::GpuReport,
    id::{BackupId, CommitSha, Digest, Epoch, InstanceId, ReleaseId, RolloutId},
    time::Timestamp,
};

/// The right to change one service in one environment. A host refuses an epoch below the highest that it has seen for the pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The environment.
    pub environment: String,
    /// The service.
    pub service: String,
    /// The epoch of the rollout's lease; rising over all rollouts of the pair.
    pub epoch: Epoch,
}

/// Start an instance of a release.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartInstance {
    /// The right to.
    pub fence: Fence,
    /// The instance's name; asking again with the same name changes nothing, unless it was stopped: then it is started anew.
    pub instance: InstanceId,
    /// The release.
    pub release: Release,
    /// Where its artifact comes from, if the host does not have it.
    pub artifact: ArtifactSource,
    /// Program and arguments, `$PORT` replaced by the port. Of a container: in the place of its image's own, unless it is empty.
    pub command: Vec<String>,
    /// How the release's image is run; `None`: the release is an artifact, run as a process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerRun>,
    /// Whether it is run as the host ran this release before, where it knows how: what is said here is another release's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_before: bool,
    /// GPUs of the host that it gets, and keeps until it is stopped; `None`: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<GpuNeed>,
    /// Environment variables, whole: nothing of the host's own environment but `PATH` is passed on.
    pub env: IndexMap<String, String>,
    /// How long after TERM the process group is killed.
    pub stop_timeout_ms: u64,
    /// How the host itself tells that the instance is ready, when it must start the release again with nobody else there
    /// (an emergency rollback to a kept release, a reboot).
    #[serde(default)]
    pub health: Health,
    /// After how long without a request the host stops it, to start it again for the next one; `None`: never.
    #[serde(default)]
    pub sleep_after_ms: Option<u64>,
    /// The folder of its own that its service has in the environment; `None`: none.
    #[serde(default)]
    pub data: Option<DataSpec>,
}

/// How an image is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRun {
    /// Port, user, volumes and options.
    pub container: ServiceContainer,
    /// The most that it may have.
    #[serde(default)]
    pub resources: ServiceResources,
}

/// Where an artifact (a zstd-compressed tar, named by the digest of its bytes) comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactSource {
    /// The engine for containers of the host's machine has it, or pulls it by the digest in the release's `image`.
    Image,
    /// A file on the host's machine.
    File(String),
    /// A server's address, with the bearer token that opens it.
    Url {
        /// The artifact's address.
        url: String,
        /// Sent as `Authorization: Bearer`.
        token: String,
    },
    /// The server that the host has joined.
    Joined,
}

/// One running copy of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Its name.
    pub id: InstanceId,
    /// Its environment.
    pub environment: String,
    /// Its release, which names the service.
    pub release: Release,
    /// `127.0.0.1:<port>`, or where its container is reached.
    pub address: String,
    /// What it does.
    pub state: InstanceState,
    /// The process, while there is one.
    pub pid: Option<u32>,
    /// How often it was started again after it ended by itself.
    pub restarts: u32,
    /// When it is to be retired, once that was asked for.
    pub retire_at: Option<Timestamp>,
    /// The file that holds its output.
    pub output: String,
    /// What of its container is another than what was deployed, because somebody changed it by hand; empty: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
    /// The GPUs that it has, by UUID.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
    /// That its container lost its GPUs, and what became of that; `None`: it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_loss: Option<String>,
}

/// What an instance does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum InstanceState {
    /// The artifact is fetched or unpacked.
    Preparing,
    /// Its process lives.
    Running,
    /// Its process ended by itself, and is started again after a pause.
    BackingOff {
        /// How it ended: `exit code 1`, `signal 9`.
        exit: String,
    },
    /// It was stopped because nobody asked for it; the next request starts it again.
    Asleep,
    /// It was told to stop.
    Stopped,
    /// It could not be started at all.
    Failed {
        /// Why.
        reason: String,
    },
}

/// One HTTP GET to an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probe {
    /// Path and query.
    pub path: String,
    /// Time limit.
    pub timeout_ms: u64,
}

/// What a probe saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeResult {
    /// The HTTP status; `None` without an answer.
    pub status: Option<u16>,
    /// Time to the whole answer.
    pub latency_us: u64,
    /// Why there was no answer.
    pub error: Option<String>,
}

/// Retire an instance later: the host drains and stops it by itself, with nobody else there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RetireInstance {
    /// The right to.
    pub fence: Fence,
    /// From now.
    pub after_ms: u64,
    /// How long answers in flight may go on.
    pub drain_ms: u64,
}

/// Wait until an instance without weight has nothing in flight.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DrainInstance {
    /// How long at most.
    pub limit_ms: u64,
}

/// What a drain came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DrainResult {
    /// Requests still in flight when the limit was reached.
    pub in_flight: u64,
}

/// Stop an instance now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StopInstance {
    /// The right to.
    pub fence: Fence,
}

/// An instance and its share of the traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The instance.
    pub instance: InstanceId,
    /// Its share, relative to the sum over the route's targets.
    pub weight: u32,
}

/// Set where a service's traffic goes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApplyRoute {
    /// The right to.
    pub fence: Fence,
    /// Which requests; `environment` in a rule is of no concern here.
    pub rules: Vec<RouteRule>,
    /// How they are assigned to the releases among the targets, where there are two.
    #[serde(default)]
    pub assignment: Assignment,
    /// Where to.
    pub targets: Vec<Target>,
    /// Where to fall back to: at the dead-man's deadline, and on an emergency rollback. Stored before the weights change.
    pub fallback: Vec<Target>,
    /// After how long without a renewal the host restores the fallback by itself; `None`: never.
    pub dead_man_ms: Option<u64>,
    /// Whether somebody goes back by this: a newer release that loses its traffic is left, and no emergency goes there by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaves: bool,
    /// With `leaves`, the release that is gone back from, which may have no traffic any more: it was stopped before this one was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<ReleaseId>,
    /// Whether it brings this host to what others serve: where that is older than what has traffic here, somebody has gone back elsewhere, and an
    /// emergency here means the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follows: bool,
}

/// Take a service away.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemoveRoute {
    /// The right to. Whoever has a lower epoch is refused from then on.
    pub fence: Fence,
}

/// A service was taken away.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Removed {
    /// The instances that were told to end. Each is killed when its own limit has passed.
    pub instances: Vec<InstanceId>,
}

/// Put the dead-man's deadline off.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenewDeadMan {
    /// The right to.
    pub fence: Fence,
    /// From now.
    pub dead_man_ms: u64,
}

/// A route as the host has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteState {
    /// The environment.
    pub environment: String,
    /// The service.
    pub service: String,
    /// The highest epoch seen.
    pub epoch: Epoch,
    /// Which requests.
    pub rules: Vec<RouteRule>,
    /// Where the traffic goes.
    pub targets: Vec<Target>,
    /// Where it falls back to.
    pub fallback: Vec<Target>,
    /// The dead-man's deadline, while one is set.
    pub dead_man_at: Option<Timestamp>,
    /// When the host last restored the fallback by itself or for an emergency, and why; kept until the next `ApplyRoute`.
    pub restored: Option<Restored>,
    /// Requests in flight by instance.
    #[serde(default)]
    pub in_flight: IndexMap<String, u64>,
    /// The sequence number of the newest observation.
    #[serde(default)]
    pub newest_observation: u64,
}

/// The host changed weights without a rollout's word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// When.
    pub at: Timestamp,
    /// `dead-man` or `emergency`, with what was said.
    pub reason: String,
    /// The epoch that it was done under.
    pub epoch: Epoch,
}

/// Everything a host carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostState {
    /// The host's version.
    pub version: String,
    /// The host process.
    pub pid: u32,
    /// The addresses that the proxy listens on.
    pub listen: Vec<String>,
    /// The proxy process.
    pub proxy_pid: Option<u32>,
    /// Every instance that is not stopped.
    pub instances: Vec<Instance>,
    /// Every route.
    pub routes: Vec<RouteState>,
    /// Releases that are unpacked here and can be started without fetching anything, newest first.
    pub releases: Vec<Release>,
    /// The GPUs that it offers to services, as its driver told of them last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuOffer>,
    /// How its GPUs are; `None`: it offers none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_report: Option<GpuReport>,
    /// Another number each time that there is something new: weights were changed by the dead-man's switch or in an emergency;
    /// an instance was started, ended by itself, stopped, was put to sleep or woken; a container was changed by hand; there is another backup, or
    /// something new of the GPUs. What the number is says nothing; after a start of the host it is another one as well.
    #[serde(default)]
    pub restorations: u64,
    /// The backups that it keeps, takes, or could not take lately, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<Backup>,
    /// What keeps its router from carrying what is recorded, or would keep it from the next change, in words; `None`: nothing that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_trouble: Option<String>,
    /// What it can carry that not every version of a host can, of [`crate::strategy::NEWER`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carries: Vec<String>,
    /// Another number with each start of the host's process; older ones tell none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
}

/// Back up what serves of a service, where it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TakeBackup {
    /// The right to. Whoever has a higher one ends it.
    pub fence: Fence,
    /// Its name; asking again with the same name changes nothing.
    pub id: BackupId,
    /// The shell command.
    pub run: String,
    /// The image that it runs in, where the service is a container; without one, the service's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// After how long it is ended.
    pub timeout_ms: u64,
    /// Which backups of the service stay once this one is kept.
    pub keep: BackupKeep,
    /// One that stays whatever that says: it is about to be brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare: Option<BackupId>,
    /// What it is taken for, in words.
    pub why: String,
}

/// End the taking of a backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StopBackup {
    /// The right to.
    pub fence: Fence,
}

/// A backup of a service's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Its name.
    pub id: BackupId,
    /// The environment.
    pub environment: String,
    /// The service.
    pub service: String,
    /// The release that served.
    pub release: ReleaseId,
    /// The commit of that.
    pub commit: CommitSha,
    /// When it was begun.
    pub begun_at: Timestamp,
    /// What it was taken for, in words.
    pub why: String,
    /// The environment whose data they are, without what is personal in them; `None`: its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_from: Option<String>,
    /// What has become of it.
    #[serde(flatten)]
    pub state: BackupState,
}

/// What has become of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum BackupState {
    /// It is being taken.
    Taking,
    /// It is kept.
    Kept {
        /// Its size.
        bytes: u64,
        /// The digest of its bytes.
        sha256: Digest,
        /// How long it took.
        took_ms: u64,
    },
    /// It could not be taken, and nothing is left of it; or it is not there any more.
    Failed {
        /// Why.
        reason: String,
        /// The last lines that its command wrote to standard error, without what looks like a secret.
        said: Vec<String>,
        /// Whether the host was ended meanwhile: another try may fare better.
        cut_short: bool,
    },
}

/// Bring the data of a backup back, where it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestoreBackup {
    /// The right to.
    pub fence: Fence,
    /// The rollout that does it; asking again changes nothing.
    pub id: RolloutId,
    /// The backup.
    pub backup: BackupId,
    /// The shell command.
    pub run: String,
    /// The image that it runs in, where the service is a container; without one, the service's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// After how long it is ended.
    pub timeout_ms: u64,
}

/// Data that are, or were, brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// The rollout that does it.
    pub id: RolloutId,
    /// The backup.
    pub backup: BackupId,
    /// What has become of it.
    #[serde(flatten)]
    pub state: RestoreState,
}

/// What has become of bringing data back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum RestoreState {
    /// The command runs.
    Running,
    /// It has ended well.
    Done {
        /// How long it took.
        took_ms: u64,
    },
    /// It has not: the data are as the command left them, or as they were, where it was never begun.
    Failed {
        /// Why.
        reason: String,
        /// The last lines that its command wrote to standard error, without what looks like a secret.
        said: Vec<String>,
        /// Whether the command was begun.
        was_begun: bool,
    },
}

/// Observations after a position, oldest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ObservationBatch {
    /// The observations.
    pub observations: Vec<Observation>,
    /// Ask after this next.
    pub next: u64,
    /// How many between the asked position and the first one here are gone: too old for the buffer.
    pub lost: u64,
}

/// Straight back to the last good release, no questions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EmergencyRollback {
    /// A release's number. Where it is left out: what serves already where the host has restored that, by the dead man's switch or in an
    /// emergency, and no rollout has changed it since; else the fallback of the route, or the last good release. Never one that was left by
    /// a rollback.
    pub to: Option<crate::id::ReleaseId>,
    /// Who, and why.
    pub reason: String,
}

/// What an emergency rollback did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EmergencyResult {
    /// The epoch at the host from now on: whatever ran under a lower one is refused.
    pub epoch: Epoch,
    /// The release that served, or most of it.
    pub from: Option<Release>,
    /// The release that serves.
    pub to: Release,
    /// From the request to the proxy's confirmation.
    pub took_us: u64,
    /// Each release that had traffic, and how much.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<ReleaseShare>,
    /// By what `to` has had all traffic already: the traffic is as it was. Of the same epoch, nothing else was done either. `None`: it got
    /// the traffic now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stands: Option<Restored>,
}

/// How much of a route's traffic a release has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseShare {
    /// The release.
    pub release: ReleaseId,
    /// Of all requests that are assigned by weight, in percent.
    pub percent: u8,
}

/// End the host, and what it carries with it if that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// Also drain and end the proxy and stop every service. The next start of a host brings back what serves, as after a
    /// reboot.
    pub services: bool,
}

/// An error of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct HostError {
    /// Which.
    pub code: HostErrorCode,
    /// What is wrong and what to do, in words.
    pub message: String,
    /// The highest epoch seen, with `stale_epoch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

/// The kinds of errors of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostErrorCode {
    /// The request can't be read or contradicts itself.
    BadRequest,
    /// No such instance, route or release.
    NotFound,
    /// The epoch is below the highest that was seen: another owner has taken over.
    StaleEpoch,
    /// The artifact can't be fetched, or its bytes are not those of its digest.
    Artifact,
    /// The router refuses the change, and nothing has changed: its configuration does not hold, or it can't be steered.
    Router,
    /// Its GPUs are held by what it is to take the place of: it fits once that has stopped.
    Full,
    /// Its GPUs, or their driver, are broken.
    Faulty,
    /// The host itself can't do it: disk, ports, the proxy.
    Unavailable,
}

impl HostErrorCode {
    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::StaleEpoch | Self::Full => 409,
            Self::Artifact => 422,
            Self::Faulty => 424,
            Self::Router => 502,
            Self::Unavailable => 503,
        }
    }
}
