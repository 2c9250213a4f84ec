//! The worker's side of the step supervisor.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::Stdio,
    sync::{Arc, Mutex as SyncMutex, PoisonError, Weak},
    time::Duration,
};

use nix::sys::{
    memfd::{MFdFlags, memfd_create},
    socket::{AddressFamily, SockFlag, SockType, socketpair},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::{Child, Command},
    sync::Mutex,
};

use crate::engine::docker::DockerError;

use super::protocol::{self, Event, Exit, NewKeeper, Request, Task};

/// Keepers that wait for another job, at most. A job that finds none has one forked, which takes longer.
const IDLE_KEEPERS: usize = 2;

/// Why something could not be run.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The nursery could not be started.
    #[error("the step supervisor `{program}` could not be started: {source}")]
    NoNursery {
        /// What was to be started.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// The keeper ended, or does not answer as it should.
    #[error(
        "the step supervisor of this job is gone ({0}); it was killed from outside, or the machine is out of memory"
    )]
    Gone(String),
    /// The task could not be started.
    #[error("{0}")]
    NotStarted(String),
    /// The lease's deadline passed, and the supervisor killed everything by itself.
    #[error("the lease ended before it could be renewed, and everything that the job ran was killed")]
    DeadlinePassed,
    /// The engine for containers.
    #[error(transparent)]
    Container(DockerError),
}

/// The worker's nursery, started with the first use and again should it have gone.
#[derive(Debug)]
pub struct Nursery {
    command: Vec<OsString>,
    running: Mutex<Option<Running>>,
}

/// Keepers of a nursery whose job has ended and left nothing.
#[derive(Debug, Default)]
struct Idle(SyncMutex<Vec<AsyncFd<OwnedFd>>>);

impl Idle {
    fn take(&self) -> Option<AsyncFd<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put(&self, keeper: AsyncFd<OwnedFd>) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_KEEPERS {
            idle.push(keeper);
        }
    }
}

#[derive(Debug)]
struct Running {
    /// Dropped with the last handle; the nursery then ends by itself, after its keepers.
    socket: OwnedFd,
    process: Child,
    idle: Arc<Idle>,
}

impl Nursery {
    /// A nursery that is started by `command`, program and arguments.
    #[must_use]
    pub fn new(command: Vec<OsString>) -> Self {
        Self { command, running: Mutex::new(None) }
    }

    /// Starts the nursery ahead of its first use.
    ///
    /// # Errors
    /// [`SupervisorError::NoNursery`].
    pub async fn start(&self) -> Result<(), SupervisorError> {
        let mut running = self.running.lock().await;
        if running.is_none() {
            *running = Some(self.spawn()?);
        }
        Ok(())
    }

    /// A keeper for one job, which serves already: one whose job has ended, or a new one.
    ///
    /// # Errors
    /// [`SupervisorError`], after a second try where the nursery had gone.
    pub async fn keeper(&self) -> Result<Keeper, SupervisorError> {
        let mut running = self.running.lock().await;
        if let Some(nursery) = &mut *running {
            match nursery.keeper().await {
                Ok(keeper) => return Ok(keeper),
                Err(error) => tracing::warn!(%error, "the step supervisor's nursery had gone; starting another"),
            }
        }
        // Dropping the old one's handle also has tokio wait for its end.
        let nursery = running.insert(self.spawn()?);
        nursery.keeper().await
    }

    fn spawn(&self) -> Result<Running, SupervisorError> {
        let failed = |source: io::Error| SupervisorError::NoNursery {
            program: self.command.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join(" "),
            source,
        };
        let (program, arguments) =
            self.command.split_first().ok_or_else(|| failed(io::Error::other("no program is named")))?;
        let (own, others) = socket_pair().map_err(failed)?;
        let process = Command::new(program).args(arguments).stdin(Stdio::from(others)).spawn().map_err(failed)?;
        Ok(Running { socket: own, process, idle: Arc::default() })
    }
}

impl Running {
    async fn keeper(&mut self) -> Result<Keeper, SupervisorError> {
        // what a keeper leaves when it is killed falls to its nursery: without that, none is used
        if let Ok(Some(status)) = self.process.try_wait() {
            return Err(SupervisorError::Gone(status.to_string()));
        }
        while let Some(socket) = self.idle.take() {
            let keeper = self.keeper_at(socket);
            match keeper.begin_anew().await {
                Ok(()) => return Ok(keeper),
                Err(error) => tracing::debug!(%error, "a keeper that waited for a job has gone"),
            }
        }
        let keeper = self.keeper_at(self.fork()?);
        match keeper.event().await? {
            Event::Ready => Ok(keeper),
            other => Err(SupervisorError::Gone(format!("it began with {other:?}"))),
        }
    }

    fn keeper_at(&self, socket: AsyncFd<OwnedFd>) -> Keeper {
        Keeper { socket: Arc::new(socket), is_empty: false, idle: Arc::downgrade(&self.idle) }
    }

    fn fork(&self) -> Result<AsyncFd<OwnedFd>, SupervisorError> {
        let gone = |error: io::Error| SupervisorError::Gone(error.to_string());
        let (own, others) = socket_pair().map_err(gone)?;
        protocol::send(&self.socket, &NewKeeper {}, &[others.as_fd()]).map_err(gone)?;
        drop(others);
        // SAFETY: an `OwnedFd` is open, gives the same descriptor as long as it lives, and is never moved out or closed before.
        let socket = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) };
        socket.map_err(|error| gone(error.into()))
    }
}

/// The keeper of one job. When it is dropped, everything that it parents is killed.
#[derive(Debug)]
pub struct Keeper {
    socket: Arc<AsyncFd<OwnedFd>>,
    /// It has said that nothing is left, and was given nothing since.
    is_empty: bool,
    idle: Weak<Idle>,
}

impl Keeper {
    /// The job has ended. Where nothing is left of it, the keeper waits for another one: that spares a fork.
    pub fn done(self) {
        // Whoever still holds the socket may still speak for the job that has ended: it is then used no more.
        if let (true, Some(idle), Some(socket)) = (self.is_empty, self.idle.upgrade(), Arc::into_inner(self.socket)) {
            idle.put(socket);
        }
    }

    /// Makes a keeper whose job has ended that of another one.
    async fn begin_anew(&self) -> Result<(), SupervisorError> {
        self.send(&Request::Anew, &[])?;
        // what it said when nobody listened is about the job before
        while !matches!(self.event().await?, Event::Ready) {}
        Ok(())
    }

    /// Starts a task, with `output` as its standard output and error, and gives its process number. One task at a time:
    /// its end is to be awaited with [`Keeper::exited`] before the next one is started.
    ///
    /// # Errors
    /// [`SupervisorError::NotStarted`] where there is no such program or directory, else that the keeper is gone.
    pub async fn start(
        &mut self,
        task: &Task,
        output: BorrowedFd<'_>,
        archive: Option<BorrowedFd<'_>>,
    ) -> Result<i32, SupervisorError> {
        self.is_empty = false;
        let task = in_memory(task).map_err(|e| SupervisorError::NotStarted(e.to_string()))?;
        let descriptors: Vec<BorrowedFd<'_>> = [task.as_fd(), output].into_iter().chain(archive).collect();
        self.send(&Request::Start, &descriptors)?;
        loop {
            match self.event().await? {
                Event::Started { pid } => return Ok(pid),
                Event::NotStarted { reason } => return Err(SupervisorError::NotStarted(reason)),
                Event::DeadlinePassed => return Err(SupervisorError::DeadlinePassed),
                Event::Ready | Event::Empty | Event::Exited(_) => {}
            }
        }
    }

    /// Waits for the end of the task that was started last. May be dropped and called again without losing it.
    ///
    /// # Errors
    /// That the keeper is gone, or that the deadline passed.
    pub async fn exited(&mut self) -> Result<Exit, SupervisorError> {
        loop {
            match self.event().await? {
                Event::Exited(exit) => return Ok(exit),
                Event::DeadlinePassed => return Err(SupervisorError::DeadlinePassed),
                Event::Ready | Event::Started { .. } | Event::NotStarted { .. } | Event::Empty => {}
            }
        }
    }

    /// Ends everything that the job runs: TERM, KILL after `grace`. Returns when nothing is left, with the end of the
    /// running task if there was one.
    ///
    /// # Errors
    /// That the keeper is gone.
    pub async fn kill(&mut self, grace: Duration) -> Result<Option<Exit>, SupervisorError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.send(&Request::Kill { grace_ms }, &[])?;
        let mut ended = None;
        loop {
            match self.event().await? {
                Event::Exited(exit) => ended = Some(exit),
                Event::Empty => {
                    self.is_empty = true;
                    return Ok(ended);
                }
                Event::Ready | Event::Started { .. } | Event::NotStarted { .. } | Event::DeadlinePassed => {}
            }
        }
    }

    /// The means to put the deadline off while the keeper is in use.
    #[must_use]
    pub fn deadline(&self) -> KeeperDeadline {
        KeeperDeadline { socket: Arc::downgrade(&self.socket) }
    }

    fn send(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), SupervisorError> {
        send(&self.socket, request, descriptors)
    }

    async fn event(&self) -> Result<Event, SupervisorError> {
        let gone = |error: io::Error| SupervisorError::Gone(error.to_string());
        loop {
            let mut ready = self.socket.readable().await.map_err(gone)?;
            match ready.try_io(|socket| protocol::receive::<Event>(socket.get_ref())) {
                Ok(Ok(Some((event, _)))) => return Ok(event),
                Ok(Ok(None)) => return Err(SupervisorError::Gone("it has ended".into())),
                Ok(Err(error)) => return Err(gone(error)),
                Err(_would_block) => {}
            }
        }
    }
}

/// Puts a keeper's deadline off.
#[derive(Debug, Clone)]
pub struct KeeperDeadline {
    socket: std::sync::Weak<AsyncFd<OwnedFd>>,
}

impl KeeperDeadline {
    /// Everything is to be killed when [`super::boot_time`] passes `at`.
    ///
    /// # Errors
    /// That the keeper is gone.
    pub fn set(&self, at: Duration) -> Result<(), SupervisorError> {
        let Some(socket) = self.socket.upgrade() else { return Ok(()) };
        let boot_time_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        send(&socket, &Request::Deadline { boot_time_ms }, &[])
    }
}

/// A request is small and the keeper reads at once: a full socket is a keeper that does not answer.
fn send(socket: &AsyncFd<OwnedFd>, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), SupervisorError> {
    protocol::send(socket.get_ref(), request, descriptors).map_err(|error| SupervisorError::Gone(error.to_string()))
}

/// This side does not block; the other, which has nothing else to do, does.
fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (own, others) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&own, nix::fcntl::FcntlArg::F_SETFL(flags))?;
    Ok((own, others))
}

fn in_memory(task: &Task) -> io::Result<OwnedFd> {
    let memory = memfd_create("segue-task", MFdFlags::MFD_CLOEXEC)?;
    let mut file = std::fs::File::from(memory);
    serde_json::to_writer(io::BufWriter::new(&file), task)?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}
