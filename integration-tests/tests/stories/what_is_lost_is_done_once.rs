//! Faults of one part while the others go on, each with the history of what happened checked afterwards.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use segue_integration_tests::{
    faults::LEASES,
    fleet::{Fleet, Shape, Store, Whose},
    history::{Recorder, pipeline},
};
use segue_schemas::{
    api::WorkerList,
    status::{JobStatus, RunStatus},
};

const LIMIT: Duration = Duration::from_secs(120);

/// Less than the time after which a lease is renewed.
const BETWEEN_SETTINGS: Duration = Duration::from_millis(200);

/// Short leases.
fn quick(shape: Shape) -> Shape {
    Shape { extra: LEASES.into(), ..shape }
}

/// Each fault on a server with everything in it, and on two that share a PostgreSQL and a RabbitMQ.
macro_rules! on_both {
    ($($fault:ident),* $(,)?) => {
        mod embedded {
            use super::{Result, Shape};
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $fault() -> Result<()> {
                super::$fault(Shape::embedded()).await
            })*
        }
        mod cluster {
            use super::{Result, Shape, Whose};
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $fault() -> Result<()> {
                super::$fault(Shape::cluster(Whose::Shared)).await
            })*
        }
    };
}

on_both!(
    a_worker_that_is_killed_at_any_step_loses_nothing,
    what_a_worker_does_after_its_lease_changes_nothing,
    what_a_worker_stopped_for_want_of_a_server_is_begun_again,
    a_server_that_is_killed_under_load_loses_nothing,
    an_upgrade_of_one_part_after_the_other_loses_nothing,
    what_a_token_brought_in_is_lost_when_it_is_revoked,
    a_log_that_the_server_did_not_take_is_whole_once_it_is_back,
    a_clock_that_is_set_by_hours_either_way_loses_nothing,
);

/// Commits, pushes and tells; the run is on its way.
async fn push(fleet: &Fleet, recorder: &mut Recorder, pause: &str, version: &str) -> Result<()> {
    let text = pipeline(recorder.file(), pause);
    fleet.repository.commit(version, &[(".segue/pipelines/one.yml", &text), ("version", version)])?;
    let pushed = fleet.repository.push("main")?;
    ensure!(recorder.push(&fleet.doors()?, &pushed, LIMIT).await, "the push was not accepted");
    Ok(())
}

/// Waits until steps have written so many lines.
async fn until_lines(recorder: &Recorder, lines: usize) -> Result<()> {
    let begun = Instant::now();
    while recorder.lines() < lines {
        ensure!(begun.elapsed() < LIMIT, "steps have written {} lines, not {lines}", recorder.lines());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Everything ends, nothing is lost, doubled or stale, and every run has succeeded.
async fn all_is_well(fleet: &Fleet, recorder: &Recorder) -> Result<()> {
    recorder.settle(fleet, LIMIT).await?;
    let broken = recorder.broken(fleet).await?;
    ensure!(broken.is_empty(), "{broken:#?}");
    let history = recorder.history(fleet).await?;
    let failed: Vec<_> = history.runs.iter().filter(|run| run.status != RunStatus::Succeeded).collect();
    ensure!(failed.is_empty(), "{failed:#?}");
    let unseen: Vec<_> = history.memory.iter().filter(|memory| memory.peak_mib == 0).collect();
    ensure!(unseen.is_empty(), "nobody looked at the memory of {unseen:?}");
    Ok(())
}

async fn a_worker_that_is_killed_at_any_step_loses_nothing(shape: Shape) -> Result<()> {
    let mut fleet = Fleet::start(quick(shape)).await?;
    let mut recorder = Recorder::start(fleet.folder())?;
    // two jobs beside each other of two steps, and one more: a line at the beginning and the end of each step
    for (version, lines) in [("1", 0), ("2", 1), ("3", 3), ("4", 6), ("5", 9), ("6", 11)] {
        let before = recorder.lines();
        push(&fleet, &mut recorder, "0.4", version).await?;
        until_lines(&recorder, before + lines).await?;
        // whoever has it
        for worker in 0..2 {
            fleet.kill_worker(worker)?;
            fleet.start_worker(worker)?;
        }
        recorder.settle(&fleet, LIMIT).await?;
    }
    all_is_well(&fleet, &recorder).await
}

async fn what_a_worker_does_after_its_lease_changes_nothing(shape: Shape) -> Result<()> {
    let fleet = Fleet::start(Shape { workers: 2, capacity: 1, ..quick(shape) }).await?;
    let mut recorder = Recorder::start(fleet.folder())?;
    push(&fleet, &mut recorder, "2", "1").await?;
    until_lines(&recorder, 2).await?;
    // both jobs have begun, one at each worker
    fleet.signal_worker(0, Signal::SIGSTOP)?;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let workers: WorkerList = fleet.api(0)?.get("/workers").await?;
    let frozen = workers.items.iter().find(|worker| worker.id.as_str() == "w0");
    ensure!(frozen.is_some_and(|worker| worker.holds.is_empty()), "its lease is over: {workers:#?}");
    fleet.signal_worker(0, Signal::SIGCONT)?;
    all_is_well(&fleet, &recorder).await?;
    let history = recorder.history(&fleet).await?;
    ensure!(history.effects.iter().any(|effect| effect.epoch > 1), "nothing was ever lost: {:#?}", history.effects);
    Ok(())
}

/// By a worker that gets through to the server before its lease ends: nobody waits for that.
async fn what_a_worker_stopped_for_want_of_a_server_is_begun_again(shape: Shape) -> Result<()> {
    let extra = "timing: {lease: 6s, renew: 500ms}\n".into();
    let fleet = Fleet::start(Shape { workers: 1, wired: true, extra, ..shape }).await?;
    let mut recorder = Recorder::start(fleet.folder())?;
    push(&fleet, &mut recorder, "3.5", "1").await?;
    until_lines(&recorder, 2).await?;
    let wire = &fleet.wires().of_workers[0];
    wire.cut();
    let cut = Instant::now();
    while !fleet.worker_said(0).contains("its job is stopped before it ends") {
        ensure!(cut.elapsed() < LIMIT, "the worker does not stop its jobs: {}", fleet.worker_said(0));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    wire.mend();
    until_lines(&recorder, 4).await?;
    let begun_again = cut.elapsed();
    ensure!(begun_again < Duration::from_millis(5200), "the end of the lease was waited for: {begun_again:?}");
    all_is_well(&fleet, &recorder).await
}

async fn a_server_that_is_killed_under_load_loses_nothing(shape: Shape) -> Result<()> {
    let mut fleet = Fleet::start(quick(shape)).await?;
    let mut recorder = Recorder::start(fleet.folder())?;
    for version in 1..=9 {
        push(&fleet, &mut recorder, "0.2", &version.to_string()).await?;
        if version % 3 == 0 {
            // of two, one after the other
            let server = version % fleet.shape().servers;
            fleet.kill_server(server)?;
            fleet.start_server(server).await?;
        }
    }
    all_is_well(&fleet, &recorder).await
}

async fn an_upgrade_of_one_part_after_the_other_loses_nothing(shape: Shape) -> Result<()> {
    let mut fleet = Fleet::start(shape).await?;
    let mut recorder = Recorder::start(fleet.folder())?;
    let patience = Duration::from_secs(60);
    for version in 1..=4 {
        push(&fleet, &mut recorder, "0.5", &version.to_string()).await?;
    }
    for worker in 0..2 {
        let name = format!("w{worker}");
        let drained = fleet.segue(&["worker", "drain", &name])?;
        ensure!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
        let begun = Instant::now();
        loop {
            let list: WorkerList = fleet.api(0)?.get("/workers").await?;
            if list.items.iter().any(|w| w.id.as_str() == name && w.holds.is_empty() && w.drives.is_empty()) {
                break;
            }
            ensure!(begun.elapsed() < LIMIT, "{name} does not drain: {list:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        fleet.stop_worker(worker, patience).await?;
        fleet.start_worker(worker)?;
        let undone = fleet.segue(&["worker", "drain", &name, "--undo"])?;
        ensure!(undone.status.success(), "{}", String::from_utf8_lossy(&undone.stderr));
        push(&fleet, &mut recorder, "0.5", &format!("worker {worker}")).await?;
    }
    for server in 0..fleet.shape().servers {
        fleet.stop_server(server, patience).await?;
        fleet.start_server(server).await?;
        push(&fleet, &mut recorder, "0.5", &format!("server {server}")).await?;
    }
    all_is_well(&fleet, &recorder).await?;
    let history = recorder.history(&fleet).await?;
    let again: Vec<_> = history.effects.iter().filter(|effect| effect.epoch > 1).collect();
    ensure!(again.is_empty(), "an upgrade in order lets everything end where it began: {again:#?}");
    Ok(())
}

async fn what_a_token_brought_in_is_lost_when_it_is_revoked(shape: Shape) -> Result<()> {
    let mut fleet = Fleet::start(Shape { workers: 1, ..quick(shape) }).await?;
    let mut recorder = Recorder::start(fleet.folder())?;
    push(&fleet, &mut recorder, "3", "1").await?;
    until_lines(&recorder, 2).await?;
    let revoked = fleet.segue(&["worker", "token", "revoke", "fleet"])?;
    let said = String::from_utf8_lossy(&revoked.stdout).into_owned();
    ensure!(revoked.status.success() && said.contains("lost with it: w0"), "{said}");
    let queue = fleet.segue(&["queues"])?;
    let said = String::from_utf8_lossy(&queue.stdout).into_owned();
    ensure!(said.contains("no worker that offers"), "{said}");
    fleet.renew_token("second")?;
    fleet.kill_worker(0)?;
    fleet.start_worker(0)?;
    all_is_well(&fleet, &recorder).await
}

async fn a_log_that_the_server_did_not_take_is_whole_once_it_is_back(shape: Shape) -> Result<()> {
    let mut fleet =
        Fleet::start(Shape { workers: 1, extra: "timing: {lease: 20s, renew: 500ms}\n".into(), ..shape }).await?;
    let gate = fleet.folder().join("gate");
    let text = format!(
        "on: push\njobs:\n  one:\n    steps:\n      - run: |\n          echo begins\n          until test -e {}; do sleep 0.05; done\n          \
         for n in $(seq 1 50000); do echo \"line $n of fifty thousand\"; done\n",
        gate.display()
    );
    fleet.repository.commit("log", &[(".segue/pipelines/one.yml", &text)])?;
    let pushed = fleet.repository.push("main")?;
    let guid = fleet.doors()?.webhooks[0].push(&fleet.repository, &pushed).await?;
    let api = fleet.api(0)?;
    let run = api.planned(&guid, LIMIT).await?.runs[0].0;
    api.job_becomes(run, "one", &[JobStatus::Running], LIMIT).await?;
    fleet.kill_server(0)?;
    std::fs::write(&gate, "")?;
    // all of it is printed while there is nobody to take it
    tokio::time::sleep(Duration::from_secs(4)).await;
    fleet.start_server(0).await?;
    let view = api.ended(run, LIMIT).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");
    let log = api.log(&view.jobs[0].id).await?;
    let lines: Vec<&str> = log.lines().filter(|line| line.ends_with("of fifty thousand")).collect();
    ensure!(lines.len() == 50_000, "{} lines", lines.len());
    let in_order = lines.iter().enumerate().all(|(n, line)| line.contains(&format!("line {} of", n + 1)));
    ensure!(in_order, "a line is missing, or stands elsewhere");
    Ok(())
}

/// The servers' clocks; where the time is the database's, that must not matter.
async fn a_clock_that_is_set_by_hours_either_way_loses_nothing(shape: Shape) -> Result<()> {
    let clock = SetClock::new()?;
    let shape = Shape { server_env: clock.env()?, ..quick(shape) };
    clock.is_set_while_jobs_run(shape).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_databases_clock_that_is_set_by_hours_either_way_loses_nothing() -> Result<()> {
    let clock = SetClock::new()?;
    let cluster = Shape { store: Store::Postgres(Whose::Own), ..Shape::cluster(Whose::Shared) };
    let shape = Shape { database_env: clock.env()?, ..quick(cluster) };
    clock.is_set_while_jobs_run(shape).await
}

/// A file from which processes read how far their clock is off, by Debian's libfaketime.
struct SetClock(tempfile::TempDir);

impl SetClock {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // PostgreSQL is not root
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let clock = Self(folder);
        clock.set("+0")?;
        Ok(clock)
    }

    fn set(&self, time: &str) -> Result<()> {
        // in one step: nobody reads half of it
        let new = self.0.path().join("new");
        std::fs::write(&new, time)?;
        Ok(std::fs::rename(new, self.0.path().join("time"))?)
    }

    fn env(&self) -> Result<Vec<(String, String)>> {
        let library = ["x86_64", "aarch64"].map(|arch| format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketime.so.1"));
        let library = library.into_iter().find(|path| std::path::Path::new(path).is_file());
        let library = library.context("libfaketime is not installed: `apt-get install libfaketime`")?;
        let env = [
            ("LD_PRELOAD", library),
            ("FAKETIME_TIMESTAMP_FILE", self.0.path().join("time").display().to_string()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ];
        Ok(env.map(|(name, value)| (name.to_owned(), value)).to_vec())
    }

    /// Sets the clock forward while jobs run, again and again, so that whoever looks after leases looks while each of them seems to
    /// have ended; then back. Nothing is lost, and no lease is taken for ended.
    async fn is_set_while_jobs_run(&self, shape: Shape) -> Result<()> {
        let fleet = Fleet::start(shape).await?;
        let mut recorder = Recorder::start(fleet.folder())?;
        for (version, times) in [("1", 1..=16), ("2", 0..=0), ("3", -16..=-1), ("4", 0..=0)] {
            let before = recorder.lines();
            push(&fleet, &mut recorder, "1", version).await?;
            until_lines(&recorder, before + 2).await?;
            for time in times {
                self.set(&format!("{:+}m", time * 10))?;
                tokio::time::sleep(BETWEEN_SETTINGS).await;
            }
        }
        all_is_well(&fleet, &recorder).await?;
        let history = recorder.history(&fleet).await?;
        let again: Vec<_> = history.effects.iter().filter(|effect| effect.epoch > 1).collect();
        ensure!(again.is_empty(), "leases were taken for ended: {again:#?}");
        Ok(())
    }
}
