use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{
    gpus::{Card, Machine},
    stand::Stand,
};
use segue_schemas::{
    api::{QueueList, RunView, WorkerList},
    status::{JobStatus, RunStatus},
};

const LIMIT: Duration = Duration::from_secs(60);

/// `large` fits the first GPU alone, which `first` has until it is let go. `none` asks for none.
const PIPELINE: &str = r#"on: push
jobs:
  first:
    resources: { gpus: { memory: 60GiB } }
    steps:
      - run: echo "has [$CUDA_VISIBLE_DEVICES]"; until test -e GATE; do sleep 0.05; done
  none:
    steps: [{ run: 'echo "has [$CUDA_VISIBLE_DEVICES]"' }]
  small:
    needs: none
    resources: { gpus: 1 }
    steps: [{ run: 'echo "has [$CUDA_VISIBLE_DEVICES]"' }]
  large:
    needs: small
    resources: { gpus: { count: 1, memory: 60GiB } }
    steps: [{ run: 'echo "has [$CUDA_VISIBLE_DEVICES]"' }]
  both:
    needs: large
    resources: { gpus: 2 }
    steps: [{ run: 'echo "has [$CUDA_VISIBLE_DEVICES]"' }]
  never:
    needs: both
    resources: { gpus: 3 }
    steps: [{ run: echo never }]
"#;

#[tokio::test]
async fn they_see_what_they_asked_for_and_wait_for_what_others_have() -> Result<()> {
    let machine = Machine::with(&[
        Card::new("GPU-h100", "NVIDIA H100 80GB HBM3", 81_559),
        Card::new("GPU-l40s", "NVIDIA L40S", 46_068),
        Card { uncorrected: 2, ..Card::new("GPU-sick", "NVIDIA L40S", 46_068) },
    ])?;
    let settings = format!("worker: {{ capacity: 4, gpus: [all], nvidia-smi: {} }}\n", machine.nvidia_smi().display());
    let stand = Stand::start(&settings).await?;
    let gate = stand.folder().join("gate");
    let pipeline = PIPELINE.replace("GATE", &gate.display().to_string());
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", &pipeline)])?;
    let guid = stand.push("main").await?;
    let api = stand.api()?;
    let run = api.planned(&guid, LIMIT).await?.runs[0].0;
    api.job_becomes(run, "small", &[JobStatus::Succeeded], LIMIT).await?;

    let waiting = until(&stand, "large", "other jobs have those").await?;
    ensure!(waiting.contains("1 GPU with 61440 MiB"), "{waiting}");
    let workers: WorkerList = api.get("/workers").await?;
    let told = |gpu: &segue_schemas::api::GpuView| (gpu.uuid.clone(), gpu.memory_mib, gpu.job.is_some());
    let gpus: Vec<_> = workers.items[0].gpus.iter().map(told).collect();
    ensure!(gpus == [("GPU-h100".into(), 81_559, true), ("GPU-l40s".into(), 46_068, false)], "{gpus:?}");
    let said = stand.server_output();
    ensure!(said.contains("GPU-sick: its memory has had 2 errors"), "one with a fault is not offered:\n{said}");
    let shown = String::from_utf8(stand.segue(&["workers"])?.stdout)?;
    ensure!(shown.contains("1 of 2 busy: NVIDIA H100 80GB HBM3, ..."), "{shown}");

    std::fs::write(&gate, "")?;
    let view = api.job_becomes(run, "both", &[JobStatus::Succeeded, JobStatus::Failed], LIMIT).await?;
    for (job, wanted) in [
        ("first", "has [GPU-h100]"),
        ("none", "has []"),
        ("small", "has [GPU-l40s]"),
        ("large", "has [GPU-h100]"),
        ("both", "has [GPU-l40s,GPU-h100]"),
    ] {
        let log = log_of(&stand, &view, job).await?;
        ensure!(log.contains(wanted), "`{job}`: {log}");
    }
    // what no worker can ever do says so
    let never = until(&stand, "never", "no worker offers all of").await?;
    ensure!(never.contains("3 GPUs") && never.contains("`worker.gpus`"), "{never}");
    ensure!(view.run.status == RunStatus::Running, "{view:#?}");
    Ok(())
}

/// What a job waits for, once that says this.
async fn until(stand: &Stand, job: &str, words: &str) -> Result<String> {
    let begun = std::time::Instant::now();
    loop {
        let queue: QueueList = stand.api()?.get("/queue").await?;
        let reason = queue.items.iter().find(|one| one.key == job).map(|one| one.reason.clone());
        if let Some(reason) = reason.as_ref().filter(|reason| reason.contains(words)) {
            return Ok(reason.clone());
        }
        ensure!(begun.elapsed() < LIMIT, "`{job}` waits for {reason:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn log_of(stand: &Stand, view: &RunView, key: &str) -> Result<String> {
    let job = view.jobs.iter().find(|job| job.key == key).with_context(|| format!("no job `{key}`"))?;
    stand.api()?.log(&job.id).await
}
