//! What is the same for every router that is another program: changes one after the other, its log, and the way in and out of a host's
//! life. What differs is its [`Program`].

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use indexmap::IndexMap;
use segue_schemas::{deploy::RouteRule, host_api::HostError};
use tokio::{
    sync::{Mutex, Notify, watch},
    time::{sleep, sleep_until, timeout},
};

use super::{
    Router, RouterState, check_words, command, fixed_addresses,
    keep::{Carrier, Failure, Trouble, keep_carrying},
    ledger::Ledger,
    listener::Listener,
};
use crate::{
    host::{
        HostOptions, HostRunError,
        proxy_child::table_of,
        state::{Store, write_atomically},
    },
    proxy::table::RouteTable,
};

/// The pause after the log could not be read.
const LOG_PAUSE: Duration = Duration::from_secs(2);

/// How long whoever looks at the configuration may keep a change waiting.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// While an instance is drained it is looked at no more often than this, and at least as often as that.
pub(super) const DRAIN_PACE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// What the host has beside the program.
#[derive(Debug)]
pub(super) struct Beside {
    /// Where the program is to listen.
    pub(super) listen: Vec<SocketAddr>,
    /// How long answers may go on at the end.
    pub(super) drain: Duration,
    /// Where it logs.
    pub(super) listener: Listener,
    /// What was observed.
    pub(super) ledger: Ledger,
    /// The program may have been started anew.
    pub(super) suspected: Notify,
}

/// How one kind of program is steered. Changes come one after the other.
#[async_trait]
pub(super) trait Program: Send + Sync + std::fmt::Debug + 'static {
    /// What people call it.
    const NAME: &'static str;

    /// Its process, while one is known.
    fn pid(&self) -> Option<u32>;

    /// The command by which its configuration is tested.
    fn check(&self) -> Vec<String>;

    /// The host has begun, nothing was carried yet.
    async fn begin(&self, _beside: &Beside) {}

    /// Has it carry a table. Once this returns, every request that is accepted goes by it.
    async fn carry(&self, beside: &Beside, table: &RouteTable) -> Result<(), Failure>;

    /// Takes every service's traffic and waits for what is in flight; `table` is what was carried.
    async fn let_go(&self, beside: &Beside, table: RouteTable) -> Result<(), Failure>;

    /// Lines of its log.
    async fn hear(&self, beside: &Beside, lines: Vec<String>);

    /// What is in flight by instance; `None` while it can't be asked.
    async fn counts(&self, beside: &Beside) -> Option<IndexMap<String, u64>>;

    /// What is in flight at an instance that gets nothing more, and whether it may yet be given something all the same.
    async fn left_at(&self, beside: &Beside, instance: &str) -> (u64, bool);
}

/// A router that is another program.
#[derive(Debug)]
pub(super) struct Outside<P> {
    program: P,
    beside: Beside,
    store: Arc<Store>,
    order: Mutex<()>,
    trouble: Trouble,
    stopping: watch::Sender<bool>,
    finished: watch::Sender<bool>,
}

impl<P: Program> Outside<P> {
    /// The program, which logs to `log` or to where the host says. It need not run yet.
    pub(super) async fn open(
        options: &HostOptions,
        program: P,
        log: Option<&str>,
        store: Arc<Store>,
    ) -> Result<Self, HostRunError> {
        let listen = fixed_addresses(options, P::NAME)?;
        let opened = Listener::open(&options.data, log).await;
        let listener = opened.map_err(|why| HostRunError::Router(format!("{}'s log: {why}", P::NAME)))?;
        let ledger = Ledger::next(&store).await?;
        let beside = Beside { listen, drain: options.proxy_drain, listener, ledger, suspected: Notify::new() };
        let (stopping, finished) = (watch::Sender::new(false), watch::Sender::new(false));
        Ok(Self { program, beside, store, order: Mutex::default(), trouble: Trouble::default(), stopping, finished })
    }

    /// Reads the log, for ever.
    async fn hear(self: Arc<Self>) {
        loop {
            match self.beside.listener.next().await {
                Ok(heard) => {
                    if let Some(dropped) = heard.dropped {
                        self.beside.ledger.note_dropped(dropped);
                    }
                    self.program.hear(&self.beside, heard.lines).await;
                }
                Err(error) => {
                    tracing::error!(router = P::NAME, %error, "its log can't be read");
                    sleep(LOG_PAUSE).await;
                }
            }
        }
    }
}

impl<P: Program> Carrier for Outside<P> {
    async fn carry_recorded(&self) -> Result<(), Failure> {
        // One after the other, each with the newest record: the last one told is the last one recorded.
        let _order = self.order.lock().await;
        if *self.stopping.borrow() {
            return Err(Failure::Refused("the host ends".into()));
        }
        let table = table_of(&self.store.current());
        self.program.carry(&self.beside, &table).await
    }
}

#[async_trait]
impl<P: Program> Router for Outside<P> {
    fn addresses(&self) -> Vec<SocketAddr> {
        self.beside.listen.clone()
    }

    fn pid(&self) -> Option<u32> {
        self.program.pid()
    }

    fn check(&self, rules: &[RouteRule]) -> Result<(), HostError> {
        check_words(rules, P::NAME)
    }

    async fn run(self: Arc<Self>, _ready: BoxFuture<'static, ()>) {
        let hears = tokio::spawn(self.clone().hear());
        self.program.begin(&self.beside).await;
        keep_carrying(P::NAME, &*self, &self.beside.suspected, &self.trouble, &self.stopping).await;
        {
            let _order = self.order.lock().await;
            let table = table_of(&self.store.current());
            if let Err(Failure::Silent(why) | Failure::Refused(why)) = self.program.let_go(&self.beside, table).await {
                tracing::warn!(router = P::NAME, why, "it can't be told that its services end");
            }
        }
        hears.abort();
        self.finished.send_replace(true);
    }

    async fn carry(&self) -> Result<(), HostError> {
        self.carry_recorded().await.map_err(|failure| failure.told_of(P::NAME))?;
        self.trouble.is_over();
        Ok(())
    }

    fn trouble(&self) -> Option<watch::Receiver<Option<String>>> {
        Some(self.trouble.watch())
    }

    fn suspect(&self) {
        self.beside.suspected.notify_one();
    }

    async fn look(&self) -> Option<String> {
        command::run(&self.program.check()).await.err()?;
        // While a change is tried the file holds what may be refused; nor is a change, which may be a way back, to wait for who looks.
        let Ok(_order) = self.order.try_lock() else { return None };
        timeout(LOOK_LIMIT, command::run(&self.program.check())).await.ok()?.err()
    }

    async fn state(&self) -> Option<RouterState> {
        let in_flight = self.program.counts(&self.beside).await?;
        let mut state = RouterState { in_flight, ..RouterState::default() };
        self.beside.ledger.add_to(&mut state);
        Some(state)
    }

    async fn observations(&self, environment: &str, service: &str, after: u64, limit: u64, wait: Duration) -> Bytes {
        self.beside.ledger.read(&(environment.to_owned(), service.to_owned()), after, limit, wait).await
    }

    async fn drain(&self, instance: &str, limit: Duration) -> u64 {
        let ledger = &self.beside.ledger;
        let deadline = Instant::now() + limit;
        let until = |pace: Duration| sleep_until((Instant::now() + pace).min(deadline).into());
        let pair = ledger.pair_of(instance).unwrap_or_default();
        loop {
            let (in_flight, may_get_more) = self.program.left_at(&self.beside, instance).await;
            if (in_flight == 0 && !may_get_more) || Instant::now() >= deadline {
                return in_flight;
            }
            until(DRAIN_PACE.0).await;
            // an answer's end is told by the log; what is not logged yet is looked for
            tokio::select! {
                () = ledger.next_of(&pair) => {}
                () = until(DRAIN_PACE.1) => {}
            }
        }
    }

    async fn stop(&self) {
        self.stopping.send_replace(true);
        let mut finished = self.finished.subscribe();
        // the sender is in `self`
        let _ = finished.wait_for(|finished| *finished).await;
    }
}

/// Puts a file's former text back after `router` has refused the new one, and says whose fault that is; `check` is how its configuration is tested.
pub(super) async fn put_back(
    router: &str,
    file: &Path,
    check: &[String],
    before: Option<Vec<u8>>,
    why: String,
) -> String {
    let Some(before) = before else {
        return format!("its configuration does not hold, and was not read: {why}");
    };
    if let Err(error) = write_atomically(file, &before) {
        return format!("{} can't be put back ({error}) after it was refused: {why}", file.display());
    }
    match command::run(check).await {
        Ok(()) => format!("{router} refuses what Segue has written, which was taken back: {why}"),
        Err(_) => format!("{router}'s configuration is broken beside Segue's file; mend it: {why}"),
    }
}
