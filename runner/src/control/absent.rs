//! A rollout ended without anybody knowing what serves, because its host did not answer for long. Now it does, and what it
//! shows is put on record.

use segue_schemas::{
    deploy::{JournalEntry, JournalKind, Release},
    id::RolloutId,
    status::RolloutStatus,
};
use serde_json::json;

use super::rollouts::{ring, serve};
use crate::store::{
    Result, RolloutFilter, Store,
    sql::Conn,
    tables::rollouts::{self, StoredRollout},
};

impl Store {
    /// A host shows that a release has all of a service's traffic. Where the pair's last rollout ended without that being known,
    /// it is known now: the rollout's record says it, and the release is current. Otherwise, and once that is done, this changes
    /// nothing.
    pub async fn host_shows(&self, host: &str, environment: &str, service: &str, release: &Release) -> Result<()> {
        if unknown_end(&mut self.read().await?, (environment, service), host).await?.is_none() {
            return Ok(());
        }
        let store = self.clone();
        let (host, release) = (host.to_owned(), release.clone());
        let (environment, service) = (environment.to_owned(), service.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let unknown = unknown_end(&mut tx.conn, (&environment, &service), &host).await?;
                let Some(mut rollout) = unknown else { return Ok(()) };
                let spec = &rollout.record.rollout.spec;
                let is_new = release.id == spec.release.id;
                let serves = if is_new { "new" } else { "former" };
                let message = format!("host `{host}` is back: release {} has all the traffic", release.id);
                let entry = JournalEntry {
                    sequence: rollouts::journal_end(&mut tx.conn, rollout.id()).await? + 1,
                    epoch: rollout.record.epoch,
                    at: tx.now,
                    kind: JournalKind::Recovered,
                    host: Some(host),
                    detail: json!({ "message": message, "serves": serves, "release": release.id }),
                };
                rollouts::append_journal(&mut tx.conn, rollout.id(), &entry).await?;
                let stands = &mut rollout.record.rollout;
                stands.weight = if is_new { 100 } else { 0 };
                stands.reason = Some(match stands.reason.take() {
                    Some(reason) => format!("{reason}; since then {message}"),
                    None => message,
                });
                rollouts::save(&mut tx.conn, &rollout).await?;
                if is_new && rollout.record.rollout.spec.repair.is_none() {
                    serve(&store, tx, &rollout).await?;
                }
                ring(tx, &rollout);
                Ok(())
            })
        })
        .await
    }
}

impl Store {
    /// The hosts at which the last rollout of a service ended without anybody knowing what serves.
    pub async fn quarantined_hosts(&self) -> Result<Vec<String>> {
        let mut conn = self.read().await?;
        let mut found = Vec::new();
        for rollout in rollouts::last_failed(&mut conn).await? {
            if is_unknown(&mut conn, rollout.id()).await? {
                found.extend(rollout.record.rollout.spec.hosts);
            }
        }
        Ok(found)
    }
}

/// The last rollout of a pair, if it ended without anybody knowing what serves, and had to do with this host.
async fn unknown_end(
    conn: &mut Conn,
    (environment, service): (&str, &str),
    host: &str,
) -> Result<Option<StoredRollout>> {
    let filter = RolloutFilter {
        environment: Some(environment.to_owned()),
        service: Some(service.to_owned()),
        limit: 1,
        ..RolloutFilter::default()
    };
    let newest = rollouts::list(conn, &filter).await?.into_iter().next();
    let is_it = |one: &StoredRollout| {
        let rollout = &one.record.rollout;
        rollout.status == RolloutStatus::Failed && rollout.spec.hosts.iter().any(|name| name == host)
    };
    let Some(rollout) = newest.filter(is_it) else { return Ok(None) };
    Ok(is_unknown(conn, rollout.id()).await?.then_some(rollout))
}

async fn is_unknown(conn: &mut Conn, rollout: RolloutId) -> Result<bool> {
    let end = rollouts::journal_end(conn, rollout).await?;
    let last = rollouts::journal(conn, rollout, end - 1).await?;
    Ok(last.iter().any(|entry| entry.kind == JournalKind::Ended && entry.detail["serves"] == "unknown"))
}
