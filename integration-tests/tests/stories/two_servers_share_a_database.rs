use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use segue_integration_tests::{
    cluster::Cluster,
    load::Load,
    processes,
    repository::Pushed,
    stand::Stand,
    webhook::{Webhook, push_payload},
};
use segue_schemas::{
    api::RunView,
    status::{JobStatus, RunStatus},
};

use crate::{RUN_LIMIT, commit_version, version_in};

/// How long everything may take that was sent while the database was spoiled.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_a_push_to_one_of_them_runs_to_production_and_is_seen_on_the_other() -> Result<()> {
    let cluster = Cluster::start("").await?;
    let [_, other] = cluster.apis()?;
    for version in ["1", "2"] {
        commit_version(&cluster.stand, version, 0.0, "1s")?;
        let load = Load::to(&cluster.stand.proxy, "production").start();
        let guid = cluster.stand.push("main").await?;
        let view = other.run_of(&guid, RUN_LIMIT).await?;
        load.stop().await;
        if let Some(job) = view.jobs.iter().find(|job| job.status == JobStatus::Failed) {
            anyhow::bail!("{} failed: {:?}; its log:\n{}", job.key, job.reason, other.log(&job.id).await?);
        }
        ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");
        assert_eq!(version_in(&cluster.stand, "production").await?, version);
        for job in &view.jobs {
            let text = other.log(&job.id).await?;
            ensure!(!text.is_empty(), "the log of {} is empty on the other server", job.key);
        }
    }
    assert!(!cluster.stand.data().join("logs").exists(), "logs lie in the database");
    Ok(())
}

/// A job that leaves a line of its own wherever it runs.
fn effect(file: &Path) -> String {
    format!(
        "on: [push]\njobs:\n  work:\n    runs-on: [linux]\n    steps:\n      - run: echo \"$COMMIT\" >> {}\n        \
         env: {{COMMIT: \"${{{{ github.sha }}}}\"}}\n",
        file.display()
    )
}

/// Sends a delivery until it is taken, to one server and the other, as GitHub's redelivery would.
async fn send(webhooks: &[Webhook; 2], stand: &Stand, pushed: &Pushed, n: usize) -> Result<String> {
    let guid = uuid::Uuid::new_v4().to_string();
    let body = serde_json::to_vec(&push_payload(&stand.repository, pushed))?;
    let begun = Instant::now();
    for hook in webhooks.iter().cycle().skip(n) {
        if hook.send(&guid, "push", &body).await.is_ok_and(|answer| answer.status() == 202) {
            return Ok(guid);
        }
        ensure!(begun.elapsed() < LIMIT, "a delivery is not taken");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    unreachable!("it cycles")
}

/// Sends deliveries while something is done to the database, and looks that each has run once.
async fn under_load<F: Future<Output = Result<()>>>(
    cluster: &Cluster,
    count: usize,
    spoil: impl FnOnce() -> F,
) -> Result<()> {
    let stand = &cluster.stand;
    let effects = stand.folder().join("effects");
    fs::write(&effects, "")?;
    fs::set_permissions(&effects, fs::Permissions::from_mode(0o666))?;
    let mut pushed = Vec::new();
    for n in 0..count {
        let version = format!("{n} of {}", uuid::Uuid::new_v4());
        stand.repository.commit(&version, &[(".segue/pipelines/one.yml", &effect(&effects)), ("version", &version)])?;
        pushed.push(stand.repository.push("main")?);
    }
    let webhooks = cluster.webhooks()?;
    let sending = async {
        let mut guids = Vec::new();
        for (n, pushed) in pushed.iter().enumerate() {
            guids.push(send(&webhooks, stand, pushed, n).await?);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, anyhow::Error>(guids)
    };
    let (guids, spoiled) = tokio::join!(sending, spoil());
    spoiled?;
    let api = &cluster.apis()?[1];
    for guid in guids? {
        let delivery = api.planned(&guid, LIMIT).await?;
        let [run] = delivery.runs.as_slice() else { anyhow::bail!("one run for {guid}: {:?}", delivery.runs) };
        let view: RunView = api.ended(run.0, LIMIT).await.with_context(|| format!("run {run}"))?;
        ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");
    }
    let mut lines: BTreeMap<String, u32> = BTreeMap::new();
    fs::read_to_string(&effects)?.lines().for_each(|line| *lines.entry(line.to_owned()).or_default() += 1);
    let wanted: BTreeMap<String, u32> = pushed.iter().map(|pushed| (pushed.after.clone(), 1)).collect();
    assert_eq!(lines, wanted, "each push has left its line once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_nothing_is_lost_or_doubled_whatever_becomes_of_it() -> Result<()> {
    let cluster = Cluster::start("").await?;
    let postgres = cluster.database.server();
    let pause = |millis| tokio::time::sleep(Duration::from_millis(millis));

    under_load(&cluster, 15, || async {
        pause(500).await;
        postgres.stop(true)?;
        pause(1000).await;
        postgres.start_again(&[])?;
        pause(500).await;
        postgres.stop(false)?;
        pause(5000).await;
        postgres.start_again(&[])
    })
    .await
    .context("stopped and started again, as a crash and in order")?;

    under_load(&cluster, 10, || async {
        pause(300).await;
        postgres.sql("postgres", "ALTER SYSTEM SET default_transaction_read_only = on")?;
        postgres.sql("postgres", "SELECT pg_reload_conf()")?;
        pause(2000).await;
        postgres.sql("postgres", "ALTER SYSTEM RESET default_transaction_read_only")?;
        postgres.sql("postgres", "SELECT pg_reload_conf()").map(drop)
    })
    .await
    .context("made read-only for a while")?;

    under_load(&cluster, 10, || async {
        pause(300).await;
        // everybody is thrown out, and few are let in again
        let name = cluster.database.sql("SELECT current_database()")?;
        postgres.sql("postgres", &format!("ALTER DATABASE {name} CONNECTION LIMIT 2"))?;
        let cut = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
        postgres.sql("postgres", &cut)?;
        pause(3000).await;
        postgres.sql("postgres", &format!("ALTER DATABASE {name} CONNECTION LIMIT -1")).map(drop)
    })
    .await
    .context("its connections exhausted")?;

    under_load(&cluster, 10, || async {
        pause(300).await;
        // what it holds of the database in this moment, it holds until the database takes it away
        processes::signal(cluster.second_pid(), Signal::SIGSTOP)?;
        pause(4000).await;
        processes::signal(cluster.second_pid(), Signal::SIGCONT)
    })
    .await
    .context("one of the servers stood still")
}
