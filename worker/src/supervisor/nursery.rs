//! The nursery: forks a keeper per job, and looks after the orphans of a keeper that was killed.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork, getpid},
};

use super::{
    descendants, keeper,
    protocol::{self, NewKeeper},
};

/// Between two sweeps while strays are left that were killed but have not ended.
const SWEEP_AGAIN_MS: u16 = 50;

/// Serves until the worker has gone and no keeper or stray is left.
pub(super) fn run(socket: OwnedFd) -> io::Result<()> {
    let children = child_signals()?;
    let mut keepers: HashSet<i32> = HashSet::new();
    let mut worker = Some(socket);
    let mut suspicious = false;
    loop {
        reap(&mut keepers, &mut suspicious);
        let strays = suspicious && descendants::has_any(getpid().as_raw(), &keepers);
        suspicious = strays;
        if strays {
            descendants::kill_all(getpid().as_raw(), &keepers);
        } else if worker.is_none() && keepers.is_empty() {
            return Ok(());
        }
        let timeout = if strays { PollTimeout::from(SWEEP_AGAIN_MS) } else { PollTimeout::NONE };
        let mut watched = vec![PollFd::new(children.as_fd(), PollFlags::POLLIN)];
        if let Some(socket) = &worker {
            watched.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut watched, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let asked = watched.get(1).and_then(PollFd::any).unwrap_or(false);
        while children.read_signal()?.is_some() {}
        if !asked {
            continue;
        }
        match worker.as_ref().map(protocol::receive::<NewKeeper>).transpose()?.flatten() {
            Some((NewKeeper {}, descriptors)) => {
                for descriptor in descriptors {
                    keepers.insert(start_keeper(descriptor, &mut worker)?.as_raw());
                }
            }
            None => worker = None,
        }
    }
}

/// A descriptor that becomes readable when a child has ended. `SIGCHLD` is blocked already.
pub(super) fn child_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Forks the keeper that serves `socket`. The child keeps no hold of the nursery's own socket.
fn start_keeper(socket: OwnedFd, worker: &mut Option<OwnedFd>) -> io::Result<Pid> {
    // SAFETY: this process has one thread, so that the child may go on as an ordinary program.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            drop(worker.take());
            let code = match keeper::run(&socket) {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("segue step-supervisor: {error}");
                    1
                }
            };
            // SAFETY: always allowed. Nothing of the nursery's is to be unwound or flushed here.
            unsafe { libc::_exit(code) }
        }
    }
}

/// Takes note of what has ended; says whether children may be left that are no keepers. A keeper that ended as it should
/// has left none.
fn reap(keepers: &mut HashSet<i32>, suspicious: &mut bool) {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return,
            Ok(WaitStatus::Exited(pid, 0)) if keepers.remove(&pid.as_raw()) => {}
            Ok(status) => {
                status.pid().map(|pid| keepers.remove(&pid.as_raw()));
                *suspicious = true;
            }
            Err(Errno::EINTR) => {}
            Err(_) => {
                *suspicious = false;
                return;
            }
        }
    }
}
