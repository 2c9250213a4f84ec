//! Whether a service can be placed on a machine's GPUs: a placement by UUID, or each reason why there is none.
//!
//! With `memory` named, several instances may share a GPU as long as what they asked for fits; without, a GPU belongs to one alone. What
//! was given out and is not taken yet counts as taken: a model server that is still loading has asked for its memory.

use std::fmt;

use segue_schemas::gpu::{GpuNeed, GpuOffer};

use super::{
    facts::{Facts, Gpu, GpuProcess, Recovery, Throttle, Version},
    require::Requirement,
    smi::SmiFault,
};

/// Memory of a GPU that was given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The GPU.
    pub uuid: String,
    /// How much of its memory in MiB; `None`: all of it.
    pub memory_mib: Option<u64>,
    /// The processes of whom it was given to.
    pub pids: Vec<u32>,
    /// Whether it comes free when what is to be placed takes its place: it is of the same service.
    pub is_replaced: bool,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// These GPUs, by UUID.
    Place(Vec<String>),
    /// Only once what is replaced has stopped: old and new do not fit beside each other.
    Recreate {
        /// The GPUs that there will be then.
        uuids: Vec<String>,
        /// Why not now.
        why: Vec<Reason>,
    },
    /// Not here.
    Refuse(Vec<Reason>),
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The GPU; `None`: the machine.
    pub gpu: Option<String>,
    /// What is in the way.
    pub what: What,
}

/// What is in the way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum What {
    /// The machine's tool says nothing.
    #[error("{0}")]
    Machine(SmiFault),
    /// The driver is too old for what the service names.
    #[error("CUDA {wanted} is asked for, and the driver supports {}", known(.supported.as_ref()))]
    Cuda {
        /// What is asked for.
        wanted: Version,
        /// What there is.
        supported: Option<Version>,
    },
    /// What the image wants does not hold.
    #[error("the image requires `{0}`")]
    Image(String),
    /// It computes too little.
    #[error("compute capability {wanted} is asked for, and it has {}", known(.has.as_ref()))]
    Capability {
        /// What is asked for.
        wanted: Version,
        /// What it has.
        has: Option<Version>,
    },
    /// Too little memory is free.
    #[error("{wanted_mib} MiB are asked for, and {free_mib} are free of {total_mib}")]
    Memory {
        /// What is asked for.
        wanted_mib: u64,
        /// What can be had.
        free_mib: u64,
        /// What it has.
        total_mib: u64,
    },
    /// Somebody has it, as a whole or a part.
    #[error("it is in use by another instance")]
    Taken,
    /// It has errors of memory.
    #[error("its memory has had {0} errors that could not be corrected")]
    Ecc(u64),
    /// A row could not be remapped.
    #[error("a row of its memory could not be remapped")]
    RemapFailed,
    /// Rows wait for a reset.
    #[error("rows of its memory wait to be remapped")]
    RemapPending,
    /// The driver wants something done.
    #[error("the driver wants {}", wanted(*.0))]
    Recovery(Recovery),
    /// Its hardware slows it down.
    #[error("it is slowed down by its hardware ({0})")]
    Throttled(Throttle),
    /// Fewer lanes are in use than there could be.
    #[error("{now} of {most} PCIe lanes are in use")]
    Lanes {
        /// In use.
        now: u32,
        /// How many there could be.
        most: u32,
    },
    /// Somebody whom Segue did not start uses it.
    #[error("process {pid} (`{name}`), which Segue did not start, holds {}", mib(*.memory_mib))]
    Stranger {
        /// Its number.
        pid: u32,
        /// Its program.
        name: String,
        /// What it holds.
        memory_mib: Option<u64>,
    },
    /// It is cut into instances.
    #[error("it is cut into instances (MIG), of which Segue places nothing")]
    Mig,
    /// It answers with errors.
    #[error("it answers with an error ({0})")]
    Error(String),
    /// There is none of that name.
    #[error("the driver does not know it")]
    Absent,
    /// Too few are left.
    #[error("{wanted} are asked for, and {fit} of {there} can be had")]
    TooFew {
        /// What is asked for.
        wanted: u32,
        /// What can be had.
        fit: u32,
        /// What there is.
        there: u32,
    },
}

impl What {
    /// Whether nothing is known, because nobody could be asked: it is neither in the way nor broken.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::Machine(SmiFault::Unasked { .. }))
    }

    /// Whether something is broken, in which case the host is no place for anything; else it is only no place for this.
    #[must_use]
    pub const fn is_fault(&self) -> bool {
        matches!(
            self,
            Self::Machine(_)
                | Self::Ecc(_)
                | Self::RemapFailed
                | Self::RemapPending
                | Self::Recovery(_)
                | Self::Throttled(_)
                | Self::Lanes { .. }
                | Self::Error(_)
        )
    }

    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Machine(fault) => fault.remedy(),
            Self::Cuda { .. } | Self::Image(_) => {
                "update the NVIDIA driver of the host, or build for the CUDA that it supports"
            }
            Self::Capability { .. } => "name a host with a newer GPU",
            Self::Memory { .. } => "ask for less `memory`, stop what holds it, or name another host",
            Self::Taken => "name `memory` at both, so that they may share it, or name another host",
            Self::Ecc(_) | Self::RemapPending => "end its processes and reset it: `nvidia-smi --gpu-reset -i UUID`",
            Self::RemapFailed => "have the GPU replaced",
            Self::Recovery(Recovery::Reboot) => "restart the machine",
            Self::Recovery(_) => "end its processes and reset it: `nvidia-smi --gpu-reset -i UUID`",
            Self::Throttled(Throttle::Thermal) => "look at its cooling",
            Self::Throttled(_) => "look at its power and its cooling: `nvidia-smi -q -d PERFORMANCE`",
            Self::Lanes { .. } => "look at how it sits in its slot, and at the riser",
            Self::Stranger { .. } => "end it, or have Segue start it",
            Self::Mig => "turn MIG off: `nvidia-smi -mig 0 -i UUID`, or name another host",
            Self::Error(_) => "look at `dmesg` for `NVRM: Xid`; reset the GPU or restart the machine",
            Self::Absent => "write a UUID that `nvidia-smi -L` prints",
            Self::TooFew { .. } => "ask for fewer `gpus`, or name a host that has them",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(gpu) = &self.gpu {
            write!(f, "{gpu}: ")?;
        }
        write!(f, "{} ({})", self.what, self.what.remedy())
    }
}

/// Decides where a service goes.
#[must_use]
pub fn preflight(facts: Result<&Facts, &SmiFault>, need: &GpuNeed, images: &[Requirement], given: &[Given]) -> Verdict {
    let facts = match facts {
        Ok(facts) => facts,
        Err(fault) => return Verdict::Refuse(vec![Reason { gpu: None, what: What::Machine(fault.clone()) }]),
    };
    let why = match places(facts, need, images, given, false) {
        Ok(uuids) => return Verdict::Place(uuids),
        Err(why) => why,
    };
    if given.iter().any(|given| given.is_replaced)
        && let Ok(uuids) = places(facts, need, images, given, true)
    {
        return Verdict::Recreate { uuids, why };
    }
    Verdict::Refuse(why)
}

/// What a worker offers to jobs: those of its GPUs that were chosen by UUID, or all, and why some of them are not offered. One with a
/// fault is not; what else uses one is the operator's to know, who chose it.
#[must_use]
pub fn offered(facts: &Facts, chosen: &[String]) -> (Vec<GpuOffer>, Vec<Reason>) {
    let is_chosen = |uuid: &String| chosen.iter().any(|one| one == super::ALL || one == uuid);
    let (mut gpus, mut reasons) = (Vec::new(), Vec::new());
    for gpu in facts.gpus.iter().filter(|gpu| is_chosen(&gpu.uuid)) {
        let mut found = faults(facts, gpu, &[], &GpuNeed::whole(1), &[]);
        found.retain(|what| what.is_fault() || *what == What::Mig);
        if found.is_empty() {
            let memory_mib = gpu.memory_total_mib.unwrap_or(0);
            gpus.push(GpuOffer { uuid: gpu.uuid.clone(), name: gpu.name.clone(), memory_mib });
        }
        reasons.extend(found.into_iter().map(|what| Reason { gpu: Some(gpu.uuid.clone()), what }));
    }
    reasons.extend(absent(facts, chosen));
    (gpus, reasons)
}

/// What is known of the GPUs that were chosen by UUID, or of all; and those of them that the driver does not know.
#[must_use]
pub fn narrowed(mut facts: Facts, chosen: &[String]) -> (Facts, Vec<Reason>) {
    let absent = absent(&facts, chosen).collect();
    if !chosen.iter().any(|one| one == super::ALL) {
        facts.gpus.retain(|gpu| chosen.contains(&gpu.uuid));
    }
    (facts, absent)
}

fn absent(facts: &Facts, chosen: &[String]) -> impl Iterator<Item = Reason> {
    let is_absent = |uuid: &&String| *uuid != super::ALL && !facts.gpus.iter().any(|gpu| gpu.uuid == **uuid);
    chosen.iter().filter(is_absent).map(|uuid| Reason { gpu: Some(uuid.clone()), what: What::Absent })
}

/// The GPUs to take, or why there are too few. `emptied`: what is replaced has gone.
fn places(
    facts: &Facts,
    need: &GpuNeed,
    images: &[Requirement],
    given: &[Given],
    emptied: bool,
) -> Result<Vec<String>, Vec<Reason>> {
    let mut reasons = Vec::new();
    if let Some(wanted) = need.cuda.as_deref().and_then(|text| text.parse::<Version>().ok())
        && facts.cuda.as_ref().is_none_or(|supported| *supported < wanted)
    {
        reasons.push(Reason { gpu: None, what: What::Cuda { wanted, supported: facts.cuda.clone() } });
        return Err(reasons);
    }
    let mut fitting: Vec<(u64, &Gpu)> = Vec::new();
    for gpu in &facts.gpus {
        let found = faults(facts, gpu, images, need, given);
        let room = Room::of(facts, gpu, given, emptied);
        let short = room.short_of(need);
        if found.is_empty() && short.is_none() {
            fitting.push((room.free_mib, gpu));
        } else {
            let uuid = Some(gpu.uuid.clone());
            reasons.extend(found.into_iter().chain(short).map(|what| Reason { gpu: uuid.clone(), what }));
        }
    }
    let wanted = usize::try_from(need.count).unwrap_or(usize::MAX);
    if fitting.len() < wanted {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let what = What::TooFew { wanted: need.count, fit: number(fitting.len()), there: number(facts.gpus.len()) };
        reasons.push(Reason { gpu: None, what });
        return Err(reasons);
    }
    // the least that does: large room is left for who needs it
    fitting.sort_by_key(|(free_mib, gpu)| (*free_mib, gpu.index, gpu.uuid.clone()));
    Ok(fitting.into_iter().take(wanted).map(|(_, gpu)| gpu.uuid.clone()).collect())
}

/// What is wrong with a GPU, or not enough of it, however much room there is.
fn faults(facts: &Facts, gpu: &Gpu, images: &[Requirement], need: &GpuNeed, given: &[Given]) -> Vec<What> {
    let mut found: Vec<What> = gpu.errors.iter().cloned().map(What::Error).collect();
    if gpu.has_mig {
        found.push(What::Mig);
    }
    if let Some(errors) = gpu.uncorrected_ecc.filter(|errors| *errors > 0) {
        found.push(What::Ecc(errors));
    }
    if gpu.remap_failed == Some(true) {
        found.push(What::RemapFailed);
    }
    if gpu.remap_pending == Some(true) {
        found.push(What::RemapPending);
    }
    if let Some(action) = gpu.recovery.filter(|action| *action != Recovery::None) {
        found.push(What::Recovery(action));
    }
    found.extend(gpu.throttled.iter().copied().map(What::Throttled));
    if let (Some(now), Some(most)) = (gpu.pcie_width, gpu.pcie_width_max)
        && now < most
    {
        found.push(What::Lanes { now, most });
    }
    if let Some(wanted) = need.capability.as_deref().and_then(|text| text.parse::<Version>().ok())
        && gpu.capability.as_ref().is_none_or(|has| *has < wanted)
    {
        found.push(What::Capability { wanted, has: gpu.capability.clone() });
    }
    found.extend(
        images.iter().filter(|image| !image.holds(facts, gpu)).map(|image| What::Image(image.text().to_owned())),
    );
    let is_ours = |process: &&GpuProcess| given.iter().any(|given| given.pids.contains(&process.pid));
    let strangers = facts.processes.iter().filter(|process| process.uuid == gpu.uuid && !is_ours(process));
    found.extend(strangers.map(|process| What::Stranger {
        pid: process.pid,
        name: process.name.clone(),
        memory_mib: process.memory_mib,
    }));
    found
}

/// What can be had of a GPU.
struct Room {
    total_mib: u64,
    free_mib: u64,
    /// Somebody has a part of it.
    is_shared: bool,
    /// Somebody has all of it.
    is_whole: bool,
}

impl Room {
    fn of(facts: &Facts, gpu: &Gpu, given: &[Given], emptied: bool) -> Self {
        let here = |given: &&Given| given.uuid == gpu.uuid;
        let held = |given: &Given| held_mib(facts, gpu, given);
        let total_mib = gpu.memory_total_mib.unwrap_or(0);
        let mut free_mib = gpu.memory_free_mib.unwrap_or(0);
        let (mut is_shared, mut is_whole) = (false, false);
        for given in given.iter().filter(here) {
            if emptied && given.is_replaced {
                free_mib = free_mib.saturating_add(held(given)).min(total_mib);
                continue;
            }
            is_shared = true;
            match given.memory_mib {
                None => is_whole = true,
                // what it asked for and has not taken yet
                Some(asked_mib) => free_mib = free_mib.saturating_sub(asked_mib.saturating_sub(held(given))),
            }
        }
        Self { total_mib, free_mib, is_shared, is_whole }
    }

    fn short_of(&self, need: &GpuNeed) -> Option<What> {
        if self.is_whole {
            return Some(What::Taken);
        }
        match need.memory_mib {
            None if self.is_shared => Some(What::Taken),
            None => None,
            Some(wanted_mib) if wanted_mib > self.free_mib => {
                Some(What::Memory { wanted_mib, free_mib: self.free_mib, total_mib: self.total_mib })
            }
            Some(_) => None,
        }
    }
}

/// What its processes hold of a GPU. Where the driver does not say how much (it does not on some machines and in containers), what is
/// used of the GPU and no other process is known to hold.
fn held_mib(facts: &Facts, gpu: &Gpu, given: &Given) -> u64 {
    let here = || facts.processes.iter().filter(|process| process.uuid == gpu.uuid);
    let mine = || here().filter(|process| given.pids.contains(&process.pid));
    if mine().any(|process| process.memory_mib.is_none()) {
        let used = gpu.memory_total_mib.unwrap_or(0).saturating_sub(gpu.memory_free_mib.unwrap_or(0));
        let known: u64 = here().filter_map(|process| process.memory_mib).sum();
        return used.saturating_sub(known).min(given.memory_mib.unwrap_or(u64::MAX));
    }
    mine().filter_map(|process| process.memory_mib).sum()
}

/// What the driver wants, for a sentence.
pub(super) const fn wanted(action: Recovery) -> &'static str {
    match action {
        Recovery::None => "nothing",
        Recovery::Reset => "it to be reset",
        Recovery::Reboot => "the machine to be restarted",
        Recovery::DrainPeers => "all traffic between GPUs to end",
        Recovery::DrainAndReset => "it to be emptied and reset",
    }
}

fn known(version: Option<&Version>) -> String {
    version.map_or_else(|| "an unknown one".into(), ToString::to_string)
}

fn mib(mib: Option<u64>) -> String {
    mib.map_or_else(|| "some of its memory".into(), |mib| format!("{mib} MiB of it"))
}
