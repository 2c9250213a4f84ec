//! What people ask by comments below a pull request. Comes in: a command of somebody who may give it, and the head that GitHub names.
//! It is done in the transaction that notes what came of it. Never here: who may, and the answer's way to GitHub.

use std::collections::{BTreeSet, HashSet};

use indexmap::IndexMap;
use segue_pipelines::{
    comment::{Command, DEPLOY, Outcome, Verdict},
    progress::Deploys,
    protection::Yes,
};
use segue_schemas::{
    id::{CommitSha, DeliveryId, RunId},
    status::JobStatus,
    time::Timestamp,
    trigger::{Event, Trigger},
};

use super::{
    asked,
    people::{cancel_jobs, say_yes},
    previews::makes_one,
    rollback::{self, Asker},
};
use crate::store::{
    Again, AttemptKind, Bell, Comment, Meaning, NewDelivery, Payload, Result, RollbackTarget, RunRecord, Store,
    StoreError, Tx, comments,
    sql::args,
    tables::{deliveries, jobs, releases, runs},
};

/// Runs of a pull request that are looked at.
const MOST: usize = 200;

/// Where a pull request stands on GitHub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullHead {
    /// Its newest commit.
    pub commit: CommitSha,
    /// The branch that it comes from, without `refs/heads/`.
    pub branch: String,
    /// Whether that is another repository's.
    pub is_fork: bool,
    /// Who opened the pull request.
    pub author: Option<String>,
}

impl Store {
    /// Does what a comment asks, once, and notes what came of it. `written_at` is when it was written by the store's clock, `teams` are
    /// the reviewing teams that its author is in.
    pub async fn obey(
        &self,
        comment: &Comment,
        pull: PullHead,
        teams: Vec<String>,
        written_at: Timestamp,
    ) -> Result<()> {
        let (store, asked) = (self.clone(), comment.clone());
        let done = self.write(move |tx| {
            Box::pin(async move {
                if !comments::is_open(&mut tx.conn, &asked).await? {
                    return Ok(());
                }
                let Ok(command) = &asked.asks else { return Ok(()) };
                let wish = Wish { store: &store, comment: &asked, pull: &pull, teams: &teams, written_at };
                if let Some(text) = wish.perform(tx, command).await? {
                    comments::conclude(tx, &asked, &Outcome::new(Verdict::Done, text)).await?;
                }
                Ok(())
            })
        });
        match done.await {
            // nothing of what it began is kept
            Err(error @ (StoreError::Refused(_) | StoreError::Conflict(_) | StoreError::NotFound { .. })) => {
                self.conclude_comment(comment, Outcome::new(Verdict::Refused, error.to_string())).await
            }
            done => done,
        }
    }
}

struct Wish<'w> {
    store: &'w Store,
    comment: &'w Comment,
    pull: &'w PullHead,
    teams: &'w [String],
    written_at: Timestamp,
}

impl Wish<'_> {
    /// What was done, in words; `None`: that is known when the delivery has been planned that it made.
    async fn perform(&self, tx: &mut Tx, command: &Command) -> Result<Option<String>> {
        match command {
            Command::Rerun => self.rerun(tx, false).await.map(Some),
            Command::RerunAndDeploy => self.rerun(tx, true).await.map(Some),
            Command::Cancel => self.cancel(tx).await.map(Some),
            Command::Approve { commit } => self.approve(tx, commit.as_deref(), None).await.map(Some),
            Command::Bypass { reason } => self.approve(tx, None, Some(reason)).await.map(Some),
            Command::Rollback { environment, service } => {
                self.rollback(tx, environment, service.as_deref()).await.map(Some)
            }
            Command::Deploy { environment } => self.deploy(tx, environment).await.map(|()| None),
            Command::Preview => self.preview(tx).await.map(Some),
        }
    }

    /// Who, and by which way.
    fn by(&self) -> String {
        format!("{} (in #{})", self.comment.author, self.comment.number)
    }

    /// The newest run of each pipeline at the head; what has deployed, only where that is asked for as well.
    async fn rerun(&self, tx: &mut Tx, deploy: bool) -> Result<String> {
        let mut seen = HashSet::new();
        let at_head = self.runs(tx).await?.into_iter().filter(|run| run.commit == self.pull.commit);
        let newest: Vec<RunRecord> = at_head.filter(|run| seen.insert(run.file.clone())).collect();
        let (mut begun, mut refused) = (Vec::new(), Vec::new());
        for run in newest {
            let deploys = if deploy { Deploys::Repeat } else { Deploys::LeaveOut };
            let whole = Again::of(AttemptKind::Whole, self.by()).deploying(deploys);
            if let Some(reason) = asked::again(self.store, tx, run.id, whole).await? {
                refused.push(reason);
                continue;
            }
            let now = runs::load(&mut tx.conn, run.id).await?.record;
            begun.push(format!("run {} ({}) begins attempt {}", run.id, run.pipeline, now.attempt));
            begun.extend(now.terms.shown.in_words());
            if !now.terms.shown.left_out.is_empty() {
                begun.push("`/segue rerun deploy` deploys again as well".into());
            }
        }
        if begun.is_empty() {
            let none = || format!("no pipeline has run at {}", self.pull.commit.short());
            return Err(StoreError::Refused(if refused.is_empty() { none() } else { refused.join("; ") }));
        }
        Ok([begun, refused].concat().join("; "))
    }

    /// The newest run of each pipeline at the head that makes a preview, once more.
    async fn preview(&self, tx: &mut Tx) -> Result<String> {
        let mut seen = HashSet::new();
        let (mut begun, mut refused) = (Vec::new(), Vec::new());
        for run in self.runs(tx).await? {
            if run.commit != self.pull.commit || run.event != "pull_request" {
                continue;
            }
            let jobs = jobs::of_attempt(&mut tx.conn, run.id, run.attempt).await?;
            let Some(job) = jobs.iter().find(|job| makes_one(job)) else { continue };
            if !seen.insert(run.file.clone()) {
                continue;
            }
            let deploys = Deploys::Only(job.record.plan.file_key().to_owned());
            let whole = Again::of(AttemptKind::Whole, self.by()).deploying(deploys);
            match asked::again(self.store, tx, run.id, whole).await? {
                Some(reason) => refused.push(reason),
                None => begun.push(format!("run {} ({}) makes it again", run.id, run.pipeline)),
            }
        }
        if begun.is_empty() {
            let none = || format!("no pipeline makes a preview of {}", self.pull.commit.short());
            return Err(StoreError::Refused(if refused.is_empty() { none() } else { refused.join("; ") }));
        }
        Ok([begun, refused].concat().join("; "))
    }

    async fn cancel(&self, tx: &mut Tx) -> Result<String> {
        let open: Vec<RunRecord> = self.runs(tx).await?.into_iter().filter(|run| !run.status.is_final()).collect();
        if open.is_empty() {
            return Err(StoreError::Refused(format!("nothing of #{} runs", self.comment.number)));
        }
        let mut said = Vec::new();
        for run in open {
            cancel_jobs(self.store, tx, run.id, self.by()).await?;
            said.push(format!("run {} ({})", run.id, run.pipeline));
        }
        Ok(format!("{} is told to end", said.join(", ")))
    }

    /// Of one commit and no other: that which is named, or the head if it was there when the comment was written.
    async fn approve(&self, tx: &mut Tx, named: Option<&str>, bypass: Option<&str>) -> Result<String> {
        let head = self.pull.commit.as_str();
        let all = self.runs(tx).await?;
        let wanted: Vec<&RunRecord> =
            all.iter().filter(|run| run.commit.as_str().starts_with(named.unwrap_or(head))).collect();
        let commits: BTreeSet<&str> = wanted.iter().map(|run| run.commit.as_str()).collect();
        if commits.len() > 1 {
            let problem =
                format!("{} is the beginning of several commits: write more of it", named.unwrap_or_default());
            return Err(StoreError::Refused(problem));
        }
        let (mut counted, mut discounted) = (Vec::new(), None);
        for run in wanted.iter().filter(|run| !run.status.is_final()) {
            if named.is_none() && self.came_after(tx, run).await? {
                let again = if bypass.is_some() {
                    "`/segue bypass` again".into()
                } else {
                    format!("`/segue approve {}`", run.commit)
                };
                return Err(StoreError::Refused(format!(
                    "{} may have come after the comment: look at it, and write {again}",
                    run.commit.short()
                )));
            }
            let jobs = jobs::of_attempt(&mut tx.conn, run.id, run.attempt).await?;
            if !jobs.iter().any(|job| job.record.status == JobStatus::Waiting) {
                continue;
            }
            // one person counts once, by whichever way
            let bypass = bypass.map(str::to_owned);
            let yes = Yes { by: self.comment.author.clone(), teams: self.teams.to_vec(), bypass };
            match say_yes(self.store, tx, run.id, None, &yes).await {
                Ok(jobs) => counted.push(format!("{} of run {}", jobs.join(", "), run.id)),
                // refused before anything was changed
                Err(StoreError::Conflict(_)) => {}
                Err(StoreError::Refused(reason)) => discounted = Some(reason),
                Err(error) => return Err(error),
            }
        }
        if let Some(reason) = discounted.filter(|_| counted.is_empty()) {
            return Err(StoreError::Refused(reason));
        }
        if counted.is_empty() {
            let of = commits.first().copied().unwrap_or_else(|| named.unwrap_or(head));
            let of: String = of.chars().take(12).collect();
            return Err(StoreError::Refused(format!(
                "nothing of #{} at {of} waits for an approval",
                self.comment.number
            )));
        }
        let commit = commits.first().copied().unwrap_or(head);
        Ok(format!("it counts for {}, at {commit} and no other commit", counted.join("; ")))
    }

    /// Whether the run's code may not have been there for the comment's author to look at.
    async fn came_after(&self, tx: &mut Tx, run: &RunRecord) -> Result<bool> {
        let Some(delivery) = &run.delivery else { return Ok(run.created_at > self.written_at) };
        let received =
            deliveries::find(&mut tx.conn, delivery).await?.map_or(run.created_at, |found| found.received_at);
        Ok(received > self.written_at)
    }

    async fn rollback(&self, tx: &mut Tx, environment: &str, service: Option<&str>) -> Result<String> {
        let repository = &self.comment.repository;
        let mut names: Vec<String> = releases::all_serving(&mut tx.conn)
            .await?
            .into_iter()
            .filter(|(place, release)| place == environment && release.repository == *repository)
            .map(|(_, release)| release.service)
            .collect();
        names.retain(|name| service.is_none_or(|service| name == service));
        let [service] = names.as_slice() else {
            return Err(StoreError::Refused(match (names.is_empty(), service) {
                (true, Some(service)) => format!("no `{service}` of {repository} serves `{environment}`"),
                (true, None) => format!("nothing of {repository} serves `{environment}`"),
                _ => format!("say which: `/segue rollback {environment} {}` ({})", names[0], names.join(", ")),
            }));
        };
        let asker = Asker { name: self.by(), of_step: None };
        let rollout = rollback::create(self.store, tx, environment, service, RollbackTarget::Previous, asker).await?;
        Ok(format!("rollout {rollout} brings `{service}` in `{environment}` back"))
    }

    /// The planner finds the pipeline, and says what came of it.
    async fn deploy(&self, tx: &mut Tx, environment: &str) -> Result<()> {
        if self.pull.is_fork {
            return Err(StoreError::Refused(format!(
                "code from outside the repository does not come into the environment `{environment}`"
            )));
        }
        let (pipeline, input) = DEPLOY;
        let event = Event::WorkflowDispatch {
            r#ref: format!("refs/heads/{}", self.pull.branch),
            commit: self.pull.commit.clone(),
            pipeline: Some(pipeline.into()),
            inputs: IndexMap::from([(input.to_owned(), environment.to_owned())]),
        };
        let (repository, actor) = (self.comment.repository.clone(), self.comment.author.clone());
        let trigger = Trigger {
            repository: repository.clone(),
            clone_url: None,
            actor,
            authors: self.pull.author.iter().cloned().collect(),
            event,
        };
        let id: DeliveryId = format!("comment-{}", self.comment.id)
            .parse()
            .map_err(|error| StoreError::Refused(format!("the comment's number can't be used: {error}")))?;
        let delivery = NewDelivery {
            id: id.clone(),
            event: trigger.event.name().into(),
            repository: Some(repository),
            payload: Payload::Inline(String::new()),
            meaning: Meaning::Starts(trigger),
        };
        deliveries::insert(&mut tx.conn, &delivery, tx.now).await?;
        tx.ring(Bell::Deliveries);
        comments::await_delivery(tx, self.comment, &id).await
    }

    /// Its runs, newest first: for the pull request, and for a push of its head.
    async fn runs(&self, tx: &mut Tx) -> Result<Vec<RunRecord>> {
        let sql = "SELECT id FROM runs WHERE repository = $1 AND status <> 'skipped'
                AND (git_ref = $2 OR (git_ref = $3 AND commit_sha = $4))
            ORDER BY id DESC LIMIT $5";
        let of_pull = format!("refs/pull/{}/merge", self.comment.number);
        // a branch of the same name is none of a fork's
        let branch = if self.pull.is_fork { String::new() } else { format!("refs/heads/{}", self.pull.branch) };
        let args = args![&self.comment.repository, of_pull, branch, &self.pull.commit, MOST];
        let mut found = Vec::new();
        for row in tx.conn.all(sql, args).await? {
            found.push(runs::load(&mut tx.conn, RunId(row.int("id")?)).await?.record);
        }
        Ok(found)
    }
}
