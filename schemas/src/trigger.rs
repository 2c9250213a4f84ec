//! What starts runs, after it was checked at the door: nothing behind the webhook sees a raw payload.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::CommitSha;

/// An event that may start runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Trigger {
    /// `owner/name`.
    pub repository: String,
    /// Where to fetch it from, as the event says; the operator's file may name another place.
    pub clone_url: Option<String>,
    /// Who did it.
    pub actor: String,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A branch or tag was pushed.
    Push {
        /// `refs/heads/...` or `refs/tags/...`.
        r#ref: String,
        /// The commit before; all zeros for a new ref.
        before: CommitSha,
        /// The commit after; all zeros for a deleted ref.
        after: CommitSha,
        /// The head commit's message.
        #[serde(default)]
        message: String,
        /// Whether the ref was forced.
        #[serde(default)]
        forced: bool,
    },
    /// A pull request was opened or changed.
    PullRequest {
        /// `opened`, `synchronize`, `reopened`, `closed`, ...
        action: String,
        /// Its number.
        number: u64,
        /// Its title.
        #[serde(default)]
        title: String,
        /// The branch it comes from.
        head_ref: String,
        /// Its newest commit.
        head: CommitSha,
        /// `owner/name` of where it comes from; `None` where that was deleted.
        head_repository: Option<String>,
        /// The branch it goes to.
        base_ref: String,
        /// The commit it goes to.
        base: CommitSha,
        /// Whether it is a draft.
        #[serde(default)]
        draft: bool,
    },
    /// A person asked for a run of a commit, by the API or the command line.
    WorkflowDispatch {
        /// `refs/heads/...` or `refs/tags/...`.
        r#ref: String,
        /// The commit.
        commit: CommitSha,
        /// The pipeline's file stem or name; every pipeline with `on: workflow_dispatch` where it is left out.
        pipeline: Option<String>,
        /// The inputs.
        #[serde(default)]
        inputs: IndexMap<String, String>,
    },
}

impl Event {
    /// The name that `on:` and `github.event_name` use.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Push { .. } => "push",
            Self::PullRequest { .. } => "pull_request",
            Self::WorkflowDispatch { .. } => "workflow_dispatch",
        }
    }

    /// The ref that `github.ref` shows.
    #[must_use]
    pub fn git_ref(&self) -> String {
        match self {
            Self::Push { r#ref, .. } | Self::WorkflowDispatch { r#ref, .. } => r#ref.clone(),
            Self::PullRequest { number, .. } => format!("refs/pull/{number}/merge"),
        }
    }

    /// The commit that is run.
    #[must_use]
    pub const fn commit(&self) -> &CommitSha {
        match self {
            Self::Push { after, .. } => after,
            Self::PullRequest { head, .. } => head,
            Self::WorkflowDispatch { commit, .. } => commit,
        }
    }

    /// Whether the code comes from outside the repository, so that it gets no secrets.
    #[must_use]
    pub fn is_from_fork(&self, repository: &str) -> bool {
        match self {
            Self::PullRequest { head_repository, .. } => head_repository.as_deref() != Some(repository),
            Self::Push { .. } | Self::WorkflowDispatch { .. } => false,
        }
    }
}
