//! Time as the host needs it: the wall clock for what people read, and the boot clock, which runs on in suspend and never
//! jumps, for deadlines.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_gettime};
use segue_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

/// A deadline that is kept over restarts of the host and of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// By the wall clock: for people, and to go by after a reboot.
    pub at: Timestamp,
    /// By the boot clock of the boot that it was set in.
    boot_ms: u64,
}

impl Deadline {
    /// `after` from now.
    #[must_use]
    pub fn after(after: Duration) -> Self {
        Self { at: now() + after, boot_ms: boot_ms().saturating_add(millis(after)) }
    }

    /// How long until then; zero when it has passed.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        Duration::from_millis(self.boot_ms.saturating_sub(boot_ms()))
    }

    /// The same deadline by this boot's clock, for one that was set in an earlier boot.
    #[must_use]
    pub fn carried_over(self) -> Self {
        let left = self.at.since(now());
        Self { at: self.at, boot_ms: boot_ms().saturating_add(millis(left)) }
    }
}

/// The wall clock.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// What tells one boot of the machine from another.
pub fn boot_id(file: &Path) -> std::io::Result<String> {
    Ok(std::fs::read_to_string(file)?.trim().to_owned())
}

fn boot_ms() -> u64 {
    // The clock exists on every Linux that this runs on; without it deadlines count from 0 and pass late, never early.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| millis(Duration::from(time)))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
