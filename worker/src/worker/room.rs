//! Whether the worker's disk has room for another job. A worker without room takes none: each would fail here, one after the other,
//! while other workers have room. What it runs goes on.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// How often a disk without room is looked at: nothing tells when there is some again.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The room of a worker's directory.
#[derive(Debug, Default)]
pub struct Room {
    /// Below this nothing is taken, in MiB; 0: whatever there is will do.
    least_mib: u64,
    is_low: AtomicBool,
}

impl Room {
    /// One that wants so much.
    #[must_use]
    pub fn of(least_mib: u64) -> Self {
        Self { least_mib, is_low: AtomicBool::new(false) }
    }

    /// Whether a job may be begun. Says once when that changes.
    pub fn is_there(&self, directory: &Path) -> bool {
        let least_mib = self.least_mib;
        let free_mib = free_mib(directory);
        let is_low = free_mib < least_mib;
        if self.is_low.swap(is_low, Ordering::Relaxed) != is_low {
            let directory = directory.display();
            if is_low {
                tracing::error!(
                    %directory, free_mib, least_mib,
                    "the disk is too full to begin a job: this worker takes none until there is room \
                     (`retention.low-disk-mib`)"
                );
            } else {
                tracing::info!(%directory, free_mib, "there is room on the disk again; jobs are taken");
            }
        }
        !is_low
    }

    /// Returns when there is room, or the worker stops.
    pub async fn wait(&self, directory: &Path, shutdown: &CancellationToken) {
        while !self.is_there(directory) {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }
}

/// A disk that can't be looked at is for the job to fail on.
fn free_mib(directory: &Path) -> u64 {
    nix::sys::statvfs::statvfs(directory)
        .map_or(u64::MAX, |disk| disk.blocks_available().saturating_mul(disk.fragment_size()) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_is_told_from_enough() {
        let here = std::env::temp_dir();
        assert!(Room::of(0).is_there(&here) && Room::default().is_there(&here));
        let room = Room::of(u64::MAX);
        assert!(!room.is_there(&here) && room.is_low.load(Ordering::Relaxed));
        assert!(!Room::of(free_mib(&here) * 2 + 1).is_there(&here));
        assert!(Room::of(1).is_there(Path::new("/nowhere")));
    }
}
