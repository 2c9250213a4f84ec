//! Logs of jobs. Comes in: chunks with an epoch and an offset. Goes out: bytes by offset, and word that there are more. A chunk
//! that was acknowledged is stored; a gap can't come about, except where the machine itself lost what it had acknowledged (power),
//! and then a line in the log says so. Where they lie: in files of the data directory ([`files`]) where there is one server, in
//! the database ([`shared`]) where several share one. Never here: masking (the worker's), whole logs in memory.

mod file;
mod files;
mod shared;

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use segue_schemas::{
    id::{Epoch, JobId, RunId},
    time::Timestamp,
};
use tokio::sync::watch;

use self::{
    files::{Extent, Files},
    shared::Shared,
};
use crate::store::{Bell, Doorbell, Listener, LogBells, PostgresDatabase};

/// Why a log can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Somebody else writes the log now.
    #[error("the log of job {job} is written under epoch {current} now, not under {given}")]
    Stale {
        /// The job.
        job: JobId,
        /// The epoch of the chunk.
        given: Epoch,
        /// The epoch that counts.
        current: Epoch,
    },
    /// The file can't be read or written.
    #[error("the log {path} can't be {action}: {source}")]
    Io {
        /// `opened`, `written`, `read`, `removed`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The database can't be read or written.
    #[error("the store is not available: {0}")]
    Unavailable(String),
}

type Result<T> = std::result::Result<T, LogError>;

/// The logs of one store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogStore(Place);

#[derive(Debug, Clone)]
enum Place {
    Files(Files),
    Shared(Shared),
}

/// Waits for a log to grow.
#[derive(Debug)]
pub struct Follower(Waiting);

#[derive(Debug)]
enum Waiting {
    File(watch::Receiver<Extent>),
    Bell(Listener),
}

impl Follower {
    /// Takes what came so far as seen: who calls this reads afterwards.
    pub fn looks(&mut self) {
        match &mut self.0 {
            Waiting::File(extent) => extent.mark_unchanged(),
            Waiting::Bell(bell) => bell.heard(),
        }
    }

    /// Returns when there may be more than before the last return, or an end. Dropping the future loses nothing.
    pub async fn grown(&mut self) {
        match &mut self.0 {
            // nobody writes it any more: the run's bell tells what follows
            Waiting::File(extent) => {
                if extent.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            Waiting::Bell(bell) => bell.rung().await,
        }
    }
}

impl LogStore {
    /// Opens the logs below a directory, which is made where it is not there.
    ///
    /// # Errors
    /// [`LogError::Io`] where it can't be made.
    pub fn open(directory: PathBuf) -> Result<Self> {
        Files::open(directory).map(|files| Self(Place::Files(files)))
    }

    /// The logs of a database that several servers share.
    pub(crate) fn shared(database: Arc<PostgresDatabase>, doorbell: Arc<Doorbell>, bells: Arc<LogBells>) -> Self {
        Self(Place::Shared(Shared { database, doorbell, bells }))
    }

    /// Whether they lie in the database, so that what concerns them belongs into the transaction.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.0, Place::Shared(_))
    }

    /// Where a job's log lies below the directory; once it was chosen it is stored, and never computed again.
    #[must_use]
    pub fn path_for(run: RunId, attempt: u32, key: &str, job: JobId, at: Timestamp) -> String {
        let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
        let key: String = key.chars().take(64).map(safe).collect();
        format!("{}/run-{run}/{attempt}-{key}-{job}.log", at.date())
    }

    /// Takes a log over for the holder of an epoch: from now on chunks under lower ones are refused. Gives the length, where
    /// the holder goes on. If a file is shorter than the `acknowledged` bytes, the gap is filled with a line that says so.
    ///
    /// # Errors
    /// [`LogError::Stale`] where a higher epoch has it, [`LogError::Io`] where the file can't be opened.
    pub async fn begin(&self, job: JobId, epoch: Epoch, path: &str, acknowledged: u64) -> Result<u64> {
        match &self.0 {
            Place::Files(files) => files.begin(job, epoch, path, acknowledged).await,
            // the transaction of the claim has taken it over
            Place::Shared(_) => Ok(acknowledged),
        }
    }

    /// Stores a chunk at its offset, as far as it is new. Gives the length afterwards: where it is below the end of the
    /// chunk, the chunk would have left a gap and was not stored.
    ///
    /// # Errors
    /// [`LogError::Stale`] where a higher epoch has the log, [`LogError::Io`] or [`LogError::Unavailable`] where it can't be
    /// stored.
    pub async fn append(&self, job: JobId, epoch: Epoch, path: &str, offset: u64, chunk: Bytes) -> Result<u64> {
        match &self.0 {
            Place::Files(files) => files.append(job, epoch, path, offset, chunk).await,
            Place::Shared(shared) => shared.append(job, epoch, offset, chunk).await,
        }
    }

    /// Where a chunk under this epoch is written without a look into the database before: a log that is open under it, or one
    /// whose chunks are fenced by the database anyway.
    #[must_use]
    pub fn is_written_under(&self, job: JobId, epoch: Epoch) -> Option<String> {
        match &self.0 {
            Place::Files(files) => files.is_written_under(job, epoch),
            Place::Shared(_) => Some(String::new()),
        }
    }

    /// Nothing more will be written under an epoch up to this one. `ended`: nor under a later one.
    pub fn release(&self, job: JobId, ended: bool) {
        match &self.0 {
            Place::Files(files) => files.release(job, ended),
            Place::Shared(shared) => shared.doorbell.ring(Bell::Log(job)),
        }
    }

    /// Followers at other servers are told that a log has grown, where there are any.
    pub(crate) fn tell(&self, job: JobId) {
        if let Place::Shared(shared) = &self.0 {
            shared.bells.ring(job);
        }
    }

    /// Follows a log while it is written.
    ///
    /// # Errors
    /// [`LogError::Io`] where the file is there and can't be opened.
    pub fn follow(&self, job: JobId, path: &str) -> Result<Follower> {
        Ok(Follower(match &self.0 {
            Place::Files(files) => Waiting::File(files.follow(job, path)?),
            Place::Shared(shared) => Waiting::Bell(shared.doorbell.listen(Bell::Log(job))),
        }))
    }

    /// At most `limit` bytes from an offset on; empty at the end.
    ///
    /// # Errors
    /// [`LogError::Io`] or [`LogError::Unavailable`] where it can't be read; a log that is not there is an empty one.
    pub async fn read(&self, job: JobId, path: &str, offset: u64, limit: usize) -> Result<Bytes> {
        match &self.0 {
            Place::Files(files) => {
                let (files, path) = (files.clone(), path.to_owned());
                let read = tokio::task::spawn_blocking(move || files.read(&path, offset, limit)).await;
                read.map_err(|error| LogError::Unavailable(error.to_string()))?
            }
            Place::Shared(shared) => shared.read(job, offset, limit).await,
        }
    }

    /// The length of a log.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] where the database does not say.
    pub async fn bytes(&self, job: JobId, path: &str) -> Result<u64> {
        match &self.0 {
            Place::Files(files) => Ok(files.bytes(path)),
            Place::Shared(shared) => shared.bytes(job).await,
        }
    }

    /// The line that stands for `missing` bytes at the end of a log that was acknowledged and is not there.
    #[must_use]
    pub fn gap_line(missing: u64) -> String {
        file::gap_line(missing)
    }

    /// Removes a log's file, and the folders that this leaves empty; gives the bytes that this freed. Of a log in the database
    /// there is none.
    ///
    /// # Errors
    /// [`LogError::Io`] where the file is there and can't be removed.
    pub fn remove(&self, path: &str) -> Result<u64> {
        match &self.0 {
            Place::Files(files) => files.remove(path),
            Place::Shared(_) => Ok(0),
        }
    }
}

#[cfg(test)]
mod tests;
