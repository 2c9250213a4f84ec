use segue_schemas::{
    deploy::{Observation, RolloutCommand},
    gpu_health::GpuReport,
    host_api::{HostState, Instance, InstanceState, RouteState, Target},
    id::InstanceId,
};
use serde::{Deserialize, Serialize};

/// What may happen to a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "input")]
pub enum Input {
    /// An owner took the rollout over, and asked the host what it carries. The first input of every owner.
    Claimed {
        /// What the host reports.
        facts: HostFacts,
    },
    /// `Start` was performed: the instance is being started.
    Started {
        /// Which.
        instance: InstanceId,
    },
    /// The readiness ladder's end: ready for traffic.
    Ready {
        /// Which.
        instance: InstanceId,
    },
    /// It could not be started, did not become ready, or is gone for good. At any time.
    NotReady {
        /// Which.
        instance: InstanceId,
        /// Why, in words that a person can act on.
        reason: String,
    },
    /// It can't be started as long as instances of another release hold what it needs.
    NoRoom {
        /// Which.
        instance: InstanceId,
        /// What it needs and who holds it, in words.
        reason: String,
    },
    /// Nobody has traffic, as `Interrupt` asked.
    Interrupted,
    /// The host refused the `Interrupt`.
    InterruptFailed {
        /// Why.
        reason: String,
    },
    /// The proxy carries the weights of the `Shift` with this number.
    Shifted {
        /// Which.
        number: u32,
        /// The new release's weight, as confirmed.
        percent: u8,
    },
    /// The host refused the `Shift` with this number, or the proxy does not confirm it.
    ShiftFailed {
        /// Which.
        number: u32,
        /// The weight that was asked for.
        percent: u8,
        /// Whether a host's router refuses changes as things are. It carries what it carried before, and says nothing of the instances.
        by_router: bool,
        /// Why.
        reason: String,
    },
    /// The new release stands beside what serves, as `StandBy` asked.
    StandingBy,
    /// The host refused the `StandBy`.
    StandByFailed {
        /// Why.
        reason: String,
    },
    /// What came of an action `At` a host, in its own names.
    At {
        /// The host.
        host: String,
        /// What came of it.
        what: Box<Self>,
    },
    /// The hosts that take part from now on: another one has been left out.
    Hosts {
        /// Their names.
        hosts: Vec<String>,
    },
    /// Requests that were observed since the last such input, oldest first.
    Observations {
        /// The requests.
        observations: Vec<Observation>,
        /// How many are gone that nobody saw.
        lost: u64,
        /// Where to go on: what `observed_until()` gives from now on.
        next: u64,
    },
    /// How the GPUs of hosts are, of a service that has some: before the first action of a rollout, whenever that changes, and when it was asked
    /// for.
    Gpus {
        /// Hosts, with what each reports, in the machine's names. Who has nothing new to say is missing.
        reports: Vec<(String, GpuReport)>,
        /// The hosts that take part.
        hosts: Vec<String>,
        /// Whether it answers `LookAtGpus`.
        is_asked: bool,
    },
    /// A person's word.
    Command {
        /// Which.
        command: RolloutCommand,
        /// Who said it, and why.
        by: Option<String>,
        /// Its number, where it has one: one that is not higher than that of a word before is that word, told again.
        word: Option<i64>,
    },
    /// The route as a call to the host showed it. Only news matters: that the host changed weights by itself.
    Route {
        /// The route.
        route: RouteState,
    },
    /// `Drain` was performed.
    Drained {
        /// Which.
        instance: InstanceId,
        /// Answers that were still in flight at the limit, and will be cut.
        in_flight: u64,
    },
    /// `Retire` was performed: the host drains and stops the instance in its own time.
    Retired {
        /// Which.
        instance: InstanceId,
    },
    /// `Stop` was performed.
    Stopped {
        /// Which.
        instance: InstanceId,
    },
    /// `Drain`, `Retire` or `Stop` failed for good; the instance may be left over.
    CleanUpFailed {
        /// Which.
        instance: InstanceId,
        /// Why.
        reason: String,
    },
    /// Time has passed, at least until `next_wake()`.
    Tick,
}

/// What a host carries for one service in one environment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The route; none before the first release.
    pub route: Option<RouteState>,
    /// The routes of the other hosts that take part, see [`super::fleet`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<RouteState>,
    /// The service's instances in the environment, of any release, that are not stopped.
    pub instances: Vec<Instance>,
    /// The hosts that take part and where the traffic of each goes, in the machine's names; empty where there is one alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<(String, Vec<Target>)>,
    /// What each of several hosts reports, in its own names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<(String, Self)>,
}

impl HostFacts {
    /// The part of a host's report that concerns one service in one environment.
    #[must_use]
    pub fn of(state: &HostState, environment: &str, service: &str) -> Self {
        Self {
            route: state.routes.iter().find(|r| r.environment == environment && r.service == service).cloned(),
            others: Vec::new(),
            hosts: Vec::new(),
            apart: Vec::new(),
            instances: state
                .instances
                .iter()
                .filter(|i| i.environment == environment && i.release.service == service)
                .cloned()
                .collect(),
        }
    }

    /// Whether nothing of the service is there: no instance, of whichever release. A host that has lost its record, or all its containers, says that.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.instances.iter().all(|instance| instance.state == InstanceState::Stopped)
    }

    /// Whether the instance is there and may serve again: it is not stopped and has not failed for good.
    #[must_use]
    pub fn carries(&self, instance: &InstanceId) -> bool {
        self.instances
            .iter()
            .any(|i| i.id == *instance && !matches!(i.state, InstanceState::Stopped | InstanceState::Failed { .. }))
    }
}
