//! A step that prints 200 MB, until the last line is stored and readable.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use rand::Rng as _;
use segue_integration_tests::stand::Stand;
use segue_schemas::{api::DispatchRequest, id::CommitSha, status::RunStatus};

use crate::{figures::Figure, memory};

const BYTES: usize = 200_000_000;
const LINE: usize = 100;

pub async fn measure() -> Result<Vec<Figure>> {
    let stand = Arc::new(Stand::start("").await?);
    let api = stand.api()?;
    let mut figures = Vec::new();
    for (name, random, wanted) in [("repetitive", false, 150.0), ("random base64", true, 100.0)] {
        let file = stand.folder().join(if random { "random" } else { "repetitive" });
        write_lines(&file, random)?;
        let pipeline = format!(
            "name: print\non:\n  push:\n    branches: [main]\n  workflow_dispatch:\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: cat {}\n",
            file.display()
        );
        stand.repository.commit(name, &[(".segue/pipelines/print.yml", &pipeline)])?;
        let pushed = stand.repository.push("main")?;
        let commit: CommitSha = pushed.after.parse()?;
        let request = DispatchRequest {
            r#ref: Some("refs/heads/main".into()),
            commit: Some(commit),
            ..DispatchRequest::default()
        };
        let watch = watch_memory(&stand);
        let begun = Instant::now();
        let dispatched = api.dispatch(&stand.repository.name, &request).await?;
        let view = api.ended(dispatched.runs.first().context("no run")?.id.0, Duration::from_secs(120)).await?;
        let took = begun.elapsed();
        let peak = watch.stop();
        ensure!(view.run.status == RunStatus::Succeeded, "the run ended so: {view:#?}");
        let lines = count_lines(&api, &view.jobs.first().context("no job")?.id).await?;
        ensure!(lines >= BYTES / LINE, "{lines} lines of {} are there", BYTES / LINE);
        let rate = BYTES as f64 / 1e6 / took.as_secs_f64();
        figures.push(Figure::new(format!("200 MB log, {name}"), rate, "MB/s").at_least(wanted));
        figures.push(
            Figure::new(format!("200 MB log, {name}: peak of all our memory"), peak as f64 / 1024.0, "MiB PSS")
                .at_most(64.0),
        );
    }
    Ok(figures)
}

fn write_lines(file: &std::path::Path, random: bool) -> Result<()> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = std::io::BufWriter::new(fs::File::create(file)?);
    let mut rng = rand::rng();
    let mut line = vec![b'x'; LINE];
    line[LINE - 1] = b'\n';
    for _ in 0..BYTES / LINE {
        if random {
            line[..LINE - 1].fill_with(|| ALPHABET[rng.random_range(0..ALPHABET.len())]);
        }
        out.write_all(&line)?;
    }
    out.into_inner()?.sync_all()?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o644))?;
    Ok(())
}

/// Lines of 99 characters in a job's log, read as it streams.
async fn count_lines(api: &segue_integration_tests::api::Api, job: &segue_schemas::id::JobId) -> Result<usize> {
    let (mut whole, mut length) = (0, 0);
    let mut stream = api.raw_get(&format!("/jobs/{job}/logs")).await?.bytes_stream();
    while let Some(bytes) = stream.next().await {
        for byte in bytes? {
            if byte == b'\n' {
                whole += usize::from(length == LINE - 1);
                length = 0;
            } else {
                length += 1;
            }
        }
    }
    Ok(whole)
}

struct Watch {
    over: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Watch {
    fn stop(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        self.peak.load(Ordering::Relaxed)
    }
}

fn watch_memory(stand: &Arc<Stand>) -> Watch {
    let (over, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (stand, is_over, highest) = (Arc::clone(stand), Arc::clone(&over), Arc::clone(&peak));
    let thread = std::thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            let all = memory::ours(&stand).ok().and_then(|found| found.last().map(|(_, kib)| *kib));
            highest.fetch_max(all.unwrap_or(0), Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    Watch { over, peak, thread }
}
