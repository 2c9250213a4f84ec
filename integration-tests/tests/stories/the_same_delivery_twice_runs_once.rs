use std::time::Duration;

use anyhow::Result;
use segue_integration_tests::{stand::Stand, webhook::push_payload};
use segue_schemas::{api::DeliveryStatus, status::RunStatus};

const PIPELINE: &str = "on: [push]\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: echo hello\n";

#[tokio::test]
async fn neither_the_same_guid_nor_the_same_push_under_another_makes_a_second_run() -> Result<()> {
    let stand = Stand::start("").await?;
    let api = stand.api()?;
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    let pushed = stand.repository.push("main")?;
    let body = serde_json::to_vec(&push_payload(&stand.repository, &pushed))?;

    let webhook = stand.webhook()?;
    for _ in 0..3 {
        let answer = webhook.send("delivery-1", "push", &body).await?;
        assert_eq!(answer.status(), 202);
        assert_eq!(answer.json::<serde_json::Value>().await?, serde_json::json!({"delivery": "delivery-1"}));
    }
    let view = api.run_of("delivery-1", Duration::from_secs(30)).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded);

    // the same identity of work, learned of once more
    let again = webhook.push(&stand.repository, &pushed).await?;
    let delivery = api.planned(&again, Duration::from_secs(30)).await?;
    assert_eq!(api.runs().await?.items.len(), 1, "one run set: {delivery:?}");
    assert!(
        delivery.status == DeliveryStatus::Ignored || delivery.runs == [view.run.id],
        "it says what became of it: {delivery:?}"
    );

    // and after a restart
    let mut stand = stand;
    stand.kill_server()?;
    stand.start_server().await?;
    assert_eq!(webhook.send("delivery-1", "push", &body).await?.status(), 202);
    api.planned("delivery-1", Duration::from_secs(30)).await?;
    assert_eq!(api.runs().await?.items.len(), 1);
    Ok(())
}
