//! What steps ask for besides rollouts: summaries that are kept, the way back to an earlier release, messages to people, and
//! what serves somewhere.

use segue_schemas::{
    config::NotificationEvent,
    id::{Epoch, JobId},
    worker_api::{CreatedRollout, Reported, Serving, StepNotice, StepRollback},
};
use serde_json::json;

use super::rollback;
use crate::store::{
    Bell, Result, RollbackTarget, Store, StoreError, outboxes,
    tables::{jobs, releases, rollouts, runs},
};

/// Bytes of a summary.
pub const MAX_SUMMARY_BYTES: usize = 1024 * 1024;
/// Summaries of a job.
const MAX_SUMMARIES: u64 = 20;
/// Characters of a message to people.
const MAX_NOTICE_CHARS: usize = 2000;
/// Messages that the steps of one job may send.
const MAX_NOTICES: u64 = 20;

impl Store {
    /// Keeps what a step wrote as its summary; another one of the same step takes its place.
    pub async fn put_summary(&self, job: JobId, epoch: Epoch, step: usize, text: String) -> Result<Reported> {
        if text.len() > MAX_SUMMARY_BYTES {
            return Err(StoreError::Refused(format!("a step's summary has at most {MAX_SUMMARY_BYTES} bytes")));
        }
        self.write(move |tx| {
            Box::pin(async move {
                let held = jobs::load_held(&mut tx.conn, job, epoch).await?.record;
                if jobs::summaries(&mut tx.conn, job).await? >= MAX_SUMMARIES {
                    return Err(StoreError::Refused(format!("a job has at most {MAX_SUMMARIES} summaries")));
                }
                jobs::save_summary(&mut tx.conn, job, step, &text).await?;
                tx.ring(Bell::Run(held.run));
                Ok(Reported { cancel: held.cancel_requested })
            })
        })
        .await
    }

    /// The summaries of a job's steps, in their order.
    pub async fn job_summary(&self, job: JobId) -> Result<Vec<String>> {
        jobs::summary_texts(&mut self.read().await?, job).await
    }

    /// Goes back to an earlier release of a service of the job's environment; the job is to wait for it.
    pub async fn step_rollback(&self, job: JobId, ask: StepRollback) -> Result<CreatedRollout> {
        let store = self.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let held = jobs::load_held(&mut tx.conn, job, ask.epoch).await?.record;
                if let Some(known) = rollouts::of_step(&mut tx.conn, job, ask.step).await? {
                    return Ok(CreatedRollout {
                        rollout: known.id(),
                        release: known.record.rollout.spec.release,
                        url: None,
                    });
                }
                let Some(environment) = held.plan.environment else {
                    return Err(StoreError::Refused("the job names no `environment` to roll back in".into()));
                };
                let run = runs::load(&mut tx.conn, held.run).await?.record;
                let serving = releases::serving(&mut tx.conn, &environment, &ask.service).await?;
                if serving.is_some_and(|serving| serving.current.repository != run.repository) {
                    let text = format!("`{}` in `{environment}` is another repository's", ask.service);
                    return Err(StoreError::Conflict(text));
                }
                let target = ask.to.map_or(RollbackTarget::Previous, RollbackTarget::Tag);
                let by = rollback::Asker { name: run.actor, of_step: Some((run.id, job, ask.step)) };
                let id = rollback::create(&store, tx, &environment, &ask.service, target, by).await?;
                let made = rollouts::load(&mut tx.conn, id).await?;
                tx.ring(Bell::Run(run.id));
                Ok(CreatedRollout { rollout: id, release: made.record.rollout.spec.release, url: None })
            })
        })
        .await
    }

    /// What serves as a service of the job's repository in an environment.
    pub async fn serving_for(&self, job: JobId, environment: &str, service: &str) -> Result<Serving> {
        let mut conn = self.read().await?;
        let repository = jobs::load(&mut conn, job).await?.repository;
        let found = releases::serving(&mut conn, environment, service).await?;
        let found = found.filter(|serving| serving.current.repository == repository);
        let nothing = || StoreError::not_found("release", format!("of `{service}` that serves in `{environment}`"));
        let release = found.ok_or_else(nothing)?.current;
        let spec = rollouts::last_spec(&mut conn, environment, &release).await?.ok_or_else(nothing)?;
        let hosts = &self.config().hosts;
        let listen =
            spec.hosts.iter().filter_map(|host| hosts.get(host)).flat_map(|host| host.listen.clone()).collect();
        Ok(Serving { release, service: spec.service, listen })
    }

    /// Tells people what a step says; the same step tells once.
    pub async fn step_notice(&self, job: JobId, notice: StepNotice) -> Result<Reported> {
        self.write(move |tx| {
            Box::pin(async move {
                let held = jobs::load_held(&mut tx.conn, job, notice.epoch).await?.record;
                let run = runs::load(&mut tx.conn, held.run).await?.record;
                if !run.trusted {
                    let text = "a pull request from a fork tells nobody anything".to_owned();
                    return Err(StoreError::Refused(text));
                }
                let beginning = format!("message of job {job}, ");
                if outboxes::count(tx, &beginning).await? >= MAX_NOTICES {
                    return Err(StoreError::Refused(format!("a job sends at most {MAX_NOTICES} messages")));
                }
                let text: String = notice.text.chars().take(MAX_NOTICE_CHARS).collect();
                let detail = json!({
                    "summary": text, "repository": run.repository, "pipeline": run.pipeline, "job": held.plan.key,
                    "ref": run.git_ref, "commit": run.commit, "environment": held.plan.environment,
                });
                let key = format!("{beginning}step {} at epoch {}", notice.step, notice.epoch);
                outboxes::notify(tx, NotificationEvent::Message, key, Some(run.id), None, &detail).await?;
                Ok(Reported { cancel: held.cancel_requested })
            })
        })
        .await
    }
}
