//! The way back, and the ways to end.

use std::{collections::BTreeSet, time::Duration};

use segue_schemas::{deploy::JournalKind, host_api::Target, id::InstanceId, status::RolloutStatus, time::Timestamp};
use serde_json::json;

use super::{
    action::{Action, Serves},
    gpus::Suspect,
    machine::{Phase, RolloutMachine, record},
};

/// How often the weights are tried to be set back before the former release is started anew.
const TRIES_BEFORE_REVIVAL: u32 = 2;
/// How often the former release is started anew.
const MAX_REVIVALS: u32 = 3;
/// The first pause between two tries; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause before a router is asked again that refuses the way back: a bad release may have traffic meanwhile.
const ROUTER_PAUSE: Duration = Duration::from_secs(4);
/// The longest pause.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl RolloutMachine {
    /// Takes the traffic back, from wherever the rollout stands.
    pub(super) fn roll_back(&mut self, why: String, out: &mut Vec<Action>) {
        if self.is_in_turns() {
            return self.turn_back(why, out);
        }
        match self.phase {
            // of another host that did not come over
            Phase::Waiting => {
                self.reason = Some(why);
                self.clean_up(RolloutStatus::Failed, out);
            }
            Phase::New => self.finish(RolloutStatus::RolledBack, Serves::Former, Some(why), out),
            Phase::Starting
            | Phase::Shifting { .. }
            | Phase::Staying
            | Phase::Settling { .. }
            | Phase::MakingRoom { for_former: false, .. }
                if self.has_gap =>
            {
                self.announce_way_back(why, out);
                self.bring_former_back(out);
            }
            Phase::Starting => {
                // no weight was ever asked for
                self.announce_way_back(why, out);
                self.clean_up(RolloutStatus::RolledBack, out);
            }
            Phase::Shifting { .. }
            | Phase::StandingBy { .. }
            | Phase::Watching { .. }
            | Phase::Staying
            | Phase::Settling { .. } => {
                self.announce_way_back(why, out);
                self.go_back(1, out);
            }
            Phase::Inspecting { suspect: Suspect::Starting, .. } => {
                self.phase = Phase::Starting;
                self.roll_back(why, out);
            }
            Phase::Inspecting { is_back, .. } => {
                self.announce_way_back(why, out);
                if is_back { self.is_back(out) } else { self.go_back(1, out) }
            }
            Phase::InTurn
            | Phase::GoingBack { .. }
            | Phase::Reviving { .. }
            | Phase::MakingRoom { .. }
            | Phase::GivingUp { .. }
            | Phase::CleaningUp { .. }
            | Phase::Ended { .. } => {}
        }
    }

    /// The traffic is where it was before the rollout.
    pub(super) fn is_back(&mut self, out: &mut Vec<Action>) {
        self.without_trouble();
        let release = self.former_release.as_ref().map(|r| r.id);
        let detail = json!({ "reason": self.reason, "serves": self.former, "release": release });
        record(out, JournalKind::RolledBack, detail);
        self.clean_up(RolloutStatus::RolledBack, out);
    }

    pub(super) fn announce_way_back(&mut self, why: String, out: &mut Vec<Action>) {
        self.status = RolloutStatus::RollingBack;
        self.judge = None;
        let detail = json!({ "reason": why, "weight": self.weight, "stage": self.stage });
        record(out, JournalKind::RollBackIntent, detail);
        (self.reason, self.trouble) = (Some(why), None);
    }

    pub(super) fn go_back(&mut self, tries: u32, out: &mut Vec<Action>) {
        self.phase = Phase::GoingBack { tries, retry_at: None };
        let number = self.next_shift();
        out.push(Action::Shift {
            number,
            percent: 0,
            targets: self.former.clone(),
            hosts: None,
            fallback: self.former.clone(),
            dead_man: false,
        });
    }

    pub(super) fn on_shift_failed(
        &mut self,
        (percent, by_router): (u8, bool),
        reason: &str,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let has_other_way = self.can_revive() || self.new_is_ready();
        match &mut self.phase {
            Phase::Shifting { percent: asked, .. } if *asked == percent => {
                self.roll_back(format!("the weight could not be set to {percent} %: {reason}"), out);
            }
            Phase::Inspecting { why, .. } if percent == 0 => {
                let why = why.clone();
                self.roll_back(why, out);
            }
            Phase::GoingBack { tries, .. } if percent == 0 => {
                let tries = *tries;
                let times =
                    self.fails_to_go_back("what served before could not be given the traffic", reason, by_router);
                if self.is_tried_once_more() {
                    return self.end_unknown("it was tried often enough, or a person has had enough", out);
                }
                if by_router {
                    self.tell_of_refusal(reason, out);
                    // other instances would be refused as well: it is asked for again until somebody has mended it
                    return self.go_back_later(tries, times, now, out);
                }
                // back to nothing needs nobody: it is tried until the host can do it
                let is_in_vain = tries >= TRIES_BEFORE_REVIVAL || self.has_failed_enough();
                if is_in_vain && !self.former.is_empty() && has_other_way {
                    self.revive(tries, out);
                } else if self.has_failed_enough() {
                    self.end_unknown("it was tried often enough", out);
                } else {
                    let retry_at = Some(now + self.rest(tries));
                    self.phase = Phase::GoingBack { tries: tries.saturating_add(1), retry_at };
                }
            }
            Phase::GivingUp { tries, .. } if percent == 100 => {
                let tries = *tries;
                self.fails("the new release could not be given all the traffic", reason);
                self.go_on_giving_up(tries, now, out);
            }
            _ => {}
        }
    }

    fn go_back_later(&mut self, tries: u32, times: u32, now: Timestamp, out: &mut Vec<Action>) {
        // other hosts wait for one of several; a single one has no other way, and a person can end it in a gap
        if self.has_kept_others_waiting_enough() {
            return self.end_unknown("it was tried often enough", out);
        }
        let rest = if self.is_part { pause(times) } else { pause(times).min(ROUTER_PAUSE) };
        self.phase = Phase::GoingBack { tries, retry_at: Some(now + rest) };
    }

    /// Starts the former release anew, under names that were not used yet; an instance that has stopped stays so.
    pub(super) fn revive(&mut self, tries: u32, out: &mut Vec<Action>) {
        if self.has_tried_enough() {
            return self.leave_nobody(
                &format!("the former release was started {} times and can't be given the traffic", self.revivals),
                out,
            );
        }
        if self.has_gap && !matches!(self.phase, Phase::MakingRoom { .. }) {
            return self.bring_former_back(out);
        }
        let Some(release) = self.former_release.clone().filter(|_| self.can_revive()) else {
            return self.give_all_to_new(tries, out);
        };
        self.revivals += 1;
        if self.revivals > 1 && !self.has_gap {
            // those of the try before
            out.extend(self.former.iter().map(|t| self.retirement(&t.instance)));
        }
        let names = (0..self.former.len()).filter_map(|replica| {
            self.instance_name(&format!("{}-{replica}-{}-back{}", release.id, self.id, self.revivals))
        });
        let names: Vec<InstanceId> = names.collect();
        if self.has_gap {
            self.replaced.extend(self.former_instances());
        }
        self.former = names.into_iter().map(|instance| Target { instance, weight: 1 }).collect();
        self.former_ready = false;
        self.start_former(out);
    }

    /// Whether the former release may be started under new names; after a gap nobody else could take the traffic.
    fn can_revive(&self) -> bool {
        self.former_release.is_some() && (self.has_gap || self.revivals < MAX_REVIVALS)
    }

    /// Whether all of the new release's instances climbed the ladder.
    pub(super) fn new_is_ready(&self) -> bool {
        !self.new.is_empty() && self.new.iter().all(|candidate| candidate.ready)
    }

    pub(super) fn start_former(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Reviving { ready: BTreeSet::new(), retry_at: None };
        if let Some(release) = &self.former_release {
            let start = |t: &Target| Action::Start { instance: t.instance.clone(), release: release.clone() };
            out.extend(self.former.iter().map(start));
        }
    }

    pub(super) fn on_revival_failed(
        &mut self,
        instance: &InstanceId,
        reason: &str,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let revivals = self.revivals;
        let Phase::Reviving { retry_at: None, .. } = self.phase else { return };
        let what = format!("the former release did not become ready as {instance}");
        self.fails(&what, reason);
        let retry = now + self.rest(revivals);
        if let Phase::Reviving { retry_at, .. } = &mut self.phase {
            *retry_at = Some(retry);
        }
        if !self.has_told_enough() {
            let reason = format!("{what}: {reason}");
            record(out, JournalKind::NotReady, json!({ "instance": instance, "reason": reason }));
        }
        if self.has_tried_enough() {
            self.leave_nobody(&format!("{what}: {reason}, and that was try {revivals}, the last one"), out);
        } else if self.has_failed_enough() && !self.has_gap {
            self.end_unknown("it was tried often enough", out);
        }
    }

    /// Nothing of the former release can be brought back. Rather than to leave the traffic between a dead release and a bad one,
    /// all of it goes to the one that lives. Where that fails as well, the two are tried by turns, see [`Self::try_former_again`]; a new
    /// one that was never ready has no turn.
    pub(super) fn give_all_to_new(&mut self, tries: u32, out: &mut Vec<Action>) {
        if !self.new_is_ready() {
            return self.try_former_again(tries, out);
        }
        self.phase = Phase::GivingUp { tries, retry_at: None };
        let targets = self.new_instances().map(|instance| Target { instance: instance.clone(), weight: 1 }).collect();
        let number = self.next_shift();
        out.push(Action::Shift { number, percent: 100, targets, hosts: None, fallback: Vec::new(), dead_man: false });
    }

    /// The former release's turn: its instances get the traffic if they have been ready, and climb the ladder once more if
    /// they never were.
    pub(super) fn try_former_again(&mut self, tries: u32, out: &mut Vec<Action>) {
        if self.has_gap {
            // nothing of it is left that was not started anew
            return self.end_unknown("there is nobody else to give it to", out);
        }
        if self.former_ready { self.go_back(tries, out) } else { self.start_former(out) }
    }

    pub(super) fn finish_with_new(&mut self, out: &mut Vec<Action>) {
        let words = self.trouble.as_ref().map(|trouble| format!("; {}", trouble.in_words())).unwrap_or_default();
        let why = self.without_trouble().unwrap_or_default();
        let release = self.spec.release.id;
        let reason = format!(
            "{why}{words}; but the former release could not be brought back, so release {release} has all the traffic"
        );
        self.weight = 100;
        self.finish(RolloutStatus::Succeeded, Serves::New, Some(reason), out);
    }

    // --- ending ---

    pub(super) fn retire(&mut self, former: &BTreeSet<InstanceId>, out: &mut Vec<Action>) {
        self.phase = Phase::Settling { pending: former.clone() };
        out.extend(former.iter().map(|instance| self.retirement(instance)));
        self.finish_when_settled(out);
    }

    pub(super) fn retirement(&self, instance: &InstanceId) -> Action {
        let (after, drain) = (self.spec.service.keep_warm, self.spec.service.drain);
        Action::Retire { instance: instance.clone(), after, drain }
    }

    pub(super) fn on_retired(&mut self, instance: &InstanceId, out: &mut Vec<Action>) {
        if let Phase::Settling { pending } = &mut self.phase {
            pending.remove(instance);
            self.finish_when_settled(out);
        }
    }

    fn finish_when_settled(&mut self, out: &mut Vec<Action>) {
        if matches!(&self.phase, Phase::Settling { pending } if pending.is_empty()) {
            let reason = self.reason.clone();
            self.finish(RolloutStatus::Succeeded, Serves::New, reason, out);
        }
    }

    /// Drains and stops the new instances, none of which has weight.
    pub(super) fn clean_up(&mut self, end: RolloutStatus, out: &mut Vec<Action>) {
        let pending: BTreeSet<InstanceId> = self.new_instances().cloned().collect();
        self.judge = None;
        self.drain(&pending, out);
        self.phase = Phase::CleaningUp { pending, end };
        self.finish_when_clean(out);
    }

    pub(super) fn drain(&self, pending: &BTreeSet<InstanceId>, out: &mut Vec<Action>) {
        let limit = self.spec.service.drain;
        out.extend(pending.iter().map(|instance| Action::Drain { instance: instance.clone(), limit }));
    }

    pub(super) fn on_drained(&self, instance: InstanceId, in_flight: u64, out: &mut Vec<Action>) {
        if self.draining().is_some_and(|pending| pending.contains(&instance)) {
            if in_flight > 0 {
                let (cut, limit) = (in_flight, self.spec.service.drain);
                record(out, JournalKind::RetireIntent, json!({ "instance": instance, "cut": cut, "drain": limit }));
            }
            out.push(Action::Stop { instance });
        }
    }

    pub(super) fn on_stopped(&mut self, instance: &InstanceId, out: &mut Vec<Action>) {
        if let Phase::CleaningUp { pending, .. } = &mut self.phase {
            pending.remove(instance);
            return self.finish_when_clean(out);
        }
        self.on_room_made(instance, out);
    }

    /// What cannot be cleaned up does not keep the rollout from its end; it is written down.
    pub(super) fn on_clean_up_failed(&mut self, instance: &InstanceId, reason: &str, out: &mut Vec<Action>) {
        if let Phase::Settling { pending } | Phase::CleaningUp { pending, .. } = &mut self.phase
            && pending.remove(instance)
        {
            // where its turn had not come it may never have been there
            if !self.is_part || self.status != RolloutStatus::Queued {
                let detail = json!({ "instance": instance, "left_over": true, "reason": reason });
                record(out, JournalKind::Retired, detail);
            }
            self.finish_when_settled(out);
            return self.finish_when_clean(out);
        }
        // where it holds its place still, whoever is to take that says so
        self.on_room_made(instance, out);
    }

    fn finish_when_clean(&mut self, out: &mut Vec<Action>) {
        if let Phase::CleaningUp { pending, end } = &self.phase
            && pending.is_empty()
        {
            let (end, reason) = (*end, self.reason.clone());
            self.finish(end, Serves::Former, reason, out);
        }
    }
}

/// The pause after the given try, from 1.
pub(super) fn pause(tries: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(LONGEST_PAUSE)
}
