//! GitHub is told how runs stand. Comes in: the store's outbox, so that nothing is lost over a restart or while GitHub is away. Goes
//! out: check runs as an App, commit statuses with a token. What is told is what holds when it is told: states in between that
//! nobody had time to tell are left out. Nothing waits for it. Never here: what a check says.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use http::Method;
use segue_pipelines::checks::{Check, checks, commit_status, left_out};
use segue_schemas::{config::GitHubConfig, time::Timestamp};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Budget, GitHub, GitHubError, Purpose, Speaker, Urgency,
    settle::{Due, Tried},
};
use crate::{
    outgoing::at,
    store::{Bell, DueShow, LeftOut, Result, ShowFacts, ShownCheck, Store, StoreError},
};

/// Runs that are looked at in one go.
const AT_A_TIME: u32 = 8;
/// Annotations that one request may carry.
const ANNOTATIONS: usize = 50;
/// Pages of a list that are looked through for what was made and not noted.
pub(super) const PAGES: usize = 10;
/// Attempts before the newest whose ends are told too.
const EARLIER_ATTEMPTS: usize = 3;
/// Owners whose limits are remembered.
const OWNERS: usize = 1_000;
/// How long a run is tried that GitHub refuses, after its end.
pub(super) const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 3600);
/// The longest wait at a limit that says nothing of how long.
const LONGEST_UNTOLD: Duration = Duration::from_secs(3600);
/// Pause after the store has failed.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Tells.
pub struct Teller {
    pub(super) store: Store,
    pub(super) github: GitHub,
    pub(super) config: GitHubConfig,
    owners: HashMap<String, Owner>,
    /// Failures to reach GitHub at all, one after the other.
    away: u32,
}

/// Whom a repository belongs to: limits are the installation's.
struct Owner {
    budget: Budget,
    /// Nothing before.
    held_until: Timestamp,
    /// Limits one after the other that said nothing of how long.
    untold: u32,
}

/// A run in the outbox, with its end.
struct Shown<'d> {
    due: &'d DueShow,
    ended_at: Option<Timestamp>,
}

#[async_trait]
impl Due for Shown<'_> {
    fn name(&self) -> String {
        format!("run {}", self.due.run)
    }

    fn tries(&self) -> u32 {
        self.due.tries
    }

    fn is_last_try(&self, now: Timestamp, _: &GitHubError) -> bool {
        self.ended_at.is_some_and(|ended| now.since(ended) >= GIVE_UP_AFTER)
    }

    async fn told(&self, store: &Store, next: Timestamp) -> Result<()> {
        store.run_shown(self.due, next, None).await
    }

    async fn put_off(&self, store: &Store, until: Timestamp, error: Option<String>) -> Result<()> {
        store.show_put_off(self.due.run, until, error).await
    }

    async fn give_up(&self, store: &Store, error: String) -> Result<()> {
        store.run_shown(self.due, store.now(), Some(error)).await
    }
}

#[async_trait]
impl Due for LeftOut {
    fn name(&self) -> String {
        format!("that {} of {} was left out", self.file, self.repository)
    }

    fn tries(&self) -> u32 {
        self.tries
    }

    /// It is forgotten after a week.
    fn is_last_try(&self, _: Timestamp, _: &GitHubError) -> bool {
        false
    }

    async fn told(&self, store: &Store, _: Timestamp) -> Result<()> {
        store.left_out_told(self, None).await
    }

    async fn put_off(&self, store: &Store, until: Timestamp, error: Option<String>) -> Result<()> {
        store.left_out_put_off(self, until, error).await
    }

    async fn give_up(&self, store: &Store, error: String) -> Result<()> {
        store.left_out_told(self, Some(error)).await
    }
}

/// What follows from a try that failed.
pub(super) enum Trial {
    /// GitHub can't be reached, and is left alone for so long.
    Away(Duration),
    /// Its owner has been told too much of, until then.
    Held(Timestamp),
    /// Somebody has to mend something.
    Refused,
}

/// Why it did not.
pub(super) enum Trouble {
    GitHub(GitHubError),
    Store(StoreError),
}

impl From<GitHubError> for Trouble {
    fn from(error: GitHubError) -> Self {
        Self::GitHub(error)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Teller {
    /// One that tells by this way.
    #[must_use]
    pub fn new(store: Store, github: GitHub) -> Self {
        let config = store.config().github.clone();
        Self { store, github, config, owners: HashMap::new(), away: 0 }
    }

    /// Tells until `stop`; what is not told then is told after the next start.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut bell = self.store.doorbell().listen(Bell::Shows);
        loop {
            let looked = tokio::select! {
                looked = self.tell_due() => looked,
                () = stop.cancelled() => return,
            };
            let (next, heeds_bell) = match looked {
                Ok(next) => next,
                Err(error) => {
                    tracing::warn!(%error, "what GitHub is to be told of can't be read or recorded");
                    (Some(Instant::now() + STORE_PAUSE), false)
                }
            };
            tokio::select! {
                () = bell.rung(), if heeds_bell => {}
                () = at(next) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Tells what is due; when to look again, and whether a bell may make that earlier.
    async fn tell_due(&mut self) -> Result<(Option<Instant>, bool)> {
        loop {
            let runs = self.store.due_shows(AT_A_TIME).await?;
            let left_out = self.store.due_left_out(AT_A_TIME).await?;
            let comments = self.store.due_comments(AT_A_TIME).await?;
            let deployments = self.store.due_deployments(AT_A_TIME).await?;
            let previews = self.store.due_previews(AT_A_TIME).await?;
            let buttons = self.store.due_buttons(AT_A_TIME).await?;
            let is_done = runs.is_empty() && left_out.is_empty() && comments.is_empty() && deployments.is_empty();
            if is_done && previews.is_empty() && buttons.is_empty() {
                break;
            }
            for one in buttons {
                if let Some(pause) = self.press(&one).await? {
                    return Ok((Some(Instant::now() + pause), false));
                }
            }
            for one in comments {
                if let Some(pause) = self.heed(&one).await? {
                    return Ok((Some(Instant::now() + pause), false));
                }
            }
            for one in runs {
                if let Some(pause) = self.tell(&one).await? {
                    return Ok((Some(Instant::now() + pause), false));
                }
            }
            for one in deployments {
                if let Some(pause) = self.tell_deployment(&one).await? {
                    return Ok((Some(Instant::now() + pause), false));
                }
            }
            for one in previews {
                if let Some(pause) = self.tell_previews(&one).await? {
                    return Ok((Some(Instant::now() + pause), false));
                }
            }
            for one in left_out {
                if let Some(pause) = self.tell_left_out(&one).await? {
                    return Ok((Some(Instant::now() + pause), false));
                }
            }
        }
        let due = [
            self.store.next_show_due().await?,
            self.store.next_left_out_due().await?,
            self.store.next_comment_due().await?,
            self.store.next_deployment_due().await?,
            self.store.next_previews_due().await?,
            self.store.next_button_due().await?,
        ];
        let next = due.into_iter().flatten().min();
        Ok((next.map(|due| Instant::now() + due.since(self.store.now())), true))
    }

    /// Tells of one run; `Some`: GitHub can't be reached, and is left alone for so long.
    async fn tell(&mut self, due: &DueShow) -> Result<Option<Duration>> {
        let Some(facts) = self.store.show_facts(due.run, None).await? else { return Ok(None) };
        let owner = owner_of(&facts.repository);
        let one = Shown { due, ended_at: facts.run.ended_at };
        if self.is_held(&owner, &one).await? {
            return Ok(None);
        }
        let tried = self.show(&owner, &facts).await;
        self.settle(&owner, &one, tried).await
    }

    /// Tells of a pipeline that was left out, unless a run shows it meanwhile; `Some`: GitHub can't be reached.
    async fn tell_left_out(&mut self, one: &LeftOut) -> Result<Option<Duration>> {
        if self.store.is_run_elsewhere(one).await? {
            self.store.left_out_told(one, None).await?;
            return Ok(None);
        }
        let owner = owner_of(&one.repository);
        if self.is_held(&owner, one).await? {
            return Ok(None);
        }
        let tried = self.show_left_out(&owner, one).await;
        self.settle(&owner, one, tried).await
    }

    async fn show_left_out(&mut self, owner: &str, one: &LeftOut) -> Tried {
        if let Err(until) = self.take(owner, Urgency::Passing) {
            return Ok(Some(until));
        }
        let check = left_out(&one.pipeline, &one.file, &one.reason);
        let (purpose, path, told) = if self.github.is_app() {
            let mut told = body(&check);
            told["head_sha"] = json!(one.commit);
            (Purpose::Checks, format!("/repos/{}/check-runs", one.repository), told)
        } else {
            let path = format!("/repos/{}/statuses/{}", one.repository, one.commit);
            (Purpose::Statuses, path, json!(commit_status(&check)))
        };
        let speaker = Speaker::Repository(&one.repository, purpose);
        self.github.ask(speaker, Method::POST, &path, Some(&told)).await?;
        Ok(None)
    }

    /// GitHub has answered as it should.
    pub(super) fn well(&mut self, owner: &str) {
        self.away = 0;
        self.owner(owner).untold = 0;
    }

    /// What follows from what went wrong.
    pub(super) fn trouble(&mut self, owner: &str, error: &GitHubError) -> Trial {
        match error {
            GitHubError::Away { .. } => {
                let pause = self.pause(self.away);
                self.away += 1;
                tracing::warn!(%error, again_in = ?pause, "GitHub is told later");
                Trial::Away(pause)
            }
            GitHubError::Limited { wait, is_told, .. } => {
                let now = self.store.now();
                let owner = self.owner(owner);
                owner.untold = if *is_told { 0 } else { owner.untold + 1 };
                let grown = wait.saturating_mul(1 << owner.untold.saturating_sub(1).min(8)).min(LONGEST_UNTOLD);
                owner.held_until = now + if *is_told { *wait } else { grown };
                tracing::warn!(%error, until = %owner.held_until, "GitHub is told later");
                Trial::Held(owner.held_until)
            }
            _ => Trial::Refused,
        }
    }

    /// The pause after so many failures: it doubles, up to the longest.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        self.config.first_pause.0.saturating_mul(1 << failures.min(16)).min(self.config.longest_pause.0)
    }

    /// Brings what GitHub shows of a run to what holds.
    async fn show(&mut self, owner: &str, facts: &ShowFacts) -> Tried {
        let mut later = self.show_attempt(owner, facts).await?;
        // a rerun may have begun before the end of what it repeats was told
        for attempt in (1..facts.run.attempt).rev().take(EARLIER_ATTEMPTS) {
            let Some(earlier) = self.store.show_facts(facts.run.run, Some(attempt)).await? else { break };
            later = self.show_attempt(owner, &earlier).await?.or(later);
        }
        Ok(later)
    }

    /// The same of one attempt. Of an earlier one nothing is made any more.
    async fn show_attempt(&mut self, owner: &str, facts: &ShowFacts) -> Tried {
        let (run, attempt) = (facts.run.run, facts.run.attempt);
        let shown = self.store.shown_checks(run, attempt).await?;
        let mut wanted: Vec<(Check, Option<&ShownCheck>)> = checks(&facts.run)
            .into_iter()
            .map(|check| {
                let known = shown.get(check.job.as_deref().unwrap_or_default());
                (check, known)
            })
            .filter(|(check, known)| !self.is_shown(check, *known) && (facts.is_newest || known.is_some()))
            .collect();
        // what people wait for goes first
        wanted.sort_by_key(|(check, known)| std::cmp::Reverse(urgency(check, *known)));
        if self.github.is_app() {
            let keys = wanted.iter().filter(|(_, known)| known.is_none());
            let keys: Vec<String> = keys.map(|(check, _)| check.job.clone().unwrap_or_default()).collect();
            if !keys.is_empty() {
                self.store.announce_checks(run, attempt, keys).await?;
            }
        }
        let (mut later, mut refused) = (None::<Timestamp>, None);
        for (check, known) in wanted {
            match self.show_check(owner, facts, &check, known).await {
                Ok(None) => {}
                Ok(Some(until)) => later = Some(later.map_or(until, |known| known.min(until))),
                // one that GitHub refuses keeps no other from being shown
                Err(Trouble::GitHub(error @ GitHubError::Refused { .. })) => refused = Some(error),
                Err(trouble) => return Err(trouble),
            }
        }
        match (refused, later) {
            (Some(error), _) => Err(error.into()),
            (None, Some(until)) => Ok(Some(until)),
            (None, None) => Ok(None),
        }
    }

    fn is_shown(&self, check: &Check, known: Option<&ShownCheck>) -> bool {
        let wanted = if self.github.is_app() { check.annotations.len() } else { 0 };
        known.is_some_and(|known| known.digest == self.digest(check) && known.annotations >= wanted)
    }

    fn digest(&self, check: &Check) -> String {
        let body = if self.github.is_app() { body(check) } else { json!(commit_status(check)) };
        digest(&body)
    }

    async fn show_check(&mut self, owner: &str, facts: &ShowFacts, check: &Check, known: Option<&ShownCheck>) -> Tried {
        let urgency = urgency(check, known);
        if !self.github.is_app() {
            if let Err(until) = self.take(owner, urgency) {
                return Ok(Some(until));
            }
            return self.show_status(facts, check).await;
        }
        let mut now_shown = known.cloned().unwrap_or_default();
        // announced before: GitHub may have made it, and the answer was lost
        let mut may_be_there = now_shown.id.is_none() && known.is_some();
        let digest = self.digest(check);
        loop {
            if let Err(until) = self.take(owner, urgency) {
                return Ok(Some(until));
            }
            if std::mem::take(&mut may_be_there) {
                now_shown.id = self.find(facts, check).await?;
            }
            let rest = check.annotations.iter().skip(now_shown.annotations).take(ANNOTATIONS);
            let rest: Vec<_> = rest.collect();
            let mut body = body(check);
            if !rest.is_empty() {
                body["output"]["annotations"] = json!(rest);
            }
            now_shown.annotations += rest.len();
            match self.write_check(facts, check, now_shown.id, body).await? {
                Some(id) => now_shown.id = Some(id),
                // it is gone there: another is made in its place
                None => {
                    now_shown = ShownCheck::default();
                    continue;
                }
            }
            now_shown.digest.clone_from(&digest);
            self.note(facts, check, now_shown.clone()).await?;
            if now_shown.annotations >= check.annotations.len() {
                return Ok(None);
            }
        }
    }

    /// Makes a check run, or changes one; its number. `None`: there is none of this number.
    async fn write_check(
        &self,
        facts: &ShowFacts,
        check: &Check,
        id: Option<i64>,
        mut body: Value,
    ) -> std::result::Result<Option<i64>, GitHubError> {
        let speaker = Speaker::Repository(&facts.repository, Purpose::Checks);
        let path = format!("/repos/{}/check-runs", facts.repository);
        if let Some(id) = id {
            return match self.github.ask(speaker, Method::PATCH, &format!("{path}/{id}"), Some(&body)).await {
                Ok(_) => Ok(Some(id)),
                Err(error) if error.status() == Some(http::StatusCode::NOT_FOUND) => Ok(None),
                Err(error) => Err(error),
            };
        }
        body["head_sha"] = json!(facts.commit);
        body["external_id"] = json!(external_id(facts, check));
        let answer = self.github.ask(speaker, Method::POST, &path, Some(&body)).await?;
        match answer.body["id"].as_i64() {
            Some(id) => Ok(Some(id)),
            None => {
                Err(GitHubError::Away { place: self.github.place().into(), problem: "it named no check run".into() })
            }
        }
    }

    /// The check run that was made and not noted.
    async fn find(&self, facts: &ShowFacts, check: &Check) -> std::result::Result<Option<i64>, GitHubError> {
        let speaker = Speaker::Repository(&facts.repository, Purpose::Checks);
        let wanted = external_id(facts, check);
        let path = format!("/repos/{}/commits/{}/check-runs?filter=all&per_page=100", facts.repository, facts.commit);
        let ours = |page: &Value| {
            let found = page["check_runs"].as_array()?.iter().find(|run| run["external_id"] == wanted.as_str())?;
            Some(found["id"].as_i64())
        };
        Ok(self.github.look_through(speaker, path, PAGES, ours).await?.flatten())
    }

    async fn show_status(&self, facts: &ShowFacts, check: &Check) -> Tried {
        let speaker = Speaker::Repository(&facts.repository, Purpose::Statuses);
        let path = format!("/repos/{}/statuses/{}", facts.repository, facts.commit);
        self.github.ask(speaker, Method::POST, &path, Some(&json!(commit_status(check)))).await?;
        self.note(facts, check, ShownCheck { digest: self.digest(check), ..ShownCheck::default() }).await?;
        Ok(None)
    }

    async fn note(&self, facts: &ShowFacts, check: &Check, shown: ShownCheck) -> Result<()> {
        let key = check.job.as_deref().unwrap_or_default();
        self.store.check_shown(facts.run.run, facts.run.attempt, key, shown).await
    }

    pub(super) fn take(&mut self, owner: &str, urgency: Urgency) -> std::result::Result<(), Timestamp> {
        let now = self.store.now();
        self.owner(owner).budget.take(urgency, now)
    }

    /// Until when an owner's account is to be left alone.
    pub(super) fn held_until(&mut self, owner: &str) -> Timestamp {
        self.owner(owner).held_until
    }

    fn owner(&mut self, name: &str) -> &mut Owner {
        if self.owners.len() >= OWNERS && !self.owners.contains_key(name) {
            let now = self.store.now();
            self.owners.retain(|_, owner| owner.held_until > now);
        }
        let (per_minute, per_hour) = (self.config.writes_per_minute, self.config.writes_per_hour);
        self.owners.entry(name.to_owned()).or_insert_with(|| Owner {
            budget: Budget::new(per_minute, per_hour),
            held_until: Timestamp(0),
            untold: 0,
        })
    }
}

pub(super) fn owner_of(repository: &str) -> String {
    repository.split('/').next().unwrap_or_default().to_owned()
}

/// By what something is known again, once it was shown.
pub(super) fn digest(body: &Value) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, body.to_string().as_bytes());
    hex::encode(&digest.as_ref()[..12])
}

/// What people wait for: that there is something at all, and how it ended.
fn urgency(check: &Check, known: Option<&ShownCheck>) -> Urgency {
    let is_first = check.job.is_none() && known.is_none_or(|known| known.digest.is_empty());
    if is_first || check.state.conclusion().is_some() { Urgency::Awaited } else { Urgency::Passing }
}

/// What GitHub is to know a check by, besides its own number.
fn external_id(facts: &ShowFacts, check: &Check) -> String {
    format!("{}.{}.{}", facts.run.run, facts.run.attempt, check.job.as_deref().unwrap_or_default())
}

/// A check in GitHub's words, without its annotations. <https://docs.github.com/en/rest/checks/runs>
fn body(check: &Check) -> Value {
    let mut body = json!({
        "name": check.name,
        "status": check.state.status(),
        "output": {"title": check.title, "summary": check.summary},
        "actions": check.actions,
    });
    if let Some(url) = &check.details_url {
        body["details_url"] = json!(url);
    }
    if let Some(conclusion) = check.state.conclusion() {
        body["conclusion"] = json!(conclusion);
    }
    if let Some(started_at) = check.started_at {
        body["started_at"] = json!(started_at);
    }
    if let Some(ended_at) = check.ended_at.filter(|_| check.state.conclusion().is_some()) {
        body["completed_at"] = json!(ended_at);
    }
    body
}
