use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use segue_integration_tests::{load::Load, stand::Stand};
use segue_schemas::status::RolloutStatus;

use crate::{RUN_LIMIT, commit_version, good_release, nothing_was_dropped, version_in};

#[tokio::test]
async fn with_the_server_up_it_takes_effect_at_once_and_the_canary_ends_rolled_back() -> Result<()> {
    let (stand, rollout, run) = canary_at_ten_percent().await?;
    let load = Load::to(&stand.proxy, "production").start();
    emergency(&stand).await?;
    let api = stand.api()?;
    let ended = api.rollout_ended(rollout, RUN_LIMIT).await?;
    assert_eq!(ended.rollout.status, RolloutStatus::RolledBack, "{ended:#?}");
    assert!(api.ended(run, RUN_LIMIT).await?.run.status.is_final());
    nothing_was_dropped(&load.stop().await);
    assert_eq!(version_in(&stand, "production").await?, "1");
    Ok(())
}

#[tokio::test]
async fn with_the_server_down_it_takes_effect_as_well_and_is_recorded_afterwards() -> Result<()> {
    let (mut stand, rollout, run) = canary_at_ten_percent().await?;
    let load = Load::to(&stand.proxy, "production").start();
    stand.kill_server()?;
    emergency(&stand).await?;
    stand.start_server().await?;
    let api = stand.api()?;
    let ended = api.rollout_ended(rollout, RUN_LIMIT).await?;
    assert_eq!(ended.rollout.status, RolloutStatus::RolledBack, "{ended:#?}");
    assert!(api.ended(run, RUN_LIMIT).await?.run.status.is_final());
    nothing_was_dropped(&load.stop().await);
    assert_eq!(version_in(&stand, "production").await?, "1");

    // and the next release goes its way
    good_release(&stand, "3").await?;
    assert_eq!(version_in(&stand, "production").await?, "3");
    Ok(())
}

async fn canary_at_ten_percent() -> Result<(Stand, segue_schemas::id::RolloutId, i64)> {
    let stand = Stand::start("").await?;
    good_release(&stand, "1").await?;
    let api = stand.api()?;
    let newest = api.rollouts("production").await?.first().context("no rollout")?.id.0;
    commit_version(&stand, "2", 0.0, "60s")?;
    let guid = stand.push("main").await?;
    let run = api.planned(&guid, Duration::from_secs(30)).await?.runs[0];
    let view = api.journaled("production", newest, Duration::from_secs(60), |view| view.rollout.weight == 10).await?;
    Ok((stand, view.rollout.id, run.0))
}

async fn emergency(stand: &Stand) -> Result<()> {
    let begun = Instant::now();
    let output = stand.segue(&["rollback", "production", "api", "--emergency"])?;
    println!("`segue rollback --emergency` took {:?}", begun.elapsed());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for _ in 0..40 {
        assert_eq!(version_in(stand, "production").await?, "1", "every request is back at once");
    }
    Ok(())
}
