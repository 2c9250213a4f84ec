//! A run as it is planned: what the planner stores, the control plane advances and a worker executes. Texts that may
//! hold `${{ }}` are kept as written and evaluated where their contexts are known.

mod call;
mod container;
mod strategy;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::gpu::{self, GpuNeed};

pub use call::{CallInput, CallInputKind, CallPlan, Called};
pub use container::{Access, ContainerPlan, Permissions, RegistryCredentials, Resources};
pub use strategy::{Combination, ConcurrencyPlan, Late, MatrixPlan, RetryPlan, Setting, StrategyPlan};

/// What a worker offers that runs jobs in containers.
pub const DOCKER_LABEL: &str = "docker";
/// The action that builds an image, at such an engine.
pub const BUILD_IMAGE: &str = "segue/build-image";

/// One pipeline, planned for one event.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct RunPlan {
    /// The pipeline's file, from the repository's root.
    pub file: String,
    /// Its name: `name:`, or the file's stem.
    pub pipeline: String,
    /// `env:` of the pipeline; templates.
    #[serde(default)]
    pub env: IndexMap<String, String>,
    /// The context `inputs`: what a person gave or the pipeline's defaults, each of its own type.
    #[serde(default)]
    pub inputs: IndexMap<String, serde_json::Value>,
    /// Whether a push and a pull request of one commit of one branch run it once: it is for both, and nobody asked for more.
    #[serde(default)]
    pub once_per_head: bool,
    /// `concurrency:` of the pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencyPlan>,
    /// Its jobs in topological order, ties in the file's order.
    pub jobs: Vec<JobPlan>,
}

/// One job. What in it is a template is evaluated when the needs have ended, unless it says otherwise, and replaced by its
/// value.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct JobPlan {
    /// Its key under `jobs:`, which `needs` names. Unique within the plan.
    pub key: String,
    /// Its name for people; a template.
    pub name: String,
    /// The keys of the jobs that must end before.
    #[serde(default)]
    pub needs: Vec<String>,
    /// `if:`, one expression without `${{ }}`; `None`: `success()`.
    #[serde(default, rename = "if", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Labels that the worker must have, all of them; templates.
    pub runs_on: Vec<String>,
    /// The environment that it changes; a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Where what it deploys can be seen; a template over `steps` and the job's other contexts, evaluated at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment_url: Option<String>,
    /// Whether it may be run again after its worker was lost, although it has an environment.
    #[serde(default)]
    pub idempotent: bool,
    /// Whether what its directories hold before each step is kept even where it is large.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub snapshots: bool,
    /// Time limit in seconds, waiting not counted.
    pub timeout_seconds: u64,
    /// `env:` of the job; templates.
    #[serde(default)]
    pub env: IndexMap<String, String>,
    /// `outputs:`; templates over `steps` and the job's other contexts.
    #[serde(default)]
    pub outputs: IndexMap<String, String>,
    /// Names of the secrets that the job's texts use.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// The names under which some of them are stored, where a caller passed them under others.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub stored_secrets: IndexMap<String, String>,
    /// `strategy:` of a job with a matrix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<StrategyPlan>,
    /// Which combination of the matrix it is; `None` until its matrix is evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combination: Option<Combination>,
    /// The values of its combination; empty without one.
    #[serde(default)]
    pub matrix: IndexMap<String, serde_json::Value>,
    /// Whether its failure is no failure of the run.
    #[serde(default)]
    pub continue_on_error: bool,
    /// `concurrency:` of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencyPlan>,
    /// When it is begun again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPlan>,
    /// The container that its steps run in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerPlan>,
    /// Containers beside it, by name.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub services: IndexMap<String, ContainerPlan>,
    /// GPUs that it has to itself while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<GpuNeed>,
    /// What the repository's token may be used for; `None`: nothing is said, in the job or in the pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Permissions>,
    /// What is still to be evaluated.
    #[serde(default, skip_serializing_if = "Late::is_empty")]
    pub late: Late,
    /// The pipeline that it calls, in the place of steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<Box<CallPlan>>,
    /// The call that it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub called: Option<Called>,
    /// Its steps, in order.
    pub steps: Vec<StepPlan>,
}

impl JobPlan {
    /// Whether its steps are to run in a container, or beside one.
    #[must_use]
    pub fn asks_for_container(&self) -> bool {
        self.container.is_some() || !self.services.is_empty()
    }

    /// Whether a step of it, or of an action that it uses, builds an image.
    #[must_use]
    pub fn builds_image(&self) -> bool {
        self.steps.iter().any(StepPlan::builds_image)
    }

    /// What a worker must offer to have it: its labels, [`DOCKER_LABEL`] where it asks for a container, or builds an image, and one that
    /// stands for its GPUs ([`gpu::wanted_label`]).
    #[must_use]
    pub fn needed_labels(&self) -> Vec<String> {
        let own = self.runs_on.iter().map(String::as_str);
        let asks_for_engine = self.asks_for_container() || self.builds_image();
        let engine =
            (asks_for_engine && !self.runs_on.iter().any(|label| label == DOCKER_LABEL)).then_some(DOCKER_LABEL);
        own.chain(engine).map(str::to_owned).chain(self.gpus.as_ref().map(gpu::wanted_label)).collect()
    }

    /// The job's key in the file: its own, or that of the job that it is a combination of.
    #[must_use]
    pub fn file_key(&self) -> &str {
        self.combination.as_ref().map_or(&self.key, |combination| &combination.job)
    }

    /// That without the keys of the jobs that called its pipeline.
    #[must_use]
    pub fn local_key(&self) -> &str {
        let key = self.file_key();
        key.rsplit('/').next().unwrap_or(key)
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct StepPlan {
    /// `id:`, by which `steps` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its name for people: `name:`, else the action or the first line of the script; a template.
    pub name: String,
    /// `if:`, one expression without `${{ }}`; `None`: `success()`.
    #[serde(default, rename = "if", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// `env:`; templates.
    #[serde(default)]
    pub env: IndexMap<String, String>,
    /// From the workspace's root; a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// Time limit of one try in seconds; the job's where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    /// The same in minutes, where it is a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_minutes: Option<String>,
    /// Whether its failure leaves the job's success alone.
    #[serde(default)]
    pub continue_on_error: bool,
    /// The same, where it is a template that gives `true` or `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continue_on_error_when: Option<String>,
    /// Whether it is tried again after it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<StepRetry>,
    /// What it does.
    pub action: StepAction,
    /// Line of the step in the pipeline's file, from 1.
    pub line: usize,
}

/// How a step is tried again after it failed or took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct StepRetry {
    /// Tries after the first one.
    pub max: u32,
    /// Milliseconds before the second try; twice as long before each one after it, up to five minutes.
    pub backoff_ms: u64,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepAction {
    /// A script.
    Run {
        /// The script; a template, in which no untrusted value may stand.
        script: String,
        /// `bash`, `sh`, or a template with `{0}`.
        shell: String,
    },
    /// An action.
    Uses {
        /// Its name, `segue/checkout`.
        uses: String,
        /// `with:`; templates.
        #[serde(default)]
        with: IndexMap<String, String>,
    },
    /// A composite action, as its file was at the commit.
    Composite(CompositePlan),
}

/// A composite action within a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct CompositePlan {
    /// Its name, as `uses` says it.
    pub uses: String,
    /// What `inputs` holds in it; templates in the contexts of the step.
    #[serde(default)]
    pub inputs: IndexMap<String, String>,
    /// What the step's outputs are; templates in the contexts of the action.
    #[serde(default)]
    pub outputs: IndexMap<String, String>,
    /// Its steps, in order. They see neither steps nor secrets of the job.
    pub steps: Vec<StepPlan>,
}

impl StepPlan {
    fn builds_image(&self) -> bool {
        match &self.action {
            StepAction::Composite(composite) => composite.steps.iter().any(Self::builds_image),
            action => action.uses().is_some_and(|uses| uses.split('@').next() == Some(BUILD_IMAGE)),
        }
    }
}

impl StepAction {
    /// The name of the action that is used, if one is.
    #[must_use]
    pub fn uses(&self) -> Option<&str> {
        match self {
            Self::Run { .. } => None,
            Self::Uses { uses, .. } | Self::Composite(CompositePlan { uses, .. }) => Some(uses),
        }
    }
}
