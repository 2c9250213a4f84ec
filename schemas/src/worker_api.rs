//! What a worker says to a server: HTTP with JSON bodies under `/api/v1/worker`, `Authorization: Bearer <worker token>`.
//!
//! | request | body -> answer |
//! | --- | --- |
//! | `POST /register` | [`Register`] -> [`Registered`]; leases of an earlier incarnation of the same worker end at once |
//! | `POST /jobs/claim` | [`ClaimRequest`] -> [`JobClaim`], or 204 when nothing became claimable within `wait_ms`; [`DRAINING`] |
//! | `POST /jobs/ended` | [`AskEnded`] -> [`EndedJobs`], when one has ended or after `wait_ms` |
//! | `POST /jobs/{id}/renew` | [`Renew`] -> [`Renewed`]; extends the lease at once, answers when there is a word or after `wait_ms` |
//! | `POST /jobs/{id}/report` | [`JobReport`] -> [`Reported`] |
//! | `POST /jobs/{id}/finish` | [`JobFinish`] -> [`Reported`]; the same once more changes nothing |
//! | `POST /jobs/{id}/wait` | [`JobWait`] -> [`Reported`]; the slot is free, the lease ends, the job goes on after its rollout |
//! | `POST /jobs/{id}/hand-back` | [`JobHandBack`] -> [`Reported`]; queued again, to go on at a step |
//! | `POST /jobs/{id}/lost` | [`JobLost`] -> [`Reported`]; its worker could not renew the lease and has stopped it |
//! | `POST /jobs/{id}/logs?epoch=&offset=` | bytes -> [`LogAck`] |
//! | `PUT /artifacts/{digest}` | bytes -> 201, or 200 when it was there |
//! | `GET /artifacts/{digest}` | -> bytes |
//! | `HEAD /artifacts/{digest}` | 200 or 404 |
//! | `POST /jobs/{id}/artifacts` | [`AttachArtifact`] -> [`crate::artifact::Artifact`] |
//! | `GET /jobs/{id}/artifacts` | -> every [`crate::artifact::Artifact`] of the same attempt |
//! | `GET /jobs/{id}/artifacts/{name}` | -> [`crate::artifact::Artifact`] of the same attempt |
//! | `PUT /jobs/{id}/steps/{index}/summary?epoch=` | a step's summary, Markdown of 1 MiB at most -> [`Reported`] |
//! | `POST /jobs/{id}/caches/find` | [`FindCache`] -> [`CacheEntry`], or 204 |
//! | `POST /jobs/{id}/caches` | [`SaveCache`] -> [`CacheSaved`] |
//! | `POST /jobs/{id}/provenance` | [`crate::provenance::AskProvenance`] -> [`crate::provenance::Envelope`] |
//! | `POST /jobs/{id}/machines` | [`crate::machine::AskMachine`] -> [`crate::machine::MachineAnswer`], held back while there is no news |
//! | `POST /jobs/{id}/machines/release` | [`crate::machine::ReleaseMachine`] -> [`Reported`] |
//! | `POST /jobs/{id}/snapshots` | [`KeepSnapshot`] -> 204 |
//! | `POST /jobs/{id}/rollouts` | [`CreateRollout`] -> [`CreatedRollout`] |
//! | `POST /jobs/{id}/rollback` | [`StepRollback`] -> [`CreatedRollout`]; the job then waits for it |
//! | `POST /jobs/{id}/sync` | [`crate::sync::StepSync`] -> [`CreatedRollout`]; the job then waits for it |
//! | `GET /jobs/{id}/serving/{environment}/{service}` | -> [`Serving`] |
//! | `POST /jobs/{id}/notify` | [`StepNotice`] -> [`Reported`]; the same step tells once |
//! | `POST /rollouts/claim` | [`ClaimRequest`] -> [`RolloutClaim`], or 204 |
//! | `POST /rollouts/{id}/renew` | [`Renew`] -> [`RolloutRenewed`] |
//! | `POST /rollouts/{id}/journal` | [`RolloutReport`] -> [`Reported`]; durable when it answers |
//! | `POST /hosts/{name}/state` | [`crate::host_api::HostState`] -> [`Reported`]; what was done there without the server is put on record |
//!
//! A worker's token opens all of it for the workers that registered with it; the token that comes with a claim opens what lies under
//! `/jobs/{id}` of its job, under its epoch, and artifacts.
//!
//! A write under an epoch that is not the current one is answered 409 with code `stale_epoch`, and changes nothing.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::{
    annotation::Annotation,
    deploy::{JournalEntry, Release, Rollout, RolloutCommand, ServiceSpec, Strategy},
    gpu::GpuOffer,
    host_join::HostAccess,
    id::{CommitSha, Digest, Epoch, JobId, RolloutId, RunId, WorkerId},
    plan::JobPlan,
    status::{Conclusion, FailureClass, RolloutStatus, StepStatus},
    time::Timestamp,
};

/// A worker says who it is. It must do so before anything else, once per start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Register {
    /// Its name, kept over restarts.
    pub worker: WorkerId,
    /// Random per start.
    pub incarnation: String,
    /// What it offers.
    pub labels: Vec<String>,
    /// Jobs at a time.
    pub capacity: u32,
    /// Its version.
    pub version: String,
    /// The GPUs that it offers to jobs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuOffer>,
}

/// The server's word to a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Registered {
    /// How long a lease lives without renewal.
    pub lease_ms: u64,
    /// How often to renew.
    pub renew_ms: u64,
    /// Largest log chunk in bytes.
    pub max_log_chunk: u64,
    /// How much of a log may come with the job's end, in bytes; 0 from a server that takes none.
    #[serde(default)]
    pub max_log_tail: u64,
    /// The addresses of the hosts by name: the path of a unix socket. The worker tells the server of those that it reaches. Hosts that
    /// joined are not among them: they tell of themselves.
    #[serde(default)]
    pub hosts: IndexMap<String, String>,
    /// How long a rollout that has changed something waits for a host that does not answer.
    #[serde(default = "a_day")]
    pub absent_host_ms: u64,
    /// The pool whose queue brings this worker's bells, where the server has a message queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Whether a job's end may ask for the next job ([`JobFinish::next`]).
    #[serde(default)]
    pub end_brings_next: bool,
    /// Which snapshots of jobs are kept; none where the server keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<SnapshotRules>,
}

const fn a_day() -> u64 {
    86_400_000
}

/// A worker keeps what jobs left that are to go on, and asks which of those have ended without it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AskEnded {
    /// The jobs; at most [`MAX_KEPT`] are looked at.
    pub jobs: Vec<JobId>,
    /// How long to wait for one to end; at most 30,000.
    pub wait_ms: u64,
}

/// Jobs in one [`AskEnded`].
pub const MAX_KEPT: usize = 64;

/// Jobs that have ended: nothing of them is needed any more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EndedJobs {
    /// Those of the asked ones; none when the time was up.
    pub jobs: Vec<JobId>,
}

/// The header of an answer without a job that says: this worker drains, and takes nothing new.
pub const DRAINING: &str = "segue-draining";

/// A worker asks for work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClaimRequest {
    /// Who asks.
    pub worker: WorkerId,
    /// Its incarnation.
    pub incarnation: String,
    /// What it offers.
    pub labels: Vec<String>,
    /// How long to wait for work; at most 30,000.
    pub wait_ms: u64,
    /// Which of [`crate::strategy::NEWER`] it can drive; an older worker says nothing, and is given none of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strategies: Vec<String>,
}

/// A job, leased.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobClaim {
    /// The job.
    pub job: JobId,
    /// Its run.
    pub run: RunId,
    /// The run's attempt, from 1.
    pub attempt: u32,
    /// The lease's epoch.
    pub epoch: Epoch,
    /// What to do.
    pub plan: JobPlan,
    /// The pipeline's name.
    pub pipeline: String,
    /// `env:` of the pipeline; templates.
    pub pipeline_env: IndexMap<String, String>,
    /// The contexts `github`, `needs`, `vars`, `inputs` and `matrix`, by name.
    pub contexts: BTreeMap<String, serde_json::Value>,
    /// The named secrets, and none else. Never stored by the worker.
    pub secrets: BTreeMap<String, String>,
    /// `owner/name`.
    pub repository: String,
    /// Where to fetch the repository from, for a worker without access to the server's mirror.
    pub clone_url: String,
    /// The server's bare mirror, where worker and server share a file system.
    pub mirror: Option<String>,
    /// The commit.
    pub commit: CommitSha,
    /// Whether the code is the repository's own; foreign code gets no secrets and no `shell` engine.
    pub trusted: bool,
    /// Bytes of log that the server has already; a job that goes on appends.
    pub log_offset: u64,
    /// Where to go on, for a job that was handed back or that waited.
    pub resume: Option<Resume>,
    /// What it begins with, for one that is run again from a step: [`Self::resume`] says from which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// The GPUs of the worker that it has to itself, by UUID.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
    /// Whether its steps are to tell more: `RUNNER_DEBUG=1`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub debug: bool,
    /// Opens what concerns this job, under this epoch, and nothing else: the bearer token of the job's requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// How long the server had held the request when it made the lease, in milliseconds: so long after it was sent, at least, the lease
    /// began. Left out by a server that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<u64>,
}

/// Where a job goes on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Resume {
    /// The step to go on at, from 0.
    pub next_step: usize,
    /// How the steps before ended.
    pub steps: Vec<StepReport>,
}

/// How a step stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Which step of the plan, from 0.
    pub index: usize,
    /// Its evaluated name.
    pub name: String,
    /// How it stands.
    pub status: StepStatus,
    /// How it ended, before `continue-on-error`.
    #[serde(default)]
    pub outcome: Option<Conclusion>,
    /// The exit code of its process.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// Why it failed or was skipped.
    #[serde(default)]
    pub reason: Option<String>,
    /// What it set.
    #[serde(default)]
    pub outputs: IndexMap<String, String>,
    /// By the worker's clock.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// By the worker's clock.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// Where its log begins in the job's.
    #[serde(default)]
    pub log_start: u64,
    /// Where its log ends in the job's.
    #[serde(default)]
    pub log_end: u64,
    /// What it said by `::error::` and its like; at most 10 of a kind, and 50 of a job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<Annotation>,
    /// The length of its summary, which is sent apart; 0: it wrote none.
    #[serde(default)]
    pub summary_bytes: u64,
}

impl StepReport {
    /// A step that has not begun.
    #[must_use]
    pub fn pending(index: usize, name: String) -> Self {
        Self {
            index,
            name,
            status: StepStatus::Pending,
            outcome: None,
            exit_code: None,
            reason: None,
            outputs: IndexMap::new(),
            started_at: None,
            ended_at: None,
            log_start: 0,
            log_end: 0,
            annotations: Vec::new(),
            summary_bytes: 0,
        }
    }
}

/// Renew a lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Renew {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// How long the answer may be held back while there is no word for the worker.
    pub wait_ms: u64,
}

/// A job's lease was renewed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Renewed {
    /// Whether to cancel.
    pub cancel: bool,
}

/// Steps that started or ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobReport {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// The steps that changed.
    pub steps: Vec<StepReport>,
}

/// A job's end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobFinish {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// How it ended.
    pub conclusion: Conclusion,
    /// Why, unless it succeeded.
    pub reason: Option<String>,
    /// What kind of failure.
    pub failure_class: Option<FailureClass>,
    /// The evaluated outputs.
    pub outputs: IndexMap<String, String>,
    /// Every step.
    pub steps: Vec<StepReport>,
    /// Bytes of log that were sent, with those that come here.
    pub log_bytes: u64,
    /// The end of the log, which was not sent before: a short log costs no request of its own. At most
    /// [`Registered::max_log_tail`] bytes, without a NUL.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_tail: String,
    /// The slot's next job is asked for at once, which saves a request and a commit. Only to a server that says so
    /// ([`Registered::end_brings_next`]), and with the worker's token: the lease's opens no other job. Never waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<ClaimRequest>,
}

/// A job's end was taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finished {
    /// Whether the job was to be cancelled.
    #[serde(default)]
    pub cancel: bool,
    /// The next job, where one was asked for and there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<JobClaim>,
}

/// A job waits for its rollout and gives its slot back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobWait {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// What it waits for.
    pub rollout: RolloutId,
    /// The step that waits; it ends with the rollout, and the job goes on after it.
    pub step: usize,
    /// Whether its failure is allowed, by its `continue-on-error` as it is evaluated now. Left out: as the plan says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_fail: Option<bool>,
    /// Every step so far.
    pub steps: Vec<StepReport>,
    /// Bytes of log that were sent.
    pub log_bytes: u64,
}

/// A job is handed back, by a worker that stops.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobHandBack {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// The step to go on at; `None`: from the beginning, in an empty workspace.
    pub next_step: Option<usize>,
    /// Every step so far.
    pub steps: Vec<StepReport>,
    /// Bytes of log that were sent.
    pub log_bytes: u64,
    /// Why.
    pub reason: String,
}

/// A job's lease could not be renewed, and its worker has stopped everything that it ran before the lease's end. What becomes of
/// it is what becomes of one whose worker is lost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobLost {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// Every step so far; the one that was stopped is `running`.
    pub steps: Vec<StepReport>,
    /// Bytes of log that were sent.
    pub log_bytes: u64,
}

/// A write was taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reported {
    /// Whether to cancel.
    #[serde(default)]
    pub cancel: bool,
}

/// How far the log store has a job's log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogAck {
    /// The next offset to send.
    pub offset: u64,
}

/// Name an uploaded artifact in the job's run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttachArtifact {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// The name.
    pub name: String,
    /// The content, which must have been uploaded.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// How many days it is kept; as the operator's file says where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
}

/// Look for a cache.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindCache {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// The key.
    pub key: String,
    /// Beginnings of other keys that will do, in order.
    #[serde(default)]
    pub restore_keys: Vec<String>,
    /// A digest of its paths: a cache of others does not fit.
    pub version: String,
}

/// A cache that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheEntry {
    /// Its key.
    pub key: String,
    /// Its content.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
}

/// Keep an uploaded content as a cache. A key that there is already stays as it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SaveCache {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// The key.
    pub key: String,
    /// A digest of its paths.
    pub version: String,
    /// The content, which must have been uploaded.
    pub digest: Digest,
}

/// Which snapshots a worker takes of its jobs' directories, before their steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRules {
    /// The most bytes of a job's directories, where the job does not ask for snapshots.
    pub small_bytes: u64,
    /// The most files and directories in them, likewise.
    pub small_files: u64,
    /// The most bytes where it does.
    pub max_bytes: u64,
    /// How many of a job are kept, the newest.
    pub per_job: usize,
}

/// Keep an uploaded content as what a job's directories held before a step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeepSnapshot {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// Before which step, from 0.
    pub step: usize,
    /// The content, which must have been uploaded; `None`: they were empty.
    pub digest: Option<Digest>,
    /// What the steps before had left for those after them, in the worker's own form.
    pub state: serde_json::Value,
    /// Whether that may hold a secret.
    pub is_secret: bool,
    /// The names of the artifacts that the job had made by then.
    pub artifacts: Vec<String>,
}

/// What a job begins with that is run again from one of its steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Restore {
    /// The content; `None`: the directories were empty.
    pub digest: Option<Digest>,
    /// Its bytes.
    pub bytes: u64,
    /// What the steps before had left.
    pub state: serde_json::Value,
}

/// Whether a cache was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSaved {
    /// Whether there was none of that key before.
    pub new: bool,
}

/// A step goes back to an earlier release of the job's environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepRollback {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// The asking step; the same step of the same job gets the same rollout.
    pub step: usize,
    /// The service.
    pub service: String,
    /// A rollback point's tag; the release before the one that serves where it is left out.
    pub to: Option<String>,
}

/// What serves in an environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Serving {
    /// The release.
    pub release: Release,
    /// The service as it was rolled out.
    pub service: ServiceSpec,
    /// The addresses that the proxy in front of it listens on.
    pub listen: Vec<String>,
}

/// A step tells people something.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepNotice {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// The telling step.
    pub step: usize,
    /// What it says.
    pub text: String,
}

/// A step asks for a rollout.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateRollout {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// The asking step; the same step of the same job gets the same rollout.
    pub step: usize,
    /// The service, as the repository describes it at the commit.
    pub service: ServiceSpec,
    /// The environment.
    pub environment: String,
    /// The artifact, or the image.
    pub digest: Digest,
    /// The image by its digest, where the service runs as a container: [`Release::image`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// How.
    pub strategy: Strategy,
    /// Whether it is the run's pull request that is to have a copy of the service of its own.
    #[serde(default)]
    pub preview: bool,
    /// Of such a copy: the shell command that fills its data folder when it is first made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
}

/// A rollout was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreatedRollout {
    /// Its number.
    pub rollout: RolloutId,
    /// What it rolls out.
    pub release: Release,
    /// Where a preview is going to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// A rollout, leased.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RolloutClaim {
    /// The rollout, with the decision machine's state.
    pub rollout: Rollout,
    /// The lease's epoch; rising over all rollouts of the environment and service.
    pub epoch: Epoch,
    /// Its journal so far.
    pub journal: Vec<JournalEntry>,
    /// The addresses of its hosts by name: the path of a unix socket, or `tls://HOST:PORT` of one that joined.
    pub hosts: IndexMap<String, String>,
    /// What opens those that joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<HostAccess>,
    /// Where the host finds the artifact of the release, and of the one before.
    pub artifacts: BTreeMap<Digest, crate::host_api::ArtifactSource>,
    /// How long without renewal until the hosts fall back by themselves.
    pub dead_man_ms: u64,
}

/// A rollout's lease was renewed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RolloutRenewed {
    /// A person's word; given to each owner, and again where the journal does not have it soon.
    pub command: Option<RolloutCommand>,
    /// Who said it, and why.
    pub by: Option<String>,
    /// Which word it is, by a number that rises: the same told again has the same one. None of an older server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub word: Option<i64>,
    /// What opens the hosts that joined from now on, where what the claim came with is about to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<HostAccess>,
}

/// Journal entries, and where the rollout stands with them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RolloutReport {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// New entries, in order.
    pub entries: Vec<JournalEntry>,
    /// Where it stands.
    pub status: RolloutStatus,
    /// The weight of the new release in percent.
    pub weight: u8,
    /// The canary's stage.
    pub stage: usize,
    /// The hold's, failure's or rollback's reason.
    pub reason: Option<String>,
    /// The last verdict with its numbers.
    pub verdict: Option<serde_json::Value>,
    /// The decision machine's state.
    pub state: Option<serde_json::Value>,
}

/// A rollout is handed back, by a worker that stops or that cannot go on. Its status, weight and state stay as last
/// reported; it is claimable again at once, under a higher epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RolloutHandBack {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// Why.
    pub reason: String,
    /// How long before it may be claimed again; 0: at once. For a worker whose host does not answer, so that a rollout
    /// is not claimed and handed back in a tight circle.
    #[serde(default)]
    pub not_before_ms: u64,
}

/// An error of the API, worker's and public: `{"error": {...}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorDetail {
    /// A word for programs: `not_found`, `stale_epoch`, `unauthorized`, ...
    pub code: String,
    /// What is wrong and what to do, for people.
    pub message: String,
}
