//! Workers as people see them, the tokens that they come with, and what waits for them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::{JobId, RolloutId, RunId, WorkerId},
    time::Timestamp,
};

/// The workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct WorkerList {
    /// By name.
    pub items: Vec<WorkerView>,
}

/// How a worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerStatus {
    /// It was heard lately, and takes work.
    Alive,
    /// It was heard lately, and takes no new work.
    Draining,
    /// It has not been heard for two leases.
    Lost,
    /// The token that it came with was revoked.
    Revoked,
}

/// A job that a worker holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct HeldJob {
    /// The job.
    pub job: JobId,
    /// Its run.
    pub run: RunId,
    /// Its key in the plan.
    pub key: String,
    /// `owner/name`.
    pub repository: String,
    /// Since when it runs.
    pub since: Option<Timestamp>,
}

/// A token for workers that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWorkerToken {
    /// Its name: 1 to 64 letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// What its workers may offer to `runs-on`; anything where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
}

/// A token that was made.
#[derive(Clone, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct WorkerTokenMade {
    /// Its name.
    pub name: String,
    /// The token. It can't be read again.
    pub token: String,
}

impl std::fmt::Debug for WorkerTokenMade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerTokenMade").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The tokens of workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct WorkerTokenList {
    /// By name, those that were revoked last.
    pub items: Vec<WorkerTokenView>,
}

/// A token of workers, without the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct WorkerTokenView {
    /// Its name.
    pub name: String,
    /// What its workers may offer; `null`: anything.
    pub labels: Option<Vec<String>>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
    /// The workers that registered with it.
    pub workers: Vec<WorkerId>,
}

/// A token was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Revoked {
    /// The workers that had registered with it.
    pub workers: Vec<WorkerId>,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct WorkerView {
    /// Its name.
    pub id: WorkerId,
    /// What it offers.
    pub labels: Vec<String>,
    /// Jobs at a time.
    pub capacity: u32,
    /// Its version.
    pub version: String,
    /// How it stands.
    pub status: WorkerStatus,
    /// When it registered, at its last start.
    pub registered_at: Timestamp,
    /// When it was last heard.
    pub heard_at: Timestamp,
    /// The name of the token that it came with; `null`: the server's own.
    pub token: Option<String>,
    /// Since when it takes no new work.
    pub draining_since: Option<Timestamp>,
    /// The jobs that it holds, oldest first.
    pub jobs: Vec<JobId>,
    /// The same in full.
    pub holds: Vec<HeldJob>,
    /// The rollouts that it drives.
    pub drives: Vec<RolloutId>,
    /// The GPUs that it offers.
    #[serde(default)]
    pub gpus: Vec<GpuView>,
}

/// A GPU of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct GpuView {
    /// `GPU-...`, as `nvidia-smi -L` names it.
    pub uuid: String,
    /// `NVIDIA H100 80GB HBM3`
    pub name: String,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// The job that has it.
    pub job: Option<JobId>,
}

/// What waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct QueueList {
    /// Jobs that are queued, or wait for a person, oldest first.
    pub items: Vec<QueuedJob>,
    /// How much is queued, by the labels that it asks for.
    pub pools: Vec<QueuedPool>,
    /// Rollouts that no worker drives, oldest first.
    pub rollouts: Vec<QueuedRollout>,
}

/// A job that waits, and what for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct QueuedJob {
    /// The job.
    pub job: JobId,
    /// Its run.
    pub run: RunId,
    /// Its key in the plan.
    pub key: String,
    /// `owner/name`.
    pub repository: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// What it waits for, in words.
    pub reason: String,
}

/// What is queued for one set of labels, and who could take it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct QueuedPool {
    /// The labels.
    pub labels: Vec<String>,
    /// Jobs that are queued for them.
    pub jobs: u64,
    /// Since when the oldest waits.
    pub since: Option<Timestamp>,
    /// Workers that are alive, take work, and offer all of the labels.
    pub workers: u64,
    /// Jobs that those could begin at once.
    pub free: u64,
}

/// A rollout that nobody drives, and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct QueuedRollout {
    /// The rollout.
    pub rollout: RolloutId,
    /// Where to.
    pub environment: String,
    /// What of.
    pub service: String,
    /// Since when it is there.
    pub since: Timestamp,
    /// What it waits for, in words.
    pub reason: String,
}
