//! Workers: who they are, and whether they live.

use std::sync::PoisonError;

use segue_schemas::{
    id::{JobId, RunId, WorkerId},
    time::Timestamp,
    worker_api::{MAX_KEPT, Register, Registered},
};

use super::reaper::{lose_job, lose_rollout};
use crate::store::{
    Result, Store, StoreError, Tx,
    sql::args,
    tables::{jobs, rollouts},
};

/// Largest chunk of a log that a worker may send.
pub const MAX_LOG_CHUNK: u64 = 1 << 20;

/// What became of jobs that a worker keeps something of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Those that have ended.
    pub ended: Vec<JobId>,
    /// The runs of those that have not.
    pub open: Vec<RunId>,
}

impl Store {
    /// Registers a worker's incarnation. Leases of an earlier one end at once, by the rules for a lost worker.
    pub async fn register_worker(&self, register: Register) -> Result<Registered> {
        self.heard(&register.worker);
        let timing = &self.config().timing;
        let registered = Registered {
            lease_ms: timing.lease.as_millis(),
            renew_ms: timing.renew.as_millis(),
            max_log_chunk: MAX_LOG_CHUNK,
            absent_host_ms: timing.absent_host.as_millis(),
            hosts: super::rollouts::all_hosts(self)?,
        };
        let store = self.clone();
        let lost = self
            .write(move |tx| {
                Box::pin(async move {
                    insert(tx, &register).await?;
                    let mut lost = Vec::new();
                    for job in jobs::held_by(&mut tx.conn, &register.worker).await? {
                        if job.incarnation.as_deref() != Some(&register.incarnation) {
                            let id = job.record.id;
                            lost.push((id, lose_job(&store, tx, job).await?));
                        }
                    }
                    for rollout in rollouts::held_by(&mut tx.conn, &register.worker).await? {
                        if rollout.incarnation.as_deref() != Some(&register.incarnation) {
                            lose_rollout(tx, rollout).await?;
                        }
                    }
                    Ok(lost)
                })
            })
            .await?;
        lost.into_iter().for_each(|(job, ended)| self.logs().release(job, ended));
        Ok(registered)
    }

    /// Which of the jobs that a worker keeps something of have ended, and the runs of the others: their bells ring when there
    /// may be news. Jobs that are not known here are neither.
    pub async fn look_at_kept(&self, kept: &[JobId]) -> Result<Kept> {
        let mut conn = self.read().await?;
        let mut found = Kept { ended: Vec::new(), open: Vec::new() };
        for job in kept.iter().take(MAX_KEPT) {
            match jobs::load(&mut conn, *job).await {
                Ok(job) if job.record.status.is_final() => found.ended.push(job.record.id),
                Ok(job) => found.open.push(job.record.run),
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Notes that a worker was heard; kept in memory, so that an idle worker costs no write.
    pub(crate) fn heard(&self, worker: &WorkerId) {
        let mut heard = self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.insert(worker.clone(), self.now());
    }

    /// When a worker was last heard, as far as memory goes.
    pub(crate) fn last_heard(&self, worker: &WorkerId) -> Option<Timestamp> {
        self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner).get(worker).copied()
    }
}

async fn insert(tx: &mut Tx, register: &Register) -> Result<()> {
    let sql = "INSERT INTO workers (id, incarnation, labels, capacity, version, registered_at, heard_at)
        VALUES ($1, $2, $3, $4, $5, $6, $6)
        ON CONFLICT (id) DO UPDATE SET incarnation = excluded.incarnation, labels = excluded.labels,
            capacity = excluded.capacity, version = excluded.version, registered_at = excluded.registered_at,
            heard_at = excluded.heard_at";
    let labels = jobs::joined(&register.labels);
    let args = args![&register.worker, &register.incarnation, labels, register.capacity, &register.version, tx.now];
    tx.conn.run(sql, args).await?;
    Ok(())
}

/// How many more jobs a worker that is registered under this incarnation may hold.
pub(super) async fn room(tx: &mut Tx, worker: &WorkerId, incarnation: &str) -> Result<u32> {
    let sql =
        "SELECT capacity - (SELECT COUNT(*) FROM jobs WHERE status IN ('leased', 'running') AND worker = $1) AS room
        FROM workers WHERE id = $1 AND incarnation = $2";
    match tx.conn.first(sql, args![worker, incarnation]).await? {
        Some(row) => Ok(u32::try_from(row.int("room")?).unwrap_or(0)),
        None => Err(StoreError::StaleWorker { worker: worker.to_string() }),
    }
}

/// Whether a worker has been heard within two leases, or a claim's longest wait, whichever is longer.
pub(super) async fn is_alive(store: &Store, tx: &mut Tx, worker: &WorkerId) -> Result<bool> {
    let patience = (store.config().timing.lease.0 * 2).max(std::time::Duration::from_secs(60));
    let stored = tx.conn.first("SELECT heard_at FROM workers WHERE id = $1", args![worker]).await?;
    let stored = stored.map(|row| row.time("heard_at")).transpose()?;
    let heard = stored.max(store.last_heard(worker));
    Ok(heard.is_some_and(|heard| tx.now.since(heard) < patience))
}
