use std::time::Duration;

use anyhow::{Context as _, Result};
use segue_integration_tests::stand::Stand;
use segue_schemas::status::RunStatus;

const VALUE: &str = "correct-horse-battery-staple";

/// The secret is written in two halves with a pause between them, so that they come in two reads.
const PIPELINE: &str = r#"on: [push]
jobs:
  one:
    runs-on: [linux]
    steps:
      - run: |
          printf 'before %s' "${TOKEN:0:11}"
          sleep 0.4
          printf '%s after\n' "${TOKEN:11}"
          printf '%s' "$TOKEN" | base64
          echo "token=$TOKEN" >> "$SEGUE_OUTPUT"
        id: leak
        env:
          TOKEN: ${{ secrets.DEPLOY_TOKEN }}
      - run: echo "again ${GIVEN}"
        env:
          GIVEN: ${{ steps.leak.outputs.token }}
"#;

#[tokio::test]
async fn neither_the_log_nor_the_store_nor_the_output_of_the_server_has_it() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        anyhow::bail!("this story needs root: without another user for jobs, secrets are refused by design");
    }
    let stand = Stand::start("").await?;
    stand.set_secret("DEPLOY_TOKEN", VALUE)?;
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, Duration::from_secs(30)).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");

    let log = stand.api()?.log(&view.jobs.first().context("no job")?.id).await?;
    assert!(log.contains("before *** after"), "masked across the border of two writes:\n{log}");
    assert!(!log.contains(VALUE) && !log.contains("horse"), "{log}");
    assert!(!log.contains("Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5"), "nor its base64:\n{log}");

    // nowhere at rest either
    let found = std::process::Command::new("grep")
        .args(["--recursive", "--binary-files=text", "--files-with-matches", VALUE])
        .arg(stand.folder())
        .output()?;
    let files = String::from_utf8_lossy(&found.stdout).into_owned();
    assert_eq!(files, "", "the value lies in these files");
    Ok(())
}
