//! Services, releases, rollouts and what is observed of them.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    assignment::{ReleaseRule, Sticky},
    duration::Span,
    gpu::ServiceGpus,
    id::{BackupId, CommitSha, Digest, Epoch, InstanceId, ReleaseId, RolloutId, RunId},
    size::Size,
    status::RolloutStatus,
    strategy::{BlueGreenSpec, RollingSpec},
    sync::{ServiceSync, SyncSpec},
    time::Timestamp,
};

/// `.segue/services/<name>.yml`: how a service is started, checked, warmed up and drained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServiceSpec {
    /// The service's name; the file's stem where it is left out.
    #[serde(default)]
    pub name: String,
    /// Program and arguments, started in the release's directory. `$PORT` in an argument, and the environment variable
    /// `PORT`, hold the port that the instance must listen on, on 127.0.0.1. With `container`: what is run in the place of the
    /// image's own command, or its arguments where the image has an entrypoint; the image's own where it is left out.
    #[serde(default)]
    pub command: Vec<String>,
    /// Runs the service as a container of its host's engine, from an image; as a process of a directory where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ServiceContainer>,
    /// The most that an instance may have of its machine.
    #[serde(default, skip_serializing_if = "ServiceResources::is_empty")]
    pub resources: ServiceResources,
    /// GPUs of its host that each instance has: a number, or what each must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<ServiceGpus>,
    /// Environment variables of the service. `PORT`, `SEGUE_SERVICE`, `SEGUE_RELEASE` and `SEGUE_ENVIRONMENT` are set as well.
    #[serde(default)]
    pub env: IndexMap<String, String>,
    /// How readiness is checked.
    #[serde(default)]
    pub health: Health,
    /// Requests that are sent, and must be answered below 500, before the instance gets traffic.
    #[serde(default)]
    pub warm_up: Vec<WarmUp>,
    /// How long answers in flight may go on after the weight has become 0, before they are cut (and counted).
    #[serde(default = "default_drain")]
    pub drain: Span,
    /// How long the release before stays started after a promotion, so that going back is a change of weights.
    #[serde(default = "default_keep_warm")]
    pub keep_warm: Span,
    /// Instances of a release, on all hosts together; each has its share, and one at least.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 64))]
    pub replicas: u32,
    /// Which requests go to this service. Without one: host `<service>.<environment>.localhost`.
    #[serde(default)]
    pub routes: Vec<RouteRule>,
    /// Which of its requests go to one of two releases by a header or a cookie while both have traffic, as in a canary. The first that
    /// matches counts; a request that none matches goes by weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub rules: Vec<ReleaseRule>,
    /// Keeps each client at one release while two have traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// How its data are backed up before a release comes in its place, and brought back. Without one they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<ServiceBackup>,
    /// How its data come to another environment, without what is personal in them. Without one they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<ServiceSync>,
}

impl ServiceSpec {
    /// A service of that name of which nothing else is known: for taking it away.
    #[must_use]
    pub fn named(name: String) -> Self {
        Self {
            name,
            command: Vec::new(),
            container: None,
            resources: ServiceResources::default(),
            gpus: None,
            env: IndexMap::new(),
            health: Health::default(),
            warm_up: Vec::new(),
            drain: default_drain(),
            keep_warm: default_keep_warm(),
            replicas: default_replicas(),
            routes: Vec::new(),
            rules: Vec::new(),
            sticky: None,
            backup: None,
            sync: None,
        }
    }
}

/// How a service's data are backed up, and brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServiceBackup {
    /// The shell command that backs up, in the directory and with the variables of the release that serves. What it writes to its
    /// standard output is the backup; or the file that `SEGUE_BACKUP_FILE` names, where it makes one there. Of a service that runs as a
    /// container it runs in a container of its own, with the volumes, the network and the variables of the service's.
    pub run: String,
    /// The image of that container. Without one it is that of the release that serves. It needs a shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The shell command that brings a backup back. It reads it from its standard input, or from the file that
    /// `SEGUE_BACKUP_FILE` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<String>,
    /// The environments in which a backup is taken before a release comes there.
    #[serde(default = "production_alone")]
    pub environments: Vec<String>,
    /// Which backups stay.
    #[serde(default)]
    pub keep: BackupKeep,
    /// After how many minutes either command is ended.
    #[serde(default = "default_backup_minutes")]
    #[schemars(range(min = 1, max = 1440))]
    pub timeout_minutes: u32,
    /// Whose data they are, where several hosts carry the service.
    #[serde(default)]
    pub hosts: BackupHosts,
}

fn production_alone() -> Vec<String> {
    vec!["production".into()]
}
fn default_backup_minutes() -> u32 {
    30
}

/// Which hosts back up, of several that carry a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackupHosts {
    /// The first that carries it: its data lie in a store that all of them share.
    #[default]
    First,
    /// Each: every one has data of its own.
    Each,
}

/// Which backups of a service stay in an environment, on each host. One goes when it is neither among the last, nor young enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BackupKeep {
    /// The last ones, however old.
    #[schemars(range(min = 1, max = 1000))]
    pub last: u32,
    /// Those of so many days, up to 1000 of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3650))]
    pub days: Option<u32>,
}

impl Default for BackupKeep {
    fn default() -> Self {
        Self { last: 10, days: None }
    }
}

/// How a service is run as a container. What would leave the container can't be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ServiceContainer {
    /// The port that the service listens on in its container, on every address of it. `PORT` and `$PORT` hold it.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Whom its processes run as: `USER`, `UID` or `UID:GID`. Left out: whom the image names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `NAME:/path` or `NAME:/path:ro`: volumes that all instances of the service share in their environment, and that stay over
    /// releases, until the service is taken away; `/path` for one that goes with its container.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Options of `docker create` that stay within the container, as jobs have them: `--read-only --tmpfs /tmp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<String>,
}

impl Default for ServiceContainer {
    fn default() -> Self {
        Self { port: 8080, user: None, volumes: Vec::new(), options: None }
    }
}

/// The most that one instance of a service may have. What is left out has no limit but the machine's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ServiceResources {
    /// Memory, without swap beyond it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Processors; `0.5` is half of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Processes and threads. Left out: 4096.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
}

impl ServiceResources {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn default_drain() -> Span {
    Span::seconds(30)
}
fn default_keep_warm() -> Span {
    Span::seconds(600)
}
fn default_replicas() -> u32 {
    1
}

/// A health check by HTTP GET; an answer from 200 to 399 is healthy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Health {
    /// The path that is asked.
    pub path: String,
    /// Tries before the instance is given up.
    pub tries: u32,
    /// Time between tries.
    pub interval: Span,
    /// Time limit of one try.
    pub timeout: Span,
}

impl Default for Health {
    fn default() -> Self {
        Self { path: "/healthz".into(), tries: 30, interval: Span::seconds(1), timeout: Span::seconds(5) }
    }
}

/// Requests that warm an instance up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct WarmUp {
    /// The path that is asked for, with GET.
    pub path: String,
    /// How often.
    #[serde(default = "default_warm_up_count")]
    #[schemars(range(min = 1, max = 1000))]
    pub count: u32,
}

fn default_warm_up_count() -> u32 {
    1
}

/// Which requests a service gets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RouteRule {
    /// Only in this environment; in all where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// The `Host` of the request without its port; any where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The beginning of the path, at a `/` boundary; the longest match wins.
    #[serde(default = "root_path")]
    pub path: String,
}

fn root_path() -> String {
    "/".into()
}

/// How a release comes to its traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Strategy {
    /// The new beside the old, ready, all traffic at once, drain, stop.
    HotSwap,
    /// By stages, each watched and compared with what ran before.
    Canary(CanarySpec),
    /// Host after host, each step watched and compared with the hosts that still have what ran before.
    Rolling(RollingSpec),
    /// Ready on all hosts, tried where that is asked for, then all traffic at once, watched.
    BlueGreen(BlueGreenSpec),
    /// The other way round: its route and everything that runs of it are taken away.
    Remove,
    /// No release comes: the data of the one that serves are brought back to what they were.
    Restore {
        /// The backup that holds them.
        backup: BackupId,
    },
    /// No release comes: data of another environment take the place of those of the one that serves, without what is personal in them.
    Sync(Box<SyncSpec>),
}

impl Strategy {
    /// Whether it brings data, and no release.
    #[must_use]
    pub const fn brings_data(&self) -> bool {
        matches!(self, Self::Restore { .. } | Self::Sync(_))
    }
}

/// The stages of a canary and the rules of its judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct CanarySpec {
    /// Weights in percent, rising, the last one 100.
    pub stages: Vec<u8>,
    /// How long each stage is watched.
    pub stage_duration: Span,
    /// How long a stage may be held for want of evidence before it is rolled back.
    pub hold_limit: Span,
    /// The judge's rules.
    pub judge: JudgeSpec,
}

impl Default for CanarySpec {
    fn default() -> Self {
        Self {
            stages: vec![10, 50, 100],
            stage_duration: Span::seconds(15 * 60),
            hold_limit: Span::seconds(24 * 3600),
            judge: JudgeSpec::default(),
        }
    }
}

/// The rules by which a canary is judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct JudgeSpec {
    /// Requests that the canary must have answered in a stage before it may go on.
    pub min_requests: u64,
    /// Probability of rolling a release back, over the whole rollout, that is as good as the one before.
    pub false_alarm: f64,
    /// How much higher the canary's error rate may be and still count as no worse (0.01 is one percentage point).
    pub error_margin: f64,
    /// How many times slower the canary may be at the compared quantile and still count as no slower.
    pub latency_ratio: f64,
    /// A difference of latency up to this counts as none, whatever the ratio: where answers take a millisecond, a busy machine
    /// makes them twice as slow.
    pub latency_floor: Span,
    /// The error rate that is never acceptable, whatever the control's is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_error_rate: Option<f64>,
    /// The 95th percentile of latency that is never acceptable, whatever the control's is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_p95: Option<Span>,
}

impl Default for JudgeSpec {
    fn default() -> Self {
        Self {
            min_requests: 50,
            false_alarm: 0.005,
            error_margin: 0.01,
            latency_ratio: 1.25,
            latency_floor: Span::millis(5),
            max_error_rate: None,
            max_p95: None,
        }
    }
}

/// One service's artifact made from one commit. Immutable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Release {
    /// Its number.
    pub id: ReleaseId,
    /// The repository that it comes from, `owner/name`.
    pub repository: String,
    /// The service.
    pub service: String,
    /// The artifact, or the image.
    pub digest: Digest,
    /// The image by its digest, `registry/name@sha256:...`; `sha256:...` alone for one that was built and never pushed, which is at
    /// that engine only. `None`: the release is an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The commit.
    pub commit: CommitSha,
    /// The run that made it.
    pub run: RunId,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What a rollout is to do; stored when it is made and never changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct RolloutSpec {
    /// What is rolled out.
    pub release: Release,
    /// How the service is run.
    pub service: ServiceSpec,
    /// Where to.
    pub environment: String,
    /// The names of the hosts that carry it, each the whole of it. All go the same way at once.
    pub hosts: Vec<String>,
    /// How.
    pub strategy: Strategy,
    /// The release that serves when the rollout is made; none at the first.
    pub previous: Option<Release>,
    /// Whether this goes back to an earlier release.
    pub is_rollback: bool,
    /// Variables of the environment, below those of the service.
    pub variables: IndexMap<String, String>,
    /// After how long without a request its instances are put to sleep, until the next one; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep_after: Option<Span>,
    /// The folder of its own that it has beside its releases; `None`: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataSpec>,
    /// That it brings one of several hosts to what is on record; `None`: it does something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<Repair>,
}

impl RolloutSpec {
    /// Whether it only brings hosts to what is on record. A server that does not say so names the release itself as what served before.
    #[must_use]
    pub fn is_repair(&self) -> bool {
        let is_on_record = |previous: &Release| previous.id == self.release.id;
        let is_unsaid = self.hosts.len() == 1 && self.previous.as_ref().is_some_and(is_on_record);
        self.is_rollback && (self.repair.is_some() || is_unsaid)
    }
}

/// Why one of several hosts is brought to what is on record by a rollout of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Repair {
    /// What the host serves instead, or who asked, in words.
    pub why: String,
    /// The start of the host's process ([`crate::host_api::HostState::start`]) that it was made for. One that fails keeps no other back after
    /// the host's next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_start: Option<u64>,
}

/// A folder that a service has to itself in its environment, for as long as it is there: over pushes, sleeps and restarts. The variable
/// `SEGUE_DATA` holds its path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct DataSpec {
    /// The shell command that fills it before the service is first started, in the release's directory and with the service's variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
}

/// A person's word to a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutCommand {
    /// To 100 % now; of one that goes host after host, on without pauses; of one that stands ready, to all traffic, watched.
    Promote,
    /// Back to the release before, now.
    Abort,
    /// On to the next stage now.
    Skip,
}

/// One entry of a rollout's journal: written before (intent) and after (seen) each change of the world.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct JournalEntry {
    /// Position in the rollout's journal, from 1.
    pub sequence: i64,
    /// The epoch of the lease under which it was written.
    pub epoch: Epoch,
    /// When, by the server's clock; 0 from a worker, filled in by the server.
    #[serde(default)]
    pub at: Timestamp,
    /// What it is.
    pub kind: JournalKind,
    /// The host that it concerns, where it concerns one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What was, is to be, or was seen, in words and numbers that a reader can follow.
    pub detail: serde_json::Value,
}

/// What a journal entry records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JournalKind {
    /// A worker took the rollout over.
    Claimed,
    /// About to start an instance.
    StartIntent,
    /// The instance was started.
    Started,
    /// The readiness ladder's end: ready.
    Ready,
    /// The readiness ladder's end: not ready.
    NotReady,
    /// About to change weights.
    ShiftIntent,
    /// About to take the traffic from everybody, because old and new do not fit side by side: nobody answers for a while.
    GapIntent,
    /// Weights as the host confirmed them.
    Shifted,
    /// A verdict of the judge, with its numbers.
    Verdict,
    /// Held, with the reason.
    Held,
    /// A person's command.
    Command,
    /// About to go back, with the reason.
    RollBackIntent,
    /// Traffic is back.
    RolledBack,
    /// About to drain and stop or retire an instance.
    RetireIntent,
    /// The instance is retired.
    Retired,
    /// The rollout has ended; which release serves.
    Ended,
    /// Changed at the host without the server, and recorded afterwards.
    Emergency,
    /// What a new owner found when it took the rollout over.
    Recovered,
    /// One of several hosts takes no part any more: it does not answer, or it carries something else than the others. It is brought up
    /// to date by a rollout of its own.
    Quarantined,
    /// What was known of a host's GPUs before anything was started on them.
    GpuBaseline,
    /// Something went wrong with GPUs that the rollout's instances have, and whom it is blamed on.
    GpuFinding,
    /// About to back up what serves.
    BackUpIntent,
    /// The backup is kept, or there was nothing to back up.
    BackedUp,
    /// About to bring the data of a backup back.
    RestoreIntent,
    /// They are back.
    Restored,
    /// About to have a host of another environment make a copy of its data without what is personal in them.
    CopyIntent,
    /// The copy is made; what was replaced.
    Copied,
    /// About to bring the copy to a host.
    ImportIntent,
}

/// A rollout as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Rollout {
    /// Its number.
    pub id: RolloutId,
    /// What it is to do.
    pub spec: RolloutSpec,
    /// Where it stands.
    pub status: RolloutStatus,
    /// The run whose step asked for it; none for a person's rollback.
    pub run: Option<RunId>,
    /// The weight of the new release in percent, as last confirmed.
    pub weight: u8,
    /// The stage of a canary, from 0.
    pub stage: usize,
    /// Why it stands where it stands: the hold's or the rollback's reason.
    pub reason: Option<String>,
    /// The last verdict with its numbers.
    pub verdict: Option<serde_json::Value>,
    /// The decision machine's state, so that a new owner goes on where the last one stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<serde_json::Value>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// How a request ended, as the router saw it at one upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered below 500.
    Ok,
    /// Answered with 500 or above.
    ServerError,
    /// No connection, or none in time.
    Unreachable,
    /// Answer began and broke off on the service's side.
    Cut,
    /// The client went away; says nothing about the service.
    ClientGone,
}

impl Outcome {
    /// Whether it counts against the service; `None` where it says nothing.
    #[must_use]
    pub const fn is_error(self) -> Option<bool> {
        match self {
            Self::Ok => Some(false),
            Self::ServerError | Self::Unreachable | Self::Cut => Some(true),
            Self::ClientGone => None,
        }
    }
}

/// One attempt of one request at one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Observation {
    /// Position in the router's stream for this route, rising by one; a jump is a gap.
    pub sequence: u64,
    /// When the answer (or its failure) was complete.
    pub at: Timestamp,
    /// Who answered.
    pub instance: InstanceId,
    /// The probability with which the request was assigned to this instance's release.
    pub probability: f64,
    /// The service's rule by which it went there, from 0; `None`: by weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<u8>,
    /// The HTTP status; 0 without an answer.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// Time to the first byte of the answer, in microseconds.
    pub latency_us: u64,
    /// Time to the end of the answer, in microseconds.
    pub duration_us: u64,
    /// Which try of the request this was, from 1: a retry hides nothing.
    pub attempt: u8,
    /// The client's key (a hash), where the route is sticky; evidence is counted per unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<u64>,
    /// Declared synthetic: sent by Segue or by a load generator that says so.
    #[serde(default)]
    pub synthetic: bool,
}
