//! Chunks of a log on their way to the server: a few in memory, then a file of bounded size.
//!
//! Who puts chunks in is slowed down first; what the server has not taken for a while is laid on disk; when that is full
//! as well, the step is held back again, and only then are chunks refused, which the caller makes visible.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};

/// Chunks in memory that wait to be sent.
const MAX_IN_MEMORY: usize = 2;

/// The limits of an outbox.
#[derive(Debug, Clone)]
pub struct OutboxLimits {
    /// The file that takes what the server does not; it is made when it is needed, and removed with the outbox.
    pub spool: PathBuf,
    /// The most that lies in it.
    pub max_spool_bytes: u64,
    /// Largest chunk that is taken out, in bytes.
    pub max_chunk_bytes: usize,
    /// How long a full memory holds the step back before the file is used.
    pub patience_before_spool: Duration,
    /// How long a full file holds the step back before a chunk is refused.
    pub patience_before_gap: Duration,
}

/// Between who makes a log and who sends it.
#[derive(Debug)]
pub struct Outbox {
    limits: OutboxLimits,
    state: Mutex<State>,
    /// Something was put in, or the end was said.
    filled: Notify,
    /// Something was taken out.
    drained: Notify,
}

#[derive(Debug, Default)]
struct State {
    memory: VecDeque<Bytes>,
    spool: Option<Spool>,
    /// A chunk was refused; the next one is not waited for.
    stalled: bool,
    ended: bool,
    /// The log's end, which goes another way.
    tail: String,
    /// Buffers of chunks that were sent, to be filled again.
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Spool {
    file: File,
    read: u64,
    written: u64,
}

impl Outbox {
    /// An empty one.
    #[must_use]
    pub fn new(limits: OutboxLimits) -> Self {
        Self { limits, state: Mutex::default(), filled: Notify::new(), drained: Notify::new() }
    }

    /// Puts a chunk in, as soon as there is room. `false`: there was none for so long that the chunk was thrown away.
    /// One caller at a time.
    pub async fn put(&self, chunk: Vec<u8>) -> bool {
        let begun = Instant::now();
        let mut chunk = Some(chunk);
        loop {
            let drained = self.drained.notified();
            let give_up_at = match self.try_put(&mut chunk, begun.elapsed()) {
                Ok(taken) => return taken,
                Err(patience) => begun + patience,
            };
            let _ = tokio::time::timeout_at(give_up_at, drained).await;
        }
    }

    /// Takes the oldest chunk out; `None` when nothing is left and nothing will come. One caller at a time.
    pub async fn take(&self) -> Option<Bytes> {
        loop {
            let filled = self.filled.notified();
            {
                let mut state = self.lock();
                if let Some(chunk) = self.try_take(&mut state) {
                    self.drained.notify_one();
                    return Some(chunk);
                }
                if state.ended {
                    return None;
                }
            }
            filled.await;
        }
    }

    /// Nothing will come; the log's end goes another way.
    pub fn end(&self, tail: String) {
        let mut state = self.lock();
        state.ended = true;
        state.tail = tail;
        self.filled.notify_one();
    }

    /// The log's end, as it was given to [`Outbox::end`].
    pub fn take_tail(&self) -> String {
        std::mem::take(&mut self.lock().tail)
    }

    /// Throws away what is left; nothing is held back any more.
    pub fn discard(&self) {
        let mut state = self.lock();
        state.memory.clear();
        self.remove_spool(&mut state);
        state.ended = true;
        self.filled.notify_one();
        self.drained.notify_one();
    }

    /// An empty buffer.
    pub fn buffer(&self) -> Vec<u8> {
        self.lock().spare.pop().unwrap_or_default()
    }

    /// Gives a buffer back, to be filled again.
    pub fn recycle(&self, chunk: Bytes) {
        if let Ok(buffer) = chunk.try_into_mut() {
            let mut buffer = Vec::from(buffer);
            buffer.clear();
            let mut state = self.lock();
            if state.spare.len() < MAX_IN_MEMORY {
                state.spare.push(buffer);
            }
        }
    }

    /// `Ok(true)`: taken; `Ok(false)`: thrown away; `Err`: no room, and how long to wait for some, from the first try on.
    fn try_put(&self, chunk: &mut Option<Vec<u8>>, waited: Duration) -> Result<bool, Duration> {
        let mut state = self.lock();
        let Some(bytes) = chunk.take() else { return Ok(true) };
        if state.ended {
            return Ok(true);
        }
        if state.spool.is_none() && state.memory.len() < MAX_IN_MEMORY {
            state.memory.push_back(bytes.into());
        } else if state.spool.is_none() && waited < self.limits.patience_before_spool {
            *chunk = Some(bytes);
            return Err(self.limits.patience_before_spool);
        } else if let Err(error) = self.spool(&mut state, &bytes) {
            if !state.stalled && waited < self.limits.patience_before_gap {
                *chunk = Some(bytes);
                return Err(self.limits.patience_before_gap);
            }
            if !state.stalled {
                tracing::warn!(spool = %self.limits.spool.display(), %error, "a job's log can't be kept; it will have a gap");
            }
            state.stalled = true;
            return Ok(false);
        }
        state.stalled = false;
        self.filled.notify_one();
        Ok(true)
    }

    fn spool(&self, state: &mut State, chunk: &[u8]) -> io::Result<()> {
        // What was read still takes room in the file, until the file is empty and removed.
        let written = state.spool.as_ref().map_or(0, |spool| spool.written);
        if written + chunk.len() as u64 > self.limits.max_spool_bytes {
            return Err(io::Error::other("the spool is full"));
        }
        if state.spool.is_none() {
            let path = &self.limits.spool;
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
            state.spool = Some(Spool { file, read: 0, written: 0 });
        }
        let Some(spool) = &mut state.spool else { return Ok(()) };
        spool.file.write_all_at(chunk, spool.written)?;
        spool.written += chunk.len() as u64;
        Ok(())
    }

    fn try_take(&self, state: &mut State) -> Option<Bytes> {
        if let Some(chunk) = state.memory.pop_front() {
            return Some(chunk);
        }
        let spool = state.spool.as_mut()?;
        let left = usize::try_from(spool.written - spool.read).unwrap_or(usize::MAX);
        let mut chunk = vec![0; left.min(self.limits.max_chunk_bytes)];
        match spool.file.read_exact_at(&mut chunk, spool.read) {
            Ok(()) => spool.read += chunk.len() as u64,
            Err(error) => {
                tracing::error!(spool = %self.limits.spool.display(), %error, "a spooled log can't be read");
                chunk = format!(
                    "\n[segue: {left} bytes of this log are missing: the worker could not read them back: {error}]\n"
                )
                .into_bytes();
                spool.read = spool.written;
            }
        }
        if spool.read == spool.written {
            self.remove_spool(state);
        }
        (!chunk.is_empty()).then(|| chunk.into())
    }

    fn remove_spool(&self, state: &mut State) {
        if state.spool.take().is_some() {
            let _ = std::fs::remove_file(&self.limits.spool);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; were it so, a log with a hole is better than none.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        if self.lock().spool.take().is_some() {
            let _ = std::fs::remove_file(&self.limits.spool);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(directory: &std::path::Path, max_spool_bytes: u64) -> Outbox {
        Outbox::new(OutboxLimits {
            spool: directory.join("spool"),
            max_spool_bytes,
            max_chunk_bytes: 10,
            patience_before_spool: Duration::from_millis(20),
            patience_before_gap: Duration::from_millis(60),
        })
    }

    #[tokio::test]
    async fn what_is_not_taken_goes_to_disk_in_order_and_the_disk_is_freed() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path(), 1000);
        let mut expected = String::new();
        for n in 0..40 {
            let chunk = format!("chunk {n}\n");
            expected.push_str(&chunk);
            assert!(outbox.put(chunk.into_bytes()).await);
        }
        assert!(directory.path().join("spool").exists());
        outbox.end(String::new());
        let mut found = Vec::new();
        while let Some(chunk) = outbox.take().await {
            assert!(chunk.len() <= 10);
            found.extend_from_slice(&chunk);
        }
        assert_eq!(String::from_utf8(found).unwrap(), expected);
        assert!(!directory.path().join("spool").exists());
    }

    #[tokio::test]
    async fn a_full_spool_holds_back_first_and_refuses_then() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path(), 20);
        for _ in 0..4 {
            assert!(outbox.put(vec![b'x'; 10]).await);
        }
        let begun = Instant::now();
        assert!(!outbox.put(vec![b'x'; 10]).await);
        assert!(begun.elapsed() >= Duration::from_millis(60));
        let begun = Instant::now();
        assert!(!outbox.put(vec![b'x'; 10]).await);
        assert!(begun.elapsed() < Duration::from_millis(60), "once refused, nobody waits again");
        for _ in 0..4 {
            assert_eq!(outbox.take().await.unwrap().len(), 10);
        }
        assert!(outbox.put(vec![b'y'; 10]).await);
        assert_eq!(outbox.take().await.unwrap()[0], b'y');
    }

    #[tokio::test]
    async fn a_step_goes_on_as_soon_as_there_is_room() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path(), 0);
        assert!(outbox.put(vec![1]).await);
        assert!(outbox.put(vec![2]).await);
        let (put, taken) = tokio::join!(outbox.put(vec![3]), async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            outbox.take().await
        });
        assert!(put);
        assert_eq!(taken.unwrap()[0], 1);
    }
}
