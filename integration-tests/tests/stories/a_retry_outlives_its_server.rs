use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{api::Api, stand::Stand};
use segue_schemas::{
    api::RunView,
    status::{JobStatus, RunStatus},
};

const LIMIT: Duration = Duration::from_secs(60);

/// A job that fails until a file is there, in a group of its own.
fn pipeline(gate: &Path) -> String {
    let gate = gate.display();
    format!(
        "on: [push]\nconcurrency: one\njobs:\n  flaky:\n    retry: {{ max: 1, backoff: 4s }}\n    steps:\n      - run: test -e {gate}\n"
    )
}

/// Waits until the run's job has failed for the first time.
async fn failed_once(api: &Api, run: i64) -> Result<String> {
    let begun = std::time::Instant::now();
    loop {
        let view: RunView = api.get(&format!("/runs/{run}")).await?;
        let job = view.jobs.first().context("the run has no job")?;
        if let Some(reason) = job.reason.clone().filter(|reason| reason.starts_with("try 1 of 2 failed")) {
            assert_eq!(job.status, JobStatus::Queued, "{view:#?}");
            return Ok(reason);
        }
        ensure!(begun.elapsed() < LIMIT, "the job has not failed: {view:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_job_that_waits_to_begin_again_does_so_after_kill_9_of_the_server() -> Result<()> {
    let mut stand = Stand::start("").await?;
    let api = stand.api()?;
    let gate = stand.folder().join("gate");
    let text = pipeline(&gate);
    let mut runs = Vec::new();
    for version in ["1", "2"] {
        stand.repository.commit(version, &[(".segue/pipelines/one.yml", &text), ("version", version)])?;
        let guid = stand.push("main").await?;
        runs.push(api.planned(&guid, LIMIT).await?.runs.first().context("the push made no run")?.0);
        if runs.len() == 1 {
            let reason = failed_once(&api, runs[0]).await?;
            ensure!(reason.ends_with("it begins again after 4 s"), "{reason}");
        }
    }
    stand.kill_server()?;
    std::fs::write(&gate, "")?;
    stand.start_server().await?;
    let first = api.ended(runs[0], LIMIT).await?;
    assert_eq!(first.run.status, RunStatus::Succeeded, "{first:#?}");
    // the group was held over the pause and the kill
    let second = api.ended(runs[1], LIMIT).await?;
    assert_eq!(second.run.status, RunStatus::Succeeded, "{second:#?}");
    ensure!(second.run.started_at >= first.run.ended_at, "{first:#?} {second:#?}");
    let log = api.log(&first.jobs[0].id).await?;
    assert_eq!(log.matches("##[group]Run test -e").count(), 2, "both tries are in the log:\n{log}");
    Ok(())
}
