//! Cases on what the tools print, with where each comes from.

mod blaming;
mod placing;
mod reading;
mod within;

use super::{Facts, Query};

/// Columns as [`Query`] asks for them: uuid, name, driver, total, free, index, capability, MIG, ECC, remapping pending and failed, recovery
/// action, three reasons of throttling, lanes now and at most, place on the bus. The words of each are those of `nvidia-smi --query-gpu` on an H100 with the
/// driver 580 (fields and words: utkuozdemir/nvidia_gpu_exporter, `internal/nvmlnative`, "verified against a live H100"; memory:
/// "NVIDIA H100 80GB HBM3, 81559").
const H100: &str = "GPU-h0, NVIDIA H100 80GB HBM3, 580.126.09, 81559, 80995, 0, 9.0, Disabled, 0, No, No, None, Not Active, Not Active, Not Active, 16, 16, 00000000:3B:00.0";

/// Some H100, each with cells replaced: `column=text`.
fn machine(changes: &[&str]) -> Facts {
    let mut lines = String::new();
    for (index, changes) in changes.iter().enumerate() {
        let mut cells: Vec<String> = H100.split(", ").map(str::to_owned).collect();
        cells[0] = format!("GPU-h{index}");
        cells[5] = index.to_string();
        for change in changes.split_whitespace() {
            let (column, text) = change.split_once('=').unwrap();
            cells[column.parse::<usize>().unwrap()] = text.replace('_', " ");
        }
        lines += &(cells.join(", ") + "\n");
    }
    let mut facts = Query::default().read(&lines).unwrap();
    facts.cuda = "13.0".parse().ok();
    facts
}
