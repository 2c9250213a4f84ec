//! Hot swap and canary under 500 requests/s with streamed answers, and the way back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{
    load::{Load, Running},
    sample,
    stand::Stand,
};
use segue_schemas::{
    api::RolloutView,
    deploy::JournalKind,
    status::{RolloutStatus, RunStatus},
};

use crate::figures::Figure;

const LIMIT: Duration = Duration::from_secs(120);

pub async fn measure() -> Result<Vec<Figure>> {
    let stand = Stand::start("").await?;
    let api = stand.api()?;
    let first = release(&stand, "1", 0.0).await?;
    ensure!(first == RunStatus::Succeeded, "the first release ended {first}");

    // both environments under load: staging is swapped hot, production by stages
    let (staging, production) = (load(&stand, "staging"), load(&stand, "production"));
    let second = release(&stand, "2", 0.0).await?;
    ensure!(second == RunStatus::Succeeded, "the good release ended {second}");
    let (staging, production) = (staging.stop().await, production.stop().await);
    let mut figures = vec![
        Figure::new("hot swap at 500 requests/s: dropped", staging.dropped as f64, "requests").at_most(0.0),
        Figure::new("hot swap: whole streams of 5 s", staging.streams as f64, "streams"),
        Figure::new("canary at 500 requests/s: dropped", production.dropped as f64, "requests").at_most(0.0),
        Figure::new("canary: whole streams of 5 s", production.streams as f64, "streams"),
    ];

    let production = load(&stand, "production");
    let third = release(&stand, "3", 0.2).await?;
    ensure!(third == RunStatus::Failed, "the failing release ended {third}");
    let production = production.stop().await;
    let newest = api.rollouts("production").await?.into_iter().next().context("no rollout")?;
    ensure!(newest.status == RolloutStatus::RolledBack, "the failing release's rollout ended {}", newest.status);
    let view = api.rollout(newest.id).await?;
    figures.extend([
        Figure::new("way back: dropped", production.dropped as f64, "requests").at_most(0.0),
        Figure::new("way back: requests that the failing release got", production.of("3") as f64, "requests"),
        Figure::new("way back: verdict -> traffic back", verdict_to_back(&view)?.as_secs_f64() * 1e3, "ms")
            .at_most(100.0),
    ]);
    Ok(figures)
}

pub fn load(stand: &Stand, environment: &str) -> Running {
    // two environments share the 500 while both are loaded
    let base = Load::to(&stand.proxy, environment);
    Load { rate: 500, stream_every: 250, stream_seconds: 5, ..base }.start()
}

pub async fn release(stand: &Stand, version: &str, failing: f64) -> Result<RunStatus> {
    release_as(stand, version, failing, sample::SERVICE).await
}

/// The same with another file of the service.
pub async fn release_as(stand: &Stand, version: &str, failing: f64, service: &str) -> Result<RunStatus> {
    // a machine that measures is busy, and whether a release has become slower is not what is asked here
    let few = "min-requests: \"20\"";
    let pipeline = sample::pipeline("2s").replace(few, &format!("{few}\n          latency-ratio: \"20\""));
    stand.repository.commit(
        version,
        &[
            (".segue/pipelines/release.yml", &pipeline),
            (".segue/services/api.yml", service),
            ("service.yml", &sample::service_yml(version, failing)),
        ],
    )?;
    let guid = stand.push("main").await?;
    Ok(stand.api()?.run_of(&guid, LIMIT).await?.run.status)
}

/// From the journal: the verdict's entry to the confirmation of the weights.
fn verdict_to_back(view: &RolloutView) -> Result<Duration> {
    let intent =
        view.journal.iter().find(|e| e.kind == JournalKind::RollBackIntent).context("no intent to roll back")?;
    let back = view
        .journal
        .iter()
        .find(|e| e.sequence > intent.sequence && matches!(e.kind, JournalKind::Shifted | JournalKind::RolledBack))
        .context("no confirmation that the traffic is back")?;
    Ok(back.at.since(intent.at))
}
