//! Random faults under load, from a seed: which fault comes when is the same each time, what it meets is not. Pushes go on all the
//! while, and at the end the history is checked.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use segue_schemas::status::JobStatus;
use tokio::{sync::watch, task::block_in_place, time::sleep};

use crate::{
    cut::Wire,
    fleet::{Bells, Doors, Fleet, Shape, Store, Whose},
    history::{Broken, History, Recorder, check, pipeline},
    processes::Memory,
};

/// Short leases, so that what is lost is found soon.
pub const LEASES: &str = "timing: {lease: 3s, renew: 500ms}\n";

/// How long what was pushed may take to end once nothing is broken any more.
const SETTLE: Duration = Duration::from_secs(180);
/// How long a sender tries.
const SEND: Duration = Duration::from_secs(60);
/// How long a process may take to end in order.
const STOP: Duration = Duration::from_secs(60);
/// Between two pushes.
const PAUSE_MS: std::ops::Range<u64> = 300..1500;
/// From the end of a fault to the beginning of the next.
const CALM_MS: std::ops::Range<u64> = 0..2500;
/// How long a fault lasts: from less than a renewal to more than a lease.
const FAULT_MS: std::ops::Range<u64> = 0..5000;
/// What a job says that was lost too often to be tried again: its failure is what was promised.
const TRIED_OFTEN: &str = "That was the last of";

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillServer,
    StopServer,
    FreezeServer,
    KillWorker,
    StopWorker,
    FreezeWorker,
    CutWorkerFromServer,
    KillBroker,
    WipeBroker,
    CutServersFromBroker,
    CutWorkersFromBroker,
    CrashPostgres,
    StopPostgres,
    EndConnections,
}

impl Fault {
    /// Those that a fleet of this shape can have.
    fn of(shape: &Shape) -> Vec<Self> {
        let mut faults = vec![
            Self::KillServer,
            Self::StopServer,
            Self::FreezeServer,
            Self::KillWorker,
            Self::StopWorker,
            Self::FreezeWorker,
        ];
        if shape.wired {
            faults.push(Self::CutWorkerFromServer);
        }
        if let Bells::RabbitMq(whose) = shape.bells {
            if shape.wired {
                faults.extend([Self::CutServersFromBroker, Self::CutWorkersFromBroker]);
            }
            if whose == Whose::Own {
                faults.extend([Self::KillBroker, Self::WipeBroker]);
            }
        }
        if shape.store == Store::Postgres(Whose::Own) {
            faults.extend([Self::CrashPostgres, Self::StopPostgres, Self::EndConnections]);
        }
        faults
    }

    /// What it is done to: two at a time are done to different things.
    fn target(self) -> &'static str {
        match self {
            Self::KillServer | Self::StopServer | Self::FreezeServer => "server",
            Self::KillWorker | Self::StopWorker | Self::FreezeWorker => "worker",
            Self::CutWorkerFromServer | Self::CutServersFromBroker | Self::CutWorkersFromBroker => "wire",
            Self::KillBroker | Self::WipeBroker => "broker",
            Self::CrashPostgres | Self::StopPostgres | Self::EndConnections => "database",
        }
    }
}

/// A fault that is done to something.
#[derive(Debug, Clone, Copy)]
struct Blow {
    fault: Fault,
    server: usize,
    worker: usize,
}

impl Blow {
    fn draw(random: &mut StdRng, faults: &[Fault], shape: &Shape) -> Result<Self> {
        Ok(Self {
            fault: *faults.choose(random).context("nothing can happen to this fleet")?,
            server: random.random_range(0..shape.servers),
            worker: random.random_range(0..shape.workers),
        })
    }

    async fn begin(self, fleet: &mut Fleet) -> Result<()> {
        match self.fault {
            Fault::KillServer => fleet.kill_server(self.server),
            Fault::StopServer => fleet.stop_server(self.server, STOP).await,
            Fault::FreezeServer => fleet.signal_server(self.server, Signal::SIGSTOP),
            Fault::KillWorker => fleet.kill_worker(self.worker),
            Fault::StopWorker => fleet.stop_worker(self.worker, STOP).await,
            Fault::FreezeWorker => fleet.signal_worker(self.worker, Signal::SIGSTOP),
            Fault::CutWorkerFromServer | Fault::CutServersFromBroker | Fault::CutWorkersFromBroker => {
                self.wire(fleet)?.cut();
                Ok(())
            }
            Fault::KillBroker => fleet.broker()?.kill(),
            Fault::WipeBroker => {
                let broker = fleet.broker()?;
                broker.kill()?;
                broker.wipe()
            }
            Fault::CrashPostgres => block_in_place(|| fleet.postgres()?.stop(true)),
            Fault::StopPostgres => block_in_place(|| fleet.postgres()?.stop(false)),
            Fault::EndConnections => block_in_place(|| fleet.sql(END_CONNECTIONS).map(drop)),
        }
    }

    async fn end(self, fleet: &mut Fleet) -> Result<()> {
        match self.fault {
            Fault::KillServer | Fault::StopServer => fleet.start_server(self.server).await,
            Fault::FreezeServer => fleet.signal_server(self.server, Signal::SIGCONT),
            Fault::KillWorker | Fault::StopWorker => fleet.start_worker(self.worker),
            Fault::FreezeWorker => fleet.signal_worker(self.worker, Signal::SIGCONT),
            Fault::CutWorkerFromServer | Fault::CutServersFromBroker | Fault::CutWorkersFromBroker => {
                self.wire(fleet)?.mend();
                Ok(())
            }
            Fault::KillBroker | Fault::WipeBroker => fleet.broker()?.restart().await,
            Fault::CrashPostgres | Fault::StopPostgres => block_in_place(|| fleet.postgres()?.start_again(&[])),
            Fault::EndConnections => Ok(()),
        }
    }

    fn wire(self, fleet: &Fleet) -> Result<&Wire> {
        let wires = fleet.wires();
        let wire = match self.fault {
            Fault::CutServersFromBroker => wires.servers_to_broker,
            Fault::CutWorkersFromBroker => wires.workers_to_broker,
            _ => wires.of_workers.get(self.worker),
        };
        wire.context("this fleet is not wired")
    }
}

const END_CONNECTIONS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
     AND pid <> pg_backend_pid()";

/// What a soak came to.
#[derive(Debug)]
pub struct Soaked {
    /// Pushes that were sent, a second one of the same among them.
    pub pushes: usize,
    /// Faults, in order.
    pub faults: Vec<String>,
    /// How many of each kind.
    kinds: BTreeMap<Fault, usize>,
    /// Runs by how they ended.
    runs: BTreeMap<String, usize>,
    /// Jobs that ended, and those of them that had more owners than one.
    jobs: (usize, usize),
    /// The most that each process took.
    memory: Vec<Memory>,
    /// From the last fault's end until everything had ended.
    settled: Duration,
    /// Promises that were broken.
    pub broken: Vec<Broken>,
    /// Jobs that failed although nothing in them fails, and that were not lost as often as a job may be.
    pub failed: Vec<String>,
}

impl fmt::Display for Soaked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (jobs, again) = self.jobs;
        writeln!(f, "{} pushes, {} faults {:?}", self.pushes, self.faults.len(), self.kinds)?;
        writeln!(f, "runs {:?}, jobs {jobs}, {again} of them begun more than once", self.runs)?;
        writeln!(f, "everything had ended {:.1} s after the last fault", self.settled.as_secs_f64())?;
        let memory: Vec<String> = self.memory.iter().map(|m| format!("{} {} MiB", m.who, m.peak_mib)).collect();
        write!(f, "at most {}", memory.join(", "))
    }
}

/// Random faults for so long.
///
/// # Errors
/// Something can't be started, or does not come to an end afterwards.
pub async fn soak(shape: Shape, length: Duration, seed: u64) -> Result<Soaked> {
    let mut fleet = Fleet::start(shape).await?;
    let (end, ended) = watch::channel(false);
    let recorder = Recorder::start(fleet.folder())?;
    let pushing = tokio::spawn(push(recorder, fleet.doors()?, StdRng::seed_from_u64(!seed), ended));
    let spoiled = spoil(&mut fleet, length, StdRng::seed_from_u64(seed)).await;
    end.send_replace(true);
    let (pushes, recorder) = pushing.await??;
    let (faults, kinds) = spoiled?;
    let begun = Instant::now();
    recorder.settle(&fleet, SETTLE).await.with_context(|| format!("after these faults: {faults:#?}"))?;
    let settled = begun.elapsed();
    ensure!(recorder.lines() > 0, "no step has done anything");
    let history = recorder.history(&fleet).await?;
    let mut runs: BTreeMap<String, usize> = BTreeMap::new();
    history.runs.iter().for_each(|run| *runs.entry(run.status.to_string()).or_default() += 1);
    Ok(Soaked {
        pushes,
        faults,
        kinds,
        runs,
        jobs: begun_again(&history),
        settled,
        broken: check(&history),
        failed: failed(&history),
        memory: history.memory,
    })
}

/// Pushes until it is told to end; some are sent twice.
async fn push(
    mut recorder: Recorder,
    doors: Doors,
    mut random: StdRng,
    ended: watch::Receiver<bool>,
) -> Result<(usize, Recorder)> {
    let text = pipeline(recorder.file(), "0.3");
    let mut pushes = 0;
    while !*ended.borrow() {
        pushes += 1;
        let version = pushes.to_string();
        let pushed = block_in_place(|| {
            doors.repository.commit(&version, &[(".segue/pipelines/one.yml", &text), ("version", &version)])?;
            doors.repository.push("main")
        })?;
        recorder.push(&doors, &pushed, SEND).await;
        if random.random_bool(0.1) {
            recorder.push(&doors, &pushed, SEND).await;
        }
        sleep(Duration::from_millis(random.random_range(PAUSE_MS))).await;
    }
    Ok((pushes, recorder))
}

/// One fault after the other, sometimes two at a time; at the end nothing is broken.
async fn spoil(
    fleet: &mut Fleet,
    length: Duration,
    mut random: StdRng,
) -> Result<(Vec<String>, BTreeMap<Fault, usize>)> {
    let shape = fleet.shape().clone();
    let possible = Fault::of(&shape);
    let (begun, mut told, mut kinds) = (Instant::now(), Vec::new(), BTreeMap::new());
    while begun.elapsed() < length {
        sleep(Duration::from_millis(random.random_range(CALM_MS))).await;
        let mut blows = vec![Blow::draw(&mut random, &possible, &shape)?];
        if random.random_bool(0.3) {
            let other = Blow::draw(&mut random, &possible, &shape)?;
            blows.extend((other.fault.target() != blows[0].fault.target()).then_some(other));
        }
        let lasts = Duration::from_millis(random.random_range(FAULT_MS));
        // what others need to start is whole again before they are
        blows.sort_by_key(|blow| std::cmp::Reverse(blow.fault));
        for blow in &blows {
            told.push(format!("{:.1} s: {blow:?} for {lasts:?}", begun.elapsed().as_secs_f64()));
            *kinds.entry(blow.fault).or_default() += 1;
            blow.begin(fleet).await.with_context(|| format!("{blow:?}"))?;
        }
        sleep(lasts).await;
        for blow in &blows {
            blow.end(fleet).await.with_context(|| format!("the end of {blow:?}"))?;
        }
    }
    Ok((told, kinds))
}

/// Jobs, and those of them in which more than one epoch has done something.
fn begun_again(history: &History) -> (usize, usize) {
    let mut epochs: BTreeMap<(i64, &str), (i64, i64)> = BTreeMap::new();
    for effect in &history.effects {
        let seen = epochs.entry((effect.run, &effect.job)).or_insert((effect.epoch, effect.epoch));
        *seen = (seen.0.min(effect.epoch), seen.1.max(effect.epoch));
    }
    (history.runs.iter().map(|run| run.jobs.len()).sum(), epochs.values().filter(|(low, high)| low < high).count())
}

fn failed(history: &History) -> Vec<String> {
    let jobs = history.runs.iter().flat_map(|run| run.jobs.iter().map(move |(key, job)| (run.run, key, job)));
    jobs.filter(|(_, _, job)| job.status == JobStatus::Failed)
        .map(|(run, key, job)| format!("run {run} job {key}: {}", job.reason.as_deref().unwrap_or_default()))
        .filter(|told| !told.contains(TRIED_OFTEN))
        .collect()
}
