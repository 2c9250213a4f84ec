//! What waits to be told outside: notifications and git tags; and the tokens that open the way in.

use std::time::Duration;

use segue_schemas::{
    config::NotificationEvent,
    id::{RolloutId, RunId},
    time::Timestamp,
};
use serde_json::Value;

use super::{
    Bell, Notification, Result, Store, StoreError, TokenKind, Tx, WantedTag,
    due::Due,
    sql::{Conn, Row, args, from_word, to_json, to_word},
    tables::releases,
};

/// The first pause before a notification is tried again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// How long a notification is tried.
const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 3600);

impl Store {
    /// Notifications that are due, oldest first. Where several servers share the database they are taken: to others they are due
    /// only after a minute, should this one not say what came of them.
    pub async fn due_notifications(&self, limit: u32) -> Result<Vec<Notification>> {
        self.due(limit).await
    }

    /// When the next notification that was put off is due; for the sender's timer.
    pub async fn next_notification_due(&self) -> Result<Option<Timestamp>> {
        let sql = "SELECT MIN(next_try_at) AS due FROM notifications WHERE done_at IS NULL AND next_try_at > $1";
        self.read().await?.first(sql, args![self.now()]).await?.map_or(Ok(None), |row| row.maybe_time("due"))
    }

    /// Stores what a try came to: the receivers that have the message now, and the error that stopped the others. Without an
    /// error it is done; with one it is due again after a pause that doubles from 5 s to 1 h, and given up after a day.
    pub async fn notification_tried(&self, id: i64, told: Vec<String>, error: Option<String>) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let row = tx.conn.first("SELECT * FROM notifications WHERE id = $1", args![id]).await?;
                let known = notification(&row.ok_or_else(|| StoreError::not_found("notification", id))?)?;
                let mut all = known.told;
                all.extend(told.into_iter().filter(|t| !all.contains(t)).collect::<Vec<_>>());
                let over = error.is_none() || tx.now.since(known.created_at) >= GIVE_UP_AFTER;
                let pause = FIRST_PAUSE.saturating_mul(1 << known.tries.min(16)).min(LONGEST_PAUSE);
                let sql = "UPDATE notifications SET told_json = $2, tries = tries + 1, next_try_at = $3, done_at = $4, error = $5
                    WHERE id = $1";
                let args = args![id, to_json(&all)?, tx.now + pause, over.then_some(tx.now), error];
                tx.conn.run(sql, args).await?;
                Ok(())
            })
        })
        .await
    }

    /// Rollback points that want their git tag, oldest first.
    pub async fn wanted_tags(&self, limit: u32) -> Result<Vec<WantedTag>> {
        releases::wanted_tags(&mut self.read().await?, limit).await
    }

    /// The tag is in the repository now, or why it won't be.
    pub async fn tag_pushed(&self, tag: &str, refused: Option<String>) -> Result<()> {
        let tag = tag.to_owned();
        self.write(move |tx| Box::pin(async move { releases::tag_pushed(&mut tx.conn, &tag, refused).await })).await
    }

    /// Stores the hash of a bearer token (64 hexadecimal digits of its SHA-256); one of the same name and kind gives way to it.
    pub async fn put_token(
        &self,
        hash: &str,
        name: &str,
        kind: TokenKind,
        expires_at: Option<Timestamp>,
    ) -> Result<()> {
        let (hash, name) = (hash.to_owned(), name.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let known = tx.conn.first("SELECT name FROM tokens WHERE hash = $1", args![&hash]).await?;
                if known.is_some() {
                    return Ok(());
                }
                tx.conn.run("DELETE FROM tokens WHERE name = $1 AND kind = $2", args![&name, kind.as_str()]).await?;
                let sql = "INSERT INTO tokens (hash, name, kind, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)";
                tx.conn.run(sql, args![hash, name, kind.as_str(), tx.now, expires_at]).await?;
                Ok(())
            })
        })
        .await
    }

    /// What the token with this hash opens, and its name; `None` for an unknown or expired one.
    pub async fn token(&self, hash: &str) -> Result<Option<(String, TokenKind)>> {
        let sql = "SELECT name, kind FROM tokens WHERE hash = $1 AND revoked_at IS NULL
            AND (expires_at IS NULL OR expires_at > $2)";
        let row = self.read().await?.first(sql, args![hash, self.now()]).await?;
        row.map(|row| Ok((row.text("name")?, row.word("kind", TokenKind::parse)?))).transpose()
    }
}

impl TokenKind {
    /// The word that is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Worker => "worker",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Admin, Self::Worker].into_iter().find(|k| k.as_str() == word)
    }
}

/// Stores, in the transaction of what happened, that people are to be told of it; once for each key.
pub(crate) async fn notify(
    tx: &mut Tx,
    event: NotificationEvent,
    key: String,
    run: Option<RunId>,
    rollout: Option<RolloutId>,
    detail: &Value,
) -> Result<()> {
    let id = tx.conn.next_number("notification").await?;
    let sql =
        "INSERT INTO notifications (id, event, dedupe_key, run_id, rollout_id, detail_json, created_at, next_try_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $7) ON CONFLICT (dedupe_key) DO NOTHING";
    tx.conn.run(sql, args![id, to_word(&event)?, key, run, rollout, to_json(detail)?, tx.now]).await?;
    tx.ring(Bell::Notifications);
    Ok(())
}

impl Due for Notification {
    async fn due(conn: &mut Conn, now: Timestamp, limit: u32) -> Result<Vec<Self>> {
        let sql = "SELECT * FROM notifications WHERE done_at IS NULL AND next_try_at <= $1 ORDER BY id LIMIT $2";
        conn.all(sql, args![now, limit]).await?.iter().map(notification).collect()
    }

    async fn take(&self, conn: &mut Conn, until: Timestamp) -> Result<()> {
        let sql = "UPDATE notifications SET next_try_at = $2 WHERE id = $1";
        conn.run(sql, args![self.id, until]).await.map(drop)
    }
}

/// How many messages have a key that begins so.
pub(crate) async fn count(tx: &mut Tx, beginning: &str) -> Result<u64> {
    let sql = "SELECT COUNT(*) AS n FROM notifications WHERE substr(dedupe_key, 1, length($1)) = $1";
    tx.conn.first(sql, args![beginning]).await?.map_or(Ok(0), |row| row.count("n"))
}

fn notification(row: &Row) -> Result<Notification> {
    Ok(Notification {
        id: row.int("id")?,
        event: row.word("event", from_word)?,
        run: row.maybe_int("run_id")?.map(RunId),
        rollout: row.maybe_int("rollout_id")?.map(RolloutId),
        detail: row.json("detail_json")?,
        created_at: row.time("created_at")?,
        told: row.json("told_json")?,
        tries: row.count("tries")?,
    })
}
