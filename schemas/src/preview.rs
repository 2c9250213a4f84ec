//! Previews: the copies of services that open pull requests have.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::{CommitSha, RolloutId, RunId},
    time::Timestamp,
};

/// One preview.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Preview {
    /// Its name, which is the first label of its address and its service's name in the environment `preview`.
    pub name: String,
    /// `owner/name`
    pub repository: String,
    /// The pull request's number.
    pub number: u64,
    /// The service that it is a copy of.
    pub service: String,
    /// How it stands.
    pub state: PreviewState,
    /// Where it is.
    pub url: String,
    /// Whether its code comes from another repository.
    pub is_fork: bool,
    /// The commit that serves; none: nothing did yet.
    pub commit: Option<CommitSha>,
    /// The run that asked for it last.
    pub run: Option<RunId>,
    /// Its newest rollout.
    pub rollout: Option<RolloutId>,
    /// Why it stands as it does.
    pub reason: Option<String>,
    /// When it was first made.
    pub created_at: Timestamp,
    /// When it was last pushed to, or was last known to be used.
    pub touched_at: Timestamp,
    /// When it goes by itself, unless there is a push.
    pub expires_at: Timestamp,
}

/// How a preview stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PreviewState {
    /// Its first rollout is on its way.
    Starting,
    /// It can be reached.
    Serving,
    /// It can be reached: the next request starts it again.
    Asleep,
    /// It never came to serve.
    Failed,
    /// It is being taken away.
    Removing,
    /// Nothing is left of it.
    Gone,
}

impl PreviewState {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Asleep => "asleep",
            Self::Failed => "failed",
            Self::Removing => "removing",
            Self::Gone => "gone",
        }
    }

    /// Whether something of it is there, or comes.
    #[must_use]
    pub const fn is_there(self) -> bool {
        !matches!(self, Self::Removing | Self::Gone)
    }
}

/// Previews.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct PreviewList {
    /// By repository, pull request and service.
    pub items: Vec<Preview>,
}
