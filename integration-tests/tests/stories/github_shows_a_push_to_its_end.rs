use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::{check_shown, with_github};

const LIMIT: Duration = Duration::from_secs(30);

const PIPELINE: &str = r#"name: "[ci](x) | $(touch x)"
on: [push]
jobs:
  test:
    runs-on: [linux]
    steps:
      - run: |
          echo "::warning file=src/lib.rs,line=7,title=Odd::it is odd"
          echo "::error::no file in particular"
          sleep 0.5
  broken:
    runs-on: [linux]
    steps:
      - name: "**bold**"
        run: exit 3
  after:
    needs: broken
    runs-on: [linux]
    steps:
      - run: echo never
"#;
const NAME: &str = "[ci](x) | $(touch x)";

/// Bounds what is said here of how soon a push is shown as queued; what is wanted is 300 ms, and a machine may be busy.
const QUEUED_LIMIT: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_push_is_shown_from_queued_to_its_end_with_what_its_steps_said() -> Result<()> {
    let (stand, github) = with_github(", gather: 100ms").await?;
    let commit = stand.repository.commit("first", &[(".segue/pipelines/ci.yml", PIPELINE)])?;
    let pushed = stand.repository.push("main")?;
    let begun = Instant::now();
    stand.webhook()?.push(&stand.repository, &pushed).await?;

    let pipeline = check_shown(&github, &commit, NAME, "failure", LIMIT).await?;
    let first = pipeline.history.first().context("no history")?;
    let queued = first.0.duration_since(begun);
    eprintln!("from the push event to the check: {queued:?}, as {}", first.1);
    assert!(queued < QUEUED_LIMIT, "{queued:?}");
    assert!(pipeline.title.starts_with("Failed") && pipeline.title.ends_with(": broken"), "{}", pipeline.title);
    assert!(pipeline.summary.contains("| broken | failed"), "{}", pipeline.summary);
    assert_eq!(pipeline.external_id, "1.1.");

    let job = |name: &str| format!("{NAME} / {name}");
    let test = check_shown(&github, &commit, &job("test"), "success", LIMIT).await?;
    let told: Vec<_> =
        test.annotations.iter().map(|a| (a["path"].as_str(), a["start_line"].as_u64(), a["title"].as_str())).collect();
    assert_eq!(told, [(Some("src/lib.rs"), Some(7), Some("Odd"))]);
    assert_eq!(test.annotations[0]["annotation_level"], "warning");
    assert!(test.summary.contains("- error: no file in particular"), "{}", test.summary);

    let broken = check_shown(&github, &commit, &job("broken"), "failure", LIMIT).await?;
    assert!(broken.summary.contains("\\*\\*bold\\*\\*"), "what people wrote is shown literally: {}", broken.summary);
    let after = check_shown(&github, &commit, &job("after"), "cancelled", LIMIT).await?;
    assert!(after.title.starts_with("Not run: ") && after.title.contains("broken"), "it says why: {}", after.title);
    assert_eq!(github.check_runs(&commit).len(), 4, "one check each, changed in its place");

    // a rerun makes new checks, which are those that count
    let rerun = stand.segue(&["rerun", "1"])?;
    assert!(rerun.status.success(), "{}", String::from_utf8_lossy(&rerun.stderr));
    let again = tokio::time::timeout(LIMIT, async {
        loop {
            let newest = check_shown(&github, &commit, NAME, "failure", LIMIT).await?;
            if newest.id != pipeline.id {
                return anyhow::Ok(newest);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_eq!(again.await??.external_id, "1.2.");

    // a file that can't be used is shown where it is wrong
    let text = "on: [push]\njobs:\n  one:\n    runs-on: [linux]\n    stepss:\n      - run: echo hello\n";
    let commit = stand.repository.commit("broken file", &[(".segue/pipelines/ci.yml", text)])?;
    stand.push("main").await?;
    let shown = check_shown(&github, &commit, "ci", "failure", LIMIT).await?;
    let is_there = |a: &serde_json::Value| a["path"] == ".segue/pipelines/ci.yml" && a["start_line"] == 5;
    assert!(shown.annotations.iter().any(is_there), "{shown:#?}");
    assert!(shown.summary.contains("stepss"), "{}", shown.summary);
    assert!(github.requests().iter().all(|request| request.status.is_success()), "{:#?}", github.requests());
    Ok(())
}
