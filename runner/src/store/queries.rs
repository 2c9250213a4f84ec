//! What people look at. Each query has a snapshot of its own.

use segue_pipelines::{progress::Gate, protection::required_approvals};
use segue_schemas::{
    artifact::Artifact,
    deploy::{JournalEntry, Release},
    id::{Epoch, JobId, ReleaseId, RolloutId, RunId},
    status::JobStatus,
    trigger::Trigger,
};

use super::{
    ApprovalRecord, AttemptRecord, Figures, JobRecord, LogRecord, ReleaseFilter, Result, RollbackPoint, RolloutFilter,
    RolloutRecord, RunDetail, RunFilter, RunRecord, ServedRecord, Store, StoreError, WorkerRecord,
    fleet::{offered_by_none, workers},
    sql::{Conn, args},
    tables::{
        jobs::{self, Job},
        releases, rollouts,
        runs::{self, Run},
    },
};

impl Store {
    /// Runs, newest first.
    pub async fn runs(&self, filter: RunFilter) -> Result<Vec<RunRecord>> {
        runs::list(&mut self.read().await?, &filter).await
    }

    /// One run.
    pub async fn run(&self, id: RunId) -> Result<RunRecord> {
        Ok(runs::load(&mut self.read().await?, id).await?.record)
    }

    /// One run, and what caused it, with the inputs of its newest attempt.
    pub(crate) async fn run_with_trigger(&self, id: RunId) -> Result<(RunRecord, Trigger)> {
        let run = runs::load(&mut self.read().await?, id).await?;
        Ok((run.record, run.trigger))
    }

    /// One attempt of a run (`None`: the newest) with its jobs, steps and rollouts.
    pub async fn run_detail(&self, id: RunId, attempt: Option<u32>) -> Result<RunDetail> {
        let mut conn = self.read().await?;
        let run = runs::load(&mut conn, id).await?;
        let wanted = attempt.unwrap_or(run.record.attempt);
        let attempt = runs::attempts(&mut conn, &run.record).await?.into_iter().find(|a| a.attempt == wanted);
        let attempt = attempt.ok_or_else(|| StoreError::not_found("attempt", format!("{wanted} of run {id}")))?;
        let (mut jobs, mut approvals) = (Vec::new(), Vec::new());
        // read once, and only where a job may wait for one
        let mut offering = None;
        for job in jobs::of_attempt(&mut conn, id, wanted).await? {
            approvals.extend(self.approval(&mut conn, &run, &job).await?);
            let steps = jobs::steps(&mut conn, job.record.id).await?;
            let mut record = job.record.clone();
            if let Some(reason) = self.why_held_back(&mut conn, &run, &job).await? {
                record.reason = Some(reason);
            } else if record.status == JobStatus::Queued && record.reason.is_none() {
                let workers = match &mut offering {
                    Some(known) => known,
                    unknown => unknown.insert(workers(&mut conn).await?),
                };
                record.reason = offered_by_none(workers, &record.plan.needed_labels());
            }
            jobs.push((record, steps));
        }
        let ids: Vec<JobId> = jobs.iter().map(|(job, _)| job.id).collect();
        let rollouts = rollouts::of_run(&mut conn, id, &ids).await?;
        let given = runs::given(&mut conn, &run.record).await?;
        Ok(RunDetail { run: run.record, trigger: run.trigger, attempt, jobs, approvals, rollouts, given })
    }

    /// Every attempt of a run, oldest first.
    pub async fn attempts(&self, id: RunId) -> Result<Vec<AttemptRecord>> {
        let mut conn = self.read().await?;
        let run = runs::load(&mut conn, id).await?.record;
        runs::attempts(&mut conn, &run).await
    }

    /// One job.
    pub async fn job(&self, id: JobId) -> Result<JobRecord> {
        Ok(jobs::load(&mut self.read().await?, id).await?.record)
    }

    /// The steps of a job that have begun or were skipped, in order.
    pub async fn job_steps(&self, id: JobId) -> Result<Vec<segue_schemas::worker_api::StepReport>> {
        jobs::steps(&mut self.read().await?, id).await
    }

    /// The approval that a job waits for; `None` where none is missing.
    pub async fn job_approval(&self, id: JobId) -> Result<Option<ApprovalRecord>> {
        let mut conn = self.read().await?;
        let job = jobs::load(&mut conn, id).await?;
        let run = runs::load(&mut conn, job.record.run).await?;
        self.approval(&mut conn, &run, &job).await
    }

    /// Where a job's log lies; `None` before its first claim. The log of a job that was carried over is that of the job that
    /// it was carried over from.
    pub async fn job_log(&self, id: JobId) -> Result<Option<LogRecord>> {
        let mut conn = self.read().await?;
        let job = jobs::load(&mut conn, id).await?.record;
        jobs::log(&mut conn, job.carried_from.unwrap_or(id)).await
    }

    /// The artifacts of an attempt, by name.
    pub async fn run_artifacts(&self, id: RunId, attempt: u32) -> Result<Vec<Artifact>> {
        jobs::artifacts(&mut self.read().await?, id, attempt).await
    }

    /// Rollouts, newest first.
    pub async fn rollouts(&self, filter: RolloutFilter) -> Result<Vec<RolloutRecord>> {
        let found = rollouts::list(&mut self.read().await?, &filter).await?;
        Ok(found.into_iter().map(|r| r.record).collect())
    }

    /// One rollout.
    pub async fn rollout(&self, id: RolloutId) -> Result<RolloutRecord> {
        Ok(rollouts::load(&mut self.read().await?, id).await?.record)
    }

    /// A rollout's journal after a sequence number, oldest first.
    pub async fn journal(&self, id: RolloutId, after: i64) -> Result<Vec<JournalEntry>> {
        rollouts::journal(&mut self.read().await?, id, after).await
    }

    /// One release.
    pub async fn release(&self, id: ReleaseId) -> Result<Release> {
        releases::load(&mut self.read().await?, id).await
    }

    /// Releases, newest first, each with its rollback points.
    pub async fn releases(&self, filter: ReleaseFilter) -> Result<Vec<(Release, Vec<RollbackPoint>)>> {
        let mut conn = self.read().await?;
        let mut found = Vec::new();
        for release in releases::list(&mut conn, &filter).await? {
            let points = releases::points(&mut conn, None, None, Some(release.id)).await?;
            found.push((release, points));
        }
        Ok(found)
    }

    /// Rollback points, newest first, of one environment or service or of all.
    pub async fn rollback_points(
        &self,
        environment: Option<&str>,
        service: Option<&str>,
    ) -> Result<Vec<RollbackPoint>> {
        releases::points(&mut self.read().await?, environment, service, None).await
    }

    /// Every service in every environment: what serves, and the rollout that is at work or next.
    pub async fn served(&self) -> Result<Vec<ServedRecord>> {
        let mut conn = self.read().await?;
        let mut served: Vec<ServedRecord> = releases::all_serving(&mut conn)
            .await?
            .into_iter()
            .map(|(environment, current)| {
                let service = current.service.clone();
                ServedRecord { environment, service, current: Some(current), open_rollout: None }
            })
            .collect();
        let sql =
            "SELECT id, environment, service FROM rollouts WHERE ended_at IS NULL ORDER BY active, id DESC LIMIT 10000";
        for row in conn.all(sql, args![]).await? {
            let (environment, service) = (row.text("environment")?, row.text("service")?);
            let id = Some(RolloutId(row.int("id")?));
            match served.iter_mut().find(|s| s.environment == environment && s.service == service) {
                // the active one of the pair comes last, and stays
                Some(known) => known.open_rollout = id,
                None => served.push(ServedRecord { environment, service, current: None, open_rollout: id }),
            }
        }
        Ok(served)
    }

    /// Numbers for `/metrics`.
    pub async fn figures(&self) -> Result<Figures> {
        let mut conn = self.read().await?;
        let count = |row: Option<super::sql::Row>| row.map_or(Ok(0), |row| row.count("n"));
        let sql = "SELECT status, COUNT(*) AS n FROM jobs
            WHERE status IN ('leased', 'running') OR status IN ('queued', 'waiting', 'recovering') GROUP BY status";
        let jobs = conn.all(sql, args![]).await?;
        let jobs = jobs.iter().map(|row| Ok((row.word("status", JobStatus::parse)?, row.count("n")?)));
        let patience = self.worker_patience();
        let now = self.now();
        let workers = workers(&mut conn).await?;
        let heard = |w: &WorkerRecord| now.since(self.last_heard(&w.id).unwrap_or(w.heard_at)) < patience;
        Ok(Figures {
            jobs: jobs.collect::<Result<_>>()?,
            deliveries_waiting: count(
                conn.first("SELECT COUNT(*) AS n FROM outbox WHERE kind = 'delivery'", args![]).await?,
            )?,
            rollouts_open: count(
                conn.first("SELECT COUNT(*) AS n FROM rollouts WHERE ended_at IS NULL", args![]).await?,
            )?,
            workers: workers.iter().filter(|w| heard(w)).count() as u64,
            oldest_queued_at: jobs::idle_since(&mut conn, JobStatus::Queued).await?,
        })
    }

    async fn approval(&self, conn: &mut Conn, run: &Run, job: &Job) -> Result<Option<ApprovalRecord>> {
        let record = &job.record;
        if record.status != JobStatus::Waiting || record.rollout.is_some() || record.plan.call.is_some() {
            return Ok(None);
        }
        let environment = record.plan.environment.as_deref();
        let required = environment.map_or(0, |name| required_approvals(&self.environment(name)));
        let (key, required) = if run.record.trusted { (environment.unwrap_or_default(), required) } else { ("", 1) };
        let by = runs::approvals(conn, &run.record, key).await?.into_iter().map(|yes| yes.by).collect();
        Ok(Some(ApprovalRecord { job: record.id, required, by }))
    }

    /// What a job that could be claimed waits for, where its file says that it may have to.
    pub(super) async fn why_held_back(&self, conn: &mut Conn, run: &Run, job: &Job) -> Result<Option<String>> {
        let record = &job.record;
        let plan = &record.plan;
        if record.status != JobStatus::Queued {
            return Ok(None);
        }
        if (run.concurrency.is_some() || plan.concurrency.is_some())
            && let Gate::Closed { reason } = crate::control::gates::judge(self, conn, run, job, self.now()).await?
        {
            return Ok(Some(format!("waits: {reason}")));
        }
        let Some(most) = plan.combination.as_ref().and_then(|part| part.max_parallel) else { return Ok(None) };
        let at_work = jobs::at_work_beside(conn, record).await?;
        let is_held_back = record.epoch == Epoch(0) && at_work >= most;
        Ok(is_held_back.then(|| format!("{at_work} of its matrix are at work, and no more may be (`max-parallel`)")))
    }
}
