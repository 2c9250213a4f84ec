//! What goes into the store's operations and comes out of its queries, where `schemas` has no type for it.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use segue_pipelines::{
    checks::{APPROVE, ROLL_BACK},
    progress::Deploys,
    schedule::Schedule,
};
use segue_schemas::{
    api::{AttemptTerms, GivenApproval, HeldJob},
    config::NotificationEvent,
    deploy::{Release, Rollout, RolloutCommand},
    gpu::GpuOffer,
    id::{CommitSha, DeliveryId, Epoch, JobId, RolloutId, RunId, WorkerId},
    plan::{JobPlan, RunPlan},
    status::{FailureClass, JobStatus, RunStatus},
    time::Timestamp,
    trigger::Trigger,
    worker_api::StepReport,
};
use serde::{Deserialize, Serialize};

/// A webhook that passed its signature check.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// GitHub's GUID.
    pub id: DeliveryId,
    /// `X-GitHub-Event`.
    pub event: String,
    /// `owner/name`, where the payload names one.
    pub repository: Option<String>,
    /// The body.
    pub payload: Payload,
    /// What it may start, or why it starts nothing.
    pub meaning: Meaning,
}

/// Where a delivery's body lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// In the database; up to 256 KiB.
    Inline(String),
    /// In a file below `DIR/deliveries/`, synced before the delivery is accepted.
    File {
        /// Its name there.
        name: String,
        /// Its length.
        bytes: u64,
    },
}

/// What a delivery means.
#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    /// It may start runs: the planner looks at it.
    Starts(Trigger),
    /// Somebody asks something of runs that are there, which is done as it is stored.
    Asks(Asked),
    /// Somebody gives a command by a comment: it is done when GitHub has said that they may.
    Commented(super::Comment),
    /// Its runs are stored by the same operation.
    Planned(Trigger),
    /// It is kept and starts nothing; why.
    Ignored(String),
}

/// What somebody asks on GitHub of runs that it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `owner/name`
    pub repository: String,
    /// Who.
    pub by: String,
    /// What.
    pub what: AskedOf,
}

/// What is asked of which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskedOf {
    /// A check is to be made again: the pipeline's whole run, or of a job what failed with it.
    Check {
        /// GitHub's number of it.
        id: i64,
        /// Whether what failed is to be made again, whichever check it is.
        failed: bool,
    },
    /// Every check of a commit.
    Commit(CommitSha),
    /// A button of a check that not everybody who sees it may press: GitHub is asked first.
    Button {
        /// GitHub's number of the check.
        id: i64,
        /// Which.
        button: Button,
    },
}

/// A button of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Button {
    /// Says yes to what waits.
    Approve,
    /// Brings back what served before.
    RollBack,
}

impl Button {
    /// What it is called in the event of its being pressed, and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approve => APPROVE,
            Self::RollBack => ROLL_BACK,
        }
    }

    /// The button of that name.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Approve, Self::RollBack].into_iter().find(|button| button.as_str() == word)
    }
}

/// What became of an accepted delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is stored now.
    New,
    /// It was stored before; nothing has changed.
    Known,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// The planner has not settled it yet.
    Accepted,
    /// It made runs.
    Planned,
    /// It made none, and that is right; the reason is stored.
    Ignored,
    /// It could not be planned; the reason is stored.
    Failed,
}

/// A stored delivery.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// GitHub's GUID.
    pub id: DeliveryId,
    /// In the order of acceptance, from 1.
    pub position: i64,
    /// `X-GitHub-Event`.
    pub event: String,
    /// `owner/name`.
    pub repository: Option<String>,
    /// When it was accepted.
    pub received_at: Timestamp,
    /// What it may start.
    pub trigger: Option<Trigger>,
    /// Where it stands.
    pub state: DeliveryState,
    /// Why it was ignored, why it failed, or why the last try to plan it failed.
    pub reason: Option<String>,
    /// How often planning was tried and put off.
    pub tries: u32,
    /// The planner leaves it alone until then.
    pub next_try_at: Timestamp,
}

/// A run to be stored.
#[derive(Debug, Clone, PartialEq)]
pub enum NewRun {
    /// A pipeline that could be planned.
    Planned(RunPlan),
    /// A pipeline that could not: its run ends failed at once and shows the diagnostics.
    Broken {
        /// The pipeline's file.
        file: String,
        /// Its name as far as it is known: `name:`, or the file's stem.
        pipeline: String,
        /// The diagnostics as they are shown to a person.
        diagnostics: String,
    },
    /// A pipeline whose run was asked to be left out: its run ends skipped at once, and says why. It can be run again.
    Skipped {
        /// What would have run.
        plan: RunPlan,
        /// Why.
        reason: String,
    },
}

/// A schedule of a pipeline on the default branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRecord {
    /// `owner/name`.
    pub repository: String,
    /// The pipeline's file.
    pub file: String,
    /// Its times.
    pub schedule: Schedule,
}

/// What the planner made of a delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Planning {
    /// These runs.
    Runs(Vec<NewRun>),
    /// These runs, of an event whose commit was found out only now: the trigger with it.
    Located(Box<Trigger>, Vec<NewRun>),
    /// Nothing, and why: no pipeline matches.
    Ignored(String),
    /// It can't be planned, now or ever; a person sees why. Counts as settled.
    Failed(String),
}

/// What a person started by hand.
#[derive(Debug, Clone)]
pub struct DispatchOutcome {
    /// Its runs, or those that the same key started before.
    pub runs: Vec<RunRecord>,
    /// Whether they were made now.
    pub new: bool,
}

/// What storing a plan came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanOutcome {
    /// These runs were made.
    Made(Vec<RunId>),
    /// Nothing was to be made.
    Nothing,
    /// The same work was planned before, for another delivery.
    KnownWork(DeliveryId),
    /// This delivery was settled before.
    Settled,
}

/// A run.
#[derive(Debug, Clone)]
pub struct RunRecord {
    /// Its number.
    pub id: RunId,
    /// `owner/name`.
    pub repository: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The pipeline's file.
    pub file: String,
    /// `push`, `pull_request`, `workflow_dispatch`.
    pub event: String,
    /// The ref.
    pub git_ref: String,
    /// The commit.
    pub commit: CommitSha,
    /// The head commit's first line, or the pull request's title.
    pub title: String,
    /// Who caused it.
    pub actor: String,
    /// Whether the code is the repository's own.
    pub trusted: bool,
    /// Where it stands.
    pub status: RunStatus,
    /// Why, where there is something to say.
    pub reason: Option<String>,
    /// The newest attempt, from 1.
    pub attempt: u32,
    /// The delivery that it came from.
    pub delivery: Option<DeliveryId>,
    /// Diagnostics of a pipeline that could not be planned.
    pub diagnostics: Option<String>,
    /// Whether its cancellation was asked for.
    pub cancel_requested: bool,
    /// Who asked for it.
    pub cancelled_by: Option<String>,
    /// When it was planned.
    pub created_at: Timestamp,
    /// When its first job started (of the newest attempt).
    pub started_at: Option<Timestamp>,
    /// When it ended (the newest attempt).
    pub ended_at: Option<Timestamp>,
    /// What the newest attempt was asked for with.
    pub terms: Terms,
}

/// What a list of runs is narrowed to. `None` everywhere: the newest runs.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// `owner/name`.
    pub repository: Option<String>,
    /// The pipeline's name, or the stem of its file.
    pub pipeline: Option<String>,
    /// `push`, ...
    pub event: Option<String>,
    /// The ref.
    pub git_ref: Option<String>,
    /// The commit.
    pub commit: Option<CommitSha>,
    /// The status.
    pub status: Option<RunStatus>,
    /// Only runs with a lower number: where the page before ended.
    pub before: Option<RunId>,
    /// At most this many; 1 to 200.
    pub limit: u32,
}

/// One attempt of a run.
#[derive(Debug, Clone)]
pub struct AttemptRecord {
    /// From 1.
    pub attempt: u32,
    /// How it came about.
    pub kind: AttemptKind,
    /// Who asked for it.
    pub requested_by: String,
    /// With what.
    pub terms: Terms,
    /// How it stands, or stood when the next one began.
    pub status: RunStatus,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When its first job started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// How an attempt came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptKind {
    /// With the run.
    First,
    /// Every job again.
    Whole,
    /// What had not succeeded again; the rest is carried over.
    Failed,
    /// One job from one of its steps on, and what comes after it.
    Step,
}

/// What an attempt was asked for with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// What people see of it.
    #[serde(flatten)]
    pub shown: AttemptTerms,
    /// The context `inputs`, where some are others than those that the run was planned with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved: Option<IndexMap<String, serde_json::Value>>,
}

/// A new attempt that somebody asks for.
#[derive(Debug, Clone)]
pub struct Again {
    /// What of the run.
    pub kind: AttemptKind,
    /// Where it begins, for [`AttemptKind::Step`]: `JOB/STEP`.
    pub from: Option<String>,
    /// Who asks.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
    /// What may deploy again; `None`: it is refused where something would.
    pub deploys: Option<Deploys>,
    /// Whether its steps tell more.
    pub debug: bool,
    /// Inputs that are others than before: as they were given, and the context `inputs` with them.
    pub inputs: Option<(IndexMap<String, String>, IndexMap<String, serde_json::Value>)>,
}

impl Again {
    /// The same once more, as it was.
    #[must_use]
    pub fn of(kind: AttemptKind, by: impl Into<String>) -> Self {
        Self { kind, from: None, by: by.into(), reason: None, deploys: None, debug: false, inputs: None }
    }

    /// With that said about what deploys.
    #[must_use]
    pub fn deploying(self, deploys: Deploys) -> Self {
        Self { deploys: Some(deploys), ..self }
    }
}

/// A job.
#[derive(Debug, Clone)]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// Its run.
    pub run: RunId,
    /// The run's attempt, from 1.
    pub attempt: u32,
    /// What it is to do.
    pub plan: JobPlan,
    /// Where it stands.
    pub status: JobStatus,
    /// Why, where there is something to say.
    pub reason: Option<String>,
    /// What kind of failure it ended in.
    pub failure_class: Option<FailureClass>,
    /// Its evaluated outputs.
    pub outputs: IndexMap<String, String>,
    /// The epoch of its newest lease; 0 before the first.
    pub epoch: Epoch,
    /// The worker that holds it, or held it last.
    pub worker: Option<WorkerId>,
    /// When its lease ends, while it has one.
    pub lease_until: Option<Timestamp>,
    /// When its worker was last heard.
    pub heard_at: Option<Timestamp>,
    /// How often its worker was lost.
    pub tries: u32,
    /// Whether it is to be cancelled.
    pub cancel_requested: bool,
    /// Where it goes on.
    pub next_step: Option<usize>,
    /// The rollout that it waits for.
    pub rollout: Option<RolloutId>,
    /// The job of an earlier attempt whose end it took over.
    pub carried_from: Option<JobId>,
    /// When it became claimable.
    pub queued_at: Option<Timestamp>,
    /// When it was first claimed.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Where what it has deployed can be seen.
    pub environment_url: Option<String>,
}

/// Everything about one attempt of a run.
#[derive(Debug, Clone)]
pub struct RunDetail {
    /// The run.
    pub run: RunRecord,
    /// What caused it.
    pub trigger: Trigger,
    /// The attempt that is shown.
    pub attempt: AttemptRecord,
    /// Its jobs in the plan's order, each with its steps.
    pub jobs: Vec<(JobRecord, Vec<StepReport>)>,
    /// The approvals that its jobs wait for.
    pub approvals: Vec<ApprovalRecord>,
    /// Its rollouts, oldest first.
    pub rollouts: Vec<RolloutId>,
    /// Who said yes to it, oldest first.
    pub given: Vec<GivenApproval>,
}

/// Where a job's log lies.
#[derive(Debug, Clone)]
pub struct LogRecord {
    /// The job.
    pub job: JobId,
    /// Its path below `DIR/logs/`.
    pub path: String,
    /// Its length as the worker last reported it with a report.
    pub bytes: u64,
    /// Whether its job has ended.
    pub closed: bool,
    /// Whether retention has removed it.
    pub removed: bool,
}

/// A rollout with what only the control plane needs to know.
#[derive(Debug, Clone)]
pub struct RolloutRecord {
    /// The rollout.
    pub rollout: Rollout,
    /// The job that waits for it.
    pub job: Option<JobId>,
    /// The step that waits for it.
    pub step: Option<usize>,
    /// Who asked for it.
    pub requested_by: String,
    /// The worker that drives it, or drove it last.
    pub worker: Option<WorkerId>,
    /// The epoch of its newest lease.
    pub epoch: Epoch,
    /// When its lease ends, while it has one.
    pub lease_until: Option<Timestamp>,
    /// A person's word that its owner has not journaled yet.
    pub command: Option<Word>,
}

/// A person's word to a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// What it says.
    pub command: RolloutCommand,
    /// Who said it, and why.
    pub by: String,
    /// Its number, higher than that of every word before; none of one that was said before they had numbers.
    pub number: Option<i64>,
}

/// What a list of releases is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct ReleaseFilter {
    /// `owner/name`.
    pub repository: Option<String>,
    /// The service.
    pub service: Option<String>,
    /// Only those that were rolled out to this environment with success.
    pub environment: Option<String>,
    /// At most this many; 1 to 200. Newest first.
    pub limit: u32,
}

/// A service in an environment.
#[derive(Debug, Clone)]
pub struct ServedRecord {
    /// The environment.
    pub environment: String,
    /// The service.
    pub service: String,
    /// What serves; none before the first rollout has succeeded.
    pub current: Option<Release>,
    /// The rollout that holds the pair's slot, or the next one that will.
    pub open_rollout: Option<RolloutId>,
}

/// Approvals that a job waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRecord {
    /// The job.
    pub job: JobId,
    /// How many are needed.
    pub required: u32,
    /// Who has approved already.
    pub by: Vec<String>,
}

/// What a list of rollouts is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct RolloutFilter {
    /// Only those that a step of this run made.
    pub run: Option<RunId>,
    /// Only of this release.
    pub release: Option<segue_schemas::id::ReleaseId>,
    /// The environment.
    pub environment: Option<String>,
    /// The service.
    pub service: Option<String>,
    /// Only those that have not ended (`true`), or that have.
    pub open: Option<bool>,
    /// At most this many; 1 to 200. Newest first.
    pub limit: u32,
}

/// A release that has served an environment and can be gone back to.
#[derive(Debug, Clone)]
pub struct RollbackPoint {
    /// `rollback-YYYYMMDD-HHMMSS`, with `-2`, `-3`, ... where two fall into one second.
    pub tag: String,
    /// The environment.
    pub environment: String,
    /// The release, which names the service.
    pub release: Release,
    /// The rollout that brought it there first.
    pub rollout: RolloutId,
    /// When it had succeeded.
    pub created_at: Timestamp,
    /// Whether it serves now.
    pub current: bool,
}

/// What to go back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RollbackTarget {
    /// The release that served before the current one; while a rollout runs, what it replaces.
    Previous,
    /// A rollback point's tag.
    Tag(String),
    /// A release's number.
    Release(segue_schemas::id::ReleaseId),
}

/// A worker.
#[derive(Debug, Clone)]
pub struct WorkerRecord {
    /// Its name.
    pub id: WorkerId,
    /// What it offers.
    pub labels: Vec<String>,
    /// Jobs at a time.
    pub capacity: u32,
    /// Its version.
    pub version: String,
    /// When this incarnation registered.
    pub registered_at: Timestamp,
    /// When it was last heard.
    pub heard_at: Timestamp,
    /// The name of the token that it registered with; `None`: the server's own.
    pub token: Option<String>,
    /// Whether that was taken back since.
    pub is_revoked: bool,
    /// Since when it takes no new work.
    pub draining_since: Option<Timestamp>,
    /// What it holds, oldest first.
    pub holds: Vec<HeldJob>,
    /// The rollouts that it drives.
    pub drives: Vec<RolloutId>,
    /// The GPUs that it offers.
    pub gpus: Vec<GpuOffer>,
    /// Those that a job has, by UUID.
    pub taken_gpus: BTreeMap<String, JobId>,
}

/// A job that waits, and what for.
#[derive(Debug, Clone)]
pub struct QueuedJob {
    /// The job.
    pub job: JobId,
    /// Its run.
    pub run: RunId,
    /// Its key.
    pub key: String,
    /// `owner/name`.
    pub repository: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// What it waits for, in words.
    pub reason: String,
}

/// What is queued for one set of labels, and who could take it.
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// Something that people are to be told.
#[derive(Debug, Clone)]
pub struct Notification {
    /// Its number.
    pub id: i64,
    /// What happened.
    pub event: NotificationEvent,
    /// The run.
    pub run: Option<RunId>,
    /// The rollout.
    pub rollout: Option<RolloutId>,
    /// The facts, for the message: `summary` is one sentence, the rest is by kind.
    pub detail: serde_json::Value,
    /// When.
    pub created_at: Timestamp,
    /// Receivers that have been told, by the names that [`crate::store::Store::notification_tried`] got.
    pub told: Vec<String>,
    /// Tries so far.
    pub tries: u32,
}

/// A rollback point whose git tag is not in the repository yet.
#[derive(Debug, Clone)]
pub struct WantedTag {
    /// The tag.
    pub tag: String,
    /// `owner/name`.
    pub repository: String,
    /// What it names.
    pub commit: CommitSha,
}

/// A token of a worker, or of several that are alike; never the token itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerToken {
    /// Its name.
    pub name: String,
    /// What its workers may offer; `None`: anything.
    pub labels: Option<Vec<String>>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
    /// The workers that registered with it.
    pub workers: Vec<WorkerId>,
}

/// What a bearer token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Everything of the public API.
    Admin,
    /// The worker's API.
    Worker,
}

/// Where a secret is given: to every job of the repository, or only to those of one environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretScope {
    /// `owner/name`; `None`: all repositories.
    pub repository: Option<String>,
    /// The environment; `None`: every trusted job.
    pub environment: Option<String>,
}

/// A secret without its value.
#[derive(Debug, Clone)]
pub struct SecretRecord {
    /// Where it is given.
    pub scope: SecretScope,
    /// Its name.
    pub name: String,
    /// Who set it.
    pub updated_by: String,
    /// When.
    pub updated_at: Timestamp,
}

/// Numbers for `/metrics`, read in one go.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Deliveries that wait for the planner.
    pub deliveries_waiting: u64,
    /// Jobs by status, those that have not ended.
    pub jobs: Vec<(JobStatus, u64)>,
    /// Rollouts that have not ended.
    pub rollouts_open: u64,
    /// Workers heard within two leases.
    pub workers: u64,
    /// When the oldest claimable job was queued.
    pub oldest_queued_at: Option<Timestamp>,
}
