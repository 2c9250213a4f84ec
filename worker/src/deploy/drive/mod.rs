//! One rollout, driven: one loop over one closed set of events. Each event is given to the machine, and the actions that
//! it answers with are performed in order.
//!
//! Comes in: a claim, and then what the lease, the host and the clock bring (`seen.rs`). Goes out: acts at the host, entries
//! of the journal, and at last the word that the rollout has ended or is left to others (`leave.rs`). Never here: what to do
//! next, which is the machine's to say, and how an act is made (`perform.rs`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};
use segue_pipelines::rollout::{
    Action, HostFacts, Input, RolloutMachine,
    fleet::{self, Fleet, OutOfStep},
};
use segue_schemas::{
    deploy::{JournalEntry, JournalKind, Strategy},
    gpu_health::GpuReport,
    host_api::{ObservationBatch, RenewDeadMan, RouteState},
    id::InstanceId,
    status::RolloutStatus,
    time::Timestamp,
    worker_api::{RolloutClaim, RolloutReport},
};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

mod alone;
mod leave;
mod lives;
mod remove;
mod restore;
mod save;
mod seen;
mod sticky;
mod sync;

use leave::{Leave, give_up, hand_back_later, leave_to_others, left_by, out_of_patience, overtaken, stands};
use save::{Saving, Stop};

use super::{
    Timing,
    group::{Answers, Hosts},
    hosts::{Host, HostTrouble},
    journal::{self, Journal},
    ladder::Climb,
    lease::{self, Lease, LeaseNews, Told},
    observe,
    perform::{self, Act, Done},
    place,
    server::{RolloutServer, ServerError},
};

/// How long an act that is under way may go on when this worker stops.
const CLOSING: Duration = Duration::from_secs(2);

/// How long it may take to say how GPUs are before anything is started: where a container has to be started for it, on a machine whose driver sleeps,
/// more than a minute. A host that has not said so by then is asked again while the rollout goes on.
const GPU_BASELINE_LIMIT: Duration = Duration::from_secs(120);

/// The same while a release without traffic waits for it: as long as a tool that hangs takes to be given up, also in a container that has to be
/// removed and whose follower hangs as it is started, after another look that hung.
const GPU_LOOK_LIMIT: Duration = Duration::from_secs(240);

/// How long a host holds its answer back while there is nothing new of its GPUs.
const GPU_NEWS_WAIT: Duration = Duration::from_secs(10);

/// The pause after one that did not come.
const GPU_NEWS_PAUSE: Duration = Duration::from_secs(2);

/// What may happen to a driver.
enum Event {
    /// The lease: a person's word, or its end.
    Lease(LeaseNews),
    /// The act under way was performed, or could not be.
    Performed(Box<Done>),
    /// A report that no act waited for was sent.
    Reported(RolloutReport, Result<(), ServerError>),
    /// An instance stands on the top of the readiness ladder, or fell.
    Climbed(Option<String>, InstanceId, Result<Climb, HostTrouble>),
    /// Nothing is in flight at an instance any more, or the limit was reached.
    Drained(Option<String>, InstanceId, Result<u64, HostTrouble>),
    /// Observations after a position.
    Observed(u64, Result<ObservationBatch, HostTrouble>),
    /// How the GPUs of a host are.
    Gpus(String, Result<GpuReport, HostTrouble>),
    Lives(String, Result<lives::Lives, HostTrouble>),
    /// How those of all are that have said so, as it was asked for.
    GpusNow(Answers<GpuReport>),
    /// The dead-man's deadline was put off.
    Renewed(Result<Answers<RouteState>, HostTrouble>),
    /// The machine wants to be woken, the deadline wants to be put off, or a snapshot is due.
    Time,
    /// This worker stops.
    Shutdown,
}

/// How a driver ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The rollout has ended, and the server knows.
    Ended,
    /// Another owner drives it, or may from now on.
    Left {
        /// Why.
        why: String,
        /// What the server could not be told, for the next driver in this process.
        leftover: Option<Leftover>,
    },
}

/// What was done and decided while the server was away.
#[derive(Debug)]
pub(super) struct Leftover {
    state: Value,
    entries: Vec<JournalEntry>,
}

/// Drives a claimed rollout until it has ended, is lost, or is to be left to others.
///
/// Dropping the future stops everything at once: it is the same to the rollout as the death of the worker.
pub(super) async fn drive(
    server: Arc<dyn RolloutServer>,
    claim: RolloutClaim,
    timing: Timing,
    leftover: Option<Leftover>,
    shutdown: CancellationToken,
) -> Outcome {
    let lease = Lease::begun(lease::boot_ms(), timing.lease);
    let (news, mut lease_news) = mpsc::channel(8);
    let keeper = lease::keep(server.clone(), Arc::new(claim.clone()), lease.clone(), timing.renew, news);
    let _keeper = AbortOnDropHandle::new(tokio::spawn(keeper));
    if claim.rollout.spec.strategy == Strategy::Remove {
        // where this worker stops meanwhile, the lease runs out, and the next owner asks for the same
        return remove::drive(&*server, &claim, &lease, timing).await;
    }
    let mut saving = Saving::new(&*server, claim, &lease, timing, &mut lease_news, &shutdown);
    if let Strategy::Restore { backup } = saving.claim.rollout.spec.strategy.clone() {
        let restored = saving.restore(&backup).await;
        return match restored {
            Ok(()) => Outcome::Ended,
            Err(stop) => not_begun(&*server, &saving.claim, &lease, timing, stop).await,
        };
    }
    if let Strategy::Sync(sync) = saving.claim.rollout.spec.strategy.clone() {
        let outcome = match saving.sync(&sync).await {
            Ok(()) => Outcome::Ended,
            Err(stop) => not_begun(&*server, &saving.claim, &lease, timing, stop).await,
        };
        if matches!(outcome, Outcome::Ended) {
            saving.drop_copies(&sync).await;
        }
        return outcome;
    }
    if let Err(stop) = sticky::refuse_older_hosts(&saving.claim, timing).await {
        return not_begun(&*server, &saving.claim, &lease, timing, stop).await;
    }
    let saved = saving.before().await;
    let claim = Arc::new(saving.claim);
    if let Err(stop) = saved {
        return not_begun(&*server, &claim, &lease, timing, stop).await;
    }
    let begun = Driver::begin(server.clone(), claim.clone(), lease.clone(), timing, leftover, &shutdown).await;
    let (mut driver, begun) = match begun {
        Ok(begun) => begun,
        Err(leave) => return not_begun(&*server, &claim, &lease, timing, Stop::Leave(leave)).await,
    };
    let ended = match begun {
        Ok(()) => driver.run(&mut lease_news, &shutdown).await,
        Err(leave) => Err(leave),
    };
    match ended {
        Ok(()) => Outcome::Ended,
        Err(leave) => {
            let leave = after_telling(&*server, &claim, timing, leave).await;
            let stands = driver.stands();
            let leftover = driver.leftover();
            leave_to_others(&*server, &claim, leave, stands, leftover).await
        }
    }
}

/// Leaves a rollout that could not begin to others, or ends it.
async fn not_begun(
    server: &dyn RolloutServer,
    claim: &RolloutClaim,
    lease: &Lease,
    timing: Timing,
    stop: Stop,
) -> Outcome {
    let leave = match stop {
        Stop::End(end) => return give_up(server, claim, lease, end).await,
        Stop::Leave(leave) => after_telling(server, claim, timing, leave).await,
    };
    let why = leave.why();
    if leave.is_hand_back()
        && let Some(end) = out_of_patience(claim, timing, &why)
    {
        return give_up(server, claim, lease, end).await;
    }
    let stands = stands(claim, &why);
    leave_to_others(server, claim, leave, stands, None).await
}

async fn after_telling(server: &dyn RolloutServer, claim: &RolloutClaim, timing: Timing, leave: Leave) -> Leave {
    match (leave, hosts_of(claim, timing)) {
        (Leave::Overtaken(why), Ok((hosts, _))) => overtaken(server, &Hosts::unknown(hosts), why).await,
        (leave, _) => leave,
    }
}

struct Driver {
    server: Arc<dyn RolloutServer>,
    claim: Arc<RolloutClaim>,
    hosts: Hosts,
    lease: Lease,
    timing: Timing,
    dead_man: Duration,
    machine: RolloutMachine,
    journal: Journal,
    /// Decided and not begun, in order.
    queue: VecDeque<Action>,
    /// What is under way: at most one act or report, and what does not keep others waiting.
    tasks: FuturesUnordered<BoxFuture<'static, Event>>,
    /// Whether an act or a report is under way.
    is_busy: bool,
    is_polling: bool,
    /// The report of each host's GPUs that was seen last, and the hosts that are asked for another one.
    gpus_seen: BTreeMap<String, u64>,
    gpus_asked: BTreeSet<String>,
    /// The same of the news of each host's instances.
    lives_seen: BTreeMap<String, u64>,
    lives_asked: BTreeSet<String>,
    /// How often each new instance had ended by itself when that was noted.
    falls_told: BTreeMap<(String, InstanceId), u32>,
    /// The hosts that the machine knows to take part.
    hosts_told: Vec<String>,
    /// What the ladder saw of instances that fell, until the machine records it.
    fallen: HashMap<InstanceId, Value>,
    /// When the dead-man's deadline is put off next; none while none is set.
    renew_at: Option<Instant>,
    /// When that was last begun: from then on the hosts count.
    renewing_since: Instant,
    /// When the state is stored although nothing was decided.
    snapshot_at: Instant,
    snapshot_of: u64,
    /// When it was decided to take the traffic back.
    going_back_since: Option<Instant>,
    /// Whether the machine has said that the rollout is over; set by its `Finish`.
    is_finished: bool,
    /// How it stood before the machine came to its end. After the word of an end the server takes no entry, and some acts may follow.
    status_before: RolloutStatus,
    /// Until when the act under way may go on after this worker was told to stop.
    closing_until: Option<Instant>,
}

impl Driver {
    /// Takes the rollout over: the machine as it was stored, and what the hosts carry, make the first actions. A new rollout
    /// and a recovered one go the same way.
    async fn begin(
        server: Arc<dyn RolloutServer>,
        claim: Arc<RolloutClaim>,
        lease: Lease,
        timing: Timing,
        leftover: Option<Leftover>,
        shutdown: &CancellationToken,
    ) -> Result<(Self, Result<(), Leave>), Leave> {
        let rollout = &claim.rollout;
        let hosts = hosts_of(&claim, timing).map_err(hand_back_later)?;
        let only = claim.rollout.spec.hosts.first().filter(|_| claim.rollout.spec.hosts.len() == 1);
        let mut journal = Journal::after(&claim, only.map(String::as_str));
        let mut state = rollout.state.clone();
        if let Some(leftover) = leftover
            && journal.adopt(leftover.entries)
        {
            state = Some(leftover.state);
        }
        let machine = match state {
            None => {
                let mut spec = rollout.spec.clone();
                spec.service.replicas = fleet::share(spec.service.replicas, spec.hosts.len());
                RolloutMachine::new(rollout.id, spec)
            }
            Some(state) => RolloutMachine::restore(state).map_err(|error| hand_back_later(error.to_string()))?,
        };
        let (hosts, facts) = take_stock(hosts, &claim, &machine).await?;
        let dead_man = Duration::from_millis(claim.dead_man_ms);
        let hosts_told = hosts.names();
        let status_before = rollout.status;
        journal.note(
            JournalKind::Claimed,
            json!({
                "message": format!("a worker took the rollout over, epoch {}", claim.epoch),
                "instances": facts.instances.iter().map(|i| &i.id).collect::<Vec<_>>(),
            }),
        );
        let mut driver = Self {
            server,
            claim,
            hosts,
            lease,
            timing,
            dead_man,
            machine,
            journal,
            queue: VecDeque::new(),
            tasks: FuturesUnordered::new(),
            is_busy: false,
            is_polling: false,
            gpus_seen: BTreeMap::new(),
            gpus_asked: BTreeSet::new(),
            lives_seen: BTreeMap::new(),
            lives_asked: BTreeSet::new(),
            falls_told: BTreeMap::new(),
            hosts_told,
            fallen: HashMap::new(),
            renew_at: None,
            renewing_since: Instant::now(),
            snapshot_at: Instant::now() + timing.snapshot,
            snapshot_of: 0,
            going_back_since: None,
            is_finished: false,
            status_before,
            closing_until: None,
        };
        // a way back waits for nobody
        let is_urgent = driver.claim.rollout.spec.is_rollback;
        if driver.machine.watches_gpus() && driver.machine.knows_no_gpus() && !is_urgent {
            // what is so before anything is started is no release's
            let reports = tokio::select! {
                reports = driver.hosts.gpus_now(GPU_BASELINE_LIMIT) => reports,
                () = shutdown.cancelled() => {
                    return Err(Leave::HandBack { why: "its worker stops".into(), not_before: Duration::ZERO });
                }
            };
            let hosts = driver.hosts.names();
            driver.feed(Input::Gpus { reports, hosts, is_asked: false });
        }
        driver.feed(Input::Claimed { facts });
        let begun = driver.advance();
        Ok((driver, begun))
    }

    async fn run(
        &mut self,
        lease_news: &mut mpsc::Receiver<LeaseNews>,
        shutdown: &CancellationToken,
    ) -> Result<(), Leave> {
        loop {
            if self.is_finished && !self.is_busy && !self.journal.has_news() {
                return Ok(());
            }
            if self.closing_until.is_some_and(|until| !self.is_busy || until <= Instant::now()) {
                return Err(Leave::HandBack { why: "its worker stops".into(), not_before: Duration::ZERO });
            }
            let wake = self.wake();
            let event = tokio::select! {
                biased;
                Some(news) = lease_news.recv() => Event::Lease(news),
                Some(event) = self.tasks.next(), if !self.tasks.is_empty() => event,
                () = shutdown.cancelled(), if self.closing_until.is_none() => Event::Shutdown,
                () = sleep_until(wake) => Event::Time,
            };
            self.on(event)?;
            self.advance()?;
        }
    }

    /// Translates an event into what the machine takes in.
    fn on(&mut self, event: Event) -> Result<(), Leave> {
        match event {
            // the server tells it again until the journal has it, and it means the same once
            Event::Lease(LeaseNews::Command(told)) if self.is_on_its_way(&told) => {}
            Event::Lease(LeaseNews::Command(Told { command, by, word })) => {
                self.feed(Input::Command { command, by: Some(by), word });
            }
            Event::Lease(LeaseNews::Back) => {}
            Event::Lease(LeaseNews::Access(access)) => self.hosts.renew_access(&access),
            Event::Lease(LeaseNews::Lost(why)) => return Err(Leave::Lost(why)),
            Event::Performed(done) => return self.on_performed(*done),
            Event::Reported(report, result) => {
                self.is_busy = false;
                return self.on_reported(&report, result);
            }
            Event::Climbed(at, instance, climb) => return self.on_climbed(at, instance, climb),
            Event::Drained(at, instance, result) => {
                let in_flight = match result {
                    Ok(in_flight) => in_flight,
                    Err(HostTrouble::Refused(_)) => 0,
                    Err(trouble) => return self.left_at(at, trouble),
                };
                self.feed_at(at, Input::Drained { instance, in_flight });
            }
            Event::Observed(after, batch) => self.on_observed(after, batch),
            Event::Gpus(host, report) => self.on_gpus(host, report),
            Event::Lives(host, lives) => self.on_lives(&host, lives),
            Event::GpusNow(reports) => {
                let hosts = self.hosts.names();
                self.feed(Input::Gpus { reports, hosts, is_asked: true });
            }
            Event::Renewed(renewed) => return self.on_renewed(renewed),
            Event::Time => self.on_time(),
            Event::Shutdown => self.closing_until = Some(Instant::now() + CLOSING),
        }
        Ok(())
    }

    /// Whether the server is to hear yet that a person's word was taken in.
    fn is_on_its_way(&self, told: &Told) -> bool {
        let Told { command, by, word } = told;
        let is_it = |kind: JournalKind, detail: &Value| {
            let is_same = detail["command"] == json!(command) && detail["by"] == *by;
            kind == JournalKind::Command && is_same && detail["word"].as_i64() == *word
        };
        let waits = |action: &Action| matches!(action, Action::Record { kind, detail } if is_it(*kind, detail));
        self.queue.iter().any(waits) || self.journal.unsent().iter().any(|entry| is_it(entry.kind, &entry.detail))
    }

    fn on_time(&mut self) {
        let now = now();
        if self.machine.next_wake().is_some_and(|wake| wake <= now) {
            self.feed(Input::Tick);
        }
    }

    /// Gives the machine what happened and takes its actions, in order after those that wait. The traffic's way back takes the
    /// place of all that waits but records, and hosts that are left out.
    fn feed(&mut self, input: Input) {
        let actions = self.machine.handle(input, now());
        if actions.iter().any(|action| matches!(action, Action::Shift { percent: 1.., .. })) {
            self.going_back_since = None;
        }
        let goes_back = actions.iter().any(|action| matches!(action, Action::Shift { percent: 0, .. }));
        if goes_back {
            self.going_back_since.get_or_insert_with(Instant::now);
            self.queue.retain(|waiting| matches!(waiting, Action::Record { .. } | Action::Quarantine { .. }));
        }
        self.take_back_alone(&actions);
        self.keep_to_turns();
        if !self.machine.is_ended() {
            self.status_before = self.machine.status();
        }
        self.queue.extend(actions);
    }

    /// Begins what can be begun: everything up to the next act, then that act; where nothing waits, what the server does not have
    /// yet is sent.
    fn advance(&mut self) -> Result<(), Leave> {
        for OutOfStep { host, reason } in self.hosts.take_left_out() {
            let message = format!("host `{host}` takes no part any more: {reason}");
            self.journal.note_of(JournalKind::Quarantined, Some(host), json!({ "message": message, "reason": reason }));
        }
        let hosts = self.hosts.names();
        if hosts != self.hosts_told {
            self.hosts_told.clone_from(&hosts);
            self.feed(Input::Hosts { hosts });
        }
        while !self.is_busy && self.closing_until.is_none() {
            let Some(action) = self.queue.pop_front() else { break };
            match action {
                Action::At { host, what } => self.begin_alone(host, *what)?,
                action => self.begin_action(None, action)?,
            }
        }
        let snapshot_is_due = Instant::now() >= self.snapshot_at;
        if snapshot_is_due {
            self.snapshot_at = Instant::now() + self.timing.snapshot;
        }
        let has_seen_more = self.machine.observed_until() != self.snapshot_of;
        if !self.is_busy && (self.journal.has_news() || (snapshot_is_due && has_seen_more)) {
            self.report();
        }
        self.keep_watching();
        self.keep_watching_gpus();
        self.keep_watching_lives();
        self.keep_alive();
        Ok(())
    }

    /// `at`: at that host alone.
    fn begin_action(&mut self, at: Option<String>, action: Action) -> Result<(), Leave> {
        // what is asked of one that takes no part any more is forgotten
        let Some(hosts) = self.hosts_at(at.as_deref()) else { return Ok(()) };
        match action {
            Action::Record { kind, detail } => {
                let detail = self.enrich(kind, detail);
                self.note_at(at.as_ref(), kind, detail);
            }
            Action::AwaitReady { instance } => {
                let claim = self.claim.clone();
                self.tasks.push(Box::pin(async move {
                    let climb = hosts.climb(&instance, &claim.rollout.spec.service).await;
                    Event::Climbed(at, instance, climb)
                }));
            }
            Action::At { .. } => {}
            // it is left out already
            Action::Quarantine { host, .. } if !self.hosts.names().contains(&host) => {}
            Action::LookAtGpus => {
                self.tasks.push(Box::pin(async move { Event::GpusNow(hosts.gpus_now(GPU_LOOK_LIMIT).await) }));
            }
            Action::Drain { instance, limit } => {
                self.tasks.push(Box::pin(async move {
                    let drained = hosts.drain(&instance, limit.0).await;
                    Event::Drained(at, instance, drained)
                }));
            }
            Action::Finish { .. } => self.is_finished = true,
            Action::Start { .. }
            | Action::Shift { .. }
            | Action::StandBy { .. }
            | Action::Interrupt { .. }
            | Action::Quarantine { .. }
            | Action::Retire { .. }
            | Action::Stop { .. } => {
                let (act, intent) = perform::act(&self.claim, action, self.dead_man).map_err(hand_back_later)?;
                match &act {
                    Act::Quarantine { host, .. } => self.journal.note_of(intent.0, Some(host.clone()), intent.1),
                    _ => self.note_at(at.as_ref(), intent.0, intent.1),
                }
                self.perform(hosts, at, act);
            }
        }
        Ok(())
    }

    /// Journal first, then the act.
    fn perform(&mut self, hosts: Hosts, at: Option<String>, act: Act) {
        self.is_busy = true;
        let report = self.stands();
        self.snapshot_of = self.machine.observed_until();
        let (server, claim, lease) = (self.server.clone(), self.claim.clone(), self.lease.clone());
        self.tasks.push(Box::pin(async move {
            Event::Performed(Box::new(perform::perform(&*server, &claim, &lease, (&hosts, at), report, act).await))
        }));
    }

    /// Everything that the server does not have yet, and where the rollout stands.
    fn stands(&self) -> RolloutReport {
        let report = self.journal.report(&self.machine);
        let is_over = self.is_finished || !self.machine.is_ended();
        if is_over { report } else { RolloutReport { status: self.status_before, ..report } }
    }

    fn report(&mut self) {
        self.is_busy = true;
        let report = self.stands();
        self.snapshot_of = self.machine.observed_until();
        let (server, claim, lease) = (self.server.clone(), self.claim.clone(), self.lease.clone());
        self.tasks.push(Box::pin(async move {
            let result = journal::send(&*server, &claim, &lease, &report).await;
            Event::Reported(report, result)
        }));
    }

    /// Asks for observations while the machine wants them.
    fn keep_watching(&mut self) {
        if self.is_polling || self.closing_until.is_some() || !self.machine.is_watching() {
            return;
        }
        self.is_polling = true;
        let (hosts, claim, after) = (self.hosts.clone(), self.claim.clone(), self.machine.observed_until());
        self.tasks.push(Box::pin(async move {
            let spec = &claim.rollout.spec;
            let batch = observe::next(&hosts, &spec.environment, &spec.service.name, after).await;
            Event::Observed(after, batch)
        }));
    }

    /// Asks each host for news of its GPUs while the machine wants them.
    fn keep_watching_gpus(&mut self) {
        // of a way back nothing is known on purpose: it waits for nobody, and nobody is blamed
        let is_blind = self.claim.rollout.spec.is_rollback && self.machine.knows_no_gpus();
        if self.closing_until.is_some() || !self.machine.watches_gpus() || is_blind {
            return;
        }
        for name in self.hosts.names() {
            if !self.gpus_asked.insert(name.clone()) {
                continue;
            }
            let (hosts, after) = (self.hosts.clone(), self.gpus_seen.get(&name).copied().unwrap_or(0));
            self.tasks.push(Box::pin(async move {
                let report = hosts.gpus_after(&name, after, GPU_NEWS_WAIT).await;
                if report.is_err() {
                    sleep(GPU_NEWS_PAUSE).await;
                }
                Event::Gpus(name, report)
            }));
        }
    }

    /// Puts the dead-man's deadline off when it is time, and only under a lease that is certainly valid: a worker that is cut
    /// off from its server lets the host fall back.
    fn keep_alive(&mut self) {
        let is_due = self.renew_at.is_some_and(|at| at <= Instant::now());
        if !is_due || !self.lease.is_valid() || self.closing_until.is_some() {
            return;
        }
        // until the answer comes; at the latest then it is due again
        self.renewing_since = Instant::now();
        self.renew_at = Some(self.renewing_since + self.dead_man);
        let (hosts, fence) = (self.hosts.clone(), place::fence(&self.claim));
        let renew = RenewDeadMan { fence, dead_man_ms: millis(self.dead_man) };
        self.tasks.push(Box::pin(async move { Event::Renewed(hosts.put_off(&renew).await) }));
    }

    /// The next moment at which something is due although nothing happens.
    fn wake(&self) -> Instant {
        let mut wake = Instant::now() + Duration::from_secs(60);
        if let Some(at) = self.machine.next_wake() {
            wake = wake.min(Instant::now() + at.since(now()));
        }
        if let Some(at) = self.renew_at
            && self.lease.is_valid()
        {
            wake = wake.min(at);
        }
        if let Some(until) = self.closing_until {
            wake = wake.min(until);
        }
        if !self.is_busy && self.machine.is_watching() && self.machine.observed_until() != self.snapshot_of {
            wake = wake.min(self.snapshot_at);
        }
        wake
    }

    /// Adds to a record of the machine what only the driver saw.
    fn enrich(&mut self, kind: JournalKind, mut detail: Value) -> Value {
        match kind {
            JournalKind::NotReady => {
                let instance = detail["instance"].as_str().and_then(|id| id.parse::<InstanceId>().ok());
                if let Some(seen) = instance.and_then(|id| self.fallen.remove(&id)) {
                    detail["seen"] = seen;
                }
            }
            JournalKind::RolledBack => {
                if let Some(since) = self.going_back_since {
                    detail["numbers"] = json!({ "traffic_back_us": micros(since.elapsed()) });
                }
                detail["weight"] = json!(0);
            }
            _ => {}
        }
        detail
    }

    fn release(&self) -> String {
        self.claim.rollout.spec.release.id.to_string()
    }

    fn leftover(self) -> Option<Leftover> {
        let state = serde_json::to_value(&self.machine).ok()?;
        let entries = self.journal.into_unsent();
        (!entries.is_empty()).then_some(Leftover { state, entries })
    }
}

/// What the hosts carry, as one; and those of them that take part. A host that does not answer is left out where another one does, and at its
/// beginning a rollout goes only to those that serve the same.
async fn take_stock(
    (hosts, mut left_out): (Vec<Host>, Vec<OutOfStep>),
    claim: &RolloutClaim,
    machine: &RolloutMachine,
) -> Result<(Hosts, HostFacts), Leave> {
    let spec = &claim.rollout.spec;
    let (mut facts, mut trouble) = (Vec::new(), None);
    let asked = hosts.iter().map(async |host| (host.name.clone(), host.state().await));
    for (host, answer) in join_all(asked).await {
        match answer {
            Ok(state) => {
                // it may have been away when all were asked; then it was not refused
                if let Some(why) = sticky::why_not(claim, &host, &state) {
                    return Err(hand_back_later(why));
                }
                facts.push((host, HostFacts::of(&state, &spec.environment, &spec.service.name)));
            }
            Err(found) => {
                left_out.push(OutOfStep { host, reason: format!("it does not answer: {found}") });
                trouble = Some(found);
            }
        }
    }
    if facts.is_empty() {
        return Err(trouble.map_or_else(|| hand_back_later("no host takes part any more".into()), left_by));
    }
    for (host, facts) in &facts {
        if let Some(route) = facts.route.as_ref().filter(|route| route.epoch > claim.epoch) {
            let why = format!("host `{host}` has seen epoch {}, this lease has {}", route.epoch, claim.epoch);
            return Err(Leave::Overtaken(why));
        }
    }
    if let ([host], [(_, facts)], 1) = (&hosts[..], &facts[..], spec.hosts.len()) {
        return Ok((Hosts::one(host.clone()), facts.clone()));
    }
    if claim.rollout.state.is_none() {
        let (with, without) = fleet::in_step(&facts, spec.previous.as_ref());
        facts.retain(|(host, _)| with.contains(host));
        left_out.extend(without);
    }
    // one that lost its record has nothing to go back to
    let has_lost = |facts: &HostFacts| {
        facts.is_bare() || facts.route.as_ref().is_none_or(|r| r.targets.is_empty() && r.fallback.is_empty())
    };
    if !machine.former_targets().is_empty() && !machine.has_gap() && facts.iter().any(|(_, facts)| !has_lost(facts)) {
        for (host, _) in facts.extract_if(.., |(_, facts)| has_lost(facts)) {
            left_out.push(OutOfStep { host, reason: "it carries nothing of the service any more".into() });
        }
    }
    let new: Vec<InstanceId> = machine.new_instances().cloned().collect();
    let former = claim.rollout.state.is_some().then(|| machine.former_targets());
    let fleet = Fleet::new(&facts, former, &new);
    let seen = fleet.seen_as_one(&facts);
    Ok((Hosts::new(hosts, fleet, &facts, left_out), seen))
}

/// The hosts that carry the environment, but those that were left out before; and those that nobody can reach, where there are others.
fn hosts_of(claim: &RolloutClaim, timing: Timing) -> Result<(Vec<Host>, Vec<OutOfStep>), String> {
    let spec = &claim.rollout.spec;
    if spec.hosts.is_empty() {
        return Err(format!("environment `{}` names no host", spec.environment));
    }
    let was_left_out = |name: &String| {
        claim.journal.iter().any(|entry| {
            let is_pending = entry.detail["pending"] == true;
            entry.kind == JournalKind::Quarantined && entry.host.as_ref() == Some(name) && !is_pending
        })
    };
    let open = |name: &String| {
        let address = claim.hosts.get(name).ok_or_else(|| {
            format!(
                "host `{name}` of environment `{}` has no address: it is not named under `hosts` in segue.yaml, and has not joined or was \
                 revoked (`segue hosts`)",
                spec.environment
            )
        })?;
        Host::new(name, address, claim.access.as_ref(), timing.host_patience)
    };
    let (mut hosts, mut left_out) = (Vec::new(), Vec::new());
    for name in spec.hosts.iter().filter(|name| !was_left_out(name)) {
        match open(name) {
            Ok(host) => hosts.push(host),
            Err(reason) => left_out.push(OutOfStep { host: name.clone(), reason }),
        }
    }
    match left_out.first() {
        Some(first) if hosts.is_empty() => Err(first.reason.clone()),
        _ => Ok((hosts, left_out)),
    }
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
