//! What people ask of runs.

use std::collections::HashSet;

use segue_pipelines::{
    progress::{CancelAction, Deploys, Gate, JobView, Selection, cancel, rerun},
    protection::{Rules, Yes},
};
use segue_schemas::{
    deploy::RolloutCommand,
    id::RunId,
    status::{JobStatus, RunStatus},
    time::Timestamp,
};

use super::{
    advance::{advance, shut, wait_for_called},
    concurrency::enter_run,
    gates,
    rollback::order,
    snapshots,
};
use crate::store::{
    Again, AttemptKind, Bell, Result, RunRecord, Store, StoreError, Tx, new_job_id,
    tables::{
        jobs::{self, Job},
        rollouts,
        runs::{self, Run},
    },
};

impl Store {
    /// Cancels a run: what has not started never will, what runs is told, a rollout that one of its jobs waits for is
    /// aborted. A run that has ended stays as it is.
    pub async fn cancel_run(&self, run: RunId, by: String) -> Result<RunRecord> {
        let store = self.clone();
        self.write(move |tx| Box::pin(async move { cancel_jobs(&store, tx, run, by).await })).await?;
        self.run(run).await
    }

    /// Opens a new attempt of a run that has ended, with the same commit, and the inputs of the attempt before unless others are
    /// given. `Whole`: every job. `Failed`: those that did not succeed; the others are carried over with their outputs and artifacts.
    ///
    /// # Errors
    /// [`StoreError::WouldDeploy`] where nothing is said of what deploys, and something would again.
    pub async fn rerun(&self, run: RunId, again: Again) -> Result<RunRecord> {
        let store = self.clone();
        self.write(move |tx| Box::pin(async move { open_attempt(&store, tx, run, again).await })).await?;
        self.run(run).await
    }

    /// Says yes, for the run's commit, to the jobs that wait for an approval (`None`), or to the one with this key. One person
    /// counts once. Gives the keys of the jobs that it counted for.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where nothing waits, [`StoreError::Refused`] where that person's yes counts for none of it.
    pub async fn approve(&self, run: RunId, job: Option<&str>, yes: Yes) -> Result<Vec<String>> {
        let (store, key) = (self.clone(), job.map(str::to_owned));
        self.write(move |tx| Box::pin(async move { say_yes(&store, tx, run, key.as_deref(), &yes).await })).await
    }
}

async fn load(tx: &mut Tx, id: RunId) -> Result<(Run, Vec<Job>)> {
    let run = runs::load(&mut tx.conn, id).await?;
    let jobs = jobs::of_attempt(&mut tx.conn, id, run.record.attempt).await?;
    Ok((run, jobs))
}

pub(super) async fn cancel_jobs(store: &Store, tx: &mut Tx, id: RunId, by: String) -> Result<()> {
    let (mut run, jobs) = load(tx, id).await?;
    if run.record.status.is_final() {
        return Ok(());
    }
    run.record.cancel_requested = true;
    run.record.reason = Some(format!("cancelled by {by}"));
    run.record.cancelled_by = Some(by.clone());
    runs::save(&mut tx.conn, &run.record).await?;
    let views: Vec<JobView> = jobs.iter().map(Job::view).collect();
    for action in cancel(&views) {
        let (CancelAction::Signal { job: key } | CancelAction::AbortRollout { job: key }) = &action;
        let Some(job) = jobs.iter().find(|j| j.record.plan.key == *key) else { continue };
        // loaded anew: ending one rollout may have moved other jobs of the run
        let mut job = jobs::load(&mut tx.conn, job.record.id).await?;
        job.record.cancel_requested = true;
        jobs::save(&mut tx.conn, &job).await?;
        tx.ring(Bell::Job(job.record.id));
        if let (CancelAction::AbortRollout { .. }, Some(rollout)) = (&action, job.record.rollout) {
            let rollout = rollouts::load(&mut tx.conn, rollout).await?;
            order(store, tx, rollout, RolloutCommand::Abort, format!("{by} (run cancelled)")).await?;
        }
    }
    let (run, jobs) = load(tx, id).await?;
    advance(store, tx, run, jobs).await.map(drop)
}

pub(super) async fn open_attempt(store: &Store, tx: &mut Tx, id: RunId, again: Again) -> Result<()> {
    let (mut run, last) = load(tx, id).await?;
    if run.record.diagnostics.is_some() {
        return Err(StoreError::Refused(format!(
            "run {id} has no jobs: {} can't be planned; mend it and push again",
            run.record.file
        )));
    }
    let from = again.from.as_deref().map(|from| snapshots::locate(&last, from)).transpose()?;
    let from = from.map(|(job, step)| (job.record.plan.key.clone(), step));
    let selection = match (&from, again.kind) {
        (Some((key, _)), _) => Selection::From(key),
        (None, AttemptKind::Failed) => Selection::Failed,
        (None, _) => Selection::Whole,
    };
    let views: Vec<JobView> = last.iter().map(Job::view).collect();
    let deploys = again.deploys.as_ref().unwrap_or(&Deploys::Repeat);
    let chosen = rerun(&views, selection, deploys).map_err(|e| StoreError::Conflict(e.to_string()))?;
    if again.deploys.is_none() && !chosen.deploys.is_empty() {
        return Err(StoreError::WouldDeploy(chosen.deploys.join(", ")));
    }
    let mut snapshot = None;
    if let Some((key, step)) = &from
        && let Some(job) = last.iter().find(|job| job.record.plan.key == *key)
    {
        snapshot = snapshots::before(tx, job, *step).await?;
    }
    runs::close_attempt(&mut tx.conn, &run.record).await?;
    run.becomes(RunStatus::Queued)?;
    run.record.attempt += 1;
    run.record.reason = None;
    run.record.cancel_requested = false;
    run.record.cancelled_by = None;
    run.record.started_at = None;
    run.record.ended_at = None;
    run.agree(&again, &chosen);
    runs::insert_attempt(&mut tx.conn, id, run.record.attempt, again.kind, &again.by, &run.record.terms, tx.now)
        .await?;
    runs::save(&mut tx.conn, &run.record).await?;
    let mut jobs = Vec::with_capacity(last.len());
    let mut anew: HashSet<String> = HashSet::new();
    for before in last {
        let key = &before.record.plan.key;
        if chosen.dropped.contains(key) {
            continue;
        }
        let (carried, calling) = (chosen.carried.contains(key), chosen.calling.contains(key));
        let is_anew = chosen.anew.iter().any(|key| key == before.record.plan.file_key());
        // the combinations of a matrix that is evaluated again become one job again
        if is_anew && !anew.insert(before.record.plan.file_key().to_owned()) {
            continue;
        }
        let kept = carried || calling || (before.record.plan.combination.is_some() && !is_anew);
        let plan = if kept { &before.record.plan } else { before.as_planned() };
        let mut job =
            Job::planned(new_job_id(), id, run.record.attempt, before.position, &before.repository, plan.clone());
        job.planned = before.planned.clone().filter(|_| kept);
        let begins = snapshot.as_ref().filter(|_| from.as_ref().is_some_and(|(from, _)| from == key));
        job.begins = begins.map(|snapshot| snapshot.begins);
        jobs::insert(&mut tx.conn, &job, tx.now).await?;
        if let Some(snapshot) = begins {
            jobs::begin_with_artifacts(&mut tx.conn, before.record.id, &job.record, &snapshot.artifacts).await?;
        }
        if carried {
            carry(tx, &before, &mut job).await?;
        }
        if calling {
            wait_for_called(tx, &mut job)?;
            jobs::save(&mut tx.conn, &job).await?;
        }
        jobs.push(job);
    }
    enter_run(store, tx, &mut run, &mut jobs).await?;
    advance(store, tx, run, jobs).await.map(drop)
}

/// A job takes over how it ended in the attempt before.
async fn carry(tx: &mut Tx, before: &Job, job: &mut Job) -> Result<()> {
    let (from, to) = (before.record.id, job.record.id);
    job.record.status = before.record.status;
    job.record.reason.clone_from(&before.record.reason);
    job.record.outputs.clone_from(&before.record.outputs);
    job.record.failure_class = before.record.failure_class;
    job.record.environment_url.clone_from(&before.record.environment_url);
    job.record.worker.clone_from(&before.record.worker);
    job.record.queued_at = before.record.queued_at;
    job.record.started_at = before.record.started_at;
    job.record.ended_at = before.record.ended_at;
    job.record.carried_from = Some(before.record.carried_from.unwrap_or(from));
    job.skip_cause = before.skip_cause;
    jobs::save(&mut tx.conn, job).await?;
    jobs::copy_steps(&mut tx.conn, from, to).await?;
    jobs::copy_artifacts(&mut tx.conn, from, to, job.record.attempt).await
}

pub(super) async fn say_yes(
    store: &Store,
    tx: &mut Tx,
    id: RunId,
    key: Option<&str>,
    yes: &Yes,
) -> Result<Vec<String>> {
    let (run, jobs) = load(tx, id).await?;
    let own = gates::own(&mut tx.conn, &run).await?;
    let (mut counted, mut discounted) = (Vec::new(), None);
    for job in jobs.iter().filter(|j| key.is_none_or(|key| j.record.plan.key == key)) {
        // who passes the rules by helps what waits for a time as well
        if !job.waits_at_a_gate() || (yes.bypass.is_none() && !job.waits_for_a_person()) {
            continue;
        }
        let asks_for_code = !run.record.trusted && yes.bypass.is_none();
        let mut counts = asks_for_code;
        if let Some(environment) = &job.record.plan.environment {
            match store.discounts(environment, &own, yes) {
                Some(reason) => discounted = Some(reason),
                None => {
                    runs::approve(&mut tx.conn, &run.record, environment, yes, tx.now).await?;
                    counts = true;
                }
            }
        }
        if asks_for_code {
            runs::approve(&mut tx.conn, &run.record, "", yes, tx.now).await?;
        }
        if counts {
            counted.push(job.record.plan.key.clone());
        }
    }
    if counted.is_empty() {
        if let Some(reason) = discounted {
            return Err(StoreError::Refused(reason));
        }
        let what = key.map_or_else(
            || format!("no job of run {id} waits"),
            |key| format!("job `{key}` of run {id} does not wait"),
        );
        return Err(StoreError::Conflict(format!("{what} for an approval")));
    }
    open_gates(store, tx, run, jobs).await?;
    Ok(counted)
}

impl Store {
    /// Why somebody's yes does not count in an environment; `None`: it does.
    fn discounts(&self, environment: &str, own: &[String], yes: &Yes) -> Option<String> {
        match Rules::of(environment, &self.environment(environment)) {
            Ok(rules) => rules.discounts(own, yes),
            Err(problem) => Some(problem),
        }
    }
}

/// Asks the gates of a run's waiting jobs again.
pub(super) async fn look_at_gates(store: &Store, tx: &mut Tx, id: RunId) -> Result<()> {
    let (run, jobs) = load(tx, id).await?;
    open_gates(store, tx, run, jobs).await
}

/// An approval for an environment, or for the commit, or a time that has come may open the gate of each waiting job of the run.
async fn open_gates(store: &Store, tx: &mut Tx, run: Run, mut jobs: Vec<Job>) -> Result<()> {
    for job in &mut jobs {
        if !job.waits_at_a_gate() {
            continue;
        }
        match gates::judge(store, &mut tx.conn, &run, job, tx.now).await? {
            Gate::Open | Gate::Closed { .. } => {
                job.becomes(JobStatus::Queued, None, tx.now)?;
                tx.ring(Bell::Jobs);
                tx.ring(Bell::Leases);
            }
            Gate::AwaitPerson { reason } => {
                if job.not_before > Timestamp(0) {
                    // from now on it waits for a person
                    job.record.queued_at = Some(tx.now);
                    tx.ring(Bell::Leases);
                }
                job.not_before = Timestamp(0);
                job.record.reason = Some(reason);
            }
            Gate::ClosedUntil { reason, until } => {
                job.not_before = until.min(tx.now + gates::GATE_LIMIT);
                job.record.reason = Some(reason);
                tx.ring(Bell::PutOff);
            }
            gate @ Gate::Refused { .. } => shut(tx, job, gate)?,
        }
        jobs::save(&mut tx.conn, job).await?;
    }
    advance(store, tx, run, jobs).await.map(drop)
}
