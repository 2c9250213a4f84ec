//! The benches of other crates, run by cargo: a host and its proxy without a server, and the judge, which is pure.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::figures::Figure;

/// What `segue-worker`'s bench `host` says with `--json`.
#[derive(Deserialize)]
struct Host {
    route_change_us: Spread,
    observation_us: Spread,
    emergency_rollback_us: f64,
}

#[derive(Deserialize)]
struct Spread {
    p50: f64,
    p95: f64,
}

/// What `segue-pipelines`' bench `judge` says with `--json`.
#[derive(Deserialize)]
struct Judge {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    scenario: String,
    base_errors: f64,
    bursts: bool,
    promoted: f64,
    /// Nothing where the median release was never caught.
    canary_requests_p50: Option<f64>,
    wanted: Wanted,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wanted {
    CaughtWithin(f64),
    Promoted(f64),
}

/// How soon a change of routes is carried, and how soon an answer is seen by who judges.
pub fn host() -> Result<Vec<Figure>> {
    let Host { route_change_us, observation_us, emergency_rollback_us } =
        run("segue-worker", "host", &["--json", "--without-load"])?;
    Ok(vec![
        Figure::new("change of routes -> recorded and carried by the proxy, p50", route_change_us.p50 / 1e3, "ms"),
        Figure::new("change of routes -> recorded and carried by the proxy, p95", route_change_us.p95 / 1e3, "ms"),
        Figure::new("end of an answer -> its observation at the reader, p50", observation_us.p50 / 1e3, "ms"),
        Figure::new("end of an answer -> its observation at the reader, p95", observation_us.p95 / 1e3, "ms"),
        Figure::new("emergency rollback at the host", emergency_rollback_us / 1e3, "ms"),
    ])
}

/// How soon bad releases are caught, how seldom good ones are.
pub fn judge() -> Result<Vec<Figure>> {
    let Judge { rows } = run("segue-pipelines", "judge", &["--json"])?;
    Ok(rows.into_iter().map(figure).collect())
}

fn figure(row: Row) -> Figure {
    let bursts = if row.bursts { ", bursts" } else { "" };
    let name = format!("judge: {} (base errors {} %{bursts})", row.scenario, row.base_errors * 100.0);
    match row.wanted {
        // one that is never caught is caught after for ever
        Wanted::CaughtWithin(requests) => {
            Figure::new(name, row.canary_requests_p50.unwrap_or(f64::MAX), "requests").at_most(requests)
        }
        Wanted::Promoted(share) => Figure::new(name, row.promoted * 100.0, "% kept").at_least(share * 100.0),
    }
}

/// Runs a bench and reads the JSON object on its last line. A bench that ends with an error because a figure is missed has
/// said its figures all the same.
fn run<T: for<'de> Deserialize<'de>>(package: &str, bench: &str, arguments: &[&str]) -> Result<T> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(["bench", "--quiet", "--package", package, "--bench", bench, "--"])
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().rev().find(|line| line.starts_with('{'));
    ensure!(last.is_some(), "bench `{bench}` of {package} said no figures ({}):\n{text}", output.status);
    serde_json::from_str(last.unwrap_or_default())
        .with_context(|| format!("bench `{bench}` of {package} said what can't be read:\n{text}"))
}
