use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{
    github::GitHub,
    processes,
    pulls::{Pull, pipeline},
    stand::Stand,
};
use segue_schemas::preview::PreviewState;

use crate::RUN_LIMIT;

const SEED: &str = "path: dist, seed: 'echo $SEGUE_PULL_REQUEST >> $SEGUE_DATA/seeds'}";

async fn with_settings(settings: &str) -> Result<(Stand, GitHub)> {
    let mut stand = Stand::prepare("")?;
    let github = GitHub::start(&stand.repository.name, stand.repository.bare()).await?;
    stand.add_settings(&github.as_app(", gather: 50ms"));
    stand.add_settings(settings);
    stand.start_server().await?;
    stand.repository.commit("base", &[("file", "base")])?;
    stand.repository.push("main")?;
    Ok((stand, github))
}

/// The processes of services that the stand's host has started.
fn services(stand: &Stand) -> Vec<u32> {
    let folder = stand.folder().display().to_string();
    let works_there =
        |pid: u32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&folder));
    processes::with_argument("service.yml").into_iter().filter(|pid| works_there(*pid)).collect()
}

async fn until_none_runs(stand: &Stand) -> Result<()> {
    let begun = Instant::now();
    while !services(stand).is_empty() {
        ensure!(begun.elapsed() < RUN_LIMIT, "it still runs: {:?}", services(stand));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_preview_that_nobody_asks_for_sleeps_until_the_next_request() -> Result<()> {
    let (mut stand, github) = with_settings("environments: {preview: {sleep-after: 1s}}\n").await?;
    let mut pull = Pull::new(&stand, &github, 7, "acme/shop");
    let pipeline = pipeline("true").replace("path: dist}", SEED);
    let seeds = stand.data().join("host/data/preview/pr-7-api/seeds");
    let guid = pull.push("1", &pipeline).await?;
    let run = stand.api()?.planned(&guid, RUN_LIMIT).await?.runs[0].0;
    stand.api()?.ended(run, RUN_LIMIT).await?;
    ensure!(std::fs::read_to_string(&seeds)? == "7\n", "it is seeded when it is first made");
    pull.is_listed(Some(PreviewState::Asleep), RUN_LIMIT).await?;
    until_none_runs(&stand).await?;
    let listed = stand.segue(&["previews"])?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    ensure!(listed.contains("acme/shop#7") && listed.contains("asleep"), "{listed}");
    let begun = Instant::now();
    ensure!(pull.answer("preview.localhost").await? == Ok("1".into()), "it is woken by the first request");
    eprintln!("figure: a preview that slept answered its first request after {:?}", begun.elapsed());

    // a host and a proxy that were killed wake it as well
    pull.is_listed(Some(PreviewState::Asleep), RUN_LIMIT).await?;
    drop(pull);
    stand.stop_server(Duration::from_secs(60)).await?;
    for name in ["host", "proxy"] {
        for pid in stand.all_processes() {
            if processes::sub_command(pid).as_deref() == Some(name) {
                processes::signal(pid, nix::sys::signal::Signal::SIGKILL)?;
            }
        }
    }
    stand.start_server().await?;
    ensure!(services(&stand).is_empty(), "a start wakes nobody: {:?}", services(&stand));
    let mut pull = Pull::new(&stand, &github, 7, "acme/shop");
    ensure!(pull.answer("preview.localhost").await? == Ok("1".into()), "it is woken by the first request");

    // a push takes the place of what sleeps
    pull.is_listed(Some(PreviewState::Asleep), RUN_LIMIT).await?;
    let guid = pull.push("2", &pipeline).await?;
    let run = stand.api()?.planned(&guid, RUN_LIMIT).await?.runs[0].0;
    stand.api()?.ended(run, RUN_LIMIT).await?;
    ensure!(pull.answer("preview.localhost").await? == Ok("2".into()), "the newer one answers");
    ensure!(std::fs::read_to_string(&seeds)? == "7\n", "and never again, neither by a push nor by a sleep");
    pull.turn("closed").await?;
    pull.answers(Err(404), RUN_LIMIT).await?;
    pull.is_listed(None, RUN_LIMIT).await?;
    ensure!(!seeds.parent().is_some_and(std::path::Path::exists), "its data go with it");
    until_none_runs(&stand).await
}

#[tokio::test]
async fn a_preview_that_the_database_knows_nothing_of_is_taken_away() -> Result<()> {
    let (mut stand, github) = with_settings("environments: { preview: { remove-unknown: true } }\n").await?;
    // a backup from before the preview
    stand.stop_server(Duration::from_secs(60)).await?;
    let backup = stand.folder().join("backup");
    std::fs::create_dir(&backup)?;
    copy_all(&stand.data(), &backup, |name| name.starts_with("segue.db"))?;
    stand.start_server().await?;
    let mut pull = Pull::new(&stand, &github, 7, "acme/shop");
    pull.push("1", &pipeline("true")).await?;
    pull.answers(Ok("1"), RUN_LIMIT).await?;
    pull.is_listed(Some(PreviewState::Serving), RUN_LIMIT).await?;
    drop(pull);
    stand.stop_server(Duration::from_secs(60)).await?;
    for file in files(&stand.data(), |name| name.starts_with("segue.db"))? {
        std::fs::remove_file(file)?;
    }
    copy_all(&backup, &stand.data(), |_| true)?;
    stand.start_server().await?;
    let pull = Pull::new(&stand, &github, 7, "acme/shop");
    pull.answers(Err(404), RUN_LIMIT).await?;
    until_none_runs(&stand).await
}

fn files(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let all = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut found = Vec::new();
    for entry in all {
        let entry = entry?;
        if wanted(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        }
    }
    ensure!(!found.is_empty(), "{} holds none of them", folder.display());
    Ok(found)
}

fn copy_all(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    for file in files(from, wanted)? {
        std::fs::copy(&file, to.join(file.file_name().context("it has a name")?))?;
    }
    Ok(())
}
