//! Finding and signalling everything below a process, from `/proc` (proc(5)).

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::{errno::Errno, libc, sys::signal::Signal};

/// Rounds of stopping before killing, against processes that fork faster than they are found.
const MAX_FREEZE_ROUNDS: usize = 32;

/// A process, told apart from a later one with the same number by when it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) pid: i32,
    parent: i32,
    /// In clock ticks since the machine was started (field 22 of `/proc/PID/stat`).
    started: u64,
}

/// Sends `signal` to everything below `root`, but for the children of `root` in `spared` and what is below those.
pub(super) fn signal_all(root: i32, spared: &HashSet<i32>, signal: Signal) {
    for process in below(root, spared) {
        send(process, signal);
    }
}

/// Kills everything below `root`, spared as in [`signal_all`]. All are stopped first, until no new one is found, so that
/// none escapes by forking while the others are killed.
pub(super) fn kill_all(root: i32, spared: &HashSet<i32>) {
    let mut stopped = HashSet::new();
    for _ in 0..MAX_FREEZE_ROUNDS {
        let new: Vec<Process> = below(root, spared).into_iter().filter(|p| stopped.insert(*p)).collect();
        if new.is_empty() {
            break;
        }
        new.into_iter().for_each(|process| send(process, Signal::SIGSTOP));
    }
    signal_all(root, spared, Signal::SIGKILL);
}

/// Whether anything is below `root`, spared as in [`signal_all`].
pub(super) fn has_any(root: i32, spared: &HashSet<i32>) -> bool {
    all().any(|process| process.parent == root && !spared.contains(&process.pid))
}

/// Everything below `root`, parents first.
fn below(root: i32, spared: &HashSet<i32>) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in all() {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found: Vec<Process> =
        children.remove(&root).unwrap_or_default().into_iter().filter(|p| !spared.contains(&p.pid)).collect();
    let mut next = 0;
    while let Some(process) = found.get(next) {
        if let Some(more) = children.remove(&process.pid) {
            found.extend(more);
        }
        next += 1;
    }
    found
}

/// Every process of the machine.
pub(super) fn all() -> impl Iterator<Item = Process> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(process)
}

/// Parses `/proc/PID/stat`: `pid (name) state ppid ...`, where the name may hold anything.
fn process(pid: i32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after_name = &stat[stat.iter().rposition(|&b| b == b')')? + 1..];
    let mut fields = std::str::from_utf8(after_name).ok()?.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Process { pid, parent, started })
}

/// Signals exactly this process: a pidfd is taken, and used only if the number still means the same process.
pub(super) fn send(process: Process, signal: Signal) {
    // SAFETY: plain system calls on numbers; the descriptor returned is owned by nobody else.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, process.pid, 0) };
    let Ok(opened) = i32::try_from(Errno::result(opened).unwrap_or(-1)) else { return };
    if opened < 0 {
        return;
    }
    // SAFETY: as above.
    let pidfd = unsafe { OwnedFd::from_raw_fd(opened) };
    if self::process(process.pid).is_some_and(|p| p.started == process.started) {
        // SAFETY: a plain system call on an open descriptor, without a siginfo.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                pidfd.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
    }
}
