//! dcgm-exporter's metrics, Prometheus' text format. <https://github.com/NVIDIA/dcgm-exporter>, fields:
//! <https://docs.nvidia.com/datacenter/dcgm/latest/dcgm-api/dcgm-api-field-ids.html>

use std::collections::BTreeMap;

use super::facts::{Facts, Recovery, Throttle};

/// Lines that are read: an exporter of 8 GPUs with every field has some thousand.
const MOST_LINES: usize = 50_000;

/// DCGM's blank values begin here (`DCGM_FP64_BLANK`, 2^47): not found, not supported, no permission.
const BLANK: f64 = 140_737_488_355_328.0;

/// Bits of `DCGM_FI_DEV_CLOCKS_EVENT_REASONS` (`DCGM_CLOCKS_EVENT_REASON_*`, the same as NVML's).
const REASONS: [(u64, Throttle); 3] =
    [(0x8, Throttle::Slowdown), (0x40, Throttle::Thermal), (0x80, Throttle::PowerBrake)];

/// What the exporter tells of one GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// The last Xid of the GPU; it stays until there is another, so only a change is news.
    pub last_xid: Option<u32>,
    /// Errors of memory since the driver was loaded that could not be corrected.
    pub uncorrected_ecc: Option<u64>,
    /// Whether rows of its memory wait for a reset to be remapped.
    pub remap_pending: Option<bool>,
    /// Whether remapping a row has failed.
    pub remap_failed: Option<bool>,
    /// Memory that nobody uses, in MiB.
    pub memory_free_mib: Option<u64>,
    /// What the driver wants done.
    pub recovery: Option<Recovery>,
    /// Why its hardware slows it down.
    pub throttled: Vec<Throttle>,
}

/// What is told of each GPU, by UUID. Instances of a GPU that is cut (`GPU_I_ID`) say nothing of the whole, and are left out.
#[must_use]
pub fn exported(text: &str) -> BTreeMap<String, Exported> {
    let mut gpus: BTreeMap<String, Exported> = BTreeMap::new();
    for line in text.lines().take(MOST_LINES).map(str::trim).filter(|line| !line.starts_with('#')) {
        let Some(Sample { name, labels, value }) = sample(line) else { continue };
        let label = |wanted: &str| labels.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.as_str());
        let Some(uuid) = label("UUID").filter(|uuid| uuid.starts_with("GPU-") && label("GPU_I_ID").is_none()) else {
            continue;
        };
        if !(0.0..BLANK).contains(&value) {
            continue;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is not negative and below 2^47"
        )]
        let number = value as u64;
        let gpu = gpus.entry(uuid.to_owned()).or_default();
        match name {
            "DCGM_FI_DEV_XID_ERRORS" => gpu.last_xid = u32::try_from(number).ok(),
            "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL" => gpu.uncorrected_ecc = Some(number),
            "DCGM_FI_DEV_ROW_REMAP_PENDING" => gpu.remap_pending = Some(number > 0),
            "DCGM_FI_DEV_ROW_REMAP_FAILURE" => gpu.remap_failed = Some(number > 0),
            "DCGM_FI_DEV_FB_FREE" => gpu.memory_free_mib = Some(number),
            "DCGM_FI_DEV_GET_GPU_RECOVERY_ACTION" | "DCGM_FI_DEV_GPU_RECOVERY_ACTION" => {
                gpu.recovery = Recovery::of_number(number);
            }
            "DCGM_FI_DEV_CLOCKS_EVENT_REASONS" | "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS" => {
                gpu.throttled = REASONS.iter().filter(|(bit, _)| number & bit != 0).map(|(_, why)| *why).collect();
            }
            _ => {}
        }
    }
    gpus
}

impl Exported {
    /// Adds what is told of a GPU to what is known of it; what is known already stays.
    pub fn add_to(&self, facts: &mut Facts, uuid: &str) {
        let Some(gpu) = facts.gpus.iter_mut().find(|gpu| gpu.uuid == uuid) else { return };
        gpu.uncorrected_ecc = gpu.uncorrected_ecc.or(self.uncorrected_ecc);
        gpu.remap_pending = gpu.remap_pending.or(self.remap_pending);
        gpu.remap_failed = gpu.remap_failed.or(self.remap_failed);
        gpu.memory_free_mib = gpu.memory_free_mib.or(self.memory_free_mib);
        gpu.recovery = gpu.recovery.or(self.recovery);
        if gpu.throttled.is_empty() {
            gpu.throttled.clone_from(&self.throttled);
        }
    }
}

/// One value with its labels.
struct Sample<'t> {
    name: &'t str,
    labels: Vec<(&'t str, String)>,
    value: f64,
}

/// `name{label="value",...} value [time]`. <https://prometheus.io/docs/instrumenting/exposition_formats/>
fn sample(line: &str) -> Option<Sample<'_>> {
    let (name, mut rest) = line.split_once('{')?;
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        if let Some(after) = rest.strip_prefix('}') {
            let value = after.split_whitespace().next()?.parse().ok()?;
            return Some(Sample { name: name.trim(), labels, value });
        }
        let (label, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.push((label, value));
        rest = after;
    }
}

/// What stands before the closing quote, and what comes after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}
