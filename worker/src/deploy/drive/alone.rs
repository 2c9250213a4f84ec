//! What is done at one host of several alone, where hosts change in turn.

use segue_pipelines::rollout::{Action, Input};
use segue_schemas::deploy::JournalKind;
use serde_json::Value;

use super::{
    super::{group::Hosts, hosts::HostTrouble},
    Driver,
    leave::{Leave, left_by},
};

const fn is_of_a_try(kind: JournalKind) -> bool {
    matches!(kind, JournalKind::StartIntent | JournalKind::Started | JournalKind::Ready | JournalKind::ShiftIntent)
}

impl Driver {
    /// Those that an action is for; `None`: that host takes no part any more.
    pub(super) fn hosts_at(&self, at: Option<&str>) -> Option<Hosts> {
        match at {
            Some(host) => self.hosts.alone(host),
            None => Some(self.hosts.clone()),
        }
    }

    /// Gives the machine what came of it.
    pub(super) fn feed_at(&mut self, at: Option<String>, input: Input) {
        match at {
            Some(host) => self.feed(Input::At { host, what: Box::new(input) }),
            None => self.feed(input),
        }
    }

    pub(super) fn note_at(&mut self, at: Option<&String>, kind: JournalKind, detail: Value) {
        // what is tried for as long as it takes was announced often enough; how often is in the state, which is stored before each try
        let is_told = self.machine.has_told_enough() && is_of_a_try(kind);
        // the same way back, which the router has refused
        let is_repeated =
            self.machine.is_refused_by_router() && kind == JournalKind::ShiftIntent && detail["weight"] == 0;
        if is_told || is_repeated {
            return;
        }
        match at {
            Some(host) => self.journal.note_of(kind, Some(host.clone()), detail),
            None => self.journal.note(kind, detail),
        }
    }

    pub(super) fn begin_alone(&mut self, host: String, action: Action) -> Result<(), Leave> {
        // the journal names the host whose traffic it is
        let action = match action {
            Action::Shift { number, percent: percent @ 1.., targets, hosts: None, fallback, dead_man } => {
                let hosts = Some(vec![host.clone()]);
                Action::Shift { number, percent, targets, hosts, fallback, dead_man }
            }
            other => other,
        };
        self.begin_action(Some(host), action)
    }

    /// The traffic's way back at a host takes the place of all that waits to be done there but records.
    pub(super) fn take_back_alone(&mut self, actions: &[Action]) {
        for action in actions {
            let Action::At { host, what } = action else { continue };
            if matches!(**what, Action::Shift { percent: 0, .. }) {
                self.queue.retain(|waiting| match waiting {
                    Action::At { host: at, what } => at != host || matches!(**what, Action::Record { .. }),
                    _ => true,
                });
            }
        }
    }

    /// What was asked of all hosts before it was known that they change in turn is not begun any more.
    pub(super) fn keep_to_turns(&mut self) {
        if self.machine.changes_in_turn() {
            self.queue.retain(|waiting| !matches!(waiting, Action::Start { .. } | Action::AwaitReady { .. }));
        }
    }

    /// A host could not be spoken to. Of several it takes no part any more; where it is the only one, the rollout is left.
    pub(super) fn left_at(&mut self, at: Option<String>, trouble: HostTrouble) -> Result<(), Leave> {
        match trouble {
            HostTrouble::Away(why) if self.leaves_out(at.as_ref(), &format!("it does not answer: {why}")) => Ok(()),
            trouble => Err(left_by(trouble)),
        }
    }

    /// Whether a host is left out, as others are there; or was before.
    pub(super) fn leaves_out(&self, at: Option<&String>, why: &str) -> bool {
        let (Some(host), present) = (at, self.hosts.names()) else { return false };
        if !present.contains(host) {
            return true;
        }
        if present.len() > 1 {
            self.hosts.leave_out(host.clone(), why.to_owned());
        }
        present.len() > 1
    }
}
