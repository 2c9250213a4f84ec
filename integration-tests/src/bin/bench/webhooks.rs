//! A thousand different signed webhooks over a hundred connections at once.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use segue_integration_tests::{
    repository::{Pushed, ZERO},
    stand::Stand,
    webhook::push_payload,
};
use segue_schemas::api::{DeliveryPage, DeliveryStatus};

use crate::figures::{Figure, percentile_ms};

const DELIVERIES: usize = 1000;
const CONNECTIONS: usize = 100;

const PIPELINE: &str =
    "name: branch\non: [push]\njobs:\n  one:\n    runs-on: [nobody-has-this-label]\n    steps:\n      - run: 'true'\n";

pub async fn measure() -> Result<Vec<Figure>> {
    let stand = Stand::start("").await?;
    let api = stand.api()?;
    stand.repository.commit("first", &[(".segue/pipelines/branch.yml", PIPELINE)])?;
    let guid = stand.push("main").await?;
    api.planned(&guid, Duration::from_secs(30)).await?;

    let commit = stand.repository.head()?;
    let webhook = stand.webhook()?;
    let bodies = (0..DELIVERIES)
        .map(|number| {
            let pushed = Pushed {
                git_ref: format!("refs/heads/branch-{number}"),
                before: ZERO.into(),
                after: commit.clone(),
                message: format!("branch {number}"),
            };
            serde_json::to_vec(&push_payload(&stand.repository, &pushed)).context("no JSON")
        })
        .collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    let mut times: Vec<Duration> = stream::iter(bodies.iter().enumerate())
        .map(async |(number, body)| {
            let sent = Instant::now();
            let answer = webhook.send(&format!("bench-{number}"), "push", body).await?;
            ensure!(answer.status() == 202, "delivery {number} was answered {}", answer.status());
            Ok(sent.elapsed())
        })
        .buffer_unordered(CONNECTIONS)
        .try_collect()
        .await?;
    let accepted = begun.elapsed();
    let last_answered = Instant::now();
    loop {
        let newest: DeliveryPage = api.get("/deliveries?limit=200").await?;
        let status: segue_schemas::api::ServerStatus = api.get("/status").await?;
        let none_pending = newest.items.iter().all(|delivery| delivery.status != DeliveryStatus::Pending);
        if none_pending && status.unplanned_deliveries == 0 {
            break;
        }
        ensure!(last_answered.elapsed() < Duration::from_secs(120), "not planned within two minutes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let planned = last_answered.elapsed();
    Ok(vec![
        Figure::new("1,000 webhooks: accepted", DELIVERIES as f64 / accepted.as_secs_f64(), "1/s"),
        Figure::new("1,000 webhooks: answer, p50", percentile_ms(&mut times, 50.0), "ms"),
        Figure::new("1,000 webhooks: answer, p99", percentile_ms(&mut times, 99.0), "ms").at_most(500.0),
        Figure::new("1,000 webhooks: the last one's run planned after", planned.as_secs_f64(), "s").at_most(5.0),
    ])
}
