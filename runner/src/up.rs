//! A server's life: everything it consists of is started here, and stopped in the order that loses nothing.
//!
//! Comes in: the configuration, a data directory, an address, and (for `segue up`) what starts the worker and keeps the
//! host, as function values, since only the binary knows those. Goes out: a server that is ready. Never here: what any of
//! the parts does, the command line, signals.

use std::{
    fs::{self, File},
    future::Future,
    io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use secrecy::{ExposeSecret as _, SecretString};
use segue_schemas::config::{Config, StorageKind};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, App},
    artifact_store::ArtifactError,
    auth::{self, AuthError, TokenHash, Tokens},
    github::{GitHub, GitHubError, Reconciler, Sweeper, Teller},
    lambda::{Keeper, LambdaError},
    mirror::Mirrors,
    notify::{Notifier, NotifyError},
    planner::Planner,
    queue::{Queue, QueueError},
    scheduler::Scheduler,
    store::{Clock, Store, StoreError, StoreOptions},
    tags::Tagger,
    telemetry::Metrics,
    webhook::Intake,
};

/// How long the worker may take to stop beyond its own grace, before the server goes without it.
const WORKER_SLACK: Duration = Duration::from_secs(30);
/// How long the parts of the server may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The operator's configuration.
    pub config: Config,
    /// The data directory; made where it does not exist.
    pub data: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether `on: schedule` starts pipelines; a server of a person's own run does not want to.
    pub schedules: bool,
}

/// Why a server can't be started.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// Another process has the data directory.
    #[error("{data} is served by another segue already: stop that one, or name another directory with --data", data = .0.display())]
    Taken(PathBuf),
    /// The data directory can't be used.
    #[error("{path} can't be used: {problem}", path = path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system says.
        problem: io::Error,
    },
    /// The address can't be used.
    #[error("{address} can't be listened on ({problem}): is something else there? Name another address with --listen")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        problem: io::Error,
    },
    /// A token or secret can't be read or made.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Contents can't be kept where the configuration says.
    #[error("artifacts and caches can't be kept: {0}")]
    Storage(ArtifactError),
    /// GitHub can't be spoken to as the configuration says.
    #[error(transparent)]
    GitHub(#[from] GitHubError),
    /// Lambda can't be spoken to.
    #[error(transparent)]
    Lambda(#[from] LambdaError),
    /// The message queue can't be used as the configuration says.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Several servers may use the database, and not what it needs beside it.
    #[error(
        "`database` in segue.yaml names a PostgreSQL, which several servers may share, and `storage` a directory of this machine, \
         which they can't: name a bucket (`storage: {{kind: s3, bucket: ..., ...}}`). Logs need none: they lie in the database"
    )]
    NotShared,
    /// A token is not that of the other servers.
    #[error(
        "{file} is not what the other servers of this database have: remove it, and this server takes theirs; to change it \
         everywhere, stop all servers, DELETE FROM shared WHERE name = '{name}', and start this one first", file = file.display()
    )]
    OtherToken {
        /// Where this server has its own.
        file: PathBuf,
        /// What it is.
        name: &'static str,
    },
    /// Nobody can be told anything.
    #[error(transparent)]
    Notify(#[from] NotifyError),
    /// A part that has to live ended.
    #[error("the {part} ended by itself: {reason}")]
    Ended {
        /// Which.
        part: &'static str,
        /// Why.
        reason: String,
    },
}

/// What a worker or a host's keeper in the same process needs to know of the server.
#[derive(Clone)]
pub struct Reach {
    /// The server's address, `http://HOST:PORT`.
    pub server_url: String,
    /// Opens the worker's API.
    pub worker_token: SecretString,
    /// The data directory.
    pub data: PathBuf,
    /// The operator's configuration.
    pub config: Arc<Config>,
    /// Starts runs without a webhook.
    pub planner: Arc<Planner>,
}

/// A part of the process that lives beside the server: runs until the token is cancelled, then ends in order.
pub type Part = Box<dyn FnOnce(Reach, CancellationToken) -> PartFuture + Send>;

/// What a [`Part`] is while it lives.
pub type PartFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// A server that is ready.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// The file that holds the admin token.
    pub admin_token_file: PathBuf,
    /// How it is reached from this process.
    pub reach: Reach,
    stopping: CancellationToken,
    tasks: JoinSet<()>,
    _lock: Flock<File>,
}

impl Running {
    /// Stops: long polls and streams end, open requests are answered, then nobody is served any more.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_LIMIT, all).await.is_err() {
            tracing::warn!("parts of the server were still busy when it stopped");
        }
    }
}

/// Starts a server. It is ready when this returns.
///
/// # Errors
/// [`UpError`]; nothing is left running.
pub async fn serve(options: ServerOptions) -> Result<Running, UpError> {
    let ServerOptions { config, data, listen, schedules } = options;
    let config = Arc::new(config);
    make_data(&data)?;
    let lock = lock(&data)?;
    // before anything else is started: the most likely thing to be wrong
    let listener = TcpListener::bind(listen).await.map_err(|problem| UpError::Listen { address: listen, problem })?;
    let address = listener.local_addr().map_err(|problem| UpError::Listen { address: listen, problem })?;
    check_shared(&config)?;
    let github = GitHub::open(&config.github)?;
    let store =
        Store::open(StoreOptions { data: data.clone(), config: config.clone(), clock: Clock::system() }).await?;
    check_storage(&store).await?;
    let (keys, admin_token_file) = Keys::open(&config, &data, &store).await?;
    let metrics = Arc::new(Metrics::default());
    let mirrors = Arc::new(Mirrors::new(data.join("mirrors")));
    let deliveries = data.join("deliveries");
    let intake = Intake::open(store.clone(), keys.webhook, deliveries.clone(), config.clone(), metrics.clone())
        .map_err(|problem| UpError::Directory { path: deliveries, problem })?;
    let scheduler = Arc::new(Scheduler::new(store.clone(), mirrors.clone()));
    let planner = Arc::new(Planner::new(store.clone(), mirrors.clone(), metrics.clone(), scheduler.clone()));
    let notifier = Notifier::new(store.clone(), metrics.clone())?;
    let keeper = Keeper::new(store.clone())?;
    let tagger = Tagger::new(store.clone(), mirrors.clone());
    let stopping = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let queue = Queue::start(&config.broker, &store, &mut tasks, &stopping)?;
    let (queue, rung) = queue.map_or((None, None), |(queue, rung)| (Some(queue), Some(rung)));
    let app = Arc::new(App {
        started_at: store.now(),
        store: store.clone(),
        mirrors,
        planner: planner.clone(),
        intake: Arc::new(intake),
        tokens: keys.tokens,
        config: config.clone(),
        metrics,
        queue,
        data: data.clone(),
        stopping: stopping.clone(),
    });
    tasks.spawn(planner.clone().run(rung, stopping.clone()));
    if schedules {
        tasks.spawn(scheduler.run(stopping.clone()));
    }
    tasks.spawn(notifier.run(stopping.clone()));
    if let Some(github) = github {
        // a token can't ask for the deliveries of an App's webhook
        if github.is_app() {
            tasks.spawn(Sweeper::new(store.clone(), github.clone()).run(stopping.clone()));
        }
        tasks.spawn(Reconciler::new(store.clone(), github.clone()).run(stopping.clone()));
        tasks.spawn(Teller::new(store.clone(), github).run(stopping.clone()));
    }
    // also where nobody may rent any more: what was rented goes all the same
    tasks.spawn(keeper.run(stopping.clone()));
    tasks.spawn(tagger.run(stopping.clone()));
    tasks.spawn(keep_house(store.clone(), stopping.clone()));
    tasks.spawn(api::serve::serve(listener, api::router(app), stopping.clone()));
    let server_url = format!("http://{}", reachable(address));
    let reach = Reach { server_url, worker_token: keys.worker, data, config, planner };
    Ok(Running { address, admin_token_file, reach, stopping, tasks, _lock: lock })
}

/// A server with what lives beside it, until `shutdown`: `segue up` (with a host's keeper and a worker) and `segue server`
/// (without). `on_ready` hears when everything is there.
///
/// On shutdown the worker goes first: it takes nothing new, ends or hands back what it has, all of which the server still
/// records. Then the server stops, HTTP last.
///
/// # Errors
/// [`UpError`]; also when a part ends before it was asked to.
pub async fn up(
    options: ServerOptions,
    host: Option<Part>,
    worker: Option<Part>,
    on_ready: impl FnOnce(&Running) + Send,
    shutdown: CancellationToken,
) -> Result<(), UpError> {
    let running = serve(options).await?;
    let grace = running.reach.config.worker.shutdown_grace.0 + WORKER_SLACK;
    let mut host = Living::start("host's keeper", host, &running.reach);
    let mut worker = Living::start("worker", worker, &running.reach);
    on_ready(&running);
    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        error = worker.ended() => Err(error),
        error = host.ended() => Err(error),
    };
    worker.stop(grace).await;
    host.stop(STOP_LIMIT).await;
    running.stop().await;
    ended
}

/// A part while it lives.
struct Living {
    name: &'static str,
    task: Option<tokio::task::JoinHandle<Result<(), String>>>,
    stop: CancellationToken,
}

impl Living {
    fn start(name: &'static str, part: Option<Part>, reach: &Reach) -> Self {
        let stop = CancellationToken::new();
        let task = part.map(|part| tokio::spawn(part(reach.clone(), stop.clone())));
        Self { name, task, stop }
    }

    /// Returns when it has ended by itself.
    async fn ended(&mut self) -> UpError {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let reason = match task.await {
            Ok(Ok(())) => "without a reason".into(),
            Ok(Err(reason)) => reason,
            Err(error) => error.to_string(),
        };
        self.task = None;
        UpError::Ended { part: self.name, reason }
    }

    async fn stop(self, limit: Duration) {
        let Some(mut task) = self.task else { return };
        self.stop.cancel();
        match tokio::time::timeout(limit, &mut task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(reason))) => tracing::warn!(part = self.name, reason, "a part did not end in order"),
            Ok(Err(error)) => tracing::warn!(part = self.name, %error, "a part did not end in order"),
            Err(_) => {
                tracing::warn!(part = self.name, seconds = limit.as_secs(), "a part did not end in time");
                task.abort();
            }
        }
    }
}

/// The tokens and the webhook's secret.
struct Keys {
    tokens: Tokens,
    worker: SecretString,
    webhook: SecretString,
}

impl Keys {
    async fn open(config: &Config, data: &Path, store: &Store) -> Result<(Self, PathBuf), UpError> {
        let admin_file = data.join("admin-token");
        let admin = common(store, "admin-token", &admin_file, true).await?;
        let worker = common(store, "worker-token", &data.join("worker-token"), true).await?;
        let webhook = match &config.github.webhook_secret_file {
            Some(file) => common(store, "webhook-secret", file, false).await?,
            None => common(store, "webhook-secret", &data.join("webhook-secret"), true).await?,
        };
        let tokens =
            Tokens { admin: TokenHash::of(admin.expose_secret()), worker: TokenHash::of(worker.expose_secret()) };
        Ok((Self { tokens, worker, webhook }, admin_file))
    }
}

/// A token that all servers of a database have: that of the file, or where there is none, that of the others. `make`: the first
/// of them makes it.
async fn common(store: &Store, name: &'static str, file: &Path, make: bool) -> Result<SecretString, UpError> {
    let read = || if make { auth::read_or_make(file) } else { auth::read(file) };
    if store.server().is_none() {
        return Ok(read()?);
    }
    let is_new = make && !file.exists();
    let theirs = match store.common_secret(name).await? {
        Some(theirs) => theirs,
        None => store.tell_common_secret(name, &read()?).await?,
    };
    if is_new {
        // also where two servers begin at once, and the other one was first
        auth::replace(file, &theirs)?;
    }
    if auth::read(file)?.expose_secret() != theirs.expose_secret() {
        return Err(UpError::OtherToken { file: file.into(), name });
    }
    Ok(theirs)
}

/// Whether what servers share is where all of them reach it.
fn check_shared(config: &Config) -> Result<(), UpError> {
    match config.storage.kind {
        StorageKind::Directory if config.database.is_shared() => Err(UpError::NotShared),
        _ => Ok(()),
    }
}

/// Looks after what time does: leases that run out, and what has grown too old or too large.
async fn keep_house(store: Store, stop: CancellationToken) {
    tokio::select! {
        () = store.run_reaper() => {}
        () = store.run_retention() => {}
        () = store.run_heard() => {}
        () = stop.cancelled() => {}
    }
}

/// What stays wrong until somebody changes something is found before anything starts. What may be over in a moment keeps no
/// delivery from being taken: what needs a content meanwhile fails, and says so.
async fn check_storage(store: &Store) -> Result<(), UpError> {
    match store.artifacts().check(store.identity().await?.as_deref()).await {
        Err(ArtifactError::Bucket { trouble, action, place }) if !trouble.is_lasting() => {
            let error = ArtifactError::Bucket { trouble, action, place };
            tracing::error!(%error, "artifacts and caches can't be kept now; started all the same");
            Ok(())
        }
        checked => checked.map_err(UpError::Storage),
    }
}

/// Users of jobs pass through the directory to their workspaces, and list nothing.
fn make_data(data: &Path) -> Result<(), UpError> {
    let problem = |problem| UpError::Directory { path: data.into(), problem };
    fs::DirBuilder::new().recursive(true).mode(0o711).create(data).map_err(problem)
}

/// Makes a data directory one process's own: held as long as that lives; the system gives it back however it ends.
///
/// # Errors
/// [`UpError::Taken`] where another process has it, [`UpError::Directory`] where it can't be used.
pub fn lock(data: &Path) -> Result<Flock<File>, UpError> {
    let path = data.join("lock");
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|problem| UpError::Directory { path, problem })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| UpError::Taken(data.into()))
}

/// The address under which this machine reaches it: what listens everywhere is reached on the loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback =
            if address.is_ipv4() { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    address
}
