//! GPUs of an engine's machine, where `nvidia-smi` is run in a container that the engine gives all of them to, by a hook in the place of NVIDIA's.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use reqwest::Method;
use segue_integration_tests::{
    boxed::{HostAlone, web},
    docker::{Docker, IMAGE},
    engines::Certificates,
    gpus::{Card, Machine},
    processes,
};
use segue_schemas::gpu_health::{Blame, GpuReport};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(90);

const SERVICE: &str = "mkdir -p /tmp/www && echo well > /tmp/www/healthz && httpd -f -p $PORT -h /tmp/www & wait";

fn start(image: &str, name: &str) -> Value {
    web(image, name, SERVICE, &json!({"gpus": {"count": 1, "memory": "20000MiB"}}))
}

struct There {
    machine: Machine,
    docker: Docker,
    host: HostAlone,
    image: String,
}

impl There {
    async fn gpus(&self, query: &str) -> Result<GpuReport> {
        Ok(serde_json::from_value(self.host.call(Method::GET, &format!("/v1/gpus?{query}"), &Value::Null).await?)?)
    }

    /// Starts an instance; the GPU that it was given.
    async fn start(&self, name: &str) -> Result<String> {
        let started = self.host.call(Method::POST, "/v1/instances", &start(&self.image, name)).await?;
        let [gpu] = &serde_json::from_value::<Vec<String>>(started["gpus"].clone())?[..] else {
            anyhow::bail!("not one: {started}")
        };
        Ok(gpu.clone())
    }

    /// One that can't be started: what the host says.
    async fn refused(&self, name: &str) -> Result<String> {
        let refused = self.host.call(Method::POST, "/v1/instances", &start(&self.image, name)).await;
        Ok(refused.err().context("it is refused")?.to_string())
    }

    /// The containers that look.
    async fn lookers(&self) -> Result<Vec<Value>> {
        let all = self.docker.instances().await?;
        Ok(all.into_iter().filter(|one| one["Labels"]["segue.role"] == "gpus").collect())
    }

    async fn until_no_looker(&self) -> Result<()> {
        let begun = Instant::now();
        while !self.lookers().await?.is_empty() {
            ensure!(begun.elapsed() < Duration::from_secs(30), "this looks on: {:#?}", self.lookers().await?);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

#[tokio::test]
async fn by_what_is_seen_there_and_nothing_is_blamed_on_them_that_the_engine_does() -> Result<()> {
    let (small, large) = (Card::new("GPU-small", "NVIDIA L40S", 46_068), Card::new("GPU-large", "NVIDIA H100", 81_559));
    let machine = Machine::with(&[small.clone(), large.clone()])?;
    let certificates = Certificates::make()?;
    let (docker, address) = Docker::start_with_tls_beside(&certificates, Some(machine.hooks()?)).await?;
    let image = docker.look(&format!("/images/{IMAGE}/json")).await?["Id"].as_str().context("an id")?.to_owned();
    let mut arguments = certificates.arguments(&address, &certificates.file("ca.pem"));
    arguments.extend(["--gpus", "all", "--nvidia-smi-image", IMAGE].map(str::to_owned));
    let host = HostAlone::start_at(arguments).await?;
    let mut there = There { machine, docker, host, image };

    // placed by UUID, on the smallest that does
    ensure!(there.start("web-1").await? == "GPU-small");
    let container = there.docker.instances().await?;
    let service = container.iter().find(|one| one["Labels"]["segue.role"] == "service").context("a container")?;
    let made = there.docker.look(&format!("/containers/{}/json", service["Id"].as_str().context("an id")?)).await?;
    ensure!(made["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] == json!(["GPU-small"]), "{made:#}");

    // its own process, by its number on that machine, is no stranger; another one is
    let own = there.docker.look(&format!("/containers/{}/top", service["Id"].as_str().context("an id")?)).await?;
    let last = own["Processes"].as_array().and_then(|all| all.last()).context("a process")?;
    let pid: u32 = last[1].as_str().context("its number")?.parse()?;
    there.machine.set_processes(&[("GPU-small", pid, 100, "httpd"), ("GPU-large", 1, 900, "python3")])?;
    ensure!(there.start("web-2").await? == "GPU-small", "it fits beside the first");
    let refused = there.refused("web-3").await?;
    ensure!(refused.contains("process 1 (`python3`), which Segue did not start, holds 900 MiB"), "{refused}");
    there.machine.set_processes(&[])?;

    // who waits for news looks often, by one container
    there.until_no_looker().await?;
    let (looks, revision, begun) = (there.machine.looks(), there.gpus("").await?.revision, Instant::now());
    let waiting = async {
        let mut report = there.gpus(&format!("after={revision}&wait_ms=12000")).await?;
        while report.faults.is_empty() {
            ensure!(begun.elapsed() < LIMIT, "it is not seen: {report:#?}");
            report = there.gpus(&format!("after={}&wait_ms=12000", report.revision)).await?;
        }
        Ok(report)
    };
    let breaks = async {
        while there.lookers().await?.is_empty() {
            ensure!(begun.elapsed() < LIMIT, "nobody looks");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let looker = there.lookers().await?.remove(0);
        let made = there.docker.look(&format!("/containers/{}/json", looker["Id"].as_str().context("an id")?)).await?;
        ensure!(made["HostConfig"]["NetworkMode"] == "none" && made["Config"]["User"] == "65529:65529", "{made:#}");
        there.machine.set(&[small.clone(), Card { uncorrected: 2, ..large.clone() }])?;
        Ok(())
    };
    let (report, ()) = tokio::try_join!(waiting, breaks)?;
    let fault = report.faults.first().context("it is seen")?;
    ensure!(fault.gpu.as_deref() == Some("GPU-large") && fault.blame == Blame::Host, "{report:#?}");
    let (made, minutes) = (there.machine.looks() - looks, usize::try_from(begun.elapsed().as_secs() / 60)?);
    ensure!((1..=1 + minutes).contains(&made), "one container was enough for each minute: {made} in {minutes}");
    ensure!(report.blind.iter().any(|words| words.contains("the kernel's log of the engine's machine")), "{report:#?}");

    // a host that is killed meanwhile: what looked for it is swept away by the next
    ensure!(there.lookers().await?.len() == 1);
    there.host.kill_and_start().await?;
    there.until_no_looker().await?;
    ensure!(there.docker.instances().await?.len() == 2, "the services stay");

    // the driver is gone: that is the machine's fault, in its toolkit's words
    there.machine.break_toolkit(Some("nvidia-container-cli: initialization error: nvml error: driver not loaded"))?;
    let report = there.gpus("fresh=1").await?;
    let fault = report.faults.first().context("it is seen")?;
    ensure!(fault.kind == "driver" && fault.what.contains("driver not loaded"), "{report:#?}");
    let refused = there.refused("web-4").await?;
    ensure!(refused.contains("\"faulty\"") && refused.contains("driver not loaded"), "{refused}");
    there.machine.break_toolkit(None)?;
    there.machine.set(&[small, large])?;
    let report = there.gpus("fresh=1").await?;
    ensure!(report.faults.is_empty(), "{report:#?}");
    there.until_no_looker().await?;

    // an engine that is away says nothing of its GPUs
    there.docker.kill()?;
    let refused = there.gpus("fresh=1").await.err().context("an old report is no answer")?.to_string();
    ensure!(refused.contains("\"unavailable\"") && refused.contains("could not be asked after"), "{refused}");
    let report = there.gpus("").await?;
    ensure!(report.faults.is_empty(), "{report:#?}");
    ensure!(report.blind.iter().any(|words| words.contains("could not be asked after")), "{report:#?}");
    let refused = there.refused("web-5").await?;
    ensure!(refused.contains("\"unavailable\""), "it is tried again: {refused}");
    there.docker.restart().await?;
    ensure!(there.gpus("fresh=1").await?.blind.len() == 1, "it is asked again");
    there.until_no_looker().await?;

    // another machine at that address: what begins again there has a GPU of its own, and those of the one before are not missed
    let saved = there.docker.saved(IMAGE).await?;
    there.docker.kill()?;
    there.machine.set(&[Card::new("GPU-other", "NVIDIA H100", 81_559)])?;
    // it has the image before anybody asks for it
    processes::signal(there.host.pid(), Signal::SIGSTOP)?;
    there.docker = Docker::start_in_place(&certificates, &address, Some(there.machine.hooks()?)).await?;
    there.docker.load(saved).await?;
    processes::signal(there.host.pid(), Signal::SIGCONT)?;
    let begun = Instant::now();
    let services = loop {
        let all = there.docker.instances().await?;
        let is_service = |one: &&Value| one["Labels"]["segue.role"] == "service" && one["State"] == "running";
        let services: Vec<Value> = all.iter().filter(is_service).cloned().collect();
        if services.len() == 2 {
            break services;
        }
        ensure!(begun.elapsed() < LIMIT, "they do not come back: {all:#?}; {}", there.host.said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    for one in services {
        let made = there.docker.look(&format!("/containers/{}/json", one["Id"].as_str().context("an id")?)).await?;
        ensure!(made["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] == json!(["GPU-other"]), "{made:#}");
    }
    let report = there.gpus("fresh=1").await?;
    ensure!(report.faults.is_empty() && report.given.iter().all(|(_, gpus)| gpus == &["GPU-other"]), "{report:#?}");
    ensure!(there.start("web-6").await? == "GPU-other", "and so has the next");
    there.host.end().await
}
