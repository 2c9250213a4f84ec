//! Rollouts at a real `segue host` with its proxy and real processes, under traffic. This test program plays the `segue`
//! program and the service: a script starts it again with what it is to be.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use segue_schemas::{
    deploy::{JournalKind, Release, Rollout, Strategy},
    duration::Span,
    host_api::{ArtifactSource, EmergencyRollback, HostState},
    id::{Digest, Epoch},
    status::RolloutStatus,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{NEW, OLD, TIMING, canary, lines, release, rollout, scripted_server::ScriptedServer};
use crate::{
    artifact::pack,
    deploy::{
        Options, run_rollouts,
        server::RolloutServer,
        tell::{Ended, watch_hosts},
    },
    host::{self, HostOptions, client::HostClient},
    proxy,
};

const ROLE: &str = "SEGUE_TEST_ROLE";

/// Not a test: what the script starts.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    // what the test harness says of itself went to /dev/null; what the role says must not
    let stdout = std::fs::OpenOptions::new().write(true).open("/dev/fd/3").unwrap();
    nix::unistd::dup2_stdout(stdout).unwrap();
    let words: Vec<&str> = role.split(' ').collect();
    let is_well = match words[0] {
        "proxy" => proxy::main(words[1..].iter().map(OsString::from)) == ExitCode::SUCCESS,
        "host" => {
            let mut options = HostOptions::new(words[1]).unwrap();
            options.program = words[2].into();
            options.listen = vec!["127.0.0.1:0".parse().unwrap()];
            host::run_blocking(options).inspect_err(|error| eprintln!("{error}")).is_ok()
        }
        "service" => serve(),
        other => panic!("{other}"),
    };
    std::process::exit(i32::from(!is_well));
}

/// The service: fails the share of requests that its release's file says, and streams for 300 ms under `/stream`. It ends by itself after the
/// milliseconds of the file `lives`, where there is one.
fn serve() -> bool {
    if let Ok(lives) = std::fs::read_to_string("lives") {
        let lives = Duration::from_millis(lives.trim().parse().unwrap());
        std::thread::spawn(move || {
            std::thread::sleep(lives);
            std::process::exit(9);
        });
    }
    let share: f64 = std::fs::read_to_string("fail-share").unwrap().trim().parse().unwrap();
    let listener = std::net::TcpListener::bind(("127.0.0.1", std::env::var("PORT").unwrap().parse().unwrap())).unwrap();
    let count = Arc::new(AtomicU64::new(0));
    for stream in listener.incoming() {
        let (Ok(stream), count) = (stream, count.clone()) else { continue };
        std::thread::spawn(move || answer(stream, share, &count));
    }
    false
}

fn answer(mut stream: std::net::TcpStream, share: f64, count: &AtomicU64) {
    let mut read = [0; 4096];
    let mut have = Vec::new();
    loop {
        match stream.read(&mut read) {
            Ok(0) | Err(_) => return,
            Ok(n) => have.extend_from_slice(&read[..n]),
        }
        while let Some(end) = have.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&have[..end]).into_owned();
            have.drain(..end + 4);
            let nth = count.fetch_add(1, Ordering::Relaxed);
            let is_asked = !head.starts_with("GET /healthz");
            // every fifth, for a share of 0.2
            let fails = is_asked && share > 0.0 && nth.is_multiple_of((1.0 / share) as u64);
            let answered = if head.starts_with("GET /stream") {
                write_stream(&mut stream)
            } else {
                let status = if fails { "500 Internal Server Error" } else { "200 OK" };
                stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok").as_bytes())
            };
            if answered.is_err() {
                return;
            }
        }
    }
}

fn write_stream(stream: &mut std::net::TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
    for _ in 0..6 {
        stream.write_all(b"4\r\npart\r\n")?;
        std::thread::sleep(Duration::from_millis(50));
    }
    stream.write_all(b"0\r\n\r\n")
}

/// A running host and the artifacts of releases.
struct Machine {
    directory: TempDir,
    child: Child,
    program: PathBuf,
    client: HostClient,
    artifacts: BTreeMap<Digest, ArtifactSource>,
}

impl Machine {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("segue");
        let me = std::env::current_exe().unwrap();
        let name = "deploy::tests::real_host::role";
        let script = format!(
            "#!/bin/sh\nexec 3>&1 >/dev/null\n{ROLE}=\"$*\" exec {} --exact {name} --nocapture\n",
            me.display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let log = std::fs::File::create(directory.path().join("host.log")).unwrap();
        let child = Command::new(&program)
            .args([Path::new("host"), &directory.path().join("host"), &program])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let client = HostClient::new(directory.path().join("host/host.sock"));
        let machine = Self { directory, child, program, client, artifacts: BTreeMap::new() };
        let begun = Instant::now();
        while machine.client.state().await.map_or(true, |state| state.proxy_pid.is_none()) {
            assert!(begun.elapsed() < Duration::from_secs(20), "the host does not come up: {}", machine.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        machine
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("host.log")).unwrap_or_default()
    }

    /// A release whose service fails this share of its requests.
    fn make_release(&mut self, number: i64, fail_share: f64) -> Release {
        self.make_release_of(number, &[("fail-share", &fail_share.to_string())])
    }

    fn make_release_of(&mut self, number: i64, files: &[(&str, &str)]) -> Release {
        let content = self.directory.path().join(format!("release-{number}"));
        std::fs::create_dir(&content).unwrap();
        for (name, text) in files.iter().chain(&[("number", number.to_string().as_str())]) {
            std::fs::write(content.join(name), text).unwrap();
        }
        let mut bytes = Vec::new();
        pack::pack(&content, &mut bytes).unwrap();
        let digest: Digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes))).parse().unwrap();
        let file = self.directory.path().join(format!("{number}.tar.zst"));
        std::fs::write(&file, bytes).unwrap();
        self.artifacts.insert(digest.clone(), ArtifactSource::File(file.display().to_string()));
        Release { digest, ..release(number) }
    }

    fn server(&self, rollout: Rollout, epoch: i64) -> Arc<ScriptedServer> {
        let socket = self.client.channel().socket().unwrap().display().to_string();
        Arc::new(ScriptedServer::with_artifacts(rollout, Epoch(epoch), socket, 3_000, self.artifacts.clone()))
    }

    fn rollout(&self, number: i64, strategy: Strategy, new: &Release, old: Option<&Release>) -> Rollout {
        let mut rollout = rollout(strategy);
        rollout.id.0 = number;
        rollout.spec.release = new.clone();
        rollout.spec.previous = old.cloned();
        let service = &mut rollout.spec.service;
        service.command = vec![self.program.display().to_string(), "service".into()];
        service.health.tries = 100;
        service.health.interval = Span::millis(100);
        service.drain = Span::seconds(5);
        rollout
    }

    /// Release 1 serves everything.
    async fn with_old_release(&mut self) -> Release {
        let old = self.make_release(OLD, 0.0);
        let server = self.server(self.rollout(1, Strategy::HotSwap, &old, None), 0);
        let _worker = worker(&server);
        ends(&server, RolloutStatus::Succeeded).await;
        old
    }

    async fn state(&self) -> HostState {
        self.client.state().await.unwrap()
    }

    /// The releases that have traffic.
    async fn serving(&self) -> Vec<i64> {
        let state = self.state().await;
        let release = |id| state.instances.iter().find(|i| i.id == id).map_or(0, |i| i.release.id.0);
        let targets = state.routes[0].targets.iter().filter(|t| t.weight > 0);
        let mut releases: Vec<i64> = targets.map(|t| release(t.instance.clone())).collect();
        releases.dedup();
        releases
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let ended = UnixStream::connect(self.client.channel().socket().unwrap()).and_then(|mut stream| {
            let body = r#"{"services":true}"#;
            write!(
                stream,
                "POST /v1/shutdown HTTP/1.1\r\nhost: segue\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )?;
            stream.set_read_timeout(Some(Duration::from_secs(15)))?;
            stream.read(&mut [0; 512])
        });
        if ended.is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// A canary whose stages are long, judged by its errors alone: how busy the machine is under a test says nothing.
fn slow_canary(stage: Span) -> Strategy {
    let Strategy::Canary(mut spec) = canary() else { unreachable!() };
    spec.stage_duration = stage;
    spec.judge.latency_ratio = 1000.0;
    Strategy::Canary(spec)
}

fn worker(server: &Arc<ScriptedServer>) -> AbortOnDropHandle<()> {
    let options = Options { timing: TIMING, capacity: 4 };
    AbortOnDropHandle::new(tokio::spawn(run_rollouts(
        server.clone(),
        options,
        Ended::default(),
        CancellationToken::new(),
    )))
}

#[tokio::test]
async fn the_server_hears_what_a_host_carries_as_soon_as_a_rollout_has_ended() {
    let mut machine = Machine::start().await;
    let new = machine.make_release(OLD, 0.0);
    let server = machine.server(machine.rollout(1, Strategy::HotSwap, &new, None), 0);
    let socket = machine.client.channel().socket().unwrap().display().to_string();
    let (ended, stop) = (Ended::default(), CancellationToken::new());
    let as_told: Arc<dyn RolloutServer> = server.clone();
    let mut telling = watch_hosts(&as_told, &[("local".to_owned(), socket)].into(), &ended, &stop);
    telling.first_word().await;
    let options = Options { timing: TIMING, capacity: 4 };
    let rollouts = run_rollouts(server.clone(), options, ended, CancellationToken::new());
    let _worker = AbortOnDropHandle::new(tokio::spawn(rollouts));
    ends(&server, RolloutStatus::Succeeded).await;
    // the weights are no news of the host: without that word it would be heard 50 s later
    let begun = Instant::now();
    let carries = |state: &HostState| state.routes.iter().any(|route| route.targets.iter().any(|t| t.weight > 0));
    while !server.told().as_ref().is_some_and(carries) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", server.told());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    telling.ended().await;
}

async fn ends(server: &ScriptedServer, status: RolloutStatus) -> Rollout {
    server.until("the end", |rollout, _| rollout.status.is_final()).await;
    let rollout = server.rollout();
    let journal = lines(&server.journal());
    assert_eq!(server.faults(), Vec::<String>::new(), "{journal}");
    assert_eq!(rollout.status, status, "{:?}\n{journal}", rollout.reason);
    println!("{journal}{:?}", server.hand_backs());
    rollout
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    ok: AtomicU64,
    failed: AtomicU64,
    /// No whole answer: refused, reset or cut.
    dropped: AtomicU64,
}

/// Clients that ask without end, some of them for streams.
struct Traffic {
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Traffic {
    fn begin(address: &str) -> Self {
        let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let client = |n: usize| {
            let (seen, stop, address) = (seen.clone(), stop.clone(), address.to_owned());
            let path = if n < 2 { "/stream" } else { "/" };
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let count = match ask(&address, path).await {
                        Ok(status) if status < 500 => &seen.ok,
                        Ok(_) => &seen.failed,
                        Err(error) => {
                            println!("dropped: {error}");
                            &seen.dropped
                        }
                    };
                    count.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(4)).await;
                }
            })
        };
        let clients = (0..6).map(client).collect();
        Self { seen, stop, clients }
    }

    /// Lets what was asked be answered, and says `(answered well, answered with an error, dropped)`.
    async fn end(self) -> (u64, u64, u64) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.unwrap();
        }
        let count = |count: &AtomicU64| count.load(Ordering::SeqCst);
        (count(&self.seen.ok), count(&self.seen.failed), count(&self.seen.dropped))
    }
}

async fn ask(address: &str, path: &str) -> Result<u16, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|e| said(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| said(&e))?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get(path).header("host", "web.production.localhost").body(Empty::<Bytes>::new());
    let response = sender.send_request(request.unwrap()).await.map_err(|e| said(&e))?;
    let status = response.status().as_u16();
    response.into_body().collect().await.map_err(|e| said(&e))?;
    Ok(status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_swap_under_traffic_drops_nothing() {
    let mut machine = Machine::start().await;
    let old = machine.with_old_release().await;
    let new = machine.make_release(NEW, 0.0);
    let traffic = Traffic::begin(&machine.state().await.listen[0]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let server = machine.server(machine.rollout(2, Strategy::HotSwap, &new, Some(&old)), 1);
    let _worker = worker(&server);
    ends(&server, RolloutStatus::Succeeded).await;
    assert_eq!(machine.serving().await, [NEW]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (ok, failed, dropped) = traffic.end().await;
    println!("hot swap: {ok} answered, {failed} failed, {dropped} dropped");
    assert!(ok > 50, "{ok}");
    assert_eq!((failed, dropped), (0, 0));
    let state = machine.state().await;
    let kept = state.instances.iter().find(|i| i.release.id.0 == OLD).expect("the old release stays warm");
    assert!(kept.retire_at.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_canary_comes_back_by_itself_and_drops_nothing() {
    let mut machine = Machine::start().await;
    let old = machine.with_old_release().await;
    let new = machine.make_release(NEW, 0.2);
    let traffic = Traffic::begin(&machine.state().await.listen[0]);
    let strategy = slow_canary(Span::seconds(20));
    let server = machine.server(machine.rollout(2, strategy, &new, Some(&old)), 1);
    let _worker = worker(&server);
    let rollout = ends(&server, RolloutStatus::RolledBack).await;
    assert_eq!(machine.serving().await, [OLD]);
    assert!(machine.state().await.instances.iter().all(|i| i.release.id.0 == OLD), "the canary is gone");
    let (ok, failed, dropped) = traffic.end().await;
    let journal = server.journal();
    let back = journal.iter().rfind(|entry| entry.kind == JournalKind::Shifted).unwrap();
    let back_us = back.detail["numbers"]["traffic_back_us"].as_u64().unwrap();
    println!(
        "canary: {ok} answered, {failed} failed, {dropped} dropped; verdict to traffic back {:.2} ms; {}",
        back_us as f64 / 1000.0,
        rollout.verdict.unwrap()
    );
    assert_eq!(dropped, 0);
    assert!(failed > 0, "the canary saw requests");
    assert!(back_us < 100_000, "{back_us} us");
}

/// All traffic at once, so that there is nobody to compare with, and no requests that could fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_ends_again_and_again_comes_back_though_nobody_asks_it() {
    let mut machine = Machine::start().await;
    let old = machine.with_old_release().await;
    let new = machine.make_release_of(NEW, &[("fail-share", "0"), ("lives", "1500")]);
    let Strategy::Canary(mut spec) = slow_canary(Span::seconds(60)) else { unreachable!() };
    spec.stages = vec![100];
    let server = machine.server(machine.rollout(2, Strategy::Canary(spec), &new, Some(&old)), 1);
    let _worker = worker(&server);
    let rollout = ends(&server, RolloutStatus::RolledBack).await;
    let reason = rollout.reason.unwrap();
    assert!(reason.contains("of the new release is lost: its process ended 3 times"), "{reason}");
    assert_eq!(machine.serving().await, [OLD]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emergency_at_the_host_ends_the_canary_and_its_owner_follows() {
    let mut machine = Machine::start().await;
    let old = machine.with_old_release().await;
    let new = machine.make_release(NEW, 0.0);
    let strategy = slow_canary(Span::seconds(60));
    let server = machine.server(machine.rollout(2, strategy, &new, Some(&old)), 1);
    let _worker = worker(&server);
    server.until("the first stage", |rollout, _| rollout.weight == 10).await;
    assert_eq!(machine.serving().await.len(), 2);
    let rollback = EmergencyRollback { to: None, reason: "ada saw red".into() };
    let result = machine.client.emergency_rollback("production", "web", &rollback).await.unwrap();
    println!("emergency rollback took {} us", result.took_us);
    assert_eq!(machine.serving().await, [OLD]);
    let rollout = ends(&server, RolloutStatus::RolledBack).await;
    assert!(rollout.reason.unwrap().contains("ada saw red"));
    assert_eq!(machine.serving().await, [OLD]);
    assert!(server.epoch() >= result.epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn going_back_to_a_warm_release_starts_nothing() {
    let mut machine = Machine::start().await;
    let old = machine.with_old_release().await;
    let new = machine.make_release(NEW, 0.0);
    let server = machine.server(machine.rollout(2, Strategy::HotSwap, &new, Some(&old)), 1);
    let swap = worker(&server);
    ends(&server, RolloutStatus::Succeeded).await;
    drop(swap);
    let warm = machine.state().await.instances.into_iter().find(|i| i.release.id.0 == OLD).unwrap();
    let mut back = machine.rollout(3, Strategy::HotSwap, &old, Some(&new));
    back.spec.is_rollback = true;
    let server = machine.server(back, 2);
    let _worker = worker(&server);
    ends(&server, RolloutStatus::Succeeded).await;
    assert_eq!(machine.serving().await, [OLD]);
    let now = machine.state().await.instances.into_iter().find(|i| i.release.id.0 == OLD).unwrap();
    assert_eq!((now.pid, now.retire_at), (warm.pid, None), "the very process that was warm serves, and stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_worker_and_a_dead_host_hold_up_neither_traffic_nor_rollout() {
    let mut machine = Machine::start().await;
    let old = machine.with_old_release().await;
    let new = machine.make_release(NEW, 0.0);
    let traffic = Traffic::begin(&machine.state().await.listen[0]);
    let strategy = slow_canary(Span::millis(700));
    let server = machine.server(machine.rollout(2, strategy, &new, Some(&old)), 1);
    let first = worker(&server);
    server.until("the first stage", |rollout, _| rollout.weight == 10).await;
    super::kill(first).await;
    machine.child.kill().unwrap();
    machine.child.wait().unwrap();
    server.end_lease();
    let _second = worker(&server);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let log = std::fs::File::create(machine.directory.path().join("host-2.log")).unwrap();
    machine.child = Command::new(&machine.program)
        .args([Path::new("host"), &machine.directory.path().join("host"), &machine.program])
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    ends(&server, RolloutStatus::Succeeded).await;
    assert_eq!(machine.serving().await, [NEW]);
    let (ok, failed, dropped) = traffic.end().await;
    println!("worker and host killed: {ok} answered, {failed} failed, {dropped} dropped");
    assert_eq!((failed, dropped), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_release_that_was_stopped_is_started_again_under_its_name() {
    let mut machine = Machine::start().await;
    let old = machine.with_old_release().await;
    let new = machine.make_release(NEW, 0.0);
    let mut swap = machine.rollout(2, Strategy::HotSwap, &new, Some(&old));
    swap.spec.service.keep_warm = Span::millis(1);
    let server = machine.server(swap, 1);
    let first = worker(&server);
    ends(&server, RolloutStatus::Succeeded).await;
    drop(first);
    while machine.state().await.instances.iter().any(|i| i.release.id.0 == OLD) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut back = machine.rollout(1, Strategy::HotSwap, &old, Some(&new));
    back.spec.is_rollback = true;
    let server = machine.server(back, 2);
    let _worker = worker(&server);
    ends(&server, RolloutStatus::Succeeded).await;
    assert_eq!(machine.serving().await, [OLD]);
}
