//! What is known of a machine's GPUs. What is `None` was not told: an older tool does not know it, or the GPU does not have it.

use std::{cmp::Ordering, fmt, str::FromStr};

/// A machine's GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The driver's version, `535.54.03`.
    pub driver: Option<Version>,
    /// The newest CUDA that the driver supports, `12.2`.
    pub cuda: Option<Version>,
    /// Its GPUs, in the driver's order.
    pub gpus: Vec<Gpu>,
    /// The processes that compute on them.
    pub processes: Vec<GpuProcess>,
}

/// One GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gpu {
    /// Its number, which may be another after a restart of the machine.
    pub index: Option<u32>,
    /// `GPU-...`, which stays.
    pub uuid: String,
    /// `NVIDIA A100-SXM4-80GB`
    pub name: String,
    /// As `NVIDIA_REQUIRE_CUDA` writes it: `tesla`, `nvidia`, `geforcertx`.
    pub brand: Option<String>,
    /// Its compute capability.
    pub capability: Option<Version>,
    /// Its memory, in MiB.
    pub memory_total_mib: Option<u64>,
    /// What of it nobody uses, in MiB.
    pub memory_free_mib: Option<u64>,
    /// Errors of memory since the driver was loaded that could not be corrected.
    pub uncorrected_ecc: Option<u64>,
    /// Whether rows of its memory wait for a reset to be remapped.
    pub remap_pending: Option<bool>,
    /// Whether remapping a row has failed: it needs to be replaced.
    pub remap_failed: Option<bool>,
    /// What the driver wants done.
    pub recovery: Option<Recovery>,
    /// Why its hardware slows it down now.
    pub throttled: Vec<Throttle>,
    /// Where it is on the PCI bus: `00000000:3B:00.0`.
    pub bus: Option<String>,
    /// Lanes to the machine in use.
    pub pcie_width: Option<u32>,
    /// Lanes that there could be.
    pub pcie_width_max: Option<u32>,
    /// Whether it is cut into instances.
    pub has_mig: bool,
    /// What it answered with an error, as `field: answer`: it does not work as it should.
    pub errors: Vec<String>,
}

/// A process that computes on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuProcess {
    /// The GPU.
    pub uuid: String,
    /// Its process id on the machine.
    pub pid: u32,
    /// Memory of the GPU that it holds, in MiB.
    pub memory_mib: Option<u64>,
    /// Its program.
    pub name: String,
}

/// What the driver wants done before a GPU is used again. <https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/error-recovery-and-response-flags.html>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing.
    None,
    /// `nvidia-smi -r`, once its processes have ended.
    Reset,
    /// A restart of the machine.
    Reboot,
    /// All traffic between GPUs is to end, then it says more.
    DrainPeers,
    /// What runs may end; nothing new, then a reset.
    DrainAndReset,
}

impl Recovery {
    /// From the tool's words, and those of Xid 154.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        Some(match text.trim().to_ascii_lowercase().as_str() {
            "none" => Self::None,
            "reset" | "gpu reset" | "gpu reset required" => Self::Reset,
            "reboot" | "node reboot" | "node reboot required" => Self::Reboot,
            "drain p2p" => Self::DrainPeers,
            "drain and reset" => Self::DrainAndReset,
            _ => return None,
        })
    }

    /// From the number that NVML has for it (`nvmlDeviceGpuRecoveryAction_t`).
    #[must_use]
    pub const fn of_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::None,
            1 => Self::Reset,
            2 => Self::Reboot,
            3 => Self::DrainPeers,
            4 => Self::DrainAndReset,
            _ => return None,
        })
    }
}

/// Why the hardware slows a GPU down. Power caps, idling and clocks that somebody set are no faults and not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Throttle {
    /// Its clocks are halved or worse: temperature, power brake, or power that is drawn too fast.
    Slowdown,
    /// It is too hot.
    Thermal,
    /// The machine's power supply asks for it.
    PowerBrake,
}

impl fmt::Display for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slowdown => "hardware slowdown",
            Self::Thermal => "thermal slowdown",
            Self::PowerBrake => "power brake",
        })
    }
}

/// A version: numbers between dots, compared one by one; what is missing is 0.
#[derive(Debug, Clone, Eq)]
pub struct Version(Vec<u32>);

impl Version {
    fn at(&self, place: usize) -> u32 {
        self.0.get(place).copied().unwrap_or(0)
    }
}

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.trim();
        let parts: Result<Vec<u32>, _> =
            text.strip_prefix('v').unwrap_or(text).split('.').map(str::parse::<u32>).collect();
        parts.ok().filter(|parts| parts.len() <= 4).map(Self).ok_or(())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self
            .0
            .iter()
            .enumerate()
            .map(|(place, part)| {
                // drivers are numbered with two digits at the end: 535.54.03
                if place == 2 { format!("{part:02}") } else { part.to_string() }
            })
            .collect();
        f.write_str(&parts.join("."))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        (0..self.0.len().max(other.0.len()))
            .map(|place| self.at(place).cmp(&other.at(place)))
            .find(|ordering| ordering.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
