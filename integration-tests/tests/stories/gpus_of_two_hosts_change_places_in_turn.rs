//! Two hosts with one GPU each, which the service fills: one changes after the other, and whoever may ask either of them is always answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{
    gpus::{Card, Machine},
    sample,
    stand::{Stand, free_address},
};
use segue_schemas::{
    api::RolloutView,
    deploy::JournalKind,
    status::{RolloutStatus, RunStatus},
};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(180);

/// One fits on a GPU.
const GPUS: &str = "gpus: { memory: 44000MiB, when-full: recreate }\n";

#[tokio::test]
async fn one_host_changes_after_the_other_and_both_come_back_from_what_is_bad() -> Result<()> {
    let machines = ["a", "b"].map(|host| Machine::with(&[Card::new(&format!("GPU-{host}"), "NVIDIA L40S", 46_068)]));
    let [a, b] = machines;
    let (a, b) = (a?, b?);
    let offers = format!("    gpus: [all]\n    nvidia-smi: {}\n", a.nvidia_smi().display());
    let mut stand = Stand::prepare(&offers)?;
    let (data, listen) = (stand.data().with_file_name("b"), free_address()?);
    stand.add_settings(&format!(
        "  b: {{socket: {}/host.sock, listen: [\"{listen}\"]}}\nenvironments: {{staging: {{hosts: [local, b]}}}}\n",
        data.display()
    ));
    let program = b.nvidia_smi().display().to_string();
    stand.start_host_with(&data, &listen, &["--gpus", "all", "--nvidia-smi", &program]).await?;
    stand.start_server().await?;
    let proxies = [listen, stand.proxy.clone()];

    let (status, _) = release(&stand, "1", 0.0, "").await?;
    ensure!(status == RunStatus::Succeeded, "the first release");
    let caller = Caller::of(proxies.clone());
    // at once, as it is ready
    let (status, second) = release(&stand, "2", 0.0, "").await?;
    ensure!(status == RunStatus::Succeeded, "{second:#?}");
    ensure!(serving(&proxies).await? == ["2", "2"]);
    let gaps: Vec<_> = second.journal.iter().filter(|entry| entry.kind == JournalKind::GapIntent).collect();
    let at: Vec<Option<&str>> = gaps.iter().map(|entry| entry.host.as_deref()).collect();
    ensure!(at == [None, Some("local"), Some("b")], "told before, then one after the other: {gaps:#?}");
    let place = |kind, host| second.journal.iter().rposition(|e| e.kind == kind && e.host.as_deref() == Some(host));
    ensure!(place(JournalKind::Shifted, "local") < place(JournalKind::GapIntent, "b"), "{:#?}", second.journal);

    // watched; and it is seen to be bad only once somebody has to ask the one that changed
    let (status, third) = release(&stand, "3", 1.0, "strategy: rolling, pause: 1s").await?;
    ensure!(status == RunStatus::Failed && third.rollout.status == RolloutStatus::RolledBack, "{third:#?}");
    ensure!(serving(&proxies).await? == ["2", "2"], "{third:#?}");
    for host in ["local", "b"] {
        let back = third.journal.iter().find(|e| e.kind == JournalKind::RolledBack && e.host.as_deref() == Some(host));
        ensure!(back.is_some(), "{host} has gone over and back: {:#?}", third.journal);
    }
    let (asked, unanswered) = caller.stop().await;
    ensure!(asked > 100 && unanswered == 0, "of {asked} requests {unanswered} were answered by neither");
    Ok(())
}

/// Pushes a version, and follows it to its end.
async fn release(stand: &Stand, version: &str, failing: f64, inputs: &str) -> Result<(RunStatus, RolloutView)> {
    let service = format!("{}{GPUS}", sample::SERVICE);
    let files = [
        (".segue/pipelines/release.yml", &sample::to_staging("segue/deploy", inputs)),
        (".segue/services/api.yml", &service),
        ("service.yml", &sample::service_yml(version, failing).replace("production", "staging")),
    ];
    stand.repository.commit(&format!("version {version}"), &files.map(|(path, text)| (path, text.as_str())))?;
    let guid = stand.push("main").await?;
    let api = stand.api()?;
    let view = api.run_of(&guid, LIMIT).await?;
    let rollouts = api.rollouts("staging").await?;
    let log = api.log(&view.jobs.first().context("no job")?.id).await?;
    let newest = rollouts
        .iter()
        .find(|one| one.spec.hosts.len() == 2)
        .with_context(|| format!("no rollout: {view:#?} {log}"))?;
    Ok((view.run.status, api.rollout(newest.id).await?))
}

/// Asks the first, and the second where that does not answer, until it is stopped.
struct Caller {
    asked: Arc<AtomicU64>,
    unanswered: Arc<AtomicU64>,
    is_stopped: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Caller {
    fn of(proxies: [String; 2]) -> Self {
        let (asked, unanswered) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let is_stopped = Arc::<AtomicBool>::default();
        let (count, missed, stop) = (asked.clone(), unanswered.clone(), is_stopped.clone());
        let task = tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                count.fetch_add(1, Ordering::Relaxed);
                if version_at(&proxies[0]).await.is_err() && version_at(&proxies[1]).await.is_err() {
                    missed.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self { asked, unanswered, is_stopped, task }
    }

    async fn stop(self) -> (u64, u64) {
        self.is_stopped.store(true, Ordering::Relaxed);
        let _ = self.task.await;
        (self.asked.load(Ordering::Relaxed), self.unanswered.load(Ordering::Relaxed))
    }
}

/// What answers at each.
async fn serving(proxies: &[String; 2]) -> Result<[String; 2]> {
    Ok([version_at(&proxies[0]).await?, version_at(&proxies[1]).await?])
}

async fn version_at(proxy: &str) -> Result<String> {
    let request = reqwest::Client::new().get(format!("http://{proxy}/"));
    let request = request.header("host", sample::host_name("staging")).timeout(Duration::from_secs(5));
    let body: serde_json::Value = request.send().await?.json().await?;
    let version = body["version"].as_str();
    Ok(version.context("not the service")?.to_owned())
}
