//! Where old and new do not fit side by side: what serves is stopped first, and nobody answers until what takes its place is ready. Only where
//! the service's file chose that (`when-full: recreate`); and back the same way. This is how it goes at one host; several do so one after the other,
//! see `turns/`.

use std::collections::BTreeSet;

use segue_schemas::{
    deploy::{RolloutCommand, Strategy},
    id::InstanceId,
    status::RolloutStatus,
    time::Timestamp,
};

use super::{
    action::Action,
    machine::{Phase, RolloutMachine},
    way_back::pause,
};

/// How often the former release is started anew after a gap, before somebody has to help.
pub(super) const MAX_REVIVALS: u32 = 10;

/// What to write where a service was not told what to do.
const REMEDY: &str = "To have what serves stopped first, so that nobody answers until the new release is ready, write `when-full: recreate` \
                      under `gpus` of the service; to have both at once, ask for less `memory` or use a host with more GPUs";

/// The same for what is compared with what serves.
const REMEDY_OF_CANARY: &str = "What is compared with what serves runs beside it: ask for less `memory`, use a host with more GPUs, or write `when-full: \
                                recreate` under `gpus` of the service and use `segue/deploy` without a `strategy`, or with `rolling`";

/// Why what serves is not stopped although that was chosen.
const NOT_ON_RECORD: &str = "What serves is not on record and could not be brought back, so it is not stopped: stop it by hand, or use another host";

/// Why what serves is not stopped on several hosts: it is not known of each what served there.
const BEGUN_BEFORE: &str = "What serves is not stopped: this rollout was begun by an earlier version of Segue, which does not change several hosts one \
                            after the other. Roll the release out again";

impl RolloutMachine {
    /// An instance can't be started before another release's has stopped.
    pub(super) fn on_no_room(&mut self, instance: &InstanceId, reason: &str, now: Timestamp, out: &mut Vec<Action>) {
        let is_new = self.new_instances().any(|new| new == instance);
        if self.phase != Phase::Starting || !is_new {
            return self.on_not_ready(instance, reason, now, out);
        }
        let may_recreate = self.may_recreate() || self.is_of_an_idle_host();
        let is_swap = matches!(self.spec.strategy, Strategy::HotSwap | Strategy::Rolling(_));
        // what serves can be brought back only where it is known what it is
        let is_known = !self.former.is_empty() && self.former_release.is_some();
        if may_recreate && is_swap && is_known && self.turns.is_some() {
            return self.begin_turns(instance, reason, now, out);
        }
        // of several hosts nobody would be left to answer
        let is_alone = self.spec.hosts.len() <= 1 || self.is_part;
        if may_recreate && is_swap && is_alone && (is_known || self.is_repair()) && !self.has_gap {
            self.has_gap = true;
            let release = self.spec.release.id;
            let whom = if self.is_part { "this host answers nobody" } else { "nobody answers" };
            let what = if self.is_of_an_idle_host() {
                format!(
                    "what was left at this host is stopped before release {release} is started: it answers nobody as it is"
                )
            } else {
                format!(
                    "what serves is stopped before release {release} is started, as `when-full: recreate` says: {whom} until that is ready"
                )
            };
            let message = format!("{what}. Instance {instance}: {reason}");
            return self.make_room(false, message, out);
        }
        let remedy = match (may_recreate, is_swap) {
            (false, true) => REMEDY,
            (false, false) => REMEDY_OF_CANARY,
            (true, _) if self.former_release.is_none() => NOT_ON_RECORD,
            (true, _) if !is_alone => BEGUN_BEFORE,
            (true, _) => "",
        };
        let dot = if remedy.is_empty() { "" } else { ". " };
        self.on_not_ready(instance, &format!("{reason}{dot}{remedy}"), now, out);
    }

    /// Takes the traffic from everybody, then stops what serves, or what was to.
    fn make_room(&mut self, for_former: bool, message: String, out: &mut Vec<Action>) {
        let pending = if for_former { self.everybody() } else { self.in_the_way() };
        let is_bare = match self.phase {
            Phase::MakingRoom { is_interrupted, .. } => is_interrupted,
            Phase::Starting => for_former,
            _ => false,
        };
        self.phase =
            Phase::MakingRoom { for_former, pending, tries: 1, retry_at: None, is_interrupted: false, is_bare };
        out.push(Action::Interrupt { message });
    }

    /// What holds the new release's place: what serves; and at a host that is brought to what the others serve, whatever was left there.
    fn in_the_way(&self) -> BTreeSet<InstanceId> {
        self.former_instances().into_iter().chain(self.replaced.iter().cloned()).collect()
    }

    /// Whether it only brings a host to what is on record. What that host serves is another release, which may be known or not.
    pub(super) fn is_repair(&self) -> bool {
        self.spec.is_repair() && self.spec.hosts.len() == 1 && !self.is_part
    }

    /// Whether it brings a host to what is on record at which nobody is answered: what was left there is in nobody's way but its own, whatever
    /// the service's file says.
    pub(super) fn is_of_an_idle_host(&self) -> bool {
        self.is_repair() && self.former.is_empty()
    }

    /// All that may hold a place: the new instances, and every one that the former release has had. What served before the gap is stopped
    /// only once the traffic was taken from it, which may have failed.
    fn everybody(&self) -> BTreeSet<InstanceId> {
        let new = self.new_instances().cloned();
        new.chain(self.former_instances()).chain(self.replaced.iter().cloned()).collect()
    }

    /// Stops the new release, which did not come to serve, and brings the former one back.
    pub(super) fn bring_former_back(&mut self, out: &mut Vec<Action>) {
        if self.former.is_empty() {
            return self.leave_nobody("nothing served before that could be started again", out);
        }
        if self.former_release.is_none() {
            return self.leave_nobody("what served before is not on record and can't be started again", out);
        }
        let whom = if self.is_part { "this host answers nobody" } else { "nobody answers" };
        let message =
            format!("the new release is stopped, and what served before is started again: {whom} until that is ready");
        self.make_room(true, message, out);
    }

    /// The same again, for a new owner.
    pub(super) fn go_on_making_room(&mut self, out: &mut Vec<Action>) {
        if let Phase::MakingRoom { retry_at, is_interrupted, .. } = &mut self.phase {
            (*retry_at, *is_interrupted) = (None, false);
            out.push(Action::Interrupt {
                message: "nobody is to have traffic while the releases change places".into(),
            });
        }
    }

    pub(super) fn on_interrupted(&mut self, out: &mut Vec<Action>) {
        let Phase::MakingRoom { pending, is_interrupted, .. } = &mut self.phase else { return };
        *is_interrupted = true;
        let pending = pending.clone();
        self.weight = 0;
        if self.revivals == 0 {
            self.without_trouble();
        }
        self.drain(&pending, out);
    }

    pub(super) fn on_interrupt_failed(&mut self, reason: &str, now: Timestamp, out: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::MakingRoom { for_former: true, tries, retry_at, .. } => {
                *retry_at = Some(now + pause(*tries));
                *tries += 1;
                let is_last = *tries > MAX_REVIVALS;
                self.fails("the traffic could not be taken from what is to be stopped", reason);
                if is_last {
                    self.stop_trying("it was tried often enough", out);
                }
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
        let Phase::MakingRoom { for_former, pending, is_interrupted: true, .. } = &mut self.phase else { return };
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

    /// Whether the former release was started anew in vain so often that a person has to help.
    pub(super) fn has_tried_enough(&self) -> bool {
        self.has_gap && self.revivals >= MAX_REVIVALS
    }

    /// Whether a word of a person's is taken while the releases change places.
    pub(super) fn takes_in_gap(&self, command: RolloutCommand) -> bool {
        let is_before = matches!(self.phase, Phase::MakingRoom { for_former: false, .. });
        command == RolloutCommand::Abort && (is_before || self.has_not_come_back())
    }

    /// Ends with nobody who serves, and nothing that holds a place: another release can be rolled out then.
    pub(super) fn leave_nobody(&mut self, why: &str, out: &mut Vec<Action>) {
        let before = self.without_trouble().map(|before| format!("{before}; ")).unwrap_or_default();
        let (service, environment, here) = (&self.spec.service.name, &self.spec.environment, self.here());
        self.reason = Some(format!(
            "{before}{why}. Nobody serves `{service}` in `{environment}`{here}: roll out a release that becomes ready, or start an earlier one with \
             `segue rollback {environment} {service}`"
        ));
        out.push(Action::Interrupt { message: format!("{why}: nobody serves until another release is rolled out") });
        let pending = self.everybody();
        self.drain(&pending, out);
        self.phase = Phase::CleaningUp { pending, end: RolloutStatus::Failed };
    }

    /// Instances that drain now, on their way to their end.
    pub(super) fn draining(&self) -> Option<&BTreeSet<InstanceId>> {
        match &self.phase {
            Phase::CleaningUp { pending, .. } | Phase::MakingRoom { pending, is_interrupted: true, .. } => {
                Some(pending)
            }
            _ => None,
        }
    }
}
