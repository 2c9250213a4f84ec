//! Logs in the database that several servers share: any of them takes a chunk, any of them reads it. A chunk is one statement,
//! which is fenced by what the database says of the job and takes none of the writers' locks.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use segue_schemas::id::{Epoch, JobId};
use sqlx::Row as _;

use super::{LogError, Result};
use crate::store::{Bell, Doorbell, LogBells, PostgresDatabase};

/// Logs in a database. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) database: Arc<PostgresDatabase>,
    pub(super) doorbell: Arc<Doorbell>,
    /// Tells the other servers.
    pub(super) bells: Arc<LogBells>,
}

impl Shared {
    /// Stores a chunk at its offset, as far as it is new; gives the length afterwards.
    pub(super) async fn append(&self, job: JobId, epoch: Epoch, offset: u64, chunk: Bytes) -> Result<u64> {
        // the row of the log's end is locked first, by whoever writes and by the claim that takes the log over
        let sql = "WITH known AS (SELECT epoch, bytes FROM log_ends WHERE job_id = $1 FOR UPDATE),
            held AS (SELECT epoch FROM jobs WHERE id = $1 AND epoch = $2 AND status IN ('leased', 'running')),
            grown AS (
                UPDATE log_ends SET bytes = $3 + octet_length($4) FROM known, held
                WHERE log_ends.job_id = $1 AND known.epoch = $2
                    AND known.bytes >= $3 AND known.bytes < $3 + octet_length($4)
                RETURNING known.bytes AS before, log_ends.bytes AS after),
            stored AS (
                INSERT INTO log_chunks (job_id, start, content)
                SELECT $1, before, substring($4 FROM CAST(before - $3 + 1 AS INT)) FROM grown)
            SELECT (SELECT epoch FROM jobs WHERE id = $1) AS epoch, (SELECT epoch FROM held) AS held,
                (SELECT epoch FROM known) AS writer, (SELECT after FROM grown) AS after, (SELECT bytes FROM known) AS before";
        let offset = i64::try_from(offset).unwrap_or(i64::MAX / 2);
        let query = sqlx::query(sql).bind(job.to_string()).bind(epoch.0).bind(offset).bind(&chunk[..]);
        let row = query.fetch_one(self.database.pool()).await.map_err(unavailable)?;
        let number = |column: &str| row.try_get::<Option<i64>, _>(column).map_err(unavailable);
        if number("held")?.is_none() || number("writer")?.is_some_and(|writer| writer != epoch.0) {
            let current = Epoch(number("epoch")?.max(number("writer")?).unwrap_or_default());
            return Err(LogError::Stale { job, given: epoch, current });
        }
        if let Some(after) = number("after")? {
            self.doorbell.ring(Bell::Log(job));
            self.bells.ring(job);
            return Ok(after.unsigned_abs());
        }
        Ok(number("before")?.unwrap_or_default().unsigned_abs())
    }

    /// At most `limit` bytes from an offset on.
    pub(super) async fn read(&self, job: JobId, offset: u64, limit: usize) -> Result<Bytes> {
        // chunks lie end to end, so those that begin before the end are as much as is asked for, and two more
        let sql = "SELECT start, content FROM log_chunks
            WHERE job_id = $1 AND start < $3
                AND start >= COALESCE((SELECT MAX(start) FROM log_chunks WHERE job_id = $1 AND start <= $2), 0)
            ORDER BY start";
        let from = i64::try_from(offset).unwrap_or(i64::MAX / 2);
        let until = from.saturating_add(i64::try_from(limit).unwrap_or(i64::MAX / 2));
        let query = sqlx::query(sql).bind(job.to_string()).bind(from).bind(until);
        let mut bytes = BytesMut::new();
        for row in query.fetch_all(self.database.pool()).await.map_err(unavailable)? {
            let start: i64 = row.try_get("start").map_err(unavailable)?;
            let content: &[u8] = row.try_get("content").map_err(unavailable)?;
            let skip = usize::try_from(from - start).unwrap_or(0).min(content.len());
            let room = limit - bytes.len();
            let part = &content[skip..];
            bytes.extend_from_slice(&part[..part.len().min(room)]);
        }
        Ok(bytes.freeze())
    }

    /// The length of a log.
    pub(super) async fn bytes(&self, job: JobId) -> Result<u64> {
        let query = sqlx::query_scalar("SELECT bytes FROM log_ends WHERE job_id = $1").bind(job.to_string());
        let bytes: Option<i64> = query.fetch_optional(self.database.pool()).await.map_err(unavailable)?;
        Ok(bytes.unwrap_or_default().unsigned_abs())
    }
}

fn unavailable(error: sqlx::Error) -> LogError {
    LogError::Unavailable(error.to_string())
}
