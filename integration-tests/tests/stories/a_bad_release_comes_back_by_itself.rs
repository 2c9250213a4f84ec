use anyhow::{Context as _, Result};
use segue_integration_tests::{api::has, load::Load, stand::Stand};
use segue_schemas::{
    deploy::JournalKind,
    status::{JobStatus, RolloutStatus, RunStatus},
};

use crate::{good_release, nothing_was_dropped, release, version_in};

#[tokio::test]
async fn a_release_that_fails_a_fifth_of_productions_requests_is_caught_and_the_record_says_why() -> Result<()> {
    let stand = Stand::start("").await?;
    good_release(&stand, "1").await?;

    let load = Load::to(&stand.proxy, "production").start();
    let view = release(&stand, "2", 0.2, "3s").await?;
    // traffic goes on for a moment, to see that it stays where it was
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let tally = load.stop().await;

    assert_eq!(view.run.status, RunStatus::Failed);
    let staging = view.jobs.iter().find(|job| job.key == "staging").context("no staging job")?;
    assert_eq!(staging.status, JobStatus::Succeeded, "it passed its tests and staging");
    let production = view.jobs.iter().find(|job| job.key == "production").context("no production job")?;
    assert_eq!(production.status, JobStatus::Failed);

    let api = stand.api()?;
    let rollout = api.rollouts("production").await?.into_iter().next().context("no rollout")?;
    assert_eq!(rollout.status, RolloutStatus::RolledBack);
    assert_eq!(rollout.weight, 0);
    let verdict = rollout.verdict.clone().context("no verdict")?;
    assert!(verdict.to_string().contains(char::is_numeric), "the verdict holds its numbers: {verdict}");
    let journal = api.rollout(rollout.id).await?;
    assert!(has(&journal, JournalKind::Verdict) && has(&journal, JournalKind::RollBackIntent));

    nothing_was_dropped(&tally);
    assert_eq!(version_in(&stand, "production").await?, "1");
    assert_eq!(version_in(&stand, "staging").await?, "2");
    let bad = tally.of("2");
    assert!(bad > 0 && bad < tally.of("1"), "the canary saw {bad} requests, version 1 {}", tally.of("1"));
    Ok(())
}
