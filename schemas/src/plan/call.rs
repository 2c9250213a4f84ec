//! A job that calls another pipeline of the repository, and the jobs that it becomes.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::JobPlan;

/// What a job calls: a pipeline file, as it was at the commit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct CallPlan {
    /// The file, from the repository's root.
    pub file: String,
    /// The context `inputs` of its jobs: what is given, or the file's defaults.
    #[serde(default)]
    pub inputs: IndexMap<String, CallInput>,
    /// `env:` of the file; templates. That of the caller's file is not seen.
    #[serde(default)]
    pub env: IndexMap<String, String>,
    /// What `needs.<caller>.outputs` is once its jobs have ended; templates over `jobs`, `github`, `vars` and `inputs`.
    #[serde(default)]
    pub outputs: IndexMap<String, String>,
    /// Its jobs in topological order, with the keys that they have in the file.
    #[schema(no_recursion)]
    pub jobs: Vec<JobPlan>,
}

/// An input of a called pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct CallInput {
    /// What it may be.
    pub kind: CallInputKind,
    /// What it is; a text with `${{ }}` is a template in the contexts of the calling job, evaluated when its needs have ended.
    pub value: Value,
}

/// What an input of a called pipeline may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallInputKind {
    /// Any text.
    String,
    /// `true` or `false`.
    Boolean,
    /// A number.
    Number,
}

/// A job of a called pipeline, within a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Called {
    /// The key of the job that called.
    pub by: String,
    /// The context `inputs`, in the place of the run's.
    pub inputs: IndexMap<String, Value>,
    /// `env:` of its file, in the place of the run's; templates.
    #[serde(default)]
    pub env: IndexMap<String, String>,
}
