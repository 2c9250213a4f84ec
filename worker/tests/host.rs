//! Stories of a real host, a real proxy and real services, each as processes of their own.

// The lint knows tests by their attribute; what they share has none.
#![allow(clippy::unwrap_used)]

mod data;
mod gpus;
mod naps;
mod routers;
mod world;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use segue_schemas::{
    deploy::Outcome,
    host_api::{
        ApplyRoute, DrainInstance, EmergencyRollback, HostErrorCode, HostState, InstanceState, Probe, ReleaseShare,
        RenewDeadMan, RetireInstance, StopInstance, Target,
    },
    id::{Epoch, ReleaseId},
};
use segue_worker::host::client::HostClientError;
use world::{Load, World, get, read_all};

fn targets(list: &[(&str, u32)]) -> Vec<Target> {
    list.iter().map(|(id, weight)| Target { instance: id.parse().unwrap(), weight: *weight }).collect()
}

fn code(error: HostClientError) -> HostErrorCode {
    match error {
        HostClientError::Host(error) => error.code,
        other => panic!("not an answer of the host: {other}"),
    }
}

#[tokio::test]
async fn a_hot_swap_under_load_drops_nothing() {
    let world = World::start().await;
    world.run("web-1", 1, 1).await;
    world.route(1, &[("web-1", 100)], &[]).await;
    let load = Load::begin(&world, 8);
    let stream = tokio::spawn(get(world.address, world.host(), "/stream?lines=20"));
    load.wait_for(50).await;

    world.run("web-2", 2, 1).await;
    world.route(1, &[("web-2", 100)], &[("web-1", 100)]).await;
    let swapped = Instant::now();
    let drained = world.client.drain(&"web-1".parse().unwrap(), &DrainInstance { limit_ms: 10_000 }).await.unwrap();
    assert_eq!(drained.in_flight, 0, "the stream ended within the limit");
    let stop = StopInstance { fence: world.fence(1) };
    let stopped = world.client.stop(&"web-1".parse().unwrap(), &stop).await.unwrap();
    assert_eq!((stopped.state, stopped.pid), (InstanceState::Stopped, None));
    load.wait_for(100).await;
    let answers = load.end().await;

    let bad: Vec<_> = answers.iter().filter(|a| a.status != 200).collect();
    assert!(bad.is_empty(), "{} of {} failed: {:?}", bad.len(), answers.len(), bad[0]);
    let late: Vec<_> = answers.iter().filter(|a| a.began > swapped && a.body != "v2").collect();
    assert!(late.is_empty(), "after the answer to the change, {} requests went to the former release", late.len());
    let (status, body) = stream.await.unwrap().unwrap();
    assert_eq!((status, body.lines().count()), (200, 20), "the streamed answer was not cut");
    world.end().await;
}

#[tokio::test]
async fn services_and_traffic_survive_kill_9_of_the_host_and_are_found_again() {
    let mut world = World::start().await;
    let before = world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    world.route(1, &[("web-1", 90), ("web-2", 10)], &[("web-1", 100)]).await;
    let proxy_pid = world.client.state().await.unwrap().proxy_pid;
    let load = Load::begin(&world, 4);
    load.wait_for(20).await;

    world.kill_host();
    load.wait_for(20).await;
    world.start_host().await;
    load.wait_for(20).await;

    let state = world.client.state().await.unwrap();
    assert_eq!(state.proxy_pid, proxy_pid, "the proxy is the same process");
    let after = state.instances.iter().find(|i| i.id == before.id).unwrap();
    assert_eq!((after.pid, after.restarts, &after.state), (before.pid, 0, &InstanceState::Running));
    assert_eq!(state.routes[0].targets, targets(&[("web-1", 90), ("web-2", 10)]));
    assert_eq!(state.routes[0].epoch, Epoch(1));

    // What is found again is looked after: it is seen when it ends, although it is not the host's child.
    let web_2 = "web-2".parse().unwrap();
    world::kill(state.instances.iter().find(|i| i.id == web_2).unwrap().pid.unwrap());
    let again = world.until(&web_2, |i| i.restarts == 1 && i.state == InstanceState::Running).await;
    assert_ne!(again.pid, None);
    let answers = load.end().await;
    assert!(answers.iter().all(|a| a.status == 200), "{:?}", answers.iter().find(|a| a.status != 200));
    world.end().await;
}

#[tokio::test]
async fn connections_wait_while_a_killed_proxy_is_started_again() {
    let world = World::start().await;
    world.run("web-1", 1, 1).await;
    world.route(1, &[("web-1", 100)], &[]).await;
    let before = world.client.state().await.unwrap();
    let position = before.routes[0].newest_observation;
    for _ in 0..3 {
        let killed = world.until_proxy(None).await;
        world::kill(killed);
        // A fresh connection is neither refused nor dropped: it waits in the host's listening socket.
        let (status, body) = get(world.address, world.host(), "/").await.unwrap();
        assert_eq!((status, body.as_str()), (200, "v1"));
        world.until_proxy(Some(killed)).await;
    }
    let batch = world.client.observations("production", "web", position, Duration::from_secs(5), 100).await.unwrap();
    assert_eq!((batch.observations.len(), batch.lost), (1, 1), "the last proxy's observation, and word of a gap");
    assert!(batch.next > position);
    world.end().await;
}

#[tokio::test]
async fn a_proxy_that_lives_but_does_not_answer_is_replaced() {
    let mut world = World::start().await;
    world.run("web-1", 1, 1).await;
    world.route(1, &[("web-1", 100)], &[]).await;
    let mute = world.until_proxy(None).await;
    world::signal(mute, Signal::SIGSTOP);
    world.route(1, &[("web-1", 50)], &[]).await;
    assert_eq!(get(world.address, world.host(), "/").await.unwrap(), (200, "v1".into()));

    // The same when the host is started again: the mute one holds the address, and has to give it up.
    let mute = world.until_proxy(Some(mute)).await;
    world.kill_host();
    world::signal(mute, Signal::SIGSTOP);
    world.start_host().await;
    assert_eq!(get(world.address, world.host(), "/").await.unwrap(), (200, "v1".into()));
    world.end().await;
}

#[tokio::test]
async fn a_host_with_another_address_replaces_its_proxy_and_drops_nothing() {
    let mut world = World::start().await;
    world.run("web-1", 1, 1).await;
    world.route(1, &[("web-1", 100)], &[]).await;
    let before = world.until_proxy(None).await;
    let stream = tokio::spawn(get(world.address, world.host(), "/stream?lines=20"));
    world.until_in_flight("web-1", 1).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (address, host, stopped) = (world.address, world.host(), stop.clone());
    let load = tokio::spawn(async move {
        let mut answers = 0;
        while !stopped.load(Ordering::Relaxed) {
            assert_eq!(get(address, host.clone(), "/").await.unwrap(), (200, "v1".into()));
            answers += 1;
        }
        answers
    });
    world.kill_host();
    world.start_host_listening(&["127.0.0.1:0", "[::1]:0"]).await;
    world.until_proxy(Some(before)).await;
    let listen = world.client.state().await.unwrap().listen;
    assert_eq!((listen.len(), &listen[0]), (2, &world.address.to_string()), "the first address stays");
    assert_eq!(get(listen[1].parse().unwrap(), world.host(), "/").await.unwrap(), (200, "v1".into()));
    world::until_gone(before).await;
    stop.store(true, Ordering::Relaxed);
    assert!(load.await.unwrap() > 0);
    assert_eq!(stream.await.unwrap().unwrap().1.lines().count(), 20, "the former proxy ended after its last answer");
    world.end().await;
}

#[tokio::test]
async fn kill_9_of_everything_and_a_reboot_bring_the_last_good_release_back() {
    let mut world = World::start().await;
    for (id, release) in [("web-1", 1), ("web-2", 2), ("web-3", 3), ("web-4", 4)] {
        world.run(id, release, 1).await;
    }
    world.route(4, &[("web-1", 75), ("web-2", 25), ("web-4", 0)], &[("web-1", 100)]).await;
    world.reboot();
    world.start_host().await;

    // Connections wait until what serves is well again.
    for _ in 0..20 {
        let (status, body) = get(world.address, world.host(), "/").await.unwrap();
        assert_eq!(status, 200);
        assert!(["v1", "v2"].contains(&body.as_str()), "{body}");
    }
    let state = world.client.state().await.unwrap();
    let ids: Vec<&str> = state.instances.iter().map(|i| i.id.as_str()).collect();
    assert_eq!(
        ids,
        ["web-1", "web-2", "web-4"],
        "what neither serves, nor stands by, nor is fallen back to is not started"
    );
    assert_eq!(state.routes[0].targets, targets(&[("web-1", 75), ("web-2", 25), ("web-4", 0)]));
    assert_eq!(state.routes[0].epoch, Epoch(4));
    world.end().await;
}

#[tokio::test]
async fn a_lower_epoch_is_refused_everywhere_and_over_a_restart() {
    let mut world = World::start().await;
    world.run("web-1", 1, 5).await;
    world.run("web-2", 2, 5).await;
    world.route(7, &[("web-1", 100)], &[("web-1", 100)]).await;
    for restarted in [false, true] {
        if restarted {
            world.kill_host();
            world.start_host().await;
        }
        let id = "web-2".parse().unwrap();
        let fence = world.fence(6);
        let route = ApplyRoute {
            fence: fence.clone(),
            rules: vec![],
            assignment: segue_schemas::assignment::Assignment::default(),
            targets: targets(&[("web-2", 1)]),
            fallback: vec![],
            dead_man_ms: None,
            leaves: false,
            left: None,
            follows: false,
        };
        let refused = [
            world.client.apply_route(&route).await.unwrap_err(),
            world.client.stop(&id, &StopInstance { fence: fence.clone() }).await.unwrap_err(),
            world
                .client
                .retire(&id, &RetireInstance { fence: fence.clone(), after_ms: 0, drain_ms: 0 })
                .await
                .unwrap_err(),
            world.client.renew(&RenewDeadMan { fence, dead_man_ms: 1 }).await.unwrap_err(),
            world.client.start_instance(&world.start_request("web-3", 3, 6)).await.unwrap_err(),
        ];
        for error in refused {
            let HostClientError::Host(error) = error else { panic!("{error}") };
            assert_eq!((error.code, error.epoch), (HostErrorCode::StaleEpoch, Some(Epoch(7))), "{error}");
        }
    }
    let state = world.client.state().await.unwrap();
    assert_eq!(state.routes[0].targets, targets(&[("web-1", 100)]));
    assert_eq!(state.instances.len(), 2);
    world.end().await;
}

#[tokio::test]
async fn the_dead_mans_switch_restores_the_fallback_by_itself() {
    let world = World::start().await;
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    world.canary(1, &[("web-1", 50), ("web-2", 50)], &[("web-1", 100)], 400).await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let renewed = RenewDeadMan { fence: world.fence(1), dead_man_ms: 400 };
        let route = world.client.renew(&renewed).await.unwrap();
        assert_eq!((route.restored, route.targets.len()), (None, 2), "renewed in time, nothing is restored");
    }
    let began = Instant::now();
    let restored = world.until_restored().await;
    assert!((300..1500).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert!(restored.reason.starts_with("dead-man"), "{}", restored.reason);
    world.until_all_answer("v1").await;
    // A late renewal does not arm it again, and the one who asks sees what happened.
    let late = world.client.renew(&RenewDeadMan { fence: world.fence(1), dead_man_ms: 400 }).await.unwrap();
    assert_eq!((late.dead_man_at, late.restored.is_some()), (None, true));
    assert_eq!(late.targets, targets(&[("web-1", 100)]));
    world.end().await;
}

#[tokio::test]
async fn a_dead_mans_deadline_that_passes_while_the_host_is_away_counts() {
    let mut world = World::start().await;
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    world.canary(1, &[("web-1", 50), ("web-2", 50)], &[("web-1", 100)], 300).await;
    world.kill_host();
    tokio::time::sleep(Duration::from_millis(400)).await;
    world.start_host().await;
    world.until_restored().await;
    world.until_all_answer("v1").await;
    world.end().await;
}

#[tokio::test]
async fn an_emergency_rollback_needs_nobody_and_shuts_the_rollout_out() {
    let world = World::start().await;
    world.run("web-1", 1, 3).await;
    world.run("web-2", 2, 3).await;
    world.canary(3, &[("web-1", 90), ("web-2", 10)], &[("web-1", 100)], 60_000).await;
    let rollback = EmergencyRollback { to: None, reason: "it is on fire".into() };
    let result = world.client.emergency_rollback("production", "web", &rollback).await.unwrap();
    assert_eq!((result.epoch, result.to.id), (Epoch(3).after_emergency(), ReleaseId(1)));
    assert!(result.took_us < 2_000_000, "{} us", result.took_us);
    for _ in 0..30 {
        assert_eq!(get(world.address, world.host(), "/").await.unwrap().1, "v1");
    }
    // 4 and 5 are claims that the server gives out before it hears of this
    for claim in [3, 4, 5] {
        let stale = RenewDeadMan { fence: world.fence(claim), dead_man_ms: 1 };
        assert_eq!(code(world.client.renew(&stale).await.unwrap_err()), HostErrorCode::StaleEpoch);
    }
    let state = world.client.state().await.unwrap();
    assert!(state.routes[0].restored.as_ref().unwrap().reason.contains("it is on fire"));
    let displaced = state.instances.iter().find(|i| i.id.as_str() == "web-2").unwrap();
    assert!(displaced.retire_at.is_some(), "what lost its traffic goes by itself");
    world.end().await;
}

/// Release 1 has served, and 2 does.
async fn two_have_served(world: &World) {
    for release in [1, 2] {
        let id = format!("web-{release}");
        world.run(&id, release, release).await;
        world.route(release, &[(&id, 100)], &[]).await;
    }
}

#[tokio::test]
async fn an_emergency_at_a_host_that_a_rollout_has_not_reached_yet_means_what_serves_there() {
    // one whose turn has not come, of a rollout that goes host after host; and one where the new release stands by
    for (targets, dead_man_ms) in [(&[("web-2", 100)][..], Some(60_000)), (&[("web-2", 100), ("web-3", 0)][..], None)] {
        let world = World::start().await;
        two_have_served(&world).await;
        world.run("web-3", 3, 3).await;
        match dead_man_ms {
            Some(ms) => world.canary(3, targets, &[("web-2", 100)], ms).await,
            None => {
                world.route(3, targets, &[("web-2", 100)]).await;
            }
        }
        let rollback = EmergencyRollback { to: None, reason: "the new one is bad elsewhere".into() };
        let result = world.client.emergency_rollback("production", "web", &rollback).await.unwrap();
        assert_eq!(result.to.id, ReleaseId(2), "and not the release before that");
        let stale = RenewDeadMan { fence: world.fence(3), dead_man_ms: 1 };
        assert_eq!(code(world.client.renew(&stale).await.unwrap_err()), HostErrorCode::StaleEpoch);
        let state = world.client.state().await.unwrap();
        assert!(state.routes[0].restored.as_ref().unwrap().reason.starts_with("emergency"));
        assert_eq!(get(world.address, world.host(), "/").await.unwrap(), (200, "v2".into()));
        world.end().await;
    }
}

#[tokio::test]
async fn an_emergency_rollback_starts_a_kept_release_again() {
    let world = World::start().await;
    two_have_served(&world).await;
    world.client.stop(&"web-1".parse().unwrap(), &StopInstance { fence: world.fence(2) }).await.unwrap();
    let rollback = EmergencyRollback { to: None, reason: "no fallback is left".into() };
    let result = world.client.emergency_rollback("production", "web", &rollback).await.unwrap();
    assert_eq!((result.from.unwrap().id, result.to.id), (ReleaseId(2), ReleaseId(1)));
    assert_eq!(get(world.address, world.host(), "/").await.unwrap(), (200, "v1".into()));

    let forward = EmergencyRollback { to: Some(ReleaseId(2)), reason: "it was not that".into() };
    world.client.emergency_rollback("production", "web", &forward).await.unwrap();
    assert_eq!(get(world.address, world.host(), "/").await.unwrap(), (200, "v2".into()));
    let unknown = EmergencyRollback { to: Some(ReleaseId(9)), reason: "?".into() };
    let error = world.client.emergency_rollback("production", "web", &unknown).await.unwrap_err();
    assert!(error.to_string().contains("releases that are: 2, 1"), "{error}");
    assert_eq!(code(error), HostErrorCode::NotFound);
    world.end().await;
}

#[tokio::test]
async fn an_emergency_finds_what_was_restored_already_and_stays_there() {
    let world = World::start().await;
    two_have_served(&world).await;
    world.run("web-3", 3, 3).await;
    world.canary(3, &[("web-2", 70), ("web-3", 30)], &[("web-2", 100)], 100).await;
    let by_itself = world.until_restored().await;
    let press = |to: Option<i64>| {
        let (client, rollback) =
            (world.client.clone(), EmergencyRollback { to: to.map(ReleaseId), reason: "me".into() });
        async move { client.emergency_rollback("production", "web", &rollback).await.unwrap() }
    };
    // the dead man was faster: the traffic stays, and whoever drives the canary is shut out
    let found = press(None).await;
    assert_eq!((found.to.id, found.stands), (ReleaseId(2), Some(by_itself)));
    assert_eq!(found.epoch, Epoch(3).after_emergency());
    let route = world.client.state().await.unwrap().routes.remove(0);
    assert_eq!(route.targets, targets(&[("web-2", 100)]));
    let again = press(None).await;
    assert_eq!((again.to.id, again.epoch, again.stands), (ReleaseId(2), found.epoch, route.restored.clone()));
    assert_eq!(world.client.state().await.unwrap().routes[0].restored, route.restored, "nothing has changed");

    // somebody presses twice
    let canary = [("web-2", 70), ("web-3", 30)];
    world.canary(found.epoch.0 + 1, &canary, &[("web-2", 100)], 60_000).await;
    let first = press(None).await;
    let share = |release, percent| ReleaseShare { release: ReleaseId(release), percent };
    assert_eq!((first.to.id, first.before), (ReleaseId(2), vec![share(2, 70), share(3, 30)]));
    assert_eq!(first.stands, None);
    let second = press(None).await;
    assert_eq!((second.to.id, second.epoch), (ReleaseId(2), first.epoch));
    assert!(second.stands.unwrap().reason.contains("emergency: me"));
    assert_eq!(get(world.address, world.host(), "/").await.unwrap(), (200, "v2".into()));

    // another one is named; and what was left by that, is not gone back to
    let named = press(Some(1)).await;
    assert_eq!(named.to.id, ReleaseId(1));
    world.route(named.epoch.0 + 1, &[("web-1", 100)], &[]).await;
    let rollback = EmergencyRollback { to: None, reason: "and this one".into() };
    let error = world.client.emergency_rollback("production", "web", &rollback).await.unwrap_err();
    assert!(error.to_string().contains("there is nothing to go back to"), "{error}");
    world.end().await;
}

#[tokio::test]
async fn an_emergency_just_after_a_rollout_went_back_by_itself_stays_there() {
    let world = World::start().await;
    two_have_served(&world).await;
    world.run("web-3", 3, 3).await;
    world.canary(3, &[("web-2", 70), ("web-3", 30)], &[("web-2", 100)], 60_000).await;
    // the judge was a second faster; told twice it is the same
    for _ in 0..2 {
        world.route(3, &[("web-2", 100)], &[("web-2", 100)]).await;
    }
    let rollback = EmergencyRollback { to: None, reason: "me".into() };
    let press = || async { world.client.emergency_rollback("production", "web", &rollback).await.unwrap() };
    let found = press().await;
    assert_eq!(found.to.id, ReleaseId(2), "and not release 1");
    assert!(found.stands.unwrap().reason.contains("went back"));
    assert_eq!(press().await.to.id, ReleaseId(2));

    // what comes after it counts again
    world.run("web-4", 4, found.epoch.0 + 1).await;
    world.route(found.epoch.0 + 1, &[("web-4", 100)], &[("web-2", 100)]).await;
    let back = press().await;
    assert_eq!((back.to.id, back.stands), (ReleaseId(2), None));
    world.end().await;
}

#[tokio::test]
async fn an_emergency_does_not_go_to_a_release_that_was_left_by_a_rollback() {
    let world = World::start().await;
    for release in [1, 2, 3] {
        let id = format!("web-{release}");
        world.run(&id, release, release).await;
        let before = format!("web-{}", release - 1);
        let fallback = [(before.as_str(), 100)];
        world.route(release, &[(&id, 100)], if release == 1 { &[] } else { &fallback }).await;
    }
    // `segue rollback`: what it comes from is warm, and the fallback
    world.go_back(4, &[("web-2", 100)], &[("web-3", 100)]).await;
    let rollback = EmergencyRollback { to: None, reason: "still bad".into() };
    let result = world.client.emergency_rollback("production", "web", &rollback).await.unwrap();
    assert_eq!((result.from.unwrap().id, result.to.id), (ReleaseId(2), ReleaseId(1)), "and not release 3");
    let by_name = EmergencyRollback { to: Some(ReleaseId(3)), reason: "it was not that".into() };
    let result = world.client.emergency_rollback("production", "web", &by_name).await.unwrap();
    assert_eq!((result.from.unwrap().id, result.to.id), (ReleaseId(1), ReleaseId(3)));
    world.end().await;
}

#[tokio::test]
async fn an_emergency_at_one_host_after_the_other_is_one() {
    let world = World::start().await;
    two_have_served(&world).await;
    world.run("web-3", 3, 3).await;
    world.route(3, &[("web-3", 100)], &[("web-2", 100)]).await;
    // somebody went back to release 2 at another host, and this one was brought there
    world.run("web-4", 2, 4).await;
    // told once more, as the answer was lost
    for _ in 0..2 {
        world.follow(4, &[("web-4", 100)], &[("web-3", 100)]).await;
    }
    let rollback = EmergencyRollback { to: None, reason: "here as well".into() };
    let pressed = world.client.emergency_rollback("production", "web", &rollback).await.unwrap();
    assert_eq!(pressed.to.id, ReleaseId(2), "and not release 1");
    assert!(pressed.stands.unwrap().reason.contains("other hosts"));

    // what is brought to a newer release has not gone back
    world.run("web-5", 5, pressed.epoch.0 + 1).await;
    world.follow(pressed.epoch.0 + 1, &[("web-5", 100)], &[("web-4", 100)]).await;
    let pressed = world.client.emergency_rollback("production", "web", &rollback).await.unwrap();
    assert_eq!((pressed.to.id, pressed.stands), (ReleaseId(2), None));
    world.end().await;
}

#[tokio::test]
async fn what_an_owner_that_was_shut_out_has_started_goes_by_itself() {
    let world = World::start().await;
    two_have_served(&world).await;
    let goes = async |id: &str| {
        world.until(&id.parse().unwrap(), |i| i.retire_at.is_some()).await;
    };
    // its canary was on its way, and another rollout changes the weights
    world.run("web-3", 3, 3).await;
    world.run("web-4", 4, 4).await;
    world.route(4, &[("web-4", 100)], &[("web-2", 100)]).await;
    goes("web-3").await;
    let kept = world.client.instance(&"web-2".parse().unwrap(), Duration::ZERO).await.unwrap();
    assert_eq!(kept.retire_at, None, "it is the way back");
    // the dead man takes its traffic, and it never comes again
    world.run("web-5", 5, 5).await;
    world.canary(5, &[("web-4", 90), ("web-5", 10)], &[("web-4", 100)], 200).await;
    goes("web-5").await;
    world.end().await;
}

#[tokio::test]
async fn an_emergency_does_not_go_to_a_release_that_was_left_in_a_gap() {
    let world = World::start().await;
    world.run("web-1", 1, 1).await;
    world.route(1, &[("web-1", 100)], &[]).await;
    world.run("web-2", 2, 2).await;
    world.route(2, &[("web-2", 100)], &[("web-1", 100)]).await;
    world.route(3, &[], &[]).await;
    world.run("web-3", 1, 3).await;
    world.go_back_in_a_gap(3, &[("web-3", 100)], 2).await;
    let rollback = EmergencyRollback { to: None, reason: "still bad".into() };
    let nowhere = world.client.emergency_rollback("production", "web", &rollback).await.unwrap_err();
    assert!(nowhere.to_string().contains("nothing to go back to"), "{nowhere}");
    world.end().await;
}

#[tokio::test]
async fn a_drain_waits_for_a_streamed_answer_and_says_what_is_left_at_its_limit() {
    let world = World::start().await;
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    world.route(1, &[("web-1", 100)], &[]).await;
    let stream = tokio::spawn(get(world.address, world.host(), "/stream?lines=30"));
    world.until_in_flight("web-1", 1).await;
    let id = "web-1".parse().unwrap();
    let early = world.client.drain(&id, &DrainInstance { limit_ms: 10 }).await.unwrap_err();
    assert_eq!(code(early), HostErrorCode::BadRequest, "with weight it would never be drained");

    world.route(1, &[("web-2", 100)], &[]).await;
    let short = world.client.drain(&id, &DrainInstance { limit_ms: 100 }).await.unwrap();
    assert_eq!(short.in_flight, 1);
    let began = Instant::now();
    let whole = world.client.drain(&id, &DrainInstance { limit_ms: 30_000 }).await.unwrap();
    assert_eq!(whole.in_flight, 0);
    assert!(began.elapsed() < Duration::from_secs(5), "it ends with the stream, not with the limit");
    assert_eq!(stream.await.unwrap().unwrap().1.lines().count(), 30);
    world.end().await;
}

#[tokio::test]
async fn every_attempt_is_observed_and_a_lost_connection_is_tried_elsewhere() {
    let world = World::start().await;
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    let route = world.route(1, &[("web-1", 30), ("web-2", 70)], &[]).await;
    let mut position = route.newest_observation;
    let mut read = async |n: usize| {
        let mut all = Vec::new();
        while all.len() < n {
            let wait = Duration::from_secs(5);
            let batch = world.client.observations("production", "web", position, wait, 1000).await.unwrap();
            assert!(!batch.observations.is_empty(), "only {} of {n} observations came", all.len());
            assert_eq!(batch.lost, 0);
            position = batch.next;
            all.extend(batch.observations);
        }
        all
    };
    for (path, status, outcome) in [("/", 200, Outcome::Ok), ("/fail", 500, Outcome::ServerError)] {
        assert_eq!(get(world.address, world.host(), path).await.unwrap().0, status);
        let seen = read(1).await.remove(0);
        assert_eq!((seen.status, seen.outcome, seen.attempt, seen.synthetic), (status, outcome, 1, false));
        let share = if seen.instance.as_str() == "web-1" { 0.3 } else { 0.7 };
        assert!((seen.probability - share).abs() < 1e-9);
        assert!(seen.latency_us > 0 && seen.latency_us <= seen.duration_us);
    }
    let (status, body) = get(world.address, world.host(), "/hang-up").await.unwrap();
    assert_eq!(status, 502, "{body}");
    let seen = read(1).await;
    assert!(seen.iter().all(|o| o.outcome == Outcome::Unreachable && o.status == 0), "{seen:?}");

    // An instance that is down: its requests are answered by the other one, and both attempts are there.
    let down = world.client.state().await.unwrap().instances[0].pid.unwrap();
    let before = Instant::now();
    world::stop_for_good(&world, down).await;
    let mut refused = 0;
    while refused == 0 && before.elapsed() < Duration::from_secs(20) {
        let (status, body) = get(world.address, world.host(), "/").await.unwrap();
        assert_eq!((status, body.as_str()), (200, "v2"));
        let mut seen = read(1).await;
        if seen[0].outcome == Outcome::Unreachable {
            if seen.len() == 1 {
                seen.extend(read(1).await);
            }
            assert_eq!((seen[0].instance.as_str(), seen[0].attempt), ("web-1", 1));
            assert_eq!((seen[1].instance.as_str(), seen[1].attempt, seen[1].status), ("web-2", 2, 200));
            refused += 1;
        }
    }
    assert_eq!(refused, 1);
    world.end().await;
}

#[tokio::test]
async fn an_observation_is_there_a_few_milliseconds_after_the_answer() {
    let world = World::start().await;
    world.run("web-1", 1, 1).await;
    let mut position = world.route(1, &[("web-1", 100)], &[]).await.newest_observation;
    let mut took = Vec::new();
    for _ in 0..20 {
        let (client, after) = (world.client.clone(), position);
        let reader = tokio::spawn(async move {
            let batch = client.observations("production", "web", after, Duration::from_secs(10), 10).await.unwrap();
            (batch, Instant::now())
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        get(world.address, world.host(), "/").await.unwrap();
        let answered = Instant::now();
        let (batch, seen) = reader.await.unwrap();
        assert_eq!(batch.observations.len(), 1);
        position = batch.next;
        took.push(seen.saturating_duration_since(answered));
    }
    took.sort();
    println!("answer to observation: median {:?}, worst {:?}", took[10], took[19]);
    assert!(took[10] < Duration::from_millis(50), "median {:?}", took[10]);
    world.end().await;
}

#[tokio::test]
async fn a_web_socket_and_what_a_client_sends_pass_through() {
    let world = World::start().await;
    world.run("web-1", 1, 1).await;
    world.route(1, &[("web-1", 100)], &[]).await;
    let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let head = format!(
        "GET /upgrade HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n",
        world.host()
    );
    let answer = read_all(&mut stream, head.as_bytes(), b"\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    for word in ["one", "two"] {
        assert_eq!(read_all(&mut stream, word.as_bytes(), word.as_bytes()).await, word);
    }
    world.until_in_flight("web-1", 1).await;
    drop(stream);
    world.until_in_flight("web-1", 0).await;

    let (_, headers) = get(world.address, world.host(), "/headers").await.unwrap();
    for line in ["x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http", &format!("host: {}", world.host())] {
        assert!(headers.contains(line), "{headers}");
    }
    let body = "x".repeat(300_000);
    let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let post = format!("POST /echo HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n{body}!", world.host(), 300_001);
    assert!(read_all(&mut stream, post.as_bytes(), b"x!").await.ends_with("x!"));
    world.end().await;
}

#[tokio::test]
async fn what_has_no_route_or_no_instance_is_told_so() {
    let world = World::start().await;
    world.run("web-1", 1, 1).await;
    world.route(1, &[("web-1", 100)], &[]).await;
    let (status, body) = get(world.address, "other.test".into(), "/").await.unwrap();
    assert_eq!((status, body.as_str()), (404, "no service is routed at host `other.test`, path `/`\n"));
    world.route(1, &[("web-1", 0)], &[]).await;
    let (status, body) = get(world.address, world.host(), "/").await.unwrap();
    assert_eq!((status, body.as_str()), (503, "web: no instance has traffic in environment `production`\n"));
    world.end().await;
}

#[tokio::test]
async fn a_service_that_crashes_is_started_again_with_growing_pauses() {
    let world = World::start().await;
    let mut start = world.start_request("web-1", 1, 1);
    start.command = vec!["sh".into(), "-c".into(), "echo attempt; exit 7".into()];
    world.client.start_instance(&start).await.unwrap();
    let id = start.instance.clone();
    let instance = world.until(&id, |i| i.restarts >= 3).await;
    assert_eq!(instance.state, InstanceState::BackingOff { exit: "exit code 7".into() });
    let output = std::fs::read_to_string(&instance.output).unwrap();
    assert!(output.matches("attempt").count() >= 3, "{output}");
    let stop = StopInstance { fence: world.fence(1) };
    assert_eq!(world.client.stop(&id, &stop).await.unwrap().state, InstanceState::Stopped);

    let mut missing = world.start_request("web-2", 1, 1);
    missing.command = vec!["no-such-program".into()];
    let failed = world.client.start_instance(&missing).await.unwrap();
    assert!(
        matches!(&failed.state, InstanceState::Failed { reason } if reason.contains("no-such-program")),
        "{failed:?}"
    );
    world.end().await;
}

#[tokio::test]
async fn a_retired_instance_goes_by_itself_and_out_of_the_fallback() {
    let mut world = World::start().await;
    world.run("web-1", 1, 1).await;
    world.run("web-2", 2, 1).await;
    world.route(1, &[("web-2", 100)], &[("web-1", 100)]).await;
    let id = "web-1".parse().unwrap();
    let retire = RetireInstance { fence: world.fence(1), after_ms: 700, drain_ms: 1000 };
    let retiring = world.client.retire(&id, &retire).await.unwrap();
    assert!(retiring.retire_at.is_some());
    assert_eq!(retiring.state, InstanceState::Running);
    // The timer is recorded: it goes off in the next host as well.
    world.kill_host();
    world.start_host().await;
    world.until(&id, |i| i.state == InstanceState::Stopped).await;
    let state = world.client.state().await.unwrap();
    assert!(state.routes[0].fallback.is_empty());
    assert_eq!(state.routes[0].targets, targets(&[("web-2", 100)]));

    // One that has traffic is left alone, whatever was asked for before.
    let serving = "web-2".parse().unwrap();
    world.client.retire(&serving, &RetireInstance { after_ms: 0, ..retire }).await.unwrap();
    let kept = world.until(&serving, |i| i.retire_at.is_none()).await;
    assert_eq!(kept.state, InstanceState::Running);
    let error = world.client.stop(&serving, &StopInstance { fence: world.fence(1) }).await.unwrap_err();
    assert_eq!(code(error), HostErrorCode::BadRequest);
    world.end().await;
}

/// The state, once it is another one than that with this number.
async fn news(world: &World, known: u64, what: &str) -> HostState {
    let told = world.client.state_after(known, Duration::from_secs(20)).await.unwrap();
    assert_ne!(told.restorations, known, "{what}");
    told
}

#[tokio::test]
async fn whoever_watches_hears_at_once_what_becomes_of_an_instance() {
    let mut world = World::start().await;
    let first = world.client.state().await.unwrap().restorations;
    let id = world.run("web-1", 1, 1).await.id;
    news(&world, first, "it is started").await;
    world.route(1, &[("web-1", 100)], &[]).await;
    let mut shown = world.client.state().await.unwrap();

    // it ends by itself, and is started again
    let pid = shown.instances[0].pid.unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL).unwrap();
    while shown.instances[0].restarts == 0 || shown.instances[0].pid.is_none() {
        shown = news(&world, shown.restorations, "it ended by itself").await;
    }
    assert_ne!(shown.instances[0].pid, Some(pid));

    // its release is replaced, and it goes after a while
    world.run("web-2", 2, 1).await;
    world.route(1, &[("web-2", 100)], &[]).await;
    let retire = RetireInstance { fence: world.fence(1), after_ms: 300, drain_ms: 1000 };
    world.client.retire(&id, &retire).await.unwrap();
    while shown.instances.iter().any(|one| one.id == id) || shown.instances.is_empty() {
        shown = news(&world, shown.restorations, "it has stopped").await;
    }
    let known = shown.restorations;
    let again = world.client.state_after(known, Duration::from_millis(200)).await.unwrap();
    assert_eq!(again.restorations, known, "nothing is new");
    world.kill_host();
    world.start_host().await;
    news(&world, known, "the host was started again").await;
    world.end().await;
}

#[tokio::test]
async fn a_start_is_repeatable_and_an_instance_can_be_probed() {
    let world = World::start().await;
    let first = world.run("web-1", 1, 1).await;
    let again = world.client.start_instance(&world.start_request("web-1", 1, 1)).await.unwrap();
    assert_eq!((again.pid, again.restarts), (first.pid, 0));
    let error = world.client.start_instance(&world.start_request("web-1", 2, 1)).await.unwrap_err();
    assert_eq!(code(error), HostErrorCode::BadRequest);
    let id = first.id;
    let probe =
        async |path: &str| world.client.probe(&id, &Probe { path: path.into(), timeout_ms: 2000 }).await.unwrap();
    assert_eq!(probe("/").await.status, Some(200));
    assert_eq!(probe("/fail").await.status, Some(500));
    assert!(probe("/hang-up").await.error.is_some());
    let slow = world.client.probe(&id, &Probe { path: "/stream?lines=100".into(), timeout_ms: 100 }).await.unwrap();
    assert!(slow.status.is_none() && slow.error.unwrap().contains("within 100ms"));

    let stopped = world.client.stop(&id, &StopInstance { fence: world.fence(1) }).await.unwrap();
    assert_eq!(stopped.state, InstanceState::Stopped);
    let anew = world.run("web-1", 2, 1).await;
    assert_eq!((anew.release.id, anew.state), (ReleaseId(2), InstanceState::Running), "a stopped name is free again");

    let mut wrong = world.start_request("web-9", 9, 1);
    wrong.release.digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let error = world.client.start_instance(&wrong).await.unwrap_err();
    assert_eq!(code(error), HostErrorCode::Artifact);
    assert_eq!(world.client.state().await.unwrap().instances.len(), 1, "nothing is left of it");
    world.end().await;
}

#[tokio::test]
async fn there_is_never_a_second_host_and_a_taken_address_is_said() {
    let mut world = World::start().await;
    let second = world.host_command().output().unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another `segue host` has its data in"), "{said}");

    let other = tempfile::tempdir().unwrap();
    let taken = std::process::Command::new(world::FIXTURE)
        .args(["host", "--data"])
        .arg(other.path())
        .args(["--listen", &world.address.to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(!taken.status.success() && said.contains("can't listen on"), "{said}");
    let proxy = std::process::Command::new(world::FIXTURE)
        .args(["proxy", "--control"])
        .arg(other.path().join("p.sock"))
        .args(["--listen", &world.address.to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&proxy.stderr).into_owned();
    assert!(!proxy.status.success() && said.contains("another process may have it"), "{said}");
    world.kill_host();
    world.start_host().await;
    world.end().await;
}

#[tokio::test]
async fn a_host_is_started_when_none_answers_and_only_then() {
    use segue_worker::host::{Ensured, HostOptions, ensure_running};
    let folder = tempfile::tempdir().unwrap();
    let mut options = HostOptions::new(folder.path().join("host")).unwrap();
    options.program = world::FIXTURE.into();
    let (a, b) = tokio::join!(ensure_running(&options), ensure_running(&options));
    let mut outcomes = [a.unwrap(), b.unwrap()];
    outcomes.sort_by_key(|o| *o == Ensured::Started);
    assert_eq!(outcomes, [Ensured::Running, Ensured::Started]);
    let client = segue_worker::host::client::HostClient::new(&options.socket);
    let pid = client.state().await.unwrap().pid;
    let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()))).unwrap();
    assert_eq!(session.as_raw(), i32::try_from(pid).unwrap(), "it leads a session of its own");
    client.shutdown(segue_schemas::host_api::Shutdown { services: true }).await.unwrap();

    options.program = "/bin/false".into();
    world::until_gone(pid).await;
    let error = ensure_running(&options).await.unwrap_err().to_string();
    assert!(error.contains("ended (exit status: 1)"), "{error}");
}
