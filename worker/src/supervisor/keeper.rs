//! A keeper: parents the processes of one job.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::Signal,
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::getpid,
};

use super::{
    boot_time, child, descendants, nursery,
    protocol::{self, Event, Exit, Request, Task},
};

/// Between two sweeps while processes are left that were killed but have not ended.
const SWEEP_AGAIN: Duration = Duration::from_millis(50);

/// Serves one job until its worker closes the socket, then kills what is left.
pub(super) fn run(socket: &OwnedFd) -> io::Result<()> {
    prctl::set_child_subreaper(true)?;
    let mut keeper = Keeper {
        socket,
        current: None,
        phase: Phase::Running,
        deadline: None,
        is_over: false,
        timer: TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?,
        worker_is_there: true,
    };
    let children = nursery::child_signals()?;
    keeper.tell(&Event::Ready)?;
    loop {
        let any_left = keeper.reap();
        if !keeper.go_on(any_left)? {
            return Ok(());
        }
        let mut watched = vec![
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
            PollFd::new(keeper.timer.as_fd(), PollFlags::POLLIN),
        ];
        if keeper.worker_is_there {
            watched.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let asked = watched.get(2).and_then(PollFd::any).unwrap_or(false);
        while children.read_signal()?.is_some() {}
        if asked {
            keeper.receive()?;
        }
    }
}

struct Keeper<'a> {
    socket: &'a OwnedFd,
    /// The process of the task that was started last, until it has ended.
    current: Option<i32>,
    phase: Phase,
    deadline: Option<Duration>,
    /// The deadline has passed: nothing is started any more until it is put off. Whoever asks may have stood still meanwhile, and
    /// know nothing of it.
    is_over: bool,
    /// On `CLOCK_BOOTTIME`: the deadline, the end of a grace, or the next sweep.
    timer: TimerFd,
    worker_is_there: bool,
}

/// How far the end of everything has come. Times are of [`boot_time`].
enum Phase {
    Running,
    /// TERM was sent.
    Terminating {
        kill_at: Duration,
    },
    /// KILL is sent until nothing is left.
    Killing,
}

impl Keeper<'_> {
    fn receive(&mut self) -> io::Result<()> {
        match protocol::receive::<Request>(self.socket)? {
            None => {
                self.worker_is_there = false;
                self.phase = Phase::Killing;
            }
            Some((Request::Anew, _)) => {
                (self.deadline, self.is_over) = (None, false);
                self.phase = Phase::Running;
                self.tell(&Event::Ready)?;
            }
            Some((Request::Start, descriptors)) => self.start(descriptors)?,
            Some((Request::Kill { grace_ms }, _)) => {
                // The usual case at a job's end is that nothing is left, which costs no look at all processes.
                if self.reap() {
                    descendants::signal_all(getpid().as_raw(), &HashSet::new(), Signal::SIGTERM);
                    descendants::signal_all(getpid().as_raw(), &HashSet::new(), Signal::SIGCONT);
                }
                self.phase = Phase::Terminating { kill_at: boot_time() + Duration::from_millis(grace_ms) };
            }
            Some((Request::Deadline { boot_time_ms }, _)) => {
                (self.deadline, self.is_over) = (Some(Duration::from_millis(boot_time_ms)), false);
            }
        }
        Ok(())
    }

    fn start(&mut self, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        if self.is_over || self.deadline.is_some_and(|deadline| deadline <= boot_time()) {
            return self.tell(&Event::DeadlinePassed);
        }
        let event = match start_task(descriptors) {
            Ok(pid) => {
                self.current = Some(pid);
                Event::Started { pid }
            }
            Err(error) => Event::NotStarted { reason: error.to_string() },
        };
        self.tell(&event)
    }

    /// Takes note of every process that has ended; says whether any is left. As a subreaper's, its children are all that
    /// is left only together with what is below them, and what is below a process that ends becomes a child.
    fn reap(&mut self) -> bool {
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) => return true,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => return false,
            };
            if self.current == Some(pid) {
                self.current = None;
                let _ = self.tell(&Event::Exited(exit));
            }
        }
    }

    /// Advances the end of everything, if there is to be one; says whether to go on.
    fn go_on(&mut self, any_left: bool) -> io::Result<bool> {
        let now = boot_time();
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            (self.deadline, self.is_over) = (None, true);
            self.phase = Phase::Killing;
            let _ = self.tell(&Event::DeadlinePassed);
        }
        if !any_left {
            if !self.worker_is_there {
                return Ok(false);
            }
            if !matches!(self.phase, Phase::Running) {
                self.phase = Phase::Running;
                self.tell(&Event::Empty)?;
            }
        }
        if let Phase::Terminating { kill_at } = self.phase
            && kill_at <= now
        {
            self.phase = Phase::Killing;
        }
        let wake_at = match self.phase {
            Phase::Running => None,
            Phase::Terminating { kill_at } => Some(kill_at),
            Phase::Killing => {
                descendants::kill_all(getpid().as_raw(), &HashSet::new());
                Some(now + SWEEP_AGAIN)
            }
        };
        match wake_at.into_iter().chain(self.deadline).min() {
            Some(at) => {
                let expiration = Expiration::OneShot(TimeSpec::from_duration(at));
                self.timer.set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            None => self.timer.unset()?,
        }
        Ok(true)
    }

    /// A worker that has gone is noticed by the end of its socket, not here.
    fn tell(&self, event: &Event) -> io::Result<()> {
        match protocol::send(self.socket, event, &[]) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

fn start_task(descriptors: Vec<OwnedFd>) -> io::Result<i32> {
    let mut descriptors = descriptors.into_iter();
    let (Some(task), Some(output)) = (descriptors.next(), descriptors.next()) else {
        return Err(io::Error::other("the request lacks its descriptors"));
    };
    let task: Task = serde_json::from_reader(io::BufReader::new(File::from(task)))?;
    child::start(&task, output, descriptors.next())
}
