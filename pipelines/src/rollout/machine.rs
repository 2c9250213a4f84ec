use std::{collections::BTreeSet, time::Duration};

use segue_schemas::{
    deploy::{JournalKind, Release, RolloutSpec, Strategy},
    host_api::Target,
    id::{InstanceId, RolloutId},
    status::RolloutStatus,
    strategy::BlueGreenSpec,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    action::{Action, Serves},
    gpus::{Gpus, Suspect},
    input::Input,
    rolling::Rolling,
    trouble::Trouble,
    turns::{self, Turns},
    weights::split,
};
use crate::judge::{Judge, Verdict};

/// The form of the stored state. Raised when an older one can't be read any more.
const VERSION: u32 = 1;

/// A new owner of a watched stage has heard within this time what was seen before it came.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// Why a stored state can't be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Another version of Segue wrote it.
    #[error(
        "the rollout's state has form {found}, this version of Segue reads form {VERSION}; finish it with the version that began it"
    )]
    Version {
        /// The form that was found.
        found: u64,
    },
    /// It is damaged.
    #[error("the rollout's state cannot be read ({0}); roll back with `--emergency` and start a new rollout")]
    Unreadable(#[from] serde_json::Error),
}

/// One rollout's decisions. Its serialised form is the state that is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutMachine {
    version: u32,
    pub(super) id: RolloutId,
    pub(super) spec: RolloutSpec,
    pub(super) status: RolloutStatus,
    pub(super) phase: Phase,
    pub(super) new: Vec<Candidate>,
    /// What had the traffic before, and what it is if one release had it all.
    pub(super) former: Vec<Target>,
    pub(super) former_release: Option<Release>,
    /// How often the former release was started anew, to take the traffic back.
    pub(super) revivals: u32,
    /// Whether the former instances have been ready once. Those that were started anew are not before they climbed the ladder.
    #[serde(default = "was_ready")]
    pub(super) former_ready: bool,
    /// The host's own change of weights that was known when the rollout began: no news.
    pub(super) known_restore: Option<(Timestamp, String)>,
    pub(super) stage: usize,
    pub(super) weight: u8,
    /// The number of the last shift that was asked for; an answer to an earlier one says nothing of where the traffic goes then.
    #[serde(default)]
    pub(super) shifts: u32,
    pub(super) reason: Option<String>,
    /// What of the way back fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trouble: Option<Trouble>,
    pub(super) judge: Option<Judge>,
    pub(super) verdict: Option<Verdict>,
    /// Whether what served was stopped so that the new release fits: nothing of it is left that traffic could go back to at once.
    #[serde(default)]
    pub(super) has_gap: bool,
    /// What the former release was called before it was started anew after a gap.
    #[serde(default)]
    pub(super) replaced: BTreeSet<InstanceId>,
    /// The number of the last word that was heard of a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) heard: Option<i64>,
    /// A person wants all traffic on the new release as soon as it is ready.
    pub(super) promote: bool,
    /// What is known of the hosts' GPUs.
    #[serde(default, skip_serializing_if = "Gpus::is_unknown")]
    pub(super) gpus: Gpus,
    /// Of one that goes host after host: how far it has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rolling: Option<Rolling>,
    /// Of one whose hosts may have to change places in turn: what is so at each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) turns: Option<Turns>,
    /// Whether it is that of one host among several that change in turn.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_part: bool,
    /// Of such a one: whether the hosts' GPUs are asked after before it goes back. Said before each input.
    #[serde(skip)]
    pub(super) asks_gpus: bool,
    pub(super) observed_until: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// Nothing is known of the host yet.
    New,
    /// A host of several whose turn has not come.
    Waiting,
    /// Its hosts change in turn, each by a machine of its own.
    InTurn,
    /// The new instances are started and climb the readiness ladder.
    Starting,
    /// Nobody has traffic, and instances are stopped so that those of another release fit.
    MakingRoom {
        for_former: bool,
        pending: BTreeSet<InstanceId>,
        tries: u32,
        retry_at: Option<Timestamp>,
        /// Whether the traffic was taken, as this owner knows: before that nothing is stopped.
        #[serde(default)]
        is_interrupted: bool,
        /// Whether nobody had it before either.
        #[serde(default)]
        is_bare: bool,
    },
    /// New weights are on their way to the proxy.
    Shifting { percent: u8, then: Then },
    /// Something is wrong with the new release, which has no traffic meanwhile: the hosts look whether their GPUs are to blame.
    Inspecting {
        why: String,
        suspect: Suspect,
        is_back: bool,
        is_answered: bool,
        is_hosts_fault: bool,
        /// The hosts that took part and did not say.
        #[serde(default)]
        unasked: Vec<String>,
    },
    /// The new release is ready everywhere and has no traffic but what rules send it, until a person gives it all.
    StandingBy { until: Timestamp },
    /// A stage is watched.
    Watching { ends: Timestamp, held_until: Option<Timestamp> },
    /// All traffic of a host of several is on the new release, until all others have come over or back.
    Staying,
    /// All traffic is on the new release; the former instances are being retired.
    Settling { pending: BTreeSet<InstanceId> },
    /// The traffic is going back.
    GoingBack { tries: u32, retry_at: Option<Timestamp> },
    /// The former instances cannot take the traffic, so the former release is started anew and climbs the ladder.
    Reviving { ready: BTreeSet<InstanceId>, retry_at: Option<Timestamp> },
    /// Nothing of the former release can be brought back; all traffic goes to the new one.
    GivingUp { tries: u32, retry_at: Option<Timestamp> },
    /// The traffic is where it was before the rollout; the new instances are drained and stopped.
    CleaningUp { pending: BTreeSet<InstanceId>, end: RolloutStatus },
    /// It has ended.
    Ended { status: RolloutStatus, serves: Serves },
}

/// What follows when the weights are confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Then {
    /// The stage is watched; it goes on where it was begun before.
    Watch { ends: Option<Timestamp>, held_until: Option<Timestamp> },
    /// It waits for a person; it goes on waiting where it began to before.
    StandBy { until: Option<Timestamp> },
    /// It waits for the other hosts.
    Stay,
    /// The rollout settles.
    Settle,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Candidate {
    pub(super) instance: InstanceId,
    pub(super) ready: bool,
}

impl RolloutMachine {
    /// A rollout that nobody has driven yet. `id` makes the names of its instances unique.
    #[must_use]
    pub fn new(id: RolloutId, spec: RolloutSpec) -> Self {
        Self {
            version: VERSION,
            id,
            spec,
            status: RolloutStatus::Queued,
            phase: Phase::New,
            new: Vec::new(),
            former: Vec::new(),
            former_release: None,
            revivals: 0,
            former_ready: true,
            known_restore: None,
            stage: 0,
            weight: 0,
            shifts: 0,
            reason: None,
            trouble: None,
            judge: None,
            verdict: None,
            has_gap: false,
            replaced: BTreeSet::new(),
            heard: None,
            promote: false,
            gpus: Gpus::default(),
            rolling: None,
            turns: None,
            is_part: false,
            asks_gpus: false,
            observed_until: 0,
        }
    }

    /// The rollout as its last owner stored it.
    ///
    /// # Errors
    /// Where the state is damaged or of another form.
    pub fn restore(mut state: Value) -> Result<Self, RestoreError> {
        match state.get("version").and_then(Value::as_u64) {
            Some(version) if version != u64::from(VERSION) => Err(RestoreError::Version { found: version }),
            _ => {
                turns::with_specs(&mut state)?;
                Ok(serde_json::from_value(state)?)
            }
        }
    }

    /// Takes in what happened, and says what is to be done, in order.
    pub fn handle(&mut self, input: Input, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        let out = &mut actions;
        match input {
            input if self.is_in_turns() => self.handle_in_turns(input, now, out),
            Input::At { .. } => {}
            Input::Claimed { facts } => self.on_claimed(&facts, out),
            Input::Started { instance } => self.on_started(instance, out),
            Input::Ready { instance } => self.on_ready(&instance, out),
            Input::NotReady { instance, reason } => self.on_not_ready(&instance, &reason, now, out),
            Input::NoRoom { instance, reason } => self.on_no_room(&instance, &reason, now, out),
            Input::Interrupted => self.on_interrupted(out),
            Input::InterruptFailed { reason } => self.on_interrupt_failed(&reason, now, out),
            Input::StandingBy => self.on_standing_by(now, out),
            Input::StandByFailed { reason } => self.on_stand_by_failed(&reason, out),
            Input::Hosts { hosts } => self.on_hosts(&hosts, out),
            Input::Shifted { number, percent } if number == self.shifts => self.on_shifted(percent, now, out),
            Input::ShiftFailed { number, percent, by_router, reason } if number == self.shifts => {
                self.on_shift_failed((percent, by_router), &reason, now, out);
            }
            // another has been asked for since
            Input::Shifted { .. } | Input::ShiftFailed { .. } => {}
            Input::Observations { observations, lost, next } => {
                self.observed_until = self.observed_until.max(next);
                self.on_observations(&observations, lost, now, out);
            }
            Input::Gpus { reports, hosts, is_asked } => self.on_gpus(&reports, &hosts, is_asked, out),
            Input::Command { command, by, word } => self.on_command(command, by.as_deref(), word, out),
            Input::Route { route } => {
                // who hears of an emergency in an answer has a host alone; of several it hears when it claims anew
                self.on_route(&route, false, out);
            }
            Input::Drained { instance, in_flight } => self.on_drained(instance, in_flight, out),
            Input::Retired { instance } => self.on_retired(&instance, out),
            Input::Stopped { instance } => self.on_stopped(&instance, out),
            Input::CleanUpFailed { instance, reason } => self.on_clean_up_failed(&instance, &reason, out),
            Input::Tick => self.on_tick(now, out),
        }
        actions
    }

    /// Where the rollout stands.
    #[must_use]
    pub fn status(&self) -> RolloutStatus {
        self.status
    }

    /// The new release's share in percent, as last confirmed.
    #[must_use]
    pub fn weight(&self) -> u8 {
        self.weight
    }

    /// The canary's stage, from 0.
    #[must_use]
    pub fn stage(&self) -> usize {
        self.stage
    }

    /// Why it stands where it stands.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The judge's last word, with its numbers; brought up to date with each batch of observations.
    #[must_use]
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// What the rollout is to do.
    #[must_use]
    pub fn spec(&self) -> &RolloutSpec {
        &self.spec
    }

    /// The instances of the new release, once they have names.
    pub fn new_instances(&self) -> impl Iterator<Item = &InstanceId> {
        self.new.iter().map(|c| &c.instance)
    }

    /// What had the traffic before; none until the machine has heard of it.
    #[must_use]
    pub fn former_targets(&self) -> &[Target] {
        &self.former
    }

    /// Whether what served was stopped so that the new release fits, and nothing can be fallen back to; of several hosts, at some of them.
    #[must_use]
    pub fn has_gap(&self) -> bool {
        self.has_gap || self.is_in_turns()
    }

    /// When to give `Tick` at the latest; `None`: not before something else happens.
    #[must_use]
    pub fn next_wake(&self) -> Option<Timestamp> {
        let own = match &self.phase {
            Phase::Watching { ends, held_until } => Some(held_until.unwrap_or(*ends)),
            Phase::StandingBy { until } => Some(*until),
            Phase::Reviving { retry_at, .. }
            | Phase::GoingBack { retry_at, .. }
            | Phase::GivingUp { retry_at, .. }
            | Phase::MakingRoom { retry_at, .. } => *retry_at,
            _ => None,
        };
        own.into_iter().chain(self.next_wake_in_turns()).min()
    }

    /// Whether observations are wanted: of a canary, from its beginning (the former release's rates are learned while the new one
    /// starts) until the traffic goes back or is promoted.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.judge.is_some()
            && matches!(
                self.phase,
                Phase::Starting
                    | Phase::InTurn
                    | Phase::StandingBy { .. }
                    | Phase::Watching { .. }
                    | Phase::Shifting { then: Then::Watch { .. } | Then::StandBy { .. }, .. }
            )
    }

    /// Whether it matters how the new instances fare, other than by what they answer: while stages are watched. A new one is seen by the
    /// readiness ladder before that.
    #[must_use]
    pub fn watches_lives(&self) -> bool {
        self.is_watching() && self.phase != Phase::Starting
    }

    /// The position after which observations are wanted.
    #[must_use]
    pub fn observed_until(&self) -> u64 {
        self.observed_until
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    // --- the readiness ladder ---

    fn on_started(&self, instance: InstanceId, out: &mut Vec<Action>) {
        let is_expected = match self.phase {
            Phase::Starting => self.new_instances().any(|new| *new == instance),
            Phase::Reviving { .. } => self.former.iter().any(|t| t.instance == instance),
            _ => false,
        };
        if is_expected {
            out.push(Action::AwaitReady { instance });
        }
    }

    fn on_ready(&mut self, instance: &InstanceId, out: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Inspecting { suspect: Suspect::Starting, .. } => {
                if let Some(candidate) = self.new.iter_mut().find(|c| c.instance == *instance) {
                    candidate.ready = true;
                }
            }
            Phase::Starting => {
                let Some(candidate) = self.new.iter_mut().find(|c| c.instance == *instance) else { return };
                candidate.ready = true;
                if self.new.iter().all(|c| c.ready) {
                    self.take_first_traffic(out);
                }
            }
            Phase::Reviving { ready, .. } if self.former.iter().any(|t| t.instance == *instance) => {
                ready.insert(instance.clone());
                if ready.len() == self.former.len() {
                    self.former_ready = true;
                    self.go_back(1, out);
                }
            }
            _ => {}
        }
    }

    pub(super) fn on_not_ready(&mut self, instance: &InstanceId, reason: &str, now: Timestamp, out: &mut Vec<Action>) {
        let is_new = self.new_instances().any(|new| new == instance);
        match self.phase {
            Phase::Starting if is_new => {
                self.reason = Some(format!("instance {instance} did not become ready: {reason}"));
                record(out, JournalKind::NotReady, json!({ "instance": instance, "reason": self.reason }));
                let why = self.reason.clone().unwrap_or_default();
                if !self.suspects_gpus(&why, out) {
                    self.give_up_starting(why, out);
                }
            }
            Phase::Shifting { .. }
            | Phase::StandingBy { .. }
            | Phase::Watching { .. }
            | Phase::Staying
            | Phase::Settling { .. }
                if is_new =>
            {
                let why = format!("instance {instance} of the new release is lost: {reason}");
                if !self.watches_lives() || !self.suspects_gpus(&why, out) {
                    self.roll_back(why, out);
                }
            }
            Phase::Reviving { .. } if !is_new => self.on_revival_failed(instance, reason, now, out),
            _ => {}
        }
    }

    /// Ends before the new release had any traffic.
    pub(super) fn give_up_starting(&mut self, why: String, out: &mut Vec<Action>) {
        if self.has_gap {
            return self.roll_back(why, out);
        }
        self.reason = Some(why);
        self.clean_up(RolloutStatus::Failed, out);
    }

    pub(super) fn take_first_traffic(&mut self, out: &mut Vec<Action>) {
        let is_held = matches!(self.spec.strategy, Strategy::BlueGreen(BlueGreenSpec { hold: true, .. }));
        if is_held && !self.promote {
            return self.stand_by(None, out);
        }
        if self.former.is_empty() && self.is_watched() {
            let reason = "nothing served before, so there is nothing to compare with: all traffic goes to it at once";
            self.reason = Some(reason.into());
        }
        match self.spec.strategy {
            _ if self.judge.is_none() => self.shift(100, self.then_settle(), out),
            Strategy::BlueGreen(_) | Strategy::Rolling(_) => self.enter_stage(0, out),
            _ if self.promote => self.shift(100, Then::Settle, out),
            _ => self.enter_stage(0, out),
        }
    }

    // --- weights ---

    /// While a stage is watched the dead man's hand is on the switch, at 100 % as well: until the judge's word the former release
    /// is what the host comes back to.
    pub(super) fn shift(&mut self, percent: u8, then: Then, out: &mut Vec<Action>) {
        self.phase = Phase::Shifting { percent, then };
        let instances: Vec<InstanceId> = self.new_instances().cloned().collect();
        let hosts = self.rolling.as_ref().filter(|_| percent < 100).map(Rolling::changed);
        let number = self.next_shift();
        out.push(Action::Shift {
            number,
            percent,
            targets: split(if hosts.is_some() { 100 } else { percent }, &instances, &self.former),
            hosts,
            // what has stopped is nothing to fall back to
            fallback: if self.has_gap { Vec::new() } else { self.former.clone() },
            dead_man: matches!(then, Then::Watch { .. }) && !self.former.is_empty(),
        });
    }

    /// The number of a shift that is asked for now.
    pub(super) fn next_shift(&mut self) -> u32 {
        self.shifts = self.shifts.wrapping_add(1);
        self.shifts
    }

    fn on_shifted(&mut self, percent: u8, now: Timestamp, out: &mut Vec<Action>) {
        match self.phase.clone() {
            Phase::Shifting { percent: asked, then } if asked == percent => {
                self.weight = percent;
                match then {
                    Then::Watch { ends, held_until } => {
                        let stage = self.canary().stage_duration.0;
                        let ends = ends.map_or(now + stage, |ends| ends.max(now + SEEN_WITHIN.min(stage)));
                        self.phase = Phase::Watching { ends, held_until };
                        self.on_carried(out);
                    }
                    // answered otherwise
                    Then::StandBy { .. } => {}
                    Then::Stay => self.phase = Phase::Staying,
                    Then::Settle => {
                        self.judge = None;
                        let left = if self.has_gap { BTreeSet::new() } else { self.former_instances() };
                        self.retire(&left, out);
                    }
                }
            }
            Phase::GoingBack { .. } if percent == 0 => {
                self.weight = 0;
                self.is_back(out);
            }
            Phase::Inspecting { .. } if percent == 0 => {
                self.weight = 0;
                self.on_back_for_now(out);
            }
            Phase::GivingUp { .. } if percent == 100 => self.finish_with_new(out),
            _ => {}
        }
    }

    // --- what several parts use ---

    pub(super) fn former_instances(&self) -> BTreeSet<InstanceId> {
        self.former.iter().map(|t| t.instance.clone()).collect()
    }

    pub(super) fn finish(
        &mut self,
        status: RolloutStatus,
        serves: Serves,
        reason: Option<String>,
        out: &mut Vec<Action>,
    ) {
        self.phase = Phase::Ended { status, serves };
        self.status = status;
        self.trouble = None;
        self.reason.clone_from(&reason);
        self.judge = None;
        if self.is_part {
            return;
        }
        let release = match serves {
            Serves::New => Some(self.spec.release.id),
            Serves::Former => self.former_release.as_ref().map(|r| r.id),
            Serves::Unknown => None,
        };
        // after a gap a rollout fails only where neither release could be started
        let is_nobody = self.has_gap && status == RolloutStatus::Failed && serves == Serves::Former;
        let release = release.filter(|_| !is_nobody);
        let in_words = if is_nobody { json!("none") } else { json!(serves) };
        let detail = json!({ "status": status, "serves": in_words, "release": release, "reason": reason });
        record(out, JournalKind::Ended, detail);
        out.push(Action::Finish { status, serves, reason });
    }

    pub(super) fn phase_name(&self) -> &'static str {
        match self.phase {
            Phase::New => "new",
            Phase::Waiting => "waiting",
            Phase::InTurn => "in_turn",
            Phase::Starting => "starting",
            Phase::MakingRoom { .. } => "making_room",
            Phase::Shifting { .. } => "shifting",
            Phase::Inspecting { .. } => "inspecting",
            Phase::StandingBy { .. } => "standing_by",
            Phase::Watching { .. } => "watching",
            Phase::Staying => "staying",
            Phase::Settling { .. } => "settling",
            Phase::GoingBack { .. } => "going_back",
            Phase::Reviving { .. } => "reviving",
            Phase::GivingUp { .. } => "giving_up",
            Phase::CleaningUp { .. } => "cleaning_up",
            Phase::Ended { .. } => "ended",
        }
    }
}

/// In a state that was stored before there was this word, the former instances are those that served.
fn was_ready() -> bool {
    true
}

pub(super) fn record(out: &mut Vec<Action>, kind: JournalKind, detail: Value) {
    out.push(Action::Record { kind, detail });
}
