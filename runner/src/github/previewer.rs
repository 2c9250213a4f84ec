//! One comment below each pull request says where its previews are. Comes in: the store's outbox of pull requests. Goes out: the
//! comment, written once and changed from then on, within the limits that the [`Teller`] keeps. Never here: what it says.

use std::time::Duration;

use async_trait::async_trait;
use http::{Method, StatusCode};
use segue_pipelines::preview::{comment, is_comment};
use segue_schemas::{preview::PreviewState, time::Timestamp};
use serde_json::{Value, json};

use super::{
    GitHubError, Purpose, Speaker, Teller, Urgency,
    settle::Due,
    teller::{PAGES, Trouble, digest, owner_of},
};
use crate::store::{DuePreviews, PreviewFacts, Result, Store};

/// Tries that are refused one after the other until one is the last: those of a day, with pauses of five minutes.
const MOST_TRIES: u32 = 288;

type Tried<T> = std::result::Result<T, Trouble>;

impl Teller {
    /// Tells of one pull request's previews; `Some`: GitHub can't be reached, and is left alone for so long.
    pub(super) async fn tell_previews(&mut self, due: &DuePreviews) -> Result<Option<Duration>> {
        let owner = owner_of(&due.repository);
        if self.is_held(&owner, due).await? {
            return Ok(None);
        }
        let mut facts = self.store.preview_facts(&due.repository, due.number).await?;
        for (one, check) in facts.previews.iter_mut().zip(&facts.checks) {
            one.log = check.map(|check| format!("{}/{}/runs/{check}", self.github.web(), due.repository));
        }
        let tried = self.show_previews(&owner, due, &facts).await;
        self.settle(&owner, due, tried).await
    }

    /// Brings the comment to what holds; `Some`: it is written then.
    async fn show_previews(
        &mut self,
        owner: &str,
        due: &DuePreviews,
        facts: &PreviewFacts,
    ) -> Tried<Option<Timestamp>> {
        let text = comment(&facts.previews, facts.is_open);
        let digest = digest(&json!(text));
        if due.comment.is_some() && due.told == digest {
            return Ok(None);
        }
        let mut known = due.comment;
        // nobody was told of what came and went meanwhile
        if known.is_none() && !due.is_announced && facts.previews.iter().all(|one| one.state == PreviewState::Gone) {
            return Ok(None);
        }
        let urgency = if facts.is_settled || due.told.is_empty() { Urgency::Awaited } else { Urgency::Passing };
        if let Err(until) = self.take(owner, urgency) {
            return Ok(Some(until));
        }
        if let Some(id) = known {
            match self.change_comment(due, id, &text).await {
                Ok(()) => {}
                // somebody has deleted it
                Err(error) if matches!(error.status(), Some(StatusCode::NOT_FOUND | StatusCode::GONE)) => known = None,
                Err(error) => return Err(error.into()),
            }
        }
        if known.is_none() {
            known = Some(match self.find_comment(due).await? {
                Some(id) => {
                    self.change_comment(due, id, &text).await?;
                    id
                }
                None => self.write_comment(due, &text).await?,
            });
        }
        self.store.previews_told(due, known, digest).await?;
        Ok(None)
    }

    /// <https://docs.github.com/en/rest/issues/comments#update-an-issue-comment>
    async fn change_comment(&self, due: &DuePreviews, id: i64, text: &str) -> std::result::Result<(), GitHubError> {
        let path = format!("/repos/{}/issues/comments/{id}", due.repository);
        self.github.ask(speaker(due), Method::PATCH, &path, Some(&json!({"body": text}))).await.map(drop)
    }

    async fn write_comment(&self, due: &DuePreviews, text: &str) -> Tried<i64> {
        self.store.announce_previews(due).await?;
        let path = format!("/repos/{}/issues/{}/comments", due.repository, due.number);
        let answer = self.github.ask(speaker(due), Method::POST, &path, Some(&json!({"body": text}))).await?;
        answer.body["id"].as_i64().ok_or_else(|| {
            GitHubError::Away { place: self.github.place().into(), problem: "it named no comment".into() }.into()
        })
    }

    /// One of our own that was written, and whose number is not known. Whoever else wrote its mark could change it later.
    async fn find_comment(&self, due: &DuePreviews) -> Tried<Option<i64>> {
        let own = self.github.account(speaker(due)).await?;
        let path = format!("/repos/{}/issues/{}/comments?per_page=100", due.repository, due.number);
        let ours = |page: &Value| {
            let is_ours = |one: &&Value| one["body"].as_str().is_some_and(is_comment) && own.wrote(one);
            Some(page.as_array()?.iter().find(is_ours)?["id"].as_i64())
        };
        Ok(self.github.look_through(speaker(due), path, PAGES, ours).await?.flatten())
    }
}

#[async_trait]
impl Due for DuePreviews {
    fn name(&self) -> String {
        format!("the comment about previews of {}#{}", self.repository, self.number)
    }

    fn tries(&self) -> u32 {
        self.tries
    }

    fn is_last_try(&self, _: Timestamp, _: &GitHubError) -> bool {
        self.tries >= MOST_TRIES
    }

    async fn told(&self, store: &Store, next: Timestamp) -> Result<()> {
        store.previews_shown(self, next, None).await
    }

    async fn put_off(&self, store: &Store, until: Timestamp, error: Option<String>) -> Result<()> {
        store.previews_put_off(self, until, error).await
    }

    async fn give_up(&self, store: &Store, error: String) -> Result<()> {
        store.previews_shown(self, store.now(), Some(error)).await
    }
}

fn speaker(due: &DuePreviews) -> Speaker<'_> {
    Speaker::Repository(&due.repository, Purpose::Comments)
}
