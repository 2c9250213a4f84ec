//! Where old and new do not fit side by side on several hosts: one host after the other changes places, while the others serve. Each has a
//! machine of its own, which does there what `recreate.rs` says, in the host's own names; here it is decided whose turn it is, and that all go back
//! where one did not come over.
//!
//! A host where both fit takes no gap. What has come over stays as it is, with nothing retired, until all have: so every one can go back, by a change
//! of weights or by stopping and starting anew. Nothing restores the former release by itself meanwhile: there is no dead man's switch.

mod gpus;
mod part;
mod stored;

use std::collections::BTreeMap;

use segue_schemas::{
    deploy::{JournalKind, RolloutCommand, Strategy},
    gpu::WhenFull,
    id::InstanceId,
    status::RolloutStatus,
    time::Timestamp,
};
use serde_json::json;

pub(super) use part::Turns;
use part::{Ends, Part};
pub(super) use stored::with_specs;

use super::{
    action::{Action, Serves},
    input::{HostFacts, Input},
    machine::{Phase, RolloutMachine, Then, record},
};

impl RolloutMachine {
    /// Whether the service's file chose that what serves is stopped where both do not fit.
    pub(super) fn may_recreate(&self) -> bool {
        self.spec.service.gpus.as_ref().is_some_and(|gpus| gpus.when_full == WhenFull::Recreate)
    }

    /// Keeps what serves at each host, by its own names: in a gap no host's route tells it any more.
    pub(super) fn prepare_turns(&mut self, facts: &HostFacts) {
        if !self.may_recreate() || !self.spec.takes_turns() {
            return;
        }
        let parts: Vec<Part> =
            self.apart(facts).into_iter().map(|(host, facts)| Part::new(self, host, facts)).collect();
        self.turns = Some(Turns { parts, is_begun: false, is_back: false, is_settling: false, left: BTreeMap::new() });
    }

    /// What each host reports.
    fn apart<'f>(&'f self, facts: &'f HostFacts) -> Vec<(&'f str, &'f HostFacts)> {
        match (&facts.apart[..], self.spec.hosts.first()) {
            ([], Some(only)) => vec![(only, facts)],
            (apart, _) => apart.iter().map(|(host, facts)| (host.as_str(), facts)).collect(),
        }
    }

    /// Both do not fit at a host: from here on each changes by itself.
    pub(super) fn begin_turns(&mut self, instance: &InstanceId, reason: &str, now: Timestamp, out: &mut Vec<Action>) {
        let Some(turns) = &mut self.turns else { return };
        turns.is_begun = true;
        self.phase = Phase::InTurn;
        let release = self.spec.release.id;
        let message = format!(
            "one host after the other changes to release {release}, as `when-full: recreate` says: where both do not fit, what serves there is \
             stopped first, and that host answers nobody until the new one is ready; the others serve. Instance {instance}: {reason}"
        );
        record(out, JournalKind::GapIntent, json!({ "message": message }));
        self.go_on_in_turns(now, out);
    }

    pub(super) fn is_in_turns(&self) -> bool {
        !self.is_ended() && self.turns.as_ref().is_some_and(|turns| turns.is_begun)
    }

    /// Whether it is on its way to the new release, or there.
    pub(super) fn goes_over_in_turns(&self) -> bool {
        self.is_in_turns() && self.turns.as_ref().is_some_and(|turns| !turns.is_back && !turns.is_settling)
    }

    pub(super) fn handle_in_turns(&mut self, input: Input, now: Timestamp, out: &mut Vec<Action>) {
        match input {
            Input::At { host, what } => {
                if !self.asks_of(&host, &what, out)
                    && let Some(part) = self.part_at(&host)
                {
                    part.handle(*what, now, out);
                }
            }
            Input::Claimed { facts } => self.claim_turns(&facts, now, out),
            Input::Hosts { hosts } => {
                self.keep_hosts(&hosts);
                if matches!(self.phase, Phase::Watching { .. }) && self.begins_anew() {
                    self.watch_turns_anew();
                }
            }
            Input::Observations { observations, lost, next } => {
                self.observed_until = self.observed_until.max(next);
                self.on_observations(&observations, lost, now, out);
            }
            Input::Gpus { reports, hosts, is_asked } => self.on_gpus(&reports, &hosts, is_asked, out),
            Input::Command { command, by, word } => self.on_command(command, by.as_deref(), word, out),
            Input::Tick => {
                for part in self.turns.iter_mut().flat_map(Turns::present_mut) {
                    if part.machine.next_wake().is_some_and(|wake| wake <= now) {
                        part.handle(Input::Tick, now, out);
                    }
                }
                self.on_tick(now, out);
            }
            // what was asked of all hosts before it was known that both do not fit
            _ => return,
        }
        self.go_on_in_turns(now, out);
    }

    fn part_at(&mut self, host: &str) -> Option<&mut Part> {
        self.turns.as_mut()?.present_mut().find(|part| part.host == host)
    }

    /// The former release at a host was stopped, or is to be.
    pub(super) fn has_gap_at(&self, host: &str) -> bool {
        let at = |turns: &Turns| turns.parts.iter().any(|part| part.host == host && part.machine.has_gap);
        self.has_gap || self.turns.as_ref().is_some_and(at)
    }

    /// Whether nothing that was asked of all hosts at once is to be done any more.
    #[must_use]
    pub fn changes_in_turn(&self) -> bool {
        self.is_in_turns()
    }

    /// Whether all traffic of a host that changes in turn goes to the new release.
    #[must_use]
    pub fn has_gone_over(&self, host: &str) -> bool {
        self.turns.iter().flat_map(Turns::present).any(|part| part.host == host && part.is_over())
    }

    /// Nobody can say what the hosts serve: that is put on record when they are back.
    fn end_without_hosts(&mut self, out: &mut Vec<Action>) {
        let why = |part: &Part| {
            let why = self.gpus_left_out(&part.host).or(part.machine.reason.as_deref());
            format!("host `{}`: {}", part.host, why.unwrap_or("it was lost"))
        };
        let all: Vec<String> = self.turns.iter().flat_map(|turns| &turns.parts).map(why).collect();
        let before = self.without_trouble().map(|before| format!("{before}; ")).unwrap_or_default();
        let reason = format!("{before}no host takes part any more ({})", all.join("; "));
        self.finish(RolloutStatus::Failed, Serves::Unknown, Some(reason), out);
    }

    /// Those take no part any more, whatever becomes of them.
    pub(super) fn leave_turns(&mut self, is_left: impl Fn(&str) -> bool) {
        for part in self.turns.iter_mut().flat_map(|turns| &mut turns.parts) {
            part.is_out |= is_left(&part.host);
        }
    }

    fn claim_turns(&mut self, facts: &HostFacts, now: Timestamp, out: &mut Vec<Action>) {
        record(out, JournalKind::Recovered, json!({ "phase": self.phase_name() }));
        let apart: Vec<(String, HostFacts)> =
            self.apart(facts).into_iter().map(|(host, facts)| (host.to_owned(), facts.clone())).collect();
        self.leave_emptied(&apart);
        self.quarantine_again(out);
        self.count_hosts(facts);
        for (host, facts) in apart {
            if let Some(part) = self.part_at(&host) {
                part.handle(Input::Claimed { facts }, now, out);
            }
        }
        if self.is_inspecting() {
            self.inspect_again(out);
        }
        let pause = self.canary().stage_duration.0;
        if let Phase::Watching { ends, .. } = &mut self.phase {
            // what the hosts saw while nobody asked them can't be told apart any more
            *ends = (*ends).max(now + pause);
        }
    }

    /// A host that has nothing any more of what was there takes no part, where another one has: what has become of it says nothing of the release.
    fn leave_emptied(&mut self, apart: &[(String, HostFacts)]) {
        let Some(turns) = &mut self.turns else { return };
        let is_bare = |host: &str| apart.iter().any(|(known, facts)| known == host && facts.is_bare());
        let is_emptied = |part: &Part| part.has_instances() && is_bare(&part.host);
        if turns.present().any(|part| !is_emptied(part) && apart.iter().any(|(host, _)| *host == part.host)) {
            turns.leave(|part| is_emptied(part).then(|| "it carries nothing of the service any more".to_owned()));
        }
    }

    /// Whose turn it is. Safe to ask at any time.
    fn go_on_in_turns(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        if !self.is_in_turns() {
            return;
        }
        if self.turns.as_ref().is_some_and(|turns| turns.present().next().is_none()) {
            return self.end_without_hosts(out);
        }
        let goes_over = self.turns.as_ref().filter(|turns| !turns.is_back && !turns.is_settling);
        if let Some(why) = goes_over.and_then(|turns| turns.lost().or_else(|| turns.unproven())) {
            self.turn_back(why, out);
        }
        let Some(turns) = &self.turns else { return };
        if turns.is_back {
            self.go_back_in_turns(now, out);
        } else if self.phase == Phase::InTurn {
            self.go_over(now, out);
        }
        if let Some(turns) = self.turns.as_ref().filter(|_| !self.is_ended()) {
            self.weight = turns.percent();
            self.tell_troubles();
        }
    }

    fn go_over(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let Some(turns) = &self.turns else { return };
        if turns.present().any(|part| part.ended().is_none() && !part.waits() && !part.is_over()) {
            return;
        }
        let is_watched = self.rolling.is_some() && !self.promote && !turns.is_settling;
        if is_watched && turns.present().any(|part| part.is_over() && !part.is_watched) {
            return self.watch_those_over(now);
        }
        let batch = match &self.spec.strategy {
            Strategy::Rolling(rolling) => rolling.batch.of(turns.present().count()),
            _ => 1,
        };
        let Some(turns) = &mut self.turns else { return };
        let (waiting, others) = (turns.present().filter(|part| part.waits()).count(), turns.over().len());
        if waiting > 0 {
            // one goes on answering, where there are others
            let batch = if others > 0 { batch } else { batch.min(waiting - 1).max(1) };
            for part in turns.present_mut().filter(|part| part.waits()).take(batch) {
                part.does(RolloutMachine::take_turn, out);
            }
            return;
        }
        turns.is_settling = true;
        self.judge = None;
        for part in turns.present_mut().filter(|part| part.machine.phase == Phase::Staying) {
            part.does(RolloutMachine::settle, out);
        }
        self.end_turns(Ends::New, out);
    }

    /// The hosts that have gone over are watched for a pause, and compared with those that have not.
    fn watch_those_over(&mut self, now: Timestamp) {
        let Some(over) = self.turns.as_ref().map(Turns::over) else { return };
        self.stage = self.stage.max(over.len().saturating_sub(1));
        if let Some(rolling) = &mut self.rolling {
            let percent = rolling.went_over(over);
            if let Some(judge) = &mut self.judge {
                judge.begin_stage(percent);
            }
        }
        self.phase = Phase::Watching { ends: now + self.canary().stage_duration.0, held_until: None };
    }

    /// What was watched is good, or a person does not want to wait for that.
    pub(super) fn end_pause_of_turns(&mut self) {
        (self.phase, self.status, self.reason) = (Phase::InTurn, RolloutStatus::Running, None);
        for part in self.turns.iter_mut().flat_map(Turns::present_mut) {
            // one that was just taken over asserts its weights again
            part.is_watched |= part.is_over() || part.serves_new();
        }
    }

    /// What was seen until now says nothing.
    pub(super) fn watch_turns_anew(&mut self) {
        (self.phase, self.status, self.reason) = (Phase::InTurn, RolloutStatus::Running, None);
        for part in self.turns.iter_mut().flat_map(Turns::present_mut) {
            part.is_watched = false;
        }
    }

    /// All go back that have come over, or are about to.
    pub(super) fn turn_back(&mut self, why: String, out: &mut Vec<Action>) {
        if !self.goes_over_in_turns() {
            return;
        }
        self.announce_way_back(why, out);
        self.phase = Phase::InTurn;
        if let Some(turns) = &mut self.turns {
            turns.is_back = true;
        }
    }

    /// Where the former release is ready still it takes the traffic at once. Where it was stopped, one host after the other changes back, those
    /// that serve nobody first.
    fn go_back_in_turns(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let why = self.reason.clone().unwrap_or_default();
        let Some(turns) = &mut self.turns else { return };
        let is_to_go = |part: &Part| part.ended().is_none() && !part.is_lost();
        for part in turns.present_mut().filter(|part| is_to_go(part)) {
            if !part.machine.has_gap || !part.serves_new() {
                part.does(|machine, out| machine.roll_back(why.clone(), out), out);
            }
        }
        let is_on_its_way = |part: &Part| part.machine.has_gap && part.is_lost() && part.ended().is_none();
        while !turns.present().any(is_on_its_way) {
            let is_in_vain = |part: &Part| part.ended() == Some(Ends::Nobody);
            if turns.present().any(is_to_go) && turns.present().any(is_in_vain) {
                // shown not to come back at one: what serves is stopped only where another serves the former release
                let comes_back = |part: &Part| part.ended() == Some(Ends::Former);
                let may_come = |part: &Part| part.is_lost() && part.ended().is_none();
                if turns.present().any(may_come) {
                    return;
                }
                if !turns.present().any(comes_back) {
                    return self.stay_where_it_serves(now, out);
                }
            }
            let Some(part) = turns.present_mut().find(|part| is_to_go(part)) else { break };
            part.does(|machine, out| machine.roll_back(why.clone(), out), out);
        }
        self.end_turns(Ends::Former, out);
    }

    /// The former release did not come back at one host, and serves at none: the others stay at the new one rather than that nobody answers.
    fn stay_where_it_serves(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let Some(turns) = &self.turns else { return };
        if turns.present().any(|part| part.ended().is_none() && part.machine.phase != Phase::Staying) {
            return;
        }
        let is_nobody = |part: &&Part| part.ended() == Some(Ends::Nobody);
        let where_not: Vec<String> = turns.present().filter(is_nobody).map(|part| format!("`{}`", part.host)).collect();
        let (before, release) = (self.without_trouble().unwrap_or_default(), self.spec.release.id);
        self.reason = Some(format!(
            "{before}; but the former release could not be brought back at {}, so release {release} stays where it serves",
            where_not.join(", ")
        ));
        self.status = RolloutStatus::RollingBack;
        if let Some(turns) = &mut self.turns {
            (turns.is_back, turns.is_settling) = (false, true);
        }
        self.go_over(now, out);
    }

    /// Ends once every host has. One that could not be brought to what the others serve is left out, and brought there by a rollout of its own.
    fn end_turns(&mut self, wanted: Ends, out: &mut Vec<Action>) {
        let before = self.without_trouble();
        let Some(turns) = &mut self.turns else { return };
        if turns.present().next().is_none() || turns.present().any(|part| part.ended().is_none()) {
            return;
        }
        let others = if wanted == Ends::New { Ends::Former } else { Ends::New };
        let comes_to = |ends: Ends| turns.present().any(|part| part.ended() == Some(ends));
        let end = [wanted, others, Ends::Unknown].into_iter().find(|ends| comes_to(*ends)).unwrap_or(Ends::Nobody);
        let at_each = |is_meant: &dyn Fn(&Part) -> bool| {
            let why = |part: &Part| part.machine.reason.clone().map(|why| format!("host `{}`: {why}", part.host));
            turns.present().filter(|part| is_meant(part)).filter_map(why).collect::<Vec<_>>().join("; ")
        };
        let reason = match end {
            Ends::Unknown => Some(at_each(&|_| true)),
            // all have come to what was not wanted, and each says why
            end if end == others => Some(at_each(&|part| part.ended() == Some(end))),
            Ends::Nobody => turns.present().find_map(|part| part.machine.reason.clone()).or(before),
            _ => before.or_else(|| turns.present().find_map(|part| part.machine.reason.clone())),
        };
        if end != Ends::Unknown {
            turns.leave(|part| {
                let why = part.machine.reason.as_deref().unwrap_or_default();
                let is_other = part.ended() != Some(end);
                is_other.then(|| format!("it could not be brought to what the others serve: {why}"))
            });
            out.extend(turns.left());
        }
        let was_tried = turns.present().any(|part| part.machine.status == RolloutStatus::RolledBack);
        match end {
            Ends::New => {
                self.weight = 100;
                self.finish(RolloutStatus::Succeeded, Serves::New, reason, out);
            }
            Ends::Former => {
                self.weight = 0;
                let status = if was_tried { RolloutStatus::RolledBack } else { RolloutStatus::Failed };
                self.finish(status, Serves::Former, reason, out);
            }
            Ends::Nobody => {
                (self.weight, self.has_gap) = (0, true);
                self.finish(RolloutStatus::Failed, Serves::Former, reason, out);
            }
            Ends::Unknown => {
                self.weight = turns.percent();
                self.finish(RolloutStatus::Failed, Serves::Unknown, reason, out);
            }
        }
    }

    // --- what a host's own machine does ---

    fn take_turn(&mut self, out: &mut Vec<Action>) {
        (self.phase, self.status) = (Phase::Starting, RolloutStatus::Running);
        self.start_new(out);
    }

    /// What it has come to stays: what served before is let go.
    fn settle(&mut self, out: &mut Vec<Action>) {
        let left = if self.has_gap { Default::default() } else { self.former_instances() };
        self.retire(&left, out);
    }

    /// What follows once the traffic goes to the new release: a host of several waits for the others.
    pub(super) fn then_settle(&self) -> Then {
        if self.is_part { Then::Stay } else { Then::Settle }
    }

    /// Whether a person's word is taken while hosts change in turn.
    pub(super) fn takes_in_turns(&self, command: RolloutCommand) -> bool {
        let Some(turns) = &self.turns else { return false };
        match command {
            RolloutCommand::Abort if turns.is_back => turns.present().any(|part| part.machine.has_not_come_back()),
            RolloutCommand::Abort => !turns.is_settling,
            RolloutCommand::Promote => self.rolling.is_some() && self.goes_over_in_turns(),
            RolloutCommand::Skip => false,
        }
    }

    /// Whether an abort means that what does not come back is not tried any more, at the hosts where that is so.
    pub(super) fn leaves_in_turns(&mut self, who: &str, out: &mut Vec<Action>) -> bool {
        let Some(turns) = self.turns.as_mut().filter(|turns| turns.is_begun && turns.is_back) else { return false };
        for part in turns.present_mut().filter(|part| part.machine.has_not_come_back()) {
            part.does(|machine, out| machine.stop_trying(&format!("aborted{who}"), out), out);
        }
        true
    }

    /// When the first host wants to be woken.
    pub(super) fn next_wake_in_turns(&self) -> Option<Timestamp> {
        if !self.is_in_turns() {
            return None;
        }
        self.turns.iter().flat_map(Turns::present).filter_map(|part| part.machine.next_wake()).min()
    }

    /// Which of the instances that were seen are those of the former release, at whichever host.
    pub(super) fn is_former(&self, instance: &InstanceId) -> bool {
        let is_it = |machine: &Self| machine.former.iter().any(|target| target.instance == *instance);
        is_it(self) || self.turns.iter().flat_map(|turns| &turns.parts).any(|part| is_it(&part.machine))
    }
}
