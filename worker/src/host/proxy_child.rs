//! The host's proxy process: started, found again, restarted when it dies, told the routes.
//!
//! The host owns the listening sockets and hands them down, so that connections wait while a proxy is started again instead of
//! being refused. A host that was started again gets them back from the living proxy.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, StatusCode};
use indexmap::IndexMap;
use segue_schemas::{
    host_api::{HostError, HostErrorCode, ObservationBatch},
    strategy::CARRIED,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::{Mutex, watch},
};

use super::{
    output,
    process::{Process, record_of},
    refusal,
    state::{Nap, Recorded, Store, write_atomically},
    unix_http::{self, CallError},
};
use crate::{
    proxy::{
        control::{InFlightCount, ProxyState},
        fetch_listeners,
        hold::HeldRoutes,
        table::{RouteTable, TableRoute, TableTarget},
    },
    router::RouterState,
};

/// How long a proxy may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long a change of routes may take, a restart of the proxy included.
const PUSH_LIMIT: Duration = Duration::from_secs(5);

/// One short call on the control socket.
const CALL_LIMIT: Duration = Duration::from_secs(2);

/// glibc's allocator keeps the blocks at hand that each request needs, headers and bodies of a few KiB: a tenth of a request's
/// work less (gnu.org/software/libc/manual, "Memory Allocation Tunables"). Another C library does not read it.
const ALLOCATOR: &str = "glibc.malloc.tcache_max=9216:glibc.malloc.tcache_count=32";

/// The longest pause before a proxy that keeps dying is started again; the first restart has none.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// A proxy that lived this long was well: the next restart has no pause again.
const WELL_AFTER: Duration = Duration::from_secs(10);

/// The proxy as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Living {
    /// Its process.
    pub pid: u32,
    /// Its control socket.
    control: PathBuf,
}

/// The proxy and what it is started with.
#[derive(Debug)]
pub struct ProxyChild {
    data: PathBuf,
    program: PathBuf,
    drain: Duration,
    store: Arc<Store>,
    listeners: Vec<TcpListener>,
    living: watch::Sender<Option<Living>>,
    /// Set to end the proxy.
    stopping: watch::Sender<bool>,
    /// Set once it has ended for good.
    finished: watch::Sender<bool>,
    order: Mutex<()>,
}

impl ProxyChild {
    /// Takes the listening sockets from a living proxy, and makes those that are missing. Nothing is started yet.
    ///
    /// # Errors
    /// An address can't be listened on.
    pub async fn open(
        data: &Path,
        program: PathBuf,
        drain: Duration,
        listen: &[SocketAddr],
        store: Arc<Store>,
    ) -> Result<Self, (SocketAddr, io::Error)> {
        let recorded = store.current();
        let mut held = match &recorded.proxy_control {
            Some(control) => fetch_listeners(control).await.unwrap_or_default(),
            None => Vec::new(),
        };
        if held.is_empty()
            && let Some(mut mute) = recorded.proxy_process.and_then(|record| Process::adopt(record, ""))
        {
            // It lives and says nothing: it would keep the addresses for ever.
            mute.terminate(Duration::ZERO).await;
        }
        let mut listeners = Vec::new();
        for asked in listen {
            let before = recorded.listen.get(asked).copied().unwrap_or(*asked);
            let found = held.iter().position(|l| l.local_addr().is_ok_and(|a| a == before || a == *asked));
            listeners.push(match found {
                Some(index) => held.swap_remove(index),
                None => bind(*asked, before).map_err(|e| (*asked, e))?,
            });
        }
        let (data, living, order) = (data.to_owned(), watch::Sender::new(None), Mutex::new(()));
        let (stopping, finished) = (watch::Sender::new(false), watch::Sender::new(false));
        Ok(Self { data, program, drain, store, listeners, living, stopping, finished, order })
    }

    /// The addresses that are listened on.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|l| l.local_addr().ok()).collect()
    }

    /// The proxy, while one lives.
    #[must_use]
    pub fn living(&self) -> Option<Living> {
        self.living.borrow().clone()
    }

    /// Looks after the proxy until [`Self::stop`]: finds the one that lives, or starts one once `ready` has come; restarts it
    /// whenever it dies.
    pub async fn run(self: Arc<Self>, ready: impl Future<Output = ()>) {
        self.look_after(ready).await;
        self.finished.send_replace(true);
    }

    /// Returns when the proxy has ended because it was told to; no other is started then.
    async fn look_after(&self, ready: impl Future<Output = ()>) -> Option<()> {
        let mut process = match self.find().await {
            Some(process) => process,
            None => {
                tokio::select! {
                    () = ready => {}
                    () = self.told_to_stop() => return None,
                }
                self.start_again(Duration::ZERO).await?
            }
        };
        let mut deaths = 0;
        loop {
            let began = Instant::now();
            // What was changed while no proxy listened is told now.
            if let Err(error) = self.push().await {
                tracing::error!(%error, "the proxy does not take the routes");
            }
            let exit = tokio::select! {
                exit = process.ended() => exit,
                () = self.told_to_stop() => {
                    process.terminate(self.drain + CALL_LIMIT).await;
                    self.living.send_replace(None);
                    return None;
                }
            };
            self.living.send_replace(None);
            deaths = if began.elapsed() > WELL_AFTER { 1 } else { deaths + 1 };
            let pause = pause_after(deaths);
            tracing::error!(%exit, ?pause, "the proxy died and is started again");
            process = self.start_again(pause).await?;
        }
    }

    /// Has the proxy carry what is recorded now. When this returns, every request that is accepted goes by it.
    ///
    /// # Errors
    /// No proxy could be told in time; the next one that is started will know.
    pub async fn push(&self) -> Result<(), HostError> {
        // One after the other, each with the newest record: the last one told is the last one recorded.
        let _order = self.order.lock().await;
        let tell = async {
            loop {
                let living = self.wait_for_living().await;
                let table = serde_json::to_vec(&table_of(&self.store.current())).map_err(|e| e.to_string())?;
                let told = unix_http::call(&living.control, Method::PUT, "/v1/routes", Some(table), CALL_LIMIT).await;
                match told {
                    Ok((StatusCode::OK, _)) => return Ok(()),
                    Ok((status, body)) => return Err(format!("{status}: {}", String::from_utf8_lossy(&body))),
                    Err(error) => {
                        if matches!(error, CallError::Timeout { .. })
                            && let Some(mut mute) = record_of(living.pid).and_then(|r| Process::adopt(r, ""))
                        {
                            // It lives and does not answer: the next one will.
                            tracing::error!(pid = living.pid, %error, "the proxy is killed");
                            mute.terminate(Duration::ZERO).await;
                        }
                        self.wait_for_other_than(&living).await;
                    }
                }
            }
        };
        let unavailable = |why: String| {
            let message = format!("the change is recorded, but the proxy does not carry it yet ({why}); try again");
            refusal(HostErrorCode::Unavailable, message)
        };
        match tokio::time::timeout(PUSH_LIMIT, tell).await {
            Ok(told) => told.map_err(unavailable),
            Err(_) => Err(unavailable(format!("not within {PUSH_LIMIT:?}"))),
        }
    }

    /// What the proxy says about itself; `None` while there is none.
    pub async fn state(&self) -> Option<ProxyState> {
        state_of(&self.living()?.control).await
    }

    /// Observations of a route, as the proxy's JSON. A proxy that goes away meanwhile is an empty batch.
    pub async fn observations(
        &self,
        environment: &str,
        service: &str,
        after: u64,
        limit: u64,
        wait: Duration,
    ) -> (StatusCode, Bytes) {
        let query = format!("after={after}&limit={limit}&wait_ms={}", wait.as_millis());
        let path = format!("/v1/observations/{environment}/{service}?{query}");
        let read = async {
            let living = self.wait_for_living().await;
            unix_http::call(&living.control, Method::GET, &path, None, wait + CALL_LIMIT).await.ok()
        };
        if let Ok(Some((StatusCode::OK, batch))) = tokio::time::timeout(wait + CALL_LIMIT, read).await {
            return (StatusCode::OK, batch);
        }
        let none = ObservationBatch { observations: Vec::new(), next: after, lost: 0 };
        (StatusCode::OK, serde_json::to_vec(&none).unwrap_or_default().into())
    }

    /// Which services requests wait for because they sleep, once another than the `after`-th has begun to; `None`: no proxy says so.
    pub async fn held(&self, after: u64, wait: Duration) -> Option<HeldRoutes> {
        let path = format!("/v1/held?after={after}&wait_ms={}", wait.as_millis());
        let ask = async {
            let living = self.wait_for_living().await;
            unix_http::call(&living.control, Method::GET, &path, None, wait + CALL_LIMIT).await.ok()
        };
        match tokio::time::timeout(wait + CALL_LIMIT, ask).await {
            Ok(Some((StatusCode::OK, body))) => serde_json::from_slice(&body).ok(),
            _ => None,
        }
    }

    /// Waits until nothing is in flight at an instance, at most `limit`; what is in flight then.
    pub async fn drain(&self, instance: &str, limit: Duration) -> u64 {
        let Some(living) = self.living() else { return 0 };
        let path = format!("/v1/in-flight/{instance}?wait_ms={}", limit.as_millis());
        match unix_http::call(&living.control, Method::GET, &path, None, limit + CALL_LIMIT).await {
            Ok((StatusCode::OK, body)) => serde_json::from_slice::<InFlightCount>(&body).map_or(0, |c| c.in_flight),
            // The proxy has gone, and what it had in flight with it.
            _ => 0,
        }
    }

    /// Ends the proxy, which drains what is in flight for as long as it may, and starts no other.
    pub async fn stop(&self) {
        self.stopping.send_replace(true);
        let mut finished = self.finished.subscribe();
        // The sender is in `self` and outlives this.
        let _ = finished.wait_for(|finished| *finished).await;
    }

    async fn wait_for_living(&self) -> Living {
        let mut watch = self.living.subscribe();
        // The sender is in `self`: this ends with a living proxy or with its caller's time limit.
        loop {
            if let Some(living) = watch.borrow_and_update().clone() {
                return living;
            }
            if watch.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn told_to_stop(&self) {
        let mut stopping = self.stopping.subscribe();
        let _ = stopping.wait_for(|stop| *stop).await;
    }

    async fn wait_for_other_than(&self, gone: &Living) {
        let mut watch = self.living.subscribe();
        let _ = watch.wait_for(|living| living.as_ref() != Some(gone)).await;
    }

    /// The proxy of an earlier host process, if it answers, listens where it should, has this version and can what this host
    /// says that it can. One that does not is replaced.
    async fn find(&self) -> Option<Process> {
        let control = self.store.current().proxy_control.clone()?;
        let state = state_of(&control).await?;
        let process = Process::adopt(record_of(state.pid)?, "")?;
        let mut listens = state.listen.clone();
        let mut wanted: Vec<String> = self.addresses().iter().map(ToString::to_string).collect();
        listens.sort();
        wanted.sort();
        if can_all(&state) && listens == wanted {
            self.living.send_replace(Some(Living { pid: state.pid, control }));
            return Some(process);
        }
        tracing::info!(pid = state.pid, version = state.version, "the proxy of an earlier host is replaced");
        let new = self.start_again(Duration::ZERO).await?;
        let drain = self.drain + CALL_LIMIT;
        tokio::spawn(async move {
            let mut old = process;
            old.terminate(drain).await;
        });
        Some(new)
    }

    /// Starts a proxy, however many tries it takes; `None` when there is to be none any more.
    async fn start_again(&self, first_pause: Duration) -> Option<Process> {
        let mut pause = first_pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.told_to_stop() => return None,
            }
            match self.start().await {
                Ok((process, living)) => {
                    self.living.send_replace(Some(living));
                    return Some(process);
                }
                Err(error) => {
                    pause = (pause * 2).clamp(Duration::from_millis(100), MAX_PAUSE);
                    tracing::error!(%error, ?pause, "the proxy can't be started and is tried again");
                }
            }
        }
    }

    async fn start(&self) -> Result<(Process, Living), String> {
        let data = self.data.clone();
        let listen = self.addresses();
        let (generation, control) = self
            .store
            .change(move |recorded| {
                recorded.generation += 1;
                let control = data.join(format!("proxy-{}.sock", recorded.generation));
                recorded.proxy_control = Some(control.clone());
                Ok((recorded.generation, control))
            })
            .await
            .map_err(|e| e.to_string())?;
        self.remove_old_sockets(&control);
        let routes = self.data.join("routes.json");
        let table = serde_json::to_vec(&table_of(&self.store.current())).map_err(|e| e.to_string())?;
        write_atomically(&routes, &table).map_err(|e| format!("{}: {e}", routes.display()))?;
        let descriptors: Vec<i32> = self.listeners.iter().map(AsRawFd::as_raw_fd).collect();
        let numbers: Vec<String> = descriptors.iter().map(ToString::to_string).collect();
        let errors = output::open(&self.data.join("output").join("proxy.log")).map_err(|e| e.to_string())?;
        let mut command = std::process::Command::new(&self.program);
        command
            .arg("proxy")
            .arg("--control")
            .arg(&control)
            .arg("--routes")
            .arg(&routes)
            .args(["--generation", &generation.to_string()])
            .args(numbers.iter().flat_map(|fd| ["--listen-fds", fd]))
            .args(["--drain-ms", &self.drain.as_millis().to_string()])
            .env_remove("NOTIFY_SOCKET")
            .env("GLIBC_TUNABLES", std::env::var_os("GLIBC_TUNABLES").unwrap_or_else(|| ALLOCATOR.into()))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0);
        // SAFETY: runs in the child between fork and exec and calls nothing but fcntl(2), which is async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                for fd in &descriptors {
                    if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let mut child = command.spawn().map_err(|e| format!("{} can't be run: {e}", self.program.display()))?;
        let stdout = child.stdout.take();
        let mut process = Process::of_child(child, "").map_err(|e| e.to_string())?;
        let ready = async {
            let stdout = stdout.ok_or("it has no output")?;
            let stdout = tokio::process::ChildStdout::from_std(stdout).map_err(|_| "its output can't be read")?;
            let mut line = String::new();
            match BufReader::new(stdout).read_line(&mut line).await {
                Ok(n) if n > 0 => Ok(()),
                _ => Err("it ended before it was ready"),
            }
        };
        let outcome = tokio::time::timeout(START_LIMIT, ready).await.unwrap_or(Err("it was not ready in time"));
        if let Err(why) = outcome {
            let exit = process.terminate(Duration::ZERO).await;
            let log = self.data.join("output").join("proxy.log");
            return Err(format!("{why} ({exit}); see {}", log.display()));
        }
        let record = process.record;
        let recorded = self.store.change(move |recorded| {
            recorded.proxy_process = Some(record);
            Ok(())
        });
        recorded.await.map_err(|e| e.to_string())?;
        tracing::info!(pid = record.pid, generation, ?listen, "the proxy is started");
        let living = Living { pid: process.record.pid, control };
        Ok((process, living))
    }

    fn remove_old_sockets(&self, current: &Path) {
        let still_used = self.living().map(|l| l.control);
        for entry in std::fs::read_dir(&self.data).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_of = |control: &Path| path.to_string_lossy().starts_with(&*control.to_string_lossy());
            if name.starts_with("proxy-")
                && name.contains(".sock")
                && !is_of(current)
                && !still_used.as_deref().is_some_and(is_of)
            {
                // Left by a proxy that is gone; harmless if it stays.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// The pause before the start after this many deaths in a row.
fn pause_after(deaths: u32) -> Duration {
    match deaths {
        0 | 1 => Duration::ZERO,
        n => (Duration::from_millis(50) * 2_u32.saturating_pow(n - 2).min(1000)).min(MAX_PAUSE),
    }
}

/// The table that the proxy carries for a record. Targets that are unknown or can't be used get nothing.
#[must_use]
pub fn table_of(recorded: &Recorded) -> RouteTable {
    let target = |t: &segue_schemas::host_api::Target| {
        let instance = recorded.instances.get(&t.instance).filter(|i| i.is_usable())?;
        let (address, release) = (instance.address(), instance.release.id.0);
        Some(TableTarget { instance: t.instance.clone(), address, weight: t.weight, release })
    };
    let routes = recorded.routes.iter().filter(|r| !r.rules.is_empty()).map(|r| {
        let mut targets: Vec<TableTarget> = recorded.without_remade(&r.targets).iter().filter_map(target).collect();
        let is_awake = |t: &TableTarget| recorded.instances.get(&t.instance).is_some_and(|i| i.nap == Nap::Awake);
        // where some are awake they take it all; where none is, it waits for one
        let asleep = targets.iter().any(|t| t.weight > 0) && !targets.iter().any(|t| t.weight > 0 && is_awake(t));
        if !asleep {
            targets.retain(is_awake);
        }
        let (environment, service, rules) = (r.environment.clone(), r.service.clone(), r.rules.clone());
        TableRoute { environment, service, rules, assignment: r.assignment.clone(), targets, asleep }
    });
    RouteTable { routes: routes.collect() }
}

/// What is in flight and newest for a pair, out of what the proxy says.
#[must_use]
pub fn counts_for(
    state: &RouterState,
    environment: &str,
    service: &str,
    instances: &[String],
) -> (IndexMap<String, u64>, u64) {
    let newest = state.newest.iter().find(|(e, s, _)| e == environment && s == service).map_or(0, |(_, _, n)| *n);
    let in_flight = state.in_flight.iter().filter(|(id, _)| instances.contains(id));
    (in_flight.map(|(id, n)| (id.clone(), *n)).collect(), newest)
}

/// Whether a proxy can what this host can: a version may have several builds.
fn can_all(proxy: &ProxyState) -> bool {
    let carries = |what: &&str| proxy.carries.iter().any(|known| known == what);
    proxy.version == env!("CARGO_PKG_VERSION") && CARRIED.iter().all(carries)
}

async fn state_of(control: &Path) -> Option<ProxyState> {
    let (status, body) = unix_http::call(control, Method::GET, "/v1/state", None, CALL_LIMIT).await.ok()?;
    if status == StatusCode::OK { serde_json::from_slice(&body).ok() } else { None }
}

/// Listens where it was listened before, or, where a free port was asked for and the former is taken, on another.
fn bind(asked: SocketAddr, before: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(before) {
        Err(_) if before != asked => TcpListener::bind(asked),
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_can_less_than_its_host_is_not_kept() {
        let of = |version: &str, carries: Option<&str>| {
            let mut state =
                serde_json::json!({ "pid": 1, "version": version, "listen": [], "in_flight": {}, "newest": [] });
            if let Some(carries) = carries {
                state["carries"] = serde_json::json!([carries, "what-is-newer"]);
            }
            can_all(&serde_json::from_value(state).unwrap())
        };
        let version = env!("CARGO_PKG_VERSION");
        assert!(of(version, Some("sticky")));
        assert!(!of(version, None) && !of(version, Some("other")) && !of("0.0.1", Some("sticky")));
    }
}
