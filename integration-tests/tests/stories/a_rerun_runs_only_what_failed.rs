use std::time::Duration;

use anyhow::{Context as _, Result};
use segue_integration_tests::stand::Stand;
use segue_schemas::{
    api::{RerunRequest, RunSummary, RunView},
    status::{JobStatus, RunStatus},
};

/// The second job fails until the file is there that the story makes.
const PIPELINE: &str = r#"on: [push]
jobs:
  first:
    runs-on: [linux]
    outputs:
      word: ${{ steps.say.outputs.word }}
    steps:
      - id: say
        run: echo "word=from-the-first-attempt-$SEGUE_RUN_ATTEMPT" >> "$GITHUB_OUTPUT"
  second:
    needs: [first]
    runs-on: [linux]
    steps:
      - run: |
          echo "the word is $WORD"
          test -e MARKER
        env:
          WORD: ${{ needs.first.outputs.word }}
  third:
    needs: [second]
    runs-on: [linux]
    steps:
      - run: echo third
"#;

#[tokio::test]
async fn the_jobs_that_succeeded_keep_their_outputs_and_former_attempts_stay_readable() -> Result<()> {
    let stand = Stand::start("").await?;
    let api = stand.api()?;
    let marker = stand.folder().join("marker");
    let pipeline = PIPELINE.replace("MARKER", &marker.display().to_string());
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", &pipeline)])?;
    let guid = stand.push("main").await?;
    let view = api.run_of(&guid, Duration::from_secs(30)).await?;
    assert_eq!(statuses(&view), [JobStatus::Succeeded, JobStatus::Failed, JobStatus::Skipped]);
    let third = view.jobs[2].reason.clone().unwrap_or_default();
    assert!(third.contains("second"), "the skip says why: {third}");
    let first_log = view.jobs[1].id;

    std::fs::write(&marker, "")?;
    let run = view.run.id;
    let _: RunSummary = api
        .post(
            &format!("/runs/{run}/rerun"),
            &RerunRequest { failed: true, by: Some("a user".into()), ..RerunRequest::default() },
        )
        .await?;
    let view = api.ended(run.0, Duration::from_secs(30)).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    assert_eq!((view.attempt, view.attempts.len()), (2, 2));
    assert_eq!(statuses(&view), [JobStatus::Succeeded; 3]);
    let log = api.log(&view.jobs.iter().find(|job| job.key == "second").context("no job")?.id).await?;
    assert!(log.contains("the word is from-the-first-attempt-1"), "{log}");

    let former: RunView = api.get(&format!("/runs/{run}?attempt=1")).await?;
    assert_eq!(statuses(&former), [JobStatus::Succeeded, JobStatus::Failed, JobStatus::Skipped]);
    assert!(api.log(&first_log).await?.contains("the word is"), "its log as well");

    let told = stand.segue(&["diff-attempts", &run.to_string()])?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let lines: Vec<Vec<&str>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(lines.iter().any(|words| words.first() == Some(&"first") && words.ends_with(&["taken", "over"])), "{told}");
    assert!(lines.iter().any(|words| words.starts_with(&["!", "second", "failed"])), "{told}");
    assert!(told.contains("failed exit code 1"), "{told}");
    let alone = stand.segue(&["diff-attempts", &run.to_string(), "--attempts", "0,2"])?;
    assert_eq!(alone.status.code(), Some(2), "there is no attempt 0");
    let diff: serde_json::Value = api.get(&format!("/runs/{run}/attempts/compare?from=2&to=1")).await?;
    assert_eq!(
        (&diff["jobs"][1]["from"]["status"], &diff["jobs"][1]["to"]["status"]),
        (&"succeeded".into(), &"failed".into())
    );
    Ok(())
}

fn statuses(view: &RunView) -> Vec<JobStatus> {
    view.jobs.iter().map(|job| job.status).collect()
}
