//! Services that sleep while nobody asks for them.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use segue_schemas::{
    host_api::{Instance, InstanceState, StopInstance},
    id::InstanceId,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::world::{self, World, get};

/// A host with release 1 that sleeps after so long, and has the traffic.
async fn sleeper(after_ms: u64) -> (World, InstanceId) {
    let world = World::start().await;
    run(&world, "web-1", 1, after_ms).await;
    world.route(1, &[("web-1", 100)], &[]).await;
    (world, "web-1".parse().unwrap())
}

async fn run(world: &World, id: &str, release: i64, after_ms: u64) -> Instance {
    let start = segue_schemas::host_api::StartInstance {
        sleep_after_ms: Some(after_ms),
        ..world.start_request(id, release, 1)
    };
    world.client.start_instance(&start).await.unwrap();
    let id = id.parse().unwrap();
    let probe = segue_schemas::host_api::Probe { path: "/".into(), timeout_ms: 2000 };
    while world.client.probe(&id, &probe).await.unwrap().status != Some(200) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.client.instance(&id, Duration::ZERO).await.unwrap()
}

async fn until_asleep(world: &World, id: &InstanceId) {
    let asleep = world.until(id, |one| one.state == InstanceState::Asleep && one.pid.is_none()).await;
    assert_eq!(asleep.restarts, 0, "it did not end by itself");
}

async fn answers(world: &World, version: &str) {
    assert_eq!(get(world.address, world.host(), "/").await.unwrap(), (200, version.into()));
}

#[tokio::test]
async fn what_nobody_asks_for_sleeps_and_the_next_request_wakes_it() {
    let (mut world, id) = sleeper(1_500).await;
    let pid = world.client.instance(&id, Duration::ZERO).await.unwrap().pid.unwrap();
    let restorations = world.client.state().await.unwrap().restorations;
    until_asleep(&world, &id).await;
    world::until_gone(pid).await;
    let told = world.client.state_after(restorations, Duration::from_secs(10)).await.unwrap();
    assert!(told.restorations > restorations, "whoever watches the host hears of it");
    // all that come at once are answered by the one that is woken
    let (a, b, c) = tokio::join!(
        get(world.address, world.host(), "/"),
        get(world.address, world.host(), "/"),
        get(world.address, world.host(), "/")
    );
    assert_eq!([a, b, c], [0; 3].map(|_| Ok((200, "v1".into()))));
    assert_eq!(world.client.instance(&id, Duration::ZERO).await.unwrap().state, InstanceState::Running);

    // neither a new proxy nor a new host, nor another boot, wakes it; the request does
    for round in 0..3 {
        until_asleep(&world, &id).await;
        match round {
            0 => {
                let proxy = world.until_proxy(None).await;
                world::kill(proxy);
                world.until_proxy(Some(proxy)).await;
            }
            1 => {
                let proxy = world.until_proxy(None).await;
                world.kill_host();
                world::kill(proxy);
                world.start_host().await;
            }
            _ => {
                world.reboot();
                world.start_host().await;
            }
        }
        world.until_proxy(None).await;
        let found = world.client.instance(&id, Duration::ZERO).await.unwrap();
        assert_eq!((found.state, found.pid), (InstanceState::Asleep, None), "after {round}");
        answers(&world, "v1").await;
    }
    world.end().await;
}

#[tokio::test]
async fn what_is_asked_for_all_the_time_or_answers_for_long_stays_awake() {
    let (world, id) = sleeper(3_000).await;
    let pid = world.client.instance(&id, Duration::ZERO).await.unwrap().pid;
    // an answer that takes longer than that
    let answer = get(world.address, world.host(), "/stream?lines=80").await.unwrap();
    assert_eq!(answer.1.lines().count(), 80);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(3_500) {
        answers(&world, "v1").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.client.instance(&id, Duration::ZERO).await.unwrap().pid, pid, "it was never stopped");
    until_asleep(&world, &id).await;
    world.end().await;
}

#[tokio::test]
async fn requests_wait_for_what_sleeps_and_too_many_are_told_to_come_again() {
    let (world, id) = sleeper(300).await;
    until_asleep(&world, &id).await;
    // nobody wakes it for now
    let host = world.client.state().await.unwrap().pid;
    world::signal(host, Signal::SIGSTOP);
    let mut connections = Vec::new();
    for _ in 0..70 {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", world.host());
        stream.write_all(request.as_bytes()).await.unwrap();
        connections.push(tokio::spawn(async move {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }));
    }
    let begun = Instant::now();
    while connections.iter().filter(|one| one.is_finished()).count() < 6 {
        assert!(begun.elapsed() < Duration::from_secs(20), "six too many are told so at once");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world::signal(host, Signal::SIGCONT);
    let mut told = 0;
    for connection in connections {
        let answer = connection.await.unwrap();
        if answer.starts_with("HTTP/1.1 503") {
            assert!(answer.to_ascii_lowercase().contains("\r\nretry-after: 5\r\n"), "{answer}");
            told += 1;
        } else {
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("v1"), "{answer}");
        }
    }
    assert_eq!(told, 6);
    world.end().await;
}

#[tokio::test]
async fn a_rollout_takes_the_place_of_what_sleeps_and_may_go_back_to_it() {
    let (world, old) = sleeper(1_000).await;
    until_asleep(&world, &old).await;
    run(&world, "web-2", 2, 60_000).await;
    // going back to what sleeps wakes it with the next request
    world.route(1, &[("web-2", 100)], &[("web-1", 100)]).await;
    answers(&world, "v2").await;
    world.route(1, &[("web-1", 100)], &[]).await;
    answers(&world, "v1").await;
    until_asleep(&world, &old).await;
    world.route(1, &[("web-2", 100)], &[]).await;
    // asked for by its name, it runs again
    let again = tokio::time::timeout(Duration::from_secs(20), run(&world, "web-1", 1, 1_000)).await.unwrap();
    assert_eq!(again.state, InstanceState::Running);
    let stopped = world.client.stop(&old, &StopInstance { fence: world.fence(1) }).await.unwrap();
    assert_eq!(stopped.state, InstanceState::Stopped);
    answers(&world, "v2").await;
    world.end().await;
}
