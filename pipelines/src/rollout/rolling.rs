//! Host after host: on some all traffic goes to the new release, on the others to the one before, and each such step is watched as a canary's
//! stage is. The new release is ready on all hosts before the first goes over, and what served stays ready on each until the last has: so
//! going back is a change of weights, on all that went over.
//!
//! Whatever stands before the hosts shares the requests out, in shares that nobody here knows. So the judge is told the share that it had so far:
//! of the requests of this step, those that hosts with the new release answered.

use segue_schemas::{
    deploy::{Observation, RolloutCommand, Strategy},
    strategy::Batch,
};
use serde::{Deserialize, Serialize};

use super::{
    action::Action,
    input::HostFacts,
    machine::{Phase, RolloutMachine, Then},
};
use crate::judge::Arm;

/// So many requests the hosts' own share counts for, before any was seen.
const PRIOR_REQUESTS: f64 = 20.0;

/// How far a rollout has come that goes host after host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Rolling {
    /// The hosts that take part, in the order in which they go over.
    present: Vec<String>,
    /// Those that go over or have.
    changed: Vec<String>,
    /// Those that have, as was confirmed.
    carried: Vec<String>,
    /// Requests of this step that the new release answered, and all.
    #[serde(default)]
    answered: (f64, f64),
}

impl Rolling {
    pub(super) fn changed(&self) -> Vec<String> {
        self.changed.clone()
    }

    pub(super) fn is_carried_by(&self, host: &str) -> bool {
        self.carried.iter().any(|known| known == host)
    }

    pub(super) fn is_everywhere(&self) -> bool {
        self.present.iter().all(|host| self.changed.contains(host))
    }

    /// The part of the hosts that go over or have; below 100 as long as one is left.
    fn percent(&self) -> u8 {
        if self.is_everywhere() {
            return 100;
        }
        u8::try_from(self.changed.len() * 100 / self.present.len().max(1)).unwrap_or(99).clamp(1, 99)
    }

    fn go_on(&mut self, batch: Batch) {
        let next: Vec<String> = self.present.iter().filter(|host| !self.changed.contains(host)).cloned().collect();
        let count = batch.of(self.present.len());
        self.changed.extend(next.into_iter().take(count));
    }

    fn watch_anew(&mut self) {
        self.answered = (f64::from(self.percent()) / 100.0 * PRIOR_REQUESTS, PRIOR_REQUESTS);
    }

    /// These hosts have gone over, and are watched from now on; their part of all.
    pub(super) fn went_over(&mut self, hosts: Vec<String>) -> u8 {
        self.carried.clone_from(&hosts);
        self.changed = hosts;
        self.watch_anew();
        self.percent()
    }

    pub(super) fn is_carried(&self) -> bool {
        !self.carried.is_empty()
    }

    pub(super) fn keep(&mut self, hosts: &[String]) {
        for known in [&mut self.present, &mut self.changed, &mut self.carried] {
            known.retain(|host| hosts.contains(host));
        }
    }

    /// The observation with the probability with which its release answers, by what was seen before it.
    pub(super) fn weighed(&mut self, arm: Arm, observation: &Observation) -> Observation {
        let (new, all) = self.answered;
        let share = if all > 0.0 { new / all } else { 0.0 };
        let is_drawn = self.percent() < 100 && !self.carried.is_empty();
        let probability = match arm {
            _ if !is_drawn => observation.probability,
            Arm::Canary => share,
            Arm::Control => 1.0 - share,
        };
        if is_drawn && observation.rule.is_none() && observation.attempt <= 1 {
            self.answered = (new + f64::from(u8::from(arm == Arm::Canary)), all + 1.0);
        }
        Observation { probability, ..observation.clone() }
    }
}

impl RolloutMachine {
    /// With the hosts that take part now.
    pub(super) fn begin_rolling(&mut self, facts: &HostFacts) {
        if !matches!(self.spec.strategy, Strategy::Rolling(_)) {
            return;
        }
        let reported: Vec<&String> = facts.hosts.iter().map(|(host, _)| host).collect();
        let takes_part = |host: &&String| reported.is_empty() || reported.contains(host);
        let present = self.spec.hosts.iter().filter(takes_part).cloned().collect();
        self.rolling = Some(Rolling { present, changed: Vec::new(), carried: Vec::new(), answered: (0.0, 0.0) });
    }

    /// Which of them a new owner has found.
    pub(super) fn count_hosts(&mut self, facts: &HostFacts) {
        if !facts.hosts.is_empty() {
            self.keep_hosts(&facts.hosts.iter().map(|(host, _)| host.clone()).collect::<Vec<_>>());
        }
    }

    /// All others take no part any more.
    pub(super) fn keep_hosts(&mut self, hosts: &[String]) {
        if let Some(rolling) = &mut self.rolling {
            rolling.keep(hosts);
        }
        self.leave_turns(|host| !hosts.iter().any(|known| known == host));
    }

    /// Hosts were left out. Where these were the only ones that had gone over, others do; where all that are left have, there is nobody left to
    /// compare with, and the step begins again as the last one is judged.
    pub(super) fn on_hosts(&mut self, hosts: &[String], out: &mut Vec<Action>) {
        self.keep_hosts(hosts);
        let Some(rolling) = &self.rolling else { return };
        let is_step = matches!(self.phase, Phase::Watching { .. } | Phase::Shifting { then: Then::Watch { .. }, .. });
        if is_step && !rolling.present.is_empty() && self.begins_anew() {
            self.enter_stage(self.stage, out);
        }
    }

    /// Whether the hosts that are left can't go on with the step as it was begun.
    pub(super) fn begins_anew(&self) -> bool {
        let is_compared = || self.judge.as_ref().is_some_and(|judge| judge.stage_percent() < 100);
        self.rolling
            .as_ref()
            .is_some_and(|rolling| rolling.changed.is_empty() || (rolling.is_everywhere() && is_compared()))
    }

    /// The share of a step, with the hosts of it; `None` where all go the same way.
    pub(super) fn reach_hosts(&mut self, stage: usize) -> Option<u8> {
        let Strategy::Rolling(spec) = &self.spec.strategy else { return None };
        let rolling = self.rolling.as_mut()?;
        if stage != self.stage || rolling.changed.is_empty() {
            rolling.go_on(spec.batch);
        }
        rolling.watch_anew();
        self.stage = stage;
        Some(rolling.percent())
    }

    /// The same weights once more, for a new owner: of hosts that are left.
    pub(super) fn shift_again(&mut self, percent: u8, then: Then, out: &mut Vec<Action>) {
        match &self.rolling {
            Some(rolling) if matches!(then, Then::Watch { .. }) => {
                if self.begins_anew() {
                    self.enter_stage(self.stage, out);
                } else {
                    let percent = rolling.percent();
                    self.shift(percent, then, out);
                }
            }
            _ => self.shift(percent, then, out),
        }
    }

    /// The hosts of a step have gone over. Once a person has promoted it, nothing is waited for.
    pub(super) fn on_carried(&mut self, out: &mut Vec<Action>) {
        if let Some(rolling) = &mut self.rolling {
            rolling.carried = rolling.changed.clone();
            if self.promote {
                self.leave_stage(out);
            }
        }
    }

    /// Whether a person's word means the next hosts, and not all at once.
    pub(super) fn promotes_hosts(&mut self, command: RolloutCommand, out: &mut Vec<Action>) -> bool {
        if command != RolloutCommand::Promote || self.rolling.is_none() {
            return false;
        }
        self.promote = true;
        if matches!(self.phase, Phase::Watching { .. }) {
            self.leave_stage(out);
        }
        true
    }
}
