//! Comments that hold commands: their authors' rights are asked for, what they may ask is done, and they are answered. Comes in: the
//! store's outbox of comments. Goes out: reactions and answers, within the limits that the [`Teller`] keeps. Never here: what a command
//! does.

use std::time::Duration;

use async_trait::async_trait;
use http::{Method, StatusCode};
use segue_pipelines::comment::{Command, Outcome, Verdict, marker, reply};
use segue_schemas::{id::DeliveryId, time::Timestamp};
use serde_json::{Value, json};

use super::{
    GitHubError, Purpose, Speaker, Teller, Urgency,
    people::Right,
    settle::Due,
    teller::{GIVE_UP_AFTER, PAGES, Trouble, owner_of},
};
use crate::{
    control::PullHead,
    store::{Comment, DeliveryState, DueComment, Result, Store},
};

/// How old a command may be that is done: what was written before the server or GitHub was away may fit no longer.
const FRESH: Duration = Duration::from_secs(3600);
/// Between two looks at whether a deployment that was asked for has been planned.
const PLANNING: Duration = Duration::from_millis(500);
/// Strangers that are answered in an hour, in one repository: anybody may write a comment.
const STRANGERS_AN_HOUR: u64 = 20;

type Tried<T> = std::result::Result<T, Trouble>;

#[async_trait]
impl Due for DueComment {
    fn name(&self) -> String {
        format!("the answer to comment {} of {}", self.comment.id, self.comment.repository)
    }

    fn tries(&self) -> u32 {
        self.tries
    }

    /// Who deleted the comment waits for nothing.
    fn is_last_try(&self, now: Timestamp, error: &GitHubError) -> bool {
        error.status() == Some(StatusCode::NOT_FOUND) || now.since(self.created_at) >= GIVE_UP_AFTER
    }

    async fn told(&self, store: &Store, _: Timestamp) -> Result<()> {
        store.comment_told(&self.comment, None).await
    }

    async fn put_off(&self, store: &Store, until: Timestamp, error: Option<String>) -> Result<()> {
        store.comment_put_off(&self.comment, until, error).await
    }

    async fn give_up(&self, store: &Store, error: String) -> Result<()> {
        store.comment_told(&self.comment, Some(error)).await
    }
}

impl Teller {
    /// Looks at one comment; `Some`: GitHub can't be reached, and is left alone for so long.
    pub(super) async fn heed(&mut self, due: &DueComment) -> Result<Option<Duration>> {
        let owner = owner_of(&due.comment.repository);
        if self.is_held(&owner, due).await? {
            return Ok(None);
        }
        let tried = self.attend(&owner, due).await;
        self.settle(&owner, due, tried).await
    }

    /// Does and answers; `Some`: it goes on then.
    async fn attend(&mut self, owner: &str, due: &DueComment) -> Tried<Option<Timestamp>> {
        let comment = &due.comment;
        let mut now = due.clone();
        if now.outcome.is_none() && now.awaits.is_none() {
            if let Some(until) = self.perform(owner, comment).await? {
                return Ok(Some(until));
            }
            now = self.store.comment(&comment.repository, comment.id).await?.unwrap_or(now);
        }
        let outcome = match (now.outcome, &now.awaits) {
            (Some(outcome), _) => outcome,
            (None, Some(delivery)) => {
                let Some(outcome) = self.planned(delivery).await? else {
                    return Ok(Some(self.store.now() + PLANNING));
                };
                self.store.conclude_comment(comment, outcome.clone()).await?;
                outcome
            }
            (None, None) => return Ok(Some(self.store.now() + PLANNING)),
        };
        self.answer(owner, comment, &outcome, due.is_announced).await
    }

    /// Does what its author may ask; `Some`: it is done later.
    async fn perform(&mut self, owner: &str, comment: &Comment) -> Tried<Option<Timestamp>> {
        let right = self.right_of(&comment.repository, &comment.author).await?;
        if right < Right::Write {
            let text = format!("{} has no write access to {}", comment.author, comment.repository);
            self.store.conclude_comment(comment, Outcome::new(Verdict::Stranger, text)).await?;
            return Ok(None);
        }
        if let Err(problem) = &comment.asks {
            self.store.conclude_comment(comment, Outcome::new(Verdict::Unclear, problem)).await?;
            return Ok(None);
        }
        if right < Right::Admin && matches!(comment.asks, Ok(Command::Bypass { .. })) {
            let text = format!(
                "{} does not administer {}, and only who does passes rules by",
                comment.author, comment.repository
            );
            self.store.conclude_comment(comment, Outcome::new(Verdict::Refused, text)).await?;
            return Ok(None);
        }
        let written_at = self.github.by_our_clock(comment.written_at);
        if self.store.now().since(written_at) > FRESH {
            let text = "the comment came here more than an hour after it was written; write it again if it still holds";
            self.store.conclude_comment(comment, Outcome::new(Verdict::Refused, text)).await?;
            return Ok(None);
        }
        if let Err(until) = self.take(owner, Urgency::Awaited) {
            return Ok(Some(until));
        }
        self.react(comment, "eyes").await?;
        let pull = self.pull(comment).await?;
        let teams = match comment.asks {
            Ok(Command::Approve { .. }) => self.teams_of(&comment.repository, &comment.author).await?,
            _ => Vec::new(),
        };
        self.store.obey(comment, pull, teams, written_at).await?;
        Ok(None)
    }

    async fn pull(&self, comment: &Comment) -> Tried<PullHead> {
        let path = format!("/repos/{}/pulls/{}", comment.repository, comment.number);
        let answer = self.github.ask(speaker(comment), Method::GET, &path, None).await?;
        let head = &answer.body["head"];
        let commit = head["sha"].as_str().and_then(|sha| sha.parse().ok());
        let (Some(commit), Some(branch)) = (commit, head["ref"].as_str()) else {
            let problem = "it named no head of the pull request".into();
            return Err(GitHubError::Away { place: self.github.place().into(), problem }.into());
        };
        let is_fork = head["repo"]["full_name"].as_str() != Some(&comment.repository);
        let author = answer.body["user"]["login"].as_str().map(Into::into);
        Ok(PullHead { commit, branch: branch.into(), is_fork, author })
    }

    /// What came of a deployment that was asked for; `None`: it is not planned yet.
    async fn planned(&self, delivery: &DeliveryId) -> Result<Option<Outcome>> {
        let found = self.store.delivery(delivery).await?;
        if found.state == DeliveryState::Accepted {
            return Ok(None);
        }
        let runs = self.store.runs_of_delivery(delivery).await?;
        let names: Vec<String> = runs.iter().map(|run| format!("run {run}")).collect();
        Ok(Some(if names.is_empty() {
            Outcome::new(Verdict::Refused, found.reason.unwrap_or_else(|| "no run came of it".into()))
        } else {
            Outcome::new(Verdict::Done, format!("{} does it, and its checks show how it goes", names.join(", ")))
        }))
    }

    async fn answer(
        &mut self,
        owner: &str,
        comment: &Comment,
        outcome: &Outcome,
        is_announced: bool,
    ) -> Tried<Option<Timestamp>> {
        let mut urgency = Urgency::Awaited;
        let mut is_said = true;
        if outcome.verdict == Verdict::Stranger {
            let strangers = self.store.strangers(comment).await?;
            if strangers.lately >= STRANGERS_AN_HOUR {
                return Ok(None);
            }
            (urgency, is_said) = (Urgency::Passing, strangers.here == 0);
        }
        if let Err(until) = self.take(owner, urgency) {
            return Ok(Some(until));
        }
        self.react(comment, outcome.verdict.reaction()).await?;
        if !is_said || (is_announced && self.is_answered(comment).await?) {
            return Ok(None);
        }
        if let Err(until) = self.take(owner, urgency) {
            return Ok(Some(until));
        }
        self.store.announce_answer(comment).await?;
        let body = reply(comment.id, &comment.author, comment.asks.as_ref().ok(), outcome);
        let path = format!("/repos/{}/issues/{}/comments", comment.repository, comment.number);
        self.github.ask(speaker(comment), Method::POST, &path, Some(&json!({"body": body}))).await?;
        Ok(None)
    }

    /// The same reaction twice is one.
    async fn react(&self, comment: &Comment, content: &str) -> Tried<()> {
        let path = format!("/repos/{}/issues/comments/{}/reactions", comment.repository, comment.id);
        self.github.ask(speaker(comment), Method::POST, &path, Some(&json!({"content": content}))).await?;
        Ok(())
    }

    /// Whether the answer is there, and was not noted.
    async fn is_answered(&self, comment: &Comment) -> Tried<bool> {
        let wanted = marker(comment.id);
        let since = comment.written_at.as_chrono().format("%Y-%m-%dT%H:%M:%SZ");
        let path =
            format!("/repos/{}/issues/{}/comments?since={since}&per_page=100", comment.repository, comment.number);
        let ours = |page: &Value| {
            page.as_array()?
                .iter()
                .find(|one| one["body"].as_str().is_some_and(|body| body.starts_with(&wanted)))
                .map(drop)
        };
        Ok(self.github.look_through(speaker(comment), path, PAGES, ours).await?.is_some())
    }
}

fn speaker(comment: &Comment) -> Speaker<'_> {
    Speaker::Repository(&comment.repository, Purpose::Comments)
}
