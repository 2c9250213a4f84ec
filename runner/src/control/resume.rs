//! A rollout has ended, and the job that waited for it goes on.

use indexmap::IndexMap;
use segue_pipelines::{
    expr::{Contexts, render_template},
    progress::{AfterRollout, Next, after_rollout, first_failure},
};
use segue_schemas::{
    status::{Conclusion, FailureClass, JobStatus, RolloutStatus, StepStatus},
    worker_api::StepReport,
};
use serde_json::json;

use super::{contexts, previews};
use crate::store::{
    Bell, Result, Store, StoreError, Tx,
    tables::{
        jobs::{self, Job},
        rollouts::StoredRollout,
        runs,
    },
};

/// Ends the waiting step, and the job with it or queues it again. The caller saves the job and advances its run.
pub(super) async fn resume_after(store: &Store, tx: &mut Tx, job: &mut Job, rollout: &StoredRollout) -> Result<()> {
    let ended = &rollout.record.rollout;
    let step = job.waiting_step.or(rollout.record.step).unwrap_or(0);
    let cancelled = job.record.cancel_requested;
    let plan = &job.record.plan;
    let mut steps = jobs::steps(&mut tx.conn, job.record.id).await?;
    let known = steps.iter().position(|known| known.index == step).map(|at| steps.remove(at));
    steps.retain(|earlier| earlier.index < step);
    let before = first_failure(plan, &steps);
    let may_fail = job.waiting_may_fail;
    let after = after_rollout(plan, step, may_fail, before, ended.status, ended.reason.as_deref(), cancelled)
        .ok_or_else(|| StoreError::Conflict(format!("rollout {} has not ended", ended.id)))?;
    let known = known.unwrap_or_else(|| not_reported(job, step));
    end_step(tx, job, known, &after, rollout).await?;
    job.waiting_step = None;
    job.waiting_may_fail = None;
    job.record.rollout = None;
    match after.next {
        Next::Requeue { next_step } => {
            job.record.next_step = Some(next_step);
            job.becomes(JobStatus::Queued, None, tx.now)?;
            tx.ring(Bell::Jobs);
            Ok(())
        }
        Next::Finish { conclusion, reason, class } => finish(store, tx, job, step, conclusion, reason, class).await,
    }
}

async fn end_step(
    tx: &mut Tx,
    job: &Job,
    mut step: StepReport,
    after: &AfterRollout,
    rollout: &StoredRollout,
) -> Result<()> {
    let ended = &rollout.record.rollout;
    step.status = after.step;
    step.outcome = Some(after.outcome);
    step.reason.clone_from(&after.reason);
    step.ended_at = Some(tx.now);
    step.outputs.extend([
        ("release".to_owned(), ended.spec.release.id.to_string()),
        ("rollout".to_owned(), ended.id.to_string()),
        ("status".to_owned(), ended.status.as_str().to_owned()),
    ]);
    let url = previews::url_of(&ended.spec).filter(|_| ended.status == RolloutStatus::Succeeded);
    step.outputs.extend(url.map(|url| ("url".to_owned(), url.clone())));
    jobs::save_steps(&mut tx.conn, job, &[step]).await
}

async fn finish(
    store: &Store,
    tx: &mut Tx,
    job: &mut Job,
    step: usize,
    conclusion: Conclusion,
    reason: Option<String>,
    class: Option<FailureClass>,
) -> Result<()> {
    let later = step + 1..job.record.plan.steps.len();
    let skipped: Vec<StepReport> = later
        .map(|index| StepReport {
            status: StepStatus::Skipped,
            outcome: Some(Conclusion::Skipped),
            reason: Some("a step before it did not succeed".into()),
            ..not_reported(job, index)
        })
        .collect();
    jobs::save_steps(&mut tx.conn, job, &skipped).await?;
    let (status, reason, class) = match outputs(store, tx, job).await? {
        Ok(outputs) => {
            job.record.outputs = outputs;
            (conclusion.job_status(), reason, class)
        }
        Err(problem) if conclusion == Conclusion::Success => {
            (JobStatus::Failed, Some(problem), Some(FailureClass::Configuration))
        }
        Err(_) => (conclusion.job_status(), reason, class),
    };
    job.record.failure_class = class;
    job.becomes(status, reason, tx.now)?;
    job.record.environment_url = environment_url(store, tx, job).await?;
    jobs::save_log(&mut tx.conn, job.record.id, 0, Some(tx.now)).await
}

/// The job's outputs, or what is wrong with them. No worker holds the job, so they are evaluated here, from what is stored.
async fn outputs(
    store: &Store,
    tx: &mut Tx,
    job: &Job,
) -> Result<std::result::Result<IndexMap<String, String>, String>> {
    let plan = &job.record.plan;
    if plan.outputs.is_empty() {
        return Ok(Ok(IndexMap::new()));
    }
    let visible = visible(store, tx, job).await?;
    let rendered = plan.outputs.iter().map(|(name, template)| {
        let text = render_template(template, &visible).map_err(|e| format!("the job's output `{name}`: {e}"))?;
        Ok((name.clone(), text))
    });
    Ok(rendered.collect())
}

/// Where what the job has deployed can be seen. A URL that cannot be evaluated is none.
pub(super) async fn environment_url(store: &Store, tx: &mut Tx, job: &Job) -> Result<Option<String>> {
    const LONGEST: usize = 2_000;
    let plan = &job.record.plan;
    let Some(template) = plan.environment_url.as_ref().filter(|_| plan.environment.is_some()) else { return Ok(None) };
    let url = render_template(template, &visible(store, tx, job).await?).unwrap_or_default();
    let url = url.trim();
    // it is shown as a link: nothing but the web is behind it
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    Ok((is_web && url.len() <= LONGEST && !url.contains(char::is_control)).then(|| url.to_owned()))
}

/// What expressions of a job that has ended can see.
async fn visible(store: &Store, tx: &mut Tx, job: &Job) -> Result<Contexts> {
    let plan = &job.record.plan;
    let run = runs::load(&mut tx.conn, job.record.run).await?;
    let all = jobs::of_attempt(&mut tx.conn, job.record.run, job.record.attempt).await?;
    let needs: Vec<Job> =
        all.into_iter().filter(|j| plan.needs.iter().any(|need| need == j.record.plan.file_key())).collect();
    let mut visible = Contexts::new();
    for (name, value) in contexts::of_job(&run, job, &needs, store.config()) {
        visible.set(&name, value);
    }
    let mut steps = serde_json::Map::new();
    for step in jobs::steps(&mut tx.conn, job.record.id).await? {
        if let Some(id) = plan.steps.get(step.index).and_then(|s| s.id.clone()) {
            let outcome = step.outcome.map_or("", Conclusion::as_str);
            steps.insert(id, json!({ "outputs": step.outputs, "outcome": outcome, "conclusion": outcome }));
        }
    }
    visible.set("steps", serde_json::Value::Object(steps));
    visible.set("env", json!({}));
    let status = job.view().result().map_or("success", Conclusion::as_str);
    visible.set("job", json!({ "status": status }));
    Ok(visible)
}

fn not_reported(job: &Job, index: usize) -> StepReport {
    StepReport::pending(index, job.record.plan.steps.get(index).map(|s| s.name.clone()).unwrap_or_default())
}
