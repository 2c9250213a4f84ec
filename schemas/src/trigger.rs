//! What starts runs, after it was checked at the door: nothing behind the webhook sees a raw payload.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{id::CommitSha, time::Timestamp};

/// An event that may start runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Trigger {
    /// `owner/name`.
    pub repository: String,
    /// Where to fetch it from, as the event says; the operator's file may name another place.
    pub clone_url: Option<String>,
    /// Who did it.
    pub actor: String,
    /// Whose work it brings, as far as that is told: the accounts of the newest commit's author and committer, and who opened the pull
    /// request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authors: Vec<String>,
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
        /// The message of its newest commit; empty where it is not known yet.
        #[serde(default)]
        message: String,
        /// Whether it was closed when this was told.
        #[serde(default)]
        is_closed: bool,
        /// The commit that was its newest before; told with `synchronize`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<CommitSha>,
        /// When it last changed, by GitHub's clock; 0 where that is not told.
        #[serde(default)]
        updated_at: Timestamp,
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
    /// A time that a pipeline of the default branch names has come.
    Schedule {
        /// The default branch, `refs/heads/...`.
        r#ref: String,
        /// Its newest commit.
        commit: CommitSha,
        /// The pipeline's file; every one with such a schedule where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<String>,
        /// The `cron:` as written; any where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cron: Option<String>,
        /// The `timezone:` beside it; UTC where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timezone: Option<String>,
        /// When it was due.
        due: Timestamp,
    },
    /// Something outside of the repository asked for it, by GitHub's API or by ours.
    RepositoryDispatch {
        /// The default branch, `refs/heads/...`; empty until it is known.
        r#ref: String,
        /// Its newest commit; all zeros until it is known.
        commit: CommitSha,
        /// What `types` names: `event_type` of the request, `action` of the payload.
        action: String,
        /// The request's own data, as it came.
        #[serde(default)]
        client_payload: serde_json::Value,
    },
    /// Somebody wrote below an issue or a pull request.
    IssueComment {
        /// `created`, `edited` or `deleted`.
        action: String,
        /// The default branch, `refs/heads/...`; empty until it is known.
        r#ref: String,
        /// Its newest commit; all zeros until it is known.
        commit: CommitSha,
        /// The number of the issue or pull request.
        number: u64,
        /// Whether it is a pull request.
        is_pull_request: bool,
        /// What was written.
        body: String,
        /// What its author is to the repository, as GitHub says: `OWNER`, `MEMBER`, `NONE`, ...
        #[serde(default)]
        author_association: String,
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
            Self::Schedule { .. } => "schedule",
            Self::RepositoryDispatch { .. } => "repository_dispatch",
            Self::IssueComment { .. } => "issue_comment",
        }
    }

    /// The ref that `github.ref` shows.
    #[must_use]
    pub fn git_ref(&self) -> String {
        match self {
            Self::Push { r#ref, .. }
            | Self::WorkflowDispatch { r#ref, .. }
            | Self::Schedule { r#ref, .. }
            | Self::RepositoryDispatch { r#ref, .. }
            | Self::IssueComment { r#ref, .. } => r#ref.clone(),
            Self::PullRequest { number, .. } => format!("refs/pull/{number}/merge"),
        }
    }

    /// The commit that is run.
    #[must_use]
    pub const fn commit(&self) -> &CommitSha {
        match self {
            Self::Push { after, .. } => after,
            Self::PullRequest { head, .. } => head,
            Self::WorkflowDispatch { commit, .. }
            | Self::Schedule { commit, .. }
            | Self::RepositoryDispatch { commit, .. }
            | Self::IssueComment { commit, .. } => commit,
        }
    }

    /// Whether there is code that was not there before: a push, or a pull request that was opened or got a new commit.
    #[must_use]
    pub fn brings_code(&self) -> bool {
        match self {
            Self::Push { .. } => true,
            Self::PullRequest { action, .. } => matches!(action.as_str(), "opened" | "synchronize" | "reopened"),
            Self::WorkflowDispatch { .. }
            | Self::Schedule { .. }
            | Self::RepositoryDispatch { .. }
            | Self::IssueComment { .. } => false,
        }
    }

    /// Says which commit of which ref it is about, for the events of which that is only found out later.
    pub fn locate(&mut self, git_ref: String, at: CommitSha) {
        match self {
            Self::WorkflowDispatch { r#ref, commit, .. }
            | Self::Schedule { r#ref, commit, .. }
            | Self::RepositoryDispatch { r#ref, commit, .. }
            | Self::IssueComment { r#ref, commit, .. } => (*r#ref, *commit) = (git_ref, at),
            Self::Push { .. } | Self::PullRequest { .. } => {}
        }
    }

    /// Whether the code comes from outside the repository, so that it gets no secrets.
    #[must_use]
    pub fn is_from_fork(&self, repository: &str) -> bool {
        match self {
            Self::PullRequest { head_repository, .. } => head_repository.as_deref() != Some(repository),
            Self::Push { .. }
            | Self::WorkflowDispatch { .. }
            | Self::Schedule { .. }
            | Self::RepositoryDispatch { .. }
            | Self::IssueComment { .. } => false,
        }
    }
}
