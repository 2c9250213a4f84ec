//! `segue store copy`: the state of one server, from its data directory into a PostgreSQL that several servers may share. Comes in:
//! a data directory that nobody serves, and a database in which there is nothing yet. Goes out: every table, every log, counted
//! twice. All of it comes with one commit: what breaks off leaves an empty database.

use std::path::{Path, PathBuf};

use segue_schemas::config::DatabaseConfig;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, Row as _, SqliteConnection, TypeInfo as _, ValueRef as _,
    sqlite::SqliteRow,
};

use super::{Result, StoreError, postgres, sqlite};
use crate::log_store::LogStore;

/// Rows that are sent at a time.
const ROWS: i64 = 500;
/// Bytes of a log that are sent at a time.
const LOG_BYTES: usize = 1 << 20;

/// Every table, those that others refer to first.
const TABLES: &[&str] = &[
    "counters",
    "deliveries",
    "outbox",
    "work_identities",
    "runs",
    "attempts",
    "jobs",
    "snapshots",
    "steps",
    "step_summaries",
    "logs",
    "blobs",
    "removals",
    "artifacts",
    "caches",
    "releases",
    "current_releases",
    "rollback_points",
    "rollouts",
    "rollout_journal",
    "epochs",
    "approvals",
    "workers",
    "tokens",
    "secrets",
    "notifications",
    "schedules",
    "schedule_slots",
    "slots",
    "github_runs",
    "github_checks",
    "github_left_out",
    "github_comments",
    "github_buttons",
    "github_deployments",
    "pulls",
    "previews",
    "github_previews",
    "host_authority",
    "host_invitations",
    "joined_hosts",
    "host_certificates",
    "host_states",
    "machines",
    "machine_keeper",
];
/// What only servers that share a database have.
const NOT_COPIED: &[&str] = &["log_ends", "log_chunks", "shared", "_sqlx_migrations"];

/// What was copied of a table.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Copied {
    /// The table, or `logs` for their contents.
    pub what: String,
    /// Its rows, or the logs.
    pub rows: u64,
    /// Bytes, of logs.
    pub bytes: u64,
}

/// Copies the state of a data directory into a database. `tell` hears of each table that was copied.
///
/// # Errors
/// [`StoreError::Refused`] where the database is not empty or this version does not know all that is stored;
/// [`StoreError::Unavailable`] or [`StoreError::Files`] where one of the two can't be used. The database is as it was then.
pub async fn copy(data: &Path, to: &DatabaseConfig, mut tell: impl FnMut(&Copied)) -> Result<Vec<Copied>> {
    let file = data.join("segue.db");
    if !file.exists() {
        return Err(StoreError::Refused(format!("{} holds no segue.db: there is nothing to copy", data.display())));
    }
    let (mut from, _) = sqlite::connect(&file).await?;
    let mut target = postgres::Database::maintenance(to).await?;
    let mut to = target.begin().await?;
    check_tables(&mut from).await?;
    check_empty(&mut to).await?;
    let mut all = Vec::new();
    for table in TABLES {
        let copied = copy_table(&mut from, &mut to, table).await?;
        tell(&copied);
        all.push(copied);
    }
    let copied = copy_logs(&mut from, &mut to, &data.join("logs")).await?;
    tell(&copied);
    all.push(copied);
    to.commit().await?;
    Ok(all)
}

async fn check_tables(from: &mut SqliteConnection) -> Result<()> {
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    for name in sqlx::query_scalar::<_, String>(sql).fetch_all(from).await? {
        if !TABLES.contains(&name.as_str()) && !NOT_COPIED.contains(&name.as_str()) {
            return Err(StoreError::Refused(format!("the store has a table `{name}` that is not copied: nothing was")));
        }
    }
    Ok(())
}

/// The migrations have made the counters, and nothing else.
async fn check_empty(to: &mut PgConnection) -> Result<()> {
    for table in TABLES {
        let sql = if *table == "counters" {
            "SELECT COUNT(*) FROM counters WHERE value > 0".to_owned()
        } else {
            format!("SELECT COUNT(*) FROM (SELECT 1 FROM {table} LIMIT 1) AS one")
        };
        if sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).fetch_one(&mut *to).await? > 0 {
            let text =
                format!("there is something in `{table}` of the database already: copy into one that was just made");
            return Err(StoreError::Refused(text));
        }
    }
    Ok(())
}

async fn copy_table(from: &mut SqliteConnection, to: &mut PgConnection, table: &str) -> Result<Copied> {
    let columns: Vec<(String, String)> = sqlx::query(AssertSqlSafe(format!("PRAGMA table_info({table})")))
        .fetch_all(&mut *from)
        .await?
        .iter()
        .map(|row| Ok((row.try_get("name")?, row.try_get("type")?)))
        .collect::<sqlx::Result<_>>()?;
    if table == "counters" {
        sqlx::query("DELETE FROM counters").execute(&mut *to).await?;
    }
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(", ");
    let arrays: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(n, (_, kind))| format!("${}::{}[]", n + 1, if kind == "TEXT" { "text" } else { "bigint" }))
        .collect();
    let insert = format!("INSERT INTO {table} ({names}) SELECT * FROM UNNEST({})", arrays.join(", "));
    let (mut copied, mut after) = (0, i64::MIN);
    loop {
        let sql = format!("SELECT rowid AS copied_row, {names} FROM {table} WHERE rowid > $1 ORDER BY rowid LIMIT $2");
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(ROWS).fetch_all(&mut *from).await?;
        let Some(last) = rows.last() else { break };
        after = last.try_get("copied_row")?;
        let mut query = sqlx::query(AssertSqlSafe(insert.clone()));
        for (name, kind) in &columns {
            query = if kind == "TEXT" {
                query.bind(rows.iter().map(|row| text(row, name)).collect::<Result<Vec<_>>>()?)
            } else {
                query
                    .bind(rows.iter().map(|row| Ok(row.try_get(name.as_str())?)).collect::<Result<Vec<Option<i64>>>>()?)
            };
        }
        copied += query.execute(&mut *to).await?.rows_affected();
    }
    let count = format!("SELECT COUNT(*) FROM {table}");
    let here: i64 = sqlx::query_scalar(AssertSqlSafe(count.clone())).fetch_one(from).await?;
    let there: i64 = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(to).await?;
    if here != there || copied != here.unsigned_abs() {
        return Err(StoreError::corrupt(table, format!("{here} rows were to be copied, and {there} are there")));
    }
    Ok(Copied { what: table.to_owned(), rows: copied, bytes: 0 })
}

/// A text without the one character that PostgreSQL's can't hold.
fn text(row: &SqliteRow, column: &str) -> Result<Option<String>> {
    let value = row.try_get_raw(column)?;
    if !value.is_null() && value.type_info().name() != "TEXT" {
        return Err(StoreError::corrupt(column, "it holds something else than a text"));
    }
    let text: Option<String> = row.try_get(column)?;
    Ok(text.map(|text| if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }))
}

async fn copy_logs(from: &mut SqliteConnection, to: &mut PgConnection, folder: &Path) -> Result<Copied> {
    let store = LogStore::open(folder.to_owned())?;
    let sql =
        "SELECT job_id, path, epoch FROM logs JOIN jobs ON jobs.id = job_id WHERE removed_at IS NULL ORDER BY job_id";
    let logs: Vec<(String, PathBuf, i64)> = sqlx::query(sql)
        .fetch_all(from)
        .await?
        .iter()
        .map(|row| {
            Ok((row.try_get("job_id")?, PathBuf::from(row.try_get::<String, _>("path")?), row.try_get("epoch")?))
        })
        .collect::<sqlx::Result<_>>()?;
    let mut copied = Copied { what: "contents of logs".into(), rows: 0, bytes: 0 };
    for (job, path, epoch) in logs {
        let path = path.to_string_lossy();
        let id = job.parse().map_err(|error| StoreError::corrupt("logs.job_id", error))?;
        let mut start = 0;
        loop {
            let chunk = store.read(id, &path, start, LOG_BYTES).await?;
            if chunk.is_empty() {
                break;
            }
            let sql = "INSERT INTO log_chunks (job_id, start, content) VALUES ($1, $2, $3)";
            sqlx::query(sql).bind(&job).bind(start.cast_signed()).bind(&chunk[..]).execute(&mut *to).await?;
            start += chunk.len() as u64;
        }
        let sql = "INSERT INTO log_ends (job_id, epoch, bytes) VALUES ($1, $2, $3)";
        sqlx::query(sql).bind(&job).bind(epoch).bind(start.cast_signed()).execute(&mut *to).await?;
        copied.rows += 1;
        copied.bytes += start;
    }
    let sql = "SELECT CAST(COALESCE(SUM(length(content)), 0) AS BIGINT) FROM log_chunks";
    let there: i64 = sqlx::query_scalar(sql).fetch_one(to).await?;
    if there.unsigned_abs() != copied.bytes {
        let problem = format!("{} bytes were to be copied, and {there} are there", copied.bytes);
        return Err(StoreError::corrupt("log_chunks", problem));
    }
    Ok(copied)
}
