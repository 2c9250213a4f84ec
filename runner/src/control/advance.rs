//! Performs what progress decides, in the transaction that gave cause to it.

use segue_pipelines::progress::{self, Action, Gate, RunView};
use segue_schemas::{
    config::NotificationEvent,
    status::{FailureClass, JobStatus, RunStatus},
};
use serde_json::json;

use super::{contexts, gates};
use crate::store::{
    Bell, Result, RunRecord, Store, StoreError, Tx,
    outboxes::notify,
    tables::{
        jobs::{self, Job},
        runs::{self, Run},
    },
};

/// Does what follows from the jobs of a run's newest attempt as they stand. Whoever changed one of them has saved it.
///
/// Progress is asked again until it has nothing to say: what a gate makes of a job may have consequences of its own.
pub(super) async fn advance(store: &Store, tx: &mut Tx, mut run: Run, mut jobs: Vec<Job>) -> Result<()> {
    let before = run.record.clone();
    tx.ring(Bell::Run(run.record.id));
    // each pass ends or queues a job, or is the last
    for _ in 0..=jobs.len() + 1 {
        let actions = progress::advance(&view(store, &run, &jobs));
        let mut gated = false;
        for action in &actions {
            gated |= perform(store, tx, &mut run, &mut jobs, action).await?;
        }
        // where a gate has made something else of a job, the next pass derives the run's status
        if let Some(Action::Run { status }) = actions.last()
            && !gated
        {
            become_status(&mut run, *status, tx)?;
        }
        if actions.is_empty() {
            break;
        }
    }
    if run.record.status != before.status || run.record.ended_at != before.ended_at {
        runs::save(&mut tx.conn, &run.record).await?;
        if run.record.status.is_final() {
            tell(tx, &run.record).await?;
        }
    }
    Ok(())
}

/// The same for a run by its number.
pub(super) async fn advance_run(store: &Store, tx: &mut Tx, id: segue_schemas::id::RunId) -> Result<()> {
    let run = runs::load(&mut tx.conn, id).await?;
    let jobs = jobs::of_attempt(&mut tx.conn, id, run.record.attempt).await?;
    advance(store, tx, run, jobs).await
}

/// A run that ended without its jobs having a say: its pipeline can't be planned, or was to be left out.
pub(super) async fn end_unplanned(tx: &mut Tx, mut run: Run, status: RunStatus) -> Result<()> {
    become_status(&mut run, status, tx)?;
    runs::save(&mut tx.conn, &run.record).await?;
    tx.ring(Bell::Run(run.record.id));
    tell(tx, &run.record).await
}

fn view(store: &Store, run: &Run, jobs: &[Job]) -> RunView {
    // contexts are made only where a condition may read them
    let asks = jobs.iter().any(|j| j.record.status == JobStatus::Pending && j.record.plan.condition.is_some());
    let contexts = if asks { contexts::of_run(run, None, store.config()) } else { Default::default() };
    RunView {
        status: run.record.status,
        cancelled: run.record.cancel_requested,
        jobs: jobs.iter().map(Job::view).collect(),
        contexts,
    }
}

/// Performs one action on a job; whether a gate made something else of it than progress expected.
async fn perform(store: &Store, tx: &mut Tx, run: &mut Run, jobs: &mut [Job], action: &Action) -> Result<bool> {
    let (Action::Queue { job } | Action::Skip { job, .. } | Action::Cancel { job, .. } | Action::Fail { job, .. }) =
        action
    else {
        return Ok(false);
    };
    let found = jobs.iter_mut().find(|j| j.record.plan.key == *job);
    let job = found.ok_or_else(|| StoreError::not_found("job", job))?;
    let mut gated = false;
    match action {
        Action::Queue { .. } => gated = queue(store, tx, run, job).await?,
        Action::Skip { cause, reason, .. } => {
            job.skip_cause = Some(*cause);
            job.becomes(JobStatus::Skipped, Some(reason.clone()), tx.now)?;
        }
        Action::Cancel { reason, .. } => job.becomes(JobStatus::Cancelled, Some(reason.clone()), tx.now)?,
        Action::Fail { class, reason, .. } => {
            job.record.failure_class = Some(*class);
            job.becomes(JobStatus::Failed, Some(reason.clone()), tx.now)?;
        }
        Action::Run { .. } => {}
    }
    jobs::save(&mut tx.conn, job).await?;
    Ok(gated)
}

/// A job's needs are done: it is claimable, or waits for a person, or will never be let in. Its gates are asked again when it
/// is claimed; asking here shows at once what it waits for.
async fn queue(store: &Store, tx: &mut Tx, run: &Run, job: &mut Job) -> Result<bool> {
    match gates::judge(store, &mut tx.conn, run, job).await? {
        Gate::Open | Gate::Closed { .. } => {
            job.becomes(JobStatus::Queued, None, tx.now)?;
            tx.ring(Bell::Jobs);
            tx.ring(Bell::Leases);
            Ok(false)
        }
        gate => shut(tx, job, gate).map(|()| true),
    }
}

/// What becomes of a job whose gate is not one that opens by itself.
pub(super) fn shut(tx: &mut Tx, job: &mut Job, gate: Gate) -> Result<()> {
    match gate {
        Gate::AwaitPerson { reason } => {
            tx.ring(Bell::Leases);
            job.becomes(JobStatus::Waiting, Some(reason), tx.now)
        }
        Gate::Refused { reason } => {
            job.record.failure_class = Some(FailureClass::Configuration);
            job.becomes(JobStatus::Failed, Some(reason), tx.now)
        }
        Gate::Open | Gate::Closed { .. } => Ok(()),
    }
}

fn become_status(run: &mut Run, status: RunStatus, tx: &Tx) -> Result<()> {
    run.becomes(status)?;
    run.record.ended_at = status.is_final().then_some(tx.now);
    Ok(())
}

/// Who is to be told of a run's end: of a failure always, of a success only after a failure.
async fn tell(tx: &mut Tx, run: &RunRecord) -> Result<()> {
    let (event, word) = match run.status {
        RunStatus::Failed => (NotificationEvent::RunFailed, "failed"),
        RunStatus::Succeeded if runs::status_before(&mut tx.conn, run).await? == Some(RunStatus::Failed) => {
            (NotificationEvent::RunRecovered, "works again")
        }
        _ => return Ok(()),
    };
    let failed = jobs::of_attempt(&mut tx.conn, run.id, run.attempt).await?;
    let failed = failed.iter().filter(|j| j.record.status == JobStatus::Failed);
    let failed: Vec<_> = failed.map(|j| json!({"job": j.record.plan.key, "reason": j.record.reason})).collect();
    let detail = json!({
        "summary": format!("{} of {} {word}: run {}, commit {}, {}", run.pipeline, run.repository, run.id, run.commit.short(), run.title),
        "repository": run.repository,
        "pipeline": run.pipeline,
        "ref": run.git_ref,
        "commit": run.commit,
        "title": run.title,
        "actor": run.actor,
        "status": run.status,
        "attempt": run.attempt,
        "reason": run.reason,
        "failed_jobs": failed,
    });
    let key = format!("run {} attempt {}", run.id, run.attempt);
    notify(tx, event, key, Some(run.id), None, &detail).await
}
