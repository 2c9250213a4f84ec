use std::time::Duration;

use anyhow::{Context as _, Result};
use segue_integration_tests::{load::Load, routers::Kind, stand::Stand};
use segue_schemas::status::{RolloutStatus, RunStatus};

use crate::{RUN_LIMIT, commit_version, good_release, version_in};

#[tokio::test]
async fn the_canary_goes_on_by_the_weights_that_it_had() -> Result<()> {
    let mut stand = Stand::start_behind(Kind::Haproxy, "").await?;
    good_release(&stand, "1").await?;
    let newest = stand.api()?.rollouts("production").await?.first().context("no rollout")?.id.0;

    let load = Load::to(&stand.proxy, "production").start();
    commit_version(&stand, "2", 0.0, "2s")?;
    let guid = stand.push("main").await?;
    let api = stand.api()?;
    api.journaled("production", newest, Duration::from_secs(60), |view| view.rollout.weight == 10).await?;
    let router = stand.router()?;
    router.kill();
    router.start();
    // what it has come back with, before a stage can have ended: the former release has its traffic
    let mut old = 0;
    for _ in 0..20 {
        old += usize::from(version_in(&stand, "production").await? == "1");
    }
    assert!(old > 8, "version 1 answered {old} of 20 requests");

    let view = api.run_of(&guid, RUN_LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    let rollout = api.rollouts("production").await?.into_iter().next().context("no rollout")?;
    assert_eq!(rollout.status, RolloutStatus::Succeeded);
    assert_eq!(version_in(&stand, "production").await?, "2");
    load.stop().await;
    Ok(())
}
