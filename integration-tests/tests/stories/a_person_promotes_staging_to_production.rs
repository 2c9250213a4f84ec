use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{sample, stand::Stand};
use segue_schemas::{
    api::{PromotionList, PromotionView, RunSummary},
    status::{JobStatus, RunStatus},
};

use crate::{RUN_LIMIT, version_in};

const PIPELINE: &str = r#"on: [push]
jobs:
  staging:
    environment: staging
    steps:
      - uses: segue/checkout
      - run: |
          mkdir dist
          cp service.yml dist/
          cp "$SAMPLE_SERVICE" dist/sample-service
        env:
          SAMPLE_SERVICE: ${{ vars.SAMPLE_SERVICE }}
      - uses: segue/deploy
        with: { service: api, path: dist }
"#;

#[tokio::test]
async fn through_the_gate_of_production_and_only_what_was_shown() -> Result<()> {
    let stand = Stand::start("environments:\n  staging: {}\n  production: {required-approvals: 1}\n").await?;
    let nothing = stand.segue(&["promote", "staging", "production"])?;
    ensure!(nothing.status.code() == Some(1), "{nothing:?}");
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("deploy it there first"), "{nothing:?}");

    // the first release
    to_staging(&stand, "1").await?;
    let shown = promote(&stand, &["--dry-run"])?;
    ensure!(shown.run.is_none() && shown.before.is_none() && !shown.is_same, "{shown:#?}");
    let begun = promote(&stand, &["--service", "api", "--no-wait"])?;
    let run = begun.run.context("no run was started")?;
    let waits = [JobStatus::Waiting, JobStatus::Queued];
    let view = stand.api()?.job_becomes(run.id.0, "promote", &waits, RUN_LIMIT).await?;
    let reason = view.jobs[0].reason.clone().unwrap_or_default();
    assert!(reason.contains("approv"), "it waits for the gate: {view:#?}");
    ensure!(version_in(&stand, "production").await.is_err(), "nothing is there before the approval");
    assert_eq!(approved(&stand, &run).await?, RunStatus::Succeeded);
    assert_eq!(version_in(&stand, "production").await?, "1");
    let rollout = &stand.api()?.rollouts("production").await?[0];
    assert_eq!(rollout.spec.release, shown.release, "the same release, and so the same bytes");

    // once more there is nothing to do
    let again = promote(&stand, &[])?;
    ensure!(again.is_same && again.run.is_none(), "{again:#?}");

    // what comes to staging meanwhile was not what was shown
    to_staging(&stand, "2").await?;
    let shown = promote(&stand, &["--no-wait", "--strategy", "hot-swap"])?;
    let titles: Vec<String> = shown.commits.iter().flatten().map(|commit| commit.title.clone()).collect();
    assert_eq!((titles, shown.before.map(|before| before.id)), (vec!["2".to_owned()], Some(rollout.spec.release.id)));
    let run = shown.run.context("no run was started")?;
    stand.api()?.job_becomes(run.id.0, "promote", &waits, RUN_LIMIT).await?;
    to_staging(&stand, "3").await?;
    assert_eq!(approved(&stand, &run).await?, RunStatus::Failed);
    let ended = stand.api()?.ended(run.id.0, RUN_LIMIT).await?;
    let said = format!("{:?} {}", ended.jobs[0].reason, stand.api()?.log(&ended.jobs[0].id).await?);
    assert!(said.contains("serves in `staging` by now"), "{said}");
    assert_eq!(version_in(&stand, "production").await?, "1");
    Ok(())
}

async fn to_staging(stand: &Stand, version: &str) -> Result<()> {
    let files = [
        (".segue/pipelines/release.yml", PIPELINE),
        (".segue/services/api.yml", sample::SERVICE),
        ("service.yml", &sample::service_yml(version, 0.0)),
    ];
    stand.repository.commit(version, &files)?;
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, RUN_LIMIT).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "version {version} ended so: {view:#?}");
    Ok(())
}

/// What `segue promote staging production` says of the one service that there is.
fn promote(stand: &Stand, more: &[&str]) -> Result<PromotionView> {
    let said = stand.segue(&[&["promote", "staging", "production", "--json"], more].concat())?;
    ensure!(said.status.success(), "{said:?}");
    let list: PromotionList = serde_json::from_slice(&said.stdout)?;
    ensure!(list.items.len() == 1, "{list:#?}");
    list.items.into_iter().next().context("nothing is said")
}

async fn approved(stand: &Stand, run: &RunSummary) -> Result<RunStatus> {
    let said = stand.segue(&["approve", &run.id.to_string()])?;
    ensure!(said.status.success(), "{said:?}");
    Ok(stand.api()?.ended(run.id.0, RUN_LIMIT).await?.run.status)
}
