//! The collector: pipe -> masked chunks.

use std::{os::fd::AsRawFd, sync::Arc, time::Duration};

use bytes::BufMut;
use nix::libc;
use tokio::{
    net::unix::pipe,
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{LogMark, commands::Commands, mask::Masker, outbox::Outbox};

/// Bytes that are read at once.
const BLOCK_BYTES: usize = 256 * 1024;

/// What a job says to its log.
#[derive(Debug)]
pub(super) enum Word {
    Line(String, oneshot::Sender<()>),
    Mask(Vec<String>),
    Mark(oneshot::Sender<LogMark>),
    /// The log ends; so many bytes of it may stay in the outbox.
    End(usize),
}

pub(super) struct Collector {
    pipe: pipe::Receiver,
    words: mpsc::Receiver<Word>,
    outbox: Arc<Outbox>,
    commands: Commands,
    masker: Masker,
    /// What was masked and is not in the outbox yet.
    chunk: Vec<u8>,
    /// Where the chunk begins in the log.
    chunk_offset: u64,
    max_chunk_bytes: usize,
    block: Vec<u8>,
    /// When the chunk is sent although it is not full.
    send_at: Option<Instant>,
    linger: Duration,
    at_line_start: bool,
    /// Bytes that found no room, and are not yet spoken of in the log.
    missing_bytes: u64,
}

impl Collector {
    pub(super) fn new(
        pipe: pipe::Receiver,
        words: mpsc::Receiver<Word>,
        outbox: Arc<Outbox>,
        masker: Masker,
        offset: u64,
        max_chunk_bytes: usize,
        linger: Duration,
    ) -> Self {
        Self {
            pipe,
            words,
            outbox,
            commands: Commands::default(),
            masker,
            chunk: Vec::new(),
            chunk_offset: offset,
            max_chunk_bytes: max_chunk_bytes.max(1),
            block: Vec::new(),
            send_at: None,
            linger,
            at_line_start: true,
            missing_bytes: 0,
        }
    }

    /// Works until the job says that its log ends, or is gone.
    pub(super) async fn run(mut self) {
        let mut max_tail = 0;
        loop {
            tokio::select! {
                biased;
                word = self.words.recv() => match word {
                    Some(Word::End(most)) => {
                        max_tail = most;
                        break;
                    }
                    None => break,
                    Some(word) => self.hear(word).await,
                },
                () = async { match self.send_at { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {
                    self.masker.release(&mut self.chunk);
                    self.send_chunk().await;
                }
                ready = self.pipe.readable() => {
                    if ready.is_err() || !self.read(BLOCK_BYTES).await {
                        break;
                    }
                }
            }
        }
        self.read_what_is_there().await;
        self.commands.end(&mut self.masker, &mut self.chunk);
        self.masker.finish(&mut self.chunk);
        self.after_output().await;
        let tail = self.take_tail(max_tail);
        self.send_chunk().await;
        self.outbox.end(tail);
    }

    /// What is left of the log, where that can go as a text.
    fn take_tail(&mut self, most: usize) -> String {
        if self.missing_bytes > 0 || self.chunk.len() > most || self.chunk.contains(&0) {
            return String::new();
        }
        String::from_utf8(std::mem::take(&mut self.chunk)).unwrap_or_else(|error| {
            self.chunk = error.into_bytes();
            String::new()
        })
    }

    async fn hear(&mut self, word: Word) {
        match word {
            Word::Line(text, reply) => {
                self.read_what_is_there().await;
                self.commands.end(&mut self.masker, &mut self.chunk);
                let begin = if self.at_line_start { "" } else { "\n" };
                self.masker.push(format!("{begin}{text}\n").as_bytes(), &mut self.chunk);
                self.commands.line_written();
                self.at_line_start = true;
                self.after_output().await;
                let _ = reply.send(());
            }
            Word::Mask(masks) => self.masker.add(masks.iter().map(String::as_str)),
            Word::Mark(reply) => {
                self.read_what_is_there().await;
                self.commands.end(&mut self.masker, &mut self.chunk);
                self.masker.release(&mut self.chunk);
                self.after_output().await;
                let offset = self.chunk_offset + self.chunk.len() as u64;
                let found = self.commands.take_found();
                let _ = reply.send(LogMark { offset, found, masker: self.masker.without_held() });
            }
            Word::End(_) => {}
        }
    }

    /// Reads what lay in the pipe when this was called, and no more: who still writes may write for ever.
    async fn read_what_is_there(&mut self) {
        let mut left: libc::c_int = 0;
        // SAFETY: a plain system call that writes one int.
        let answer = unsafe { libc::ioctl(self.pipe.as_raw_fd(), libc::FIONREAD, &raw mut left) };
        let mut left = if answer == 0 { usize::try_from(left).unwrap_or(0) } else { 0 };
        while left > 0 {
            let limit = left.min(BLOCK_BYTES);
            if self.pipe.readable().await.is_err() || !self.read(limit).await {
                return;
            }
            left -= self.block.len().min(left);
        }
    }

    /// Reads one block; `false` at the pipe's end.
    async fn read(&mut self, limit: usize) -> bool {
        self.block.clear();
        self.block.reserve_exact(BLOCK_BYTES);
        match self.pipe.try_read_buf(&mut (&mut self.block).limit(limit)) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
        if let Some(last) = self.block.last() {
            self.at_line_start = *last == b'\n';
        }
        self.commands.push(&self.block, &mut self.masker, &mut self.chunk);
        self.after_output().await;
        true
    }

    /// Sends what is full, and sees to it that the rest does not lie for long.
    async fn after_output(&mut self) {
        while self.chunk.len() >= self.max_chunk_bytes {
            let mut rest = self.outbox.buffer();
            rest.extend_from_slice(&self.chunk[self.max_chunk_bytes..]);
            self.chunk.truncate(self.max_chunk_bytes);
            let full = std::mem::replace(&mut self.chunk, rest);
            self.put(full).await;
        }
        if self.send_at.is_none() {
            self.send_at = Some(Instant::now() + self.linger);
        }
    }

    async fn send_chunk(&mut self) {
        self.send_at = None;
        if !self.chunk.is_empty() {
            let chunk = std::mem::replace(&mut self.chunk, self.outbox.buffer());
            self.put(chunk).await;
        }
    }

    async fn put(&mut self, mut chunk: Vec<u8>) {
        let mut bytes = chunk.len() as u64;
        if self.missing_bytes > 0 {
            let gap = format!(
                "\n[segue: {} bytes of this log are missing: the server took none for too long, and the worker's spool was full]\n",
                self.missing_bytes
            );
            chunk.splice(0..0, gap.into_bytes());
        }
        let with_gap = chunk.len() as u64;
        if self.outbox.put(chunk).await {
            self.missing_bytes = 0;
            bytes = with_gap;
            self.chunk_offset += bytes;
        } else {
            self.missing_bytes += bytes;
        }
    }
}
