use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{
    disk::{SmallDisk, fill},
    faults::LEASES,
    fleet::{Fleet, Shape},
};
use segue_schemas::{
    api::RunView,
    status::{JobStatus, RunStatus},
};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn but_the_one_that_filled_it() -> Result<()> {
    let extra = format!("{LEASES}retention: {{low-disk-mib: 48}}\n");
    let mut fleet = Fleet::start(Shape { capacity: 1, extra, ..Shape::embedded() }).await?;
    for worker in 0..2 {
        fleet.stop_worker(worker, LIMIT).await?;
    }
    let disk = SmallDisk::mount(&fleet.worker_data(0), 160)?;
    fleet.start_worker(0)?;
    let told = story(&mut fleet).await;
    drop(fleet);
    drop(disk);
    told
}

/// Pushes a pipeline of one job with one step; the run.
async fn push(fleet: &Fleet, name: &str, step: &str) -> Result<i64> {
    let text = format!(
        "on: push\njobs:\n  one:\n    steps:\n      - run: |\n          {}\n",
        step.replace('\n', "\n          ")
    );
    fleet.repository.commit(name, &[(".segue/pipelines/one.yml", &text), ("name", name)])?;
    let pushed = fleet.repository.push("main")?;
    let guid = fleet.doors()?.webhooks[0].push(&fleet.repository, &pushed).await?;
    Ok(fleet.api(0)?.planned(&guid, LIMIT).await?.runs.first().context("no run")?.0)
}

async fn succeeded(fleet: &Fleet, run: i64) -> Result<RunView> {
    let view = fleet.api(0)?.ended(run, LIMIT).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");
    Ok(view)
}

async fn story(fleet: &mut Fleet) -> Result<()> {
    let (api, filler) = (fleet.api(0)?, fleet.worker_data(0).join("filler"));

    // what runs when the disk becomes full goes on, and its log is whole
    let gate = fleet.folder().join("gate");
    let step = format!(
        "echo begins\nuntil test -e {}; do sleep 0.05; done\nseq 1 20000 | sed 's/$/ of many/'",
        gate.display()
    );
    let run = push(fleet, "running", &step).await?;
    api.job_becomes(run, "one", &[JobStatus::Running], LIMIT).await?;
    fill(&filler, 0)?;
    fs::write(&gate, "")?;
    let view = succeeded(fleet, run).await?;
    let log = api.log(&view.jobs[0].id).await?;
    ensure!(log.lines().filter(|line| line.ends_with(" of many")).count() == 20_000, "lines are missing");

    // what comes then is not taken to fail there, but left to another
    let run = push(fleet, "waiting", "echo done").await?;
    let begun = Instant::now();
    while !fleet.worker_said(0).contains("the disk is too full to begin a job") {
        ensure!(begun.elapsed() < LIMIT, "the worker does not say what is wrong: {}", fleet.worker_said(0));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let view: RunView = api.get(&format!("/runs/{run}")).await?;
    ensure!(view.jobs[0].status == JobStatus::Queued, "nobody has room for it: {view:#?}");
    fleet.start_worker(1)?;
    let view = succeeded(fleet, run).await?;
    ensure!(view.jobs[0].worker.as_ref().is_some_and(|worker| worker.as_str() == "w1"), "{view:#?}");
    fleet.stop_worker(1, LIMIT).await?;

    // with room again it goes on by itself
    let run = push(fleet, "alone", "echo done").await?;
    fs::remove_file(&filler)?;
    succeeded(fleet, run).await?;

    // a job that fills the disk fails with what its own program says, and leaves room for the next
    let run = push(fleet, "greedy", "head -c 400M /dev/zero > large").await?;
    let view = api.ended(run, LIMIT).await?;
    let log = api.log(&view.jobs[0].id).await?;
    ensure!(view.run.status == RunStatus::Failed && log.contains("No space left on device"), "{view:#?}\n{log}");
    let run = push(fleet, "after", "echo done").await?;
    succeeded(fleet, run).await.map(drop)
}
