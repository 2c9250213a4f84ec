//! Rollouts as deployments on GitHub: which have changed since it was last told, and what it knows of each.

use std::time::Duration;

use segue_pipelines::{checks::RolloutFacts, preview::ENVIRONMENT};
use segue_schemas::{
    deploy::Strategy,
    id::{CommitSha, RolloutId},
    time::Timestamp,
};

use super::{
    Bell, Result, Store, StoreError, Tx,
    due::Due,
    sql::{Conn, args},
    tables::{jobs, previews, releases, rollouts},
    told_previews::check_of,
};

/// A rollout of which GitHub is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueDeployment {
    /// The rollout.
    pub rollout: RolloutId,
    /// Up to which change.
    pub version: i64,
    /// GitHub's number of its deployment; `None`: not known.
    pub id: Option<i64>,
    /// Whether it may be there already.
    pub is_announced: bool,
    /// Digest of what GitHub shows of it.
    pub told: String,
    /// Tries that failed.
    pub tries: u32,
}

/// A rollout with what tells where it is shown.
#[derive(Debug, Clone)]
pub struct DeploymentFacts {
    /// `owner/name`
    pub repository: String,
    /// The commit that is rolled out.
    pub commit: CommitSha,
    /// GitHub's number of the check of the job that asked for it, where there is one.
    pub check: Option<i64>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Whether it rolls nothing out: it takes away what others did, or brings data back.
    pub is_silent: bool,
    /// The rollout.
    pub rollout: RolloutFacts,
}

/// Notes, in the transaction of the change, that GitHub is to be told of a rollout, and of those of its pair that served before it.
pub(super) async fn mark(tx: &mut Tx, rollout: RolloutId, gather: Duration) -> Result<()> {
    let sql = "INSERT INTO github_deployments (rollout_id, version, next_try_at) SELECT id, 1, $2 FROM rollouts WHERE id = $1
        ON CONFLICT (rollout_id) DO UPDATE SET version = github_deployments.version + 1,
            next_try_at = CASE WHEN github_deployments.next_try_at > $3 THEN $3 ELSE github_deployments.next_try_at END";
    tx.conn.run(sql, args![rollout, tx.now, tx.now + gather]).await?;
    let sql = "UPDATE github_deployments SET version = version + 1, next_try_at = $2
        WHERE shown = version AND rollout_id IN (
            SELECT before.id FROM rollouts AS now JOIN rollouts AS before
                ON before.environment = now.environment AND before.service = now.service AND before.id < now.id
            WHERE now.id = $1 AND now.status = 'succeeded' AND before.status = 'succeeded')";
    tx.conn.run(sql, args![rollout, tx.now]).await?;
    tx.ring(Bell::Shows);
    Ok(())
}

impl Store {
    /// Rollouts of which GitHub is to be told now; where several servers share the database they are taken.
    pub async fn due_deployments(&self, limit: u32) -> Result<Vec<DueDeployment>> {
        self.due(limit).await
    }

    /// When the next of them is due.
    pub async fn next_deployment_due(&self) -> Result<Option<Timestamp>> {
        let sql = "SELECT MIN(CASE WHEN taken_until > next_try_at THEN taken_until ELSE next_try_at END) AS due
            FROM github_deployments WHERE version > shown";
        self.next_due(sql).await
    }

    /// What there is to show of a rollout; `None`: it is gone.
    pub async fn deployment_facts(&self, id: RolloutId) -> Result<Option<DeploymentFacts>> {
        let mut conn = self.read().await?;
        let record = match rollouts::load(&mut conn, id).await {
            Ok(found) => found.record,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (rollout, spec) = (&record.rollout, &record.rollout.spec);
        let is_current = releases::is_serving(&mut conn, &spec.environment, &spec.release.service, id).await?;
        let (mut check, mut environment_url) = (None, None);
        if let Some(job) = record.job {
            match jobs::load(&mut conn, job).await {
                Ok(job) => {
                    check = check_of(&mut conn, &job).await?;
                    environment_url = job.record.environment_url;
                }
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let preview = previews::find(&mut conn, &spec.release.service).await?;
        let preview = preview.filter(|_| spec.environment == ENVIRONMENT);
        if let Some(preview) = &preview {
            environment_url = Some(preview.url.clone());
        }
        Ok(Some(DeploymentFacts {
            repository: spec.release.repository.clone(),
            commit: spec.release.commit.clone(),
            check,
            ended_at: rollout.ended_at,
            is_silent: spec.strategy == Strategy::Remove || spec.strategy.brings_data(),
            rollout: RolloutFacts {
                rollout: id,
                release: spec.release.id,
                service: spec.release.service.clone(),
                environment: spec.environment.clone(),
                status: rollout.status,
                is_current,
                is_rollback: spec.is_rollback,
                reason: rollout.reason.clone(),
                environment_url,
                preview: preview.map(|preview| preview.state.is_there()),
            },
        }))
    }

    /// A deployment is going to be made: from now on it is looked for first.
    pub async fn announce_deployment(&self, rollout: RolloutId) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                tx.conn
                    .run("UPDATE github_deployments SET announced = 1 WHERE rollout_id = $1", args![rollout])
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// Stores GitHub's number of a deployment, and what it shows of it now.
    pub async fn deployment_told(&self, rollout: RolloutId, id: Option<i64>, told: String) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let sql = "UPDATE github_deployments SET deployment_id = $2, told = $3 WHERE rollout_id = $1";
                tx.conn.run(sql, args![rollout, id, told]).await?;
                Ok(())
            })
        })
        .await
    }

    /// GitHub shows a rollout as it was at a version, or won't ever (`error`); changes since then are due at `next`.
    pub async fn deployment_shown(&self, due: &DueDeployment, next: Timestamp, error: Option<String>) -> Result<()> {
        let (rollout, version) = (due.rollout, due.version);
        self.write(move |tx| {
            Box::pin(async move {
                let sql =
                    "UPDATE github_deployments SET shown = $2, next_try_at = $3, taken_until = 0, tries = 0, error = $4
                    WHERE rollout_id = $1";
                tx.conn.run(sql, args![rollout, version, next, error]).await?;
                tx.ring(Bell::Shows);
                Ok(())
            })
        })
        .await
    }

    /// GitHub is told of a rollout later; `error`: because a try failed.
    pub async fn deployment_put_off(&self, rollout: RolloutId, until: Timestamp, error: Option<String>) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let failed = u32::from(error.is_some());
                let sql =
                    "UPDATE github_deployments SET next_try_at = $2, taken_until = 0, tries = tries + $3, error = $4
                    WHERE rollout_id = $1";
                tx.conn.run(sql, args![rollout, until, failed, error]).await?;
                Ok(())
            })
        })
        .await
    }
}

impl Due for DueDeployment {
    async fn due(conn: &mut Conn, now: Timestamp, limit: u32) -> Result<Vec<Self>> {
        let sql = "SELECT * FROM github_deployments WHERE version > shown AND next_try_at <= $1 AND taken_until <= $1
            ORDER BY next_try_at, rollout_id LIMIT $2";
        let rows = conn.all(sql, args![now, limit]).await?;
        rows.iter()
            .map(|row| {
                Ok(Self {
                    rollout: RolloutId(row.int("rollout_id")?),
                    version: row.int("version")?,
                    id: row.maybe_int("deployment_id")?,
                    is_announced: row.flag("announced")?,
                    told: row.text("told")?,
                    tries: row.count("tries")?,
                })
            })
            .collect()
    }

    async fn take(&self, conn: &mut Conn, until: Timestamp) -> Result<()> {
        let sql = "UPDATE github_deployments SET taken_until = $2 WHERE rollout_id = $1";
        conn.run(sql, args![self.rollout, until]).await.map(drop)
    }
}
