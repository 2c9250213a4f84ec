//! Pipelines that a filter left out of a change: there is no run of them, and whoever waits for their check on GitHub is to hear of it.

use std::time::Duration;

use segue_schemas::{id::CommitSha, time::Timestamp};

use super::{
    Bell, Result, Store,
    due::Due,
    sql::{Conn, Row, args},
};

/// How long it is remembered that GitHub was told, and how long it is tried.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A pipeline that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// `owner/name`
    pub repository: String,
    /// The commit.
    pub commit: CommitSha,
    /// The pipeline's file.
    pub file: String,
    /// Its name.
    pub pipeline: String,
    /// Why, in words.
    pub reason: String,
    /// Tries that failed.
    pub tries: u32,
}

impl Store {
    /// Notes pipelines that were left out, each once for a commit. What is older than a week is forgotten.
    pub async fn note_left_out(&self, all: Vec<LeftOut>) -> Result<()> {
        if all.is_empty() || !self.config().github.is_told() {
            return Ok(());
        }
        self.write(move |tx| {
            Box::pin(async move {
                let old = Timestamp(tx.now.0 - KEPT.as_millis() as i64);
                tx.conn.run("DELETE FROM github_left_out WHERE created_at < $1", args![old]).await?;
                for one in all {
                    let sql = "INSERT INTO github_left_out (repository, commit_sha, file, pipeline, reason, created_at, next_try_at)
                        VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT DO NOTHING";
                    let args = args![one.repository, &one.commit, one.file, one.pipeline, one.reason, tx.now];
                    tx.conn.run(sql, args).await?;
                }
                tx.ring(Bell::Shows);
                Ok(())
            })
        })
        .await
    }

    /// Those that GitHub is to be told of now, oldest first; where several servers share the database they are taken.
    pub async fn due_left_out(&self, limit: u32) -> Result<Vec<LeftOut>> {
        self.due(limit).await
    }

    /// When the next of them is due.
    pub async fn next_left_out_due(&self) -> Result<Option<Timestamp>> {
        let sql = "SELECT MIN(next_try_at) AS due FROM github_left_out WHERE told_at IS NULL";
        self.next_due(sql).await
    }

    /// Whether a run shows the pipeline at the commit, so that there is nothing to say of its having been left out.
    pub async fn is_run_elsewhere(&self, one: &LeftOut) -> Result<bool> {
        let sql = "SELECT id FROM runs WHERE repository = $1 AND commit_sha = $2 AND file = $3 LIMIT 1";
        let args = args![&one.repository, &one.commit, &one.file];
        Ok(self.read().await?.first(sql, args).await?.is_some())
    }

    /// GitHub was told, or won't ever be.
    pub async fn left_out_told(&self, one: &LeftOut, error: Option<String>) -> Result<()> {
        let one = one.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let sql = "UPDATE github_left_out SET told_at = $4, error = $5
                    WHERE repository = $1 AND commit_sha = $2 AND file = $3";
                tx.conn.run(sql, args![one.repository, &one.commit, one.file, tx.now, error]).await?;
                Ok(())
            })
        })
        .await
    }

    /// GitHub is told later; `error`: because a try failed.
    pub async fn left_out_put_off(&self, one: &LeftOut, until: Timestamp, error: Option<String>) -> Result<()> {
        let one = one.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let failed = u32::from(error.is_some());
                let sql = "UPDATE github_left_out SET next_try_at = $4, tries = tries + $5, error = $6
                    WHERE repository = $1 AND commit_sha = $2 AND file = $3";
                tx.conn.run(sql, args![one.repository, &one.commit, one.file, until, failed, error]).await?;
                Ok(())
            })
        })
        .await
    }
}

impl Due for LeftOut {
    async fn due(conn: &mut Conn, now: Timestamp, limit: u32) -> Result<Vec<Self>> {
        let sql = "SELECT * FROM github_left_out WHERE told_at IS NULL AND next_try_at <= $1 ORDER BY next_try_at, created_at LIMIT $2";
        conn.all(sql, args![now, limit]).await?.iter().map(left_out).collect()
    }

    async fn take(&self, conn: &mut Conn, until: Timestamp) -> Result<()> {
        let sql = "UPDATE github_left_out SET next_try_at = $4 WHERE repository = $1 AND commit_sha = $2 AND file = $3";
        conn.run(sql, args![&self.repository, &self.commit, &self.file, until]).await.map(drop)
    }
}

fn left_out(row: &Row) -> Result<LeftOut> {
    Ok(LeftOut {
        repository: row.text("repository")?,
        commit: row.parsed("commit_sha")?,
        file: row.text("file")?,
        pipeline: row.text("pipeline")?,
        reason: row.text("reason")?,
        tries: row.count("tries")?,
    })
}
