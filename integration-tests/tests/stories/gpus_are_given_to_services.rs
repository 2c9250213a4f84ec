use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{
    gpus::{Card, Machine},
    load::Load,
    sample,
    stand::Stand,
};
use segue_schemas::{
    api::RolloutView,
    deploy::{JournalEntry, JournalKind},
    status::{RolloutStatus, RunStatus},
};

use crate::version_in;

const LIMIT: Duration = Duration::from_secs(120);

/// One fits on each GPU of the machine, and no two on one.
const SHARED: &str = "gpus: { memory: 44000MiB }\n";
const RECREATED: &str = "gpus: { memory: 44000MiB, when-full: recreate }\n";

#[tokio::test]
async fn each_instance_has_its_own_and_a_release_that_does_not_fit_changes_places_where_that_was_chosen() -> Result<()>
{
    let (small, large) = (Card::new("GPU-small", "NVIDIA L40S", 46_068), Card::new("GPU-large", "NVIDIA H100", 81_559));
    let machine = Machine::with(&[small.clone(), large.clone()])?;
    let offers = format!("    gpus: [all]\n    nvidia-smi: {}\n", machine.nvidia_smi().display());
    let stand = Stand::start(&offers).await?;

    let first = release(&stand, "1", "segue/deploy", SHARED).await?;
    ensure!(first.status == RunStatus::Succeeded, "{}", first.log);
    is_pinned(&first.rollout, "GPU-small")?;
    // beside it, and compared with it
    let second = release(&stand, "2", "segue/canary", SHARED).await?;
    ensure!(second.status == RunStatus::Succeeded, "{}", second.log);
    is_pinned(&second.rollout, "GPU-large")?;
    ensure!(version_in(&stand, "staging").await? == "2");

    // one GPU breaks, the other one is held by what serves
    machine.set(&[Card { uncorrected: 2, ..small }, large])?;
    let third = release(&stand, "3", "segue/canary", SHARED).await?;
    ensure!(
        third.status == RunStatus::Failed && third.rollout.rollout.status == RolloutStatus::Failed,
        "{}",
        third.log
    );
    for words in [
        "GPU-small: its memory has had 2 errors that could not be corrected (end its processes and reset it",
        "GPU-large: 44000 MiB are asked for, and 37555 are free of 81559",
        "What is compared with what serves runs beside it: ask for less `memory`",
    ] {
        let told = told(&third.rollout)?;
        ensure!(told.contains(words), "`{words}` is not in: {told}");
    }
    ensure!(version_in(&stand, "staging").await? == "2", "what serves is not touched");

    let refused = release(&stand, "4", "segue/canary", RECREATED).await;
    let refused = refused.err().context("a canary of what is recreated")?.to_string();
    ensure!(refused.contains("as a canary is, runs beside what serves"), "{refused}");

    let fifth = release(&stand, "5", "segue/deploy", RECREATED).await?;
    ensure!(fifth.status == RunStatus::Succeeded, "{}", fifth.log);
    is_pinned(&fifth.rollout, "GPU-large")?;
    let kinds: Vec<JournalKind> = fifth.rollout.journal.iter().map(|entry| entry.kind).collect();
    let place = |kind| kinds.iter().position(|one| *one == kind);
    ensure!(place(JournalKind::GapIntent) < place(JournalKind::Started), "it is told before: {kinds:?}");
    let told = told(&fifth.rollout)?;
    ensure!(told.contains("nobody answers until that is ready"), "{told}");
    ensure!(version_in(&stand, "staging").await? == "5");

    // what can't be started: the former one comes back, by its own command
    let sixth = release(&stand, "6", "segue/deploy", &format!("{RECREATED}command: [./is-not-there]\n")).await?;
    ensure!(sixth.status == RunStatus::Failed, "{}", sixth.log);
    ensure!(sixth.rollout.rollout.status == RolloutStatus::RolledBack, "{}", sixth.log);
    ensure!(version_in(&stand, "staging").await? == "5", "it serves again");
    is_pinned(&sixth.rollout, "GPU-large")?;
    Ok(())
}

struct Released {
    status: RunStatus,
    log: String,
    rollout: RolloutView,
}

/// Pushes a version, and follows it to its end. `more` is added to the service's file, in the place of what it says there.
async fn release(stand: &Stand, version: &str, action: &str, more: &str) -> Result<Released> {
    let stages =
        if action == "segue/canary" { "stages: \"50,100\", stage-duration: 1s, min-requests: \"20\"" } else { "" };
    let pipeline = sample::to_staging(action, stages);
    let own = sample::SERVICE.lines().filter(|line| !more.contains("command:") || !line.starts_with("command:"));
    let service = own.map(|line| format!("{line}\n")).collect::<String>() + more;
    let files = [
        (".segue/pipelines/release.yml", pipeline.as_str()),
        (".segue/services/api.yml", &service),
        ("service.yml", &sample::service_yml(version, 0.0)),
    ];
    stand.repository.commit(&format!("version {version}"), &files)?;
    let api = stand.api()?;
    let known = api.rollouts("staging").await?.len();
    let load = Load::to(&stand.proxy, "staging").start();
    let guid = stand.push("main").await?;
    let view = api.run_of(&guid, LIMIT).await;
    load.stop().await;
    let view = view?;
    let log = api.log(&view.jobs.first().context("no job")?.id).await?;
    let rollouts = api.rollouts("staging").await?;
    ensure!(rollouts.len() > known, "there was no rollout: {log}");
    let rollout = api.rollout(rollouts.first().context("no rollout")?.id).await?;
    Ok(Released { status: view.run.status, log, rollout })
}

/// What its journal tells.
fn told(rollout: &RolloutView) -> Result<String> {
    Ok(serde_json::to_string(&rollout.journal)?)
}

/// The instance that was started last has this GPU, and its process sees no other.
fn is_pinned(rollout: &RolloutView, gpu: &str) -> Result<()> {
    let started = rollout.journal.iter().rev().find(|entry: &&JournalEntry| entry.kind == JournalKind::Started);
    let detail = &started.context("nothing was started")?.detail;
    ensure!(detail["gpus"] == serde_json::json!([gpu]), "{detail}");
    let environ = std::fs::read(format!("/proc/{}/environ", detail["pid"]))?;
    let sees = format!("CUDA_VISIBLE_DEVICES={gpu}");
    ensure!(environ.split(|byte| *byte == 0).any(|pair| pair == sees.as_bytes()), "it does not see {gpu} alone");
    Ok(())
}
