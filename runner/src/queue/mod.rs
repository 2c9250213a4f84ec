//! The message queue of a server, where the configuration names a broker: the doorbell of servers and workers that are apart.
//!
//! Comes in: the store's doorbell (what to ring, and when) and, from the broker, the planner's bells. Goes out: bells in the queues
//! that `segue_schemas::queue` describes, and how the broker stands. The store is the truth: a bell that is lost is found again
//! by looking there, one that comes twice costs a look, and without a broker everything goes on, only later. Never here: what a
//! bell is for, and nothing of a payload. `lapin` is used in this folder alone.

mod check;
mod connection;
mod consume;
mod dead;
mod decide;
mod error;
mod relay;
mod topology;

use std::sync::Arc;

use segue_schemas::config::BrokerConfig;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::connection::Address;
pub use self::{
    check::{Found, OLDEST, Role, check},
    consume::{PREFETCH, PlannerBell},
    error::{Mismatch, QueueError, SERVER_PERMISSIONS},
};
use crate::store::Store;

/// How the broker stands, as the relay sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Bells are taken.
    Up,
    /// There is a connection, and nothing is taken: why.
    Slow(String),
    /// There is none: why.
    Away(String),
}

/// Asks the relay to look for jobs, though the store's doorbell says nothing.
#[derive(Debug, Clone, Default)]
pub struct Looks(Arc<Notify>);

impl Looks {
    /// A worker has come, or has taken a job and left others: somebody else may be rung.
    pub fn ask(&self) {
        self.0.notify_one();
    }

    async fn asked(&self) {
        self.0.notified().await;
    }
}

/// The message queue of a server.
pub struct Queue {
    address: Address,
    /// How the broker stands.
    pub standing: watch::Receiver<Standing>,
    /// Asks the relay to look.
    pub looks: Looks,
}

/// What the planner needs of the queue.
pub struct PlannerBells {
    /// The bells.
    pub bells: mpsc::Receiver<PlannerBell>,
    /// How the broker stands.
    pub standing: watch::Receiver<Standing>,
}

impl Queue {
    /// What the configuration asks for; `None`: no broker.
    ///
    /// # Errors
    /// The configuration can't be followed. A broker that is away is no error.
    pub fn start(
        config: &BrokerConfig,
        store: &Store,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> Result<Option<(Self, PlannerBells)>, QueueError> {
        let Some(address) = Address::read(config)? else { return Ok(None) };
        let (tell_standing, standing) = watch::channel(Standing::Away("no connection was made yet".into()));
        let (hand_on, bells) = mpsc::channel(PREFETCH);
        let (looks, anew) = (Looks::default(), Arc::new(Notify::new()));
        tasks.spawn(relay::run(
            address.clone(),
            store.clone(),
            looks.clone(),
            anew.clone(),
            tell_standing,
            stop.clone(),
        ));
        tasks.spawn(consume::run(address.clone(), hand_on, anew, stop.clone()));
        let planner = PlannerBells { bells, standing: standing.clone() };
        Ok(Some((Self { address, standing, looks }, planner)))
    }
}
