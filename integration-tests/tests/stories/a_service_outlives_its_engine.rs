use std::time::Duration;

use anyhow::{Result, bail, ensure};
use segue_integration_tests::{
    api::has,
    boxed::{commit, commit_version, stand},
    docker::Docker,
    load::Load,
    sample,
};
use segue_schemas::{
    deploy::JournalKind,
    status::{RolloutStatus, RunStatus},
};

use crate::version_in;

const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn the_engine_killed_in_the_middle_of_a_canary_leaves_the_target_whole() -> Result<()> {
    let mut docker = Docker::start().await?;
    let stand = stand(&docker, "").await?;
    let api = stand.api()?;
    commit_version(&stand, "1")?;
    let view = api.run_of(&stand.push("main").await?, LIMIT).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");

    let stages = r#", stages: "50,100", stage-duration: 2s, min-requests: "20""#;
    commit(&stand, &sample::service_yml("2", 0.0), "segue/canary", stages)?;
    let load = Load::to(&stand.proxy, "staging").start();
    let before = api.rollouts("staging").await?[0].id.0;
    stand.push("main").await?;
    let begun = api.journaled("staging", before, LIMIT, |view| has(view, JournalKind::Shifted)).await?;
    let rollout = begun.rollout.id;
    docker.kill()?;
    docker.restart().await?;
    let ended = api.rollout_ended(rollout, LIMIT).await?;
    let tally = load.stop().await;
    let status = ended.rollout.status;
    let serves = match status {
        RolloutStatus::Succeeded => "2",
        RolloutStatus::RolledBack => "1",
        _ => bail!("it ended {status:?}: {ended:#?}"),
    };
    eprintln!("the rollout ended {status:?}, of {} requests {} were dropped", tally.sent, tally.dropped);
    let begun = std::time::Instant::now();
    while version_in(&stand, "staging").await.ok().as_deref() != Some(serves) {
        ensure!(begun.elapsed() < LIMIT, "{serves} does not serve: {:?}", version_in(&stand, "staging").await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..20 {
        ensure!(version_in(&stand, "staging").await? == serves, "{serves} serves alone");
    }
    Ok(())
}
