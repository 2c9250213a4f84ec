use segue_schemas::id::is_name;
use zeroize::Zeroizing;

use super::{
    Result, SecretRecord, SecretScope, Store, StoreError,
    sql::{Conn, args},
};
use crate::secrets::SecretBox;

/// Bytes that a secret may have.
const LARGEST: usize = 64 << 10;

impl Store {
    /// Sets a secret. The value is sealed before it goes anywhere.
    pub async fn put_secret(&self, scope: SecretScope, name: &str, value: Zeroizing<String>, by: String) -> Result<()> {
        if !is_name(name) || name.contains(['.', '-']) {
            return Err(StoreError::Refused(format!("`{name}` can't name a secret: use letters, digits and `_`")));
        }
        if value.is_empty() || value.len() > LARGEST {
            return Err(StoreError::Refused(format!("a secret has 1 to {LARGEST} bytes; {name} has {}", value.len())));
        }
        let sealed = self.inner.secrets.seal(&scope, name, &value)?;
        // of servers that share a database, each must be able to open what any of them seals
        if self.server().is_some() {
            self.check_key().await?;
        }
        let name = name.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let sql = "INSERT INTO secrets (repository, environment, name, sealed, updated_by, updated_at)
                    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (repository, environment, name)
                    DO UPDATE SET sealed = excluded.sealed, updated_by = excluded.updated_by, updated_at = excluded.updated_at";
                let (repository, environment) = columns(&scope);
                tx.conn.run(sql, args![repository, environment, name, sealed, by, tx.now]).await?;
                Ok(())
            })
        })
        .await
    }

    /// Whether this server has the key that the secrets were sealed with: it opens one of them.
    ///
    /// # Errors
    /// [`StoreError::Secret`] where it has another one.
    pub(crate) async fn check_key(&self) -> Result<()> {
        let sql = "SELECT repository, environment, name, sealed FROM secrets ORDER BY updated_at DESC LIMIT 1";
        let Some(row) = self.read().await?.first(sql, args![]).await? else { return Ok(()) };
        let some = |text: String| Some(text).filter(|t| !t.is_empty());
        let scope =
            SecretScope { repository: some(row.text("repository")?), environment: some(row.text("environment")?) };
        self.inner.secrets.open(&scope, &row.text("name")?, &row.text("sealed")?)?;
        Ok(())
    }

    /// Removes a secret; says whether there was one.
    pub async fn delete_secret(&self, scope: SecretScope, name: &str) -> Result<bool> {
        let name = name.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let sql = "DELETE FROM secrets WHERE repository = $1 AND environment = $2 AND name = $3";
                let (repository, environment) = columns(&scope);
                Ok(tx.conn.run(sql, args![repository, environment, name]).await? > 0)
            })
        })
        .await
    }

    /// The secrets that there are, by scope and name, without their values.
    pub async fn secrets(&self) -> Result<Vec<SecretRecord>> {
        let sql = "SELECT repository, environment, name, updated_by, updated_at FROM secrets
            ORDER BY repository, environment, name LIMIT 10000";
        let rows = self.read().await?.all(sql, args![]).await?;
        let some = |text: String| Some(text).filter(|t| !t.is_empty());
        let record = |row: &super::sql::Row| {
            Ok(SecretRecord {
                scope: SecretScope {
                    repository: some(row.text("repository")?),
                    environment: some(row.text("environment")?),
                },
                name: row.text("name")?,
                updated_by: row.text("updated_by")?,
                updated_at: row.time("updated_at")?,
            })
        };
        rows.iter().map(record).collect()
    }
}

/// Opens the named secret for a job of a repository and an environment. The narrowest scope wins: repository and
/// environment, then environment, then repository, then everywhere. `None`: there is none of that name.
pub(crate) async fn open_secret(
    conn: &mut Conn,
    secrets: &SecretBox,
    repository: &str,
    environment: Option<&str>,
    name: &str,
) -> Result<Option<Zeroizing<String>>> {
    let sql = "SELECT repository, environment, sealed FROM secrets
        WHERE name = $1 AND repository IN ($2, '') AND environment IN ($3, '')
        ORDER BY environment DESC, repository DESC LIMIT 1";
    let Some(row) = conn.first(sql, args![name, repository, environment.unwrap_or_default()]).await? else {
        return Ok(None);
    };
    let some = |text: String| Some(text).filter(|t| !t.is_empty());
    let scope = SecretScope { repository: some(row.text("repository")?), environment: some(row.text("environment")?) };
    Ok(Some(secrets.open(&scope, name, &row.text("sealed")?)?))
}

fn columns(scope: &SecretScope) -> (String, String) {
    (scope.repository.clone().unwrap_or_default(), scope.environment.clone().unwrap_or_default())
}
