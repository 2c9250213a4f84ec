//! Looks after what was lost: leases that ran out, waits that have reached their limit.

use std::time::Duration;

use segue_pipelines::progress::{Loss, LostJob, LostStep, OnLoss, on_worker_lost};
use segue_schemas::{
    id::JobId,
    plan::StepAction,
    status::{FailureClass, JobStatus, StepStatus},
    time::Timestamp,
};

use super::{
    advance::advance_run, gates, people, resume::resume_after, retry::fail_or_begin_again, rollback::close_unstarted,
};
use crate::store::{
    Bell, Result, Store, StoreError, Tx,
    tables::{
        jobs::{self, Job},
        previews,
        rollouts::{self, StoredRollout},
    },
};

/// How long a job may be queued before it fails: nobody offers its labels, or its gate stays closed.
pub const QUEUE_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// How long a job may wait for a person.
pub const APPROVAL_LIMIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a rollout may wait for those before it, or for a worker to begin it.
pub const ROLLOUT_QUEUE_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is ended in one transaction; the next one takes the rest.
const AT_ONCE: u32 = 50;

impl Store {
    /// Ends every lease that has run out, and every wait that has reached its limit. Gives how many it ended.
    pub async fn reap_expired(&self) -> Result<usize> {
        let mut ended = 0;
        loop {
            let store = self.clone();
            let (now, lost, set_by) = self
                .write(move |tx| {
                    Box::pin(async move {
                        // looked at here: with this transaction's time, where that is the database's
                        let set_by = store.inner.clock.was_set_by();
                        let (now, lost) = reap(&store, tx, set_by).await?;
                        Ok((now, lost, set_by))
                    })
                })
                .await?;
            if let Some(set_by) = set_by {
                self.inner.clock.accept(set_by);
            }
            lost.into_iter().for_each(|(job, ended)| self.logs().release(job, ended));
            ended += now;
            if now == 0 {
                return Ok(ended);
            }
        }
    }

    /// When the next lease or limit runs out.
    pub async fn next_expiry(&self) -> Result<Option<Timestamp>> {
        let mut conn = self.read().await?;
        let leases = [jobs::next_expiry(&mut conn).await?, rollouts::next_expiry(&mut conn).await?];
        let queued = jobs::idle_since(&mut conn, JobStatus::Queued).await?.map(|since| since + QUEUE_LIMIT);
        let waiting = jobs::waiting_since(&mut conn).await?.map(|since| since + APPROVAL_LIMIT);
        let unstarted = rollouts::unstarted_since(&mut conn).await?.map(|since| since + ROLLOUT_QUEUE_LIMIT);
        let put_off = rollouts::next_not_before(&mut conn, self.now()).await?;
        let begins_again = jobs::next_put_off(&mut conn).await?;
        let previews = previews::next_expiry(&mut conn).await?;
        Ok(leases.into_iter().chain([queued, waiting, unstarted, put_off, begins_again, previews]).flatten().min())
    }

    /// Reaps for ever: sleeps until the next expiry. It needs no waking while it sleeps towards the end of a lease, because
    /// those that are given meanwhile end later.
    pub async fn run_reaper(&self) {
        let lease = self.config().timing.lease.0;
        let mut leases = self.doorbell().listen(Bell::Leases);
        // a rollout that was handed back for a while is an expiry as well
        let mut rollouts = self.doorbell().listen(Bell::Rollouts);
        let mut put_off = self.doorbell().listen(Bell::PutOff);
        loop {
            if let Err(error) = self.reap_expired().await {
                tracing::error!(%error, "what was lost can't be looked after now; tried again after a lease's length");
                tokio::time::sleep(lease).await;
                continue;
            }
            let next = match self.next_expiry().await {
                Ok(next) => next,
                Err(error) => {
                    tracing::error!(%error, "the next expiry can't be read");
                    Some(self.now() + lease)
                }
            };
            // at least a moment: a clock that stands still must not make this spin
            let wait = next.map(|at| at.since(self.now()).max(Duration::from_millis(5)));
            tokio::select! {
                () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
                () = leases.rung(), if wait.is_none_or(|wait| wait > lease) => {}
                () = rollouts.rung() => {}
                () = put_off.rung() => {}
            }
        }
    }
}

/// How many leases and waits it ended; the jobs that were taken from their workers, and whether each has ended.
async fn reap(store: &Store, tx: &mut Tx, set_by: Option<i64>) -> Result<(usize, Vec<(JobId, bool)>)> {
    let (mut ended, mut lost) = (0, Vec::new());
    if let Some(set_by) = set_by {
        // workers count by a clock that nobody sets, so nobody's lease has run out: each begins again, and what is lost is found one
        // lease later
        tracing::warn!(set_by_ms = set_by, "the clock that counts was set; every lease begins again");
        let until = tx.now + store.config().timing.lease.0;
        // each server that shares a database does this once: what ends too late is ended by its worker, what ends too early is lost
        let moved_by = if store.server().is_some() { set_by.max(0) } else { set_by };
        jobs::extend_all(&mut tx.conn, until, moved_by).await?;
        rollouts::extend_all(&mut tx.conn, until).await?;
    }
    for job in jobs::expired(&mut tx.conn, tx.now, AT_ONCE).await? {
        ended += 1;
        let id = job.record.id;
        let is_over = if job.record.lease_until.is_some_and(|until| until <= tx.now) {
            lose_job(store, tx, job, Loss::Unheard).await?
        } else {
            let limit = job.record.plan.timeout_seconds;
            let reason = format!("the time limit of {limit} s was reached, and its worker did not end it");
            let mut job = job;
            let is_over = fail_or_begin_again(tx, &mut job, FailureClass::Timeout, Some(reason)).await?;
            settle(store, tx, job).await?;
            is_over
        };
        lost.push((id, is_over));
    }
    for rollout in rollouts::expired(&mut tx.conn, tx.now, AT_ONCE).await? {
        ended += 1;
        lose_rollout(tx, rollout).await?;
    }
    ended += super::previews::expire(store, tx).await?;
    for (status, limit, what) in [
        (JobStatus::Queued, QUEUE_LIMIT, "no worker took it"),
        (JobStatus::Waiting, APPROVAL_LIMIT, "nobody approved it"),
    ] {
        let since = Timestamp(tx.now.0.saturating_sub(i64::try_from(limit.as_millis()).unwrap_or(i64::MAX)));
        for job in jobs::overdue(&mut tx.conn, status, since, AT_ONCE).await? {
            ended += 1;
            let reason = format!("{what} within {} hours", limit.as_secs() / 3600);
            fail(store, tx, job, FailureClass::Infrastructure, reason).await?;
        }
    }
    for rollout in rollouts::unstarted(&mut tx.conn, tx.now, ROLLOUT_QUEUE_LIMIT, AT_ONCE).await? {
        ended += 1;
        let reason = format!("it did not begin within {} hours", ROLLOUT_QUEUE_LIMIT.as_secs() / 3600);
        close_unstarted(store, tx, rollout, reason).await?;
    }
    ended += open_in_time(store, tx).await?;
    if jobs::put_on(&mut tx.conn, tx.now).await? > 0 {
        tx.ring(Bell::Jobs);
    }
    // what was put off is claimable now
    if rollouts::next_claimable(&mut tx.conn, tx.now, 0).await?.is_some_and(|r| r.not_before > Timestamp(0)) {
        tx.ring(Bell::Rollouts);
    }
    Ok((ended, lost))
}

/// Asks the gates again that wait for a time which has come; how many. What has waited for too long fails.
async fn open_in_time(store: &Store, tx: &mut Tx) -> Result<usize> {
    let due = jobs::gates_due(&mut tx.conn, tx.now, AT_ONCE).await?;
    for id in &due {
        let job = jobs::load(&mut tx.conn, *id).await?;
        // another one of its run has had it looked at
        if job.not_before.0 == 0 || job.not_before > tx.now {
            continue;
        }
        people::look_at_gates(store, tx, job.record.run).await?;
        let job = jobs::load(&mut tx.conn, *id).await?;
        if job.not_before.0 > 0 && gates::ready_at(&mut tx.conn, &job).await? + gates::GATE_LIMIT <= tx.now {
            let days = gates::GATE_LIMIT.as_secs() / 86_400;
            let reason = format!(
                "its gates did not open within {days} days: {}",
                job.record.reason.as_deref().unwrap_or_default()
            );
            fail(store, tx, job, FailureClass::Infrastructure, reason).await?;
        }
    }
    Ok(due.len())
}

async fn fail(store: &Store, tx: &mut Tx, mut job: Job, class: FailureClass, reason: String) -> Result<()> {
    job.record.failure_class = Some(class);
    job.becomes(JobStatus::Failed, Some(reason), tx.now)?;
    settle(store, tx, job).await
}

/// A job's worker is lost, has begun anew without it, or has stopped it. Whether this ended the job.
pub(super) async fn lose_job(store: &Store, tx: &mut Tx, mut job: Job, loss: Loss) -> Result<bool> {
    let rollout = rollouts::newest_of_job(&mut tx.conn, job.record.id).await?;
    match on_worker_lost(&lost(tx, &job, loss, rollout.as_ref()).await?) {
        OnLoss::Requeue { reason } => {
            job.record.tries += 1;
            job.record.next_step = None;
            jobs::forget_steps(&mut tx.conn, job.record.id, 0).await?;
            job.becomes(JobStatus::Queued, Some(reason), tx.now)?;
            tx.ring(Bell::Jobs);
        }
        OnLoss::AwaitRollout { rollout: id, step } => {
            job.record.tries += 1;
            job.record.rollout = Some(id);
            job.waiting_step = Some(step);
            job.becomes(JobStatus::Waiting, Some(format!("its worker was lost; it waits for rollout {id}")), tx.now)?;
            if let Some(ended) = rollout.filter(|r| r.record.rollout.status.is_final()) {
                resume_after(store, tx, &mut job, &ended).await?;
            }
        }
        OnLoss::Fail { reason, class } => {
            fail_or_begin_again(tx, &mut job, class, Some(reason)).await?;
        }
        OnLoss::Cancel { reason } => job.becomes(JobStatus::Cancelled, Some(reason), tx.now)?,
    }
    let is_over = job.record.status.is_final();
    settle(store, tx, job).await?;
    Ok(is_over)
}

/// A rollout's driver is lost: another goes on where the journal ends.
pub(super) async fn lose_rollout(tx: &mut Tx, mut rollout: StoredRollout) -> Result<()> {
    rollout.let_go();
    rollouts::save(&mut tx.conn, &rollout).await?;
    tx.ring(Bell::Rollouts);
    tx.ring(Bell::Rollout(rollout.id()));
    Ok(())
}

/// Saves a job that was taken from its worker, and does what follows.
async fn settle(store: &Store, tx: &mut Tx, job: Job) -> Result<()> {
    jobs::save(&mut tx.conn, &job).await?;
    if job.record.status.is_final() {
        jobs::save_log(&mut tx.conn, job.record.id, 0, Some(tx.now)).await?;
    }
    tx.ring(Bell::Job(job.record.id));
    advance_run(store, tx, job.record.run).await
}

async fn lost(tx: &mut Tx, job: &Job, loss: Loss, rollout: Option<&StoredRollout>) -> Result<LostJob> {
    let record = &job.record;
    let contained = |index: usize| {
        let step = record.plan.steps.get(index);
        step.is_some_and(|s| matches!(&s.action, StepAction::Uses { uses, .. } if is_contained(uses)))
    };
    let mut steps: Vec<LostStep> = jobs::steps(&mut tx.conn, record.id)
        .await?
        .into_iter()
        .map(|s| LostStep { index: s.index, status: s.status, is_contained: contained(s.index), name: s.name })
        .collect();
    // a step that has asked for a rollout has begun, whether or not its report came through
    let asked = rollout.and_then(|r| Some((r.id(), r.record.step?)));
    if let Some((_, index)) = asked
        && !steps.iter().any(|s| s.index >= index)
    {
        let name = record.plan.steps.get(index).map(|s| s.name.clone()).unwrap_or_default();
        steps.push(LostStep { index, name, status: StepStatus::Running, is_contained: false });
    }
    let waits = asked.filter(|(_, index)| steps.iter().any(|s| s.index == *index && !s.status.is_final()));
    let worker = record.worker.clone();
    Ok(LostJob {
        loss,
        worker: worker.ok_or_else(|| StoreError::corrupt("jobs.worker", "a held job has none"))?,
        last_heard: record.heard_at.unwrap_or_default(),
        environment: record.plan.environment.clone(),
        idempotent: record.plan.idempotent,
        cancelled: record.cancel_requested,
        losses_before: record.tries,
        rollout: waits.map(|(id, _)| id),
        steps,
    })
}

/// Built-in steps that change the workspace and the server's artifacts at most.
fn is_contained(uses: &str) -> bool {
    matches!(
        uses,
        "segue/checkout" | "segue/cache" | "segue/upload-artifact" | "segue/download-artifact" | "segue/health-check"
    )
}
