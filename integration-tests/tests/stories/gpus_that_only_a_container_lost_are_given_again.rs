use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use segue_integration_tests::{
    boxed::{HostAlone, fence, web},
    docker::{Docker, IMAGE},
    gpus::{Card, Machine},
};
use segue_schemas::host_api::{Instance, InstanceState};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(90);

const SERVICE: &str = "mkdir -p /tmp/www && echo well > /tmp/www/healthz && httpd -f -p $PORT -h /tmp/www & wait";

fn start(image: &str, name: &str) -> Value {
    web(image, name, SERVICE, &json!({"gpus": {"count": 1}}))
}

async fn instances(host: &HostAlone) -> Result<Vec<Instance>> {
    Ok(host.state().await?.instances)
}

/// A file in an instance's container.
fn within(instance: &Instance, name: &str) -> Result<PathBuf> {
    let pid = instance.pid.context("no process")?;
    Ok(Path::new("/proc").join(pid.to_string()).join("root").join(name))
}

#[tokio::test]
async fn its_container_is_made_anew_while_another_one_has_its_traffic() -> Result<()> {
    let machine = Machine::with(&[
        Card::new("GPU-first", "NVIDIA L40S", 46_068),
        Card::new("GPU-second", "NVIDIA L40S", 46_068),
    ])?;
    let docker = Docker::start_beside(machine.hooks()?).await?;
    let image = docker.look(&format!("/images/{IMAGE}/json")).await?["Id"].as_str().context("an id")?.to_owned();
    let program = machine.nvidia_smi().display().to_string();
    let host = Arc::new(HostAlone::start_with(&docker, &["--gpus", "all", "--nvidia-smi", &program]).await?);
    for name in ["web-1", "web-2"] {
        host.call(Method::POST, "/v1/instances", &start(&image, name)).await?;
    }
    let targets = json!([{"instance": "web-1", "weight": 50}, {"instance": "web-2", "weight": 50}]);
    let route = json!({"fence": fence(1), "rules": [], "targets": targets, "fallback": [], "dead_man_ms": null});
    host.call(Method::PUT, "/v1/routes/production/web", &route).await?;
    host.until_answered("/healthz", LIMIT).await?;
    let before = instances(&host).await?;
    let gpus = |all: &[Instance]| all.iter().map(|one| one.gpus.clone()).collect::<Vec<_>>();
    ensure!(before.iter().all(|one| one.gpus.len() == 1 && one.gpu_loss.is_none()), "{before:#?}");
    let begun = Instant::now();
    for one in &before {
        while !within(one, "asked")?.exists() {
            ensure!(begun.elapsed() < LIMIT, "{} is not asked", one.id);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    // all at once, as after `systemctl daemon-reload`; requests go on
    let ends = Arc::new(AtomicBool::new(false));
    let asked = tokio::spawn({
        let (host, ends) = (host.clone(), ends.clone());
        async move {
            let mut answered = 0_u32;
            while !ends.load(Ordering::Relaxed) {
                host.ask("/healthz").await?;
                answered += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok::<_, anyhow::Error>(answered)
        }
    });
    for one in &before {
        fs::write(within(one, "gone")?, "")?;
    }
    let probe = json!({"path": "/is-not-there", "timeout_ms": 2000});
    host.call(Method::POST, "/v1/instances/web-1/probe", &probe).await?;

    let begun = Instant::now();
    let after = loop {
        let now = instances(&host).await?;
        let is_done = |one: &Instance| {
            one.state == InstanceState::Running
                && one.gpu_loss.as_ref().is_some_and(|loss| loss.contains("was made anew"))
        };
        if now.iter().all(is_done) {
            break now;
        }
        ensure!(begun.elapsed() < LIMIT, "they are not made anew: {now:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    for (before, after) in before.iter().zip(&after) {
        ensure!(before.id == after.id && before.pid != after.pid, "{} runs as before", after.id);
        ensure!(!within(after, "gone")?.exists(), "it is a new container");
        ensure!(after.restarts == 0 && after.drift.is_empty(), "it counts against nobody: {after:#?}");
    }
    ensure!(gpus(&before) == gpus(&after), "they have the same: {after:#?}");
    ensure!(docker.instances_of(host.data()).await?.len() == 2, "two containers");
    tokio::time::sleep(Duration::from_millis(500)).await;
    ends.store(true, Ordering::Relaxed);
    let answered = asked.await?.context("a request failed meanwhile")?;
    ensure!(answered > 50, "only {answered} requests were made");
    Arc::into_inner(host).context("the host is in use")?.end().await
}
