//! The comment below each pull request that tells of its previews: which have changed since it was last written, and what is known of
//! it.

use std::time::Duration;

use segue_pipelines::preview::{ENVIRONMENT, Told};
use segue_schemas::{
    deploy::Strategy,
    preview::{Preview, PreviewState},
    time::Timestamp,
};

use super::{
    Bell, Result, Store, StoreError, Tx,
    due::Due,
    sql::{Conn, args},
    tables::{jobs, previews, rollouts},
};

/// A pull request whose comment is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuePreviews {
    /// `owner/name`
    pub repository: String,
    /// The pull request's number.
    pub number: u64,
    /// Up to which change.
    pub version: i64,
    /// GitHub's number of the comment; `None`: not known.
    pub comment: Option<i64>,
    /// Whether it may be there already.
    pub is_announced: bool,
    /// Digest of what it says.
    pub told: String,
    /// Tries that failed.
    pub tries: u32,
}

/// What there is to say of a pull request's previews.
#[derive(Debug, Clone)]
pub struct PreviewFacts {
    /// Its previews, by service.
    pub previews: Vec<Told>,
    /// GitHub's numbers of the checks of the jobs that made them, in the same order.
    pub checks: Vec<Option<i64>>,
    /// Whether it is open, as far as is known.
    pub is_open: bool,
    /// Whether each stands as people would wait for.
    pub is_settled: bool,
}

/// Stores a preview as it is now, and notes in the same transaction that its pull request's comment is to say so.
pub(crate) async fn save(store: &Store, tx: &mut Tx, preview: &Preview) -> Result<()> {
    previews::save(&mut tx.conn, preview).await?;
    let github = &store.config().github;
    if github.is_told() {
        mark(tx, &preview.repository, preview.number, github.gather.0).await?;
    }
    Ok(())
}

async fn mark(tx: &mut Tx, repository: &str, number: u64, gather: Duration) -> Result<()> {
    let sql = "INSERT INTO github_previews (repository, number, version, next_try_at) VALUES ($1, $2, 1, $3)
        ON CONFLICT (repository, number) DO UPDATE SET version = github_previews.version + 1,
            next_try_at = CASE WHEN github_previews.next_try_at > $4 THEN $4 ELSE github_previews.next_try_at END";
    tx.conn.run(sql, args![repository, number, tx.now, tx.now + gather]).await?;
    tx.ring(Bell::Shows);
    Ok(())
}

impl Store {
    /// Pull requests whose comments are to be written now; where several servers share the database they are taken.
    pub async fn due_previews(&self, limit: u32) -> Result<Vec<DuePreviews>> {
        self.due(limit).await
    }

    /// When the next of them is due.
    pub async fn next_previews_due(&self) -> Result<Option<Timestamp>> {
        let sql = "SELECT MIN(CASE WHEN taken_until > next_try_at THEN taken_until ELSE next_try_at END) AS due
            FROM github_previews WHERE version > shown";
        self.next_due(sql).await
    }

    /// What there is to say of a pull request's previews.
    pub async fn preview_facts(&self, repository: &str, number: u64) -> Result<PreviewFacts> {
        let mut conn = self.read().await?;
        let is_open = previews::pull(&mut conn, repository, number).await?.is_some_and(|pull| pull.is_open);
        let (mut told, mut checks, mut is_settled) = (Vec::new(), Vec::new(), true);
        for preview in previews::of_pull(&mut conn, repository, number).await? {
            let (one, check) = facts_of(&mut conn, preview).await?;
            is_settled &= one.coming.is_none() && one.state != PreviewState::Removing;
            told.push(one);
            checks.push(check);
        }
        Ok(PreviewFacts { previews: told, checks, is_open, is_settled })
    }

    /// The comment is going to be written: from now on it is looked for first.
    pub async fn announce_previews(&self, due: &DuePreviews) -> Result<()> {
        let (repository, number) = (due.repository.clone(), due.number);
        self.write(move |tx| {
            Box::pin(async move {
                let sql = "UPDATE github_previews SET announced = 1 WHERE repository = $1 AND number = $2";
                tx.conn.run(sql, args![repository, number]).await?;
                Ok(())
            })
        })
        .await
    }

    /// Stores GitHub's number of the comment, and what it says now.
    pub async fn previews_told(&self, due: &DuePreviews, comment: Option<i64>, told: String) -> Result<()> {
        let (repository, number) = (due.repository.clone(), due.number);
        self.write(move |tx| {
            Box::pin(async move {
                let sql = "UPDATE github_previews SET comment_id = $3, told = $4 WHERE repository = $1 AND number = $2";
                tx.conn.run(sql, args![repository, number, comment, told]).await?;
                Ok(())
            })
        })
        .await
    }

    /// The comment says what held at a version, or won't ever (`error`); changes since then are due at `next`.
    pub async fn previews_shown(&self, due: &DuePreviews, next: Timestamp, error: Option<String>) -> Result<()> {
        let DuePreviews { repository, number, version, .. } = due.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let sql =
                    "UPDATE github_previews SET shown = $3, next_try_at = $4, taken_until = 0, tries = 0, error = $5
                    WHERE repository = $1 AND number = $2";
                tx.conn.run(sql, args![repository, number, version, next, error]).await?;
                tx.ring(Bell::Shows);
                Ok(())
            })
        })
        .await
    }

    /// The comment is written later; `error`: because a try failed.
    pub async fn previews_put_off(&self, due: &DuePreviews, until: Timestamp, error: Option<String>) -> Result<()> {
        let (repository, number) = (due.repository.clone(), due.number);
        self.write(move |tx| {
            Box::pin(async move {
                let failed = u32::from(error.is_some());
                let sql = "UPDATE github_previews SET next_try_at = $3, taken_until = 0, tries = tries + $4, error = $5
                    WHERE repository = $1 AND number = $2";
                tx.conn.run(sql, args![repository, number, until, failed, error]).await?;
                Ok(())
            })
        })
        .await
    }
}

/// What is said of a preview, and the check of the job that made it, or of its run.
async fn facts_of(conn: &mut Conn, preview: Preview) -> Result<(Told, Option<i64>)> {
    let mut coming = None;
    // the newest that brings it, which may wait behind another
    for open in rollouts::open_of_pair(conn, ENVIRONMENT, &preview.name).await? {
        let spec = &open.record.rollout.spec;
        coming = (spec.strategy != Strategy::Remove).then(|| spec.release.commit.clone());
    }
    let job = match preview.rollout {
        Some(rollout) => match rollouts::load(conn, rollout).await {
            Ok(rollout) => rollout.record.job,
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error),
        },
        None => None,
    };
    let mut check = None;
    if let Some(job) = job {
        match jobs::load(conn, job).await {
            Ok(job) => check = check_of(conn, &job).await?,
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if let (None, Some(run)) = (check, preview.run) {
        let sql = "SELECT check_id FROM github_checks WHERE run_id = $1 AND job_key = '' ORDER BY attempt DESC LIMIT 1";
        check = conn.first(sql, args![run]).await?.map_or(Ok(None), |row| row.maybe_int("check_id"))?;
    }
    let Preview { service, state, url, commit, reason, run, .. } = preview;
    Ok((Told { service, state, url, commit, coming, reason, run, log: None }, check))
}

/// GitHub's number of a job's check, where there is one.
pub(super) async fn check_of(conn: &mut Conn, job: &jobs::Job) -> Result<Option<i64>> {
    let sql = "SELECT check_id FROM github_checks WHERE run_id = $1 AND attempt = $2 AND job_key = $3";
    let args = args![job.record.run, job.record.attempt, &job.record.plan.key];
    conn.first(sql, args).await?.map_or(Ok(None), |row| row.maybe_int("check_id"))
}

impl Due for DuePreviews {
    async fn due(conn: &mut Conn, now: Timestamp, limit: u32) -> Result<Vec<Self>> {
        let sql = "SELECT * FROM github_previews WHERE version > shown AND next_try_at <= $1 AND taken_until <= $1
            ORDER BY next_try_at, repository, number LIMIT $2";
        let rows = conn.all(sql, args![now, limit]).await?;
        rows.iter()
            .map(|row| {
                Ok(Self {
                    repository: row.text("repository")?,
                    number: row.count("number")?,
                    version: row.int("version")?,
                    comment: row.maybe_int("comment_id")?,
                    is_announced: row.flag("announced")?,
                    told: row.text("told")?,
                    tries: row.count("tries")?,
                })
            })
            .collect()
    }

    async fn take(&self, conn: &mut Conn, until: Timestamp) -> Result<()> {
        let sql = "UPDATE github_previews SET taken_until = $3 WHERE repository = $1 AND number = $2";
        conn.run(sql, args![&self.repository, self.number, until]).await.map(drop)
    }
}
