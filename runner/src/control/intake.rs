//! Deliveries come in and become runs.

use std::time::Duration;

use segue_pipelines::{inputs::as_texts, progress::SkipCause};
use segue_schemas::{
    id::{DeliveryId, RunId},
    plan::RunPlan,
    status::{JobStatus, RunStatus},
    time::Timestamp,
    trigger::{Event, Trigger},
};

use super::{
    advance::{advance, end_unplanned, queue_first},
    asked,
    concurrency::enter_run,
    previews,
};
use crate::store::{
    Accepted, AttemptKind, Bell, Delivery, DeliveryState, DispatchOutcome, Meaning, NewDelivery, NewRun, Payload,
    PlanOutcome, Planning, Result, RunRecord, Store, StoreError, Terms, Tx, comments, new_job_id,
    tables::{
        deliveries,
        jobs::{self, Job},
        runs::{self, Run},
    },
};

/// The first pause before a delivery is planned again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How long planning is tried, from the delivery's acceptance on.
const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 3600);

impl Store {
    /// Stores a delivery and, if it may start runs, the bell for the planner. When this returns it can't be lost.
    /// A GUID that is known changes nothing.
    pub async fn accept_delivery(&self, delivery: NewDelivery) -> Result<Accepted> {
        let store = self.clone();
        self.write(move |tx| {
            Box::pin(async move {
                if !deliveries::insert(&mut tx.conn, &delivery, tx.now).await? {
                    return Ok(Accepted::Known);
                }
                if let Meaning::Starts(trigger) = &delivery.meaning {
                    previews::hear(&store, tx, trigger).await?;
                }
                if let Meaning::Asks(asked) = &delivery.meaning {
                    let ignored = asked::perform(&store, tx, asked, &delivery.id).await?;
                    if let Some(reason) = ignored {
                        let state = DeliveryState::Ignored;
                        deliveries::settle(&mut tx.conn, &delivery.id, state, Some(&reason), tx.now).await?;
                    }
                }
                if let Meaning::Commented(comment) = &delivery.meaning
                    && !comments::insert(tx, comment, &delivery.id).await?
                {
                    let (state, reason) = (DeliveryState::Ignored, "the comment came before, with another delivery");
                    deliveries::settle(&mut tx.conn, &delivery.id, state, Some(reason), tx.now).await?;
                }
                tx.ring(Bell::Deliveries);
                Ok(Accepted::New)
            })
        })
        .await
    }

    /// Deliveries that wait for the planner and are due, oldest first.
    pub async fn next_deliveries(&self, limit: u32) -> Result<Vec<Delivery>> {
        deliveries::waiting(&mut self.read().await?, self.server(), self.now(), limit).await
    }

    /// When the next delivery that was put off is due; for the planner's timer.
    pub async fn next_delivery_due(&self) -> Result<Option<Timestamp>> {
        deliveries::next_due(&mut self.read().await?, self.server(), self.now()).await
    }

    /// One delivery.
    pub async fn delivery(&self, id: &DeliveryId) -> Result<Delivery> {
        let found = deliveries::find(&mut self.read().await?, id).await?;
        found.ok_or_else(|| StoreError::not_found("delivery", id))
    }

    /// Deliveries, newest first; `before`: only those with a lower position.
    pub async fn deliveries(&self, before: Option<i64>, limit: u32) -> Result<Vec<Delivery>> {
        deliveries::list(&mut self.read().await?, before, limit).await
    }

    /// The runs that came of a delivery.
    pub async fn runs_of_delivery(&self, id: &DeliveryId) -> Result<Vec<RunId>> {
        runs::of_delivery(&mut self.read().await?, id).await
    }

    /// Stores what the planner made of a delivery: the runs with their jobs, of which the first are claimable when this
    /// returns. The same work (repository, event, ref, before, after) under another GUID makes nothing.
    pub async fn record_planned(&self, id: &DeliveryId, planning: Planning) -> Result<PlanOutcome> {
        let (store, id) = (self.clone(), id.clone());
        self.write(move |tx| Box::pin(async move { record_planned(&store, tx, &id, planning).await })).await
    }

    /// Planning failed for a reason that may pass (the repository can't be reached): the planner sees the delivery again
    /// after a pause that doubles from 1 s to 5 min, and `Some` says when. After a day it is settled as failed.
    pub async fn defer_delivery(&self, id: &DeliveryId, reason: String) -> Result<Option<Timestamp>> {
        let id = id.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let delivery = unsettled(tx, &id).await?;
                if tx.now.since(delivery.received_at) >= GIVE_UP_AFTER {
                    deliveries::settle(&mut tx.conn, &id, DeliveryState::Failed, Some(&reason), tx.now).await?;
                    return Ok(None);
                }
                let pause = FIRST_PAUSE.saturating_mul(1 << delivery.tries.min(16)).min(LONGEST_PAUSE);
                let until = tx.now + pause;
                deliveries::defer(&mut tx.conn, &id, &reason, until).await?;
                tx.ring(Bell::Deliveries);
                Ok(Some(until))
            })
        })
        .await
    }

    /// Stores runs that a person asked for, under a key that takes the place of a delivery's GUID: the same key again makes
    /// nothing and gives the runs that it made.
    pub async fn create_dispatch_run(
        &self,
        key: DeliveryId,
        trigger: Trigger,
        new: Vec<NewRun>,
    ) -> Result<DispatchOutcome> {
        let store = self.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let delivery = NewDelivery {
                    id: key.clone(),
                    event: trigger.event.name().into(),
                    repository: Some(trigger.repository.clone()),
                    payload: Payload::Inline(String::new()),
                    meaning: Meaning::Planned(trigger.clone()),
                };
                if !deliveries::insert(&mut tx.conn, &delivery, tx.now).await? {
                    let mut known = Vec::new();
                    for id in runs::of_delivery(&mut tx.conn, &key).await? {
                        known.push(runs::load(&mut tx.conn, id).await?.record);
                    }
                    return Ok(DispatchOutcome { runs: known, new: false });
                }
                let made = insert_runs(&store, tx, &key, &trigger, new).await?;
                Ok(DispatchOutcome { runs: made, new: true })
            })
        })
        .await
    }
}

async fn record_planned(store: &Store, tx: &mut Tx, id: &DeliveryId, planning: Planning) -> Result<PlanOutcome> {
    let delivery = deliveries::find(&mut tx.conn, id).await?.ok_or_else(|| StoreError::not_found("delivery", id))?;
    if delivery.state != DeliveryState::Accepted {
        return Ok(PlanOutcome::Settled);
    }
    let (state, reason, outcome) = match planning {
        Planning::Ignored(reason) => {
            // nothing runs of it, and it is known that it came
            if let Some(trigger) = &delivery.trigger {
                deliveries::claim_identity(&mut tx.conn, trigger, id, tx.now).await?;
            }
            (DeliveryState::Ignored, Some(reason), PlanOutcome::Nothing)
        }
        Planning::Failed(reason) => (DeliveryState::Failed, Some(reason), PlanOutcome::Nothing),
        Planning::Runs(_) | Planning::Located(..) => {
            let (located, new) = match planning {
                Planning::Located(trigger, new) => (Some(*trigger), new),
                Planning::Runs(new) => (None, new),
                Planning::Ignored(_) | Planning::Failed(_) => (None, Vec::new()),
            };
            let trigger = located.or(delivery.trigger).ok_or_else(|| {
                StoreError::Conflict(format!("delivery {id} starts nothing, so no run can come of it"))
            })?;
            match deliveries::claim_identity(&mut tx.conn, &trigger, id, tx.now).await? {
                Some(first) => {
                    let reason = format!("the same work came with delivery {first}");
                    (DeliveryState::Ignored, Some(reason), PlanOutcome::KnownWork(first))
                }
                None => {
                    let made = insert_runs(store, tx, id, &trigger, new).await?;
                    (DeliveryState::Planned, None, PlanOutcome::Made(made.iter().map(|run| run.id).collect()))
                }
            }
        }
    };
    deliveries::settle(&mut tx.conn, id, state, reason.as_deref(), tx.now).await?;
    Ok(outcome)
}

async fn unsettled(tx: &mut Tx, id: &DeliveryId) -> Result<Delivery> {
    match deliveries::find(&mut tx.conn, id).await? {
        Some(delivery) if delivery.state == DeliveryState::Accepted => Ok(delivery),
        Some(_) => Err(StoreError::Conflict(format!("delivery {id} is settled"))),
        None => Err(StoreError::not_found("delivery", id)),
    }
}

async fn insert_runs(
    store: &Store,
    tx: &mut Tx,
    delivery: &DeliveryId,
    trigger: &Trigger,
    new: Vec<NewRun>,
) -> Result<Vec<RunRecord>> {
    let mut made = Vec::with_capacity(new.len());
    for run in new {
        made.push(insert_run(store, tx, delivery, trigger, run).await?);
    }
    Ok(made)
}

async fn insert_run(
    store: &Store,
    tx: &mut Tx,
    delivery: &DeliveryId,
    trigger: &Trigger,
    new: NewRun,
) -> Result<RunRecord> {
    let id = RunId(tx.conn.next_number("run").await?);
    let (plan, diagnostics, skipped) = match new {
        NewRun::Planned(plan) => {
            let skipped = same_head(tx, trigger, &plan).await?;
            (plan, None, skipped)
        }
        NewRun::Broken { file, pipeline, diagnostics } => {
            (RunPlan { file, pipeline, ..RunPlan::default() }, Some(diagnostics), None)
        }
        NewRun::Skipped { plan, reason } => (plan, None, Some(reason)),
    };
    let RunPlan { file, pipeline, env, inputs, concurrency, jobs: plans, once_per_head: _ } = plan;
    let broken = || format!("{file} can't be planned; the diagnostics say what to change");
    let mut trigger = trigger.clone();
    if let Event::WorkflowDispatch { inputs: texts, .. } = &mut trigger.event {
        *texts = as_texts(&inputs);
    }
    let record = RunRecord {
        id,
        repository: trigger.repository.clone(),
        pipeline,
        event: trigger.event.name().into(),
        git_ref: trigger.event.git_ref(),
        commit: trigger.event.commit().clone(),
        title: title(&trigger.event),
        actor: trigger.actor.clone(),
        trusted: !trigger.event.is_from_fork(&trigger.repository),
        status: RunStatus::Queued,
        reason: diagnostics.is_some().then(broken).or_else(|| skipped.clone()),
        file,
        attempt: 1,
        delivery: Some(delivery.clone()),
        diagnostics,
        cancel_requested: false,
        cancelled_by: None,
        created_at: tx.now,
        started_at: None,
        ended_at: None,
        terms: Terms::default(),
    };
    let mut run = Run { record, trigger, env, inputs, concurrency_plan: concurrency, concurrency: None };
    runs::insert(&mut tx.conn, &run, Some(delivery)).await?;
    runs::insert_attempt(&mut tx.conn, id, 1, AttemptKind::First, &run.record.actor, &run.record.terms, tx.now).await?;
    if run.record.diagnostics.is_some() {
        return end_unplanned(store, tx, run, RunStatus::Failed).await;
    }
    let mut planned = Vec::with_capacity(plans.len());
    for (position, plan) in plans.into_iter().enumerate() {
        let mut job = Job::planned(new_job_id(), id, 1, position, &run.record.repository, plan);
        if let Some(reason) = &skipped {
            job.skip_cause = Some(SkipCause::Condition);
            job.becomes(JobStatus::Skipped, Some(reason.clone()), tx.now)?;
        }
        planned.push(job);
    }
    if run.concurrency_plan.is_none() && skipped.is_none() {
        queue_first(store, tx, &run, &mut planned).await?;
    }
    for job in &planned {
        jobs::insert(&mut tx.conn, job, tx.now).await?;
    }
    if skipped.is_some() {
        return end_unplanned(store, tx, run, RunStatus::Skipped).await;
    }
    enter_run(store, tx, &mut run, &mut planned).await?;
    advance(store, tx, run, planned).await
}

/// The trap of running everything twice: a push to a branch with an open pull request is two events. The same pipeline of the
/// same commit of the same branch runs for the first of them; the other one is recorded and says so. `repeat-push: true` asks
/// for both.
async fn same_head(tx: &mut Tx, trigger: &Trigger, plan: &RunPlan) -> Result<Option<String>> {
    if !plan.once_per_head || !trigger.event.brings_code() || trigger.event.is_from_fork(&trigger.repository) {
        return Ok(None);
    }
    let (other, branch) = match &trigger.event {
        Event::Push { r#ref, .. } => ("pull_request", r#ref.strip_prefix("refs/heads/")),
        Event::PullRequest { head_ref, .. } => ("push", Some(head_ref.as_str())),
        _ => return Ok(None),
    };
    let Some(branch) = branch else { return Ok(None) };
    let commit = trigger.event.commit();
    for run in runs::of_commit(&mut tx.conn, &trigger.repository, commit, &plan.file, other).await? {
        let same_branch = match &run.trigger.event {
            Event::Push { r#ref, .. } => r#ref.strip_prefix("refs/heads/") == Some(branch),
            Event::PullRequest { head_ref, .. } => run.trigger.event.brings_code() && head_ref == branch,
            _ => false,
        };
        if same_branch && run.record.trusted && run.record.status != RunStatus::Skipped {
            return Ok(Some(format!(
                "run {} has this commit of `{branch}` already, for its {other}; `repeat-push: true` under `on.pull_request` asks for both",
                run.record.id
            )));
        }
    }
    Ok(None)
}

/// One line that tells the run from others.
fn title(event: &Event) -> String {
    let text = match event {
        Event::Push { message, after, .. } if message.trim().is_empty() => after.short(),
        Event::Push { message, .. } => message,
        Event::PullRequest { title, .. } => title,
        Event::WorkflowDispatch { commit, .. } => commit.short(),
        Event::Schedule { cron: Some(cron), .. } => cron,
        Event::Schedule { commit, .. } => commit.short(),
        Event::RepositoryDispatch { action, .. } => action,
        Event::IssueComment { body, .. } => body,
    };
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}
