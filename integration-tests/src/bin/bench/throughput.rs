//! A thousand separate runs of one trivial job, two at a time, until the last is recorded.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use segue_integration_tests::stand::Stand;
use segue_schemas::{
    api::{DispatchRequest, RunPage},
    id::CommitSha,
};

use crate::figures::Figure;

/// How many runs are started at once.
const AT_ONCE: usize = 16;

const PIPELINE: &str = "name: trivial\non:\n  push:\n    branches: [main]\n  workflow_dispatch:\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: 'true'\n";

pub async fn measure() -> Result<Vec<Figure>> {
    Ok(vec![measure_on(&Stand::start("").await?, 1000).await?])
}

/// The same on a Segue that runs.
pub async fn measure_on(stand: &Stand, runs: usize) -> Result<Figure> {
    let api = stand.api()?;
    stand.repository.commit("trivial", &[(".segue/pipelines/first.yml", PIPELINE)])?;
    let guid = stand.push("main").await?;
    api.run_of(&guid, Duration::from_secs(30)).await?;
    let before = count_succeeded(&api).await?;

    let commit: CommitSha = stand.repository.head()?.parse()?;
    let request =
        DispatchRequest { r#ref: Some("refs/heads/main".into()), commit: Some(commit), ..DispatchRequest::default() };
    let begun = Instant::now();
    stream::iter(0..runs)
        .map(|_| api.dispatch(&stand.repository.name, &request))
        .buffer_unordered(AT_ONCE)
        .try_for_each(async |_| Ok(()))
        .await?;
    loop {
        let open: RunPage = api.get("/runs?status=queued&limit=1").await?;
        let running: RunPage = api.get("/runs?status=running&limit=1").await?;
        if open.items.is_empty() && running.items.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = begun.elapsed();
    let succeeded = count_succeeded(&api).await? - before;
    ensure!(succeeded == runs, "{succeeded} of {runs} runs succeeded");
    Ok(Figure::new(format!("{runs} runs of a trivial job"), runs as f64 / took.as_secs_f64(), "jobs/s").at_least(200.0))
}

async fn count_succeeded(api: &segue_integration_tests::api::Api) -> Result<usize> {
    let (mut count, mut before) = (0, None);
    loop {
        let from = before.map(|run| format!("&before={run}")).unwrap_or_default();
        let page: RunPage = api.get(&format!("/runs?status=succeeded&limit=200{from}")).await?;
        count += page.items.len();
        before = page.next;
        if before.is_none() {
            return Ok(count);
        }
    }
}
