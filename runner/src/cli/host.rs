//! `segue host` and `segue proxy`: what keeps a machine's services, and what carries their traffic. Neither runs on a runtime
//! of ours: both have their own.

use std::{net::SocketAddr, os::fd::RawFd, path::PathBuf, time::Duration};

use segue_schemas::host_api::Shutdown;
use segue_worker::{
    host::{self, HostOptions, client::HostClient},
    proxy::{self, ProxyOptions},
};

use super::{
    ending::{Exit, Explain as _, Failure},
    logging,
    out::say,
    place,
};

/// Keep this machine's services and their traffic
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue host --data /var/lib/segue/host --listen 0.0.0.0:80\n  \
    segue host --data /var/lib/segue/host --stop\n\n\
    `segue up` starts it by itself. TERM ends the host alone: services and proxy live on, and the next host finds them. \
    After a reboot it brings the last good releases and their weights back, with nothing else there.")]
pub struct HostArgs {
    /// The host's own directory [default: host in the data directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The unix socket of its API [default: host.sock in its directory]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// An address that its proxy listens on; may be given several times
    #[arg(long, value_name = "IP:PORT")]
    listen: Vec<SocketAddr>,
    /// End the running host with everything that it carries: services and proxy
    #[arg(long, conflicts_with = "listen")]
    stop: bool,
}

pub fn run_host(args: HostArgs) -> Result<Exit, Failure> {
    let data = match args.data {
        Some(data) => data,
        None => place::default_data()?.join("host"),
    };
    let mut options = HostOptions::new(data).explain("cannot find this program's own path")?;
    if let Some(socket) = args.socket {
        options.socket = socket;
    }
    if args.stop {
        return stop(options);
    }
    options.listen = args.listen;
    logging::start()?;
    host::run_blocking(options).map_err(Failure::new)?;
    Ok(Exit::Done)
}

fn stop(options: HostOptions) -> Result<Exit, Failure> {
    let client = HostClient::new(options.socket);
    place::client_runtime()?.block_on(client.shutdown(Shutdown { services: true })).map_err(Failure::new)?;
    say!("the host and what it carried have ended");
    Ok(Exit::Done)
}

/// Carry traffic to services; started by `segue host`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue proxy --control /run/segue/proxy.sock --listen 127.0.0.1:8080 --routes routes.json\n\n\
    The host starts and replaces it without dropping a request. By hand it serves a fixed table of routes.")]
pub struct ProxyArgs {
    /// The socket by which routes are set and observations fetched
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
    /// The routes to begin with (JSON)
    #[arg(long, value_name = "FILE")]
    routes: Option<PathBuf>,
    /// Which of its host's proxies this is
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    generation: u64,
    /// Listening sockets that were inherited, by number
    #[arg(long, value_delimiter = ',', value_name = "FD,...")]
    listen_fds: Vec<RawFd>,
    /// An address to listen on; may be given several times
    #[arg(long, value_name = "IP:PORT")]
    listen: Vec<SocketAddr>,
    /// How long requests in flight may go on after TERM
    #[arg(long, default_value_t = 30_000, value_name = "MILLISECONDS")]
    drain_ms: u64,
    /// Threads that carry traffic
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    threads: usize,
}

pub fn run_proxy(args: ProxyArgs) -> Result<Exit, Failure> {
    let options = ProxyOptions {
        control: args.control,
        routes: args.routes,
        generation: args.generation,
        inherited: args.listen_fds,
        listen: args.listen,
        drain: Duration::from_millis(args.drain_ms),
        threads: args.threads,
    };
    proxy::run(options).map_err(Failure::new)?;
    Ok(Exit::Done)
}
