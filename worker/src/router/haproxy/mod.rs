//! HAProxy as a router: servers and weights over its runtime API, backends and rules by its configuration and a reload, observations from
//! its log.
//!
//! The configuration is written before anything is told, with the weights as they are to be: whoever restarts or reloads HAProxy changes
//! nothing. It is read again only for a new service or rule. Requests that a former process of HAProxy still has can't be asked for; they
//! are counted by their connections.

mod change;
mod cli;
mod config;
mod log;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use segue_schemas::{
    deploy::{Outcome, RouteRule},
    host_api::HostError,
    router::HaproxyConfig,
};
use tokio::{
    sync::{Mutex as OrderMutex, Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use self::{
    change::{commands, removals},
    cli::{CliError, Counts, Info, Known, ask, tell},
    config::{Configuration, Server, configuration, is_shape},
    log::Line,
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
        process::{Process, ProcessRecord, record_of},
        proxy_child::table_of,
        state::{Store, write_atomically},
    },
    proxy::{observations::Observed, table::RouteTable},
};

/// The oldest version that has what is needed: servers that are added while it runs.
const OLDEST: (u32, u32) = (2, 4);

/// How long a change may wait for an HAProxy that does not answer.
const SILENT_LIMIT: Duration = Duration::from_secs(5);

/// How long HAProxy may take to have read its configuration again.
const RELOAD_LIMIT: Duration = Duration::from_secs(20);

/// How long is waited for that before it is told once more.
const RELOAD_AGAIN: Duration = Duration::from_secs(2);

/// The pause between two looks while something is awaited of HAProxy, which tells nobody.
const PAUSE: Duration = Duration::from_millis(10);

/// The pause after the log could not be read.
const LOG_PAUSE: Duration = Duration::from_secs(2);

/// While an instance is drained it is looked at no more often than this, and at least as often as that.
const DRAIN_PACE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// Failed tries that one look may bring: more were made in the dark and are one gap.
const MOST_TRIES: u64 = 1000;

/// HAProxy and how it is steered.
#[derive(Debug)]
pub(super) struct Haproxy {
    settings: HaproxyConfig,
    listen: Vec<SocketAddr>,
    drain: Duration,
    store: Arc<Store>,
    listener: Listener,
    ledger: Ledger,
    order: OrderMutex<()>,
    living: watch::Sender<Option<Info>>,
    /// Processes that were replaced and may have requests still.
    leaving: Mutex<Vec<ProcessRecord>>,
    /// Of the process that lives, how many failed tries of each server are known.
    tried: Mutex<(u32, HashMap<String, u64>)>,
    /// HAProxy may have been started anew.
    suspected: Notify,
    stopping: watch::Sender<bool>,
    finished: watch::Sender<bool>,
}

/// A running HAProxy.
#[derive(Debug)]
struct Seen {
    info: Info,
    shape: Option<String>,
    servers: Vec<Known>,
}

impl Haproxy {
    /// HAProxy by its settings. It need not run yet.
    pub(super) async fn open(
        options: &HostOptions,
        settings: HaproxyConfig,
        store: Arc<Store>,
    ) -> Result<Self, HostRunError> {
        let listen = fixed_addresses(options, "HAProxy")?;
        let opened = Listener::open(&options.data, settings.log.as_deref()).await;
        let listener = opened.map_err(|why| HostRunError::Router(format!("HAProxy's log: {why}")))?;
        let ledger = Ledger::next(&store).await?;
        Ok(Self {
            settings,
            listen,
            drain: options.proxy_drain,
            store,
            listener,
            ledger,
            order: OrderMutex::default(),
            living: watch::Sender::new(None),
            leaving: Mutex::default(),
            tried: Mutex::default(),
            suspected: Notify::new(),
            stopping: watch::Sender::new(false),
            finished: watch::Sender::new(false),
        })
    }

    async fn carry_table(&self, table: &RouteTable) -> Result<(), Failure> {
        let wanted = configuration(table, &self.listen, self.listener.address, &self.listener.mark);
        self.ledger.begin("", table);
        let file = &self.settings.config;
        let unwritten = |e| Failure::Refused(format!("{} can't be written: {e}", file.display()));
        let before = write_changed(file, &wanted.text).map_err(unwritten)?;
        let mut seen = self.look_patiently(SILENT_LIMIT).await?;
        if seen.info.version < OLDEST {
            let ((major, minor), (oldest_major, oldest_minor)) = (seen.info.version, OLDEST);
            return Err(Failure::Refused(format!(
                "it is HAProxy {major}.{minor}, which can't add servers while it runs; {oldest_major}.{oldest_minor} or newer is needed"
            )));
        }
        if seen.shape.as_deref() != Some(&wanted.shape) {
            seen = self.reload(&wanted, before).await?;
        }
        match self.settle(&wanted.servers, &seen).await {
            // started anew meanwhile
            Err(Failure::Silent(_)) => {
                let seen = self.look_patiently(SILENT_LIMIT).await?;
                self.settle(&wanted.servers, &seen).await
            }
            settled => settled,
        }
    }

    /// Brings servers and weights to what is wanted, and looks that they are there.
    async fn settle(&self, wanted: &[Server], seen: &Seen) -> Result<(), Failure> {
        let version = seen.info.version;
        let gone = removals(wanted, &seen.servers, version);
        if !gone.is_empty() {
            // Refused as long as a connection is left, which is no harm: they are out of the way.
            tell(&self.settings.admin_socket, &gone).await?;
        }
        let changes = commands(wanted, &seen.servers, version);
        if changes.is_empty() {
            return Ok(());
        }
        let said = tell(&self.settings.admin_socket, &changes).await?;
        let now = self.look().await?;
        match commands(wanted, &now.servers, version).first() {
            None if now.info.pid == seen.info.pid => Ok(()),
            // The one that was told is not the one that listens now, which has read the configuration, of before or of now.
            None => Err(Failure::Silent("it was started anew just now".into())),
            Some(_) if said.contains("ermission denied") => Err(Failure::Refused(format!(
                "its socket does not let weights be changed ({said}); it needs `stats socket {} level admin`",
                self.settings.admin_socket.display()
            ))),
            Some(left) => Err(Failure::Refused(format!("`{left}` had no effect; HAProxy said: {said}"))),
        }
    }

    /// Has HAProxy read the configuration, if it holds; else what was there before is put back.
    async fn reload(&self, wanted: &Configuration, before: Option<Vec<u8>>) -> Result<Seen, Failure> {
        if let Err(why) = command::run(&self.settings.check()).await {
            return Err(Failure::Refused(self.put_back(before, why).await));
        }
        let deadline = Instant::now() + RELOAD_LIMIT;
        while Instant::now() < deadline {
            // a master that is just reading its configuration does not hear of another reload, which is asked for again then
            command::run(&self.settings.reload).await.map_err(Failure::Refused)?;
            if let Ok(seen) = timeout(RELOAD_AGAIN, self.has(wanted)).await {
                return Ok(seen);
            }
        }
        let file = self.settings.config.display();
        Err(Failure::Refused(format!(
            "`{}` was run, and HAProxy does not have what {file} says after {RELOAD_LIMIT:?}; is it started with `-f {file}`?",
            self.settings.reload.join(" ")
        )))
    }

    /// Waits until HAProxy has read a configuration.
    async fn has(&self, wanted: &Configuration) -> Seen {
        loop {
            if let Ok(seen) = self.look().await
                && seen.shape.as_deref() == Some(&wanted.shape)
            {
                return seen;
            }
            sleep(PAUSE).await;
        }
    }

    /// Puts the former configuration back, and says whose fault it is that the new one does not hold.
    async fn put_back(&self, before: Option<Vec<u8>>, why: String) -> String {
        let Some(before) = before else {
            return format!("its configuration does not hold, and was not read: {why}");
        };
        if let Err(error) = write_atomically(&self.settings.config, &before) {
            return format!(
                "{} can't be put back ({error}) after it was refused: {why}",
                self.settings.config.display()
            );
        }
        match command::run(&self.settings.check()).await {
            Ok(()) => format!("HAProxy refuses what Segue has written, which was taken back: {why}"),
            Err(_) => format!("HAProxy's configuration is broken beside Segue's file; mend it: {why}"),
        }
    }

    /// What HAProxy has, once it answers.
    async fn look_patiently(&self, limit: Duration) -> Result<Seen, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            match self.look().await {
                Err(Failure::Silent(_)) if Instant::now() < deadline => sleep(PAUSE * 5).await,
                seen => return seen,
            }
        }
    }

    async fn look(&self) -> Result<Seen, Failure> {
        let looked = ask(&self.settings.admin_socket, "show info;show backend;show servers state").await;
        if looked.is_err() {
            self.living.send_replace(None);
        }
        let answer = looked?;
        let info = cli::info(&answer)?;
        let names = answer.find("# name").map_or("", |at| &answer[at..]);
        let names = names.split("\n\n").next().unwrap_or_default();
        let shape = cli::backends(names).into_iter().find(|name| is_shape(name));
        let servers = match cli::servers(&answer) {
            // a configuration without any server has no table of them
            Err(_) if shape.is_none() => Vec::new(),
            servers => servers?,
        };
        self.meet(&info);
        Ok(Seen { info, shape, servers })
    }

    /// Takes note of who answers. The one that answered before may have requests still.
    fn meet(&self, info: &Info) {
        let before = self.living.send_replace(Some(info.clone()));
        if let Some(same) = before.as_ref().filter(|before| before.pid == info.pid) {
            self.ledger.lose(info.dropped_logs.saturating_sub(same.dropped_logs));
        }
        let known = self.tried().0;
        if known != 0 && known != info.pid {
            tracing::info!(pid = info.pid, former = known, "HAProxy is another process now");
            let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
            leaving.extend(record_of(known));
        }
        if known != info.pid {
            *self.tried() = (info.pid, HashMap::new());
        }
    }

    fn tried(&self) -> MutexGuard<'_, (u32, HashMap<String, u64>)> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a process is one that was replaced.
    fn is_leaving(&self, pid: u32) -> bool {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|record| record.pid == pid)
    }

    /// Whether a process that was replaced lives on.
    fn has_leaving(&self) -> bool {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|record| Process::adopt(*record, "").is_some());
        !leaving.is_empty()
    }

    async fn counts(&self) -> Result<HashMap<String, Counts>, CliError> {
        cli::counts(&ask(&self.settings.admin_socket, "show stat").await?)
    }

    /// What is in flight at an instance: as HAProxy says, and what former processes of it have, by their connections.
    async fn in_flight(&self, instance: &str) -> u64 {
        let connected = || {
            let address = self.ledger.address_of(instance);
            address.and_then(|address| sockets::connected().get(&address).copied()).unwrap_or(0)
        };
        let Ok(counts) = self.counts().await else { return connected() };
        let current = counts.get(instance).map_or(0, |counts| counts.current);
        if !self.has_leaving() {
            return current;
        }
        let answer = ask(&self.settings.admin_socket, "show servers conn").await;
        let own = answer.and_then(|answer| cli::connections(&answer)).unwrap_or_default();
        current + connected().saturating_sub(own.get(instance).copied().unwrap_or(0))
    }

    /// Reads the log, for ever.
    async fn hear(self: Arc<Self>) {
        loop {
            match self.listener.next().await {
                Ok(heard) => {
                    if let Some(dropped) = heard.dropped {
                        self.ledger.note_dropped(dropped);
                    }
                    let lines: Vec<Line> = heard.lines.iter().filter_map(|text| log::line(text)).collect();
                    if lines.iter().any(|line| line.retries > 0) {
                        self.note_failed_tries().await;
                    }
                    lines.into_iter().for_each(|line| self.note(line));
                }
                Err(error) => {
                    tracing::error!(%error, "HAProxy's log can't be read");
                    sleep(LOG_PAUSE).await;
                }
            }
        }
    }

    fn note(&self, line: Line) {
        if self.tried().0 != line.pid && !self.is_leaving(line.pid) {
            self.suspected.notify_one();
        }
        let Some(server) = &line.server else { return };
        // what was chosen under weights of before has their probability
        let then = self.ledger.era_before(line.total);
        let eras = [then, self.ledger.era_before(Duration::ZERO)];
        let Some((instance, pair, probability)) =
            eras.iter().flatten().find_map(|era| era.target(server).map(|(i, p, s)| (i.clone(), p.clone(), s)))
        else {
            return;
        };
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let observed = Observed {
            at: now(),
            instance,
            probability,
            status: line.status,
            outcome: line.outcome,
            latency_us: micros(line.latency.unwrap_or(line.total)),
            duration_us: micros(line.total),
            attempt: line.retries.saturating_add(1),
            synthetic: line.synthetic,
        };
        self.ledger.note(&pair, observed);
    }

    /// A line names only who was tried last. Who failed before is in the counters: each server's failed tries that were made again.
    async fn note_failed_tries(&self) {
        let Ok(counts) = self.counts().await else { return };
        let mut failed = Vec::new();
        {
            let mut tried = self.tried();
            for (name, counts) in counts {
                let known = tried.1.insert(name.clone(), counts.tried_again).unwrap_or(0);
                failed.push((name, counts.tried_again.saturating_sub(known)));
            }
        }
        let Some(era) = self.ledger.era_before(Duration::ZERO) else { return };
        for (name, count) in failed {
            let Some((instance, pair, probability)) = era.target(&name) else { continue };
            for _ in 0..count.min(MOST_TRIES) {
                let observed = Observed {
                    at: now(),
                    instance: instance.clone(),
                    probability,
                    status: 0,
                    outcome: Outcome::Unreachable,
                    latency_us: 0,
                    duration_us: 0,
                    attempt: 1,
                    synthetic: false,
                };
                self.ledger.note(pair, observed);
            }
        }
    }

    /// The counters of a process that the host meets for the first time, so that what was before is not taken for now.
    async fn learn_counters(&self) {
        if let Ok(counts) = self.counts().await {
            self.tried().1 = counts.into_iter().map(|(name, counts)| (name, counts.tried_again)).collect();
        }
    }

    /// Takes the weight from every server of Segue's and waits for what is in flight. The configuration stays: what was carried is carried
    /// again by the next host.
    async fn take_all_weight(&self) -> Result<(), Failure> {
        let seen = self.look().await?;
        let ours = seen.servers.iter().filter(|server| config::is_service(&server.backend));
        let none: Vec<String> = ours.map(|k| format!("set server {}/{} weight 0", k.backend, k.name)).collect();
        tell(&self.settings.admin_socket, &none).await?;
        let quiet = async {
            while self.counts().await.is_ok_and(|all| all.values().any(|counts| counts.current > 0)) {
                sleep(DRAIN_PACE.1).await;
            }
        };
        let _ = timeout(self.drain, quiet).await;
        Ok(())
    }
}

impl Carrier for Haproxy {
    async fn carry_recorded(&self) -> Result<(), Failure> {
        // One after the other, each with the newest record: the last one told is the last one recorded.
        let _order = self.order.lock().await;
        if *self.stopping.borrow() {
            return Err(Failure::Refused("the host ends".into()));
        }
        let table = table_of(&self.store.current());
        self.carry_table(&table).await
    }
}

#[async_trait]
impl Router for Haproxy {
    fn addresses(&self) -> Vec<SocketAddr> {
        self.listen.clone()
    }

    fn pid(&self) -> Option<u32> {
        self.living.borrow().as_ref().map(|info| info.pid)
    }

    fn check(&self, rules: &[RouteRule]) -> Result<(), HostError> {
        check_words(rules, "HAProxy")
    }

    async fn run(self: Arc<Self>, _ready: BoxFuture<'static, ()>) {
        let hears = tokio::spawn(self.clone().hear());
        if self.look().await.is_ok() {
            self.learn_counters().await;
        }
        keep_carrying("HAProxy", &*self, &self.suspected, &self.stopping).await;
        {
            let _order = self.order.lock().await;
            if let Err(Failure::Silent(why) | Failure::Refused(why)) = self.take_all_weight().await {
                tracing::warn!(why, "HAProxy can't be told that its services end");
            }
        }
        hears.abort();
        self.finished.send_replace(true);
    }

    async fn carry(&self) -> Result<(), HostError> {
        self.carry_recorded().await.map_err(|failure| failure.told_of("HAProxy"))
    }

    async fn state(&self) -> Option<RouterState> {
        let counts = self.counts().await.ok()?;
        let in_flight = counts.into_iter().map(|(name, counts)| (name, counts.current)).collect();
        let mut state = RouterState { in_flight, ..RouterState::default() };
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
            let in_flight = self.in_flight(instance).await;
            if in_flight == 0 || Instant::now() >= deadline {
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

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        match error {
            CliError::Silent { .. } => Self::Silent(error.to_string()),
            CliError::Unreadable { .. } => Self::Refused(error.to_string()),
        }
    }
}
