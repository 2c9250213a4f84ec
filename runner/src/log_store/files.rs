//! Logs as files of the data directory, one a job, by date: `DIR/logs/YYYY-MM-DD/run-<id>/<attempt>-<key>-<job>.log`, so that
//! `ls`, `grep` and `less` are enough to read them.

use std::{
    collections::HashMap,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use segue_schemas::id::{Epoch, JobId};
use tokio::sync::watch;

use super::{LogError, Result, file::OpenLog};

/// The logs of one data directory. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Files {
    directory: Arc<Path>,
    /// Logs that are being written, or that somebody follows.
    open: Arc<Mutex<HashMap<JobId, Arc<OpenLog>>>>,
}

/// How a log stands, for those who follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Bytes that can be read.
    pub(super) bytes: u64,
    /// Whether nothing will come any more.
    pub(super) ended: bool,
}

impl Files {
    /// Opens the logs below a directory, which is made where it is not there.
    ///
    /// # Errors
    /// [`LogError::Io`] where it can't be made.
    pub(super) fn open(directory: PathBuf) -> Result<Self> {
        make_directory(&directory).map_err(|source| LogError::Io {
            action: "opened",
            path: directory.clone(),
            source,
        })?;
        Ok(Self { directory: directory.into(), open: Arc::default() })
    }

    /// Takes a log over for the holder of an epoch: from now on chunks under lower ones are refused. Gives the length, where
    /// the holder goes on. If the file is shorter than the `acknowledged` bytes, the gap is filled with a line that says so.
    ///
    /// # Errors
    /// [`LogError::Stale`] where a higher epoch has it, [`LogError::Io`] where the file can't be opened.
    pub(super) async fn begin(&self, job: JobId, epoch: Epoch, path: &str, acknowledged: u64) -> Result<u64> {
        self.opened(job, path)?.begin(job, epoch, acknowledged).await
    }

    /// Writes a chunk at its offset, as far as it is new. Gives the length afterwards: where it is below the end of the
    /// chunk, the chunk would have left a gap and was not written.
    ///
    /// # Errors
    /// [`LogError::Stale`] where a higher epoch has the log, [`LogError::Io`] where the file can't be written.
    pub(super) async fn append(&self, job: JobId, epoch: Epoch, path: &str, offset: u64, chunk: Bytes) -> Result<u64> {
        self.opened(job, path)?.append(job, epoch, offset, chunk).await
    }

    /// Whether the log is open for writing under this epoch, so that a chunk needs no look into the database.
    pub(super) fn is_written_under(&self, job: JobId, epoch: Epoch) -> Option<String> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&job).filter(|log| log.is_written_under(epoch)).map(|log| log.relative.clone())
    }

    /// Nothing more will be written under an epoch up to this one. `ended`: nor under a later one.
    pub(super) fn release(&self, job: JobId, ended: bool) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = open.remove(&job) {
            log.close(ended);
            // those who follow go on being told, if it is only a pause
            if !ended && log.is_followed() {
                open.insert(job, log);
            }
        }
    }

    /// Follows a log's length while it is written. For one that nobody writes, `ended` is `false` until somebody has
    /// written and ended it: look the job's status up as well.
    ///
    /// # Errors
    /// [`LogError::Io`] where the file is there and can't be opened.
    pub(super) fn follow(&self, job: JobId, path: &str) -> Result<watch::Receiver<Extent>> {
        Ok(self.opened(job, path)?.follow())
    }

    /// At most `limit` bytes from an offset on; empty at the end. Blocking: call it where that is allowed.
    ///
    /// # Errors
    /// [`LogError::Io`] where the file can't be read; a file that is not there is an empty log.
    pub(super) fn read(&self, path: &str, offset: u64, limit: usize) -> Result<Bytes> {
        let path = self.directory.join(path);
        let failed = |source| LogError::Io { action: "read", path: path.clone(), source };
        let mut file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Bytes::new()),
            Err(error) => return Err(failed(error)),
        };
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        let mut bytes = Vec::with_capacity(limit.min(1 << 20));
        file.take(limit as u64).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes.into())
    }

    /// The length of a log's file.
    pub(super) fn bytes(&self, path: &str) -> u64 {
        std::fs::metadata(self.directory.join(path)).map_or(0, |m| m.len())
    }

    /// Removes a log, and the folders that this leaves empty; gives the bytes that this freed.
    ///
    /// # Errors
    /// [`LogError::Io`] where the file is there and can't be removed.
    pub(super) fn remove(&self, path: &str) -> Result<u64> {
        let path = self.directory.join(path);
        let bytes = std::fs::metadata(&path).map_or(0, |m| m.len());
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(source) => return Err(LogError::Io { action: "removed", path, source }),
        }
        // the run's folder, then the day's; the first that still holds something stays, and so does the next
        for folder in path.ancestors().skip(1).take(2) {
            if std::fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(bytes)
    }

    fn opened(&self, job: JobId, relative: &str) -> Result<Arc<OpenLog>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = open.get(&job) {
            return Ok(log.clone());
        }
        // logs that were only followed are closed when their followers have gone
        open.retain(|_, log| log.is_written() || log.is_followed());
        let log = Arc::new(OpenLog::open(self.directory.join(relative), relative.to_owned())?);
        open.insert(job, log.clone());
        Ok(log)
    }
}

pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
