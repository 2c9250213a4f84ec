use std::time::Duration;

use anyhow::{Context as _, Result};
use segue_integration_tests::{processes, stand::Stand};
use segue_schemas::{
    api::CancelRequest,
    status::{JobStatus, RunStatus},
};

/// A child, a grandchild in a session of its own, and one that was forked twice and ignores TERM.
const PIPELINE: &str = r#"on: [push]
jobs:
  one:
    runs-on: [linux]
    steps:
      - run: |
          sleep 987 &
          setsid bash -c 'sleep 986' &
          ( setsid bash -c 'trap "" TERM; sleep 985 & wait' & )
          echo started
          sleep 984
"#;

#[tokio::test]
async fn nothing_that_a_step_started_outlives_its_cancellation() -> Result<()> {
    let stand = Stand::start("worker: {kill-grace: 1s}\n").await?;
    let api = stand.api()?;
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    let guid = stand.push("main").await?;
    let run = api.planned(&guid, Duration::from_secs(30)).await?.runs[0];
    let view = api.job_becomes(run.0, "one", &[JobStatus::Running, JobStatus::Leased], Duration::from_secs(30)).await?;
    let job = view.jobs.first().context("no job")?.id;
    while sleepers(&stand)?.len() < 4 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let cancelled = std::time::Instant::now();
    let _: segue_schemas::api::RunSummary =
        api.post(&format!("/runs/{run}/cancel"), &CancelRequest { by: Some("a user".into()), reason: None }).await?;
    let view = api.ended(run.0, Duration::from_secs(30)).await?;
    println!("cancelled and ended within {:?}", cancelled.elapsed());
    assert_eq!(view.run.status, RunStatus::Cancelled);
    assert_eq!(sleepers(&stand)?, [0u32; 0], "no orphan is left");
    assert!(api.log(&job).await?.contains("started"), "the log stays");
    Ok(())
}

/// The sleeping processes below the server.
fn sleepers(stand: &Stand) -> Result<Vec<u32>> {
    let below = processes::with_argument("sleep\09");
    let _ = stand.server_pid().context("the server does not run")?;
    Ok(below)
}
