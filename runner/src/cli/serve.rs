//! `segue up`, `segue server` and `segue worker`: what stays on. Here the worker and the host, which the server's crate does
//! not know, are handed down to it as function values.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use segue_runner::up::{self, Part, Reach, ServerOptions};
use segue_schemas::{
    config::{BrokerConfig, Config, HostConfig, LOCAL_HOST},
    engine::EngineConfig,
    router::RouterSettings,
};
use segue_worker::{
    WorkerOptions,
    host::{self, HostOptions},
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{
    configuration::ConfigArgs,
    connection::read_token,
    ending::{Exit, Explain as _, Failure},
    logging,
    out::mention,
    place,
};

/// Where a server listens by default.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8321);
/// Where the proxy of `segue up` listens, unless `hosts.local.listen` says something else.
const DEFAULT_PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8322);

/// Start everything on this machine: server, worker and host
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue up\n  \
    segue up --config segue.yaml --data ./segue-data --listen 127.0.0.1:8321\n  \
    SEGUE_LOG=debug segue up\n\n\
    Works without a configuration. SIGTERM: takes no new work, lets running steps finish within `worker.shutdown-grace`, hands \
    the rest back; the next start goes on. The host and its services stay up: `segue host --stop` ends them.")]
pub struct UpArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[arg(long, env = "SEGUE_DATA", value_name = "DIR", help = place::DATA_HELP)]
    data: Option<PathBuf>,
    /// Where webhooks and the API are served
    #[arg(long, value_name = "IP:PORT", default_value_t = DEFAULT_LISTEN)]
    listen: SocketAddr,
}

/// Start a server alone; workers and hosts are elsewhere
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue server --config /etc/segue/segue.yaml --data /var/lib/segue --listen 127.0.0.1:8321\n\n\
    A worker needs a token: `segue worker token create NAME`, or the worker-token of the data directory.")]
pub struct ServerArgs {
    #[command(flatten)]
    up: UpArgs,
}

/// How a worker alone is started, as typed.
#[derive(Debug, clap::Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[arg(long, env = "SEGUE_DATA", value_name = "DIR", help = place::DATA_HELP)]
    data: Option<PathBuf>,
    /// The server's address
    #[arg(long, env = "SEGUE_SERVER", value_name = "URL", default_value = "http://127.0.0.1:8321")]
    server: String,
    /// The message queue that brings this worker's bells; goes before `broker.url` and `broker.url-file`
    #[arg(long, env = "SEGUE_BROKER", value_name = "URL", hide_env_values = true)]
    broker: Option<String>,
    /// File that holds the worker's token [default: $SEGUE_WORKER_TOKEN itself, else worker-token in the data directory]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

pub fn run_up(args: UpArgs) -> Result<Exit, Failure> {
    serve(args, |config, data| {
        let local = host_options(config, data)?;
        let mut hosts = Vec::new();
        for (name, host) in config.hosts.iter().filter(|(name, host)| *name != LOCAL_HOST && host.is_started_here(name))
        {
            hosts.push(options_of(name, host, data)?);
        }
        Ok((Some(keeper(local, hosts)), Some(worker_part())))
    })
}

pub fn run_server(args: ServerArgs) -> Result<Exit, Failure> {
    serve(args.up, |_, _| Ok((None, None)))
}

type Parts = (Option<Part>, Option<Part>);

fn serve(args: UpArgs, parts: impl FnOnce(&Config, &Path) -> Result<Parts, Failure>) -> Result<Exit, Failure> {
    let config = args.config.load()?;
    let data = absolute(place::data(args.data)?)?;
    logging::start()?;
    let (host, worker) = parts(&config, &data)?;
    place::server_runtime()?.block_on(async {
        let shutdown = until_told()?;
        let options = ServerOptions { config, data: data.clone(), listen: args.listen, schedules: true };
        let say = |running: &up::Running| {
            // a server outlives whoever reads what it says
            mention!(
                "segue serves http://{}; the admin's token is in {}",
                running.address,
                running.admin_token_file.display()
            );
        };
        up::up(options, host, worker, say, shutdown).await.map_err(Failure::new)?;
        Ok(Exit::Done)
    })
}

pub fn run_worker(args: WorkerArgs) -> Result<Exit, Failure> {
    let mut config = args.config.load()?;
    if let Some(url) = args.broker {
        config.broker = BrokerConfig { url: Some(url), url_file: None, ..config.broker };
    }
    let data = absolute(place::data(args.data)?)?;
    let token = worker_token(args.token_file, &data)?;
    logging::start()?;
    let options = worker_options(&config, args.server, token, &data);
    place::server_runtime()?.block_on(async {
        segue_worker::run(options, until_told()?).await.map_err(Failure::new)?;
        Ok(Exit::Done)
    })
}

/// `--token-file`, else `SEGUE_WORKER_TOKEN`, else the file in the data directory.
fn worker_token(file: Option<PathBuf>, data: &Path) -> Result<secrecy::SecretString, Failure> {
    match (file, std::env::var("SEGUE_WORKER_TOKEN")) {
        (Some(file), _) => read_token(&file),
        (None, Ok(token)) if !token.trim().is_empty() => Ok(token.trim().to_owned().into()),
        (None, _) => read_token(&data.join("worker-token")).map_err(|failure| {
            failure.remedy(
                "make a token with `segue worker token create NAME`, and name its file with --token-file or put it into \
                 SEGUE_WORKER_TOKEN",
            )
        }),
    }
}

/// The worker as a part of `segue up`: it speaks to the server over the loopback, with the API that every worker uses.
pub fn worker_part() -> Part {
    Box::new(|reach: Reach, stop| {
        Box::pin(async move {
            let options = worker_options(&reach.config, reach.server_url, reach.worker_token, &reach.data);
            segue_worker::run(options, stop).await.map_err(|error| error.to_string())
        })
    })
}

/// A worker as the configuration has it, with its directory in `data`.
pub fn worker_options(config: &Config, server: String, token: secrecy::SecretString, data: &Path) -> WorkerOptions {
    let (broker, low_disk_mib) = (config.broker.clone(), config.retention.low_disk_mib);
    let config = &config.worker;
    WorkerOptions {
        broker,
        low_disk_mib,
        name: config.name.clone(),
        labels: config.labels.clone(),
        capacity: config.capacity,
        job_user: config.job_user.clone(),
        kill_grace: config.kill_grace.0,
        shutdown_grace: config.shutdown_grace.0,
        docker: config.docker.clone(),
        chosen_gpus: config.gpus.clone(),
        nvidia_smi: config.nvidia_smi.clone(),
        ..WorkerOptions::new(server, token, data.join("worker"))
    }
}

/// The keeper of this machine's hosts, as a part of `segue up`. Without its own host it is none; one of the others that can't be started
/// is tried again.
pub fn keeper(local: HostOptions, others: Vec<HostOptions>) -> Part {
    Box::new(|_: Reach, stop| {
        Box::pin(async move {
            let others = others.iter().map(|options| host::keep_trying(options, stop.clone()));
            let others = async {
                futures_util::future::join_all(others).await;
                Ok(())
            };
            let local = host::keep_running(&local, stop.clone());
            futures_util::future::try_join(local, others).await.map(drop).map_err(|error| error.to_string())
        })
    })
}

/// The host of this machine, as `hosts.local` describes it.
///
/// # Errors
/// An address is none, or this program can't find itself.
pub fn host_options(config: &Config, data: &Path) -> Result<HostOptions, Failure> {
    let local = config.hosts.get(LOCAL_HOST).cloned().unwrap_or_default();
    let mut options = options_of(LOCAL_HOST, &local, data)?;
    if let (None, Some(socket)) = (&local.docker, &config.worker.docker.socket) {
        options.docker = EngineConfig::at(socket.display().to_string());
    }
    if options.listen.is_empty() {
        options.listen.push(free_or_any(DEFAULT_PROXY));
    }
    Ok(options)
}

/// A host that `segue up` starts, as its part of the configuration describes it.
fn options_of(name: &str, host: &HostConfig, data: &Path) -> Result<HostOptions, Failure> {
    let folder = data.join(host.folder(name));
    let mut options = HostOptions::new(folder).explain("cannot find this program's own path")?;
    options.socket = host.socket_in(name, data);
    options.router = RouterSettings::of(host);
    if let Some(docker) = &host.docker {
        options.docker = docker.clone();
    }
    (options.gpus, options.nvidia_smi, options.dcgm) = (host.gpus.clone(), host.nvidia_smi.clone(), host.dcgm.clone());
    options.nvidia_smi_image.clone_from(&host.nvidia_smi_image);
    let read = |text: &String| {
        text.parse::<SocketAddr>().map_err(|error| Failure::new(format_args!("hosts.{name}.listen `{text}`: {error}")))
    };
    options.listen = host.listen.iter().map(read).collect::<Result<_, _>>()?;
    Ok(options)
}

/// The address, or any port where it is taken: what was not asked for by name must not stand in the way of a start.
fn free_or_any(wanted: SocketAddr) -> SocketAddr {
    match TcpListener::bind(wanted) {
        Ok(_) => wanted,
        Err(_) => SocketAddr::new(wanted.ip(), 0),
    }
}

/// A token that is cancelled by SIGTERM or SIGINT. Said twice, the process ends at once.
///
/// # Errors
/// The system gives no signal handler.
pub fn until_told() -> Result<CancellationToken, Failure> {
    let told = CancellationToken::new();
    let mut term = signal(SignalKind::terminate()).explain("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).explain("cannot listen for SIGINT")?;
    let token = told.clone();
    tokio::spawn(async move {
        either(&mut term, &mut interrupt).await;
        token.cancel();
        tracing::info!("stopping: running steps may finish; once more, and it ends at once");
        either(&mut term, &mut interrupt).await;
        std::process::exit(130);
    });
    Ok(told)
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path).explain(format_args!("{}", path.display()))
}
