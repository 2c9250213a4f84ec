//! SQLite: the only file that knows its pragmas, its files and how its commits reach the disk.

use std::{path::Path, sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions, SqliteConnection, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::Notify;

use super::{Result, StoreError};

/// The tables, which are the same on every backend.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("src/store/migrations");

/// Connections that read beside the writer.
const READERS: u32 = 2;

/// What the write-ahead log is cut back to where nothing holds it larger.
const KEPT_LOG_BYTES: u64 = 8 << 20;

/// Above this the log is begun anew, which holds the writer up while the last commits are moved; below it the log is moved beside the
/// writer alone.
const RESTART_BYTES: u64 = 16 << 20;

/// Above this the log is cut down as well.
const TRUNCATE_BYTES: u64 = 128 << 20;

/// Between two moves of the log into the database. What a second of commits leaves is moved at once; each commit by itself would
/// have every page written and synced twice.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// How long a move that needs the writer's place waits for readers, which keeps the writer waiting as well; the next one tries again.
const CHECKPOINT_PATIENCE: Duration = Duration::from_millis(100);

fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // every commit that was answered is on the disk
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(10))
        // checkpoints run apart, so that no commit pays for one
        .pragma("wal_autocheckpoint", "0")
        .pragma("temp_store", "memory")
        .pragma("journal_size_limit", KEPT_LOG_BYTES.to_string())
        .statement_cache_capacity(160)
        .disable_statement_logging()
}

/// Opens (or makes) the database and brings its tables up to date.
pub(super) async fn connect(file: &Path) -> Result<(SqliteConnection, SqlitePool)> {
    let mut writer = options(file).pragma("cache_size", "-2048").connect().await?;
    MIGRATIONS
        .run(&mut writer)
        .await
        .map_err(|e| StoreError::Unavailable(format!("{} can't be brought up to date: {e}", file.display())))?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(Duration::from_secs(10))
        .test_before_acquire(false)
        .connect_lazy_with(options(file).pragma("cache_size", "-512").pragma("query_only", "1"));
    Ok((writer, readers))
}

/// Moves what was committed from the write-ahead log into the database, for as long as somebody holds `committed`.
/// Woken by commits; an idle store is left alone.
pub(super) async fn checkpoint(file: std::path::PathBuf, committed: Arc<Notify>) {
    let mut wal = file.clone().into_os_string();
    wal.push("-wal");
    let wal_bytes = || std::fs::metadata(&wal).map_or(0, |m| m.len());
    let mut connection: Option<SqliteConnection> = None;
    loop {
        committed.notified().await;
        tokio::time::sleep(CHECKPOINT_EVERY).await;
        let checkpointer = match connection.take() {
            Some(open) => Ok(open),
            None => options(&file).pragma("cache_size", "-64").busy_timeout(CHECKPOINT_PATIENCE).connect().await,
        };
        match checkpointer {
            Ok(mut open) => {
                if let Err(error) = move_log(&mut open, wal_bytes).await {
                    tracing::warn!(%error, "the write-ahead log could not be moved into the database; tried again after the next commit");
                }
                connection = Some(open);
            }
            Err(error) => tracing::warn!(%error, "no connection for the checkpoint; tried again after the next commit"),
        }
    }
}

/// Moves the log beside the writer, then, where it has grown, what came meanwhile without it: that is little by then.
async fn move_log(open: &mut SqliteConnection, wal_bytes: impl Fn() -> u64) -> sqlx::Result<()> {
    sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut *open).await?;
    let left = wal_bytes();
    if left <= RESTART_BYTES {
        return Ok(());
    }
    let sql = if left > TRUNCATE_BYTES { "PRAGMA wal_checkpoint(TRUNCATE)" } else { "PRAGMA wal_checkpoint(RESTART)" };
    sqlx::query(sql).execute(open).await.map(|_| ())
}

/// Whether a database is whole.
pub(crate) async fn check_database(file: &Path) -> Result<()> {
    let mut connection = options(file).create_if_missing(false).connect().await?;
    let word: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut connection).await?;
    if word == "ok" { Ok(()) } else { Err(StoreError::corrupt(file.display().to_string(), word)) }
}

/// Writes a consistent copy of the database to a new file, while it is in use.
pub(crate) async fn copy_database(file: &Path, target: &Path) -> Result<()> {
    let mut connection = options(file).create_if_missing(false).pragma("cache_size", "-512").connect().await?;
    sqlx::query("VACUUM INTO $1").bind(target.to_string_lossy().into_owned()).execute(&mut connection).await?;
    Ok(())
}
