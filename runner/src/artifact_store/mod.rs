//! The contents of artifacts, by the SHA-256 of their bytes: `DIR/artifacts/sha256/ab/<64 digits>`. A file is there whole
//! or not at all. Comes in: a stream of bytes and the digest that they are said to have. Goes out: a path, which hosts and
//! workers on this machine read directly. Never here: names, runs, releases; those are the store's.

use std::{
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use ring::digest::{Context, SHA256};
use segue_schemas::id::Digest;
use tempfile::NamedTempFile;

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
}

type Result<T> = std::result::Result<T, ArtifactError>;

/// The store.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    directory: PathBuf,
}

/// A content that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its length.
    pub bytes: u64,
    /// Whether it was not there before.
    pub new: bool,
}

impl ArtifactStore {
    /// Opens a store, and removes what uploads that broke off have left there.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] where the directory can't be made.
    pub fn open(directory: PathBuf) -> Result<Self> {
        let uploads = directory.join("uploads");
        // nothing is being uploaded before the store is open
        match std::fs::remove_dir_all(&uploads) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io("clear", &uploads)(error)),
            _ => {}
        }
        make_directory(&uploads)?;
        Ok(Self { directory })
    }

    /// Where a content lies, or would lie.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join("sha256").join(&digest.hex()[..2]).join(digest.hex())
    }

    /// The length of a content; `None` if it is not there.
    #[must_use]
    pub fn bytes_of(&self, digest: &Digest) -> Option<u64> {
        std::fs::metadata(self.path(digest)).ok().map(|m| m.len())
    }

    /// Begins to take a content of at most `limit` bytes. Blocking, as its methods are: call them where that is allowed.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] where no file can be made.
    pub fn upload(&self, limit: u64) -> Result<Upload> {
        let uploads = self.directory.join("uploads");
        let file = NamedTempFile::new_in(&uploads).map_err(io("make a file in", &uploads))?;
        Ok(Upload { store: self.clone(), file, sha256: Context::new(&SHA256), bytes: 0, limit })
    }

    /// Removes a content; gives the bytes that this freed.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] where it is there and can't be removed.
    pub fn remove(&self, digest: &Digest) -> Result<u64> {
        let path = self.path(digest);
        let bytes = self.bytes_of(digest).unwrap_or(0);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(io("remove", &path)(error)),
        }
    }

    /// Every content with its length and age, in no order.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] where the directory can't be read.
    pub fn list(&self) -> Result<Vec<(Digest, u64, std::time::SystemTime)>> {
        let mut contents = Vec::new();
        let root = self.directory.join("sha256");
        for folder in entries(&root)? {
            for path in entries(&folder)? {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                let (Ok(digest), Ok(metadata)) = (format!("sha256:{name}").parse(), std::fs::metadata(&path)) else {
                    continue;
                };
                contents.push((digest, metadata.len(), metadata.modified().unwrap_or(std::time::UNIX_EPOCH)));
            }
        }
        Ok(contents)
    }
}

/// A content on its way in. Dropped before [`Upload::finish`], it leaves nothing behind.
pub struct Upload {
    store: ArtifactStore,
    file: NamedTempFile,
    sha256: Context,
    bytes: u64,
    limit: u64,
}

impl Upload {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`ArtifactError::TooLarge`] past the limit, [`ArtifactError::Io`] where they can't be written.
    pub fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.bytes += chunk.len() as u64;
        if self.bytes > self.limit {
            return Err(ArtifactError::TooLarge { limit: self.limit });
        }
        self.sha256.update(chunk);
        self.file.write_all(chunk).map_err(io("write", self.file.path()))
    }

    /// Checks the digest and puts the content into its place, synced.
    ///
    /// # Errors
    /// [`ArtifactError::Digest`] where the bytes are others, [`ArtifactError::Io`] where the place can't be made.
    pub fn finish(self, expected: &Digest) -> Result<Stored> {
        let actual = hex::encode(self.sha256.finish());
        if actual != expected.hex() {
            return Err(ArtifactError::Digest { expected: expected.clone(), actual });
        }
        let path = self.store.path(expected);
        if path.exists() {
            return Ok(Stored { bytes: self.bytes, new: false });
        }
        let folder = path.parent().unwrap_or(&self.store.directory);
        make_directory(folder)?;
        // job users read artifacts; nobody writes them again
        let readable = std::fs::Permissions::from_mode(0o444);
        self.file.as_file().set_permissions(readable).map_err(io("set the mode of", self.file.path()))?;
        self.file.as_file().sync_all().map_err(io("sync", self.file.path()))?;
        self.file.persist(&path).map_err(|e| io("move a file to", &path)(e.error))?;
        std::fs::File::open(folder).and_then(|d| d.sync_all()).map_err(io("sync", folder))?;
        Ok(Stored { bytes: self.bytes, new: true })
    }
}

fn make_directory(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(io("make", path))
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    match std::fs::read_dir(directory) {
        Ok(found) => found.map(|e| e.map(|e| e.path()).map_err(io("read", directory))).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io("read", directory)(error)),
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ArtifactError {
    let path = path.to_owned();
    move |source| ArtifactError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn a_content_is_stored_under_the_digest_of_its_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(directory.path().into()).unwrap();
        let digest: Digest = HELLO.parse().unwrap();
        for new in [true, false] {
            let mut upload = store.upload(100).unwrap();
            upload.write(b"hel").unwrap();
            upload.write(b"lo").unwrap();
            assert_eq!(upload.finish(&digest).unwrap(), Stored { bytes: 5, new });
        }
        assert_eq!(std::fs::read(store.path(&digest)).unwrap(), b"hello");
        assert_eq!(store.list().unwrap().len(), 1);
        assert_eq!(store.remove(&digest).unwrap(), 5);
        assert_eq!(store.bytes_of(&digest), None);
    }

    #[test]
    fn other_bytes_too_many_bytes_and_half_an_upload_leave_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(directory.path().into()).unwrap();
        let digest: Digest = HELLO.parse().unwrap();
        let mut other = store.upload(100).unwrap();
        other.write(b"hullo").unwrap();
        assert!(matches!(other.finish(&digest), Err(ArtifactError::Digest { .. })));
        let mut large = store.upload(4).unwrap();
        assert!(matches!(large.write(b"hello"), Err(ArtifactError::TooLarge { limit: 4 })));
        drop(large);
        store.upload(4).unwrap().write(b"h").unwrap();
        assert_eq!(store.list().unwrap().len(), 0);
        assert_eq!(std::fs::read_dir(directory.path().join("uploads")).unwrap().count(), 0);
    }
}
