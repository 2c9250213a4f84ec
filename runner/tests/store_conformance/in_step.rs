//! Of several hosts, one that does not serve what is on record: when it is brought there, and what is put on record of that.

use std::time::Duration;

use segue_runner::{
    reconcile,
    store::{RollbackTarget, RolloutFilter},
};
use segue_schemas::{
    config::{Config, EnvironmentConfig},
    deploy::{JournalKind, Release, Rollout},
    host_api::{EmergencyResult, HostState},
    id::Epoch,
    status::RolloutStatus,
    worker_api::{ClaimRequest, RolloutClaim},
};
use serde_json::json;

use crate::world::{World, report};

/// A world whose staging is carried by two hosts.
async fn of_two(world: World) -> World {
    world.configured(|config| staging_at(config, &["one", "two"])).await
}

fn staging_at(config: &mut Config, hosts: &[&str]) {
    for host in ["one", "two"] {
        let here = serde_json::from_value(json!({ "socket": format!("/run/{host}.sock") })).unwrap();
        config.hosts.insert(host.into(), here);
    }
    let hosts = hosts.iter().copied().map(Into::into).collect();
    config.environments.insert("staging".into(), EnvironmentConfig { hosts, ..EnvironmentConfig::default() });
}

/// A host that serves a release with all the traffic, or nothing; `start`: which start of it this is.
fn state(serves: Option<&Release>, start: u64) -> HostState {
    let instances = serves.map(|release| {
        json!({ "id": "web-1", "environment": "staging", "release": release, "address": "127.0.0.1:1",
            "state": { "state": "running" }, "pid": 1, "restarts": 0, "retire_at": null, "output": "" })
    });
    let routes = serves.map(|_| {
        json!({ "environment": "staging", "service": "web", "epoch": 1, "rules": [], "fallback": [],
            "targets": [{ "instance": "web-1", "weight": 100 }], "dead_man_at": null, "restored": null })
    });
    let state = json!({ "version": "1", "pid": 1, "listen": [], "proxy_pid": null, "releases": [], "start": start,
        "instances": Vec::from_iter(instances), "routes": Vec::from_iter(routes) });
    serde_json::from_value(state).unwrap()
}

async fn tells(world: &World, host: &str, serves: Option<&Release>, start: u64) {
    reconcile::host(&world.store, host, &state(serves, start)).await.unwrap();
}

/// The rollout that brings the host there, if there is one now; it fails.
async fn fails_again(world: &World, worker: &ClaimRequest) -> Option<RolloutClaim> {
    let claim = world.store.claim_rollout(worker).await.unwrap()?;
    world.end_rollout(&claim, RolloutStatus::Failed).await;
    Some(claim)
}

async fn newest(world: &World) -> Rollout {
    let newest = RolloutFilter { limit: 1, ..Default::default() };
    world.store.rollouts(newest).await.unwrap().remove(0).rollout
}

/// What people are told of, in words.
async fn said_of(world: &World) -> Vec<String> {
    let told = world.store.due_notifications(100).await.unwrap();
    told.iter().map(|one| one.detail["summary"].as_str().unwrap_or_default().to_owned()).collect()
}

pub async fn a_host_out_of_step_is_tried_again_soon_and_at_once_after_its_restart(world: World) {
    let world = of_two(world).await;
    let worker = world.worker("w", "1").await;
    let old = world.deployed(&worker, "staging", b"v1").await.release;
    world.deployed(&worker, "staging", b"v2").await;
    tells(&world, "two", Some(&old), 7).await;
    let claim = fails_again(&world, &worker).await.expect("it is brought there at once");
    let spec = &claim.rollout.spec;
    assert_eq!((&spec.hosts[..], spec.release.id), (&["two".to_owned()][..], newest(&world).await.spec.release.id));
    assert_eq!(spec.previous.as_ref(), Some(&old), "what the host serves is what it goes back to");
    let why = spec.repair.as_ref().unwrap().why.clone();
    assert!(why.contains("`two` serves release"), "{why}");
    // a minute, then two
    for minutes in [1, 2] {
        world.pass(Duration::from_secs(60 * minutes - 1));
        tells(&world, "two", Some(&old), 7).await;
        assert!(world.store.claim_rollout(&worker).await.unwrap().is_none(), "not before {minutes} minutes");
        let lacks = world.store.out_of_step().await.unwrap();
        assert_eq!((lacks.len(), lacks[0].again_at), (1, Some(world.store.now() + Duration::from_secs(1))));
        let (failed, _) = lacks[0].failed.clone().expect("what was tried is known");
        assert_eq!(failed, newest(&world).await.id);
        world.pass(Duration::from_secs(1));
        world.store.keep_in_step_as_told("two").await.unwrap();
        fails_again(&world, &worker).await.expect("its time has come");
    }
    tells(&world, "two", Some(&old), 7).await;
    assert!(world.store.claim_rollout(&worker).await.unwrap().is_none());
    tells(&world, "two", Some(&old), 8).await;
    fails_again(&world, &worker).await.expect("it was started anew");
    // what failed for another release counts no more
    let (_, _, newer) = world.deploy(&worker, "staging", b"v3").await;
    let claim = world.claim_rollout(&worker).await;
    assert_eq!(claim.rollout.id, newer.rollout);
    world.end_rollout(&claim, RolloutStatus::Succeeded).await;
    tells(&world, "two", Some(&old), 8).await;
    let claim = fails_again(&world, &worker).await.expect("a newer release is on record");
    assert_eq!(claim.rollout.spec.release, newer.release);
}

pub async fn a_person_has_a_host_out_of_step_brought_at_once(world: World) {
    let world = of_two(world).await;
    let worker = world.worker("w", "1").await;
    let now = world.deployed(&worker, "staging", b"v1").await.release;
    let ask = || world.store.create_rollback("staging", "web", RollbackTarget::Release(now.id), "ada".into());
    tells(&world, "one", Some(&now), 1).await;
    tells(&world, "two", Some(&now), 1).await;
    let refused = ask().await.unwrap_err().to_string();
    assert!(refused.contains("serves `staging` already"), "{refused}");
    tells(&world, "two", None, 1).await;
    fails_again(&world, &worker).await.expect("it is brought there at once");
    tells(&world, "two", None, 1).await;
    assert!(world.store.claim_rollout(&worker).await.unwrap().is_none(), "that failed just now");
    let asked = ask().await.unwrap();
    assert_eq!(ask().await.unwrap(), asked, "it is under way");
    let claim = world.claim_rollout(&worker).await;
    assert_eq!((claim.rollout.id, &claim.rollout.spec.hosts[..]), (asked, &["two".to_owned()][..]));
    assert!(claim.rollout.spec.repair.as_ref().unwrap().why.starts_with("ada asked for it"));
    // pressed once more, or told again as the answer was lost: it goes on
    assert_eq!(ask().await.unwrap(), asked);
    let heard = world.store.renew_rollout(asked, claim.epoch).await.unwrap();
    assert_eq!(heard.command, None);
}

pub async fn a_way_back_is_not_taken_for_the_end_of_a_repair(world: World) {
    let world = of_two(world).await;
    let worker = world.worker("w", "1").await;
    let old = world.deployed(&worker, "staging", b"v1").await.release;
    let bad = world.deployed(&worker, "staging", b"v2").await.release;
    tells(&world, "one", Some(&bad), 1).await;
    tells(&world, "two", Some(&old), 1).await;
    let repair = world.claim_rollout(&worker).await;
    assert_eq!(repair.rollout.spec.release, bad);
    let back = world.store.create_rollback("staging", "web", RollbackTarget::Previous, "ada".into()).await.unwrap();
    assert_ne!(back, repair.rollout.id);
    let made = world.store.rollout(back).await.unwrap().rollout.spec;
    assert_eq!((made.release, made.hosts.len(), made.repair), (old.clone(), 2, None));
    // it makes way, and its worker, which may wait for its host, is shut out
    let ended = world.store.rollout(repair.rollout.id).await.unwrap().rollout;
    assert_eq!(ended.status, RolloutStatus::Failed);
    assert!(ended.reason.unwrap().contains("ada rolls `web` back"));
    world.store.renew_rollout(repair.rollout.id, repair.epoch).await.unwrap_err();
    let claim = world.claim_rollout(&worker).await;
    assert_eq!(claim.rollout.id, back);
    assert!(claim.epoch > repair.epoch);
    world.end_rollout(&claim, RolloutStatus::Succeeded).await;

    // a release that comes to all hosts does not wait for it either
    tells(&world, "two", Some(&bad), 1).await;
    let repair = world.claim_rollout(&worker).await;
    assert!(repair.rollout.spec.repair.is_some());
    let (_, _, newer) = world.deploy(&worker, "staging", b"v3").await;
    let claim = world.claim_rollout(&worker).await;
    assert_eq!(claim.rollout.id, newer.rollout);
    assert!(said_of(&world).await.is_empty(), "{:?}", said_of(&world).await);
}

pub async fn what_is_on_record_stays_the_same_through_a_repair(world: World) {
    let world = of_two(world).await;
    let worker = world.worker("w", "1").await;
    let old = world.deployed(&worker, "staging", b"v1").await.release;
    let now = world.deployed(&worker, "staging", b"v2").await.release;
    let pair = ("staging".to_owned(), "web".to_owned());
    let since = world.store.serving_since().await.unwrap()[&pair];
    tells(&world, "two", Some(&old), 1).await;
    world.pass(Duration::from_secs(9));
    let repair = world.claim_rollout(&worker).await;
    world.end_rollout(&repair, RolloutStatus::Succeeded).await;
    assert_eq!(world.store.serving_since().await.unwrap()[&pair], since);
    // it is said to have been well, and is not: not at once again
    tells(&world, "two", Some(&old), 1).await;
    assert!(world.store.claim_rollout(&worker).await.unwrap().is_none());
    world.pass(Duration::from_secs(60));
    tells(&world, "two", Some(&old), 1).await;
    // its host is taken out before anybody begins: nothing is brought there any more
    let stale = newest(&world).await;
    assert_eq!((stale.spec.repair.is_some(), stale.spec.release), (true, now));
    let world = world.configured(|config| staging_at(config, &["one"])).await;
    assert!(world.store.claim_rollout(&worker).await.unwrap().is_none());
    let stale = world.store.rollout(stale.id).await.unwrap().rollout;
    assert_eq!(stale.reason.as_deref(), Some("host `two` carries `staging` no more"));
    assert_eq!(stale.status, RolloutStatus::Failed);
}

pub async fn people_hear_once_of_a_host_that_can_not_be_brought_there(world: World) {
    let world = of_two(world).await;
    let worker = world.worker("w", "1").await;
    let old = world.deployed(&worker, "staging", b"v1").await.release;
    world.deployed(&worker, "staging", b"v2").await;
    let before = said_of(&world).await.len();
    for _ in 0..3 {
        tells(&world, "two", Some(&old), 1).await;
        fails_again(&world, &worker).await.expect("its time has come");
        world.pass(Duration::from_secs(600));
    }
    let said = said_of(&world).await.split_off(before);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("could not be brought to where it belongs in staging at host `two`"), "{said:?}");
}

pub async fn an_emergency_is_on_record_at_the_host_that_it_was_at_and_its_others_can_go_back(world: World) {
    let world = of_two(world).await;
    let worker = world.worker("w", "1").await;
    let old = world.deployed(&worker, "staging", b"v1").await.release;
    let new = world.deployed(&worker, "staging", b"v2").await.release;
    tells(&world, "one", Some(&new), 1).await;
    tells(&world, "two", Some(&new), 1).await;
    let epoch = Epoch(40);
    let did_at = world.store.now();
    // the way to the server takes a moment
    world.pass(Duration::from_millis(1));
    let result = json!({ "epoch": epoch, "from": new, "to": old, "took_us": 800 });
    let result: EmergencyResult = serde_json::from_value(result).unwrap();
    // the command line does not know which host it was
    let id = world.store.record_emergency("staging", "web", result, "ada: emergency rollback".into(), None).await;
    let (id, _) = id.unwrap();
    let mut there = state(Some(&old), 1);
    there.routes[0].epoch = epoch;
    there.routes[0].restored =
        serde_json::from_value(json!({ "at": did_at, "reason": "emergency: ada: emergency rollback", "epoch": epoch }))
            .unwrap();
    for _ in 0..2 {
        reconcile::host(&world.store, "two", &there).await.unwrap();
    }
    let recorded = world.store.rollout(id).await.unwrap().rollout;
    assert_eq!(recorded.spec.hosts, ["two"]);
    assert_eq!(recorded.reason.as_deref(), Some("emergency rollback at the host by ada"));
    let journal = world.store.journal(id, 0).await.unwrap();
    let hosts: Vec<_> = journal.iter().map(|entry| (entry.kind, entry.host.as_deref())).collect();
    assert_eq!(hosts, [(JournalKind::Emergency, None), (JournalKind::Emergency, Some("two"))]);
    let follows = world.claim_rollout(&worker).await.rollout.spec;
    assert_eq!((&follows.hosts[..], &follows.release), (&["one".to_owned()][..], &old));
    assert_eq!(follows.previous.as_ref(), Some(&new), "that is what serves there");
}

pub async fn who_was_left_out_of_a_rollout_that_succeeded_is_in_its_reason(world: World) {
    let world = of_two(world).await;
    let worker = world.worker("w", "1").await;
    let (_, _, created) = world.deploy(&worker, "staging", b"v1").await;
    let claim = world.claim_rollout(&worker).await;
    let mut ended =
        report(&claim, RolloutStatus::Succeeded, vec![(1, JournalKind::Quarantined), (2, JournalKind::Ended)]);
    ended.reason = None;
    ended.entries[0].host = Some("two".into());
    ended.entries[0].detail = json!({ "reason": "it does not answer: connection refused" });
    world.store.report_rollout(created.rollout, ended).await.unwrap();
    let reason = newest(&world).await.reason.unwrap();
    assert_eq!(reason, "without two: it does not answer: connection refused");
    let (now, later) = (world.store.now(), world.store.now() + Duration::from_secs(1));
    assert!(world.store.is_host_silent("two", now) && !world.store.is_host_silent("one", now));
    assert!(!world.store.is_host_silent("two", later), "another server has heard it since");
    tells(&world, "two", None, 1).await;
    assert!(!world.store.is_host_silent("two", now), "it was heard since");
}
