//! Deployments and their statuses. <https://docs.github.com/en/rest/deployments/deployments>,
//! <https://docs.github.com/en/rest/deployments/statuses>

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Asked, State,
    access::{Level, may},
    answer::{Answer, page},
};

/// Characters of a status' description.
const LONGEST: usize = 140;
const STATES: [&str; 7] = ["error", "failure", "inactive", "in_progress", "queued", "pending", "success"];

/// A deployment.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// GitHub's number of it.
    pub id: u64,
    /// `owner/name`
    pub repository: String,
    /// The commit.
    pub sha: String,
    /// Where to.
    pub environment: String,
    /// As it was made.
    pub body: Value,
    /// Its statuses as they were sent, oldest first; one that GitHub added has nothing but its state.
    pub statuses: Vec<Value>,
}

impl Deployment {
    /// The states that it had, oldest first.
    #[must_use]
    pub fn states(&self) -> Vec<&str> {
        self.statuses.iter().filter_map(|status| status["state"].as_str()).collect()
    }

    /// The newest state.
    #[must_use]
    pub fn state(&self) -> &str {
        self.states().last().copied().unwrap_or_default()
    }
}

impl super::GitHub {
    /// The deployments to an environment, oldest first.
    #[must_use]
    pub fn deployments(&self, environment: &str) -> Vec<Deployment> {
        self.state().deployments.iter().filter(|one| one.environment == environment).cloned().collect()
    }
}

/// `POST /repos/{owner}/{repo}/deployments`
pub(super) fn create(state: &mut State, asked: &Asked, repository: &str) -> Result<Answer, Answer> {
    may(state, asked, repository, "deployments", Level::Write)?;
    let Some(sha) = asked.body["ref"].as_str() else { return Err(Answer::invalid("\"ref\" wasn't supplied.")) };
    let known = state.repositories.get(repository).ok_or_else(Answer::not_found)?;
    if !known.has_commit(sha) {
        return Err(Answer::refusal(StatusCode::UNPROCESSABLE_ENTITY, &format!("No ref found for: {sha}")));
    }
    // the default: what is behind the default branch is merged with it, and nothing is deployed
    if asked.body["auto_merge"] != json!(false) && known.branch("main").as_deref() != Some(sha) {
        let body = json!({"message": "Auto-merged main into the ref on deployment."});
        return Ok(Answer::json(StatusCode::ACCEPTED, body));
    }
    // the default: every check that the commit has must have succeeded
    let bypasses = asked.body["required_contexts"].as_array().is_some_and(Vec::is_empty);
    let is_open = |run: &super::CheckRun| {
        run.head_sha == sha && !matches!(run.conclusion.as_deref(), Some("success" | "neutral"))
    };
    if !bypasses && state.check_runs.iter().any(is_open) {
        let message = format!("Conflict: Commit status checks failed for {sha}.");
        return Err(Answer::refusal(StatusCode::CONFLICT, &message));
    }
    let id = state.next_id();
    let environment = asked.body["environment"].as_str().unwrap_or("production").to_owned();
    let (repository, sha) = (repository.to_owned(), sha.to_owned());
    let made = Deployment { id, repository, sha, environment, body: asked.body.clone(), statuses: Vec::new() };
    let answer = Answer::json(StatusCode::CREATED, shown(&made));
    state.deployments.push(made);
    Ok(answer)
}

/// `GET /repos/{owner}/{repo}/deployments`: newest first.
pub(super) fn list(state: &State, asked: &Asked, repository: &str) -> Result<Answer, Answer> {
    may(state, asked, repository, "deployments", Level::Read)?;
    let is = |field: &str, value: &str| asked.query.get(field).is_none_or(|wanted| wanted == value);
    let of_repository = state.deployments.iter().rev().filter(|one| one.repository == repository);
    let found = of_repository.filter(|one| is("sha", &one.sha) && is("environment", &one.environment));
    let (items, link) = page(found.map(shown).collect(), asked, &state.url);
    let answer = Answer::ok(Value::Array(items));
    Ok(match link {
        Some(link) => answer.with("link", link),
        None => answer,
    })
}

/// `POST /repos/{owner}/{repo}/deployments/{deployment_id}/statuses`
pub(super) fn status(state: &mut State, asked: &Asked, repository: &str, id: &str) -> Result<Answer, Answer> {
    may(state, asked, repository, "deployments", Level::Write)?;
    let id: u64 = id.parse().map_err(|_| Answer::not_found())?;
    let found = state.deployments.iter().find(|one| one.repository == repository && one.id == id);
    let environment = found.ok_or_else(Answer::not_found)?.environment.clone();
    let word = asked.body["state"].as_str().unwrap_or_default();
    if !STATES.contains(&word) {
        return Err(Answer::validation("DeploymentStatus", "state", "inclusion"));
    }
    if asked.body["description"].as_str().is_some_and(|text| text.chars().count() > LONGEST) {
        return Err(Answer::validation("DeploymentStatus", "description", "custom"));
    }
    for field in ["log_url", "environment_url"] {
        let is_wrong = |url: &str| !url.is_empty() && !url.starts_with("https://") && !url.starts_with("http://");
        if asked.body[field].as_str().is_some_and(is_wrong) {
            return Err(Answer::validation("DeploymentStatus", field, "custom"));
        }
    }
    let makes_inactive = word == "success" && asked.body["auto_inactive"] != json!(false);
    for one in &mut state.deployments {
        if one.repository != repository {
            continue;
        }
        if one.id == id {
            one.statuses.push(asked.body.clone());
        } else if makes_inactive && one.id < id && one.environment == environment && is_replaceable(one) {
            one.statuses.push(json!({"state": "inactive"}));
        }
    }
    let id = state.next_id();
    Ok(Answer::json(StatusCode::CREATED, json!({"id": id, "state": word, "environment": environment})))
}

/// Whether a later success may make it inactive: neither transient nor production, and it had succeeded.
fn is_replaceable(one: &Deployment) -> bool {
    let production = one.body["production_environment"].as_bool().unwrap_or(one.environment == "production");
    let transient = one.body["transient_environment"].as_bool().unwrap_or(false);
    !production && !transient && one.state() == "success"
}

fn shown(one: &Deployment) -> Value {
    json!({
        "id": one.id, "sha": one.sha, "ref": one.sha, "task": one.body["task"].as_str().unwrap_or("deploy"),
        "environment": one.environment, "payload": one.body["payload"], "description": one.body["description"],
    })
}
