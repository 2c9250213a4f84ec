//! `just bench [PART...] [--json]`: what the README's figures are measured with. Each part starts a Segue of its own from the
//! release binary, measures as a user would see it, and prints percentiles and ratios beside the figure that is wanted. It
//! fails only where it can't measure: a noisy machine is no defect. What has no server to it is measured by a bench of its
//! own crate, which is run here and whose figures stand among the others.

mod benches;
mod containers;
mod deploy;
mod depth;
mod figures;
mod github;
mod language;
mod latency;
mod logs;
mod memory;
mod proxy;
mod routers;
mod scale;
mod throughput;
mod traffic;
mod webhooks;

use std::process::ExitCode;

use anyhow::{Result, bail};
use figures::Figure;

// the language comes first: it measures the largest of all processes so far
const PARTS: [&str; 15] = [
    "language",
    "latency",
    "throughput",
    "webhooks",
    "github",
    "logs",
    "memory",
    "traffic",
    "proxy",
    "routers",
    "deploy",
    "containers",
    "host",
    "judge",
    "scale",
];
/// Measured only when they are named: 100,000 jobs, and a million runs on record, take a quarter of an hour.
const LONG: [&str; 2] = ["endurance", "depth"];

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let known = |argument: &&String| !argument.starts_with('-') || *argument == "--json";
    if let Some(other) = arguments.iter().find(|argument| !known(argument)) {
        let asked = other == "--help" || other == "-h";
        if !asked {
            eprintln!("error: there is no option `{other}`");
        }
        eprintln!("usage: bench [PART...] [--json]");
        eprintln!("parts: {}; only when named: {}", PARTS.join(", "), LONG.join(", "));
        return ExitCode::from(if asked { 0 } else { 2 });
    }
    let json = arguments.iter().any(|argument| argument == "--json");
    let mut parts: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(part) && !LONG.contains(part)) {
        eprintln!("error: there is no part `{unknown}`; the parts are {}, {}", PARTS.join(", "), LONG.join(", "));
        return ExitCode::from(2);
    }
    if parts.is_empty() {
        parts = PARTS.to_vec();
    }
    let mut figures = Vec::new();
    let mut failed = false;
    for part in parts {
        eprintln!("measuring {part} ...");
        match measure(part).await {
            Ok(measured) => figures.extend(measured),
            Err(error) => {
                eprintln!("error: {part} could not be measured: {error:#}");
                failed = true;
            }
        }
    }
    figures::print(&figures, json);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn measure(part: &str) -> Result<Vec<Figure>> {
    match part {
        "language" => language::measure(),
        "latency" => latency::measure().await,
        "throughput" => throughput::measure().await,
        "webhooks" => webhooks::measure().await,
        "github" => github::measure().await,
        "logs" => logs::measure().await,
        "memory" => memory::measure().await,
        "traffic" => traffic::measure().await,
        "proxy" => proxy::measure().await,
        "routers" => routers::measure().await,
        "deploy" => deploy::measure().await,
        "containers" => containers::measure().await,
        "host" => benches::host(),
        "judge" => benches::judge(),
        "scale" => scale::measure().await,
        "endurance" => scale::endure().await,
        "depth" => scale::deepest().await,
        other => bail!("no part {other}"),
    }
}
