use std::{collections::HashMap, time::Duration};

use segue_pipelines::progress::{JobView, SkipCause};
use segue_schemas::{
    artifact::Artifact,
    id::{Epoch, JobId, RolloutId, RunId, WorkerId},
    plan::JobPlan,
    status::{Conclusion, FailureClass, JobStatus, StepStatus},
    time::Timestamp,
    worker_api::StepReport,
};

use super::snapshots::Begins;
use crate::store::{
    JobRecord, LogRecord, Result, StoreError,
    behind::Of,
    sql::{Conn, Row, args, from_word, to_json},
};

/// The lowest priority of what has begun, and of nothing that has not.
pub(crate) const BEGUN_PRIORITY: i64 = 2;

/// A job with what only the control plane needs.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) record: JobRecord,
    pub(crate) position: usize,
    pub(crate) repository: String,
    pub(crate) incarnation: Option<String>,
    pub(crate) skip_cause: Option<SkipCause>,
    /// The step that waits for the rollout.
    pub(crate) waiting_step: Option<usize>,
    /// Whether its failure is allowed; `None`: as the plan says.
    pub(crate) waiting_may_fail: Option<bool>,
    /// Time under leases that have ended.
    pub(crate) ran: Duration,
    pub(crate) leased_at: Option<Timestamp>,
    /// While it is held: when it has overstayed even its time-out.
    pub(crate) deadline: Option<Timestamp>,
    /// Its plan before anything in it was evaluated, where something was.
    pub(crate) planned: Option<JobPlan>,
    /// Why it was told to stop, where that was not a person's word.
    pub(crate) stop_reason: Option<String>,
    /// How often it was begun again after a failure.
    pub(crate) retries: u32,
    /// Not claimable earlier.
    pub(crate) not_before: Timestamp,
    /// SHA-256 of the token that the newest lease came with.
    pub(crate) token_hash: Option<String>,
    /// What it begins with, where it is run again from one of its steps.
    pub(crate) begins: Option<Begins>,
}

impl Job {
    /// A job as planned.
    pub(crate) fn planned(
        id: JobId,
        run: RunId,
        attempt: u32,
        position: usize,
        repository: &str,
        plan: JobPlan,
    ) -> Self {
        let record = JobRecord {
            id,
            run,
            attempt,
            plan,
            status: JobStatus::Pending,
            reason: None,
            failure_class: None,
            outputs: indexmap::IndexMap::new(),
            epoch: Epoch(0),
            worker: None,
            lease_until: None,
            heard_at: None,
            tries: 0,
            cancel_requested: false,
            next_step: None,
            rollout: None,
            carried_from: None,
            queued_at: None,
            started_at: None,
            ended_at: None,
            environment_url: None,
        };
        Self {
            record,
            position,
            repository: repository.into(),
            incarnation: None,
            skip_cause: None,
            waiting_step: None,
            waiting_may_fail: None,
            ran: Duration::ZERO,
            leased_at: None,
            deadline: None,
            planned: None,
            stop_reason: None,
            retries: 0,
            not_before: Timestamp(0),
            token_hash: None,
            begins: None,
        }
    }

    /// Its plan as the file says it, with nothing evaluated.
    pub(crate) fn as_planned(&self) -> &JobPlan {
        self.planned.as_ref().unwrap_or(&self.record.plan)
    }

    /// Puts a plan in which more is evaluated in the place of its plan.
    pub(crate) fn evaluated(&mut self, plan: JobPlan) {
        let before = std::mem::replace(&mut self.record.plan, plan);
        self.planned.get_or_insert(before);
    }

    /// Moves on to a status. A job that ends is let go and has ended.
    pub(crate) fn becomes(&mut self, to: JobStatus, reason: Option<String>, now: Timestamp) -> Result<()> {
        let job = &mut self.record;
        job.status = job.status.transition(to)?;
        job.reason = match to {
            JobStatus::Cancelled => self.stop_reason.clone().or(reason),
            _ => reason,
        };
        if !to.is_held() {
            if let Some(leased_at) = self.leased_at.take() {
                self.ran += now.since(leased_at);
            }
            job.lease_until = None;
            self.deadline = None;
        }
        if matches!(to, JobStatus::Queued | JobStatus::Waiting) {
            job.queued_at = Some(now);
        }
        if to.is_final() {
            job.ended_at = Some(now);
        }
        // who puts it off says so afterwards
        self.not_before = Timestamp(0);
        Ok(())
    }

    /// Whether it waits for its gates: for a person, or for a time.
    pub(crate) fn waits_at_a_gate(&self) -> bool {
        self.record.status == JobStatus::Waiting && self.record.rollout.is_none() && self.record.plan.call.is_none()
    }

    /// Whether it waits for somebody's yes.
    pub(crate) fn waits_for_a_person(&self) -> bool {
        self.waits_at_a_gate() && self.not_before == Timestamp(0)
    }

    /// Whether it is queued to begin once more, from its first step.
    pub(crate) fn begins_again(&self) -> bool {
        self.record.status == JobStatus::Queued && self.record.epoch > Epoch(0) && self.record.next_step.is_none()
    }

    /// As progress sees it.
    pub(crate) fn view(&self) -> JobView {
        JobView {
            status: self.record.status,
            has_started: self.record.epoch > Epoch(0),
            has_deployed: self.record.plan.environment.is_some()
                && (self.record.epoch > Epoch(0)
                    || (self.record.carried_from.is_some() && self.record.started_at.is_some())),
            begins_again: self.begins_again(),
            skip_cause: self.skip_cause,
            outputs: self.record.outputs.clone(),
            stopped: self.record.cancel_requested,
            ..JobView::planned(&self.record.plan)
        }
    }
}

/// Labels as they are stored: sorted, each once.
pub(crate) fn joined(labels: &[String]) -> String {
    let mut labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    labels.sort_unstable();
    labels.dedup();
    labels.join(",")
}

fn of(job: JobId) -> Of {
    Of::row("jobs", job)
}

/// A job as it stands before anybody has held it.
pub(crate) async fn insert(conn: &mut Conn, job: &Job, now: Timestamp) -> Result<()> {
    let (r, plan) = (&job.record, &job.record.plan);
    let sql =
        "INSERT INTO jobs (id, run_id, attempt, position, job_key, name, repository, labels, environment, priority,
            plan_json, status, created_at, part, matrix_of, max_parallel, planned_json, begins_json, reason,
            failure_class, skip_cause, queued_at, ended_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)";
    let part = plan.combination.as_ref();
    let args = args![
        r.id,
        r.run,
        r.attempt,
        job.position,
        &plan.key,
        &plan.name,
        &job.repository,
        joined(&plan.needed_labels()),
        plan.environment.as_ref(),
        plan.environment.is_some(),
        to_json(plan)?,
        r.status.as_str(),
        now,
        part.map_or(0, |part| part.index),
        part.map(|part| &part.job),
        part.and_then(|part| part.max_parallel),
        job.planned.as_ref().map(to_json).transpose()?,
        job.begins.as_ref().map(to_json).transpose()?,
        r.reason.as_ref(),
        r.failure_class.map(FailureClass::as_str),
        job.skip_cause.map(SkipCause::as_str),
        r.queued_at,
        r.ended_at,
    ];
    conn.put(of(r.id), sql, args).await
}

/// Stores a plan in which something was evaluated.
pub(crate) async fn save_plan(conn: &mut Conn, job: &Job) -> Result<()> {
    let (id, plan) = (job.record.id, &job.record.plan);
    let sql = "UPDATE jobs SET plan_json = $2, planned_json = $3, name = $4, labels = $5, environment = $6,
        concurrency = $7 WHERE id = $1";
    let planned = job.planned.as_ref().map(to_json).transpose()?;
    let labels = joined(&plan.needed_labels());
    let group = plan.concurrency.as_ref().map(|plan| &plan.group);
    conn.run(sql, args![id, to_json(plan)?, planned, &plan.name, labels, plan.environment.as_ref(), group]).await?;
    Ok(())
}

/// Removes a job in whose place its combinations come.
pub(crate) async fn remove(conn: &mut Conn, id: JobId) -> Result<()> {
    conn.run("DELETE FROM jobs WHERE id = $1", args![id]).await?;
    Ok(())
}

/// Stores everything of a job that changes.
pub(crate) async fn save(conn: &mut Conn, job: &Job) -> Result<()> {
    let r = &job.record;
    let sql = "UPDATE jobs SET status = $2, reason = $3, failure_class = $4, outputs_json = $5, epoch = $6, worker = $7,
            incarnation = $8, lease_until = $9, heard_at = $10, tries = $11, ran_ms = $12, cancel_requested = $13,
            next_step = $14, waiting_step = $15, rollout_id = $16, skip_cause = $17, carried_from = $18, queued_at = $19,
            leased_at = $20, started_at = $21, ended_at = $22, deadline = $23, priority = $24, stop_reason = $25,
            environment_url = $26, retries = $27, not_before = $28, waiting_may_fail = $29,
            token_hash = $30
        WHERE id = $1";
    // what has begun is ended before something new begins; what changes an environment goes before what does not
    let priority = i64::from(r.epoch > Epoch(0)) * BEGUN_PRIORITY + i64::from(r.plan.environment.is_some());
    let args = args![
        r.id,
        r.status.as_str(),
        r.reason.as_ref(),
        r.failure_class.map(FailureClass::as_str),
        to_json(&r.outputs)?,
        r.epoch,
        r.worker.as_ref(),
        job.incarnation.as_ref(),
        r.lease_until,
        r.heard_at,
        r.tries,
        u64::try_from(job.ran.as_millis()).unwrap_or(u64::MAX),
        r.cancel_requested,
        r.next_step,
        job.waiting_step,
        r.rollout,
        job.skip_cause.map(SkipCause::as_str),
        r.carried_from,
        r.queued_at,
        job.leased_at,
        r.started_at,
        r.ended_at,
        job.deadline,
        priority,
        job.stop_reason.as_ref(),
        r.environment_url.as_ref(),
        job.retries,
        job.not_before,
        job.waiting_may_fail,
        job.token_hash.as_ref(),
    ];
    conn.put(of(r.id), sql, args).await
}

pub(crate) async fn load(conn: &mut Conn, id: JobId) -> Result<Job> {
    let row = conn.first("SELECT * FROM jobs WHERE id = $1", args![id]).await?;
    job(&row.ok_or_else(|| StoreError::not_found("job", id))?)
}

/// The job, if it is still queued: what became of another one of its run may have ended it.
pub(crate) async fn load_queued(conn: &mut Conn, id: JobId) -> Result<Option<Job>> {
    Ok(Some(load(conn, id).await?).filter(|job| job.record.status == JobStatus::Queued))
}

/// The job, if the epoch is that of its lease.
///
/// Every write of a worker comes through here: this is the fence.
pub(crate) async fn load_held(conn: &mut Conn, id: JobId, epoch: Epoch) -> Result<Job> {
    held_under(load(conn, id).await?, epoch)
}

/// The job that was loaded, if the epoch is that of its lease.
pub(crate) fn held_under(job: Job, epoch: Epoch) -> Result<Job> {
    if job.record.epoch != epoch || !job.record.status.is_held() {
        // an ended lease is as stale as one that somebody else has
        let (id, current) = (job.record.id.to_string(), job.record.epoch);
        return Err(StoreError::StaleEpoch { kind: "job", id, given: epoch, current });
    }
    Ok(job)
}

/// The jobs of an attempt in the plan's order.
pub(crate) async fn of_attempt(conn: &mut Conn, run: RunId, attempt: u32) -> Result<Vec<Job>> {
    let rows = conn
        .all("SELECT * FROM jobs WHERE run_id = $1 AND attempt = $2 ORDER BY position, part", args![run, attempt])
        .await?;
    Ok(in_order(rows.iter().map(job).collect::<Result<_>>()?))
}

/// The jobs of the attempt that a job is of, as [`of_attempt`] gives them, and which of them it is.
pub(crate) async fn with_its_attempt(conn: &mut Conn, id: JobId) -> Result<(Vec<Job>, usize)> {
    let sql = "SELECT a.* FROM jobs j JOIN jobs a ON a.run_id = j.run_id AND a.attempt = j.attempt WHERE j.id = $1
        ORDER BY a.position, a.part";
    let jobs = in_order(conn.all(sql, args![id]).await?.iter().map(job).collect::<Result<_>>()?);
    let at = jobs.iter().position(|job| job.record.id == id).ok_or_else(|| StoreError::not_found("job", id))?;
    Ok((jobs, at))
}

/// The jobs of a called pipeline behind the one that called it, in the order of its file.
fn in_order(mut jobs: Vec<Job>) -> Vec<Job> {
    if jobs.iter().all(|job| job.record.plan.called.is_none()) {
        return jobs;
    }
    let place = |job: &Job| (job.position, job.record.plan.combination.as_ref().map_or(0, |part| part.index as usize));
    let by_key: HashMap<&str, &Job> = jobs.iter().map(|job| (job.record.plan.key.as_str(), job)).collect();
    let path = |job: &Job| {
        let (mut path, mut at) = (Vec::new(), Some(job));
        while let Some(job) = at {
            let caller = job.record.plan.called.as_ref().and_then(|called| by_key.get(called.by.as_str()).copied());
            let (position, part) = place(job);
            let call = caller.and_then(|caller| caller.record.plan.call.as_ref());
            let in_file = call.and_then(|call| call.jobs.iter().position(|one| one.key == job.record.plan.local_key()));
            path.push((in_file.unwrap_or(position), part));
            at = caller.filter(|_| path.len() < jobs.len());
        }
        path.reverse();
        path
    };
    let paths: HashMap<JobId, _> = jobs.iter().map(|job| (job.record.id, path(job))).collect();
    jobs.sort_by(|a, b| paths[&a.record.id].cmp(&paths[&b.record.id]));
    jobs
}

/// Extends a lease; nothing else is touched, so that a renewal is one statement.
pub(crate) async fn extend(conn: &mut Conn, id: JobId, now: Timestamp, until: Timestamp) -> Result<()> {
    conn.run("UPDATE jobs SET lease_until = $2, heard_at = $3 WHERE id = $1", args![id, until, now]).await?;
    Ok(())
}

/// Has every lease end then, and moves what they must not overstay.
pub(crate) async fn extend_all(conn: &mut Conn, until: Timestamp, moved_by_ms: i64) -> Result<()> {
    let sql = "UPDATE jobs SET lease_until = $1, deadline = deadline + $2 WHERE lease_until IS NOT NULL";
    conn.run(sql, args![until, moved_by_ms]).await?;
    Ok(())
}

/// What is queued of one priority for one set of labels.
pub(crate) struct Shelf {
    pub(crate) labels: String,
    pub(crate) priority: i64,
    /// The repository, where all of it is of one.
    pub(crate) only: Option<String>,
}

/// The sets of labels for which something is queued, each with the priorities that are, the highest first.
///
/// Each is found by a seek behind the one before (a loose index scan), so this costs what there are of them, not what is queued.
/// The first is found as the others are and each is asked for by itself (`LIMIT`): PostgreSQL would read all for a `MIN` or a join.
pub(crate) async fn shelves(conn: &mut Conn) -> Result<Vec<Shelf>> {
    let sql = "WITH RECURSIVE sets (labels) AS (
            SELECT (SELECT j.labels FROM jobs j WHERE j.status = 'queued' ORDER BY j.labels LIMIT 1)
            UNION ALL
            SELECT (SELECT MIN(j.labels) FROM jobs j WHERE j.status = 'queued' AND j.labels > sets.labels)
            FROM sets WHERE sets.labels IS NOT NULL)
        SELECT labels, priority,
            (SELECT j.repository FROM jobs j WHERE j.status = 'queued' AND j.labels = sets.labels
                AND j.priority = priorities.priority ORDER BY j.repository LIMIT 1) AS first,
            (SELECT j.repository FROM jobs j WHERE j.status = 'queued' AND j.labels = sets.labels
                AND j.priority = priorities.priority ORDER BY j.repository DESC LIMIT 1) AS last
        FROM sets CROSS JOIN (SELECT 0 AS priority UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3) AS priorities
        WHERE (SELECT 1 FROM jobs j WHERE j.status = 'queued' AND j.labels = sets.labels
            AND j.priority = priorities.priority ORDER BY j.repository LIMIT 1) IS NOT NULL
        ORDER BY priority DESC";
    let rows = conn.all(sql, args![]).await?;
    let shelf = |row: &Row| {
        let (first, last) = (row.maybe_text("first")?, row.maybe_text("last")?);
        let only = first.filter(|first| Some(first) == last.as_ref());
        Ok(Shelf { labels: row.text("labels")?, priority: row.int("priority")?, only })
    };
    rows.iter().map(shelf).collect()
}

/// Repositories that have something of this priority queued for a set of labels, in the order of their names, behind a name; each
/// with since when something of it is queued.
pub(crate) async fn queued_repositories(
    conn: &mut Conn,
    labels: &str,
    priority: i64,
    behind: &str,
    limit: usize,
) -> Result<Vec<(String, Timestamp)>> {
    let sql = "WITH RECURSIVE seen (repository) AS (
            SELECT (SELECT j.repository FROM jobs j
                WHERE j.status = 'queued' AND j.labels = $1 AND j.priority = $2 AND j.repository > $3
                ORDER BY j.repository LIMIT 1)
            UNION ALL
            SELECT (SELECT MIN(j.repository) FROM jobs j
                WHERE j.status = 'queued' AND j.labels = $1 AND j.priority = $2 AND j.repository > seen.repository)
            FROM seen WHERE seen.repository IS NOT NULL)
        SELECT repository, (SELECT MIN(j.queued_at) FROM jobs j WHERE j.status = 'queued' AND j.labels = $1
                AND j.priority = $2 AND j.repository = seen.repository) AS since
        FROM seen WHERE repository IS NOT NULL LIMIT $4";
    let rows = conn.all(sql, args![labels, priority, behind, limit]).await?;
    rows.iter().map(|row| Ok((row.text("repository")?, row.maybe_time("since")?.unwrap_or_default()))).collect()
}

/// Queued jobs of one repository, priority and set of labels, the oldest first.
///
/// A matrix that has as many at work as it may have, a group that somebody has, and whoever has others before it in a group are
/// passed over here, so that they keep nothing else back; the gate says the same once more of the one that is claimed.
/// Each question is a scalar one (`LIMIT`), which is asked of the few that are looked at: PostgreSQL would make joins of others,
/// over every run that there is.
const QUEUED: &str = "SELECT j.* FROM jobs j
    WHERE status = 'queued' AND labels = $1 AND priority = $5 AND repository = $2
        AND (max_parallel IS NULL OR epoch > 0 OR max_parallel > (
            SELECT COUNT(*) FROM jobs w WHERE w.run_id = j.run_id AND w.attempt = j.attempt AND w.matrix_of = j.matrix_of
                AND w.matrix_of IS NOT NULL AND w.epoch > 0 AND w.ended_at IS NULL))
        AND not_before <= $4
        AND (SELECT 1 FROM slots s WHERE s.repository = j.repository AND s.name = j.concurrency
            AND (s.job_id IS NULL OR s.job_id <> j.id) LIMIT 1) IS NULL
        AND (SELECT 1 FROM runs r JOIN slots s ON s.repository = r.repository AND s.name = r.concurrency
            WHERE r.id = j.run_id AND (s.run_id <> r.id OR s.job_id IS NOT NULL) LIMIT 1) IS NULL
        AND (j.concurrency IS NULL
            OR (SELECT 1 FROM slots s WHERE s.run_id = j.run_id AND s.job_id = j.id LIMIT 1) IS NOT NULL
            OR (SELECT 1 FROM jobs o JOIN attempts oa ON oa.run_id = o.run_id AND oa.attempt = o.attempt
                JOIN attempts a ON a.run_id = j.run_id AND a.attempt = j.attempt
                WHERE o.repository = j.repository AND o.concurrency = j.concurrency AND o.concurrency IS NOT NULL
                    AND o.ended_at IS NULL AND o.status = 'queued' AND o.run_id <> j.run_id
                    AND (oa.created_at < a.created_at OR (oa.created_at = a.created_at AND o.run_id < j.run_id))
                LIMIT 1) IS NULL)
        AND (SELECT 1 FROM runs r JOIN attempts a ON a.run_id = r.id AND a.attempt = r.attempt
            JOIN runs o ON o.repository = r.repository AND o.concurrency = r.concurrency AND o.concurrency IS NOT NULL
                AND o.ended_at IS NULL AND o.id <> r.id
            JOIN attempts oa ON oa.run_id = o.id AND oa.attempt = o.attempt
            WHERE r.id = j.run_id AND r.concurrency IS NOT NULL
                AND (oa.created_at < a.created_at OR (oa.created_at = a.created_at AND o.id < r.id))
                AND (SELECT 1 FROM slots s WHERE s.run_id = r.id AND s.job_id IS NULL LIMIT 1) IS NULL
                AND (SELECT 1 FROM jobs q WHERE q.run_id = o.id AND q.attempt = o.attempt AND q.status = 'queued'
                    LIMIT 1) IS NOT NULL
            LIMIT 1) IS NULL
    ORDER BY queued_at, id LIMIT $3";

/// The first of them.
pub(crate) async fn first_queued(
    conn: &mut Conn,
    labels: &str,
    priority: i64,
    repository: &str,
    now: Timestamp,
) -> Result<Option<Job>> {
    let row = conn.first(QUEUED, args![labels, repository, 1, now, priority]).await?;
    row.as_ref().map(job).transpose()
}

/// The first so many of them.
pub(crate) async fn queued(
    conn: &mut Conn,
    labels: &str,
    priority: i64,
    repository: &str,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<JobId>> {
    let rows = conn.all(QUEUED, args![labels, repository, limit, now, priority]).await?;
    rows.iter().map(|row| row.parsed("id")).collect()
}

/// How many combinations of a job's matrix, itself left out, have begun and not ended.
pub(crate) async fn at_work_beside(conn: &mut Conn, job: &JobRecord) -> Result<u32> {
    let sql = "SELECT COUNT(*) AS n FROM jobs WHERE run_id = $1 AND attempt = $2 AND matrix_of = $3
        AND matrix_of IS NOT NULL AND epoch > 0 AND ended_at IS NULL AND id <> $4";
    let row = conn.first(sql, args![job.run, job.attempt, job.plan.file_key(), job.id]).await?;
    row.map_or(Ok(0), |row| row.count("n"))
}

/// How many jobs of each repository are held.
pub(crate) async fn held_by_repository(conn: &mut Conn) -> Result<std::collections::HashMap<String, i64>> {
    let sql = "SELECT repository, COUNT(*) AS n FROM jobs WHERE status IN ('leased', 'running') GROUP BY repository";
    conn.all(sql, args![]).await?.iter().map(|row| Ok((row.text("repository")?, row.int("n")?))).collect()
}

/// The jobs that a worker holds, oldest first.
pub(crate) async fn held_by(conn: &mut Conn, worker: &WorkerId) -> Result<Vec<Job>> {
    let sql = "SELECT * FROM jobs WHERE status IN ('leased', 'running') AND worker = $1 ORDER BY leased_at, id";
    conn.all(sql, args![worker]).await?.iter().map(job).collect()
}

/// The jobs that are to go on at a worker, which has their workspaces; the oldest first.
pub(crate) async fn going_on_at(conn: &mut Conn, worker: &WorkerId, limit: u32) -> Result<Vec<JobId>> {
    let sql = "SELECT id FROM jobs WHERE status = 'queued' AND next_step IS NOT NULL AND worker = $1
        ORDER BY queued_at, id LIMIT $2";
    conn.all(sql, args![worker, limit]).await?.iter().map(|row| row.parsed("id")).collect()
}

/// Held jobs whose lease has run out, or that have overstayed.
pub(crate) async fn expired(conn: &mut Conn, now: Timestamp, limit: u32) -> Result<Vec<Job>> {
    let sql = "SELECT * FROM jobs WHERE lease_until IS NOT NULL AND (lease_until <= $1 OR deadline <= $1)
        ORDER BY lease_until LIMIT $2";
    conn.all(sql, args![now, limit]).await?.iter().map(job).collect()
}

/// When the next lease of a job ends, or the next job will have overstayed.
pub(crate) async fn next_expiry(conn: &mut Conn) -> Result<Option<Timestamp>> {
    let sql = "SELECT MIN(CASE WHEN deadline < lease_until THEN deadline ELSE lease_until END) AS next
        FROM jobs WHERE lease_until IS NOT NULL";
    conn.first(sql, args![]).await?.map_or(Ok(None), |row| row.maybe_time("next"))
}

/// When the next job that was put off may begin, or the next gate opens that waits for a time.
pub(crate) async fn next_put_off(conn: &mut Conn) -> Result<Option<Timestamp>> {
    let sql = "SELECT MIN(next) AS next FROM (
        SELECT MIN(not_before) AS next FROM jobs WHERE status = 'queued' AND not_before > 0
        UNION ALL SELECT MIN(not_before) AS next FROM jobs WHERE status = 'waiting' AND rollout_id IS NULL
            AND not_before > 0) AS both_kinds";
    conn.first(sql, args![]).await?.map_or(Ok(None), |row| row.maybe_time("next"))
}

/// Jobs that wait for a time which has come.
pub(crate) async fn gates_due(conn: &mut Conn, now: Timestamp, limit: u32) -> Result<Vec<JobId>> {
    let sql = "SELECT id FROM jobs WHERE status = 'waiting' AND rollout_id IS NULL AND not_before > 0
        AND not_before <= $1 ORDER BY not_before, id LIMIT $2";
    conn.all(sql, args![now, limit]).await?.iter().map(|row| row.parsed("id")).collect()
}

/// When a job was stored: with its attempt, with the call that it is of, or in the place of a matrix.
pub(crate) async fn created_at(conn: &mut Conn, id: JobId) -> Result<Timestamp> {
    let row = conn.first("SELECT created_at FROM jobs WHERE id = $1", args![id]).await?;
    row.ok_or_else(|| StoreError::not_found("job", id))?.time("created_at")
}

/// Notes that jobs which were put off may begin now; how many.
pub(crate) async fn put_on(conn: &mut Conn, now: Timestamp) -> Result<u64> {
    let sql = "UPDATE jobs SET not_before = 0 WHERE status = 'queued' AND not_before > 0 AND not_before <= $1";
    conn.run(sql, args![now]).await
}

/// Jobs that have been queued, or have waited for a person, since a time or for longer. Who waits for a time is none of them.
pub(crate) async fn overdue(conn: &mut Conn, status: JobStatus, since: Timestamp, limit: u32) -> Result<Vec<Job>> {
    let sql =
        "SELECT * FROM jobs WHERE status = $1 AND status IN ('queued', 'waiting', 'recovering') AND rollout_id IS NULL
            AND queued_at <= $2 AND NOT (status = 'waiting' AND not_before > 0)
        ORDER BY queued_at LIMIT $3";
    conn.all(sql, args![status.as_str(), since, limit]).await?.iter().map(job).collect()
}

/// Since when the job that has waited for a person for longest has.
pub(crate) async fn waiting_since(conn: &mut Conn) -> Result<Option<Timestamp>> {
    let sql = "SELECT MIN(queued_at) AS since FROM jobs
        WHERE status = 'waiting' AND status IN ('queued', 'waiting', 'recovering') AND rollout_id IS NULL AND not_before = 0";
    conn.first(sql, args![]).await?.map_or(Ok(None), |row| row.maybe_time("since"))
}

/// Jobs that are queued, or wait for a person, oldest first.
pub(crate) async fn idle(conn: &mut Conn, status: JobStatus, limit: u32) -> Result<Vec<Job>> {
    let sql =
        "SELECT * FROM jobs WHERE status = $1 AND status IN ('queued', 'waiting', 'recovering') AND rollout_id IS NULL
            AND queued_at IS NOT NULL
        ORDER BY queued_at LIMIT $2";
    conn.all(sql, args![status.as_str(), limit]).await?.iter().map(job).collect()
}

/// Since when the job that has been queued for longest has.
pub(crate) async fn idle_since(conn: &mut Conn, status: JobStatus) -> Result<Option<Timestamp>> {
    let sql = "SELECT MIN(queued_at) AS since FROM jobs
        WHERE status = $1 AND status IN ('queued', 'waiting', 'recovering') AND rollout_id IS NULL";
    conn.first(sql, args![status.as_str()]).await?.map_or(Ok(None), |row| row.maybe_time("since"))
}

/// The job, if it waits for the rollout.
pub(crate) async fn waiting_for(conn: &mut Conn, id: JobId, rollout: RolloutId) -> Result<Option<Job>> {
    let sql = "SELECT * FROM jobs WHERE id = $1 AND rollout_id = $2 AND status IN ('waiting', 'recovering')";
    conn.first(sql, args![id, rollout]).await?.as_ref().map(job).transpose()
}

/// Stores how steps stand. A step that has ended stays as it ended.
pub(crate) async fn save_steps(conn: &mut Conn, job: &Job, reports: &[StepReport]) -> Result<()> {
    // the first report of a first lease finds none
    let is_first = job.record.status == JobStatus::Leased && job.record.epoch == Epoch(1);
    let job = job.record.id;
    let known = if is_first { Vec::new() } else { steps(conn, job).await? };
    for report in reports {
        let before = known.iter().find(|s| s.index == report.index);
        if let Some(before) = before
            && before.status != report.status
            && before.status.is_final()
        {
            before.status.transition(report.status)?;
        }
        if before == Some(report) {
            continue;
        }
        save_step(conn, job, report).await?;
    }
    Ok(())
}

async fn save_step(conn: &mut Conn, job: JobId, step: &StepReport) -> Result<()> {
    let annotations = (!step.annotations.is_empty()).then(|| to_json(&step.annotations)).transpose()?;
    let sql = "INSERT INTO steps (job_id, position, name, status, outcome, exit_code, reason, outputs_json, started_at, ended_at,
            log_start, log_end, annotations_json, summary_bytes)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
        ON CONFLICT (job_id, position) DO UPDATE SET name = excluded.name, status = excluded.status, outcome = excluded.outcome,
            exit_code = excluded.exit_code, reason = excluded.reason, outputs_json = excluded.outputs_json,
            started_at = excluded.started_at, ended_at = excluded.ended_at, log_start = excluded.log_start,
            log_end = excluded.log_end, annotations_json = excluded.annotations_json,
            summary_bytes = excluded.summary_bytes";
    let args = args![
        job,
        step.index,
        &step.name,
        step.status.as_str(),
        step.outcome.map(Conclusion::as_str),
        step.exit_code,
        step.reason.as_ref(),
        to_json(&step.outputs)?,
        step.started_at,
        step.ended_at,
        step.log_start,
        step.log_end,
        annotations,
        step.summary_bytes,
    ];
    // it is written under the lease, and not with the lease's end
    let of = Of::row("steps", format_args!("{job}/{}", step.index)).by("jobs", job);
    conn.put(of, sql, args).await
}

/// The steps of a job that are not pending, in order.
pub(crate) async fn steps(conn: &mut Conn, job: JobId) -> Result<Vec<StepReport>> {
    conn.all("SELECT * FROM steps WHERE job_id = $1 ORDER BY position", args![job]).await?.iter().map(step).collect()
}

/// Forgets the steps from a position on: they run again.
pub(crate) async fn forget_steps(conn: &mut Conn, job: JobId, from: usize) -> Result<()> {
    conn.run("DELETE FROM steps WHERE job_id = $1 AND position >= $2", args![job, from]).await?;
    conn.run("DELETE FROM step_summaries WHERE job_id = $1 AND position >= $2", args![job, from]).await?;
    Ok(())
}

/// Copies the steps of a job to the one that carries it over.
pub(crate) async fn copy_steps(conn: &mut Conn, from: JobId, to: JobId) -> Result<()> {
    let sql = "INSERT INTO steps (job_id, position, name, status, outcome, exit_code, reason, outputs_json, started_at, ended_at,
            log_start, log_end, annotations_json, summary_bytes)
        SELECT $2, position, name, status, outcome, exit_code, reason, outputs_json, started_at, ended_at, log_start, log_end,
            annotations_json, summary_bytes
        FROM steps WHERE job_id = $1";
    conn.run(sql, args![from, to]).await?;
    let sql = "INSERT INTO step_summaries (job_id, position, text) SELECT $2, position, text FROM step_summaries WHERE job_id = $1";
    conn.run(sql, args![from, to]).await?;
    Ok(())
}

/// Gives a job the steps before one of another that it begins with. Their logs are that one's.
pub(crate) async fn begin_with_steps(conn: &mut Conn, begins: &Begins, to: JobId) -> Result<()> {
    let sql = "INSERT INTO steps (job_id, position, name, status, outcome, exit_code, reason, outputs_json, started_at, ended_at,
            log_start, log_end, annotations_json, summary_bytes)
        SELECT $2, position, name, status, outcome, exit_code, reason, outputs_json, started_at, ended_at, 0, 0,
            annotations_json, 0
        FROM steps WHERE job_id = $1 AND position < $3 ON CONFLICT DO NOTHING";
    conn.run(sql, args![begins.job, to, begins.step]).await?;
    Ok(())
}

/// Gives a job those artifacts of another that are named.
pub(crate) async fn begin_with_artifacts(conn: &mut Conn, from: JobId, to: &JobRecord, names: &[String]) -> Result<()> {
    let sql = "INSERT INTO artifacts (run_id, attempt, name, job_id, digest, bytes, created_at, expires_at)
        SELECT run_id, $3, name, $2, digest, bytes, created_at, expires_at FROM artifacts WHERE job_id = $1 AND name = $4
        ON CONFLICT DO NOTHING";
    for name in names {
        conn.run(sql, args![from, to.id, to.attempt, name]).await?;
    }
    Ok(())
}

/// How many summaries a job has.
pub(crate) async fn summaries(conn: &mut Conn, job: JobId) -> Result<u64> {
    let row = conn.first("SELECT COUNT(*) AS n FROM step_summaries WHERE job_id = $1", args![job]).await?;
    row.map_or(Ok(0), |row| row.count("n"))
}

/// Stores a step's summary, in the place of the one before.
pub(crate) async fn save_summary(conn: &mut Conn, job: JobId, step: usize, text: &str) -> Result<()> {
    let sql = "INSERT INTO step_summaries (job_id, position, text) VALUES ($1, $2, $3)
        ON CONFLICT (job_id, position) DO UPDATE SET text = excluded.text";
    conn.run(sql, args![job, step, text]).await?;
    Ok(())
}

/// The summaries of a job's steps, in order.
pub(crate) async fn summary_texts(conn: &mut Conn, job: JobId) -> Result<Vec<String>> {
    let sql = "SELECT text FROM step_summaries WHERE job_id = $1 ORDER BY position";
    conn.all(sql, args![job]).await?.iter().map(|row| row.text("text")).collect()
}

/// Where a job's log lies; made at its first claim.
pub(crate) async fn log(conn: &mut Conn, job: JobId) -> Result<Option<LogRecord>> {
    let row = conn.first("SELECT * FROM logs WHERE job_id = $1", args![job]).await?;
    row.map(|row| {
        Ok(LogRecord {
            job,
            path: row.text("path")?,
            bytes: row.count("bytes")?,
            closed: row.maybe_int("closed_at")?.is_some(),
            removed: row.maybe_int("removed_at")?.is_some(),
        })
    })
    .transpose()
}

pub(crate) async fn insert_log(conn: &mut Conn, job: JobId, path: &str, now: Timestamp) -> Result<()> {
    let sql = "INSERT INTO logs (job_id, path, bytes, created_at) VALUES ($1, $2, 0, $3)";
    conn.put(of_log(job), sql, args![job, path, now]).await
}

/// The same of a log that lies in the database, with what [`take_over_log`] does.
pub(crate) async fn begin_shared_log(
    conn: &mut Conn,
    job: JobId,
    path: &str,
    epoch: Epoch,
    now: Timestamp,
) -> Result<()> {
    insert_log(conn, job, path, now).await?;
    let sql = "INSERT INTO log_ends (job_id, epoch, bytes) VALUES ($1, $2, 0)";
    conn.put(Of::row("log_ends", job), sql, args![job, epoch]).await
}

/// Takes a log that lies in the database over for the holder of an epoch; gives its length. From now on chunks under lower ones
/// are refused.
pub(crate) async fn take_over_log(conn: &mut Conn, job: JobId, epoch: Epoch) -> Result<u64> {
    let sql = "INSERT INTO log_ends (job_id, epoch, bytes) VALUES ($1, $2, 0)
        ON CONFLICT (job_id) DO UPDATE SET epoch = excluded.epoch RETURNING bytes";
    let row = conn.first(sql, args![job, epoch]).await?;
    row.map_or(Ok(0), |row| row.count("bytes"))
}

/// Stores the last chunk of a log that lies in the database, by the holder of its lease, as far as it is new, with what [`save_log`]
/// does.
pub(crate) async fn end_shared_log(
    conn: &mut Conn,
    job: JobId,
    tail: &str,
    bytes: u64,
    closed_at: Option<Timestamp>,
) -> Result<()> {
    let with = "chunk AS (SELECT convert_to($3, 'UTF8') AS content),
        known AS (SELECT bytes FROM log_ends WHERE job_id = $1 FOR UPDATE),
        grown AS (
            UPDATE log_ends SET bytes = $2 + octet_length(content) FROM known, chunk
            WHERE log_ends.job_id = $1 AND known.bytes >= $2 AND known.bytes < $2 + octet_length(content)
            RETURNING known.bytes AS before)";
    let sql = "INSERT INTO log_chunks (job_id, start, content)
        SELECT $1, before, substring(content FROM CAST(before - $2 + 1 AS INT)) FROM grown, chunk";
    let offset = bytes.saturating_sub(tail.len() as u64);
    conn.put_with(Of::row("log_ends", job), with, sql, args![job, offset, tail]).await?;
    save_log(conn, job, bytes, closed_at).await
}

/// Removes a log that lies in the database.
pub(crate) async fn remove_log(conn: &mut Conn, job: JobId) -> Result<()> {
    conn.run("DELETE FROM log_chunks WHERE job_id = $1", args![job]).await?;
    conn.run("DELETE FROM log_ends WHERE job_id = $1", args![job]).await?;
    Ok(())
}

/// Stores how long a log is, and whether it is at its end.
pub(crate) async fn save_log(conn: &mut Conn, job: JobId, bytes: u64, closed_at: Option<Timestamp>) -> Result<()> {
    let sql = "UPDATE logs SET bytes = CASE WHEN bytes < $2 THEN $2 ELSE bytes END, closed_at = COALESCE($3, closed_at)
        WHERE job_id = $1";
    conn.put(of_log(job), sql, args![job, bytes, closed_at]).await
}

fn of_log(job: JobId) -> Of {
    Of::row("logs", job)
}

/// An artifact of an attempt.
pub(crate) async fn artifact(conn: &mut Conn, run: RunId, attempt: u32, name: &str) -> Result<Option<Artifact>> {
    let sql = "SELECT * FROM artifacts WHERE run_id = $1 AND attempt = $2 AND name = $3";
    conn.first(sql, args![run, attempt, name]).await?.as_ref().map(artifact_of).transpose()
}

/// Every artifact of an attempt, by name.
pub(crate) async fn artifacts(conn: &mut Conn, run: RunId, attempt: u32) -> Result<Vec<Artifact>> {
    let sql = "SELECT * FROM artifacts WHERE run_id = $1 AND attempt = $2 ORDER BY name";
    conn.all(sql, args![run, attempt]).await?.iter().map(artifact_of).collect()
}

pub(crate) async fn insert_artifact(
    conn: &mut Conn,
    job: &JobRecord,
    artifact: &Artifact,
    expires_at: Option<Timestamp>,
) -> Result<()> {
    let sql = "INSERT INTO artifacts (run_id, attempt, name, job_id, digest, bytes, created_at, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let Artifact { name, digest, bytes, created_at } = artifact;
    conn.run(sql, args![job.run, job.attempt, name, job.id, digest, *bytes, *created_at, expires_at]).await?;
    Ok(())
}

/// Gives an attempt the artifacts that a job of an earlier one made.
pub(crate) async fn copy_artifacts(conn: &mut Conn, from: JobId, to: JobId, attempt: u32) -> Result<()> {
    let sql = "INSERT INTO artifacts (run_id, attempt, name, job_id, digest, bytes, created_at, expires_at)
        SELECT run_id, $3, name, $2, digest, bytes, created_at, expires_at FROM artifacts WHERE job_id = $1";
    conn.run(sql, args![from, to, attempt]).await?;
    Ok(())
}

fn job(row: &Row) -> Result<Job> {
    let index = |column| row.maybe_int(column).map(|n| n.and_then(|n| usize::try_from(n).ok()));
    let record = JobRecord {
        id: row.parsed("id")?,
        run: RunId(row.int("run_id")?),
        attempt: row.count("attempt")?,
        plan: row.json("plan_json")?,
        status: row.word("status", JobStatus::parse)?,
        reason: row.maybe_text("reason")?,
        failure_class: row.maybe_text("failure_class")?.and_then(|word| from_word(&word)),
        outputs: row.json("outputs_json")?,
        epoch: Epoch(row.int("epoch")?),
        worker: row.maybe_parsed("worker")?,
        lease_until: row.maybe_time("lease_until")?,
        heard_at: row.maybe_time("heard_at")?,
        tries: row.count("tries")?,
        cancel_requested: row.flag("cancel_requested")?,
        next_step: index("next_step")?,
        rollout: row.maybe_int("rollout_id")?.map(RolloutId),
        carried_from: row.maybe_parsed("carried_from")?,
        queued_at: row.maybe_time("queued_at")?,
        started_at: row.maybe_time("started_at")?,
        ended_at: row.maybe_time("ended_at")?,
        environment_url: row.maybe_text("environment_url")?,
    };
    Ok(Job {
        record,
        position: row.count("position")?,
        repository: row.text("repository")?,
        incarnation: row.maybe_text("incarnation")?,
        skip_cause: row.maybe_text("skip_cause")?.and_then(|word| SkipCause::parse(&word)),
        waiting_step: index("waiting_step")?,
        waiting_may_fail: row.maybe_int("waiting_may_fail")?.map(|n| n != 0),
        ran: Duration::from_millis(row.count("ran_ms")?),
        leased_at: row.maybe_time("leased_at")?,
        deadline: row.maybe_time("deadline")?,
        planned: row.maybe_json("planned_json")?,
        stop_reason: row.maybe_text("stop_reason")?,
        retries: row.count("retries")?,
        not_before: row.time("not_before")?,
        begins: row.maybe_json("begins_json")?,
        token_hash: row.maybe_text("token_hash")?,
    })
}

fn step(row: &Row) -> Result<StepReport> {
    Ok(StepReport {
        index: row.count("position")?,
        name: row.text("name")?,
        status: row.word("status", StepStatus::parse)?,
        outcome: row.maybe_text("outcome")?.and_then(|word| from_word(&word)),
        exit_code: row.maybe_int("exit_code")?.and_then(|n| i32::try_from(n).ok()),
        reason: row.maybe_text("reason")?,
        outputs: row.json("outputs_json")?,
        started_at: row.maybe_time("started_at")?,
        ended_at: row.maybe_time("ended_at")?,
        log_start: row.count("log_start")?,
        log_end: row.count("log_end")?,
        annotations: match row.maybe_text("annotations_json")? {
            Some(_) => row.json("annotations_json")?,
            None => Vec::new(),
        },
        summary_bytes: row.count("summary_bytes")?,
    })
}

fn artifact_of(row: &Row) -> Result<Artifact> {
    Ok(Artifact {
        name: row.text("name")?,
        digest: row.parsed("digest")?,
        bytes: row.count("bytes")?,
        created_at: row.time("created_at")?,
    })
}
