//! The relay: tells the broker what the store's doorbell says. It holds one connection, publishes without waiting for the one
//! before, and counts a bell as rung when the broker has confirmed it and has not given it back. What was on its way when a
//! connection broke is found in the store again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, Event,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use rand::Rng as _;
use segue_schemas::{
    id::{JobId, WorkerId},
    queue::{self, About, DeliveryBell, PoolBell, Word},
};
use serde::Serialize;
use tokio::{
    sync::{Notify, broadcast, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Looks, Standing,
    connection::Address,
    decide::{LOOK, Rung, Underway, by_pool, pools_with_work},
    error::QueueError,
    topology,
};
use crate::{
    outgoing::at,
    store::{Bell, Store, Waiting},
};

/// Pauses before a connection is made again grow from the first to the second of these.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A broker that has not confirmed a bell for this long is not to be waited for.
const CONFIRM_LIMIT: Duration = Duration::from_secs(2);
/// After this long without a confirmation, nor the word that it stops publishers, the connection is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(20);
/// Before a bell that was given back is rung again: its queue is gone.
const RING_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// Before one that was refused is: its queue is full.
const REFUSED_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Bells on their way at a time. More wait in the store.
const ON_THEIR_WAY: usize = 8192;
/// Where every pool with work had a bell in its queue already, its workers are busy: the next look may wait for this long, and
/// stands for all that would have been made meanwhile.
const BUSY_PAUSE: Duration = Duration::from_millis(25);
/// Kept by the broker over its restart.
const PERSISTENT: u8 = 2;

/// Relays until `stop`.
pub(super) async fn run(
    address: Address,
    store: Store,
    looks: Looks,
    subscribe_anew: Arc<Notify>,
    standing: watch::Sender<Standing>,
    stop: CancellationToken,
) {
    let mut pause = PAUSES.0;
    let mut is_first = true;
    loop {
        let begun = Instant::now();
        let ended = relay(&address, &store, &looks, &subscribe_anew, &standing, is_first, &stop).await;
        let Err(error) = ended else { return };
        is_first = false;
        if begun.elapsed() > PAUSES.1 {
            pause = PAUSES.0;
        }
        let reason = error.to_string();
        let is_news = standing.send_replace(Standing::Away(reason.clone())) != Standing::Away(reason);
        if is_news {
            tracing::error!(
                %error, look_seconds = store.config().broker.look_every.0.as_secs(),
                "no bells go through the broker; this server plans what comes in, and workers ask every so often"
            );
        }
        let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
        pause = (pause * 2).min(PAUSES.1);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(jittered) => {}
        }
    }
}

/// Relays over one connection, until `stop` or until it breaks.
async fn relay(
    address: &Address,
    store: &Store,
    looks: &Looks,
    subscribe_anew: &Notify,
    standing: &watch::Sender<Standing>,
    is_first: bool,
    stop: &CancellationToken,
) -> Result<(), QueueError> {
    // listened to from before the first look, so that nothing falls between
    let mut jobs = store.doorbell().listen(Bell::Jobs);
    let mut deliveries = store.doorbell().listen(Bell::Deliveries);
    let mut told = store.doorbell().listen_to_jobs();
    let connection = tokio::select! {
        connection = address.connect("segue server: bells") => connection?,
        () = stop.cancelled() => return Ok(()),
    };
    let mut events = connection.events_listener().boxed();
    let mut relay = Relay::begin(address, store, subscribe_anew, standing, &connection).await?;
    relay.becomes(Standing::Up);
    if !is_first {
        // what the planner believes to be subscribed to may be a queue that was removed, without that it was told
        subscribe_anew.notify_one();
    }
    let every = store.config().broker.look_every.0;
    let mut next_look = Instant::now() + every;
    loop {
        relay.ring().await?;
        let (again_at, due_at, late_at) = (relay.again_at, relay.due_at, relay.late_at());
        let busy_until = relay.busy_until.filter(|_| relay.jobs);
        tokio::select! {
            () = stop.cancelled() => {
                let _ = address.ask(connection.close(200, "the server stops".into())).await;
                return Ok(());
            }
            () = jobs.rung() => relay.jobs = true,
            () = looks.asked() => relay.jobs = true,
            () = deliveries.rung() => relay.deliveries = true,
            job = told.recv() => relay.tell(job).await?,
            Some((bell, confirmed)) = relay.on_their_way.next() => relay.arrived(bell, confirmed)?,
            // rung, in its turn
            () = at(busy_until) => relay.busy_until = None,
            () = at(again_at) => relay.everything_again().await?,
            () = at(due_at) => (relay.due_at, relay.deliveries) = (None, true),
            () = tokio::time::sleep_until(next_look) => {
                next_look = Instant::now() + every;
                relay.look_for_lost().await?;
            }
            () = at(late_at) => relay.late()?,
            event = events.next() => relay.event(event)?,
        }
    }
}

/// What was published.
#[derive(Debug, Clone)]
enum Published {
    Pool(String),
    Delivery,
    /// Nobody is to be found again for this one: it is heard at the next renewal or look.
    Word,
}

type OnItsWay = BoxFuture<'static, (Published, lapin::Result<Confirmation>)>;

/// One connection's work.
struct Relay<'a> {
    address: &'a Address,
    store: &'a Store,
    /// Has the planner's consumer begin anew.
    subscribe_anew: &'a Notify,
    standing: &'a watch::Sender<Standing>,
    connection: &'a Connection,
    publisher: Channel,
    /// Asks, and declares; an answer that is an error closes it.
    asker: Channel,
    on_their_way: FuturesUnordered<OnItsWay>,
    /// Since when something is on its way, without any that arrived meanwhile.
    waiting_since: Option<Instant>,
    underway: Underway,
    rung: Rung,
    /// Queued jobs whose worker was told to go on with them.
    told: BTreeSet<JobId>,
    /// The pools whose queues were declared.
    pools: BTreeSet<String>,
    /// Whether the store is to be looked at for jobs, and for deliveries.
    jobs: bool,
    deliveries: bool,
    /// Until when the store need not be looked at for jobs.
    busy_until: Option<Instant>,
    /// When a delivery that was put off is due.
    due_at: Option<Instant>,
    /// When everything is to be rung again.
    again_at: Option<Instant>,
    /// The broker takes nothing from publishers: it is out of memory or disk.
    is_blocked: bool,
}

impl<'a> Relay<'a> {
    async fn begin(
        address: &'a Address,
        store: &'a Store,
        subscribe_anew: &'a Notify,
        standing: &'a watch::Sender<Standing>,
        connection: &'a Connection,
    ) -> Result<Self, QueueError> {
        let asker = address.channel(connection).await?;
        topology::declare(address, &asker).await?;
        let publisher = address.channel(connection).await?;
        address.ask(publisher.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self {
            address,
            store,
            subscribe_anew,
            standing,
            connection,
            publisher,
            asker,
            on_their_way: FuturesUnordered::new(),
            waiting_since: None,
            underway: Underway::default(),
            rung: Rung::default(),
            told: BTreeSet::new(),
            pools: BTreeSet::new(),
            jobs: true,
            deliveries: true,
            busy_until: None,
            due_at: None,
            again_at: None,
            is_blocked: false,
        })
    }

    fn becomes(&self, now: Standing) {
        let before = self.standing.send_replace(now.clone());
        if before == now {
            return;
        }
        match now {
            Standing::Up => tracing::info!(broker = self.address.who.place, "bells go through the broker"),
            Standing::Slow(reason) => tracing::warn!(
                broker = self.address.who.place,
                reason,
                "the broker takes no bells at the moment; this server plans what comes in, and workers ask every so often"
            ),
            Standing::Away(_) => {}
        }
    }

    /// Looks at what is to be looked at, and rings. While the broker takes nothing, it is not asked either: it would not answer.
    async fn ring(&mut self) -> Result<(), QueueError> {
        if self.is_blocked || *self.standing.borrow() != Standing::Up {
            return Ok(());
        }
        if std::mem::take(&mut self.deliveries) {
            self.ring_planners().await?;
        }
        if self.busy_until.is_none_or(|until| until <= Instant::now()) && std::mem::take(&mut self.jobs) {
            let is_busy = self.ring_pools().await?;
            self.busy_until = is_busy.then(|| Instant::now() + BUSY_PAUSE);
        }
        Ok(())
    }

    async fn ring_planners(&mut self) -> Result<(), QueueError> {
        if self.on_their_way.len() >= ON_THEIR_WAY {
            self.deliveries = true;
            return Ok(());
        }
        let due = self.store.due_deliveries(self.rung.look_from(), LOOK).await.map_err(store)?;
        for delivery in self.rung.fresh(due) {
            let bell = DeliveryBell { v: queue::VERSION, delivery };
            self.publish("", queue::DELIVERIES, &bell, Published::Delivery).await?;
        }
        self.deliveries = self.rung.is_crowded();
        let next = self.store.next_delivery_due().await.map_err(store)?;
        self.due_at = next.map(|due| Instant::now() + due.since(self.store.now()));
        Ok(())
    }

    /// Rings the pools that have something to claim and no bell in their queue. So a hundred thousand jobs make no more bells than
    /// ten, and a broker that has lost everything gets it again. Whether there is work, and all of it was rung before.
    async fn ring_pools(&mut self) -> Result<bool, QueueError> {
        let Waiting { offered, queued, going_on } = self.store.waiting_for_workers().await.map_err(store)?;
        let pools = by_pool(offered);
        for pool in pools.keys() {
            if self.pools.insert(pool.clone()) {
                topology::declare_queue(self.address, &self.asker, &queue::jobs_queue(pool)).await?;
            }
        }
        let (mut waiting, mut rung) = (false, false);
        for pool in pools_with_work(&queued, &pools) {
            if !self.underway.may_ring(pool) {
                rung = true;
                continue;
            }
            let name = format!("{}{pool}", queue::JOBS);
            match topology::waiting(self.address, &self.asker, &name).await? {
                Some((0, _)) => {}
                Some(_) => {
                    waiting = true;
                    continue;
                }
                None => {
                    self.asker = self.address.channel(self.connection).await?;
                    topology::declare_queue(self.address, &self.asker, &queue::jobs_queue(pool)).await?;
                }
            }
            rung = true;
            let bell = PoolBell { v: queue::VERSION, pool: pool.to_owned() };
            self.underway.sent(pool);
            self.publish("", &name, &bell, Published::Pool(pool.to_owned())).await?;
        }
        self.tell_owners(going_on).await?;
        Ok(waiting && !rung)
    }

    /// Tells every worker that there is word of a job.
    async fn tell(&mut self, told: Result<JobId, broadcast::error::RecvError>) -> Result<(), QueueError> {
        // who was too slow to hear all of them leaves the rest to the next renewals
        let Ok(job) = told else { return Ok(()) };
        if self.is_blocked || self.on_their_way.len() >= ON_THEIR_WAY {
            return Ok(());
        }
        self.say(About::Job(job)).await
    }

    /// Tells workers of queued jobs that go on where their workspaces are. A bell of the pool might come to another.
    async fn tell_owners(&mut self, going_on: Vec<(JobId, WorkerId)>) -> Result<(), QueueError> {
        let before = std::mem::take(&mut self.told);
        for (job, worker) in going_on {
            if !before.contains(&job) {
                self.say(About::Worker(worker)).await?;
            }
            self.told.insert(job);
        }
        Ok(())
    }

    async fn say(&mut self, about: About) -> Result<(), QueueError> {
        let word = Word { v: queue::VERSION, about };
        self.publish(queue::CANCELLATIONS, "", &word, Published::Word).await
    }

    async fn publish(
        &mut self,
        exchange: &str,
        key: &str,
        bell: &impl Serialize,
        what: Published,
    ) -> Result<(), QueueError> {
        let body = queue::write(bell).map_err(|error| QueueError::Broker(error.to_string()))?;
        // where no worker listens a cancellation goes to nobody, which is right
        let mandatory = !matches!(what, Published::Word);
        let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default()
            .with_delivery_mode(if mandatory { PERSISTENT } else { 1 })
            .with_content_type("application/json".into())
            .with_message_id(Uuid::now_v7().to_string().as_str().into());
        let sent = self.publisher.basic_publish(exchange.into(), key.into(), options, &body, properties);
        let confirmed = self.address.ask(sent).await?;
        self.on_their_way.push(async move { (what, confirmed.await) }.boxed());
        self.waiting_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// The broker has answered for a bell.
    fn arrived(&mut self, bell: Published, confirmed: lapin::Result<Confirmation>) -> Result<(), QueueError> {
        let confirmed = confirmed.map_err(|error| self.address.who.explain(&error))?;
        self.waiting_since = (!self.on_their_way.is_empty()).then(Instant::now);
        if self.waiting_since.is_none() && !self.is_blocked {
            self.becomes(Standing::Up);
        }
        if let Published::Pool(pool) = &bell {
            self.jobs |= self.underway.arrived(pool);
        }
        let (problem, pause) = match confirmed {
            Confirmation::Ack(None) | Confirmation::NotRequested => return Ok(()),
            Confirmation::Ack(Some(returned)) => (returned.reply_text.to_string(), RING_AGAIN_AFTER),
            Confirmation::Nack(_) => ("the broker did not take it".into(), REFUSED_AGAIN_AFTER),
        };
        if !matches!(bell, Published::Word) {
            tracing::warn!(?bell, problem, "a bell came back; it is rung again");
            self.again_at.get_or_insert_with(|| Instant::now() + pause);
        }
        Ok(())
    }

    /// Declares and rings everything once more: a queue is gone, or was full.
    async fn everything_again(&mut self) -> Result<(), QueueError> {
        self.again_at = None;
        topology::declare(self.address, &self.asker).await?;
        self.pools.clear();
        self.rung.forget();
        (self.jobs, self.deliveries) = (true, true);
        Ok(())
    }

    /// Every so often: whoever has something waiting and an empty queue has lost its bell, to a broker that was wiped or to a
    /// consumer that answered it and then died.
    async fn look_for_lost(&mut self) -> Result<(), QueueError> {
        if self.is_blocked || *self.standing.borrow() != Standing::Up {
            return Ok(());
        }
        self.jobs = true;
        self.told.clear();
        match topology::waiting(self.address, &self.asker, queue::DELIVERIES).await? {
            Some((0, _)) => {
                self.rung.forget();
                self.deliveries = true;
                Ok(())
            }
            Some((waiting, 0)) => {
                tracing::warn!(waiting, "nobody takes the bells of deliveries; the planner subscribes anew");
                self.subscribe_anew.notify_one();
                Ok(())
            }
            Some(_) => Ok(()),
            None => {
                self.asker = self.address.channel(self.connection).await?;
                self.everything_again().await
            }
        }
    }

    /// When the oldest bell on its way is late.
    fn late_at(&self) -> Option<Instant> {
        let limit = match &*self.standing.borrow() {
            Standing::Up => CONFIRM_LIMIT,
            _ if self.is_blocked => return None,
            _ => GIVE_UP_AFTER,
        };
        Some(self.waiting_since? + limit)
    }

    fn late(&mut self) -> Result<(), QueueError> {
        if *self.standing.borrow() == Standing::Up {
            self.becomes(Standing::Slow(format!("no bell was confirmed for {} s", CONFIRM_LIMIT.as_secs())));
            return Ok(());
        }
        Err(self.address.who.silent())
    }

    fn event(&mut self, event: Option<Event>) -> Result<(), QueueError> {
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                self.is_blocked = true;
                self.becomes(Standing::Slow(format!("it is short of resources: {reason}")));
            }
            Some(Event::ConnectionUnblocked) => {
                self.is_blocked = false;
                self.waiting_since = self.waiting_since.map(|_| Instant::now());
                self.becomes(Standing::Up);
                (self.jobs, self.deliveries) = (true, true);
            }
            Some(Event::Error(error)) => return Err(self.address.who.explain(&error)),
            None => return Err(self.address.who.silent()),
            Some(_) => {}
        }
        Ok(())
    }
}

fn store(error: crate::store::StoreError) -> QueueError {
    QueueError::Store(error.to_string())
}
