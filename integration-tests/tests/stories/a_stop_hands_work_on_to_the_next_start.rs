use std::time::Duration;

use anyhow::Result;
use segue_integration_tests::stand::Stand;
use segue_schemas::status::{JobStatus, RunStatus};

/// Two steps; the first one is under way when the stop comes, and takes no longer than the grace.
const PIPELINE: &str = r#"on: [push]
jobs:
  one:
    runs-on: [linux]
    steps:
      - run: |
          echo kept > in-the-workspace
          echo "made=by-the-first-step" >> "$SEGUE_ENV"
          sleep 2
          echo the first step ends
      - run: |
          cat in-the-workspace
          echo "$made"
      - run: echo the end
"#;

#[tokio::test]
async fn the_running_step_ends_and_the_next_start_goes_on_with_the_step_after_it() -> Result<()> {
    let mut stand = Stand::start("").await?;
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    let guid = stand.push("main").await?;
    let api = stand.api()?;
    let run = api.planned(&guid, Duration::from_secs(30)).await?.runs[0];
    api.job_becomes(run.0, "one", &[JobStatus::Leased, JobStatus::Running], Duration::from_secs(30)).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;

    let status = stand.stop_server(Duration::from_secs(30)).await?;
    assert!(status.success(), "SIGTERM is an orderly end: {status}");

    stand.start_server().await?;
    let view = api.ended(run.0, Duration::from_secs(60)).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    let log = api.log(&view.jobs[0].id).await?;
    let ends = log.lines().filter(|line| *line == "the first step ends").count();
    assert_eq!(ends, 1, "it ran once:\n{log}");
    for expected in ["kept", "by-the-first-step", "the end"] {
        assert!(log.contains(expected), "`{expected}` is not in:\n{log}");
    }
    Ok(())
}
