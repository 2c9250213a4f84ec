//! `just soak SECONDS SEED [sqlite|cluster]` plays these for as long as one likes; where nothing is said, for a short while.

use std::{
    io::{Write as _, stdout},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{
    faults::{LEASES, soak},
    fleet::{Shape, Whose},
};

/// How long it takes where nobody says how long.
const SECONDS: u64 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() -> Result<()> {
    play(Shape::embedded()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster() -> Result<()> {
    play(Shape::cluster(Whose::Own)).await
}

async fn play(shape: Shape) -> Result<()> {
    let (seconds, seed) = (number("SEGUE_SOAK_SECONDS", SECONDS)?, number("SEGUE_SOAK_SEED", 1)?);
    let shape = Shape { workers: 3, wired: true, extra: LEASES.into(), ..shape };
    let soaked = soak(shape, Duration::from_secs(seconds), seed).await.with_context(|| format!("seed {seed}"))?;
    writeln!(stdout(), "seed {seed}, {seconds} s: {soaked}")?;
    ensure!(soaked.broken.is_empty(), "seed {seed}: {:#?}\nfaults: {:#?}", soaked.broken, soaked.faults);
    ensure!(soaked.failed.is_empty(), "seed {seed}: nothing fails by itself: {:#?}", soaked.failed);
    Ok(())
}

fn number(name: &str, default: u64) -> Result<u64> {
    std::env::var(name).map_or(Ok(default), |text| text.parse().with_context(|| format!("{name} is `{text}`")))
}
