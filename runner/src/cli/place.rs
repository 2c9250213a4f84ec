//! Where things are by default: the data directory, and the runtime that a command runs on.

use std::{env, path::PathBuf};

use super::ending::{Explain as _, Failure};

/// What `--help` says about the default data directory.
pub const DATA_HELP: &str =
    "Data directory [default: /var/lib/segue for root, else $XDG_DATA_HOME/segue or ~/.local/share/segue]";

/// The data directory where none was named. Root's is not in root's home, because jobs run as another user, who can't
/// pass through a home directory.
///
/// # Errors
/// There is no home directory to take.
pub fn default_data() -> Result<PathBuf, Failure> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/segue"));
    }
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("segue"))
        .ok_or_else(|| {
            Failure::usage("no data directory: neither XDG_DATA_HOME nor HOME is set")
                .remedy("name one with --data DIR")
        })
}

/// The named data directory, or the default one.
///
/// # Errors
/// There is neither.
pub fn data(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    named.map_or_else(default_data, Ok)
}

/// A runtime for a command that asks a server something and ends.
///
/// # Errors
/// The system has no thread or descriptor left.
pub fn client_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().explain("cannot start the runtime")
}

/// A runtime for what serves: as many threads as there are processors, four at most, since nearly all of the work waits.
///
/// # Errors
/// The system has no thread or descriptor left.
pub fn server_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    bound_memory_pools();
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(4);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .explain("cannot start the runtime")
}

/// The C library gives each busy thread a pool of its own and keeps what was freed there: a process that waits most of its
/// life would stay as large as its busiest moment. Two pools, trimmed early, cost nothing that can be measured.
fn bound_memory_pools() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use nix::libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt};
        for (setting, value) in [(M_ARENA_MAX, 2), (M_MMAP_THRESHOLD, 128 * 1024), (M_TRIM_THRESHOLD, 256 * 1024)] {
            // SAFETY: `mallopt` takes two numbers, touches the allocator's own settings alone, and no other thread was
            // started yet. Where it refuses a value, the default stays.
            unsafe { mallopt(setting, value) };
        }
    }
}
