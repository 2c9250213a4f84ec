//! `segue validate` on a large repository, and on files that are made to cost more than they are worth.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use segue_integration_tests::{hostile, stand::binary};

use crate::figures::{Figure, percentile_ms};

const FILES: usize = 1_000;
const REPETITIONS: usize = 9;

pub fn measure() -> Result<Vec<Figure>> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let mut figures = Vec::new();
    let before = peak_mib()?;
    for (i, (what, text)) in hostile::files().into_iter().enumerate() {
        let file = folder.path().join(format!("hostile-{i}.yml"));
        fs::write(&file, text)?;
        let mut samples = Vec::new();
        for _ in 0..REPETITIONS {
            samples.push(validate(&file, 1)?);
        }
        let median = percentile_ms(&mut samples, 50.0);
        figures.push(Figure::new(format!("segue validate refuses {what}"), median, "ms").at_most(100.0));
    }
    let peak = peak_mib()?;
    // the largest of all children so far: of use only where none before was larger
    if peak > before {
        figures
            .push(Figure::new("segue validate refuses the largest of them: memory", peak, "MiB peak").at_most(100.0));
    }
    let repository = folder.path().join(".segue/pipelines");
    fs::create_dir_all(&repository)?;
    for number in 0..FILES {
        let text = hostile::hundred_lines(number);
        ensure!(text.lines().count() >= 95, "the files have {} lines", text.lines().count());
        fs::write(repository.join(format!("{number}.yml")), text)?;
    }
    let mut samples = Vec::new();
    for _ in 0..5 {
        samples.push(validate(folder.path(), 0)?);
    }
    let median = percentile_ms(&mut samples, 50.0);
    figures.push(Figure::new("segue validate: 1,000 files of 100 lines", median, "ms").at_most(1_000.0));
    Ok(figures)
}

fn validate(path: &Path, wanted: i32) -> Result<Duration> {
    let start = Instant::now();
    let output = Command::new(binary()?).arg("validate").arg(path).output().context("cannot start segue")?;
    let took = start.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(wanted), "{} ended with {}: {said}", path.display(), output.status);
    Ok(took)
}

fn peak_mib() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("cannot ask for the children's memory")?;
    Ok(usage.max_rss() as f64 / 1024.0)
}
