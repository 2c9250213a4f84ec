//! A/B by header and cookie: while a canary is under way, rules of the service's send requests to it, or to what served before.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{load::Load, routers::Kind, sample, stand::Stand};
use segue_schemas::status::{RolloutStatus, RunStatus};

use crate::{RUN_LIMIT, good_release, nothing_was_dropped};

const RULES: &str = r#"rules:
  - { header: X-Release, equals: canary, to: canary }
  - { header: x-release, prefix: sta, to: stable }
  - { cookie: beta, equals: "1", to: canary }
"#;

/// Requests that each of them is tried with.
const TRIES: u64 = 20;

#[tokio::test]
async fn embedded() -> Result<()> {
    sees_it(Stand::start("").await?).await
}

#[tokio::test]
async fn haproxy() -> Result<()> {
    sees_it(Stand::start_behind(Kind::Haproxy, "").await?).await
}

#[tokio::test]
async fn nginx() -> Result<()> {
    sees_it(Stand::start_behind(Kind::Nginx, "").await?).await
}

async fn sees_it(stand: Stand) -> Result<()> {
    good_release(&stand, "1").await?;
    stand.repository.commit(
        "version 2, and rules",
        &[
            (".segue/pipelines/release.yml", &sample::pipeline("4s")),
            (".segue/services/api.yml", &format!("{}{RULES}", sample::SERVICE)),
            ("service.yml", &sample::service_yml("2", 0.0)),
        ],
    )?;
    let load = Load::to(&stand.proxy, "production").start();
    let guid = stand.push("main").await?;
    let api = stand.api()?;
    let begun = Instant::now();
    loop {
        let newest = api.rollouts("production").await?.into_iter().next().context("no rollout")?;
        if newest.weight == 10 {
            break;
        }
        ensure!(begun.elapsed() < RUN_LIMIT, "no canary: {newest:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // a tenth of the traffic would not do so twenty times
    for (name, value, version) in
        [("x-release", "canary", "2"), ("X-Release", "stable", "1"), ("cookie", "a=b; beta=1", "2")]
    {
        for _ in 0..TRIES {
            assert_eq!(version_for(&stand, name, value).await?, version, "{name}: {value}");
        }
    }
    let view = api.run_of(&guid, RUN_LIMIT).await?;
    nothing_was_dropped(&load.stop().await);
    ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");

    let rollout = api.rollouts("production").await?.into_iter().next().context("no rollout")?;
    assert_eq!(rollout.status, RolloutStatus::Succeeded);
    let verdict = rollout.verdict.context("no verdict")?;
    let rules = verdict["rules"].as_array().context("no numbers by rule")?;
    let counted: Vec<_> = rules.iter().map(|rule| (rule["to"].as_str(), rule["requests"].as_u64())).collect();
    assert_eq!(counted, [(Some("canary"), Some(TRIES)), (Some("stable"), Some(TRIES)), (Some("canary"), Some(TRIES))]);
    assert!(rules.iter().all(|rule| rule["errors"] == 0 && rule["p95_ms"].is_number()), "{rules:#?}");
    let shown = stand.segue(&["rollout", "show", &rollout.id.to_string()])?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("header X-Release = canary -> canary: 20 requests, 0 failed, median"), "{shown}");
    // with one release there is nothing to choose
    assert_eq!(version_for(&stand, "x-release", "stable").await?, "2");
    Ok(())
}

async fn version_for(stand: &Stand, name: &str, value: &str) -> Result<String> {
    let answer = reqwest::Client::new()
        .get(format!("http://{}/", stand.proxy))
        .header("host", sample::host_name("production"))
        .header(name, value)
        .timeout(Duration::from_secs(5));
    let body: serde_json::Value = answer.send().await?.json().await?;
    Ok(body["version"].as_str().unwrap_or_default().to_owned())
}
