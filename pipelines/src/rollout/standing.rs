//! A release that is to be tried before it serves: ready beside what does, without a share of the traffic, reached by a service's rules alone,
//! until a person gives it all.

use segue_schemas::{
    assignment::Side,
    deploy::{CanarySpec, JournalKind, RolloutCommand, Strategy},
    host_api::Target,
    status::RolloutStatus,
    time::Timestamp,
};
use serde_json::json;

use super::{
    action::Action,
    machine::{Phase, RolloutMachine, Then, record},
};

impl RolloutMachine {
    /// Whether the new release is watched, and compared with the one before.
    pub(super) fn is_watched(&self) -> bool {
        match self.spec.strategy {
            Strategy::Canary(_) | Strategy::Rolling(_) | Strategy::BlueGreen(_) => true,
            Strategy::HotSwap | Strategy::Remove | Strategy::Restore { .. } | Strategy::Sync(_) => false,
        }
    }

    /// The rules by which it is: a canary's, or the same of another way. What goes at once has none and does not ask.
    pub(super) fn canary(&self) -> CanarySpec {
        match self.spec.strategy.clone() {
            Strategy::Canary(canary) => canary,
            Strategy::Rolling(rolling) => CanarySpec {
                stages: vec![100],
                stage_duration: rolling.pause,
                hold_limit: rolling.hold_limit,
                judge: rolling.judge,
            },
            Strategy::BlueGreen(swap) => CanarySpec {
                stages: vec![100],
                stage_duration: swap.soak,
                hold_limit: swap.hold_limit,
                judge: swap.judge,
            },
            Strategy::HotSwap | Strategy::Remove | Strategy::Restore { .. } | Strategy::Sync(_) => {
                CanarySpec::default()
            }
        }
    }

    pub(super) fn stand_by(&mut self, until: Option<Timestamp>, out: &mut Vec<Action>) {
        self.phase = Phase::Shifting { percent: 0, then: Then::StandBy { until } };
        let new = self.new_instances().map(|instance| Target { instance: instance.clone(), weight: 0 });
        let targets = self.former.iter().cloned().chain(new).collect();
        out.push(Action::StandBy { targets, fallback: self.former.clone() });
    }

    pub(super) fn on_standing_by(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let Phase::Shifting { then: Then::StandBy { until }, .. } = self.phase else { return };
        let is_first = self.former.is_empty();
        let leads_there = self.spec.service.rules.iter().any(|rule| rule.to == Side::Canary);
        let who = if is_first {
            "as nothing served before, no request reaches it"
        } else if leads_there {
            "what the service's rules send to the canary reaches it"
        } else {
            "no rule of the service's leads to it"
        };
        let id = self.id;
        let reason = format!(
            "it stands ready without a share of the traffic, and {who}: `segue rollout promote {id}` gives it all, `segue rollout abort {id}` \
             takes it away"
        );
        let limit = now + self.canary().hold_limit.0;
        if until.is_none() {
            record(out, JournalKind::Held, json!({ "reason": reason, "until": limit }));
        }
        self.phase = Phase::StandingBy { until: until.unwrap_or(limit) };
        self.status = RolloutStatus::Held;
        self.reason = Some(reason);
    }

    pub(super) fn on_stand_by_failed(&mut self, reason: &str, out: &mut Vec<Action>) {
        if let Phase::Shifting { then: Then::StandBy { .. }, .. } = self.phase {
            self.roll_back(format!("it could not be put beside what serves: {reason}"), out);
        }
    }

    pub(super) fn end_standing_by(&mut self, out: &mut Vec<Action>) {
        let limit = self.canary().hold_limit;
        self.roll_back(format!("it stood ready for {limit}, the limit, and nobody promoted it"), out);
    }

    /// Whether a person's word means that a release that stands ready gets the traffic.
    pub(super) fn begins_to_serve(&mut self, command: RolloutCommand, out: &mut Vec<Action>) -> bool {
        let stands =
            matches!(self.phase, Phase::StandingBy { .. } | Phase::Shifting { then: Then::StandBy { .. }, .. });
        if command == RolloutCommand::Abort || !stands {
            return false;
        }
        if self.judge.is_some() {
            self.enter_stage(0, out);
        } else {
            // nothing served before, so there is nothing to compare with
            self.status = RolloutStatus::Running;
            self.reason = None;
            self.shift(100, Then::Settle, out);
        }
        true
    }
}
