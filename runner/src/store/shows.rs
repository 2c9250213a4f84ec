//! The outbox to GitHub: which runs have changed since it was last told, and what it shows of each. What it should show is no part
//! of this: it follows from the run as it is when it is told.

use std::{collections::HashMap, time::Duration};

use segue_pipelines::{
    checks::{JobFacts, RunFacts},
    preview::ENVIRONMENT,
    progress::SkipCause,
};
use segue_schemas::{
    api::GivenApproval,
    id::{CommitSha, RunId},
    status::{JobStatus, RunStatus},
    time::Timestamp,
};

use super::{
    Bell, Result, Store, StoreError, Tx,
    due::Due,
    sql::{Conn, args},
    tables::{jobs, releases, runs},
};

/// A run of which GitHub is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueShow {
    /// The run.
    pub run: RunId,
    /// Up to which change.
    pub version: i64,
    /// Tries that failed.
    pub tries: u32,
}

/// A check as GitHub shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShownCheck {
    /// GitHub's number; `None`: not known.
    pub id: Option<i64>,
    /// Digest of what it shows.
    pub digest: String,
    /// How many annotations it has.
    pub annotations: usize,
}

/// A run with what tells where it is shown.
#[derive(Debug, Clone)]
pub struct ShowFacts {
    /// `owner/name`
    pub repository: String,
    /// The commit.
    pub commit: CommitSha,
    /// The run.
    pub run: RunFacts,
    /// Whether it is the run's newest attempt.
    pub is_newest: bool,
}

/// Notes, in the transaction of the change, that GitHub is to be told of a run: of the first change at once, of others when they have
/// been gathered for a while.
pub(super) async fn mark(tx: &mut Tx, run: RunId, gather: Duration) -> Result<()> {
    let sql = "INSERT INTO github_runs (run_id, version, next_try_at) SELECT id, 1, $2 FROM runs WHERE id = $1
        ON CONFLICT (run_id) DO UPDATE SET version = github_runs.version + 1,
            next_try_at = CASE WHEN github_runs.next_try_at > $3 THEN $3 ELSE github_runs.next_try_at END";
    tx.conn.run(sql, args![run, tx.now, tx.now + gather]).await?;
    tx.ring(Bell::Shows);
    Ok(())
}

impl Store {
    /// Runs of which GitHub is to be told now; those of which it knows nothing first. Where several servers share the database
    /// they are taken, as notifications are.
    pub async fn due_shows(&self, limit: u32) -> Result<Vec<DueShow>> {
        self.due(limit).await
    }

    /// When the next run that was put off is due.
    pub async fn next_show_due(&self) -> Result<Option<Timestamp>> {
        let sql = "SELECT MIN(CASE WHEN taken_until > next_try_at THEN taken_until ELSE next_try_at END) AS due
            FROM github_runs WHERE version > shown";
        self.next_due(sql).await
    }

    /// What there is to show of an attempt of a run (`None`: of the newest); `None`: the run is gone.
    pub async fn show_facts(&self, id: RunId, attempt: Option<u32>) -> Result<Option<ShowFacts>> {
        let mut conn = self.read().await?;
        let mut run = match runs::load(&mut conn, id).await {
            Ok(run) => run.record,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_newest = attempt.is_none_or(|attempt| attempt == run.attempt);
        if let Some(attempt) = attempt.filter(|_| !is_newest) {
            let attempts = runs::attempts(&mut conn, &run).await?;
            let Some(earlier) = attempts.into_iter().find(|one| one.attempt == attempt) else { return Ok(None) };
            // the reason is the newest attempt's
            (run.attempt, run.status, run.reason) = (attempt, earlier.status, None);
            (run.started_at, run.ended_at) = (earlier.started_at, earlier.ended_at);
        }
        let mut facts = Vec::new();
        for job in jobs::of_attempt(&mut conn, id, run.attempt).await? {
            let awaits_approval = job.waits_for_a_person();
            let is_blocked = job.skip_cause.is_some_and(|cause| cause != SkipCause::Condition);
            let record = job.record;
            let (mut steps, mut summaries) = (Vec::new(), Vec::new());
            // before its end nothing of its steps is shown
            if record.status.is_final() {
                steps = jobs::steps(&mut conn, record.id).await?;
                summaries = jobs::summary_texts(&mut conn, record.id).await?;
            }
            let can_roll_back = record.status == JobStatus::Succeeded
                && record.plan.environment.as_deref().is_some_and(|name| name != ENVIRONMENT)
                && releases::has_way_back(&mut conn, record.id).await?;
            facts.push(JobFacts {
                id: Some(record.id),
                key: record.plan.key,
                name: record.plan.name,
                status: record.status,
                reason: record.reason,
                failure_class: record.failure_class,
                may_fail: record.plan.continue_on_error,
                is_blocked,
                is_outdated: record.status == JobStatus::Cancelled && job.skip_cause == Some(SkipCause::Superseded),
                awaits_approval,
                can_roll_back,
                environment_url: record.environment_url,
                started_at: record.started_at,
                ended_at: record.ended_at,
                steps,
                summaries,
            });
        }
        let is_shadow = run.status == RunStatus::Skipped && has_better(&mut conn, &run).await?;
        let approvals = runs::given(&mut conn, &run).await?.iter().map(GivenApproval::in_words).collect();
        let facts = RunFacts {
            run: run.id,
            attempt: run.attempt,
            pipeline: run.pipeline,
            file: run.file,
            status: run.status,
            reason: run.reason,
            diagnostics: run.diagnostics,
            is_shadow,
            started_at: run.started_at,
            ended_at: run.ended_at,
            terms: run.terms.shown,
            approvals,
            public_url: self.config().public_url.clone(),
            jobs: facts,
        };
        Ok(Some(ShowFacts { repository: run.repository, commit: run.commit, run: facts, is_newest }))
    }

    /// What GitHub shows of an attempt, by job (`""`: the pipeline).
    pub async fn shown_checks(&self, run: RunId, attempt: u32) -> Result<HashMap<String, ShownCheck>> {
        let sql = "SELECT * FROM github_checks WHERE run_id = $1 AND attempt = $2";
        let rows = self.read().await?.all(sql, args![run, attempt]).await?;
        let shown = |row: &super::sql::Row| {
            let (id, digest) = (row.maybe_int("check_id")?, row.text("shown")?);
            Ok((row.text("job_key")?, ShownCheck { id, digest, annotations: row.count("annotations")? }))
        };
        rows.iter().map(shown).collect()
    }

    /// Notes that checks are going to be made: one that GitHub made, and whose number did not come back, is looked for there.
    pub async fn announce_checks(&self, run: RunId, attempt: u32, keys: Vec<String>) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                for key in keys {
                    let sql =
                        "INSERT INTO github_checks (run_id, attempt, job_key) SELECT id, $2, $3 FROM runs WHERE id = $1
                        ON CONFLICT DO NOTHING";
                    tx.conn.run(sql, args![run, attempt, key]).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Stores what GitHub shows now of a check.
    pub async fn check_shown(&self, run: RunId, attempt: u32, key: &str, shown: ShownCheck) -> Result<()> {
        let key = key.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let sql = "INSERT INTO github_checks (run_id, attempt, job_key, check_id, shown, annotations)
                    SELECT id, $2, $3, $4, $5, $6 FROM runs WHERE id = $1
                    ON CONFLICT (run_id, attempt, job_key) DO UPDATE SET check_id = excluded.check_id, shown = excluded.shown,
                        annotations = excluded.annotations";
                tx.conn.run(sql, args![run, attempt, key, shown.id, shown.digest, shown.annotations]).await?;
                Ok(())
            })
        })
        .await
    }

    /// GitHub shows a run as it was at a version, or won't ever (`error`); changes since then are due at `next`.
    pub async fn run_shown(&self, due: &DueShow, next: Timestamp, error: Option<String>) -> Result<()> {
        let (run, version) = (due.run, due.version);
        self.write(move |tx| {
            Box::pin(async move {
                let sql = "UPDATE github_runs SET shown = $2, next_try_at = $3, taken_until = 0, tries = 0, error = $4
                    WHERE run_id = $1";
                tx.conn.run(sql, args![run, version, next, error]).await?;
                tx.ring(Bell::Shows);
                Ok(())
            })
        })
        .await
    }

    /// GitHub is told of a run later; `error`: because a try failed.
    pub async fn show_put_off(&self, run: RunId, until: Timestamp, error: Option<String>) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let failed = u32::from(error.is_some());
                let sql = "UPDATE github_runs SET next_try_at = $2, taken_until = 0, tries = tries + $3, error = $4
                    WHERE run_id = $1";
                tx.conn.run(sql, args![run, until, failed, error]).await?;
                Ok(())
            })
        })
        .await
    }
}

impl Due for DueShow {
    async fn due(conn: &mut Conn, now: Timestamp, limit: u32) -> Result<Vec<Self>> {
        let sql = "SELECT run_id, version, tries FROM github_runs WHERE version > shown AND next_try_at <= $1 AND taken_until <= $1
            ORDER BY CASE WHEN shown = 0 THEN 0 ELSE 1 END, next_try_at, run_id LIMIT $2";
        let rows = conn.all(sql, args![now, limit]).await?;
        rows.iter()
            .map(|row| {
                let (version, tries) = (row.int("version")?, row.count("tries")?);
                Ok(Self { run: RunId(row.int("run_id")?), version, tries })
            })
            .collect()
    }

    async fn take(&self, conn: &mut Conn, until: Timestamp) -> Result<()> {
        let sql = "UPDATE github_runs SET taken_until = $2 WHERE run_id = $1";
        conn.run(sql, args![self.run, until]).await.map(drop)
    }
}

/// Whether another run of the pipeline has the commit and was not skipped.
async fn has_better(conn: &mut Conn, run: &super::RunRecord) -> Result<bool> {
    let sql = "SELECT id FROM runs WHERE repository = $1 AND commit_sha = $2 AND file = $3 AND id <> $4 AND status <> 'skipped'
        LIMIT 1";
    Ok(conn.first(sql, args![&run.repository, &run.commit, &run.file, run.id]).await?.is_some())
}
