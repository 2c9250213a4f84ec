//! Concurrency groups: who is at work in one, and who waits.

use segue_pipelines::progress::Claimant;
use segue_schemas::{
    id::{JobId, RunId},
    time::Timestamp,
};

use crate::store::{
    Result,
    sql::{Conn, args},
};

/// Of a group, at most this many are looked at, the oldest first.
const LOOKED_AT: u32 = 1_000;

/// Somebody in a group, and which job it is.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) claimant: Claimant,
    pub(crate) job: Option<JobId>,
}

/// Everybody in a group of a repository who has not ended, the oldest first.
pub(crate) async fn members(conn: &mut Conn, repository: &str, group: &str) -> Result<Vec<Member>> {
    let sql = "SELECT r.id AS run_id, NULL AS job_id, NULL AS job_key, a.created_at AS since,
            EXISTS (SELECT 1 FROM jobs j WHERE j.run_id = r.id AND j.attempt = r.attempt AND j.environment IS NOT NULL) AS deploys,
            EXISTS (SELECT 1 FROM slots s WHERE s.repository = $1 AND s.name = $2 AND s.run_id = r.id AND s.job_id IS NULL) AS at_work,
            EXISTS (SELECT 1 FROM jobs j WHERE j.run_id = r.id AND j.attempt = r.attempt AND j.status = 'queued') AS ready
        FROM runs r JOIN attempts a ON a.run_id = r.id AND a.attempt = r.attempt
        WHERE r.repository = $1 AND r.concurrency = $2 AND r.concurrency IS NOT NULL AND r.ended_at IS NULL
        UNION ALL
        SELECT j.run_id, j.id, j.job_key, a.created_at, j.environment IS NOT NULL,
            EXISTS (SELECT 1 FROM slots s WHERE s.repository = $1 AND s.name = $2 AND s.job_id = j.id), j.status = 'queued'
        FROM jobs j JOIN attempts a ON a.run_id = j.run_id AND a.attempt = j.attempt
        WHERE j.repository = $1 AND j.concurrency = $2 AND j.concurrency IS NOT NULL AND j.ended_at IS NULL
        ORDER BY 4, 1, 2 NULLS FIRST LIMIT $3";
    let rows = conn.all(sql, args![repository, group, LOOKED_AT]).await?;
    rows.iter()
        .map(|row| {
            let claimant = Claimant {
                run: RunId(row.int("run_id")?),
                job: row.maybe_text("job_key")?,
                since: row.time("since")?,
                deploys: row.flag("deploys")?,
                at_work: row.flag("at_work")?,
                ready: row.flag("ready")?,
            };
            Ok(Member { claimant, job: row.maybe_parsed("job_id")? })
        })
        .collect()
}

/// Takes the slot of a group; whether it is had now. The key of the table lets only one in.
pub(crate) async fn take(
    conn: &mut Conn,
    repository: &str,
    group: &str,
    run: RunId,
    job: Option<JobId>,
    now: Timestamp,
) -> Result<bool> {
    let sql = "INSERT INTO slots (repository, name, run_id, job_id, taken_at) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT DO NOTHING";
    conn.run(sql, args![repository, group, run, job, now]).await?;
    let sql = "SELECT 1 AS n FROM slots WHERE repository = $1 AND name = $2 AND run_id = $3
        AND (job_id = $4 OR (job_id IS NULL AND $4 IS NULL))";
    Ok(conn.first(sql, args![repository, group, run, job]).await?.is_some())
}

/// Gives back the slots of what has ended in a run; how many.
pub(crate) async fn release_ended(conn: &mut Conn, run: RunId) -> Result<u64> {
    let sql = "DELETE FROM slots WHERE run_id = $1 AND (
        (job_id IS NULL AND EXISTS (SELECT 1 FROM runs r WHERE r.id = slots.run_id AND r.ended_at IS NOT NULL))
        OR EXISTS (SELECT 1 FROM jobs j WHERE j.id = slots.job_id AND j.ended_at IS NOT NULL))";
    conn.run(sql, args![run]).await
}
