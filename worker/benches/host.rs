//! Measures a real host and proxy, each as a process of its own:
//! `cargo bench -p segue-worker --bench host [-- SECONDS] [--without-load] [--json]`. Prints requests per second straight to a service and through the proxy, the time of a change of routes, of an emergency
//! rollback and from an answer to its observation, and the memory (PSS) of host and proxy.

// The lint knows tests by their attribute; what they share has none.
#![allow(clippy::unwrap_used, dead_code)]

#[path = "../tests/world/mod.rs"]
mod world;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use segue_schemas::host_api::EmergencyRollback;
use world::{FIXTURE, World, get};

fn main() {
    let seconds = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(5_u64);
    let asked = |flag: &str| std::env::args().any(|a| a == flag);
    let seconds = if asked("--without-load") { None } else { Some(seconds) };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(measure(seconds, asked("--json")));
}

async fn measure(seconds: Option<u64>, as_json: bool) {
    let world = World::start().await;
    let instance = world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    world.route(1, &[("web-1", 100)], &[]).await;
    if let Some(seconds) = seconds {
        measure_load(&world, &instance.address.to_string(), seconds).await;
    }

    let mut changes = Vec::new();
    for weight in 1..=100 {
        let began = Instant::now();
        world.route(1, &[("web-1", 100), ("web-2", weight)], &[("web-1", 100)]).await;
        changes.push(began.elapsed());
    }
    let mut seen = Vec::new();
    for _ in 0..100 {
        let (client, after) = (world.client.clone(), newest(&world).await);
        let reader = tokio::spawn(async move {
            client.observations("production", "web", after, Duration::from_secs(10), 10).await.unwrap();
            Instant::now()
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
        get(world.address, world.host(), "/").await.unwrap();
        let answered = Instant::now();
        seen.push(reader.await.unwrap().saturating_duration_since(answered));
    }
    let rollback = EmergencyRollback { to: None, reason: "measured".into() };
    let result = world.client.emergency_rollback("production", "web", &rollback).await.unwrap();
    world.end().await;

    changes.sort_unstable();
    seen.sort_unstable();
    if as_json {
        let spread = |times: &[Duration]| serde_json::json!({ "p50": micros(times, 50), "p95": micros(times, 95) });
        let figures = serde_json::json!({
            "route_change_us": spread(&changes),
            "observation_us": spread(&seen),
            "emergency_rollback_us": result.took_us,
        });
        println!("{figures}");
    } else {
        println!("change of routes, recorded and carried: {}", spread(&changes));
        println!("answer to observation: {}", spread(&seen));
        println!("emergency rollback: {} us", result.took_us);
    }
}

async fn measure_load(world: &World, instance: &str, seconds: u64) {
    let state = world.client.state().await.unwrap();
    let proxy = world.until_proxy(None).await;
    println!("memory at rest: host {}, proxy {}", pss(state.pid), pss(proxy));
    for connections in [1, 8, 64] {
        let host = world.host();
        println!("{connections:>3} connections, direct   : {}", load(instance, &host, connections, seconds));
        let before = cpu_ticks(proxy);
        println!(
            "{connections:>3} connections, by proxy : {}",
            load(&world.address.to_string(), &host, connections, seconds)
        );
        println!("    the proxy was busy {} % of the time", (cpu_ticks(proxy) - before) / seconds);
    }
    println!("memory after load: host {}, proxy {}", pss(state.pid), pss(proxy));
}

async fn newest(world: &World) -> u64 {
    world.client.state().await.unwrap().routes[0].newest_observation
}

fn load(address: &str, host: &str, connections: u32, seconds: u64) -> String {
    let output = Command::new(FIXTURE)
        .args(["load", address, host, &connections.to_string(), &seconds.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Percentiles of sorted times.
fn spread(times: &[Duration]) -> String {
    let at = |percent| Duration::from_micros(micros(times, percent));
    format!("p50 {:?}, p95 {:?}, p99 {:?}", at(50), at(95), at(99))
}

fn micros(times: &[Duration], percent: usize) -> u64 {
    u64::try_from(times[times.len() * percent / 100].as_micros()).unwrap()
}

/// The proportional set size (`/proc/PID/smaps_rollup`, proc(5)).
fn pss(pid: u32) -> String {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = |name: &str| rollup.lines().find_map(|l| l.strip_prefix(name)).map_or("?", str::trim).to_owned();
    format!("{} PSS ({} anonymous)", line("Pss:"), line("Pss_Anon:"))
}

/// Processor time, in clock ticks of 10 ms: as many as per cent of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<u64> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    fields.get(11).zip(fields.get(12)).map_or(0, |(user, system)| user + system)
}
