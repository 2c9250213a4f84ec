//! A service with GPUs on two hosts. What a release does to its GPU brings it back; a GPU that breaks costs its host the rollout, and the others
//! go on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{
    exporter::Exporter,
    gpus::{Card, Machine},
    load::{Load, Running},
    sample,
    stand::{Stand, free_address},
};
use segue_schemas::{
    api::{HostView, RolloutView},
    deploy::{JournalEntry, JournalKind},
    status::{RolloutStatus, RunStatus},
};

use crate::version_in;

const LIMIT: Duration = Duration::from_secs(180);

/// A host's GPUs, of which the first is that of what serves.
struct Gpus {
    machine: Machine,
    exporter: Exporter,
    names: [String; 2],
}

impl Gpus {
    async fn of(host: &str) -> Result<Self> {
        let names = [format!("GPU-{host}-1"), format!("GPU-{host}-2")];
        let machine = Machine::with(&names.each_ref().map(|name| Card::new(name, "NVIDIA L40S", 46_068)))?;
        let exporter = Exporter::of(&names.each_ref().map(String::as_str)).await?;
        Ok(Self { machine, exporter, names })
    }
}

#[tokio::test]
async fn an_xid_of_the_canary_brings_it_back_and_one_of_a_host_leaves_that_out() -> Result<()> {
    let (a, b) = (Gpus::of("a").await?, Gpus::of("b").await?);
    let program = a.machine.nvidia_smi().display().to_string();
    let offers = format!("    gpus: [all]\n    nvidia-smi: {program}\n    dcgm: {}\n", a.exporter.url);
    let mut stand = Stand::prepare(&offers)?;
    let (data, listen) = (stand.data().with_file_name("b"), free_address()?);
    stand.add_settings(&format!(
        "  b: {{socket: {}/host.sock, listen: [\"{listen}\"]}}\nenvironments: {{staging: {{hosts: [local, b]}}}}\n",
        data.display()
    ));
    let program = b.machine.nvidia_smi().display().to_string();
    let more = ["--gpus", "all", "--nvidia-smi", &program, "--dcgm", &b.exporter.url];
    stand.start_host_with(&data, &listen, &more).await?;
    stand.start_server().await?;
    let other = Load::to(&listen, "staging").start();

    let first = Release::push(&stand, "1").await?;
    ensure!(first.ended(&stand).await?.0 == RunStatus::Succeeded, "the first release");

    // the canary reads where it may not
    let second = Release::push(&stand, "2").await?;
    let canary = second.canary(&stand).await?;
    a.exporter.report(&a.names[1], 31);
    let (status, rollout) = second.ended(&stand).await?;
    let reason = rollout.rollout.reason.clone().unwrap_or_default();
    ensure!(status == RunStatus::Failed && rollout.rollout.status == RolloutStatus::RolledBack, "{rollout:#?}");
    for words in ["GPU-a-2: the driver reported Xid 31 (GPU memory page fault)", &canary, "host `local`"] {
        ensure!(reason.contains(words), "`{words}` is not in: {reason}");
    }
    let verdict = rollout.rollout.verdict.clone().context("a verdict")?;
    ensure!(verdict["gpus"][0]["xid"] == 31 && verdict["gpus"][0]["blame"] == "release", "{verdict}");
    ensure!(of(&rollout, JournalKind::GpuBaseline).len() == 2, "each host was looked at before");
    ensure!([version_in(&stand, "staging").await?, version_at(&listen).await?] == ["1", "1"]);

    // a GPU of host `b` breaks under the next one
    let third = Release::push(&stand, "3").await?;
    third.canary(&stand).await?;
    b.exporter.report(&b.names[1], 79);
    let (status, rollout) = third.ended(&stand).await?;
    ensure!(status == RunStatus::Succeeded && rollout.rollout.status == RolloutStatus::Succeeded, "{rollout:#?}");
    let left_out = of(&rollout, JournalKind::Quarantined);
    // announced, then done
    let is_of_b = left_out.iter().all(|entry| entry.host.as_deref() == Some("b"));
    ensure!(left_out.len() == 2 && is_of_b, "{left_out:#?}");
    let told = serde_json::to_string(&left_out)?;
    ensure!(told.contains("GPU-b-2: the driver reported Xid 79 (GPU has fallen off the bus)"), "{told}");
    ensure!([version_in(&stand, "staging").await?, version_at(&listen).await?] == ["3", "1"]);

    // nothing is placed on it any more
    let is_offered = |host: &HostView| host.gpus.iter().any(|one| one.gpu.uuid == "GPU-b-2");
    stand.host_with("b", |host| host.gpu_xids.iter().any(|xid| xid.code == 79) && !is_offered(host)).await?;
    let shown = stand.segue(&["host", "show", "b"])?;
    let shown = String::from_utf8(shown.stdout)?;
    ensure!(shown.contains("GPU-b-2: Xid 79 (GPU has fallen off the bus)"), "{shown}");
    // what was to bring it after the others finds no GPU for that
    let begun = Instant::now();
    loop {
        let newest = stand.api()?.rollouts("staging").await?.remove(0);
        if newest.spec.hosts == ["b"] && newest.status == RolloutStatus::Failed {
            let told = serde_json::to_string(&stand.api()?.rollout(newest.id).await?.journal)?;
            ensure!(told.contains("GPU-b-2: it answers with an error (Xid 79"), "{told}");
            break;
        }
        ensure!(begun.elapsed() < LIMIT, "{newest:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    other.stop().await;
    Ok(())
}

/// A version on its way.
struct Release {
    guid: String,
    load: Running,
    known: usize,
}

impl Release {
    async fn push(stand: &Stand, version: &str) -> Result<Self> {
        let stages = r#"stages: "50,100", stage-duration: 5s, min-requests: "20""#;
        let pipeline = sample::to_staging("segue/canary", stages);
        let service = format!("{}gpus: 1\n", sample::SERVICE);
        let files = [
            (".segue/pipelines/release.yml", pipeline.as_str()),
            (".segue/services/api.yml", &service),
            ("service.yml", &sample::service_yml(version, 0.0)),
        ];
        stand.repository.commit(&format!("version {version}"), &files)?;
        let known = stand.api()?.rollouts("staging").await?.len();
        let load = Load::to(&stand.proxy, "staging").start();
        Ok(Self { guid: stand.push("main").await?, load, known })
    }

    /// The instance of the new release, once it has traffic.
    async fn canary(&self, stand: &Stand) -> Result<String> {
        let begun = Instant::now();
        loop {
            let rollouts = stand.api()?.rollouts("staging").await?;
            if rollouts.len() > self.known && rollouts[0].weight > 0 {
                let rollout = stand.api()?.rollout(rollouts[0].id).await?;
                let ready = of(&rollout, JournalKind::Ready);
                let detail = &ready.first().context("nothing was ready")?.detail;
                return Ok(detail["instance"].as_str().unwrap_or_default().to_owned());
            }
            ensure!(begun.elapsed() < LIMIT, "no canary has traffic: {rollouts:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ended(self, stand: &Stand) -> Result<(RunStatus, RolloutView)> {
        let api = stand.api()?;
        let view = api.run_of(&self.guid, LIMIT).await;
        self.load.stop().await;
        let view = view?;
        let log = api.log(&view.jobs.first().context("no job")?.id).await?;
        let rollouts = api.rollouts("staging").await?;
        ensure!(rollouts.len() > self.known, "there was no rollout: {log}");
        let own = rollouts.iter().find(|one| one.spec.hosts.len() == 2).context("it goes to both hosts")?;
        Ok((view.run.status, api.rollout(own.id).await?))
    }
}

fn of(rollout: &RolloutView, kind: JournalKind) -> Vec<&JournalEntry> {
    rollout.journal.iter().filter(|entry| entry.kind == kind).collect()
}

async fn version_at(proxy: &str) -> Result<String> {
    let request = reqwest::Client::new().get(format!("http://{proxy}/")).header("host", sample::host_name("staging"));
    let body: serde_json::Value = request.timeout(Duration::from_secs(5)).send().await?.json().await?;
    Ok(body["version"].as_str().unwrap_or_default().to_owned())
}
