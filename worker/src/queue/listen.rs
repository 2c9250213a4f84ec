//! One connection to the broker, made again whenever it ends: the pool's bells while a slot is free, and the words for jobs.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::{
    Channel, Connection, Consumer, Event,
    message::Delivery as Message,
    options::{
        BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use rand::Rng as _;
use segue_schemas::{
    id::{JobId, WorkerId},
    queue::{self, About, BellError, Word},
};
use tokio::{
    sync::{Notify, broadcast, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    PoolBell,
    connection::{Address, QueueError},
};

/// Pauses before a connection is made again grow from the first to the second of these.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Before a subscription that the broker refused or ended is asked for again.
const SUBSCRIBE_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// After a connection was made, how long the pool's queue may be missing without a word: the server is about to declare it.
const MISSING_FOR: Duration = Duration::from_secs(5);
/// Before a bell of a later version is given back.
const GIVE_BACK_AFTER: Duration = Duration::from_millis(200);

/// What connects this task to the rest of the worker.
pub(super) struct Here {
    pub(super) worker: WorkerId,
    /// How many slots are free.
    pub(super) places: watch::Receiver<usize>,
    /// The slots that wait.
    pub(super) waiting: mpsc::Receiver<oneshot::Sender<PoolBell>>,
    pub(super) told: broadcast::Sender<JobId>,
    /// Wakes a slot.
    pub(super) another: Arc<Notify>,
    pub(super) listening: watch::Sender<bool>,
}

impl Here {
    /// A word that goes to every worker.
    fn hear(&self, word: &[u8]) {
        match queue::read::<Word>(word).map(|word| word.about) {
            // an error here: no job runs
            Ok(About::Job(job)) => drop(self.told.send(job)),
            // a slot that is busy asks by itself when it is free
            Ok(About::Worker(worker)) if worker == self.worker && *self.places.borrow() > 0 => {
                self.another.notify_one()
            }
            Ok(About::Worker(_)) => {}
            Err(error) => tracing::debug!(%error, "a word for workers can't be read"),
        }
    }
}

/// Listens until `stop`.
pub(super) async fn run(address: Address, pool: String, mut here: Here, stop: CancellationToken) {
    let mut pause = PAUSES.0;
    let mut said = None;
    loop {
        let begun = Instant::now();
        let ended = tokio::select! {
            ended = listen(&address, &pool, &mut here, &mut said) => ended,
            () = stop.cancelled() => return,
        };
        here.listening.send_replace(false);
        if begun.elapsed() > PAUSES.1 {
            pause = PAUSES.0;
        }
        if let Err(error) = ended
            && said.as_ref() != Some(&error)
        {
            tracing::warn!(%error, "no bells come from the broker; this worker asks the server every so often");
            said = Some(error);
        }
        let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
        pause = (pause * 2).min(PAUSES.1);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(jittered) => {}
        }
    }
}

/// Listens over one connection, until it breaks.
async fn listen(
    address: &Address,
    pool: &str,
    here: &mut Here,
    said: &mut Option<QueueError>,
) -> Result<(), QueueError> {
    let connection = address.connect("segue worker").await?;
    let begun = Instant::now();
    let mut events = connection.events_listener().boxed();
    let mut words = words(address, &connection).await?;
    here.listening.send_replace(true);
    let mut bells = Bells::new(address, &connection, format!("{}{pool}", queue::JOBS));
    loop {
        let wanted = *here.places.borrow_and_update() > 0;
        match bells.subscribe(wanted).await {
            Ok(true) => {
                *said = None;
                tracing::info!(broker = address.place, pool, "bells come from the broker");
            }
            Ok(false) => {}
            Err(error @ (QueueError::Missing(_) | QueueError::Refused { .. })) => {
                let is_new_here = matches!(error, QueueError::Missing(_)) && begun.elapsed() < MISSING_FOR;
                if !is_new_here && said.as_ref() != Some(&error) {
                    tracing::warn!(%error, "no bells can be taken; this worker asks the server every so often");
                    *said = Some(error);
                }
            }
            Err(error) => return Err(error),
        }
        let again_at = bells.again_at.filter(|_| wanted);
        tokio::select! {
            Ok(()) = here.places.changed() => {}
            Some(slot) = here.waiting.recv() => bells.waits(slot),
            message = next(&mut bells.consumer) => bells.rung(message).await?,
            () = at(again_at) => {}
            word = words.next() => match word {
                Some(Ok(message)) => here.hear(&message.data),
                Some(Err(error)) => return Err(address.explain(&error)),
                None => return Err(address.away("it has ended the subscription to cancellations")),
            },
            event = events.next() => match event {
                // it ends a channel, and whoever asked over that one hears of it
                Some(Event::Error(error)) if error.is_amqp_soft_error() => {}
                Some(Event::Error(error)) => return Err(address.explain(&error)),
                None => return Err(address.away("the connection is gone")),
                Some(_) => {}
            },
        }
    }
}

/// Subscribes to the words for jobs, by a queue of this worker's own that ends with the connection.
async fn words(address: &Address, connection: &Connection) -> Result<Consumer, QueueError> {
    let channel = address.ask(connection.create_channel()).await?;
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let own = address.ask(channel.queue_declare("".into(), options, FieldTable::default())).await?;
    let own = own.name().clone();
    let options = QueueBindOptions::default();
    let bound = channel.queue_bind(own.clone(), queue::CANCELLATIONS.into(), "".into(), options, FieldTable::default());
    address.ask(bound).await?;
    let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..BasicConsumeOptions::default() };
    address.ask(channel.basic_consume(own, "".into(), options, FieldTable::default())).await
}

/// The subscription to the bells of a pool.
struct Bells<'a> {
    address: &'a Address,
    connection: &'a Connection,
    queue: String,
    channel: Option<Channel>,
    consumer: Option<Consumer>,
    /// Not to be asked for earlier.
    again_at: Option<Instant>,
    /// A bell while each free slot is busy asking; it goes to the first that waits.
    held: Option<PoolBell>,
    slots: VecDeque<oneshot::Sender<PoolBell>>,
    was_told: bool,
}

impl<'a> Bells<'a> {
    const fn new(address: &'a Address, connection: &'a Connection, queue: String) -> Self {
        Self {
            address,
            connection,
            queue,
            channel: None,
            consumer: None,
            again_at: None,
            held: None,
            slots: VecDeque::new(),
            was_told: false,
        }
    }

    /// Subscribes, or ends the subscription. Whether bells come for the first time.
    async fn subscribe(&mut self, wanted: bool) -> Result<bool, QueueError> {
        match (wanted, self.consumer.take()) {
            (true, None) if self.again_at.is_none_or(|at| at <= Instant::now()) => {
                self.again_at = Some(Instant::now() + SUBSCRIBE_AGAIN_AFTER);
                // a refusal closes the channel
                let channel = match self.channel.take() {
                    Some(channel) => channel,
                    None => {
                        let channel = self.address.ask(self.connection.create_channel()).await?;
                        // one at a time: a slot that has found work wakes the next itself
                        self.address.ask(channel.basic_qos(1, BasicQosOptions::default())).await?;
                        channel
                    }
                };
                let options = BasicConsumeOptions::default();
                let subscribed =
                    channel.basic_consume(self.queue.as_str().into(), "".into(), options, FieldTable::default());
                self.consumer = Some(self.address.ask(subscribed).await?);
                self.channel = Some(channel);
                self.again_at = None;
                return Ok(!std::mem::replace(&mut self.was_told, true));
            }
            (false, Some(mut consumer)) => {
                if let Some(channel) = &self.channel {
                    self.address.ask(channel.basic_cancel(consumer.tag(), BasicCancelOptions::default())).await?;
                }
                // what came before the broker heard of it goes back
                while let Some(Some(Ok(message))) = consumer.next().now_or_never() {
                    drop(PoolBell(Some(message)));
                }
                self.held = None;
            }
            (_, consumer) => self.consumer = consumer,
        }
        Ok(false)
    }

    /// A slot waits.
    fn waits(&mut self, slot: oneshot::Sender<PoolBell>) {
        self.slots.retain(|slot| !slot.is_closed());
        self.slots.push_back(slot);
        if let Some(bell) = self.held.take() {
            self.hand_on(bell);
        }
    }

    fn hand_on(&mut self, mut bell: PoolBell) {
        while let Some(slot) = self.slots.pop_front() {
            match slot.send(bell) {
                Ok(()) => return,
                Err(back) => bell = back,
            }
        }
        self.held = Some(bell);
    }

    /// What the subscription brings.
    async fn rung(&mut self, message: Option<lapin::Result<Message>>) -> Result<(), QueueError> {
        match message {
            Some(Ok(message)) => match queue::read::<queue::PoolBell>(&message.data) {
                Ok(_) => self.hand_on(PoolBell(Some(message))),
                Err(error @ BellError::Newer(_)) => {
                    tracing::warn!(%error, "a bell is left to a later Segue");
                    tokio::time::sleep(GIVE_BACK_AFTER).await;
                    let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                    self.address.ask(message.nack(options)).await?;
                }
                Err(error @ BellError::Unreadable(_)) => {
                    tracing::warn!(%error, "a message among the bells is a dead letter now: see `segue queue list`");
                    self.address.ask(message.reject(BasicRejectOptions { requeue: false })).await?;
                }
            },
            // the broker has ended it: the queue was removed, or has another leader
            None => {
                self.consumer = None;
                self.again_at = Some(Instant::now() + SUBSCRIBE_AGAIN_AFTER);
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "the subscription has ended");
                (self.consumer, self.channel) = (None, None);
                self.again_at = Some(Instant::now() + SUBSCRIBE_AGAIN_AFTER);
            }
        }
        Ok(())
    }
}

async fn next(consumer: &mut Option<Consumer>) -> Option<lapin::Result<Message>> {
    match consumer {
        Some(consumer) => consumer.next().await,
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
