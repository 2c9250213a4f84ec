use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::Method;
use nix::sys::signal::Signal;
use segue_integration_tests::{
    processes,
    pulls::{Pull, pipeline},
    stand::Stand,
};
use segue_schemas::{preview::PreviewState, status::RunStatus};

use crate::{RUN_LIMIT, with_github};

/// Pushes the first version, and waits until its run has made the preview.
async fn serve(stand: &Stand, pull: &mut Pull<'_>) -> Result<()> {
    let guid = pull.push("1", &pipeline("true")).await?;
    let run = stand.api()?.planned(&guid, RUN_LIMIT).await?.runs[0].0;
    ensure!(stand.api()?.ended(run, RUN_LIMIT).await?.run.status == RunStatus::Succeeded);
    Ok(())
}

#[tokio::test]
async fn what_github_says_is_open_is_compared_with_what_runs() -> Result<()> {
    let (mut stand, github) = with_github(", gather: 50ms, first-pause: 100ms").await?;
    stand.repository.commit("base", &[("file", "base")])?;
    stand.repository.push("main")?;
    let mut pull = Pull::new(&stand, &github, 7, "acme/shop");
    serve(&stand, &mut pull).await?;
    let mut other = Pull::new(&stand, &github, 8, "acme/shop");
    serve(&stand, &mut other).await?;
    // a thousand that nobody told of, and two words that never came: an end and a push
    for number in 1_000..2_000 {
        github.set_pull("acme/shop", number, &pull.head, "topic", "acme/shop");
    }
    github.set_pull_state("acme/shop", 7, "closed");
    other.commit("2", &pipeline("true"))?;
    drop((pull, other));
    stand.stop_server(Duration::from_secs(60)).await?;
    let before = github.requests().len();
    stand.start_server().await?;

    let pull = Pull::new(&stand, &github, 7, "acme/shop");
    pull.is_listed(None, RUN_LIMIT).await?;
    pull.answers(Err(404), RUN_LIMIT).await?;
    let other = Pull::new(&stand, &github, 8, "acme/shop");
    other.answers(Ok("2"), RUN_LIMIT).await?;
    other.is_listed(Some(PreviewState::Serving), RUN_LIMIT).await?;
    let requests = github.requests();
    let asked: Vec<_> = requests[before..]
        .iter()
        .filter(|one| one.method == Method::GET && one.path.starts_with("/repos/acme/shop/pulls"))
        .collect();
    eprintln!("figure: {} requests for 1,001 open pull requests", asked.len());
    ensure!((11..=30).contains(&asked.len()), "{asked:#?}");
    let runs = stand.api()?.runs().await?;
    ensure!(runs.items.len() == 3, "what nobody told of is run by nobody: {runs:#?}");
    Ok(())
}

#[tokio::test]
async fn a_removal_outlives_the_server_and_the_worker_that_began_it() -> Result<()> {
    let (mut stand, github) = with_github(", gather: 50ms").await?;
    stand.repository.commit("base", &[("file", "base")])?;
    stand.repository.push("main")?;
    let mut pull = Pull::new(&stand, &github, 7, "acme/shop");
    serve(&stand, &mut pull).await?;
    // the host takes the call and answers nobody: the removal is on its way and no further
    let host = stand.all_processes().into_iter().find(|pid| processes::sub_command(*pid).as_deref() == Some("host"));
    let host = host.context("the host runs")?;
    processes::signal(host, Signal::SIGSTOP)?;
    pull.turn("closed").await?;
    let removing = pull.is_listed(Some(PreviewState::Removing), RUN_LIMIT).await?.context("it is listed")?;
    let rollout = removing.rollout.context("it goes by a rollout")?.to_string();
    let begun = std::time::Instant::now();
    loop {
        let shown = stand.segue(&["rollout", "show", &rollout])?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        if shown.contains("taking pr-7-api away") {
            break;
        }
        ensure!(begun.elapsed() < RUN_LIMIT, "the removal did not begin: {shown}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(pull);
    stand.kill_server()?;
    processes::signal(host, Signal::SIGCONT)?;
    stand.start_server().await?;
    let pull = Pull::new(&stand, &github, 7, "acme/shop");
    pull.answers(Err(404), RUN_LIMIT).await?;
    pull.is_listed(None, RUN_LIMIT).await?;
    let shown = stand.segue(&["rollout", "show", &rollout])?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    ensure!(shown.matches("took the removal over").count() >= 2, "another worker went on with it: {shown}");
    Ok(())
}
