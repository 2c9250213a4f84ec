use std::time::Duration;

use anyhow::{Context as _, Result};
use segue_integration_tests::{docker::Docker, processes, stand::Stand};
use segue_schemas::{
    api::{CancelRequest, RunSummary, RunView},
    status::{JobStatus, RunStatus, StepStatus},
};

const LIMIT: Duration = Duration::from_secs(60);

/// A child, a grandchild in a session of its own, and a shell that ignores TERM.
const STUBBORN: &str = r#"on: [push]
jobs:
  one:
    container: segue-test:1
    steps:
      - run: |
          sleep 98763 &
          setsid sh -c 'trap "" TERM; sleep 98762; sleep 98761' &
          trap "" TERM
          echo started
          while true; do sleep 98760; done
      - if: always()
        run: echo "cleaned up"; test "$(ps | grep -c '[s]leep 9876')" = 0
"#;

#[tokio::test]
async fn what_ignores_term_is_gone_after_a_cancel() -> Result<()> {
    let docker = Docker::shared().await?;
    let stand = Stand::start(&docker.settings("")).await?;
    let api = stand.api()?;
    let run = begin(&stand, STUBBORN).await?;
    let view: RunView = api.get(&format!("/runs/{run}")).await?;
    let job = view.jobs.first().context("no job")?.id;

    let cancel = CancelRequest { by: Some("a user".into()), reason: None };
    let _: RunSummary = api.post(&format!("/runs/{run}/cancel"), &cancel).await?;
    let view = api.ended(run, LIMIT).await?;
    let log = api.log(&job).await?;
    assert_eq!(view.run.status, RunStatus::Cancelled, "{log}");
    assert_eq!(
        view.jobs[0].steps[1].status,
        StepStatus::Succeeded,
        "the step after it runs in the same container: {log}"
    );
    assert!(log.contains("started") && log.contains("cleaned up"), "{log}");
    assert_eq!(sleepers(), [0u32; 0], "no orphan is left");
    docker.until_clean(&stand.data().join("worker"), LIMIT).await
}

const SLOW: &str = r#"on: [push]
jobs:
  one:
    container: segue-test:1
    steps:
      - run: echo started; sleep 65432
        timeout-minutes: ${{ 0.01 }}
        continue-on-error: true
      - run: test "$(ps | grep -c '[s]leep 65432')" = 0; echo "the next one runs"
"#;

#[tokio::test]
async fn a_time_out_reaches_the_processes_inside() -> Result<()> {
    let docker = Docker::shared().await?;
    let stand = Stand::start(&docker.settings("")).await?;
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", SLOW)])?;
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, LIMIT).await?;
    let log = stand.api()?.log(&view.jobs[0].id).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{log}");
    assert!(log.contains("it took longer than its 0.6 s") && log.contains("the next one runs"), "{log}");
    docker.until_clean(&stand.data().join("worker"), LIMIT).await
}

#[tokio::test]
async fn a_worker_that_is_killed_leaves_nothing_that_runs_and_its_next_start_nothing_at_all() -> Result<()> {
    let docker = Docker::shared().await?;
    let mut stand = Stand::start(&docker.settings("")).await?;
    let with_volume = "{ image: segue-test:1, volumes: [\"kept:/kept\"] }";
    let run = begin(&stand, &STUBBORN.replace("9876", "8765").replace("segue-test:1", with_volume)).await?;
    let worker = stand.data().join("worker");
    let first = docker.made_by(&worker).await?;
    assert_eq!(first.len(), 3, "a container, a network and a volume");
    stand.kill_server()?;
    // the engine was told nothing: the container ends as nobody holds its lifeline any more
    let begun = std::time::Instant::now();
    while docker.container_of(&worker).await?.is_some_and(|seen| seen["State"]["Running"] == true) {
        assert!(begun.elapsed() < LIMIT, "the container outlives its worker");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(processes::with_argument("sleep\08765"), [0u32; 0]);
    stand.start_server().await?;
    // the job itself is begun again, in a place of its own
    while docker.made_by(&worker).await?.iter().any(|made| first.contains(made)) {
        assert!(begun.elapsed() < LIMIT, "what the first start made is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let cancel = CancelRequest { by: None, reason: None };
    let _: RunSummary = stand.api()?.post(&format!("/runs/{run}/cancel"), &cancel).await?;
    stand.api()?.ended(run, LIMIT).await?;
    docker.until_clean(&worker, LIMIT).await
}

/// Pushes, and waits until the step says that it has started; the run.
async fn begin(stand: &Stand, pipeline: &str) -> Result<i64> {
    let api = stand.api()?;
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", pipeline)])?;
    let guid = stand.push("main").await?;
    let run = api.planned(&guid, LIMIT).await?.runs[0].0;
    let view = api.job_becomes(run, "one", &[JobStatus::Running], LIMIT).await?;
    let job = view.jobs.first().context("no job")?.id;
    let begun = std::time::Instant::now();
    while !api.log(&job).await?.lines().any(|line| line.trim() == "started") {
        anyhow::ensure!(begun.elapsed() < LIMIT, "it did not start: {}", api.log(&job).await?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(run)
}

fn sleepers() -> Vec<u32> {
    processes::with_argument("sleep\09876")
}
