//! HAProxy as a router: servers and weights over its runtime API, backends and rules by its configuration and a reload, observations from
//! its log.
//!
//! The configuration is written before anything is told, with the weights as they are to be: whoever restarts or reloads HAProxy changes
//! nothing. It is read again only for a new service or rule. Requests that a former process of HAProxy still has can't be asked for; they
//! are counted by their connections.

mod change;
mod cli;
mod clients;
mod config;
mod log;

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use indexmap::IndexMap;
use segue_schemas::{deploy::Outcome, router::HaproxyConfig};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use self::{
    change::{commands, removals},
    cli::{CliError, Counts, Info, Known, ask, tell},
    config::{Configuration, Server, configuration, is_shape},
    log::Line,
};
use super::{
    command,
    keep::Failure,
    outside::{Beside, DRAIN_PACE, Program, put_back},
    sockets, write_changed,
};
use crate::{
    host::{
        clock::now,
        process::{Process, ProcessRecord, record_of},
    },
    proxy::{observations::Observed, table::RouteTable},
};

/// The oldest version that has what is needed: servers that are added while it runs.
const OLDEST: (u32, u32) = (2, 4);

/// How long a change may wait for an HAProxy that does not answer.
const SILENT_LIMIT: Duration = Duration::from_secs(5);

/// How long HAProxy may take to have read its configuration again.
const RELOAD_LIMIT: Duration = Duration::from_secs(15);

/// How long is waited for that before it is told once more.
const RELOAD_AGAIN: Duration = Duration::from_secs(2);

/// The pause between two looks while something is awaited of HAProxy, which tells nobody.
const PAUSE: Duration = Duration::from_millis(10);

/// Failed tries that one look may bring: more were made in the dark and are one gap.
const MOST_TRIES: u64 = 1000;

/// HAProxy and how it is steered.
#[derive(Debug)]
pub(super) struct Haproxy {
    settings: HaproxyConfig,
    living: watch::Sender<Option<Info>>,
    /// Processes that were replaced and may have requests still.
    leaving: Mutex<Vec<ProcessRecord>>,
    tried: Mutex<Tried>,
}

/// How many failed tries of each server are known.
#[derive(Debug, Default)]
struct Tried {
    /// Of which process; 0 before one was met.
    pid: u32,
    /// `None` of one that was there before this host: what its counters say then was before.
    counts: Option<HashMap<String, u64>>,
}

/// A running HAProxy.
#[derive(Debug)]
struct Seen {
    info: Info,
    shape: Option<String>,
    servers: Vec<Known>,
}

impl Haproxy {
    /// HAProxy by its settings.
    pub(super) fn new(settings: HaproxyConfig) -> Self {
        Self { settings, living: watch::Sender::new(None), leaving: Mutex::default(), tried: Mutex::default() }
    }

    async fn carry_table(&self, beside: &Beside, table: &RouteTable) -> Result<(), Failure> {
        let wanted = configuration(table, &beside.listen, beside.listener.address, &beside.listener.mark);
        beside.ledger.begin("", table);
        let file = &self.settings.config;
        let unwritten = |e| Failure::Refused(format!("{} can't be written: {e}", file.display()));
        let before = write_changed(file, &wanted.text).map_err(unwritten)?;
        let mut seen = self.look_patiently(beside, SILENT_LIMIT).await?;
        if self.tried().counts.is_none() {
            self.note_failed_tries(beside).await;
        }
        if seen.info.version < OLDEST {
            let ((major, minor), (oldest_major, oldest_minor)) = (seen.info.version, OLDEST);
            return Err(Failure::Refused(format!(
                "it is HAProxy {major}.{minor}, which can't add servers while it runs; {oldest_major}.{oldest_minor} or newer is needed"
            )));
        }
        if seen.shape.as_deref() != Some(&wanted.shape) {
            seen = self.reload(beside, &wanted, before).await?;
        }
        match self.settle(beside, &wanted.servers, &seen).await {
            // started anew meanwhile
            Err(Failure::Silent(_)) => {
                let seen = self.look_patiently(beside, SILENT_LIMIT).await?;
                self.settle(beside, &wanted.servers, &seen).await
            }
            settled => settled,
        }
    }

    /// Brings servers and weights to what is wanted, and looks that they are there.
    async fn settle(&self, beside: &Beside, wanted: &[Server], seen: &Seen) -> Result<(), Failure> {
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
        let now = self.look(beside).await?;
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
    async fn reload(&self, beside: &Beside, wanted: &Configuration, before: Option<Vec<u8>>) -> Result<Seen, Failure> {
        if let Err(why) = command::run(&self.settings.check()).await {
            return Err(Failure::Refused(
                put_back(Self::NAME, &self.settings.config, &self.settings.check(), before, why).await,
            ));
        }
        let deadline = Instant::now() + RELOAD_LIMIT;
        while Instant::now() < deadline {
            // a master that is just reading its configuration does not hear of another reload, which is asked for again then
            command::run(&self.settings.reload).await.map_err(Failure::Refused)?;
            if let Ok(seen) = timeout(RELOAD_AGAIN, self.has(beside, wanted)).await {
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
    async fn has(&self, beside: &Beside, wanted: &Configuration) -> Seen {
        loop {
            if let Ok(seen) = self.look(beside).await
                && seen.shape.as_deref() == Some(&wanted.shape)
            {
                return seen;
            }
            sleep(PAUSE).await;
        }
    }

    /// What HAProxy has, once it answers.
    async fn look_patiently(&self, beside: &Beside, limit: Duration) -> Result<Seen, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            match self.look(beside).await {
                Err(Failure::Silent(_)) if Instant::now() < deadline => sleep(PAUSE * 5).await,
                seen => return seen,
            }
        }
    }

    async fn look(&self, beside: &Beside) -> Result<Seen, Failure> {
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
        self.meet(beside, &info);
        Ok(Seen { info, shape, servers })
    }

    /// Takes note of who answers. The one that answered before may have requests still.
    fn meet(&self, beside: &Beside, info: &Info) {
        let before = self.living.send_replace(Some(info.clone()));
        if let Some(same) = before.as_ref().filter(|before| before.pid == info.pid) {
            beside.ledger.lose(info.dropped_logs.saturating_sub(same.dropped_logs));
        }
        let known = self.tried().pid;
        if known == info.pid {
            return;
        }
        if known != 0 {
            tracing::info!(pid = info.pid, former = known, "HAProxy is another process now");
            let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
            leaving.extend(record_of(known));
        }
        *self.tried() = Tried { pid: info.pid, counts: (known != 0).then(HashMap::new) };
    }

    fn tried(&self) -> MutexGuard<'_, Tried> {
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

    async fn stat(&self) -> Result<HashMap<String, Counts>, CliError> {
        cli::counts(&ask(&self.settings.admin_socket, "show stat").await?)
    }

    /// What is in flight at an instance: as HAProxy says, and what former processes of it have, by their connections.
    async fn in_flight(&self, beside: &Beside, instance: &str) -> u64 {
        let connected = || {
            let address = beside.ledger.address_of(instance);
            address.and_then(|address| sockets::connected().get(&address).copied()).unwrap_or(0)
        };
        let Ok(counts) = self.stat().await else { return connected() };
        let current = counts.get(instance).map_or(0, |counts| counts.current);
        if !self.has_leaving() {
            return current;
        }
        let answer = ask(&self.settings.admin_socket, "show servers conn").await;
        let own = answer.and_then(|answer| cli::connections(&answer)).unwrap_or_default();
        current + connected().saturating_sub(own.get(instance).copied().unwrap_or(0))
    }

    fn note(&self, beside: &Beside, line: Line) {
        if self.tried().pid != line.pid && !self.is_leaving(line.pid) {
            beside.suspected.notify_one();
        }
        let Some(server) = &line.server else { return };
        // what was chosen under weights of before has their probability
        let then = beside.ledger.era_before(line.total);
        let eras = [then, beside.ledger.era_before(Duration::ZERO)];
        let Some((instance, pair, probability)) =
            eras.iter().flatten().find_map(|era| era.target(server).map(|(i, p, s)| (i.clone(), p.clone(), s)))
        else {
            return;
        };
        let probability = if line.rule.is_some() { 1.0 } else { probability };
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let observed = Observed {
            at: now(),
            instance,
            probability,
            rule: line.rule,
            unit: line.unit,
            status: line.status,
            outcome: line.outcome,
            latency_us: micros(line.latency.unwrap_or(line.total)),
            duration_us: micros(line.total),
            attempt: line.retries.saturating_add(1),
            synthetic: line.synthetic,
        };
        if line.unit.is_some() && line.outcome != Outcome::Unreachable {
            // what failed before was tried at the client's release as well: a line does not say where, the counters not by whom
            for attempt in 1..=line.retries {
                let tried = Observed {
                    status: 0,
                    outcome: Outcome::Unreachable,
                    latency_us: 0,
                    duration_us: 0,
                    attempt,
                    ..observed.clone()
                };
                beside.ledger.note(&pair, tried);
            }
        }
        beside.ledger.note(&pair, observed);
    }

    /// A line names only who was tried last. Who failed before is in the counters: each server's failed tries that were made again.
    async fn note_failed_tries(&self, beside: &Beside) {
        let Ok(counts) = self.stat().await else { return };
        let now_tried: HashMap<String, u64> =
            counts.into_iter().map(|(name, counts)| (name, counts.tried_again)).collect();
        let Some(before) = self.tried().counts.replace(now_tried.clone()) else { return };
        let failed = now_tried.into_iter().map(|(name, count)| {
            let known = before.get(&name).copied().unwrap_or(0);
            (name, count.saturating_sub(known))
        });
        let Some(era) = beside.ledger.era_before(Duration::ZERO) else { return };
        for (name, count) in failed {
            let Some((instance, pair, probability)) = era.target(&name) else { continue };
            for _ in 0..count.min(MOST_TRIES) {
                let observed = Observed {
                    at: now(),
                    instance: instance.clone(),
                    probability,
                    rule: None,
                    unit: None,
                    status: 0,
                    outcome: Outcome::Unreachable,
                    latency_us: 0,
                    duration_us: 0,
                    attempt: 1,
                    synthetic: false,
                };
                beside.ledger.note(pair, observed);
            }
        }
    }
}

#[async_trait]
impl Program for Haproxy {
    const NAME: &'static str = "HAProxy";

    fn check(&self) -> Vec<String> {
        self.settings.check()
    }

    fn pid(&self) -> Option<u32> {
        self.living.borrow().as_ref().map(|info| info.pid)
    }

    async fn begin(&self, beside: &Beside) {
        if self.look(beside).await.is_ok() {
            self.note_failed_tries(beside).await;
        }
    }

    async fn carry(&self, beside: &Beside, table: &RouteTable) -> Result<(), Failure> {
        self.carry_table(beside, table).await
    }

    /// The configuration stays: what was carried is carried again by the next host.
    async fn let_go(&self, beside: &Beside, _table: RouteTable) -> Result<(), Failure> {
        let seen = self.look(beside).await?;
        let ours = seen.servers.iter().filter(|server| config::is_service(&server.backend));
        let none: Vec<String> = ours.map(|k| format!("set server {}/{} weight 0", k.backend, k.name)).collect();
        tell(&self.settings.admin_socket, &none).await?;
        let quiet = async {
            while self.stat().await.is_ok_and(|all| all.values().any(|counts| counts.current > 0)) {
                sleep(DRAIN_PACE.1).await;
            }
        };
        let _ = timeout(beside.drain, quiet).await;
        Ok(())
    }

    async fn hear(&self, beside: &Beside, lines: Vec<String>) {
        let lines: Vec<Line> = lines.iter().filter_map(|text| log::line(text)).collect();
        if lines.iter().any(|line| line.retries > 0) {
            self.note_failed_tries(beside).await;
        }
        lines.into_iter().for_each(|line| self.note(beside, line));
    }

    async fn counts(&self, _beside: &Beside) -> Option<IndexMap<String, u64>> {
        let counts = self.stat().await.ok()?;
        Some(counts.into_iter().map(|(name, counts)| (name, counts.current)).collect())
    }

    async fn left_at(&self, beside: &Beside, instance: &str) -> (u64, bool) {
        (self.in_flight(beside, instance).await, false)
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
