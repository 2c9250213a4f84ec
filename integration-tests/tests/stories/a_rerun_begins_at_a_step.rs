use std::time::Duration;

use anyhow::Result;
use segue_integration_tests::{s3::S3, stand::Stand};
use segue_schemas::{
    api::{RunSummary, RunView},
    status::RunStatus,
};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

/// `first` leaves files, links, a variable, a path, a mask and an output; `second` fails until the file is there that the story makes,
/// and spoils what it found before it fails.
const PIPELINE: &str = r#"on: push
jobs:
  test:
    runs-on: [linux]
    steps:
      - id: first
        name: prepare it
        run: |
          echo ran >> STARTS
          mkdir -p built/deep ~/tools && echo made-by-first > built/deep/file && ln -s deep/file built/link
          printf '#!/bin/sh\necho a-tool\n' > ~/tools/tool && chmod 755 ~/tools/tool
          echo "~/tools" | sed "s|~|$HOME|" >> "$SEGUE_PATH"
          echo KEPT=of-the-first-attempt >> "$SEGUE_ENV"
          echo "::add-mask::hidden-word"
          echo word=attempt-$SEGUE_RUN_ATTEMPT >> "$SEGUE_OUTPUT"
      - uses: segue/upload-artifact
        with: {name: built, path: built}
      - id: second
        run: |
          echo "found $(cat built/link), $KEPT, $(tool), $WORD, hidden-word, $(stat -c %a ~/tools/tool)"
          rm -r built
          test -e MARKER
        env:
          WORD: ${{ steps.first.outputs.word }}
      - run: echo the end
  after:
    needs: [test]
    runs-on: [linux]
    steps:
      - uses: segue/download-artifact
        with: {name: built, path: got}
      - run: cat got/deep/file
  large:
    runs-on: [linux]
    steps:
      - run: head -c 9000000 /dev/zero > large
      - name: look
        run: test -e MARKER
"#;

#[tokio::test]
async fn with_the_workspace_as_it_was_before_that_step() -> Result<()> {
    begins_there(&Stand::start("").await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_the_workspace_comes_from_a_bucket_as_well() -> Result<()> {
    let s3 = S3::start("contents", "key", "secret").await?;
    let keys = tempfile::tempdir()?;
    begins_there(
        &Stand::start(&crate::artifacts_and_caches_go_through_a_bucket::storage(&s3, keys.path(), "secret")?).await?,
    )
    .await?;
    assert!(s3.objects("contents").len() > 1, "there they were");
    Ok(())
}

async fn begins_there(stand: &Stand) -> Result<()> {
    let api = stand.api()?;
    let (starts, marker) = (stand.folder().join("starts"), stand.folder().join("marker"));
    std::fs::write(&starts, "")?;
    std::fs::set_permissions(&starts, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    let pipeline =
        PIPELINE.replace("STARTS", &starts.display().to_string()).replace("MARKER", &marker.display().to_string());
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", &pipeline)])?;
    let guid = stand.push("main").await?;
    let view = api.run_of(&guid, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Failed, "{view:#?}");
    let run = view.run.id.to_string();
    let log = api.log(&view.jobs[0].id).await?;
    assert!(log.contains("Kept for a rerun from a step") && log.contains("--from test/STEP"), "{log}");
    let large = api.log(&view.jobs[2].id).await?;
    assert!(
        large.contains("No snapshot of the workspace was kept before step 2 (look): it holds more than 8 MiB"),
        "{large}"
    );

    // what is not there is refused, with the reason
    for (from, problem) in [
        ("large/look", "`snapshots: true`"),
        ("test/third", "job `test` has no step `third`; its steps are 1 (prepare it)"),
        ("tests/second", "`tests/second` names no step"),
        ("after/2", "what the directories of job `after` held before its step 2 is not kept"),
    ] {
        let refused = stand.segue(&["rerun", &run, "--from", from])?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && said.contains(problem), "{from}: {said}");
    }
    let refused =
        api.post::<RunSummary>(&format!("/runs/{run}/rerun"), &json!({"from": "test/2", "failed": true})).await;
    assert!(refused.is_err(), "one of both");

    std::fs::write(&marker, "")?;
    let done = stand.segue(&["rerun", &run, "--from", "test/second", "--watch"])?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let view: RunView = api.get(&format!("/runs/{run}")).await?;
    let test = &view.jobs[0];
    let log = api.log(&test.id).await?;
    assert_eq!(std::fs::read_to_string(&starts)?.lines().count(), 1, "the first step does not run again: {log}");
    assert!(log.contains("found made-by-first, of-the-first-attempt, a-tool, attempt-1, ***, 755"), "{log}\n{said}");
    assert!(log.contains("The workspace is as it was before step 3"), "{log}");
    assert_eq!((view.run.attempt, view.run.terms.from.as_deref()), (2, Some("test/second")));
    assert_eq!(test.status.as_str(), "succeeded", "{view:#?}");
    assert_eq!(test.steps.len(), 4, "those before it are shown as they ended: {test:#?}");
    assert_eq!(view.jobs[1].status.as_str(), "succeeded", "its artifact is there: {view:#?}");
    assert_eq!(view.run.status, RunStatus::Failed, "another job's failure stays, and is not run again");

    // from the same place once more, which the second attempt itself never packed
    let again = stand.segue(&["rerun", &run, "--from", "test/3"])?;
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    let view = api.ended(run.parse()?, LIMIT).await?;
    assert_eq!((view.run.attempt, view.jobs[0].status.as_str()), (3, "succeeded"));
    let whole = stand.segue(&["rerun", &run, "--from", "test/1", "--watch"])?;
    assert!(whole.status.code().is_some());
    assert_eq!(std::fs::read_to_string(&starts)?.lines().count(), 2, "from the first step it is the whole job");
    Ok(())
}
