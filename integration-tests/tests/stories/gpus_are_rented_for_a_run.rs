//! Machines with GPUs that runs rent from Lambda Cloud: had for as long as the run lives, and not a moment longer whatever dies.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{
    faults::LEASES,
    lambda::{Fault, KEY, LambdaCloud, SSH_KEY},
    stand::Stand,
};
use segue_schemas::{
    api::{CancelRequest, RunSummary, RunView},
    id::RunId,
    machine::{Machine, MachineList, MachineState},
    status::{JobStatus, RunStatus},
};

const LIMIT: Duration = Duration::from_secs(60);

/// Rents what it is told to, and uses it.
const PIPELINE: &str = r#"on: [push]
jobs:
  train:
    runs-on: [linux]
    steps:
      - id: gpu
        uses: segue/provision-gpu
        with: { INPUTS }
      - run: |
          echo "used $ID $IP $TYPE $REGION $PRICE"
          THEN
        env:
          ID: ${{ steps.gpu.outputs.id }}
          IP: ${{ steps.gpu.outputs.ip }}
          TYPE: ${{ steps.gpu.outputs.type }}
          REGION: ${{ steps.gpu.outputs.region }}
          PRICE: ${{ steps.gpu.outputs.price-per-hour }}
      - if: failure()
        run: echo "it went on after the failure"
"#;

/// A stand whose jobs may rent, at a pace for tests. What it is configured with is added to by `extra`.
async fn stand(cloud: &LambdaCloud, keys: &Path, extra: &str) -> Result<Stand> {
    let key = keys.join("lambda.key");
    fs::write(&key, KEY)?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let (url, key) = (cloud.url(), key.display());
    Stand::start(&format!(
        "lambda:\n  url: {url}\n  key-file: {key}\n  repositories: [acme/shop]\n  ssh-keys: [{SSH_KEY}]\n  max-price: 1.50\n  \
         max-machines: 2\n  look-every: 200ms\n  request-every: 10ms\n  launch-every: 50ms\n  settle: 3s\n{extra}"
    ))
    .await
}

async fn push(stand: &Stand, inputs: &str, then: &str) -> Result<RunId> {
    let text = PIPELINE.replace("INPUTS", inputs).replace("THEN", then);
    stand.repository.commit("train", &[(".segue/pipelines/train.yml", &text)])?;
    let guid = stand.push("main").await?;
    Ok(stand.api()?.planned(&guid, LIMIT).await?.runs[0])
}

async fn log(stand: &Stand, view: &RunView) -> Result<String> {
    stand.api()?.log(&view.jobs.first().context("no job")?.id).await
}

fn machines(stand: &Stand) -> Result<Vec<Machine>> {
    let output = stand.segue(&["gpus", "--json"])?;
    ensure!(output.status.success(), "{output:?}");
    let list: MachineList = serde_json::from_slice(&output.stdout)?;
    Ok(list.items)
}

async fn until_ended(stand: &Stand, count: usize) -> Result<Vec<Machine>> {
    let begun = std::time::Instant::now();
    loop {
        let all = machines(stand)?;
        if all.len() == count && all.iter().all(|one| one.state == MachineState::Ended) {
            return Ok(all);
        }
        ensure!(begun.elapsed() < LIMIT, "{all:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether a text stands in any file below a folder.
fn holds(folder: &Path, text: &str) -> Result<bool> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let is_in = if kind.is_dir() {
            holds(&entry.path(), text)?
        } else {
            kind.is_file() && fs::read(entry.path())?.windows(text.len()).any(|part| part == text.as_bytes())
        };
        if is_in {
            return Ok(true);
        }
    }
    Ok(false)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_has_its_machine_and_it_goes_with_the_run() -> Result<()> {
    let (cloud, keys) = (LambdaCloud::start().await?, tempfile::tempdir()?);
    cloud.takes(Duration::from_millis(500), Duration::from_millis(500), LIMIT);
    cloud.has("gpu_1x_a100", 0);
    let others = cloud.somebody_launches("segue-of-another-house-1");
    let stand = stand(&cloud, keys.path(), "").await?;
    let run = push(&stand, "type: 'gpu_1x_a100, gpu_1x_a10', region: us-east-1", "test -n \"$IP\"").await?;
    let view = stand.api()?.ended(run.0, LIMIT).await?;
    let said = log(&stand, &view).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}\n{said}");
    let [_, rented] = &cloud.launched()[..] else { anyhow::bail!("{:#?}", cloud.launched()) };
    assert!(said.contains(&format!("used {} 198.51.100.2 gpu_1x_a10 us-east-1 0.75", rented.id)), "{said}");
    assert!(said.contains("Launching gpu_1x_a10 in us-east-1 for 0.75 USD an hour"), "{said}");
    cloud.until(2, 1, LIMIT).await?;
    assert_eq!(cloud.left(), ["segue-of-another-house-1"], "what is another's stays: {others}");
    let [machine] = &until_ended(&stand, 1).await?[..] else { anyhow::bail!("one machine") };
    assert_eq!((machine.reason.as_deref(), machine.cost.to_string().as_str()), (Some("its run has ended"), "0.02"));
    assert_eq!(machine.instance.as_ref(), Some(&rented.id));
    assert!(rented.name.starts_with(&machine.name));
    assert!(!holds(&stand.data(), KEY)? && !stand.server_output().contains(KEY), "the key lies where it was put alone");

    // one that fails has none either, and the step that comes after says why
    let run = push(&stand, "type: gpu_1x_a10", "exit 3").await?;
    let view = stand.api()?.ended(run.0, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Failed);
    cloud.until(3, 1, LIMIT).await?;
    until_ended(&stand, 2).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_before_the_launch_is_answered_leaves_nothing() -> Result<()> {
    let (cloud, keys) = (LambdaCloud::start().await?, tempfile::tempdir()?);
    let mut stand = stand(&cloud, keys.path(), LEASES).await?;
    cloud.fails(&[Fault::MadeAndSilent]);
    let run = push(&stand, "type: gpu_1x_a10, wait-for-capacity: 1m", "true").await?;
    cloud.until(1, 1, LIMIT).await?;
    let [machine] = &machines(&stand)?[..] else { anyhow::bail!("one machine") };
    assert_eq!(
        (machine.state, &machine.instance),
        (MachineState::Launching, &None),
        "it is written down, and no more is known"
    );
    stand.kill_server()?;
    stand.start_server().await?;
    // the job is begun anew, and has another one
    let view = stand.api()?.ended(run.0, LIMIT).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}\n{}", log(&stand, &view).await?);
    cloud.until(2, 0, LIMIT).await?;
    let all = until_ended(&stand, 2).await?;
    let lost = all.iter().find(|one| one.name == machine.name).context("the first one")?;
    assert_eq!(lost.instance, Some(cloud.launched()[0].id.clone()), "found by its name");
    assert_eq!(lost.reason.as_deref(), Some("its job begins anew"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_with_a_machine_in_use_ends_it_after_its_run() -> Result<()> {
    let (cloud, keys) = (LambdaCloud::start().await?, tempfile::tempdir()?);
    let mut stand = stand(&cloud, keys.path(), LEASES).await?;
    let run = push(&stand, "type: gpu_1x_a10, wait-for-capacity: 1m", "sleep 300").await?;
    stand.api()?.job_becomes(run.0, "train", &[JobStatus::Running], LIMIT).await?;
    cloud.until(1, 1, LIMIT).await?;
    stand.kill_server()?;
    // nobody is there, and a person has what it was for taken away meanwhile: the next start ends what is left
    stand.start_server().await?;
    cancel(&stand, run).await?;
    let view = stand.api()?.ended(run.0, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Cancelled);
    let begun = std::time::Instant::now();
    while !cloud.left().is_empty() {
        ensure!(begun.elapsed() < LIMIT, "{:#?}", cloud.left());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_costs_too_much_is_refused_before_anything_is_launched() -> Result<()> {
    let (cloud, keys) = (LambdaCloud::start().await?, tempfile::tempdir()?);
    let stand = stand(&cloud, keys.path(), "").await?;
    for (inputs, said) in [
        ("type: gpu_8x_h100_sxm5", "costs 23.92 USD an hour, and 1.50 USD may be paid: `lambda.max-price`"),
        ("type: gpu_1x_a10, max-price: 0.50, wait-for-capacity: 10m", "and 0.50 USD may be paid: `max-price`"),
        ("type: gpu_1x_a11", "did you mean `gpu_1x_a10`?"),
        ("type: gpu_1x_a10, ssh-key: mine", "the key `mine` may not log in"),
        ("type: gpu_1x_a10, lifetime: 25h", "the server's operator allows 1day"),
    ] {
        let run = push(&stand, inputs, "true").await?;
        let view = stand.api()?.ended(run.0, LIMIT).await?;
        let log = log(&stand, &view).await?;
        ensure!(view.run.status == RunStatus::Failed && log.contains(said), "{inputs}: {log}");
    }
    assert_eq!(cloud.launched().len(), 0);
    cloud.fails(&[Fault::Quota]);
    let run = push(&stand, "type: gpu_1x_a10, wait-for-capacity: 10m", "true").await?;
    let view = stand.api()?.ended(run.0, LIMIT).await?;
    let log = log(&stand, &view).await?;
    assert!(log.contains("Lambda refused: Quota exceeded. (global/quota-exceeded)"), "{log}");
    assert_eq!(cloud.launched().len(), 0);
    let doctor =
        stand.segue(&["doctor", "--json", "--config", &stand.folder().join("segue.yaml").display().to_string()])?;
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        doctor.contains("the key works; acme/shop may rent 2 types (2 can be had now), 2 at a time, 1.50 USD"),
        "{doctor}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cancelled_while_waiting_for_capacity_gets_none() -> Result<()> {
    let (cloud, keys) = (LambdaCloud::start().await?, tempfile::tempdir()?);
    let stand = stand(&cloud, keys.path(), "worker: {kill-grace: 1s}\n").await?;
    cloud.has("gpu_1x_a10", 0);
    let run = push(&stand, "type: gpu_1x_a10, wait-for-capacity: 30m", "true").await?;
    let begun = std::time::Instant::now();
    loop {
        let all = machines(&stand)?;
        if all.iter().any(|one| one.reason.as_deref() == Some("there is no capacity for gpu_1x_a10 in any region")) {
            break;
        }
        ensure!(begun.elapsed() < LIMIT, "{all:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cancel(&stand, run).await?;
    let view = stand.api()?.ended(run.0, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Cancelled);
    until_ended(&stand, 1).await?;
    cloud.has("gpu_1x_a10", 1);
    // whoever still wanted it would have it by now
    let asked = cloud.requests().len();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!((cloud.launched().len(), cloud.requests().len()), (0, asked), "and nobody asks any more");

    // who waits on has it as soon as there is one; a person ends it over the run's head
    cloud.has("gpu_1x_a10", 0);
    let run = push(&stand, "type: gpu_1x_a10, wait-for-capacity: 30m", "sleep 300").await?;
    stand.api()?.job_becomes(run.0, "train", &[JobStatus::Running], LIMIT).await?;
    cloud.has("gpu_1x_a10", 1);
    cloud.until(1, 1, LIMIT).await?;
    let name = machines(&stand)?.first().context("a machine")?.name.clone();
    let ended = stand.segue(&["gpus", "terminate", &name])?;
    ensure!(ended.status.success(), "{ended:?}");
    cloud.until(1, 0, LIMIT).await?;
    until_ended(&stand, 2).await?;
    cancel(&stand, run).await?;
    let nothing = stand.segue(&["gpus", "terminate", "segue-none"])?;
    assert_eq!(nothing.status.code(), Some(1));
    Ok(())
}

async fn cancel(stand: &Stand, run: RunId) -> Result<()> {
    let by = CancelRequest { by: Some("a user".into()), reason: None };
    let _: RunSummary = stand.api()?.post(&format!("/runs/{run}/cancel"), &by).await?;
    Ok(())
}
