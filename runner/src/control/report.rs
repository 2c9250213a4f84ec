//! Takes what workers say about the jobs that they hold. Every write is fenced by the epoch of its lease.

use std::time::Duration;

use segue_pipelines::progress::{Loss, SkipCause};
use segue_schemas::{
    artifact::{Artifact, check_name},
    id::{Epoch, JobId},
    status::{Conclusion, FailureClass, JobStatus},
    worker_api::{
        AttachArtifact, ClaimRequest, JobClaim, JobFinish, JobHandBack, JobLost, JobReport, JobWait, Reported,
    },
};

use super::{
    advance::{advance, advance_run},
    claim::claim,
    reaper::lose_job,
    resume::{environment_url, resume_after},
    retry::fail_or_begin_again,
};
use crate::store::{
    Bell, Result, Store, StoreError, Tx,
    tables::{
        blobs,
        jobs::{self, Job},
        rollouts, runs,
    },
};

/// Artifacts of one attempt of a run.
const MAX_ARTIFACTS: usize = 500;
/// The longest that an artifact can be asked to be kept.
const MAX_RETENTION_DAYS: u32 = 400;

impl Store {
    /// Extends a job's lease; says whether it is to be cancelled. To hold the answer back, listen to [`Bell::Job`] and ask
    /// [`Store::job_cancel_requested`] when it rings.
    pub async fn renew_job(&self, job: JobId, epoch: Epoch) -> Result<Reported> {
        let length = self.config().timing.lease.0;
        self.write(move |tx| {
            Box::pin(async move {
                let held = jobs::load_held(&mut tx.conn, job, epoch).await?;
                jobs::extend(&mut tx.conn, job, tx.now, tx.now + length).await?;
                Ok(reported(&held))
            })
        })
        .await
    }

    /// Whether a held job is to be cancelled. [`StoreError::StaleEpoch`] when its lease has gone to somebody else.
    pub async fn job_cancel_requested(&self, job: JobId, epoch: Epoch) -> Result<bool> {
        let held = jobs::load_held(&mut self.read().await?, job, epoch).await?;
        Ok(held.record.cancel_requested)
    }

    /// Stores steps that started or ended; counts as a renewal.
    pub async fn report_steps(&self, job: JobId, report: JobReport) -> Result<Reported> {
        let store = self.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let mut held = jobs::load_held(&mut tx.conn, job, report.epoch).await?;
                jobs::save_steps(&mut tx.conn, &held, &report.steps).await?;
                if held.record.status == JobStatus::Leased {
                    held.becomes(JobStatus::Running, None, tx.now)?;
                }
                held.record.heard_at = Some(tx.now);
                held.record.lease_until = Some(tx.now + store.config().timing.lease.0);
                jobs::save(&mut tx.conn, &held).await?;
                tx.ring(Bell::Run(held.record.run));
                Ok(reported(&held))
            })
        })
        .await
    }

    /// Ends a job and does what follows from it: jobs that became claimable are, those that never will be are skipped
    /// with their reason, the run's status follows. The same end under the same epoch once more changes nothing.
    pub async fn finish_job(&self, job: JobId, finish: JobFinish) -> Result<Reported> {
        self.append_tail(job, &finish).await?;
        let has_tail = !finish.log_tail.is_empty();
        let store = self.clone();
        let ended = self.write(move |tx| Box::pin(async move { end(&store, tx, job, finish).await })).await?;
        Ok(self.after_end(job, ended, has_tail))
    }

    /// The same, and [`Store::claim_job`] for the slot that is free by it, under one commit. Each fails alone.
    pub async fn finish_and_claim(
        &self,
        job: JobId,
        finish: JobFinish,
        next: &ClaimRequest,
    ) -> (Result<Reported>, Result<Option<JobClaim>>) {
        if let Err(error) = self.append_tail(job, &finish).await {
            return (Err(error), Ok(None));
        }
        self.heard(&next.worker);
        let has_tail = !finish.log_tail.is_empty();
        let (store, asked, wanted) = (self.clone(), self.clone(), next.clone());
        let both = self.write_both(
            move |tx| Box::pin(async move { end(&store, tx, job, finish).await }),
            move |tx| Box::pin(async move { claim(&asked, tx, &wanted).await }),
        );
        let (ended, leased) = both.await;
        let ended = ended.map(|ended| self.after_end(job, ended, has_tail));
        let claimed = match leased {
            Ok(leased) => self.with_log(leased).await,
            Err(error) => Err(error),
        };
        (ended, claimed)
    }

    fn after_end(&self, job: JobId, (done, is_over): (Reported, bool), has_tail: bool) -> Reported {
        self.logs().release(job, is_over);
        if has_tail {
            self.logs().tell(job);
        }
        done
    }

    /// A job gives its slot back until its rollout has ended. If that has ended already, the job goes on at once.
    pub async fn wait_job(&self, job: JobId, wait: JobWait) -> Result<Reported> {
        let store = self.clone();
        let done = self.write(move |tx| Box::pin(async move { begin_wait(&store, tx, job, wait).await })).await?;
        self.logs().release(job, false);
        Ok(done)
    }

    /// A job is queued again, to go on at a step; one that is to be cancelled ends.
    pub async fn hand_back_job(&self, job: JobId, hand_back: JobHandBack) -> Result<Reported> {
        let store = self.clone();
        let done = self.write(move |tx| Box::pin(async move { take_back(&store, tx, job, hand_back).await })).await?;
        self.logs().release(job, false);
        Ok(done)
    }

    /// A job whose worker could not renew the lease and has stopped it is looked after as one whose worker is lost; it may be queued
    /// again. The same under the same epoch once more changes nothing.
    pub async fn lost_job(&self, job: JobId, lost: JobLost) -> Result<Reported> {
        let store = self.clone();
        let (done, is_over) =
            self.write(move |tx| Box::pin(async move { lose_stopped(&store, tx, job, lost).await })).await?;
        self.logs().release(job, is_over);
        Ok(done)
    }

    /// Names an uploaded content in the job's attempt. The same name with another content is a conflict.
    pub async fn attach_artifact(&self, job: JobId, attach: AttachArtifact) -> Result<Artifact> {
        check_name(&attach.name)
            .map_err(|wrong| StoreError::Refused(format!("`{}` {wrong}", attach.name.escape_debug())))?;
        let Some(bytes) = self.artifact_wanted(&attach.digest).await? else {
            return Err(StoreError::Refused(format!(
                "the artifact {} is not here: upload it, then name it",
                attach.digest
            )));
        };
        self.write(move |tx| {
            Box::pin(async move {
                let held = jobs::load_held(&mut tx.conn, job, attach.epoch).await?.record;
                if let Some(known) = jobs::artifact(&mut tx.conn, held.run, held.attempt, &attach.name).await? {
                    if known.digest == attach.digest {
                        return Ok(known);
                    }
                    let name = attach.name;
                    return Err(StoreError::Conflict(format!(
                        "this attempt has an artifact `{name}` with another content: give this one another name"
                    )));
                }
                let count = jobs::artifacts(&mut tx.conn, held.run, held.attempt).await?.len();
                if count >= MAX_ARTIFACTS {
                    let text = format!("an attempt has at most {MAX_ARTIFACTS} artifacts: put several files into one");
                    return Err(StoreError::Refused(text));
                }
                let days = attach.retention_days.map(|days| days.clamp(1, MAX_RETENTION_DAYS));
                let expires_at = days.map(|days| tx.now + Duration::from_secs(u64::from(days) * 86_400));
                let artifact = Artifact { name: attach.name, digest: attach.digest, bytes, created_at: tx.now };
                jobs::insert_artifact(&mut tx.conn, &held, &artifact, expires_at).await?;
                blobs::touch(&mut tx.conn, &artifact.digest, bytes, tx.now).await?;
                tx.ring(Bell::Run(held.run));
                Ok(artifact)
            })
        })
        .await
    }

    /// Every artifact of the job's attempt, by name.
    pub async fn job_artifacts(&self, job: JobId) -> Result<Vec<Artifact>> {
        let mut conn = self.read().await?;
        let record = jobs::load(&mut conn, job).await?.record;
        jobs::artifacts(&mut conn, record.run, record.attempt).await
    }

    /// An artifact of the job's attempt, by name.
    pub async fn job_artifact(&self, job: JobId, name: &str) -> Result<Artifact> {
        let mut conn = self.read().await?;
        let record = jobs::load(&mut conn, job).await?.record;
        let found = jobs::artifact(&mut conn, record.run, record.attempt, name).await?;
        found.ok_or_else(|| {
            StoreError::not_found("artifact", format!("`{name}` in attempt {} of run {}", record.attempt, record.run))
        })
    }
}

/// The answer, and whether the job has ended: one that failed may begin again.
async fn end(store: &Store, tx: &mut Tx, id: JobId, finish: JobFinish) -> Result<(Reported, bool)> {
    let (mut all, at) = jobs::with_its_attempt(&mut tx.conn, id).await?;
    let known = &all[at];
    let is_told = known.record.status == finish.conclusion.job_status()
        || (known.record.status == JobStatus::Cancelled && is_outdated(known, finish.conclusion));
    let begins_again = known.record.status == JobStatus::Queued && known.retries > 0;
    if known.record.epoch == finish.epoch && (is_told || begins_again) {
        return Ok((reported(known), is_told));
    }
    let mut job = jobs::held_under(known.clone(), finish.epoch)?;
    // asked before anything is written: writes that no question follows are said at once
    let run = runs::load(&mut tx.conn, job.record.run).await?;
    jobs::save_steps(&mut tx.conn, &job, &finish.steps).await?;
    job.record.outputs = finish.outputs;
    job.record.heard_at = Some(tx.now);
    job.record.next_step = None;
    let is_over = if is_outdated(&job, finish.conclusion) {
        job.becomes(JobStatus::Cancelled, finish.reason, tx.now)?;
        true
    } else if finish.conclusion == Conclusion::Failure {
        let class = finish.failure_class.unwrap_or(FailureClass::Script);
        fail_or_begin_again(tx, &mut job, class, finish.reason).await?
    } else {
        job.record.failure_class = None;
        job.becomes(finish.conclusion.job_status(), finish.reason, tx.now)?;
        true
    };
    if is_over {
        job.record.environment_url = environment_url(store, tx, &job).await?;
    }
    let closed_at = is_over.then_some(tx.now);
    if store.logs().is_shared() && !finish.log_tail.is_empty() {
        jobs::end_shared_log(&mut tx.conn, id, &finish.log_tail, finish.log_bytes, closed_at).await?;
    } else {
        jobs::save_log(&mut tx.conn, id, finish.log_bytes, closed_at).await?;
    }
    jobs::save(&mut tx.conn, &job).await?;
    let answer = reported(&job);
    if run.record.attempt == job.record.attempt {
        all[at] = job;
        advance(store, tx, run, all).await?;
    } else {
        advance_run(store, tx, run.record.id).await?;
    }
    Ok((answer, is_over))
}

/// Whether a job failed because a newer commit has come in the place of its own.
fn is_outdated(job: &Job, conclusion: Conclusion) -> bool {
    conclusion == Conclusion::Failure && job.skip_cause == Some(SkipCause::Superseded)
}

async fn begin_wait(store: &Store, tx: &mut Tx, id: JobId, wait: JobWait) -> Result<Reported> {
    let known = jobs::load(&mut tx.conn, id).await?;
    if known.record.epoch == wait.epoch && known.record.status == JobStatus::Waiting {
        return Ok(reported(&known));
    }
    let mut job = jobs::held_under(known, wait.epoch)?;
    let rollout = rollouts::load(&mut tx.conn, wait.rollout).await?;
    if rollout.record.job != Some(id) || rollout.record.step != Some(wait.step) {
        return Err(StoreError::Conflict(format!(
            "rollout {} is not that of step {} of this job",
            wait.rollout, wait.step
        )));
    }
    jobs::save_steps(&mut tx.conn, &job, &wait.steps).await?;
    jobs::save_log(&mut tx.conn, id, wait.log_bytes, None).await?;
    job.record.rollout = Some(wait.rollout);
    job.record.heard_at = Some(tx.now);
    job.waiting_step = Some(wait.step);
    job.waiting_may_fail = wait.may_fail;
    job.becomes(JobStatus::Waiting, Some(format!("waits for rollout {}", wait.rollout)), tx.now)?;
    if rollout.record.rollout.status.is_final() {
        resume_after(store, tx, &mut job, &rollout).await?;
    }
    jobs::save(&mut tx.conn, &job).await?;
    advance_run(store, tx, job.record.run).await?;
    Ok(reported(&job))
}

async fn take_back(store: &Store, tx: &mut Tx, id: JobId, back: JobHandBack) -> Result<Reported> {
    let known = jobs::load(&mut tx.conn, id).await?;
    if known.record.epoch == back.epoch && known.record.status == JobStatus::Queued {
        return Ok(reported(&known));
    }
    let mut job = jobs::held_under(known, back.epoch)?;
    let keep = back.next_step.unwrap_or(0);
    let kept: Vec<_> = back.steps.into_iter().filter(|s| s.index < keep).collect();
    jobs::save_steps(&mut tx.conn, &job, &kept).await?;
    jobs::forget_steps(&mut tx.conn, id, keep).await?;
    jobs::save_log(&mut tx.conn, id, back.log_bytes, None).await?;
    job.record.next_step = back.next_step;
    job.record.heard_at = Some(tx.now);
    if job.record.cancel_requested {
        job.becomes(JobStatus::Cancelled, Some("the run was cancelled".into()), tx.now)?;
        jobs::save_log(&mut tx.conn, id, back.log_bytes, Some(tx.now)).await?;
    } else {
        job.becomes(JobStatus::Queued, Some(back.reason), tx.now)?;
        tx.ring(Bell::Jobs);
    }
    jobs::save(&mut tx.conn, &job).await?;
    advance_run(store, tx, job.record.run).await?;
    Ok(reported(&job))
}

/// The answer, and whether the job has ended with it.
async fn lose_stopped(store: &Store, tx: &mut Tx, id: JobId, lost: JobLost) -> Result<(Reported, bool)> {
    let known = jobs::load(&mut tx.conn, id).await?;
    if known.record.epoch == lost.epoch && !known.record.status.is_held() {
        return Ok((reported(&known), known.record.status.is_final()));
    }
    let job = jobs::held_under(known, lost.epoch)?;
    let answer = reported(&job);
    jobs::save_steps(&mut tx.conn, &job, &lost.steps).await?;
    jobs::save_log(&mut tx.conn, id, lost.log_bytes, None).await?;
    let is_over = lose_job(store, tx, job, Loss::Stopped).await?;
    Ok((answer, is_over))
}

fn reported(job: &Job) -> Reported {
    Reported { cancel: job.record.cancel_requested }
}
