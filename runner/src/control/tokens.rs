//! Who may speak as a worker: tokens that people make for workers, and those that come with each lease. A token of a worker opens
//! the workers' API for the workers that registered with it; one of a lease opens what concerns its job, under its epoch.

use std::{collections::HashMap, sync::PoisonError};

use secrecy::{ExposeSecret as _, SecretString};
use segue_pipelines::progress::Loss;
use segue_schemas::{
    gpu,
    id::{Epoch, JobId, RolloutId, WorkerId, is_name},
    time::Timestamp,
};

use super::{
    joined,
    reaper::{lose_job, lose_rollout},
};
use crate::{
    auth,
    store::{
        Bell, Result, Store, StoreError, TokenKind, Tx, WorkerToken,
        sql::{Row, args},
        tables::{jobs, rollouts},
    },
};

/// Tokens that may be valid at a time.
const MAX_TOKENS: u64 = 1000;
/// Labels of a token.
const MAX_LABELS: usize = 64;
/// Tokens of leases that are remembered, so that a job's requests cost no look into the database. What is forgotten is looked up.
const REMEMBERED: usize = 4096;

/// Tokens of leases, by their hash.
pub(crate) type JobTokens = HashMap<String, (JobId, Epoch)>;

impl Store {
    /// Makes a token for a worker, or for several that are alike. It is given once; what is kept is its hash.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where the name or a label can't be one, [`StoreError::Conflict`] where a token of that name is valid.
    pub async fn create_worker_token(&self, name: &str, labels: Option<Vec<String>>) -> Result<SecretString> {
        if !is_name(name) {
            return Err(StoreError::Refused(format!(
                "`{}` can't name a token: take 1 to 64 letters, digits, `-`, `_` and `.`",
                name.escape_debug()
            )));
        }
        if let Some(labels) = &labels {
            check_labels(labels)?;
        }
        let token = auth::make_token("sw")?;
        let (name, hash) = (name.to_owned(), auth::hash_of(token.expose_secret()));
        self.write(move |tx| {
            Box::pin(async move {
                let kind = TokenKind::Worker.as_str();
                let sql = "SELECT COUNT(*) AS n, COALESCE(SUM(CASE WHEN name = $2 THEN 1 ELSE 0 END), 0) AS same
                    FROM tokens WHERE kind = $1 AND revoked_at IS NULL";
                if let Some(row) = tx.conn.first(sql, args![kind, &name]).await? {
                    if row.int("same")? > 0 {
                        return Err(StoreError::Conflict(format!(
                            "there is a token `{name}` already: revoke it first, or take another name"
                        )));
                    }
                    if row.count::<u64>("n")? >= MAX_TOKENS {
                        return Err(StoreError::Refused(format!(
                            "there are {MAX_TOKENS} worker tokens: revoke those that no worker uses"
                        )));
                    }
                }
                // one of the same name that was revoked gives way
                tx.conn.run("DELETE FROM tokens WHERE kind = $1 AND name = $2", args![kind, &name]).await?;
                let sql = "INSERT INTO tokens (hash, name, kind, created_at, labels) VALUES ($1, $2, $3, $4, $5)";
                let labels = labels.map(|labels| jobs::joined(&labels));
                tx.conn.run(sql, args![hash, name, kind, tx.now, labels]).await?;
                Ok(())
            })
        })
        .await?;
        Ok(token)
    }

    /// The tokens of workers, by name; those that were revoked last.
    pub async fn worker_tokens(&self) -> Result<Vec<WorkerToken>> {
        let sql = "SELECT name, labels, created_at, revoked_at FROM tokens WHERE kind = $1
            ORDER BY CASE WHEN revoked_at IS NULL THEN 0 ELSE 1 END, name LIMIT 2000";
        let mut conn = self.read().await?;
        let mut found = Vec::new();
        for row in conn.all(sql, args![TokenKind::Worker.as_str()]).await? {
            let mut token = token_of(&row)?;
            let sql = "SELECT id FROM workers WHERE token = $1 AND token IS NOT NULL ORDER BY id LIMIT 1000";
            for row in conn.all(sql, args![&token.name]).await? {
                token.workers.push(row.parsed("id")?);
            }
            found.push(token);
        }
        Ok(found)
    }

    /// The token of workers with this hash, unless it was revoked.
    pub(crate) async fn worker_token(&self, hash: &str) -> Result<Option<WorkerToken>> {
        let sql = "SELECT name, labels, created_at, revoked_at FROM tokens
            WHERE hash = $1 AND kind = $2 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $3)";
        let kind = TokenKind::Worker.as_str();
        self.read().await?.first(sql, args![hash, kind, self.now()]).await?.as_ref().map(token_of).transpose()
    }

    /// Takes a token back. Its workers are strangers from now on, and what they hold is lost as if they had died. Gives the workers.
    pub async fn revoke_worker_token(&self, name: &str) -> Result<Vec<WorkerId>> {
        let (store, name) = (self.clone(), name.to_owned());
        let (workers, lost) = self.write(move |tx| Box::pin(async move { revoke(&store, tx, &name).await })).await?;
        lost.into_iter().for_each(|(job, ended)| self.logs().release(job, ended));
        Ok(workers)
    }

    /// Whether a worker registered with this token.
    pub(crate) async fn registered_with(&self, worker: &WorkerId, token: &str) -> Result<bool> {
        let sql = "SELECT 1 AS one FROM workers WHERE id = $1 AND token = $2";
        Ok(self.read().await?.first(sql, args![worker, token]).await?.is_some())
    }

    /// Whether the worker that has, or had last, a job registered with this token.
    pub(crate) async fn job_is_of(&self, job: JobId, token: &str) -> Result<bool> {
        let sql = "SELECT 1 AS one FROM jobs j JOIN workers w ON w.id = j.worker WHERE j.id = $1 AND w.token = $2";
        Ok(self.read().await?.first(sql, args![job, token]).await?.is_some())
    }

    /// Whether the worker that drives, or drove last, a rollout registered with this token.
    pub(crate) async fn rollout_is_of(&self, rollout: RolloutId, token: &str) -> Result<bool> {
        let sql = "SELECT 1 AS one FROM rollouts r JOIN workers w ON w.id = r.worker WHERE r.id = $1 AND w.token = $2";
        Ok(self.read().await?.first(sql, args![rollout, token]).await?.is_some())
    }

    /// The job and the epoch that a lease's token stands for. `None`: a newer lease has taken its place, or it never was one.
    pub(crate) async fn lease_of_token(&self, token: &str) -> Result<Option<(JobId, Epoch)>> {
        let Some(job) = auth::job_of_token(token) else { return Ok(None) };
        let hash = auth::hash_of(token);
        // what a token stands for never changes; whether that still counts, the fence says
        if let Some(known) = self.inner.job_tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&hash) {
            return Ok(Some(*known));
        }
        let sql = "SELECT epoch FROM jobs WHERE id = $1 AND token_hash = $2";
        let Some(row) = self.read().await?.first(sql, args![job, &hash]).await? else { return Ok(None) };
        let lease = (job, Epoch(row.int("epoch")?));
        self.remember(hash, lease);
        Ok(Some(lease))
    }

    /// Remembers what a lease's token stands for.
    pub(crate) fn remember(&self, hash: String, lease: (JobId, Epoch)) {
        let mut known = self.inner.job_tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(hash, lease);
    }
}

async fn revoke(store: &Store, tx: &mut Tx, name: &str) -> Result<(Vec<WorkerId>, Vec<(JobId, bool)>)> {
    let sql = "UPDATE tokens SET revoked_at = $3 WHERE kind = $1 AND name = $2 AND revoked_at IS NULL";
    if tx.conn.run(sql, args![TokenKind::Worker.as_str(), name, tx.now]).await? == 0 {
        return Err(StoreError::not_found("worker token", name));
    }
    let rows = tx.conn.all("SELECT id FROM workers WHERE token = $1 ORDER BY id", args![name]).await?;
    let workers: Vec<WorkerId> = rows.iter().map(|row| row.parsed("id")).collect::<Result<_>>()?;
    // no incarnation is theirs: a claim that is held open now ends
    tx.conn.run("UPDATE workers SET incarnation = '' WHERE token = $1", args![name]).await?;
    let mut lost = Vec::new();
    for worker in &workers {
        joined::revoke_worker(tx, worker).await?;
        for job in jobs::held_by(&mut tx.conn, worker).await? {
            lost.push((job.record.id, lose_job(store, tx, job, Loss::Unheard).await?));
        }
        for rollout in rollouts::held_by(&mut tx.conn, worker).await? {
            lose_rollout(tx, rollout).await?;
        }
    }
    tx.ring(Bell::Jobs);
    tx.ring(Bell::Rollouts);
    Ok((workers, lost))
}

/// Whether a worker's name may be registered with a token: it is nobody else's, or who had it is gone.
pub(super) async fn may_take_name(
    store: &Store,
    tx: &mut Tx,
    worker: &WorkerId,
    incarnation: &str,
    token: Option<&str>,
) -> Result<()> {
    let sql = "SELECT incarnation, token FROM workers WHERE id = $1";
    let Some(row) = tx.conn.first(sql, args![worker]).await? else { return Ok(()) };
    let (had, by) = (row.text("incarnation")?, row.maybe_text("token")?);
    if had.is_empty() || had == incarnation || by.as_deref() == token {
        return Ok(());
    }
    // the server's own token may do what every other may
    if token.is_none() || !super::workers::is_alive(store, tx, worker).await? {
        return Ok(());
    }
    let by = by.map_or_else(|| "the server's own token".to_owned(), |by| format!("the token `{by}`"));
    Err(StoreError::Refused(format!(
        "a worker `{worker}` is at work that registered with {by}: give this one another name (`worker.name`)"
    )))
}

fn check_labels(labels: &[String]) -> Result<()> {
    if labels.is_empty() || labels.len() > MAX_LABELS {
        return Err(StoreError::Refused(format!("a token has 1 to {MAX_LABELS} labels, or may offer any")));
    }
    match labels.iter().find(|label| label.is_empty() || label.len() > 100 || label.contains([',', ' ', '\n'])) {
        Some(label) => Err(StoreError::Refused(format!(
            "`{}` is no label: it has 1 to 100 characters, no comma and no space",
            label.escape_debug()
        ))),
        None => Ok(()),
    }
}

fn token_of(row: &Row) -> Result<WorkerToken> {
    let labels = row.maybe_text("labels")?;
    Ok(WorkerToken {
        name: row.text("name")?,
        labels: labels.map(|labels| labels.split(',').map(Into::into).collect()),
        created_at: row.time("created_at")?,
        revoked_at: row.maybe_int("revoked_at")?.map(Timestamp),
        workers: Vec::new(),
    })
}

impl WorkerToken {
    /// The first of the labels that its workers may not offer.
    #[must_use]
    pub fn forbids<'a>(&self, labels: &'a [String]) -> Option<&'a str> {
        let allowed = self.labels.as_ref()?;
        // whoever may offer `gpu` may offer as many as there are
        let is_allowed = |label: &str| allowed.iter().any(|one| one == label || one == "gpu" && gpu::is_shape(label));
        labels.iter().map(String::as_str).find(|label| !is_allowed(label))
    }
}
