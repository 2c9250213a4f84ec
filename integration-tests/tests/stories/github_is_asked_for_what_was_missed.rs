use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chrono::TimeDelta;
use segue_integration_tests::webhook::push_payload;
use segue_schemas::api::DeliveryStatus;

use crate::{check_shown, with_github};

const PIPELINE: &str = "on: [push]\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: echo hello\n";
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_delivery_that_came_while_nobody_was_there_is_asked_for_and_run_once() -> Result<()> {
    let (mut stand, github) = with_github(", gather: 50ms, sweep-every: 1h").await?;
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    let known = stand.push("main").await?;
    stand.api()?.run_of(&known, LIMIT).await?;
    stand.stop_server(LIMIT).await?;

    let commit = stand.repository.commit("second", &[])?;
    let pushed = stand.repository.push("main")?;
    // two minutes ago by GitHub's clock
    github.set_clock(TimeDelta::seconds(-120));
    github.missed("missed-1", "push");
    // its answer was lost, it came all the same
    github.missed(&known, "push");
    github.set_clock(TimeDelta::zero());

    stand.start_server().await?;
    let begun = Instant::now();
    while github.asked_again().is_empty() {
        ensure!(begun.elapsed() < LIMIT, "nothing was asked for: {:#?}", github.requests());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // GitHub does as it is asked
    let body = serde_json::to_vec(&push_payload(&stand.repository, &pushed))?;
    assert_eq!(stand.webhook()?.send("missed-1", "push", &body).await?.status(), 202);
    check_shown(&github, &commit, "one", "success", LIMIT).await?;
    assert_eq!(github.asked_again(), ["missed-1"], "what is known is not asked for");
    Ok(())
}

/// Looks that find all as it was cost nothing of what may be asked in an hour, and what changes is seen all the same.
#[tokio::test]
async fn what_is_as_it_was_is_not_sent_again() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms, sweep-every: 300ms").await?;
    let on_pulls = "on: [pull_request]\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: echo hello\n";
    let head = stand.repository.commit("first", &[(".segue/pipelines/one.yml", on_pulls)])?;
    stand.repository.push("main")?;
    stand.repository.push("topic")?;
    github.set_pull("acme/shop", 7, &head, "topic", "acme/shop");
    let body = serde_json::to_vec(&github.pull_payload("acme/shop", 7, "opened", None))?;
    assert_eq!(stand.webhook()?.send("opened", "pull_request", &body).await?.status(), 202);
    check_shown(&github, &head, "one", "success", LIMIT).await?;

    let unchanged = |ending: &str| {
        let requests = github.requests();
        requests.iter().filter(|one| one.path.ends_with(ending) && one.status == 304).count()
    };
    let begun = Instant::now();
    while unchanged("/pulls") < 2 || unchanged("/app/hook/deliveries") < 2 {
        ensure!(begun.elapsed() < LIMIT, "nothing is asked as it was: {:#?}", github.requests());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // a push that nobody tells of, and a delivery that failed
    let second = stand.repository.commit("second", &[])?;
    stand.repository.push("topic")?;
    github.set_pull("acme/shop", 7, &second, "topic", "acme/shop");
    github.set_clock(TimeDelta::seconds(-120));
    github.missed("missed-2", "push");
    github.set_clock(TimeDelta::zero());
    check_shown(&github, &second, "one", "success", LIMIT).await?;
    let begun = Instant::now();
    while github.asked_again().is_empty() {
        ensure!(begun.elapsed() < LIMIT, "nothing was asked for: {:#?}", github.requests());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// A push to the default branch of which no webhook tells is run all the same; a webhook that comes after all runs nothing twice, and one
/// that is only late is waited for.
#[tokio::test]
async fn a_push_to_the_default_branch_that_nobody_told_of_is_run_once() -> Result<()> {
    let (mut stand, github) = with_github(", gather: 50ms, sweep-every: 300ms").await?;
    let first = stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    let known = stand.push("main").await?;
    check_shown(&github, &first, "one", "success", LIMIT).await?;
    stand.api()?.run_of(&known, LIMIT).await?;

    stand.stop_server(LIMIT).await?;
    stand.repository.commit("second", &[])?;
    stand.repository.push("main")?;
    let third = stand.repository.commit("third: what it is about", &[])?;
    let pushed = stand.repository.push("main")?;
    stand.start_server().await?;
    check_shown(&github, &third, "one", "success", LIMIT).await?;

    let body = serde_json::to_vec(&push_payload(&stand.repository, &pushed))?;
    assert_eq!(stand.webhook()?.send("late", "push", &body).await?.status(), 202);
    let late = stand.api()?.planned("late", LIMIT).await?;
    ensure!(late.status == DeliveryStatus::Ignored && late.runs.is_empty(), "the late webhook: {late:?}");
    let runs = stand.api()?.runs().await?.items;
    let of_third = runs.iter().find(|run| run.commit.as_str() == third);
    assert_eq!(of_third.map(|run| run.title.as_str()), Some("third: what it is about"));
    assert_eq!(runs.len(), 2, "{runs:?}");

    // one that leads away and back again is another push
    let fourth = stand.repository.commit("fourth", &[])?;
    stand.push("main").await?;
    check_shown(&github, &fourth, "one", "success", LIMIT).await?;
    let looks =
        || github.requests().iter().filter(|one| one.path.ends_with("/branches/main") && one.status == 304).count();
    let (before, begun) = (looks(), Instant::now());
    while looks() < before + 2 {
        ensure!(begun.elapsed() < LIMIT, "branches are not looked at: {:#?}", github.requests());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stand.api()?.runs().await?.items.len(), 3, "what was told is not found once more");
    Ok(())
}
