//! What servers that share a database have in common: who they are together, the tokens and the webhook's secret (sealed with the
//! key of secrets, which each of them must be given), and a lock for each content that lies where all reach it.

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    Postgres,
    pool::PoolConnection,
    postgres::{PgAdvisoryLock, PgAdvisoryLockGuard, PgAdvisoryLockKey},
};

use super::{
    Readers, Result, SecretScope, Store, StoreError,
    sql::{Conn, args},
};

/// Begins the keys of contents' locks, which are two numbers.
const CONTENTS: i32 = 0x5e60_e002;

/// Held while a content comes or goes, by one server alone.
pub(crate) type SharedLock = PgAdvisoryLockGuard<PoolConnection<Postgres>>;

impl Store {
    /// Who the servers are together, for places that belong to one store; `None` where there is one server.
    pub(crate) async fn identity(&self) -> Result<Option<String>> {
        if self.server().is_none() {
            return Ok(None);
        }
        let own = uuid::Uuid::new_v4().simple().to_string();
        self.write(move |tx| Box::pin(async move { first_of(&mut tx.conn, "identity", own).await.map(Some) })).await
    }

    /// A token or secret that all servers have, if one of them has told it.
    pub(crate) async fn common_secret(&self, name: &'static str) -> Result<Option<SecretString>> {
        let row = self.read().await?.first("SELECT value FROM shared WHERE name = $1", args![name]).await?;
        row.map(|row| self.opened(name, &row.text("value")?)).transpose()
    }

    /// Tells the others a token or secret; gives the one that counts, as another server may have been first.
    pub(crate) async fn tell_common_secret(&self, name: &'static str, own: &SecretString) -> Result<SecretString> {
        let sealed = self.inner.secrets.seal(&SecretScope::default(), name, own.expose_secret())?;
        let sealed = self.write(move |tx| Box::pin(async move { first_of(&mut tx.conn, name, sealed).await })).await?;
        self.opened(name, &sealed)
    }

    fn opened(&self, name: &str, sealed: &str) -> Result<SecretString> {
        let opened = self.inner.secrets.open(&SecretScope::default(), name, sealed).map_err(|error| {
            StoreError::Refused(format!(
                "this server has not the key of the others that share its database ({error}): copy the file of \
                 `secrets.key-file` from one of them, and name it in segue.yaml"
            ))
        })?;
        Ok(SecretString::from(opened.as_str()))
    }

    /// Keeps other servers away from a content while it comes or goes; `None` where there is none.
    pub(crate) async fn lock_content(&self, number: u8) -> Result<Option<SharedLock>> {
        let Readers::Postgres(database) = &self.inner.readers else { return Ok(None) };
        let lock = PgAdvisoryLock::with_key(PgAdvisoryLockKey::IntPair(CONTENTS, i32::from(number)));
        let pool = database.locks().clone();
        // a caller that goes away meanwhile must not leave a lock that nobody gives back
        let taking = tokio::spawn(async move { lock.acquire(pool.acquire().await?).await });
        let taken = taking.await.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Some(taken?))
    }
}

/// Stores a value unless there is one; gives the one that there is.
async fn first_of(conn: &mut Conn, name: &'static str, own: String) -> Result<String> {
    let sql = "INSERT INTO shared (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
    conn.run(sql, args![name, own]).await?;
    let row = conn.first("SELECT value FROM shared WHERE name = $1", args![name]).await?;
    row.ok_or_else(|| StoreError::corrupt("shared", "what was stored is not there"))?.text("value")
}
