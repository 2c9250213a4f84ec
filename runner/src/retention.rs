//! Keeps memory of the past within bounds: logs, artifacts, rollback points and records, by age and by size. What is to go
//! is selected by pure functions; what is needed (a release that serves or can be gone back to, a run that goes on) never is.

use std::{collections::HashMap, time::Duration};

use segue_schemas::{
    config::RetentionConfig,
    id::{Digest, JobId},
    time::Timestamp,
};

use crate::store::{
    Bell, Result, Store, StoreError, Tx, Work,
    sql::{Row, args},
    tables::{blobs, jobs},
};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(3600);

/// What was stored or named so recently stays: somebody is about to use it.
const GRACE: Duration = Duration::from_secs(3600);

/// What one transaction removes; the next one goes on.
const AT_ONCE: usize = 100;

/// What one pass removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Logs.
    pub logs: usize,
    /// Contents of artifacts.
    pub artifacts: usize,
    /// Rollback points.
    pub points: usize,
    /// Runs.
    pub runs: usize,
    /// Bytes of disk that this freed.
    pub bytes: u64,
}

/// Something that may go; the oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate<K> {
    key: K,
    bytes: u64,
    since: Timestamp,
}

/// A rollback point; of one environment and service the newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Point {
    tag: String,
    pair: (String, String),
    serves: bool,
}

impl Store {
    /// Cleans up for ever: now, and once an hour.
    pub async fn run_retention(&self) {
        loop {
            match self.clean_up().await {
                Ok(removed) if removed == Removed::default() => {}
                Ok(removed) => tracing::info!(?removed, "retention removed what is too old or too much"),
                Err(error) => tracing::error!(%error, "what is too old could not be removed; tried again in an hour"),
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Removes what is too old or too much, once.
    pub async fn clean_up(&self) -> Result<Removed> {
        let mut removed = Removed::default();
        let rules = self.config().retention.clone();
        (removed.runs, removed.bytes) = self.until_done(&rules, remove_runs).await?;
        let keep = rules.releases;
        removed.points = self.write(move |tx| Box::pin(async move { drop_points(tx, keep).await })).await?;
        let (logs, bytes) = self.until_done(&rules, remove_logs).await?;
        (removed.logs, removed.bytes) = (logs, removed.bytes + bytes);
        self.until_done(&rules, forget_what_expired).await?;
        self.until_done(&rules, condemn_unnamed).await?;
        self.until_done(&rules, condemn_artifacts).await?;
        // none of what can't be reached now keeps the rest from being removed
        if let Err(error) = self.condemn_orphans().await {
            tracing::warn!(%error, "what nobody named can't be looked for; tried again in an hour");
        }
        if let Err(error) = self.artifacts().remove_broken_uploads().await {
            tracing::warn!(%error, "uploads that broke off can't be taken back; tried again in an hour");
        }
        let swept = self.sweep().await?;
        (removed.artifacts, removed.bytes) = (swept.removed, removed.bytes + swept.freed);
        if removed.bytes > 0 {
            // where the disk was low, jobs may start again
            self.doorbell().ring(Bell::Jobs);
        }
        Ok(removed)
    }

    /// Repeats a pass, each in a transaction of its own so that nobody waits for long, until it finds nothing more.
    async fn until_done<F>(&self, rules: &RetentionConfig, pass: F) -> Result<(usize, u64)>
    where
        F: for<'t> Fn(&'t Store, &'t mut Tx, &'t RetentionConfig) -> Work<'t, (usize, u64)> + Send + Copy + 'static,
    {
        let mut total = (0, 0);
        loop {
            let (store, rules) = (self.clone(), rules.clone());
            let (items, bytes) = self.write(move |tx| Box::pin(async move { pass(&store, tx, &rules).await })).await?;
            total = (total.0 + items, total.1 + bytes);
            if items == 0 {
                return Ok(total);
            }
        }
    }
}

/// Of candidates, the oldest first: those past their age, and as many more as bring the total under its limit.
fn select<K>(
    candidates: Vec<Candidate<K>>,
    total: u64,
    now: Timestamp,
    age: Duration,
    limit: u64,
) -> Vec<Candidate<K>> {
    let mut left = total;
    candidates
        .into_iter()
        .take_while(|candidate| {
            let goes = now.since(candidate.since) >= age || left > limit;
            left -= if goes { candidate.bytes.min(left) } else { 0 };
            goes
        })
        .collect()
}

/// The tags beyond the newest `keep` of each pair, but never what serves or would be gone back to.
fn beyond(points: Vec<Point>, keep: u32) -> Vec<String> {
    let mut seen: HashMap<(String, String), u32> = HashMap::new();
    points
        .into_iter()
        .filter_map(|point| {
            let rank = seen.entry(point.pair).or_default();
            *rank += 1;
            (*rank > keep && !point.serves).then_some(point.tag)
        })
        .collect()
}

fn remove_runs<'t>(store: &'t Store, tx: &'t mut Tx, rules: &'t RetentionConfig) -> Work<'t, (usize, u64)> {
    Box::pin(async move {
        let before = earlier(tx.now, rules.runs.0);
        let sql = "SELECT id FROM runs WHERE ended_at <= $1 ORDER BY ended_at LIMIT $2";
        let runs = tx.conn.all(sql, args![before, AT_ONCE]).await?;
        let mut bytes = 0;
        for run in &runs {
            let id = run.int("id")?;
            // those in the database go with their jobs
            let sql = "SELECT path FROM logs JOIN jobs ON jobs.id = job_id WHERE run_id = $1 AND removed_at IS NULL";
            for log in tx.conn.all(sql, args![id]).await? {
                bytes += store.logs().remove(&log.text("path")?)?;
            }
            tx.conn.run("DELETE FROM runs WHERE id = $1", args![id]).await?;
        }
        if runs.is_empty() {
            bytes += remove_records(store, tx, before).await?;
        }
        Ok((runs.len(), bytes))
    })
}

/// Records that belong to no run that is kept.
async fn remove_records(store: &Store, tx: &mut Tx, before: Timestamp) -> Result<u64> {
    let mut bytes = 0;
    let sql = "SELECT payload_file FROM deliveries WHERE settled_at <= $1 AND payload_file IS NOT NULL";
    for row in tx.conn.all(sql, args![before]).await? {
        let path = store.inner.data.join("deliveries").join(row.text("payload_file")?);
        bytes += std::fs::metadata(&path).map_or(0, |m| m.len());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::files(format!("{} can't be removed", path.display()), &error));
            }
            _ => {}
        }
    }
    const RECORDS: &[&str] = &[
        "DELETE FROM deliveries WHERE settled_at <= $1",
        "DELETE FROM work_identities WHERE created_at <= $1",
        "DELETE FROM previews WHERE state = 'gone' AND touched_at <= $1",
        "DELETE FROM github_previews WHERE next_try_at <= $1 AND NOT EXISTS (SELECT 1 FROM previews p
            WHERE p.repository = github_previews.repository AND p.number = github_previews.number)",
        "DELETE FROM pulls WHERE heard_at <= $1 AND NOT EXISTS (
            SELECT 1 FROM previews p WHERE p.repository = pulls.repository AND p.number = pulls.number)",
        "DELETE FROM machines WHERE state = 'ended' AND ended_at <= $1",
        "DELETE FROM notifications WHERE done_at <= $1",
        "DELETE FROM rollouts WHERE ended_at <= $1
            AND release_id NOT IN (SELECT release_id FROM rollback_points)
            AND release_id NOT IN (SELECT release_id FROM current_releases)
            AND release_id NOT IN (SELECT previous_id FROM current_releases WHERE previous_id IS NOT NULL)",
        "DELETE FROM releases WHERE created_at <= $1
            AND id NOT IN (SELECT release_id FROM rollouts) AND id NOT IN (SELECT release_id FROM rollback_points)
            AND id NOT IN (SELECT release_id FROM current_releases)
            AND id NOT IN (SELECT previous_id FROM current_releases WHERE previous_id IS NOT NULL)",
    ];
    for sql in RECORDS {
        tx.conn.run(sql, args![before]).await?;
    }
    Ok(bytes)
}

async fn drop_points(tx: &mut Tx, keep: u32) -> Result<usize> {
    let sql = "SELECT p.tag, p.environment, p.service,
            CASE WHEN p.release_id = c.release_id OR p.release_id = c.previous_id THEN 1 ELSE 0 END AS serves
        FROM rollback_points p LEFT JOIN current_releases c ON c.environment = p.environment AND c.service = p.service
        ORDER BY p.environment, p.service, p.created_at DESC, p.tag DESC";
    let point = |row: &Row| {
        let pair = (row.text("environment")?, row.text("service")?);
        Ok(Point { tag: row.text("tag")?, pair, serves: row.flag("serves")? })
    };
    let points = tx.conn.all(sql, args![]).await?.iter().map(point).collect::<Result<_>>()?;
    let dropped = beyond(points, keep);
    for tag in &dropped {
        tx.conn.run("DELETE FROM rollback_points WHERE tag = $1", args![tag]).await?;
    }
    Ok(dropped.len())
}

fn remove_logs<'t>(store: &'t Store, tx: &'t mut Tx, rules: &'t RetentionConfig) -> Work<'t, (usize, u64)> {
    Box::pin(async move {
        let total =
            sum(tx, "SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS total FROM logs WHERE removed_at IS NULL")
                .await?;
        let sql = "SELECT job_id, path, bytes, closed_at FROM logs WHERE removed_at IS NULL AND closed_at IS NOT NULL
            ORDER BY closed_at LIMIT $1";
        let candidate = |row: &Row| {
            let key = (row.parsed::<JobId>("job_id")?, row.text("path")?);
            Ok(Candidate { key, bytes: row.count("bytes")?, since: row.time("closed_at")? })
        };
        let candidates = tx.conn.all(sql, args![AT_ONCE]).await?;
        let candidates = candidates.iter().map(candidate).collect::<Result<_>>()?;
        let chosen = select(candidates, total, tx.now, rules.logs.0, rules.logs_max_mib << 20);
        let mut bytes = 0;
        for Candidate { key: (job, path), .. } in &chosen {
            bytes += store.logs().remove(path)?;
            if store.logs().is_shared() {
                jobs::remove_log(&mut tx.conn, *job).await?;
            }
            tx.conn.run("UPDATE logs SET removed_at = $2 WHERE job_id = $1", args![*job, tx.now]).await?;
        }
        Ok((chosen.len(), bytes))
    })
}

/// Names that are kept no longer: of artifacts whose step said for how long, and of caches that nobody has used.
fn forget_what_expired<'t>(_: &'t Store, tx: &'t mut Tx, rules: &'t RetentionConfig) -> Work<'t, (usize, u64)> {
    Box::pin(async move {
        let now = tx.now;
        tx.conn.run("DELETE FROM artifacts WHERE expires_at <= $1", args![now]).await?;
        tx.conn.run("DELETE FROM caches WHERE used_at <= $1", args![earlier(now, rules.caches.0)]).await?;
        tx.conn.run("DELETE FROM snapshots WHERE created_at <= $1", args![earlier(now, rules.snapshots.0)]).await?;
        // of those that are too much together, the oldest
        let sql = "DELETE FROM snapshots WHERE created_at <= (SELECT MAX(created_at) FROM (SELECT created_at,
            CAST(SUM(bytes) OVER (ORDER BY created_at DESC, job_id, step) AS BIGINT) AS total FROM snapshots) AS newest WHERE total > $1)";
        tx.conn.run(sql, args![rules.snapshots_max_mib << 20]).await?;
        Ok((0, 0))
    })
}

/// Puts contents on their way out that nothing names any more.
fn condemn_unnamed<'t>(_: &'t Store, tx: &'t mut Tx, _: &'t RetentionConfig) -> Work<'t, (usize, u64)> {
    Box::pin(async move {
        let sql = "SELECT digest, bytes FROM blobs WHERE used_at <= $1 AND digest NOT IN (SELECT digest FROM artifacts)
                AND digest NOT IN (SELECT digest FROM caches) AND digest NOT IN (SELECT digest FROM releases)
                AND digest NOT IN (SELECT digest FROM snapshots WHERE digest IS NOT NULL)
            LIMIT $2";
        let unnamed = tx.conn.all(sql, args![earlier(tx.now, GRACE), AT_ONCE]).await?;
        for row in &unnamed {
            blobs::condemn(&mut tx.conn, &row.parsed("digest")?, row.count("bytes")?, tx.now).await?;
        }
        Ok((unnamed.len(), 0))
    })
}

/// Puts contents on their way out that are too old or too much.
fn condemn_artifacts<'t>(_: &'t Store, tx: &'t mut Tx, rules: &'t RetentionConfig) -> Work<'t, (usize, u64)> {
    Box::pin(async move {
        let total = sum(tx, "SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS total FROM blobs").await?;
        // one that a step wanted to be kept for longer counts as that much younger
        let sql = "SELECT blobs.digest, blobs.bytes,
                CASE WHEN kept_until - $3 > used_at THEN kept_until - $3 ELSE used_at END AS since
            FROM blobs LEFT JOIN (SELECT digest AS kept, MAX(expires_at) AS kept_until FROM artifacts GROUP BY digest) AS wishes
                ON wishes.kept = blobs.digest
            WHERE used_at <= $1
                AND blobs.digest NOT IN (SELECT digest FROM releases WHERE id IN (
                    SELECT release_id FROM rollback_points UNION SELECT release_id FROM current_releases
                    UNION SELECT previous_id FROM current_releases WHERE previous_id IS NOT NULL
                    UNION SELECT release_id FROM rollouts WHERE ended_at IS NULL))
                AND blobs.digest NOT IN (SELECT digest FROM artifacts JOIN runs ON runs.id = run_id WHERE ended_at IS NULL)
                AND blobs.digest NOT IN (SELECT digest FROM caches)
                AND blobs.digest NOT IN (SELECT digest FROM snapshots WHERE digest IS NOT NULL)
            ORDER BY since LIMIT $2";
        let candidate = |row: &Row| {
            Ok(Candidate {
                key: row.parsed::<Digest>("digest")?,
                bytes: row.count("bytes")?,
                since: row.time("since")?,
            })
        };
        let age = u64::try_from(rules.artifacts.0.as_millis()).unwrap_or(u64::MAX);
        let candidates = tx.conn.all(sql, args![earlier(tx.now, GRACE), AT_ONCE, age]).await?;
        let candidates = candidates.iter().map(candidate).collect::<Result<_>>()?;
        let chosen = select(candidates, total, tx.now, rules.artifacts.0, rules.artifacts_max_mib << 20);
        for Candidate { key: digest, bytes, .. } in &chosen {
            blobs::condemn(&mut tx.conn, digest, *bytes, tx.now).await?;
        }
        Ok((chosen.len(), 0))
    })
}

async fn sum(tx: &mut Tx, sql: &'static str) -> Result<u64> {
    tx.conn.first(sql, args![]).await?.map_or(Ok(0), |row| row.count("total"))
}

fn earlier(now: Timestamp, by: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(ages: &[(i64, u64)]) -> Vec<Candidate<i64>> {
        ages.iter().map(|&(since, bytes)| Candidate { key: since, bytes, since: Timestamp(since) }).collect()
    }

    #[test]
    fn what_is_too_old_goes_and_then_the_oldest_until_the_rest_fits() {
        let cases: &[(u64, u64, &[i64])] = &[
            // total, limit, what goes of ages 10, 20, 30 (each 5 bytes) at 100 with an age limit of 85
            (15, 100, &[10]),
            (15, 10, &[10]),
            (15, 9, &[10, 20]),
            (15, 0, &[10, 20, 30]),
            (100, 50, &[10, 20, 30]),
        ];
        for (total, limit, expected) in cases {
            let all = candidates(&[(10, 5), (20, 5), (30, 5)]);
            let gone = select(all, *total, Timestamp(100), Duration::from_millis(85), *limit);
            assert_eq!(gone.iter().map(|c| c.key).collect::<Vec<_>>(), *expected, "{total} {limit}");
        }
    }

    #[test]
    fn the_newest_points_of_each_pair_stay_and_so_does_what_serves() {
        let point = |tag: &str, service: &str, serves| Point {
            tag: tag.into(),
            pair: ("production".into(), service.into()),
            serves,
        };
        let points = vec![
            point("5", "web", false),
            point("4", "web", false),
            point("3", "web", false),
            point("2", "web", true),
            point("1", "api", false),
        ];
        assert_eq!(beyond(points.clone(), 2), ["3"]);
        assert_eq!(beyond(points, 0), ["5", "4", "3", "1"]);
    }
}
