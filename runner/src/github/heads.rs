//! Where the default branch of each repository stands at GitHub, against the pushes that were heard of: one that nobody told of is planned
//! all the same.
//!
//! Comes in: a repository's default branch with its newest commit. Goes out: the push that did not come. Its webhook may only be late, so a
//! commit is taken for missed when two looks have found it, and a webhook that comes after all starts nothing more.
//! Never here: other branches, of which nobody says that they matter.

use std::{collections::HashMap, time::Duration};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use segue_schemas::{
    id::CommitSha,
    trigger::{Event, Trigger},
};
use serde_json::Value;

use super::{GitHub, GitHubError, Purpose, Speaker, reconciler::Trouble};
use crate::{mirror::RefName, store::Store};

/// Repositories whose answers are kept; past that, all are forgotten, and asked for whole once.
const KEPT: usize = 1_000;

/// Compares default branches.
pub(super) struct Heads {
    store: Store,
    github: GitHub,
    known: HashMap<String, Known>,
}

/// What was answered of a repository, and not sent again while it stays so.
#[derive(Default)]
struct Known {
    repository: Option<(String, Place)>,
    branch: Option<(String, Head)>,
    /// The commit that the last look found and no push had told of.
    suspected: Option<CommitSha>,
}

/// What is said of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    default_branch: String,
    clone_url: Option<String>,
}

/// What is said of a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Head {
    commit: CommitSha,
    message: String,
    authors: Vec<String>,
}

/// What a look at a repository came to.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    AsItWasTold,
    /// The next look decides.
    Suspected,
    Missed,
}

impl Heads {
    pub(super) fn new(store: Store, github: GitHub) -> Self {
        Self { store, github, known: HashMap::new() }
    }

    /// Looks at every repository to which a push was heard of; `Some`: after how long to look again, before the next look that is due.
    pub(super) async fn look(&mut self, again: Duration) -> Option<Duration> {
        let repositories = match self.store.repositories_with_pushes().await {
            Ok(repositories) => repositories,
            Err(error) => {
                tracing::warn!(%error, "which repositories are pushed to can't be read");
                return Some(again);
            }
        };
        let mut sooner = None;
        for repository in repositories {
            match self.compare(&repository).await {
                Ok(Found::AsItWasTold) => {}
                Ok(Found::Suspected) => sooner = Some(again),
                Ok(Found::Missed) => tracing::warn!(repository, "a push that nobody told of is planned"),
                // it is another's now, or gone
                Err(Trouble::GitHub(error @ GitHubError::NotInstalled { .. })) => {
                    tracing::debug!(repository, %error, "its default branch is not compared");
                }
                Err(error) => {
                    tracing::warn!(repository, %error, "GitHub can't be asked where the default branch is");
                    sooner = Some(again);
                }
            }
        }
        sooner
    }

    async fn compare(&mut self, repository: &str) -> Result<Found, Trouble> {
        if self.known.len() >= KEPT && !self.known.contains_key(repository) {
            self.known.clear();
        }
        let known = self.known.entry(repository.to_owned()).or_default();
        let place = ask(&self.github, repository, Purpose::Metadata, "", &mut known.repository, read_place).await?;
        let Some(place) = place else { return Ok(Found::AsItWasTold) };
        let Ok(branch) = RefName::parse(&format!("refs/heads/{}", place.default_branch)) else {
            return Ok(Found::AsItWasTold);
        };
        let path = format!("/branches/{}", utf8_percent_encode(&place.default_branch, NON_ALPHANUMERIC));
        let head = match ask(&self.github, repository, Purpose::Contents, &path, &mut known.branch, read_head).await {
            // nothing was pushed to it yet
            Err(error) if error.status() == Some(http::StatusCode::NOT_FOUND) => None,
            answer => answer?,
        };
        let Some(head) = head else { return Ok(Found::AsItWasTold) };
        let Some(before) = self.store.missed_push(repository, branch.as_str(), &head.commit).await? else {
            known.suspected = None;
            return Ok(Found::AsItWasTold);
        };
        if known.suspected.as_ref() != Some(&head.commit) {
            known.suspected = Some(head.commit);
            return Ok(Found::Suspected);
        }
        known.suspected = None;
        let trigger = Trigger {
            repository: repository.into(),
            clone_url: place.clone_url,
            actor: "segue".into(),
            authors: head.authors,
            event: Event::Push {
                r#ref: branch.into_string(),
                before,
                after: head.commit,
                message: head.message,
                forced: false,
            },
        };
        Ok(if self.store.plan_missed_push(trigger).await? { Found::Missed } else { Found::AsItWasTold })
    }
}

/// What is answered for a path below a repository's, or what was answered before and holds still. `None`: it can't be used.
async fn ask<T: Clone>(
    github: &GitHub,
    repository: &str,
    purpose: Purpose,
    below: &str,
    known: &mut Option<(String, T)>,
    read: fn(&Value) -> Option<T>,
) -> Result<Option<T>, GitHubError> {
    let path = format!("/repos/{repository}{below}");
    let etag = known.as_ref().map(|(etag, _)| etag.as_str());
    let Some(answer) = github.ask_unless_same(Speaker::Repository(repository, purpose), &path, etag).await? else {
        return Ok(known.as_ref().map(|(_, read)| read.clone()));
    };
    let found = read(&answer.body);
    *known = answer.etag.zip(found.clone());
    Ok(found)
}

/// <https://docs.github.com/en/rest/repos/repos#get-a-repository>
fn read_place(body: &Value) -> Option<Place> {
    let clone_url = body["clone_url"].as_str().map(str::to_owned);
    Some(Place { default_branch: body["default_branch"].as_str()?.to_owned(), clone_url })
}

/// <https://docs.github.com/en/rest/branches/branches#get-a-branch>
fn read_head(body: &Value) -> Option<Head> {
    let commit = &body["commit"];
    let mut authors: Vec<String> =
        ["author", "committer"].iter().filter_map(|who| commit[who]["login"].as_str()).map(str::to_owned).collect();
    authors.dedup();
    Some(Head {
        commit: commit["sha"].as_str()?.parse().ok()?,
        message: commit["commit"]["message"].as_str().unwrap_or_default().to_owned(),
        authors,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_said_is_read_whatever_is_null_in_it() {
        let sha = "1".repeat(40);
        let body = json!({"name": "main", "commit": {"sha": sha, "author": null, "committer": {"login": "web-flow"},
            "commit": {"message": "A change\n\nwith reasons"}}});
        let head = read_head(&body).unwrap();
        assert_eq!((head.commit.as_str(), head.message.lines().next()), (&*sha, Some("A change")));
        assert_eq!(head.authors, ["web-flow"]);
        assert_eq!(read_head(&json!({"commit": {"sha": "x"}})), None);
        assert_eq!(read_head(&json!(null)), None);
        assert_eq!(read_place(&json!({"default_branch": null})), None);
        let place = read_place(&json!({"default_branch": "trunk", "clone_url": null})).unwrap();
        assert_eq!((place.default_branch.as_str(), place.clone_url), ("trunk", None));
    }
}
