//! What people ask of the workers and of what waits for them: who is alive, what each holds, what waits and what for.

use std::{collections::BTreeMap, time::Duration};

use segue_pipelines::progress::Gate;
use segue_schemas::{
    api::HeldJob,
    gpu::{self, GpuNeed},
    id::{RolloutId, WorkerId},
    plan::DOCKER_LABEL,
    status::JobStatus,
};

use super::{
    QueuedJob, QueuedPool, QueuedRollout, Result, Store, WorkerRecord,
    sql::{Conn, args},
    tables::{
        gpus,
        jobs::{self, Job},
        rollouts, runs,
    },
};

impl Store {
    /// Workers by name.
    pub async fn workers(&self) -> Result<Vec<WorkerRecord>> {
        let mut conn = self.read().await?;
        let mut found = workers(&mut conn).await?;
        for worker in &mut found {
            let held_jobs = jobs::held_by(&mut conn, &worker.id).await?;
            let driven = rollouts::held_by(&mut conn, &worker.id).await?;
            // one that is busy in every slot asks for nothing, and renews
            let renewed = held_jobs.iter().filter_map(|job| job.record.heard_at);
            let journaled = driven.iter().filter_map(|rollout| rollout.heard_at);
            let heard = renewed.chain(journaled).chain(self.last_heard(&worker.id)).max();
            worker.heard_at = heard.unwrap_or(worker.heard_at).max(worker.heard_at);
            worker.drives = driven.iter().map(rollouts::StoredRollout::id).collect();
            worker.holds = held_jobs.into_iter().map(held).collect();
            if !worker.gpus.is_empty() {
                worker.taken_gpus = gpus::taken(&mut conn, &worker.id).await?;
            }
        }
        Ok(found)
    }

    /// How long after it was last heard a worker counts as alive: two leases, or a claim's longest wait.
    #[must_use]
    pub fn worker_patience(&self) -> Duration {
        (self.config().timing.lease.0 * 2).max(Duration::from_secs(60))
    }

    /// Whether a worker is there: heard lately, and its token not taken back.
    #[must_use]
    pub fn is_alive(&self, worker: &WorkerRecord) -> bool {
        !worker.is_revoked && self.now().since(worker.heard_at) < self.worker_patience()
    }

    /// What is queued or waits for a person, what for, oldest first: why nothing happens.
    pub async fn queue(&self, limit: u32) -> Result<Vec<QueuedJob>> {
        let workers = self.workers().await?;
        let mut conn = self.read().await?;
        let mut waiting = jobs::idle(&mut conn, JobStatus::Queued, limit).await?;
        waiting.extend(jobs::idle(&mut conn, JobStatus::Waiting, limit).await?);
        waiting.sort_by_key(|job| job.record.queued_at);
        let mut queue = Vec::with_capacity(waiting.len());
        for job in waiting.into_iter().take(limit as usize) {
            let reason = self.why_waiting(&mut conn, &workers, &job).await?;
            let record = job.record;
            queue.push(QueuedJob {
                job: record.id,
                run: record.run,
                key: record.plan.key,
                repository: job.repository,
                since: record.queued_at,
                reason,
            });
        }
        Ok(queue)
    }

    /// How much is queued, by the labels that it asks for, the most first; and who could take it.
    pub async fn queued_pools(&self) -> Result<Vec<QueuedPool>> {
        let workers = self.workers().await?;
        let sql = "SELECT labels, COUNT(*) AS n, MIN(queued_at) AS since FROM jobs WHERE status = 'queued'
            GROUP BY labels ORDER BY n DESC, labels LIMIT 200";
        let rows = self.read().await?.all(sql, args![]).await?;
        let pool = |row: &super::sql::Row| {
            let labels: Vec<String> =
                row.text("labels")?.split(',').filter(|l| !l.is_empty()).map(Into::into).collect();
            let takes = |w: &&WorkerRecord| offers(w, &labels) && w.draining_since.is_none() && self.is_alive(w);
            let able: Vec<&WorkerRecord> = workers.iter().filter(takes).collect();
            Ok(QueuedPool {
                jobs: row.count("n")?,
                since: row.maybe_time("since")?,
                workers: able.len() as u64,
                free: able.iter().map(|w| u64::from(w.capacity).saturating_sub(w.holds.len() as u64)).sum(),
                labels,
            })
        };
        rows.iter().map(pool).collect()
    }

    /// The rollouts that no worker drives, and what each waits for, oldest first.
    pub async fn queued_rollouts(&self, limit: u32) -> Result<Vec<QueuedRollout>> {
        let workers = self.workers().await?;
        let nobody = !workers.iter().any(|w| w.draining_since.is_none() && self.is_alive(w));
        let now = self.now();
        let sql = "SELECT r.id, r.environment, r.service, r.created_at, r.not_before, r.active, (SELECT MIN(o.id)
                FROM rollouts o WHERE o.environment = r.environment AND o.service = r.service AND o.active = 1
                    AND o.id <> r.id) AS blocker
            FROM rollouts r WHERE r.ended_at IS NULL AND r.lease_until IS NULL ORDER BY r.id LIMIT $1";
        let rows = self.read().await?.all(sql, args![limit]).await?;
        let queued = |row: &super::sql::Row| {
            let reason = match (row.maybe_int("blocker")?, row.time("not_before")?) {
                (Some(before), _) => format!("rollout {before} is changing the same service"),
                (None, until) if until > now => format!("put off until {until}"),
                _ if nobody => "no worker is alive that takes work".into(),
                _ if row.flag("active")? => "nobody drives it now; the next worker goes on with it".into(),
                _ => "waits for a worker".into(),
            };
            Ok(QueuedRollout {
                rollout: RolloutId(row.int("id")?),
                environment: row.text("environment")?,
                service: row.text("service")?,
                since: row.time("created_at")?,
                reason,
            })
        };
        rows.iter().map(queued).collect()
    }

    async fn why_waiting(&self, conn: &mut Conn, workers: &[WorkerRecord], job: &Job) -> Result<String> {
        let record = &job.record;
        let run = runs::load(conn, record.run).await?;
        match crate::control::gates::judge(self, conn, &run, job, self.now()).await? {
            Gate::AwaitPerson { reason }
            | Gate::Closed { reason }
            | Gate::ClosedUntil { reason, .. }
            | Gate::Refused { reason } => return Ok(reason),
            Gate::Open => {}
        }
        if let Some(reason) = self.why_held_back(conn, &run, job).await? {
            return Ok(reason);
        }
        if job.not_before > self.now() {
            return Ok(record.reason.clone().unwrap_or_else(|| "it begins again after a pause".into()));
        }
        let labels = &record.plan.needed_labels();
        if let Some(reason) = offered_by_none(workers, labels) {
            return Ok(reason);
        }
        let able: Vec<&WorkerRecord> = workers.iter().filter(|w| offers(w, labels)).collect();
        Ok(match (&record.next_step, &record.worker) {
            (Some(_), Some(worker)) => format!("goes on at worker `{worker}`, which has its workspace"),
            _ if !able.iter().any(|w| self.is_alive(w)) => {
                format!("no worker that offers `{}` is alive ({})", in_words(labels), names(&able))
            }
            _ if !able.iter().any(|w| self.is_alive(w) && w.draining_since.is_none()) => {
                format!("every worker that offers `{}` drains ({})", in_words(labels), names(&able))
            }
            _ if record.plan.gpus.as_ref().is_some_and(|need| !able.iter().any(|w| has_free(w, need))) => {
                format!("waits for GPUs (`{}`): other jobs have those of {}", in_words(labels), names(&able))
            }
            _ => "waits for a free worker".into(),
        })
    }
}

fn offers(worker: &WorkerRecord, labels: &[String]) -> bool {
    labels.iter().all(|label| gpu::offers(&worker.labels, label))
}

/// Labels for a sentence.
fn in_words(labels: &[String]) -> String {
    labels.iter().map(|label| gpu::label_in_words(label)).collect::<Vec<_>>().join(", ")
}

fn has_free(worker: &WorkerRecord, need: &GpuNeed) -> bool {
    let free = worker.gpus.iter().filter(|gpu| !worker.taken_gpus.contains_key(&gpu.uuid)).cloned().collect();
    gpu::pick(free, need).is_some()
}

/// A few names, for a sentence.
fn names(workers: &[&WorkerRecord]) -> String {
    let few: Vec<&str> = workers.iter().take(3).map(|worker| worker.id.as_str()).collect();
    if workers.len() > few.len() { format!("{}, ...", few.join(", ")) } else { few.join(", ") }
}

fn held(job: Job) -> HeldJob {
    let record = job.record;
    HeldJob {
        job: record.id,
        run: record.run,
        key: record.plan.key,
        repository: job.repository,
        since: record.started_at,
    }
}

/// Says so where a job asks for labels that no worker has.
pub(super) fn offered_by_none(workers: &[WorkerRecord], labels: &[String]) -> Option<String> {
    let offered = workers.iter().any(|worker| offers(worker, labels));
    (!offered).then(|| {
        let engine = labels.iter().any(|label| label == DOCKER_LABEL);
        let remedy = if engine {
            "; a worker offers `docker` once `worker.docker.socket` names the engine's socket"
        } else if labels.iter().any(|label| gpu::is_shape(label)) {
            "; a worker offers GPUs once `worker.gpus` names them, and `segue workers` shows them"
        } else {
            ""
        };
        format!("no worker offers all of `{}`{remedy}", in_words(labels))
    })
}

/// The workers as they registered.
pub(super) async fn workers(conn: &mut Conn) -> Result<Vec<WorkerRecord>> {
    let sql = "SELECT w.*, t.revoked_at AS token_revoked_at FROM workers w
        LEFT JOIN tokens t ON t.kind = 'worker' AND t.name = w.token ORDER BY w.id LIMIT 10000";
    let rows = conn.all(sql, args![]).await?;
    rows.iter()
        .map(|row| {
            Ok(WorkerRecord {
                id: row.parsed::<WorkerId>("id")?,
                labels: row.text("labels")?.split(',').filter(|l| !l.is_empty()).map(Into::into).collect(),
                capacity: row.count("capacity")?,
                version: row.text("version")?,
                registered_at: row.time("registered_at")?,
                heard_at: row.time("heard_at")?,
                token: row.maybe_text("token")?,
                is_revoked: row.maybe_int("token_revoked_at")?.is_some(),
                draining_since: row.maybe_time("draining_since")?,
                holds: Vec::new(),
                drives: Vec::new(),
                gpus: gpus::offered(row)?,
                taken_gpus: BTreeMap::new(),
            })
        })
        .collect()
}
