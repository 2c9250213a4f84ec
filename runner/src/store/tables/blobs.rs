//! Contents: those that are there, and those that are on their way out. A content is in one of the two tables at most.

use segue_schemas::{id::Digest, time::Timestamp};

use crate::store::{
    Result,
    sql::{Conn, args},
};

/// Notes that a content is there, and used now.
pub(crate) async fn touch(conn: &mut Conn, digest: &Digest, bytes: u64, now: Timestamp) -> Result<()> {
    let sql = "INSERT INTO blobs (digest, bytes, created_at, used_at) VALUES ($1, $2, $3, $3)
        ON CONFLICT (digest) DO UPDATE SET used_at = excluded.used_at";
    conn.run(sql, args![digest, bytes, now]).await?;
    Ok(())
}

/// Whether a content is recorded as there.
pub(crate) async fn is_here(conn: &mut Conn, digest: &Digest) -> Result<bool> {
    Ok(conn.first("SELECT digest FROM blobs WHERE digest = $1", args![digest]).await?.is_some())
}

/// Whether a content is on its way out.
pub(crate) async fn is_condemned(conn: &mut Conn, digest: &Digest) -> Result<bool> {
    Ok(conn.first("SELECT digest FROM removals WHERE digest = $1", args![digest]).await?.is_some())
}

/// Puts a content on its way out: it counts as gone from now on.
pub(crate) async fn condemn(conn: &mut Conn, digest: &Digest, bytes: u64, now: Timestamp) -> Result<()> {
    conn.run("DELETE FROM blobs WHERE digest = $1", args![digest]).await?;
    let sql = "INSERT INTO removals (digest, bytes, since) VALUES ($1, $2, $3) ON CONFLICT (digest) DO NOTHING";
    conn.run(sql, args![digest, bytes, now]).await?;
    Ok(())
}

/// It has come again, or is gone.
pub(crate) async fn forget_removal(conn: &mut Conn, digest: &Digest) -> Result<()> {
    conn.run("DELETE FROM removals WHERE digest = $1", args![digest]).await?;
    Ok(())
}

/// What is on its way out after a digest, by digest.
pub(crate) async fn removals(conn: &mut Conn, after: &str, limit: usize) -> Result<Vec<Digest>> {
    let sql = "SELECT digest FROM removals WHERE digest > $1 ORDER BY digest LIMIT $2";
    conn.all(sql, args![after, limit]).await?.iter().map(|row| row.parsed("digest")).collect()
}
