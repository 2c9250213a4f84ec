//! One host of several that change in turn, and what is so of all of them.

use std::collections::BTreeMap;

use segue_schemas::{status::RolloutStatus, time::Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        action::{Action, Serves},
        input::{HostFacts, Input},
        machine::{Candidate, Phase, RolloutMachine},
        trouble::Trouble,
    },
    stored::{spec_at, without_spec},
};

/// How far the hosts have come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::rollout) struct Turns {
    /// In the order in which they go over.
    pub(super) parts: Vec<Part>,
    /// Whether they go over in turn. Until it is known that somewhere both do not fit, it is only kept what serves at each.
    pub(super) is_begun: bool,
    pub(super) is_back: bool,
    /// Whether all have gone over, and what served is let go: nobody goes back from there.
    pub(super) is_settling: bool,
    /// Those that ended otherwise than the others, with why.
    #[serde(default)]
    pub(super) left: BTreeMap<String, String>,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) host: String,
    #[serde(serialize_with = "without_spec")]
    pub(super) machine: RolloutMachine,
    /// Whether what it answers was watched, where that is asked for.
    pub(super) is_watched: bool,
    /// Whether it takes no part any more.
    pub(super) is_out: bool,
}

impl Part {
    pub(super) fn new(whole: &RolloutMachine, host: &str, facts: &HostFacts) -> Self {
        let mut machine = RolloutMachine::new(whole.id, spec_at(host, &whole.spec));
        (machine.is_part, machine.phase) = (true, Phase::Waiting);
        // those that were started before it was known that both do not fit are called so
        let named = |known: &Candidate| Candidate { instance: known.instance.clone(), ready: false };
        machine.new = whole.new.iter().map(named).collect();
        machine.learn(facts);
        Self { host: host.to_owned(), machine, is_watched: false, is_out: false }
    }

    pub(super) fn waits(&self) -> bool {
        self.machine.phase == Phase::Waiting
    }

    /// All its traffic goes to the new release.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.machine.phase, Phase::Staying | Phase::Settling { .. }) || self.ended() == Some(Ends::New)
    }

    /// Whether it goes back, or has gone, or never came.
    pub(super) fn is_lost(&self) -> bool {
        let goes_back = matches!(
            self.machine.phase,
            Phase::GoingBack { .. }
                | Phase::Reviving { .. }
                | Phase::GivingUp { .. }
                | Phase::CleaningUp { .. }
                | Phase::MakingRoom { for_former: true, .. }
        );
        goes_back || self.ended().is_some_and(|ends| ends != Ends::New)
    }

    /// All its traffic went to the new release, as was confirmed, and nothing has been asked for since but the same.
    pub(super) fn serves_new(&self) -> bool {
        self.machine.weight == 100 && matches!(self.machine.phase, Phase::Staying | Phase::Shifting { .. })
    }

    /// Whether there is an instance at it, as far as is known: nobody is amid starting or stopping the last one.
    pub(super) fn has_instances(&self) -> bool {
        match self.machine.phase {
            Phase::Ended { .. } => matches!(self.ended(), Some(Ends::New | Ends::Former)),
            Phase::CleaningUp { end, .. } => !self.machine.has_gap || end == RolloutStatus::RolledBack,
            Phase::Starting | Phase::Inspecting { .. } | Phase::MakingRoom { .. } | Phase::Reviving { .. } => {
                !self.machine.has_gap
            }
            _ => true,
        }
    }

    pub(super) fn ended(&self) -> Option<Ends> {
        match self.machine.phase {
            Phase::Ended { serves: Serves::New, .. } => Some(Ends::New),
            Phase::Ended { serves: Serves::Unknown, .. } => Some(Ends::Unknown),
            Phase::Ended { status: RolloutStatus::Failed, .. } if self.machine.has_gap => Some(Ends::Nobody),
            Phase::Ended { .. } => Some(Ends::Former),
            _ => None,
        }
    }

    /// What its machine takes in, and wants done at its host.
    pub(super) fn handle(&mut self, input: Input, now: Timestamp, out: &mut Vec<Action>) {
        let actions = self.machine.handle(input, now);
        self.have_done(actions, out);
    }

    pub(super) fn does(&mut self, what: impl FnOnce(&mut RolloutMachine, &mut Vec<Action>), out: &mut Vec<Action>) {
        let mut actions = Vec::new();
        what(&mut self.machine, &mut actions);
        self.have_done(actions, out);
    }

    fn have_done(&self, actions: Vec<Action>, out: &mut Vec<Action>) {
        let at_host = |action| match action {
            // all do, and each hears of it what concerns it
            Action::LookAtGpus => Action::LookAtGpus,
            action => Action::At { host: self.host.clone(), what: Box::new(action) },
        };
        out.extend(actions.into_iter().filter(|action| !matches!(action, Action::Finish { .. })).map(at_host));
    }
}

/// What a host ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    New,
    Former,
    Nobody,
    Unknown,
}

impl Turns {
    pub(super) fn present(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| !part.is_out)
    }

    pub(super) fn present_mut(&mut self) -> impl Iterator<Item = &mut Part> {
        self.parts.iter_mut().filter(|part| !part.is_out)
    }

    pub(super) fn over(&self) -> Vec<String> {
        self.present().filter(|part| part.is_over()).map(|part| part.host.clone()).collect()
    }

    /// The part of the hosts that have the new release.
    pub(super) fn percent(&self) -> u8 {
        let (over, all) = (self.over().len(), self.present().count());
        u8::try_from(over * 100 / all.max(1)).unwrap_or(100)
    }

    /// Those take no part any more for which there is a reason.
    pub(super) fn leave(&mut self, why: impl Fn(&Part) -> Option<String>) {
        for part in self.parts.iter_mut().filter(|part| !part.is_out) {
            if let Some(why) = why(part) {
                part.is_out = true;
                self.left.insert(part.host.clone(), why);
            }
        }
    }

    /// Hosts that were left out here, with why.
    pub(in crate::rollout) fn left(&self) -> impl Iterator<Item = Action> {
        self.left.iter().map(|(host, why)| Action::Quarantine {
            host: host.clone(),
            reason: why.clone(),
            targets: Vec::new(),
            stop: Vec::new(),
        })
    }

    /// Why the last host that serves is not to be stopped: the others were lost, and nowhere was the new release ready.
    pub(super) fn unproven(&self) -> Option<String> {
        if self.parts.iter().any(|part| part.machine.new_is_ready()) {
            return None;
        }
        let lost = self.parts.iter().find(|part| part.is_out)?;
        let mut present = self.present();
        let is_last = present.next().is_some_and(Part::waits) && present.next().is_none();
        is_last.then(|| {
            format!(
                "host `{}` was lost before the new release was ready there, and the last host that serves is not stopped for one that is ready \
                 nowhere: roll it out again",
                lost.host
            )
        })
    }

    /// Why the others are to go back: what became of the first host that did not come over.
    pub(super) fn lost(&self) -> Option<String> {
        let part = self.present().find(|part| part.is_lost())?;
        let why = part.machine.reason.as_deref().unwrap_or("it did not come over");
        Some(format!("host `{}`: {why}", part.host))
    }

    /// What of the way back fails at which.
    pub(in crate::rollout) fn troubles(&self) -> impl Iterator<Item = String> {
        let told = |part: &Part| {
            let trouble = part.machine.trouble.as_ref().filter(|_| part.ended().is_none())?;
            Some(format!("host `{}`: {}", part.host, Trouble::in_words(trouble)))
        };
        self.present().filter_map(told)
    }
}
