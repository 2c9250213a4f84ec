//! A worker: registers, claims jobs into its slots and rollouts beside them, and drains when it is to stop.

mod kept;
pub(crate) mod room;

use std::{
    fs,
    io::Write,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use rand::Rng;
use segue_schemas::{
    id::WorkerId,
    worker_api::{JobClaim, Registered},
};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    checkout::mirror::Mirrors,
    control_plane::{ControlPlane, ControlPlaneError},
    deploy::{
        self,
        server::{HttpServer, RolloutServer},
        tell,
    },
    engine::{
        Engine,
        docker::Docker,
        shell::Shell,
        user::{self, JobUsers},
    },
    gpu,
    job::{JobRunner, LeasedJob, StepError, end_leftovers, present::Present, spares::Spares, users::Users},
    options::WorkerOptions,
    queue::{Broker, PoolBell, Queue, QueueError},
    supervisor::{boot_time, client::SupervisorError},
    worker::room::Room,
};

/// How long a claim is held open by the server.
const CLAIM_WAIT: Duration = Duration::from_secs(25);
/// Pauses after a claim that failed grow from the first to the second of these.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long what a job left for going on later is kept.
const KEEP_STATE: Duration = Duration::from_secs(3 * 86_400);
/// Between two sweeps of what jobs left.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// After its grace, how long a stopping worker waits for its jobs to be handed back.
const HAND_BACK_LIMIT: Duration = Duration::from_secs(20);

/// Why a worker can't work.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The server refuses it for good.
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
    /// The step supervisor could not be started.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    /// The user for jobs is missing.
    #[error(transparent)]
    User(#[from] user::NoJobUser),
    /// A directory of the worker's could not be used.
    #[error("the worker's directory: {0}")]
    Directory(String),
    /// The message queue can't be used as the configuration says.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The worker's name can't be one.
    #[error("the worker's name: {0}")]
    Name(#[from] segue_schemas::id::InvalidId),
}

/// Works until `shutdown`: then no more is claimed, running steps may end within the grace, and what is left is handed
/// back. A server that is away is waited for.
///
/// # Errors
/// [`WorkerError`], only before the first claim.
pub async fn run(mut options: WorkerOptions, shutdown: CancellationToken) -> Result<(), WorkerError> {
    options.gpus = gpu::offer(&options.chosen_gpus, options.nvidia_smi.as_ref()).await;
    let options = Arc::new(options);
    let users = if options.as_own_user {
        JobUsers { shared: user::own(), own: Vec::new() }
    } else {
        user::job_users(options.job_user.as_deref())?
    };
    let engine: Arc<dyn Engine> = Arc::new(Shell::start(options.supervisor_command.clone()).await?);
    run_with(options, users, engine, shutdown).await
}

/// [`run`], with the engine and the users given.
pub(crate) async fn run_with(
    options: Arc<WorkerOptions>,
    users: JobUsers,
    engine: Arc<dyn Engine>,
    shutdown: CancellationToken,
) -> Result<(), WorkerError> {
    fs::create_dir_all(&options.data_dir).map_err(|e| directory(&options.data_dir, &e))?;
    let _one_worker = lock(&options.data_dir)?;
    let worker = name(&options)?;
    let broker = Broker::read(&options.broker)?;
    let control_plane = ControlPlane::new(&options.server_url, options.token.clone(), worker)?;
    let users = Users::new(users);
    end_leftovers(&options, &users);
    let Some(registered) = register(&control_plane, &options, &shutdown).await? else { return Ok(()) };
    let runner = Arc::new(JobRunner {
        mirrors: Mirrors::at(options.data_dir.join("mirrors")),
        spares: Spares::default(),
        present: Present::default(),
        room: Room::of(options.low_disk_mib),
        stopping: CancellationToken::new(),
        stop_now: CancellationToken::new(),
        put_aside: Notify::new(),
        queue: bells(broker.as_ref(), control_plane.worker(), &registered, &shutdown),
        control_plane: control_plane.clone(),
        options: options.clone(),
        registered: registered.clone(),
        engine,
        docker: Docker::of(&options.docker, &options.data_dir),
        users,
    });
    runner.make_directories().map_err(|error: StepError| WorkerError::Directory(error.to_string()))?;
    runner.sweep(KEEP_STATE);
    runner.keep_users();
    runner.sweep_containers();
    tracing::info!(
        worker = %control_plane.worker(), server = options.server_url, user = runner.users.shared().name, own_users = runner.users.own(),
        slots = options.capacity,
        "the worker is ready"
    );
    let server: Arc<dyn RolloutServer> = Arc::new(HttpServer { control_plane, labels: options.labels.clone() });
    let ended = tell::Ended::default();
    let mut telling = tell::watch_hosts(&server, &registered.hosts, &ended, &shutdown);
    let (driving, stop) = (deploy_options(&registered), shutdown.clone());
    let rollouts = tokio::spawn(async move {
        telling.first_word().await;
        deploy::run_rollouts(server, driving, ended, stop).await;
        telling.ended().await;
    });
    work(&runner, &shutdown).await;
    let _ = rollouts.await;
    Ok(())
}

/// Claims and runs jobs, then drains.
async fn work(runner: &Arc<JobRunner>, shutdown: &CancellationToken) {
    let capacity = usize::try_from(runner.options.capacity.max(1)).unwrap_or(1);
    let slots = Arc::new(Semaphore::new(capacity));
    let mut jobs = JoinSet::new();
    // One loop a slot, so that a freed slot asks at once and a claim that is held open never stands for two.
    for _ in 0..capacity {
        let (runner, slots, shutdown) = (runner.clone(), slots.clone(), shutdown.clone());
        jobs.spawn(async move {
            let _slot = slots.acquire_owned().await;
            slot(&runner, &shutdown).await;
        });
    }
    let forgetter = tokio::spawn({
        let runner = runner.clone();
        async move { kept::forget_what_ended(&runner).await }
    });
    let sweeper = tokio::spawn({
        let runner = runner.clone();
        async move {
            loop {
                sleep(SWEEP_EVERY).await;
                let runner = runner.clone();
                let _ = tokio::task::spawn_blocking(move || runner.sweep_states(KEEP_STATE)).await;
            }
        }
    });
    shutdown.cancelled().await;
    sweeper.abort();
    forgetter.abort();
    runner.stopping.cancel();
    let all = async { while jobs.join_next().await.is_some() {} };
    tokio::pin!(all);
    if tokio::time::timeout(runner.options.shutdown_grace, &mut all).await.is_err() {
        tracing::info!("the grace for running steps is over; what is left is handed back");
        runner.stop_now.cancel();
        let limit = runner.options.kill_grace + HAND_BACK_LIMIT;
        if tokio::time::timeout(limit, &mut all).await.is_err() {
            tracing::warn!("some jobs could not be handed back; their leases run out by themselves");
        }
    }
}

/// Listens for bells, where there is a broker and the server rings there.
fn bells(
    broker: Option<&Broker>,
    worker: &WorkerId,
    registered: &Registered,
    shutdown: &CancellationToken,
) -> Option<Arc<Queue>> {
    match (broker, &registered.pool) {
        (Some(broker), Some(pool)) => Some(broker.listen(worker, pool, shutdown)),
        (Some(_), None) => {
            tracing::warn!(
                "the server has no broker, so this worker's `broker` is not used; the server holds claims open"
            );
            None
        }
        (None, _) => None,
    }
}

/// One slot: asks for a job and runs it, and waits where there is none: by a claim that the server holds open, or for a bell.
async fn slot(runner: &JobRunner, shutdown: &CancellationToken) {
    let mut pause = PAUSES.0;
    let (mut place, mut bell) = (None, None);
    let mut next = None;
    loop {
        let directory = &runner.options.data_dir;
        if next.is_none() && !runner.room.is_there(directory) {
            // bells are for others
            (place, bell) = (None, None);
            runner.room.wait(directory, shutdown).await;
        }
        let claimed = match next.take() {
            Some(next) => Ok(Some(next)),
            None => match claim(runner, shutdown).await {
                Some(claimed) => claimed,
                None => return,
            },
        };
        if let Some(bell) = bell.take() {
            PoolBell::answer(bell);
        }
        match claimed {
            Ok(Some(leased)) => {
                pause = PAUSES.0;
                place = None;
                if let Some(queue) = &runner.queue {
                    queue.found();
                }
                // a claim that was held open may have outlasted the room for it
                if leased.claim.resume.is_some() || runner.room.is_there(directory) {
                    next = runner.run(leased).await;
                } else {
                    runner.decline(&leased.claim).await;
                }
            }
            Ok(None) => {
                pause = PAUSES.0;
                if let Some(queue) = &runner.queue {
                    if runner.control_plane.is_draining() {
                        // bells are for others; what goes on here alone comes by a claim that is held open
                        place = None;
                        continue;
                    }
                    let place = place.get_or_insert_with(|| queue.place());
                    tokio::select! {
                        rung = place.wait() => bell = rung,
                        () = shutdown.cancelled() => return,
                    }
                }
            }
            Err(error) => {
                if error.refusal() == Some(STALE_WORKER) {
                    tracing::warn!(%error, "the server does not know this worker any more; registering again");
                    let options = &runner.options;
                    if let Err(error) = runner.control_plane.register(options).await {
                        tracing::warn!(%error, "the worker could not register again; tried again after a pause");
                    }
                } else if matches!(error, ControlPlaneError::Unauthorized { .. }) {
                    tracing::error!(%error, "the server does not take this worker");
                } else {
                    tracing::debug!(%error, "no job could be claimed");
                }
                let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = sleep(jittered) => {}
                }
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

/// The server's word for a worker that must register.
const STALE_WORKER: &str = "stale_worker";

type Claimed = Result<Option<LeasedJob>, ControlPlaneError>;

/// One claim; `None` when the worker stops. A job that was leased by an answer that is not heard any more is given to
/// somebody else when its lease has run out, or when this worker registers again.
async fn claim(runner: &JobRunner, shutdown: &CancellationToken) -> Option<Claimed> {
    if shutdown.is_cancelled() {
        return None;
    }
    let sent_at = boot_time();
    // counted from when the server may have made the lease: an answer may lie about for long before it is heard
    let began = |claim: &JobClaim| claim.held_ms.map_or_else(boot_time, |held| sent_at + Duration::from_millis(held));
    let is_rung = runner.queue.is_some() && !runner.control_plane.is_draining();
    let wait = if is_rung { Duration::ZERO } else { CLAIM_WAIT };
    let offered = runner.options.offered();
    let asked = runner.control_plane.claim_job(&offered, wait);
    tokio::select! {
        biased;
        claimed = asked => Some(claimed.map(|claim| {
            claim.map(|claim| {
                let at = began(&claim);
                LeasedJob { claim, at }
            })
        })),
        () = shutdown.cancelled() => None,
    }
}

/// Registers, however long the server is away; `None` when the worker is to stop before.
async fn register(
    control_plane: &ControlPlane,
    options: &WorkerOptions,
    shutdown: &CancellationToken,
) -> Result<Option<Registered>, WorkerError> {
    let mut pause = PAUSES.0;
    let mut said = false;
    loop {
        match control_plane.register(options).await {
            Ok(registered) => return Ok(Some(registered)),
            Err(error) if error.is_unreachable() => {
                if !said {
                    tracing::warn!(%error, "waiting for the server");
                    said = true;
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = sleep(pause) => pause = (pause * 2).min(PAUSES.1),
        }
    }
}

fn deploy_options(registered: &Registered) -> deploy::Options {
    let absent_limit = Duration::from_millis(registered.absent_host_ms);
    let default = deploy::Timing::default();
    let timing = deploy::Timing {
        lease: Duration::from_millis(registered.lease_ms),
        renew: Duration::from_millis(registered.renew_ms),
        host_patience: default.host_patience.min(absent_limit),
        absent_limit,
        ..default
    };
    deploy::Options { timing, ..deploy::Options::default() }
}

/// The name is kept in the data directory, so that the server knows the worker again after a restart.
fn name(options: &WorkerOptions) -> Result<WorkerId, WorkerError> {
    let path = options.data_dir.join("name");
    if let Some(name) = &options.name {
        return Ok(name.parse()?);
    }
    if let Ok(kept) = fs::read_to_string(&path)
        && let Ok(name) = kept.trim().parse()
    {
        return Ok(name);
    }
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    let suffix: u32 = rand::rng().random();
    let name: WorkerId =
        format!("{}-{suffix:08x}", if host.is_empty() { "worker" } else { host.trim_start_matches('-') }).parse()?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&path)
        .map_err(|e| directory(&path, &e))?;
    file.write_all(name.as_str().as_bytes()).and_then(|()| file.sync_all()).map_err(|e| directory(&path, &e))?;
    Ok(name)
}

/// Two workers in one directory would sweep each other's workspaces away.
fn lock(data_dir: &Path) -> Result<Flock<OwnedFd>, WorkerError> {
    let file = fs::File::open(data_dir).map_err(|e| directory(data_dir, &e))?;
    Flock::lock(OwnedFd::from(file), FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        WorkerError::Directory(format!(
            "{} is in use by another worker ({}); give each its own",
            data_dir.display(),
            errno.desc()
        ))
    })
}

fn directory(path: &Path, error: &std::io::Error) -> WorkerError {
    WorkerError::Directory(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
