//! GPUs of hosts that change in turn. What does not become ready at one, or is lost there, waits until the hosts have looked at theirs, as does what does
//! badly. Nothing is changed meanwhile: in a gap there is nobody to whom the traffic could be given for the time of a look. A host whose
//! GPU is broken is left out, on the way back as well, as nothing comes back on it.

use std::collections::BTreeSet;

use segue_schemas::id::InstanceId;

use super::{
    super::{
        action::Action,
        input::Input,
        machine::{Phase, RolloutMachine},
    },
    part::{Ends, Part},
};

impl RolloutMachine {
    /// Whether hosts that change in turn are asked after their GPUs before all go back.
    fn asks_in_turns(&self) -> bool {
        self.knows_gpus() && self.goes_over_in_turns()
    }

    /// Whether something at a host means that the hosts are asked first.
    pub(super) fn asks_of(&mut self, host: &str, what: &Input, out: &mut Vec<Action>) -> bool {
        let asks = self.asks_in_turns();
        let Some(part) = self.part_at(host) else { return false };
        part.machine.asks_gpus = asks;
        // until it has gone over its own machine asks
        let Input::NotReady { instance, reason } = what else { return false };
        if !part.is_over() || !part.machine.new_instances().any(|new| new == instance) {
            return false;
        }
        self.suspects_gpus(&format!("host `{host}`: instance {instance} of the new release is lost: {reason}"), out)
    }

    /// The hosts have looked. Those whose GPUs are broken take no part any more, so whoever waits for it and is left is not one of them.
    pub(in crate::rollout) fn answer_in_turns(&mut self, unasked: &[String], out: &mut Vec<Action>) {
        for part in self.turns.iter_mut().flat_map(|turns| turns.present_mut()) {
            let unasked: Vec<String> = unasked.iter().filter(|host| **host == part.host).cloned().collect();
            part.does(|machine, out| machine.answer_of_gpus(unasked, out), out);
        }
    }

    /// What the former release has been called at hosts that change in turn.
    pub(in crate::rollout) fn former_in_turns(&self) -> BTreeSet<InstanceId> {
        self.turns.iter().flat_map(|turns| &turns.parts).flat_map(|part| part.machine.former_instances()).collect()
    }

    /// Whether hosts that change in turn go back.
    pub(in crate::rollout) fn goes_back_in_turns(&self) -> bool {
        self.is_in_turns() && self.turns.as_ref().is_some_and(|turns| turns.is_back)
    }

    /// Whether a host has something to come back to that it has not come back to.
    pub(in crate::rollout) fn comes_back_in_turns(&self, host: &str) -> bool {
        let is_to_come = |part: &Part| part.machine.has_gap && part.ended().is_none_or(|ends| ends == Ends::Nobody);
        self.turns.iter().flat_map(|turns| turns.present()).any(|part| part.host == host && is_to_come(part))
    }

    pub(super) fn is_inspecting(&self) -> bool {
        matches!(self.phase, Phase::Inspecting { .. })
    }
}
