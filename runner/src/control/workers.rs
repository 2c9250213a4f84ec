//! Workers: who they are, and whether they live.

use std::{collections::HashMap, sync::PoisonError};

use segue_pipelines::progress::Loss;
use segue_schemas::{
    id::{JobId, RunId, WorkerId},
    queue,
    time::Timestamp,
    worker_api::{MAX_KEPT, Register, Registered},
};

use super::{
    reaper::{lose_job, lose_rollout},
    tokens,
};
use crate::store::{
    Bell, Result, Store, StoreError, Tx, WorkerToken,
    sql::{args, to_json},
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
    /// Registers a worker's incarnation that came with the server's own token. Leases of an earlier one end at once, by the rules
    /// for a lost worker.
    pub async fn register_worker(&self, register: Register) -> Result<Registered> {
        self.register_worker_with(None, register).await
    }

    /// The same for a worker that came with a token of its own.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where it offers what that token's workers may not, or its name is another's.
    pub async fn register_worker_with(&self, token: Option<WorkerToken>, register: Register) -> Result<Registered> {
        if let Some((token, label)) = token.as_ref().and_then(|token| Some((token, token.forbids(&register.labels)?))) {
            return Err(StoreError::Refused(format!(
                "workers with the token `{}` may not offer the label `{label}`: take it out of `worker.labels`, or make them \
                 another token",
                token.name
            )));
        }
        let timing = &self.config().timing;
        let mut hosts = super::rollouts::sockets(self);
        for joined in self.joined_hosts().await? {
            hosts.swap_remove(&joined.name);
        }
        let registered = Registered {
            lease_ms: timing.lease.as_millis(),
            renew_ms: timing.renew.as_millis(),
            max_log_chunk: MAX_LOG_CHUNK,
            max_log_tail: super::logs::MAX_LOG_TAIL,
            end_brings_next: true,
            snapshots: super::snapshots::rules(self.config()),
            absent_host_ms: timing.absent_host.as_millis(),
            pool: self.config().broker.is_named().then(|| queue::pool(&register.labels)),
            hosts,
        };
        let store = self.clone();
        let lost = self
            .write(move |tx| {
                Box::pin(async move {
                    let token = token.map(|token| token.name);
                    let (worker, incarnation) = (&register.worker, &register.incarnation);
                    tokens::may_take_name(&store, tx, worker, incarnation, token.as_deref()).await?;
                    store.heard(worker);
                    insert(tx, &register, token).await?;
                    let mut lost = Vec::new();
                    for job in jobs::held_by(&mut tx.conn, &register.worker).await? {
                        if job.incarnation.as_deref() != Some(&register.incarnation) {
                            let id = job.record.id;
                            lost.push((id, lose_job(&store, tx, job, Loss::Unheard).await?));
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

    /// Has a worker take no new work, or take it again. What it holds it ends; what it has begun and put aside it goes on with.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub async fn drain_worker(&self, worker: &WorkerId, drain: bool) -> Result<()> {
        let worker = worker.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let sql = "UPDATE workers SET draining_since = CASE WHEN $2 = 0 THEN NULL
                    ELSE COALESCE(draining_since, $3) END WHERE id = $1";
                if tx.conn.run(sql, args![&worker, drain, tx.now]).await? == 0 {
                    return Err(StoreError::not_found("worker", worker));
                }
                tx.ring(Bell::Jobs);
                tx.ring(Bell::Rollouts);
                Ok(())
            })
        })
        .await
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

    /// Writes down, where several servers share the database, which workers were heard here, so that the others know that they live.
    pub async fn run_heard(&self) {
        if !self.config().database.is_shared() {
            return std::future::pending().await;
        }
        let every = self.worker_patience() / 4;
        let mut told: HashMap<WorkerId, Timestamp> = HashMap::new();
        loop {
            tokio::time::sleep(every).await;
            let heard = self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let news: Vec<(WorkerId, Timestamp)> = heard
                .iter()
                .filter(|(worker, at)| told.get(*worker) != Some(*at))
                .map(|(w, at)| (w.clone(), *at))
                .collect();
            if news.is_empty() {
                continue;
            }
            let written = self.write(move |tx| {
                Box::pin(async move {
                    for (worker, at) in news {
                        let sql = "UPDATE workers SET heard_at = $2 WHERE id = $1 AND heard_at < $2";
                        tx.conn.run(sql, args![&worker, at]).await?;
                    }
                    Ok(())
                })
            });
            match written.await {
                Ok(()) => told = heard,
                Err(error) => tracing::debug!(%error, "which workers live can't be written down now; tried again"),
            }
        }
    }

    /// When a worker was last heard, as far as memory goes.
    pub(crate) fn last_heard(&self, worker: &WorkerId) -> Option<Timestamp> {
        self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner).get(worker).copied()
    }
}

async fn insert(tx: &mut Tx, register: &Register, token: Option<String>) -> Result<()> {
    let sql = "INSERT INTO workers (id, incarnation, labels, capacity, version, registered_at, heard_at, token, gpus)
        VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8)
        ON CONFLICT (id) DO UPDATE SET incarnation = excluded.incarnation, labels = excluded.labels,
            capacity = excluded.capacity, version = excluded.version, registered_at = excluded.registered_at,
            heard_at = excluded.heard_at, token = excluded.token, gpus = excluded.gpus";
    let labels = jobs::joined(&register.labels);
    let gpus = (!register.gpus.is_empty()).then(|| to_json(&register.gpus)).transpose()?;
    let (worker, incarnation) = (&register.worker, &register.incarnation);
    let args = args![worker, incarnation, labels, register.capacity, &register.version, tx.now, token, gpus];
    tx.conn.run(sql, args).await?;
    Ok(())
}

/// What a worker may take.
pub(super) struct Room {
    /// How many more jobs it may hold.
    pub(super) jobs: u32,
    /// Whether it takes nothing new.
    pub(super) draining: bool,
}

/// How stale the stored time may be at which a worker was last heard, where servers share it.
const STORED_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// What a worker that is registered under this incarnation may take. Servers that share a database are told by it that the worker
/// lives; of one server, memory is enough.
pub(super) async fn room(tx: &mut Tx, worker: &WorkerId, incarnation: &str) -> Result<Room> {
    macro_rules! room {
        () => {
            "SELECT draining_since,
                capacity - (SELECT COUNT(*) FROM jobs WHERE status IN ('leased', 'running') AND worker = $1) AS room
            FROM workers WHERE id = $1 AND incarnation = $2"
        };
    }
    let found = if tx.conn.server().is_some() {
        let sql =
            concat!("WITH told AS (UPDATE workers SET heard_at = $3 WHERE id = $1 AND heard_at + $4 <= $3) ", room!());
        let stored_every = i64::try_from(STORED_EVERY.as_millis()).unwrap_or(i64::MAX);
        tx.conn.first(sql, args![worker, incarnation, tx.now, stored_every]).await?
    } else {
        tx.conn.first(room!(), args![worker, incarnation]).await?
    };
    match found {
        Some(row) => Ok(Room {
            jobs: u32::try_from(row.int("room")?).unwrap_or(0),
            draining: row.maybe_int("draining_since")?.is_some(),
        }),
        None => Err(StoreError::StaleWorker { worker: worker.to_string() }),
    }
}

/// Whether a worker has been heard lately ([`Store::worker_patience`]).
pub(super) async fn is_alive(store: &Store, tx: &mut Tx, worker: &WorkerId) -> Result<bool> {
    let patience = store.worker_patience();
    let stored = tx.conn.first("SELECT heard_at FROM workers WHERE id = $1", args![worker]).await?;
    let stored = stored.map(|row| row.time("heard_at")).transpose()?;
    let heard = stored.max(store.last_heard(worker));
    Ok(heard.is_some_and(|heard| tx.now.since(heard) < patience))
}
