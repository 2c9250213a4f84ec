use anyhow::{Context as _, Result};
use segue_integration_tests::{load::Load, routers::Kind, stand::Stand};
use segue_schemas::status::RunStatus;

use crate::{RUN_LIMIT, commit_version, good_release, nothing_was_dropped, version_in};

#[tokio::test]
async fn the_rollout_says_so_and_what_served_serves() -> Result<()> {
    let mut stand = Stand::start_behind(Kind::Nginx, "").await?;
    good_release(&stand, "1").await?;

    stand.router()?.write_main("include /nowhere/broken.conf;");
    let load = Load::to(&stand.proxy, "staging").start();
    commit_version(&stand, "2", 0.0, "1s")?;
    let guid = stand.push("main").await?;
    let api = stand.api()?;
    let view = api.run_of(&guid, RUN_LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Failed, "{view:#?}");
    let rollout = api.rollouts("staging").await?.into_iter().next().context("no rollout")?;
    let journal = format!("{:#?}", api.rollout(rollout.id).await?);
    assert!(journal.contains("broken beside Segue's file"), "{journal}");
    assert!(journal.contains("/nowhere/broken.conf"), "{journal}");
    nothing_was_dropped(&load.stop().await);
    assert_eq!(version_in(&stand, "staging").await?, "1");

    stand.router()?.write_main("");
    good_release(&stand, "3").await?;
    assert_eq!(version_in(&stand, "production").await?, "3");
    Ok(())
}
