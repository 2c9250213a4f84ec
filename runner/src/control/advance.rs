//! Performs what progress decides, in the transaction that gave cause to it.

use indexmap::IndexMap;
use segue_pipelines::progress::{
    self, Action, Gate, JobView, MAX_RUN_JOBS, Part, RunView, called_jobs, is_settled, needs_context, settle,
};
use segue_schemas::{
    config::NotificationEvent,
    deploy::RolloutCommand,
    plan::JobPlan,
    status::{FailureClass, JobStatus, RunStatus},
};
use serde_json::{Value, json};

use super::{concurrency, contexts, gates, rollback::order};
use crate::store::{
    Bell, Result, RunRecord, Store, StoreError, Tx, new_job_id,
    outboxes::notify,
    tables::{
        jobs::{self, Job},
        rollouts,
        runs::{self, Run},
    },
};

/// Does what follows from the jobs of a run's newest attempt as they stand. Whoever changed one of them has saved it.
///
/// Progress is asked again until it has nothing to say: what a gate makes of a job may have consequences of its own. Gives the run
/// as it stands after it.
pub(super) async fn advance(store: &Store, tx: &mut Tx, mut run: Run, mut jobs: Vec<Job>) -> Result<RunRecord> {
    let before = run.record.clone();
    tx.ring(Bell::Run(run.record.id));
    // each pass ends or queues a job, or is the last
    for _ in 0..=jobs.len().max(MAX_RUN_JOBS) + 1 {
        let actions = progress::advance(&view(store, &run, &jobs));
        let mut gated = false;
        for action in &actions {
            gated |= perform(store, tx, &run, &mut jobs, action).await?;
            if matches!(action, Action::Stop { .. }) {
                // the end of a rollout may have moved other jobs of the run: look again
                run = runs::load(&mut tx.conn, run.record.id).await?;
                jobs = jobs::of_attempt(&mut tx.conn, run.record.id, run.record.attempt).await?;
                gated = true;
                break;
            }
        }
        // where a gate has made something else of a job, the next pass derives the run's status
        if let Some(Action::Run { status }) = actions.last()
            && !gated
        {
            become_status(&mut run, *status, tx)?;
            if *status == RunStatus::Succeeded {
                run.record.reason = allowed_failures(&jobs);
            }
        }
        if actions.is_empty() {
            break;
        }
    }
    if run.record.status != before.status || run.record.ended_at != before.ended_at {
        runs::save(&mut tx.conn, &run.record).await?;
        if run.record.status.is_final() {
            tell(store, tx, &run.record).await?;
        }
    }
    if concurrency::release(tx, &run, &jobs).await? {
        tx.ring(Bell::Jobs);
    }
    Ok(run.record)
}

/// Queues those jobs of a new run that nothing can keep back before any of them is stored, so that they are stored once.
pub(super) async fn queue_first(store: &Store, tx: &mut Tx, run: &Run, jobs: &mut [Job]) -> Result<()> {
    for action in progress::advance(&view(store, run, jobs)) {
        let Action::Queue { job: key } = action else { continue };
        let Some(at) = jobs.iter().position(|job| job.record.plan.key == key) else { continue };
        let plan = &jobs[at].record.plan;
        // what a gate, a group or an expression makes of the others is written to the row that they have by then
        let is_free = plan.environment.is_none() && plan.concurrency.is_none() && run.record.trusted;
        if is_free && is_settled(plan) {
            queue(store, tx, run, jobs, at).await?;
        }
    }
    Ok(())
}

/// The same for a run by its number.
pub(super) async fn advance_run(store: &Store, tx: &mut Tx, id: segue_schemas::id::RunId) -> Result<()> {
    let run = runs::load(&mut tx.conn, id).await?;
    let jobs = jobs::of_attempt(&mut tx.conn, id, run.record.attempt).await?;
    advance(store, tx, run, jobs).await.map(drop)
}

/// A run that ended without its jobs having a say: its pipeline can't be planned, or was to be left out.
pub(super) async fn end_unplanned(store: &Store, tx: &mut Tx, mut run: Run, status: RunStatus) -> Result<RunRecord> {
    become_status(&mut run, status, tx)?;
    runs::save(&mut tx.conn, &run.record).await?;
    tx.ring(Bell::Run(run.record.id));
    tell(store, tx, &run.record).await?;
    Ok(run.record)
}

fn view(store: &Store, run: &Run, jobs: &[Job]) -> RunView {
    // contexts are made only where a condition may read them
    let asks = jobs.iter().any(|j| {
        let plan = &j.record.plan;
        plan.call.is_some() && !j.record.status.is_final()
            || j.record.status == JobStatus::Pending && (plan.condition.is_some() || plan.strategy.is_some())
    });
    let contexts = if asks { contexts::of_run(run, None, store.config()) } else { Default::default() };
    RunView {
        status: run.record.status,
        cancelled: run.record.cancel_requested,
        jobs: jobs.iter().map(Job::view).collect(),
        contexts,
    }
}

/// Performs one action on a job; whether a gate made something else of it than progress expected.
async fn perform(store: &Store, tx: &mut Tx, run: &Run, jobs: &mut Vec<Job>, action: &Action) -> Result<bool> {
    let (Action::Queue { job: key }
    | Action::Skip { job: key, .. }
    | Action::Cancel { job: key, .. }
    | Action::Fail { job: key, .. }
    | Action::Expand { job: key, .. }
    | Action::Call { job: key, .. }
    | Action::Return { job: key, .. }
    | Action::Stop { job: key, .. }) = action
    else {
        return Ok(false);
    };
    let at = jobs.iter().position(|j| j.record.plan.key == *key).ok_or_else(|| StoreError::not_found("job", key))?;
    let mut gated = false;
    match action {
        Action::Queue { .. } => gated = queue(store, tx, run, jobs, at).await?,
        Action::Skip { cause, reason, .. } => {
            jobs[at].skip_cause = Some(*cause);
            jobs[at].becomes(JobStatus::Skipped, Some(reason.clone()), tx.now)?;
        }
        Action::Cancel { reason, .. } => jobs[at].becomes(JobStatus::Cancelled, Some(reason.clone()), tx.now)?,
        Action::Fail { class, reason, .. } => fail(&mut jobs[at], *class, reason.clone(), tx)?,
        Action::Expand { into, .. } => {
            expand(tx, jobs, at, into).await?;
            return Ok(false);
        }
        Action::Call { inputs, .. } => return call(store, tx, run, jobs, at, inputs).await,
        Action::Return { status, cause, outputs, reason, .. } => {
            jobs[at].skip_cause = *cause;
            jobs[at].record.outputs.clone_from(outputs);
            jobs[at].becomes(*status, reason.clone(), tx.now)?;
        }
        Action::Stop { reason, .. } => stop(store, tx, &mut jobs[at], reason).await?,
        Action::Run { .. } => {}
    }
    save_unheld(tx, &jobs[at]).await?;
    Ok(gated)
}

/// Saves a job that no worker has. Where one had it before and it has ended now, so has its log.
pub(super) async fn save_unheld(tx: &mut Tx, job: &Job) -> Result<()> {
    jobs::save(&mut tx.conn, job).await?;
    if job.record.status.is_final() && job.record.epoch.0 > 0 {
        jobs::save_log(&mut tx.conn, job.record.id, 0, Some(tx.now)).await?;
        tx.ring(Bell::Job(job.record.id));
    }
    Ok(())
}

fn fail(job: &mut Job, class: FailureClass, reason: String, tx: &Tx) -> Result<()> {
    job.record.failure_class = Some(class);
    job.becomes(JobStatus::Failed, Some(reason), tx.now)
}

/// The combinations of a job take its place. The plan of each remembers the job's, so that a rerun can evaluate it again.
async fn expand(tx: &mut Tx, jobs: &mut Vec<Job>, at: usize, into: &[Part]) -> Result<()> {
    let whole = &jobs[at];
    jobs::remove(&mut tx.conn, whole.record.id).await?;
    let (run, attempt, planned) = (whole.record.run, whole.record.attempt, whole.as_planned());
    let mut made = Vec::with_capacity(into.len());
    for part in into {
        let plan = part.plan(&whole.record.plan);
        let mut job = Job::planned(new_job_id(), run, attempt, whole.position, &whole.repository, plan);
        job.planned = Some(planned.clone());
        jobs::insert(&mut tx.conn, &job, tx.now).await?;
        made.push(job);
    }
    jobs.splice(at..=at, made);
    Ok(())
}

/// A job calls its pipeline: the jobs of that begin behind it, and it waits for them. Whether it could not.
async fn call(
    store: &Store,
    tx: &mut Tx,
    run: &Run,
    jobs: &mut Vec<Job>,
    at: usize,
    inputs: &IndexMap<String, Value>,
) -> Result<bool> {
    // its name stands before those of the jobs
    if !is_settled(&jobs[at].record.plan) {
        match settled(store, run, jobs, at) {
            Ok(plan) => jobs[at].evaluated(plan),
            Err(reason) => {
                fail(&mut jobs[at], FailureClass::Configuration, reason, tx)?;
                jobs::save(&mut tx.conn, &jobs[at]).await?;
                return Ok(true);
            }
        }
        jobs::save_plan(&mut tx.conn, &jobs[at]).await?;
    }
    wait_for_called(tx, &mut jobs[at])?;
    jobs::save(&mut tx.conn, &jobs[at]).await?;
    let caller = &jobs[at];
    let plan = &caller.record.plan;
    // an outsider may choose the name, and is not to choose an expression
    let name = if plan.name.contains("${{") { &plan.key } else { &plan.name };
    let called = plan.call.as_ref().map_or_else(Vec::new, |call| called_jobs(call, &plan.key, name, inputs));
    let (id, attempt) = (caller.record.run, caller.record.attempt);
    let mut made = Vec::with_capacity(called.len());
    for plan in called {
        let job = Job::planned(new_job_id(), id, attempt, caller.position, &caller.repository, plan);
        jobs::insert(&mut tx.conn, &job, tx.now).await?;
        made.push(job);
    }
    jobs.splice(at + 1..=at, made);
    Ok(false)
}

/// It waits for the jobs of the pipeline that it called: for nobody's approval, and for no worker.
pub(super) fn wait_for_called(tx: &Tx, job: &mut Job) -> Result<()> {
    let reason = job.record.plan.call.as_ref().map(|call| format!("waits for the jobs of {}", call.file));
    job.becomes(JobStatus::Waiting, reason, tx.now)?;
    job.record.queued_at = None;
    Ok(())
}

/// A job that has begun is told to end. It ends by its worker's report, by its rollout's end, or by the reaper.
pub(super) async fn stop(store: &Store, tx: &mut Tx, job: &mut Job, reason: &str) -> Result<()> {
    job.record.cancel_requested = true;
    job.stop_reason = Some(reason.to_owned());
    tx.ring(Bell::Job(job.record.id));
    let Some(rollout) = job.record.rollout.filter(|_| job.record.status == JobStatus::Waiting) else { return Ok(()) };
    jobs::save(&mut tx.conn, job).await?;
    let rollout = rollouts::load(&mut tx.conn, rollout).await?;
    // the abort of one that nobody drives ends it, and may end this job at once
    Box::pin(order(store, tx, rollout, RolloutCommand::Abort, reason.to_owned())).await?;
    *job = jobs::load(&mut tx.conn, job.record.id).await?;
    Ok(())
}

/// A job's needs are done: it is claimable, or waits for a person, or will never be let in. Its gates are asked again when it
/// is claimed; asking here shows at once what it waits for.
async fn queue(store: &Store, tx: &mut Tx, run: &Run, jobs: &mut [Job], at: usize) -> Result<bool> {
    if !is_settled(&jobs[at].record.plan) {
        match settled(store, run, jobs, at) {
            Ok(plan) => jobs[at].evaluated(plan),
            Err(reason) => {
                fail(&mut jobs[at], FailureClass::Configuration, reason, tx)?;
                return Ok(true);
            }
        }
        jobs::save_plan(&mut tx.conn, &jobs[at]).await?;
    } else if jobs[at].record.plan.concurrency.is_some() {
        jobs::save_plan(&mut tx.conn, &jobs[at]).await?;
    }
    let job = &mut jobs[at];
    if concurrency::enter_job(store, tx, run, job).await? {
        return Ok(true);
    }
    match gates::judge(store, &mut tx.conn, run, job, tx.now).await? {
        Gate::Open | Gate::Closed { .. } => {
            job.becomes(JobStatus::Queued, None, tx.now)?;
            tx.ring(Bell::Jobs);
            tx.ring(Bell::Leases);
            Ok(false)
        }
        gate => shut(tx, job, gate).map(|()| true),
    }
}

/// The plan of a job with what its needs have said.
fn settled(store: &Store, run: &Run, jobs: &[Job], at: usize) -> std::result::Result<JobPlan, String> {
    let plan = &jobs[at].record.plan;
    let mut visible = contexts::of_plan(run, plan, store.config());
    let needed: Vec<JobView> =
        jobs.iter().filter(|j| plan.needs.iter().any(|need| need == j.record.plan.file_key())).map(Job::view).collect();
    visible.insert("needs".into(), needs_context(&plan.needs, &needed));
    settle(plan, &visible)
}

/// What becomes of a job whose gate is not one that opens by itself.
pub(super) fn shut(tx: &mut Tx, job: &mut Job, gate: Gate) -> Result<()> {
    match gate {
        Gate::AwaitPerson { reason } => {
            tx.ring(Bell::Leases);
            job.becomes(JobStatus::Waiting, Some(reason), tx.now)
        }
        Gate::ClosedUntil { reason, until } => {
            tx.ring(Bell::PutOff);
            job.becomes(JobStatus::Waiting, Some(reason), tx.now)?;
            job.not_before = until.min(tx.now + gates::GATE_LIMIT);
            Ok(())
        }
        Gate::Refused { reason } => {
            job.record.failure_class = Some(FailureClass::Configuration);
            job.becomes(JobStatus::Failed, Some(reason), tx.now)
        }
        Gate::Open | Gate::Closed { .. } => Ok(()),
    }
}

fn become_status(run: &mut Run, status: RunStatus, tx: &mut Tx) -> Result<()> {
    run.becomes(status)?;
    if status.is_final() {
        // what it has rented goes
        tx.ring(Bell::Machines);
    }
    run.record.ended_at = status.is_final().then_some(tx.now);
    Ok(())
}

/// What a run that succeeded has to say of the jobs that did not.
fn allowed_failures(jobs: &[Job]) -> Option<String> {
    let failed = jobs.iter().filter(|j| j.record.status == JobStatus::Failed);
    let failed: Vec<String> = failed.map(|j| format!("`{}`", j.record.plan.key)).collect();
    match failed.as_slice() {
        [] => None,
        [one] => Some(format!("{one} failed, which its `continue-on-error` allows")),
        [first, others @ ..] => {
            Some(format!("{first} and {} more failed, which their `continue-on-error` allows", others.len()))
        }
    }
}

/// Who is to be told of a run's end: of a failure always, of a success only after a failure.
async fn tell(store: &Store, tx: &mut Tx, run: &RunRecord) -> Result<()> {
    let (event, word) = match run.status {
        RunStatus::Failed => (NotificationEvent::RunFailed, "failed"),
        // it is looked for only where somebody is told of it: every run that succeeds would look
        RunStatus::Succeeded
            if store.config().notifications.iter().any(|config| config.wants(NotificationEvent::RunRecovered))
                && runs::status_before(&mut tx.conn, run).await? == Some(RunStatus::Failed) =>
        {
            (NotificationEvent::RunRecovered, "works again")
        }
        _ => return Ok(()),
    };
    let failed = jobs::of_attempt(&mut tx.conn, run.id, run.attempt).await?;
    let failed = failed.iter().filter(|j| j.view().is_failure());
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
