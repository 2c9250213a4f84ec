use std::time::Duration;

use segue_schemas::{
    deploy::{JournalEntry, JournalKind, Release, Rollout, RolloutCommand, RolloutSpec},
    id::{Digest, Epoch, JobId, ReleaseId, RolloutId, RunId, WorkerId},
    status::RolloutStatus,
    time::Timestamp,
};

use crate::store::{
    Result, RolloutFilter, RolloutRecord, StoreError, Word,
    sql::{Conn, Row, args, from_word, to_json, to_word},
};

/// A rollout with what only the control plane needs.
#[derive(Debug, Clone)]
pub(crate) struct StoredRollout {
    pub(crate) record: RolloutRecord,
    /// Whether it holds the slot of its pair.
    pub(crate) active: bool,
    pub(crate) incarnation: Option<String>,
    pub(crate) heard_at: Option<Timestamp>,
    pub(crate) not_before: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    /// What the last words of people were asked for by.
    pub(crate) asks: Vec<String>,
}

/// So many words of people are known again when they are asked for once more.
const ASKS: usize = 32;

impl StoredRollout {
    pub(crate) fn new(id: RolloutId, spec: RolloutSpec, requested_by: String, now: Timestamp) -> Self {
        let rollout = Rollout {
            id,
            spec,
            status: RolloutStatus::Queued,
            run: None,
            weight: 0,
            stage: 0,
            reason: None,
            verdict: None,
            state: None,
            created_at: now,
            ended_at: None,
        };
        let record = RolloutRecord {
            rollout,
            job: None,
            step: None,
            requested_by,
            worker: None,
            epoch: Epoch(0),
            lease_until: None,
            command: None,
        };
        Self {
            record,
            active: false,
            incarnation: None,
            heard_at: None,
            not_before: Timestamp(0),
            started_at: None,
            asks: Vec::new(),
        }
    }

    /// Keeps what a word was asked for by.
    pub(crate) fn remember(&mut self, ask: String) {
        self.asks.push(ask);
        let old = self.asks.len().saturating_sub(ASKS);
        self.asks.drain(..old);
    }

    pub(crate) fn id(&self) -> RolloutId {
        self.record.rollout.id
    }

    pub(crate) fn environment(&self) -> &str {
        &self.record.rollout.spec.environment
    }

    pub(crate) fn service(&self) -> &str {
        &self.record.rollout.spec.release.service
    }

    /// Moves on to a status, over those between where its driver could not report each. At the end it lets its slot and its
    /// lease go.
    pub(crate) fn becomes(&mut self, to: RolloutStatus, now: Timestamp) -> Result<()> {
        let rollout = &mut self.record.rollout;
        if rollout.status != to {
            if !is_reachable(rollout.status, to) {
                rollout.status.transition(to)?;
            }
            rollout.status = to;
        }
        if to.is_final() {
            rollout.ended_at = Some(now);
            self.active = false;
            self.record.command = None;
            self.let_go();
        }
        Ok(())
    }

    /// Nobody drives it any more.
    pub(crate) fn let_go(&mut self) {
        self.record.lease_until = None;
    }
}

/// Whether a chain of legal transitions leads from one status to another.
fn is_reachable(from: RolloutStatus, to: RolloutStatus) -> bool {
    let mut reached = vec![from];
    let mut next = 0;
    while let Some(&at) = reached.get(next) {
        let further = RolloutStatus::ALL.iter().filter(|s| at.transition(**s).is_ok());
        let new: Vec<_> = further.filter(|s| !reached.contains(s)).copied().collect();
        reached.extend(new);
        next += 1;
    }
    reached.contains(&to)
}

pub(crate) async fn insert(conn: &mut Conn, rollout: &StoredRollout) -> Result<()> {
    let (record, spec) = (&rollout.record, &rollout.record.rollout.spec);
    let sql = "INSERT INTO rollouts (id, environment, service, repository, release_id, digest, spec_json, is_rollback,
            requested_by, run_id, job_id, step, status, active, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";
    let args = args![
        record.rollout.id,
        &spec.environment,
        &spec.release.service,
        &spec.release.repository,
        spec.release.id,
        &spec.release.digest,
        to_json(spec)?,
        spec.is_rollback,
        &record.requested_by,
        record.rollout.run,
        record.job,
        record.step,
        record.rollout.status.as_str(),
        rollout.active,
        record.rollout.created_at,
    ];
    conn.run(sql, args).await?;
    Ok(())
}

/// Stores everything of a rollout that changes.
pub(crate) async fn save(conn: &mut Conn, rollout: &StoredRollout) -> Result<()> {
    let (record, r) = (&rollout.record, &rollout.record.rollout);
    let (command, by, number) = match &record.command {
        Some(Word { command, by, number }) => (Some(to_word(command)?), Some(by), *number),
        None => (None, None, None),
    };
    let sql = "UPDATE rollouts SET status = $2, active = $3, weight = $4, stage = $5, reason = $6, verdict_json = $7,
            state_json = $8, epoch = $9, worker = $10, incarnation = $11, lease_until = $12, heard_at = $13, not_before = $14,
            command = $15, command_by = $16, started_at = $17, ended_at = $18, word = $19, asks_json = $20
        WHERE id = $1";
    let args = args![
        r.id,
        r.status.as_str(),
        rollout.active,
        r.weight,
        r.stage,
        r.reason.as_ref(),
        r.verdict.as_ref().map(to_json).transpose()?,
        r.state.as_ref().map(to_json).transpose()?,
        record.epoch,
        record.worker.as_ref(),
        rollout.incarnation.as_ref(),
        record.lease_until,
        rollout.heard_at,
        rollout.not_before,
        command,
        by,
        rollout.started_at,
        r.ended_at,
        number,
        (!rollout.asks.is_empty()).then(|| to_json(&rollout.asks)).transpose()?,
    ];
    conn.run(sql, args).await?;
    Ok(())
}

/// Stores what a rollout is to do; only before it begins.
pub(crate) async fn save_spec(conn: &mut Conn, rollout: &StoredRollout) -> Result<()> {
    let spec = to_json(&rollout.record.rollout.spec)?;
    conn.run("UPDATE rollouts SET spec_json = $2 WHERE id = $1", args![rollout.id(), spec]).await?;
    Ok(())
}

pub(crate) async fn load(conn: &mut Conn, id: RolloutId) -> Result<StoredRollout> {
    let row = conn.first("SELECT * FROM rollouts WHERE id = $1", args![id]).await?;
    rollout(&row.ok_or_else(|| StoreError::not_found("rollout", id))?)
}

/// The rollout, if the epoch is that of its lease: the fence.
pub(crate) async fn load_held(conn: &mut Conn, id: RolloutId, epoch: Epoch) -> Result<StoredRollout> {
    let found = load(conn, id).await?;
    if found.record.epoch != epoch || found.record.lease_until.is_none() {
        let current = found.record.epoch;
        return Err(StoreError::StaleEpoch { kind: "rollout", id: id.to_string(), given: epoch, current });
    }
    Ok(found)
}

/// The rollout that a step of a job asked for.
pub(crate) async fn of_step(conn: &mut Conn, job: JobId, step: usize) -> Result<Option<StoredRollout>> {
    let sql = "SELECT * FROM rollouts WHERE job_id = $1 AND step = $2";
    conn.first(sql, args![job, step]).await?.as_ref().map(rollout).transpose()
}

/// The newest rollout that a job asked for.
pub(crate) async fn newest_of_job(conn: &mut Conn, job: JobId) -> Result<Option<StoredRollout>> {
    let sql = "SELECT * FROM rollouts WHERE job_id = $1 ORDER BY step DESC LIMIT 1";
    conn.first(sql, args![job]).await?.as_ref().map(rollout).transpose()
}

/// The rollouts of a run, oldest first.
pub(crate) async fn of_run(conn: &mut Conn, run: RunId, attempt_jobs: &[JobId]) -> Result<Vec<RolloutId>> {
    let rows = conn.all("SELECT id, job_id FROM rollouts WHERE run_id = $1 ORDER BY id", args![run]).await?;
    let mut found = Vec::new();
    for row in rows {
        if row.maybe_parsed("job_id")?.is_some_and(|job: JobId| attempt_jobs.contains(&job)) {
            found.push(RolloutId(row.int("id")?));
        }
    }
    Ok(found)
}

/// The rollouts of a pair that have not ended: the active one first, then rollbacks, then by age.
pub(crate) async fn open_of_pair(conn: &mut Conn, environment: &str, service: &str) -> Result<Vec<StoredRollout>> {
    let sql = "SELECT * FROM rollouts WHERE ended_at IS NULL AND environment = $1 AND service = $2
        ORDER BY active DESC, is_rollback DESC, id LIMIT 1000";
    conn.all(sql, args![environment, service]).await?.iter().map(rollout).collect()
}

/// The rollout that is to be driven next, after so many that are left out: those that have begun and lost their driver, then the first of a pair
/// whose slot is free.
pub(crate) async fn next_claimable(conn: &mut Conn, now: Timestamp, left_out: u32) -> Result<Option<StoredRollout>> {
    let sql = "SELECT * FROM rollouts r WHERE ended_at IS NULL AND lease_until IS NULL AND not_before <= $1
            AND (active = 1 OR NOT EXISTS (
                SELECT 1 FROM rollouts a WHERE a.active = 1 AND a.environment = r.environment AND a.service = r.service))
        ORDER BY active DESC, is_rollback DESC, id LIMIT 1 OFFSET $2";
    conn.first(sql, args![now, left_out]).await?.as_ref().map(rollout).transpose()
}

/// When a rollout that was handed back for a while is claimable again.
pub(crate) async fn next_not_before(conn: &mut Conn, now: Timestamp) -> Result<Option<Timestamp>> {
    let sql = "SELECT MIN(not_before) AS next FROM rollouts WHERE ended_at IS NULL AND lease_until IS NULL AND not_before > $1";
    conn.first(sql, args![now]).await?.map_or(Ok(None), |row| row.maybe_time("next"))
}

/// Rollouts that nobody has begun for so long.
pub(crate) async fn unstarted(
    conn: &mut Conn,
    now: Timestamp,
    limit: Duration,
    at_most: u32,
) -> Result<Vec<StoredRollout>> {
    let before = Timestamp(now.0.saturating_sub(i64::try_from(limit.as_millis()).unwrap_or(i64::MAX)));
    let sql = "SELECT * FROM rollouts WHERE ended_at IS NULL AND active = 0 AND created_at <= $1 ORDER BY id LIMIT $2";
    conn.all(sql, args![before, at_most]).await?.iter().map(rollout).collect()
}

/// Since when the rollout that nobody has begun for longest waits.
pub(crate) async fn unstarted_since(conn: &mut Conn) -> Result<Option<Timestamp>> {
    let sql = "SELECT MIN(created_at) AS since FROM rollouts WHERE ended_at IS NULL AND active = 0";
    conn.first(sql, args![]).await?.map_or(Ok(None), |row| row.maybe_time("since"))
}

/// Rollouts whose lease has run out.
pub(crate) async fn expired(conn: &mut Conn, now: Timestamp, limit: u32) -> Result<Vec<StoredRollout>> {
    let sql =
        "SELECT * FROM rollouts WHERE lease_until IS NOT NULL AND lease_until <= $1 ORDER BY lease_until LIMIT $2";
    conn.all(sql, args![now, limit]).await?.iter().map(rollout).collect()
}

/// Has every lease end then.
pub(crate) async fn extend_all(conn: &mut Conn, until: Timestamp) -> Result<()> {
    conn.run("UPDATE rollouts SET lease_until = $1 WHERE lease_until IS NOT NULL", args![until]).await?;
    Ok(())
}

/// Rollouts that a worker holds.
pub(crate) async fn held_by(conn: &mut Conn, worker: &WorkerId) -> Result<Vec<StoredRollout>> {
    let sql = "SELECT * FROM rollouts WHERE lease_until IS NOT NULL AND worker = $1 ORDER BY id";
    conn.all(sql, args![worker]).await?.iter().map(rollout).collect()
}

/// The newest rollouts of each environment and service that failed.
pub(crate) async fn last_failed(conn: &mut Conn) -> Result<Vec<StoredRollout>> {
    let sql = "SELECT * FROM rollouts r WHERE status = 'failed' AND NOT EXISTS (SELECT 1 FROM rollouts n
            WHERE n.environment = r.environment AND n.service = r.service AND n.id > r.id) ORDER BY id LIMIT 1000";
    conn.all(sql, args![]).await?.iter().map(rollout).collect()
}

/// Rollouts that some worker holds.
pub(crate) async fn driven(conn: &mut Conn) -> Result<Vec<StoredRollout>> {
    let sql = "SELECT * FROM rollouts WHERE lease_until IS NOT NULL ORDER BY id LIMIT 10000";
    conn.all(sql, args![]).await?.iter().map(rollout).collect()
}

/// When the next lease of a rollout ends.
pub(crate) async fn next_expiry(conn: &mut Conn) -> Result<Option<Timestamp>> {
    let sql = "SELECT MIN(lease_until) AS next FROM rollouts WHERE lease_until IS NOT NULL";
    conn.first(sql, args![]).await?.map_or(Ok(None), |row| row.maybe_time("next"))
}

/// Extends a lease; nothing else is touched.
pub(crate) async fn extend(conn: &mut Conn, id: RolloutId, now: Timestamp, until: Timestamp) -> Result<()> {
    conn.run("UPDATE rollouts SET lease_until = $2, heard_at = $3 WHERE id = $1", args![id, until, now]).await?;
    Ok(())
}

/// Rollouts, newest first.
pub(crate) async fn list(conn: &mut Conn, filter: &RolloutFilter) -> Result<Vec<StoredRollout>> {
    let sql = "SELECT * FROM rollouts WHERE ($1 IS NULL OR environment = $1) AND ($2 IS NULL OR service = $2)
            AND ($3 IS NULL OR run_id = $3) AND ($4 IS NULL OR release_id = $4)
            AND ($5 IS NULL OR (CASE WHEN ended_at IS NULL THEN 1 ELSE 0 END) = $5)
        ORDER BY id DESC LIMIT $6";
    let args = args![
        filter.environment.as_ref(),
        filter.service.as_ref(),
        filter.run,
        filter.release,
        filter.open,
        filter.limit.clamp(1, 200),
    ];
    conn.all(sql, args).await?.iter().map(rollout).collect()
}

/// Whether an artifact of a service has been rolled out to an environment with success.
pub(crate) async fn has_passed(conn: &mut Conn, environment: &str, service: &str, digest: &Digest) -> Result<bool> {
    let sql = "SELECT 1 AS one FROM rollouts
        WHERE digest = $1 AND environment = $2 AND service = $3 AND status = 'succeeded' LIMIT 1";
    Ok(conn.first(sql, args![digest, environment, service]).await?.is_some())
}

/// How a release was run the last time that it came to an environment with success.
pub(crate) async fn last_spec(conn: &mut Conn, environment: &str, release: &Release) -> Result<Option<RolloutSpec>> {
    let sql = "SELECT spec_json FROM rollouts WHERE environment = $1 AND service = $2 AND release_id = $3
            AND status = 'succeeded' ORDER BY id DESC LIMIT 1";
    let row = conn.first(sql, args![environment, &release.service, release.id]).await?;
    row.map(|row| row.json("spec_json")).transpose()
}

/// The rollout that had an epoch of a pair.
pub(crate) async fn of_epoch(
    conn: &mut Conn,
    environment: &str,
    service: &str,
    epoch: Epoch,
) -> Result<Option<RolloutId>> {
    let sql = "SELECT id FROM rollouts WHERE environment = $1 AND service = $2 AND epoch = $3 ORDER BY id DESC LIMIT 1";
    let row = conn.first(sql, args![environment, service, epoch]).await?;
    row.map(|row| Ok(RolloutId(row.int("id")?))).transpose()
}

/// The next epoch of a pair.
pub(crate) async fn next_epoch(conn: &mut Conn, environment: &str, service: &str) -> Result<Epoch> {
    let epoch = highest_epoch(conn, environment, service).await?.next();
    raise_epoch(conn, environment, service, epoch).await?;
    Ok(epoch)
}

/// The highest epoch of a pair that was given out, or seen.
pub(crate) async fn highest_epoch(conn: &mut Conn, environment: &str, service: &str) -> Result<Epoch> {
    let sql = "SELECT epoch FROM epochs WHERE environment = $1 AND service = $2";
    let row = conn.first(sql, args![environment, service]).await?;
    row.map_or(Ok(Epoch(0)), |row| Ok(Epoch(row.int("epoch")?)))
}

/// No epoch of a pair below this one, nor this one itself, is given out any more.
pub(crate) async fn raise_epoch(conn: &mut Conn, environment: &str, service: &str, epoch: Epoch) -> Result<()> {
    let sql = "INSERT INTO epochs (environment, service, epoch) VALUES ($1, $2, $3)
        ON CONFLICT (environment, service) DO UPDATE SET
            epoch = CASE WHEN excluded.epoch > epochs.epoch THEN excluded.epoch ELSE epochs.epoch END";
    conn.run(sql, args![environment, service, epoch]).await?;
    Ok(())
}

/// The journal after a sequence number, oldest first.
pub(crate) async fn journal(conn: &mut Conn, id: RolloutId, after: i64) -> Result<Vec<JournalEntry>> {
    let sql = "SELECT * FROM rollout_journal WHERE rollout_id = $1 AND sequence > $2 ORDER BY sequence LIMIT 100000";
    conn.all(sql, args![id, after]).await?.iter().map(entry).collect()
}

/// The sequence number of the newest entry; 0 where there is none.
pub(crate) async fn journal_end(conn: &mut Conn, id: RolloutId) -> Result<i64> {
    let sql = "SELECT COALESCE(MAX(sequence), 0) AS newest FROM rollout_journal WHERE rollout_id = $1";
    conn.first(sql, args![id]).await?.map_or(Ok(0), |row| row.int("newest"))
}

pub(crate) async fn append_journal(conn: &mut Conn, id: RolloutId, entry: &JournalEntry) -> Result<()> {
    let sql = "INSERT INTO rollout_journal (rollout_id, sequence, epoch, at, kind, host, detail_json)
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let JournalEntry { sequence, epoch, at, kind, host, detail } = entry;
    conn.run(sql, args![id, *sequence, *epoch, *at, to_word(kind)?, host.as_ref(), to_json(detail)?]).await?;
    Ok(())
}

fn entry(row: &Row) -> Result<JournalEntry> {
    Ok(JournalEntry {
        sequence: row.int("sequence")?,
        epoch: Epoch(row.int("epoch")?),
        at: row.time("at")?,
        kind: row.word("kind", from_word::<JournalKind>)?,
        host: row.maybe_text("host")?,
        detail: row.json("detail_json")?,
    })
}

fn rollout(row: &Row) -> Result<StoredRollout> {
    let command: Option<RolloutCommand> = row.maybe_text("command")?.and_then(|word| from_word(&word));
    let number = row.maybe_int("word")?;
    let word = command.zip(row.maybe_text("command_by")?).map(|(command, by)| Word { command, by, number });
    let rollout = Rollout {
        id: RolloutId(row.int("id")?),
        spec: row.json("spec_json")?,
        status: row.word("status", RolloutStatus::parse)?,
        run: row.maybe_int("run_id")?.map(RunId),
        weight: row.count("weight")?,
        stage: row.count("stage")?,
        reason: row.maybe_text("reason")?,
        verdict: row.maybe_json("verdict_json")?,
        state: row.maybe_json("state_json")?,
        created_at: row.time("created_at")?,
        ended_at: row.maybe_time("ended_at")?,
    };
    let record = RolloutRecord {
        rollout,
        job: row.maybe_parsed("job_id")?,
        step: row.maybe_int("step")?.and_then(|n| usize::try_from(n).ok()),
        requested_by: row.text("requested_by")?,
        worker: row.maybe_parsed("worker")?,
        epoch: Epoch(row.int("epoch")?),
        lease_until: row.maybe_time("lease_until")?,
        command: word,
    };
    Ok(StoredRollout {
        record,
        active: row.flag("active")?,
        incarnation: row.maybe_text("incarnation")?,
        heard_at: row.maybe_time("heard_at")?,
        not_before: row.time("not_before")?,
        started_at: row.maybe_time("started_at")?,
        asks: row.maybe_json("asks_json")?.unwrap_or_default(),
    })
}

/// Whether a release has been to an environment.
pub(crate) async fn has_served(conn: &mut Conn, environment: &str, service: &str, release: ReleaseId) -> Result<bool> {
    let sql = "SELECT 1 AS one FROM rollouts
        WHERE environment = $1 AND service = $2 AND release_id = $3 AND status = 'succeeded' LIMIT 1";
    Ok(conn.first(sql, args![environment, service, release]).await?.is_some())
}
