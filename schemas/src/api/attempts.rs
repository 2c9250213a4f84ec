//! How two attempts of a run differ.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AttemptView;
use crate::{
    id::RunId,
    status::{FailureClass, JobStatus, StepStatus},
};

/// What an attempt was asked for with, where it was more than to run again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(default)]
pub struct AttemptTerms {
    /// Why, in the words of who asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether its steps tell more: `RUNNER_DEBUG=1`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub debug: bool,
    /// The inputs that are others than those that the run was started with.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub inputs: IndexMap<String, String>,
    /// Where it began: `JOB/STEP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The jobs that deploy again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deploys: Vec<String>,
    /// The jobs that stayed as they had ended, because they deploy and nobody asked for that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

impl AttemptTerms {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// In words, one fact each, without a full stop.
    #[must_use]
    pub fn in_words(&self) -> Vec<String> {
        let mut said = Vec::new();
        said.extend(self.from.iter().map(|from| format!("it began at {from}")));
        if !self.inputs.is_empty() {
            let inputs: Vec<String> = self.inputs.iter().map(|(name, value)| format!("{name}={value}")).collect();
            said.push(format!("with other inputs: {}", inputs.join(", ")));
        }
        if self.debug {
            said.push("with debug logging".into());
        }
        if !self.deploys.is_empty() {
            said.push(format!("it deploys again: {}", self.deploys.join(", ")));
        }
        if !self.left_out.is_empty() {
            said.push(format!("it does not deploy again: {} stayed as before", self.left_out.join(", ")));
        }
        said.extend(self.reason.iter().map(|reason| format!("because: {reason}")));
        said
    }
}

/// Which attempts are compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct AttemptsQuery {
    /// The one before; the attempt before `to` where it is left out.
    pub from: Option<u32>,
    /// The one after; the newest where it is left out.
    pub to: Option<u32>,
}

/// Two attempts of a run, job by job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct AttemptsDiff {
    /// The run.
    pub run: RunId,
    /// The one before.
    pub from: AttemptView,
    /// The one after.
    pub to: AttemptView,
    /// The first job, and the step of it, that came out otherwise: `test / unit tests`; `null` where none did.
    pub first: Option<String>,
    /// Every job of either, in the order of the one after.
    pub jobs: Vec<JobDiff>,
}

/// How something of one attempt stands to the same of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// It ran twice, and came out the same.
    Same,
    /// It came out otherwise.
    Differs,
    /// It did not run again: the attempt after has taken it over.
    Carried,
    /// Only the attempt before has it.
    OnlyBefore,
    /// Only the attempt after has it.
    OnlyAfter,
}

/// A job in two attempts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct JobDiff {
    /// Its key in the plan.
    pub key: String,
    /// Whether it came out otherwise.
    pub difference: Difference,
    /// How it stood before.
    pub from: Option<JobOutcome>,
    /// How it stands after.
    pub to: Option<JobOutcome>,
    /// The names of outputs that one of them lacks, or that have another value.
    pub outputs: Vec<String>,
    /// The steps of either, in the plan's order.
    pub steps: Vec<StepDiff>,
}

/// How a job came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct JobOutcome {
    /// How it stands.
    pub status: JobStatus,
    /// Why it failed, was skipped or waits.
    pub reason: Option<String>,
    /// What kind of failure.
    pub failure_class: Option<FailureClass>,
    /// From its claim to its end, in milliseconds.
    pub took_ms: Option<u64>,
}

/// A step in two attempts of its job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct StepDiff {
    /// Which step of the plan, from 0.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Whether it came out otherwise.
    pub difference: Difference,
    /// How it stood before.
    pub from: Option<StepOutcome>,
    /// How it stands after.
    pub to: Option<StepOutcome>,
}

/// How a step came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct StepOutcome {
    /// How it stands.
    pub status: StepStatus,
    /// The exit code of its process.
    pub exit_code: Option<i32>,
    /// Why it failed or was skipped.
    pub reason: Option<String>,
    /// How long it ran, in milliseconds by the worker's clock.
    pub took_ms: Option<u64>,
}
