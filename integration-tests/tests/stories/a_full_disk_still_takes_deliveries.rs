use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use segue_integration_tests::{
    disk::{SmallDisk, fill},
    stand::Stand,
};
use segue_schemas::{
    api::QueueList,
    status::{JobStatus, RunStatus},
};

const PIPELINE: &str = "on: [push]\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: 'true'\n";

#[tokio::test]
async fn jobs_are_held_with_the_reason_and_go_on_once_there_is_space() -> Result<()> {
    let stand = Stand::prepare("retention: {low-disk-mib: 48}\n")?;
    let disk = SmallDisk::mount(&stand.data(), 160)?;
    let told = story(stand).await;
    drop(disk);
    told
}

async fn story(mut stand: Stand) -> Result<()> {
    stand.start_server().await?;
    let api = stand.api()?;
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    let guid = stand.push("main").await?;
    assert_eq!(api.run_of(&guid, Duration::from_secs(60)).await?.run.status, RunStatus::Succeeded);

    let filler = stand.data().join("filler");
    fill(&filler, 24)?;
    stand.repository.commit("second", &[("file", "x")])?;
    let guid = stand.push("main").await?;
    let run = api.planned(&guid, Duration::from_secs(30)).await?.runs[0];
    let view = api.job_becomes(run.0, "one", &[JobStatus::Queued], Duration::from_secs(10)).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let queue: QueueList = api.get("/queue").await?;
    let waits = queue.items.iter().find(|item| item.run == run).context("the job is not held")?;
    assert!(waits.reason.contains("MiB of disk are free"), "{waits:?}");
    assert!(!view.run.status.is_final());

    // to the last byte: it is taken or refused as "later", never lost and never the end of the server
    fill(&filler, 0)?;
    stand.repository.commit("third", &[("file", "y")])?;
    let pushed = stand.repository.push("main")?;
    let payload = segue_integration_tests::webhook::push_payload(&stand.repository, &pushed);
    let body = serde_json::to_vec(&payload)?;
    let answer = stand.webhook()?.send("on-a-full-disk", "push", &body).await?.status().as_u16();
    assert!([202, 503].contains(&answer), "it was answered {answer}");

    fs::remove_file(&filler)?;
    if answer == 503 {
        assert_eq!(stand.webhook()?.send("on-a-full-disk", "push", &body).await?.status(), 202);
    }
    let view = api.ended(run.0, Duration::from_secs(60)).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "the held job went on by itself: {view:#?}");
    let view = api.run_of("on-a-full-disk", Duration::from_secs(60)).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded);
    Ok(())
}
