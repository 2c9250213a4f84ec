//! GPUs that workers offer, and which job has which. A job has what it was given while it is held, and no longer: nothing is to be taken
//! back.

use std::collections::BTreeMap;

use segue_schemas::{
    gpu::GpuOffer,
    id::{JobId, WorkerId},
};

use crate::store::{
    Result,
    sql::{Conn, Row, args},
};

/// What a worker offers and no job has.
pub(crate) async fn free(conn: &mut Conn, worker: &WorkerId) -> Result<Vec<GpuOffer>> {
    let row = conn.first("SELECT gpus FROM workers WHERE id = $1", args![worker]).await?;
    let mut offered = row.as_ref().map(offered).transpose()?.unwrap_or_default();
    let taken = taken(conn, worker).await?;
    offered.retain(|gpu| !taken.contains_key(&gpu.uuid));
    Ok(offered)
}

/// What a worker's row says that it offers.
pub(crate) fn offered(row: &Row) -> Result<Vec<GpuOffer>> {
    Ok(row.maybe_json("gpus")?.unwrap_or_default())
}

/// Which of a worker's GPUs a job has, by UUID.
pub(crate) async fn taken(conn: &mut Conn, worker: &WorkerId) -> Result<BTreeMap<String, JobId>> {
    let sql = "SELECT id, gpus FROM jobs WHERE status IN ('leased', 'running') AND worker = $1 AND gpus IS NOT NULL";
    let mut taken = BTreeMap::new();
    for row in conn.all(sql, args![worker]).await? {
        let job: JobId = row.parsed("id")?;
        taken.extend(row.text("gpus")?.split(',').map(|uuid| (uuid.to_owned(), job)));
    }
    Ok(taken)
}

/// Gives a job GPUs of the worker that has just leased it.
pub(crate) async fn give(conn: &mut Conn, job: JobId, uuids: &[String]) -> Result<()> {
    conn.run("UPDATE jobs SET gpus = $2 WHERE id = $1", args![job, uuids.join(",")]).await?;
    Ok(())
}
