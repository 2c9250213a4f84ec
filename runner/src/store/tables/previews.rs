//! Pull requests as they were last told of, and their previews.

use segue_pipelines::preview::Pull;
use segue_schemas::{
    id::{CommitSha, RolloutId, RunId},
    preview::{Preview, PreviewState},
    time::Timestamp,
};

use crate::store::{
    Result,
    sql::{Conn, Row, args, from_word},
};

/// Previews that are looked at in one go.
const MOST: u32 = 10_000;

pub(crate) async fn pull(conn: &mut Conn, repository: &str, number: u64) -> Result<Option<Pull>> {
    let sql = "SELECT * FROM pulls WHERE repository = $1 AND number = $2";
    conn.first(sql, args![repository, number]).await?.as_ref().map(pull_of).transpose()
}

/// The numbers of the pull requests of a repository that are open, as far as is known.
pub(crate) async fn open_pulls(conn: &mut Conn, repository: &str) -> Result<Vec<u64>> {
    let sql = "SELECT number FROM pulls WHERE repository = $1 AND open = 1 ORDER BY number LIMIT 100000";
    conn.all(sql, args![repository]).await?.iter().map(|row| row.count("number")).collect()
}

/// The repositories of which a pull request was heard, or that have a preview.
pub(crate) async fn repositories(conn: &mut Conn) -> Result<Vec<String>> {
    let sql = "SELECT repository FROM pulls UNION SELECT repository FROM previews WHERE state <> 'gone'
        ORDER BY repository LIMIT 10000";
    conn.all(sql, args![]).await?.iter().map(|row| row.text("repository")).collect()
}

pub(crate) async fn save_pull(conn: &mut Conn, repository: &str, pull: &Pull, now: Timestamp) -> Result<()> {
    let sql = "INSERT INTO pulls (repository, number, open, head, before, reopened, updated_at, heard_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (repository, number) DO UPDATE SET open = excluded.open, head = excluded.head, before = excluded.before,
            reopened = excluded.reopened, updated_at = excluded.updated_at, heard_at = excluded.heard_at";
    let Pull { number, is_open, head, before, is_reopened, updated_at } = pull;
    let args = args![repository, *number, *is_open, head, before.as_ref(), *is_reopened, *updated_at, now];
    conn.run(sql, args).await.map(drop)
}

/// The preview of that name, gone or not.
pub(crate) async fn find(conn: &mut Conn, name: &str) -> Result<Option<Preview>> {
    conn.first("SELECT * FROM previews WHERE name = $1", args![name]).await?.as_ref().map(preview).transpose()
}

/// A pull request's preview of a service, gone or not.
pub(crate) async fn of_service(
    conn: &mut Conn,
    repository: &str,
    number: u64,
    service: &str,
) -> Result<Option<Preview>> {
    let sql = "SELECT * FROM previews WHERE repository = $1 AND number = $2 AND service = $3";
    conn.first(sql, args![repository, number, service]).await?.as_ref().map(preview).transpose()
}

/// The previews of a pull request, gone or not.
pub(crate) async fn of_pull(conn: &mut Conn, repository: &str, number: u64) -> Result<Vec<Preview>> {
    let sql = "SELECT * FROM previews WHERE repository = $1 AND number = $2 ORDER BY service LIMIT $3";
    conn.all(sql, args![repository, number, MOST]).await?.iter().map(preview).collect()
}

/// Every preview of which something is left; `all`: those that are gone as well.
pub(crate) async fn list(conn: &mut Conn, all: bool) -> Result<Vec<Preview>> {
    let sql = "SELECT * FROM previews WHERE $1 = 1 OR state <> 'gone' ORDER BY repository, number, service LIMIT $2";
    conn.all(sql, args![all, MOST]).await?.iter().map(preview).collect()
}

/// Those whose time is over.
pub(crate) async fn expired(conn: &mut Conn, now: Timestamp) -> Result<Vec<Preview>> {
    let sql = "SELECT * FROM previews WHERE state NOT IN ('gone', 'removing') AND expires_at <= $1
        ORDER BY expires_at LIMIT 100";
    conn.all(sql, args![now]).await?.iter().map(preview).collect()
}

/// When the next one's time is over.
pub(crate) async fn next_expiry(conn: &mut Conn) -> Result<Option<Timestamp>> {
    let sql = "SELECT MIN(expires_at) AS due FROM previews WHERE state NOT IN ('gone', 'removing')";
    conn.first(sql, args![]).await?.map_or(Ok(None), |row| row.maybe_time("due"))
}

/// Stores a preview as it is.
pub(crate) async fn save(conn: &mut Conn, preview: &Preview) -> Result<()> {
    let sql =
        "INSERT INTO previews (name, repository, number, service, state, url, fork, commit_sha, run_id, rollout_id,
            reason, created_at, touched_at, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
        ON CONFLICT (name) DO UPDATE SET state = excluded.state, url = excluded.url, fork = excluded.fork,
            commit_sha = excluded.commit_sha, run_id = excluded.run_id, rollout_id = excluded.rollout_id,
            reason = excluded.reason, created_at = excluded.created_at, touched_at = excluded.touched_at,
            expires_at = excluded.expires_at";
    let args = args![
        &preview.name,
        &preview.repository,
        preview.number,
        &preview.service,
        preview.state.as_str(),
        &preview.url,
        preview.is_fork,
        preview.commit.as_ref(),
        preview.run,
        preview.rollout,
        preview.reason.as_ref(),
        preview.created_at,
        preview.touched_at,
        preview.expires_at,
    ];
    conn.run(sql, args).await.map(drop)
}

fn pull_of(row: &Row) -> Result<Pull> {
    Ok(Pull {
        number: row.count("number")?,
        is_open: row.flag("open")?,
        head: row.parsed::<CommitSha>("head")?,
        before: row.maybe_parsed("before")?,
        is_reopened: row.flag("reopened")?,
        updated_at: row.time("updated_at")?,
    })
}

fn preview(row: &Row) -> Result<Preview> {
    Ok(Preview {
        name: row.text("name")?,
        repository: row.text("repository")?,
        number: row.count("number")?,
        service: row.text("service")?,
        state: row.word("state", from_word::<PreviewState>)?,
        url: row.text("url")?,
        is_fork: row.flag("fork")?,
        commit: row.maybe_parsed("commit_sha")?,
        run: row.maybe_int("run_id")?.map(RunId),
        rollout: row.maybe_int("rollout_id")?.map(RolloutId),
        reason: row.maybe_text("reason")?,
        created_at: row.time("created_at")?,
        touched_at: row.time("touched_at")?,
        expires_at: row.time("expires_at")?,
    })
}
