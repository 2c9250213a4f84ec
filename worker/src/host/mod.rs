//! `segue host`: the one process per machine that owns what lives long.
//!
//! Comes in: the calls of [`segue_schemas::host_api`] over a unix socket and, where it joined a server from another machine, over TLS. Goes out: running services, the routes that the proxy
//! carries, and the observations that it makes. Never here: decisions about a rollout; a host does what the holder of the highest
//! epoch says, and goes back by itself when that holder is no longer heard.
//!
//! A service runs as a process of an unpacked release, or as a container of the machine's engine, made from an image that is named by
//! its digest ([`running`]): whoever looks after instances knows no difference.
//!
//! Services and the proxy do not die with the host. A host that is started again finds them by what it recorded ([`state`]);
//! after a reboot it brings back what has traffic or is fallen back to. TERM and INT end the host alone; the `shutdown` call
//! ends what it carries as well.
//!
//! | in the data folder | what |
//! | --- | --- |
//! | `state.json` | what is recorded |
//! | `joined.json` | the key and the certificate of a host that joined a server from another machine |
//! | `engine-name` | by what it is known at an engine on another machine |
//! | `lock` | held by the host, so that there are never two |
//! | `releases/<digest>/` | unpacked releases, in which services run |
//! | `data/<environment>/<service>/` | what services keep beside their releases |
//! | `backups/<environment>/<service>/` | backups of what services keep; `backups/.taking/` while they are taken |
//! | `output/<instance>.log` | what services print, at most 16 MiB each; `proxy.log` and the host's own `host.log` |
//! | `proxy-<n>.sock`, `routes.json` | the proxy's control socket, the routes that it starts with |

mod api;
mod backups;
pub mod channel;
pub mod client;
pub(crate) mod clock;
mod container;
mod containers;
mod data;
mod drift;
mod engine;
mod ensure;
mod gpu_looker;
mod gpu_watch;
mod gpu_within;
mod gpus;
mod identity;
mod instances;
mod keep;
mod link;
mod naps;
mod news;
mod output;
pub(crate) mod process;
pub(crate) mod proxy_child;
mod recover;
mod releases;
mod remove;
mod routes;
mod running;
pub(crate) mod state;
mod timers;
mod tls;
pub mod unix_http;
mod volumes;

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use segue_schemas::{
    engine::EngineConfig,
    host_api::{HostError, HostErrorCode},
    id::InstanceId,
    router::RouterSettings,
};
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
    sync::{Notify, watch},
};

pub use ensure::{EnsureError, Ensured, ensure_running};
use gpu_looker::Looker;
use gpu_watch::GpuWatch;
use gpus::Gpus;
pub use identity::{Identity, IdentityError};
pub use keep::{keep_running, keep_trying};
use link::Link;
pub use link::{Join, JoinError, join};
use news::News;
use releases::Releases;
use state::{RouteRecord, Store};

use crate::{
    engine::docker::Docker,
    gpu::{Program, Tool},
    router::{self, Router},
};

/// Where an engine for containers mostly is.
pub const DEFAULT_DOCKER: &str = "/var/run/docker.sock";

/// How a host is to run.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Its data folder.
    pub data: PathBuf,
    /// The unix socket of its API; its path has at most 107 bytes.
    pub socket: PathBuf,
    /// The addresses that its router listens on. Port 0 takes a free port of the embedded one, which is kept over restarts.
    pub listen: Vec<SocketAddr>,
    /// What carries its traffic.
    pub router: RouterSettings,
    /// The `segue` program, which is started again as `PROGRAM proxy` (and, by [`ensure_running`], as `PROGRAM host`).
    pub program: PathBuf,
    /// What tells one boot of the machine from another: `/proc/sys/kernel/random/boot_id`. In a container whose restarts
    /// that does not show, a file that is made anew at each start.
    pub boot_id: PathBuf,
    /// How long requests may go on when a proxy is ended or replaced.
    pub proxy_drain: Duration,
    /// The engine that runs its containers. Nothing is connected before there is one to run.
    pub docker: EngineConfig,
    /// The GPUs that it offers to services: `all`, or some by UUID; none: none.
    pub gpus: Vec<String>,
    /// The program that tells of them; `None`: `nvidia-smi` on the `PATH`.
    pub nvidia_smi: Option<PathBuf>,
    /// Of an engine on another machine: the image of containers in which it is run there.
    pub nvidia_smi_image: Option<String>,
    /// The metrics of a dcgm-exporter, which tells more of them; `None`: there is none.
    pub dcgm: Option<String>,
    /// The kernel's log, where the driver reports faults of GPUs: `/dev/kmsg`.
    pub kernel_log: PathBuf,
}

impl HostOptions {
    /// A host with its data in `data` and the API at `data/host.sock`, run by this very program.
    ///
    /// # Errors
    /// This program's own path can't be found out.
    pub fn new(data: impl Into<PathBuf>) -> io::Result<Self> {
        let data = std::path::absolute(data.into())?;
        Ok(Self {
            socket: data.join("host.sock"),
            data,
            listen: Vec::new(),
            router: RouterSettings::Embedded,
            program: std::env::current_exe()?,
            boot_id: "/proc/sys/kernel/random/boot_id".into(),
            proxy_drain: Duration::from_secs(30),
            docker: EngineConfig::at(DEFAULT_DOCKER),
            gpus: Vec::new(),
            nvidia_smi: None,
            nvidia_smi_image: None,
            dcgm: None,
            kernel_log: "/dev/kmsg".into(),
        })
    }
}

/// Why a host can't run.
#[derive(Debug, thiserror::Error)]
pub enum HostRunError {
    /// There is one already.
    #[error("another `segue host` has its data in {0}; stop it first, or choose another folder")]
    Taken(PathBuf),
    /// The record can't be read.
    #[error("{path} can't be read: {source}; restore it from a backup, or move it away to begin anew")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// An address is taken.
    #[error("can't listen on {address}: {source}; choose another address, or stop what has this one")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The router can't be used as it is named.
    #[error("the router: {0}")]
    Router(String),
    /// The engine can't be used as it is named.
    #[error("the container engine: {0}")]
    Engine(String),
    /// A file or socket of its own can't be made.
    #[error("{path}: {source}")]
    File {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What it joined its server with can't be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The record can't be written.
    #[error(transparent)]
    Record(#[from] HostError),
    /// The system refuses a thread or a signal handler.
    #[error("the host can't be started: {0}")]
    System(#[from] io::Error),
}

/// The host.
#[derive(Debug)]
pub(crate) struct Host {
    options: HostOptions,
    store: Arc<Store>,
    releases: Releases,
    output: PathBuf,
    router: Arc<dyn Router>,
    /// The link to the server of a host that joined from another machine.
    link: Option<Arc<Link>>,
    /// The engine that runs its containers.
    docker: Arc<Docker>,
    /// By what it is to be known at an engine that knows nothing of it yet.
    engine_owner: String,
    /// What tells of GPUs.
    gpu_tool: Arc<dyn Tool>,
    /// That, where it is at the engine.
    looker: Option<Arc<Looker>>,
    /// What is known of the GPUs that it offers.
    gpus: Gpus,
    /// How these are.
    gpu_watch: GpuWatch,
    /// Somebody has reason to think that a container has lost some, or there is a new container that has some.
    gpus_within_wanted: Notify,
    /// Something may be left at the engine.
    sweep_wanted: Notify,
    /// Held while a piece of a backup is written that comes from elsewhere.
    importing: tokio::sync::Mutex<()>,
    /// All of one is there.
    arrived: Notify,
    /// Held while a change of routes is recorded and carried, or taken back.
    carrying: tokio::sync::Mutex<()>,
    /// What a route was before the change of it that is under way.
    pending: Mutex<Option<RouteRecord>>,
    /// Instances whose retirement goes on now.
    retiring: Mutex<HashSet<InstanceId>>,
    /// That something is new here.
    news: News,
    /// Set to end every service and start none any more.
    closing: watch::Sender<bool>,
    /// Set to end the host process.
    ending: watch::Sender<bool>,
}

/// Runs a host until TERM, INT or a `shutdown` call, on a small runtime made for it: one thread, and few for the disk.
///
/// # Errors
/// It can't start. What happens later is logged and does not end it.
pub fn run_blocking(options: HostOptions) -> Result<(), HostRunError> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().max_blocking_threads(4).thread_keep_alive(Duration::from_secs(1));
    runtime.build()?.block_on(run(options))
}

/// The same on the runtime of the caller.
///
/// # Errors
/// As [`run_blocking`].
pub async fn run(options: HostOptions) -> Result<(), HostRunError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| HostRunError::File { path, source }
    };
    let options = HostOptions { data: std::path::absolute(&options.data)?, ..options };
    make_private_folder(&options.data).map_err(file(&options.data))?;
    let _lock = lock(&options.data)?;
    let state = options.data.join("state.json");
    let store = Store::open(state.clone()).map_err(|source| HostRunError::State { path: state, source })?;
    let store = Arc::new(store);
    let output = options.data.join("output");
    make_private_folder(&output).map_err(file(&output))?;
    let unpacked = options.data.join("releases");
    let releases = Releases::open(unpacked.clone()).map_err(file(&unpacked))?;
    let (link, workers) = joined(&options.data).await?;
    let router = router::open(&options, store.clone()).await?;
    let (closing, ending) = (watch::Sender::new(false), watch::Sender::new(false));
    let retiring = Mutex::default();
    let docker = Docker::at(&options.docker, &options.data).map_err(HostRunError::Engine)?;
    let engine_owner = containers::owner(&docker, &options.data).map_err(file(&options.data))?;
    let met = engine::met(&store, &engine_owner, docker.address(), options.docker.anew.as_deref());
    let docker = Arc::new(docker.introduced_to(met));
    let looker = options.nvidia_smi_image.clone().filter(|_| docker.is_elsewhere());
    let looker = looker.map(|image| Arc::new(Looker::new(docker.clone(), store.clone(), engine_owner.clone(), image)));
    let gpu_tool: Arc<dyn Tool> = match &looker {
        Some(looker) => looker.clone(),
        None => Arc::new(Program::at(options.nvidia_smi.as_deref())),
    };
    let sweep_wanted = Notify::new();
    let host = Arc::new(Host {
        options,
        store,
        releases,
        output,
        router,
        link,
        docker,
        engine_owner,
        gpu_tool,
        looker,
        gpus: Gpus::default(),
        gpu_watch: GpuWatch::default(),
        gpus_within_wanted: Notify::new(),
        sweep_wanted,
        importing: tokio::sync::Mutex::default(),
        arrived: Notify::new(),
        carrying: tokio::sync::Mutex::default(),
        pending: Mutex::default(),
        retiring,
        news: News::new(),
        closing,
        ending,
    });

    let listener = bind_api(&host.options.socket).map_err(file(&host.options.socket))?;
    let boot_id = clock::boot_id(&host.options.boot_id).map_err(file(&host.options.boot_id))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    host.clear_left_data().await;
    host.clear_left_backups().await?;
    let awaited = host.recover(boot_id).await?;
    let well = host.clone();
    let ready = Box::pin(async move { well.wait_for_serving(awaited).await });
    tokio::spawn(host.router.clone().run(ready));
    tokio::spawn(host.clone().keep_time());
    if host.router.can_hold() {
        tokio::spawn(host.clone().send_to_sleep());
        tokio::spawn(host.clone().wake_on_request());
    } else {
        host.wake_all().await?;
    }
    tokio::spawn(host.clone().tell_of_trouble());
    tokio::spawn(host.clone().keep_swept());
    tokio::spawn(host.clone().watch_gpus());
    tokio::spawn(host.clone().watch_gpus_within());
    tokio::spawn(host.clone().watch_for_drift());
    host.sweep_wanted.notify_one();
    let bounds = output::keep_in_bounds(host.output.clone(), output::MAX_BYTES);
    tokio::spawn(async move {
        if let Err(error) = bounds.await {
            tracing::error!(%error, "the output of services is no longer kept in bounds");
        }
    });
    let api = host.clone();
    tokio::spawn(unix_http::serve(listener, move |call| api.clone().answer(call)));
    if let (Some(link), Some(workers)) = (host.link.clone(), workers) {
        let api = host.clone();
        tokio::spawn(tls::serve(workers, link.membership(), move |call| api.clone().answer_worker(call)));
        tokio::spawn(host.clone().tell_server(link.clone()));
        tokio::spawn(async move { link.renew().await });
    }
    ensure::notify_ready();
    tracing::info!(data = %host.options.data.display(), listen = ?host.router.addresses(), "the host is ready");

    let mut ending = host.ending.subscribe();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = ending.wait_for(|end| *end) => {
            // The answer to the call that asked for it is on its way.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    tracing::info!("the host ends");
    Ok(())
}

/// The link of a host that joined a server from another machine, and where its workers reach it.
async fn joined(data: &Path) -> Result<(Option<Arc<Link>>, Option<TcpListener>), HostRunError> {
    let Some(identity) = Identity::open(data)? else { return Ok((None, None)) };
    let address = identity.listen();
    let workers = tls::bind(address).await.map_err(|source| HostRunError::Listen { address, source })?;
    let link = Link::new(identity).map_err(IdentityError::Unusable)?;
    Ok((Some(Arc::new(link)), Some(workers)))
}

/// One host per data folder: the lock goes with the process, however that ends.
fn lock(data: &Path) -> Result<Flock<std::fs::File>, HostRunError> {
    let path = data.join("lock");
    let failed = |source| HostRunError::File { path: path.clone(), source };
    let open = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    Flock::lock(open, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => HostRunError::Taken(data.to_owned()),
        other => failed(other.into()),
    })
}

fn make_private_folder(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The API's socket, for this user alone. One that is left from before is replaced: whoever gets here holds the lock.
fn bind_api(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// An error of the API.
pub(crate) fn refusal(code: HostErrorCode, message: String) -> HostError {
    HostError { code, message, epoch: None }
}
