//! Processes, as the kernel shows them under `/proc`.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use nix::{sys::signal::Signal, unistd::Pid};

/// Sends a signal.
///
/// # Errors
/// The process is gone.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?);
    nix::sys::signal::kill(pid, signal).with_context(|| format!("cannot send {signal} to process {pid}"))
}

/// Whether the process lives: it is there and no zombie.
#[must_use]
pub fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(')').map(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X'])))
        .unwrap_or(false)
}

/// Every live process but this one with `text` in its command line, its working directory or its environment.
#[must_use]
pub fn with_argument(text: &str) -> Vec<u32> {
    let own = std::process::id();
    all().into_iter().filter(|&pid| pid != own && lives(pid) && mentions(pid, text)).collect()
}

fn mentions(pid: u32, text: &str) -> bool {
    let in_file = |name: &str| {
        fs::read(format!("/proc/{pid}/{name}")).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
    };
    let working_directory = fs::read_link(format!("/proc/{pid}/cwd"));
    in_file("cmdline")
        || working_directory.is_ok_and(|path| path.to_string_lossy().contains(text))
        || in_file("environ")
}

/// The most memory that a process had while somebody looked: its proportional set size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Which process.
    pub who: String,
    /// What it had, in MiB.
    pub peak_mib: u64,
    /// What it may have, in MiB.
    pub bound_mib: u64,
}

/// The proportional set size of a process, in KiB: its private memory, and its share of what it shares.
///
/// # Errors
/// The process is gone, or the kernel does not say.
pub fn pss_kib(pid: u32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
        .context("no Pss in smaps_rollup")
}

/// The name of the sub-command that a process of ours was started with, such as `up` or `host`.
#[must_use]
pub fn sub_command(pid: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    line.split(|byte| *byte == 0).nth(1).map(|word| String::from_utf8_lossy(word).into_owned())
}

/// Every process below the given one.
#[must_use]
pub fn descendants(root: u32) -> Vec<u32> {
    let parents: BTreeMap<u32, u32> = all().into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let above = found[next];
        found.extend(parents.iter().filter(|(_, parent)| **parent == above).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn all() -> Vec<u32> {
    fs::read_dir("/proc")
        .map(|entries| entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_default()
}
