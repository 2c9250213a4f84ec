//! `segue proxy`: carries HTTP traffic to the instances of a host's services, by host and path, with weights.
//!
//! Comes in: connections on sockets that the host listens on and hands over, and a [`table::RouteTable`], from a file at the
//! start and over the control socket after that. Goes out: requests to instances, and one observation for each attempt.
//! Never here: a process that is started or stopped, an epoch, a decision. The proxy outlives its host and goes on with the
//! routes that it has.
//!
//! The host starts it as `segue proxy` with these arguments, which [`main`] reads:
//!
//! | argument | meaning |
//! | --- | --- |
//! | `--control PATH` | its control socket ([`control`]); `PATH.listeners` hands out its listening sockets |
//! | `--routes FILE` | the route table to start with (JSON); none there is an empty one |
//! | `--generation N` | the number of this process among the host's proxies, which its observation sequences begin with |
//! | `--listen-fds N` | the descriptor of a listening socket that it inherits; may be repeated |
//! | `--listen ADDRESS` | or an address that it listens on by itself; may be repeated |
//! | `--drain-ms N` | after TERM, how long requests in flight may go on (30,000) |
//! | `--threads N` | threads that carry traffic (1) |
//!
//! It builds its own runtimes and ends the process: it must be dispatched before any other runtime is made. pingora is used
//! as a library below its `Server`, whose shutdown waits for minutes and which panics where a port is taken.

pub mod assign;
mod client;
pub mod control;
pub mod hold;
mod listeners;
pub mod observations;
pub mod table;
mod traffic;

use std::{
    ffi::OsString, io::Write, net::SocketAddr, os::fd::RawFd, path::PathBuf, process::ExitCode, sync::Arc,
    time::Duration,
};

use pingora_core::{apps::HttpServerApp, server::configuration::ServerConf};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, watch},
};

pub use listeners::fetch_listeners;
use listeners::{accept_loop, bind_control, hand_out};
use table::{RouteTable, Routing};
use traffic::{MAX_ATTEMPTS, SharedRouting, Traffic};

use crate::host::unix_http;

/// Client connections at once; more wait in the sockets' backlogs.
const MAX_CONNECTIONS: u32 = 16_384;

/// Idle connections to instances that are kept, over all instances.
const MAX_IDLE_UPSTREAM: usize = 512;

/// How `segue proxy` is to run.
#[derive(Debug, Clone)]
pub struct ProxyOptions {
    /// The control socket.
    pub control: PathBuf,
    /// The route table to start with.
    pub routes: Option<PathBuf>,
    /// The number of this process among its host's proxies.
    pub generation: u64,
    /// Listening sockets that were inherited.
    pub inherited: Vec<RawFd>,
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// How long requests in flight may go on after TERM.
    pub drain: Duration,
    /// Threads that carry traffic.
    pub threads: usize,
}

/// Why the proxy can't run.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The arguments can't be understood.
    #[error("{0}; see the head of the proxy's module for its arguments")]
    Arguments(String),
    /// An address can't be listened on.
    #[error(
        "can't listen on {address}: {source}; another process may have it, choose another address or stop that process"
    )]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The route table can't be read.
    #[error("the routes in {path} can't be read: {reason}")]
    Routes {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The control socket can't be made.
    #[error("the control socket {path} can't be made: {source}")]
    Control {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refuses threads or descriptors.
    #[error("the proxy can't be started: {0}")]
    System(#[from] std::io::Error),
}

/// `segue proxy`: `args` are those after the subcommand. Returns when the proxy has drained, or could not start.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match parse(args).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("segue proxy: {error}");
            ExitCode::from(if matches!(error, ProxyError::Arguments(_)) { 2 } else { 1 })
        }
    }
}

/// Carries traffic until TERM or INT, then drains for as long as the options allow.
pub fn run(options: ProxyOptions) -> Result<(), ProxyError> {
    // Long time-outs that almost never pass: tokio's timers rather than pingora's, whose thread wakes 100 times a second.
    pingora_timeout::fast_timeout::set_fast_timeout_to_tokio_threshold(Some(Duration::ZERO));
    listeners::raise_descriptor_limit();
    let listeners = listeners::open(&options)?;
    let routing = Arc::new(SharedRouting::default());
    let table = read_table(&options)?;
    routing.replace(|before| Routing::new(&table, before, options.generation));
    let (stop, stopped) = watch::channel(false);
    let control = control::Control {
        routing: routing.clone(),
        generation: options.generation,
        listen: listeners.iter().filter_map(|l| l.local_addr().ok()).map(|a| a.to_string()).collect(),
    };
    let handed_out = listeners.iter().map(std::net::TcpListener::try_clone).collect::<Result<Vec<_>, _>>()?;
    start_control(&options, control, handed_out, stop)?;
    let runtime = match options.threads {
        0 | 1 => Builder::new_current_thread().enable_all().build()?,
        threads => Builder::new_multi_thread().worker_threads(threads).enable_all().build()?,
    };
    runtime.block_on(carry(&options, listeners, routing, stopped))?;
    runtime.shutdown_background();
    Ok(())
}

/// Accepts on every listener until `stopped`, then waits for what is in flight.
async fn carry(
    options: &ProxyOptions,
    listeners: Vec<std::net::TcpListener>,
    routing: Arc<SharedRouting>,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), ProxyError> {
    let conf = ServerConf {
        threads: options.threads.max(1),
        max_retries: MAX_ATTEMPTS,
        upstream_keepalive_pool_size: MAX_IDLE_UPSTREAM,
        ..ServerConf::default()
    };
    let proxy = Arc::new(pingora_proxy::http_proxy(&Arc::new(conf), Traffic { routing }));
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        accepting.spawn(accept_loop(listener, proxy.clone(), permits.clone(), stopped.clone()));
    }
    // One line, which the host waits for; nobody may be there to read it.
    let _ = writeln!(std::io::stdout(), "ready");
    // The sender lives as long as the process; were it gone, stopping is right as well.
    let _ = stopped.wait_for(|stop| *stop).await;
    accepting.join_all().await;
    proxy.http_cleanup().await;
    let drained = permits.acquire_many(MAX_CONNECTIONS);
    if tokio::time::timeout(options.drain, drained).await.is_err() {
        let left = MAX_CONNECTIONS as usize - permits.available_permits();
        eprintln!("segue proxy: {left} connections were still busy after {:?} and are cut", options.drain);
    }
    Ok(())
}

/// The control side has a thread of its own, so that a busy data side does not delay a change of weights.
fn start_control(
    options: &ProxyOptions,
    control: control::Control,
    listeners: Vec<std::net::TcpListener>,
    stop: watch::Sender<bool>,
) -> Result<(), ProxyError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (calls, handovers, mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        let calls = bind_control(&options.control)?;
        let handovers = bind_control(&listeners::handover_path(&options.control))?;
        (calls, handovers, signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let control = Arc::new(control);
    let serve = async move {
        tokio::spawn(hand_out(handovers, listeners));
        tokio::spawn(unix_http::serve(calls, move |call| {
            let control = control.clone();
            async move { control.answer(call).await }
        }));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
        // Goes on answering while the data side drains; ends with the process.
        std::future::pending::<()>().await;
    };
    std::thread::Builder::new().name("control".into()).spawn(move || runtime.block_on(serve))?;
    Ok(())
}

fn read_table(options: &ProxyOptions) -> Result<RouteTable, ProxyError> {
    let Some(path) = &options.routes else { return Ok(RouteTable::default()) };
    let failed = |reason: String| ProxyError::Routes { path: path.clone(), reason };
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(RouteTable::default()),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn parse(args: impl Iterator<Item = OsString>) -> Result<ProxyOptions, ProxyError> {
    let wrong = ProxyError::Arguments;
    let mut options = ProxyOptions {
        control: PathBuf::new(),
        routes: None,
        generation: 0,
        inherited: Vec::new(),
        listen: Vec::new(),
        drain: Duration::from_secs(30),
        threads: 1,
    };
    let mut args = args;
    while let Some(flag) = args.next() {
        let flag = flag.to_string_lossy().into_owned();
        let value = args.next().ok_or_else(|| wrong(format!("`{flag}` needs a value")))?;
        let text = value.to_string_lossy().into_owned();
        let not = |what: &str| wrong(format!("`{flag} {text}`: not {what}"));
        match flag.as_str() {
            "--control" => options.control = value.into(),
            "--routes" => options.routes = Some(value.into()),
            "--generation" => options.generation = text.parse().map_err(|_| not("a number"))?,
            "--listen-fds" => {
                for fd in text.split(',').filter(|fd| !fd.is_empty()) {
                    options.inherited.push(fd.parse().map_err(|_| not("a list of descriptors"))?);
                }
            }
            "--listen" => options.listen.push(text.parse().map_err(|_| not("an address such as 127.0.0.1:8080"))?),
            "--drain-ms" => options.drain = Duration::from_millis(text.parse().map_err(|_| not("a number"))?),
            "--threads" => options.threads = text.parse().map_err(|_| not("a number"))?,
            _ => return Err(wrong(format!("`{flag}` is not known"))),
        }
    }
    if options.control.as_os_str().is_empty() {
        return Err(wrong("`--control PATH` is needed".into()));
    }
    Ok(options)
}
