use std::time::{Duration, Instant};

use anyhow::Result;
use segue_integration_tests::github::Fault;

use crate::{check_shown, with_github};

const PIPELINE: &str = "on: [push]\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: echo hello\n";
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn nothing_is_asked_while_a_secondary_limit_holds_and_then_the_newest_state_is_told() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms").await?;
    let commit = stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    github.fail(Fault::SecondaryLimit(2), 1);
    let begun = Instant::now();
    let guid = stand.push("main").await?;
    stand.api()?.run_of(&guid, LIMIT).await?;
    let ended = begun.elapsed();
    let pipeline = check_shown(&github, &commit, "one", "success", LIMIT).await?;
    check_shown(&github, &commit, "one / one", "success", LIMIT).await?;
    if ended < Duration::from_secs(2) {
        assert_eq!(pipeline.history.len(), 1, "of what was passed meanwhile nothing is told: {:?}", pipeline.history);
    }

    let requests = github.requests();
    let limited = requests.iter().position(|request| request.status == 403).expect("it was limited");
    let pause = requests[limited + 1].at.duration_since(requests[limited].at);
    assert!(pause >= Duration::from_millis(1_900), "asked again after {pause:?}: {requests:#?}");
    Ok(())
}

/// 30 runs with a budget of 20 changes: GitHub, which takes 20, never has to say so.
#[tokio::test]
async fn a_budget_is_kept_and_what_is_awaited_goes_first() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms, writes-per-minute: 20").await?;
    // a token is made with a write too
    github.set_writes_a_minute(21);
    let mut commits = Vec::new();
    for n in 0..8 {
        commits.push(stand.repository.commit(&format!("commit {n}"), &[(".segue/pipelines/one.yml", PIPELINE)])?);
        let guid = stand.push("main").await?;
        stand.api()?.run_of(&guid, LIMIT).await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let requests = github.requests();
    assert!(requests.iter().all(|request| request.status.is_success()), "{requests:#?}");
    let ended = commits
        .iter()
        .filter(|commit| github.check_run(commit, "one").is_some_and(|run| run.conclusion.is_some()))
        .count();
    assert!(ended >= 4, "ends of runs are told before their beginnings: {ended}");
    Ok(())
}
