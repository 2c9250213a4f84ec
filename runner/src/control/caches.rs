//! Caches of jobs. Who may read what is decided here, by the run alone: a branch reads its own and the default branch's, a pull
//! request its own and its base's, and everybody writes only their own. What foreign code wrote, no code of the repository's
//! own ever reads.

use segue_schemas::{
    config::{Config, RetentionConfig},
    id::JobId,
    trigger::Event,
    worker_api::{CacheEntry, CacheSaved, FindCache, SaveCache},
};

use crate::store::{
    Result, Store, StoreError, Tx,
    tables::{
        blobs,
        caches::{self, Scope},
        jobs,
        runs::{self, Run},
    },
};

/// The longest key.
const MAX_KEY_BYTES: usize = 512;
/// Other keys that will do.
const MAX_RESTORE_KEYS: usize = 10;
/// Caches whose content is gone that are forgotten while one is looked for.
const MAX_GONE: usize = 16;
/// Branches that are taken for the default one where the operator's file names none.
const DEFAULT_BRANCHES: [&str; 2] = ["main", "master"];

impl Store {
    /// The cache that fits best: of the job's own scope first, in each scope the key itself, then what begins with it, then
    /// what begins with one of the restore keys, the newest first.
    pub async fn find_cache(&self, job: JobId, find: FindCache) -> Result<Option<CacheEntry>> {
        check(&find.key)?;
        let too_many = find.restore_keys.len() > MAX_RESTORE_KEYS;
        if too_many {
            return Err(StoreError::Refused(format!("more than {MAX_RESTORE_KEYS} restore keys")));
        }
        find.restore_keys.iter().try_for_each(|key| check(key))?;
        for _ in 0..MAX_GONE {
            let (store, asked) = (self.clone(), find.clone());
            let found =
                self.write(move |tx| Box::pin(async move { self::find(&store, tx, job, &asked).await })).await?;
            let Some((scope, entry)) = found else { return Ok(None) };
            if self.artifact_wanted(&entry.digest).await?.is_some() {
                return Ok(Some(entry));
            }
            // somebody else has removed it from where it lay
            let version = find.version.clone();
            let forget = self.write(move |tx| {
                Box::pin(async move { caches::forget(&mut tx.conn, &scope, &version, &entry.key).await })
            });
            forget.await?;
        }
        Ok(None)
    }

    /// Keeps an uploaded content as a cache of the job's own scope, and forgets those of the repository that are too many.
    pub async fn save_cache(&self, job: JobId, save: SaveCache) -> Result<CacheSaved> {
        check(&save.key)?;
        let Some(bytes) = self.artifact_wanted(&save.digest).await? else {
            return Err(StoreError::Refused(format!(
                "the content {} is not here: upload it, then name it",
                save.digest
            )));
        };
        let store = self.clone();
        self.write(move |tx| Box::pin(async move { self::save(&store, tx, job, save, bytes).await })).await
    }
}

fn check(key: &str) -> Result<()> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(StoreError::Refused(format!(
            "a cache's key has 1 to {MAX_KEY_BYTES} bytes, this one {}",
            key.len()
        )));
    }
    Ok(())
}

async fn find(store: &Store, tx: &mut Tx, job: JobId, find: &FindCache) -> Result<Option<(Scope, CacheEntry)>> {
    let held = jobs::load_held(&mut tx.conn, job, find.epoch).await?;
    let run = runs::load(&mut tx.conn, held.record.run).await?;
    for scope in scopes(&run, store.config()) {
        let exact = caches::of_key(&mut tx.conn, &scope, &find.version, &find.key).await?;
        let mut found = exact;
        for prefix in std::iter::once(&find.key).chain(&find.restore_keys) {
            if found.is_none() {
                found = caches::of_prefix(&mut tx.conn, &scope, &find.version, prefix).await?;
            }
        }
        let Some(entry) = found else { continue };
        if !blobs::is_here(&mut tx.conn, &entry.digest).await? {
            caches::forget(&mut tx.conn, &scope, &find.version, &entry.key).await?;
            continue;
        }
        caches::touch(&mut tx.conn, &scope, &find.version, &entry.key, tx.now).await?;
        // so that it outlives the time until it is fetched
        blobs::touch(&mut tx.conn, &entry.digest, entry.bytes, tx.now).await?;
        return Ok(Some((scope, entry)));
    }
    Ok(None)
}

async fn save(store: &Store, tx: &mut Tx, job: JobId, save: SaveCache, bytes: u64) -> Result<CacheSaved> {
    let held = jobs::load_held(&mut tx.conn, job, save.epoch).await?;
    let run = runs::load(&mut tx.conn, held.record.run).await?;
    let own = own_scope(&run);
    let known = caches::of_key(&mut tx.conn, &own, &save.version, &save.key).await?;
    if let Some(known) = known
        && blobs::is_here(&mut tx.conn, &known.digest).await?
    {
        return Ok(CacheSaved { new: false });
    }
    let rules = &store.config().retention;
    if bytes > rules.caches_max_mib << 20 {
        return Err(StoreError::Refused(format!(
            "the cache has {bytes} bytes, more than all of a repository may have (`retention.caches-max-mib`: {})",
            rules.caches_max_mib
        )));
    }
    caches::forget(&mut tx.conn, &own, &save.version, &save.key).await?;
    let entry = CacheEntry { key: save.key, digest: save.digest, bytes };
    caches::insert(&mut tx.conn, &own, &save.version, &entry, tx.now).await?;
    make_room(tx, &own.repository, rules).await?;
    Ok(CacheSaved { new: true })
}

async fn make_room(tx: &mut Tx, repository: &str, rules: &RetentionConfig) -> Result<()> {
    let (mut count, mut bytes) = caches::total(&mut tx.conn, repository).await?;
    while count > u64::from(rules.caches_max_count.max(1)) || bytes > rules.caches_max_mib << 20 {
        let Some(freed) = caches::forget_oldest(&mut tx.conn, repository).await? else { break };
        count -= 1;
        bytes -= freed.min(bytes);
    }
    Ok(())
}

fn own_scope(run: &Run) -> Scope {
    Scope {
        repository: run.record.repository.clone(),
        git_ref: run.record.git_ref.clone(),
        trusted: run.record.trusted,
    }
}

/// What a run may read, the best first.
fn scopes(run: &Run, config: &Config) -> Vec<Scope> {
    let own = own_scope(run);
    let others: Vec<String> = match &run.trigger.event {
        Event::PullRequest { base_ref, .. } => vec![base_ref.clone()],
        _ => match config.repositories.get(&own.repository).and_then(|repository| repository.default_branch.clone()) {
            Some(branch) => vec![branch],
            None => DEFAULT_BRANCHES.map(str::to_owned).into(),
        },
    };
    let others = others.into_iter().map(|branch| Scope {
        repository: own.repository.clone(),
        git_ref: format!("refs/heads/{branch}"),
        trusted: true,
    });
    let mut all = vec![own.clone()];
    all.extend(others.filter(|other| *other != own));
    all
}
