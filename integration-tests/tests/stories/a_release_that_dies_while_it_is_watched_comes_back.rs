//! A release that has all the traffic and then dies: while its last stage lasts, the former one is at hand.

use anyhow::{Context as _, Result};
use segue_integration_tests::{load::Load, sample, stand::Stand};
use segue_schemas::{
    deploy::JournalKind,
    status::{RolloutStatus, RunStatus},
};

use crate::{RUN_LIMIT, good_release, version_in};

const OWN: &str = "[./sample-service, sample-service, --config, service.yml]";
/// Long after its canary has begun to answer, and some time before the end of its last stage.
const MORTAL: &str = "[timeout, --signal, KILL, 8s, ./sample-service, sample-service, --config, service.yml]";

#[tokio::test]
async fn the_former_release_has_the_traffic_again() -> Result<()> {
    let stand = Stand::start("").await?;
    good_release(&stand, "1").await?;

    let pipeline = sample::pipeline("5s").replace("10,50,100", "10,100");
    assert!(sample::SERVICE.contains(OWN) && pipeline.contains("\"10,100\""));
    let files = [
        (".segue/pipelines/release.yml", pipeline),
        (".segue/services/api.yml", sample::SERVICE.replace(OWN, MORTAL)),
        ("service.yml", sample::service_yml("2", 0.0)),
    ];
    stand.repository.commit("version 2", &files.each_ref().map(|(path, text)| (*path, text.as_str())))?;
    let load = Load::to(&stand.proxy, "production").start();
    let guid = stand.push("main").await?;
    let run = stand.api()?.run_of(&guid, RUN_LIMIT).await?;
    load.stop().await;
    assert_eq!(run.run.status, RunStatus::Failed, "{run:#?}");

    let api = stand.api()?;
    let rollout = api.rollouts("production").await?.into_iter().next().context("no rollout")?;
    assert_eq!(rollout.status, RolloutStatus::RolledBack, "{rollout:#?}");
    let journal = api.rollout(rollout.id).await?.journal;
    let promoted = journal
        .iter()
        .find(|entry| entry.kind == JournalKind::Shifted && entry.detail.to_string().contains("100 % of the traffic"));
    let back = journal.iter().find(|entry| entry.kind == JournalKind::RollBackIntent).context("no way back")?;
    assert!(promoted.is_some_and(|shifted| shifted.sequence < back.sequence), "it never had everything: {journal:#?}");
    for _ in 0..40 {
        assert_eq!(version_in(&stand, "production").await?, "1");
    }
    Ok(())
}
