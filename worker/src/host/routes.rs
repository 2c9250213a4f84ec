//! Where a service's traffic goes: set by the owner of the epoch, given back by the dead-man's switch, taken back in an
//! emergency.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use segue_schemas::{
    assignment::{Assignment, MAX_RULES, Sticky},
    deploy::{Release, RouteRule},
    host_api::{
        ApplyRoute, EmergencyResult, EmergencyRollback, HostError, HostErrorCode, ReleaseShare, RenewDeadMan, Restored,
        RouteState, Target,
    },
    id::{InstanceId, ReleaseId, is_name},
};

use super::{
    Host,
    clock::{Deadline, now},
    instances::own_name,
    proxy_child::counts_for,
    refusal,
    state::{InstanceRecord, KeptRelease, Nap, Recorded, Retire, RouteRecord},
};
use crate::{proxy::table::collide, router::RouterState};

/// How long a release that was started for an emergency rollback may take to become healthy.
const HEALTH_LIMIT: Duration = Duration::from_secs(120);

/// How long instances that lost their traffic in an emergency stay, for whoever wants to look or go back.
const KEEP_DISPLACED: Duration = Duration::from_secs(600);

/// How long instances stay that have no traffic and that nobody has told to go. Their owner does that sooner, as long as there is one: it may
/// take as long as their answers may go on, or as a person thinks.
const KEEP_LEFT: Duration = Duration::from_secs(24 * 3600);

/// Before a router that could not be told is looked at again.
const CARRIED_PAUSE: Duration = Duration::from_secs(1);

/// How long answers of such instances may go on then.
const DRAIN_DISPLACED_MS: u64 = 30_000;

impl Host {
    /// `PUT /v1/routes/{environment}/{service}`.
    pub(super) async fn apply_route(&self, apply: ApplyRoute) -> Result<RouteState, HostError> {
        let (environment, service) = (apply.fence.environment.clone(), apply.fence.service.clone());
        self.router.check(&apply.rules)?;
        // Recorded, carried and, where the router refuses it, taken back before another change is carried, which would else carry this
        // one as well.
        let order = self.carrying.lock().await;
        let change = self.store.change(move |recorded| {
            recorded.admit(&apply.fence)?;
            let (environment, service) = (apply.fence.environment.clone(), apply.fence.service.clone());
            let before = recorded.route(&environment, &service).cloned();
            recorded.apply(apply)?;
            Ok((before, recorded.route(&environment, &service).cloned()))
        });
        let pending = Pending::of(self, &environment, &service);
        let (before, applied) = change.await?;
        if let Err(error) = self.router.carry().await {
            if error.code == HostErrorCode::Router {
                self.take_back(before, applied).await?;
            }
            return Err(error);
        }
        drop((pending, order));
        self.route_state(&environment, &service).await
    }

    /// Has the router carry what is recorded, once no change is under way that may yet be taken back.
    pub(super) async fn carry(&self) -> Result<(), HostError> {
        let _order = self.carrying.lock().await;
        self.router.carry().await.inspect_err(|_| self.router.suspect())
    }

    /// Tells of each change of what keeps the router from carrying what is recorded.
    pub(super) async fn tell_of_trouble(self: Arc<Self>) {
        let Some(mut trouble) = self.router.trouble() else { return };
        while trouble.changed().await.is_ok() {
            self.news.tell();
        }
    }

    /// What keeps the router from carrying what is recorded, or, by a look, from another change.
    pub(super) async fn router_trouble(&self, looks: bool) -> Option<String> {
        let known = self.router.trouble().and_then(|trouble| trouble.borrow().clone());
        match known {
            Some(why) => Some(format!("recorded, not carried: {why}")),
            None if looks => {
                let why = self.router.look().await?;
                let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
                Some(format!(
                    "what is recorded is carried, but no change would be, its configuration does not hold: {why}"
                ))
            }
            None => None,
        }
    }

    /// Returns once the router carries what is recorded. Until then it may send requests to whoever had traffic before: nobody is taken away
    /// from it meanwhile.
    pub(super) async fn until_carried(&self) {
        while self.carry().await.is_err() {
            let Some(mut trouble) = self.router.trouble() else { return };
            tokio::time::sleep(CARRIED_PAUSE).await;
            // an end is the host's
            if trouble.wait_for(Option::is_none).await.is_err() {
                return;
            }
        }
    }

    /// Records what a route was before a change that the router has refused, unless somebody else has changed it since. The epoch stays,
    /// and so do weights that were restored meanwhile.
    async fn take_back(&self, before: Option<RouteRecord>, applied: Option<RouteRecord>) -> Result<(), HostError> {
        let (Some(before), Some(applied)) = (before, applied) else { return Ok(()) };
        let taken_back = self.store.change_regardless(move |recorded| {
            let route = recorded.route_mut(&before.environment, &before.service);
            // An emergency that begins meanwhile raises the epoch first and gives the traffic to somebody later, if at all.
            if route.targets == applied.targets && route.restored == applied.restored {
                *route = RouteRecord { epoch: route.epoch, ..before };
            } else if route.rules == applied.rules {
                route.rules = before.rules;
                route.assignment = before.assignment;
            }
            Ok(())
        });
        taken_back.await
    }

    /// A route as it is carried: while a change of it is under way, as it was before. `None` of one that is only known by its epoch.
    pub(super) fn shown_route(&self, route: &RouteRecord) -> Option<RouteState> {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |before: &&RouteRecord| before.environment == route.environment && before.service == route.service;
        let carried = match pending.as_ref().filter(is_it) {
            Some(before) => RouteRecord { epoch: route.epoch, ..before.clone() },
            None => route.clone(),
        };
        (!carried.rules.is_empty()).then(|| carried.shown())
    }

    /// `POST /v1/routes/{environment}/{service}/renew`. A switch that has gone off is not set again: the answer says what
    /// was restored.
    pub(super) async fn renew(&self, renew: RenewDeadMan) -> Result<RouteState, HostError> {
        let (environment, service) = (renew.fence.environment.clone(), renew.fence.service.clone());
        let change = self.store.change(move |recorded| {
            known_route(recorded, &renew.fence.environment, &renew.fence.service)?;
            recorded.admit(&renew.fence)?;
            let route = recorded.route_mut(&renew.fence.environment, &renew.fence.service);
            if route.dead_man.is_some() {
                route.dead_man = Some(Deadline::after(Duration::from_millis(renew.dead_man_ms)));
            }
            Ok(())
        });
        change.await?;
        self.route_state(&environment, &service).await
    }

    /// The route with what the proxy knows of it.
    pub(super) async fn route_state(&self, environment: &str, service: &str) -> Result<RouteState, HostError> {
        let proxy = self.router.state().await;
        let recorded = self.store.current();
        let unknown = || no_route(environment, service);
        let route = known_route(&recorded, environment, service)?;
        let mut route = self.shown_route(route).ok_or_else(unknown)?;
        if let Some(proxy) = &proxy {
            self.add_counts(&recorded, &mut route, proxy);
        }
        Ok(route)
    }

    pub(super) fn add_counts(&self, recorded: &Recorded, route: &mut RouteState, proxy: &RouterState) {
        let of_pair = recorded
            .instances
            .iter()
            .filter(|(_, i)| i.environment == route.environment && i.release.service == route.service);
        let names: Vec<String> = of_pair.map(|(id, _)| id.to_string()).collect();
        (route.in_flight, route.newest_observation) = counts_for(proxy, &route.environment, &route.service, &names);
    }

    /// The dead-man's switch goes off: the fallback is restored, if its time is really over.
    pub(super) async fn restore(&self, environment: String, service: String) {
        let (e, s) = (environment.clone(), service.clone());
        let restored = self.store.change_regardless(move |recorded| {
            let due = recorded.route(&e, &s).and_then(|r| r.dead_man).is_some_and(|d| d.remaining().is_zero());
            if due {
                recorded.restore(&e, &s);
            }
            Ok(due)
        });
        match restored.await {
            Ok(true) => {
                tracing::warn!(environment, service, "the dead-man's switch went off: the fallback is restored");
                if let Err(error) = self.carry().await {
                    tracing::error!(environment, service, %error, "the restored weights are not carried yet");
                }
            }
            Ok(false) => {}
            Err(error) => tracing::error!(environment, service, %error, "the fallback can't be restored"),
        }
    }

    /// `POST /v1/routes/{environment}/{service}/emergency-rollback`.
    pub(super) async fn emergency_rollback(
        self: &Arc<Self>,
        environment: String,
        service: String,
        rollback: EmergencyRollback,
    ) -> Result<EmergencyResult, HostError> {
        let began = Instant::now();
        let recorded = self.store.current();
        let route = known_route(&recorded, &environment, &service)?.clone();
        let from = main_release(&recorded, &route.targets).cloned();
        let before = shares(&recorded, &route.targets);
        let stands = stands(&recorded, &route).filter(|_| rollback.to.is_none());
        if let Some((restored, to)) = stands.clone().filter(|(restored, _)| is_last(&route, restored)) {
            // pressed twice; that it is carried is seen to all the same
            self.carry().await.map_err(|error| not_carried(&environment, &service, to.id, error))?;
            let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            return Ok(EmergencyResult { epoch: route.epoch, from, to, took_us, before, stands: Some(restored) });
        }
        let destination = match &stands {
            // the dead man was faster, or a rollout has begun since: the traffic stays, and whoever might move it is shut out
            Some((_, release)) => {
                let targets = route.targets.iter().filter(|t| t.weight > 0).cloned().collect();
                Destination::Live(release.clone(), targets)
            }
            None => find_destination(&recorded, &route, rollback.to, from.as_ref())?,
        };
        // Whoever holds a lower epoch is shut out first, so that it can't take the traffic back meanwhile.
        let (e, s) = (environment.clone(), service.clone());
        let epoch = self.store.change_regardless(move |recorded| Ok(recorded.shut_out(&e, &s))).await?;
        let (to, targets) = match destination {
            Destination::Live(release, targets) => (release, targets),
            Destination::Kept(kept) => {
                let copies = route.targets.iter().filter(|t| t.weight > 0).count().max(1);
                let names = (1..=copies)
                    .map(|n| own_name(&service, kept.release.id.0, epoch, n))
                    .collect::<Result<Vec<_>, _>>()?;
                self.start_kept(&kept, &names).await?;
                let targets = names.into_iter().map(|instance| Target { instance, weight: 100 }).collect();
                (kept.release, targets)
            }
        };
        let reason = format!("emergency: {}", rollback.reason);
        let (e, s, release) = (environment.clone(), service.clone(), to.id);
        let switch = self.store.change_regardless(move |recorded| {
            let route = recorded.route(&e, &s).map_or(epoch, |r| r.epoch);
            if route != epoch {
                let message = format!("another emergency rollback or rollout took over at epoch {route}");
                return Err(refusal(HostErrorCode::Unavailable, message));
            }
            // what was kept warm may have been told to stop meanwhile, for a place that is needed
            let usable = usable(recorded, &targets);
            if usable.is_empty() {
                let message = format!(
                    "what runs of release {release} was told to stop meanwhile: ask again, and it is started anew"
                );
                return Err(refusal(HostErrorCode::Unavailable, message));
            }
            recorded.switch(&e, &s, usable, reason);
            Ok(())
        });
        switch.await?;
        self.carry().await.map_err(|error| not_carried(&environment, &service, to.id, error))?;
        let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::warn!(environment, service, %epoch, to = %to.id, took_us, "emergency rollback");
        let stands = stands.map(|(restored, _)| restored);
        Ok(EmergencyResult { epoch, from, to, took_us, before, stands })
    }

    /// Starts a kept release under these names and waits until every copy is healthy; on failure none is left.
    async fn start_kept(self: &Arc<Self>, kept: &KeptRelease, names: &[InstanceId]) -> Result<(), HostError> {
        // an image that is not there any more is pulled by its digest
        if !kept.run.is_container() && !self.releases.has(&kept.release.digest) {
            let message = format!("release {} is recorded, but its files are gone", kept.release.id);
            return Err(refusal(HostErrorCode::NotFound, message));
        }
        let (record, new) = (kept.clone(), names.to_vec());
        let started = self.store.change(move |recorded| {
            for name in new {
                let KeptRelease { environment, release, run, .. } = record.clone();
                let _life = recorded.add_instance(name, environment, release, run, true)?;
            }
            Ok(())
        });
        started.await?;
        for name in names {
            self.supervise(name.clone(), None);
        }
        for name in names {
            if !self.wait_until_well(name, HEALTH_LIMIT).await {
                let failed = self.store.current().instances.get(name).and_then(|one| one.failed.clone());
                let all = names.to_vec();
                let give_up = self.store.change(move |recorded| {
                    for name in all {
                        recorded.instance_mut(&name)?.stopping = true;
                    }
                    Ok(())
                });
                give_up.await?;
                let release = kept.release.id;
                let message = match failed {
                    Some(reason) => format!("release {release} can't be started as `{name}`: {reason}"),
                    None => format!(
                        "release {release} was started as `{name}`, but did not become healthy within {HEALTH_LIMIT:?}; see its output"
                    ),
                };
                return Err(refusal(HostErrorCode::Unavailable, message));
            }
        }
        Ok(())
    }
}

/// While this is there, a change of a route is under way that may yet be taken back; only the one who holds `carrying` has one.
struct Pending<'a>(&'a Host);

impl<'a> Pending<'a> {
    fn of(host: &'a Host, environment: &str, service: &str) -> Self {
        let before = host.store.current().route(environment, service).cloned();
        let mut pending = host.pending.lock().unwrap_or_else(PoisonError::into_inner);
        *pending = Some(before.unwrap_or_else(|| RouteRecord::new(environment, service)));
        Self(host)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        *self.0.pending.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Where an emergency rollback goes.
enum Destination {
    /// To instances that run.
    Live(Release, Vec<Target>),
    /// To a release that has to be started.
    Kept(Box<KeptRelease>),
}

fn find_destination(
    recorded: &Recorded,
    route: &RouteRecord,
    to: Option<ReleaseId>,
    from: Option<&Release>,
) -> Result<Destination, HostError> {
    let of_pair = |k: &&KeptRelease| k.environment == route.environment && k.release.service == route.service;
    let wanted = match to {
        Some(id) => id,
        None => {
            let mut usable = usable(recorded, &route.fallback);
            usable.retain(|t| recorded.instances.get(&t.instance).is_some_and(|i| i.process.is_some()));
            // a rollout that is under way counts for nothing yet, a way back neither
            let has_rollout = has_rollout(recorded, route);
            let is_left = |id: ReleaseId| {
                !has_rollout && recorded.kept.iter().filter(of_pair).any(|k| k.release.id == id && !k.good)
            };
            if let Some(release) = main_release(recorded, &usable)
                && (from.is_none_or(|f| f.id != release.id) || has_rollout)
                && !is_left(release.id)
            {
                return Ok(Destination::Live(release.clone(), usable));
            }
            let good = || {
                let good = recorded.kept.iter().rev().filter(of_pair).filter(|k| k.good);
                good.filter(|k| from.is_none_or(|f| f.id != k.release.id))
            };
            // what is newer than the one that serves was gone back from, over it
            let earlier = good().find(|k| from.is_none_or(|f| k.release.id < f.id)).or_else(|| good().next());
            earlier.map(|k| k.release.id).ok_or_else(|| {
                let message = format!(
                    "there is nothing to go back to: {} in {} has neither a fallback nor an earlier good release here",
                    route.service, route.environment
                );
                refusal(HostErrorCode::NotFound, message)
            })?
        }
    };
    let live: Vec<Target> = recorded
        .instances
        .iter()
        .filter(|(_, i)| i.environment == route.environment && i.release.service == route.service)
        .filter(|(_, i)| i.release.id == wanted && i.is_usable() && i.process.is_some())
        .map(|(id, _)| Target { instance: id.clone(), weight: 100 })
        .collect();
    if let Some(release) = main_release(recorded, &live) {
        return Ok(Destination::Live(release.clone(), live));
    }
    let kept = recorded.kept.iter().filter(of_pair).find(|k| k.release.id == wanted);
    kept.cloned().map(|kept| Destination::Kept(Box::new(kept))).ok_or_else(|| {
        let there: Vec<String> = recorded.kept.iter().rev().filter(of_pair).map(|k| k.release.id.to_string()).collect();
        let message = format!(
            "release {wanted} of {} is not kept here; releases that are: {}",
            route.service,
            if there.is_empty() { "none".to_owned() } else { there.join(", ") }
        );
        refusal(HostErrorCode::NotFound, message)
    })
}

impl Recorded {
    fn apply(&mut self, apply: ApplyRoute) -> Result<(), HostError> {
        let wrong = |message: String| refusal(HostErrorCode::BadRequest, message);
        let (environment, service) = (&apply.fence.environment, &apply.fence.service);
        let followed = self.followed(&apply);
        let gone_back = followed.clone().or_else(|| self.way_back(&apply));
        let rules = checked_rules(environment, service, apply.rules)?;
        check_assignment(&apply.assignment)?;
        let others = self.routes.iter().filter(|r| r.environment != *environment || r.service != *service);
        for other in others {
            if let Some(rule) = rules.iter().find(|a| other.rules.iter().any(|b| collide(a, b))) {
                return Err(wrong(format!(
                    "host `{}`, path `{}` already belongs to {} in {}",
                    rule.host.as_deref().unwrap_or("any"),
                    rule.path,
                    other.service,
                    other.environment
                )));
            }
        }
        for target in apply.targets.iter().chain(&apply.fallback) {
            let instance = self.instance(&target.instance)?;
            if instance.environment != *environment || instance.release.service != *service {
                return Err(wrong(format!("instance `{}` is not of {service} in {environment}", target.instance)));
            }
            if !instance.is_usable() {
                return Err(wrong(format!("instance `{}` is stopped or failed", target.instance)));
            }
        }
        if apply.dead_man_ms.is_some() && !apply.fallback.iter().any(|t| t.weight > 0) {
            return Err(wrong("a dead-man's switch needs a fallback that it can restore".into()));
        }
        for target in apply.targets.iter().filter(|t| t.weight > 0) {
            // What gets traffic stays.
            self.instance_mut(&target.instance)?.retire = None;
        }
        self.mark_good(&apply.fallback, now());
        if apply.dead_man_ms.is_none() && has_one_release(self, &apply.targets) {
            self.mark_good(&apply.targets, now());
        }
        if apply.leaves {
            let before = self.route(environment, service).map(|route| route.targets.clone()).unwrap_or_default();
            let before = [before, apply.fallback.clone()].concat();
            self.leave((environment, service), (&before, apply.left), &apply.targets);
        }
        // whoever has gone back elsewhere goes back from this one as well, and to nobody else
        let fallback = if followed.is_some() { apply.targets.clone() } else { apply.fallback };
        if apply.dead_man_ms.is_none() && has_one_release(self, &apply.targets) {
            self.displace((environment, service), &[apply.targets.clone(), fallback.clone()].concat(), KEEP_LEFT);
        }
        let route = self.route_mut(environment, service);
        route.gone_back = gone_back;
        route.rules = rules;
        route.assignment = apply.assignment;
        route.targets = apply.targets;
        route.fallback = fallback;
        route.dead_man = apply.dead_man_ms.map(|ms| Deadline::after(Duration::from_millis(ms)));
        route.restored = None;
        Ok(())
    }

    /// Whether that brings this host back to what somebody has gone back to elsewhere.
    fn followed(&self, apply: &ApplyRoute) -> Option<Restored> {
        let before = self.route(&apply.fence.environment, &apply.fence.service)?;
        let newest = |targets: &[Target]| {
            let weighty = targets.iter().filter(|t| t.weight > 0);
            weighty.filter_map(|t| self.instances.get(&t.instance)).map(|i| i.release.id).max()
        };
        let is_it = apply.follows && apply.leaves && apply.dead_man_ms.is_none();
        // told once more, as the answer was lost
        if is_it && before.gone_back.is_some() && before.targets == apply.targets {
            return before.gone_back.clone();
        }
        let is_back =
            is_it && has_one_release(self, &apply.targets) && newest(&before.targets) > newest(&apply.targets);
        let reason = "what the other hosts serve since somebody went back there".to_owned();
        is_back.then(|| Restored { at: now(), reason, epoch: apply.fence.epoch })
    }

    /// What has no traffic, is in nobody's way back and was not told to go, goes by itself after a while: whoever started it was shut out before
    /// it could see to that, or sees to it now.
    fn displace(&mut self, (environment, service): (&str, &str), stay: &[Target], stays_for: Duration) {
        let of_pair = |i: &InstanceRecord| i.environment == environment && i.release.service == service;
        for (id, instance) in &mut self.instances {
            let stays = stay.iter().any(|target| target.instance == *id);
            if of_pair(instance) && !stays && !instance.stopping && instance.retire.is_none() {
                let deadline = Deadline::after(stays_for);
                instance.retire = Some(Retire { deadline, drain_ms: DRAIN_DISPLACED_MS });
            }
        }
    }

    /// Whether that is a rollout's own way back: all traffic of the release that it came from, where another one had some or it was restored already.
    fn way_back(&self, apply: &ApplyRoute) -> Option<Restored> {
        let before = self.route(&apply.fence.environment, &apply.fence.service)?;
        let with_weight = |targets: &[Target]| -> BTreeSet<InstanceId> {
            targets.iter().filter(|t| t.weight > 0).map(|t| t.instance.clone()).collect()
        };
        let wanted = with_weight(&apply.targets);
        let is_back = apply.dead_man_ms.is_none()
            && !apply.leaves
            // what a host was to be brought to and could not be is no release that somebody went back from
            && !apply.follows
            && !wanted.is_empty()
            && wanted == with_weight(&apply.fallback)
            && has_one_release(self, &apply.targets);
        let known = || before.restored.clone().or_else(|| before.gone_back.clone());
        let is_new = !with_weight(&before.targets).is_subset(&wanted);
        let reason = "a rollout that went back".to_owned();
        let now = || is_new.then(|| Restored { at: now(), reason, epoch: apply.fence.epoch });
        is_back.then(|| known().or_else(now)).flatten()
    }

    /// Puts the fallback in force because nobody renewed the dead-man's switch.
    fn restore(&mut self, environment: &str, service: &str) {
        let Some(route) = self.route(environment, service).cloned() else { return };
        let fallback = usable(self, &route.fallback);
        let mut reason = "dead-man: nobody renewed the canary's weights in time".to_owned();
        if fallback.is_empty() {
            reason += "; no instance of the fallback is left, the weights stay";
        }
        for target in &fallback {
            if let Some(instance) = self.instances.get_mut(&target.instance) {
                instance.retire = None;
            }
        }
        self.restorations += 1;
        if !fallback.is_empty() {
            self.displace((environment, service), &[fallback.clone(), route.fallback].concat(), KEEP_LEFT);
        }
        let route = self.route_mut(environment, service);
        if !fallback.is_empty() {
            route.targets = fallback;
        }
        route.dead_man = None;
        route.restored = Some(Restored { at: now(), reason, epoch: route.epoch });
    }

    /// Gives all traffic to `targets` in an emergency. What loses it goes by itself after a while, and so does what a rollout
    /// had started and not given any yet: its owner is shut out and can't stop it.
    fn switch(&mut self, environment: &str, service: &str, targets: Vec<Target>, reason: String) {
        self.displace((environment, service), &[], KEEP_DISPLACED);
        for target in &targets {
            if let Some(instance) = self.instances.get_mut(&target.instance) {
                instance.retire = None;
            }
        }
        self.mark_good(&targets, now());
        let before = self.route(environment, service).map(|route| route.targets.clone()).unwrap_or_default();
        self.leave((environment, service), (&before, None), &targets);
        self.restorations += 1;
        let route = self.route_mut(environment, service);
        route.fallback.clone_from(&targets);
        route.targets = targets;
        route.dead_man = None;
        route.restored = Some(Restored { at: now(), reason, epoch: route.epoch });
    }
}

/// What an emergency finds in its place already, of what the host has restored: its release has all traffic by that, and lives.
fn stands(recorded: &Recorded, route: &RouteRecord) -> Option<(Restored, Release)> {
    let restored = route.restored.clone().or_else(|| route.gone_back.clone())?;
    // where nothing was left to restore the weights are what they were
    let is_restored = |t: &Target| route.fallback.iter().any(|f| f.weight > 0 && f.instance == t.instance);
    let lives = |t: &Target| {
        recorded
            .instances
            .get(&t.instance)
            .is_some_and(|i| i.is_usable() && (i.process.is_some() || i.nap == Nap::Asleep))
    };
    let mut weighty = route.targets.iter().filter(|t| t.weight > 0);
    let stands = weighty.clone().all(is_restored) && weighty.any(lives) && has_one_release(recorded, &route.targets);
    main_release(recorded, &route.targets).filter(|_| stands).map(|release| (restored, release.clone()))
}

/// Whether an emergency was the last that was done at a route: nobody has a right to change it by what was given out before that.
fn is_last(route: &RouteRecord, restored: &Restored) -> bool {
    restored.reason.starts_with("emergency") && restored.epoch == route.epoch
}

/// What a refused emergency is told as: other than a rollout's change it is not taken back.
fn not_carried(environment: &str, service: &str, to: ReleaseId, error: HostError) -> HostError {
    let message = format!(
        "it is recorded that release {to} has all traffic of {service} in {environment}, and it is not carried yet: {}. It is carried by \
         itself within half a minute once that is mended; until then the traffic stays as it was",
        error.message
    );
    HostError { message, ..error }
}

pub(super) fn known_route<'a>(
    recorded: &'a Recorded,
    environment: &str,
    service: &str,
) -> Result<&'a RouteRecord, HostError> {
    let known = recorded.route(environment, service).filter(|r| !r.rules.is_empty());
    known.ok_or_else(|| no_route(environment, service))
}

fn no_route(environment: &str, service: &str) -> HostError {
    refusal(HostErrorCode::NotFound, format!("{service} has no route in {environment} here"))
}

/// The rules as they are carried: without any, the default host.
fn checked_rules(environment: &str, service: &str, rules: Vec<RouteRule>) -> Result<Vec<RouteRule>, HostError> {
    let wrong = |message: String| Err(refusal(HostErrorCode::BadRequest, message));
    if !is_name(environment) || !is_name(service) {
        return wrong(format!("`{environment}` and `{service}` can't name an environment and a service"));
    }
    if rules.is_empty() {
        let host = Some(format!("{service}.{environment}.localhost"));
        return Ok(vec![RouteRule { environment: None, host, path: "/".into() }]);
    }
    for rule in &rules {
        if !rule.path.starts_with('/') {
            return wrong(format!("the path `{}` of a route must begin with `/`", rule.path));
        }
        if rule.host.as_deref().is_some_and(str::is_empty) {
            return wrong("a route's host is empty; leave it out to mean any host".into());
        }
    }
    Ok(rules)
}

/// What a service's file is checked for, once more: it comes to stand in another program's configuration.
fn check_assignment(assignment: &Assignment) -> Result<(), HostError> {
    let wrong = |message: String| Err(refusal(HostErrorCode::BadRequest, message));
    if assignment.rules.len() > MAX_RULES {
        return wrong(format!("there are {} rules, and {MAX_RULES} are the limit", assignment.rules.len()));
    }
    if let Some(Err(problem)) = assignment.sticky.as_ref().map(Sticky::check) {
        return wrong(format!("`sticky` can't be carried: {}; {}", problem.message, problem.help));
    }
    for (rule, number) in assignment.rules.iter().zip(1..) {
        if let Err(problem) = rule.parts() {
            return wrong(format!("rule {number} can't be carried: {}; {}", problem.message, problem.help));
        }
    }
    Ok(())
}

/// The release with the most weight.
fn main_release<'a>(recorded: &'a Recorded, targets: &[Target]) -> Option<&'a Release> {
    let heaviest = targets.iter().filter(|t| t.weight > 0).max_by_key(|t| t.weight)?;
    recorded.instances.get(&heaviest.instance).map(|i| &i.release)
}

/// How the traffic is shared by the releases among the targets, the one with the most first.
fn shares(recorded: &Recorded, targets: &[Target]) -> Vec<ReleaseShare> {
    let mut weights: Vec<(ReleaseId, u64)> = Vec::new();
    for target in targets.iter().filter(|t| t.weight > 0) {
        let Some(id) = recorded.instances.get(&target.instance).map(|i| i.release.id) else { continue };
        match weights.iter_mut().find(|(known, _)| *known == id) {
            Some((_, weight)) => *weight += u64::from(target.weight),
            None => weights.push((id, u64::from(target.weight))),
        }
    }
    weights.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    let all: u64 = weights.iter().map(|(_, weight)| weight).sum();
    let percent = |weight: u64| u8::try_from((weight * 100 + all / 2) / all).unwrap_or(100);
    weights.into_iter().map(|(release, weight)| ReleaseShare { release, percent: percent(weight) }).collect()
}

/// Whether a rollout is under way at a route: what it came from is its fallback, also where that has all traffic of this host yet.
fn has_rollout(recorded: &Recorded, route: &RouteRecord) -> bool {
    // without a switch one stands by
    let stands_by =
        |t: &Target| t.weight == 0 && recorded.instances.get(&t.instance).is_some_and(InstanceRecord::is_usable);
    route.dead_man.is_some() || !has_one_release(recorded, &route.targets) || route.targets.iter().any(stands_by)
}

fn has_one_release(recorded: &Recorded, targets: &[Target]) -> bool {
    let weighty = targets.iter().filter(|t| t.weight > 0);
    let mut releases = weighty.filter_map(|t| recorded.instances.get(&t.instance)).map(|i| i.release.id);
    releases.next().is_some_and(|first| releases.all(|r| r == first))
}

fn usable(recorded: &Recorded, targets: &[Target]) -> Vec<Target> {
    let usable =
        |t: &&Target| t.weight > 0 && recorded.instances.get(&t.instance).is_some_and(InstanceRecord::is_usable);
    targets.iter().filter(usable).cloned().collect()
}
