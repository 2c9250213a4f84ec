//! The contents of artifacts and caches, by the SHA-256 of their bytes. A content is there whole or not at all. Comes in: a
//! stream of bytes and the digest that they are said to have. Goes out: such a stream, or a path where the content is a file
//! of this machine. Never here: names, runs, releases; those are the store's, and so is which content may go.
//!
//! There are two places for them: the data directory (`directory`), and a bucket (`bucket`), beside which the directory is still
//! read, so that an installation can move to a bucket and keep what it has.

mod bucket;
mod directory;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use segue_schemas::{
    config::{StorageConfig, StorageKind},
    id::Digest,
};

use self::{
    bucket::{Bucket, BucketUpload},
    directory::{Directory, DirectoryUpload},
};

pub use self::bucket::{Trouble, TroubleKind};

/// Why a content can't be stored or found.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The bytes are not those of the digest.
    #[error("the bytes are those of sha256:{actual}, not of {expected}: pack and upload the artifact again")]
    Digest {
        /// What was said.
        expected: Digest,
        /// What they have, in hexadecimal digits.
        actual: String,
    },
    /// More bytes than allowed.
    #[error("the artifact is larger than {limit} bytes")]
    TooLarge {
        /// How many are allowed.
        limit: u64,
    },
    /// The directory can't be read or written.
    #[error("the artifact store can't {action} {path}: {source}")]
    Io {
        /// `make`, `write`, ...
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The bucket can't be read or written.
    #[error("the object store {place} can't {action}: {trouble}")]
    Bucket {
        /// `take an artifact`, ...
        action: &'static str,
        /// Bucket, prefix and address.
        place: Arc<str>,
        /// What is wrong, and what to do.
        trouble: Trouble,
    },
    /// The section `storage` of the configuration can't be used.
    #[error("`storage` in segue.yaml: {0}")]
    Configuration(String),
}

type Result<T> = std::result::Result<T, ArtifactError>;

/// A content that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its length.
    pub bytes: u64,
    /// Whether it was not there before.
    pub new: bool,
}

/// A content on its way out.
pub struct Content {
    /// Its length.
    pub bytes: u64,
    /// Its bytes. An item that is an error is the last.
    pub stream: BoxStream<'static, Result<Bytes>>,
}

/// A content that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// When it was stored, by the clock of the place where it lies.
    pub since: SystemTime,
}

/// The store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    directory: Directory,
    bucket: Option<Bucket>,
}

impl ArtifactStore {
    /// Opens the store of a data directory, and removes what uploads that broke off have left there. Nothing is sent to a bucket
    /// yet: [`ArtifactStore::check`] does that.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] where the directory can't be made, [`ArtifactError::Configuration`] where a bucket is not
    /// described as it must be.
    pub fn open(storage: &StorageConfig, directory: PathBuf) -> Result<Self> {
        let bucket = match storage.kind {
            StorageKind::Directory => None,
            StorageKind::S3 => Some(Bucket::new(storage, directory.join("multipart"))?),
        };
        let directory = Directory::open(directory)?;
        directory.note_where(bucket.as_ref().map(Bucket::place))?;
        Ok(Self { directory, bucket })
    }

    /// Whether contents can be stored, read and removed, by doing so; whether the place is this store's alone. A directory was
    /// looked at when it was opened. `store` says whose the place is, where several servers are one store.
    ///
    /// # Errors
    /// [`ArtifactError::Bucket`] with what is wrong, and what to do.
    pub async fn check(&self, store: Option<&str>) -> Result<()> {
        match &self.bucket {
            Some(bucket) => {
                bucket.check().await?;
                match store {
                    Some(store) => bucket.claim(store).await,
                    None => bucket.claim(&self.directory.identity()?).await,
                }
            }
            None => Ok(()),
        }
    }

    /// Where a content lies as a file of this machine, if it does.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> Option<PathBuf> {
        let path = self.directory.path(digest);
        (self.bucket.is_none() || path.exists()).then_some(path)
    }

    /// The length of a content; `None` if it is not there.
    ///
    /// # Errors
    /// [`ArtifactError::Bucket`] where that can't be known now.
    pub async fn bytes_of(&self, digest: &Digest) -> Result<Option<u64>> {
        if let Some(bytes) = self.directory.bytes_of(digest) {
            return Ok(Some(bytes));
        }
        match &self.bucket {
            Some(bucket) => bucket.bytes_of(digest).await,
            None => Ok(None),
        }
    }

    /// Begins to take a content of at most `limit` bytes.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] where no file can be made, [`ArtifactError::Bucket`] where too many are on their way.
    pub async fn upload(&self, digest: &Digest, limit: u64) -> Result<Upload> {
        Ok(Upload(match &self.bucket {
            Some(bucket) => Place::Bucket(Box::new(bucket.upload(digest, limit).await?)),
            None => Place::Directory(self.directory.upload(digest, limit)),
        }))
    }

    /// A content, to be read; `None` if it is not there.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] or [`ArtifactError::Bucket`] where it can't be read.
    pub async fn read(&self, digest: &Digest) -> Result<Option<Content>> {
        if let Some(content) = self.directory.read(digest).await? {
            return Ok(Some(content));
        }
        match &self.bucket {
            Some(bucket) => bucket.read(digest).await,
            None => Ok(None),
        }
    }

    /// Removes a content; gives the bytes of disk that this freed here.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] or [`ArtifactError::Bucket`] where it may still be there.
    pub async fn remove(&self, digest: &Digest) -> Result<u64> {
        let freed = self.directory.remove(digest)?;
        if let Some(bucket) = &self.bucket {
            bucket.remove(digest).await?;
        }
        Ok(freed)
    }

    /// Every content, in no order. An item that is an error is the last.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] where the directory can't be read.
    pub async fn list(&self) -> Result<BoxStream<'static, Result<Listed>>> {
        let files = futures_util::stream::iter(self.directory.list().await?.into_iter().map(Ok));
        Ok(match &self.bucket {
            Some(bucket) => files.chain(bucket.list()).boxed(),
            None => files.boxed(),
        })
    }

    /// Removes what uploads that broke off have left in a bucket; how many there were.
    ///
    /// # Errors
    /// [`ArtifactError`] where some are still there.
    pub async fn remove_broken_uploads(&self) -> Result<usize> {
        match &self.bucket {
            Some(bucket) => bucket.abort_left().await,
            None => Ok(0),
        }
    }
}

/// A content on its way in. Dropped before [`Upload::finish`] has returned, it leaves nothing behind.
pub struct Upload(Place);

enum Place {
    Directory(DirectoryUpload),
    Bucket(Box<BucketUpload>),
}

impl Upload {
    /// Takes the next bytes. Waits while those before them are still on their way.
    ///
    /// # Errors
    /// [`ArtifactError::TooLarge`] past the limit, [`ArtifactError::Io`] or [`ArtifactError::Bucket`] where they can't be written.
    pub async fn write(&mut self, part: Bytes) -> Result<()> {
        match &mut self.0 {
            Place::Directory(upload) => upload.write(part).await,
            Place::Bucket(upload) => upload.write(part).await,
        }
    }

    /// Checks the digest and gives the content its name; it outlives a power cut from then on.
    ///
    /// # Errors
    /// [`ArtifactError::Digest`] where the bytes are others, [`ArtifactError::Io`] or [`ArtifactError::Bucket`] where it
    /// can't be named.
    pub async fn finish(self) -> Result<Stored> {
        match self.0 {
            Place::Directory(upload) => upload.finish().await,
            Place::Bucket(upload) => upload.finish().await,
        }
    }
}

/// Whether a bucket that the configuration describes can be used, by using it; what it is called. Nothing stays there.
///
/// # Errors
/// [`ArtifactError`] with what is wrong, and what to do.
pub async fn try_bucket(storage: &StorageConfig) -> Result<String> {
    let scratch = tempfile::tempdir().map_err(io("make", &std::env::temp_dir()))?;
    let bucket = Bucket::new(storage, scratch.path().into())?;
    bucket.check().await?;
    Ok(bucket.place().to_string())
}

/// Where the contents of a data directory lie, if not in it.
#[must_use]
pub fn elsewhere(data: &Path) -> Option<String> {
    directory::noted_where(&data.join("artifacts"))
}

fn checked(expected: &Digest, sha256: ring::digest::Context) -> Result<()> {
    let actual = hex::encode(sha256.finish());
    if actual == expected.hex() { Ok(()) } else { Err(ArtifactError::Digest { expected: expected.clone(), actual }) }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ArtifactError {
    let path = path.to_owned();
    move |source| ArtifactError::Io { action, path, source }
}
