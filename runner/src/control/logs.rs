//! Chunks of logs on their way to their files: fenced like every write, but no commit of the database each.

use bytes::Bytes;
use segue_schemas::{
    id::{Epoch, JobId},
    worker_api::LogAck,
};

use crate::store::{Result, Store, StoreError, tables::jobs};

impl Store {
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
