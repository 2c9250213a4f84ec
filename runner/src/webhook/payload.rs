//! From a payload's bytes to what it means: a [`Trigger`], or why nothing is to be done. Shapes after GitHub's "Webhook
//! events and payloads"; fields are null or missing in practice wherever that is not contradicted (a fork that was deleted
//! leaves `head.repo` null, a deleted branch `head_commit`, an old GitHub Enterprise no `draft`).

mod upkeep;

use std::io::Read;

use segue_pipelines::checks::RERUN_FAILED;
use segue_schemas::{
    id::CommitSha,
    time::Timestamp,
    trigger::{Event, Trigger},
};
use serde::Deserialize;

pub use self::upkeep::Upkeep;
use super::field::{Field, FieldError, Free, List, Object};
use crate::{
    mirror::{RefName, RepositoryName},
    store::{Asked, AskedOf, Button},
};

/// What a delivery means.
#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    /// Runs may come of it.
    Trigger(Box<Trigger>),
    /// Somebody asks something of runs that GitHub shows.
    Asks(Asked),
    /// Somebody wrote something, which may hold a command.
    Comment(Box<Trigger>, Written),
    /// Nothing comes of it here, and the operator may have something to do.
    Upkeep(Upkeep),
    /// Nothing comes of it.
    Ignored {
        /// `owner/name`, where the payload has a usable one.
        repository: Option<String>,
        /// Why.
        reason: String,
    },
}

/// What is known of a comment besides its text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    /// GitHub's number of it; `None`: the payload has none.
    pub id: Option<i64>,
    /// When it was written, by GitHub's clock.
    pub at: Option<Timestamp>,
    /// The account that wrote it.
    pub author: Option<String>,
    /// Whether that is an App's.
    pub is_bot: bool,
}

/// A payload that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// It is no JSON, or no object.
    #[error("the payload is not readable JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A needed field is not there.
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// Reads the payload of an `event`.
///
/// # Errors
/// [`PayloadError`] for what is no JSON object, and for a missing field that the event can't do without.
pub fn read(event: &str, payload: impl Read) -> Result<Meaning, PayloadError> {
    let mut deserializer = serde_json::Deserializer::from_reader(payload);
    let field = Field::<Object<Payload>>::deserialize(&mut deserializer)?;
    deserializer.end()?;
    let payload = field.need("the top level")?.0;
    interpret(event, payload)
}

/// As [`read`], from memory: several times faster than from a reader.
///
/// # Errors
/// As [`read`].
pub fn read_slice(event: &str, payload: &[u8]) -> Result<Meaning, PayloadError> {
    let payload = serde_json::from_slice::<Field<Object<Payload>>>(payload)?.need("the top level")?.0;
    interpret(event, payload)
}

/// Whether a ref is a tag that Segue itself sets for a rollback point: `refs/tags/rollback-YYYYMMDD-HHMMSS`.
#[must_use]
pub fn is_rollback_tag(git_ref: &str) -> bool {
    let Some(stamp) = git_ref.strip_prefix("refs/tags/rollback-") else { return false };
    let bytes = stamp.as_bytes();
    bytes.len() >= 15
        && bytes[..8].iter().all(u8::is_ascii_digit)
        && bytes[8] == b'-'
        && bytes[9..15].iter().all(u8::is_ascii_digit)
        // two promotions within one second: `-2`, `-3`, ...
        && (bytes.len() == 15 || (bytes[15] == b'-' && bytes.len() > 16 && bytes[16..].iter().all(u8::is_ascii_digit)))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Payload {
    action: Field<String>,
    r#ref: Field<String>,
    before: Field<String>,
    after: Field<String>,
    forced: Field<bool>,
    head_commit: Field<Object<Commit>>,
    number: Field<u64>,
    pull_request: Field<Object<PullRequest>>,
    repository: Field<Object<Repository>>,
    sender: Field<Object<Account>>,
    pusher: Field<Object<Account>>,
    branch: Field<String>,
    client_payload: Field<Free>,
    issue: Field<Object<Issue>>,
    comment: Field<Object<Comment>>,
    check_run: Field<Object<Check>>,
    check_suite: Field<Object<Check>>,
    requested_action: Field<Object<RequestedAction>>,
    zen: Field<String>,
    changes: Field<Object<upkeep::Changes>>,
    installation: Field<Object<upkeep::Installation>>,
    account: Field<Object<Account>>,
    repositories_added: Field<List<Repository>>,
    repositories_removed: Field<List<Repository>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Commit {
    id: Field<String>,
    message: Field<String>,
    author: Field<Object<Signature>>,
    committer: Field<Object<Signature>>,
}

/// Who wrote or made a commit; the account, where its address is one's.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Signature {
    username: Field<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Repository {
    full_name: Field<String>,
    clone_url: Field<String>,
    default_branch: Field<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Issue {
    number: Field<u64>,
    pull_request: Field<Object<Nothing>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Comment {
    id: Field<u64>,
    created_at: Field<String>,
    user: Field<Object<Account>>,
    body: Field<String>,
    author_association: Field<String>,
}

/// A check run, or a suite of them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Check {
    id: Field<u64>,
    head_sha: Field<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RequestedAction {
    identifier: Field<String>,
}

/// An object of which only its being there counts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Nothing {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Account {
    login: Field<String>,
    name: Field<String>,
    r#type: Field<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PullRequest {
    number: Field<u64>,
    title: Field<String>,
    draft: Field<bool>,
    state: Field<String>,
    updated_at: Field<String>,
    user: Field<Object<Account>>,
    /// Not GitHub's: `segue explain` can say it.
    head_message: Field<String>,
    head: Field<Object<Branch>>,
    base: Field<Object<Branch>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Branch {
    r#ref: Field<String>,
    sha: Field<String>,
    repo: Field<Object<Repository>>,
}

fn interpret(event: &str, payload: Payload) -> Result<Meaning, PayloadError> {
    match event {
        "push" => push(payload),
        "pull_request" => pull_request(payload),
        "repository_dispatch" => repository_dispatch(payload),
        "issue_comment" => issue_comment(payload),
        "check_run" => check_run(payload),
        "check_suite" => check_suite(payload),
        "repository" => Ok(upkeep::repository(payload)),
        "installation" => Ok(upkeep::installation(payload)),
        "installation_repositories" => Ok(upkeep::installation_repositories(payload)),
        "installation_target" => Ok(upkeep::installation_target(payload)),
        "ping" => {
            let zen = payload.zen.get().map(|zen| format!(" ({zen})")).unwrap_or_default();
            Ok(ignored(payload.repository, format!("a ping{zen}: the webhook works, and asks for nothing")))
        }
        other => Ok(ignored(payload.repository, format!("nothing is run for the event `{other}`"))),
    }
}

fn push(payload: Payload) -> Result<Meaning, PayloadError> {
    let actor = actor(payload.sender, payload.pusher);
    let (repository, clone_url) = identify(payload.repository)?;
    let git_ref = payload.r#ref.need("ref")?;
    let before = commit(payload.before, "before")?;
    let after = commit(payload.after, "after")?;
    let ignored = |reason: String| Ok(Meaning::Ignored { repository: Some(repository.clone()), reason });
    if after.is_zero() {
        return ignored(format!("`{git_ref}` was deleted"));
    }
    if is_rollback_tag(&git_ref) {
        return ignored(format!("`{git_ref}` is a rollback point that was set by Segue"));
    }
    if !git_ref.starts_with("refs/heads/") && !git_ref.starts_with("refs/tags/") {
        return ignored(format!("`{git_ref}` is neither a branch nor a tag"));
    }
    let git_ref = RefName::parse(&git_ref)
        .map_err(|error| FieldError::Invalid { path: "ref", reason: error.to_string() })?
        .into_string();
    let head = payload.head_commit.get().map(|commit| commit.0).unwrap_or_default();
    let message = head.message.get().unwrap_or_default();
    // of an annotated tag `after` is the tag's own object, to which no check can be made:
    // https://github.blog/changelog/2021-10-01-the-push-webhook-payload-provides-a-consistent-head_commit-on-tag-creation/
    let tagged = head.id.get().filter(|_| git_ref.starts_with("refs/tags/")).and_then(|id| id.parse().ok());
    let after = tagged.unwrap_or(after);
    let signed = [head.author, head.committer].map(|one| one.get().and_then(|one| one.0.username.get()));
    let authors = accounts(signed);
    let forced = payload.forced.get().unwrap_or(false);
    let event = Event::Push { r#ref: git_ref, before, after, message, forced };
    Ok(Meaning::Trigger(Box::new(Trigger { repository, clone_url, actor, authors, event })))
}

fn pull_request(payload: Payload) -> Result<Meaning, PayloadError> {
    let actor = actor(payload.sender, payload.pusher);
    let (repository, clone_url) = identify(payload.repository)?;
    let action = payload.action.need("action")?;
    let pull_request = payload.pull_request.need("pull_request")?.0;
    let number = match payload.number.get() {
        Some(number) => number,
        None => pull_request.number.need("pull_request.number")?,
    };
    let authors = accounts([pull_request.user.get().and_then(|user| user.0.login.get())]);
    let head = pull_request.head.need("pull_request.head")?.0;
    let base = pull_request.base.need("pull_request.base")?.0;
    let event = Event::PullRequest {
        action,
        number,
        title: pull_request.title.get().unwrap_or_default(),
        head_ref: branch(head.r#ref, "pull_request.head.ref")?,
        head: commit(head.sha, "pull_request.head.sha")?,
        head_repository: head.repo.get().and_then(|repo| repo.0.full_name.get()),
        base_ref: branch(base.r#ref, "pull_request.base.ref")?,
        base: commit(base.sha, "pull_request.base.sha")?,
        draft: pull_request.draft.get().unwrap_or(false),
        // the payload has none; who has the commit reads it there
        message: pull_request.head_message.get().unwrap_or_default(),
        is_closed: pull_request.state.get().is_some_and(|state| state == "closed"),
        // what can't be read tells nothing, and keeps nothing from running
        before: payload.before.get().and_then(|sha| sha.parse().ok()),
        updated_at: pull_request.updated_at.get().and_then(|at| at.parse().ok()).unwrap_or_default(),
    };
    Ok(Meaning::Trigger(Box::new(Trigger { repository, clone_url, actor, authors, event })))
}

fn repository_dispatch(payload: Payload) -> Result<Meaning, PayloadError> {
    let actor = actor(payload.sender, payload.pusher);
    let default_branch = default_branch(&payload.repository, payload.branch)?;
    let (repository, clone_url) = identify(payload.repository)?;
    let action = payload.action.need("action")?;
    let client_payload = serde_json::Value::Object(payload.client_payload.get().unwrap_or_default().0);
    check_client_payload(&client_payload).map_err(|reason| FieldError::Invalid { path: "client_payload", reason })?;
    let event = Event::RepositoryDispatch { r#ref: default_branch, commit: CommitSha::zero(), action, client_payload };
    Ok(Meaning::Trigger(Box::new(Trigger { repository, clone_url, actor, authors: Vec::new(), event })))
}

/// Whether a `client_payload` keeps GitHub's limits: an object or nothing, of ten keys and 64 KiB at most.
///
/// # Errors
/// What is wrong with it.
pub fn check_client_payload(value: &serde_json::Value) -> Result<(), String> {
    const KEYS: usize = 10;
    const BYTES: usize = 65_535;
    match value {
        serde_json::Value::Null => return Ok(()),
        serde_json::Value::Object(entries) if entries.len() <= KEYS => {}
        serde_json::Value::Object(entries) => {
            return Err(format!("it has {} keys, and {KEYS} are the limit", entries.len()));
        }
        _ => return Err("it is no object".into()),
    }
    let bytes = value.to_string().len();
    if bytes > BYTES { Err(format!("it has {bytes} bytes, and {BYTES} are the limit")) } else { Ok(()) }
}

fn issue_comment(payload: Payload) -> Result<Meaning, PayloadError> {
    let actor = actor(payload.sender, payload.pusher);
    let default_branch = default_branch(&payload.repository, payload.branch)?;
    let (repository, clone_url) = identify(payload.repository)?;
    let issue = payload.issue.need("issue")?.0;
    let comment = payload.comment.need("comment")?.0;
    let user = comment.user.get().map(|user| user.0).unwrap_or_default();
    let written = Written {
        id: comment.id.get().and_then(|id| i64::try_from(id).ok()),
        at: comment.created_at.get().and_then(|at| at.parse().ok()),
        author: user.login.get().filter(|login| is_login(login)),
        is_bot: user.r#type.get().is_some_and(|kind| kind == "Bot"),
    };
    let event = Event::IssueComment {
        action: payload.action.need("action")?,
        r#ref: default_branch,
        commit: CommitSha::zero(),
        number: issue.number.need("issue.number")?,
        is_pull_request: issue.pull_request.get().is_some(),
        body: comment.body.get().unwrap_or_default(),
        author_association: comment.author_association.get().unwrap_or_default(),
    };
    Ok(Meaning::Comment(Box::new(Trigger { repository, clone_url, actor, authors: Vec::new(), event }), written))
}

/// Those that are names of people's accounts, each once. What GitHub itself commits (a merge by its button) is nobody's.
fn accounts(names: impl IntoIterator<Item = Option<String>>) -> Vec<String> {
    let mut found: Vec<String> =
        names.into_iter().flatten().filter(|name| is_login(name) && name != "web-flow").collect();
    found.dedup();
    found
}

/// Whether a text is an account's name, which becomes part of a path. Those that an enterprise manages have an underscore.
fn is_login(text: &str) -> bool {
    (1..=100).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// A button of a check was pressed; everything else that happens to checks is our own doing.
/// <https://docs.github.com/en/webhooks/webhook-events-and-payloads#check_run>
fn check_run(payload: Payload) -> Result<Meaning, PayloadError> {
    let by = actor(payload.sender, payload.pusher);
    let (repository, _) = identify(payload.repository)?;
    let action = payload.action.need("action")?;
    let identifier = payload.requested_action.get().and_then(|action| action.0.identifier.get()).unwrap_or_default();
    let button = Button::parse(&identifier).filter(|_| action == "requested_action");
    let failed = match action.as_str() {
        "rerequested" => false,
        "requested_action" if identifier == RERUN_FAILED => true,
        "requested_action" if button.is_some() => false,
        "requested_action" => {
            let reason = format!("a check has no button `{identifier}`");
            return Ok(Meaning::Ignored { repository: Some(repository), reason });
        }
        other => {
            let reason = format!("a check was `{other}`, which asks for nothing");
            return Ok(Meaning::Ignored { repository: Some(repository), reason });
        }
    };
    let id = payload.check_run.need("check_run")?.0.id.need("check_run.id")?;
    let id = i64::try_from(id).unwrap_or(i64::MAX);
    let what = button.map_or(AskedOf::Check { id, failed }, |button| AskedOf::Button { id, button });
    if button.is_some() && !is_login(&by) {
        let reason = format!("nobody is known to have pressed the button `{identifier}`");
        return Ok(Meaning::Ignored { repository: Some(repository), reason });
    }
    Ok(Meaning::Asks(Asked { repository, by, what }))
}

/// <https://docs.github.com/en/webhooks/webhook-events-and-payloads#check_suite>
fn check_suite(payload: Payload) -> Result<Meaning, PayloadError> {
    let by = actor(payload.sender, payload.pusher);
    let (repository, _) = identify(payload.repository)?;
    let action = payload.action.need("action")?;
    if action != "rerequested" {
        let reason = format!("the checks of a commit were `{action}`, which asks for nothing");
        return Ok(Meaning::Ignored { repository: Some(repository), reason });
    }
    let head = payload.check_suite.need("check_suite")?.0.head_sha;
    let what = AskedOf::Commit(commit(head, "check_suite.head_sha")?);
    Ok(Meaning::Asks(Asked { repository, by, what }))
}

/// The full name of the default branch; empty where the payload does not say.
fn default_branch(repository: &Field<Object<Repository>>, named: Field<String>) -> Result<String, FieldError> {
    let of_repository = match repository {
        Field::Present(repository) => match &repository.0.default_branch {
            Field::Present(name) => Some(name.clone()),
            _ => None,
        },
        _ => None,
    };
    let Some(name) = named.get().or(of_repository) else { return Ok(String::new()) };
    let full = if name.starts_with("refs/") { name } else { format!("refs/heads/{name}") };
    let full = RefName::parse(&full)
        .map_err(|error| FieldError::Invalid { path: "repository.default_branch", reason: error.to_string() })?;
    Ok(full.into_string())
}

fn ignored(repository: Field<Object<Repository>>, reason: String) -> Meaning {
    let name = repository.get().and_then(|repository| repository.0.full_name.get());
    Meaning::Ignored { repository: name.filter(|name| RepositoryName::parse(name).is_ok()), reason }
}

/// Who did it: `sender` is the account; `pusher.name` is all that an old server or a hand-made payload has.
fn actor(sender: Field<Object<Account>>, pusher: Field<Object<Account>>) -> String {
    let login = sender.get().and_then(|account| account.0.login.get());
    login.or_else(|| pusher.get().and_then(|account| account.0.name.get())).unwrap_or_else(|| "unknown".into())
}

fn identify(repository: Field<Object<Repository>>) -> Result<(String, Option<String>), FieldError> {
    let repository = repository.need("repository")?.0;
    let name = repository.full_name.need("repository.full_name")?;
    RepositoryName::parse(&name)
        .map_err(|error| FieldError::Invalid { path: "repository.full_name", reason: error.to_string() })?;
    Ok((name, repository.clone_url.get()))
}

fn commit(field: Field<String>, path: &'static str) -> Result<CommitSha, FieldError> {
    field.need(path)?.parse().map_err(|error| FieldError::Invalid { path, reason: format!("{error}") })
}

fn branch(field: Field<String>, path: &'static str) -> Result<String, FieldError> {
    let name = field.need(path)?;
    RefName::parse(&format!("refs/heads/{name}"))
        .map_err(|error| FieldError::Invalid { path, reason: error.to_string() })?;
    Ok(name)
}

#[cfg(test)]
mod tests;
