//! Comments below issues and pull requests, and reactions to them. <https://docs.github.com/en/rest/issues/comments>,
//! <https://docs.github.com/en/rest/reactions/reactions>

use chrono::{DateTime, SecondsFormat, Utc};
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    APP_ID, Asked, State,
    access::{Level, is_person, may},
    answer::{Answer, page},
    people::PERSON,
};

/// Characters of a comment.
const LONGEST: usize = 65_536;
const REACTIONS: [&str; 8] = ["+1", "-1", "laugh", "confused", "heart", "hooray", "rocket", "eyes"];

/// One comment.
#[derive(Debug, Clone)]
pub struct Comment {
    /// GitHub's number of it.
    pub id: u64,
    /// `owner/name`
    pub repository: String,
    /// Of the pull request.
    pub number: u64,
    /// Who wrote it.
    pub user: String,
    /// What it says.
    pub body: String,
    /// When; GitHub tells whole seconds.
    pub created_at: DateTime<Utc>,
    /// The App's reactions to it.
    pub reactions: Vec<String>,
    /// What it said before.
    pub earlier: Vec<String>,
}

impl super::GitHub {
    /// Somebody writes a comment below a pull request; its number, and what the webhook brings.
    pub fn write_comment(&self, repository: &str, number: u64, user: &str, body: &str) -> (u64, Value) {
        let mut state = self.state();
        let (id, created_at) = (state.next_id(), state.now());
        let comment = Comment {
            id,
            repository: repository.into(),
            number,
            user: user.into(),
            body: body.into(),
            created_at,
            reactions: Vec::new(),
            earlier: Vec::new(),
        };
        let payload = json!({
            "action": "created",
            "issue": {"number": number, "pull_request": {"url": "https://api.github.com/repos"}, "state": "open"},
            "comment": shown(&comment),
            "repository": {"full_name": repository, "default_branch": "main"},
            "sender": {"login": user, "type": "User"},
        });
        state.comments.push(comment);
        (id, payload)
    }

    /// Takes a comment away.
    pub fn delete_comment(&self, id: u64) {
        self.state().comments.retain(|comment| comment.id != id);
    }

    /// A comment as it stands.
    #[must_use]
    pub fn comment(&self, id: u64) -> Option<Comment> {
        self.state().comments.iter().find(|comment| comment.id == id).cloned()
    }

    /// The App's comments below a pull request, oldest first.
    #[must_use]
    pub fn answers(&self, number: u64) -> Vec<Comment> {
        let is_answer = |comment: &&Comment| comment.number == number && comment.user == BOT;
        self.state().comments.iter().filter(is_answer).cloned().collect()
    }
}

/// The App's account.
const BOT: &str = "segue-test[bot]";

/// Below a pull request either permission is enough.
fn may_comment(state: &State, asked: &Asked, repository: &str, level: Level) -> Result<(), Answer> {
    may(state, asked, repository, "pull_requests", level).or_else(|_| may(state, asked, repository, "issues", level))
}

/// `POST /repos/{owner}/{repo}/issues/{issue_number}/comments`
pub(super) fn create(state: &mut State, asked: &Asked, repository: &str, number: &str) -> Result<Answer, Answer> {
    may_comment(state, asked, repository, Level::Write)?;
    let number: u64 = number.parse().map_err(|_| Answer::not_found())?;
    if !state.repositories.get(repository).is_some_and(|known| known.has_pull(number)) {
        return Err(Answer::not_found());
    }
    let body = text(asked)?;
    let (id, created_at) = (state.next_id(), state.now());
    let (repository, body) = (repository.to_owned(), body.to_owned());
    let user = if is_person(state, asked)? { PERSON.0 } else { BOT }.into();
    let (reactions, earlier) = (Vec::new(), Vec::new());
    let comment = Comment { id, repository, number, user, body, created_at, reactions, earlier };
    let answer = Answer::json(StatusCode::CREATED, shown(&comment));
    state.comments.push(comment);
    Ok(answer)
}

/// `PATCH /repos/{owner}/{repo}/issues/comments/{comment_id}`
pub(super) fn update(state: &mut State, asked: &Asked, repository: &str, id: &str) -> Result<Answer, Answer> {
    may_comment(state, asked, repository, Level::Write)?;
    let body = text(asked)?.to_owned();
    let found =
        state.comments.iter_mut().find(|comment| comment.repository == repository && comment.id.to_string() == id);
    let comment = found.ok_or_else(Answer::not_found)?;
    comment.earlier.push(std::mem::replace(&mut comment.body, body));
    Ok(Answer::ok(shown(comment)))
}

/// What a comment is to say.
fn text<'r>(asked: &'r Asked) -> Result<&'r str, Answer> {
    let Some(body) = asked.body["body"].as_str() else {
        return Err(Answer::invalid("\"body\" wasn't supplied."));
    };
    if body.trim().is_empty() {
        return Err(Answer::validation("IssueComment", "body", "missing_field"));
    }
    if body.chars().count() > LONGEST {
        return Err(Answer::validation("IssueComment", "body", "custom"));
    }
    Ok(body)
}

/// `GET /repos/{owner}/{repo}/issues/{issue_number}/comments`: oldest first, `since` by when they were changed.
pub(super) fn list(state: &State, asked: &Asked, repository: &str, number: &str) -> Result<Answer, Answer> {
    may_comment(state, asked, repository, Level::Read)?;
    let since = match asked.query.get("since") {
        Some(text) => match DateTime::parse_from_rfc3339(text) {
            Ok(since) => Some(since.timestamp()),
            Err(_) => return Err(Answer::validation("IssueComment", "since", "invalid")),
        },
        None => None,
    };
    let found = state.comments.iter().filter(|comment| {
        comment.repository == repository
            && comment.number.to_string() == number
            && since.is_none_or(|since| comment.created_at.timestamp() >= since)
    });
    let (items, link) = page(found.map(shown).collect(), asked, &state.url);
    let answer = Answer::ok(Value::Array(items));
    Ok(match link {
        Some(link) => answer.with("link", link),
        None => answer,
    })
}

/// `POST /repos/{owner}/{repo}/issues/comments/{comment_id}/reactions`: 200 for one that is there.
pub(super) fn react(state: &mut State, asked: &Asked, repository: &str, id: &str) -> Result<Answer, Answer> {
    may_comment(state, asked, repository, Level::Write)?;
    let content = asked.body["content"].as_str().unwrap_or_default().to_owned();
    if !REACTIONS.contains(&content.as_str()) {
        return Err(Answer::validation("Reaction", "content", "invalid"));
    }
    let found =
        state.comments.iter_mut().find(|comment| comment.repository == repository && comment.id.to_string() == id);
    let comment = found.ok_or_else(Answer::not_found)?;
    let is_known = comment.reactions.contains(&content);
    let body = json!({"id": comment.id, "user": {"login": BOT, "type": "Bot"}, "content": content});
    if !is_known {
        comment.reactions.push(content);
    }
    Ok(Answer::json(if is_known { StatusCode::OK } else { StatusCode::CREATED }, body))
}

fn shown(comment: &Comment) -> Value {
    let is_app = comment.user == BOT;
    let kind = if is_app { "Bot" } else { "User" };
    let user_id = if comment.user == PERSON.0 { PERSON.1 } else { 1 };
    let app = is_app.then(|| json!({"id": APP_ID, "slug": "segue-test", "client_id": "Iv23liExample"}));
    let at = comment.created_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    json!({
        "id": comment.id, "user": {"login": comment.user, "id": user_id, "type": kind}, "body": comment.body,
        "created_at": at, "updated_at": at, "author_association": "NONE", "performed_via_github_app": app,
    })
}
