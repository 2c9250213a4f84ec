//! What a container says of the GPUs that it was given, and when it is to be made anew: where it has lost what its machine still sees. With an
//! engine whose cgroups systemd manages, `systemctl daemon-reload` takes the devices from containers that NVIDIA's hook gave them to; a new
//! container has them again.
//! <https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/troubleshooting.html>

use std::time::Duration;

use super::smi::shortened;

/// What a container is asked. NVIDIA's runtime brings the program with the capability `utility`, which is among what it gives where an image
/// says nothing.
pub const LIST: [&str; 2] = ["nvidia-smi", "-L"];

/// Looks in a row by which a container has lost its GPUs. One alone may have met a driver that is at work.
const MISSES: u32 = 2;

/// The least time between two times that one instance's container is made anew, the first time; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(60);

/// The longest such time.
const MAX_PAUSE: Duration = Duration::from_secs(3600);

/// What a container said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It sees what it was given.
    Sees,
    /// It does not, in words.
    Lost(String),
    /// Nothing of its GPUs.
    Nothing,
}

/// What `nvidia-smi -L`, run in a container that was given some GPUs, means by its exit code and what it printed.
#[must_use]
pub fn told(code: i64, said: &str, given: &[String]) -> Told {
    let says = |part: &str| said.to_ascii_lowercase().contains(part);
    // what an engine or a shell answers where there is no such program, and the tool where there is no library
    let is_absent = matches!(code, 126 | 127) || says("couldn't find libnvidia-ml") || says("could not find libnvidia");
    if is_absent || given.is_empty() {
        return Told::Nothing;
    }
    if code != 0 || says("no devices found") || says("no devices were found") {
        let is_of_gpus =
            ["nvml", "no devices", "device handle", "gpu is lost", "nvidia driver"].iter().any(|one| says(one));
        return if is_of_gpus { Told::Lost(shortened(said)) } else { Told::Nothing };
    }
    let seen: Vec<&str> = said.lines().filter_map(uuid).collect();
    if seen.is_empty() {
        return Told::Nothing;
    }
    let missing: Vec<&str> = given.iter().map(String::as_str).filter(|uuid| !seen.contains(uuid)).collect();
    if missing.is_empty() { Told::Sees } else { Told::Lost(format!("it does not list {}", missing.join(", "))) }
}

/// The UUID of a line `GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-...)`; the parts of a GPU that is cut into instances stand indented below it.
fn uuid(line: &str) -> Option<&str> {
    let (_, rest) = line.strip_prefix("GPU ")?.rsplit_once("(UUID: ")?;
    rest.trim_end().strip_suffix(')')
}

/// What one container has said so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sight {
    /// Whether it ever saw what it was given.
    pub has_seen: bool,
    missed: u32,
}

/// What to do after a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Wait,
    /// Look again soon: it may have lost them.
    LookAgain,
    /// It is to be made anew: what it said.
    Remake(String),
    /// It can't see them, and never could: a new one could not either. What it said.
    Never(String),
}

impl Sight {
    /// One that is known to have seen its GPUs, or not.
    #[must_use]
    pub const fn of(has_seen: bool) -> Self {
        Self { has_seen, missed: 0 }
    }

    /// Takes a look into account. `on_host`: whether the machine itself sees those GPUs.
    pub fn look(&mut self, told: Told, on_host: bool) -> Next {
        let said = match told {
            Told::Sees => {
                *self = Self::of(true);
                return Next::Wait;
            }
            // what was missed before was so without it
            Told::Nothing => return Next::Wait,
            Told::Lost(said) => said,
        };
        // then it is the machine's fault, and told as such
        if !on_host {
            self.missed = 0;
            return Next::Wait;
        }
        self.missed = self.missed.saturating_add(1);
        match (self.missed, self.has_seen) {
            (missed, _) if missed < MISSES => Next::LookAgain,
            (_, true) => Next::Remake(said),
            (missed, false) if missed == MISSES => Next::Never(said),
            (_, false) => Next::Wait,
        }
    }
}

/// How long the container of an instance that was made anew for the `times`-th time is not made anew again.
#[must_use]
pub fn pause_after_remake(times: u32) -> Duration {
    let Some(doubled) = times.checked_sub(1) else { return Duration::ZERO };
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(doubled)).min(MAX_PAUSE)
}
