//! What becomes of a rollout whose service has GPUs when something is wrong with those. A fault of a host is no release's: the rollout goes on at the
//! other hosts, or ends with that reason where there is none. What a release does to its GPU counts against it. As a broken GPU makes
//! requests fail at once, and is seen a moment later, a release that does badly loses its traffic first; then the hosts look, and only then it
//! is known whether it goes back for good.

use std::collections::{BTreeMap, BTreeSet};

use segue_schemas::{
    deploy::JournalKind,
    gpu_health::{Blame, GpuReport},
    id::InstanceId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    action::Action,
    machine::{Phase, RolloutMachine, Then, record},
    turns::Turns,
};
use crate::{
    gpu::{Baseline, Finding, findings, in_common},
    judge::Judge,
};

/// Findings that are written down and kept with the verdict; a GPU that fails may report without end.
const MOST_FINDINGS: usize = 32;

/// What is known of the hosts' GPUs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Gpus {
    /// What of each host is no news.
    known: BTreeMap<String, Baseline>,
    /// Xids that struck the former release as well.
    #[serde(default)]
    alike: BTreeSet<u32>,
    /// What went wrong since the rollout began, with where.
    #[serde(default)]
    found: Vec<Found>,
    /// Hosts that are to be left out, with why; some may not be yet.
    #[serde(default)]
    left_out: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Found {
    host: String,
    #[serde(flatten)]
    finding: Finding,
}

/// What went wrong before the hosts were asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Suspect {
    /// The new release does not become ready.
    Starting,
    /// It had traffic, and did badly.
    Serving,
}

impl Gpus {
    pub(super) fn is_unknown(&self) -> bool {
        self.known.is_empty()
    }
}

impl RolloutMachine {
    /// Whether it is wanted how the hosts' GPUs are: of a service that has some, until the rollout settles or goes back; where hosts change in turn, until
    /// they have come back.
    #[must_use]
    pub fn watches_gpus(&self) -> bool {
        let is_watched = matches!(
            self.phase,
            Phase::New
                | Phase::Starting
                | Phase::Shifting { .. }
                | Phase::StandingBy { .. }
                | Phase::Watching { .. }
                | Phase::Inspecting { .. }
                | Phase::Settling { .. }
        ) || self.goes_over_in_turns()
            || self.goes_back_in_turns();
        is_watched && self.spec.service.gpus.is_some()
    }

    /// Whether nothing is known of any host's GPUs yet: that is wanted before anything is started.
    #[must_use]
    pub fn knows_no_gpus(&self) -> bool {
        self.gpus.is_unknown()
    }

    /// The judge's last word with its numbers, and what went wrong with GPUs.
    #[must_use]
    pub fn told_verdict(&self) -> Option<Value> {
        let verdict = self.verdict().and_then(|verdict| serde_json::to_value(verdict).ok());
        if self.gpus.found.is_empty() {
            return verdict;
        }
        let mut verdict = verdict.unwrap_or_else(|| json!({}));
        verdict["gpus"] = json!(self.gpus.found);
        Some(verdict)
    }

    pub(super) fn on_gpus(
        &mut self,
        reports: &[(String, GpuReport)],
        hosts: &[String],
        is_asked: bool,
        out: &mut Vec<Action>,
    ) {
        let found = self.news(reports, out);
        if self.watches_gpus() && self.phase != Phase::New {
            self.blame(found, hosts, out);
        }
        if is_asked {
            // with silence nothing was found, and nothing ruled out
            let is_told = |host: &String| reports.iter().any(|(of, report)| of == host && report.looked_at.is_some());
            let unasked: Vec<String> = hosts.iter().filter(|host| !is_told(host)).cloned().collect();
            self.answer_in_turns(&unasked, out);
            self.answer_of_gpus(unasked, out);
        }
    }

    /// The hosts have looked at their GPUs, but those that did not say.
    pub(super) fn answer_of_gpus(&mut self, silent: Vec<String>, out: &mut Vec<Action>) {
        if let Phase::Inspecting { is_answered, unasked, .. } = &mut self.phase {
            (*unasked, *is_answered) = (silent, true);
            self.conclude(out);
        }
    }

    /// Whether it is known how the GPUs were before the rollout.
    pub(super) fn knows_gpus(&self) -> bool {
        self.spec.service.gpus.is_some() && !self.gpus.is_unknown()
    }

    /// What the reports tell that was not so when the rollout began, each once.
    fn news(&mut self, reports: &[(String, GpuReport)], out: &mut Vec<Action>) -> Vec<Found> {
        let new: BTreeSet<InstanceId> = self.new_instances().cloned().collect();
        let former: BTreeSet<InstanceId> = self.former_instances().into_iter().chain(self.former_in_turns()).collect();
        for (_, report) in reports {
            self.gpus.alike.extend(in_common(report, &former));
        }
        let mut all = Vec::new();
        for (host, report) in reports {
            let Some(known) = self.gpus.known.get_mut(host) else {
                // of what nobody has looked at yet, nothing is known
                if report.looked_at.is_none() {
                    continue;
                }
                let baseline = Baseline::of(report);
                record(out, JournalKind::GpuBaseline, baseline_in_words(host, report, &baseline));
                self.gpus.known.insert(host.clone(), baseline);
                continue;
            };
            let found = findings(known, report, (&new, &former), &self.gpus.alike);
            known.go_on_to(report);
            all.extend(found.into_iter().map(|finding| Found { host: host.clone(), finding }));
        }
        for found in &all {
            if self.gpus.found.len() < MOST_FINDINGS {
                record(out, JournalKind::GpuFinding, found.in_words());
                self.gpus.found.push(found.clone());
            }
        }
        all
    }

    /// Goes on without hosts that are broken; where there is no other, or the release is to blame, back.
    fn blame(&mut self, found: Vec<Found>, hosts: &[String], out: &mut Vec<Action>) {
        let mut left: BTreeSet<&String> = hosts.iter().filter(|host| !self.gpus.left_out.contains_key(*host)).collect();
        let (mut is_one_gone, mut last) = (false, None);
        // what broke under the former release alone is no reason to give that one the traffic
        let new: BTreeSet<InstanceId> = self.new_instances().cloned().collect();
        let strikes_new = |at: &[InstanceId]| at.is_empty() || at.iter().any(|id| new.contains(id));
        let is_back = self.goes_back_in_turns();
        let strikes = |found: &Found| match is_back {
            // whichever of both broke it, nothing comes back on it
            true => self.comes_back_in_turns(&found.host),
            false => strikes_new(&found.finding.instances),
        };
        let of_host: Vec<&Found> =
            found.iter().filter(|found| found.finding.blame == Blame::Host && strikes(found)).collect();
        for Found { host, finding } in of_host {
            if !left.contains(host) {
                continue;
            }
            let what = finding.in_words();
            if left.len() == 1 {
                last = Some(format!(
                    "{what}. That is a fault of host `{host}` and does not count against release {}: repair the host, then roll the release \
                     out again",
                    self.spec.release.id
                ));
                break;
            }
            left.remove(host);
            is_one_gone = true;
            let reason = format!("its GPUs are broken: {what}");
            self.gpus.left_out.insert(host.clone(), reason.clone());
            out.push(self.quarantine(host, reason));
            self.leave_turns(|left| left == host);
        }
        if is_back {
            return;
        }
        if let Some(why) = last {
            return self.end_for_host(why, out);
        }
        if let Phase::Inspecting { is_hosts_fault, .. } = &mut self.phase {
            *is_hosts_fault |= is_one_gone;
            return;
        }
        if is_one_gone
            && matches!(self.phase, Phase::Watching { .. } | Phase::Shifting { then: Then::Watch { .. }, .. })
        {
            self.watch_anew(out);
        }
        let of_release = |found: &&Found| found.finding.blame == Blame::Release && left.contains(&found.host);
        if let Some(Found { host, finding }) = found.iter().find(of_release) {
            let why = format!("{} at host `{host}`, and not under the release before", finding.in_words());
            let numbers = json!({ "decision": "roll_back", "reason": why, "stage_percent": self.weight, "gpus": self.gpus.found });
            record(out, JournalKind::Verdict, numbers);
            if !self.suspects_gpus(&why, out) {
                self.roll_back(why, out);
            }
        }
    }

    fn quarantine(&self, host: &str, reason: String) -> Action {
        let targets = if self.has_gap_at(host) { Vec::new() } else { self.former.clone() };
        let stop = self.new.iter().map(|candidate| candidate.instance.clone()).collect();
        Action::Quarantine { host: host.to_owned(), reason, targets, stop }
    }

    /// The owner before may not have come to it. Who takes no part any more is not asked for anything.
    pub(super) fn quarantine_again(&self, out: &mut Vec<Action>) {
        out.extend(self.gpus.left_out.iter().map(|(host, reason)| self.quarantine(host, reason.clone())));
        out.extend(self.turns.iter().flat_map(Turns::left));
    }

    /// Why a host is left out for its GPUs.
    pub(super) fn gpus_left_out(&self, host: &str) -> Option<&str> {
        self.gpus.left_out.get(host).map(String::as_str)
    }

    /// Only that one host was left.
    fn end_for_host(&mut self, why: String, out: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Inspecting { why: before, is_hosts_fault, .. } => (*before, *is_hosts_fault) = (why, false),
            Phase::Starting => self.give_up_starting(why, out),
            _ => self.roll_back(why, out),
        }
    }

    /// Takes the traffic from a release that does badly, or waits with one that does not become ready, until the hosts have looked at their GPUs.
    /// Whether it does: not of a service without.
    pub(super) fn suspects_gpus(&mut self, why: &str, out: &mut Vec<Action>) -> bool {
        if !(self.knows_gpus() || self.is_part && self.asks_gpus) {
            return false;
        }
        let suspect = match self.phase {
            Phase::Starting => Suspect::Starting,
            Phase::Watching { .. } | Phase::InTurn if self.goes_over_in_turns() => Suspect::Serving,
            Phase::Watching { .. } | Phase::Shifting { then: Then::Watch { .. }, .. } if !self.former.is_empty() => {
                Suspect::Serving
            }
            _ => return false,
        };
        let why = why.to_owned();
        let unasked = Vec::new();
        self.phase =
            Phase::Inspecting { why, suspect, is_back: true, is_answered: false, is_hosts_fault: false, unasked };
        self.inspect_again(out);
        true
    }

    /// The same again, for a new owner.
    pub(super) fn inspect_again(&mut self, out: &mut Vec<Action>) {
        let is_in_turns = self.is_in_turns();
        let Phase::Inspecting { suspect, is_back, is_answered, .. } = &mut self.phase else { return };
        let is_serving = *suspect == Suspect::Serving && !is_in_turns;
        (*is_back, *is_answered) = (!is_serving, false);
        out.push(Action::LookAtGpus);
        if is_serving {
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
    }

    pub(super) fn on_back_for_now(&mut self, out: &mut Vec<Action>) {
        if let Phase::Inspecting { is_back, .. } = &mut self.phase {
            *is_back = true;
            self.conclude(out);
        }
    }

    /// Goes on, or back for good, once the hosts have answered and the new release has no traffic.
    fn conclude(&mut self, out: &mut Vec<Action>) {
        let Phase::Inspecting { why, suspect, is_back: true, is_answered: true, is_hosts_fault, unasked } = &self.phase
        else {
            return;
        };
        let (why, suspect, is_hosts_fault) = (with_unasked(why, unasked), *suspect, *is_hosts_fault);
        match suspect {
            Suspect::Serving if is_hosts_fault => self.watch_anew(out),
            Suspect::Serving => self.roll_back(why, out),
            Suspect::Starting if is_hosts_fault => {
                self.phase = Phase::Starting;
                self.reason = None;
                // one that is there already is only awaited by this
                let release = &self.spec.release;
                let waiting = self.new.iter().filter(|candidate| !candidate.ready);
                out.extend(
                    waiting.map(|candidate| Action::Start {
                        instance: candidate.instance.clone(),
                        release: release.clone(),
                    }),
                );
                if self.new.iter().all(|candidate| candidate.ready) {
                    self.take_first_traffic(out);
                }
            }
            Suspect::Starting => {
                self.phase = Phase::Starting;
                self.give_up_starting(why, out);
            }
        }
    }

    /// What was seen at a host that is broken says nothing of the release: the stage begins again, with nothing seen.
    fn watch_anew(&mut self, out: &mut Vec<Action>) {
        self.judge = self.judge.is_some().then(|| Judge::new(&self.canary(), &self.spec.service.rules));
        self.verdict = None;
        self.enter_stage(self.stage, out);
    }
}

impl Found {
    fn in_words(&self) -> Value {
        let Found { host, finding } = self;
        let whose = match (finding.blame, finding.why_not.as_deref()) {
            (Blame::Host, _) => "a fault of the host".to_owned(),
            (Blame::Release, _) => "it counts against the release".to_owned(),
            (Blame::Look, Some(why)) => format!("nobody is blamed: {why}"),
            (Blame::Look, None) => "nobody is blamed".to_owned(),
        };
        let mut detail = json!(self);
        detail["message"] = json!(format!("host `{host}`: {} ({whose})", finding.in_words()));
        detail
    }
}

/// Why it goes back, and whose GPUs that was decided without.
fn with_unasked(why: &str, unasked: &[String]) -> String {
    if unasked.is_empty() {
        return why.to_owned();
    }
    let hosts: Vec<String> = unasked.iter().map(|host| format!("`{host}`")).collect();
    let whose = if hosts.len() == 1 { "host" } else { "hosts" };
    format!("{why}; the GPUs of {whose} {} could not be asked after, so that they may be the reason", hosts.join(", "))
}

fn baseline_in_words(host: &str, report: &GpuReport, baseline: &Baseline) -> Value {
    let said: Vec<String> = report
        .faults
        .iter()
        .map(|fault| {
            format!("{}{}", fault.gpu.as_deref().map(|gpu| format!("{gpu}: ")).unwrap_or_default(), fault.what)
        })
        .chain(report.blind.iter().cloned())
        .collect();
    let said = if said.is_empty() { "nothing is wrong".to_owned() } else { said.join("; ") };
    let message = format!("the GPUs of host `{host}` before the rollout: {said}");
    json!({ "message": message, "host": host, "last_xid": baseline.last_xid, "faults": report.faults })
}
