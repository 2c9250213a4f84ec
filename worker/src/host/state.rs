//! What the host must not forget, in one file that is replaced as a whole: every change is on disk before it is made.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use indexmap::IndexMap;
use segue_schemas::{
    assignment::Assignment,
    deploy::{DataSpec, Health, Release, RouteRule},
    gpu::GpuNeed,
    host_api::{
        ContainerRun, Fence, HostError, HostErrorCode, Instance, InstanceState, Restored, RouteState, StartInstance,
        Target,
    },
    id::{Epoch, InstanceId, ReleaseId},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use super::{
    backups::{BackupRecord, CopyRecord, RestoreRecord},
    clock::Deadline,
    engine::EngineRecord,
    gpu_watch::XidRecord,
    gpu_within::Within,
    process::{self, ProcessRecord},
    refusal,
    running::RunningRecord,
    volumes::Volume,
};

/// The version of the file's form.
const VERSION: u32 = 1;

/// Releases of a pair of environment and service that are kept unpacked, ready to be started again.
pub const KEPT_RELEASES: usize = 5;

/// Stopped instances that are remembered, so that a repeated call finds what it asked for done.
const REMEMBERED_STOPPED: usize = 32;

/// Everything that is recorded.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Recorded {
    /// The version of this form.
    pub version: u32,
    /// The boot of the machine that it was last written in.
    pub boot_id: String,
    /// How many proxy processes were started so far.
    pub generation: u64,
    /// The control socket of the proxy that was last started.
    pub proxy_control: Option<PathBuf>,
    /// The process of the proxy that was last started.
    pub proxy_process: Option<ProcessRecord>,
    /// For each address that was asked for, the one that is listened on (port 0 becomes a port that stays).
    pub listen: IndexMap<SocketAddr, SocketAddr>,
    /// How many instances were started so far.
    pub lives: u64,
    /// The instances, in the order in which they were started.
    pub instances: IndexMap<InstanceId, InstanceRecord>,
    /// The routes.
    pub routes: Vec<RouteRecord>,
    /// Releases that can be started again, the one used last at the end.
    pub kept: Vec<KeptRelease>,
    /// How often weights were changed without a rollout's word.
    #[serde(default)]
    pub restorations: u64,
    /// The services, as (environment, service), whose data folders are there and filled.
    #[serde(default)]
    pub furnished: Vec<(String, String)>,
    /// Those of them whose data folders were left with another engine: one that is there nevertheless is that of the service, and is not emptied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missed: Vec<(String, String)>,
    /// Volumes that services have at the engine for containers.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) volumes: BTreeSet<Volume>,
    /// The engine for containers, once it has answered.
    #[serde(default)]
    pub(super) engine: Option<EngineRecord>,
    /// Whether anything was ever run at the engine for containers.
    #[serde(default)]
    pub uses_engine: bool,
    /// The backups, in the order in which they were begun.
    #[serde(default)]
    pub(super) backups: Vec<BackupRecord>,
    /// Copies of data that are made for other environments.
    #[serde(default)]
    pub(super) copies: Vec<CopyRecord>,
    /// What the driver reported of GPUs.
    #[serde(default)]
    pub(super) xids: XidRecord,
    /// What was brought back of them lately.
    #[serde(default)]
    pub(super) restores: Vec<RestoreRecord>,
}

/// How a release is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Program and arguments, with `$PORT`.
    pub command: Vec<String>,
    /// How the release's image is run, where it is run as a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerRun>,
    /// Its environment.
    pub env: IndexMap<String, String>,
    /// From TERM to KILL.
    pub stop_timeout_ms: u64,
    /// How readiness is told.
    pub health: Health,
    /// After how long without a request it is put to sleep; `None`: never.
    #[serde(default)]
    pub sleep_after_ms: Option<u64>,
    /// The folder of its own that its service has; `None`: none.
    #[serde(default)]
    pub data: Option<DataSpec>,
    /// GPUs that each instance has; `None`: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<GpuNeed>,
}

/// Whether an instance sleeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nap {
    /// Its process runs, and gets its requests.
    #[default]
    Awake,
    /// Its process runs; requests wait: it is on its way to sleep, or back.
    Held,
    /// It has no process; requests wait, and wake it.
    Asleep,
}

/// An instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Tells it from one that had its name before: a stopped instance may be started again.
    pub life: u64,
    /// Its environment.
    pub environment: String,
    /// Its release.
    pub release: Release,
    /// How it is run.
    pub run: RunSpec,
    /// The port that it is told to listen on.
    pub port: u16,
    /// The GPUs that were chosen for it, by UUID, from before it is started until it has stopped.
    #[serde(default)]
    pub gpus: Vec<String>,
    /// Whether its release is unpacked.
    pub prepared: bool,
    /// Whether it was told to stop.
    pub stopping: bool,
    /// Its process or container, while there is one.
    pub process: Option<RunningRecord>,
    /// Whether that process was told to end, because its instance sleeps: what it answers yet counts for nothing.
    #[serde(default)]
    pub is_ending: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// How its process ended last, by itself.
    pub last_exit: Option<String>,
    /// Why it could not be started at all.
    pub failed: Option<String>,
    /// When it is to go by itself.
    pub retire: Option<Retire>,
    /// Whether it sleeps.
    #[serde(default)]
    pub nap: Nap,
    /// How its container differs from what was deployed.
    #[serde(default)]
    pub changed: Vec<String>,
    /// How often its container was removed by somebody else.
    #[serde(default)]
    pub removed: u32,
    /// Which of its volumes were gone from the engine when it was started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) emptied: Vec<String>,
    /// What is known of its container and the GPUs that it was given.
    #[serde(default)]
    pub(super) within: Within,
}

/// A retirement to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retire {
    /// When.
    pub deadline: Deadline,
    /// How long answers in flight may go on then.
    pub drain_ms: u64,
}

/// A route.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RouteRecord {
    /// The environment.
    pub environment: String,
    /// The service.
    pub service: String,
    /// The highest epoch seen for the pair, by any mutation.
    pub epoch: Epoch,
    /// Which requests; none until the first `ApplyRoute`.
    pub rules: Vec<RouteRule>,
    /// How they are assigned to the releases among the targets, where there are two.
    #[serde(default)]
    pub assignment: Assignment,
    /// Where to.
    pub targets: Vec<Target>,
    /// Where to fall back to.
    pub fallback: Vec<Target>,
    /// When the fallback is restored unless this is put off.
    pub dead_man: Option<Deadline>,
    /// What the host did by itself since the last `ApplyRoute`.
    pub restored: Option<Restored>,
    /// When a rollout's own way back was the last that came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_back: Option<Restored>,
}

impl RouteRecord {
    /// Whether it is among the targets, with a share or without.
    fn sends_to(&self, id: &InstanceId) -> bool {
        self.targets.iter().any(|target| target.instance == *id)
    }

    fn falls_back_to(&self, id: &InstanceId) -> bool {
        self.fallback.iter().any(|target| target.instance == *id && target.weight > 0)
    }
}

/// A release that can be started again without anybody else.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptRelease {
    /// The environment.
    pub environment: String,
    /// The release.
    pub release: Release,
    /// How it is run.
    pub run: RunSpec,
    /// Whether it once had all the traffic, or was what a rollout would have fallen back to, and nobody has gone back from it since.
    pub good: bool,
    /// When it was last started or served.
    pub used_at: Timestamp,
}

impl Recorded {
    /// The route of a pair.
    #[must_use]
    pub fn route(&self, environment: &str, service: &str) -> Option<&RouteRecord> {
        self.routes.iter().find(|r| r.environment == environment && r.service == service)
    }

    /// The route of a pair, to change; made empty if there is none.
    pub fn route_mut(&mut self, environment: &str, service: &str) -> &mut RouteRecord {
        let found = self.routes.iter().position(|r| r.environment == environment && r.service == service);
        let index = found.unwrap_or_else(|| {
            self.routes.push(RouteRecord::new(environment, service));
            self.routes.len() - 1
        });
        &mut self.routes[index]
    }

    /// Takes note of a mutation's epoch, or refuses it.
    pub fn admit(&mut self, fence: &Fence) -> Result<(), HostError> {
        let route = self.route_mut(&fence.environment, &fence.service);
        if fence.epoch < route.epoch {
            return Err(HostError {
                code: HostErrorCode::StaleEpoch,
                message: format!(
                    "epoch {} of {} in {} is over: epoch {} was seen here; another owner has taken over",
                    fence.epoch, fence.service, fence.environment, route.epoch
                ),
                epoch: Some(route.epoch),
            });
        }
        route.epoch = fence.epoch;
        Ok(())
    }

    /// Shuts out whoever drives the pair, for an emergency: gives the epoch under which it is done.
    pub fn shut_out(&mut self, environment: &str, service: &str) -> Epoch {
        let route = self.route_mut(environment, service);
        route.epoch = route.epoch.after_emergency();
        route.epoch
    }

    /// An instance, or an error that names it.
    pub fn instance(&self, id: &InstanceId) -> Result<&InstanceRecord, HostError> {
        self.instances.get(id).ok_or_else(|| refusal(HostErrorCode::NotFound, format!("no instance `{id}` here")))
    }

    /// An instance to change, or an error that names it.
    pub fn instance_mut(&mut self, id: &InstanceId) -> Result<&mut InstanceRecord, HostError> {
        let missing = || refusal(HostErrorCode::NotFound, format!("no instance `{id}` here"));
        self.instances.get_mut(id).ok_or_else(missing)
    }

    /// Adds an instance that is yet to be started, with a free port, and gives its life's number. It takes the place of one of
    /// its name that was stopped.
    pub fn add_instance(
        &mut self,
        id: InstanceId,
        environment: String,
        release: Release,
        run: RunSpec,
        prepared: bool,
    ) -> Result<u64, HostError> {
        let port = self.free_port()?;
        self.lives += 1;
        let record = InstanceRecord {
            life: self.lives,
            environment,
            release,
            run,
            port,
            gpus: Vec::new(),
            prepared,
            stopping: false,
            is_ending: false,
            process: None,
            restarts: 0,
            last_exit: None,
            failed: None,
            retire: None,
            nap: Nap::Awake,
            changed: Vec::new(),
            removed: 0,
            emptied: Vec::new(),
            within: Within::default(),
        };
        self.instances.shift_remove(&id);
        self.instances.insert(id, record);
        Ok(self.lives)
    }

    /// A port that neither an instance nor anybody else has.
    pub fn free_port(&self) -> Result<u16, HostError> {
        let taken: Vec<u16> = self.instances.values().filter(|i| !i.is_stopped()).map(|i| i.port).collect();
        process::free_port(&taken).map_err(|e| refusal(HostErrorCode::Unavailable, e.to_string()))
    }

    /// The route that gives an instance traffic now, if one does.
    #[must_use]
    pub fn serving(&self, id: &InstanceId) -> Option<&RouteRecord> {
        self.routes.iter().find(|r| r.targets.iter().any(|t| t.instance == *id && t.weight > 0))
    }

    /// Whether an instance has traffic, stands by without a share of it, or is what a route falls back to: it must be there after a reboot.
    #[must_use]
    pub fn is_needed(&self, id: &InstanceId) -> bool {
        self.routes.iter().any(|route| route.sends_to(id) || route.falls_back_to(id))
    }

    /// The same of one that is only kept for a way back: that it is gone back to by itself, as nobody has said yet that the new release is good.
    #[must_use]
    pub fn is_awaited(&self, id: &InstanceId) -> bool {
        let is_awaited = |route: &RouteRecord| route.dead_man.is_some() && route.falls_back_to(id);
        self.routes.iter().any(|route| route.sends_to(id) || is_awaited(route))
    }

    /// Whether a release with this digest (in hexadecimal digits) is run or kept.
    #[must_use]
    pub fn names(&self, digest: &str) -> bool {
        self.instances.values().any(|i| !i.is_stopped() && i.release.digest.hex() == digest)
            || self.kept.iter().any(|k| k.release.digest.hex() == digest)
    }

    /// How a release was run here last.
    #[must_use]
    pub fn kept_run(&self, environment: &str, release: &Release) -> Option<&RunSpec> {
        let is_it = |k: &&KeptRelease| {
            k.environment == environment && k.release.service == release.service && k.release.id == release.id
        };
        self.kept.iter().rev().find(is_it).map(|k| &k.run)
    }

    /// Notes that a release is run or serves.
    pub fn keep(&mut self, environment: &str, release: &Release, run: &RunSpec, now: Timestamp) {
        let same = |k: &KeptRelease| {
            k.environment == environment && k.release.service == release.service && k.release.id == release.id
        };
        let good = self.kept.iter().any(|k| same(k) && k.good);
        self.kept.retain(|k| !same(k));
        let (environment, release, run) = (environment.to_owned(), release.clone(), run.clone());
        self.kept.push(KeptRelease { environment, release, run, good, used_at: now });
    }

    /// Notes that the releases behind `targets` are good ones, used now.
    pub fn mark_good(&mut self, targets: &[Target], now: Timestamp) {
        for target in targets.iter().filter(|t| t.weight > 0) {
            let Some(record) = self.instances.get(&target.instance).cloned() else { continue };
            self.keep(&record.environment, &record.release, &record.run, now);
            if let Some(kept) = self.kept.last_mut() {
                kept.good = true;
            }
        }
    }

    /// Notes that somebody goes back from what had traffic before, or was fallen back to, or is said to be left, to what has it `now`: what is
    /// newer counts as good no more, until it serves again.
    pub fn leave(
        &mut self,
        (environment, service): (&str, &str),
        (before, said): (&[Target], Option<ReleaseId>),
        now: &[Target],
    ) {
        let of = |targets: &[Target]| -> Vec<ReleaseId> {
            let weighty = targets.iter().filter(|t| t.weight > 0);
            weighty.filter_map(|t| self.instances.get(&t.instance)).map(|i| i.release.id).collect()
        };
        let Some(to) = of(now).into_iter().max() else { return };
        let left: Vec<ReleaseId> = of(before).into_iter().chain(said).collect();
        let of_pair = |k: &&mut KeptRelease| k.environment == environment && k.release.service == service;
        for kept in self.kept.iter_mut().filter(of_pair).filter(|k| k.release.id > to && left.contains(&k.release.id)) {
            kept.good = false;
        }
    }

    /// Forgets releases beyond the number that is kept for each pair, good ones last, and stopped instances beyond the
    /// number that is remembered; says which instances were forgotten.
    pub fn forget_old(&mut self) -> Vec<InstanceId> {
        let mut kept: Vec<(bool, usize)> = self.kept.iter().enumerate().map(|(i, k)| (k.good, i)).collect();
        // The best at the end: good ones after others, and the latest used last within each.
        kept.sort_unstable();
        let mut stays = vec![false; self.kept.len()];
        let mut counts: Vec<(String, String, usize)> = Vec::new();
        for (_, index) in kept.into_iter().rev() {
            let (environment, service) = (&self.kept[index].environment, &self.kept[index].release.service);
            let count = match counts.iter_mut().find(|(e, s, _)| e == environment && s == service) {
                Some((_, _, count)) => count,
                None => {
                    counts.push((environment.clone(), service.clone(), 0));
                    let last = counts.len() - 1;
                    &mut counts[last].2
                }
            };
            *count += 1;
            stays[index] = *count <= KEPT_RELEASES;
        }
        let mut stays = stays.into_iter();
        self.kept.retain(|_| stays.next().unwrap_or(true));
        let stopped: Vec<InstanceId> =
            self.instances.iter().filter(|(_, i)| i.is_stopped()).map(|(id, _)| id.clone()).collect();
        let forgotten = stopped[..stopped.len().saturating_sub(REMEMBERED_STOPPED)].to_vec();
        for id in &forgotten {
            self.instances.shift_remove(id);
        }
        forgotten
    }
}

impl RunSpec {
    /// What a start says about running.
    #[must_use]
    pub fn of(start: &StartInstance) -> Self {
        Self {
            command: start.command.clone(),
            container: start.container.clone(),
            env: start.env.clone(),
            stop_timeout_ms: start.stop_timeout_ms,
            health: start.health.clone(),
            sleep_after_ms: start.sleep_after_ms,
            data: start.data.clone(),
            gpus: start.gpus.clone(),
        }
    }
}

impl InstanceRecord {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        // a container that is not there yet has none; nobody listens at a port that is kept for an instance
        let own = || SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        self.process.as_ref().and_then(RunningRecord::address).unwrap_or_else(own)
    }

    /// Whether it has stopped, as it was told.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopping && self.process.is_none()
    }

    /// Whether it may be given traffic.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        !self.stopping && self.failed.is_none()
    }

    /// The instance as the API shows it.
    #[must_use]
    pub fn shown(&self, id: &InstanceId, output: &Path) -> Instance {
        let state = match (&self.failed, &self.process, &self.last_exit) {
            _ if self.is_stopped() => InstanceState::Stopped,
            (Some(reason), ..) => InstanceState::Failed { reason: reason.clone() },
            _ if self.nap == Nap::Asleep => InstanceState::Asleep,
            _ if !self.prepared => InstanceState::Preparing,
            (_, Some(_), _) => InstanceState::Running,
            (_, None, Some(exit)) => InstanceState::BackingOff { exit: exit.clone() },
            (_, None, None) => InstanceState::Preparing,
        };
        Instance {
            id: id.clone(),
            environment: self.environment.clone(),
            release: self.release.clone(),
            address: self.address().to_string(),
            state,
            pid: self.process.as_ref().and_then(RunningRecord::pid),
            restarts: self.restarts,
            retire_at: self.retire.map(|r| r.deadline.at),
            output: output.display().to_string(),
            drift: self.drift(),
            gpus: self.gpus.clone(),
            gpu_loss: self.within.loss(),
        }
    }
}

impl RouteRecord {
    /// One that says nothing yet.
    pub fn new(environment: &str, service: &str) -> Self {
        Self {
            environment: environment.to_owned(),
            service: service.to_owned(),
            epoch: Epoch(0),
            rules: Vec::new(),
            assignment: Assignment::default(),
            targets: Vec::new(),
            fallback: Vec::new(),
            dead_man: None,
            restored: None,
            gone_back: None,
        }
    }

    /// The route as the API shows it, without what only the proxy knows.
    #[must_use]
    pub fn shown(&self) -> RouteState {
        RouteState {
            environment: self.environment.clone(),
            service: self.service.clone(),
            epoch: self.epoch,
            rules: self.rules.clone(),
            targets: self.targets.clone(),
            fallback: self.fallback.clone(),
            dead_man_at: self.dead_man.map(|d| d.at),
            restored: self.restored.clone(),
            in_flight: IndexMap::new(),
            newest_observation: 0,
        }
    }
}

/// The record and its file. Changes are made one after the other; whoever reads sees the last one that is on disk.
#[derive(Debug)]
pub struct Store {
    file: PathBuf,
    recorded: Mutex<Recorded>,
    published: watch::Sender<Arc<Recorded>>,
}

impl Store {
    /// Reads `file`; none there is an empty record.
    pub fn open(file: PathBuf) -> io::Result<Self> {
        let recorded = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Recorded { version: VERSION, ..Recorded::default() }
            }
            Err(error) => return Err(error),
        };
        if recorded.version != VERSION {
            let message = format!("it has form {}, this version reads form {VERSION}", recorded.version);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let published = watch::Sender::new(Arc::new(recorded.clone()));
        Ok(Self { file, recorded: Mutex::new(recorded), published })
    }

    /// What is recorded now.
    pub fn current(&self) -> Arc<Recorded> {
        self.published.borrow().clone()
    }

    /// Word of every change.
    pub fn watch(&self) -> watch::Receiver<Arc<Recorded>> {
        self.published.subscribe()
    }

    /// Makes a change: `make` works on a copy, which is written and only then takes the place of what was.
    ///
    /// Runs to its end even if the caller goes away.
    ///
    /// # Errors
    /// What `make` says, or that the disk can't take it; then nothing has changed.
    pub async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        make: impl FnOnce(&mut Recorded) -> Result<T, HostError> + Send + 'static,
    ) -> Result<T, HostError> {
        self.clone().spawn_change(make, false).await
    }

    /// The same, but the change is made even if the disk can't take it: for going back to what is known to work, which a
    /// full disk must not prevent. The next change that is written records it.
    ///
    /// # Errors
    /// What `make` says; then nothing has changed.
    pub async fn change_regardless<T: Send + 'static>(
        self: &Arc<Self>,
        make: impl FnOnce(&mut Recorded) -> Result<T, HostError> + Send + 'static,
    ) -> Result<T, HostError> {
        self.clone().spawn_change(make, true).await
    }

    async fn spawn_change<T: Send + 'static>(
        self: Arc<Self>,
        make: impl FnOnce(&mut Recorded) -> Result<T, HostError> + Send + 'static,
        regardless: bool,
    ) -> Result<T, HostError> {
        let change = async move {
            let mut recorded = self.recorded.lock().await;
            let mut changed = recorded.clone();
            let made = make(&mut changed)?;
            let changed = Arc::new(changed);
            let (file, content) = (self.file.clone(), changed.clone());
            let written = tokio::task::spawn_blocking(move || {
                let bytes = serde_json::to_vec(&*content)?;
                write_atomically(&file, &bytes)
            });
            let written = written.await.map_err(io::Error::other).and_then(|result| result);
            if let Err(error) = written {
                let message = format!("{} can't be written: {error}", self.file.display());
                if !regardless {
                    return Err(refusal(HostErrorCode::Unavailable, message));
                }
                tracing::error!(message, "the change is made without being recorded");
            }
            recorded.clone_from(&changed);
            self.published.send_replace(changed);
            Ok(made)
        };
        let failed = |e| refusal(HostErrorCode::Unavailable, format!("the host could not make the change: {e}"));
        tokio::spawn(change).await.map_err(failed)?
    }
}

/// Replaces `file` as a whole: after a crash there is either the old content or the new one.
pub fn write_atomically(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = file.with_extension("new");
    let mut open = std::fs::OpenOptions::new();
    let mut new = open.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    new.write_all(bytes)?;
    new.sync_all()?;
    drop(new);
    std::fs::rename(&temporary, file)?;
    match file.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What may happen between one server and one host that carry the same service.
    #[derive(Debug, Clone, Copy)]
    enum Happening {
        /// The server gives a claim out.
        Claim,
        /// The owner of one of the claims so far makes a change at the host.
        Change(usize),
        /// Somebody pulls the emergency brake at the host.
        Emergency,
        /// The server hears what the host has seen.
        Tell,
    }

    fn happening() -> impl Strategy<Value = Happening> {
        prop_oneof![
            4 => Just(Happening::Claim),
            4 => any::<usize>().prop_map(Happening::Change),
            2 => Just(Happening::Emergency),
            1 => Just(Happening::Tell),
        ]
    }

    fn change(host: &mut Recorded, epoch: Epoch) -> bool {
        let fence = Fence { environment: "production".into(), service: "web".into(), epoch };
        host.admit(&fence).is_ok()
    }

    proptest! {
        #[test]
        fn no_claim_that_knows_nothing_of_an_emergency_changes_the_host(
            happenings in proptest::collection::vec(happening(), 0..80)
        ) {
            // the server's rule: the next number above whatever it gave out or heard of
            let (mut server, mut host) = (Epoch::default(), Recorded::default());
            let mut given: Vec<Epoch> = Vec::new();
            // claims so far of which no emergency has shut the owner out
            let mut valid_from = 0;
            let mut last_change = Epoch::default();
            for happening in happenings {
                match happening {
                    Happening::Claim => {
                        server = server.next();
                        prop_assert!(!given.contains(&server), "{server} twice");
                        given.push(server);
                    }
                    Happening::Change(which) if given.is_empty() => { let _ = which; }
                    Happening::Change(which) => {
                        let which = which % given.len();
                        let taken = change(&mut host, given[which]);
                        if which < valid_from {
                            prop_assert!(!taken, "epoch {} was shut out by an emergency", given[which]);
                        }
                        prop_assert_eq!(taken, given[which] >= last_change);
                        last_change = last_change.max(if taken { given[which] } else { last_change });
                    }
                    Happening::Emergency => {
                        let epoch = host.shut_out("production", "web");
                        prop_assert!(given.iter().all(|claim| *claim < epoch), "{epoch} among {given:?}");
                        prop_assert!(epoch > last_change);
                        (valid_from, last_change) = (given.len(), epoch);
                    }
                    Happening::Tell => {
                        server = server.max(host.route_mut("production", "web").epoch);
                        // from here on the host takes what the server gives out
                        let next = server.next();
                        prop_assert!(change(&mut host.clone(), next), "{next} is refused");
                    }
                }
                // a claim that is given out without knowledge of the emergency is shut out as well
                if given.last().is_some_and(|claim| *claim < last_change) {
                    valid_from = given.len();
                }
            }
        }
    }
}
