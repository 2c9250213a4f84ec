//! What people ask by GitHub's buttons: "Re-run" of a check or of all of a commit's. It is done in the transaction that takes the
//! delivery in. What has deployed is not deployed again by them, but by the button of that very job. Who may press a button is decided by GitHub; which runs a check stands for, by what was stored when it was made.

use segue_pipelines::progress::Deploys;
use segue_schemas::{
    id::{CommitSha, RunId},
    status::RunStatus,
};

use super::people::open_attempt;
use crate::store::{Again, Asked, AskedOf, AttemptKind, Result, Store, StoreError, Tx, sql::args, tables::runs};

/// Pipelines of a commit that one button makes run again.
const MOST: usize = 50;

/// Does what was asked, or says why there is nothing to do.
pub(super) async fn perform(store: &Store, tx: &mut Tx, asked: &Asked) -> Result<Option<String>> {
    match &asked.what {
        AskedOf::Check { id, failed } => check(store, tx, asked, *id, *failed).await,
        AskedOf::Commit(commit) => of_commit(store, tx, asked, commit).await,
    }
}

async fn check(store: &Store, tx: &mut Tx, asked: &Asked, id: i64, failed: bool) -> Result<Option<String>> {
    let sql = "SELECT run_id, github_checks.attempt AS attempt, job_key FROM github_checks
        JOIN runs ON runs.id = run_id WHERE check_id = $1 AND repository = $2";
    let Some(row) = tx.conn.first(sql, args![id, &asked.repository]).await? else {
        return Ok(Some(format!("no run of {} is shown by the check {id}", asked.repository)));
    };
    let (run, attempt, key) = (RunId(row.int("run_id")?), row.count::<u32>("attempt")?, row.text("job_key")?);
    let record = runs::load(&mut tx.conn, run).await?.record;
    // the buttons of a pipeline and of its jobs, pressed together, are one wish
    if record.attempt != attempt {
        return Ok(Some(format!("attempt {} of run {run} has begun since", record.attempt)));
    }
    let has_failures = matches!(record.status, RunStatus::Failed | RunStatus::Cancelled);
    let kind = if failed || (!key.is_empty() && has_failures) { AttemptKind::Failed } else { AttemptKind::Whole };
    // who presses the button of a job that deploys means just that
    let deploys = if key.is_empty() { Deploys::LeaveOut } else { Deploys::Only(key) };
    again(store, tx, run, Again::of(kind, asked.by.clone()).deploying(deploys)).await
}

/// The newest run of each pipeline.
async fn of_commit(store: &Store, tx: &mut Tx, asked: &Asked, commit: &CommitSha) -> Result<Option<String>> {
    let sql = "SELECT MAX(id) AS id FROM runs WHERE repository = $1 AND commit_sha = $2 AND status <> 'skipped'
        GROUP BY file ORDER BY id LIMIT $3";
    let rows = tx.conn.all(sql, args![&asked.repository, commit, MOST]).await?;
    let mut ignored = Some(format!("no pipeline of {} has run at {}", asked.repository, commit.short()));
    let mut begun = 0;
    for row in rows {
        let whole = Again::of(AttemptKind::Whole, asked.by.clone()).deploying(Deploys::LeaveOut);
        match again(store, tx, RunId(row.int("id")?), whole).await? {
            None => begun += 1,
            reason => ignored = reason,
        }
    }
    Ok(ignored.filter(|_| begun == 0))
}

/// Opens another attempt, or says why there is none.
pub(super) async fn again(store: &Store, tx: &mut Tx, run: RunId, asked: Again) -> Result<Option<String>> {
    let record = runs::load(&mut tx.conn, run).await?.record;
    if !record.status.is_final() {
        return Ok(Some(format!("run {run} has not ended: it is {}", record.status)));
    }
    match open_attempt(store, tx, run, asked).await {
        Ok(()) => Ok(None),
        // refused before anything was changed
        Err(error @ (StoreError::Refused(_) | StoreError::Conflict(_))) => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}
