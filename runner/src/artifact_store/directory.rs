//! Contents as files: `DIR/sha256/ab/<64 digits>`, which hosts and workers of this machine read directly.

use std::{
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use ring::digest::{Context, SHA256};
use segue_schemas::id::Digest;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::io::ReaderStream;

use super::{ArtifactError, Content, Listed, Result, Stored, checked, io};

/// Parts of a content between the connection and the disk.
const PARTS: usize = 8;
const FILE_BUFFER_BYTES: usize = 256 * 1024;
/// Says whose the contents are, and where they lie.
const NOTE: &str = "store.json";

#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
}

/// What [`NOTE`] holds.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// Made once for each data directory: what a bucket's prefix is claimed with.
    identity: String,
    /// The bucket; absent where contents lie beside this file.
    #[serde(default)]
    bucket: Option<String>,
}

impl Directory {
    /// Opens it, and removes what uploads that broke off have left there.
    pub fn open(root: PathBuf) -> Result<Self> {
        let uploads = root.join("uploads");
        // nothing is being uploaded before the store is open
        match std::fs::remove_dir_all(&uploads) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io("clear", &uploads)(error)),
            _ => {}
        }
        make_directory(&uploads)?;
        Ok(Self { root })
    }

    /// Writes down where contents lie, for backups, which know no configuration.
    pub fn note_where(&self, bucket: Option<&str>) -> Result<()> {
        let known = read_note(&self.root);
        if known.as_ref().map_or(bucket.is_none(), |known| known.bucket.as_deref() == bucket) {
            return Ok(());
        }
        if let Some(before) = known.as_ref().and_then(|known| known.bucket.as_deref()) {
            tracing::warn!(
                before,
                now = bucket,
                "contents lie elsewhere from now on; what was stored before is no longer found"
            );
        }
        let identity = known.map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), |known| known.identity);
        let path = self.root.join(NOTE);
        let text = serde_json::to_vec(&Note { identity, bucket: bucket.map(str::to_owned) })
            .map_err(|error| io("write", &path)(error.into()))?;
        let mut file = NamedTempFile::new_in(&self.root).map_err(io("make a file in", &self.root))?;
        file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(io("write", &path))?;
        file.persist(&path).map_err(|error| io("write", &path)(error.error))?;
        Ok(())
    }

    /// What tells this data directory from every other.
    pub fn identity(&self) -> Result<String> {
        let path = self.root.join(NOTE);
        let gone = || io("read", &path)(std::io::ErrorKind::InvalidData.into());
        read_note(&self.root).map(|note| note.identity).ok_or_else(gone)
    }

    /// Where a content lies, or would lie.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join("sha256").join(&digest.hex()[..2]).join(digest.hex())
    }

    pub fn bytes_of(&self, digest: &Digest) -> Option<u64> {
        std::fs::metadata(self.path(digest)).ok().map(|m| m.len())
    }

    /// Begins to take a content. Hashing and writing block; the parts reach them through a short queue.
    pub fn upload(&self, digest: &Digest, limit: u64) -> DirectoryUpload {
        let (parts, mut queue) = mpsc::channel::<Part>(PARTS);
        let (directory, expected) = (self.clone(), digest.clone());
        let writing = tokio::task::spawn_blocking(move || {
            let mut file = Writing::new(&directory, limit)?;
            while let Some(part) = queue.blocking_recv() {
                match part {
                    Part::Bytes(bytes) => file.write(&bytes)?,
                    Part::End => return file.finish(&directory, &expected).map(Some),
                }
            }
            // the caller has gone away
            Ok(None)
        });
        DirectoryUpload { parts, writing: Some(writing), root: self.root.clone() }
    }

    pub async fn read(&self, digest: &Digest) -> Result<Option<Content>> {
        let path = self.path(digest);
        let file = match tokio::fs::File::open(&path).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("read", &path)(error)),
        };
        let bytes = file.metadata().await.map_err(io("read", &path))?.len();
        let stream = ReaderStream::with_capacity(file, FILE_BUFFER_BYTES);
        let stream = stream.map_err(move |error| io("read", &path)(error)).boxed();
        Ok(Some(Content { bytes, stream }))
    }

    pub fn remove(&self, digest: &Digest) -> Result<u64> {
        let path = self.path(digest);
        let bytes = self.bytes_of(digest).unwrap_or(0);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(io("remove", &path)(error)),
        }
    }

    pub async fn list(&self) -> Result<Vec<Listed>> {
        let directory = self.clone();
        let listed = tokio::task::spawn_blocking(move || directory.look());
        listed.await.map_err(|error| io("read", &self.root)(std::io::Error::other(error)))?
    }

    fn look(&self) -> Result<Vec<Listed>> {
        let mut contents = Vec::new();
        for folder in entries(&self.root.join("sha256"))? {
            for path in entries(&folder)? {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                let (Ok(digest), Ok(metadata)) = (format!("sha256:{name}").parse(), std::fs::metadata(&path)) else {
                    continue;
                };
                let since = metadata.modified().unwrap_or(std::time::UNIX_EPOCH);
                contents.push(Listed { digest, bytes: metadata.len(), since });
            }
        }
        Ok(contents)
    }
}

/// Where contents lie, if not in their directory.
pub fn noted_where(root: &Path) -> Option<String> {
    read_note(root)?.bucket
}

fn read_note(root: &Path) -> Option<Note> {
    serde_json::from_slice(&std::fs::read(root.join(NOTE)).ok()?).ok()
}

enum Part {
    Bytes(Bytes),
    End,
}

/// A content on its way to the disk.
pub struct DirectoryUpload {
    parts: mpsc::Sender<Part>,
    writing: Option<JoinHandle<Result<Option<Stored>>>>,
    root: PathBuf,
}

impl DirectoryUpload {
    pub async fn write(&mut self, part: Bytes) -> Result<()> {
        if self.parts.send(Part::Bytes(part)).await.is_ok() {
            return Ok(());
        }
        // the writer has given up: its error says why
        self.ended().await.map(drop)
    }

    pub async fn finish(mut self) -> Result<Stored> {
        // an error here: the writer has given up, as below
        let _ = self.parts.send(Part::End).await;
        self.ended().await
    }

    async fn ended(&mut self) -> Result<Stored> {
        let broke_off = |error: std::io::Error| io("write in", &self.root)(error);
        let Some(writing) = self.writing.take() else {
            return Err(broke_off(std::io::ErrorKind::BrokenPipe.into()));
        };
        let ended = writing.await.map_err(|error| broke_off(std::io::Error::other(error)))??;
        ended.ok_or_else(|| broke_off(std::io::ErrorKind::BrokenPipe.into()))
    }
}

/// The file of an upload, which goes away with this.
struct Writing {
    file: NamedTempFile,
    sha256: Context,
    bytes: u64,
    limit: u64,
}

impl Writing {
    fn new(directory: &Directory, limit: u64) -> Result<Self> {
        let uploads = directory.root.join("uploads");
        let file = NamedTempFile::new_in(&uploads).map_err(io("make a file in", &uploads))?;
        Ok(Self { file, sha256: Context::new(&SHA256), bytes: 0, limit })
    }

    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.bytes += chunk.len() as u64;
        if self.bytes > self.limit {
            return Err(ArtifactError::TooLarge { limit: self.limit });
        }
        self.sha256.update(chunk);
        self.file.write_all(chunk).map_err(io("write", self.file.path()))
    }

    fn finish(self, directory: &Directory, expected: &Digest) -> Result<Stored> {
        checked(expected, self.sha256)?;
        let path = directory.path(expected);
        if path.exists() {
            return Ok(Stored { bytes: self.bytes, new: false });
        }
        let folder = path.parent().unwrap_or(&directory.root);
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
