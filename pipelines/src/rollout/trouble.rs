//! What of the way back fails, and how often: said in the rollout's reason, and the bound of what is tried again and again.
//!
//! Where a host may give its traffic to both releases, the way back has no end but success: somebody has to have the traffic, wholly. There it is
//! tried for as long as it takes, and the journal tells of the first tries only. Where a host gives all its traffic to one release or to none (in a gap,
//! and where hosts change in turn) there is a bound, and an end that says what is known.

use segue_schemas::{deploy::JournalKind, status::RolloutStatus, time::Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    action::{Action, Serves},
    machine::{Phase, RolloutMachine, record},
    way_back::{LONGEST_PAUSE, pause},
};

/// How often something of the way back may fail where that has a bound; and how many failures the journal tells of where it has none.
const MAX_FAILURES: u32 = 20;

/// Something fails, until it is done or given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Trouble {
    /// The reason without it.
    before: Option<String>,
    /// What failed last, and why.
    last: String,
    times: u32,
    /// How often of these a router refused: that says nothing of instances, which are tried as often as without it.
    #[serde(default, skip_serializing_if = "is_zero")]
    by_router: u32,
    /// Whether only one thing more is tried.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_last: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde asks it")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Trouble {
    /// How often something else than a router failed.
    const fn otherwise(&self) -> u32 {
        self.times.saturating_sub(self.by_router)
    }

    pub(super) fn in_words(&self) -> String {
        match self.times {
            0 | 1 => self.last.clone(),
            times => format!("the way back failed {times} times, the last time because {}", self.last),
        }
    }
}

impl RolloutMachine {
    /// Something of the way back failed, and how often by now. It is tried again.
    pub(super) fn fails(&mut self, what: &str, why: &str) -> u32 {
        let times = self.trouble.as_ref().map_or(0, |trouble| trouble.times).saturating_add(1);
        self.is_in_trouble(format!("{what}: {why}"), times);
        times
    }

    /// The same of the traffic, which a router may have refused to give back.
    pub(super) fn fails_to_go_back(&mut self, what: &str, why: &str, by_router: bool) -> u32 {
        let times = self.fails(what, why);
        if let Some(trouble) = &mut self.trouble {
            trouble.by_router = trouble.by_router.saturating_add(u32::from(by_router));
        }
        times
    }

    fn is_in_trouble(&mut self, last: String, times: u32) {
        let is_last = self.is_tried_once_more();
        let by_router = self.trouble.as_ref().map_or(0, |trouble| trouble.by_router);
        let before = self.without_trouble();
        let trouble = Trouble { before: before.clone(), last, times, by_router, is_last };
        let before = before.map(|before| format!("{before}; ")).unwrap_or_default();
        self.reason = Some(format!("{before}{}; it is tried again", trouble.in_words()));
        self.trouble = Some(trouble);
    }

    /// Whether nothing is tried any more but what is under way.
    pub(super) fn is_tried_once_more(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.is_last)
    }

    /// The trouble is over, or given up. The reason without it.
    pub(super) fn without_trouble(&mut self) -> Option<String> {
        if let Some(trouble) = self.trouble.take() {
            self.reason = trouble.before;
        }
        self.reason.clone()
    }

    /// Of hosts that change in turn: what fails at each.
    pub(super) fn tell_troubles(&mut self) {
        let told = self.turns.iter().flat_map(|turns| turns.troubles()).collect::<Vec<_>>().join("; ");
        if told.is_empty() || self.is_ended() {
            self.without_trouble();
        } else {
            self.is_in_trouble(told, 1);
        }
    }

    /// How long is waited before something is tried again that failed so often.
    pub(super) fn rest(&self, tries: u32) -> std::time::Duration {
        let is_often = self.trouble.as_ref().is_some_and(|trouble| trouble.otherwise() > MAX_FAILURES);
        if is_often { LONGEST_PAUSE } else { pause(tries) }
    }

    /// Whether a router refuses the way back. The journal tells of the first time, the tenth, and so on.
    #[must_use]
    pub fn is_refused_by_router(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.by_router > 0)
    }

    /// Tells that a router has refused, where it did so for the first time, the tenth, the hundredth.
    pub(super) fn tell_of_refusal(&self, why: &str, out: &mut Vec<Action>) {
        let times = self.trouble.as_ref().map_or(0, |trouble| trouble.by_router);
        if times > 0 && 10_u32.pow(times.ilog10()) == times {
            let again = if times > 1 { format!(", by now {times} times") } else { String::new() };
            record(out, JournalKind::NotReady, json!({ "reason": format!("the way back was refused{again}: {why}") }));
        }
    }

    /// Whether something failed so often that the journal needs no more of it: the reason counts.
    #[must_use]
    pub fn has_told_enough(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.times > MAX_FAILURES)
    }

    /// Whether all traffic goes to one release, or to nobody: so what can't be changed may be left as it is.
    pub(super) fn is_all_or_nothing(&self) -> bool {
        self.has_gap || self.is_part
    }

    /// Whether the way back failed so often that it is not tried any more.
    pub(super) fn has_failed_enough(&self) -> bool {
        let times = self.trouble.as_ref().map_or(0, Trouble::otherwise);
        self.is_all_or_nothing() && times >= MAX_FAILURES
    }

    /// The same of one of several hosts, for which the others wait, whatever it was that failed.
    pub(super) fn has_kept_others_waiting_enough(&self) -> bool {
        self.is_part && self.trouble.as_ref().is_some_and(|trouble| trouble.times >= MAX_FAILURES)
    }

    /// Whether something of the way back has failed once already, so that an abort means to leave that.
    pub(super) fn has_not_come_back(&self) -> bool {
        let may_be_left = matches!(
            self.phase,
            Phase::MakingRoom { for_former: true, .. }
                | Phase::Reviving { .. }
                | Phase::GoingBack { .. }
                | Phase::GivingUp { .. }
        );
        may_be_left && self.is_all_or_nothing() && self.trouble.is_some()
    }

    /// What can't be brought back is not tried any more: it was tried often enough, or a person has had enough.
    pub(super) fn stop_trying(&mut self, why: &str, out: &mut Vec<Action>) {
        let is_bare = match &self.phase {
            Phase::MakingRoom { is_bare, is_interrupted, .. } => *is_bare || *is_interrupted || self.revivals > 0,
            Phase::Reviving { .. } => self.has_gap,
            _ => false,
        };
        if is_bare {
            let words = self.trouble.as_ref().map(Trouble::in_words).unwrap_or_default();
            let why = format!("the former release did not come back, and is not tried any more: {why} ({words})");
            return self.leave_nobody(&why, out);
        }
        if self.has_gap && matches!(self.phase, Phase::GoingBack { .. }) {
            // the former release runs again, and nothing of the new one does
            return self.end_unknown(why, out);
        }
        // nothing of it was stopped yet
        if self.new_is_ready() && !matches!(self.phase, Phase::GivingUp { .. }) {
            return self.give_all_to_new(1, out);
        }
        // what served may run still, and only be without its traffic
        if matches!(self.phase, Phase::MakingRoom { .. })
            && !self.former.is_empty()
            && let Some(trouble) = &mut self.trouble
        {
            trouble.is_last = true;
            return self.go_back(1, out);
        }
        self.end_unknown(why, out);
    }

    /// The host does nothing of what it is asked for. What it serves is left, and put on record when it says so.
    pub(super) fn end_unknown(&mut self, why: &str, out: &mut Vec<Action>) {
        let words = self.trouble.as_ref().map(Trouble::in_words).unwrap_or_default();
        let before = self.without_trouble().map(|before| format!("{before}; ")).unwrap_or_default();
        let here = self.here();
        let known = if self.weight == 100 {
            format!("release {} had all of it", self.spec.release.id)
        } else {
            "what served before had it, or nobody".to_owned()
        };
        let remedy = if self.has_gap && self.weight != 100 {
            let (service, environment) = (&self.spec.service.name, &self.spec.environment);
            format!(": `segue rollback {environment} {service} --emergency` there gives it to what served before")
        } else {
            String::new()
        };
        let reason = format!(
            "{before}{words}; it is not tried any more: {why}. What has the traffic{here} is not known for certain, and is put on record when \
             that is seen; as was confirmed last, {known}{remedy}"
        );
        self.finish(RolloutStatus::Failed, Serves::Unknown, Some(reason), out);
    }

    /// Where, if that is a host of several.
    pub(super) fn here(&self) -> String {
        let host = self.spec.hosts.first().filter(|_| self.is_part || self.is_repair());
        host.map(|host| format!(" at host `{host}`")).unwrap_or_default()
    }

    pub(super) fn go_on_giving_up(&mut self, tries: u32, now: Timestamp, out: &mut Vec<Action>) {
        if self.has_failed_enough() {
            return self.end_unknown("it was tried often enough", out);
        }
        self.phase = Phase::GivingUp { tries: tries.saturating_add(1), retry_at: Some(now + self.rest(tries)) };
    }
}
