//! Concurrency groups: `segue_pipelines::progress` says who gives way to whom, and it is done here, in the transaction that
//! brings somebody new. The slot is taken with the claim.

use std::collections::HashSet;

use segue_pipelines::progress::{Claimant, Fate, Gate, SkipCause, enter, evaluate_concurrency, turn};
use segue_schemas::{
    id::JobId,
    plan::ConcurrencyPlan,
    status::{FailureClass, JobStatus},
};

use super::{
    advance::{advance_run, save_unheld, stop},
    contexts,
    people::cancel_jobs,
};
use crate::store::{
    Result, Store, Tx,
    sql::Conn,
    tables::{
        jobs::{self, Job},
        runs::{self, Run},
        slots::{self, Member},
    },
};

/// A run's attempt begins: its group is evaluated, and who is in it gives way, or does not. The caller advances the run.
pub(super) async fn enter_run(store: &Store, tx: &mut Tx, run: &mut Run, jobs: &mut [Job]) -> Result<()> {
    let Some(plan) = run.concurrency_plan.clone() else { return Ok(()) };
    let plan = match evaluate_concurrency(&plan, &contexts::of_run(run, None, store.config())) {
        Ok(plan) => plan,
        Err(reason) => return end_all(tx, run, jobs, &End::Failed(reason)).await,
    };
    run.concurrency = Some(plan.group.clone());
    runs::save_group(&mut tx.conn, run).await?;
    let id = run.record.id;
    let fate =
        come(store, tx, &run.record.repository.clone(), &plan, |m| m.job.is_none() && m.claimant.run == id).await?;
    match fate {
        Fate::Stays => Ok(()),
        Fate::Superseded { reason } | Fate::Cancelled { reason } => end_all(tx, run, jobs, &End::Skipped(reason)).await,
    }
}

/// A job's needs have ended, and it comes into its group. Whether that ended it.
pub(super) async fn enter_job(store: &Store, tx: &mut Tx, run: &Run, job: &mut Job) -> Result<bool> {
    let Some(plan) = job.record.plan.concurrency.clone() else { return Ok(false) };
    if run.concurrency.as_ref() == Some(&plan.group) {
        let group = &plan.group;
        let reason = format!(
            "its run has the concurrency group `{group}` already, so the job would wait for ever; give one of them another"
        );
        job.record.failure_class = Some(FailureClass::Configuration);
        job.becomes(JobStatus::Failed, Some(reason), tx.now)?;
        return Ok(true);
    }
    let id = job.record.id;
    match come(store, tx, &run.record.repository, &plan, |member| member.job == Some(id)).await? {
        Fate::Stays => Ok(false),
        Fate::Superseded { reason } | Fate::Cancelled { reason } => {
            job.skip_cause = Some(SkipCause::Superseded);
            job.becomes(JobStatus::Skipped, Some(reason), tx.now)?;
            Ok(true)
        }
    }
}

/// Somebody comes into a group; what becomes of it. What becomes of the others is done.
async fn come(
    store: &Store,
    tx: &mut Tx,
    repository: &str,
    plan: &ConcurrencyPlan,
    is_own: impl Fn(&Member) -> bool,
) -> Result<Fate> {
    let (own, others): (Vec<Member>, Vec<Member>) =
        slots::members(&mut tx.conn, repository, &plan.group).await?.into_iter().partition(is_own);
    let Some(own) = own.into_iter().next() else { return Ok(Fate::Stays) };
    let claimants: Vec<Claimant> = others.iter().map(|member| member.claimant.clone()).collect();
    let entered = enter(&own.claimant, &plan.group, plan.cancel_in_progress.fixed().unwrap_or(false), &claimants);
    for (member, fate) in others.iter().zip(&entered.others) {
        // what it does to another run may bring somebody into a group there: always somebody older, so this ends
        Box::pin(give_way(store, tx, member, fate)).await?;
    }
    Ok(entered.own)
}

async fn give_way(store: &Store, tx: &mut Tx, member: &Member, fate: &Fate) -> Result<()> {
    let reason = match fate {
        Fate::Stays => return Ok(()),
        Fate::Superseded { reason } | Fate::Cancelled { reason } => reason,
    };
    let Some(id) = member.job else { return run_gives_way(store, tx, member, fate, reason).await };
    let mut job = jobs::load(&mut tx.conn, id).await?;
    if job.record.status.is_final() || job.record.cancel_requested {
        return Ok(());
    }
    let has_begun = job.record.epoch.0 > 0 && !job.begins_again();
    match fate {
        Fate::Superseded { .. } if !has_begun => {
            job.skip_cause = Some(SkipCause::Superseded);
            job.becomes(JobStatus::Skipped, Some(reason.clone()), tx.now)?;
        }
        Fate::Cancelled { .. } if has_begun => stop(store, tx, &mut job, reason).await?,
        Fate::Cancelled { .. } => job.becomes(JobStatus::Cancelled, Some(reason.clone()), tx.now)?,
        _ => return Ok(()),
    }
    save_unheld(tx, &job).await?;
    advance_run(store, tx, job.record.run).await
}

async fn run_gives_way(store: &Store, tx: &mut Tx, member: &Member, fate: &Fate, reason: &str) -> Result<()> {
    let id = member.claimant.run;
    match fate {
        Fate::Superseded { .. } => {
            let mut run = runs::load(&mut tx.conn, id).await?;
            let mut all = jobs::of_attempt(&mut tx.conn, id, run.record.attempt).await?;
            end_all(tx, &mut run, &mut all, &End::Skipped(reason.to_owned())).await?;
            advance_run(store, tx, id).await
        }
        _ if runs::load(&mut tx.conn, id).await?.record.cancel_requested => Ok(()),
        _ => cancel_jobs(store, tx, id, format!("concurrency: {reason}")).await,
    }
}

/// How jobs that have not begun end.
enum End {
    Skipped(String),
    Failed(String),
}

/// Ends what has not begun of a run, and says why at the run.
async fn end_all(tx: &mut Tx, run: &mut Run, all: &mut [Job], end: &End) -> Result<()> {
    let (End::Skipped(reason) | End::Failed(reason)) = end;
    for job in all.iter_mut().filter(|job| !job.record.status.is_final() && job.record.epoch.0 == 0) {
        match end {
            End::Skipped(_) => {
                job.skip_cause = Some(SkipCause::Superseded);
                job.becomes(JobStatus::Skipped, Some(reason.clone()), tx.now)?;
            }
            End::Failed(_) => {
                job.record.failure_class = Some(FailureClass::Configuration);
                job.becomes(JobStatus::Failed, Some(reason.clone()), tx.now)?;
            }
        }
        jobs::save(&mut tx.conn, job).await?;
    }
    run.record.reason = Some(reason.clone());
    runs::save(&mut tx.conn, &run.record).await
}

/// Whether the run's group, and the job's, let the job begin.
pub(crate) async fn gate(conn: &mut Conn, run: &Run, job: &Job) -> Result<Gate> {
    let repository = &run.record.repository;
    let id = job.record.id;
    if let Some(group) = &run.concurrency {
        let own = |member: &Member| member.job.is_none() && member.claimant.run == run.record.id;
        let gate = judge(conn, repository, group, own).await?;
        if gate != Gate::Open {
            return Ok(gate);
        }
    }
    match &job.record.plan.concurrency {
        Some(plan) => judge(conn, repository, &plan.group, |member| member.job == Some(id)).await,
        None => Ok(Gate::Open),
    }
}

async fn judge(conn: &mut Conn, repository: &str, group: &str, is_own: impl Fn(&Member) -> bool) -> Result<Gate> {
    let members = slots::members(conn, repository, group).await?;
    let (own, others): (Vec<Member>, Vec<Member>) = members.into_iter().partition(is_own);
    let others: Vec<Claimant> = others.into_iter().map(|member| member.claimant).collect();
    match own.first() {
        Some(own) => Ok(turn(&own.claimant, group, &others)),
        None => Ok(Gate::Closed { reason: format!("many wait in the concurrency group `{group}`") }),
    }
}

/// Takes the slots that the job needs; whether it has them all. One that is had and not needed goes back with the run's end.
pub(super) async fn take(tx: &mut Tx, run: &Run, job: &Job) -> Result<bool> {
    let mut wanted: Vec<(&str, Option<JobId>)> = Vec::new();
    wanted.extend(run.concurrency.as_deref().map(|group| (group, None)));
    wanted.extend(job.record.plan.concurrency.as_ref().map(|plan| (plan.group.as_str(), Some(job.record.id))));
    for (group, job) in wanted {
        if !slots::take(&mut tx.conn, &run.record.repository, group, run.record.id, job, tx.now).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives back what has ended; whether somebody may have got a turn.
pub(super) async fn release(tx: &mut Tx, run: &Run, all: &[Job]) -> Result<bool> {
    let groups: HashSet<&str> =
        all.iter().filter_map(|job| job.record.plan.concurrency.as_ref()).map(|plan| plan.group.as_str()).collect();
    if groups.is_empty() && run.concurrency.is_none() {
        return Ok(false);
    }
    slots::release_ended(&mut tx.conn, run.record.id).await?;
    // one that was ahead in the queue and has ended without the slot frees the way as well
    Ok(true)
}
