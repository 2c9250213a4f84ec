//! Hosts at which old and new do not fit side by side: they change places in turn. The hosts live in memory, each with names of its own for what
//! served before.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use segue_pipelines::rollout::{Action, HostFacts, Input, RolloutMachine, Serves, fleet::Fleet};
use segue_schemas::{
    deploy::{Release, RolloutCommand, RolloutSpec, Strategy as How},
    gpu::{GpuNeed, ServiceGpus, WhenFull},
    host_api::{Instance, InstanceState, Restored, RouteState, Target},
    id::{Epoch, InstanceId, ReleaseId, RolloutId},
    status::RolloutStatus,
    strategy::Batch,
    time::Timestamp,
};

use super::{
    strategies::rolling,
    world::{gpu_report, instance, observed, release, short_action, short_input, spec},
};

pub const DONE: Option<(RolloutStatus, Serves)> = Some((RolloutStatus::Succeeded, Serves::New));
pub const BACK: Option<(RolloutStatus, Serves)> = Some((RolloutStatus::RolledBack, Serves::Former));

/// One host.
pub struct Place {
    pub instances: BTreeMap<InstanceId, (Release, InstanceState, bool)>,
    pub targets: Vec<Target>,
    fallback: Vec<Target>,
    restored: Option<Restored>,
    /// How many instances run there at most.
    room: usize,
    pub is_lost: bool,
}

pub struct Yard {
    pub machine: RolloutMachine,
    fleet: Fleet,
    pub now: Timestamp,
    pub queue: VecDeque<Action>,
    pub hosts: BTreeMap<String, Place>,
    pub quarantined: Vec<String>,
    sequence: u64,
    pub story: Vec<String>,
    pub finished: Option<(RolloutStatus, Serves)>,
    /// Whether at some time no host answered.
    pub had_outage: bool,
    /// What the drivers of GPUs reported: host, Xid, the instance that it struck. None: hosts that say nothing of theirs.
    pub xids: Option<Vec<(String, u32, InstanceId)>>,
}

impl Yard {
    /// A rollout of release 2 over release 1; of each host, whether two instances fit there.
    pub fn new(how: How, hosts: &[(&str, bool)]) -> Self {
        Self::with_replicas(how, hosts, 1)
    }

    pub fn with_replicas(how: How, hosts: &[(&str, bool)], replicas: u32) -> Self {
        let names: Vec<String> = hosts.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut spec = RolloutSpec { previous: Some(release(1)), hosts: names, ..spec(how) };
        spec.service.gpus = Some(ServiceGpus { need: GpuNeed::whole(1), when_full: WhenFull::Recreate });
        spec.service.replicas = replicas;
        let place = |(name, fits): &(&str, bool)| {
            let called = |replica| match replica {
                0 => format!("old-{name}").parse().unwrap(),
                more => format!("old-{name}-{more}").parse().unwrap(),
            };
            let old: Vec<InstanceId> = (0..replicas).map(called).collect();
            let targets: Vec<Target> =
                old.iter().map(|instance| Target { instance: instance.clone(), weight: 1 }).collect();
            let instances = old.iter().map(|old| (old.clone(), (release(1), InstanceState::Running, true))).collect();
            let room = if *fits { 2 * old.len() } else { old.len() };
            let place = Place { instances, fallback: targets.clone(), targets, restored: None, room, is_lost: false };
            ((*name).to_owned(), place)
        };
        Self {
            machine: RolloutMachine::new(RolloutId(7), spec),
            fleet: Fleet::default(),
            now: Timestamp(1_000_000),
            queue: VecDeque::new(),
            hosts: hosts.iter().map(place).collect(),
            quarantined: Vec::new(),
            sequence: 0,
            story: Vec::new(),
            finished: None,
            had_outage: false,
            xids: None,
        }
    }

    /// The same of hosts that say how their GPUs are.
    pub fn with_gpus(how: How, hosts: &[(&str, bool)]) -> Self {
        let mut yard = Self::new(how, hosts);
        yard.xids = Some(Vec::new());
        yard.tell_gpus(false);
        yard.claim();
        yard
    }

    /// The GPU of an instance at a host fails, and nobody knows of it yet.
    pub fn fail_gpu(&mut self, host: &str, code: u32, instance: &str) {
        self.xids.get_or_insert_default().push((host.to_owned(), code, instance.parse().unwrap()));
    }

    pub fn tell_gpus(&mut self, is_asked: bool) {
        let Some(xids) = self.xids.clone() else { return };
        let hosts = self.present();
        let reports = hosts.iter().map(|host| (host.clone(), gpu_report(host, self.now, &xids))).collect();
        self.give(Input::Gpus { reports, hosts, is_asked });
    }

    pub fn present(&self) -> Vec<String> {
        let is_there = |(name, place): &(&String, &Place)| !place.is_lost && !self.quarantined.contains(name);
        self.hosts.iter().filter(is_there).map(|(name, _)| name.clone()).collect()
    }

    /// A new owner: what the last one had not done yet is lost.
    pub fn claim(&mut self) {
        self.queue.clear();
        let is_first = self.machine.status() == RolloutStatus::Queued;
        let stored = serde_json::to_value(&self.machine).unwrap();
        self.machine = RolloutMachine::restore(stored).unwrap();
        let facts: Vec<(String, HostFacts)> =
            self.present().into_iter().map(|name| (name.clone(), self.hosts[&name].facts())).collect();
        let new: Vec<InstanceId> = self.machine.new_instances().cloned().collect();
        self.fleet = Fleet::new(&facts, (!is_first).then(|| self.machine.former_targets()), &new);
        let facts = match (&facts[..], self.machine.spec().hosts.len()) {
            ([(_, only)], 1) => only.clone(),
            (facts, _) => self.fleet.seen_as_one(facts),
        };
        self.give(Input::Claimed { facts });
    }

    pub fn give(&mut self, input: Input) {
        self.story.push(format!("<- {}", short_input(&input)));
        let actions = self.machine.handle(input, self.now);
        for action in &actions {
            match action {
                Action::Shift { percent: 0, .. } => {
                    self.queue.retain(|a| matches!(a, Action::Record { .. } | Action::Quarantine { .. }));
                }
                Action::At { host, what } if matches!(**what, Action::Shift { percent: 0, .. }) => {
                    let is_record = |action: &Action| matches!(action, Action::Record { .. });
                    self.queue
                        .retain(|a| !matches!(a, Action::At { host: at, what } if at == host && !is_record(what)));
                }
                _ => {}
            }
        }
        if self.machine.changes_in_turn() {
            self.queue.retain(|waiting| !matches!(waiting, Action::Start { .. } | Action::AwaitReady { .. }));
        }
        for action in actions {
            self.story.push(format!("   -> {}", short_action(&action)));
            self.queue.push_back(action);
        }
    }

    pub fn perform(&mut self, well: bool) -> bool {
        let Some(action) = self.queue.pop_front() else { return false };
        assert!(self.finished.is_none(), "after the end: {action:?}");
        match action {
            Action::At { host, what } => {
                if self.present().contains(&host) {
                    let place = self.hosts.get_mut(&host).unwrap();
                    if let Some(input) = place.perform(*what, well) {
                        self.give(Input::At { host, what: Box::new(input) });
                    }
                }
            }
            Action::Record { .. } => {}
            Action::LookAtGpus => self.tell_gpus(true),
            Action::Quarantine { host, .. } => {
                if self.present().contains(&host) {
                    self.quarantined.push(host);
                    self.tell_hosts();
                }
            }
            Action::Finish { status, serves, .. } => self.finish(status, serves),
            everywhere => {
                let mut worst = None;
                for host in self.present() {
                    let action = self.in_its_names(&host, everywhere.clone());
                    let place = self.hosts.get_mut(&host).unwrap();
                    let input = match place.perform(action, well) {
                        Some(Input::Retired { instance }) => {
                            Some(Input::Retired { instance: self.fleet.logical(&host, &instance) })
                        }
                        other => other,
                    };
                    let is_bad = |input: &Option<Input>| {
                        matches!(input, Some(Input::NoRoom { .. } | Input::NotReady { .. } | Input::ShiftFailed { .. }))
                    };
                    if worst.is_none() || is_bad(&input) && !is_bad(&worst) {
                        worst = input;
                    }
                }
                if let Some(input) = worst {
                    self.give(input);
                }
            }
        }
        self.had_outage |= self.present().iter().all(|host| self.hosts[host].targets.is_empty());
        true
    }

    pub fn in_its_names(&self, host: &str, action: Action) -> Action {
        let own = |instance: &InstanceId| self.fleet.own(host, instance).first().unwrap_or(instance).clone();
        match action {
            Action::Shift { number, percent, targets, hosts, fallback, dead_man } => {
                let is_meant = hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|known| known == host));
                let targets = if is_meant { targets } else { fallback.clone() };
                let (targets, fallback) =
                    (self.fleet.own_targets(host, &targets), self.fleet.own_targets(host, &fallback));
                Action::Shift { number, percent, targets, hosts: None, fallback, dead_man }
            }
            Action::Retire { instance, after, drain } => Action::Retire { instance: own(&instance), after, drain },
            other => other,
        }
    }

    pub fn finish(&mut self, status: RolloutStatus, serves: Serves) {
        let reason = self.machine.reason().unwrap_or_default().to_owned();
        let is_nobody = reason.contains("Nobody serves") && status == RolloutStatus::Failed;
        for host in self.present() {
            let place = &self.hosts[&host];
            let releases: Vec<i64> = place.targets.iter().map(|t| place.instances[&t.instance].0.id.0).collect();
            if serves == Serves::Unknown {
                assert!(reason.contains("is not known for certain"), "{reason}");
                continue;
            }
            let wanted = if serves == Serves::New { 2 } else { 1 };
            let is_whole = releases.iter().all(|found| *found == wanted) && (!releases.is_empty() || is_nobody);
            assert!(is_whole, "{host} has {releases:?}, not {wanted}:\n{}", self.story.join("\n"));
        }
        assert!(self.machine.is_ended() && self.machine.status() == status);
        self.finished = Some((status, serves));
        self.story.push(format!("END {status}, {serves:?} serves: {reason}"));
    }

    pub fn tell_hosts(&mut self) {
        let hosts = self.present();
        self.give(Input::Hosts { hosts });
    }

    pub fn settle(&mut self) {
        for _ in 0..2_000 {
            if !self.perform(true) {
                return;
            }
        }
        panic!("the machine never comes to rest:\n{}", self.tail(60));
    }

    /// Performs what waits until something like this is next.
    pub fn until(&mut self, is_it: impl Fn(&Action) -> bool) {
        while !self.queue.front().is_some_and(&is_it) {
            assert!(self.perform(true), "it never comes:\n{}", self.story.join("\n"));
        }
    }

    pub fn lose_host(&mut self, host: &str) {
        let present = self.present();
        if present.len() > 1 && present.iter().any(|known| known == host) {
            self.hosts.get_mut(host).unwrap().is_lost = true;
            self.tell_hosts();
        }
    }

    /// An instance ends for good at a host that has gone over, and that is heard.
    pub fn lose_instance(&mut self, host: &str, instance: &str) {
        let instance: InstanceId = instance.parse().unwrap();
        let ended = InstanceState::Failed { reason: "killed".into() };
        self.hosts.get_mut(host).unwrap().instances.get_mut(&instance).unwrap().1 = ended;
        let what = Box::new(Input::NotReady { instance, reason: "killed".into() });
        self.give(Input::At { host: host.into(), what });
    }

    pub fn emergency(&mut self, host: &str) {
        let place = self.hosts.get_mut(host).unwrap();
        let back: InstanceId = "emergency".parse().unwrap();
        place.instances.insert(back.clone(), (release(1), InstanceState::Running, true));
        place.targets = vec![Target { instance: back, weight: 1 }];
        place.fallback.clone_from(&place.targets);
        place.restored = Some(Restored { at: self.now, reason: "emergency: ada".into(), epoch: Epoch(2) });
        self.claim();
    }

    pub fn sleep(&mut self) -> bool {
        let Some(wake) = self.machine.next_wake() else { return false };
        self.now = self.now.max(wake);
        self.give(Input::Tick);
        true
    }

    pub fn pass(&mut self, seconds: i64) {
        self.now = Timestamp(self.now.0 + seconds * 1_000);
        if self.machine.next_wake().is_some_and(|wake| wake <= self.now) {
            self.give(Input::Tick);
        }
    }

    pub fn say(&mut self, command: RolloutCommand) {
        self.give(Input::Command { command, by: Some("ada".into()), word: None });
    }

    /// So many requests at each host that serves; one in `fails` of the new release's fails.
    pub fn traffic(&mut self, count: u64, fails: Option<u64>) {
        let mut observations = Vec::new();
        for nth in 0..count {
            for place in self.hosts.values().filter(|place| !place.is_lost) {
                let Some(target) = place.targets.first() else { continue };
                self.sequence += 1;
                let is_new = place.instances[&target.instance].0.id == ReleaseId(2);
                let failed = is_new && fails.is_some_and(|every| nth % every == 0);
                let at = Timestamp(self.now.0 + nth as i64 * 10);
                observations.push(observed((self.sequence, nth), at, &target.instance, failed));
            }
        }
        self.give(Input::Observations { observations, lost: 0, next: self.sequence });
    }

    /// What each host serves, and how many instances run there: `a=2/1 b=1/1`.
    pub fn serving(&self) -> String {
        let shown = self.hosts.iter().map(|(name, place)| {
            let release = place.targets.first().map_or(0, |t| place.instances[&t.instance].0.id.0);
            format!("{name}={release}/{}", place.running())
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    pub fn has_asked(&self, what: &str) -> bool {
        self.story.iter().any(|line| line.contains(what))
    }

    pub fn tail(&self, lines: usize) -> String {
        self.story[self.story.len().saturating_sub(lines)..].join("\n")
    }
}

impl Place {
    pub fn running(&self) -> usize {
        self.instances.values().filter(|known| known.1 == InstanceState::Running).count()
    }

    pub fn facts(&self) -> HostFacts {
        let route = RouteState {
            environment: "production".into(),
            service: "web".into(),
            epoch: Epoch(1),
            rules: Vec::new(),
            targets: self.targets.clone(),
            fallback: self.fallback.clone(),
            dead_man_at: None,
            restored: self.restored.clone(),
            in_flight: [].into(),
            newest_observation: 0,
        };
        let is_there = |i: &Instance| i.state != InstanceState::Stopped;
        HostFacts {
            route: Some(route),
            instances: self.instances.iter().map(instance).filter(is_there).collect(),
            ..HostFacts::default()
        }
    }

    /// All of its containers are gone, and so is its record.
    pub fn empty(&mut self) {
        self.instances.clear();
        self.targets.clear();
        self.fallback.clear();
    }

    /// What comes of an action there, in its own names.
    pub fn perform(&mut self, action: Action, well: bool) -> Option<Input> {
        let has_weight = |instance: &InstanceId| self.targets.iter().any(|t| t.instance == *instance);
        Some(match action {
            Action::Start { instance, release } => {
                let others: Vec<ReleaseId> = self
                    .instances
                    .iter()
                    .filter(|(id, known)| **id != instance && known.1 == InstanceState::Running)
                    .map(|(_, known)| known.0.id)
                    .collect();
                let reason = "it does not fit beside what serves".to_owned();
                if others.len() >= self.room {
                    match others.iter().all(|id| *id == release.id) {
                        true => Input::NotReady { instance, reason },
                        false => Input::NoRoom { instance, reason },
                    }
                } else if well {
                    self.instances.entry(instance.clone()).or_insert((release, InstanceState::Running, false));
                    Input::Started { instance }
                } else {
                    Input::NotReady { instance, reason: "the artifact is gone".into() }
                }
            }
            Action::AwaitReady { instance } => match self.instances.get_mut(&instance) {
                Some(known) if well && known.1 == InstanceState::Running => {
                    known.2 = true;
                    Input::Ready { instance }
                }
                _ => Input::NotReady { instance, reason: "health: 503".into() },
            },
            Action::Shift { number, percent, targets, fallback, dead_man, .. } => {
                for target in &targets {
                    let ready = self.instances.get(&target.instance).is_some_and(|(_, _, ready)| *ready);
                    assert!(ready, "{} gets weight without having been ready", target.instance);
                }
                assert!(!dead_man || !fallback.is_empty(), "nothing to fall back to");
                let usable =
                    |t: &Target| self.instances.get(&t.instance).is_some_and(|i| i.1 == InstanceState::Running);
                if well && targets.iter().chain(&fallback).all(usable) {
                    (self.targets, self.fallback, self.restored) = (targets, fallback, None);
                    Input::Shifted { number, percent }
                } else {
                    Input::ShiftFailed { number, percent, by_router: false, reason: "refused".into() }
                }
            }
            Action::Interrupt { .. } if well => {
                (self.targets, self.fallback, self.restored) = (Vec::new(), Vec::new(), None);
                Input::Interrupted
            }
            Action::Interrupt { .. } => Input::InterruptFailed { reason: "refused".into() },
            Action::Drain { instance, .. } => {
                assert!(!has_weight(&instance), "drains {instance}, which has weight");
                Input::Drained { instance, in_flight: 0 }
            }
            Action::Retire { instance, .. } => Input::Retired { instance },
            Action::Stop { instance } => {
                assert!(!has_weight(&instance), "stops {instance}, which has weight");
                match self.instances.get_mut(&instance).filter(|_| well) {
                    Some(known) => {
                        known.1 = InstanceState::Stopped;
                        Input::Stopped { instance }
                    }
                    None => Input::CleanUpFailed { instance, reason: "it hangs".into() },
                }
            }
            Action::Record { .. } => return None,
            other => panic!("not at one host: {other:?}"),
        })
    }
}

pub const TIGHT: [(&str, bool); 2] = [("a", false), ("b", false)];

#[test]
fn hosts_change_places_one_after_the_other_and_one_always_answers() {
    let mut yard = Yard::new(How::HotSwap, &TIGHT);
    yard.claim();
    yard.settle();
    assert_eq!((yard.finished, yard.serving().as_str(), yard.had_outage), (DONE, "a=2/1 b=2/1", false));
    insta::assert_snapshot!(yard.story.join("\n"));
}

#[test]
fn where_both_fit_at_a_host_it_takes_no_gap() {
    let mut yard = Yard::new(How::HotSwap, &[("a", true), ("b", false), ("c", true)]);
    yard.claim();
    yard.settle();
    assert_eq!((yard.finished, yard.serving().as_str()), (DONE, "a=2/2 b=2/1 c=2/2"), "{}", yard.story.join("\n"));
    let gaps = yard.story.iter().filter(|line| line.contains("take the traffic from everybody"));
    assert_eq!(gaps.map(String::as_str).collect::<Vec<_>>(), ["   -> at b: take the traffic from everybody"]);
    // and where both fit everywhere all go over at once, once they are ready
    let mut yard = Yard::new(How::HotSwap, &[("a", true), ("b", true)]);
    yard.claim();
    yard.settle();
    assert_eq!((yard.finished, yard.serving().as_str()), (DONE, "a=2/2 b=2/2"));
    assert!(!yard.story.iter().any(|line| line.contains("at a:")), "{}", yard.story.join("\n"));
}

#[test]
fn what_does_not_become_ready_at_the_second_host_goes_back_at_both() {
    let mut yard = Yard::new(How::HotSwap, &TIGHT);
    yard.claim();
    yard.until(|action| matches!(action, Action::At { host, what } if host == "b" && matches!(**what, Action::AwaitReady { .. })));
    assert_eq!(yard.serving(), "a=2/1 b=0/1");
    yard.perform(false);
    yard.settle();
    assert_eq!((yard.finished, yard.serving().as_str(), yard.had_outage), (BACK, "a=1/1 b=1/1", false));
    let reason = yard.machine.reason().unwrap();
    assert!(reason.starts_with("host `b`: instance web-2-0-7 did not become ready: health: 503"), "{reason}");
    insta::assert_snapshot!(yard.story.join("\n"));
}

#[test]
fn each_step_of_a_rolling_one_is_watched_and_what_is_bad_goes_back_everywhere() {
    let mut yard = Yard::new(rolling(Batch::Hosts(1)), &TIGHT);
    yard.claim();
    yard.settle();
    assert_eq!((yard.serving().as_str(), yard.machine.weight()), ("a=2/1 b=1/1", 50), "{}", yard.story.join("\n"));
    yard.traffic(300, None);
    yard.settle();
    yard.pass(61);
    yard.settle();
    assert_eq!((yard.serving().as_str(), yard.machine.weight()), ("a=2/1 b=2/1", 100), "{}", yard.tail(20));
    assert_eq!(yard.finished, None, "the last step is watched as well");
    yard.pass(1);
    yard.traffic(8_000, Some(1));
    yard.settle();
    assert_eq!((yard.finished, yard.serving().as_str(), yard.had_outage), (BACK, "a=1/1 b=1/1", false));

    // the first host's is bad: the second is never touched
    let mut yard = Yard::new(rolling(Batch::Hosts(1)), &TIGHT);
    yard.claim();
    yard.settle();
    yard.traffic(600, Some(2));
    yard.settle();
    assert_eq!((yard.finished, yard.serving().as_str()), (BACK, "a=1/1 b=1/1"), "{}", yard.tail(20));
    assert!(!yard.story.iter().any(|line| line.contains("at b: take the traffic")), "{}", yard.story.join("\n"));
}

#[test]
fn at_one_host_a_rolling_one_has_a_gap_and_is_watched() {
    let mut yard = Yard::new(rolling(Batch::Hosts(1)), &[("a", false)]);
    yard.claim();
    yard.settle();
    assert_eq!((yard.serving().as_str(), yard.finished), ("a=2/1", None), "{}", yard.story.join("\n"));
    yard.pass(61);
    yard.settle();
    assert_eq!(yard.finished, DONE);
}

#[test]
fn a_word_ends_the_pauses_or_brings_all_back() {
    let mut yard = Yard::new(rolling(Batch::Hosts(1)), &TIGHT);
    yard.claim();
    yard.settle();
    yard.say(RolloutCommand::Promote);
    yard.settle();
    assert_eq!((yard.finished, yard.serving().as_str()), (DONE, "a=2/1 b=2/1"), "{}", yard.tail(20));

    let mut yard = Yard::new(How::HotSwap, &TIGHT);
    yard.claim();
    yard.until(
        |action| matches!(action, Action::At { host, what } if host == "b" && matches!(**what, Action::Stop { .. })),
    );
    yard.say(RolloutCommand::Abort);
    yard.say(RolloutCommand::Abort);
    yard.settle();
    assert_eq!((yard.finished, yard.serving().as_str(), yard.had_outage), (BACK, "a=1/1 b=1/1", false));
    assert_eq!(yard.machine.reason(), Some("aborted (ada)"));
}

type End = (Option<(RolloutStatus, Serves)>, String, bool, Vec<String>, String);

/// At the second host neither becomes ready, however often it is tried.
fn where_the_former_release_does_not_come_back_at_b(hosts: &[&str]) -> End {
    let hosts: Vec<(&str, bool)> = hosts.iter().map(|name| (*name, false)).collect();
    let mut yard = Yard::new(How::HotSwap, &hosts);
    yard.claim();
    let is_ladder_of_b = |action: &Action| matches!(action, Action::At { host, what } if host == "b" && matches!(**what, Action::AwaitReady { .. }));
    let mut tries = 0;
    while yard.finished.is_none() {
        tries += 1;
        assert!(tries < 400, "{}", yard.tail(40));
        let well = !yard.queue.front().is_some_and(is_ladder_of_b);
        if !yard.perform(well) {
            assert!(yard.sleep(), "{}", yard.tail(40));
        }
    }
    let reason = yard.machine.reason().unwrap().to_owned();
    (yard.finished, yard.serving(), yard.had_outage, yard.quarantined, reason)
}

#[test]
fn a_host_whose_former_release_does_not_come_back_is_left_out_and_the_others_go_back() {
    // the third host's turn had not come: it shows that the former release serves
    let (end, serving, had_outage, quarantined, _) = where_the_former_release_does_not_come_back_at_b(&["a", "b", "c"]);
    assert_eq!((end, serving.as_str(), had_outage, quarantined), (BACK, "a=1/1 b=0/0 c=1/1", false, vec!["b".into()]));
}

#[test]
fn the_last_host_that_serves_is_not_stopped_for_a_release_that_did_not_come_back_elsewhere() {
    let (end, serving, had_outage, quarantined, reason) = where_the_former_release_does_not_come_back_at_b(&["a", "b"]);
    assert_eq!((end, serving.as_str(), had_outage, quarantined), (DONE, "a=2/1 b=0/0", false, vec!["b".into()]));
    let expected = "but the former release could not be brought back at `b`, so release 2 stays where it serves";
    assert!(reason.contains(expected), "{reason}");
}

#[test]
fn a_step_that_a_person_skips_right_after_a_new_owner_came_is_not_watched_again() {
    let mut yard = Yard::new(rolling(Batch::Hosts(1)), &TIGHT);
    yard.claim();
    yard.settle();
    yard.claim();
    yard.say(RolloutCommand::Skip);
    yard.settle();
    assert_eq!(yard.serving(), "a=2/1 b=2/1", "{}", yard.tail(20));
}

#[test]
fn a_step_of_many_hosts_leaves_one_that_answers() {
    for (hosts, batch) in [(&TIGHT[..], 2), (&[("a", false), ("b", false), ("c", false)], 3)] {
        let mut yard = Yard::new(rolling(Batch::Hosts(batch)), hosts);
        yard.claim();
        for _ in 0..3 {
            yard.settle();
            yard.pass(61);
        }
        yard.settle();
        assert_eq!((yard.finished, yard.had_outage), (DONE, false), "{}", yard.story.join("\n"));
    }
}

#[test]
fn several_hosts_whose_own_instances_are_not_known_are_never_stopped_all_at_once() {
    let mut yard = Yard::new(How::HotSwap, &TIGHT);
    yard.claim();
    // as an earlier version stored it
    let mut stored = serde_json::to_value(&yard.machine).unwrap();
    stored.as_object_mut().unwrap().remove("turns").expect("it is prepared for turns");
    yard.machine = RolloutMachine::restore(stored).unwrap();
    yard.settle();
    let end = Some((RolloutStatus::Failed, Serves::Former));
    assert_eq!((yard.finished, yard.serving().as_str(), yard.had_outage), (end, "a=1/1 b=1/1", false));
    let reason = yard.machine.reason().unwrap();
    assert!(reason.contains("begun by an earlier version"), "{reason}");
}

#[test]
fn where_no_host_is_left_it_ends_and_says_that_nobody_knows_what_serves() {
    let mut yard = Yard::new(How::HotSwap, &TIGHT);
    yard.claim();
    yard.until(
        |action| matches!(action, Action::At { host, what } if host == "a" && matches!(**what, Action::Stop { .. })),
    );
    for place in yard.hosts.values_mut() {
        place.is_lost = true;
    }
    yard.tell_hosts();
    assert!(
        yard.queue
            .iter()
            .any(|action| matches!(action, Action::Record { detail, .. } if detail["serves"] == "unknown"))
    );
    yard.settle();
    assert_eq!(yard.finished, Some((RolloutStatus::Failed, Serves::Unknown)), "{}", yard.tail(20));
    let reason = yard.machine.reason().unwrap();
    assert_eq!(reason, "no host takes part any more (host `a`: it was lost; host `b`: it was lost)");
}

#[test]
fn what_all_hosts_were_asked_for_before_they_change_in_turn_says_nothing_then() {
    let mut yard = Yard::with_replicas(rolling(Batch::Hosts(1)), &TIGHT, 2);
    for place in yard.hosts.values_mut() {
        // the first of two fits beside what serves, the second does not
        place.room = 3;
    }
    yard.claim();
    while !yard.machine.changes_in_turn() {
        assert!(yard.perform(true), "{}", yard.story.join("\n"));
    }
    let is_left_over = |action: &Action| matches!(action, Action::Start { .. } | Action::AwaitReady { .. });
    assert!(!yard.queue.iter().any(is_left_over), "{:?}", yard.queue);
    // the first one's ladder was begun, and is stopped amid it
    yard.give(Input::NotReady { instance: "web-2-0-7".parse().unwrap(), reason: "it was stopped".into() });
    for _ in 0..3 {
        yard.settle();
        yard.pass(61);
    }
    yard.settle();
    assert_eq!(
        (yard.finished, yard.serving().as_str(), yard.had_outage),
        (DONE, "a=2/2 b=2/2", false),
        "{}",
        yard.tail(40)
    );
}

#[test]
fn a_host_that_refuses_to_take_the_traffic_back_does_not_keep_the_others_for_ever() {
    for is_left_by_a_person in [false, true] {
        let mut yard = Yard::new(rolling(Batch::Hosts(1)), &TIGHT);
        yard.claim();
        yard.settle();
        yard.pass(61);
        yard.settle();
        yard.say(RolloutCommand::Abort);
        let is_interrupt = |action: &Action| matches!(action, Action::At { host, what } if host == "a" && matches!(**what, Action::Interrupt { .. }));
        let mut tries = 0;
        while yard.finished.is_none() {
            let is_refused = yard.queue.front().is_some_and(is_interrupt);
            tries += u32::from(is_refused);
            assert!(tries < 20, "{}", yard.tail(40));
            if is_left_by_a_person && tries == 2 {
                yard.say(RolloutCommand::Abort);
            }
            if !yard.perform(!is_refused) {
                assert!(yard.sleep(), "{}", yard.tail(40));
            }
        }
        assert_eq!((yard.finished, yard.serving().as_str()), (BACK, "a=2/1 b=1/1"), "{}", yard.tail(40));
        assert_eq!(
            (yard.quarantined.as_slice(), tries),
            (["a".to_owned()].as_slice(), if is_left_by_a_person { 2 } else { 10 })
        );
    }
}

#[test]
fn a_host_that_is_lost_is_left_out_whoever_goes_back_or_over() {
    for is_bad in [false, true] {
        let mut yard = Yard::new(rolling(Batch::Hosts(1)), &[("a", false), ("b", false), ("c", false)]);
        yard.claim();
        yard.settle();
        yard.lose_host("a");
        yard.settle();
        assert_eq!(yard.serving(), "a=2/1 b=2/1 c=1/1", "{}", yard.tail(30));
        yard.traffic(600, is_bad.then_some(2));
        yard.settle();
        for _ in 0..3 {
            yard.pass(61);
            yard.settle();
        }
        let expected = if is_bad { (BACK, "a=2/1 b=1/1 c=1/1") } else { (DONE, "a=2/1 b=2/1 c=2/1") };
        assert_eq!((yard.finished, yard.serving().as_str()), expected, "{}", yard.tail(40));
    }
}

#[test]
fn a_host_that_comes_back_empty_is_left_out_and_the_others_go_on() {
    // one that has gone over, and one whose turn has not come
    for (emptied, expected) in [("a", "a=0/0 b=2/1 c=2/1"), ("c", "a=2/1 b=2/1 c=0/0")] {
        let mut yard = Yard::new(rolling(Batch::Hosts(1)), &[("a", false), ("b", false), ("c", false)]);
        yard.claim();
        yard.settle();
        yard.hosts.get_mut(emptied).unwrap().empty();
        yard.claim();
        for _ in 0..4 {
            yard.settle();
            yard.pass(61);
        }
        yard.settle();
        assert_eq!((yard.finished, yard.serving().as_str()), (DONE, expected), "{}", yard.story.join("\n"));
        assert_eq!(yard.quarantined, [emptied]);
    }
    // where nothing is at any, that is no host's own
    let mut yard = Yard::new(rolling(Batch::Hosts(1)), &TIGHT);
    yard.claim();
    yard.settle();
    yard.hosts.values_mut().for_each(Place::empty);
    yard.claim();
    come_to_an_end(&mut yard);
    assert!(yard.finished.is_some() && yard.quarantined.len() < 2, "{}", yard.tail(40));
}

#[test]
fn a_host_in_its_gap_has_nothing_and_goes_on_all_the_same() {
    let mut yard = Yard::new(How::HotSwap, &TIGHT);
    yard.claim();
    yard.until(
        |action| matches!(action, Action::At { host, what } if host == "a" && matches!(**what, Action::Stop { .. })),
    );
    yard.perform(true);
    assert_eq!(yard.serving(), "a=0/0 b=1/1");
    yard.claim();
    yard.settle();
    assert_eq!((yard.finished, yard.serving().as_str()), (DONE, "a=2/1 b=2/1"), "{}", yard.tail(40));
}

#[test]
fn an_emergency_at_one_host_brings_the_others_back() {
    let mut yard = Yard::new(rolling(Batch::Hosts(1)), &TIGHT);
    yard.claim();
    yard.settle();
    yard.emergency("b");
    yard.settle();
    assert_eq!(yard.finished, BACK, "{}", yard.tail(40));
    assert!(yard.machine.reason().unwrap().contains("emergency: ada"));
}

#[test]
fn an_owner_may_die_before_and_after_every_act_and_the_hosts_end_the_same_way() {
    for (how, is_bad) in [(How::HotSwap, false), (How::HotSwap, true), (rolling(Batch::Hosts(1)), false)] {
        let mut at = 0;
        loop {
            let mut yard = Yard::new(how.clone(), &[("a", false), ("b", true), ("c", false)]);
            yard.claim();
            let (mut done, mut has_died) = (0, false);
            while yard.finished.is_none() {
                if done == at {
                    has_died = true;
                    // what was asked for last may have been done
                    if at % 2 == 0 {
                        yard.perform(true);
                    }
                    if yard.finished.is_none() {
                        yard.claim();
                    }
                    done += 1;
                    continue;
                }
                let is_ladder = |action: &Action| {
                    matches!(action, Action::At { host, what } if host == "c"
                    && matches!(&**what, Action::AwaitReady { instance } if instance.as_str() == "web-2-0-7"))
                };
                let well = !(is_bad && yard.queue.front().is_some_and(is_ladder));
                if !yard.perform(well) {
                    assert!(yard.sleep(), "death {at}: it never ends\n{}", yard.tail(40));
                }
                done += 1;
                assert!(done < 500, "death {at}: it never ends\n{}", yard.tail(40));
            }
            let expected = if is_bad { (BACK, 1) } else { (DONE, 2) };
            let serving: Vec<i64> = yard.hosts.values().map(|p| p.instances[&p.targets[0].instance].0.id.0).collect();
            assert_eq!((yard.finished, serving), (expected.0, vec![expected.1; 3]), "death {at}\n{}", yard.tail(60));
            assert!(!yard.had_outage, "death {at}\n{}", yard.tail(60));
            if !has_died {
                break;
            }
            at += 1;
        }
        assert!(at > 20, "it was not tried: {at}");
    }
}

#[test]
fn what_is_to_be_done_is_stored_once_whatever_the_number_of_hosts() {
    let mut yard = Yard::new(rolling(Batch::Hosts(1)), &[("a", false), ("b", true), ("c", false)]);
    yard.claim();
    yard.settle();
    let stored = serde_json::to_value(&yard.machine).unwrap();
    assert_eq!(stored.to_string().matches("\"health\":").count(), 1, "{stored}");
    assert_eq!(RolloutMachine::restore(stored).unwrap(), yard.machine);

    // as it was stored before that, at the same point
    let older: serde_json::Value = serde_json::from_str(include_str!("stored/turns_with_a_spec_each.json")).unwrap();
    assert_eq!(older.to_string().matches("\"health\":").count(), 4);
    yard.machine = RolloutMachine::restore(older).unwrap();
    yard.claim();
    for _ in 0..3 {
        yard.settle();
        yard.pass(61);
    }
    yard.settle();
    assert_eq!((yard.finished, yard.serving().as_str()), (DONE, "a=2/1 b=2/2 c=2/1"), "{}", yard.tail(40));
}

#[derive(Debug, Clone)]
enum Happening {
    Perform { well: bool },
    Traffic { count: u64, fails: Option<u64> },
    Pass { seconds: i64 },
    Say(RolloutCommand),
    NewOwner,
    LoseHost { host: usize },
    Emergency { host: usize },
    Gpu { host: usize, code: u32, is_new: bool, is_told: bool },
}

fn happening(is_rough: bool) -> impl Strategy<Value = Happening> {
    let rough = u32::from(is_rough);
    let command = prop_oneof![Just(RolloutCommand::Promote), Just(RolloutCommand::Abort), Just(RolloutCommand::Skip)];
    prop_oneof![
        16 => proptest::bool::weighted(if is_rough { 0.85 } else { 1.0 }).prop_map(|well| Happening::Perform { well }),
        2 => (1..200_u64, proptest::option::weighted(0.2, 1..10_u64))
            .prop_map(|(count, fails)| Happening::Traffic { count, fails }),
        2 => (1..100_i64).prop_map(|seconds| Happening::Pass { seconds }),
        1 => command.prop_map(Happening::Say),
        1 => Just(Happening::NewOwner),
        rough => (0..4_usize).prop_map(|host| Happening::LoseHost { host }),
        rough => (0..4_usize).prop_map(|host| Happening::Emergency { host }),
        rough => (0..4_usize, prop_oneof![Just(79_u32), Just(31)], any::<bool>(), any::<bool>())
            .prop_map(|(host, code, is_new, is_told)| Happening::Gpu { host, code, is_new, is_told }),
    ]
}

fn happen(yard: &mut Yard, what: Happening) {
    if yard.finished.is_some() || yard.machine.is_ended() {
        return;
    }
    let named = |yard: &Yard, host: usize| yard.present().get(host).cloned();
    match what {
        Happening::Perform { well } => drop(yard.perform(well)),
        Happening::Traffic { count, fails } => yard.traffic(count, fails),
        Happening::Pass { seconds } => yard.pass(seconds),
        Happening::Say(command) => yard.say(command),
        Happening::NewOwner => yard.claim(),
        Happening::LoseHost { host } => {
            if let Some(host) = named(yard, host) {
                yard.lose_host(&host);
            }
        }
        // one before hosts change in turn is that of any rollout, and one at a host that has come to its end that of another
        Happening::Emergency { .. } if !yard.has_asked("-> at ") || yard.has_asked(": retire ") => {}
        Happening::Emergency { host } => {
            if let Some(host) = named(yard, host) {
                yard.emergency(&host);
            }
        }
        Happening::Gpu { host, code, is_new, is_told } => {
            if let Some(host) = named(yard, host).filter(|_| yard.xids.is_some()) {
                let instance = if is_new { "web-2-0-7".to_owned() } else { format!("old-{host}") };
                yard.fail_gpu(&host, code, &instance);
                if is_told {
                    yard.tell_gpus(false);
                }
            }
        }
    }
}

fn come_to_an_end(yard: &mut Yard) {
    if yard.finished.is_none() {
        yard.claim();
    }
    for _ in 0..300 {
        yard.settle();
        if yard.finished.is_some() || !yard.sleep() {
            break;
        }
    }
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![Just(How::HotSwap), (1..4_u32).prop_map(|hosts| rolling(Batch::Hosts(hosts)))]
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Hosts at which all of that has happened, and which have come to an end.
fn played(how: How, fits: &[bool], has_gpus: bool, happenings: Vec<Happening>) -> Yard {
    let hosts: Vec<(&str, bool)> = NAMES.into_iter().zip(fits.iter().copied()).collect();
    let mut yard = if has_gpus { Yard::with_gpus(how, &hosts) } else { Yard::new(how, &hosts) };
    if !has_gpus {
        yard.claim();
    }
    for what in happenings {
        happen(&mut yard, what);
    }
    come_to_an_end(&mut yard);
    yard
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens, whoever takes part ends wholly old or new, which is checked at the end; and nothing is stopped that has weight.
    #[test]
    fn hosts_that_change_in_turn_end_all_the_same_way(
        how in how(),
        fits in proptest::collection::vec(proptest::bool::weighted(0.3), 1..5),
        has_gpus in any::<bool>(),
        happenings in proptest::collection::vec(happening(true), 0..120),
    ) {
        let yard = played(how, &fits, has_gpus, happenings);
        prop_assert!(yard.finished.is_some(), "it never ends:\n{}", yard.story.join("\n"));
    }

    /// As long as hosts do what they are asked for, there is always one that answers, whoever takes over and whatever people say.
    #[test]
    fn while_hosts_change_in_turn_another_one_answers(
        how in how(),
        fits in proptest::collection::vec(proptest::bool::weighted(0.3), 2..5),
        has_gpus in any::<bool>(),
        happenings in proptest::collection::vec(happening(false), 0..120),
    ) {
        let yard = played(how, &fits, has_gpus, happenings);
        prop_assert!(yard.finished.is_some() && !yard.had_outage, "nobody answered:\n{}", yard.story.join("\n"));
        prop_assert!(yard.quarantined.is_empty(), "{}", yard.story.join("\n"));
    }
}

#[test]
fn the_last_host_that_serves_is_not_stopped_for_a_release_that_was_ready_nowhere() {
    for how in [How::HotSwap, rolling(Batch::Hosts(1))] {
        let mut yard = Yard::new(how, &TIGHT);
        yard.claim();
        let starts_new = |yard: &Yard| {
            let is_new =
                |what: &Action| matches!(what, Action::AwaitReady { instance } if instance.as_str().contains("web-2"));
            matches!(yard.queue.front(), Some(Action::At { host, what }) if host == "a" && is_new(what))
        };
        while !starts_new(&yard) {
            assert!(yard.perform(true), "{}", yard.tail(40));
        }
        yard.lose_host("a");
        yard.settle();
        assert_eq!(yard.finished, Some((RolloutStatus::Failed, Serves::Former)), "{}", yard.tail(40));
        assert!(yard.serving().contains("b=1"), "{}", yard.serving());
        let reason = yard.machine.reason().unwrap_or_default();
        assert!(reason.contains("ready nowhere"), "{reason}");
    }
}

#[test]
fn a_release_that_was_ready_at_a_host_that_is_lost_then_goes_on() {
    let mut yard = Yard::new(rolling(Batch::Hosts(1)), &TIGHT);
    yard.claim();
    yard.settle();
    assert_eq!(yard.serving(), "a=2/1 b=1/1", "{}", yard.tail(30));
    yard.lose_host("a");
    for _ in 0..3 {
        yard.settle();
        yard.pass(61);
    }
    assert_eq!(yard.finished, DONE, "{}", yard.tail(40));
    assert!(yard.serving().contains("b=2"), "{}", yard.serving());
}
