//! The planner's loop: which deliveries are planned when. Those of one repository share a fetch; repositories do not wait
//! for each other.
//!
//! Without a message queue the store's doorbell says when to look at everything that waits. With one, each delivery comes with
//! its own bell, to one of the servers; while the broker is away each server looks for itself again.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Planner, wanted};
use crate::{
    mirror::{RepositoryName, Wanted},
    queue::{PREFETCH, PlannerBell, PlannerBells, Standing},
    store::{Bell, Delivery, DeliveryState, Result, StoreError},
};

/// Repositories at a time.
const REPOSITORIES: usize = 16;
/// Deliveries that are looked at in one go. More wait in the store.
const DELIVERIES: u32 = 512;
/// Deliveries of one repository that are planned at a time: their commits to the store join into few syncs, and each has a
/// reader of the mirror that stays warm.
const OF_ONE_REPOSITORY: usize = 4;
/// While all that waits is of repositories that are being planned, a look finds nothing to start. How long further bells are
/// gathered then, so that a burst of a thousand costs a few looks and not a thousand.
const GATHER: Duration = Duration::from_millis(50);
/// Pause after the store has failed.
const STORE_PAUSE: Duration = Duration::from_secs(1);

impl Planner {
    /// Plans until `stop`; then finishes what it is at.
    pub async fn run(self: Arc<Self>, queue: Option<PlannerBells>, stop: CancellationToken) {
        let (mut bells, mut standing) = queue.map(|queue| (queue.bells, queue.standing)).unzip();
        let mut bell = self.store.doorbell().listen(Bell::Deliveries);
        let mut batches = JoinSet::new();
        // the repositories that are being planned; a delivery of one of them waits for its batch to end
        let mut busy = HashSet::new();
        let mut rung = Vec::new();
        let every = self.store.config().broker.look_every.0;
        let mut next_look = Instant::now() + every;
        loop {
            let is_rung_for = standing.as_mut().is_some_and(|queue| *queue.borrow_and_update() == Standing::Up);
            if is_rung_for && next_look <= Instant::now() {
                next_look = Instant::now() + every;
                self.look_for_overlooked(every, &mut batches, &mut busy).await;
            }
            let planned = if is_rung_for {
                self.start_rung(&mut rung, &mut batches, &mut busy).await
            } else {
                // a look shows everything that a bell could be for
                for bell in std::mem::take(&mut rung) {
                    bell.answer().await;
                }
                self.start_batches(&mut batches, &mut busy).await
            };
            let next = match planned {
                Ok(next) => next,
                Err(error) => {
                    tracing::warn!(%error, "deliveries can't be read");
                    Next::At(Instant::now() + STORE_PAUSE)
                }
            };
            tokio::select! {
                () = bell.rung(), if next.heeds_bell() => {}
                () = next.time() => {}
                () = tokio::time::sleep_until(next_look), if is_rung_for => {}
                () = take(&mut bells, &mut rung) => {}
                () = stands_otherwise(&mut standing) => {}
                Some(ended) = batches.join_next_with_id() => forget(&mut busy, ended),
                () = stop.cancelled() => break,
            }
        }
        while batches.join_next().await.is_some() {}
    }

    /// Plans what has waited for longer than a bell may take, though bells are said to come: one that lies in a queue which nobody empties
    /// is no reason to leave an event where it is.
    async fn look_for_overlooked(self: &Arc<Self>, every: Duration, batches: &mut Batches, busy: &mut Busy) {
        let due = match self.store.next_delivery_due().await {
            Ok(due) => due,
            Err(error) => return tracing::warn!(%error, "deliveries can't be read"),
        };
        if due.is_some_and(|due| self.store.now().since(due) >= every)
            && let Err(error) = self.start_batches(batches, busy).await
        {
            tracing::warn!(%error, "deliveries can't be read");
        }
    }

    /// Starts a batch for each repository with due deliveries that has none. Gives when to look again.
    async fn start_batches(self: &Arc<Self>, batches: &mut Batches, busy: &mut Busy) -> Result<Next> {
        let mut groups: HashMap<String, Vec<Delivery>> = HashMap::new();
        for delivery in self.store.next_deliveries(DELIVERIES).await? {
            groups.entry(delivery.repository.clone().unwrap_or_default()).or_default().push(delivery);
        }
        let (waiting, before) = (groups.len(), busy.len());
        for (repository, deliveries) in groups {
            if busy.len() >= REPOSITORIES {
                break;
            }
            if busy.iter().any(|(_, name)| *name == repository) {
                continue;
            }
            let planner = Arc::clone(self);
            let task = batches.spawn(async move { planner.batch(deliveries).await });
            busy.insert((task.id(), repository));
        }
        if waiting > 0 && busy.len() == before {
            return Ok(Next::Gathered(Instant::now() + GATHER));
        }
        let due = self.store.next_delivery_due().await?;
        Ok(due.map_or(Next::Bell, |due| Next::At(Instant::now() + due.since(self.store.now()))))
    }

    /// Starts a batch for each repository with deliveries that were rung for, and that has none; the others stay where they are.
    async fn start_rung(
        self: &Arc<Self>,
        rung: &mut Vec<PlannerBell>,
        batches: &mut Batches,
        busy: &mut Busy,
    ) -> Result<Next> {
        let mut groups: HashMap<String, (Vec<Delivery>, Vec<PlannerBell>)> = HashMap::new();
        let mut seen = HashSet::new();
        for bell in std::mem::take(rung) {
            if !seen.insert(bell.delivery.clone()) {
                bell.answer().await;
                continue;
            }
            match self.store.delivery(&bell.delivery).await {
                Ok(delivery) if delivery.state == DeliveryState::Accepted => {
                    let (deliveries, bells) =
                        groups.entry(delivery.repository.clone().unwrap_or_default()).or_default();
                    deliveries.push(delivery);
                    bells.push(bell);
                }
                // planned already: the bell came twice
                Ok(_) => bell.answer().await,
                Err(StoreError::NotFound { .. }) => {
                    tracing::warn!(delivery = %bell.delivery, "a bell is for a delivery that is not in the store");
                    bell.refuse().await;
                }
                Err(error) => {
                    rung.push(bell);
                    tracing::warn!(%error, "a delivery can't be read");
                }
            }
        }
        let could_not_read = !rung.is_empty();
        for (repository, (deliveries, bells)) in groups {
            if busy.len() >= REPOSITORIES || busy.iter().any(|(_, name)| *name == repository) {
                rung.extend(bells);
                continue;
            }
            let planner = Arc::clone(self);
            let task = batches.spawn(async move {
                planner.batch(deliveries).await;
                for bell in bells {
                    bell.answer().await;
                }
            });
            busy.insert((task.id(), repository));
        }
        Ok(if could_not_read { Next::At(Instant::now() + STORE_PAUSE) } else { Next::Other })
    }

    async fn batch(self: Arc<Self>, deliveries: Vec<Delivery>) {
        if deliveries.len() > 1 {
            self.fetch_together(&deliveries).await;
        }
        let all = stream::iter(deliveries).for_each_concurrent(OF_ONE_REPOSITORY, |delivery| {
            let planner = Arc::clone(&self);
            async move {
                let id = delivery.id.clone();
                if let Err(error) = planner.settle(delivery).await {
                    tracing::warn!(delivery = %id, %error, "what came of a delivery can't be stored");
                    tokio::time::sleep(STORE_PAUSE).await;
                }
            }
        });
        all.await;
    }

    /// One fetch for all commits of a batch. If it fails, each delivery tries for itself and shows its own error.
    async fn fetch_together(&self, deliveries: &[Delivery]) {
        let triggers: Vec<_> = deliveries.iter().filter_map(|delivery| delivery.trigger.as_ref()).collect();
        let Some(first) = triggers.first() else { return };
        let (Ok(name), Ok(source)) = (RepositoryName::parse(&first.repository), self.source(first)) else { return };
        let mut all: Vec<Wanted> = Vec::new();
        for &trigger in &triggers {
            // events of one repository may name different addresses; those are fetched one by one
            if self.source(trigger).is_ok_and(|other| other == source) {
                all.extend(wanted(trigger).unwrap_or_default());
            }
        }
        if let Err(error) = self.mirrors.ensure(&name, &source, &all).await {
            tracing::debug!(repository = first.repository, %error, "a common fetch failed");
        }
    }
}

type Batches = JoinSet<()>;
type Busy = HashSet<(tokio::task::Id, String)>;

fn forget(busy: &mut Busy, ended: std::result::Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
    let id = match ended {
        Ok((id, ())) => id,
        Err(error) => {
            tracing::error!(%error, "planning broke off");
            error.id()
        }
    };
    busy.retain(|(task, _)| *task != id);
}

/// Takes the next bells of the message queue, as many as there are.
async fn take(bells: &mut Option<mpsc::Receiver<PlannerBell>>, rung: &mut Vec<PlannerBell>) {
    let taken = match bells {
        Some(bells) => bells.recv_many(rung, PREFETCH).await,
        None => 0,
    };
    if taken == 0 {
        std::future::pending::<()>().await;
    }
}

/// Returns when the broker stands otherwise than before.
async fn stands_otherwise(standing: &mut Option<watch::Receiver<Standing>>) {
    match standing {
        Some(standing) => {
            if standing.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}

/// When to look again; the end of a batch comes before all of these.
enum Next {
    /// When something else happens than the store's bell.
    Other,
    /// When the bell rings.
    Bell,
    /// When the bell rings, then at the latest.
    At(Instant),
    /// Then, whatever rings.
    Gathered(Instant),
}

impl Next {
    fn heeds_bell(&self) -> bool {
        !matches!(self, Self::Gathered(_) | Self::Other)
    }

    async fn time(&self) {
        match self {
            Self::Bell | Self::Other => std::future::pending().await,
            Self::At(time) | Self::Gathered(time) => tokio::time::sleep_until(*time).await,
        }
    }
}
