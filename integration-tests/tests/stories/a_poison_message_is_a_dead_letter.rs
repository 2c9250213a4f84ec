use std::time::Duration;

use anyhow::{Context as _, Result};
use segue_integration_tests::{broker::Broker, stand::Stand};
use segue_schemas::queue::{self, DeadLetterList};

use crate::good_release;

const LIMIT: Duration = Duration::from_secs(30);
const POOL: &str = "segue.jobs.default+linux";

#[tokio::test]
async fn which_is_explained_and_can_be_put_back_while_work_goes_on() -> Result<()> {
    let broker = Broker::shared().await?;
    let mut stand = Stand::start_with_broker(&broker, "").await?;
    stand.start_worker("one", &broker.url("worker"))?;
    broker
        .until("the pool has a queue", LIMIT, async |broker| Ok(broker.queues().await?.iter().any(|q| q == POOL)))
        .await?;
    let [none, later] = [r#"{"v":1,"delivery":"00000000-not-there"}"#, r#"{"v":9,"pool":"default+linux"}"#];
    for (queue, text) in [(queue::DELIVERIES, "\u{1}poison"), (POOL, "[]"), (queue::DELIVERIES, none), (POOL, later)] {
        broker.publish(queue, text).await?;
    }
    broker
        .until("all of them are dead letters", LIMIT, async |broker| {
            Ok(broker.peek(queue::DEAD_LETTERS, 10).await?.len() == 4)
        })
        .await?;
    good_release(&stand, "1").await?;

    let listed = said(&stand, &["queue", "list"])?;
    for why in [
        "it is no bell: expected value",
        "it is no bell: invalid type",
        "for delivery 00000000-not-there, which the store does not know",
        "it is of version 9, and this Segue reads version 1; it came back unanswered 5 times",
    ] {
        assert!(listed.contains(why), "{why} is not in:\n{listed}");
    }
    let letters: DeadLetterList = stand.api()?.get("/queue/dead-letters").await?;
    let of = |body: &str| letters.items.iter().find(|letter| letter.body == body).context("it is not there");
    assert_eq!((of(later)?.reason.as_str(), of(later)?.queue.as_str()), ("delivery_limit", POOL));
    let shown = said(&stand, &["queue", "show", &of("[]")?.id])?;
    assert!(shown.contains(POOL) && shown.contains("find who else publishes"), "{shown}");

    // put back, it comes again, with nothing else taken out
    let put_back = said(&stand, &["queue", "requeue", &of("[]")?.id])?;
    assert!(put_back.starts_with("put back: "), "{put_back}");
    broker
        .until("it is there again", LIMIT, async |broker| Ok(broker.peek(queue::DEAD_LETTERS, 10).await?.len() == 4))
        .await?;
    assert!(said(&stand, &["queue", "requeue", "0123456789ab"])?.contains("no dead letter 0123456789ab"));
    Ok(())
}

fn said(stand: &Stand, arguments: &[&str]) -> Result<String> {
    let output = stand.segue(arguments)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}
