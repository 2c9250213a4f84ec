//! Machines that runs rent, and which server speaks to the cloud.

use segue_pipelines::machines::Holder;
use segue_schemas::{
    id::{Epoch, JobId, RunId},
    machine::{Machine, MachineRequest, MachineState},
    price::Price,
    status::{JobStatus, RunStatus},
    time::Timestamp,
};
use uuid::Uuid;

use crate::store::{
    Result, StoreError,
    sql::{Conn, Row, args, from_word, to_json},
};

/// Machines that are looked at in one go.
const MOST: u32 = 1_000;

/// A machine as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RentedMachine {
    /// What people see of it.
    pub record: Machine,
    /// What was asked for.
    pub request: MachineRequest,
    /// The key that may log in.
    pub ssh_key: String,
    /// The attempt of the run that has it.
    pub attempt: u32,
    /// The ask that it is for: the newest of its step.
    pub ask: Uuid,
    /// The step that asked, from 0.
    pub step: usize,
    /// The epoch under which it did.
    pub epoch: Epoch,
    /// Rises with each change that people see.
    pub version: u64,
    /// How many launches were asked for.
    pub launches: u32,
    /// When whoever asked was last known to wait.
    pub heard_at: Timestamp,
    /// Since when no job of the run is at work.
    pub idle_since: Option<Timestamp>,
}

/// Which server speaks to the cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keeper {
    pub(crate) server: i64,
    pub(crate) until: Timestamp,
    pub(crate) launched_at: Timestamp,
    pub(crate) trouble: Option<String>,
}

pub(crate) async fn find(conn: &mut Conn, name: &str) -> Result<Option<RentedMachine>> {
    conn.first("SELECT * FROM machines WHERE name = $1", args![name]).await?.as_ref().map(machine).transpose()
}

pub(crate) async fn of_ask(conn: &mut Conn, job: JobId, ask: Uuid) -> Result<Option<RentedMachine>> {
    let sql = "SELECT * FROM machines WHERE job_id = $1 AND ask = $2";
    conn.first(sql, args![job, ask.to_string()]).await?.as_ref().map(machine).transpose()
}

/// Those of a job that are not known to be gone.
pub(crate) async fn of_job(conn: &mut Conn, job: JobId) -> Result<Vec<RentedMachine>> {
    let sql = "SELECT * FROM machines WHERE job_id = $1 AND state <> 'ended' ORDER BY asked_at, name LIMIT $2";
    conn.all(sql, args![job, MOST]).await?.iter().map(machine).collect()
}

/// How many a job has asked for in all.
pub(crate) async fn asks(conn: &mut Conn, job: JobId) -> Result<u64> {
    let row = conn.first("SELECT COUNT(*) AS n FROM machines WHERE job_id = $1", args![job]).await?;
    row.map_or(Ok(0), |row| row.count("n"))
}

/// One that is not known to be gone, by its name or by the cloud's id of it.
pub(crate) async fn called(conn: &mut Conn, word: &str) -> Result<Option<RentedMachine>> {
    let sql = "SELECT * FROM machines WHERE name = $1 OR (instance = $1 AND state <> 'ended')
        ORDER BY CASE WHEN name = $1 THEN 0 ELSE 1 END LIMIT 1";
    conn.first(sql, args![word]).await?.as_ref().map(machine).transpose()
}

/// Those that may be there, then the others, the newest first.
pub(crate) async fn list(conn: &mut Conn, limit: u32) -> Result<Vec<RentedMachine>> {
    let sql =
        "SELECT * FROM machines ORDER BY CASE WHEN state = 'ended' THEN 1 ELSE 0 END, asked_at DESC, name LIMIT $1";
    conn.all(sql, args![limit]).await?.iter().map(machine).collect()
}

/// Those that are not known to be gone, the oldest first, each with who has it.
pub(crate) async fn there(conn: &mut Conn) -> Result<Vec<(RentedMachine, Holder)>> {
    let sql = "SELECT m.*, r.status AS run_status, r.attempt AS run_attempt, j.status AS job_status, j.next_step, j.waiting_step,
            (SELECT COUNT(*) FROM jobs w WHERE w.run_id = m.run_id AND w.attempt = m.attempt
                AND w.status IN ('leased', 'running')) AS at_work
        FROM machines m LEFT JOIN runs r ON r.id = m.run_id LEFT JOIN jobs j ON j.id = m.job_id
        WHERE m.state <> 'ended' ORDER BY m.asked_at, m.name LIMIT $1";
    conn.all(sql, args![MOST]).await?.iter().map(|row| Ok((machine(row)?, holder(row)?))).collect()
}

/// Those that had a launch and have ended since then.
pub(crate) async fn ended_since(conn: &mut Conn, since: Timestamp) -> Result<Vec<RentedMachine>> {
    let sql = "SELECT * FROM machines WHERE state = 'ended' AND ended_at >= $1 AND launches > 0 ORDER BY ended_at DESC LIMIT $2";
    conn.all(sql, args![since, MOST]).await?.iter().map(machine).collect()
}

pub(crate) async fn insert(conn: &mut Conn, one: &RentedMachine) -> Result<()> {
    let sql = "INSERT INTO machines (name, ask, repository, run_id, attempt, job_id, step, epoch, request, ssh_key, state, version,
            asked_at, heard_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
    let record = &one.record;
    let args = args![
        &record.name,
        one.ask.to_string(),
        &record.repository,
        record.run,
        one.attempt,
        record.job,
        one.step,
        one.epoch,
        to_json(&one.request)?,
        &one.ssh_key,
        record.state.as_str(),
        one.version,
        record.asked_at,
        one.heard_at,
    ];
    conn.run(sql, args).await.map(drop)
}

/// Stores what changes of one.
pub(crate) async fn save(conn: &mut Conn, one: &RentedMachine) -> Result<()> {
    let sql = "UPDATE machines SET state = $2, version = $3, launches = $4, instance = $5, instance_type = $6, region = $7,
            price_cents = $8, ip = $9, reason = $10, heard_at = $11, launched_at = $12, ready_at = $13, idle_since = $14,
            ended_at = $15, ask = $16, asked_at = $17
        WHERE name = $1";
    let record = &one.record;
    let args = args![
        &record.name,
        record.state.as_str(),
        one.version,
        one.launches,
        record.instance.as_ref(),
        record.instance_type.as_ref(),
        record.region.as_ref(),
        record.price_per_hour.map(|price| i64::from(price.0)),
        record.ip.as_ref(),
        record.reason.as_ref(),
        one.heard_at,
        record.launched_at,
        record.ready_at,
        one.idle_since,
        record.ended_at,
        one.ask.to_string(),
        record.asked_at,
    ];
    conn.run(sql, args).await.map(drop)
}

pub(crate) async fn keeper(conn: &mut Conn) -> Result<Option<Keeper>> {
    let row = conn.first("SELECT * FROM machine_keeper WHERE one = 1", args![]).await?;
    row.map(|row| {
        Ok(Keeper {
            server: row.int("server")?,
            until: row.time("until_at")?,
            launched_at: row.time("launched_at")?,
            trouble: row.maybe_text("trouble")?,
        })
    })
    .transpose()
}

pub(crate) async fn save_keeper(conn: &mut Conn, keeper: &Keeper) -> Result<()> {
    let sql = "INSERT INTO machine_keeper (one, server, until_at, launched_at, trouble) VALUES (1, $1, $2, $3, $4)
        ON CONFLICT (one) DO UPDATE SET server = excluded.server, until_at = excluded.until_at,
            launched_at = excluded.launched_at, trouble = excluded.trouble";
    let args = args![keeper.server, keeper.until, keeper.launched_at, keeper.trouble.as_ref()];
    conn.run(sql, args).await.map(drop)
}

fn holder(row: &Row) -> Result<Holder> {
    let Some(status) = row.maybe_text("run_status")? else { return Ok(Holder::Over) };
    let status = RunStatus::parse(&status).ok_or_else(|| StoreError::corrupt("runs.status", &status))?;
    if status.is_final() || row.int("run_attempt")? != row.int("attempt")? {
        return Ok(Holder::Over);
    }
    let job = row.maybe_text("job_status")?.as_deref().and_then(JobStatus::parse);
    let goes_on = row.maybe_int("next_step")?.is_some() || row.maybe_int("waiting_step")?.is_some();
    if matches!(job, Some(JobStatus::Queued | JobStatus::Waiting)) && !goes_on {
        return Ok(Holder::BeginsAnew);
    }
    Ok(Holder::Lives { is_at_work: row.int("at_work")? > 0 })
}

fn machine(row: &Row) -> Result<RentedMachine> {
    let request: MachineRequest = row.json("request")?;
    let launched_at = row.maybe_time("launched_at")?;
    let price = row.maybe_int("price_cents")?.map(|cents| Price(u32::try_from(cents).unwrap_or(u32::MAX)));
    let ask: Uuid = row.parsed("ask")?;
    let lifetime = request.lifetime.0;
    Ok(RentedMachine {
        record: Machine {
            name: row.text("name")?,
            state: row.word("state", from_word::<MachineState>)?,
            repository: row.text("repository")?,
            run: RunId(row.int("run_id")?),
            job: row.parsed("job_id")?,
            instance: row.maybe_text("instance")?,
            instance_type: row.maybe_text("instance_type")?,
            region: row.maybe_text("region")?,
            ip: row.maybe_text("ip")?,
            price_per_hour: price,
            cost: Price(0),
            reason: row.maybe_text("reason")?,
            asked_at: row.time("asked_at")?,
            launched_at,
            ready_at: row.maybe_time("ready_at")?,
            expires_at: launched_at.map(|launched| launched + lifetime),
            ended_at: row.maybe_time("ended_at")?,
        },
        request,
        ssh_key: row.text("ssh_key")?,
        attempt: row.count("attempt")?,
        ask,
        step: row.count("step")?,
        epoch: Epoch(row.int("epoch")?),
        version: row.count("version")?,
        launches: row.count("launches")?,
        heard_at: row.time("heard_at")?,
        idle_since: row.maybe_time("idle_since")?,
    })
}
