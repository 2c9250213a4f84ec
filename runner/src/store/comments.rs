//! Commands in comments: each is kept from the delivery that brought it until its author has been answered, and done once.

use std::time::Duration;

use segue_pipelines::comment::{Command, Outcome, Verdict};
use segue_schemas::{id::DeliveryId, time::Timestamp};

use super::{
    Bell, DeliveryState, Result, Store, Tx,
    due::Due,
    sql::{Conn, Row, args, from_word, to_json, to_word},
    tables::deliveries,
};

/// How long it is remembered that a comment was answered: longer than GitHub delivers it again.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A comment below a pull request that holds a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comment {
    /// `owner/name`
    pub repository: String,
    /// GitHub's number of it.
    pub id: i64,
    /// The pull request's number.
    pub number: u64,
    /// Who wrote it.
    pub author: String,
    /// What it asks for, or why that can't be read.
    pub asks: std::result::Result<Command, String>,
    /// When it was written, by GitHub's clock.
    pub written_at: Timestamp,
}

/// A comment whose author waits for an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueComment {
    /// What was written.
    pub comment: Comment,
    /// When it came here.
    pub created_at: Timestamp,
    /// The delivery that it made, of which the outcome is waited for.
    pub awaits: Option<DeliveryId>,
    /// What came of it; `None`: not done yet.
    pub outcome: Option<Outcome>,
    /// Whether its answer may be there already.
    pub is_announced: bool,
    /// Tries that failed.
    pub tries: u32,
}

/// What strangers were answered before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strangers {
    /// In the repository, in the last hour.
    pub lately: u64,
    /// The same one, below the same pull request.
    pub here: u64,
}

/// Stores a comment; `false`: it is known.
pub(crate) async fn insert(tx: &mut Tx, comment: &Comment, delivery: &DeliveryId) -> Result<bool> {
    let old = Timestamp(tx.now.0 - KEPT.as_millis() as i64);
    tx.conn.run("DELETE FROM github_comments WHERE created_at < $1", args![old]).await?;
    let sql = "INSERT INTO github_comments (repository, comment_id, number, author, asks_json, written_at, delivery_id,
            created_at, next_try_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8) ON CONFLICT DO NOTHING";
    let Comment { repository, id, number, author, asks, written_at } = comment;
    let args = args![repository, *id, *number, author, to_json(asks)?, *written_at, delivery, tx.now];
    tx.ring(Bell::Shows);
    Ok(tx.conn.run(sql, args).await? > 0)
}

/// Notes what came of a comment, with its delivery too.
pub(crate) async fn conclude(tx: &mut Tx, comment: &Comment, outcome: &Outcome) -> Result<()> {
    let sql = "UPDATE github_comments SET verdict = $3, outcome = $4, next_try_at = $5
        WHERE repository = $1 AND comment_id = $2 AND verdict IS NULL";
    let args = args![&comment.repository, comment.id, to_word(&outcome.verdict)?, &outcome.text, tx.now];
    if tx.conn.run(sql, args).await? == 0 {
        return Ok(());
    }
    let sql = "SELECT delivery_id FROM github_comments WHERE repository = $1 AND comment_id = $2";
    if let Some(row) = tx.conn.first(sql, args![&comment.repository, comment.id]).await? {
        let state = if outcome.verdict == Verdict::Done { DeliveryState::Planned } else { DeliveryState::Ignored };
        let wish = comment.asks.as_ref().map_or_else(|_| "something".into(), Command::in_words);
        let reason = format!("{} asked in #{} to {wish}: {}", comment.author, comment.number, outcome.text);
        deliveries::settle(&mut tx.conn, &row.parsed("delivery_id")?, state, Some(&reason), tx.now).await?;
    }
    tx.ring(Bell::Shows);
    Ok(())
}

/// Notes the delivery whose outcome is the comment's.
pub(crate) async fn await_delivery(tx: &mut Tx, comment: &Comment, delivery: &DeliveryId) -> Result<()> {
    let sql = "UPDATE github_comments SET awaits = $3 WHERE repository = $1 AND comment_id = $2";
    tx.conn.run(sql, args![&comment.repository, comment.id, delivery]).await?;
    Ok(())
}

/// Whether it is still to be done.
pub(crate) async fn is_open(conn: &mut Conn, comment: &Comment) -> Result<bool> {
    let sql = "SELECT comment_id FROM github_comments
        WHERE repository = $1 AND comment_id = $2 AND verdict IS NULL AND awaits IS NULL";
    Ok(conn.first(sql, args![&comment.repository, comment.id]).await?.is_some())
}

impl Store {
    /// Comments that are to be looked at now, oldest first; where several servers share the database they are taken.
    pub async fn due_comments(&self, limit: u32) -> Result<Vec<DueComment>> {
        self.due(limit).await
    }

    /// When the next of them is due.
    pub async fn next_comment_due(&self) -> Result<Option<Timestamp>> {
        let sql = "SELECT MIN(next_try_at) AS due FROM github_comments WHERE told_at IS NULL";
        self.next_due(sql).await
    }

    /// A comment as it stands now.
    pub async fn comment(&self, repository: &str, id: i64) -> Result<Option<DueComment>> {
        let sql = "SELECT * FROM github_comments WHERE repository = $1 AND comment_id = $2";
        self.read().await?.first(sql, args![repository, id]).await?.as_ref().map(comment).transpose()
    }

    /// Notes what came of a comment; one that has an outcome keeps it.
    pub async fn conclude_comment(&self, comment: &Comment, outcome: Outcome) -> Result<()> {
        let comment = comment.clone();
        self.write(move |tx| Box::pin(async move { conclude(tx, &comment, &outcome).await })).await
    }

    /// Its answer is going to be written: from now on it is looked for first.
    pub async fn announce_answer(&self, comment: &Comment) -> Result<()> {
        let (repository, id) = (comment.repository.clone(), comment.id);
        self.write(move |tx| {
            Box::pin(async move {
                let sql = "UPDATE github_comments SET announced = 1 WHERE repository = $1 AND comment_id = $2";
                tx.conn.run(sql, args![repository, id]).await?;
                Ok(())
            })
        })
        .await
    }

    /// Its author was answered, or won't ever be.
    pub async fn comment_told(&self, comment: &Comment, error: Option<String>) -> Result<()> {
        let (repository, id) = (comment.repository.clone(), comment.id);
        self.write(move |tx| {
            Box::pin(async move {
                let sql =
                    "UPDATE github_comments SET told_at = $3, error = $4 WHERE repository = $1 AND comment_id = $2";
                tx.conn.run(sql, args![repository, id, tx.now, error]).await?;
                Ok(())
            })
        })
        .await
    }

    /// It is looked at later; `error`: because a try failed.
    pub async fn comment_put_off(&self, comment: &Comment, until: Timestamp, error: Option<String>) -> Result<()> {
        let (repository, id) = (comment.repository.clone(), comment.id);
        self.write(move |tx| {
            Box::pin(async move {
                let failed = u32::from(error.is_some());
                let sql = "UPDATE github_comments SET next_try_at = $3, tries = tries + $4, error = $5
                    WHERE repository = $1 AND comment_id = $2";
                tx.conn.run(sql, args![repository, id, until, failed, error]).await?;
                Ok(())
            })
        })
        .await
    }

    /// How often strangers were answered.
    pub async fn strangers(&self, comment: &Comment) -> Result<Strangers> {
        let hour_ago = Timestamp(self.now().0 - 3_600_000);
        let sql = "SELECT COALESCE(SUM(CASE WHEN told_at > $2 THEN 1 ELSE 0 END), 0) AS lately,
                COALESCE(SUM(CASE WHEN number = $3 AND author = $4 THEN 1 ELSE 0 END), 0) AS here
            FROM github_comments WHERE repository = $1 AND verdict = 'stranger' AND told_at IS NOT NULL";
        let args = args![&comment.repository, hour_ago, comment.number, &comment.author];
        let row = self.read().await?.first(sql, args).await?;
        row.map_or(Ok(Strangers { lately: 0, here: 0 }), |row| {
            Ok(Strangers { lately: row.count("lately")?, here: row.count("here")? })
        })
    }
}

impl Due for DueComment {
    async fn due(conn: &mut Conn, now: Timestamp, limit: u32) -> Result<Vec<Self>> {
        let sql = "SELECT * FROM github_comments WHERE told_at IS NULL AND next_try_at <= $1
            ORDER BY next_try_at, comment_id LIMIT $2";
        conn.all(sql, args![now, limit]).await?.iter().map(comment).collect()
    }

    async fn take(&self, conn: &mut Conn, until: Timestamp) -> Result<()> {
        let sql = "UPDATE github_comments SET next_try_at = $3 WHERE repository = $1 AND comment_id = $2";
        conn.run(sql, args![&self.comment.repository, self.comment.id, until]).await.map(drop)
    }
}

fn comment(row: &Row) -> Result<DueComment> {
    let verdict = row.maybe_text("verdict")?.map(|_| row.word("verdict", from_word)).transpose()?;
    let text = row.maybe_text("outcome")?.unwrap_or_default();
    Ok(DueComment {
        comment: Comment {
            repository: row.text("repository")?,
            id: row.int("comment_id")?,
            number: row.count("number")?,
            author: row.text("author")?,
            asks: row.json("asks_json")?,
            written_at: row.time("written_at")?,
        },
        created_at: row.time("created_at")?,
        awaits: row.maybe_parsed("awaits")?,
        outcome: verdict.map(|verdict| Outcome { verdict, text }),
        is_announced: row.flag("announced")?,
        tries: row.count("tries")?,
    })
}
