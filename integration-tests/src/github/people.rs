//! What people may do. <https://docs.github.com/en/rest/collaborators/collaborators>

use serde_json::json;

use super::{
    Asked, State,
    access::{Level, may},
    answer::Answer,
};

/// `GET /repos/{owner}/{repo}/collaborators/{username}/permission`
pub(super) fn permission(state: &State, asked: &Asked, repository: &str, user: &str) -> Result<Answer, Answer> {
    may(state, asked, repository, "metadata", Level::Read)?;
    let known = state.repositories.get(repository).ok_or_else(Answer::not_found)?;
    let permission = known.people.get(user).map_or("none", String::as_str);
    Ok(Answer::ok(json!({"permission": permission, "role_name": permission, "user": {"login": user}})))
}
