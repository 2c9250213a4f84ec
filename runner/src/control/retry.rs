//! Begins a job again that has failed, where its `retry` says so.

use std::time::Duration;

use segue_pipelines::progress::begin_again;
use segue_schemas::{
    status::{FailureClass, JobStatus},
    time::Timestamp,
};

use crate::store::{
    Bell, Result, Tx,
    tables::jobs::{self, Job},
};

/// A job that was held has failed: it is queued again after a pause, or ends. Whether it ended. The caller saves it and
/// advances its run.
pub(super) async fn fail_or_begin_again(
    tx: &mut Tx,
    job: &mut Job,
    class: FailureClass,
    reason: Option<String>,
) -> Result<bool> {
    let Some(pause) = begin_again(&job.record.plan, class, job.retries, job.record.cancel_requested) else {
        job.record.failure_class = Some(class);
        job.becomes(JobStatus::Failed, reason, tx.now)?;
        return Ok(true);
    };
    let most = job.record.plan.retry.as_ref().map_or(0, |retry| retry.max);
    job.retries += 1;
    let why = reason.unwrap_or_else(|| class.as_str().into());
    let told = format!("try {} of {} failed: {why}; it begins again after {pause} s", job.retries, most + 1);
    jobs::forget_steps(&mut tx.conn, job.record.id, 0).await?;
    job.becomes(JobStatus::Queued, Some(told), tx.now)?;
    job.record.outputs.clear();
    job.record.next_step = None;
    job.record.tries = 0;
    // each try has the whole time limit
    job.ran = Duration::ZERO;
    job.not_before = if pause == 0 { Timestamp(0) } else { tx.now + Duration::from_secs(pause) };
    tx.ring(Bell::Jobs);
    tx.ring(Bell::PutOff);
    Ok(false)
}
