//! A worker that stops in the middle of a canary, as a machine that swaps or a virtual one that is moved does: another takes the rollout
//! over, and what the first one does once it goes on is of no effect.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use segue_integration_tests::{load::Load, processes, stand::Stand};
use segue_schemas::{
    api::{RolloutView, WorkerList},
    deploy::{JournalEntry, JournalKind},
    status::RolloutStatus,
};

use crate::{RUN_LIMIT, commit_version, good_release, nothing_was_dropped, version_in};

const SOON: Duration = Duration::from_secs(60);
/// The lease ends long before the host would fall back by itself.
const TIMING: &str = "timing: {lease: 3s, renew: 500ms, dead-man: 30s}\n";

#[tokio::test]
async fn its_rollout_is_taken_over_and_ends_whole() -> Result<()> {
    let mut stand = Stand::start_with_settings(TIMING).await?;
    let pids = [stand.start_worker_beside("one", "worker-token")?, stand.start_worker_beside("two", "worker-token")?];
    good_release(&stand, "1").await?;
    let api = stand.api()?;
    let former = api.rollouts("production").await?.first().context("no rollout")?.id.0;

    commit_version(&stand, "2", 0.0, "4s")?;
    let load = Load::to(&stand.proxy, "production").start();
    let guid = stand.push("main").await?;
    let run = api.planned(&guid, SOON).await?.runs[0];
    let view = api.journaled("production", former, SOON, |view| view.rollout.weight == 10).await?;
    let workers: WorkerList = api.get("/workers").await?;
    let driver = workers.items.iter().find(|worker| !worker.drives.is_empty()).context("nobody drives it")?;
    let driver = driver.id.as_str().to_owned();
    let frozen = pids.into_iter().find(|pid| is_of(*pid, &stand, &driver)).context("no process of that name")?;
    let epoch = newest(&view).context("an empty journal")?.epoch;
    processes::signal(frozen, Signal::SIGSTOP)?;

    let taken_over = |view: &RolloutView| claims(view).last().is_some_and(|claim| claim.epoch > epoch);
    let view = api.journaled("production", former, SOON, taken_over).await?;
    ensure!(!view.rollout.status.is_final(), "it ended before it went on: {view:#?}");
    processes::signal(frozen, Signal::SIGCONT)?;

    let ended = api.rollout_ended(view.rollout.id, RUN_LIMIT).await?;
    assert_eq!(ended.rollout.status, RolloutStatus::Succeeded, "{ended:#?}");
    api.ended(run.0, RUN_LIMIT).await?;
    nothing_was_dropped(&load.stop().await);
    let claim = claims(&ended).last().context("nobody took it over")?;
    let late: Vec<_> = ended.journal.iter().filter(|e| e.sequence > claim.sequence && e.epoch < claim.epoch).collect();
    ensure!(late.is_empty(), "written by who had lost it: {late:#?}");
    for _ in 0..40 {
        assert_eq!(version_in(&stand, "production").await?, "2");
    }
    until_free(&stand, &driver).await?;
    // it is as good as any other again
    good_release(&stand, "3").await?;
    assert_eq!(version_in(&stand, "production").await?, "3");
    Ok(())
}

fn claims(view: &RolloutView) -> impl DoubleEndedIterator<Item = &JournalEntry> {
    view.journal.iter().filter(|entry| entry.kind == JournalKind::Claimed)
}

fn newest(view: &RolloutView) -> Option<&JournalEntry> {
    view.journal.last()
}

/// Whether a process is the worker of this name: its data directory holds the name.
fn is_of(pid: u32, stand: &Stand, name: &str) -> bool {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let arguments = String::from_utf8_lossy(&arguments);
    ["one", "two"].into_iter().any(|folder| {
        let data = stand.folder().join(folder);
        let known = std::fs::read_to_string(data.join("worker/name")).unwrap_or_default();
        known.trim() == name && arguments.split('\0').any(|argument| data.as_os_str() == argument)
    })
}

async fn until_free(stand: &Stand, name: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let workers: WorkerList = stand.api()?.get("/workers").await?;
        let free = |worker: &segue_schemas::api::WorkerView| worker.id.as_str() == name && worker.drives.is_empty();
        if workers.items.iter().any(free) {
            return Ok(());
        }
        ensure!(begun.elapsed() < SOON, "it does not see that it has lost it: {workers:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
