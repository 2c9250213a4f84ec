//! Where old and new do not fit side by side: what serves is stopped first, and nobody answers until what takes its place is ready. Only where
//! the service's file chose that (`when-full: recreate`); and back the same way.

use std::collections::BTreeSet;

use segue_schemas::{deploy::Strategy, gpu::WhenFull, id::InstanceId, time::Timestamp};

use super::{
    action::Action,
    machine::{Phase, RolloutMachine},
    way_back::pause,
};

/// What to write where a service was not told what to do.
const REMEDY: &str = "To have what serves stopped first, so that nobody answers until the new release is ready, write `when-full: recreate` \
                      under `gpus` of the service; to have both at once, ask for less `memory` or use a host with more GPUs";

/// The same for what is compared with what serves.
const REMEDY_OF_CANARY: &str = "A canary runs beside what serves: ask for less `memory`, use a host with more GPUs, or write `when-full: \
                                recreate` under `gpus` of the service and use `segue/deploy`";

/// Why what serves is not stopped although that was chosen.
const NOT_ON_RECORD: &str = "What serves is not on record and could not be brought back, so it is not stopped: stop it by hand, or use another host";

impl RolloutMachine {
    /// An instance can't be started before another release's has stopped.
    pub(super) fn on_no_room(&mut self, instance: &InstanceId, reason: &str, now: Timestamp, out: &mut Vec<Action>) {
        let is_new = self.new_instances().any(|new| new == instance);
        if self.phase != Phase::Starting || !is_new {
            return self.on_not_ready(instance, reason, now, out);
        }
        let may_recreate = self.spec.service.gpus.as_ref().is_some_and(|gpus| gpus.when_full == WhenFull::Recreate);
        let is_swap = matches!(self.spec.strategy, Strategy::HotSwap);
        // what serves can be brought back only where it is known what it is
        if may_recreate && is_swap && !self.has_gap && !self.former.is_empty() && self.former_release.is_some() {
            self.has_gap = true;
            let release = self.spec.release.id;
            let message = format!(
                "what serves is stopped before release {release} is started, as `when-full: recreate` says: nobody answers until that is \
                 ready. Instance {instance}: {reason}"
            );
            return self.make_room(false, message, out);
        }
        let remedy = match (may_recreate, is_swap) {
            (false, true) => REMEDY,
            (false, false) => REMEDY_OF_CANARY,
            (true, _) if self.former_release.is_none() => NOT_ON_RECORD,
            (true, _) => "",
        };
        let dot = if remedy.is_empty() { "" } else { ". " };
        self.on_not_ready(instance, &format!("{reason}{dot}{remedy}"), now, out);
    }

    /// Takes the traffic from everybody, then stops what serves, or what was to.
    fn make_room(&mut self, for_former: bool, message: String, out: &mut Vec<Action>) {
        let mut pending = if for_former { self.new_instances().cloned().collect() } else { self.former_instances() };
        if for_former && self.revivals > 0 {
            // those of the try before
            pending.extend(self.former_instances());
        }
        self.phase = Phase::MakingRoom { for_former, pending, tries: 1, retry_at: None };
        out.push(Action::Interrupt { message });
    }

    /// Stops the new release, which did not come to serve, and brings the former one back.
    pub(super) fn bring_former_back(&mut self, out: &mut Vec<Action>) {
        let message =
            "the new release is stopped, and what served before is started again: nobody answers until that is ready";
        self.make_room(true, message.into(), out);
    }

    /// The same again, for a new owner.
    pub(super) fn go_on_making_room(&mut self, out: &mut Vec<Action>) {
        if let Phase::MakingRoom { retry_at, .. } = &mut self.phase {
            *retry_at = None;
            out.push(Action::Interrupt {
                message: "nobody is to have traffic while the releases change places".into(),
            });
        }
    }

    pub(super) fn on_interrupted(&self, out: &mut Vec<Action>) {
        if let Phase::MakingRoom { pending, .. } = &self.phase {
            self.drain(pending, out);
        }
    }

    pub(super) fn on_interrupt_failed(&mut self, reason: &str, now: Timestamp, out: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::MakingRoom { for_former: true, tries, retry_at, .. } => {
                *retry_at = Some(now + pause(*tries));
                *tries += 1;
            }
            // an owner before this one may have got further: what served is given its traffic again, or started anew
            Phase::MakingRoom { for_former: false, .. } => {
                self.announce_way_back(format!("what serves could not be taken its traffic: {reason}"), out);
                self.go_back(1, out);
            }
            _ => {}
        }
    }

    /// One of those that make room has gone.
    pub(super) fn on_room_made(&mut self, instance: &InstanceId, out: &mut Vec<Action>) {
        let Phase::MakingRoom { for_former, pending, .. } = &mut self.phase else { return };
        let for_former = *for_former;
        if !pending.remove(instance) || !pending.is_empty() {
            return;
        }
        if for_former {
            self.revive(1, out);
        } else {
            self.phase = Phase::Starting;
            self.start_new(out);
        }
    }

    /// Instances that drain now, on their way to their end.
    pub(super) fn draining(&self) -> Option<&BTreeSet<InstanceId>> {
        match &self.phase {
            Phase::CleaningUp { pending, .. } | Phase::MakingRoom { pending, .. } => Some(pending),
            _ => None,
        }
    }
}
