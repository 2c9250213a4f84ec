//! A host that lives in memory: it performs what the machine asks for, as `segue host` would, and fails the test where the machine
//! asks for what must never be.

use std::{collections::BTreeMap, collections::VecDeque};

use indexmap::IndexMap;
use segue_pipelines::{
    gpu::xid,
    rollout::{Action, HostFacts, Input, RolloutMachine, Serves},
};
use segue_schemas::{
    deploy::{
        CanarySpec, Health, JudgeSpec, Observation, Outcome, Release, RolloutCommand, RolloutSpec, ServiceSpec,
        Strategy,
    },
    duration::Span,
    gpu::{GpuNeed, ServiceGpus, WhenFull},
    gpu_health::{GpuReport, GpuXid, XidSource},
    host_api::{Instance, InstanceState, Restored, RouteState, Target},
    id::{Epoch, InstanceId, ReleaseId, RolloutId, RunId},
    status::RolloutStatus,
    time::Timestamp,
};

pub struct World {
    pub machine: RolloutMachine,
    pub now: Timestamp,
    pub queue: VecDeque<Action>,
    instances: BTreeMap<InstanceId, (Release, InstanceState, bool)>,
    pub targets: Vec<Target>,
    fallback: Vec<Target>,
    pub dead_man: bool,
    restored: Option<Restored>,
    sequence: u64,
    /// Whether instances of two releases never fit beside each other.
    pub is_tight: bool,
    /// The hosts, where GPUs matter; the first is the one whose traffic is looked at.
    pub hosts: Vec<String>,
    /// Those of them that can't say how their GPUs are.
    pub speechless: Vec<String>,
    /// What the drivers of their GPUs reported: host, Xid, the instance that it struck.
    pub xids: Vec<(String, u32, InstanceId)>,
    /// Where the traffic of the others among several hosts goes.
    pub elsewhere: BTreeMap<String, Vec<Target>>,
    /// The router refuses each change of weights.
    pub is_router_broken: bool,
    /// What rules send to the new release has somebody to answer it.
    pub is_standing_by: bool,
    /// Hosts that were left out.
    pub quarantined: Vec<String>,
    /// What happened, as people read it.
    pub story: Vec<String>,
    pub finished: Option<(RolloutStatus, Serves)>,
    statuses: Vec<RolloutStatus>,
}

pub fn release(number: i64) -> Release {
    Release {
        id: ReleaseId(number),
        repository: "acme/web".into(),
        service: "web".into(),
        digest: format!("sha256:{number:064}").parse().unwrap(),
        image: None,
        commit: format!("{number:040}").parse().unwrap(),
        run: RunId(number),
        created_at: Timestamp(0),
    }
}

pub fn canary() -> Strategy {
    Strategy::Canary(CanarySpec {
        stages: vec![10, 50, 100],
        stage_duration: Span::seconds(60),
        hold_limit: Span::seconds(600),
        judge: JudgeSpec { min_requests: 20, ..JudgeSpec::default() },
    })
}

impl World {
    /// A rollout of release 2 over release 1, which serves with one instance, `old`.
    pub fn new(strategy: Strategy) -> Self {
        Self::with_replicas(strategy, 1)
    }

    /// The same with several instances, of which the former ones are `old`, `old1`, ...
    pub fn with_replicas(strategy: Strategy, replicas: u32) -> Self {
        let mut spec = RolloutSpec { previous: Some(release(1)), ..spec(strategy) };
        spec.service.replicas = replicas;
        let mut world = Self::empty(spec);
        for replica in 0..replicas {
            let old = if replica == 0 { "old".to_owned() } else { format!("old{replica}") };
            let old: InstanceId = old.parse().unwrap();
            world.instances.insert(old.clone(), (release(1), InstanceState::Running, true));
            world.targets.push(Target { instance: old, weight: 100 });
        }
        world
    }

    /// Where old and new don't fit side by side, and the service's file says what then.
    pub fn tight(when_full: WhenFull, replicas: u32) -> Self {
        let mut world = Self::with_replicas(Strategy::HotSwap, replicas);
        let mut spec = world.machine.spec().clone();
        spec.service.gpus = Some(ServiceGpus { need: GpuNeed::whole(1), when_full });
        world.machine = RolloutMachine::new(RolloutId(7), spec);
        world.is_tight = true;
        world
    }

    /// Of a service with GPUs, on hosts of these names.
    pub fn with_gpus(strategy: Strategy, hosts: &[&str]) -> Self {
        let mut world = Self::new(strategy);
        let mut spec = world.machine.spec().clone();
        spec.service.gpus = Some(ServiceGpus { need: GpuNeed::whole(1), when_full: WhenFull::Refuse });
        world.machine = RolloutMachine::new(RolloutId(7), spec);
        world.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        world
    }

    /// A rollout over several hosts, each of which serves what the first does, under the same name.
    pub fn on_hosts(strategy: Strategy, hosts: &[&str]) -> Self {
        let mut world = Self::new(strategy);
        let mut spec = world.machine.spec().clone();
        spec.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        world.machine = RolloutMachine::new(RolloutId(7), spec);
        world.elsewhere = hosts[1..].iter().map(|host| ((*host).to_owned(), world.targets.clone())).collect();
        world
    }

    /// Of several hosts, those that send traffic to the new release.
    pub fn new_at(&self) -> Vec<String> {
        let is_new =
            |targets: &[Target]| targets.iter().any(|t| self.instances[&t.instance].0.id == self.new_release());
        let first = self.machine.spec().hosts[0].clone();
        let all = [(&first, &self.targets)].into_iter().chain(&self.elsewhere);
        all.filter(|(_, targets)| is_new(targets)).map(|(host, _)| host.clone()).collect()
    }

    /// One of the others is lost while nobody drives the rollout.
    pub fn lose_host_unseen(&mut self, host: &str) {
        self.elsewhere.remove(host);
    }

    /// One of the others is lost.
    pub fn lose_host(&mut self, host: &str) {
        if self.elsewhere.remove(host).is_some() {
            let hosts = self.present();
            self.give(Input::Hosts { hosts });
        }
    }

    fn present(&self) -> Vec<String> {
        [&self.machine.spec().hosts[0]].into_iter().chain(self.elsewhere.keys()).cloned().collect()
    }

    fn new_release(&self) -> ReleaseId {
        self.machine.spec().release.id
    }

    /// The GPU of an instance at a host fails, and nobody knows of it yet.
    pub fn fail_gpu(&mut self, host: &str, code: u32, instance: &InstanceId) {
        self.xids.push((host.into(), code, instance.clone()));
    }

    /// The new release's instance.
    pub fn canary(&self) -> InstanceId {
        self.machine.new_instances().next().expect("it has a name").clone()
    }

    /// The hosts tell how their GPUs are.
    pub fn tell_gpus(&mut self, is_asked: bool) {
        let left: Vec<String> = self.hosts.iter().filter(|host| !self.quarantined.contains(host)).cloned().collect();
        let report = |host: &String| (host.clone(), gpu_report(host, self.now, &self.xids));
        let reports = left.iter().filter(|host| !self.speechless.contains(host)).map(report).collect();
        self.give(Input::Gpus { reports, hosts: left, is_asked });
    }

    /// The first rollout of a service.
    pub fn first(strategy: Strategy) -> Self {
        Self::empty(spec(strategy))
    }

    pub fn empty(spec: RolloutSpec) -> Self {
        Self {
            machine: RolloutMachine::new(RolloutId(7), spec),
            now: Timestamp(1_000_000),
            queue: VecDeque::new(),
            instances: BTreeMap::new(),
            targets: Vec::new(),
            fallback: Vec::new(),
            dead_man: false,
            restored: None,
            sequence: 0,
            is_tight: false,
            hosts: Vec::new(),
            speechless: Vec::new(),
            xids: Vec::new(),
            elsewhere: BTreeMap::new(),
            is_router_broken: false,
            is_standing_by: false,
            quarantined: Vec::new(),
            story: Vec::new(),
            finished: None,
            statuses: vec![RolloutStatus::Queued],
        }
    }

    pub fn keep_warm(&mut self, name: &str, release: Release) {
        self.instances.insert(name.parse().unwrap(), (release, InstanceState::Running, true));
    }

    /// A new owner: what the last one had not done yet is lost, the state is what was stored.
    pub fn claim(&mut self) {
        self.queue.clear();
        let stored = serde_json::to_value(&self.machine).unwrap();
        self.machine = RolloutMachine::restore(stored).unwrap();
        if !self.hosts.is_empty() && self.machine.knows_no_gpus() {
            self.tell_gpus(false);
        }
        let facts = self.facts();
        self.give(Input::Claimed { facts });
    }

    fn facts(&self) -> HostFacts {
        let is_there = |i: &Instance| i.state != InstanceState::Stopped;
        let at = |(host, targets): (&String, &Vec<Target>)| (host.clone(), targets.clone());
        let first = self.machine.spec().hosts[0].clone();
        let others = self.elsewhere.values().map(|targets| RouteState { targets: targets.clone(), ..self.route() });
        HostFacts {
            route: Some(self.route()),
            others: others.collect(),
            hosts: if self.machine.spec().hosts.len() == 1 {
                Vec::new()
            } else {
                [(&first, &self.targets)].into_iter().chain(&self.elsewhere).map(at).collect()
            },
            instances: self.instances.iter().map(instance).filter(is_there).collect(),
            apart: Vec::new(),
        }
    }

    fn route(&self) -> RouteState {
        RouteState {
            environment: "production".into(),
            service: "web".into(),
            epoch: Epoch(1),
            rules: Vec::new(),
            targets: self.targets.clone(),
            fallback: self.fallback.clone(),
            dead_man_at: None,
            restored: self.restored.clone(),
            in_flight: IndexMap::new(),
            newest_observation: self.sequence,
        }
    }

    pub fn give(&mut self, input: Input) {
        self.story.push(format!("{} <- {}", self.clock(), short_input(&input)));
        let before = self.machine.status();
        let actions = self.machine.handle(input, self.now);
        let after = self.machine.status();
        if before != after {
            assert!(leads_to(before, after), "{before} -> {after}");
            self.statuses.push(after);
        }
        if actions.iter().any(|a| matches!(a, Action::Shift { percent: 0, .. })) {
            self.queue.retain(|a| matches!(a, Action::Record { .. } | Action::Quarantine { .. }));
        }
        for action in actions {
            let words = short_action(&action);
            self.story.push(format!("          -> {words}"));
            self.queue.push_back(action);
        }
    }

    fn clock(&self) -> String {
        format!("{:>7.1}s", (self.now.0 - 1_000_000) as f64 / 1_000.0)
    }

    /// Performs the next action; whether there was one. `well`: it works, where it can.
    pub fn perform(&mut self, well: bool) -> bool {
        let Some(action) = self.queue.pop_front() else { return false };
        assert!(self.finished.is_none(), "after the end: {action:?}");
        match action {
            Action::Start { instance, release } => self.start(instance, release, well),
            Action::AwaitReady { instance } => self.climb(&instance, well),
            Action::Shift { number, percent, targets, hosts, fallback, dead_man } => {
                self.shift((number, percent), targets, hosts.as_deref(), fallback, dead_man, well);
            }
            Action::StandBy { targets, fallback } if well && !self.is_router_broken => {
                for target in &targets {
                    let (release, _, ready) = &self.instances[&target.instance];
                    assert!(*ready, "{} stands by without having been ready", target.instance);
                    assert_eq!(target.weight > 0, release.id != self.new_release());
                }
                let serve: Vec<Target> = targets.into_iter().filter(|t| t.weight > 0).collect();
                self.elsewhere.values_mut().for_each(|targets| targets.clone_from(&serve));
                (self.targets, self.fallback, self.dead_man, self.restored) = (serve, fallback, false, None);
                self.is_standing_by = true;
                self.give(Input::StandingBy);
            }
            Action::StandBy { .. } => self.give(Input::StandByFailed { reason: "refused".into() }),
            Action::Interrupt { .. } if well && !self.is_router_broken => {
                (self.targets, self.fallback, self.dead_man, self.restored) = (Vec::new(), Vec::new(), false, None);
                self.give(Input::Interrupted);
            }
            Action::Interrupt { .. } => self.give(Input::InterruptFailed { reason: "refused".into() }),
            Action::Record { .. } => {}
            Action::LookAtGpus => self.tell_gpus(true),
            Action::Quarantine { host, .. } => {
                if !self.quarantined.contains(&host) {
                    self.quarantined.push(host);
                }
                assert!(self.quarantined.len() < self.hosts.len(), "one is left");
            }
            Action::Drain { instance, .. } => {
                assert!(!self.has_weight(&instance), "drains {instance}, which has weight");
                self.give(Input::Drained { instance, in_flight: u64::from(!well) });
            }
            Action::Retire { instance, .. } => {
                let input = if well {
                    Input::Retired { instance }
                } else {
                    Input::CleanUpFailed { instance, reason: "no disk".into() }
                };
                self.give(input);
            }
            Action::Stop { instance } => {
                assert!(!self.has_weight(&instance), "stops {instance}, which has weight");
                if let Some(known) = self.instances.get_mut(&instance).filter(|_| well) {
                    known.1 = InstanceState::Stopped;
                    self.give(Input::Stopped { instance });
                } else {
                    self.give(Input::CleanUpFailed { instance, reason: "it hangs".into() });
                }
            }
            Action::Finish { status, serves, .. } => self.finish(status, serves),
            Action::At { .. } => panic!("a host alone: {action:?}"),
        }
        true
    }

    fn start(&mut self, instance: InstanceId, release: Release, well: bool) {
        // as many have room as one release has instances, whatever they are called
        let others = self.instances.iter().filter(|(id, known)| **id != instance && known.1 == InstanceState::Running);
        let held: Vec<ReleaseId> = others.map(|(_, known)| known.0.id).collect();
        if self.is_tight && held.len() >= self.machine.spec().service.replicas as usize {
            let reason = "it does not fit beside what serves".into();
            return self.give(if held.iter().all(|id| *id == release.id) {
                Input::NotReady { instance, reason }
            } else {
                Input::NoRoom { instance, reason }
            });
        }
        if well {
            self.instances.entry(instance.clone()).or_insert((release, InstanceState::Running, false));
            self.give(Input::Started { instance });
        } else {
            self.give(Input::NotReady { instance, reason: "the artifact is gone".into() });
        }
    }

    fn climb(&mut self, instance: &InstanceId, well: bool) {
        let known = self.instances.get_mut(instance).expect("only what was started climbs");
        if well && known.1 == InstanceState::Running {
            known.2 = true;
            self.give(Input::Ready { instance: instance.clone() });
        } else {
            self.give(Input::NotReady { instance: instance.clone(), reason: "health: 503".into() });
        }
    }

    fn shift(
        &mut self,
        (number, percent): (u32, u8),
        targets: Vec<Target>,
        hosts: Option<&[String]>,
        fallback: Vec<Target>,
        dead_man: bool,
        well: bool,
    ) {
        for target in &targets {
            let ready = self.instances.get(&target.instance).is_some_and(|(_, _, ready)| *ready);
            assert!(ready || target.weight == 0, "{} gets weight without having been ready", target.instance);
        }
        assert!(!dead_man || !fallback.is_empty(), "nothing to fall back to");
        let usable = |t: &Target| self.instances.get(&t.instance).is_some_and(|i| i.1 == InstanceState::Running);
        let by_router = self.is_router_broken;
        if well && !by_router && targets.iter().chain(&fallback).all(usable) {
            self.is_standing_by = false;
            let first = self.machine.spec().hosts[0].clone();
            let at = |host: &String| match hosts {
                Some(hosts) if !hosts.contains(host) => fallback.clone(),
                _ => targets.clone(),
            };
            self.targets = at(&first);
            self.elsewhere.iter_mut().for_each(|(host, targets)| *targets = at(host));
            (self.fallback, self.dead_man, self.restored) = (fallback, dead_man, None);
            self.give(Input::Shifted { number, percent });
        } else {
            self.give(Input::ShiftFailed { number, percent, by_router, reason: "refused".into() });
        }
    }

    fn finish(&mut self, status: RolloutStatus, serves: Serves) {
        let everywhere = self.targets.iter().chain(self.elsewhere.values().flatten());
        let releases: Vec<i64> =
            everywhere.filter(|t| t.weight > 0).map(|t| self.instances[&t.instance].0.id.0).collect();
        assert!(!self.is_standing_by, "a release that is gone is reached by rules");
        let new = self.machine.spec().release.id.0;
        match serves {
            Serves::New => {
                assert!(!releases.is_empty() && releases.iter().all(|r| *r == new), "not wholly new: {releases:?}")
            }
            Serves::Former => assert!(releases.iter().all(|r| *r != new), "not wholly old: {releases:?}"),
            // only what gives all its traffic to one release, or to none, may be left as it is
            Serves::Unknown => assert!(self.is_tight, "it has to be known what serves"),
        }
        assert_eq!(status == RolloutStatus::Succeeded, serves == Serves::New);
        assert!(status.is_final() && self.machine.is_ended() && !self.dead_man);
        assert_eq!(self.machine.status(), status);
        self.finished = Some((status, serves));
        self.story.push(format!("{}    END {status}, {serves:?} serves", self.clock()));
    }

    /// How many instances run, whatever has the traffic.
    pub fn running(&self) -> usize {
        self.instances.values().filter(|known| known.1 == InstanceState::Running).count()
    }

    pub fn has_weight(&self, instance: &InstanceId) -> bool {
        self.targets.iter().any(|t| t.weight > 0 && t.instance == *instance)
    }

    /// Performs everything that waits, well.
    pub fn settle(&mut self) {
        for _ in 0..1_000 {
            if !self.perform(true) {
                return;
            }
        }
        panic!("the machine never comes to rest:\n{}", self.story.join("\n"));
    }

    pub fn pass(&mut self, seconds: i64) {
        self.now = Timestamp(self.now.0 + seconds * 1_000);
        if self.machine.next_wake().is_some_and(|wake| wake <= self.now) {
            self.give(Input::Tick);
        }
    }

    /// Time goes on to where the machine wants to be woken, if it does.
    pub fn sleep(&mut self) -> bool {
        let Some(wake) = self.machine.next_wake() else { return false };
        self.now = self.now.max(wake);
        self.give(Input::Tick);
        true
    }

    pub fn say(&mut self, command: RolloutCommand) {
        self.give(Input::Command { command, by: Some("ada".into()), word: None });
    }

    /// A word with its number, which may have been told before.
    pub fn tell(&mut self, command: RolloutCommand, word: i64) {
        self.give(Input::Command { command, by: Some("ada".into()), word: Some(word) });
    }

    /// `count` requests spread over the targets by weight, in order; every `fails`-th of the new release's fails.
    pub fn traffic(&mut self, count: u64, fails: Option<u64>) {
        if self.targets.is_empty() {
            return;
        }
        let at_hosts: Vec<Vec<Target>> = [&self.targets].into_iter().chain(self.elsewhere.values()).cloned().collect();
        let mut canaries = 0;
        let observations = (0..count)
            .map(|i| {
                self.sequence += 1;
                let (targets, i) = (&at_hosts[i as usize % at_hosts.len()], i / at_hosts.len() as u64);
                let total: u64 = targets.iter().map(|t| u64::from(t.weight)).sum();
                let mut place = i % total;
                let target = targets.iter().find(|t| {
                    let is_here = place < u64::from(t.weight);
                    place = place.saturating_sub(u64::from(t.weight));
                    is_here
                });
                let target = target.expect("a place below the total");
                let is_new = self.instances[&target.instance].0.id == self.machine.spec().release.id;
                canaries += u64::from(is_new);
                let failed = is_new && fails.is_some_and(|every| canaries % every == 0);
                let at = Timestamp(self.now.0 + i as i64 * 10);
                let probability = f64::from(target.weight) / total as f64;
                Observation { probability, ..observed((self.sequence, i), at, &target.instance, failed) }
            })
            .collect();
        self.give(Input::Observations { observations, lost: 0, next: self.sequence });
    }

    /// Requests of which so many of ten go to the first of two hosts; one in `every` of each host's fails.
    pub fn uneven_traffic(&mut self, count: u64, of_ten: u64, every: u64) {
        let at_hosts = [self.targets[0].clone(), self.elsewhere.values().next().expect("a second host")[0].clone()];
        let mut seen = [0, 0];
        let observations = (0..count).map(|i| {
            self.sequence += 1;
            let host = usize::from(i * 7 % 10 >= of_ten);
            seen[host] += 1;
            let failed = seen[host] % every == 0;
            observed((self.sequence, i), Timestamp(self.now.0 + i as i64), &at_hosts[host].instance, failed)
        });
        let observations = observations.collect();
        self.give(Input::Observations { observations, lost: 0, next: self.sequence });
    }

    /// Requests that the first of two hosts and the second answer in turn; one in `fails` of the first one's fails. One host tells of all of its own
    /// before the other does, or they are told as they happened.
    pub fn hosts_tell(&mut self, count: u64, fails: u64, first: Option<usize>) {
        let at_hosts = [self.targets[0].clone(), self.elsewhere.values().next().expect("a second host")[0].clone()];
        let seen = (0..count).map(|i| {
            self.sequence += 1;
            let host = usize::from(i % 2 == 1);
            let failed = host == 0 && (i / 2) % fails == 0;
            (host, observed((self.sequence, i), Timestamp(self.now.0 + i as i64), &at_hosts[host].instance, failed))
        });
        let mut seen: Vec<(usize, Observation)> = seen.collect();
        if let Some(first) = first {
            seen.sort_by_key(|(host, _)| *host != first);
        }
        let observations = seen.into_iter().map(|(_, seen)| seen).collect();
        self.give(Input::Observations { observations, lost: 0, next: self.sequence });
    }

    /// The dead-man's switch goes off, if it is set; the owner may learn of it.
    pub fn let_dead_man_act(&mut self, is_told: bool) {
        if !self.dead_man {
            return;
        }
        let usable: Vec<Target> = self
            .fallback
            .iter()
            .filter(|t| self.instances.get(&t.instance).is_some_and(|i| i.1 == InstanceState::Running))
            .cloned()
            .collect();
        if !usable.is_empty() {
            self.elsewhere.values_mut().for_each(|targets| targets.clone_from(&usable));
            self.targets = usable;
        }
        self.dead_man = false;
        self.restored = Some(Restored { at: self.now, reason: "dead-man: nobody renewed".into(), epoch: Epoch(1) });
        if is_told {
            let route = self.route();
            self.give(Input::Route { route });
        }
    }

    /// Somebody pulls the emergency brake at the host; the owner learns of it when it next takes over.
    pub fn emergency(&mut self) {
        let back: InstanceId = "emergency".parse().unwrap();
        self.instances.insert(back.clone(), (release(1), InstanceState::Running, true));
        self.targets = vec![Target { instance: back, weight: 1 }];
        self.fallback.clone_from(&self.targets);
        // that host alone
        self.is_standing_by &= !self.elsewhere.is_empty();
        self.dead_man = false;
        self.restored = Some(Restored { at: self.now, reason: "emergency: ada".into(), epoch: Epoch(2) });
        self.claim();
    }

    /// An instance ends for good; new or former.
    pub fn lose(&mut self, is_new: bool) {
        let release = self.machine.spec().release.id;
        for known in self.instances.values_mut().filter(|i| (i.0.id == release) == is_new) {
            known.1 = InstanceState::Failed { reason: "killed".into() };
        }
    }
}

pub fn spec(strategy: Strategy) -> RolloutSpec {
    RolloutSpec {
        release: release(2),
        service: ServiceSpec {
            name: "web".into(),
            command: vec!["./web".into()],
            container: None,
            resources: Default::default(),
            gpus: None,
            env: IndexMap::new(),
            health: Health::default(),
            warm_up: Vec::new(),
            drain: Span::seconds(30),
            keep_warm: Span::seconds(600),
            replicas: 1,
            routes: Vec::new(),
            rules: Vec::new(),
            sticky: None,
            sync: None,
            backup: None,
        },
        environment: "production".into(),
        hosts: vec!["local".into()],
        strategy,
        previous: None,
        is_rollback: false,
        variables: IndexMap::new(),
        sleep_after: None,
        data: None,
        repair: None,
    }
}

fn leads_to(from: RolloutStatus, to: RolloutStatus) -> bool {
    let mut reached = vec![from];
    let mut next = 0;
    while let Some(&at) = reached.get(next) {
        reached.extend(RolloutStatus::ALL.iter().filter(|s| at.transition(**s).is_ok()));
        reached.dedup();
        next += 1;
        if next > 100 {
            break;
        }
    }
    reached.contains(&to)
}

pub fn short_input(input: &Input) -> String {
    match input {
        Input::Claimed { .. } => "claimed".into(),
        Input::Started { instance } => format!("started {instance}"),
        Input::Ready { instance } => format!("ready {instance}"),
        Input::NotReady { instance, reason } => format!("not ready {instance}: {reason}"),
        Input::NoRoom { instance, reason } => format!("no room for {instance}: {reason}"),
        Input::At { host, what } => format!("at {host}: {}", short_input(what)),
        Input::Interrupted => "nobody has traffic".into(),
        Input::InterruptFailed { reason } => format!("the traffic could not be taken: {reason}"),
        Input::StandingBy => "standing by".into(),
        Input::Hosts { hosts } => format!("hosts {}", hosts.join(" ")),
        Input::StandByFailed { reason } => format!("not standing by: {reason}"),
        Input::Shifted { percent, .. } => format!("shifted {percent} %"),
        Input::ShiftFailed { percent, reason, .. } => format!("shift to {percent} % failed: {reason}"),
        Input::Observations { observations, .. } => format!("{} requests", observations.len()),
        Input::Command { command, .. } => format!("{command:?}").to_lowercase(),
        Input::Route { .. } => "route changed by the host".into(),
        Input::Drained { instance, in_flight } => format!("drained {instance}, {in_flight} cut"),
        Input::Retired { instance } => format!("retired {instance}"),
        Input::Stopped { instance } => format!("stopped {instance}"),
        Input::CleanUpFailed { instance, reason } => format!("clean-up of {instance} failed: {reason}"),
        Input::Gpus { reports, is_asked, .. } => {
            let asked = if *is_asked { ", as they were asked" } else { "" };
            let told = reports.iter().map(|(host, report)| format!("{host}: {} Xids", report.xids.len()));
            format!("GPUs of {}{asked}", told.collect::<Vec<_>>().join(", "))
        }
        Input::Tick => "tick".into(),
    }
}

pub fn short_action(action: &Action) -> String {
    let weights = |targets: &[Target]| {
        let all: Vec<String> = targets.iter().map(|t| format!("{}={}", t.instance, t.weight)).collect();
        if all.is_empty() { "nothing".into() } else { all.join(" ") }
    };
    match action {
        Action::Start { instance, release } => format!("start {instance} (release {})", release.id),
        Action::AwaitReady { instance } => format!("await ready {instance}"),
        Action::Shift { percent, targets, hosts, fallback, dead_man, .. } => {
            let hand = if *dead_man { ", dead-man" } else { "" };
            let at = hosts.as_ref().map(|hosts| format!(" at {}", hosts.join(" "))).unwrap_or_default();
            format!("shift {percent} %{at}: {}, fallback {}{hand}", weights(targets), weights(fallback))
        }
        Action::StandBy { targets, fallback } => {
            format!("stand by: {}, fallback {}", weights(targets), weights(fallback))
        }
        Action::Record { kind, detail } => {
            let reason = detail["reason"].as_str().map(|r| format!(": {r}")).unwrap_or_default();
            format!("record {kind:?}{reason}")
        }
        Action::LookAtGpus => "look at the GPUs".into(),
        Action::Quarantine { host, reason, targets, .. } => {
            format!("leave {host} out, {} there: {reason}", weights(targets))
        }
        Action::At { host, what } => format!("at {host}: {}", short_action(what)),
        Action::Interrupt { .. } => "take the traffic from everybody".into(),
        Action::Drain { instance, limit } => format!("drain {instance} for {limit}"),
        Action::Retire { instance, after, .. } => format!("retire {instance} after {after}"),
        Action::Stop { instance } => format!("stop {instance}"),
        Action::Finish { status, serves, .. } => format!("finish {status}, {serves:?} serves"),
    }
}

/// What a host says of its GPUs, of all that was reported where: host, Xid, the instance that it struck.
pub fn gpu_report(host: &str, now: Timestamp, all: &[(String, u32, InstanceId)]) -> GpuReport {
    let of_host = all.iter().enumerate().filter(|(_, (at, ..))| at == host);
    let xids = of_host.map(|(at, (_, code, instance))| {
        let found = xid(*code);
        GpuXid {
            number: at as u64 + 1,
            at: now,
            gpu: "GPU-a".into(),
            code: *code,
            meaning: found.meaning.into(),
            blame: found.blame,
            source: XidSource::Kernel,
            pid: None,
            instances: vec![instance.clone()],
        }
    });
    GpuReport { looked_at: Some(now), xids: xids.collect(), ..GpuReport::default() }
}

/// A request that an instance answered, or failed: its place among all, and among those of its burst. Answers take between 20 and 30 ms, the same
/// ones in each burst.
pub fn observed((sequence, nth): (u64, u64), at: Timestamp, instance: &InstanceId, failed: bool) -> Observation {
    Observation {
        sequence,
        at,
        instance: instance.clone(),
        probability: 1.0,
        status: if failed { 500 } else { 200 },
        outcome: if failed { Outcome::ServerError } else { Outcome::Ok },
        latency_us: 20_000 + (nth * 7_919) % 10_000,
        duration_us: 30_000,
        rule: None,
        attempt: 1,
        unit: None,
        synthetic: false,
    }
}

/// An instance as its host tells of it.
pub fn instance((id, (release, state, _)): (&InstanceId, &(Release, InstanceState, bool))) -> Instance {
    Instance {
        id: id.clone(),
        environment: "production".into(),
        release: release.clone(),
        address: "127.0.0.1:1".into(),
        state: state.clone(),
        pid: None,
        restarts: 0,
        retire_at: None,
        output: String::new(),
        drift: Vec::new(),
        gpu_loss: None,
        gpus: Vec::new(),
    }
}
