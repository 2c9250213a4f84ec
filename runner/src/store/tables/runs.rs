use indexmap::IndexMap;
use segue_pipelines::{progress::Rerun, protection::Yes};
use segue_schemas::{
    api::GivenApproval,
    id::{CommitSha, DeliveryId, RunId},
    plan::ConcurrencyPlan,
    status::RunStatus,
    time::Timestamp,
    trigger::{Event, Trigger},
};

use crate::store::{
    Again, AttemptKind, AttemptRecord, Result, RunFilter, RunRecord, StoreError, Terms,
    behind::Of,
    sql::{Conn, Row, args, to_json},
};

/// A run with what its jobs' contexts are made from.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) record: RunRecord,
    pub(crate) trigger: Trigger,
    pub(crate) env: IndexMap<String, String>,
    /// The context `inputs`.
    pub(crate) inputs: IndexMap<String, serde_json::Value>,
    /// Its `concurrency`, as planned.
    pub(crate) concurrency_plan: Option<ConcurrencyPlan>,
    /// Its concurrency group, evaluated.
    pub(crate) concurrency: Option<String>,
}

impl Run {
    /// Moves on to a status, if it is another one.
    pub(crate) fn becomes(&mut self, to: RunStatus) -> Result<()> {
        if self.record.status != to {
            self.record.status = self.record.status.transition(to)?;
        }
        Ok(())
    }

    /// Takes the terms of a new attempt: inputs stay what they were last, unless others are given.
    pub(crate) fn agree(&mut self, again: &Again, chosen: &Rerun) {
        let before = std::mem::take(&mut self.record.terms);
        let terms = &mut self.record.terms;
        (terms.shown.inputs, terms.resolved) = (before.shown.inputs, before.resolved);
        if let Some((given, resolved)) = &again.inputs {
            terms.shown.inputs.extend(given.clone());
            terms.resolved = Some(resolved.clone());
            self.inputs.clone_from(resolved);
            if let Event::WorkflowDispatch { inputs, .. } = &mut self.trigger.event {
                inputs.extend(given.clone());
            }
        }
        terms.shown.reason.clone_from(&again.reason);
        terms.shown.debug = again.debug;
        terms.shown.from.clone_from(&again.from);
        terms.shown.deploys.clone_from(&chosen.deploys);
        terms.shown.left_out.clone_from(&chosen.left_out);
    }
}

impl AttemptKind {
    /// The word that is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Whole => "whole",
            Self::Failed => "failed",
            Self::Step => "step",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::First, Self::Whole, Self::Failed, Self::Step].into_iter().find(|k| k.as_str() == word)
    }
}

pub(crate) async fn insert(conn: &mut Conn, run: &Run, delivery: Option<&DeliveryId>) -> Result<()> {
    let r = &run.record;
    let sql = "INSERT INTO runs (id, repository, pipeline, file, event, git_ref, commit_sha, title, actor, trusted, status, reason,
            attempt, delivery_id, trigger_json, env_json, diagnostics, created_at, ended_at,
            inputs_json, concurrency_json)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)";
    let args = args![
        r.id,
        &r.repository,
        &r.pipeline,
        &r.file,
        &r.event,
        &r.git_ref,
        &r.commit,
        &r.title,
        &r.actor,
        r.trusted,
        r.status.as_str(),
        r.reason.as_ref(),
        r.attempt,
        delivery,
        to_json(&run.trigger)?,
        to_json(&run.env)?,
        r.diagnostics.as_ref(),
        r.created_at,
        r.ended_at,
        to_json(&run.inputs)?,
        run.concurrency_plan.as_ref().map(to_json).transpose()?,
    ];
    conn.put(of(r.id), sql, args).await
}

fn of(run: RunId) -> Of {
    Of::row("runs", run)
}

/// Stores the run's concurrency group.
pub(crate) async fn save_group(conn: &mut Conn, run: &Run) -> Result<()> {
    conn.run("UPDATE runs SET concurrency = $2 WHERE id = $1", args![run.record.id, run.concurrency.as_ref()]).await?;
    Ok(())
}

/// Stores what changes of a run. Its newest attempt stands as the run does, and is not written until another begins.
pub(crate) async fn save(conn: &mut Conn, run: &RunRecord) -> Result<()> {
    let sql = "UPDATE runs SET status = $2, reason = $3, attempt = $4, cancel_requested = $5, cancelled_by = $6,
        started_at = $7, ended_at = $8, terms_json = $9 WHERE id = $1";
    let args = args![
        run.id,
        run.status.as_str(),
        run.reason.as_ref(),
        run.attempt,
        run.cancel_requested,
        run.cancelled_by.as_ref(),
        run.started_at,
        run.ended_at,
        stored(&run.terms)?,
    ];
    conn.put(of(run.id), sql, args).await
}

/// Terms as they are stored; most attempts have none.
fn stored(terms: &Terms) -> Result<Option<String>> {
    (*terms != Terms::default()).then(|| to_json(terms)).transpose()
}

/// Stores how the newest attempt of a run ended, before another begins.
pub(crate) async fn close_attempt(conn: &mut Conn, run: &RunRecord) -> Result<()> {
    let sql = "UPDATE attempts SET status = $3, started_at = $4, ended_at = $5 WHERE run_id = $1 AND attempt = $2";
    conn.run(sql, args![run.id, run.attempt, run.status.as_str(), run.started_at, run.ended_at]).await?;
    Ok(())
}

/// A run and its contexts; locked until the transaction ends (SQLite has one writer; elsewhere `FOR UPDATE`).
pub(crate) async fn load(conn: &mut Conn, id: RunId) -> Result<Run> {
    let row = conn.first("SELECT * FROM runs WHERE id = $1", args![id]).await?;
    let row = row.ok_or_else(|| StoreError::not_found("run", id))?;
    run(&row)
}

fn run(row: &Row) -> Result<Run> {
    let (record, mut trigger): (RunRecord, Trigger) = (record(row)?, row.json("trigger_json")?);
    // what the newest attempt was given stands over what the run was planned with
    if let Event::WorkflowDispatch { inputs, .. } = &mut trigger.event {
        inputs.extend(record.terms.shown.inputs.clone());
    }
    let inputs = record.terms.resolved.clone().map_or_else(|| row.json("inputs_json"), Ok)?;
    Ok(Run {
        record,
        trigger,
        env: row.json("env_json")?,
        inputs,
        concurrency_plan: row.maybe_json("concurrency_json")?,
        concurrency: row.maybe_text("concurrency")?,
    })
}

/// The newest runs of one pipeline file that an event made of a commit.
pub(crate) async fn of_commit(
    conn: &mut Conn,
    repository: &str,
    commit: &CommitSha,
    file: &str,
    event: &str,
) -> Result<Vec<Run>> {
    let sql = "SELECT * FROM runs WHERE repository = $1 AND commit_sha = $2 AND file = $3 AND event = $4
        ORDER BY id DESC LIMIT 20";
    conn.all(sql, args![repository, commit, file, event]).await?.iter().map(run).collect()
}

/// Who pushed, wrote or started the first runs of a commit.
pub(crate) async fn people_of_commit(conn: &mut Conn, repository: &str, commit: &CommitSha) -> Result<Vec<String>> {
    let sql = "SELECT actor, trigger_json FROM runs WHERE repository = $1 AND commit_sha = $2 ORDER BY id LIMIT 50";
    let mut people = Vec::new();
    for row in conn.all(sql, args![repository, commit]).await? {
        let trigger: Trigger = row.json("trigger_json")?;
        people.push(row.text("actor")?);
        people.extend(trigger.authors);
    }
    Ok(people)
}

/// Runs, newest first.
pub(crate) async fn list(conn: &mut Conn, filter: &RunFilter) -> Result<Vec<RunRecord>> {
    let sql = "SELECT * FROM runs
        WHERE ($1 IS NULL OR repository = $1) AND ($2 IS NULL OR pipeline = $2 OR file LIKE '%/' || $2 || '.y%ml')
            AND ($3 IS NULL OR git_ref = $3) AND ($4 IS NULL OR commit_sha = $4) AND ($5 IS NULL OR status = $5)
            AND ($6 IS NULL OR event = $6) AND id < $7
        ORDER BY id DESC LIMIT $8";
    let args = args![
        filter.repository.as_ref(),
        filter.pipeline.as_ref(),
        filter.git_ref.as_ref(),
        filter.commit.as_ref(),
        filter.status.map(|s| s.as_str()),
        filter.event.as_ref(),
        filter.before.map_or(i64::MAX, |id| id.0),
        filter.limit.clamp(1, 200),
    ];
    conn.all(sql, args).await?.iter().map(record).collect()
}

/// The runs that came of a delivery.
pub(crate) async fn of_delivery(conn: &mut Conn, delivery: &DeliveryId) -> Result<Vec<RunId>> {
    let rows = conn.all("SELECT id FROM runs WHERE delivery_id = $1 ORDER BY id", args![delivery]).await?;
    rows.iter().map(|row| Ok(RunId(row.int("id")?))).collect()
}

/// How the run of the same pipeline and ref that was planned before this one ended.
pub(crate) async fn status_before(conn: &mut Conn, run: &RunRecord) -> Result<Option<RunStatus>> {
    let sql = "SELECT status FROM runs
        WHERE repository = $1 AND pipeline = $2 AND git_ref = $3 AND id < $4 AND status IN ('succeeded', 'failed')
        ORDER BY id DESC LIMIT 1";
    let row = conn.first(sql, args![&run.repository, &run.pipeline, &run.git_ref, run.id]).await?;
    row.map(|row| row.word("status", RunStatus::parse)).transpose()
}

pub(crate) async fn insert_attempt(
    conn: &mut Conn,
    run: RunId,
    attempt: u32,
    kind: AttemptKind,
    by: &str,
    terms: &Terms,
    now: Timestamp,
) -> Result<()> {
    let sql = "INSERT INTO attempts (run_id, attempt, kind, requested_by, status, created_at, terms_json)
        VALUES ($1, $2, $3, $4, 'queued', $5, $6)";
    let of = Of::row("attempts", format_args!("{run}/{attempt}"));
    conn.put(of, sql, args![run, attempt, kind.as_str(), by, now, stored(terms)?]).await
}

/// The attempts of a run, oldest first.
pub(crate) async fn attempts(conn: &mut Conn, run: &RunRecord) -> Result<Vec<AttemptRecord>> {
    let rows = conn.all("SELECT * FROM attempts WHERE run_id = $1 ORDER BY attempt", args![run.id]).await?;
    let mut attempts = rows.iter().map(attempt).collect::<Result<Vec<_>>>()?;
    if let Some(newest) = attempts.iter_mut().find(|a| a.attempt == run.attempt) {
        (newest.status, newest.started_at, newest.ended_at) = (run.status, run.started_at, run.ended_at);
    }
    Ok(attempts)
}

fn attempt(row: &Row) -> Result<AttemptRecord> {
    Ok(AttemptRecord {
        attempt: row.count("attempt")?,
        kind: row.word("kind", AttemptKind::parse)?,
        requested_by: row.text("requested_by")?,
        terms: row.maybe_json("terms_json")?.unwrap_or_default(),
        status: row.word("status", RunStatus::parse)?,
        created_at: row.time("created_at")?,
        started_at: row.maybe_time("started_at")?,
        ended_at: row.maybe_time("ended_at")?,
    })
}

/// Who said yes to a run at its commit, for an environment (`""`: for foreign code at all), the first one first. What passes the rules by
/// does so for the attempt that it was said of: a freeze or a wait is not about the commit.
pub(crate) async fn approvals(conn: &mut Conn, run: &RunRecord, environment: &str) -> Result<Vec<Yes>> {
    let sql = "SELECT approver, teams, CASE WHEN at >= (
                SELECT created_at FROM attempts WHERE run_id = $1 AND attempt = $4) THEN bypass END AS bypass
        FROM approvals WHERE run_id = $1 AND environment = $2 AND commit_sha = $3 ORDER BY at, approver";
    let rows = conn.all(sql, args![run.id, environment, &run.commit, run.attempt]).await?;
    let yes = |row: &Row| {
        Ok(Yes {
            by: row.text("approver")?,
            teams: row.maybe_json("teams")?.unwrap_or_default(),
            bypass: row.maybe_text("bypass")?,
        })
    };
    rows.iter().map(yes).collect()
}

/// Every yes to a run at its commit, oldest first; 200 at most.
pub(crate) async fn given(conn: &mut Conn, run: &RunRecord) -> Result<Vec<GivenApproval>> {
    let sql = "SELECT environment, approver, at, bypass FROM approvals WHERE run_id = $1 AND commit_sha = $2
        ORDER BY at, approver LIMIT 200";
    let rows = conn.all(sql, args![run.id, &run.commit]).await?;
    let given = |row: &Row| {
        Ok(GivenApproval {
            environment: row.text("environment")?,
            by: row.text("approver")?,
            at: row.time("at")?,
            bypass: row.maybe_text("bypass")?,
        })
    };
    rows.iter().map(given).collect()
}

/// Stores a yes. One person has one; who passes the rules by as well has done both.
pub(crate) async fn approve(
    conn: &mut Conn,
    run: &RunRecord,
    environment: &str,
    yes: &Yes,
    now: Timestamp,
) -> Result<()> {
    let sql = "INSERT INTO approvals (run_id, environment, commit_sha, approver, at, teams, bypass)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (run_id, environment, commit_sha, approver) DO UPDATE SET
            teams = COALESCE(excluded.teams, approvals.teams), bypass = COALESCE(excluded.bypass, approvals.bypass),
            at = CASE WHEN excluded.bypass IS NULL THEN approvals.at ELSE excluded.at END";
    let teams = (!yes.teams.is_empty()).then(|| to_json(&yes.teams)).transpose()?;
    conn.run(sql, args![run.id, environment, &run.commit, &yes.by, now, teams, yes.bypass.as_ref()]).await?;
    Ok(())
}

fn record(row: &Row) -> Result<RunRecord> {
    Ok(RunRecord {
        id: RunId(row.int("id")?),
        repository: row.text("repository")?,
        pipeline: row.text("pipeline")?,
        file: row.text("file")?,
        event: row.text("event")?,
        git_ref: row.text("git_ref")?,
        commit: row.parsed("commit_sha")?,
        title: row.text("title")?,
        actor: row.text("actor")?,
        trusted: row.flag("trusted")?,
        status: row.word("status", RunStatus::parse)?,
        reason: row.maybe_text("reason")?,
        attempt: row.count("attempt")?,
        delivery: row.maybe_parsed("delivery_id")?,
        diagnostics: row.maybe_text("diagnostics")?,
        cancel_requested: row.flag("cancel_requested")?,
        cancelled_by: row.maybe_text("cancelled_by")?,
        created_at: row.time("created_at")?,
        started_at: row.maybe_time("started_at")?,
        ended_at: row.maybe_time("ended_at")?,
        terms: row.maybe_json("terms_json")?.unwrap_or_default(),
    })
}
