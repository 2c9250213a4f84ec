//! From a request to the first command of its job, on an idle machine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use segue_integration_tests::{api::Api, stand::Stand};
use segue_schemas::{
    api::{DispatchRequest, RunView},
    id::CommitSha,
    status::RunStatus,
    time::Timestamp,
};

use crate::figures::{Figure, percentile_ms};

const SAMPLES: usize = 100;
const WARM_UP: usize = 10;
const LIMIT: Duration = Duration::from_secs(30);

const PIPELINE: &str = "name: first\non:\n  push:\n    branches: [main]\n  workflow_dispatch:\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: echo \"first=$EPOCHREALTIME\"\n";

/// What is wanted at most, in ms: of a manual run p50 and p95, of a push p50 and p95.
pub struct Wanted {
    pub manual: (f64, f64),
    pub push: (f64, f64),
}

pub async fn measure() -> Result<Vec<Figure>> {
    measure_on(&Stand::start("").await?, &Wanted { manual: (8.0, 15.0), push: (30.0, 60.0) }).await
}

/// The same on a Segue that runs.
pub async fn measure_on(stand: &Stand, wanted: &Wanted) -> Result<Vec<Figure>> {
    let api = stand.api()?;
    stand.repository.commit("first", &[(".segue/pipelines/first.yml", PIPELINE)])?;
    let guid = stand.push("main").await?;
    api.run_of(&guid, LIMIT).await?;

    let mut figures = by_hand(stand, &api, wanted.manual).await?;
    figures.extend(by_push(stand, &api, wanted.push).await?);
    Ok(figures)
}

async fn by_hand(stand: &Stand, api: &Api, wanted: (f64, f64)) -> Result<Vec<Figure>> {
    let commit: CommitSha = stand.repository.head()?.parse()?;
    let mut samples = Vec::new();
    for number in 0..SAMPLES + WARM_UP {
        let request = DispatchRequest {
            r#ref: Some("refs/heads/main".into()),
            commit: Some(commit.clone()),
            ..DispatchRequest::default()
        };
        let begun = now();
        let dispatched = api.dispatch(&stand.repository.name, &request).await?;
        let view = api.ended(dispatched.runs.first().context("no run")?.id.0, LIMIT).await?;
        if number >= WARM_UP {
            samples.push(first_command(api, &view).await?.saturating_sub(begun));
        }
    }
    Ok(vec![
        Figure::new("manual run: request -> first command, p50", percentile_ms(&mut samples, 50.0), "ms")
            .at_most(wanted.0),
        Figure::new("manual run: request -> first command, p95", percentile_ms(&mut samples, 95.0), "ms")
            .at_most(wanted.1),
    ])
}

async fn by_push(stand: &Stand, api: &Api, wanted: (f64, f64)) -> Result<Vec<Figure>> {
    // the sender is GitHub's part: what it takes to make one is none of ours
    let webhook = stand.webhook()?;
    let mut samples = Vec::new();
    let mut parts: [Vec<Duration>; 4] = Default::default();
    for number in 0..SAMPLES + WARM_UP {
        stand.repository.commit(&format!("change {number}"), &[("change", &number.to_string())])?;
        let pushed = stand.repository.push("main")?;
        let begun = now();
        let guid = webhook.push(&stand.repository, &pushed).await?;
        let answered = now();
        let view = api.run_of(&guid, LIMIT).await?;
        if number < WARM_UP {
            continue;
        }
        let first = first_command(api, &view).await?;
        let job = view.jobs.first().context("no job")?;
        let planned = since_epoch(view.run.created_at);
        let claimed = since_epoch(job.started_at.context("the job has no start")?);
        samples.push(first.saturating_sub(begun));
        parts[0].push(answered.saturating_sub(begun));
        parts[1].push(planned.saturating_sub(begun));
        parts[2].push(claimed.saturating_sub(begun));
        parts[3].push(first.saturating_sub(claimed));
    }
    let [answered, planned, claimed, started] = &mut parts;
    Ok(vec![
        Figure::new("push: first byte -> first command, p50", percentile_ms(&mut samples, 50.0), "ms")
            .at_most(wanted.0),
        Figure::new("push: first byte -> first command, p95", percentile_ms(&mut samples, 95.0), "ms")
            .at_most(wanted.1),
        Figure::new("  of which until the webhook is answered, p50", percentile_ms(answered, 50.0), "ms"),
        Figure::new("  until fetched and planned (by the server's clock), p50", percentile_ms(planned, 50.0), "ms"),
        Figure::new("  until claimed, p50", percentile_ms(claimed, 50.0), "ms"),
        Figure::new("  from the claim to the first command, p50", percentile_ms(started, 50.0), "ms"),
    ])
}

/// When the job's first command ran, as that command said.
async fn first_command(api: &Api, view: &RunView) -> Result<Duration> {
    anyhow::ensure!(view.run.status == RunStatus::Succeeded, "the run ended so: {view:#?}");
    let log = api.log(&view.jobs.first().context("no job")?.id).await?;
    let text = log.lines().find_map(|line| line.trim().strip_prefix("first=")).context("the command said nothing")?;
    Ok(Duration::from_secs_f64(text.replace(',', ".").parse()?))
}

pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub fn since_epoch(time: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(time.0).unwrap_or(0))
}
