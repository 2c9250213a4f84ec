//! Hosts that joined, their certificates, and what every host was last told to carry.

use segue_schemas::{host_api::HostState, time::Timestamp};

use crate::store::{
    Result, StoreError,
    sql::{Conn, Row, args},
};

/// Hosts that are looked at in one go.
const MOST: u32 = 10_000;

/// A host that joined.
#[derive(Debug, Clone)]
pub struct JoinedHost {
    /// Its name.
    pub name: String,
    /// Where workers reach it, `HOST:PORT`.
    pub address: String,
    /// Its public key, in hexadecimal digits.
    pub key: String,
    /// When its newest certificate ends.
    pub ends_at: Timestamp,
    /// When it joined.
    pub joined_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// What a host carries, as it was last told.
#[derive(Debug, Clone)]
pub struct ToldState {
    /// The host's name.
    pub name: String,
    /// What it carries.
    pub state: HostState,
    /// When it was last heard.
    pub heard_at: Timestamp,
}

/// A token by which a machine may join.
pub(crate) struct Invitation {
    pub name: String,
    pub expires_at: Timestamp,
    /// The key of the host that joined with it.
    pub used_by: Option<String>,
}

pub(crate) async fn find(conn: &mut Conn, name: &str) -> Result<Option<JoinedHost>> {
    conn.first("SELECT * FROM joined_hosts WHERE name = $1", args![name]).await?.as_ref().map(joined).transpose()
}

pub(crate) async fn list(conn: &mut Conn) -> Result<Vec<JoinedHost>> {
    let sql = "SELECT * FROM joined_hosts ORDER BY name LIMIT $1";
    conn.all(sql, args![MOST]).await?.iter().map(joined).collect()
}

pub(crate) async fn save(conn: &mut Conn, host: &JoinedHost) -> Result<()> {
    let sql =
        "INSERT INTO joined_hosts (name, address, key, ends_at, joined_at, revoked_at) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (name) DO UPDATE SET address = excluded.address, key = excluded.key, ends_at = excluded.ends_at,
            joined_at = excluded.joined_at, revoked_at = excluded.revoked_at";
    let JoinedHost { name, address, key, ends_at, joined_at, revoked_at } = host;
    conn.run(sql, args![name, address, key, *ends_at, *joined_at, *revoked_at]).await.map(drop)
}

/// The authority's certificate, its sealed key, and the number of the list of certificates that hold no more.
pub(crate) async fn authority(conn: &mut Conn) -> Result<Option<(String, String, u64)>> {
    let sql = "SELECT certificate, sealed_key, revision FROM host_authority WHERE one = 1";
    let Some(row) = conn.first(sql, args![]).await? else { return Ok(None) };
    Ok(Some((row.text("certificate")?, row.text("sealed_key")?, row.count("revision")?)))
}

pub(crate) async fn make_authority(conn: &mut Conn, certificate: &str, sealed: &str, now: Timestamp) -> Result<()> {
    let sql = "INSERT INTO host_authority (one, certificate, sealed_key, made_at) VALUES (1, $1, $2, $3)";
    conn.run(sql, args![certificate, sealed, now]).await.map(drop)
}

pub(crate) async fn invitation(conn: &mut Conn, key: &str) -> Result<Option<Invitation>> {
    let sql = "SELECT name, expires_at, used_by FROM host_invitations WHERE key = $1";
    let Some(row) = conn.first(sql, args![key]).await? else { return Ok(None) };
    let (name, expires_at, used_by) = (row.text("name")?, row.time("expires_at")?, row.maybe_text("used_by")?);
    Ok(Some(Invitation { name, expires_at, used_by }))
}

/// Makes one; an earlier one for the same name holds no more, and what is long over is forgotten.
pub(crate) async fn invite(conn: &mut Conn, key: &str, name: &str, now: Timestamp, until: Timestamp) -> Result<()> {
    let sql = "DELETE FROM host_invitations WHERE expires_at < $1 OR name = $2";
    conn.run(sql, args![Timestamp(now.0 - 86_400_000), name]).await?;
    let sql = "INSERT INTO host_invitations (key, name, made_at, expires_at) VALUES ($1, $2, $3, $4)";
    conn.run(sql, args![key, name, now, until]).await.map(drop)
}

pub(crate) async fn use_up(conn: &mut Conn, key: &str, by: &str, now: Timestamp) -> Result<()> {
    let sql = "UPDATE host_invitations SET used_at = COALESCE(used_at, $3), used_by = $2 WHERE key = $1";
    conn.run(sql, args![key, by, now]).await.map(drop)
}

/// No token for this name can be used any more.
pub(crate) async fn withdraw(conn: &mut Conn, name: &str) -> Result<()> {
    conn.run("DELETE FROM host_invitations WHERE name = $1", args![name]).await.map(drop)
}

/// Notes a certificate that is given out, and forgets those that have ended.
pub(crate) async fn issued(
    conn: &mut Conn,
    serial: &str,
    kind: &str,
    name: &str,
    ends: Timestamp,
    now: Timestamp,
) -> Result<()> {
    conn.run("DELETE FROM host_certificates WHERE ends_at < $1", args![Timestamp(now.0 - 3_600_000)]).await?;
    let sql = "INSERT INTO host_certificates (serial, kind, name, ends_at) VALUES ($1, $2, $3, $4)";
    conn.run(sql, args![serial, kind, name, ends]).await.map(drop)
}

/// Takes every certificate of a host or a worker back; says whether there was one.
pub(crate) async fn revoke(conn: &mut Conn, kind: &str, name: &str, now: Timestamp) -> Result<bool> {
    let sql = "UPDATE host_certificates SET revoked_at = $3 WHERE kind = $1 AND name = $2 AND revoked_at IS NULL";
    let any = conn.run(sql, args![kind, name, now]).await? > 0;
    if any {
        conn.run("UPDATE host_authority SET revision = revision + 1 WHERE one = 1", args![]).await?;
    }
    Ok(any)
}

/// The next list of revoked certificates has a higher number than `known`.
pub(crate) async fn revise_behind(conn: &mut Conn, known: u64) -> Result<()> {
    let sql = "UPDATE host_authority SET revision = $1 + 1 WHERE one = 1 AND revision < $1";
    conn.run(sql, args![known]).await.map(drop)
}

/// The numbers of certificates that hold no more, and since when.
pub(crate) async fn revoked(conn: &mut Conn) -> Result<Vec<(String, Timestamp)>> {
    let sql = "SELECT serial, revoked_at FROM host_certificates WHERE revoked_at IS NOT NULL ORDER BY revoked_at LIMIT 100000";
    conn.all(sql, args![]).await?.iter().map(|row| Ok((row.text("serial")?, row.time("revoked_at")?))).collect()
}

/// What every host carries, as far as it was told.
pub(crate) async fn states(conn: &mut Conn) -> Result<Vec<ToldState>> {
    let sql = "SELECT name, state, heard_at FROM host_states ORDER BY name LIMIT $1";
    conn.all(sql, args![MOST]).await?.iter().map(told).collect()
}

/// What a host carries, as far as it was told.
pub(crate) async fn state(conn: &mut Conn, name: &str) -> Result<Option<ToldState>> {
    let sql = "SELECT name, state, heard_at FROM host_states WHERE name = $1";
    conn.first(sql, args![name]).await?.as_ref().map(told).transpose()
}

pub(crate) async fn save_state(conn: &mut Conn, name: &str, state: &str, now: Timestamp) -> Result<()> {
    let sql = "INSERT INTO host_states (name, state, heard_at) VALUES ($1, $2, $3)
        ON CONFLICT (name) DO UPDATE SET state = excluded.state, heard_at = excluded.heard_at";
    conn.run(sql, args![name, state, now]).await.map(drop)
}

/// Notes that a host was heard that carries what it did.
pub(crate) async fn heard(conn: &mut Conn, name: &str, now: Timestamp) -> Result<()> {
    conn.run("UPDATE host_states SET heard_at = $2 WHERE name = $1 AND heard_at < $2", args![name, now]).await.map(drop)
}

fn told(row: &Row) -> Result<ToldState> {
    let text = row.text("state")?;
    let state = serde_json::from_str(&text).map_err(|e| StoreError::corrupt("host_states.state", e))?;
    Ok(ToldState { name: row.text("name")?, state, heard_at: row.time("heard_at")? })
}

fn joined(row: &Row) -> Result<JoinedHost> {
    Ok(JoinedHost {
        name: row.text("name")?,
        address: row.text("address")?,
        key: row.text("key")?,
        ends_at: row.time("ends_at")?,
        joined_at: row.time("joined_at")?,
        revoked_at: row.maybe_time("revoked_at")?,
    })
}
