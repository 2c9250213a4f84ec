//! `kill -9` of server and worker in each stage. The moment is found by watching the record from outside.

use std::time::Duration;

use anyhow::{Context as _, Result};
use segue_integration_tests::{load::Load, routers::Kind, stand::Stand};
use segue_schemas::{
    api::{RolloutView, RunView},
    deploy::JournalKind,
    status::{JobStatus, RolloutStatus},
};

use crate::{QUICK, RUN_LIMIT, commit_version, good_release, nothing_was_dropped, version_in};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn in_the_test() -> Result<()> {
    let mut stand = Stand::start(QUICK).await?;
    let mut versions = vec![(good_release(&stand, "1").await?.run.commit.to_string(), "1".to_owned())];
    versions.push((commit_version(&stand, "2", 0.0, "1s")?, "2".to_owned()));
    let load = Load::to(&stand.proxy, "production").start();
    let guid = stand.push("main").await?;
    let run = stand.api()?.planned(&guid, SOON).await?.runs[0];
    stand
        .api()?
        .job_becomes(run.0, "test", &[JobStatus::Leased, JobStatus::Running, JobStatus::Succeeded], SOON)
        .await?;
    crash_and_see(&mut stand, run.0, &versions).await?;
    nothing_was_dropped(&load.stop().await);
    Ok(())
}

#[tokio::test]
async fn while_staging_is_swapped() -> Result<()> {
    crash_when("staging", 0.0, |view| has(view, JournalKind::ShiftIntent)).await
}

#[tokio::test]
async fn while_the_canary_starts() -> Result<()> {
    crash_when("production", 0.0, |view| has(view, JournalKind::StartIntent)).await
}

#[tokio::test]
async fn while_the_canary_has_ten_percent() -> Result<()> {
    crash_when("production", 0.0, |view| view.rollout.weight == 10).await
}

#[tokio::test]
async fn while_the_canary_has_fifty_percent() -> Result<()> {
    crash_when("production", 0.0, |view| view.rollout.weight == 50).await
}

#[tokio::test]
async fn while_the_canary_has_everything() -> Result<()> {
    crash_when("production", 0.0, |view| view.rollout.weight == 100).await
}

#[tokio::test]
async fn while_it_is_rolled_back() -> Result<()> {
    crash_when("production", 1.0, |view| has(view, JournalKind::RollBackIntent)).await
}

/// At each entry of the journal, behind another router than the host's own.
macro_rules! behind {
    ($($router:ident: $kind:expr),+) => {
        $(mod $router {
            use super::*;

            #[tokio::test]
            async fn until_it_is_ready() -> Result<()> {
                use JournalKind::{Claimed, Ready, StartIntent, Started};
                at_each($kind, 0.0, &[Claimed, StartIntent, Started, Ready]).await
            }

            #[tokio::test]
            async fn until_the_former_one_is_retired() -> Result<()> {
                use JournalKind::{RetireIntent, Retired, ShiftIntent, Shifted};
                at_each($kind, 0.0, &[ShiftIntent, Shifted, RetireIntent, Retired]).await
            }

            #[tokio::test]
            async fn on_its_way_back() -> Result<()> {
                use JournalKind::{RollBackIntent, RolledBack, Verdict};
                at_each($kind, 1.0, &[Verdict, RollBackIntent, RolledBack]).await
            }
        })+
    };
}

behind!(haproxy: Kind::Haproxy, nginx: Kind::Nginx);

/// One release after the other into production, each of which is interrupted at another entry.
async fn at_each(kind: Kind, failing: f64, entries: &[JournalKind]) -> Result<()> {
    let mut stand = Stand::start_behind(kind, QUICK).await?;
    let mut versions = vec![(good_release(&stand, "1").await?.run.commit.to_string(), "1".to_owned())];
    for (entry, number) in entries.iter().zip(2..) {
        let version = number.to_string();
        versions.push((commit_version(&stand, &version, failing, "1s")?, version));
        let crashed = crash_in(&mut stand, "production", &versions, |view| has(view, *entry));
        crashed.await.with_context(|| format!("killed at {entry:?}"))?;
    }
    Ok(())
}

fn has(view: &RolloutView, kind: JournalKind) -> bool {
    view.journal.iter().any(|entry| entry.kind == kind)
}

async fn crash_when(environment: &str, failing: f64, moment: impl Fn(&RolloutView) -> bool) -> Result<()> {
    let mut stand = Stand::start(QUICK).await?;
    let mut versions = vec![(good_release(&stand, "1").await?.run.commit.to_string(), "1".to_owned())];
    versions.push((commit_version(&stand, "2", failing, "1s")?, "2".to_owned()));
    crash_in(&mut stand, environment, &versions, moment).await
}

/// The newest commit is released, and its release is interrupted; `versions` are those of all commits.
async fn crash_in(
    stand: &mut Stand,
    environment: &str,
    versions: &[(String, String)],
    moment: impl Fn(&RolloutView) -> bool,
) -> Result<()> {
    let newest = stand.api()?.rollouts(environment).await?.first().context("no rollout")?.id.0;
    // the failing release needs somebody to fail, and a canary somebody to answer
    let loads = ["staging", "production"].map(|environment| Load::to(&stand.proxy, environment).start());
    let guid = stand.push("main").await?;
    let run = stand.api()?.planned(&guid, SOON).await?.runs[0];
    stand.api()?.journaled(environment, newest, SOON, moment).await?;
    crash_and_see(stand, run.0, versions).await?;
    for load in loads {
        nothing_was_dropped(&load.stop().await);
    }
    Ok(())
}

/// Kills, starts again, and looks whether everything ends and says the truth.
async fn crash_and_see(stand: &mut Stand, run: i64, versions: &[(String, String)]) -> Result<()> {
    stand.kill_server()?;
    stand.start_server().await?;
    let api = stand.api()?;
    let view: RunView = api.ended(run, RUN_LIMIT).await?;
    for environment in ["staging", "production"] {
        for rollout in api.rollouts(environment).await? {
            let ended = api.rollout_ended(rollout.id, SOON).await?;
            assert!(ended.rollout.status.is_final());
        }
        assert_record_and_traffic_agree(stand, environment, versions).await.with_context(|| format!("{view:#?}"))?;
    }
    Ok(())
}

async fn assert_record_and_traffic_agree(
    stand: &Stand,
    environment: &str,
    versions: &[(String, String)],
) -> Result<()> {
    let rollouts = stand.api()?.rollouts(environment).await?;
    let newest = rollouts.first().context("no rollout")?;
    let serving = if newest.status == RolloutStatus::Succeeded {
        Some(&newest.spec.release)
    } else {
        newest.spec.previous.as_ref()
    };
    let commit = serving.context("nothing serves")?.commit.to_string();
    let (_, wanted) = versions.iter().find(|(known, _)| known.trim() == commit).context("of no known commit")?;
    // every request, not only one: the target is wholly one or the other
    for _ in 0..40 {
        assert_eq!(version_in(stand, environment).await?, *wanted, "{environment} after {newest:#?}");
    }
    Ok(())
}
