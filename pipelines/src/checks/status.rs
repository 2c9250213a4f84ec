//! The same as a commit status, for those who have no App. <https://docs.github.com/en/rest/commits/statuses>

use serde::Serialize;

use super::{Check, CheckState};

/// Characters of a description.
const DESCRIPTION_CHARS: usize = 140;

/// How a commit stands in one regard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommitStatus {
    /// How it stands.
    pub state: CommitState,
    /// What it is about.
    pub context: String,
    /// One line.
    pub description: String,
    /// Where there is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_url: Option<String>,
}

/// How it stands, in GitHub's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitState {
    /// On its way.
    Pending,
    /// Well.
    Success,
    /// Badly.
    Failure,
    /// It did not come to an end of its own.
    Error,
}

/// A check as a status. What does not stand in the way of a merge as a check (skipped, allowed to fail) does not as a status.
#[must_use]
pub fn commit_status(check: &Check) -> CommitStatus {
    let state = match check.state {
        CheckState::Queued | CheckState::InProgress => CommitState::Pending,
        CheckState::Success | CheckState::Neutral | CheckState::Skipped => CommitState::Success,
        CheckState::Failure => CommitState::Failure,
        CheckState::Cancelled | CheckState::TimedOut => CommitState::Error,
    };
    let title = match check.state {
        CheckState::Skipped if !check.title.starts_with("Skipped") => format!("Skipped: {}", check.title),
        _ => check.title.clone(),
    };
    let description = if title.chars().count() <= DESCRIPTION_CHARS {
        title
    } else {
        title.chars().take(DESCRIPTION_CHARS - 1).chain(['…']).collect()
    };
    CommitStatus { state, context: check.name.clone(), description, target_url: check.details_url.clone() }
}
