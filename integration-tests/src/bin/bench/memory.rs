//! Proportional set size of all our processes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{processes, sample, stand::Stand};
use segue_schemas::status::RunStatus;

use crate::figures::Figure;

pub async fn measure() -> Result<Vec<Figure>> {
    let stand = Stand::start("").await?;
    let api = stand.api()?;
    stand.repository.commit(
        "first",
        &[
            (".segue/pipelines/release.yml", &sample::pipeline("1s")),
            (".segue/services/api.yml", sample::SERVICE),
            ("service.yml", &sample::service_yml("1", 0.0)),
        ],
    )?;
    let guid = stand.push("main").await?;
    let view = api.run_of(&guid, Duration::from_secs(60)).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "the deployment ended so: {view:#?}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(ours(&stand)?.into_iter().map(|(name, kib)| figure(&name, kib)).collect())
}

fn figure(name: &str, kib: u64) -> Figure {
    let figure = Figure::new(format!("idle memory after a deployment: {name}"), kib as f64 / 1024.0, "MiB PSS");
    if name == "all" { figure.at_most(40.0) } else { figure }
}

/// Memory of each of our processes by its sub-command, in KiB, and of `all`; the deployed services are not ours.
pub fn ours(stand: &Stand) -> Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for pid in stand.all_processes() {
        let name = processes::sub_command(pid).unwrap_or_default();
        if ["up", "server", "worker", "host", "proxy", "step-supervisor"].contains(&name.as_str())
            && let Ok(kib) = processes::pss_kib(pid)
        {
            found.push((name, kib));
        }
    }
    ensure!(!found.is_empty(), "no process of ours was found");
    let server = stand.server_pid().context("the server does not run")?;
    ensure!(processes::lives(server), "the server has ended");
    found.push(("all".into(), found.iter().map(|(_, kib)| kib).sum()));
    Ok(found)
}
