//! Hosts: who may join, who has joined, what each carries.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    deploy::Release,
    gpu::GpuOffer,
    gpu_health::{GpuFault, GpuXid},
    id::{ReleaseId, RolloutId},
    time::Timestamp,
};

/// Every host that is configured, joined, or was revoked.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct HostList {
    /// By name.
    pub items: Vec<HostView>,
}

/// A host.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct HostView {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub status: HostStatus,
    /// Where workers reach it: the path of a unix socket, or `HOST:PORT` of one that joined from another machine.
    pub address: String,
    /// Whether it joined from another machine.
    pub joined: bool,
    /// Its version, once it was heard.
    pub version: Option<String>,
    /// When it was last heard.
    pub heard_at: Option<Timestamp>,
    /// When the certificate ends of one that joined.
    pub certificate_ends_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Where its proxy listens.
    pub listen: Vec<String>,
    /// Why its router does not carry what is recorded, while it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_trouble: Option<String>,
    /// The GPUs that it offers to services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<HostGpu>,
    /// What is wrong with them now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpu_faults: Vec<GpuFault>,
    /// What their driver reported lately, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpu_xids: Vec<GpuXid>,
    /// What the host can't look at to know of more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpu_blind: Vec<String>,
    /// What it carries.
    pub carries: Vec<CarriedService>,
    /// Whether it does not answer, as far as is known: a worker said so, its connection was cut, or it was not heard when it should have been.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not_answering: bool,
    /// What it does not serve although that is on record for an environment that it carries with others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub out_of_step: Vec<OutOfStep>,
}

/// One of several hosts does not serve what is on record. It is brought there by a rollout of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct OutOfStep {
    /// The environment.
    pub environment: String,
    /// The service.
    pub service: String,
    /// The release that has the most traffic there; none: nothing has.
    pub serves: Option<ReleaseId>,
    /// The release that is on record.
    pub recorded: ReleaseId,
    /// When it is tried again, after it failed; none: as soon as no rollout of the service goes on.
    pub again_at: Option<Timestamp>,
    /// The rollout of the service that goes on.
    pub rollout: Option<RolloutId>,
    /// The last rollout that was to bring it there and did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<RolloutId>,
    /// Why that one did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A GPU that a host offers, and who has it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct HostGpu {
    /// Which.
    #[serde(flatten)]
    pub gpu: GpuOffer,
    /// The instances that it was given to; none: it is free.
    pub instances: Vec<String>,
}

/// How a host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HostStatus {
    /// It was heard lately.
    Reachable,
    /// It was not heard for long, or never.
    Absent,
    /// A rollout ended there without anybody knowing what serves, and the host has not shown it since.
    Quarantined,
    /// Its certificate was taken back: no worker reaches it.
    Revoked,
}

/// A release of a service that runs at a host.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct CarriedService {
    /// The environment.
    pub environment: String,
    /// The service.
    pub service: String,
    /// The release.
    pub release: Release,
    /// Its share of the traffic there, in percent.
    pub weight: u8,
    /// How many of its instances run.
    pub running: u32,
    /// How many there are: running, asleep, on their way up or starting again after a crash.
    pub instances: u32,
    /// How many of them sleep until somebody asks.
    #[serde(default)]
    pub asleep: u32,
    /// How often its instances were started again after they had ended by themselves.
    #[serde(default)]
    pub restarts: u32,
    /// What of its containers is another than what was deployed, because somebody changed it by hand: the instance, and what it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
    /// The GPUs that its instances have, by UUID.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
    /// Which of its containers lost their GPUs, and what became of that: the instance, and what happened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpu_losses: Vec<String>,
}

/// What runs where.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct RunningServices {
    /// By environment, service and host.
    pub items: Vec<RunningService>,
    /// Hosts that carry nothing of a service that their environment has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingService>,
}

/// A host of several that carries nothing of a service.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct MissingService {
    /// The host.
    pub host: String,
    /// How that stands.
    pub host_status: HostStatus,
    /// Whether it does not answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not_answering: bool,
    /// When that was last heard.
    pub heard_at: Timestamp,
    /// What it lacks.
    #[serde(flatten)]
    pub lacks: OutOfStep,
}

/// A release of a service at a host.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct RunningService {
    /// The host.
    pub host: String,
    /// How that stands: what is told of one that is not reachable may be old.
    pub host_status: HostStatus,
    /// When that was last heard.
    pub heard_at: Timestamp,
    /// What runs there.
    #[serde(flatten)]
    pub carried: CarriedService,
    /// Since when it is the release that serves by the record; none where it is not.
    pub since: Option<Timestamp>,
    /// The release that serves by the record, where this one has all the traffic and is another.
    pub recorded: Option<ReleaseId>,
    /// The rollout that goes on.
    pub rollout: Option<RolloutId>,
    /// Why the host's router does not carry what is recorded there, while it does not: the weights are what is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_trouble: Option<String>,
    /// Whether the host does not answer: what is told of it may be old.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not_answering: bool,
    /// Whether no release of the service has traffic there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub answers_nobody: bool,
    /// That the host, one of several, does not serve what is on record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_step: Option<OutOfStep>,
}

/// A machine is to join.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct NewHostInvitation {
    /// The name that it joins under: small letters, digits and `-`.
    pub name: String,
}

/// A token by which one machine may join.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct HostInvitation {
    /// The host's name.
    pub name: String,
    /// The token. It can't be shown again.
    pub token: String,
    /// Until when it may be used.
    pub expires_at: Timestamp,
}

/// A host was revoked.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct HostRevoked {
    /// The rollouts that were driven there. They wait for the host as for one that is absent.
    pub rollouts: Vec<RolloutId>,
}
