use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{load::Load, stand::Stand};
use segue_schemas::status::RolloutStatus;

use crate::{QUICK, RUN_LIMIT, commit_version, good_release, nothing_was_dropped, version_in};

#[tokio::test]
async fn the_dead_mans_switch_takes_the_traffic_back_and_the_record_says_so_later() -> Result<()> {
    let mut stand = Stand::start(QUICK).await?;
    good_release(&stand, "1").await?;
    let newest = stand.api()?.rollouts("production").await?.first().context("no rollout")?.id.0;

    // it fails every request, but nobody asks before the server is dead
    commit_version(&stand, "2", 1.0, "60s")?;
    let guid = stand.push("main").await?;
    let api = stand.api()?;
    let run = api.planned(&guid, Duration::from_secs(30)).await?.runs[0];
    let view = api.journaled("production", newest, Duration::from_secs(60), |view| view.rollout.weight == 10).await?;
    stand.kill_server()?;
    let load = Load::to(&stand.proxy, "production").start();

    let dead = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let mut old = 0;
        for _ in 0..30 {
            old += usize::from(version_in(&stand, "production").await.is_ok_and(|version| version == "1"));
        }
        if old == 30 {
            break;
        }
        ensure!(dead.elapsed() < Duration::from_secs(20), "the canary still has traffic after 20 s");
    }
    println!("traffic was back {:?} after the server's death (the switch was set to 3 s)", dead.elapsed());
    nothing_was_dropped(&load.stop().await);

    stand.start_server().await?;
    let ended = api.rollout_ended(view.rollout.id, RUN_LIMIT).await?;
    assert_eq!(ended.rollout.status, RolloutStatus::RolledBack, "{ended:#?}");
    assert!(api.ended(run.0, RUN_LIMIT).await?.run.status.is_final());
    assert_eq!(version_in(&stand, "production").await?, "1");
    Ok(())
}
