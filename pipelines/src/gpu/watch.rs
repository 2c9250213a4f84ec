//! How a machine's GPUs are while a release is watched, and whom what went wrong is blamed on. What was wrong before is no news, and no
//! release's.

use std::collections::BTreeSet;

use segue_schemas::{
    gpu_health::{Blame, GpuFault, GpuReport, GpuXid},
    id::InstanceId,
};
use serde::{Deserialize, Serialize};

use super::{
    facts::{Facts, Gpu, Recovery},
    preflight::What,
    smi::SmiFault,
};

/// What is wrong with a machine's GPUs, of those that were chosen (`all`, or by UUID). `known`: those that it had when it was looked at before.
#[must_use]
pub fn faults(looked: Result<&Facts, &SmiFault>, chosen: &[String], known: &BTreeSet<String>) -> Vec<GpuFault> {
    let facts = match looked {
        Ok(facts) => facts,
        Err(fault) => return vec![of_machine(fault)],
    };
    let is_chosen = |uuid: &String| chosen.iter().any(|one| one == super::ALL || one == uuid);
    let mut found: Vec<GpuFault> = facts.gpus.iter().filter(|gpu| is_chosen(&gpu.uuid)).flat_map(of_gpu).collect();
    let gone = known.iter().filter(|uuid| is_chosen(uuid) && !facts.gpus.iter().any(|gpu| gpu.uuid == **uuid));
    found.extend(gone.map(|uuid| GpuFault {
        gpu: Some(uuid.clone()),
        kind: "gone".into(),
        count: 1,
        what: "the driver does not see it any more".into(),
        remedy: "look at `dmesg` for `NVRM: Xid`; restart the machine".into(),
        blame: Blame::Host,
    }));
    found
}

fn of_machine(fault: &SmiFault) -> GpuFault {
    let (kind, blame) = match fault {
        SmiFault::Driver { .. } => ("driver", Blame::Host),
        SmiFault::Mismatch { .. } => ("mismatch", Blame::Host),
        SmiFault::NoDevices => ("no-devices", Blame::Host),
        SmiFault::Lost { .. } => ("lost", Blame::Host),
        SmiFault::Hangs { .. } => ("hangs", Blame::Host),
        // it says nothing of the GPUs
        SmiFault::NoTool { .. } => ("no-tool", Blame::Look),
        SmiFault::NoToolkit { .. } => ("no-toolkit", Blame::Look),
        SmiFault::NoToolInside { .. } => ("no-tool", Blame::Look),
        SmiFault::Unasked { .. } => ("unasked", Blame::Look),
        SmiFault::Unreadable { .. } => ("unreadable", Blame::Look),
    };
    let (what, remedy) = (fault.to_string(), fault.remedy().to_owned());
    GpuFault { gpu: None, kind: kind.into(), count: 1, what, remedy, blame }
}

fn of_gpu(gpu: &Gpu) -> Vec<GpuFault> {
    let mut found = Vec::new();
    let mut add = |kind: &str, count: u64, blame: Blame, what: &What| {
        let (kind, remedy) = (kind.to_owned(), what.remedy().to_owned());
        found.push(GpuFault { gpu: Some(gpu.uuid.clone()), kind, count, what: what.to_string(), remedy, blame });
    };
    if let Some(errors) = gpu.uncorrected_ecc.filter(|errors| *errors > 0) {
        add("ecc", errors, Blame::Host, &What::Ecc(errors));
    }
    if gpu.remap_failed == Some(true) {
        add("remap-failed", 1, Blame::Host, &What::RemapFailed);
    }
    // the driver goes on without them
    if gpu.remap_pending == Some(true) {
        add("remap-pending", 1, Blame::Look, &What::RemapPending);
    }
    match gpu.recovery {
        None | Some(Recovery::None) => {}
        Some(action) => add(&format!("recovery {action:?}"), 1, Blame::Host, &What::Recovery(action)),
    }
    for error in &gpu.errors {
        add(&format!("error {error}"), 1, Blame::Host, &What::Error(error.clone()));
    }
    // comes and goes with the load
    for why in &gpu.throttled {
        add(&format!("throttled {why:?}"), 1, Blame::Look, &What::Throttled(*why));
    }
    found
}

/// What was known of a host's GPUs when a rollout began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// The number of the last Xid.
    pub last_xid: u64,
    /// What was wrong: GPU, kind, how much.
    pub faults: Vec<(Option<String>, String, u64)>,
}

impl Baseline {
    /// What a report tells.
    #[must_use]
    pub fn of(report: &GpuReport) -> Self {
        let fault = |fault: &GpuFault| (fault.gpu.clone(), fault.kind.clone(), fault.count);
        Self {
            last_xid: report.xids.last().map_or(0, |xid| xid.number),
            faults: report.faults.iter().map(fault).collect(),
        }
    }

    /// Takes what a report tells for known. What was wrong once is no news when it comes again.
    pub fn go_on_to(&mut self, report: &GpuReport) {
        let now = Self::of(report);
        self.last_xid = self.last_xid.max(now.last_xid);
        for fault in now.faults {
            match self.faults.iter_mut().find(|known| known.0 == fault.0 && known.1 == fault.1) {
                Some(known) => known.2 = known.2.max(fault.2),
                None => self.faults.push(fault),
            }
        }
    }

    fn known(&self, fault: &GpuFault) -> Option<u64> {
        self.faults.iter().find(|known| known.0 == fault.gpu && known.1 == fault.kind).map(|known| known.2)
    }
}

/// Something that went wrong, and whom it is blamed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The GPU; `None`: all of the machine.
    pub gpu: Option<String>,
    /// What, as a sentence.
    pub what: String,
    /// Whom it is blamed on, by a machine; [`Blame::Look`]: nobody.
    pub blame: Blame,
    /// Why nobody is blamed for what would be the release's by its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// The Xid, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xid: Option<u32>,
    /// The instances that it struck.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstanceId>,
    /// How much of it there was when the rollout began, and is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<(u64, u64)>,
}

/// The Xids that count against a release and struck instances of the former one: of the same, the new one is not to blame.
#[must_use]
pub fn in_common(report: &GpuReport, former: &BTreeSet<InstanceId>) -> BTreeSet<u32> {
    let struck = |xid: &&GpuXid| {
        xid.blame == Blame::Release && !xid.instances.is_empty() && xid.instances.iter().all(|id| former.contains(id))
    };
    report.xids.iter().filter(struck).map(|xid| xid.code).collect()
}

/// What went wrong since the `before` on GPUs that the instances of a rollout have; what happened to others' is not of its concern.
/// `alike`: Xids that the former release has as well, on whichever host.
#[must_use]
pub fn findings(
    before: &Baseline,
    now: &GpuReport,
    (new, former): (&BTreeSet<InstanceId>, &BTreeSet<InstanceId>),
    alike: &BTreeSet<u32>,
) -> Vec<Finding> {
    let takes_part = |id: &InstanceId| new.contains(id) || former.contains(id);
    let holders = |gpu: &str| {
        let holds = move |(id, gpus): &&(InstanceId, Vec<String>)| takes_part(id) && gpus.iter().any(|one| one == gpu);
        now.given.iter().filter(holds).map(|(id, _)| id.clone()).collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for fault in &now.faults {
        let before = before.known(fault).unwrap_or(0);
        let instances = fault.gpu.as_deref().map(holders).unwrap_or_default();
        let is_ours = fault.gpu.is_none() || !instances.is_empty();
        if fault.count > before && is_ours {
            found.push(Finding {
                gpu: fault.gpu.clone(),
                what: fault.what.clone(),
                blame: fault.blame,
                why_not: None,
                xid: None,
                instances,
                count: Some((before, fault.count)),
            });
        }
    }
    for xid in now.xids.iter().filter(|xid| xid.number > before.last_xid) {
        let instances: Vec<InstanceId> = xid.instances.iter().filter(|id| takes_part(id)).cloned().collect();
        if instances.is_empty() {
            continue;
        }
        let why_not = match xid.blame {
            Blame::Host | Blame::Look => None,
            Blame::Release if instances.iter().all(|id| former.contains(id)) => Some("it struck the former release"),
            Blame::Release if !instances.iter().all(|id| new.contains(id)) => {
                Some("both releases have that GPU, and the driver does not say whose process it was")
            }
            Blame::Release if alike.contains(&xid.code) => Some("the former release has had it as well"),
            Blame::Release => None,
        };
        found.push(Finding {
            gpu: Some(xid.gpu.clone()),
            what: format!("the driver reported Xid {} ({})", xid.code, xid.meaning),
            blame: if why_not.is_some() { Blame::Look } else { xid.blame },
            why_not: why_not.map(str::to_owned),
            xid: Some(xid.code),
            instances,
            count: None,
        });
    }
    found
}

impl Finding {
    /// On one line: the GPU, what, and whose it is.
    #[must_use]
    pub fn in_words(&self) -> String {
        let gpu = self.gpu.as_deref().map(|gpu| format!("{gpu}: ")).unwrap_or_default();
        let names = self.instances.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let at = if names.is_empty() { String::new() } else { format!(" under instance {names}") };
        format!("{gpu}{}{at}", self.what)
    }
}
