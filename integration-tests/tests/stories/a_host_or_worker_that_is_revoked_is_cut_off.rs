use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{joined::JoinedHost, load::Load, stand::Stand};
use segue_schemas::{api::HostStatus, id::RolloutId, status::RolloutStatus};

use crate::{QUICK, RUN_LIMIT, commit_version, good_release, version_in};

/// A canary that nobody ends: the rollout, and the run that waits for it.
async fn open_canary(stand: &Stand, version: &str) -> Result<(RolloutId, i64)> {
    let newest = stand.api()?.rollouts("production").await?.first().map_or(0, |rollout| rollout.id.0);
    commit_version(stand, version, 0.0, "60s")?;
    let guid = stand.push("main").await?;
    let api = stand.api()?;
    let run = api.planned(&guid, Duration::from_secs(30)).await?.runs[0];
    let view = api.journaled("production", newest, RUN_LIMIT, |view| view.rollout.weight == 10).await?;
    Ok((view.rollout.id, run.0))
}

/// Waits until the old version alone answers.
async fn only(stand: &Stand, version: &str) -> Result<()> {
    let begun = std::time::Instant::now();
    loop {
        let mut others = 0;
        for _ in 0..30 {
            others += usize::from(version_in(stand, "production").await? != version);
        }
        if others == 0 {
            return Ok(());
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "others than version {version} answer still");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_host_that_is_revoked_falls_back_by_itself_and_goes_on_once_it_has_joined_anew() -> Result<()> {
    let (stand, mut host) = Stand::start_joined("far", QUICK).await?;
    good_release(&stand, "1").await?;
    let load = Load::to(&stand.proxy, "production").start();
    let (rollout, run) = open_canary(&stand, "2").await?;

    let revoked = stand.segue(&["host", "revoke", "far"])?;
    let said = String::from_utf8_lossy(&revoked.stdout).into_owned();
    assert!(revoked.status.success() && said.contains(&format!("rollout {rollout}")), "{said}");
    host.until_said("listens to no worker").await?;
    assert_eq!(stand.host_becomes("far", HostStatus::Revoked).await?.name, "far");
    // nobody puts the dead-man's deadline off
    only(&stand, "1").await?;
    assert!(!stand.api()?.rollout(rollout).await?.rollout.status.is_final());
    // its own machine is its own
    assert!(!host.join_with(&stand, &stand.invite("far")?)?.status.success(), "it has an identity already");

    host.kill()?;
    fs::remove_file(host.data.join("joined.json"))?;
    host.join(&stand)?;
    host.start()?;
    let ended = stand.api()?.rollout_ended(rollout, RUN_LIMIT).await?;
    assert_eq!(ended.rollout.status, RolloutStatus::RolledBack, "{ended:#?}");
    assert!(stand.api()?.ended(run, RUN_LIMIT).await?.run.status.is_final());
    assert_eq!(version_in(&stand, "production").await?, "1");
    crate::nothing_was_dropped(&load.stop().await);
    Ok(())
}

#[tokio::test]
async fn a_worker_that_is_revoked_is_cut_off_and_another_ends_what_it_drove() -> Result<()> {
    let settings = format!(
        "  far: {{join: true}}\nenvironments: {{staging: {{hosts: [far]}}, production: {{hosts: [far]}}}}\n{QUICK}"
    );
    let mut stand = Stand::start_server_alone(&settings).await?;
    let mut host = JoinedHost::new(&stand, "far")?;
    host.join(&stand)?;
    host.start()?;
    let made = stand.segue(&["worker", "token", "create", "pool"])?;
    assert!(made.status.success());
    fs::write(stand.data().join("pool-token"), made.stdout)?;
    stand.start_worker_beside("first", "pool-token")?;
    good_release(&stand, "1").await?;
    let (rollout, _) = open_canary(&stand, "2").await?;

    assert!(stand.segue(&["worker", "token", "revoke", "pool"])?.status.success());
    // the host goes by the newer list
    let begun = std::time::Instant::now();
    loop {
        let kept: serde_json::Value = serde_json::from_slice(&fs::read(host.data.join("joined.json"))?)?;
        if kept["revision"] == 1 {
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "the host was not told");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stand.start_worker_beside("second", "worker-token")?;
    let driven = stand
        .api()?
        .journaled("production", rollout.0 - 1, RUN_LIMIT, |view| view.journal.iter().any(|entry| entry.epoch.0 > 2))
        .await;
    let view = driven.context("nobody went on")?;
    assert_eq!(view.rollout.id, rollout);
    let told = stand.segue(&["rollout", "abort", &rollout.to_string(), "--reason", "enough"])?;
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let ended = stand.api()?.rollout_ended(rollout, RUN_LIMIT).await?;
    assert_eq!(ended.rollout.status, RolloutStatus::RolledBack, "{ended:#?}");
    only(&stand, "1").await?;
    Ok(())
}
