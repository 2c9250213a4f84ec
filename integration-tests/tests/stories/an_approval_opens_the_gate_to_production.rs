use std::time::Duration;

use anyhow::Result;
use segue_integration_tests::stand::Stand;
use segue_schemas::status::{JobStatus, RunStatus};

use crate::{RUN_LIMIT, commit_version, version_in};

#[tokio::test]
async fn production_waits_for_a_person_and_goes_on_once_approved() -> Result<()> {
    let stand = Stand::start("environments:\n  staging: {}\n  production: {required-approvals: 1}\n").await?;
    let api = stand.api()?;
    commit_version(&stand, "1", 0.0, "1s")?;
    let guid = stand.push("main").await?;
    let run = api.planned(&guid, Duration::from_secs(30)).await?.runs[0];
    let view = api.job_becomes(run.0, "staging", &[JobStatus::Succeeded], RUN_LIMIT).await?;
    assert!(!view.run.status.is_final());
    let view = api.job_becomes(run.0, "production", &[JobStatus::Waiting, JobStatus::Queued], RUN_LIMIT).await?;
    let waiting = view.jobs.iter().find(|job| job.key == "production").and_then(|job| job.reason.clone());
    assert!(waiting.is_some_and(|reason| reason.contains("approv")), "it says what it waits for: {view:#?}");

    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(version_in(&stand, "production").await.is_err(), "nothing is there before the approval");

    let output = stand.segue(&["approve", &run.to_string()])?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let view = api.ended(run.0, RUN_LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    assert_eq!(version_in(&stand, "production").await?, "1");
    Ok(())
}

#[tokio::test]
async fn production_refuses_what_has_not_passed_staging() -> Result<()> {
    let stand = Stand::start("").await?;
    commit_version(&stand, "1", 0.0, "1s")?;
    let pipeline = segue_integration_tests::sample::pipeline("1s");
    let skipping = pipeline.replace("    needs: [staging]\n", "    needs: [build]\n");
    // staging's own job is taken out whole
    let (before, after) = skipping.split_once("  staging:\n").unwrap_or((&skipping, ""));
    let production = after.split_once("  production:\n").map_or("", |(_, rest)| rest);
    let skipping = format!("{before}  production:\n{production}");
    stand.repository.commit("skip staging", &[(".segue/pipelines/release.yml", &skipping)])?;
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, RUN_LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Failed, "{view:#?}");
    let job = view.jobs.iter().find(|job| job.key == "production").expect("the job");
    let said = format!("{:?} {}", job.reason, stand.api()?.log(&job.id).await?);
    assert!(said.contains("staging"), "it says what is missing: {said}");
    Ok(())
}
