//! `strategy: blue-green`: held, tried by a header, promoted; and one that does badly once it serves goes back within its watch.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{load::Load, routers::Kind, sample, stand::Stand};
use segue_schemas::{
    deploy::Rollout,
    status::{RolloutStatus, RunStatus},
};

use crate::{RUN_LIMIT, good_release, nothing_was_dropped, version_in};

const RULES: &str = "rules: [{ header: x-release, equals: next, to: canary }]\n";

#[tokio::test]
async fn it_is_tried_by_a_header_promoted_and_a_bad_one_goes_back() -> Result<()> {
    let stand = Stand::start_behind(Kind::Haproxy, "").await?;
    good_release(&stand, "1").await?;
    let load = Load::to(&stand.proxy, "production").start();
    let api = stand.api()?;

    let guid = push(&stand, "2", 0.0, "hold: \"true\", soak: 2s").await?;
    let held = until(&stand, |rollout| rollout.status == RolloutStatus::Held).await?;
    assert_eq!(held.weight, 0, "{held:#?}");
    for _ in 0..20 {
        assert_eq!(tried(&stand).await?, "2");
        assert_eq!(version_in(&stand, "production").await?, "1");
    }
    let shown = stand.segue(&["rollout", "show", &held.id.to_string()])?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    ensure!(shown.contains("blue-green, held") && shown.contains("it stands ready without a share"), "{shown}");
    let said = stand.segue(&["rollout", "promote", &held.id.to_string()])?;
    ensure!(said.status.success(), "{said:?}");
    let view = api.run_of(&guid, RUN_LIMIT).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");
    assert_eq!(version_in(&stand, "production").await?, "2");
    let verdict = api.rollouts("production").await?.remove(0).verdict.context("no verdict")?;
    assert_eq!(verdict["rules"][0]["requests"], 20, "{verdict:#}");
    assert_eq!((&verdict["decision"], &verdict["control_is_stored"]), (&"advance".into(), &true.into()), "{verdict:#}");

    push(&stand, "3", 1.0, "soak: 15s").await?;
    let back = until(&stand, |rollout| rollout.status == RolloutStatus::RolledBack).await?;
    ensure!(back.id > held.id, "{back:#?}");
    assert_eq!(version_in(&stand, "production").await?, "2");
    assert_eq!(tried(&stand).await?, "2", "what has gone is reached by nobody");
    nothing_was_dropped(&load.stop().await);
    Ok(())
}

/// Pushes a version that goes to production so.
async fn push(stand: &Stand, version: &str, failing: f64, inputs: &str) -> Result<String> {
    let pipeline = sample::deployed(&format!("strategy: blue-green, {inputs}"));
    stand.repository.commit(
        &format!("version {version}"),
        &[
            (".segue/pipelines/release.yml", &pipeline),
            (".segue/services/api.yml", &format!("{}{RULES}", sample::SERVICE)),
            ("service.yml", &sample::service_yml(version, failing)),
        ],
    )?;
    stand.push("main").await
}

async fn until(stand: &Stand, is_so: impl Fn(&Rollout) -> bool) -> Result<Rollout> {
    let begun = Instant::now();
    loop {
        let newest = stand.api()?.rollouts("production").await?.remove(0);
        if is_so(&newest) {
            return Ok(newest);
        }
        ensure!(begun.elapsed() < RUN_LIMIT, "it stays so: {newest:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The version that a request with the header sees.
async fn tried(stand: &Stand) -> Result<String> {
    let request = reqwest::Client::new()
        .get(format!("http://{}/", stand.proxy))
        .header("host", sample::host_name("production"))
        .header("x-release", "next");
    let body: serde_json::Value = request.timeout(Duration::from_secs(5)).send().await?.json().await?;
    Ok(body["version"].as_str().unwrap_or_default().to_owned())
}
