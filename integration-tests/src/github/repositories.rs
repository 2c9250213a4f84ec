//! Repositories, their branches and pull requests. <https://docs.github.com/en/rest/repos/repos>

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{
    Asked, State,
    access::{Level, may},
    answer::{Answer, page},
};

/// A repository.
pub(super) struct Repository {
    /// Stays when it is renamed.
    pub(super) id: u64,
    bare: PathBuf,
    /// What people may do in it.
    pub(super) people: BTreeMap<String, String>,
    pulls: Vec<Value>,
}

impl Repository {
    pub(super) fn new(id: u64, bare: &Path) -> Self {
        Self { id, bare: bare.into(), people: BTreeMap::new(), pulls: Vec::new() }
    }

    /// Whether it has a pull request.
    pub(super) fn has_pull(&self, number: u64) -> bool {
        self.pulls.iter().any(|pull| pull["number"] == number)
    }

    /// Whether it has a commit.
    pub(super) fn has_commit(&self, sha: &str) -> bool {
        let is_sha = sha.len() == 40 && sha.chars().all(|c| c.is_ascii_hexdigit());
        is_sha && self.git(&["cat-file", "-e", &format!("{sha}^{{commit}}")]).is_some()
    }

    /// The newest commit of a branch.
    pub(super) fn branch(&self, name: &str) -> Option<String> {
        self.git(&["rev-parse", "--verify", "--quiet", &format!("refs/heads/{name}")])
    }

    fn git(&self, arguments: &[&str]) -> Option<String> {
        let mut git = Command::new("git");
        let output = git.args(["-c", "safe.directory=*"]).args(arguments).current_dir(&self.bare).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl super::GitHub {
    /// Opens a pull request of a branch of `from` (`owner/name`), or gives it another head.
    pub fn set_pull(&self, repository: &str, number: u64, head: &str, branch: &str, from: &str) {
        let mut state = self.state();
        let updated_at = state.next_time();
        if let Some(known) = state.repositories.get_mut(repository) {
            let base = known.branch("main").unwrap_or_else(|| head.to_owned());
            known.pulls.retain(|pull| pull["number"] != number);
            known.pulls.push(json!({
                "number": number, "state": "open", "title": format!("The {branch} branch"), "draft": false,
                "updated_at": updated_at, "base": {"ref": "main", "sha": base, "repo": {"full_name": repository}},
                "head": {"sha": head, "ref": branch, "repo": {"full_name": from}},
            }));
        }
    }

    /// Gives a repository another name, or another owner. Its old paths lead to the new ones from now on.
    pub fn rename(&self, repository: &str, to: &str) {
        let mut state = self.state();
        let Some(known) = state.repositories.remove(repository) else { return };
        state.renamed.insert(repository.into(), known.id);
        state.repositories.insert(to.into(), known);
        let moved = |name: &mut String| {
            if name == repository {
                to.clone_into(name);
            }
        };
        state.check_runs.iter_mut().for_each(|run| moved(&mut run.repository));
        state.comments.iter_mut().for_each(|comment| moved(&mut comment.repository));
        for scope in state.tokens.values_mut().filter_map(|token| token.of_installation.as_mut()) {
            if scope.repositories.remove(repository) {
                scope.repositories.insert(to.into());
            }
        }
    }

    /// Closes a pull request, or opens it again (`open`, `closed`).
    pub fn set_pull_state(&self, repository: &str, number: u64, word: &str) {
        let mut state = self.state();
        let updated_at = state.next_time();
        let pulls = state.repositories.get_mut(repository).map(|known| &mut known.pulls);
        if let Some(pull) = pulls.into_iter().flatten().find(|pull| pull["number"] == number) {
            pull["state"] = json!(word);
            pull["updated_at"] = json!(updated_at);
        }
    }

    /// What the webhook tells of a pull request as it stands now; `before`: its head before, with `synchronize`.
    #[must_use]
    pub fn pull_payload(&self, repository: &str, number: u64, action: &str, before: Option<&str>) -> Value {
        let state = self.state();
        let pulls = state.repositories.get(repository).map(|known| &known.pulls);
        let pull = pulls.into_iter().flatten().find(|pull| pull["number"] == number);
        let mut payload = json!({
            "action": action, "number": number, "pull_request": pull, "sender": {"login": "ada", "type": "User"},
            "repository": {"full_name": repository, "default_branch": "main"},
        });
        if let Some(before) = before {
            payload["before"] = json!(before);
            payload["after"] = payload["pull_request"]["head"]["sha"].clone();
        }
        payload
    }
}

impl State {
    /// A time, later by whole seconds than any that was given before.
    fn next_time(&mut self) -> String {
        let seconds = i64::try_from(self.next_id()).unwrap_or(i64::MAX);
        let at = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(1_767_225_600 + seconds);
        at.to_rfc3339_opts(SecondsFormat::Secs, true)
    }
}

/// What the paths of a repository answer that is called otherwise now.
/// <https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api#follow-redirects>
pub(super) fn moved(state: &State, asked: &Asked, id: u64, rest: &[&str]) -> Answer {
    let (status, message) = match asked.method {
        &http::Method::GET => (http::StatusCode::MOVED_PERMANENTLY, "Moved Permanently"),
        _ => (http::StatusCode::TEMPORARY_REDIRECT, "Temporary Redirect"),
    };
    let mut url = [&format!("{}/repositories/{id}", state.url)[..]]
        .into_iter()
        .chain(rest.iter().copied())
        .collect::<Vec<_>>()
        .join("/");
    if !asked.query.is_empty() {
        let query: Vec<String> =
            asked.query.iter().map(|(name, value)| format!("{name}={}", value.replace(' ', "%20"))).collect();
        url = format!("{url}?{}", query.join("&"));
    }
    let body = json!({"message": message, "url": url, "documentation_url": "https://docs.github.com/rest"});
    Answer::json(status, body).with("location", url)
}

/// `GET /repos/{owner}/{repo}`
pub(super) fn get(state: &State, asked: &Asked, repository: &str) -> Result<Answer, Answer> {
    may(state, asked, repository, "metadata", Level::Read)?;
    let (owner, name) = repository.split_once('/').unwrap_or_default();
    Ok(Answer::ok(json!({
        "id": state.repositories.get(repository).map(|known| known.id), "name": name, "full_name": repository, "private": true, "default_branch": "main", "owner": {"login": owner},
        "permissions": {"admin": false, "push": true, "pull": true},
    })))
}

/// `GET /repos/{owner}/{repo}/branches/{branch}`
pub(super) fn branch(state: &State, asked: &Asked, repository: &str, branch: &str) -> Result<Answer, Answer> {
    may(state, asked, repository, "contents", Level::Read)?;
    let known = state.repositories.get(repository).ok_or_else(Answer::not_found)?;
    let commit = known.branch(branch);
    let commit = commit.ok_or_else(|| Answer::refusal(http::StatusCode::NOT_FOUND, "Branch not found"))?;
    let base = format!("{}/repos/{repository}", state.url);
    let said =
        |format: &str| known.git(&["show", "--no-patch", &format!("--format={format}"), &commit]).unwrap_or_default();
    let signed = |who: &str| json!({"name": said(&format!("%{who}n")), "email": said(&format!("%{who}e")), "date": said(&format!("%{who}I"))});
    let url = format!("{base}/commits/{commit}");
    Ok(Answer::ok(json!({
        "name": branch, "protected": false, "protection": {}, "protection_url": format!("{base}/branches/{branch}/protection"),
        "_links": {"self": format!("{base}/branches/{branch}"), "html": format!("{}/{repository}/tree/{branch}", state.url)},
        "commit": {
            "sha": commit, "node_id": "C_1", "url": url, "html_url": url, "comments_url": format!("{url}/comments"),
            "author": null, "committer": null, "parents": [],
            "commit": {
                "url": url, "message": said("%B"), "author": signed("a"), "committer": signed("c"), "comment_count": 0,
                "tree": {"sha": said("%T"), "url": format!("{base}/git/trees/{}", said("%T"))},
            },
        },
    })))
}

/// `GET /repos/{owner}/{repo}/pulls`
pub(super) fn pulls(state: &State, asked: &Asked, repository: &str) -> Result<Answer, Answer> {
    may(state, asked, repository, "pull_requests", Level::Read)?;
    let known = state.repositories.get(repository).ok_or_else(Answer::not_found)?;
    let wanted = asked.query.get("state").map_or("open", String::as_str);
    let found = known.pulls.iter().filter(|pull| wanted == "all" || pull["state"] == wanted).cloned().collect();
    let (items, link) = page(found, asked, &state.url);
    let answer = Answer::ok(Value::Array(items));
    Ok(match link {
        Some(link) => answer.with("link", link),
        None => answer,
    })
}

/// `GET /repos/{owner}/{repo}/pulls/{pull_number}`
pub(super) fn pull(state: &State, asked: &Asked, repository: &str, number: &str) -> Result<Answer, Answer> {
    may(state, asked, repository, "pull_requests", Level::Read)?;
    let known = state.repositories.get(repository).ok_or_else(Answer::not_found)?;
    let number: u64 = number.parse().map_err(|_| Answer::not_found())?;
    let found = known.pulls.iter().find(|pull| pull["number"] == number);
    found.cloned().map(Answer::ok).ok_or_else(Answer::not_found)
}
