//! Machines with GPUs that are rented from a cloud for as long as a run needs them: what a step asks for, and how one stands.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    duration::Span,
    id::{Epoch, JobId, RunId},
    price::Price,
    time::Timestamp,
};

/// What a step asks for with `segue/provision-gpu`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRequest {
    /// Types, the one that is wanted most first.
    pub types: Vec<String>,
    /// Regions in order of choice; empty: any.
    #[serde(default)]
    pub regions: Vec<String>,
    /// What an hour may cost; the operator's limit holds besides.
    #[serde(default)]
    pub max_price: Option<Price>,
    /// How long to wait until there is one.
    pub wait_for_capacity: Span,
    /// After how long without a job of the run at work it goes.
    pub idle_shutdown: Span,
    /// How long it lives at most.
    pub lifetime: Span,
    /// The name of the key at the cloud that may log in; left out: the first that the operator allows.
    #[serde(default)]
    pub ssh_key: Option<String>,
}

/// Ask for a machine. The same `ask` again is the same machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AskMachine {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// The step, from 0.
    pub step: usize,
    /// What tells this ask from every other: a UUID.
    pub ask: uuid::Uuid,
    /// What is wanted.
    pub request: MachineRequest,
    /// The version that is known; the answer is held back while there is no other.
    #[serde(default)]
    pub known: Option<u64>,
    /// How long the answer may be held back, in milliseconds.
    pub wait_ms: u64,
}

/// How a machine that was asked for stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineAnswer {
    /// The machine.
    pub machine: Machine,
    /// Rises with each change.
    pub version: u64,
}

/// Give a machine of the run back before its end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReleaseMachine {
    /// The lease's epoch.
    pub epoch: Epoch,
    /// Its name, or the cloud's id of it.
    pub machine: String,
}

/// A rented machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Machine {
    /// Its name here. At the cloud it is called so with a number behind it.
    pub name: String,
    /// How it stands.
    pub state: MachineState,
    /// `owner/name`
    pub repository: String,
    /// The run that has it.
    pub run: RunId,
    /// The job that asked for it.
    pub job: JobId,
    /// The cloud's id of it.
    pub instance: Option<String>,
    /// What it is: `gpu_1x_a10`.
    pub instance_type: Option<String>,
    /// Where it is.
    pub region: Option<String>,
    /// Its address.
    pub ip: Option<String>,
    /// What an hour of it costs, in US dollars.
    pub price_per_hour: Option<Price>,
    /// What it has cost at most, in US dollars: from the launch on, each minute that has begun.
    pub cost: Price,
    /// Why it stands as it does.
    pub reason: Option<String>,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// When its launch was asked for last.
    pub launched_at: Option<Timestamp>,
    /// When it could be used.
    pub ready_at: Option<Timestamp>,
    /// When it goes, whoever uses it.
    pub expires_at: Option<Timestamp>,
    /// When it was known to be gone.
    pub ended_at: Option<Timestamp>,
}

/// How a rented machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    /// It is asked for; there is none, or another is to be launched first.
    Wanted,
    /// Its launch is about to be asked for, or was: whether it is there is not known yet.
    Launching,
    /// It is there and starts.
    Booting,
    /// It can be used.
    Ready,
    /// It is to go, and is not known to be gone.
    Ending,
    /// There is no such machine, or none any more.
    Ended,
}

impl MachineState {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wanted => "wanted",
            Self::Launching => "launching",
            Self::Booting => "booting",
            Self::Ready => "ready",
            Self::Ending => "ending",
            Self::Ended => "ended",
        }
    }

    /// Whether a machine may be there and cost money.
    #[must_use]
    pub const fn may_cost(self) -> bool {
        matches!(self, Self::Launching | Self::Booting | Self::Ready | Self::Ending)
    }

    /// Whether one may follow the other. What is to go never comes back.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        use MachineState::{Booting, Ended, Ending, Launching, Ready, Wanted};
        matches!(
            (self, next),
            (Wanted, Launching | Ended)
                | (Launching, Wanted | Booting | Ready | Ending | Ended)
                | (Booting, Ready | Ending | Ended)
                | (Ready, Ending | Ended)
                | (Ending, Ended)
        )
    }
}

/// Rented machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct MachineList {
    /// Those that may be there first, then the newest.
    pub items: Vec<Machine>,
    /// What is wrong with the way to the cloud, where something is.
    pub trouble: Option<String>,
}
