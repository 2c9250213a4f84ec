//! What outboxes have in common: rows that are due, and are taken where several servers share the database, so that one of them
//! sees to each.

use std::{future::Future, time::Duration};

use segue_schemas::time::Timestamp;

use super::{
    Result, Store,
    sql::{Conn, args},
};

/// How long one that a server has taken is no other's.
const TAKEN_FOR: Duration = Duration::from_secs(60);

/// A row of an outbox.
pub(super) trait Due: Sized + Send + Sync + 'static {
    /// Those that are due, in their order.
    fn due(conn: &mut Conn, now: Timestamp, limit: u32) -> impl Future<Output = Result<Vec<Self>>> + Send;

    /// To others it is due only then, should this server not say what came of it.
    fn take(&self, conn: &mut Conn, until: Timestamp) -> impl Future<Output = Result<()>> + Send;
}

impl Store {
    /// What is due; taken, where several servers share the database.
    pub(super) async fn due<T: Due>(&self, limit: u32) -> Result<Vec<T>> {
        if self.server().is_none() {
            return T::due(&mut self.read().await?, self.now(), limit).await;
        }
        self.write(move |tx| {
            Box::pin(async move {
                let due = T::due(&mut tx.conn, tx.now, limit).await?;
                for one in &due {
                    one.take(&mut tx.conn, tx.now + TAKEN_FOR).await?;
                }
                Ok(due)
            })
        })
        .await
    }

    /// The time that a query gives as `due`.
    pub(super) async fn next_due(&self, sql: &'static str) -> Result<Option<Timestamp>> {
        self.read().await?.first(sql, args![]).await?.map_or(Ok(None), |row| row.maybe_time("due"))
    }
}
