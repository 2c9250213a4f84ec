use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{
    boxed::{commit, commit_version, stand},
    docker::Docker,
    load::Load,
    sample,
    stand::Stand,
};
use segue_schemas::{
    api::RunView,
    status::{RolloutStatus, RunStatus},
};
use serde_json::Value;

use crate::{nothing_was_dropped, version_in};

const LIMIT: Duration = Duration::from_secs(120);

/// Pushes what is committed, and follows its run to the end.
async fn pushed(stand: &Stand) -> Result<RunView> {
    let guid = stand.push("main").await?;
    stand.api()?.run_of(&guid, LIMIT).await
}

async fn released(stand: &Stand, version: &str) -> Result<()> {
    commit_version(stand, version)?;
    let view = pushed(stand).await?;
    let mut logs = String::new();
    for job in &view.jobs {
        logs += &stand.api()?.log(&job.id).await?;
    }
    ensure!(view.run.status == RunStatus::Succeeded, "version {version} ended so: {view:#?}\n{logs}");
    ensure!(version_in(stand, "staging").await? == version, "it serves");
    Ok(())
}

async fn inspected(docker: &Docker, stand: &Stand) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for one in docker.instances_of(&stand.data()).await? {
        all.push(docker.look(&format!("/containers/{}/json", one["Id"].as_str().context("an id")?)).await?);
    }
    Ok(all)
}

#[tokio::test]
async fn its_image_is_swapped_under_traffic_and_an_unhealthy_one_never_serves() -> Result<()> {
    let docker = Docker::shared().await?;
    let stand = stand(&docker, "").await?;
    released(&stand, "1").await?;
    let made = inspected(&docker, &stand).await?;
    let host = &made[0]["HostConfig"];
    assert_eq!(made.len(), 1);
    assert_eq!(host["Memory"], 256 << 20);
    assert_eq!((&host["PidsLimit"], &host["NanoCpus"]), (&100.into(), &1_000_000_000_i64.into()));
    assert_eq!((&host["CapDrop"][0], &host["SecurityOpt"][0]), (&"ALL".into(), &"no-new-privileges".into()));
    assert_eq!((&host["Init"], &host["Privileged"]), (&true.into(), &false.into()));
    assert_eq!(made[0]["Config"]["User"], "1234:1234");
    for label in ["environment", "service", "release", "instance", "epoch", "host"] {
        assert!(made[0]["Config"]["Labels"][format!("segue.{label}")].is_string(), "{label}");
    }

    let load = Load::to(&stand.proxy, "staging").start();
    released(&stand, "2").await?;
    let tally = load.stop().await;
    nothing_was_dropped(&tally);
    assert!(tally.of("1") > 0 && tally.of("2") > 0, "both served: {:?}", tally.answers);

    // one that never becomes healthy is gone again, and the one before serves on
    let bad = sample::service_yml("3", 0.0) + "healthy: false\n";
    commit_hasty(&stand, &bad)?;
    let view = pushed(&stand).await?;
    assert_eq!(view.run.status, RunStatus::Failed, "{view:#?}");
    let rollouts = stand.api()?.rollouts("staging").await?;
    assert_ne!(rollouts[0].status, RolloutStatus::Succeeded);
    assert_eq!(version_in(&stand, "staging").await?, "2");
    let image = rollouts[0].spec.release.image.clone().context("its image")?;
    assert_eq!(image, rollouts[0].spec.release.digest.to_string(), "named by what its engine knows it by");
    for one in inspected(&docker, &stand).await? {
        assert_ne!(one["Image"], image.as_str(), "nothing of it is left");
    }

    // the output is where that of processes is
    let output = std::fs::read_dir(stand.data().join("host/output"))?.flatten();
    let said: String = output.filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect();
    assert!(said.contains("listening on http://0.0.0.0:8000"), "{said}");
    Ok(())
}

/// Commits a version that is given up soon.
fn commit_hasty(stand: &Stand, config: &str) -> Result<String> {
    commit(stand, config, "segue/deploy", "")?;
    let service = segue_integration_tests::boxed::SERVICE.replace("tries: 100", "tries: 3");
    stand.repository.commit("hasty", &[(".segue/services/api.yml", &service)])
}
