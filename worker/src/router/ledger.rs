//! What was observed by a router that is another program: the host keeps it, as `segue proxy` does for itself.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use segue_schemas::{
    host_api::{HostError, ObservationBatch},
    id::InstanceId,
};

use super::RouterState;
use crate::{
    host::state::Store,
    proxy::{
        observations::{ObservationLog, Observed},
        table::RouteTable,
    },
};

/// Tables that are remembered: a request that began under one may end long after.
const ERAS: usize = 64;

/// A service in an environment.
pub(super) type Pair = (String, String);

/// One table that was carried.
#[derive(Debug)]
pub(super) struct Era {
    /// Its name in the router's log, where that says one.
    pub(super) name: String,
    since: Instant,
    /// By the addresses in it, who is there.
    pub(super) addresses: HashMap<SocketAddr, InstanceId>,
    targets: HashMap<InstanceId, (Pair, f64)>,
}

/// The observations of every route.
#[derive(Debug)]
pub(super) struct Ledger {
    generation: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    logs: HashMap<Pair, Arc<ObservationLog>>,
    eras: VecDeque<Arc<Era>>,
    dropped: u32,
}

impl Ledger {
    /// An empty one, of a router that takes the place of whatever the host had before.
    ///
    /// # Errors
    /// That can't be recorded.
    pub(super) async fn next(store: &Arc<Store>) -> Result<Self, HostError> {
        let generation = store.change(|recorded| {
            recorded.generation += 1;
            recorded.proxy_process = None;
            recorded.proxy_control = None;
            Ok(recorded.generation)
        });
        Ok(Self { generation: generation.await?, inner: Mutex::default() })
    }

    /// A table is about to be carried, under this name.
    pub(super) fn begin(&self, name: &str, table: &RouteTable) {
        let mut inner = self.inner();
        let pairs: HashSet<Pair> = table.routes.iter().map(|r| (r.environment.clone(), r.service.clone())).collect();
        inner.logs.retain(|pair, _| pairs.contains(pair));
        for pair in pairs {
            inner.logs.entry(pair).or_insert_with(|| Arc::new(ObservationLog::new(self.generation)));
        }
        let era = Era::new(name, table);
        if inner.eras.back().is_some_and(|last| last.is_same(&era)) {
            return;
        }
        if inner.eras.len() == ERAS {
            inner.eras.pop_front();
        }
        inner.eras.push_back(Arc::new(era));
    }

    /// The table that was carried so long ago; the oldest known where that is longer.
    pub(super) fn era_before(&self, ago: Duration) -> Option<Arc<Era>> {
        let inner = self.inner();
        let at = Instant::now().checked_sub(ago);
        let then = inner.eras.iter().rev().find(|era| at.is_some_and(|at| era.since <= at));
        then.or(inner.eras.front()).cloned()
    }

    /// The table of that name that was carried last.
    pub(super) fn era_named(&self, name: &str) -> Option<Arc<Era>> {
        self.inner().eras.iter().rev().find(|era| era.name == name).cloned()
    }

    /// Takes an observation down, at the route to which its instance belonged.
    pub(super) fn note(&self, pair: &Pair, observed: Observed) {
        let log = self.inner().logs.get(pair).cloned();
        if let Some(log) = log {
            log.push(observed);
        }
    }

    /// The kernel has dropped so many lines by now. Nobody knows whose they were: every route may have lost them.
    pub(super) fn note_dropped(&self, dropped: u32) {
        let mut inner = self.inner();
        let more = dropped.wrapping_sub(inner.dropped);
        inner.dropped = dropped;
        drop(inner);
        self.lose(more.into());
    }

    /// So many lines of the router's log did not come.
    pub(super) fn lose(&self, count: u64) {
        if count > 0 {
            tracing::warn!(count, "lines of the router's log were lost on the way to the host");
            self.count_lost(count);
        }
    }

    /// So many requests went by a table that is not known any more.
    pub(super) fn lose_unknown(&self, count: u64) {
        if count > 0 {
            tracing::debug!(count, "requests by a table of before are counted as lost");
            self.count_lost(count);
        }
    }

    fn count_lost(&self, count: u64) {
        self.inner().logs.values().for_each(|log| log.push_lost(count));
    }

    /// The answer to whoever asks for observations.
    pub(super) async fn read(&self, pair: &Pair, after: u64, limit: u64, wait: Duration) -> Bytes {
        let log = self.log(pair);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).max(1);
        let batch = match log {
            Some(log) => log.read(after, limit, wait).await,
            None => ObservationBatch { observations: Vec::new(), next: after, lost: 0 },
        };
        serde_json::to_vec(&batch).unwrap_or_default().into()
    }

    /// Returns at the next observation of a route; never where there is none.
    pub(super) async fn next_of(&self, pair: &Pair) {
        match self.log(pair) {
            Some(log) => log.arrives().await,
            None => std::future::pending().await,
        }
    }

    /// The route to which an instance belonged when it was last in a table.
    pub(super) fn pair_of(&self, instance: &str) -> Option<Pair> {
        let inner = self.inner();
        let mut found = inner.eras.iter().rev().flat_map(|era| &era.targets);
        found.find(|(id, _)| id.as_str() == instance).map(|(_, (pair, _))| pair.clone())
    }

    /// The address that an instance had when it was last in a table.
    pub(super) fn address_of(&self, instance: &str) -> Option<SocketAddr> {
        let inner = self.inner();
        let mut found = inner.eras.iter().rev().flat_map(|era| &era.addresses);
        found.find(|(_, id)| id.as_str() == instance).map(|(address, _)| *address)
    }

    /// The addresses of all instances that were in a table, as far as that is remembered.
    pub(super) fn known_addresses(&self) -> HashMap<InstanceId, SocketAddr> {
        let inner = self.inner();
        let known = inner.eras.iter().flat_map(|era| &era.addresses);
        known.map(|(address, id)| (id.clone(), *address)).collect()
    }

    /// Adds what is known of observations.
    pub(super) fn add_to(&self, state: &mut RouterState) {
        for ((environment, service), log) in &self.inner().logs {
            state.newest.push((environment.clone(), service.clone(), log.newest()));
            if let Some(at) = log.newest_at() {
                let ms = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
                state.idle_ms.push((environment.clone(), service.clone(), ms));
            }
        }
    }

    fn log(&self, pair: &Pair) -> Option<Arc<ObservationLog>> {
        self.inner().logs.get(pair).cloned()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing that runs under the lock can panic half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Era {
    fn new(name: &str, table: &RouteTable) -> Self {
        let mut era =
            Self { name: name.to_owned(), since: Instant::now(), addresses: HashMap::new(), targets: HashMap::new() };
        for route in &table.routes {
            let total: u64 = route.targets.iter().map(|t| u64::from(t.weight)).sum();
            for target in &route.targets {
                let of_release = route.targets.iter().filter(|t| t.release == target.release);
                let share: u64 = of_release.map(|t| u64::from(t.weight)).sum();
                #[allow(clippy::cast_precision_loss)]
                let probability = if total == 0 { 0.0 } else { share as f64 / total as f64 };
                let pair = (route.environment.clone(), route.service.clone());
                era.targets.insert(target.instance.clone(), (pair, probability));
                era.addresses.insert(target.address, target.instance.clone());
            }
        }
        era
    }

    /// The route of an instance, and the probability with which its release is chosen there.
    pub(super) fn target(&self, instance: &str) -> Option<(&InstanceId, &Pair, f64)> {
        let found = self.targets.iter().find(|(id, _)| id.as_str() == instance);
        found.map(|(id, (pair, probability))| (id, pair, *probability))
    }

    #[allow(clippy::float_cmp)]
    fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.addresses == other.addresses && self.targets == other.targets
    }
}
