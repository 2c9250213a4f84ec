//! Reading objects through `git cat-file --batch-command`: one process serves any number of reads, and a few of them are
//! kept warm, so that planning a commit that is there starts no process at all.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout},
    time::Instant,
};

use super::{MirrorError, git};

/// Warm processes at most, over all repositories.
const WARM_LIMIT: usize = 8;
/// How long an unused one stays.
const IDLE: Duration = Duration::from_secs(30);
/// Time limit of one read.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// An object.
#[derive(Debug, PartialEq, Eq)]
pub struct Object {
    /// `commit`, `tree`, `blob`, `tag`.
    pub kind: String,
    /// Its full name.
    pub id: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The object.
    Object(Object),
    /// Nothing of that name.
    Missing,
    /// An object above the limit, unread.
    TooLarge,
}

/// A process that reads from one mirror.
pub struct Reader {
    mirror: PathBuf,
    _child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Reader {
    fn start(mirror: &Path) -> Result<Self, MirrorError> {
        let mut command = git::command(Some(mirror));
        command
            .args(["cat-file", "--batch-command"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| MirrorError::Spawn(error.to_string()))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(MirrorError::Spawn("git cat-file has no pipes".into()));
        };
        Ok(Self { mirror: mirror.to_owned(), _child: child, stdin, stdout: BufReader::new(stdout) })
    }

    /// Whether an object is there.
    ///
    /// # Errors
    /// [`MirrorError::Read`]; the reader is of no use afterwards.
    pub async fn has(&mut self, name: &str) -> Result<bool, MirrorError> {
        let head = self.ask("info", name).await?;
        Ok(!is_missing(&head))
    }

    /// Reads an object of at most `limit` bytes. After [`Found::TooLarge`] the reader is of no use.
    ///
    /// # Errors
    /// [`MirrorError::Read`]; the reader is of no use afterwards.
    pub async fn read(&mut self, name: &str, limit: usize) -> Result<Found, MirrorError> {
        let head = self.ask("contents", name).await?;
        if is_missing(&head) {
            return Ok(Found::Missing);
        }
        let mut words = head.split(' ');
        let (Some(id), Some(kind), Some(Ok(size))) =
            (words.next(), words.next(), words.next().map(str::parse::<usize>))
        else {
            return Err(MirrorError::Read(format!("git cat-file answered `{head}`")));
        };
        if size > limit {
            return Ok(Found::TooLarge);
        }
        let mut bytes = vec![0; size + 1];
        within(self.stdout.read_exact(&mut bytes)).await?;
        bytes.pop();
        Ok(Found::Object(Object { kind: kind.into(), id: id.into(), bytes }))
    }

    async fn ask(&mut self, verb: &str, name: &str) -> Result<String, MirrorError> {
        debug_assert!(!name.contains('\n'));
        within(self.stdin.write_all(format!("{verb} {name}\n").as_bytes())).await?;
        let mut head = String::new();
        within(self.stdout.read_line(&mut head)).await?;
        if head.pop() == Some('\n') { Ok(head) } else { Err(MirrorError::Read("git cat-file ended".into())) }
    }
}

fn is_missing(head: &str) -> bool {
    head.ends_with(" missing") || head.ends_with(" ambiguous")
}

async fn within<T>(work: impl Future<Output = std::io::Result<T>>) -> Result<T, MirrorError> {
    match tokio::time::timeout(READ_LIMIT, work).await {
        Ok(done) => done.map_err(|error| MirrorError::Read(error.to_string())),
        Err(_) => Err(MirrorError::Timeout { what: "reading from the mirror".into(), seconds: READ_LIMIT.as_secs() }),
    }
}

/// Readers that nobody uses at the moment.
#[derive(Clone, Default)]
pub struct WarmReaders(Arc<Mutex<Idle>>);

#[derive(Default)]
struct Idle {
    /// The longest unused first.
    readers: VecDeque<(Instant, Reader)>,
    /// Whether [`WarmReaders::end_idle`] runs.
    watched: bool,
}

impl WarmReaders {
    /// A reader of a mirror, warm where there is one.
    ///
    /// # Errors
    /// [`MirrorError::Spawn`].
    pub fn take(&self, mirror: &Path) -> Result<Reader, MirrorError> {
        let warm = {
            let readers = &mut self.lock().readers;
            readers.iter().rposition(|(_, reader)| reader.mirror == mirror).and_then(|at| readers.remove(at))
        };
        warm.map_or_else(|| Reader::start(mirror), |(_, reader)| Ok(reader))
    }

    /// Gives a reader back whose last read went well.
    pub fn give_back(&self, reader: Reader) {
        let mut idle = self.lock();
        if idle.readers.len() == WARM_LIMIT {
            idle.readers.pop_front();
        }
        idle.readers.push_back((Instant::now(), reader));
        if !std::mem::replace(&mut idle.watched, true) {
            tokio::spawn(self.clone().end_idle());
        }
    }

    /// Ends when no reader is left; [`WarmReaders::give_back`] starts it again.
    async fn end_idle(self) {
        let mut next = Instant::now() + IDLE;
        loop {
            tokio::time::sleep_until(next).await;
            let mut idle = self.lock();
            let now = Instant::now();
            while idle.readers.front().is_some_and(|(since, _)| *since + IDLE <= now) {
                idle.readers.pop_front();
            }
            match idle.readers.front() {
                Some((since, _)) => next = *since + IDLE,
                None => {
                    idle.watched = false;
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().readers.len()
    }
}
