//! Commit statuses, for those who have no App. <https://docs.github.com/en/rest/commits/statuses>

use http::StatusCode;
use serde_json::json;

use super::{
    Asked, State,
    access::{Level, may},
    answer::Answer,
};

/// Statuses of one commit and context.
const MOST: usize = 1_000;
/// Characters of a description.
const LONGEST: usize = 140;

/// One status.
#[derive(Debug, Clone)]
pub struct CommitStatus {
    /// The commit.
    pub sha: String,
    /// What it is about.
    pub context: String,
    /// `error`, `failure`, `pending`, `success`
    pub state: String,
    /// What it says.
    pub description: String,
}

/// `POST /repos/{owner}/{repo}/statuses/{sha}`
pub(super) fn create(state: &mut State, asked: &Asked, repository: &str, sha: &str) -> Result<Answer, Answer> {
    may(state, asked, repository, "statuses", Level::Write)?;
    let word = asked.body["state"].as_str().unwrap_or_default();
    if !["error", "failure", "pending", "success"].contains(&word) {
        return Err(Answer::validation("Status", "state", "custom"));
    }
    let description = asked.body["description"].as_str().unwrap_or_default();
    if description.chars().count() > LONGEST {
        return Err(Answer::validation("Status", "description", "custom"));
    }
    if !state.repositories.get(repository).is_some_and(|known| known.has_commit(sha)) {
        let message = format!("No commit found for SHA: {sha}");
        return Err(Answer::refusal(StatusCode::UNPROCESSABLE_ENTITY, &message));
    }
    let context = asked.body["context"].as_str().unwrap_or("default");
    if state.statuses.iter().filter(|known| known.sha == sha && known.context == context).count() >= MOST {
        return Err(Answer::validation("Status", "base", "custom"));
    }
    let id = state.next_id();
    let body = json!({"id": id, "state": word, "context": context, "description": description});
    state.statuses.push(CommitStatus {
        sha: sha.into(),
        context: context.into(),
        state: word.into(),
        description: description.into(),
    });
    Ok(Answer::json(StatusCode::CREATED, body))
}
