//! Contents of artifacts and caches: which are there, which come, which go. Where they lie is asked outside of transactions,
//! since the answer may be long in coming; what is recorded of them is the truth about what may go. A content goes in three
//! steps: a transaction puts it on its way out, it is removed, a transaction forgets it. In between it counts as gone, so that
//! nobody relies on it, and whoever needs it brings it anew. A removal that fails is repeated by the next sweep.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use segue_schemas::id::Digest;
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    artifact_store::{ArtifactError, Listed, Stored, Upload},
    store::{Result, SharedLock, Store, tables::blobs},
};

/// What was uploaded and never named by then, never will be.
const ORPHANED_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Removals that are read, and that are under way, at a time.
const READ_AT_ONCE: usize = 100;
const AT_ONCE: usize = 8;
/// After so many failures a sweep gives up until the next.
const MAX_FAILURES: usize = 16;

/// Who works on a content, which coming, going and being counted on exclude each other; contents share a few locks.
#[derive(Debug)]
pub(crate) struct ContentLocks([Mutex<()>; 64]);

impl Default for ContentLocks {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl ContentLocks {
    async fn of(&self, number: u8) -> MutexGuard<'_, ()> {
        self.0[usize::from(number) % self.0.len()].lock().await
    }
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Contents that are gone.
    pub(crate) removed: usize,
    /// Bytes of disk that this freed here.
    pub(crate) freed: u64,
}

impl Store {
    /// Nobody else works on the content while this is held: neither here, nor on another server.
    async fn alone_with(&self, digest: &Digest) -> Result<(MutexGuard<'_, ()>, Option<SharedLock>)> {
        let number = u8::from_str_radix(&digest.hex()[..2], 16).unwrap_or(0);
        let here = self.inner.content_locks.of(number).await;
        Ok((here, self.lock_content(number).await?))
    }

    /// Whether a content is here, and how long it is; from now on it is kept for an hour at least, so that whoever asked can
    /// name it.
    pub async fn artifact_wanted(&self, digest: &Digest) -> Result<Option<u64>> {
        let _alone = self.alone_with(digest).await?;
        let Some(bytes) = self.artifacts().bytes_of(digest).await? else { return Ok(None) };
        let digest = digest.clone();
        self.write(move |tx| {
            Box::pin(async move {
                if blobs::is_condemned(&mut tx.conn, &digest).await? {
                    return Ok(None);
                }
                blobs::touch(&mut tx.conn, &digest, bytes, tx.now).await?;
                Ok(Some(bytes))
            })
        })
        .await
    }

    /// Takes a content whose last byte has come.
    pub async fn keep_content(&self, digest: &Digest, upload: Upload) -> std::result::Result<Stored, KeepError> {
        let _alone = self.alone_with(digest).await?;
        let stored = upload.finish().await?;
        let (digest, bytes) = (digest.clone(), stored.bytes);
        self.write(move |tx| {
            Box::pin(async move {
                blobs::forget_removal(&mut tx.conn, &digest).await?;
                blobs::touch(&mut tx.conn, &digest, bytes, tx.now).await
            })
        })
        .await?;
        Ok(stored)
    }

    /// Puts contents on their way out that nobody ever named: uploads whose job was lost.
    pub(crate) async fn condemn_orphans(&self) -> Result<()> {
        let now = std::time::SystemTime::now();
        let mut listed = self.artifacts().list().await?;
        while let Some(Listed { digest, bytes, since }) = listed.try_next().await? {
            let is_old = now.duration_since(since).is_ok_and(|age| age >= ORPHANED_AFTER);
            if !is_old || blobs::is_here(&mut self.read().await?, &digest).await? {
                continue;
            }
            self.write(move |tx| {
                Box::pin(async move {
                    // somebody may have come to want it meanwhile
                    if blobs::is_here(&mut tx.conn, &digest).await? {
                        return Ok(());
                    }
                    blobs::condemn(&mut tx.conn, &digest, bytes, tx.now).await
                })
            })
            .await?;
        }
        Ok(())
    }

    /// Removes what is on its way out. What can't be removed stays there, and is said.
    pub(crate) async fn sweep(&self) -> Result<Swept> {
        let (mut swept, mut failures, mut after) = (Swept::default(), 0, String::new());
        loop {
            let removals = blobs::removals(&mut self.read().await?, &after, READ_AT_ONCE).await?;
            let Some(last) = removals.last() else { break };
            after = last.as_str().to_owned();
            let mut removing = stream::iter(removals).map(|digest| self.remove(digest)).buffer_unordered(AT_ONCE);
            while let Some(removed) = removing.next().await {
                match removed {
                    Ok(one) => swept = Swept { removed: swept.removed + one.removed, freed: swept.freed + one.freed },
                    Err(error) => {
                        tracing::warn!(%error, "a content that nobody needs is still there; tried again in an hour");
                        failures += 1;
                    }
                }
                if failures >= MAX_FAILURES {
                    return Ok(swept);
                }
            }
        }
        Ok(swept)
    }

    async fn remove(&self, digest: Digest) -> Result<Swept> {
        let _alone = self.alone_with(&digest).await?;
        // it may have come anew
        if !blobs::is_condemned(&mut self.read().await?, &digest).await? {
            return Ok(Swept::default());
        }
        let freed = self.artifacts().remove(&digest).await?;
        self.write(move |tx| Box::pin(async move { blobs::forget_removal(&mut tx.conn, &digest).await })).await?;
        Ok(Swept { removed: 1, freed })
    }
}

/// Why a content was not taken.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// It could not be stored.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// It could not be recorded.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}
