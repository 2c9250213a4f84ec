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
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use http::Method;
use indexmap::IndexMap;
use segue_schemas::router::NginxConfig;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use self::{
    config::{Configuration, Surroundings, configuration, host_that_tells},
    log::{Line, Reader},
    workers::{is_leaving, master, workers},
};
use super::{
    command,
    keep::Failure,
    outside::{Beside, DRAIN_PACE, Program, put_back},
    sockets, write_changed,
};
use crate::{
    host::{clock::now, unix_http},
    proxy::{observations::Observed, table::RouteTable},
};

/// How long nginx may take until it has read its configuration again and no former worker takes connections.
const RELOAD_LIMIT: Duration = Duration::from_secs(15);

/// How long it may take to answer the name of its file.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// The pause between two looks while something is awaited of nginx, which tells nobody.
const PAUSE: Duration = Duration::from_millis(5);

/// nginx and how it is steered.
#[derive(Debug)]
pub(super) struct Nginx {
    settings: NginxConfig,
    reader: Mutex<Reader>,
}

impl Nginx {
    /// nginx by its settings.
    pub(super) fn new(settings: NginxConfig) -> Self {
        Self { settings, reader: Mutex::default() }
    }

    async fn carry_table(&self, beside: &Beside, table: &RouteTable) -> Result<(), Failure> {
        let around = Surroundings {
            listen: &beside.listen,
            log: beside.listener.address,
            mark: &beside.listener.mark,
            error_log: &self.settings.error_log,
        };
        let wanted = configuration(table, around);
        beside.ledger.begin(&wanted.name, table);
        let file = &self.settings.include;
        let unwritten = |e| Failure::Refused(format!("{} can't be written: {e}", file.display()));
        let before = write_changed(file, &wanted.text).map_err(unwritten)?;
        if before.is_none() && self.told(beside).await.as_deref() == Some(&wanted.name) {
            return Ok(());
        }
        if let Err(why) = command::run(&self.settings.check).await {
            return Err(Failure::Refused(put_back(Self::NAME, file, &self.settings.check, before, why).await));
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
            self.has(beside, &wanted, &former).await
        };
        match read.await {
            Ok(()) => Ok(()),
            Err(why) => Err(Failure::Refused(put_back(Self::NAME, file, &self.settings.check, before, why).await)),
        }
    }

    /// Waits until the new workers serve, and no others.
    async fn has(&self, beside: &Beside, wanted: &Configuration, former: &HashSet<u32>) -> Result<(), String> {
        let has_it = async {
            while self.told(beside).await.as_deref() != Some(&wanted.name) {
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

    /// The name of the file by which nginx serves now.
    async fn told(&self, beside: &Beside) -> Option<String> {
        let mut address = *beside.listen.first()?;
        if address.ip().is_unspecified() {
            let loopback = |ip| match ip {
                IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
            };
            address.set_ip(loopback(address.ip()));
        }
        let host = host_that_tells(&beside.listener.mark);
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

    fn note(beside: &Beside, line: &Line) {
        let Some(era) = beside.ledger.era_named(&line.era) else {
            // a file of before this host's start, or one of too long ago: whose it was is not known any more
            beside.ledger.lose_unknown(line.attempts.len() as u64);
            return;
        };
        for (attempt, number) in line.attempts.iter().zip(1..) {
            let Some(instance) = era.addresses.get(&attempt.address) else { continue };
            let Some((instance, pair, probability)) = era.target(instance.as_str()) else { continue };
            let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
            let observed = Observed {
                at: now(),
                instance: instance.clone(),
                probability: if line.rule.is_some() { 1.0 } else { probability },
                rule: line.rule,
                unit: line.unit,
                status: attempt.status,
                outcome: attempt.outcome,
                latency_us: micros(attempt.latency.unwrap_or(attempt.time)),
                duration_us: micros(attempt.time),
                attempt: number,
                synthetic: line.synthetic,
            };
            beside.ledger.note(pair, observed);
        }
    }
}

#[async_trait]
impl Program for Nginx {
    const NAME: &'static str = "nginx";

    fn check(&self) -> Vec<String> {
        self.settings.check.clone()
    }

    fn pid(&self) -> Option<u32> {
        master(&self.settings.pid)
    }

    async fn carry(&self, beside: &Beside, table: &RouteTable) -> Result<(), Failure> {
        self.carry_table(beside, table).await
    }

    async fn let_go(&self, beside: &Beside, mut table: RouteTable) -> Result<(), Failure> {
        table.routes.iter_mut().flat_map(|route| &mut route.targets).for_each(|target| target.weight = 0);
        self.carry_table(beside, &table).await?;
        let quiet = async {
            while self.has_former_workers() {
                sleep(DRAIN_PACE.1).await;
            }
        };
        let _ = timeout(beside.drain, quiet).await;
        Ok(())
    }

    async fn hear(&self, beside: &Beside, lines: Vec<String>) {
        // nothing that runs under the lock can panic half-way through a change
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter_map(|text| reader.read(text)).for_each(|line| Self::note(beside, &line));
    }

    async fn counts(&self, beside: &Beside) -> Option<IndexMap<String, u64>> {
        let connected = sockets::connected();
        let known = beside.ledger.known_addresses().into_iter();
        Some(known.map(|(id, address)| (id.to_string(), connected.get(&address).copied().unwrap_or(0))).collect())
    }

    /// A former worker may yet give it a request that it has half read.
    async fn left_at(&self, beside: &Beside, instance: &str) -> (u64, bool) {
        let address = beside.ledger.address_of(instance);
        let in_flight = address.and_then(|address| sockets::connected().get(&address).copied()).unwrap_or(0);
        (in_flight, self.has_former_workers())
    }
}
