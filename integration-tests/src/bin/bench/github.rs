//! From a push's event to its check at GitHub, on the stand-in.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use segue_integration_tests::{github::GitHub, stand::Stand};

use crate::figures::{Figure, percentile_ms};

// with what each run tells, they stay below the 500 changes an hour that GitHub takes
const SAMPLES: usize = 50;
const WARM_UP: usize = 5;
const LIMIT: Duration = Duration::from_secs(30);

const PIPELINE: &str =
    "name: first\non: [push]\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: echo hello\n";

pub async fn measure() -> Result<Vec<Figure>> {
    let mut stand = Stand::prepare("")?;
    let github = GitHub::start(&stand.repository.name, stand.repository.bare()).await?;
    github.set_writes_a_minute(10_000);
    stand.add_settings(&github.as_app(", writes-per-minute: 10000"));
    stand.start_server().await?;
    let webhook = stand.webhook()?;
    let (mut shown, mut ended) = (Vec::new(), Vec::new());
    for number in 0..SAMPLES + WARM_UP {
        let files = [(".segue/pipelines/first.yml", PIPELINE), ("change", &number.to_string())];
        let commit = stand.repository.commit(&format!("change {number}"), &files)?;
        let pushed = stand.repository.push("main")?;
        let begun = Instant::now();
        webhook.push(&stand.repository, &pushed).await?;
        let check = loop {
            let check = github.check_run(&commit, "first");
            if let Some(check) = check.filter(|check| check.conclusion.is_some()) {
                break check;
            }
            ensure!(begun.elapsed() < LIMIT, "the end is not shown: {:#?}", github.requests());
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        if number >= WARM_UP {
            let since = |at: Option<&(Instant, String)>| at.map_or(LIMIT, |(at, _)| at.duration_since(begun));
            shown.push(since(check.history.first()));
            ended.push(since(check.history.last()));
        }
    }
    Ok(vec![
        Figure::new("push event -> its check at GitHub, p50", percentile_ms(&mut shown, 50.0), "ms").at_most(300.0),
        Figure::new("push event -> its check at GitHub, p95", percentile_ms(&mut shown, 95.0), "ms").at_most(300.0),
        Figure::new(
            "  until it shows the end (changes of 1 s are told together), p50",
            percentile_ms(&mut ended, 50.0),
            "ms",
        ),
    ])
}
