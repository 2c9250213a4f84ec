use std::{
    collections::BTreeSet,
    io::{Write as _, stdout},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use segue_integration_tests::{
    fleet::{Doors, Fleet, Shape, Whose},
    repository::{Pushed, ZERO},
    webhook::push_payload,
};
use segue_schemas::{
    api::{DeliveryStatus, ServerStatus},
    status::{JobStatus, RunStatus},
};

const LIMIT: Duration = Duration::from_secs(180);
/// Webhooks where nobody says how many; the promise is for 5,000 (`SEGUE_FLOOD=5000`).
const DELIVERIES: usize = 400;
/// How many come in a second: 5,000 in a minute.
const RATE: f64 = 5000.0 / 60.0;
/// What the most patient sender has under way at a time.
const CONNECTIONS: usize = 100;

/// Of branches, whose jobs wait for somebody who is not there; and a job that says much.
const PIPELINES: [(&str, &str); 2] = [
    (
        ".segue/pipelines/branch.yml",
        "on: {push: {branches: [\"branch-*\"]}}\njobs:\n  one:\n    runs-on: [nobody-has-this-label]\n    steps:\n      - run: 'true'\n",
    ),
    (
        ".segue/pipelines/talker.yml",
        "on: {push: {branches: [main]}}\njobs:\n  talker:\n    steps:\n      - run: |\n          seq 1 1000000 | sed 's/$/ of a million lines that nobody reads/'\n",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded() -> Result<()> {
    flood(Shape::embedded()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster() -> Result<()> {
    flood(Shape::cluster(Whose::Shared)).await
}

async fn flood(shape: Shape) -> Result<()> {
    let count = std::env::var("SEGUE_FLOOD").map_or(Ok(DELIVERIES), |text| text.parse())?;
    let fleet = Fleet::start(shape).await?;
    let (api, doors) = (fleet.api(0)?, fleet.doors()?);
    let commit = fleet.repository.commit("first", &PIPELINES)?;
    let pushed = fleet.repository.push("main")?;
    let guid = doors.webhooks[0].push(&fleet.repository, &pushed).await?;
    let talker = api.planned(&guid, LIMIT).await?.runs.first().context("no run")?.0;
    let view = api.job_becomes(talker, "talker", &[JobStatus::Running], LIMIT).await?;
    // it takes one piece, and then nothing more
    let path = format!("/jobs/{}/logs?follow=true", view.jobs[0].id);
    let mut stalled = api.raw_get(&path).await?.bytes_stream();
    stalled.next().await.context("no log")??;

    let (slowest, sent) = send(&doors, &commit, count).await?;
    let last = Instant::now();
    let mut runs = BTreeSet::new();
    for number in 0..count {
        let delivery = api.planned(&format!("flood-{number}"), LIMIT).await?;
        ensure!(delivery.status == DeliveryStatus::Planned && delivery.runs.len() == 1, "{delivery:#?}");
        runs.extend(delivery.runs);
    }
    let planned = last.elapsed();
    let queued = api.get::<ServerStatus>("/status").await?.queued_jobs;
    ensure!(runs.len() == count && queued == count as u64, "{} runs, {queued} jobs, not {count}", runs.len());
    let view = api.ended(talker, LIMIT).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");
    drop(stalled);
    let memory = fleet.memory();
    let above: Vec<_> = memory.iter().filter(|memory| memory.peak_mib > memory.bound_mib).collect();
    let peaks: Vec<String> = memory.iter().map(|memory| format!("{} {} MiB", memory.who, memory.peak_mib)).collect();
    writeln!(
        stdout(),
        "{count} webhooks in {:.1} s, the slowest answer after {slowest:?}, all planned {:.1} s later; at most {}",
        sent.as_secs_f64(),
        planned.as_secs_f64(),
        peaks.join(", ")
    )?;
    ensure!(above.is_empty(), "{above:#?}");
    Ok(())
}

/// Sends them at their rate, to one server after the other; the slowest answer, and how long it took.
async fn send(doors: &Doors, commit: &str, count: usize) -> Result<(Duration, Duration)> {
    let begun = Instant::now();
    let times: Vec<Duration> = stream::iter(0..count)
        .map(async |number| {
            let pushed = Pushed {
                git_ref: format!("refs/heads/branch-{number}"),
                before: ZERO.into(),
                after: commit.to_owned(),
                message: format!("branch {number}"),
            };
            let body = serde_json::to_vec(&push_payload(&doors.repository, &pushed))?;
            tokio::time::sleep_until((begun + Duration::from_secs_f64(number as f64 / RATE)).into()).await;
            let sent = Instant::now();
            let webhook = &doors.webhooks[number % doors.webhooks.len()];
            let answer = webhook.send(&format!("flood-{number}"), "push", &body).await?;
            ensure!(answer.status() == 202, "delivery {number} was answered {}", answer.status());
            Ok(sent.elapsed())
        })
        .buffer_unordered(CONNECTIONS)
        .try_collect()
        .await?;
    Ok((times.into_iter().max().unwrap_or_default(), begun.elapsed()))
}
