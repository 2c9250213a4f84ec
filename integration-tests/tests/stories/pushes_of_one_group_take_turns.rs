use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{api::Api, stand::Stand};
use segue_schemas::{api::RunView, status::RunStatus};

const LIMIT: Duration = Duration::from_secs(60);

/// A pipeline in a group, whose job ends when a file is there.
fn pipeline(environment: &str, gate: &Path) -> String {
    let gate = gate.display();
    format!(
        "on: [push]\nconcurrency: main-${{{{ github.ref_name }}}}\njobs:\n  work:\n{environment}    steps:\n      \
         - run: until test -e {gate}; do sleep 0.1; done\n"
    )
}

/// Three pushes while the first is at work; their runs.
async fn three_pushes(stand: &Stand, api: &Api, text: &str) -> Result<Vec<i64>> {
    let mut runs = Vec::new();
    for n in 0..3 {
        let version = format!("{n}");
        stand.repository.commit(&version, &[(".segue/pipelines/one.yml", text), ("version", &version)])?;
        let guid = stand.push("main").await?;
        let delivery = api.planned(&guid, LIMIT).await?;
        runs.push(delivery.runs.first().context("the push made no run")?.0);
        if n == 0 {
            api.job_becomes(runs[0], "work", &[segue_schemas::status::JobStatus::Running], LIMIT).await?;
        }
    }
    Ok(runs)
}

#[tokio::test]
async fn what_is_no_deploy_waits_its_turn_and_says_for_whom() -> Result<()> {
    let stand = Stand::start("").await?;
    let api = stand.api()?;
    let gate = stand.folder().join("gate");
    let runs = three_pushes(&stand, &api, &pipeline("", &gate)).await?;
    let waiting: RunView = api.get(&format!("/runs/{}", runs[2])).await?;
    let reason = waiting.jobs[0].reason.clone().unwrap_or_default();
    assert_eq!(reason, format!("waits: run {} has the concurrency group `main-main`", runs[0]));
    let shown = stand.segue(&["runs", &runs[2].to_string()])?;
    ensure!(String::from_utf8_lossy(&shown.stdout).contains(&reason), "{shown:?}");
    std::fs::write(&gate, "")?;
    let mut ends = Vec::new();
    for run in &runs {
        let view = api.ended(*run, LIMIT).await?;
        assert_eq!(view.run.status, RunStatus::Succeeded);
        ends.push((view.run.started_at, view.run.ended_at));
    }
    assert!(ends[0].1 <= ends[1].0 && ends[1].1 <= ends[2].0, "one after the other, in order: {ends:?}");
    Ok(())
}

#[tokio::test]
async fn the_newest_deploy_that_waits_supersedes_the_older_one() -> Result<()> {
    let stand = Stand::start("").await?;
    let api = stand.api()?;
    let gate = stand.folder().join("gate");
    let runs = three_pushes(&stand, &api, &pipeline("    environment: staging\n", &gate)).await?;
    let superseded = api.ended(runs[1], LIMIT).await?;
    assert_eq!(superseded.run.status, RunStatus::Skipped);
    let reason = format!("superseded by run {}, the newer deploy in the concurrency group `main-main`", runs[2]);
    assert_eq!(superseded.jobs[0].reason.as_deref(), Some(reason.as_str()));
    std::fs::write(&gate, "")?;
    assert_eq!(api.ended(runs[0], LIMIT).await?.run.status, RunStatus::Succeeded, "what was at work was left alone");
    assert_eq!(api.ended(runs[2], LIMIT).await?.run.status, RunStatus::Succeeded);
    Ok(())
}
