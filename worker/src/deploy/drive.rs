//! One rollout, driven: one loop over one closed set of events. Each event is given to the machine, and the actions that
//! it answers with are performed in order.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use segue_pipelines::rollout::{Action, HostFacts, Input, RolloutMachine};
use segue_schemas::{
    deploy::{JournalEntry, JournalKind},
    host_api::{InstanceState, ObservationBatch, RenewDeadMan, RouteState},
    id::InstanceId,
    status::RolloutStatus,
    time::Timestamp,
    worker_api::{RolloutClaim, RolloutHandBack, RolloutReport},
};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Timing,
    hosts::{Host, HostTrouble},
    journal::{self, Journal},
    ladder::{self, Climb},
    lease::{self, Lease, LeaseNews},
    observe,
    perform::{self, Act, Done, Seen},
    place,
    server::{RolloutServer, ServerError},
};

/// How long an act that is under way may go on when this worker stops.
const CLOSING: Duration = Duration::from_secs(2);

/// What may happen to a driver.
enum Event {
    /// The lease: a person's word, or its end.
    Lease(LeaseNews),
    /// The act under way was performed, or could not be.
    Performed(Box<Done>),
    /// A report that no act waited for was sent.
    Reported(RolloutReport, Result<(), ServerError>),
    /// An instance stands on the top of the readiness ladder, or fell.
    Climbed(InstanceId, Result<Climb, HostTrouble>),
    /// Nothing is in flight at an instance any more, or the limit was reached.
    Drained(InstanceId, Result<u64, HostTrouble>),
    /// Observations after a position.
    Observed(u64, Result<ObservationBatch, HostTrouble>),
    /// The dead-man's deadline was put off.
    Renewed(Result<Option<RouteState>, HostTrouble>),
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

/// Why a driver stops before its rollout has ended.
enum Leave {
    /// The lease is another's, or can't be renewed: nothing may be changed, and the server needn't be told.
    Lost(String),
    /// This worker can't go on; another owner, or this one later, can.
    HandBack { why: String, not_before: Duration },
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
    let claim = Arc::new(claim);
    let lease = Lease::begun(lease::boot_ms(), timing.lease);
    let (news, mut lease_news) = mpsc::channel(8);
    let keeper = lease::keep(server.clone(), claim.clone(), lease.clone(), timing.renew, news);
    let _keeper = AbortOnDropHandle::new(tokio::spawn(keeper));
    let begun = Driver::begin(server.clone(), claim.clone(), lease.clone(), timing, leftover).await;
    let (mut driver, begun) = match begun {
        Ok(begun) => begun,
        Err(Leave::HandBack { why, .. }) if out_of_patience(&claim, timing) => {
            return give_up(&*server, &claim, &lease, why).await;
        }
        Err(leave) => {
            let stands = stands(&claim);
            return leave_to_others(&*server, &claim, leave, stands, None).await;
        }
    };
    let ended = match begun {
        Ok(()) => driver.run(&mut lease_news, &shutdown).await,
        Err(leave) => Err(leave),
    };
    match ended {
        Ok(()) => Outcome::Ended,
        Err(leave) => {
            let stands = driver.journal.report(&driver.machine);
            let leftover = driver.leftover();
            leave_to_others(&*server, &claim, leave, stands, leftover).await
        }
    }
}

/// Whether a rollout that has changed nothing yet could not be begun for so long that it is given up. One that has changed
/// something is not: only its host can say what serves, and says it when it is back.
fn out_of_patience(claim: &RolloutClaim, timing: Timing) -> bool {
    let is_untouched = claim.rollout.state.is_none() && claim.rollout.weight == 0;
    let first_tried = claim.journal.iter().find(|entry| entry.kind == JournalKind::Claimed).map(|entry| entry.at);
    is_untouched && first_tried.is_some_and(|at| now().since(at) >= timing.begin_limit)
}

/// Ends a rollout that has changed nothing.
async fn give_up(server: &dyn RolloutServer, claim: &RolloutClaim, lease: &Lease, why: String) -> Outcome {
    let reason = format!("nothing was changed, because the rollout could not begin: {why}");
    let mut journal = Journal::after(claim, "");
    let serves = json!({ "status": RolloutStatus::Failed, "serves": "former", "reason": reason });
    journal.note(JournalKind::Ended, serves);
    let report = RolloutReport {
        entries: journal.into_unsent(),
        status: RolloutStatus::Failed,
        reason: Some(reason.clone()),
        ..stands(claim)
    };
    match journal::send(server, claim, lease, &report).await {
        Ok(()) => Outcome::Ended,
        Err(error) => Outcome::Left { why: error.to_string(), leftover: None },
    }
}

/// Where the rollout stood when it was claimed; the first who could not begin it writes that down.
fn stands(claim: &RolloutClaim) -> RolloutReport {
    let rollout = &claim.rollout;
    let mut journal = Journal::after(claim, "");
    if claim.journal.is_empty() {
        let message = "a worker took the rollout over, but could not begin it";
        journal.note(JournalKind::Claimed, json!({ "message": message }));
    }
    RolloutReport {
        epoch: claim.epoch,
        entries: journal.into_unsent(),
        status: rollout.status,
        weight: rollout.weight,
        stage: rollout.stage,
        reason: rollout.reason.clone(),
        verdict: rollout.verdict.clone(),
        state: rollout.state.clone(),
    }
}

async fn leave_to_others(
    server: &dyn RolloutServer,
    claim: &RolloutClaim,
    leave: Leave,
    stands: RolloutReport,
    leftover: Option<Leftover>,
) -> Outcome {
    let why = match leave {
        Leave::Lost(why) => why,
        Leave::HandBack { why, not_before } => {
            let not_before_ms = millis(not_before);
            let hand_back = RolloutHandBack { epoch: claim.epoch, reason: why.clone(), not_before_ms };
            let report = RolloutReport { reason: Some(why.clone()), ..stands };
            let tell = async {
                // why it does not go on is seen where the rollout is shown; a worker that stops is nobody's concern
                if !not_before.is_zero() {
                    server.report(claim.rollout.id, &report).await?;
                }
                server.hand_back(claim.rollout.id, &hand_back).await
            };
            // where this does not arrive, the lease runs out by itself
            if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(2), tell).await {
                tracing::debug!(rollout = %claim.rollout.id, %error, "the rollout could not be handed back");
            }
            why
        }
    };
    Outcome::Left { why, leftover }
}

struct Driver {
    server: Arc<dyn RolloutServer>,
    claim: Arc<RolloutClaim>,
    host: Host,
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
    /// What the ladder saw of instances that fell, until the machine records it.
    fallen: HashMap<InstanceId, Value>,
    /// When the dead-man's deadline is put off next; none while none is set.
    renew_at: Option<Instant>,
    /// When the state is stored although nothing was decided.
    snapshot_at: Instant,
    snapshot_of: u64,
    /// When it was decided to take the traffic back.
    going_back_since: Option<Instant>,
    /// Whether the machine has said that the rollout is over; set by its `Finish`.
    is_finished: bool,
    /// Until when the act under way may go on after this worker was told to stop.
    closing_until: Option<Instant>,
}

impl Driver {
    /// Takes the rollout over: the machine as it was stored, and what the host carries, make the first actions. A new rollout
    /// and a recovered one go the same way.
    async fn begin(
        server: Arc<dyn RolloutServer>,
        claim: Arc<RolloutClaim>,
        lease: Lease,
        timing: Timing,
        leftover: Option<Leftover>,
    ) -> Result<(Self, Result<(), Leave>), Leave> {
        let rollout = &claim.rollout;
        let host = host_of(&claim, timing).map_err(hand_back_later)?;
        let mut journal = Journal::after(&claim, &host.name);
        let mut state = rollout.state.clone();
        if let Some(leftover) = leftover
            && journal.adopt(leftover.entries)
        {
            state = Some(leftover.state);
        }
        let machine = match state {
            None => RolloutMachine::new(rollout.id, rollout.spec.clone()),
            Some(state) => RolloutMachine::restore(state).map_err(|error| hand_back_later(error.to_string()))?,
        };
        let facts = match host.state().await {
            Ok(state) => HostFacts::of(&state, &rollout.spec.environment, &rollout.spec.service.name),
            Err(trouble) => return Err(left_by(trouble)),
        };
        if let Some(route) = &facts.route
            && route.epoch > claim.epoch
        {
            // an emergency rollback raised it; each claim raises the server's by one, until it is the higher one
            let why = format!("the host has seen epoch {}, this lease has {}", route.epoch, claim.epoch);
            return Err(Leave::HandBack { why, not_before: Duration::ZERO });
        }
        let dead_man = Duration::from_millis(claim.dead_man_ms);
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
            host,
            lease,
            timing,
            dead_man,
            machine,
            journal,
            queue: VecDeque::new(),
            tasks: FuturesUnordered::new(),
            is_busy: false,
            is_polling: false,
            fallen: HashMap::new(),
            renew_at: None,
            snapshot_at: Instant::now() + timing.snapshot,
            snapshot_of: 0,
            going_back_since: None,
            is_finished: false,
            closing_until: None,
        };
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
            Event::Lease(LeaseNews::Command(command, by)) => self.feed(Input::Command { command, by: Some(by) }),
            Event::Lease(LeaseNews::Back) => {}
            Event::Lease(LeaseNews::Lost(why)) => return Err(Leave::Lost(why)),
            Event::Performed(done) => return self.on_performed(*done),
            Event::Reported(report, result) => {
                self.is_busy = false;
                return self.on_reported(&report, result);
            }
            Event::Climbed(instance, climb) => return self.on_climbed(instance, climb),
            Event::Drained(instance, result) => match result {
                Ok(in_flight) => self.feed(Input::Drained { instance, in_flight }),
                Err(HostTrouble::Refused(_)) => self.feed(Input::Drained { instance, in_flight: 0 }),
                Err(trouble) => return Err(left_by(trouble)),
            },
            Event::Observed(after, batch) => self.on_observed(after, batch),
            Event::Renewed(renewed) => return self.on_renewed(renewed),
            Event::Time => self.on_time(),
            Event::Shutdown => self.closing_until = Some(Instant::now() + CLOSING),
        }
        Ok(())
    }

    fn on_performed(&mut self, done: Done) -> Result<(), Leave> {
        self.is_busy = false;
        if let Some(report) = &done.reported {
            self.journal.sent(report);
        }
        match done.seen {
            Seen::NotBegun(error) => return Err(lost_by(error)),
            Seen::Trouble(trouble) => return self.on_trouble(done.act, trouble),
            Seen::Instance(instance) => match &done.act {
                Act::Start(start) => match &instance.state {
                    InstanceState::Failed { reason } => {
                        let reason = format!("it could not be started: {reason}");
                        self.feed(Input::NotReady { instance: start.instance.clone(), reason });
                    }
                    _ => {
                        let message = format!("instance {} is started on {}", instance.id, instance.address);
                        let detail = json!({ "message": message, "instance": instance.id, "address": instance.address,
                            "pid": instance.pid, "output": instance.output });
                        self.journal.note(JournalKind::Started, detail);
                        self.feed(Input::Started { instance: start.instance.clone() });
                    }
                },
                Act::Retire(id, retire) => {
                    let after = Duration::from_millis(retire.after_ms);
                    let message = format!("instance {id} stays warm for {after:?}; then its host drains and stops it");
                    let detail = json!({ "message": message, "instance": id, "retire_at": instance.retire_at });
                    self.journal.note(JournalKind::Retired, detail);
                    self.feed(Input::Retired { instance: id.clone() });
                }
                Act::Stop(id, _) => {
                    let detail = json!({ "message": format!("instance {id} is stopped"), "instance": id });
                    self.journal.note(JournalKind::Retired, detail);
                    self.feed(Input::Stopped { instance: id.clone() });
                }
                Act::Shift { .. } => {}
            },
            Seen::Route(route) => {
                if let Act::Shift { percent, apply } = &done.act {
                    let percent = *percent;
                    self.renew_at = apply.dead_man_ms.map(|_| Instant::now() + self.dead_man / 3);
                    let back_us = self.going_back_since.filter(|_| percent == 0).map(|since| micros(since.elapsed()));
                    let message = match back_us {
                        Some(us) => format!("traffic is back {:.1} ms after the decision", us as f64 / 1000.0),
                        None => format!("{percent} % of the traffic goes to release {}", self.release()),
                    };
                    let detail = json!({ "message": message, "weight": percent, "targets": route.targets,
                        "numbers": { "took_us": micros(done.took), "traffic_back_us": back_us } });
                    self.journal.note(JournalKind::Shifted, detail);
                    self.feed(Input::Shifted { percent });
                }
            }
        }
        Ok(())
    }

    /// The host could not or would not.
    fn on_trouble(&mut self, act: Act, trouble: HostTrouble) -> Result<(), Leave> {
        let HostTrouble::Refused(reason) = trouble else { return Err(left_by(trouble)) };
        match act {
            Act::Start(start) => self.feed(Input::NotReady { instance: start.instance, reason }),
            Act::Shift { percent, .. } => self.feed(Input::ShiftFailed { percent, reason }),
            Act::Retire(instance, _) | Act::Stop(instance, _) => self.feed(Input::CleanUpFailed { instance, reason }),
        }
        Ok(())
    }

    fn on_reported(&mut self, report: &RolloutReport, result: Result<(), ServerError>) -> Result<(), Leave> {
        match result {
            Ok(()) => {
                self.journal.sent(report);
                Ok(())
            }
            Err(error) => Err(lost_by(error)),
        }
    }

    fn on_climbed(&mut self, instance: InstanceId, climb: Result<Climb, HostTrouble>) -> Result<(), Leave> {
        match climb {
            Ok(Ok(ready)) => {
                let ms = ready.latency_us as f64 / 1000.0;
                let message =
                    format!("instance {instance} is ready after {:.1?}; it answers in {ms:.1} ms", ready.took);
                let numbers =
                    json!({ "took_us": micros(ready.took), "tries": ready.tries, "latency_us": ready.latency_us });
                let detail = json!({ "message": message, "instance": instance, "numbers": numbers });
                self.journal.note(JournalKind::Ready, detail);
                self.feed(Input::Ready { instance });
            }
            Ok(Err(fell)) => {
                self.fallen.insert(instance.clone(), fell.seen);
                self.feed(Input::NotReady { instance, reason: fell.message });
            }
            Err(HostTrouble::Refused(reason)) => self.feed(Input::NotReady { instance, reason }),
            Err(trouble) => return Err(left_by(trouble)),
        }
        Ok(())
    }

    fn on_observed(&mut self, after: u64, batch: Result<ObservationBatch, HostTrouble>) {
        self.is_polling = false;
        match batch {
            Ok(batch) if after == self.machine.observed_until() => {
                let ObservationBatch { observations, next, lost } = batch;
                self.feed(Input::Observations { observations, lost, next });
            }
            Ok(_) => {}
            // the acts and renewals tell what a host that is away means; here it only means that nothing is seen
            Err(trouble) => tracing::warn!(rollout = %self.claim.rollout.id, %trouble, "no observations"),
        }
    }

    fn on_renewed(&mut self, renewed: Result<Option<RouteState>, HostTrouble>) -> Result<(), Leave> {
        match renewed {
            Ok(route) => {
                self.renew_at = self.renew_at.map(|_| Instant::now() + self.dead_man / 3);
                if let Some(route) = route {
                    self.feed(Input::Route { route });
                }
                Ok(())
            }
            Err(trouble @ HostTrouble::Stale(_)) => Err(left_by(trouble)),
            Err(trouble) => {
                tracing::warn!(rollout = %self.claim.rollout.id, %trouble, "the dead-man's deadline can't be put off");
                self.renew_at = self.renew_at.map(|_| Instant::now() + self.dead_man / 10);
                Ok(())
            }
        }
    }

    fn on_time(&mut self) {
        let now = now();
        if self.machine.next_wake().is_some_and(|wake| wake <= now) {
            self.feed(Input::Tick);
        }
    }

    /// Gives the machine what happened and takes its actions, in order after those that wait. The traffic's way back takes the
    /// place of all that waits but records.
    fn feed(&mut self, input: Input) {
        let actions = self.machine.handle(input, now());
        let goes_back = actions.iter().any(|action| matches!(action, Action::Shift { percent: 0, .. }));
        if goes_back {
            self.going_back_since.get_or_insert_with(Instant::now);
            self.queue.retain(|waiting| matches!(waiting, Action::Record { .. }));
        }
        self.queue.extend(actions);
    }

    /// Begins what can be begun: everything up to the next act, then that act; where nothing waits, what the server does not have
    /// yet is sent.
    fn advance(&mut self) -> Result<(), Leave> {
        while !self.is_busy && self.closing_until.is_none() {
            let Some(action) = self.queue.pop_front() else { break };
            self.begin_action(action)?;
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
        self.keep_alive();
        Ok(())
    }

    fn begin_action(&mut self, action: Action) -> Result<(), Leave> {
        match action {
            Action::Record { kind, detail } => {
                let detail = self.enrich(kind, detail);
                self.journal.note(kind, detail);
            }
            Action::AwaitReady { instance } => {
                let (host, claim) = (self.host.clone(), self.claim.clone());
                self.tasks.push(Box::pin(async move {
                    let climb = ladder::climb(&host, &instance, &claim.rollout.spec.service).await;
                    Event::Climbed(instance, climb)
                }));
            }
            Action::Drain { instance, limit } => {
                let host = self.host.clone();
                self.tasks.push(Box::pin(async move {
                    let drained = host.drain(&instance, limit.0).await.map(|drained| drained.in_flight);
                    Event::Drained(instance, drained)
                }));
            }
            Action::Finish { .. } => self.is_finished = true,
            Action::Start { .. } | Action::Shift { .. } | Action::Retire { .. } | Action::Stop { .. } => {
                let (act, intent) = perform::act(&self.claim, action, self.dead_man).map_err(hand_back_later)?;
                self.journal.note(intent.0, intent.1);
                self.perform(act);
            }
        }
        Ok(())
    }

    /// Journal first, then the act.
    fn perform(&mut self, act: Act) {
        self.is_busy = true;
        let report = self.journal.report(&self.machine);
        self.snapshot_of = self.machine.observed_until();
        let (server, claim, host) = (self.server.clone(), self.claim.clone(), self.host.clone());
        let lease = self.lease.clone();
        self.tasks.push(Box::pin(async move {
            Event::Performed(Box::new(perform::perform(&*server, &claim, &lease, &host, report, act).await))
        }));
    }

    fn report(&mut self) {
        self.is_busy = true;
        let report = self.journal.report(&self.machine);
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
        let (host, claim, after) = (self.host.clone(), self.claim.clone(), self.machine.observed_until());
        self.tasks.push(Box::pin(async move {
            let spec = &claim.rollout.spec;
            let batch = observe::next(&host, &spec.environment, &spec.service.name, after).await;
            Event::Observed(after, batch)
        }));
    }

    /// Puts the dead-man's deadline off when it is time, and only under a lease that is certainly valid: a worker that is cut
    /// off from its server lets the host fall back.
    fn keep_alive(&mut self) {
        let is_due = self.renew_at.is_some_and(|at| at <= Instant::now());
        if !is_due || !self.lease.is_valid() || self.closing_until.is_some() {
            return;
        }
        // until the answer comes; at the latest then it is due again
        self.renew_at = Some(Instant::now() + self.dead_man);
        let (host, fence) = (self.host.clone(), place::fence(&self.claim));
        let renew = RenewDeadMan { fence, dead_man_ms: millis(self.dead_man) };
        self.tasks.push(Box::pin(async move { Event::Renewed(observe::put_off(&host, &renew).await) }));
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

/// The host that carries the environment.
fn host_of(claim: &RolloutClaim, timing: Timing) -> Result<Host, String> {
    let spec = &claim.rollout.spec;
    let name = spec.hosts.first().ok_or_else(|| format!("environment `{}` names no host", spec.environment))?;
    let socket = claim.hosts.get(name).ok_or_else(|| {
        format!(
            "host `{name}` of environment `{}` has no address; name it under `hosts` in segue.yaml",
            spec.environment
        )
    })?;
    Ok(Host::new(name, socket, timing.host_patience))
}

fn hand_back_later(why: String) -> Leave {
    Leave::HandBack { why, not_before: Duration::from_secs(30) }
}

fn left_by(trouble: HostTrouble) -> Leave {
    let not_before = match trouble {
        HostTrouble::Stale(_) => Duration::ZERO,
        HostTrouble::Refused(_) | HostTrouble::Away(_) => Duration::from_secs(5),
    };
    Leave::HandBack { why: trouble.to_string(), not_before }
}

fn lost_by(error: ServerError) -> Leave {
    match error {
        ServerError::Stale(_) | ServerError::Away(_) => Leave::Lost(error.to_string()),
        ServerError::Refused(_) => hand_back_later(error.to_string()),
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
