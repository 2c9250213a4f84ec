//! The step supervisor: the process that parents what jobs run, so that nothing of a job outlives it.
//!
//! Comes in: a seqpacket socket from a worker as standard input, then requests over it ([`protocol`]). Goes out: the
//! processes of steps, reports of their ends, and the certainty that none is left. Never here: tokio, threads, the
//! network, or knowledge of what a job is.
//!
//! There are two kinds of it. The **nursery** is started once per worker, so that a claim costs no start of a large
//! program; it forks a **keeper** per job, which costs a fraction of a millisecond and shares its memory. A keeper is a
//! subreaper (`PR_SET_CHILD_SUBREAPER`, prctl(2)): whatever a step leaves behind, also after `setsid` and a double fork,
//! becomes the keeper's child, so "no child is left" (`ECHILD`, wait(2)) means that nothing is left. It kills everything
//! when it is told to, when its worker has gone (end of file on the socket) and when the lease's deadline on
//! `CLOCK_BOOTTIME` passes, which also counts while the machine sleeps. Should a keeper itself be killed, its orphans
//! fall to the nursery, which is a subreaper as well and kills them.

pub(crate) mod child;
pub mod client;
mod descendants;
mod keeper;
pub mod leftovers;
mod nursery;
pub mod protocol;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    process::ExitCode,
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::{
        prctl,
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        socket::{SockType, getsockopt, sockopt},
    },
    time::{ClockId, clock_gettime},
    unistd::{dup2_stdin, setsid},
};

/// The entry point of `segue step-supervisor`. Its standard input is the socket of its worker; it returns when that is
/// closed and nothing that it parented is left. Call it before any thread or async runtime is started.
#[must_use]
pub fn main() -> ExitCode {
    let socket = match worker_socket().and_then(|socket| prepare().map(|()| socket)) {
        Ok(socket) => socket,
        Err(reason) => {
            eprintln!("segue step-supervisor: {reason}; it is started by a worker, never by hand");
            return ExitCode::from(2);
        }
    };
    match nursery::run(socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("segue step-supervisor: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Time since the machine was started, sleep included: the clock that leases are measured by on this side.
#[must_use]
pub fn boot_time() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// Takes the socket away from standard input, where children would inherit it.
fn worker_socket() -> Result<OwnedFd, String> {
    let stdin = std::io::stdin();
    match getsockopt(&stdin.as_fd(), sockopt::SockType) {
        Ok(SockType::SeqPacket) => {}
        Ok(_) | Err(_) => return Err("standard input is not the socket of a worker".into()),
    }
    let fd = fcntl(stdin.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(3)).map_err(|e| format!("standard input: {e}"))?;
    let null = std::fs::File::open("/dev/null").map_err(|e| format!("/dev/null: {e}"))?;
    dup2_stdin(null.as_fd()).map_err(|e| format!("/dev/null: {e}"))?;
    // SAFETY: the descriptor was made by the call above and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Out of the worker's process group (a Ctrl-C there is the worker's affair), deaf to all but the end of children.
fn prepare() -> Result<(), String> {
    let _ = setsid();
    prctl::set_child_subreaper(true).map_err(|e| format!("can't become a subreaper: {e}"))?;
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
        mask.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None).map_err(|e| format!("can't block signals: {e}"))?;
    debug_assert!(std::io::stdin().as_raw_fd() == 0);
    Ok(())
}
