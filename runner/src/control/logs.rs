//! Chunks of logs on their way to where they lie: fenced like every write, but no commit of the writer each.

use bytes::Bytes;
use segue_schemas::{
    id::{Epoch, JobId},
    worker_api::{JobFinish, LogAck},
};

use crate::store::{Result, Store, StoreError, tables::jobs};

/// How much of a log may come with its job's end.
pub(super) const MAX_LOG_TAIL: u64 = 16 * 1024;

impl Store {
    /// Stores the end of a log that came with the job's, where logs lie in files; in the database it is stored by the operation that
    /// ends the job.
    pub(super) async fn append_tail(&self, job: JobId, finish: &JobFinish) -> Result<()> {
        let tail = &finish.log_tail;
        if tail.len() as u64 > MAX_LOG_TAIL {
            let text = format!("at most {MAX_LOG_TAIL} bytes of a log come with its job's end");
            return Err(StoreError::Refused(text));
        }
        if tail.is_empty() || self.logs().is_shared() {
            return Ok(());
        }
        let offset = finish.log_bytes.saturating_sub(tail.len() as u64);
        let chunk = Bytes::copy_from_slice(tail.as_bytes());
        match self.append_log(job, finish.epoch, offset, chunk.clone()).await {
            // what was acknowledged is gone with the server's machine: a line says so
            Ok(ack) if ack.offset < finish.log_bytes => {
                let path = self.log_held(job, finish.epoch).await?;
                self.logs().begin(job, finish.epoch, &path, offset).await?;
                self.append_log(job, finish.epoch, offset, chunk).await.map(|_| ())
            }
            // the same end once more, or another's: the operation tells which
            Err(StoreError::StaleEpoch { .. }) => Ok(()),
            stored => stored.map(|_| ()),
        }
    }

    /// Appends a chunk to a job's log, written to its file when this returns. A chunk that is there already changes
    /// nothing; one that would leave a gap is answered with the offset that is wanted and changes nothing.
    pub async fn append_log(&self, job: JobId, epoch: Epoch, offset: u64, chunk: Bytes) -> Result<LogAck> {
        let logs = self.logs();
        let offset = match logs.is_written_under(job, epoch) {
            // the file was opened by the claim of this epoch, and no claim of a higher one has taken it over since
            Some(path) => logs.append(job, epoch, &path, offset, chunk).await?,
            None => {
                let path = self.log_held(job, epoch).await?;
                logs.append(job, epoch, &path, offset, chunk).await?
            }
        };
        Ok(LogAck { offset })
    }

    /// The path of a log that is written under this epoch, after a restart of the server.
    async fn log_held(&self, job: JobId, epoch: Epoch) -> Result<String> {
        let mut conn = self.read().await?;
        jobs::load_held(&mut conn, job, epoch).await?;
        let log = jobs::log(&mut conn, job).await?;
        log.map(|log| log.path).ok_or_else(|| StoreError::not_found("log of job", job))
    }
}
