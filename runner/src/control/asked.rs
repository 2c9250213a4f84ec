//! What people ask by GitHub's buttons: "Re-run" of a check or of all of a commit's is done in the transaction that takes the delivery in;
//! who may press it is decided by GitHub. "Approve" and "Roll back" are kept until GitHub has said whether who pressed them may. What
//! has deployed is not deployed again by "Re-run", but by the button of that very job. Which runs a check stands for is decided by
//! what was stored when it was made.

use segue_pipelines::{progress::Deploys, protection::Yes};
use segue_schemas::{
    id::{CommitSha, DeliveryId, RunId},
    status::RunStatus,
};

use super::{
    people::{open_attempt, say_yes},
    rollback::{self, Asker},
};
use crate::store::{
    Again, Asked, AskedOf, AttemptKind, Button, DueButton, Result, RollbackTarget, Store, StoreError, Tx, buttons,
    sql::args,
    tables::{jobs, releases, rollouts, runs},
};

/// Pipelines of a commit that one button makes run again.
const MOST: usize = 50;

/// Does what was asked, or keeps it until GitHub has said who may, or says why there is nothing to do.
pub(super) async fn perform(
    store: &Store,
    tx: &mut Tx,
    asked: &Asked,
    delivery: &DeliveryId,
) -> Result<Option<String>> {
    match &asked.what {
        AskedOf::Button { id, button } => {
            buttons::insert(tx, delivery, &asked.repository, &asked.by, *id, *button).await?;
            Ok(None)
        }
        AskedOf::Check { id, failed } => check(store, tx, asked, *id, *failed).await,
        AskedOf::Commit(commit) => of_commit(store, tx, asked, commit).await,
    }
}

/// What a check stands for.
struct Shown {
    run: RunId,
    attempt: u32,
    /// The job; empty: the pipeline.
    key: String,
}

async fn shown_by(tx: &mut Tx, repository: &str, check: i64) -> Result<Option<Shown>> {
    let sql = "SELECT run_id, github_checks.attempt AS attempt, job_key FROM github_checks
        JOIN runs ON runs.id = run_id WHERE check_id = $1 AND repository = $2";
    let Some(row) = tx.conn.first(sql, args![check, repository]).await? else { return Ok(None) };
    let (run, attempt, key) = (RunId(row.int("run_id")?), row.count::<u32>("attempt")?, row.text("job_key")?);
    Ok(Some(Shown { run, attempt, key }))
}

impl Store {
    /// Does what a button stands for that somebody has pressed who may, once, and notes what came of it; `teams` are the reviewing teams
    /// that they are in.
    pub async fn press(&self, pressed: &DueButton, teams: Vec<String>) -> Result<()> {
        let (store, asked) = (self.clone(), pressed.clone());
        let done = self.write(move |tx| {
            Box::pin(async move {
                // said first: what is not done is taken back with it
                if !buttons::conclude(tx, &asked).await? {
                    return Ok(());
                }
                let outcome = press(&store, tx, &asked, teams).await?;
                buttons::note(tx, &asked, true, &outcome).await
            })
        });
        match done.await {
            // nothing of what it began is kept
            Err(error @ (StoreError::Refused(_) | StoreError::Conflict(_) | StoreError::NotFound { .. })) => {
                self.refuse_button(pressed, error.to_string()).await
            }
            done => done,
        }
    }
}

/// What was done, in words.
async fn press(store: &Store, tx: &mut Tx, pressed: &DueButton, teams: Vec<String>) -> Result<String> {
    let Some(Shown { run, attempt, key }) = shown_by(tx, &pressed.repository, pressed.check).await? else {
        let problem = format!("no run of {} is shown by the check {}", pressed.repository, pressed.check);
        return Err(StoreError::Refused(problem));
    };
    let now = runs::load(&mut tx.conn, run).await?.record.attempt;
    if now != attempt {
        return Err(StoreError::Refused(format!("attempt {now} of run {run} has begun since")));
    }
    match pressed.button {
        Button::Approve => {
            let yes = Yes { by: pressed.by.clone(), teams, bypass: None };
            let key = Some(key.as_str()).filter(|key| !key.is_empty());
            let counted = say_yes(store, tx, run, key, &yes).await?;
            Ok(format!("it counts for {} of run {run}", counted.join(", ")))
        }
        Button::RollBack => {
            let all = jobs::of_attempt(&mut tx.conn, run, attempt).await?;
            let job = all.iter().find(|job| job.record.plan.key == key).map(|job| job.record.id);
            let rollout = match job {
                Some(job) => rollouts::newest_of_job(&mut tx.conn, job).await?,
                None => None,
            };
            let Some(rollout) = rollout else {
                return Err(StoreError::Refused(format!("`{key}` of run {run} has deployed nothing")));
            };
            let (environment, service) = (rollout.environment().to_owned(), rollout.service().to_owned());
            if !releases::is_serving(&mut tx.conn, &environment, &service, rollout.id()).await? {
                return Err(StoreError::Refused(format!(
                    "what `{key}` of run {run} has deployed does not serve `{environment}` any more"
                )));
            }
            // to interrupt what is on its way is more than the button says
            let open = rollouts::open_of_pair(&mut tx.conn, &environment, &service).await?;
            // one that only brings a host to what is on record makes way
            if let Some(open) = open.iter().find(|open| open.record.rollout.spec.repair.is_none()) {
                let id = open.id();
                let way = if open.record.rollout.spec.is_rollback {
                    "brings it back already"
                } else {
                    "is on its way there; `segue rollback` interrupts it"
                };
                return Err(StoreError::Refused(format!("rollout {id} of `{service}` to `{environment}` {way}")));
            }
            let by = Asker { name: format!("{} (by a check's button)", pressed.by), of_step: None };
            let id = rollback::create(store, tx, &environment, &service, RollbackTarget::Previous, by).await?;
            Ok(format!("rollout {id} brings `{service}` in `{environment}` back"))
        }
    }
}

async fn check(store: &Store, tx: &mut Tx, asked: &Asked, id: i64, failed: bool) -> Result<Option<String>> {
    let Some(shown) = shown_by(tx, &asked.repository, id).await? else {
        return Ok(Some(format!("no run of {} is shown by the check {id}", asked.repository)));
    };
    let Shown { run, attempt, key } = shown;
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
