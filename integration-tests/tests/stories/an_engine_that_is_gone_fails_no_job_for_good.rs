use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use segue_integration_tests::{docker::Docker, processes, stand::Stand};
use segue_schemas::{
    api::RunView,
    status::{JobStatus, RunStatus},
};

const LIMIT: Duration = Duration::from_secs(90);

/// The first claim of the job waits for what will happen to the engine.
const PIPELINE: &str = r#"on: [push]
jobs:
  one:
    container: segue-test:1
    retry: { max: 5, on: [infrastructure], backoff: 1s }
    steps:
      - run: |
          echo "claim $SEGUE_EPOCH"
          if test "$SEGUE_EPOCH" = 1; then sleep 7531; fi
"#;

#[tokio::test]
async fn killed_in_the_middle_of_a_job_it_is_told_as_what_it_is_and_the_job_begins_again() -> Result<()> {
    let mut docker = Docker::start().await?;
    let stand = Stand::start(&docker.settings("")).await?;
    let run = begin(&stand, "7531").await?;
    docker.kill()?;
    let reason = until_queued_again(&stand, run).await?;
    assert!(reason.contains("container engine"), "{reason}");
    assert_eq!(processes::with_argument("sleep\u{0}7531"), [0u32; 0], "its container ended without it");
    docker.restart().await?;
    end_well(&stand, &docker, run).await
}

#[tokio::test]
async fn one_that_hangs_is_not_waited_for() -> Result<()> {
    let docker = Docker::start().await?;
    let stand = Stand::start(&docker.settings("").replace("3s", "1s")).await?;
    let run = begin(&stand, "8642").await?;
    docker.signal(Signal::SIGSTOP)?;
    let reason = until_queued_again(&stand, run).await?;
    assert!(reason.contains("within 1 s"), "{reason}");
    docker.signal(Signal::SIGCONT)?;
    end_well(&stand, &docker, run).await
}

async fn begin(stand: &Stand, seconds: &str) -> Result<i64> {
    let api = stand.api()?;
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", &PIPELINE.replace("7531", seconds))])?;
    let guid = stand.push("main").await?;
    let run = api.planned(&guid, LIMIT).await?.runs[0].0;
    let begun = std::time::Instant::now();
    while processes::with_argument(&format!("sleep\u{0}{seconds}")).is_empty() {
        let view: RunView = api.get(&format!("/runs/{run}")).await?;
        anyhow::ensure!(begun.elapsed() < LIMIT, "the step did not begin: {view:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(run)
}

/// Waits until the job is to begin again; why.
async fn until_queued_again(stand: &Stand, run: i64) -> Result<String> {
    let view = stand.api()?.job_becomes(run, "one", &[JobStatus::Queued], LIMIT).await?;
    Ok(view.jobs[0].reason.clone().unwrap_or_default())
}

async fn end_well(stand: &Stand, docker: &Docker, run: i64) -> Result<()> {
    let view = stand.api()?.ended(run, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    docker.until_clean(&stand.data().join("worker"), LIMIT).await
}
