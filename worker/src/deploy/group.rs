//! The hosts of a rollout, spoken to as one: each call is made at all of them at once, in each one's own names.
//!
//! Comes in: what the driver wants done, in the machine's names. Goes out: what all of them answered. A host that does not answer within its
//! patience is left out from then on, where another one does; the driver writes that down. Never here: what a host's names are, which is the
//! [`Fleet`]'s to say.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    StreamExt as _,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};
use segue_pipelines::rollout::{
    HostFacts,
    fleet::{Fleet, OutOfStep},
    reduce,
};
use segue_schemas::{
    deploy::ServiceSpec,
    gpu_health::GpuReport,
    host_api::{
        ApplyRoute, HostState, Instance, ObservationBatch, RemoveRoute, Removed, RenewDeadMan, RouteState,
        StopInstance, Target,
    },
    host_join::HostAccess,
    id::InstanceId,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    hosts::{Host, HostTrouble},
    ladder::{self, Climb, NotReady, Ready},
};

/// How long the observations of other hosts are waited for once one has some: else a busy host's would always come first.
const TOGETHER: Duration = Duration::from_millis(10);

/// The hosts that carry a rollout's service.
#[derive(Debug, Clone)]
pub struct Hosts {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    hosts: Vec<Host>,
    fleet: Fleet,
    /// Whether the environment has one host only: positions are its own then.
    is_one: bool,
    left_out: Mutex<LeftOut>,
    cursors: Mutex<Cursors>,
    asked: tokio::sync::Mutex<Asked>,
}

/// What a host saw after a position, or why it can't be known.
type Answered = (String, u64, Result<ObservationBatch, HostTrouble>);

/// Hosts that were asked for observations and have not answered yet: the slow one of two is not asked anew each time that the quick one has some.
#[derive(Default)]
struct Asked {
    hosts: BTreeSet<String>,
    answers: FuturesUnordered<BoxFuture<'static, Answered>>,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// Hosts that take no part any more.
#[derive(Debug, Default)]
struct LeftOut {
    names: BTreeSet<String>,
    /// Those that the driver has not heard of yet.
    news: Vec<OutOfStep>,
}

/// How far each host's observations are known. The driver knows one position, which rises by one with each: a new owner begins with what is
/// newest on each host, and what it can't place is told as lost.
#[derive(Debug, Default)]
struct Cursors {
    /// What the position is more than all of them together.
    ahead: u64,
    known: BTreeMap<String, u64>,
    /// What the last batch leads to, once the driver asks for what follows it.
    next: Option<BTreeMap<String, u64>>,
}

/// What one host answered.
pub type Answers<T> = Vec<(String, T)>;

impl Hosts {
    /// Those that take part, with what they reported.
    #[must_use]
    pub fn new(hosts: Vec<Host>, fleet: Fleet, facts: &[(String, HostFacts)], left_out: Vec<OutOfStep>) -> Self {
        Self::of(hosts, fleet, facts, left_out, false)
    }

    /// The one host of an environment.
    #[must_use]
    pub fn one(host: Host) -> Self {
        Self::of(vec![host], Fleet::default(), &[], Vec::new(), true)
    }

    fn of(
        hosts: Vec<Host>,
        fleet: Fleet,
        facts: &[(String, HostFacts)],
        left_out: Vec<OutOfStep>,
        is_one: bool,
    ) -> Self {
        let newest = |facts: &HostFacts| facts.route.as_ref().map_or(0, |route| route.newest_observation);
        let known = facts.iter().map(|(name, facts)| (name.clone(), newest(facts))).collect();
        let left_out = LeftOut { names: left_out.iter().map(|one| one.host.clone()).collect(), news: left_out };
        let (left_out, cursors) = (Mutex::new(left_out), Mutex::new(Cursors { ahead: 0, known, next: None }));
        Self {
            inner: Arc::new(Inner { hosts, fleet, is_one, left_out, cursors, asked: tokio::sync::Mutex::default() }),
        }
    }

    /// Those of which nothing is known yet, each as it calls things itself.
    #[must_use]
    pub fn unknown(hosts: Vec<Host>) -> Self {
        Self::new(hosts, Fleet::default(), &[], Vec::new())
    }

    /// One of them by itself, spoken to in its own names; `None`: it takes no part.
    #[must_use]
    pub fn alone(&self, name: &str) -> Option<Self> {
        self.present().into_iter().find(|host| host.name == name).map(Self::one)
    }

    /// The host's name, where there is only one.
    #[must_use]
    pub fn only(&self) -> Option<&str> {
        match &self.inner.hosts[..] {
            [host] => Some(&host.name),
            _ => None,
        }
    }

    /// Those that were left out since this was asked last.
    pub fn take_left_out(&self) -> Vec<OutOfStep> {
        std::mem::take(&mut self.left_out().news)
    }

    /// They go by another certificate from now on.
    pub fn renew_access(&self, access: &HostAccess) {
        self.inner.hosts.iter().for_each(|host| host.renew_access(access));
    }

    /// Makes a call at each for itself, none of which waits for another; in words, where one failed or took too long.
    pub async fn each_apart<F>(&self, limit: Duration, call: impl Fn(Host) -> F) -> Vec<Result<(), String>>
    where
        F: Future<Output = Result<(), String>>,
    {
        let calls = self.present().into_iter().map(|host| timeout(limit, call(host)));
        let answers = join_all(calls).await.into_iter();
        answers.map(|answer| answer.unwrap_or_else(|_| Err("no answer in time".into()))).collect()
    }

    /// The names of those that take part.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.present().into_iter().map(|host| host.name).collect()
    }

    /// How a host's GPUs are, in the machine's names, once that is another report than `after`, or `wait` has passed.
    pub async fn gpus_after(&self, name: &str, after: u64, wait: Duration) -> Result<GpuReport, HostTrouble> {
        let host = self.present().into_iter().find(|host| host.name == name);
        let host = host.ok_or_else(|| HostTrouble::Refused(format!("host `{name}` takes no part")))?;
        let report = host.gpus_after(after, wait).await?;
        Ok(self.gpus_in_its_names(name, report))
    }

    /// The number of a host's news and what runs there, in the machine's names, once that is another number than `after`, or `wait` has passed.
    pub async fn instances_after(
        &self,
        name: &str,
        after: Option<u64>,
        wait: Duration,
    ) -> Result<(u64, Vec<Instance>), HostTrouble> {
        let host = self.present().into_iter().find(|host| host.name == name);
        let host = host.ok_or_else(|| HostTrouble::Refused(format!("host `{name}` takes no part")))?;
        let mut state = host.state_after(after, wait).await?;
        for instance in &mut state.instances {
            instance.id = self.inner.fleet.logical(name, &instance.id);
        }
        Ok((state.restorations, state.instances))
    }

    /// How the GPUs of all are now, of those that say so within the limit.
    pub async fn gpus_now(&self, limit: Duration) -> Answers<GpuReport> {
        let asked = self.present().into_iter().map(async |host| {
            let answer = timeout(limit, host.gpus_now(limit)).await;
            (
                host.name.clone(),
                answer.unwrap_or_else(|_| Err(HostTrouble::Away(format!("no answer within {limit:?}")))),
            )
        });
        let mut reports = Vec::new();
        for (name, answer) in join_all(asked).await {
            match answer {
                Ok(report) => {
                    let report = self.gpus_in_its_names(&name, report);
                    reports.push((name, report));
                }
                Err(trouble) => tracing::warn!(host = name, %trouble, "it does not say how its GPUs are"),
            }
        }
        reports
    }

    fn gpus_in_its_names(&self, name: &str, mut report: GpuReport) -> GpuReport {
        let own =
            report.given.iter_mut().map(|(id, _)| id).chain(report.xids.iter_mut().flat_map(|xid| &mut xid.instances));
        for id in own {
            *id = self.inner.fleet.logical(name, id);
        }
        report
    }

    /// Gives a host's traffic to what served there and has the new instances stopped, if it can within the limit, and leaves it out from then on.
    pub async fn quarantine(
        &self,
        name: &str,
        back: Option<&ApplyRoute>,
        (new, stop): (&[InstanceId], &StopInstance),
        limit: Duration,
    ) {
        let host = self.present().into_iter().find(|host| host.name == name);
        // nobody waits for it any more from here on
        self.left_out().names.insert(name.to_owned());
        let Some(host) = host else { return };
        if let Some(apply) = back {
            let fleet = &self.inner.fleet;
            let targets = fleet.own_targets(name, &apply.targets);
            let fallback = fleet.own_targets(name, &apply.fallback);
            let apply = ApplyRoute { targets, fallback, ..apply.clone() };
            let applied = timeout(limit, host.apply_route(&apply)).await;
            let answered = applied.unwrap_or_else(|_| Err(HostTrouble::Away("it does not answer".into())));
            if let Err(trouble) = answered {
                tracing::warn!(host = name, %trouble, "its traffic is left to its dead man's switch");
            }
        }
        // it is begun there, however long their ends take; one that has traffic still is not stopped
        let stopped = timeout(limit, join_all(new.iter().map(|instance| host.stop(instance, stop)))).await;
        for trouble in stopped.into_iter().flatten().filter_map(Result::err) {
            tracing::warn!(host = name, %trouble, "what was started on its GPUs is left there");
        }
    }

    /// What each carries, if the traffic goes everywhere as is asked for already.
    pub(super) async fn standing(&self, asked: &ApplyRoute) -> Option<Answers<RouteState>> {
        let (environment, service, wanted) = (&asked.fence.environment, &asked.fence.service, shares(&asked.targets));
        let mut routes = Vec::new();
        for (host, state) in self.states().await.ok()? {
            match HostFacts::of(&state, environment, service).route {
                Some(route) => routes.push((host, route)),
                // nobody has any there
                None if wanted.is_empty() => {}
                None => return None,
            }
        }
        let routes = self.named(routes);
        routes.iter().all(|(_, route)| shares(&route.targets) == wanted).then_some(routes)
    }

    /// What each carries.
    pub async fn states(&self) -> Result<Answers<HostState>, HostTrouble> {
        self.each(|host| async move { host.state().await }).await
    }

    /// Makes a call for an instance at every host, by its names there. Nothing comes of a host that has none in its place.
    pub async fn of_instance<F>(
        &self,
        instance: &InstanceId,
        call: impl Fn(Host, InstanceId) -> F,
    ) -> Result<Answers<Instance>, HostTrouble>
    where
        F: Future<Output = Result<Instance, HostTrouble>>,
    {
        let fleet = &self.inner.fleet;
        let answers = self.each(|host| {
            let calls: Vec<F> =
                fleet.own(&host.name, instance).into_iter().map(|own| call(host.clone(), own)).collect();
            async move {
                let mut last = None;
                for call in calls {
                    last = Some(call.await?);
                }
                Ok(last)
            }
        });
        Ok(answers.await?.into_iter().filter_map(|(host, instance)| Some((host, instance?))).collect())
    }

    /// Leads an instance up the ladder everywhere.
    pub async fn climb(&self, instance: &InstanceId, service: &ServiceSpec) -> Result<Climb, HostTrouble> {
        let is_one = self.only().is_some();
        let fleet = &self.inner.fleet;
        let climbs = self.each(|host| {
            let own = fleet.own(&host.name, instance);
            async move { join_all(own.iter().map(|own| ladder::climb(&host, own, service))).await.into_iter().collect() }
        });
        let climbs: Answers<Vec<Climb>> = climbs.await?;
        let mut highest: Option<Ready> = None;
        // one that was left out meanwhile says nothing of the release
        let present = self.names();
        let climbs = climbs.into_iter().filter(|(host, _)| present.contains(host));
        for (host, climb) in climbs.flat_map(|(host, all)| all.into_iter().map(move |one| (host.clone(), one))) {
            match climb {
                Err(fell) if is_one => return Ok(Err(fell)),
                Err(fell) => return Ok(Err(NotReady { message: format!("host `{host}`: {}", fell.message), ..fell })),
                Ok(ready) => {
                    highest = Some(match highest {
                        // the slowest tells when all were there
                        Some(known) if known.took >= ready.took => known,
                        _ => ready,
                    });
                }
            }
        }
        highest
            .map(Ok)
            .ok_or_else(|| HostTrouble::Refused(format!("no host has an instance in the place of `{instance}`")))
    }

    /// Waits until an instance has nothing in flight anywhere; how many requests it had at the limit.
    pub async fn drain(&self, instance: &InstanceId, limit: Duration) -> Result<u64, HostTrouble> {
        let fleet = &self.inner.fleet;
        let drained = self.each(|host| {
            let own = fleet.own(&host.name, instance);
            async move {
                let drained = join_all(own.iter().map(|own| host.drain(own, limit))).await;
                drained.into_iter().try_fold(0, |sum, one| one.map(|one| sum + one.in_flight))
            }
        });
        Ok(drained.await?.into_iter().map(|(_, in_flight): (String, u64)| in_flight).sum())
    }

    /// Sets where the traffic goes, on all the same shares; or so on these hosts `only`, and on the others to the fallback. The routes as they
    /// are now, in the machine's names.
    pub async fn apply_route(
        &self,
        apply: &ApplyRoute,
        only: Option<&[String]>,
    ) -> Result<Answers<RouteState>, HostTrouble> {
        let fleet = &self.inner.fleet;
        let applied = self.each(|host| {
            let is_meant = only.is_none_or(|only| only.contains(&host.name));
            let targets = if is_meant { &apply.targets } else { &apply.fallback };
            let targets = fleet.own_targets(&host.name, targets);
            let fallback = fleet.own_targets(&host.name, &apply.fallback);
            let apply = ApplyRoute { targets, fallback, ..apply.clone() };
            async move { host.apply_route(&apply).await }
        });
        Ok(self.named(applied.await?))
    }

    /// Takes the service away everywhere.
    pub async fn remove(&self, remove: &RemoveRoute) -> Result<Answers<Removed>, HostTrouble> {
        self.each(|host| async move { host.remove(remove).await }).await
    }

    /// Puts the dead-man's deadline off, once; a host that has nothing to put off shows its route all the same.
    pub async fn put_off(&self, renew: &RenewDeadMan) -> Result<Answers<RouteState>, HostTrouble> {
        // one that hangs must not cost the others their deadline
        let limit = Duration::from_millis(renew.dead_man_ms) / 3;
        let asked = self.present().into_iter().map(|host| async move {
            let answer = timeout(limit, put_off(&host, renew)).await;
            let in_time = answer.unwrap_or_else(|_| Err(HostTrouble::Away(format!("no answer within {limit:?}"))));
            (host.name, in_time)
        });
        let (mut shown, mut trouble) = (Vec::new(), None);
        for (name, answer) in join_all(asked).await {
            match answer {
                Ok(route) => shown.push((name, route)),
                Err(stale @ HostTrouble::Stale(_)) => return Err(stale),
                Err(other) => trouble = Some(other),
            }
        }
        match trouble {
            Some(trouble) if shown.is_empty() => Err(trouble),
            _ => Ok(self.named(shown.into_iter().filter_map(|(name, route)| Some((name, route?))).collect())),
        }
    }

    /// Observations after a position, of all of them, with the machine's names.
    pub async fn observations(
        &self,
        environment: &str,
        service: &str,
        after: u64,
        wait: Duration,
        limit: u32,
    ) -> Result<ObservationBatch, HostTrouble> {
        if let [host] = &self.inner.hosts[..]
            && self.inner.is_one
        {
            return host.observations(environment, service, after, wait, limit).await;
        }
        let Some(known) = self.known_at(after) else { return self.begin_anew(environment, service, after).await };
        let mut asked = self.inner.asked.lock().await;
        for host in self.present() {
            let from = known.get(&host.name).copied().unwrap_or(0);
            // who has not answered yet goes on answering what it was asked
            if asked.hosts.insert(host.name.clone()) {
                let (environment, service) = (environment.to_owned(), service.to_owned());
                asked.answers.push(Box::pin(async move {
                    let answer = host.observations(&environment, &service, from, wait, limit).await;
                    (host.name, from, answer)
                }));
            }
        }
        let mut all = ObservationBatch { observations: Vec::new(), next: after, lost: 0 };
        let (mut next, mut trouble, mut until) = (known.clone(), None, None);
        loop {
            let answer = match until {
                Some(until) => timeout_at(until, asked.answers.next()).await.unwrap_or(None),
                None => asked.answers.next().await,
            };
            let Some((host, from, answer)) = answer else { break };
            asked.hosts.remove(&host);
            // what was asked before positions were begun anew, and what a host saw that was left out meanwhile
            if known.get(&host).copied().unwrap_or(0) != from || self.left_out().names.contains(&host) {
                continue;
            }
            match answer {
                Ok(batch) => {
                    let named = batch.observations.into_iter().map(|mut observation| {
                        observation.instance = self.inner.fleet.logical(&host, &observation.instance);
                        observation
                    });
                    all.observations.extend(named);
                    all.lost += batch.lost;
                    all.next += batch.next.saturating_sub(from);
                    next.insert(host, batch.next.max(from));
                    // the others have their own time, and are not waited for
                    until = until.or_else(|| Some(Instant::now() + TOGETHER));
                }
                Err(away) => trouble = Some((host, away)),
            }
        }
        drop(asked);
        match trouble {
            Some((host, HostTrouble::Away(why))) if self.present().len() > 1 => {
                self.leave_out(host, format!("it does not tell what it sees: {why}"));
            }
            Some((_, trouble)) if all.next == after => return Err(trouble),
            _ => {}
        }
        self.cursors().next = Some(next);
        Ok(all)
    }

    /// How far each host's observations are known at a position; `None`: nobody knows.
    fn known_at(&self, position: u64) -> Option<BTreeMap<String, u64>> {
        let mut cursors = self.cursors();
        let ahead = cursors.ahead;
        let is_at = |known: &BTreeMap<String, u64>| ahead + known.values().sum::<u64>() == position;
        if let Some(next) = cursors.next.take_if(|next| is_at(next)) {
            cursors.known = next;
        }
        is_at(&cursors.known).then(|| cursors.known.clone())
    }

    /// Goes on with what is newest on each. What lies between is lost, and told so.
    async fn begin_anew(&self, environment: &str, service: &str, after: u64) -> Result<ObservationBatch, HostTrouble> {
        let newest = |state: &HostState| {
            let facts = HostFacts::of(state, environment, service);
            facts.route.map_or(0, |route| route.newest_observation)
        };
        let known: BTreeMap<String, u64> =
            self.states().await?.iter().map(|(name, state)| (name.clone(), newest(state))).collect();
        let sum: u64 = known.values().sum();
        // the driver takes no position that lies before its own
        let ahead = after.saturating_sub(sum);
        *self.cursors() = Cursors { ahead, known, next: None };
        *self.inner.asked.lock().await = Asked::default();
        Ok(ObservationBatch { observations: Vec::new(), next: ahead + sum, lost: ahead + sum - after })
    }

    fn named(&self, routes: Answers<RouteState>) -> Answers<RouteState> {
        let named = |(host, route): (String, RouteState)| {
            let route = self.inner.fleet.route_in_its_names(&host, &route);
            (host, route)
        };
        routes.into_iter().map(named).collect()
    }

    /// Makes a call at all of them at once. One that does not answer is left out where another one does.
    async fn each<T, F>(&self, call: impl Fn(Host) -> F) -> Result<Answers<T>, HostTrouble>
    where
        F: Future<Output = Result<T, HostTrouble>>,
    {
        let present = self.present();
        if present.is_empty() {
            return Err(HostTrouble::Away("no host takes part any more".into()));
        }
        let is_one = present.len() == 1;
        let calls = present.into_iter().map(|host| {
            let name = host.name.clone();
            let called = call(host);
            async move { (name, called.await) }
        });
        let (mut done, mut away, mut refused) = (Vec::new(), Vec::new(), None);
        let (mut full, mut faulty, mut router) = (None, Vec::new(), None);
        for (name, answer) in join_all(calls).await {
            match answer {
                Ok(answer) => done.push((name, answer)),
                Err(stale @ HostTrouble::Stale(_)) => return Err(stale),
                Err(HostTrouble::Refused(why)) if is_one => return Err(HostTrouble::Refused(why)),
                Err(HostTrouble::Refused(why)) => refused = refused.or(Some(format!("host `{name}`: {why}"))),
                Err(HostTrouble::Router(why)) if is_one => return Err(HostTrouble::Router(why)),
                Err(HostTrouble::Router(why)) => router = router.or(Some(format!("host `{name}`: {why}"))),
                Err(HostTrouble::Full(why)) if is_one => return Err(HostTrouble::Full(why)),
                Err(HostTrouble::Full(why)) => full = full.or(Some(format!("host `{name}`: {why}"))),
                Err(HostTrouble::Faulty(why)) if is_one => return Err(HostTrouble::Faulty(why)),
                Err(HostTrouble::Faulty(why)) => faulty.push((name, why)),
                Err(HostTrouble::Away(why)) => away.push((name, why)),
            }
        }
        // where it is broken everywhere, nobody goes on without the others
        if done.is_empty()
            && full.is_none()
            && refused.is_none()
            && router.is_none()
            && let Some((name, why)) = faulty.first()
        {
            return Err(HostTrouble::Faulty(format!("host `{name}`: {why}")));
        }
        for (host, why) in faulty {
            self.leave_out(host, why);
        }
        if done.is_empty()
            && refused.is_none()
            && full.is_none()
            && router.is_none()
            && let Some((_, why)) = away.first()
        {
            return Err(HostTrouble::Away(why.clone()));
        }
        for (host, why) in away {
            self.leave_out(host, format!("it does not answer: {why}"));
        }
        match (refused, router, full) {
            (Some(why), _, _) => Err(HostTrouble::Refused(why)),
            (None, Some(why), _) => Err(HostTrouble::Router(why)),
            (None, None, Some(why)) => Err(HostTrouble::Full(why)),
            (None, None, None) => Ok(done),
        }
    }

    /// It takes no part any more. The driver hears of it as of those that did not answer.
    pub(super) fn leave_out(&self, host: String, reason: String) {
        let mut left_out = self.left_out();
        if left_out.names.insert(host.clone()) {
            left_out.news.push(OutOfStep { host, reason });
        }
    }

    fn present(&self) -> Vec<Host> {
        let left_out = self.left_out();
        self.inner.hosts.iter().filter(|host| !left_out.names.contains(&host.name)).cloned().collect()
    }

    fn left_out(&self) -> MutexGuard<'_, LeftOut> {
        self.inner.left_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cursors(&self) -> MutexGuard<'_, Cursors> {
        self.inner.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who has traffic, in the smallest numbers and in one order.
fn shares(targets: &[Target]) -> Vec<Target> {
    let mut shares = reduce(targets.to_vec());
    shares.sort_by(|one, other| one.instance.cmp(&other.instance));
    shares
}

/// A host that has nothing to put off has fallen back already; its report says so.
async fn put_off(host: &Host, renew: &RenewDeadMan) -> Result<Option<RouteState>, HostTrouble> {
    match host.renew(renew).await {
        Ok(route) => Ok(Some(route)),
        Err(HostTrouble::Refused(_)) => {
            let facts = HostFacts::of(&host.state().await?, &renew.fence.environment, &renew.fence.service);
            Ok(facts.route)
        }
        Err(trouble) => Err(trouble),
    }
}
