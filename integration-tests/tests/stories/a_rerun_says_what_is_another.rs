use std::time::Duration;

use anyhow::Result;
use segue_integration_tests::stand::Stand;
use segue_schemas::{
    api::{JobView, RunSummary, RunView},
    status::{JobStatus, RunStatus},
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// `build` uses a composite action, whose text a later commit changes; `deploy` counts its starts.
const PIPELINE: &str = r#"on:
  workflow_dispatch:
    inputs:
      level: { type: choice, options: [low, high], default: low }
      count: { type: number, default: 1 }
jobs:
  build:
    runs-on: [linux]
    steps:
      - uses: segue/checkout
      - uses: ./.segue/actions/say
      - run: echo "level $LEVEL, $COUNT times, debug $SEGUE_DEBUG$RUNNER_DEBUG, at $GITHUB_SHA"
        env:
          LEVEL: ${{ inputs.level }}
          COUNT: ${{ inputs.count }}
  deploy:
    needs: [build]
    runs-on: [linux]
    environment: staging
    steps:
      - run: echo deployed >> STARTS
"#;

const ACTION: &str = "name: say\nruns:\n  using: composite\n  steps:\n    - run: echo FIRST\n      shell: bash\n";

#[tokio::test]
async fn a_rerun_repeats_no_deploy_in_silence_and_shows_its_inputs_and_its_reason() -> Result<()> {
    let stand = Stand::start("").await?;
    let api = stand.api()?;
    let starts = stand.folder().join("starts");
    std::fs::write(&starts, "")?;
    std::fs::set_permissions(&starts, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    let deployed = || std::fs::read_to_string(&starts).unwrap_or_default().lines().count();
    let pipeline = PIPELINE.replace("STARTS", &starts.display().to_string());
    let files = [(".segue/pipelines/build.yml", pipeline.as_str()), (".segue/actions/say/action.yml", ACTION)];
    let commit = stand.repository.commit("first", &files)?;
    stand.repository.push("main")?;
    let started = stand.segue(&["run", "--repository", "acme/shop", "--watch"])?;
    assert_eq!(started.status.code(), Some(0), "{}", String::from_utf8_lossy(&started.stdout));
    let run = api.runs().await?.items[0].id.to_string();
    assert_eq!(deployed(), 1);
    // what is newer on the branch is none of a rerun's
    let changed = ACTION.replace("FIRST", "SECOND");
    stand.repository.commit("second", &[(".segue/actions/say/action.yml", &changed)])?;
    stand.repository.push("main")?;

    // nobody says whether it may deploy again
    let refused = stand.segue(&["rerun", &run])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("this would deploy again: deploy") && said.contains("--no-deploy"), "{said}");
    let refused = api.post::<RunSummary>(&format!("/runs/{run}/rerun"), &json!({})).await;
    assert!(refused.is_err(), "the API says the same");

    // inputs are looked at as they were at first
    for (input, problem) in
        [("level=loud", "`loud` is not among its options"), ("lvel=low", "there is no input `lvel`")]
    {
        let refused = stand.segue(&["rerun", &run, "--no-deploy", "--input", input])?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && said.contains(problem), "{said}");
    }

    let again =
        ["rerun", &run, "--no-deploy", "--debug", "--input", "level=high", "--reason", "to see\nmore", "--watch"];
    let done = stand.segue(&again)?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(0), "{said}");
    assert!(said.contains("it does not deploy again: deploy stayed as before"), "{said}");
    let view: RunView = api.get(&format!("/runs/{run}")).await?;
    assert_eq!((view.run.status, view.run.attempt, deployed()), (RunStatus::Succeeded, 2, 1));
    assert_eq!(view.run.commit.as_str(), commit);
    let terms = serde_json::to_value(&view.run.terms)?;
    let expected = json!({"reason": "to see more", "debug": true, "inputs": {"level": "high"}, "left_out": ["deploy"]});
    assert_eq!(terms, expected);
    let log = api.log(&job(&view, "build").id).await?;
    assert!(log.contains(&format!("level high, 1 times, debug 11, at {commit}")), "{log}");
    assert!(log.contains("##[debug]`if` of step"), "{log}");
    assert!(log.contains("FIRST") && !log.contains("SECOND"), "the action is that of the commit: {log}");
    let list = String::from_utf8_lossy(&stand.segue(&["runs"])?.stdout).into_owned();
    assert!(list.contains("(level=high) (debug)"), "{list}");
    let shown = String::from_utf8_lossy(&stand.segue(&["runs", &run])?.stdout).into_owned();
    assert!(shown.contains("with other inputs: level=high") && shown.contains("because: to see more"), "{shown}");

    // the inputs of the attempt before go on, debug logging does not; and now it deploys again
    let done = stand.segue(&["rerun", &run, "--deploy", "--watch"])?;
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stdout));
    let view = api.ended(run.parse()?, LIMIT).await?;
    assert_eq!((view.run.attempt, deployed(), job(&view, "deploy").status), (3, 2, JobStatus::Succeeded));
    let terms: Value = serde_json::to_value(&view.run.terms)?;
    assert_eq!(terms, json!({"inputs": {"level": "high"}, "deploys": ["deploy"]}));
    let log = api.log(&job(&view, "build").id).await?;
    assert!(log.contains("level high, 1 times, debug , at"), "{log}");
    let first: RunView = api.get(&format!("/runs/{run}?attempt=1")).await?;
    assert!(api.log(&job(&first, "build").id).await?.contains("level low, 1 times, debug , at"));
    Ok(())
}

fn job<'v>(view: &'v RunView, key: &str) -> &'v JobView {
    view.jobs.iter().find(|job| job.key == key).unwrap_or_else(|| panic!("no job {key}: {view:?}"))
}
