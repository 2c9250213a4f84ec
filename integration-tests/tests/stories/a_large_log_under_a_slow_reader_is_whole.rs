use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use segue_integration_tests::{processes, stand::Stand};
use segue_schemas::status::{JobStatus, RunStatus};

const LINES: usize = 2_000_000;

/// 200 MB in lines of 100 characters, numbered.
const PIPELINE: &str = r#"on: [push]
jobs:
  one:
    runs-on: [linux]
    steps:
      - run: awk 'BEGIN { for (n = 0; n < 2000000; n++) printf "%010d %s\n", n, "the quick brown fox jumps over the lazy dog and goes on to jump over the other dog as well" }'
"#;

#[tokio::test]
async fn two_hundred_megabytes_arrive_whole_while_a_reader_sleeps_and_memory_stays_flat() -> Result<()> {
    let stand = Stand::start("").await?;
    let api = stand.api()?;
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    let guid = stand.push("main").await?;
    let run = api.planned(&guid, Duration::from_secs(30)).await?.runs[0];
    let view = api.job_becomes(run.0, "one", &[JobStatus::Leased, JobStatus::Running], Duration::from_secs(30)).await?;
    let job = view.jobs.first().context("no job")?.id;

    // a reader that takes one piece and then nothing more
    let mut slow = api.raw_get(&format!("/jobs/{job}/logs?follow=true")).await?.bytes_stream();
    let _ = slow.next().await;

    let server = stand.server_pid().context("no server")?;
    let mut peak = 0;
    let end = tokio::time::Instant::now() + Duration::from_secs(120);
    let view = loop {
        peak = peak.max(processes::pss_kib(server).unwrap_or(0));
        if let Ok(view) = api.ended(run.0, Duration::from_millis(100)).await {
            break view;
        }
        anyhow::ensure!(tokio::time::Instant::now() < end, "not ended in two minutes");
    };
    assert_eq!(view.run.status, RunStatus::Succeeded);
    println!("peak of server and worker: {} MiB", peak / 1024);
    assert!(peak < 100 * 1024, "memory grew to {} MiB under a slow reader", peak / 1024);

    let mut numbered = 0;
    let mut rest = Vec::new();
    let mut stream = api.raw_get(&format!("/jobs/{job}/logs")).await?.bytes_stream();
    while let Some(bytes) = stream.next().await {
        rest.extend_from_slice(&bytes?);
        let Some(last) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
        for line in rest[..last].split(|byte| *byte == b'\n') {
            if line.starts_with(format!("{numbered:010} ").as_bytes()) {
                numbered += 1;
            }
        }
        rest.drain(..=last);
    }
    assert_eq!(numbered, LINES, "every line, in order");
    drop(slow);
    Ok(())
}
