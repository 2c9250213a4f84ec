//! A canary's stages: what is observed, what the judge makes of it, and what a person says.

use segue_schemas::{
    deploy::{JournalKind, Observation, RolloutCommand},
    id::InstanceId,
    status::RolloutStatus,
    time::Timestamp,
};
use serde_json::json;

use super::{
    action::Action,
    machine::{Phase, RolloutMachine, Then, record},
    rolling::Rolling,
};
use crate::judge::{Arm, Decision, Verdict};

impl RolloutMachine {
    /// Rising weights that end with 100, whatever was asked for.
    fn stages(&self) -> Vec<u8> {
        let mut stages: Vec<u8> = self.canary().stages.into_iter().filter(|s| (1..100).contains(s)).collect();
        stages.sort_unstable();
        stages.dedup();
        stages.push(100);
        stages
    }

    pub(super) fn enter_stage(&mut self, stage: usize, out: &mut Vec<Action>) {
        if self.is_in_turns() {
            return self.watch_turns_anew();
        }
        let percent = self.reach_hosts(stage).unwrap_or_else(|| {
            let stages = self.stages();
            self.stage = stage.min(stages.len() - 1);
            stages[self.stage]
        });
        self.status = RolloutStatus::Running;
        self.reason = None;
        if let Some(judge) = &mut self.judge {
            judge.begin_stage(percent);
        }
        self.shift(percent, Then::Watch { ends: None, held_until: None }, out);
    }

    pub(super) fn leave_stage(&mut self, out: &mut Vec<Action>) {
        if self.is_in_turns() {
            return self.end_pause_of_turns();
        }
        let is_last = match &self.rolling {
            Some(rolling) => rolling.is_everywhere(),
            None => self.stage + 1 >= self.stages().len(),
        };
        if !is_last {
            self.enter_stage(self.stage + 1, out);
        } else {
            self.status = RolloutStatus::Running;
            self.reason = None;
            self.shift(100, Then::Settle, out);
        }
    }

    pub(super) fn on_observations(
        &mut self,
        observations: &[Observation],
        lost: u64,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        if !self.is_watching() {
            return;
        }
        let mut observations: Vec<&Observation> = observations.iter().collect();
        if self.rolling.is_some() {
            // hosts tell one after the other what they saw, and the shares are counted in the order in which it happened
            observations.sort_by_key(|seen| seen.at);
        }
        let arms: Vec<Option<Arm>> = observations.iter().map(|seen| self.arm(&seen.instance)).collect();
        let Some(judge) = &mut self.judge else { return };
        judge.lose(lost);
        for (observation, arm) in observations.into_iter().zip(arms) {
            let Some(arm) = arm else { continue };
            match &mut self.rolling {
                Some(rolling) => judge.observe(arm, &rolling.weighed(arm, observation)),
                None => judge.observe(arm, observation),
            }
            if judge.is_alarmed() {
                break;
            }
        }
        self.review(now, out);
    }

    /// Whose answer it was; nobody's that is compared, where it is of neither release.
    fn arm(&self, instance: &InstanceId) -> Option<Arm> {
        if self.new_instances().any(|new| new == instance) {
            return Some(Arm::Canary);
        }
        self.is_former(instance).then_some(Arm::Control)
    }

    pub(super) fn on_tick(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Watching { .. } => self.review(now, out),
            Phase::StandingBy { until } if now >= until => self.end_standing_by(out),
            Phase::GoingBack { tries, retry_at: Some(at) } if now >= at => self.go_back(tries, out),
            Phase::MakingRoom { retry_at: Some(at), .. } if now >= at => self.go_on_making_room(out),
            Phase::Reviving { retry_at: Some(at), .. } if now >= at => self.revive(1, out),
            // nothing is left of what served before a gap
            Phase::GivingUp { tries, retry_at: Some(at) } if now >= at && self.has_gap => {
                self.give_all_to_new(tries, out)
            }
            Phase::GivingUp { tries, retry_at: Some(at) } if now >= at => self.try_former_again(tries, out),
            _ => {}
        }
    }

    /// Asks the judge. A bad release is rolled back at any time, a good one goes on when its stage is over.
    fn review(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let Some(judge) = &self.judge else { return };
        match self.phase {
            Phase::InTurn if !self.rolling.as_ref().is_some_and(Rolling::is_carried) => {}
            Phase::Shifting { .. } | Phase::StandingBy { .. } | Phase::InTurn => {
                let verdict = judge.verdict(false);
                self.act_on(verdict, now, out);
            }
            Phase::Watching { ends, .. } => {
                let verdict = judge.verdict(now >= ends);
                self.act_on(verdict, now, out);
                self.end_hold(now, out);
            }
            _ => {}
        }
    }

    fn act_on(&mut self, verdict: Verdict, now: Timestamp, out: &mut Vec<Action>) {
        let (decision, reason) = (verdict.decision, verdict.reason.clone());
        let is_same = |last: &Verdict| last.decision == decision && last.stage_percent == verdict.stage_percent;
        if decision != Decision::Continue && !self.verdict.as_ref().is_some_and(is_same) {
            record(out, JournalKind::Verdict, json!(verdict));
        }
        self.verdict = Some(verdict);
        match decision {
            Decision::Continue => {}
            Decision::Advance => self.leave_stage(out),
            Decision::RollBack => {
                if !self.suspects_gpus(&reason, out) {
                    self.roll_back(reason, out);
                }
            }
            Decision::Hold => {
                let until = now + self.canary().hold_limit.0;
                if let Phase::Watching { held_until: held_until @ None, .. } = &mut self.phase {
                    *held_until = Some(until);
                    record(out, JournalKind::Held, json!({ "reason": reason, "until": until }));
                }
                self.status = RolloutStatus::Held;
                self.reason = Some(reason);
            }
        }
    }

    fn end_hold(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        if let Phase::Watching { held_until: Some(until), .. } = self.phase
            && now >= until
        {
            let held = self.reason.clone().unwrap_or_default();
            self.roll_back(format!("held for {}, the limit: {held}", self.canary().hold_limit), out);
        }
    }

    pub(super) fn on_command(
        &mut self,
        command: RolloutCommand,
        by: Option<&str>,
        word: Option<i64>,
        out: &mut Vec<Action>,
    ) {
        if self.is_ended() {
            return;
        }
        if word.zip(self.heard).is_some_and(|(word, heard)| word <= heard) {
            // whoever tells it does not know yet that it was heard
            let detail = json!({ "command": command, "by": by, "word": word, "taken": false, "is_again": true });
            return record(out, JournalKind::Command, detail);
        }
        self.heard = word.or(self.heard);
        let is_taken = match &self.phase {
            Phase::Watching { .. }
            | Phase::StandingBy { .. }
            | Phase::Shifting { then: Then::Watch { .. } | Then::StandBy { .. }, .. } => true,
            Phase::New | Phase::Starting => command != RolloutCommand::Skip,
            Phase::Shifting { then: Then::Settle, .. } | Phase::Settling { .. } => command == RolloutCommand::Abort,
            Phase::Inspecting { .. } => command == RolloutCommand::Abort,
            Phase::InTurn => self.takes_in_turns(command),
            Phase::MakingRoom { .. } | Phase::Reviving { .. } | Phase::GoingBack { .. } | Phase::GivingUp { .. } => {
                self.takes_in_gap(command)
            }
            _ => false,
        };
        let mut detail = json!({ "command": command, "by": by, "taken": is_taken, "phase": self.phase_name() });
        if let Some(word) = word {
            detail["word"] = json!(word);
        }
        record(out, JournalKind::Command, detail);
        if !is_taken {
            return;
        }
        let who = by.map(|by| format!(" ({by})")).unwrap_or_default();
        match command {
            RolloutCommand::Abort if self.leaves_in_turns(&who, out) => {}
            RolloutCommand::Abort if self.has_not_come_back() => self.stop_trying(&format!("aborted{who}"), out),
            RolloutCommand::Abort => self.roll_back(format!("aborted{who}"), out),
            RolloutCommand::Promote if matches!(self.phase, Phase::New | Phase::Starting) => self.promote = true,
            RolloutCommand::Promote | RolloutCommand::Skip if self.begins_to_serve(command, out) => {}
            RolloutCommand::Promote if self.promotes_hosts(command, out) => {}
            RolloutCommand::Skip => self.leave_stage(out),
            RolloutCommand::Promote => {
                self.status = RolloutStatus::Running;
                self.reason = Some(format!("promoted{who}"));
                self.stage = self.stages().len() - 1;
                self.shift(100, Then::Settle, out);
            }
        }
    }
}
