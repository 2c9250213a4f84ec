//! What happened to a machine's GPUs while a release was watched: two looks are compared. What was wrong before is no news, and no
//! release's.

use std::collections::BTreeMap;

use super::{
    dcgm::Exported,
    facts::{Facts, Gpu, Recovery},
    smi::SmiFault,
    xid::{Blame, xid},
};

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The GPU; `None`: all of them.
    pub gpu: Option<String>,
    /// What, as a sentence.
    pub what: String,
    /// Whom it is blamed on.
    pub blame: Blame,
}

/// What went wrong on the GPUs named `used`, between the look before and this one.
#[must_use]
pub fn findings(
    before: &Facts,
    now: Result<&Facts, &SmiFault>,
    exported: (&BTreeMap<String, Exported>, &BTreeMap<String, Exported>),
    used: &[String],
) -> Vec<Finding> {
    let now = match now {
        Ok(now) => now,
        Err(fault) => return vec![Finding { gpu: None, what: fault.to_string(), blame: Blame::Host }],
    };
    let mut found = Vec::new();
    for uuid in used {
        let mut host = |what: String| found.push(Finding { gpu: Some(uuid.clone()), what, blame: Blame::Host });
        let is_it = |gpu: &&Gpu| gpu.uuid == *uuid;
        let old = before.gpus.iter().find(is_it);
        match (old, now.gpus.iter().find(is_it)) {
            (_, Some(gpu)) => {
                let unknown = Gpu::default();
                changes(old.unwrap_or(&unknown), gpu).into_iter().for_each(&mut host);
            }
            (Some(_), None) => host("the driver does not see it any more".into()),
            (None, None) => {}
        }
        let last = |all: &BTreeMap<String, Exported>| all.get(uuid).and_then(|gpu| gpu.last_xid);
        if let Some(code) = last(exported.1).filter(|code| last(exported.0) != Some(*code)) {
            let xid = xid(code);
            let what = format!("the driver reported Xid {code} ({})", xid.meaning);
            found.push(Finding { gpu: Some(uuid.clone()), what, blame: xid.blame });
        }
    }
    found
}

fn changes(old: &Gpu, gpu: &Gpu) -> Vec<String> {
    let mut found = Vec::new();
    let (before, now) = (old.uncorrected_ecc.unwrap_or(0), gpu.uncorrected_ecc.unwrap_or(0));
    if now > before {
        found.push(format!("errors of its memory that could not be corrected rose from {before} to {now}"));
    }
    if gpu.remap_failed == Some(true) && old.remap_failed != Some(true) {
        found.push("a row of its memory could not be remapped".into());
    }
    match gpu.recovery {
        Some(action @ (Recovery::Reset | Recovery::Reboot | Recovery::DrainPeers | Recovery::DrainAndReset))
            if old.recovery != Some(action) =>
        {
            found.push(format!("the driver wants {}", super::preflight::wanted(action)));
        }
        _ => {}
    }
    for error in gpu.errors.iter().filter(|error| !old.errors.contains(error)) {
        found.push(format!("it answers with an error ({error})"));
    }
    for why in gpu.throttled.iter().filter(|why| !old.throttled.contains(why)) {
        found.push(format!("it is slowed down by its hardware ({why})"));
    }
    found
}
