//! What people may do, and in which teams they are. <https://docs.github.com/en/rest/collaborators/collaborators>

use http::StatusCode;
use serde_json::json;

use super::{
    Asked, State,
    access::{Level, is_person, may, may_of_organization},
    answer::Answer,
};

/// `GET /repos/{owner}/{repo}/collaborators/{username}/permission`
pub(super) fn permission(state: &State, asked: &Asked, repository: &str, user: &str) -> Result<Answer, Answer> {
    may(state, asked, repository, "metadata", Level::Read)?;
    let known = state.repositories.get(repository).ok_or_else(Answer::not_found)?;
    let permission = known.people.get(user).map_or("none", String::as_str);
    Ok(Answer::ok(json!({"permission": permission, "role_name": permission, "user": {"login": user}})))
}

/// Whose token [`super::PERSONAL_TOKEN`] is.
pub(super) const PERSON: (&str, u64) = ("mona", 99);

/// `GET /user`. <https://docs.github.com/en/rest/users/users#get-the-authenticated-user>
pub(super) fn user(state: &State, asked: &Asked) -> Result<Answer, Answer> {
    if !is_person(state, asked)? {
        return Err(Answer::refusal(StatusCode::FORBIDDEN, "Resource not accessible by integration"));
    }
    Ok(Answer::ok(json!({"login": PERSON.0, "id": PERSON.1, "type": "User"})))
}

/// `GET /orgs/{org}/teams/{team_slug}/memberships/{username}`. <https://docs.github.com/en/rest/teams/members>
pub(super) fn membership(state: &State, asked: &Asked, team: &str, user: &str) -> Result<Answer, Answer> {
    may_of_organization(state, asked, "members", Level::Read)?;
    let membership = state.teams.get(team).and_then(|team| team.get(user)).ok_or_else(Answer::not_found)?;
    Ok(Answer::ok(json!({"state": membership, "role": "member", "url": format!("{}/teams/{team}/{user}", state.url)})))
}
