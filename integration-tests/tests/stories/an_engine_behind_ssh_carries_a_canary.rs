//! A service at an engine behind SSH, with HAProxy before it here: canaries, a way that breaks meanwhile, and backups of what it keeps there.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{
    api::has,
    boxed,
    docker::{Docker, IMAGE},
    engines::Sshd,
    gpus::{Card, Machine},
    load::Load,
    routers::Kind,
    sample,
    stand::{Stand, settings_of},
};
use segue_schemas::{
    api::{BackupList, BackupStatus, BackupView, RolloutView},
    deploy::JournalKind,
    gpu_health::GpuReport,
    status::{RolloutStatus, RunStatus},
};
use serde_json::Value;

use crate::RUN_LIMIT;

/// What its file says beside [`sample::NOTING`].
const MORE: &str = "gpus: {memory: 20000MiB}\nkeep-warm: 60s\n";

#[tokio::test]
async fn to_its_end_and_back_with_its_data_kept() -> Result<()> {
    let machine = Machine::with(&[Card::new("GPU-far", "NVIDIA H100", 81_559)])?;
    let docker = Docker::start_beside(machine.hooks()?).await?;
    let mut sshd = Sshd::start(docker.socket()).await?;
    let mut stand = Stand::prepare("")?;
    let router = stand.router_of("haproxy", Kind::Haproxy)?;
    let listen = router.address.to_string();
    let (engine, carried) = (sshd.settings(), settings_of(&router.settings()));
    stand.add_settings(&format!("  far:\n    listen: [\"{listen}\"]\n    docker: {engine}\n{carried}"));
    stand.add_settings(&format!("    gpus: [all]\n    nvidia-smi-image: \"{IMAGE}\"\n"));
    stand.add_settings(&docker.settings(""));
    stand.add_settings("environments: {staging: {hosts: [far]}}\n");
    stand.start_server().await?;
    docker.sample_image(&stand.folder().join("sample-service")).await?;
    let far = Far { stand, docker, listen };

    far.commit("1", 0.0, "segue/deploy", "")?;
    let view = far.stand.api()?.run_of(&far.stand.push("main").await?, RUN_LIMIT).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");
    ensure!(far.version().await? == "1", "it serves");

    // the way there breaks amid a good one, and is closed for a while
    let load = Load::to(&far.listen, "staging").start();
    let begun = far.canary("2", 0.0).await?;
    let containers = far.containers().await?;
    ensure!(containers.len() == 2, "the old one and the new one: {containers:?}");
    let connections = sshd.break_off(Duration::from_secs(2)).await?;
    ensure!(connections > 0, "it is spoken to by SSH");
    // and once more amid a question after the GPUs there
    machine.be_slow(true)?;
    far.until("nobody asks", || async { Ok(machine.is_waited_for()) }).await?;
    sshd.close()?;
    machine.be_slow(false)?;
    let of_this = |report: &GpuReport| report.blind.iter().any(|why| why.contains("could not be asked after"));
    far.until("it is not told", || async { Ok(of_this(&far.gpus().await?)) }).await?;
    ensure!(far.gpus().await?.faults.is_empty(), "a way that breaks is no fault of theirs: {:#?}", far.gpus().await?);
    sshd.open().await?;
    let ended = far.stand.api()?.rollout_ended(begun.rollout.id, RUN_LIMIT).await?;
    let tally = load.stop().await;
    ensure!(ended.rollout.status == RolloutStatus::Succeeded, "{ended:#?}");
    ensure!(!has(&ended, JournalKind::GpuFinding), "nobody is blamed: {ended:#?}");
    far.until("it is not asked again", || async { Ok(!of_this(&far.gpus().await?)) }).await?;
    ensure!(tally.dropped == 0 && tally.of("1") > 0 && tally.of("2") > 0, "no request noticed: {tally:#?}");
    ensure!(far.version().await? == "2", "it serves");
    ensure!(far.containers().await? == containers, "both are as they were: nothing was taken for ended");

    // a bad one
    let load = Load::to(&far.listen, "staging").start();
    let begun = far.canary("3", 0.5).await?;
    let ended = far.stand.api()?.rollout_ended(begun.rollout.id, RUN_LIMIT).await?;
    let tally = load.stop().await;
    ensure!((ended.rollout.status, ended.rollout.weight) == (RolloutStatus::RolledBack, 0), "{ended:#?}");
    ensure!(tally.dropped == 0 && tally.of("3") > 0 && tally.of("3") < tally.of("2"), "{tally:#?}");
    ensure!(far.version().await? == "2", "it came back");

    // each was begun after a backup; the older one is brought back, and what was there before is kept as well
    let kept = far.kept()?;
    let [newer, older] = &kept[..] else { anyhow::bail!("not two: {kept:#?}") };
    let (all, first) = (fs::read_to_string(far.file(newer))?, fs::read_to_string(far.file(older))?);
    ensure!(first.lines().count() == 1 && all.starts_with(&first) && all.lines().count() == 2, "{first:?} {all:?}");
    let now = fs::read_to_string(far.volume().await?)?;
    ensure!(now.starts_with(&all) && now.lines().count() == 3, "{now:?}");
    let done = far.stand.segue(&["backup", "restore", older.id.as_str(), "--yes"])?;
    ensure!(done.status.success(), "{done:?}");
    ensure!(far.version().await? == "2", "the release stays");
    assert_eq!(fs::read_to_string(far.volume().await?)?, first, "as it was then");
    far.until("the server is not told of it", || async { Ok(far.kept()?.len() == 3) }).await?;
    ensure!(fs::read_to_string(far.file(&far.kept()?[0]))? == now, "so that it can be undone");
    let is_service = |one: &Value| one["Labels"]["segue.role"] == "service";
    far.until("something else is left", || async { Ok(far.docker.instances().await?.iter().all(is_service)) }).await
}

struct Far {
    stand: Stand,
    docker: Docker,
    listen: String,
}

impl Far {
    fn commit(&self, version: &str, failing: f64, step: &str, more: &str) -> Result<()> {
        let config = format!("version: \"{version}\"\nlatency: 1ms\nfail-share: {{staging: {failing}}}\n");
        boxed::commit(&self.stand, &config, step, more)?;
        let file = [sample::NOTING, MORE, sample::NOTES_KEPT].concat();
        self.stand.repository.commit(version, &[(".segue/services/api.yml", &file)])?;
        Ok(())
    }

    /// Pushes a version as a canary; the rollout once it has traffic.
    async fn canary(&self, version: &str, failing: f64) -> Result<RolloutView> {
        let api = self.stand.api()?;
        let before = api.rollouts("staging").await?[0].id.0;
        let stages = r#", stages: "50,100", stage-duration: 3s, min-requests: "20""#;
        self.commit(version, failing, "segue/canary", stages)?;
        self.stand.push("main").await?;
        api.journaled("staging", before, RUN_LIMIT, |view| has(view, JournalKind::Shifted)).await
    }

    /// What its host knows of the GPUs there.
    async fn gpus(&self) -> Result<GpuReport> {
        let socket = self.stand.data().join("hosts/far/host.sock");
        let client = reqwest::Client::builder().unix_socket(socket).timeout(Duration::from_secs(60)).build()?;
        Ok(client.get("http://host/v1/gpus").send().await?.error_for_status()?.json().await?)
    }

    /// Waits until that is so; else says this.
    async fn until<F: Future<Output = Result<bool>>>(&self, otherwise: &str, is_so: impl Fn() -> F) -> Result<()> {
        let begun = Instant::now();
        while !is_so().await? {
            ensure!(begun.elapsed() < RUN_LIMIT, "{otherwise}: {:#?}", self.docker.instances().await?);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn version(&self) -> Result<String> {
        let request = reqwest::Client::new().get(format!("http://{}/", self.listen));
        let request = request.header("host", sample::host_name("staging")).timeout(Duration::from_secs(5));
        let body: Value = request.send().await?.json().await?;
        Ok(body["version"].as_str().unwrap_or_default().to_owned())
    }

    /// The containers that run.
    async fn containers(&self) -> Result<Vec<String>> {
        let all = self.docker.instances().await?;
        let running = all.iter().filter(|one| one["State"] == "running" && one["Labels"]["segue.role"] == "service");
        let mut ids: Vec<String> = running.filter_map(|one| Some(one["Id"].as_str()?.to_owned())).collect();
        ids.sort();
        Ok(ids)
    }

    fn kept(&self) -> Result<Vec<BackupView>> {
        let listed = self.stand.segue(&["backup", "list", "--environment", "staging", "--json"])?;
        ensure!(listed.status.success(), "{listed:?}");
        let all = serde_json::from_slice::<BackupList>(&listed.stdout)?.items;
        Ok(all.into_iter().filter(|one| one.status == BackupStatus::Kept).collect())
    }

    fn file(&self, backup: &BackupView) -> PathBuf {
        self.stand.data().join("hosts/far/backups/staging/api").join(backup.id.as_str())
    }

    /// The file of the service's in its volume, where the engine has it.
    async fn volume(&self) -> Result<PathBuf> {
        let one = self.docker.look(&format!("/containers/{}/json", self.containers().await?[0])).await?;
        let folder = one["Mounts"][0]["Source"].as_str().context("a volume")?;
        Ok(PathBuf::from(folder).join("orders"))
    }
}
