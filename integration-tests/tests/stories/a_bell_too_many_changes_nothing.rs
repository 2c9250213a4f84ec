use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use segue_integration_tests::{broker::Broker, ledger::Ledger, processes, stand::Stand};
use segue_schemas::{queue, status::RunStatus};

const LIMIT: Duration = Duration::from_secs(60);
const POOL: &str = "segue.jobs.default+linux";

/// More jobs than one worker has slots for.
const MANY: &str = "on: push\njobs:\n  many:\n    runs-on: [linux]\n    strategy:\n      matrix: {n: [1, 2, 3, 4, 5, 6, 7, 8, 9, \
                    10, 11, 12]}\n    steps:\n      - run: 'true'\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_twice_nor_late_nor_for_work_that_is_not_there() -> Result<()> {
    let broker = Broker::shared().await?;
    let mut stand = Stand::start_with_broker(&broker, "").await?;
    stand.start_worker("one", &broker.url("worker"))?;
    let mut ledger = Ledger::open(&stand)?;
    ledger.push(&stand, 3).await?;
    ledger.settle(&stand, LIMIT).await?;
    for delivery in ledger.deliveries().iter().rev() {
        for _ in 0..3 {
            broker.publish(queue::DELIVERIES, &format!(r#"{{"v":1,"delivery":"{delivery}"}}"#)).await?;
            broker.publish(POOL, r#"{"v":1,"pool":"default+linux"}"#).await?;
        }
    }
    ledger.push(&stand, 3).await?;
    ledger.settle(&stand, LIMIT).await?;
    for name in [POOL, queue::DELIVERIES] {
        broker
            .until("every bell was answered", LIMIT, async |broker| Ok(broker.peek(name, 50).await?.is_empty()))
            .await?;
    }
    assert_eq!(broker.peek(queue::DEAD_LETTERS, 10).await?.len(), 0);
    assert_eq!(stand.api()?.runs().await?.items.len(), 6, "no run came of a bell");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_many_jobs_make_no_more_bells_than_one() -> Result<()> {
    let broker = Broker::shared().await?;
    let mut stand = Stand::start_with_broker(&broker, "").await?;
    let worker = stand.start_worker("one", &broker.url("worker"))?;
    broker
        .until("the pool has a queue", LIMIT, async |broker| Ok(broker.queues().await?.iter().any(|q| q == POOL)))
        .await?;
    processes::signal(worker, Signal::SIGKILL)?;
    let mut guids = Vec::new();
    for number in 0..3 {
        let text = number.to_string();
        stand.repository.commit(&text, &[(".segue/pipelines/many.yml", MANY), ("number", &text)])?;
        guids.push(stand.push("main").await?);
        stand.api()?.planned(guids.last().map_or("", String::as_str), LIMIT).await?;
    }
    broker.until("the pool is rung", LIMIT, async |broker| Ok(!broker.peek(POOL, 50).await?.is_empty())).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(broker.peek(POOL, 50).await?.len(), 1, "36 jobs are queued");

    // and one is enough for all of them, with slots of two workers
    stand.start_worker("two", &broker.url("worker"))?;
    stand.start_worker("three", &broker.url("worker"))?;
    for guid in guids {
        let view = stand.api()?.run_of(&guid, LIMIT).await?;
        ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_a_job_is_cancelled_at_once_and_none_is_held_up_by_a_brokers_patience() -> Result<()> {
    // the broker looks once a minute who has held a message for longer than this
    let broker = Broker::start("consumer_timeout = 5000\n").await?;
    let mut stand = Stand::start_with_broker(&broker, "").await?;
    stand.start_worker("one", &broker.url("worker"))?;
    let api = stand.api()?;
    let long = "on: push\njobs:\n  long:\n    runs-on: [linux]\n    steps:\n      - run: sleep 75\n";
    stand.repository.commit("long", &[(".segue/pipelines/long.yml", long)])?;
    let guid = stand.push("main").await?;
    let long = api.planned(&guid, LIMIT).await?.runs[0].0;
    stand.repository.commit("longer", &[("number", "2")])?;
    let guid = stand.push("main").await?;
    let cancelled = api.planned(&guid, LIMIT).await?.runs[0].0;
    api.job_becomes(cancelled, "long", &[segue_schemas::status::JobStatus::Running], LIMIT).await?;
    // long after the first renewal, long before the next
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    let output = stand.segue(&["cancel", &cancelled.to_string()])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let view = api.ended(cancelled, LIMIT).await?;
    let took = begun.elapsed();
    assert_eq!(view.run.status, RunStatus::Cancelled);
    // the promise is 200 ms to the worker; this is to the end of the run, with a command started and a shell killed
    assert!(took < Duration::from_millis(1500), "it took {took:?}");

    let view = api.ended(long, Duration::from_secs(120)).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    assert!(!broker.log().contains("timed out"), "no message was held while it ran: {}", broker.log());
    let short = "on: push\njobs:\n  short:\n    runs-on: [linux]\n    steps:\n      - run: 'true'\n";
    stand.repository.commit("short", &[(".segue/pipelines/long.yml", short)])?;
    let guid = stand.push("main").await?;
    assert_eq!(api.run_of(&guid, LIMIT).await?.run.status, RunStatus::Succeeded, "and bells still come");
    Ok(())
}
