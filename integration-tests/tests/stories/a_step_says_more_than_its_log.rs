use std::time::Duration;

use anyhow::Result;
use segue_integration_tests::stand::Stand;
use segue_schemas::{annotation::AnnotationLevel, status::RunStatus};

const LIMIT: Duration = Duration::from_secs(30);

const PIPELINE: &str = r##"on: [push]
jobs:
  lint:
    outputs: { stolen: "${{ steps.lint.outputs.stolen }}" }
    steps:
      - id: lint
        run: |
          echo "::group::Lint"
          echo "::error file=src/main.rs,line=7,title=Unused::no one calls this"
          for n in $(seq 15); do echo "::warning::number $n"; done
          echo "::endgroup::"
          echo "::set-output name=stolen::value"
          echo "# Found" >> "$GITHUB_STEP_SUMMARY"
          echo "* 16 things" >> "$SEGUE_STEP_SUMMARY"
      - name: A flaky one
        retry: { max: 3, backoff: 10ms }
        run: |
          echo x >> tries
          echo "this is try $(wc -l < tries)"
          test "$(wc -l < tries)" -eq 3
      - name: A slow one
        retry: 1
        timeout-minutes: ${{ 0.005 }}
        continue-on-error: true
        run: sleep 60
"##;

const GREEDY: &str = r#"on: [push]
jobs:
  one:
    steps:
      - run: head -c 700000 /dev/zero | tr '\0' x | sed 's/^/big=/' >> "$SEGUE_OUTPUT"
      - name: One too many
        run: head -c 700000 /dev/zero | tr '\0' x | sed 's/^/big=/' >> "$SEGUE_OUTPUT"
"#;

#[tokio::test]
async fn annotations_and_summaries_are_kept_and_a_flaky_step_is_tried_again() -> Result<()> {
    let stand = Stand::start("").await?;
    stand.repository.commit("first", &[(".segue/pipelines/lint.yml", PIPELINE)])?;
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    let job = &view.jobs[0];
    let of = |level| job.steps[0].annotations.iter().filter(move |annotation| annotation.level == level).count();
    assert_eq!((of(AnnotationLevel::Error), of(AnnotationLevel::Warning)), (1, 10), "ten of a kind are kept");
    let error = &job.steps[0].annotations[0];
    assert_eq!(
        (error.file.as_deref(), error.line, error.message.as_str()),
        (Some("src/main.rs"), Some(7), "no one calls this")
    );
    assert_eq!(job.outputs["stolen"], "", "a line of a log sets no output");

    let shown = stand.segue(&["runs", &view.run.id.to_string()])?;
    let shown = String::from_utf8(shown.stdout)?;
    assert!(shown.contains("error src/main.rs:7: Unused: no one calls this"), "{shown}");
    assert!(shown.contains("summary of lint\n# Found\n* 16 things"), "{shown}");

    let log = stand.api()?.log(&job.id).await?;
    assert!(log.contains("##[warning]`::set-output::` is ignored"), "{log}");
    assert!(log.contains("this is try 3") && !log.contains("this is try 4"), "{log}");
    assert!(log.contains("Try 1 of 4 failed: exit code 1; the next one follows in 0.01 s."), "{log}");
    assert_eq!(log.matches("it took longer than its 0.3 s").count(), 3, "two tries, and the word between them:\n{log}");
    Ok(())
}

#[tokio::test]
async fn outputs_that_are_too_large_name_their_step() -> Result<()> {
    let stand = Stand::start("").await?;
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", GREEDY)])?;
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Failed);
    let reason = view.jobs[0].reason.as_deref().unwrap_or_default();
    assert!(reason.contains("step `One too many`") && reason.contains("1048576 are the limit"), "{reason}");
    Ok(())
}
