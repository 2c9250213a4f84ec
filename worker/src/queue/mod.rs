//! The worker's side of the message queue, where there is a broker: bells instead of claims that the server holds open.
//!
//! Comes in: bells of the worker's pool, and words that a job is to be looked at. Goes out: a bell to one slot that waits, the
//! word to whoever holds the job. A bell only says that it is worth asking; it is answered as soon as the server was asked, so that
//! none is held while a job runs, and while no slot waits none is taken. A broker that is away costs time and nothing else: an
//! idle slot asks every so often, and renewals are held open as without a broker. Never here: what is claimed. `lapin` is used
//! in this folder alone.

mod connection;
mod listen;

use std::{sync::Arc, time::Duration};

use lapin::{
    message::Delivery as Message,
    options::{BasicAckOptions, BasicNackOptions},
};
use rand::Rng as _;
use segue_schemas::{
    config::BrokerConfig,
    id::{JobId, WorkerId},
};
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::connection::Address;
pub use self::connection::QueueError;

/// Words of jobs that a listener may be behind; who is further behind renews, to be sure.
const TOLD: usize = 256;
/// Slots that say that they wait; there are never more slots.
const SLOTS: usize = 1024;

/// What the configuration says of the broker, checked.
#[derive(Debug, Clone)]
pub struct Broker {
    address: Address,
    look_every: Duration,
}

impl Broker {
    /// What the configuration asks for; `None`: no broker.
    ///
    /// # Errors
    /// The configuration can't be followed. A broker that is away is no error.
    pub fn read(config: &BrokerConfig) -> Result<Option<Self>, QueueError> {
        Ok(Address::read(config)?.map(|address| Self { address, look_every: config.look_every.0 }))
    }

    /// Begins to listen for the bells of a worker and its pool, until `stop`.
    #[must_use]
    pub fn listen(&self, worker: &WorkerId, pool: &str, stop: &CancellationToken) -> Arc<Queue> {
        let (places, wanted) = watch::channel(0);
        let (slots, waiting) = mpsc::channel(SLOTS);
        let told = broadcast::channel(TOLD).0;
        let (tell_listening, listening) = watch::channel(false);
        let another = Arc::new(Notify::new());
        let here = listen::Here {
            worker: worker.clone(),
            places: wanted,
            waiting,
            told: told.clone(),
            another: another.clone(),
            listening: tell_listening,
        };
        tokio::spawn(listen::run(self.address.clone(), pool.to_owned(), here, stop.clone()));
        Arc::new(Queue { places, slots, told, listening, another, look_every: self.look_every })
    }
}

/// The bells of one worker.
#[derive(Debug)]
pub struct Queue {
    /// How many slots are free.
    places: watch::Sender<usize>,
    /// Where a slot says that it waits.
    slots: mpsc::Sender<oneshot::Sender<PoolBell>>,
    told: broadcast::Sender<JobId>,
    /// Whether there is a connection.
    listening: watch::Receiver<bool>,
    /// Rung when a slot has found work, as there may be more; and when there is some for this worker alone.
    another: Arc<Notify>,
    look_every: Duration,
}

impl Queue {
    /// Says that a slot is free, until what this gives is dropped. While none is, no bells are taken.
    #[must_use]
    pub fn place(self: &Arc<Self>) -> Place {
        self.places.send_modify(|places| *places += 1);
        Place(Arc::clone(self))
    }

    /// A slot has found work, so another may find some.
    pub fn found(&self) {
        if *self.places.borrow() > 0 {
            self.another.notify_one();
        }
    }

    /// Hears of words for jobs.
    #[must_use]
    pub fn told(&self) -> Told {
        Told { words: self.told.subscribe(), listening: self.listening.clone() }
    }
}

/// A free slot.
#[derive(Debug)]
pub struct Place(Arc<Queue>);

impl Place {
    /// Waits until it is worth asking for work: a bell, another slot that has found some, or the time after which a bell may have
    /// been lost.
    pub async fn wait(&self) -> Option<PoolBell> {
        let (rung, bell) = oneshot::channel();
        let wait = self.0.look_every.mul_f64(rand::rng().random_range(0.75..1.0));
        // an error here, or later none on the other side: the worker stops
        let _ = self.0.slots.send(rung).await;
        tokio::select! {
            Ok(bell) = bell => Some(bell),
            () = self.0.another.notified() => None,
            () = tokio::time::sleep(wait) => None,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places.send_modify(|places| *places = places.saturating_sub(1));
    }
}

/// A bell for a slot. Dropped without an answer, it goes back to the queue.
#[derive(Debug)]
pub struct PoolBell(Option<Message>);

impl PoolBell {
    /// The server was asked.
    pub fn answer(mut self) {
        if let Some(message) = self.0.take() {
            // nobody waits for it: a connection that is gone has given the bell back, which costs a look
            tokio::spawn(async move {
                let _ = message.ack(BasicAckOptions::default()).await;
            });
        }
    }
}

impl Drop for PoolBell {
    fn drop(&mut self) {
        if let Some(message) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                let _ = message.nack(options).await;
            });
        }
    }
}

/// Words for jobs, as one of them hears them.
#[derive(Debug)]
pub struct Told {
    words: broadcast::Receiver<JobId>,
    listening: watch::Receiver<bool>,
}

impl Told {
    /// Whether words come at all; if not, the server is to hold its answers open.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        *self.listening.borrow()
    }

    /// Returns when there is word of the job, or may have been.
    pub async fn word_of(&mut self, job: JobId) {
        loop {
            tokio::select! {
                word = self.words.recv() => match word {
                    Ok(of) if of != job => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                },
                // what was said around the end or the beginning of a connection may have been missed
                Ok(()) = self.listening.changed() => return,
            }
        }
    }
}
