//! Xids, the driver's reports of faults in the kernel's log, and whom each is blamed on. The meanings and the immediate actions
//! ("resolution buckets") are those of NVIDIA's catalog:
//! <https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html>
//!
//! The rule: what needs a reset of the GPU, a restart of the machine or a look at its hardware is the host's. What a program does to itself (an
//! access that is not allowed, an instruction that is none) is the release's. Where the catalog names both, or an error of memory was
//! contained in one process, somebody has to look, and nobody is blamed by a machine.

pub use segue_schemas::gpu_health::Blame;

/// A fault that the driver reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xid {
    /// Its number.
    pub code: u32,
    /// What it means, in the catalog's words.
    pub meaning: &'static str,
    /// Whom it is blamed on.
    pub blame: Blame,
}

use Blame::{Host, Look, Release};

/// Those that the catalog says more of than "unused", as (number, meaning, blame); the action that it names stands behind each.
const CATALOG: &[(u32, &str, Blame)] = &[
    (8, "GPU stopped processing", Release),                          // RESTART_APP
    (13, "Graphics engine exception", Release),                      // RESTART_APP, check the application
    (31, "GPU memory page fault", Release),                          // RESTART_APP, check the application
    (32, "Invalid or corrupted push buffer stream", Look),           // RESTART_APP; mostly the quality of the PCI link
    (37, "Driver firmware error", Look),                             // IGNORE, check the application
    (38, "Driver firmware error", Look),                             // IGNORE
    (43, "GPU stopped processing", Release),                         // IGNORE; the GPU remains healthy
    (44, "Graphics engine fault during context switch", Look),       // IGNORE
    (45, "Preemptive cleanup, due to previous errors", Look),        // follows another Xid, or a process that was ended
    (46, "GPU stopped processing", Host),                            // RESET_GPU
    (48, "Double bit ECC error", Host),                              // reset or restart
    (54, "Auxiliary power is not connected to the GPU board", Host), // CHECK_MECHANICALS
    (62, "Internal micro-controller halt", Host),                    // RESET_GPU
    (63, "GPU memory remapping event", Look),                        // IGNORE; a row waits for the next reset
    (64, "GPU memory remapping failure", Host),                      // RESET_GPU
    (66, "Illegal access by driver", Look),                          // IGNORE
    (67, "Illegal access by driver", Look),                          // IGNORE
    (68, "NVDEC0 exception", Look),                                  // RESTART_APP
    (69, "Graphics engine class error", Release),                    // RESTART_APP, check the application
    (74, "NVLink error", Host),                                      // reset or restart
    (78, "vGPU start error", Host),                                  // UPDATE_SWFW
    (79, "GPU has fallen off the bus", Host),                        // RESTART_BM
    (80, "Corrupted data sent to GPU", Look),                        // RESTART_APP, check the application
    (92, "High single-bit ECC error rate", Look),                    // IGNORE, contact support
    (94, "Contained memory error", Look),                            // RESTART_APP; of the hardware, in one process
    (95, "Uncontained memory error", Host),                          // RESET_GPU
    (109, "Context switch timeout error", Host),                     // RESET_GPU
    (110, "Security fault error", Host),                             // RESET_GPU
    (119, "GSP RPC timeout", Host),                                  // RESET_GPU
    (120, "GSP error", Host),                                        // RESET_GPU
    (121, "C2C error", Look),                                        // IGNORE; corrected
    (136, "Link training failed", Host),                             // RESET_GPU
    (137, "NVLink privilege error", Look),                           // IGNORE; mostly the application
    (140, "ECC unrecovered error", Host),                            // RESET_GPU
    (143, "GPU initialization error", Host),                         // RESET_GPU
    (144, "NVLINK: SAW error", Host),
    (145, "NVLINK: RLW error", Host),
    (146, "NVLINK: TLW error", Host),
    (147, "NVLINK: TREX error", Host),
    (148, "NVLINK: NVLPW_CTRL error", Host),
    (149, "NVLINK: NETIR error", Host),
    (150, "NVLINK: MSE error", Host),
    (151, "Key rotation error", Host),          // RESTART_VM
    (154, "GPU recovery action changed", Look), // says what another one needs: see `of_log_line`
    (156, "Resource retirement event", Host),   // RESET_GPU
    (157, "Resource retirement failure", Look), // IGNORE, contact support
    (158, "GPU fatal timeout", Host),           // RESET_GPU
    (167, "PCIe fatal timeout", Host),
    (171, "Uncorrectable DRAM error", Host), // beside 48
    (172, "Uncorrectable SRAM error", Host), // beside 48
];

/// What a number means. One that the table does not have is for somebody to look at.
#[must_use]
pub fn xid(code: u32) -> Xid {
    let known = CATALOG.iter().find(|(known, ..)| *known == code);
    known.map_or(Xid { code, meaning: "not in the table", blame: Look }, |(_, meaning, blame)| Xid {
        code,
        meaning,
        blame: *blame,
    })
}

/// What a line of the kernel's log tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// The PCI address of the GPU, `0000:3b:00`.
    pub address: String,
    /// The process that it is about, where the driver names one.
    pub pid: Option<u32>,
    /// What was reported.
    pub xid: Xid,
}

/// The Xid that a line of the kernel's log tells:
/// `NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.`
#[must_use]
pub fn of_log_line(line: &str) -> Option<Logged> {
    let (address, rest) = line.split_once("NVRM: Xid (")?.1.split_once("):")?;
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    let mut found = xid(digits.parse().ok()?);
    if found.code == 154 && asks_for_something(rest) {
        found.blame = Host;
    }
    let named = rest.split_once("pid=").map_or("", |(_, after)| after.trim_start_matches('\''));
    let pid = named.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
    Some(Logged { address: address.trim_start_matches("PCI:").to_owned(), pid, xid: found })
}

/// The message of a record of `/dev/kmsg`, `3,1234,5678901,-;NVRM: Xid ...`, with its number and its time since the machine was started, in
/// microseconds. Only what the kernel itself wrote (facility 0): any program of root's may write there as another facility.
/// <https://www.kernel.org/doc/Documentation/ABI/testing/dev-kmsg>
#[must_use]
pub fn kernel_record(record: &str) -> Option<(u64, u64, &str)> {
    let (head, message) = record.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let (number, micros) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (priority >> 3 == 0).then(|| (number, micros, message.lines().next().unwrap_or_default()))
}

/// A PCI address as numbers: the kernel writes `0000:3b:00`, the tool `00000000:3B:00.0`.
#[must_use]
pub fn pci_address(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.trim().trim_start_matches("PCI:").split(':');
    let mut number = || u32::from_str_radix(parts.next()?.split('.').next()?, 16).ok();
    Some((number()?, number()?, number()?))
}

/// Whether Xid 154 changes to anything but `None`: `GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)`.
fn asks_for_something(text: &str) -> bool {
    let to = text.rsplit_once(" to ").map_or("", |(_, to)| to);
    let words = to.split_once('(').and_then(|(_, words)| words.split_once(')')).map_or("", |(words, _)| words);
    !words.is_empty() && !words.eq_ignore_ascii_case("none")
}
