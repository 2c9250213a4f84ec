use std::time::Duration;

use anyhow::{Context as _, Result};
use segue_integration_tests::{broker::Broker, cut::Wire, ledger::Ledger, stand::Stand};

const LIMIT: Duration = Duration::from_secs(60);
/// Who is idle asks so often that the story is short.
const LOOK: &str = "look-every: 1s";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_from_the_server_nor_from_the_worker() -> Result<()> {
    let broker = Broker::shared().await?;
    let (of_server, of_worker) = (Wire::to(broker.address()).await?, Wire::to(broker.address()).await?);
    let url = broker.url_at(of_server.address(), "server");
    let mut stand = Stand::start_with_settings(&format!("broker: {{url: \"{url}\", {LOOK}}}\n")).await?;
    stand.start_worker("one", &broker.url_at(of_worker.address(), "worker"))?;
    let mut ledger = Ledger::open(&stand)?;
    ledger.push(&stand, 2).await?;
    ledger.settle(&stand, LIMIT).await?;
    for wire in [&of_server, &of_worker] {
        wire.cut();
        ledger.push(&stand, 2).await?;
        ledger.settle(&stand, LIMIT).await?;
        wire.mend();
        ledger.push(&stand, 2).await?;
        ledger.settle(&stand, LIMIT).await?;
    }
    // both at once, for longer than a connection without a word may last
    of_server.cut();
    of_worker.cut();
    ledger.push(&stand, 2).await?;
    ledger.settle(&stand, LIMIT).await?;
    tokio::time::sleep(Duration::from_secs(25)).await;
    of_server.mend();
    of_worker.mend();
    ledger.push(&stand, 2).await?;
    ledger.settle(&stand, LIMIT).await?;
    let said = stand.server_output();
    said.find("no bells go through the broker").context("the server says so")?;
    said.find("no bells come from the broker").context("and the worker")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_one_without_room_on_its_disk() -> Result<()> {
    let broker = Broker::start("").await?;
    let url = broker.url("server");
    let mut stand = Stand::start_with_settings(&format!("broker: {{url: \"{url}\", {LOOK}}}\n")).await?;
    stand.start_worker("one", &broker.url("worker"))?;
    let mut ledger = Ledger::open(&stand)?;
    ledger.push(&stand, 2).await?;
    ledger.settle(&stand, LIMIT).await?;
    broker.command(&["set_disk_free_limit", "900000000000000"]).await?;
    ledger.push(&stand, 3).await?;
    ledger.settle(&stand, LIMIT).await?;
    let said = stand.server_output();
    said.find("the broker takes no bells at the moment").context("it is said while it lasts")?;
    broker.command(&["set_disk_free_limit", "50000000"]).await?;
    ledger.push(&stand, 3).await?;
    ledger.settle(&stand, LIMIT).await?;
    let begun = std::time::Instant::now();
    while stand.server_output().matches("bells go through the broker").count() < 2 {
        anyhow::ensure!(begun.elapsed() < LIMIT, "the end of it is not said:\n{}", stand.server_output());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
