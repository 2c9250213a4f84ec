//! How the GPUs of a host are, as it tells those who roll out and those who look.
//!
//! A report has what is wrong now ([`GpuFault`]), which whoever compares two reports knows for old or new, and what has happened
//! ([`GpuXid`]), numbered in order, so that whoever knows the last number knows what came after it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{id::InstanceId, time::Timestamp};

/// Xids that a host keeps.
pub const MOST_XIDS: usize = 64;

/// Whom a fault is blamed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The host: a rollout goes on without it, and nothing of it counts against a release.
    Host,
    /// The release: it counts against it.
    Release,
    /// Nobody yet: it is shown, and a person looks.
    Look,
}

/// How the GPUs are that a host offers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuReport {
    /// Another number with each change of what is said here.
    pub revision: u64,
    /// When they were looked at last; `None`: not yet.
    pub looked_at: Option<Timestamp>,
    /// What is wrong now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<GpuFault>,
    /// What the driver reported, oldest first; the last [`MOST_XIDS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xids: Vec<GpuXid>,
    /// The GPUs that instances have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given: Vec<(InstanceId, Vec<String>)>,
    /// What can't be looked at, in words: the kernel's log, the exporter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blind: Vec<String>,
}

/// Something that is wrong with a GPU, or with all of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct GpuFault {
    /// The GPU; `None`: all of them.
    pub gpu: Option<String>,
    /// What kind it is of: `ecc`, `remap-failed`, `recovery`. One of the same kind at the same GPU is the same, unless it grows.
    pub kind: String,
    /// How much of it there is: errors that were counted; else 1.
    pub count: u64,
    /// What, in words.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    /// Whom it is blamed on.
    pub blame: Blame,
}

/// A fault that the driver reported by its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct GpuXid {
    /// Its place among those of this host, from 1.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// The GPU, by UUID; where that is not known, by its address: `PCI:0000:3b:00`.
    pub gpu: String,
    /// The Xid.
    pub code: u32,
    /// What it means, in the words of NVIDIA's catalog.
    pub meaning: String,
    /// Whom it is blamed on.
    pub blame: Blame,
    /// Who told of it.
    pub source: XidSource,
    /// The process that the driver named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The instance whose process that was; else those that had the GPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstanceId>,
}

/// Who told of an Xid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum XidSource {
    /// The kernel's log.
    Kernel,
    /// dcgm-exporter.
    Dcgm,
}
