use segue_schemas::{id::Digest, time::Timestamp, worker_api::CacheEntry};

use crate::store::{
    Result,
    sql::{Conn, Row, args},
};

/// Where caches are looked for, or put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) repository: String,
    /// The ref that made them.
    pub(crate) git_ref: String,
    /// Whether its code was the repository's own.
    pub(crate) trusted: bool,
}

/// The cache of that key.
pub(crate) async fn of_key(conn: &mut Conn, scope: &Scope, version: &str, key: &str) -> Result<Option<CacheEntry>> {
    let sql = "SELECT * FROM caches WHERE repository = $1 AND scope = $2 AND trusted = $3 AND version = $4 AND cache_key = $5";
    let args = args![&scope.repository, &scope.git_ref, scope.trusted, version, key];
    conn.first(sql, args).await?.as_ref().map(entry).transpose()
}

/// The newest cache whose key begins so.
pub(crate) async fn of_prefix(
    conn: &mut Conn,
    scope: &Scope,
    version: &str,
    prefix: &str,
) -> Result<Option<CacheEntry>> {
    let sql = "SELECT * FROM caches WHERE repository = $1 AND scope = $2 AND trusted = $3 AND version = $4
            AND substr(cache_key, 1, length($5)) = $5
        ORDER BY created_at DESC, cache_key LIMIT 1";
    let args = args![&scope.repository, &scope.git_ref, scope.trusted, version, prefix];
    conn.first(sql, args).await?.as_ref().map(entry).transpose()
}

/// Notes that a cache is used, now.
pub(crate) async fn touch(conn: &mut Conn, scope: &Scope, version: &str, key: &str, now: Timestamp) -> Result<()> {
    let sql = "UPDATE caches SET used_at = $6
        WHERE repository = $1 AND scope = $2 AND trusted = $3 AND version = $4 AND cache_key = $5";
    conn.run(sql, args![&scope.repository, &scope.git_ref, scope.trusted, version, key, now]).await?;
    Ok(())
}

/// Forgets one, because its content is gone.
pub(crate) async fn forget(conn: &mut Conn, scope: &Scope, version: &str, key: &str) -> Result<()> {
    let sql =
        "DELETE FROM caches WHERE repository = $1 AND scope = $2 AND trusted = $3 AND version = $4 AND cache_key = $5";
    conn.run(sql, args![&scope.repository, &scope.git_ref, scope.trusted, version, key]).await?;
    Ok(())
}

pub(crate) async fn insert(
    conn: &mut Conn,
    scope: &Scope,
    version: &str,
    entry: &CacheEntry,
    now: Timestamp,
) -> Result<()> {
    let sql = "INSERT INTO caches (repository, scope, trusted, version, cache_key, digest, bytes, created_at, used_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)";
    let CacheEntry { key, digest, bytes } = entry;
    let args = args![&scope.repository, &scope.git_ref, scope.trusted, version, key, digest, *bytes, now];
    conn.run(sql, args).await?;
    Ok(())
}

/// How many caches a repository has, and their bytes.
pub(crate) async fn total(conn: &mut Conn, repository: &str) -> Result<(u64, u64)> {
    let sql =
        "SELECT COUNT(*) AS n, CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS total FROM caches WHERE repository = $1";
    let row = conn.first(sql, args![repository]).await?;
    row.map_or(Ok((0, 0)), |row| Ok((row.count("n")?, row.count("total")?)))
}

/// Forgets the cache of a repository that was not used for longest; its bytes, `None` where there is none.
pub(crate) async fn forget_oldest(conn: &mut Conn, repository: &str) -> Result<Option<u64>> {
    let sql = "SELECT * FROM caches WHERE repository = $1 ORDER BY used_at, created_at, cache_key LIMIT 1";
    let Some(row) = conn.first(sql, args![repository]).await? else { return Ok(None) };
    let scope = Scope { repository: repository.to_owned(), git_ref: row.text("scope")?, trusted: row.flag("trusted")? };
    forget(conn, &scope, &row.text("version")?, &row.text("cache_key")?).await?;
    Ok(Some(row.count("bytes")?))
}

fn entry(row: &Row) -> Result<CacheEntry> {
    Ok(CacheEntry { key: row.text("cache_key")?, digest: row.parsed::<Digest>("digest")?, bytes: row.count("bytes")? })
}
