//! GPUs of a machine: what its tools say of them, whether a service can be placed on them, and whom a fault is blamed on.
//!
//! Comes in: the outputs of `nvidia-smi` and dcgm-exporter, lines of the kernel's log, what is asked for, what was given out already.
//! Goes out: facts, a placement by UUID or each reason why there is none with its remedy, findings with whom they are blamed on.
//! Never here: running a program, asking an address.
//!
//! No NVIDIA GPU was at hand when this was written. What is read here follows NVIDIA's documentation and outputs that others recorded;
//! `tests/` names the source of each.

mod apart;
mod dcgm;
mod facts;
mod preflight;
mod require;
mod smi;
mod watch;
mod within;
mod xid;
mod xml;

pub use apart::{not_run, not_started};
pub use dcgm::{Exported, exported};
pub use facts::{Facts, Gpu, GpuProcess, Recovery, Throttle, Version};
pub use preflight::{Given, Reason, Verdict, What, narrowed, offered, preflight};
pub use require::{Requirement, requirement};
pub use smi::{PROCESS_QUERY, Query, SmiFault, fault, processes};
pub use watch::{Baseline, Finding, faults, findings, in_common};
pub use within::{LIST, Next, Sight, Told, pause_after_remake, told};
pub use xid::{Blame, Logged, Xid, kernel_record, of_log_line, pci_address, xid};
pub use xml::add_details;

/// In the place of UUIDs: every GPU that there is.
pub const ALL: &str = "all";

#[cfg(test)]
mod tests;
