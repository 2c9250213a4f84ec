//! What is open at GitHub against what is known here, at each start and every hour: a webhook that never came must leave no preview
//! behind, and no push unseen; default branches are compared by [`super::heads`].
//!
//! Comes in: the list of a repository's open pull requests, and which are known to be open. Goes out: words about pull requests, as
//! webhooks bring them. Never here: what follows from them.

use std::{collections::BTreeSet, time::Duration};

use http::{Method, StatusCode};
use segue_pipelines::preview::Pull;
use segue_schemas::{
    id::CommitSha,
    time::Timestamp,
    trigger::{Event, Trigger},
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    GitHub, GitHubError, Purpose, Speaker,
    heads::Heads,
    pages::{PER_PAGE, Pages},
};
use crate::{
    mirror::RefName,
    store::{Store, StoreError},
};

/// Pages of 100 open pull requests of a repository that are looked through.
const PAGES: usize = 20;
/// Pull requests that were known to be open and are not listed, which are asked for one by one; the others at the next look.
const ONE_BY_ONE: usize = 5;
/// Pages of those that were closed lately, in which the others are looked for.
const CLOSED_PAGES: usize = 3;

/// Compares.
pub struct Reconciler {
    store: Store,
    github: GitHub,
    lists: Pages<Listed>,
    heads: Heads,
    every: Duration,
    again: Duration,
}

/// Why it could not.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    GitHub(#[from] GitHubError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A pull request as GitHub lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    pull: Pull,
    title: String,
    author: Option<String>,
    draft: bool,
    head_ref: String,
    head_repository: Option<String>,
    base_ref: String,
    base: CommitSha,
}

impl Reconciler {
    /// One that looks as often as missed deliveries are looked for.
    #[must_use]
    pub fn new(store: Store, github: GitHub) -> Self {
        let config = &store.config().github;
        let (every, again) = (config.sweep_every.0, config.longest_pause.0.min(config.sweep_every.0));
        let heads = Heads::new(store.clone(), github.clone());
        Self { store, github, lists: Pages::default(), heads, every, again }
    }

    /// Looks at once, and then ever again, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let pause = tokio::select! {
                pause = self.look() => pause,
                () = stop.cancelled() => return,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Looks at every repository of which a push or a pull request was heard; how long until the next look.
    async fn look(&mut self) -> Duration {
        let repositories = match self.store.repositories_with_pulls().await {
            Ok(repositories) => repositories,
            Err(error) => {
                tracing::warn!(%error, "which pull requests are open can't be read");
                return self.again;
            }
        };
        let mut pause = self.every;
        match self.store.remove_again().await {
            Ok(0) => {}
            Ok(again) => tracing::warn!(again, "previews are asked once more to go"),
            Err(error) => tracing::warn!(%error, "previews that did not go can't be asked to once more"),
        }
        for repository in repositories {
            match self.compare(&repository).await {
                Ok(0) => {}
                Ok(news) => tracing::warn!(repository, news, "pull requests stood otherwise than was told"),
                Err(error) => {
                    tracing::warn!(repository, %error, "GitHub can't be asked which pull requests are open");
                    pause = self.again;
                }
            }
        }
        self.heads.look(self.again).await.unwrap_or(pause)
    }

    /// How many pull requests stood otherwise.
    async fn compare(&mut self, repository: &str) -> Result<usize, Trouble> {
        let known: BTreeSet<u64> = self.store.open_pulls(repository).await?.into_iter().collect();
        let mut news = 0;
        let listed = self.list(repository, "state=open&sort=created&direction=asc", PAGES, |_| false).await?;
        let open: BTreeSet<u64> = listed.iter().map(|one| one.pull.number).collect();
        for one in listed {
            news += usize::from(self.store.pull_is_open(repository, &one.pull, one.trigger(repository)).await?);
        }
        // what was opened, closed or moved to another page meanwhile is told of by its own word, never by its absence
        let mut missing: BTreeSet<u64> = known.difference(&open).copied().collect();
        if missing.len() > ONE_BY_ONE {
            let mut left = missing.clone();
            let has_all = |page: &[Listed]| {
                left.retain(|number| !page.iter().any(|one| one.pull.number == *number));
                left.is_empty()
            };
            let closed =
                self.list(repository, "state=closed&sort=updated&direction=desc", CLOSED_PAGES, has_all).await?;
            for one in closed.into_iter().filter(|one| missing.remove(&one.pull.number)) {
                news += usize::from(self.store.pull_is_closed(repository, one.pull).await?);
            }
        }
        let with_previews = self.store.pulls_with_previews(repository).await?;
        let mut rest: Vec<u64> = missing.into_iter().collect();
        rest.sort_by_key(|number| !with_previews.contains(number));
        for number in rest.into_iter().take(ONE_BY_ONE) {
            if let Some(pull) = self.ask_for(repository, number).await?.filter(|pull| !pull.is_open) {
                news += usize::from(self.store.pull_is_closed(repository, pull).await?);
            }
        }
        Ok(news)
    }

    /// <https://docs.github.com/en/rest/pulls/pulls#list-pull-requests>
    async fn list(
        &mut self,
        repository: &str,
        which: &str,
        pages: usize,
        has_enough: impl FnMut(&[Listed]) -> bool + Send,
    ) -> Result<Vec<Listed>, GitHubError> {
        let path = format!("/repos/{repository}/pulls?{which}&per_page={PER_PAGE}");
        let speaker = Speaker::Repository(repository, Purpose::Comments);
        self.lists.look_through(&self.github, speaker, path, pages, read, has_enough).await
    }

    /// One pull request; `None`: what GitHub says of it can't be used. One that it does not know is closed.
    async fn ask_for(&self, repository: &str, number: u64) -> Result<Option<Pull>, GitHubError> {
        let path = format!("/repos/{repository}/pulls/{number}");
        let speaker = Speaker::Repository(repository, Purpose::Comments);
        match self.github.ask(speaker, Method::GET, &path, None).await {
            Ok(answer) => Ok(read(&answer.body).map(|one| one.pull)),
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(Some(Pull {
                number,
                is_open: false,
                head: CommitSha::zero(),
                before: None,
                is_reopened: false,
                updated_at: Timestamp(0),
            })),
            Err(error) => Err(error),
        }
    }
}

impl Listed {
    /// What the webhook would have brought of its newest commit.
    fn trigger(&self, repository: &str) -> Trigger {
        let event = Event::PullRequest {
            action: "synchronize".into(),
            number: self.pull.number,
            title: self.title.clone(),
            head_ref: self.head_ref.clone(),
            head: self.pull.head.clone(),
            head_repository: self.head_repository.clone(),
            base_ref: self.base_ref.clone(),
            base: self.base.clone(),
            draft: self.draft,
            message: String::new(),
            is_closed: false,
            before: None,
            updated_at: self.pull.updated_at,
        };
        Trigger {
            repository: repository.into(),
            clone_url: None,
            actor: "segue".into(),
            authors: self.author.iter().cloned().collect(),
            event,
        }
    }
}

/// One item of the list; `None`: it can't be used.
fn read(item: &Value) -> Option<Listed> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let branch = |value: &Value| {
        let name = value["ref"].as_str()?;
        RefName::parse(&format!("refs/heads/{name}")).ok().map(|_| name.to_owned())
    };
    let pull = Pull {
        number: item["number"].as_u64()?,
        is_open: item["state"] == "open",
        head: item["head"]["sha"].as_str()?.parse().ok()?,
        before: None,
        is_reopened: false,
        updated_at: item["updated_at"].as_str().and_then(|at| at.parse().ok()).unwrap_or_default(),
    };
    Some(Listed {
        pull,
        title: text(&item["title"]).unwrap_or_default(),
        author: text(&item["user"]["login"]),
        draft: item["draft"].as_bool().unwrap_or(false),
        head_ref: branch(&item["head"])?,
        head_repository: text(&item["head"]["repo"]["full_name"]),
        base_ref: branch(&item["base"])?,
        base: item["base"]["sha"].as_str()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_item_is_read_whatever_is_null_in_it() {
        let sha = "1".repeat(40);
        let mut item = json!({
            "number": 7, "state": "open", "title": null, "updated_at": "2026-01-01T00:00:01Z",
            "head": {"sha": sha, "ref": "topic", "repo": null}, "base": {"sha": sha, "ref": "main"},
        });
        let read_item = read(&item).unwrap();
        assert_eq!((read_item.pull.number, read_item.pull.is_open, read_item.head_repository), (7, true, None));
        assert_eq!(read_item.pull.updated_at, Timestamp(1_767_225_601_000));
        item["head"]["ref"] = json!("../x");
        assert_eq!(read(&item), None);
        assert_eq!(read(&json!(null)), None);
    }
}
