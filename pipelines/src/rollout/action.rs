use segue_schemas::{
    deploy::{JournalKind, Release},
    duration::Span,
    host_api::Target,
    id::InstanceId,
    status::RolloutStatus,
};
use serde::{Deserialize, Serialize};

/// What is to be done next. Each may be asked for again by a later owner, and doing it twice must come to the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    /// Start the instance, or take one of this name that is there already and put off its retirement. Answered by `Started` or
    /// `NotReady`.
    Start {
        /// Its name.
        instance: InstanceId,
        /// What it runs: the new release, or the former one where that must be brought back, as it ran before.
        release: Release,
    },
    /// Climb the readiness ladder: port, health, warm-up, steady latency. Answered by `Ready` or `NotReady`; does not keep other
    /// actions waiting.
    AwaitReady {
        /// Which.
        instance: InstanceId,
    },
    /// Set the route's weights. Answered by `Shifted` or `ShiftFailed` with the same number.
    Shift {
        /// Which of the rollout's shifts it is: two may ask for the same percent, and only the last one's answer counts.
        number: u32,
        /// The new release's share of the traffic.
        percent: u8,
        /// Where the traffic goes.
        targets: Vec<Target>,
        /// The hosts where it goes there, of one that goes host after host; on the others it goes to the fallback. `None`: all.
        hosts: Option<Vec<String>>,
        /// Where it falls back to.
        fallback: Vec<Target>,
        /// Whether the host restores the fallback by itself when nobody renews.
        dead_man: bool,
    },
    /// Put the new release beside what serves, without a share: requests that a rule sends to it reach it. Answered by `StandingBy` or
    /// `StandByFailed`.
    StandBy {
        /// Where the traffic goes; the new instances with weight 0.
        targets: Vec<Target>,
        /// What serves.
        fallback: Vec<Target>,
    },
    /// The same at one host alone, in its own names: where hosts change in turn. Answered by `At` of that host. A `Shift` to 0 % takes the place of what
    /// waits to be done there alone.
    At {
        /// The host.
        host: String,
        /// What is to be done there.
        what: Box<Self>,
    },
    /// Take the traffic from every instance: requests are answered with 503. Answered by `Interrupted` or `InterruptFailed`.
    Interrupt {
        /// Why, and until when.
        message: String,
    },
    /// Write a decision down, with its reason and numbers. Durable before what follows is performed.
    Record {
        /// What it is.
        kind: JournalKind,
        /// The reason and the numbers.
        detail: serde_json::Value,
    },
    /// Leave a host out from now on, as its GPUs are broken, and give its traffic back to what served there. Nothing answers it: where the host
    /// can't do that any more, its dead man's switch does.
    Quarantine {
        /// The host.
        host: String,
        /// What is broken, in words.
        reason: String,
        /// Where its traffic goes, in the machine's names; empty: it stays where it is.
        targets: Vec<Target>,
        /// What is stopped there once it has no traffic: nobody is to be given what runs on a broken GPU.
        stop: Vec<InstanceId>,
    },
    /// Have every host look at its GPUs now. Answered by `Gpus` with `is_asked`, soon, whoever does not answer; does not keep other actions
    /// waiting.
    LookAtGpus,
    /// Wait until nothing is in flight at an instance without weight. Answered by `Drained`, or by `CleanUpFailed`; does not keep
    /// other actions waiting.
    Drain {
        /// Which.
        instance: InstanceId,
        /// How long at most.
        limit: Span,
    },
    /// Let the host drain and stop an instance without weight by itself, later. Answered by `Retired` or `CleanUpFailed`.
    Retire {
        /// Which.
        instance: InstanceId,
        /// How long it is kept warm from now.
        after: Span,
        /// How long answers in flight may go on then.
        drain: Span,
    },
    /// Stop an instance without weight now. Answered by `Stopped` or `CleanUpFailed`.
    Stop {
        /// Which.
        instance: InstanceId,
    },
    /// The rollout has ended; nothing follows.
    Finish {
        /// How.
        status: RolloutStatus,
        /// Which release has all traffic.
        serves: Serves,
        /// Why.
        reason: Option<String>,
    },
}

/// Which release a target carries, wholly, once a rollout has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Serves {
    /// What served before the rollout; nothing, before the first release.
    Former,
    /// The release that was rolled out.
    New,
    /// The hosts did not do what they were asked for, or none takes part any more: it is put on record when it is seen.
    Unknown,
}
