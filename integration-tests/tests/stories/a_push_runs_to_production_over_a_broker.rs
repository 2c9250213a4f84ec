use std::time::Duration;

use anyhow::{Context as _, Result};
use segue_integration_tests::{broker::Broker, stand::Stand};
use segue_schemas::{api::WorkerList, queue};

use crate::{good_release, version_in};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn with_two_workers_that_are_told_by_bells_alone() -> Result<()> {
    let broker = Broker::shared().await?;
    let mut stand = Stand::start_with_broker(&broker, "").await?;
    for name in ["one", "two"] {
        stand.start_worker(name, &broker.url("worker"))?;
    }
    let api = stand.api()?;
    let pool = queue::jobs_queue("default+linux").name;
    broker.until("the pool has a queue", LIMIT, async |broker| Ok(broker.queues().await?.contains(&pool))).await?;
    good_release(&stand, "1").await?;
    good_release(&stand, "2").await?;
    assert_eq!(version_in(&stand, "production").await?, "2");
    let workers: WorkerList = api.get("/workers").await?;
    assert_eq!(workers.items.len(), 2);

    let said = stand.server_output();
    said.find("bells go through the broker").context("the server has not reached the broker")?;
    assert_eq!(said.matches("INFO bells come from the broker").count(), 2, "each worker is told: {said}");
    assert!(!said.contains("asks the server every so often") && !said.contains("came back"), "{said}");
    for name in [pool.as_str(), queue::DELIVERIES] {
        broker
            .until("every bell was answered", LIMIT, async |broker| Ok(broker.peek(name, 10).await?.is_empty()))
            .await?;
    }
    assert_eq!(broker.peek(queue::DEAD_LETTERS, 10).await?.len(), 0);
    Ok(())
}
