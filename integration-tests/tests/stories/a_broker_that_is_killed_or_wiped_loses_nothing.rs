use std::time::Duration;

use anyhow::{Context as _, Result};
use segue_integration_tests::{broker::Broker, ledger::Ledger, stand::Stand};
use segue_schemas::queue;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_every_push_runs_once_before_during_and_after() -> Result<()> {
    let mut broker = Broker::start("").await?;
    let mut stand = Stand::start_with_broker(&broker, "").await?;
    for name in ["one", "two"] {
        stand.start_worker(name, &broker.url("worker"))?;
    }
    let mut ledger = Ledger::open(&stand)?;
    ledger.push(&stand, 3).await?;
    // in the middle of it: some bells are not confirmed, some are not answered
    broker.kill()?;
    ledger.push(&stand, 3).await?;
    broker.restart().await?;
    ledger.push(&stand, 3).await?;
    broker.until("bells go again", LIMIT, async |broker| Ok(broker.queues().await?.len() >= 5)).await?;
    ledger.push(&stand, 2).await?;
    broker.kill()?;
    broker.wipe()?;
    ledger.push(&stand, 2).await?;
    broker.restart().await?;
    ledger.push(&stand, 2).await?;
    ledger.settle(&stand, LIMIT).await?;

    // the wiped broker has everything again, and bells go through it once more
    broker
        .until("everything is declared anew", LIMIT, async |broker| {
            let queues = broker.queues().await?;
            Ok([queue::DELIVERIES, queue::DEAD_LETTERS, "segue.jobs.default+linux"]
                .iter()
                .all(|wanted| queues.iter().any(|queue| queue == wanted)))
        })
        .await?;
    let said = stand.server_output();
    said.find("no bells go through the broker").context("the server says that the broker is away")?;
    said.find("asks the server every so often").context("so do the workers")?;
    Ok(())
}
