use std::time::Duration;

use anyhow::Result;
use segue_integration_tests::stand::Stand;
use segue_schemas::status::{JobStatus, RunStatus};

const PIPELINE: &str = r#"on: [push]
jobs:
  list:
    outputs: { words: "${{ steps.say.outputs.words }}" }
    steps:
      - id: say
        run: echo 'words=["one", "two", "three"]' >> "$SEGUE_OUTPUT"
  each:
    needs: list
    name: Each ${{ matrix.word }}
    strategy:
      max-parallel: 2
      matrix:
        word: ${{ fromJSON(needs.list.outputs.words) }}
        include:
          - { word: two, loud: "yes" }
    outputs: { said: "${{ steps.say.outputs.said }}" }
    steps:
      - id: say
        run: echo "said=$WORD-${{ strategy.job-index }}-of-${{ strategy.job-total }}${{ matrix.loud && '!' }}" >> "$SEGUE_OUTPUT"
        env: { WORD: "${{ matrix.word }}" }
  all:
    needs: each
    steps:
      - run: echo "all said $SAID, and the second $SECOND"
        env:
          SAID: ${{ join(needs.each.matrix.*.outputs.said, ' ') }}
          SECOND: ${{ needs.each.matrix.two.outputs.said }}
  nightly:
    continue-on-error: true
    steps: [{ run: exit 3 }]
"#;

const FAIL_FAST: &str = r#"on: [push]
jobs:
  shards:
    strategy: { matrix: { seconds: [0, 600] } }
    steps:
      - run: test ${{ matrix.seconds }} -gt 0 && sleep ${{ matrix.seconds }}
"#;

#[tokio::test]
async fn every_combination_runs_and_hands_its_outputs_on() -> Result<()> {
    let stand = Stand::start("").await?;
    let api = stand.api()?;
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    let guid = stand.push("main").await?;
    let view = api.run_of(&guid, Duration::from_secs(60)).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    let keys: Vec<&str> = view.jobs.iter().map(|job| job.key.as_str()).collect();
    assert_eq!(keys, ["list", "each (one)", "each (two)", "each (three)", "all", "nightly"]);
    assert_eq!(view.jobs[2].name, "Each two");
    let log = api.log(&view.jobs[4].id).await?;
    assert!(log.contains("all said one-0-of-3 three-2-of-3 two-1-of-3!, and the second two-1-of-3!"), "{log}");
    assert_eq!((view.jobs[5].status, view.jobs[5].may_fail), (JobStatus::Failed, true));
    let shown = stand.segue(&["runs", &view.run.id.to_string()])?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("job nightly  failed, allowed"), "{shown}");
    Ok(())
}

#[tokio::test]
async fn the_first_combination_that_fails_ends_the_others_at_once() -> Result<()> {
    let stand = Stand::start("").await?;
    let api = stand.api()?;
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", FAIL_FAST)])?;
    let guid = stand.push("main").await?;
    let view = api.run_of(&guid, Duration::from_secs(60)).await?;
    assert_eq!(view.run.status, RunStatus::Failed);
    let ends: Vec<JobStatus> = view.jobs.iter().map(|job| job.status).collect();
    assert_eq!(ends, [JobStatus::Failed, JobStatus::Cancelled]);
    let reason = view.jobs[1].reason.clone().unwrap_or_default();
    assert_eq!(reason, "`shards (0)` failed, and its matrix is `fail-fast`");
    Ok(())
}
