//! What multiplies, holds back, repeats and forgives jobs.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::status::FailureClass;

/// A setting: fixed in the file, or one `${{ }}` that says it when the job's needs have ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(untagged)]
pub enum Setting<T> {
    /// Known.
    Fixed(T),
    /// A template that will be the value.
    Late(String),
}

impl<T: Copy> Setting<T> {
    /// The value, where it is known.
    pub const fn fixed(&self) -> Option<T> {
        match self {
            Self::Fixed(value) => Some(*value),
            Self::Late(_) => None,
        }
    }
}

/// `strategy:` of a job with a matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct StrategyPlan {
    /// The matrix.
    pub matrix: MatrixPlan,
    /// Whether the first combination that fails ends the others.
    pub fail_fast: Setting<bool>,
    /// How many combinations may be at work at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<Setting<u32>>,
}

/// `strategy.matrix` as written. Texts in it may be templates; one that is a single `${{ }}` may stand for a list or a
/// mapping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MatrixPlan {
    /// The whole matrix is what this template says: a mapping like that of `vectors`, with `include` and `exclude` in it.
    Whole(String),
    /// Written out.
    Vectors {
        /// The values of each variable, in the file's order; a list, or a template that says it.
        #[serde(default)]
        vectors: IndexMap<String, serde_json::Value>,
        /// A list of mappings, or a template that says it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        include: Option<serde_json::Value>,
        /// A list of mappings, or a template that says it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exclude: Option<serde_json::Value>,
    },
}

/// Which combination of a matrix a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Combination {
    /// The job's key in the file, which `needs` names. The key of the combination is `JOB (LABEL)`.
    pub job: String,
    /// Its values in words, `linux, 1`; unique in the matrix. `needs.JOB.matrix` has its outputs under it.
    pub label: String,
    /// Its place in the matrix, from 0.
    pub index: u32,
    /// How many there are.
    pub total: u32,
    /// Whether its failure ends the others.
    pub fail_fast: bool,
    /// How many of them may be at work at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
}

/// `concurrency:` of a pipeline or a job: of all that name the same group in one repository, one is at work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct ConcurrencyPlan {
    /// The group's name, without regard to case; a template until it is evaluated.
    pub group: String,
    /// Whether what is at work in the group is cancelled when this comes.
    pub cancel_in_progress: Setting<bool>,
}

/// `retry:` of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct RetryPlan {
    /// How often it is begun again, at most.
    pub max: u32,
    /// After which kinds of failure.
    pub on: Vec<FailureClass>,
    /// How long before it is begun again the first time, in seconds; doubled each time.
    pub backoff_seconds: u64,
}

impl RetryPlan {
    /// The longest pause.
    pub const MAX_BACKOFF_SECONDS: u64 = 3600;

    /// The pause before the `nth` new beginning, from 1, in seconds.
    #[must_use]
    pub fn pause_seconds(&self, nth: u32) -> u64 {
        let doubled = self.backoff_seconds.saturating_mul(1 << nth.saturating_sub(1).min(32));
        doubled.min(Self::MAX_BACKOFF_SECONDS)
    }
}

/// What is evaluated when the needs of a job have ended, and then put into the field of the same name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Late {
    /// A template that says the minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_minutes: Option<String>,
    /// A template that says whether a failure is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continue_on_error: Option<String>,
}

impl Late {
    /// Whether nothing is left to be evaluated.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
