use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use segue_integration_tests::{github::GitHub, stand::Stand};

const PIPELINE: &str = "on: [push]\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: exit 1\n";

#[tokio::test]
async fn with_a_token_commits_have_statuses() -> Result<()> {
    let mut stand = Stand::prepare("")?;
    let github = GitHub::start(&stand.repository.name, stand.repository.bare()).await?;
    stand.add_settings(&github.as_person(", gather: 50ms"));
    stand.start_server().await?;
    let commit = stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    stand.push("main").await?;
    let begun = Instant::now();
    let newest = |context: &str| github.statuses(&commit).into_iter().rfind(|status| status.context == context);
    let is_failure = |context: &str| newest(context).is_some_and(|status| status.state == "failure");
    while !is_failure("one") || !is_failure("one / one") {
        ensure!(begun.elapsed() < Duration::from_secs(30), "no failure is shown: {:#?}", github.statuses(&commit));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let first = github.statuses(&commit).into_iter().find(|status| status.context == "one");
    assert!(first.is_some_and(|status| status.state == "pending"));
    assert!(newest("one").is_some_and(|status| status.description.ends_with(": one")), "{:?}", newest("one"));
    assert!(github.requests().iter().all(|request| request.status.is_success()), "{:#?}", github.requests());
    Ok(())
}
