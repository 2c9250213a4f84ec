use anyhow::{Context as _, Result};
use segue_integration_tests::{api::has, load::Load, routers::Kind, stand::Stand};
use segue_schemas::{
    deploy::JournalKind,
    status::{JobStatus, RolloutStatus, RunStatus},
};

use crate::{good_release, nothing_was_dropped, release, version_in};

#[tokio::test]
async fn haproxy() -> Result<()> {
    comes_back(Kind::Haproxy).await
}

#[tokio::test]
async fn nginx() -> Result<()> {
    comes_back(Kind::Nginx).await
}

async fn comes_back(kind: Kind) -> Result<()> {
    let stand = Stand::start_behind(kind, "").await?;
    good_release(&stand, "1").await?;

    let load = Load::to(&stand.proxy, "production").start();
    let view = release(&stand, "2", 0.3, "3s").await?;
    // traffic goes on for a moment, to see that it stays where it was
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let tally = load.stop().await;

    assert_eq!(view.run.status, RunStatus::Failed);
    let production = view.jobs.iter().find(|job| job.key == "production").context("no production job")?;
    assert_eq!(production.status, JobStatus::Failed);
    let api = stand.api()?;
    let rollout = api.rollouts("production").await?.into_iter().next().context("no rollout")?;
    assert_eq!((rollout.status, rollout.weight), (RolloutStatus::RolledBack, 0));
    let verdict = rollout.verdict.clone().context("no verdict")?;
    assert!(verdict.to_string().contains(char::is_numeric), "the verdict holds its numbers: {verdict}");
    assert!(has(&api.rollout(rollout.id).await?, JournalKind::Verdict));

    nothing_was_dropped(&tally);
    assert!(tally.streams > 0, "no stream came to its end");
    assert_eq!(version_in(&stand, "production").await?, "1");
    assert_eq!(version_in(&stand, "staging").await?, "2");
    let bad = tally.of("2");
    assert!(bad > 0 && bad < tally.of("1"), "the canary saw {bad} requests, version 1 {}", tally.of("1"));
    Ok(())
}
