//! A pipeline, read and checked.

use indexmap::IndexMap;
use segue_schemas::{
    gpu::GpuNeed,
    plan::{CallInput, ConcurrencyPlan, ContainerPlan, Late, Permissions, RetryPlan, StepPlan, StrategyPlan},
};

use crate::{filter::Patterns, inputs::Input, schedule::Schedule};

/// A pipeline. Texts that may hold `${{ }}` are kept as written.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// Its name: `name:`, or the file's stem.
    pub name: String,
    /// What starts it.
    pub triggers: Triggers,
    /// `env:`; templates.
    pub env: IndexMap<String, String>,
    /// `concurrency:`.
    pub concurrency: Option<ConcurrencyPlan>,
    /// `permissions:`, for jobs that have none of their own.
    pub permissions: Option<Permissions>,
    /// Its jobs, each after those that it needs; ties in the file's order.
    pub jobs: Vec<Job>,
}

/// What starts a pipeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Triggers {
    /// `push`.
    pub push: Option<PushFilter>,
    /// `pull_request`.
    pub pull_request: Option<PullRequestFilter>,
    /// `schedule`; empty without one.
    pub schedule: Vec<Schedule>,
    /// `workflow_dispatch`.
    pub workflow_dispatch: Option<Dispatch>,
    /// `repository_dispatch`.
    pub repository_dispatch: Option<RepositoryDispatchFilter>,
    /// `issue_comment`.
    pub issue_comment: Option<CommentFilter>,
    /// `workflow_call`.
    pub workflow_call: Option<Callable>,
}

/// Which pushes start it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushFilter {
    /// Of branches. `None`: all, unless only tags are named.
    pub branches: Option<RefFilter>,
    /// Of tags. `None`: all, unless only branches are named.
    pub tags: Option<RefFilter>,
    /// By the files that changed; not asked for tags.
    pub paths: Option<RefFilter>,
}

/// Which pull requests start it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequestFilter {
    /// What must have happened to it.
    pub types: Vec<String>,
    /// By the branch that it goes to.
    pub branches: Option<RefFilter>,
    /// By the files that changed.
    pub paths: Option<RefFilter>,
    /// Whether it runs as well where a push of the same commit to the same branch has run it.
    pub repeat_push: bool,
}

/// Names that are taken in, or names that are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefFilter {
    /// Those that match, with `!` in the list taking out again.
    Only(Patterns),
    /// All but those that match.
    Ignore(Patterns),
}

/// Started by a person.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dispatch {
    /// What it may be given.
    pub inputs: IndexMap<String, Input>,
}

/// Which requests from outside start it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepositoryDispatchFilter {
    /// By their type; `None`: all.
    pub types: Option<Vec<String>>,
}

/// Which comments it is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommentFilter {
    /// By what happened to them.
    pub types: Vec<String>,
}

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its key.
    pub key: String,
    /// `name:`, a template; the key where it is left out.
    pub name: String,
    /// The keys of the jobs before it.
    pub needs: Vec<String>,
    /// `if:`, without `${{ }}`.
    pub condition: Option<String>,
    /// Labels that the worker must have; templates.
    pub runs_on: Vec<String>,
    /// `strategy:`, where it has a matrix.
    pub strategy: Option<StrategyPlan>,
    /// The environment that it changes; a template.
    pub environment: Option<String>,
    /// Where that can be seen; a template.
    pub environment_url: Option<String>,
    /// Whether it may be run again after its worker was lost.
    pub idempotent: bool,
    /// Whether what its directories hold before each step is kept even where it is large.
    pub snapshots: bool,
    /// Time limit in seconds, unless `late` has one.
    pub timeout_seconds: u64,
    /// Whether its failure is none of the run, unless `late` says it.
    pub continue_on_error: bool,
    /// `concurrency:`.
    pub concurrency: Option<ConcurrencyPlan>,
    /// `resources: { gpus: ... }`.
    pub gpus: Option<GpuNeed>,
    /// `container:`.
    pub container: Option<ContainerPlan>,
    /// `services:`.
    pub services: IndexMap<String, ContainerPlan>,
    /// `permissions:`, the job's or the pipeline's.
    pub permissions: Option<Permissions>,
    /// `retry:`.
    pub retry: Option<RetryPlan>,
    /// What its needs will say.
    pub late: Late,
    /// `env:`; templates.
    pub env: IndexMap<String, String>,
    /// `outputs:`; templates.
    pub outputs: IndexMap<String, String>,
    /// The secrets that it names, sorted.
    pub secrets: Vec<String>,
    /// The pipeline that it calls, in the place of steps.
    pub call: Option<Call>,
    /// Its steps.
    pub steps: Vec<StepPlan>,
    /// Line of its key, from 1.
    pub line: usize,
}

/// What a pipeline takes where another one calls it, and what it gives back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Callable {
    /// What it can be given, by name.
    pub inputs: IndexMap<String, Input>,
    /// The secrets that it can be given, and whether it must.
    pub secrets: IndexMap<String, bool>,
    /// What the caller sees as `needs.<job>.outputs`; templates over `jobs`.
    pub outputs: IndexMap<String, String>,
}

/// `uses:` of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The file, from the repository's root.
    pub file: String,
    /// What each of its inputs is.
    pub inputs: IndexMap<String, CallInput>,
    /// The secrets that its jobs get.
    pub secrets: PassedSecrets,
    /// The pipeline in it, read for this call.
    pub pipeline: Box<Pipeline>,
}

/// `secrets:` of a job that calls a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassedSecrets {
    /// All that the caller can see, under their own names.
    All,
    /// These: the name there, and the name here.
    Named(IndexMap<String, String>),
}

impl Default for PassedSecrets {
    fn default() -> Self {
        Self::Named(IndexMap::new())
    }
}
