//! nginx as a router: a file that it includes, a reload for each change, observations from its access log.
//!
//! A change is tested before nginx hears of it; what does not hold is taken back. It is carried once the file's name is what nginx answers and
//! no worker of before takes connections any more. Workers of before go on with what they have; nothing of theirs can be asked for, so what is
//! in flight at an instance is counted by its connections, of which nginx makes one for each request.

mod config;
mod log;
mod workers;

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Method;
use segue_schemas::{deploy::RouteRule, host_api::HostError, router::NginxConfig};
use tokio::{
    net::TcpStream,
    sync::{Mutex as OrderMutex, Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use self::{
    config::{Configuration, Surroundings, configuration, host_that_tells},
    log::{Line, Reader},
    workers::{is_leaving, master, workers},
};
use super::{
    Router, RouterState, check_words, command, fixed_addresses,
    keep::{Carrier, Failure, keep_carrying},
    ledger::Ledger,
    listener::Listener,
    sockets, write_changed,
};
use crate::{
    host::{
        HostOptions, HostRunError,
        clock::now,
        proxy_child::table_of,
        state::{Store, write_atomically},
        unix_http,
    },
    proxy::{observations::Observed, table::RouteTable},
};

/// How long nginx may take until it has read its configuration again and no former worker takes connections.
const RELOAD_LIMIT: Duration = Duration::from_secs(20);

/// How long it may take to answer the name of its file.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// The pause between two looks while something is awaited of nginx, which tells nobody.
const PAUSE: Duration = Duration::from_millis(5);

/// The pause after the log could not be read.
const LOG_PAUSE: Duration = Duration::from_secs(2);

/// While an instance is drained it is looked at no more often than this, and at least as often as that.
const DRAIN_PACE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// nginx and how it is steered.
#[derive(Debug)]
pub(super) struct Nginx {
    settings: NginxConfig,
    listen: Vec<SocketAddr>,
    drain: Duration,
    store: Arc<Store>,
    listener: Listener,
    ledger: Ledger,
    order: OrderMutex<()>,
    stopping: watch::Sender<bool>,
    finished: watch::Sender<bool>,
}

impl Nginx {
    /// nginx by its settings. It need not run yet.
    pub(super) async fn open(
        options: &HostOptions,
        settings: NginxConfig,
        store: Arc<Store>,
    ) -> Result<Self, HostRunError> {
        let listen = fixed_addresses(options, "nginx")?;
        let opened = Listener::open(&options.data, settings.log.as_deref()).await;
        let listener = opened.map_err(|why| HostRunError::Router(format!("nginx's log: {why}")))?;
        let ledger = Ledger::next(&store).await?;
        Ok(Self {
            settings,
            listen,
            drain: options.proxy_drain,
            store,
            listener,
            ledger,
            order: OrderMutex::default(),
            stopping: watch::Sender::new(false),
            finished: watch::Sender::new(false),
        })
    }

    async fn carry_table(&self, table: &RouteTable) -> Result<(), Failure> {
        let around = Surroundings {
            listen: &self.listen,
            log: self.listener.address,
            mark: &self.listener.mark,
            error_log: &self.settings.error_log,
        };
        let wanted = configuration(table, around);
        self.ledger.begin(&wanted.name, table);
        let file = &self.settings.include;
        let unwritten = |e| Failure::Refused(format!("{} can't be written: {e}", file.display()));
        let before = write_changed(file, &wanted.text).map_err(unwritten)?;
        if before.is_none() && self.told().await.as_deref() == Some(&wanted.name) {
            return Ok(());
        }
        if let Err(why) = command::run(&self.settings.check).await {
            return Err(Failure::Refused(self.put_back(before, why).await));
        }
        let Some(master) = master(&self.settings.pid) else {
            let file = self.settings.pid.display();
            return Err(Failure::Silent(format!(
                "{file} names no process that lives; is nginx running? It starts with what is wanted"
            )));
        };
        let former = workers(master);
        let read = async {
            command::run(&self.settings.reload).await?;
            self.has(&wanted, &former).await
        };
        match read.await {
            Ok(()) => Ok(()),
            Err(why) => Err(Failure::Refused(self.put_back(before, why).await)),
        }
    }

    /// Waits until the new workers serve, and no others.
    async fn has(&self, wanted: &Configuration, former: &HashSet<u32>) -> Result<(), String> {
        let has_it = async {
            while self.told().await.as_deref() != Some(&wanted.name) {
                sleep(PAUSE).await;
            }
            while !former.iter().all(|worker| is_leaving(*worker)) {
                sleep(PAUSE).await;
            }
        };
        timeout(RELOAD_LIMIT, has_it).await.map_err(|_| {
            let file = self.settings.include.display();
            format!(
                "`{}` was run, and nginx does not serve what {file} says after {RELOAD_LIMIT:?}; does its `http` block include that \
                 file? See its error log",
                self.settings.reload.join(" ")
            )
        })
    }

    /// Puts the former file back, and says whose fault it is that the new one does not hold.
    async fn put_back(&self, before: Option<Vec<u8>>, why: String) -> String {
        let Some(before) = before else {
            return format!("its configuration does not hold, and was not read: {why}");
        };
        if let Err(error) = write_atomically(&self.settings.include, &before) {
            return format!(
                "{} can't be put back ({error}) after it was refused: {why}",
                self.settings.include.display()
            );
        }
        match command::run(&self.settings.check).await {
            Ok(()) => format!("nginx refuses what Segue has written, which was taken back: {why}"),
            Err(_) => format!("nginx's configuration is broken beside Segue's file; mend it: {why}"),
        }
    }

    /// The name of the file by which nginx serves now.
    async fn told(&self) -> Option<String> {
        let mut address = *self.listen.first()?;
        if address.ip().is_unspecified() {
            let loopback = |ip| match ip {
                IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
            };
            address.set_ip(loopback(address.ip()));
        }
        let host = host_that_tells(&self.listener.mark);
        let ask = async {
            let stream = TcpStream::connect(address).await.ok()?;
            unix_http::exchange(stream, Method::GET, &host, "/", None).await.ok()
        };
        let (status, body) = timeout(ASK_LIMIT, ask).await.ok()??;
        status.is_success().then(|| String::from_utf8_lossy(&body).into_owned())
    }

    /// Whether a worker of before goes on.
    fn has_former_workers(&self) -> bool {
        master(&self.settings.pid).is_some_and(|master| workers(master).into_iter().any(is_leaving))
    }

    /// Reads the log, for ever.
    async fn hear(self: Arc<Self>) {
        let mut reader = Reader::default();
        loop {
            match self.listener.next().await {
                Ok(heard) => {
                    if let Some(dropped) = heard.dropped {
                        self.ledger.note_dropped(dropped);
                    }
                    heard.lines.iter().filter_map(|text| reader.read(text)).for_each(|line| self.note(&line));
                }
                Err(error) => {
                    tracing::error!(%error, "nginx's log can't be read");
                    sleep(LOG_PAUSE).await;
                }
            }
        }
    }

    fn note(&self, line: &Line) {
        // a file of before this host's start is not known any more
        let Some(era) = self.ledger.era_named(&line.era) else { return };
        for (attempt, number) in line.attempts.iter().zip(1..) {
            let Some(instance) = era.addresses.get(&attempt.address) else { continue };
            let Some((instance, pair, probability)) = era.target(instance.as_str()) else { continue };
            let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
            let observed = Observed {
                at: now(),
                instance: instance.clone(),
                probability,
                status: attempt.status,
                outcome: attempt.outcome,
                latency_us: micros(attempt.latency.unwrap_or(attempt.time)),
                duration_us: micros(attempt.time),
                attempt: number,
                synthetic: line.synthetic,
            };
            self.ledger.note(pair, observed);
        }
    }

    /// Takes every service's traffic and waits for what is in flight.
    async fn take_all(&self) -> Result<(), Failure> {
        let mut table = table_of(&self.store.current());
        table.routes.iter_mut().flat_map(|route| &mut route.targets).for_each(|target| target.weight = 0);
        self.carry_table(&table).await?;
        let quiet = async {
            while self.has_former_workers() {
                sleep(DRAIN_PACE.1).await;
            }
        };
        let _ = timeout(self.drain, quiet).await;
        Ok(())
    }
}

impl Carrier for Nginx {
    async fn carry_recorded(&self) -> Result<(), Failure> {
        // One after the other, each with the newest record: the last one told is the last one recorded.
        let _order = self.order.lock().await;
        if *self.stopping.borrow() {
            return Err(Failure::Refused("the host ends".into()));
        }
        self.carry_table(&table_of(&self.store.current())).await
    }
}

#[async_trait]
impl Router for Nginx {
    fn addresses(&self) -> Vec<SocketAddr> {
        self.listen.clone()
    }

    fn pid(&self) -> Option<u32> {
        master(&self.settings.pid)
    }

    fn check(&self, rules: &[RouteRule]) -> Result<(), HostError> {
        check_words(rules, "nginx")
    }

    async fn run(self: Arc<Self>, _ready: BoxFuture<'static, ()>) {
        let hears = tokio::spawn(self.clone().hear());
        keep_carrying("nginx", &*self, &Notify::new(), &self.stopping).await;
        {
            let _order = self.order.lock().await;
            if let Err(Failure::Silent(why) | Failure::Refused(why)) = self.take_all().await {
                tracing::warn!(why, "nginx can't be told that its services end");
            }
        }
        hears.abort();
        self.finished.send_replace(true);
    }

    async fn carry(&self) -> Result<(), HostError> {
        self.carry_recorded().await.map_err(|failure| failure.told_of("nginx"))
    }

    async fn state(&self) -> Option<RouterState> {
        let connected = sockets::connected();
        let known = self.ledger.known_addresses();
        let counts =
            known.into_iter().map(|(id, address)| (id.to_string(), connected.get(&address).copied().unwrap_or(0)));
        let mut state = RouterState { in_flight: counts.collect(), ..RouterState::default() };
        self.ledger.add_to(&mut state);
        Some(state)
    }

    async fn observations(&self, environment: &str, service: &str, after: u64, limit: u64, wait: Duration) -> Bytes {
        self.ledger.read(&(environment.to_owned(), service.to_owned()), after, limit, wait).await
    }

    async fn drain(&self, instance: &str, limit: Duration) -> u64 {
        let deadline = Instant::now() + limit;
        let pair = self.ledger.pair_of(instance).unwrap_or_default();
        loop {
            let address = self.ledger.address_of(instance);
            let in_flight = address.and_then(|address| sockets::connected().get(&address).copied()).unwrap_or(0);
            // a former worker may yet give it a request that it has half read
            if (in_flight == 0 && !self.has_former_workers()) || Instant::now() >= deadline {
                return in_flight;
            }
            sleep_until((Instant::now() + DRAIN_PACE.0).min(deadline)).await;
            // an answer's end is told by the log; what is not logged yet is looked for
            tokio::select! {
                () = self.ledger.next_of(&pair) => {}
                () = sleep_until((Instant::now() + DRAIN_PACE.1).min(deadline)) => {}
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
