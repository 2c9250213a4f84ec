use std::{collections::BTreeSet, time::Duration};

use segue_schemas::{
    deploy::{CanarySpec, JournalKind, Release, RolloutCommand, RolloutSpec, Strategy},
    host_api::{RouteState, Target},
    id::{InstanceId, RolloutId},
    status::RolloutStatus,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    action::{Action, Serves},
    input::{HostFacts, Input},
    weights::{reduce, split},
};
use crate::judge::{Arm, Decision, Judge, Verdict};

/// The form of the stored state. Raised when an older one can't be read any more.
const VERSION: u32 = 1;
/// How often the former release is started again before it is given up.
const REVIVE_TRIES: u32 = 3;
/// The longest pause between two tries to take the traffic back.
const RETRY_CAP: Duration = Duration::from_secs(30);
/// The first pause between two tries; it doubles.
const RETRY_FIRST: Duration = Duration::from_secs(1);

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
    #[error("the rollout's state cannot be read ({0}); abort the rollout and start it again")]
    Unreadable(#[from] serde_json::Error),
}

/// One rollout's decisions. Its serialised form is the state that is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutMachine {
    version: u32,
    id: RolloutId,
    spec: RolloutSpec,
    status: RolloutStatus,
    phase: Phase,
    new: Vec<Candidate>,
    /// What had the traffic before.
    former: Vec<Target>,
    /// Whether the former instances can take the traffic back at once: none was stopped or is on its way to be.
    former_warm: bool,
    /// The host's own change of weights that was known when the rollout began: no news.
    known_restore: Option<(Timestamp, String)>,
    stage: usize,
    weight: u8,
    reason: Option<String>,
    judge: Option<Judge>,
    verdict: Option<Verdict>,
    /// A person wants all traffic on the new release as soon as it is ready.
    promote: bool,
    observed_until: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    /// Nothing is known of the host yet.
    New,
    /// The new instances are started and climb the readiness ladder.
    Starting,
    /// New weights are on their way to the proxy.
    Shifting { percent: u8, then: Then },
    /// A stage is watched.
    Watching { ends: Timestamp, held_until: Option<Timestamp> },
    /// All traffic is on the new release; the former instances are being retired.
    Settling { pending: BTreeSet<InstanceId> },
    /// The former instances are brought back, because the traffic is to go back to them and they may be gone.
    Reviving { why: String, tries: u32, ready: BTreeSet<InstanceId>, retry_at: Option<Timestamp> },
    /// The traffic is going back.
    GoingBack { tries: u32, retry_at: Option<Timestamp> },
    /// The traffic is where it was before the rollout; the new instances are drained and stopped.
    CleaningUp { pending: BTreeSet<InstanceId>, end: RolloutStatus },
    /// It has ended.
    Ended { status: RolloutStatus, serves: Serves },
}

/// What follows when the weights are confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Then {
    /// The stage is watched, to this time at least where it was begun before.
    Watch { ends: Option<Timestamp>, held_until: Option<Timestamp> },
    /// The rollout settles.
    Settle,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Candidate {
    instance: InstanceId,
    ready: bool,
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
            former_warm: true,
            known_restore: None,
            stage: 0,
            weight: 0,
            reason: None,
            judge: None,
            verdict: None,
            promote: false,
            observed_until: 0,
        }
    }

    /// The rollout as its last owner stored it.
    ///
    /// # Errors
    /// Where the state is damaged or of another form.
    pub fn restore(state: Value) -> Result<Self, RestoreError> {
        match state.get("version").and_then(Value::as_u64) {
            Some(version) if version != u64::from(VERSION) => Err(RestoreError::Version { found: version }),
            _ => Ok(serde_json::from_value(state)?),
        }
    }

    /// Takes in what happened, and says what is to be done, in order.
    pub fn handle(&mut self, input: Input, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Claimed { facts } => self.on_claimed(&facts, &mut actions),
            Input::Started { instance } => self.on_started(instance, &mut actions),
            Input::Ready { instance } => self.on_ready(&instance, &mut actions),
            Input::NotReady { instance, reason } => self.on_not_ready(&instance, &reason, now, &mut actions),
            Input::Shifted { percent } => self.on_shifted(percent, now, &mut actions),
            Input::ShiftFailed { percent, reason } => self.on_shift_failed(percent, &reason, now, &mut actions),
            Input::Observations { observations, lost, next } => {
                self.observed_until = self.observed_until.max(next);
                self.on_observations(&observations, lost, now, &mut actions);
            }
            Input::Command { command, by } => self.on_command(command, by.as_deref(), &mut actions),
            Input::Route { route } => {
                self.on_route(&route, &mut actions);
            }
            Input::Drained { instance, in_flight } => self.on_drained(instance, in_flight, &mut actions),
            Input::Retired { instance } | Input::Stopped { instance } => self.on_gone(&instance, &mut actions),
            Input::CleanUpFailed { instance, reason } => self.on_clean_up_failed(instance, &reason, &mut actions),
            Input::Tick => self.on_tick(now, &mut actions),
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

    /// The judge's last word, with its numbers.
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

    /// When to give `Tick` at the latest; `None`: not before something else happens.
    #[must_use]
    pub fn next_wake(&self) -> Option<Timestamp> {
        match &self.phase {
            Phase::Watching { ends, held_until } => Some(held_until.unwrap_or(*ends)),
            Phase::Reviving { retry_at, .. } | Phase::GoingBack { retry_at, .. } => *retry_at,
            _ => None,
        }
    }

    /// Whether observations are wanted: of a canary, from its beginning (the former release's rates are learned while the new one
    /// starts) until the traffic goes back or is promoted.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.judge.is_some()
            && matches!(
                self.phase,
                Phase::Starting | Phase::Watching { .. } | Phase::Shifting { then: Then::Watch { .. }, .. }
            )
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

    // --- beginning and taking over ---

    fn on_claimed(&mut self, facts: &HostFacts, actions: &mut Vec<Action>) {
        if self.phase == Phase::New {
            return self.begin(facts, actions);
        }
        record(
            actions,
            JournalKind::Recovered,
            json!({ "phase": self.phase_name(), "route": facts.route, "instances": facts.instances }),
        );
        if let Some(route) = &facts.route
            && self.on_route(route, actions)
        {
            return;
        }
        let lost = self.new.iter().find(|c| c.ready && !facts.carries(&c.instance)).map(|c| c.instance.clone());
        if self.former.iter().any(|t| !facts.carries(&t.instance)) {
            self.former_warm = false;
        }
        match self.phase.clone() {
            Phase::New => {}
            Phase::Starting => {
                for candidate in &mut self.new {
                    candidate.ready = false;
                }
                self.start_new(actions);
            }
            Phase::Shifting { .. } | Phase::Watching { .. } if lost.is_some() => {
                let name = lost.map(|l| l.to_string()).unwrap_or_default();
                self.roll_back(format!("the new release's instance {name} is gone from the host"), actions);
            }
            Phase::Shifting { percent, then } => self.shift(percent, then, actions),
            Phase::Watching { ends, held_until } => {
                // asserts the weights, and with them this owner's epoch and the dead-man's switch
                self.shift(self.weight, Then::Watch { ends: Some(ends), held_until }, actions);
            }
            Phase::Settling { pending } => self.retire(&pending, actions),
            Phase::Reviving { why, tries, .. } => self.revive(why, tries, actions),
            Phase::GoingBack { .. } => self.go_back(actions),
            Phase::CleaningUp { pending, .. } => self.drain(&pending, actions),
            Phase::Ended { status, serves } => {
                actions.push(Action::Finish { status, serves, reason: self.reason.clone() });
            }
        }
    }

    fn begin(&mut self, facts: &HostFacts, actions: &mut Vec<Action>) {
        self.status = RolloutStatus::Running;
        if let Some(route) = &facts.route {
            self.former = reduce(route.targets.clone());
            self.known_restore = restore_key(route);
            self.observed_until = route.newest_observation;
        }
        let former_instances: BTreeSet<&InstanceId> = self.former.iter().map(|t| &t.instance).collect();
        let release_of =
            |instance: &InstanceId| facts.instances.iter().find(|i| i.id == *instance).map(|i| i.release.id);
        if self.spec.is_rollback
            && !self.former.is_empty()
            && self
                .former
                .iter()
                .all(|t| release_of(&t.instance) == Some(self.spec.release.id) && facts.carries(&t.instance))
        {
            self.weight = 100;
            return self.finish(
                RolloutStatus::Succeeded,
                Serves::New,
                Some(format!("release {} has all the traffic already", self.spec.release.id)),
                actions,
            );
        }
        // going back takes what is still warm
        let warm = facts.instances.iter().filter(|i| {
            self.spec.is_rollback
                && i.release.id == self.spec.release.id
                && facts.carries(&i.id)
                && !former_instances.contains(&i.id)
        });
        let replicas = self.spec.service.replicas.clamp(1, 64) as usize;
        let mut names: Vec<InstanceId> = warm.map(|i| i.id.clone()).take(replicas).collect();
        for replica in names.len()..replicas {
            names.extend(self.instance_name(replica));
        }
        self.new = names.into_iter().map(|instance| Candidate { instance, ready: false }).collect();
        if let Strategy::Canary(canary) = &self.spec.strategy
            && !self.former.is_empty()
        {
            self.judge = Some(Judge::new(canary));
        }
        self.phase = Phase::Starting;
        self.start_new(actions);
    }

    /// `<service>-<release>-<replica>-<rollout>`: the same for every owner, so that starting twice starts once.
    fn instance_name(&self, replica: usize) -> Option<InstanceId> {
        let service: String = self.spec.service.name.chars().take(32).collect();
        let name = format!("{service}-{}-{replica}-{}", self.spec.release.id, self.id);
        name.parse().or_else(|_| format!("service-{}-{replica}-{}", self.spec.release.id, self.id).parse()).ok()
    }

    fn start_new(&self, actions: &mut Vec<Action>) {
        actions.extend(
            self.new.iter().map(|c| Action::Start { instance: c.instance.clone(), release: self.spec.release.clone() }),
        );
    }

    // --- the readiness ladder ---

    fn on_started(&mut self, instance: InstanceId, actions: &mut Vec<Action>) {
        let expected = match self.phase {
            Phase::Starting => self.new.iter().any(|c| c.instance == instance),
            Phase::Reviving { .. } => self.former.iter().any(|t| t.instance == instance),
            _ => false,
        };
        if expected {
            actions.push(Action::AwaitReady { instance });
        }
    }

    fn on_ready(&mut self, instance: &InstanceId, actions: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Starting => {
                if let Some(candidate) = self.new.iter_mut().find(|c| c.instance == *instance) {
                    candidate.ready = true;
                }
                if self.new.iter().all(|c| c.ready) {
                    self.take_first_traffic(actions);
                }
            }
            Phase::Reviving { why, ready, .. } => {
                if self.former.iter().any(|t| t.instance == *instance) {
                    ready.insert(instance.clone());
                }
                if ready.len() == self.former.len() {
                    self.former_warm = true;
                    let why = why.clone();
                    self.roll_back(why, actions);
                }
            }
            _ => {}
        }
    }

    fn take_first_traffic(&mut self, actions: &mut Vec<Action>) {
        let canary = matches!(self.spec.strategy, Strategy::Canary(_));
        if self.former.is_empty() && canary {
            self.reason = Some(
                "nothing served before: there is nothing to compare with, so all traffic goes to it at once".into(),
            );
        }
        if self.judge.is_none() || self.promote {
            self.shift(100, Then::Settle, actions);
        } else {
            self.enter_stage(0, actions);
        }
    }

    fn on_not_ready(&mut self, instance: &InstanceId, reason: &str, now: Timestamp, actions: &mut Vec<Action>) {
        let is_new = self.new.iter().any(|c| c.instance == *instance);
        match &mut self.phase {
            Phase::Starting if is_new => {
                let reason = format!("instance {instance} did not become ready: {reason}");
                record(actions, JournalKind::NotReady, json!({ "instance": instance, "reason": reason }));
                self.reason = Some(reason);
                self.clean_up(RolloutStatus::Failed, actions);
            }
            Phase::Shifting { .. } | Phase::Watching { .. } if is_new => {
                self.roll_back(format!("instance {instance} of the new release is lost: {reason}"), actions);
            }
            Phase::Reviving { why, tries, retry_at, .. } if !is_new => {
                if *tries >= REVIVE_TRIES {
                    let reason = format!(
                        "{why}; but the former release could not be started again ({reason}), so all traffic stays with the new one"
                    );
                    record(actions, JournalKind::NotReady, json!({ "instance": instance, "reason": reason }));
                    self.reason = Some(reason);
                    self.former = Vec::new();
                    self.status = RolloutStatus::Running;
                    self.shift(100, Then::Settle, actions);
                } else {
                    *retry_at = Some(now + pause(*tries));
                }
            }
            _ => {}
        }
    }

    // --- weights ---

    fn shift(&mut self, percent: u8, then: Then, actions: &mut Vec<Action>) {
        self.phase = Phase::Shifting { percent, then };
        let instances: Vec<InstanceId> = self.new_instances().cloned().collect();
        actions.push(Action::Shift {
            percent,
            targets: split(percent, &instances, &self.former),
            fallback: self.former.clone(),
            dead_man: percent < 100 && !self.former.is_empty(),
        });
    }

    fn on_shifted(&mut self, percent: u8, now: Timestamp, actions: &mut Vec<Action>) {
        match self.phase.clone() {
            Phase::Shifting { percent: asked, then } if asked == percent => {
                self.weight = percent;
                match then {
                    Then::Watch { ends, held_until } => {
                        let ends = ends.unwrap_or_else(|| now + self.canary().stage_duration.0);
                        self.phase = Phase::Watching { ends, held_until };
                    }
                    Then::Settle => {
                        self.judge = None;
                        let former: BTreeSet<InstanceId> = self.former.iter().map(|t| t.instance.clone()).collect();
                        self.retire(&former, actions);
                    }
                }
            }
            Phase::GoingBack { .. } if percent == 0 => {
                self.weight = 0;
                record(
                    actions,
                    JournalKind::RolledBack,
                    json!({ "reason": self.reason, "serves": self.former, "release": self.spec.previous.as_ref().map(|p| p.id) }),
                );
                self.clean_up(RolloutStatus::RolledBack, actions);
            }
            _ => {}
        }
    }

    fn on_shift_failed(&mut self, percent: u8, reason: &str, now: Timestamp, actions: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Shifting { percent: asked, .. } if *asked == percent => {
                self.roll_back(format!("the weights could not be set to {percent} %: {reason}"), actions);
            }
            Phase::GoingBack { tries, retry_at } if percent == 0 => {
                *retry_at = Some(now + pause(*tries));
                *tries += 1;
            }
            _ => {}
        }
    }

    // --- stages ---

    fn canary(&self) -> CanarySpec {
        match &self.spec.strategy {
            Strategy::Canary(canary) => canary.clone(),
            Strategy::HotSwap => CanarySpec::default(),
        }
    }

    /// Rising weights that end with 100, whatever was asked for.
    fn stages(&self) -> Vec<u8> {
        let mut stages: Vec<u8> = self.canary().stages.into_iter().filter(|s| (1..100).contains(s)).collect();
        stages.sort_unstable();
        stages.dedup();
        stages.push(100);
        stages
    }

    fn enter_stage(&mut self, stage: usize, actions: &mut Vec<Action>) {
        let stages = self.stages();
        self.stage = stage.min(stages.len() - 1);
        let percent = stages[self.stage];
        self.status = RolloutStatus::Running;
        self.reason = None;
        if let Some(judge) = &mut self.judge {
            judge.begin_stage(percent);
        }
        self.shift(percent, Then::Watch { ends: None, held_until: None }, actions);
    }

    fn leave_stage(&mut self, actions: &mut Vec<Action>) {
        if self.stage + 1 < self.stages().len() {
            self.enter_stage(self.stage + 1, actions);
        } else {
            self.status = RolloutStatus::Running;
            self.reason = None;
            let former: BTreeSet<InstanceId> = self.former.iter().map(|t| t.instance.clone()).collect();
            self.judge = None;
            self.retire(&former, actions);
        }
    }

    fn on_observations(
        &mut self,
        observations: &[segue_schemas::deploy::Observation],
        lost: u64,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        if !self.is_watching() {
            return;
        }
        let Some(judge) = &mut self.judge else { return };
        judge.lose(lost);
        for observation in observations {
            let arm = if self.new.iter().any(|c| c.instance == observation.instance) {
                Arm::Canary
            } else if self.former.iter().any(|t| t.instance == observation.instance) {
                Arm::Control
            } else {
                continue;
            };
            judge.observe(arm, observation);
            if judge.is_alarmed() {
                break;
            }
        }
        self.on_tick(now, actions);
    }

    fn on_tick(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        match self.phase.clone() {
            Phase::Shifting { then: Then::Watch { .. }, .. } => {
                if let Some(verdict) = self.judge.as_ref().filter(|j| j.is_alarmed()).map(|j| j.verdict(false)) {
                    self.act_on(verdict, now, actions);
                }
            }
            Phase::Watching { ends, held_until } => {
                let Some(judge) = &self.judge else { return };
                let is_over = now >= ends;
                if is_over || judge.is_alarmed() {
                    let verdict = judge.verdict(is_over);
                    self.act_on(verdict, now, actions);
                }
                if let (Phase::Watching { .. }, Some(until)) = (&self.phase, held_until)
                    && now >= until
                {
                    let held = self.reason.clone().unwrap_or_default();
                    self.roll_back(format!("held until the limit of {}: {held}", self.canary().hold_limit), actions);
                }
            }
            Phase::Reviving { why, tries, retry_at: Some(at), .. } if now >= at => self.revive(why, tries + 1, actions),
            Phase::GoingBack { retry_at: Some(at), .. } if now >= at => self.go_back(actions),
            _ => {}
        }
    }

    fn act_on(&mut self, verdict: Verdict, now: Timestamp, actions: &mut Vec<Action>) {
        let decision = verdict.decision;
        let reason = verdict.reason.clone();
        let is_news =
            self.verdict.as_ref().is_none_or(|v| v.decision != decision || v.stage_percent != verdict.stage_percent);
        if is_news {
            record(actions, JournalKind::Verdict, json!(verdict));
        }
        self.verdict = Some(verdict);
        match decision {
            Decision::Continue => {}
            Decision::Advance => self.leave_stage(actions),
            Decision::RollBack => self.roll_back(reason, actions),
            Decision::Hold => {
                let limit = self.canary().hold_limit.0;
                if let Phase::Watching { held_until: held_until @ None, .. } = &mut self.phase {
                    *held_until = Some(now + limit);
                    record(actions, JournalKind::Held, json!({ "reason": reason, "until": now + limit }));
                }
                self.status = RolloutStatus::Held;
                self.reason = Some(reason);
            }
        }
    }

    // --- a person's word ---

    fn on_command(&mut self, command: RolloutCommand, by: Option<&str>, actions: &mut Vec<Action>) {
        let taken = match (command, &self.phase) {
            (_, Phase::Ended { .. } | Phase::CleaningUp { .. } | Phase::GoingBack { .. } | Phase::Reviving { .. }) => {
                false
            }
            (RolloutCommand::Abort, _) => true,
            (RolloutCommand::Promote, Phase::Settling { .. }) => false,
            (RolloutCommand::Promote, _) => true,
            (RolloutCommand::Skip, phase) => matches!(phase, Phase::Watching { .. }),
        };
        record(
            actions,
            JournalKind::Command,
            json!({ "command": command, "by": by, "taken": taken, "phase": self.phase_name() }),
        );
        if !taken {
            return;
        }
        let who = by.map(|by| format!(" ({by})")).unwrap_or_default();
        match command {
            RolloutCommand::Abort => self.roll_back(format!("aborted by a person{who}"), actions),
            RolloutCommand::Skip => self.leave_stage(actions),
            RolloutCommand::Promote if matches!(self.phase, Phase::New | Phase::Starting) => self.promote = true,
            RolloutCommand::Promote => {
                self.status = RolloutStatus::Running;
                self.reason = Some(format!("promoted by a person{who}"));
                self.stage = self.stages().len() - 1;
                self.shift(100, Then::Settle, actions);
            }
        }
    }

    // --- the host's own acts ---

    /// Whether the route showed news that changed the course.
    fn on_route(&mut self, route: &RouteState, actions: &mut Vec<Action>) -> bool {
        let (Some(restored), key) = (&route.restored, restore_key(route)) else { return false };
        if key == self.known_restore || matches!(self.phase, Phase::New | Phase::Ended { .. }) {
            return false;
        }
        self.known_restore = key;
        if restored.reason.starts_with("emergency") {
            self.on_emergency(route, &restored.reason, actions);
            return true;
        }
        match self.phase {
            Phase::Shifting { .. } | Phase::Watching { .. } => {
                self.weight = 0;
                self.roll_back(
                    format!("the host took the traffic back by itself at {}: {}", restored.at, restored.reason),
                    actions,
                );
                true
            }
            _ => false,
        }
    }

    /// The host's epoch is above this rollout's now, so nothing more can be changed; what it did is recorded.
    fn on_emergency(&mut self, route: &RouteState, reason: &str, actions: &mut Vec<Action>) {
        let has_weight = |instance: &InstanceId| route.targets.iter().any(|t| t.weight > 0 && t.instance == *instance);
        record(actions, JournalKind::Emergency, json!({ "reason": reason, "targets": route.targets }));
        let reason = format!("rolled back at the host: {reason}");
        let serves_new = !route.targets.is_empty()
            && route.targets.iter().filter(|t| t.weight > 0).all(|t| self.new_instances().any(|i| *i == t.instance));
        if serves_new && self.status != RolloutStatus::RollingBack {
            self.weight = 100;
            self.status = RolloutStatus::Running;
            return self.finish(RolloutStatus::Succeeded, Serves::New, Some(reason), actions);
        }
        self.status = RolloutStatus::RollingBack;
        self.weight = 0;
        self.reason = Some(reason);
        self.new.retain(|c| !has_weight(&c.instance));
        self.clean_up(RolloutStatus::RolledBack, actions);
    }

    // --- going back ---

    fn roll_back(&mut self, why: String, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::New => {
                self.reason = Some(why.clone());
                return self.finish(RolloutStatus::RolledBack, Serves::Former, Some(why), actions);
            }
            Phase::GoingBack { .. } | Phase::CleaningUp { .. } | Phase::Ended { .. } => return,
            Phase::Shifting { .. } | Phase::Watching { .. } | Phase::Settling { .. } if !self.former_warm => {
                return self.revive(why, 1, actions);
            }
            _ => {}
        }
        self.status = RolloutStatus::RollingBack;
        record(
            actions,
            JournalKind::RollBackIntent,
            json!({ "reason": why, "weight": self.weight, "stage": self.stage }),
        );
        self.reason = Some(why);
        self.judge = None;
        if self.phase == Phase::Starting {
            // no weight was ever asked for
            self.clean_up(RolloutStatus::RolledBack, actions);
        } else {
            self.go_back(actions);
        }
    }

    fn go_back(&mut self, actions: &mut Vec<Action>) {
        let tries = if let Phase::GoingBack { tries, .. } = self.phase { tries } else { 1 };
        self.phase = Phase::GoingBack { tries, retry_at: None };
        actions.push(Action::Shift {
            percent: 0,
            targets: self.former.clone(),
            fallback: self.former.clone(),
            dead_man: false,
        });
    }

    fn revive(&mut self, why: String, tries: u32, actions: &mut Vec<Action>) {
        self.reason = Some(why.clone());
        self.status = RolloutStatus::Running;
        self.judge = None;
        self.phase = Phase::Reviving { why, tries, ready: BTreeSet::new(), retry_at: None };
        if let Some(previous) = self.spec.previous.clone() {
            actions.extend(
                self.former
                    .iter()
                    .map(|t| Action::Start { instance: t.instance.clone(), release: Release::clone(&previous) }),
            );
        }
    }

    // --- ending ---

    fn retire(&mut self, former: &BTreeSet<InstanceId>, actions: &mut Vec<Action>) {
        if former.is_empty() {
            let reason = self.reason.clone();
            return self.finish(RolloutStatus::Succeeded, Serves::New, reason, actions);
        }
        self.former_warm = false;
        self.phase = Phase::Settling { pending: former.clone() };
        actions.extend(former.iter().map(|instance| Action::Retire {
            instance: instance.clone(),
            after: self.spec.service.keep_warm,
            drain: self.spec.service.drain,
        }));
    }

    /// Drains and stops the new instances, none of which has weight.
    fn clean_up(&mut self, end: RolloutStatus, actions: &mut Vec<Action>) {
        let pending: BTreeSet<InstanceId> = self.new_instances().cloned().collect();
        self.judge = None;
        self.phase = Phase::CleaningUp { pending: pending.clone(), end };
        self.drain(&pending, actions);
        self.finish_when_clean(actions);
    }

    fn drain(&self, pending: &BTreeSet<InstanceId>, actions: &mut Vec<Action>) {
        let limit = self.spec.service.drain;
        actions.extend(pending.iter().map(|instance| Action::Drain { instance: instance.clone(), limit }));
    }

    fn on_drained(&mut self, instance: InstanceId, in_flight: u64, actions: &mut Vec<Action>) {
        if let Phase::CleaningUp { pending, .. } = &self.phase
            && pending.contains(&instance)
        {
            if in_flight > 0 {
                let detail = json!({ "instance": instance, "cut": in_flight, "drain": self.spec.service.drain });
                record(actions, JournalKind::RetireIntent, detail);
            }
            actions.push(Action::Stop { instance });
        }
    }

    fn on_gone(&mut self, instance: &InstanceId, actions: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Settling { pending } => {
                pending.remove(instance);
                if pending.is_empty() {
                    let reason = self.reason.clone();
                    self.finish(RolloutStatus::Succeeded, Serves::New, reason, actions);
                }
            }
            Phase::CleaningUp { pending, .. } => {
                pending.remove(instance);
                self.finish_when_clean(actions);
            }
            _ => {}
        }
    }

    fn on_clean_up_failed(&mut self, instance: InstanceId, reason: &str, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Settling { .. } | Phase::CleaningUp { .. }) {
            record(actions, JournalKind::Retired, json!({ "instance": instance, "left_over": true, "reason": reason }));
            self.on_gone(&instance, actions);
        }
    }

    fn finish_when_clean(&mut self, actions: &mut Vec<Action>) {
        if let Phase::CleaningUp { pending, end } = &self.phase
            && pending.is_empty()
        {
            let (end, reason) = (*end, self.reason.clone());
            self.finish(end, Serves::Former, reason, actions);
        }
    }

    fn finish(&mut self, status: RolloutStatus, serves: Serves, reason: Option<String>, actions: &mut Vec<Action>) {
        self.phase = Phase::Ended { status, serves };
        self.status = status;
        self.reason.clone_from(&reason);
        self.judge = None;
        record(actions, JournalKind::Ended, json!({ "status": status, "serves": serves, "reason": reason }));
        actions.push(Action::Finish { status, serves, reason });
    }

    fn phase_name(&self) -> &'static str {
        match self.phase {
            Phase::New => "new",
            Phase::Starting => "starting",
            Phase::Shifting { .. } => "shifting",
            Phase::Watching { .. } => "watching",
            Phase::Settling { .. } => "settling",
            Phase::Reviving { .. } => "reviving",
            Phase::GoingBack { .. } => "going_back",
            Phase::CleaningUp { .. } => "cleaning_up",
            Phase::Ended { .. } => "ended",
        }
    }
}

fn record(actions: &mut Vec<Action>, kind: JournalKind, detail: Value) {
    actions.push(Action::Record { kind, detail });
}

fn restore_key(route: &RouteState) -> Option<(Timestamp, String)> {
    route.restored.as_ref().map(|r| (r.at, r.reason.clone()))
}

/// The pause after the given try, from 1.
fn pause(tries: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(RETRY_CAP)
}
