//! How an owner takes a rollout over, at its beginning or later, and what the host did by itself meanwhile.

use segue_schemas::{
    deploy::JournalKind,
    duration::Span,
    host_api::{Instance, InstanceState, RouteState, Target},
    id::{InstanceId, ReleaseId},
    status::RolloutStatus,
    time::Timestamp,
};
use serde_json::json;

use super::{
    action::{Action, Serves},
    input::HostFacts,
    machine::{Candidate, Phase, RolloutMachine, Then, record},
    weights::reduce,
};
use crate::judge::Judge;

/// How long what is still warm is kept until it has traffic: longer than any readiness ladder, so that it is also cleared away where its new owner
/// is never heard of again.
pub const KEPT: Span = Span::seconds(24 * 3600);

impl RolloutMachine {
    pub(super) fn on_claimed(&mut self, facts: &HostFacts, out: &mut Vec<Action>) {
        if self.phase == Phase::New {
            return self.begin(facts, out);
        }
        if !self.is_part {
            let targets = facts.route.as_ref().map(|r| &r.targets);
            record(out, JournalKind::Recovered, json!({ "phase": self.phase_name(), "found": targets }));
        }
        self.quarantine_again(out);
        self.count_hosts(facts);
        if let Some(route) = &facts.route
            && self.on_route(route, !facts.others.is_empty(), out)
        {
            return;
        }
        let lost = self.new.iter().find(|c| c.ready && !facts.carries(&c.instance)).map(|c| c.instance.clone());
        match (self.phase.clone(), lost) {
            (
                Phase::Shifting { .. } | Phase::StandingBy { .. } | Phase::Watching { .. } | Phase::Staying,
                Some(lost),
            ) => {
                self.roll_back(format!("the new release's instance {lost} is gone from the host"), out);
            }
            (Phase::Shifting { .. } | Phase::Watching { .. } | Phase::Staying, None) if self.was_taken_back(facts) => {
                let why = "the traffic was found back where it was, taken back by an owner that could not say why";
                self.roll_back(why.into(), out);
            }
            (Phase::Shifting { then: Then::StandBy { until }, .. }, None) => self.stand_by(until, out),
            (Phase::StandingBy { until }, None) => self.stand_by(Some(until), out),
            (Phase::Shifting { percent, then }, None) => self.shift_again(percent, then, out),
            // asserts the weights, and with them this owner's epoch and the dead-man's switch
            (Phase::Watching { ends, held_until }, None) => {
                // what several hosts saw while nobody asked them can't be told apart any more
                let ends = Some(ends).filter(|_| self.spec.hosts.len() <= 1);
                self.shift_again(self.weight, Then::Watch { ends, held_until }, out);
            }
            (Phase::Staying, None) => self.shift_again(100, Then::Stay, out),
            (Phase::Inspecting { .. }, _) => self.inspect_again(out),
            (Phase::Starting, _) => self.start_new(out),
            (Phase::MakingRoom { .. }, _) => self.go_on_making_room(out),
            (Phase::Settling { pending }, _) => self.retire(&pending, out),
            (Phase::GoingBack { tries, .. }, _) => self.go_back(tries, out),
            (Phase::Reviving { .. }, _) => self.start_former(out),
            (Phase::GivingUp { tries, .. }, _) => self.give_all_to_new(tries, out),
            (Phase::CleaningUp { pending, .. }, _) => self.drain(&pending, out),
            (Phase::Ended { status, serves }, _) => {
                out.push(Action::Finish { status, serves, reason: self.reason.clone() });
            }
            (Phase::New | Phase::Waiting | Phase::InTurn, _) => {}
        }
    }

    /// Whether the new release had weight, as an owner confirmed, and has none at a host: an earlier owner that judged it
    /// acted without the journal, because it could not reach the server, and died before it could. Its word stands.
    fn was_taken_back(&self, facts: &HostFacts) -> bool {
        let has_weight = |t: &Target| t.weight > 0 && self.new.iter().any(|c| c.instance == t.instance);
        if let Some(rolling) = self.rolling.as_ref().filter(|_| !facts.hosts.is_empty()) {
            let has_lost = |(host, targets): &(String, Vec<Target>)| {
                rolling.is_carried_by(host) && !targets.iter().any(has_weight)
            };
            return self.weight > 0 && facts.hosts.iter().any(has_lost);
        }
        let mut routes = facts.route.iter().chain(&facts.others);
        self.weight > 0 && routes.any(|route| !route.targets.iter().any(has_weight))
    }

    fn begin(&mut self, facts: &HostFacts, out: &mut Vec<Action>) {
        self.status = RolloutStatus::Running;
        self.learn(facts);
        if self.spec.is_rollback && !self.former.is_empty() && self.serves(facts, self.spec.release.id) {
            self.weight = 100;
            self.reason = Some(format!("release {} has all the traffic already", self.spec.release.id));
            return self.see_off(facts, out);
        }
        self.name_instances(facts, out);
        if self.is_watched() && !self.former.is_empty() {
            self.judge = Some(Judge::new(&self.canary(), &self.spec.service.rules));
            self.begin_rolling(facts);
        }
        self.prepare_turns(facts);
        self.phase = Phase::Starting;
        self.start_new(out);
    }

    /// The host carries what it is to carry: what an earlier rollout has left there, whose owner was shut out, goes.
    fn see_off(&mut self, facts: &HostFacts, out: &mut Vec<Action>) {
        let is_left = |i: &&Instance| {
            let lives =
                matches!(i.state, InstanceState::Preparing | InstanceState::Running | InstanceState::BackingOff { .. });
            lives && i.retire_at.is_none() && !self.former.iter().any(|t| t.instance == i.id)
        };
        let is_way_back = |i: &&Instance, r: &RouteState| r.fallback.iter().any(|t| t.instance == i.id);
        let is_kept = |i: &&Instance| facts.route.iter().chain(&facts.others).any(|r| is_way_back(i, r));
        let left = facts.instances.iter().filter(is_left).filter(|i| !is_kept(i)).map(|i| i.id.clone()).collect();
        self.retire(&left, out);
    }

    /// What serves before anything is changed.
    pub(super) fn learn(&mut self, facts: &HostFacts) {
        self.former_release = self.spec.previous.clone();
        if let Some(route) = &facts.route {
            self.former = reduce(route.targets.clone());
            self.known_restore = restore_key(route);
            self.observed_until = route.newest_observation;
        }
        if self.former_release.as_ref().is_some_and(|former| !self.serves(facts, former.id)) {
            // the host carries something else than the server knows of, which only its own instances can bring back
            self.former_release = None;
        }
    }

    /// Whether everything that had the traffic is of this release.
    fn serves(&self, facts: &HostFacts, release: ReleaseId) -> bool {
        let release_of =
            |instance: &InstanceId| facts.instances.iter().find(|i| i.id == *instance).map(|i| i.release.id);
        self.former.iter().all(|t| release_of(&t.instance) == Some(release))
    }

    /// Gives the new instances their names. Going back takes the instances of the release that are still warm.
    fn name_instances(&mut self, facts: &HostFacts, out: &mut Vec<Action>) {
        let replicas = self.spec.service.replicas.clamp(1, 64) as usize;
        let is_warm = |instance: &Instance| {
            self.spec.is_rollback
                && instance.release.id == self.spec.release.id
                && instance.state == InstanceState::Running
                && !self.former.iter().any(|t| t.instance == instance.id)
        };
        let mut names: Vec<InstanceId> =
            facts.instances.iter().filter(|i| is_warm(i)).map(|i| i.id.clone()).take(replicas).collect();
        // puts their end off, whatever was said of it; with traffic they stay by themselves
        out.extend(names.iter().map(|instance| Action::Retire {
            instance: instance.clone(),
            after: KEPT,
            drain: self.spec.service.drain,
        }));
        let release = self.spec.release.id;
        for replica in names.len()..replicas {
            names.extend(self.instance_name(&format!("{release}-{replica}-{}", self.id)));
        }
        if self.is_repair() && (self.may_recreate() || self.is_of_an_idle_host()) {
            // of a rollout in which this host was lost
            let is_left = |id: &InstanceId| !names.contains(id);
            self.replaced = facts.instances.iter().map(|i| i.id.clone()).filter(is_left).collect();
        }
        self.new = names.into_iter().map(|instance| Candidate { instance, ready: false }).collect();
    }

    /// `<service>-<suffix>`: the same for every owner, so that starting twice starts once.
    pub(super) fn instance_name(&self, suffix: &str) -> Option<InstanceId> {
        let service: String = self.spec.service.name.chars().take(30).collect();
        format!("{service}-{suffix}").parse().or_else(|_| format!("service-{suffix}").parse()).ok()
    }

    pub(super) fn start_new(&mut self, out: &mut Vec<Action>) {
        let release = &self.spec.release;
        for candidate in &mut self.new {
            candidate.ready = false;
            out.push(Action::Start { instance: candidate.instance.clone(), release: release.clone() });
        }
    }

    /// Whether the route showed news that changed the course.
    pub(super) fn on_route(&mut self, route: &RouteState, has_others: bool, out: &mut Vec<Action>) -> bool {
        let (Some(restored), key) = (&route.restored, restore_key(route)) else { return false };
        if key == self.known_restore || matches!(self.phase, Phase::New | Phase::Ended { .. }) {
            return false;
        }
        self.known_restore = key;
        if restored.reason.starts_with("emergency") {
            self.on_emergency(route, has_others, &restored.reason, out);
            return true;
        }
        if matches!(
            self.phase,
            Phase::Shifting { .. } | Phase::StandingBy { .. } | Phase::Watching { .. } | Phase::Staying
        ) {
            let (at, reason) = (restored.at, &restored.reason);
            self.roll_back(format!("the host took the traffic back by itself at {at}: {reason}"), out);
            return true;
        }
        false
    }

    /// Somebody has put all traffic elsewhere at the host, and that stays so; other hosts follow it.
    fn on_emergency(&mut self, route: &RouteState, has_others: bool, reason: &str, out: &mut Vec<Action>) {
        let with_weight = reduce(route.targets.clone());
        let has_weight = |instance: &InstanceId| with_weight.iter().any(|t| t.instance == *instance);
        record(out, JournalKind::Emergency, json!({ "reason": reason, "serves": route.targets }));
        let reason = format!("taken back at the host, {reason}");
        if self.new_instances().any(has_weight) {
            // back to the very release that is rolled out
            if has_others {
                (self.reason, self.trouble) = (Some(reason), None);
                self.judge = None;
                return self.shift(100, Then::Settle, out);
            }
            self.weight = 100;
            return self.finish(RolloutStatus::Succeeded, Serves::New, Some(reason), out);
        }
        self.status = RolloutStatus::RollingBack;
        self.weight = 0;
        self.former = with_weight;
        (self.reason, self.trouble) = (Some(reason), None);
        if has_others {
            self.judge = None;
            return self.go_back(1, out);
        }
        self.clean_up(RolloutStatus::RolledBack, out);
    }
}

fn restore_key(route: &RouteState) -> Option<(Timestamp, String)> {
    route.restored.as_ref().map(|r| (r.at, r.reason.clone()))
}
