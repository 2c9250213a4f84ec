//! What each router takes to give the traffic back once a verdict is there, and what a hot swap and a canary at 500 requests/s with streams
//! cost behind it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{routers::Kind, stand::Stand};
use segue_schemas::{
    api::RolloutView,
    deploy::JournalKind,
    status::{RolloutStatus, RunStatus},
};

use crate::{
    figures::{Figure, percentile_ms},
    traffic::{load, release},
};

/// Releases that come back, behind each router.
const ROUNDS: usize = 5;

pub async fn measure() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (kind, name, wanted_ms) in
        [(Kind::Embedded, "embedded", 50.0), (Kind::Haproxy, "HAProxy", 50.0), (Kind::Nginx, "nginx", 500.0)]
    {
        figures.extend(measure_one(kind, name, wanted_ms).await.with_context(|| format!("behind {name}"))?);
    }
    Ok(figures)
}

async fn measure_one(kind: Kind, name: &str, wanted_ms: f64) -> Result<Vec<Figure>> {
    let stand = Stand::start_behind(kind, "").await?;
    let first = release(&stand, "1", 0.0).await?;
    ensure!(first == RunStatus::Succeeded, "the first release ended {first}");

    // both environments under load: staging is swapped hot, production by stages
    let (staging, production) = (load(&stand, "staging"), load(&stand, "production"));
    let second = release(&stand, "2", 0.0).await?;
    ensure!(second == RunStatus::Succeeded, "the good release ended {second}");
    let (staging, production) = (staging.stop().await, production.stop().await);
    let mut figures = vec![
        Figure::new(format!("{name}: hot swap at 500 requests/s: dropped"), staging.dropped as f64, "requests")
            .at_most(0.0),
        Figure::new(format!("{name}: hot swap: whole streams of 5 s"), staging.streams as f64, "streams"),
        Figure::new(format!("{name}: canary at 500 requests/s: dropped"), production.dropped as f64, "requests")
            .at_most(0.0),
        Figure::new(format!("{name}: canary: whole streams of 5 s"), production.streams as f64, "streams"),
    ];
    for reason in staging.reasons.iter().chain(&production.reasons).take(3) {
        eprintln!("{name}: dropped: {reason}");
    }

    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let production = load(&stand, "production");
        let bad = release(&stand, &format!("bad {round}"), 0.3).await?;
        ensure!(bad == RunStatus::Failed, "the failing release ended {bad}");
        production.stop().await;
        let api = stand.api()?;
        let newest = api.rollouts("production").await?.into_iter().next().context("no rollout")?;
        ensure!(newest.status == RolloutStatus::RolledBack, "its rollout ended {}", newest.status);
        took.push(traffic_back(&api.rollout(newest.id).await?)?);
    }
    figures.extend([
        Figure::new(format!("{name}: verdict -> traffic back, p50"), percentile_ms(&mut took, 50.0), "ms"),
        Figure::new(format!("{name}: verdict -> traffic back, p95"), percentile_ms(&mut took, 95.0), "ms")
            .at_most(wanted_ms),
    ]);
    Ok(figures)
}

/// What the worker has measured from its decision to the router's confirmation.
fn traffic_back(view: &RolloutView) -> Result<Duration> {
    let shifted = view.journal.iter().filter(|entry| entry.kind == JournalKind::Shifted);
    let us = shifted.filter_map(|entry| entry.detail["numbers"]["traffic_back_us"].as_u64()).next_back();
    Ok(Duration::from_micros(us.context("the journal does not say how long the way back took")?))
}
