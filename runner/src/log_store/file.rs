//! One log that is being written.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use bytes::Bytes;
use segue_schemas::id::{Epoch, JobId};
use tokio::sync::{Mutex, watch};

use super::{Extent, LogError, Result, files::make_directory};

/// Nobody writes.
const CLOSED: i64 = -1;

#[derive(Debug)]
pub(super) struct OpenLog {
    pub(super) relative: String,
    path: PathBuf,
    /// The epoch under which it is written, or [`CLOSED`]. Read beside the lock; changed under it, but for closing.
    epoch: AtomicI64,
    /// The highest epoch seen and the length; locked while a chunk is written.
    tail: Mutex<Tail>,
    extent: watch::Sender<Extent>,
}

#[derive(Debug)]
struct Tail {
    epoch: Epoch,
    bytes: u64,
    /// Made with the first chunk.
    file: Option<Arc<File>>,
}

impl OpenLog {
    pub(super) fn open(path: PathBuf, relative: String) -> Result<Self> {
        let file = File::options().write(true).open(&path);
        let opened = file.and_then(|file| Ok((file.metadata()?.len(), Some(Arc::new(file)))));
        let (bytes, file) = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (0, None),
            opened => opened.map_err(|source| LogError::Io { action: "opened", path: path.clone(), source })?,
        };
        Ok(Self {
            relative,
            path,
            epoch: AtomicI64::new(CLOSED),
            tail: Mutex::new(Tail { epoch: Epoch(0), bytes, file }),
            extent: watch::channel(Extent { bytes, ended: false }).0,
        })
    }

    pub(super) async fn begin(&self, job: JobId, epoch: Epoch, acknowledged: u64) -> Result<u64> {
        let mut tail = self.tail.lock().await;
        take_over(&mut tail, job, epoch)?;
        if tail.bytes < acknowledged {
            let line = gap_line(acknowledged - tail.bytes);
            self.write(&mut tail, line.into()).await?;
        }
        self.epoch.store(epoch.0, Ordering::Release);
        Ok(tail.bytes)
    }

    pub(super) async fn append(&self, job: JobId, epoch: Epoch, offset: u64, mut chunk: Bytes) -> Result<u64> {
        let mut tail = self.tail.lock().await;
        take_over(&mut tail, job, epoch)?;
        self.epoch.store(epoch.0, Ordering::Release);
        let end = offset.saturating_add(chunk.len() as u64);
        // a gap, or nothing new
        if offset > tail.bytes || end <= tail.bytes {
            return Ok(tail.bytes);
        }
        let known = usize::try_from(tail.bytes - offset).unwrap_or(usize::MAX);
        let new = chunk.split_off(known.min(chunk.len()));
        self.write(&mut tail, new).await?;
        Ok(tail.bytes)
    }

    /// Writes at the end, from the chunk itself: nothing is copied.
    async fn write(&self, tail: &mut Tail, chunk: Bytes) -> Result<()> {
        let (file, path, at, length) = (tail.file.clone(), self.path.clone(), tail.bytes, chunk.len() as u64);
        let written = tokio::task::spawn_blocking(move || {
            let file = file.map_or_else(|| make(&path).map(Arc::new), Ok)?;
            file.write_all_at(&chunk, at)?;
            Ok(file)
        });
        let written = written.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let file = written.map_err(|source| LogError::Io { action: "written", path: self.path.clone(), source })?;
        tail.file = Some(file);
        tail.bytes += length;
        self.extent.send_modify(|extent| extent.bytes = tail.bytes);
        Ok(())
    }

    pub(super) fn close(&self, ended: bool) {
        self.epoch.store(CLOSED, Ordering::Release);
        if ended {
            self.extent.send_modify(|extent| extent.ended = true);
        }
    }

    pub(super) fn follow(&self) -> watch::Receiver<Extent> {
        self.extent.subscribe()
    }

    pub(super) fn is_written(&self) -> bool {
        self.epoch.load(Ordering::Acquire) != CLOSED
    }

    pub(super) fn is_written_under(&self, epoch: Epoch) -> bool {
        self.epoch.load(Ordering::Acquire) == epoch.0
    }

    pub(super) fn is_followed(&self) -> bool {
        self.extent.receiver_count() > 0
    }
}

fn make(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        make_directory(folder)?;
    }
    File::options().write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn take_over(tail: &mut Tail, job: JobId, epoch: Epoch) -> Result<()> {
    if epoch < tail.epoch {
        return Err(LogError::Stale { job, given: epoch, current: tail.epoch });
    }
    tail.epoch = epoch;
    Ok(())
}

/// Exactly `missing` bytes that say that as many are missing, as far as they have room to.
pub(super) fn gap_line(missing: u64) -> String {
    let width = usize::try_from(missing).unwrap_or(usize::MAX).min(64 << 20);
    let words = format!("\n[segue] {missing} bytes of this log were lost when the server's machine went down");
    if width <= words.len() {
        return "\n".repeat(width);
    }
    let mut line = words;
    line.reserve(width - line.len());
    while line.len() + 1 < width {
        line.push(' ');
    }
    line.push('\n');
    line
}
