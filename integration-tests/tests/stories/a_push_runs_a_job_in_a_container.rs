use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use segue_integration_tests::{docker::Docker, stand::Stand};
use segue_schemas::{
    api::RunView,
    status::{FailureClass, RunStatus, StepStatus},
};

const LIMIT: Duration = Duration::from_secs(60);

const PIPELINE: &str = r#"on: [push]
jobs:
  made:
    container:
      image: segue-test:1
      env: { GREETING: hello }
      volumes: ["scratch:/scratch", "/empty"]
      options: --memory 64m --hostname inside --tmpfs /fast --user 0
    outputs: { word: "${{ steps.make.outputs.word }}" }
    steps:
      - uses: segue/checkout
      - id: make
        run: |
          cat /etc/hostname; echo "$GREETING from $(pwd)"
          echo "to the other stream" >&2
          test "$GITHUB_WORKSPACE" = "$(pwd)"; test -f README
          test "$(id -u)" = 0; test -d /scratch; test -d /empty; test ! -e /var/run/docker.sock
          echo kept > /scratch/note; echo changed > /marker
          mkdir -p dist/deep; echo "made in a container" > dist/deep/file; chmod 600 dist/deep/file
          echo "word=done" >> "$SEGUE_OUTPUT"; echo "FROM_BEFORE=yes" >> "$GITHUB_ENV"; echo /opt/tools >> "$GITHUB_PATH"
          (while true; do sleep 1; done) &
      - run: |
          cat /marker; cat /scratch/note; echo "$FROM_BEFORE"; echo "$PATH" | grep '^/opt/tools:/bin'
          test "$(ps | grep -c '[s]leep 1')" -ge 0
          grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status
      - uses: segue/upload-artifact
        with: { name: things, path: dist }
      - id: fails
        continue-on-error: true
        run: exit 42
      - if: steps.fails.outcome == 'failure'
        run: echo "it went on"
  used:
    needs: made
    container: segue-test:1
    steps:
      - uses: segue/download-artifact
        with: { name: things, path: got }
      - run: cat got/deep/file; echo ${{ needs.made.outputs.word }} >&2
"#;

#[tokio::test]
async fn steps_outputs_artifacts_and_exit_codes_are_as_on_the_machine() -> Result<()> {
    let docker = Docker::shared().await?;
    let stand = Stand::start(&docker.settings("")).await?;
    let view = push(&stand, PIPELINE).await?;
    let api = stand.api()?;
    let job = view.jobs.iter().find(|job| job.key == "made").context("no job")?;
    let log = api.log(&job.id).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{log}\n{view:#?}");
    for line in ["inside", "hello from ", "to the other stream", "changed", "kept", "yes", "it went on"] {
        assert!(log.contains(line), "`{line}` is missing:\n{log}");
    }
    assert!(log.contains("NoNewPrivs:\t1") && log.contains("CapEff:\t00000000000004fb"), "{log}");
    assert_eq!((job.steps[4].exit_code, job.steps[4].status), (Some(42), StepStatus::Succeeded));
    let used = view.jobs.iter().find(|job| job.key == "used").context("no job")?;
    let log = api.log(&used.id).await?;
    assert!(log.contains("made in a container") && log.contains("done"), "{log}");
    docker.until_clean(&worker_of(&stand), LIMIT).await
}

const WRONG: &str = r"on: [push]
jobs:
  missing:
    container: { image: nowhere.invalid/nothing:1, options: --pull never }
    steps: [{ run: echo never }, { if: always(), run: echo never }]
  without-a-shell:
    container: { image: segue-test:1, env: { PATH: /nowhere } }
    steps: [{ run: echo never }]
";

#[tokio::test]
async fn an_image_that_can_not_be_used_is_named_and_nothing_runs_outside_of_it() -> Result<()> {
    let docker = Docker::shared().await?;
    let stand = Stand::start(&docker.settings("")).await?;
    let view = push(&stand, WRONG).await?;
    assert_eq!(view.run.status, RunStatus::Failed, "{view:#?}");
    for (job, expected) in view.jobs.iter().zip(["is never pulled here", "its image needs `sh`"]) {
        let log = stand.api()?.log(&job.id).await?;
        assert_eq!(job.failure_class, Some(FailureClass::Configuration), "{job:#?}");
        assert!(job.reason.as_deref().unwrap_or_default().contains(expected), "{job:#?}");
        assert!(!log.lines().any(|line| line.trim() == "never"), "{log}");
    }
    docker.until_clean(&worker_of(&stand), LIMIT).await
}

pub async fn push(stand: &Stand, pipeline: &str) -> Result<RunView> {
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", pipeline), ("README", "read me\n")])?;
    let guid = stand.push("main").await?;
    stand.api()?.run_of(&guid, LIMIT).await
}

fn worker_of(stand: &Stand) -> PathBuf {
    stand.data().join("worker")
}
