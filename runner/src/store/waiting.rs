//! What the relay of the message queue asks: for whom there is something to look at. No record of bells is kept beside what they
//! are for, which could differ from it: a queued job and an unplanned delivery are written with the state, and ask to be rung for
//! as long as they are there.

use segue_schemas::{
    id::{DeliveryId, JobId, WorkerId},
    time::Timestamp,
};

use super::{
    Result, Store,
    sql::args,
    tables::jobs::{self, Shelf},
};

/// What waits for workers, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// The sets of labels that workers offer.
    pub(crate) offered: Vec<Vec<String>>,
    /// The sets of labels for which something is queued.
    pub(crate) queued: Vec<Vec<String>>,
    /// Queued jobs that go on at one worker alone, which has their workspace; 1,000 for each set of labels and priority at most.
    pub(crate) going_on: Vec<(JobId, WorkerId)>,
}

impl Store {
    /// What waits for workers, and what workers offer.
    pub(crate) async fn waiting_for_workers(&self) -> Result<Waiting> {
        let mut conn = self.read().await?;
        let mut waiting = Waiting::default();
        for row in conn.all("SELECT DISTINCT labels FROM workers", args![]).await? {
            waiting.offered.push(parts(&row.text("labels")?));
        }
        for Shelf { labels, priority, .. } in jobs::shelves(&mut conn).await? {
            waiting.queued.push(parts(&labels));
            if priority < jobs::BEGUN_PRIORITY {
                continue;
            }
            let sql = "SELECT id, worker FROM jobs WHERE status = 'queued' AND labels = $1 AND priority = $2
                AND next_step IS NOT NULL AND worker IS NOT NULL LIMIT 1000";
            for row in conn.all(sql, args![labels, priority]).await? {
                waiting.going_on.push((row.parsed("id")?, row.parsed("worker")?));
            }
        }
        waiting.queued.dedup();
        Ok(waiting)
    }

    /// Deliveries that wait for a planner and have become due from a time on, with when they did; the oldest first.
    pub(crate) async fn due_deliveries(&self, from: Timestamp, limit: usize) -> Result<Vec<(DeliveryId, Timestamp)>> {
        let sql = "SELECT outbox.subject AS id,
                CASE WHEN next_try_at > outbox.created_at THEN next_try_at ELSE outbox.created_at END AS due
            FROM outbox JOIN deliveries ON deliveries.id = outbox.subject
            WHERE outbox.kind = 'delivery' AND next_try_at <= $1 AND (outbox.created_at >= $2 OR next_try_at >= $2)
            ORDER BY due, id LIMIT $3";
        let rows = self.read().await?.all(sql, args![self.now(), from, limit]).await?;
        rows.iter().map(|row| Ok((row.parsed("id")?, row.time("due")?))).collect()
    }

    /// Whether a worker is to take nothing new.
    pub(crate) async fn is_draining(&self, worker: &WorkerId) -> Result<bool> {
        let sql = "SELECT id FROM workers WHERE id = $1 AND draining_since IS NOT NULL";
        Ok(self.read().await?.first(sql, args![worker]).await?.is_some())
    }
}

fn parts(labels: &str) -> Vec<String> {
    labels.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect()
}
