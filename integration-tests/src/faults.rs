//! Random faults under load, from a seed: which fault comes when is the same each time, what it meets is not. Pushes go on all the
//! while, and at the end the history is checked.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    fleet::{Fleet, Shape},
    history::{Broken, Recorder, pipeline},
};

/// Short leases, so that what is lost is found soon.
pub const LEASES: &str = "timing: {lease: 3s, renew: 500ms}\n";

/// How long what was pushed may take to end once nothing is broken any more.
const SETTLE: Duration = Duration::from_secs(180);
/// How long a sender tries.
const SEND: Duration = Duration::from_secs(60);
/// Between two pushes.
const PAUSE_MS: std::ops::Range<u64> = 300..1500;

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillServer,
    RestartServer,
    KillWorker,
    RestartWorker,
    FreezeWorker,
    SendTwice,
}

const FAULTS: [Fault; 6] = [
    Fault::KillServer,
    Fault::RestartServer,
    Fault::KillWorker,
    Fault::RestartWorker,
    Fault::FreezeWorker,
    Fault::SendTwice,
];

/// What a soak came to.
#[derive(Debug)]
pub struct Soaked {
    /// Pushes that were sent.
    pub pushes: usize,
    /// Faults, in order.
    pub faults: Vec<String>,
    /// Promises that were broken.
    pub broken: Vec<Broken>,
}

/// Random faults for so long.
///
/// # Errors
/// Something can't be started, or does not come to an end afterwards.
pub async fn soak(shape: Shape, length: Duration, seed: u64) -> Result<Soaked> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut fleet = Fleet::start(shape.clone()).await?;
    let mut recorder = Recorder::start(fleet.folder())?;
    let text = pipeline(recorder.file(), "0.3");
    let (begun, mut faults, mut pushes) = (Instant::now(), Vec::new(), 0);
    while begun.elapsed() < length {
        pushes += 1;
        let version = pushes.to_string();
        fleet.repository.commit(&version, &[(".segue/pipelines/one.yml", &text), ("version", &version)])?;
        let pushed = fleet.repository.push("main")?;
        recorder.push(&fleet.webhook(0)?, &fleet.repository, &pushed, SEND).await;
        if random.random_bool(0.5) {
            let fault = FAULTS[random.random_range(0..FAULTS.len())];
            let worker = random.random_range(0..shape.workers);
            let server = random.random_range(0..shape.servers);
            faults
                .push(format!("{:.1} s: {fault:?} (server {server}, worker {worker})", begun.elapsed().as_secs_f64()));
            match fault {
                Fault::KillServer => {
                    fleet.kill_server(server)?;
                    tokio::time::sleep(Duration::from_millis(random.random_range(0..2000))).await;
                    fleet.start_server(server).await?;
                }
                Fault::RestartServer => {
                    fleet.stop_server(server, Duration::from_secs(60)).await?;
                    fleet.start_server(server).await?;
                }
                Fault::KillWorker => {
                    fleet.kill_worker(worker)?;
                    fleet.start_worker(worker)?;
                }
                Fault::RestartWorker => {
                    fleet.stop_worker(worker, Duration::from_secs(60)).await?;
                    fleet.start_worker(worker)?;
                }
                Fault::FreezeWorker => {
                    fleet.signal_worker(worker, Signal::SIGSTOP)?;
                    tokio::time::sleep(Duration::from_millis(random.random_range(500..5000))).await;
                    fleet.signal_worker(worker, Signal::SIGCONT)?;
                }
                Fault::SendTwice => {
                    recorder.push(&fleet.webhook(0)?, &fleet.repository, &pushed, SEND).await;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(PAUSE_MS))).await;
    }
    let api = fleet.api(0)?;
    recorder.settle(&api, SETTLE).await?;
    ensure!(recorder.lines() > 0, "no step has done anything");
    Ok(Soaked { pushes, faults, broken: recorder.broken(&api).await? })
}
