//! Releases over two hosts at 500 requests/s with streamed answers behind each router, and the emergency rollback with no server there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{
    load::{Load, Running, Tally},
    routers::{Kind, Router},
    sample,
    stand::{Stand, free_address},
};
use segue_schemas::status::RunStatus;

use crate::{
    figures::{Figure, percentile_ms},
    traffic::{release, release_as},
};

/// Emergencies of each kind.
const ROUNDS: usize = 5;

pub async fn measure() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (kind, name) in [(Kind::Embedded, "embedded"), (Kind::Haproxy, "HAProxy"), (Kind::Nginx, "nginx")] {
        figures.extend(over_two_hosts(kind, name).await.with_context(|| format!("behind {name}"))?);
    }
    figures.push(emergency("of a release that is warm", "60s").await?);
    figures.push(emergency("of one that has to be started", "1s").await?);
    Ok(figures)
}

/// Both environments are on both hosts: staging is swapped hot, production goes by stages, each at 250 requests/s on each host.
async fn over_two_hosts(kind: Kind, name: &str) -> Result<Vec<Figure>> {
    let mut stand = Stand::prepare_behind(kind, "")?;
    let (data, folder) = (stand.folder().join("b"), stand.folder().join("router-b"));
    std::fs::create_dir(&folder)?;
    let mut router = (kind != Kind::Embedded).then(|| Router::prepare(kind, &folder));
    if let Some(router) = &mut router {
        router.start();
    }
    let listen = router.as_ref().map_or_else(free_address, |router| Ok(router.address.to_string()))?;
    let both = "{hosts: [local, b]}";
    stand.add_settings(&format!(
        "  b:\n    socket: {}/host.sock\n    listen: [\"{listen}\"]\nenvironments: {{staging: {both}, production: {both}}}\n",
        data.display()
    ));
    stand.start_host_behind(&data, &listen, router.as_ref().map(Router::settings)).await?;
    stand.start_server().await?;
    let first = release(&stand, "1", 0.0).await?;
    ensure!(first == RunStatus::Succeeded, "the first release ended {first}");

    let (staging, production) = (loads(&stand.proxy, &listen, "staging"), loads(&stand.proxy, &listen, "production"));
    let second = release(&stand, "2", 0.0).await?;
    ensure!(second == RunStatus::Succeeded, "the good release ended {second}");
    let (staging, production) = (ended(staging).await, ended(production).await);
    for reason in staging.reasons.iter().chain(&production.reasons).take(3) {
        eprintln!("{name}: dropped: {reason}");
    }
    ensure!(staging.of("2") > 0 && production.of("2") > 0, "the new release was never heard");
    let figure = |what: &str, value: u64, unit| Figure::new(format!("{name}, two hosts: {what}"), value as f64, unit);
    Ok(vec![
        figure("hot swap at 500 requests/s: requests", staging.sent, "requests"),
        figure("  dropped or cut", staging.dropped, "requests").at_most(0.0),
        figure("  whole streams of 5 s", staging.streams, "streams"),
        figure("canary at 500 requests/s: requests", production.sent, "requests"),
        figure("  dropped or cut", production.dropped, "requests").at_most(0.0),
        figure("  whole streams of 5 s", production.streams, "streams"),
    ])
}

fn loads(one: &str, other: &str, environment: &str) -> [Running; 2] {
    [one, other].map(|proxy| {
        let base = Load::to(proxy, environment);
        Load { rate: 250, stream_every: 125, stream_seconds: 5, ..base }.start()
    })
}

async fn ended([one, other]: [Running; 2]) -> Tally {
    let (mut all, other) = (one.stop().await, other.stop().await);
    all.sent += other.sent;
    all.dropped += other.dropped;
    all.streams += other.streams;
    all.reasons.extend(other.reasons);
    for (key, count) in other.answers {
        *all.answers.entry(key).or_default() += count;
    }
    all
}

/// From the command to the former release's answer, with the server killed: what a person at the host waits for.
async fn emergency(what: &str, keep_warm: &str) -> Result<Figure> {
    let mut stand = Stand::start_apart("").await?;
    let service = sample::SERVICE.replace("keep-warm: 60s", &format!("keep-warm: {keep_warm}"));
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        for version in [format!("good {round}"), format!("bad {round}")] {
            // without anybody who asks, a canary is held
            let load = Load::to(&stand.proxy, "production").start();
            let ended = release_as(&stand, &version, 0.0, &service).await?;
            load.stop().await;
            ensure!(ended == RunStatus::Succeeded, "`{version}` ended {ended}");
        }
        if keep_warm == "1s" {
            until_stopped(&stand).await?;
        }
        stand.kill_server()?;
        let begun = Instant::now();
        let said = stand.segue(&["rollback", "production", "api", "--emergency", "--reason", "it burns"])?;
        ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let answers = answering(&stand).await?;
        took.push(begun.elapsed());
        ensure!(answers == format!("good {round}"), "`{answers}` answers");
        stand.start_server().await?;
    }
    Ok(Figure::new(format!("emergency rollback {what}, server down: p95"), percentile_ms(&mut took, 95.0), "ms")
        .at_most(1000.0))
}

/// Waits until of the release that served before the newest of production nothing runs: it is kept as files. What lost its traffic in
/// an emergency runs on for a while, and is older.
async fn until_stopped(stand: &Stand) -> Result<()> {
    let begun = Instant::now();
    loop {
        let said = stand.segue(&["host", "show", "local", "--json"])?;
        let shown: serde_json::Value = serde_json::from_slice(&said.stdout).context("`segue host show` is no JSON")?;
        let carried = shown["carries"].as_array().context("nothing is carried")?;
        let of_production = carried.iter().filter(|one| one["environment"] == "production" && one["running"] != 0);
        let mut running: Vec<i64> = of_production.filter_map(|one| one["release"]["id"].as_i64()).collect();
        running.sort_unstable();
        if let [.., newest] = running.as_slice()
            && !running.contains(&(newest - 1))
        {
            return Ok(());
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "the former release runs on: {shown:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn answering(stand: &Stand) -> Result<String> {
    let request = reqwest::Client::new().get(format!("http://{}/", stand.proxy));
    let answer = request.header("host", sample::host_name("production")).send().await?;
    let body: serde_json::Value = answer.json().await?;
    Ok(body["version"].as_str().unwrap_or_default().to_owned())
}
