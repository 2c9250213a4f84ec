//! Services that sleep: what nobody asks for is stopped after a while, and the first request starts it again. The proxy holds
//! requests meanwhile.
//!
//! On the way to sleep and back the requests are held and the process lives ([`Nap::Held`]): so none is sent to a process that is being
//! ended or is not well yet. What is asleep stays so over a restart of host, proxy and machine.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use segue_schemas::{host_api::HostError, id::InstanceId};
use tokio::time::sleep_until;

use super::{
    Host,
    state::{Nap, Recorded, RouteRecord},
};

/// How long one that was woken may take to become well; then it gets its requests all the same, and what it answers is shown.
const WAKE_LIMIT: Duration = Duration::from_secs(120);

/// How long the proxy holds back its answer while nobody asks for what is asleep.
const ASK_HOLD: Duration = Duration::from_secs(60);

/// The pause before a proxy that does not answer is asked again.
const ASK_PAUSE: Duration = Duration::from_millis(200);

/// A service in an environment.
type Pair = (String, String);

/// A route whose instances may be put to sleep.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Idle {
    pair: Pair,
    targets: Vec<InstanceId>,
    after: Duration,
}

impl Host {
    /// Puts to sleep what nobody has asked for, when its time has come, for ever. Sleeps until then or until a change of the record.
    pub(super) async fn send_to_sleep(self: Arc<Self>) {
        let mut watch = self.store.watch();
        // since when each is known to be without requests
        let mut since: HashMap<Pair, (Vec<InstanceId>, Instant)> = HashMap::new();
        loop {
            let recorded = watch.borrow_and_update().clone();
            let awake: Vec<Idle> = recorded.routes.iter().filter_map(|route| idle(&recorded, route)).collect();
            since.retain(|pair, (targets, _)| awake.iter().any(|one| one.pair == *pair && one.targets == *targets));
            let now = Instant::now();
            let due = |since: &mut HashMap<_, (_, Instant)>, one: &Idle| {
                since.entry(one.pair.clone()).or_insert_with(|| (one.targets.clone(), now)).1 + one.after
            };
            let next = awake.iter().map(|one| (due(&mut since, one), one)).min_by_key(|(at, _)| *at);
            match next {
                Some((at, one)) if at <= now => {
                    let unused = self.unused_for(one).await.unwrap_or(Duration::ZERO);
                    if unused < one.after {
                        let begun = now.checked_sub(unused).unwrap_or(now);
                        since.insert(one.pair.clone(), (one.targets.clone(), begun));
                        continue;
                    }
                    since.remove(&one.pair);
                    if let Err(error) = self.put_to_sleep(one).await {
                        tracing::error!(service = one.pair.1, environment = one.pair.0, %error, "it can't be put to sleep");
                    }
                }
                Some((at, _)) => tokio::select! {
                    () = sleep_until(at.into()) => {}
                    changed = watch.changed() => if changed.is_err() { return },
                },
                None => {
                    if watch.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// How long the proxy has carried nothing to it; `None`: there is no proxy to ask.
    async fn unused_for(&self, one: &Idle) -> Option<Duration> {
        let proxy = self.router.state().await?;
        let busy = one.targets.iter().any(|id| proxy.in_flight.get(id.as_str()).is_some_and(|count| *count > 0));
        if busy {
            return Some(Duration::ZERO);
        }
        let (environment, service) = &one.pair;
        let idle = proxy.idle_ms.iter().find(|(e, s, _)| e == environment && s == service);
        // a proxy that has carried nothing yet knows of nothing
        Some(idle.map_or(one.after, |(_, _, ms)| Duration::from_millis(*ms)))
    }

    async fn put_to_sleep(self: &Arc<Self>, one: &Idle) -> Result<(), HostError> {
        let (environment, service) = one.pair.clone();
        let wanted = one.clone();
        let held = self.store.change(move |recorded| {
            let is_same = recorded
                .route(&wanted.pair.0, &wanted.pair.1)
                .and_then(|route| idle(recorded, route))
                .is_some_and(|now| now == wanted);
            if is_same {
                recorded.nap(&wanted.targets, Nap::Held);
            }
            Ok(is_same)
        });
        if !held.await? {
            return Ok(());
        }
        // once the proxy has the table, nothing more is sent there
        let pushed = self.carry().await;
        let is_quiet = pushed.is_ok() && self.unused_for(one).await.is_some_and(|unused| unused >= one.after);
        let targets = one.targets.clone();
        // a full disk must not leave it held for ever
        let settled = self.store.change_regardless(move |recorded| {
            // a rollout or a request may have woken it meanwhile
            let held: Vec<InstanceId> = targets.into_iter().filter(|id| recorded.is(id, Nap::Held)).collect();
            recorded.nap(&held, if is_quiet { Nap::Asleep } else { Nap::Awake });
            Ok(())
        });
        settled.await?;
        if is_quiet {
            tracing::info!(environment, service, after = ?one.after, "put to sleep: nobody asked for it");
            // whoever asked just before is not told of by the proxy a second time
            if self.router.held(u64::MAX, Duration::ZERO).await.is_some_and(|held| held.routes.contains(&one.pair)) {
                self.wake(&environment, &service).await?;
            }
            return Ok(());
        }
        self.carry().await?;
        pushed
    }

    /// Wakes what the proxy holds requests for, for ever. While nothing is asleep, the proxy is not asked.
    pub(super) async fn wake_on_request(self: Arc<Self>) {
        let mut watch = self.store.watch();
        let mut heard = u64::MAX;
        loop {
            let sleeps = |recorded: &Arc<Recorded>| recorded.instances.values().any(|i| i.nap == Nap::Asleep);
            if watch.wait_for(sleeps).await.is_err() {
                return;
            }
            let Some(held) = self.router.held(heard, ASK_HOLD).await else {
                heard = u64::MAX;
                tokio::time::sleep(ASK_PAUSE).await;
                continue;
            };
            heard = held.sequence;
            for (environment, service) in held.routes {
                if let Err(error) = self.wake(&environment, &service).await {
                    tracing::error!(environment, service, %error, "it can't be woken");
                }
            }
        }
    }

    /// Wakes everything: this host's router can't hold requests, and an earlier one has.
    pub(super) async fn wake_all(self: &Arc<Self>) -> Result<(), HostError> {
        let recorded = self.store.current();
        for instance in recorded.instances.values().filter(|instance| instance.nap != Nap::Awake) {
            self.wake(&instance.environment, &instance.release.service).await?;
        }
        let never = self.store.change(|recorded| {
            recorded.instances.values_mut().for_each(|instance| instance.run.sleep_after_ms = None);
            Ok(())
        });
        never.await
    }

    /// Starts what sleeps of a service; its requests go there once it is well.
    pub(super) async fn wake(self: &Arc<Self>, environment: &str, service: &str) -> Result<(), HostError> {
        let (e, s) = (environment.to_owned(), service.to_owned());
        let woken = self.store.change(move |recorded| {
            let of_pair = recorded.instances.iter().filter(|(_, instance)| {
                instance.environment == e && instance.release.service == s && instance.nap == Nap::Asleep
            });
            let asleep: Vec<InstanceId> = of_pair.filter(|(_, i)| i.is_usable()).map(|(id, _)| id.clone()).collect();
            recorded.nap(&asleep, Nap::Held);
            Ok(asleep)
        });
        let woken = woken.await?;
        if !woken.is_empty() {
            tracing::info!(environment, service, "woken");
            tokio::spawn(self.clone().give_back(woken));
        }
        Ok(())
    }

    /// Gives instances their requests once they are well.
    pub(super) async fn give_back(self: Arc<Self>, held: Vec<InstanceId>) {
        for id in &held {
            if !self.wait_until_well(id, WAKE_LIMIT).await {
                tracing::warn!(instance = %id, "it was woken and is not well");
            }
        }
        let awake = self.store.change_regardless(move |recorded| {
            let held: Vec<InstanceId> = held.into_iter().filter(|id| recorded.is(id, Nap::Held)).collect();
            recorded.nap(&held, Nap::Awake);
            Ok(())
        });
        let done = match awake.await {
            Ok(()) => self.carry().await,
            failed => failed,
        };
        if let Err(error) = done {
            tracing::error!(%error, "requests of what was woken are still held");
        }
    }
}

impl Recorded {
    /// Puts instances to sleep or wakes them; whoever waits for what the host does by itself hears of both.
    pub(super) fn nap(&mut self, ids: &[InstanceId], nap: Nap) {
        for id in ids {
            let Some(instance) = self.instances.get_mut(id) else { continue };
            instance.nap = nap;
            self.restorations += u64::from(nap != Nap::Held);
        }
    }

    fn is(&self, id: &InstanceId, nap: Nap) -> bool {
        self.instances.get(id).is_some_and(|instance| instance.nap == nap)
    }
}

/// What may be put to sleep of a route: all that gets its traffic, where all of that may, is awake and nobody is changing it.
fn idle(recorded: &Recorded, route: &RouteRecord) -> Option<Idle> {
    if route.dead_man.is_some() {
        return None;
    }
    let mut after = None;
    let mut targets = Vec::new();
    for target in route.targets.iter().filter(|target| target.weight > 0) {
        let instance = recorded.instances.get(&target.instance)?;
        let own = Duration::from_millis(instance.run.sleep_after_ms?);
        if instance.nap != Nap::Awake || !instance.is_usable() || !instance.prepared {
            return None;
        }
        after = after.max(Some(own));
        targets.push(target.instance.clone());
    }
    Some(Idle { pair: (route.environment.clone(), route.service.clone()), targets, after: after? })
}
