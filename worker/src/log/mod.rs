//! A job's log, from the pipe that its steps write into to the server.
//!
//! Comes in: what steps print, and lines of the runner itself. Goes out: masked chunks with their offsets, in order, each
//! until the server has stored it. Never here: a byte that was not masked, on the network or on disk; or more memory than
//! a few chunks, however fast the step or slow the server is.
//!
//! Two tasks work on it. The collector reads the pipe in large blocks, masks and fills chunks; the sender sends them. The
//! [`outbox`] lies between.

mod collect;
pub mod command;
pub mod commands;
pub mod mask;
pub mod outbox;
mod send;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::{Gid, Uid, fchown, pipe2},
};
use segue_schemas::{
    id::{Epoch, JobId},
    worker_api::LogAck,
};
use tokio::{
    net::unix::pipe,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    control_plane::{ControlPlane, ControlPlaneError},
    supervisor::protocol::UserIds,
};
use collect::{Collector, Word};
use commands::Found;
use mask::Masker;
use outbox::{Outbox, OutboxLimits};

/// The pipe's size; a fast step is woken less often with a large one.
const PIPE_BYTES: i32 = 1024 * 1024;

/// Where a log goes.
///
/// Chunks come in order, one at a time, each again until it was taken; the answer says how far the log is stored. A
/// dropped future leaves it open whether the chunk was stored, which the next answer's offset tells.
#[async_trait]
pub trait LogSink: Send + Sync + 'static {
    /// Stores a chunk that begins at `offset`.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    async fn append(&self, offset: u64, chunk: Bytes) -> Result<LogAck, ControlPlaneError>;
}

/// The log of a leased job, at its server.
#[derive(Debug, Clone)]
pub struct ServerLog {
    /// The server.
    pub control_plane: ControlPlane,
    /// The job.
    pub job: JobId,
    /// Its lease.
    pub epoch: Epoch,
}

#[async_trait]
impl LogSink for ServerLog {
    async fn append(&self, offset: u64, chunk: Bytes) -> Result<LogAck, ControlPlaneError> {
        self.control_plane.append_log(self.job, self.epoch, offset, chunk).await
    }
}

/// How a log is begun.
#[derive(Debug)]
pub struct LogStart {
    /// How much of it the server has.
    pub offset: u64,
    /// What is masked from the first byte on.
    pub masker: Masker,
    /// Whose processes write into it.
    pub user: Option<UserIds>,
    /// How much is kept where.
    pub limits: OutboxLimits,
    /// How long what was printed may lie before it is sent.
    pub linger: Duration,
}

/// The log of one job. When it is dropped without [`JobLog::finish`], what was not sent is thrown away.
#[derive(Debug)]
pub struct JobLog {
    writer: OwnedFd,
    words: mpsc::Sender<Word>,
    outbox: Arc<Outbox>,
    progress: Arc<Progress>,
    sender: JoinHandle<()>,
}

/// What the sender has reached.
#[derive(Debug, Default)]
struct Progress {
    acknowledged: AtomicU64,
    lease_lost: AtomicBool,
}

impl JobLog {
    /// Opens the pipe and starts both tasks.
    ///
    /// # Errors
    /// Where no pipe can be made.
    pub fn start(sink: impl LogSink, start: LogStart) -> io::Result<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        // Best effort: an unprivileged user may have used up what the kernel grants.
        let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        if let Some(UserIds { uid, gid }) = start.user {
            // So that a step may open /dev/stdout, which checks the pipe's owner.
            fchown(&writer, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        let reader = pipe::Receiver::from_owned_fd(reader)?;
        let max_chunk_bytes = start.limits.max_chunk_bytes;
        let outbox = Arc::new(Outbox::new(start.limits));
        let progress = Arc::new(Progress::default());
        progress.acknowledged.store(start.offset, Ordering::Relaxed);
        let (words, heard) = mpsc::channel(8);
        let collector =
            Collector::new(reader, heard, outbox.clone(), start.masker, start.offset, max_chunk_bytes, start.linger);
        tokio::spawn(collector.run());
        let sender = tokio::spawn(send::run(sink, outbox.clone(), progress.clone(), start.offset));
        Ok(Self { writer, words, outbox, progress, sender })
    }

    /// The end that processes write into.
    #[must_use]
    pub fn writer(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    /// Writes a line of the runner's own (or several), masked like all else, after what was printed until now.
    pub async fn line(&self, text: impl Into<String>) {
        let (reply, answer) = oneshot::channel();
        let _ = self.words.send(Word::Line(text.into(), reply)).await;
        let _ = answer.await;
    }

    /// Masks these as well, from now on.
    pub async fn add_masks(&self, masks: Vec<String>) {
        let _ = self.words.send(Word::Mask(masks)).await;
    }

    /// Takes in what was printed until now, and says where the log stands, and what was asked to be masked since last time.
    pub async fn mark(&self) -> LogMark {
        let (reply, answer) = oneshot::channel();
        let _ = self.words.send(Word::Mark(reply)).await;
        answer.await.unwrap_or_default()
    }

    /// Whether the server says that the lease is another's.
    #[must_use]
    pub fn lease_lost(&self) -> bool {
        self.progress.lease_lost.load(Ordering::Acquire)
    }

    /// Sends what is left, and says how long the log at the server is, and what of it is left to the caller: its end, if that is
    /// a text of at most `max_tail` bytes. `None`: not all of it could be sent within `limit`, or the lease is lost; the rest is
    /// thrown away.
    pub async fn finish(mut self, limit: Duration, max_tail: usize) -> Option<(u64, String)> {
        let _ = self.words.send(Word::End(max_tail)).await;
        let in_time = tokio::time::timeout(limit, &mut self.sender).await.is_ok();
        (in_time && !self.lease_lost()).then(|| (self.acknowledged(), self.outbox.take_tail()))
    }

    /// How much of the log the server has.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.progress.acknowledged.load(Ordering::Acquire)
    }
}

impl Drop for JobLog {
    fn drop(&mut self) {
        self.outbox.discard();
        self.sender.abort();
    }
}

/// Where a log stands.
#[derive(Debug, Default)]
pub struct LogMark {
    /// Its length so far, in bytes, from the job's beginning.
    pub offset: u64,
    /// What commands in the log asked for since the last mark.
    pub found: Found,
    /// A masker with all masks of this time, for texts that go elsewhere.
    pub masker: Masker,
}

#[cfg(test)]
mod tests;
