//! `nvidia-smi --query-gpu=... --format=csv,noheader,nounits`: what is asked, what to ask where an older tool does not know a field, and
//! what is answered. <https://docs.nvidia.com/deploy/nvidia-smi/index.html>, `nvidia-smi --help-query-gpu`

use super::facts::{Facts, Gpu, GpuProcess, Recovery, Throttle, Version};

/// `--query-compute-apps`. The name comes last, as there may be commas in it.
pub const PROCESS_QUERY: &str = "gpu_uuid,pid,used_gpu_memory,process_name";

/// GPUs and processes that are read of one answer.
const MOST_GPUS: usize = 64;
const MOST_PROCESSES: usize = 4096;

/// How much of what a tool said is kept for a message.
const SAID_CHARS: usize = 300;

/// What is asked of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Index,
    Uuid,
    Name,
    Driver,
    Capability,
    MemoryTotal,
    MemoryFree,
    Mig,
    Ecc,
    RemapPending,
    RemapFailure,
    Recovery,
    Slowdown,
    Thermal,
    PowerBrake,
    Width,
    WidthMax,
    Bus,
}

/// The fields with their names, the newest first. Those without which nothing can be said come first.
const FIELDS: &[(Field, &[&str])] = &[
    (Field::Uuid, &["uuid", "gpu_uuid"]),
    (Field::Name, &["name", "gpu_name"]),
    (Field::Driver, &["driver_version"]),
    (Field::MemoryTotal, &["memory.total"]),
    (Field::MemoryFree, &["memory.free"]),
    (Field::Index, &["index"]),
    (Field::Capability, &["compute_cap"]),
    (Field::Mig, &["mig.mode.current"]),
    (Field::Ecc, &["ecc.errors.uncorrected.volatile.total"]),
    (Field::RemapPending, &["remapped_rows.pending"]),
    (Field::RemapFailure, &["remapped_rows.failure"]),
    (Field::Recovery, &["gpu_recovery_action"]),
    (Field::Slowdown, &["clocks_event_reasons.hw_slowdown", "clocks_throttle_reasons.hw_slowdown"]),
    (Field::Thermal, &["clocks_event_reasons.hw_thermal_slowdown", "clocks_throttle_reasons.hw_thermal_slowdown"]),
    (
        Field::PowerBrake,
        &["clocks_event_reasons.hw_power_brake_slowdown", "clocks_throttle_reasons.hw_power_brake_slowdown"],
    ),
    (Field::Width, &["pcie.link.width.current"]),
    (Field::WidthMax, &["pcie.link.width.max"]),
    (Field::Bus, &["pci.bus_id", "gpu_bus_id"]),
];

/// Fields that every tool knows; without them there is no question.
const NEEDED: usize = 5;

/// A question to the tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// What is asked, by which of its names (as the number in [`FIELDS`]).
    columns: Vec<(Field, &'static str)>,
}

impl Default for Query {
    fn default() -> Self {
        Self { columns: FIELDS.iter().filter_map(|(field, names)| Some((*field, *names.first()?))).collect() }
    }
}

impl Query {
    /// The most questions until one is answered: each refused one is shorter, or has an older name in it.
    #[must_use]
    pub fn most_tries() -> usize {
        FIELDS.iter().map(|(_, names)| names.len()).sum::<usize>() + 1
    }

    /// The tool's arguments.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let names: Vec<&str> = self.columns.iter().map(|(_, name)| *name).collect();
        vec![format!("--query-gpu={}", names.join(",")), "--format=csv,noheader,nounits".into()]
    }

    /// What to ask in the place of this, where the tool said `Field "x" is not a valid field to query.`: by an older name, or without it.
    /// `None`: it said something else, or can't do without.
    #[must_use]
    pub fn after(&self, said: &str) -> Option<Self> {
        let refused = said.split_once("Field \"")?.1.split_once("\" is not a valid field")?.0;
        let place = self.columns.iter().position(|(_, name)| *name == refused)?;
        let (known, names) = FIELDS.iter().find(|(_, names)| names.contains(&refused))?;
        let mut next = self.clone();
        match names.iter().skip_while(|name| **name != refused).nth(1) {
            Some(older) => next.columns.get_mut(place)?.1 = older,
            None if FIELDS.iter().take(NEEDED).any(|(field, _)| field == known) => return None,
            None => drop(next.columns.remove(place)),
        }
        Some(next)
    }

    /// The answer to this question.
    ///
    /// # Errors
    /// [`SmiFault`] where the tool says that there is nothing to say, or what it says can't be read.
    pub fn read(&self, said: &str) -> Result<Facts, SmiFault> {
        let mut facts = Facts::default();
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        for line in lines.take(MOST_GPUS) {
            let cells: Vec<&str> = line.split(',').map(str::trim).collect();
            if cells.len() != self.columns.len() {
                return Err(fault(0, said));
            }
            let mut gpu = Gpu::default();
            for ((field, name), text) in self.columns.iter().zip(cells) {
                match cell(text) {
                    Cell::Is(text) => set(&mut gpu, &mut facts.driver, *field, text),
                    Cell::Unknown => {}
                    Cell::Failed => gpu.errors.push(format!("{name}: {text}")),
                }
            }
            if gpu.uuid.is_empty() {
                return Err(SmiFault::Unreadable { said: shortened(said) });
            }
            facts.gpus.push(gpu);
        }
        if facts.gpus.is_empty() { Err(SmiFault::NoDevices) } else { Ok(facts) }
    }
}

/// What stands in one cell.
enum Cell<'t> {
    Is(&'t str),
    /// It is not told, and that is no fault.
    Unknown,
    /// The GPU could not be asked.
    Failed,
}

fn cell(text: &str) -> Cell<'_> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match inner.unwrap_or(text).to_ascii_lowercase().as_str() {
        "err!" | "unknown error" | "gpu is lost" | "gpu requires reset" => Cell::Failed,
        "n/a" | "not supported" | "not available" | "insufficient permissions" | "no permission" | "" => Cell::Unknown,
        // whatever else a tool puts in brackets is no value
        _ if inner.is_some() => Cell::Unknown,
        _ => Cell::Is(text),
    }
}

fn set(gpu: &mut Gpu, driver: &mut Option<Version>, field: Field, text: &str) {
    match field {
        Field::Index => gpu.index = text.parse().ok(),
        Field::Uuid => text.clone_into(&mut gpu.uuid),
        Field::Name => text.clone_into(&mut gpu.name),
        Field::Driver => *driver = text.parse().ok(),
        Field::Capability => gpu.capability = text.parse().ok(),
        Field::MemoryTotal => gpu.memory_total_mib = text.parse().ok(),
        Field::MemoryFree => gpu.memory_free_mib = text.parse().ok(),
        Field::Mig => gpu.has_mig = text.eq_ignore_ascii_case("enabled"),
        Field::Ecc => gpu.uncorrected_ecc = text.parse().ok(),
        Field::RemapPending => gpu.remap_pending = said_yes(text),
        Field::RemapFailure => gpu.remap_failed = said_yes(text),
        Field::Recovery => gpu.recovery = Recovery::read(text),
        Field::Slowdown => is_active(text, Throttle::Slowdown, gpu),
        Field::Thermal => is_active(text, Throttle::Thermal, gpu),
        Field::PowerBrake => is_active(text, Throttle::PowerBrake, gpu),
        Field::Width => gpu.pcie_width = text.parse().ok(),
        Field::WidthMax => gpu.pcie_width_max = text.parse().ok(),
        Field::Bus => gpu.bus = Some(text.to_owned()),
    }
}

/// `Yes` and `No`; csv has them as 1 and 0 for some fields.
pub(super) fn said_yes(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "yes" | "1" => Some(true),
        "no" | "0" => Some(false),
        _ => None,
    }
}

fn is_active(text: &str, why: Throttle, gpu: &mut Gpu) {
    if text.eq_ignore_ascii_case("active") {
        gpu.throttled.push(why);
    }
}

/// The answer to `--query-compute-apps` with [`PROCESS_QUERY`]. Lines that can't be read are left out: who holds memory is known by the
/// GPU's free memory as well.
#[must_use]
pub fn processes(said: &str) -> Vec<GpuProcess> {
    let read = |line: &str| {
        let mut cells = line.splitn(4, ',').map(str::trim);
        let (uuid, pid, memory, name) = (cells.next()?, cells.next()?, cells.next()?, cells.next()?);
        let memory_mib = if let Cell::Is(text) = cell(memory) { text.parse().ok() } else { None };
        uuid.starts_with("GPU-")
            .then(|| Some(GpuProcess { uuid: uuid.into(), pid: pid.parse().ok()?, memory_mib, name: name.into() }))?
    };
    said.lines().take(MOST_PROCESSES).filter_map(read).collect()
}

/// Why the tool says nothing of GPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SmiFault {
    /// There is no such program.
    #[error("`{program}` is not there")]
    NoTool {
        /// What was to be run.
        program: String,
    },
    /// The driver is not loaded, or does not answer.
    #[error("the NVIDIA driver does not answer: {said}")]
    Driver {
        /// What the tool said.
        said: String,
    },
    /// The driver was updated, and the old one is still loaded.
    #[error("the NVIDIA driver that is loaded and its library are of different versions: {said}")]
    Mismatch {
        /// What the tool said.
        said: String,
    },
    /// The driver sees no GPU.
    #[error("the driver finds no GPU")]
    NoDevices,
    /// A GPU can't be reached.
    #[error("a GPU can't be reached any more: {said}")]
    Lost {
        /// What the tool said.
        said: String,
    },
    /// It did not answer in time: a GPU or its driver hangs.
    #[error("`nvidia-smi` did not answer within {seconds} s")]
    Hangs {
        /// How long it had.
        seconds: u64,
    },
    /// Of an engine on another machine: it can give containers no GPUs.
    #[error("the container engine gives containers no GPUs: {said}")]
    NoToolkit {
        /// What the engine said.
        said: String,
    },
    /// Of an engine on another machine: in a container of the image that was named for it, the tool can't be run.
    #[error("`nvidia-smi` can't be run in a container of the image that is named for it: {said}")]
    NoToolInside {
        /// What was said.
        said: String,
    },
    /// Of an engine on another machine: nobody could be asked, so that nothing is known.
    #[error("the GPUs could not be asked after: {said}")]
    Unasked {
        /// Why not.
        said: String,
    },
    /// Something else.
    #[error("what `nvidia-smi` said can't be read: {said}")]
    Unreadable {
        /// What it said.
        said: String,
    },
}

impl SmiFault {
    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NoTool { .. } => {
                "install the NVIDIA driver with its tools, or name the program (`nvidia-smi` of the host or the worker)"
            }
            Self::Driver { .. } => {
                "load the driver (`modprobe nvidia`) or install one that fits this kernel, then look at `dmesg`"
            }
            Self::Mismatch { .. } => "restart the machine, or unload and load the modules of the driver",
            Self::NoDevices => {
                "look whether the machine sees one (`lspci -d 10de:`), and whether it was given to a virtual machine or a container"
            }
            Self::Lost { .. } => "restart the machine; if it happens again, the GPU, its slot or its power is broken",
            Self::Hangs { .. } => {
                "look at `dmesg` for `NVRM: Xid`; a GPU that hangs needs a reset (`nvidia-smi --gpu-reset`) or a restart of the machine"
            }
            Self::NoToolkit { .. } => {
                "on the engine's machine install nvidia-container-toolkit, run `nvidia-ctk runtime configure --runtime=docker`, and start the engine \
                 again"
            }
            Self::NoToolInside { .. } => {
                "name an image with glibc and `sleep` in `nvidia-smi-image`, such as `debian:13-slim` or one of `nvidia/cuda`: NVIDIA's Container \
                 Toolkit brings the tool into it"
            }
            Self::Unasked { .. } => "look whether the engine answers (`segue doctor`); it is asked again",
            Self::Unreadable { .. } => "run `nvidia-smi` on the machine and look at what it says",
        }
    }
}

/// What a tool that failed means, by its exit code and what it printed. The codes are those of its manual ("RETURN VALUE").
#[must_use]
pub fn fault(code: i32, said: &str) -> SmiFault {
    let kept = shortened(said);
    let says = |part: &str| said.to_ascii_lowercase().contains(part);
    if says("driver/library version mismatch") {
        SmiFault::Mismatch { said: kept }
    } else if says("no devices were found") {
        SmiFault::NoDevices
    } else if code == 15
        || says("gpu is lost")
        || says("unable to determine the device handle")
        || says("fallen off the bus")
    {
        SmiFault::Lost { said: kept }
    } else if matches!(code, 9 | 10 | 12)
        || says("communicate with the nvidia driver")
        || says("failed to initialize nvml")
    {
        SmiFault::Driver { said: kept }
    } else {
        SmiFault::Unreadable { said: kept }
    }
}

/// On one line, and not too much of it.
pub(super) fn shortened(said: &str) -> String {
    let words: Vec<&str> = said.split_whitespace().collect();
    let line = words.join(" ");
    if line.is_empty() {
        return "nothing".into();
    }
    if line.chars().count() <= SAID_CHARS { line } else { line.chars().take(SAID_CHARS).chain("...".chars()).collect() }
}
