//! What jobs' directories held before their steps.

use segue_schemas::{
    id::{Digest, JobId},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::store::{
    Result,
    sql::{Conn, Row, args, to_json},
};

/// Which snapshot a job begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begins {
    /// The job that it was taken of.
    pub(crate) job: JobId,
    /// Before which of its steps.
    pub(crate) step: usize,
}

/// What a job's directories held before a step.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) begins: Begins,
    /// `None`: nothing.
    pub(crate) digest: Option<Digest>,
    pub(crate) bytes: u64,
    pub(crate) state: String,
    pub(crate) is_sealed: bool,
    pub(crate) artifacts: Vec<String>,
}

/// Stores one; one of the same step goes.
pub(crate) async fn put(conn: &mut Conn, snapshot: &Snapshot, now: Timestamp) -> Result<()> {
    let Begins { job, step } = snapshot.begins;
    conn.run("DELETE FROM snapshots WHERE job_id = $1 AND step = $2", args![job, step]).await?;
    let sql = "INSERT INTO snapshots (job_id, step, digest, bytes, state, is_sealed, artifacts, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let Snapshot { digest, bytes, state, is_sealed, artifacts, .. } = snapshot;
    conn.run(sql, args![job, step, digest.as_ref(), *bytes, state, *is_sealed, to_json(artifacts)?, now]).await?;
    Ok(())
}

/// The one of a step.
pub(crate) async fn find(conn: &mut Conn, begins: Begins) -> Result<Option<Snapshot>> {
    let sql = "SELECT * FROM snapshots WHERE job_id = $1 AND step = $2";
    conn.first(sql, args![begins.job, begins.step]).await?.as_ref().map(|row| snapshot(row, begins)).transpose()
}

fn snapshot(row: &Row, begins: Begins) -> Result<Snapshot> {
    Ok(Snapshot {
        begins,
        digest: row.maybe_parsed("digest")?,
        bytes: row.count("bytes")?,
        state: row.text("state")?,
        is_sealed: row.flag("is_sealed")?,
        artifacts: row.json("artifacts")?,
    })
}
