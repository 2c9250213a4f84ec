//! What comes of contents that go, come again, or were removed by somebody else.

use std::time::Duration;

use chrono::TimeDelta;
use segue_integration_tests::s3::{Fault, Operation};
use segue_schemas::worker_api::{FindCache, SaveCache};

use crate::world::{World, job};

const HOUR: Duration = Duration::from_secs(3601);

/// What World::bucket calls its bucket.
const BUCKET: &str = "contents";

pub async fn what_nobody_names_goes_after_an_hour_and_can_come_again(world: World) {
    let digest = world.artifact(b"unnamed").await;
    assert_eq!(world.store.clean_up().await.unwrap().artifacts, 0, "somebody is about to name it");
    world.pass(HOUR);
    assert_eq!(world.store.clean_up().await.unwrap().artifacts, 1);
    assert!(!world.has(&digest).await);
    assert_eq!(world.store.artifact_wanted(&digest).await.unwrap(), None);
    assert_eq!(world.artifact(b"unnamed").await, digest);
    assert_eq!(world.store.artifact_wanted(&digest).await.unwrap(), Some(7));
}

pub async fn what_can_not_be_removed_now_is_removed_by_the_next_sweep(world: World) {
    let (gone, again) = (world.artifact(b"gone").await, world.artifact(b"again").await);
    world.pass(HOUR);
    world.s3().fail(Operation::Delete, Fault::Denied, 2);
    assert_eq!(world.store.clean_up().await.unwrap().artifacts, 0);
    assert!(world.has(&gone).await && world.has(&again).await, "it can't be removed");
    // on its way out it counts as gone: whoever relied on it would lose it
    assert_eq!(world.store.artifact_wanted(&gone).await.unwrap(), None);
    // and whoever brings it anew keeps it
    world.artifact(b"again").await;
    assert_eq!(world.store.artifact_wanted(&again).await.unwrap(), Some(5));
    let world = world.reopened().await;
    assert_eq!(world.store.clean_up().await.unwrap().artifacts, 1);
    assert!(!world.has(&gone).await && world.has(&again).await);
}

pub async fn an_outage_stops_no_sweep_of_what_lies_here(world: World) {
    let digest = world.artifact(b"x").await;
    world.pass(HOUR);
    world.s3().set_down(true);
    assert_eq!(world.store.clean_up().await.unwrap().artifacts, 0);
    world.s3().set_down(false);
    assert_eq!(world.store.clean_up().await.unwrap().artifacts, 1);
    assert!(!world.has(&digest).await);
}

pub async fn what_an_upload_has_left_unrecorded_goes_after_a_day(world: World) {
    let name = |n: u32| format!("prefix/sha256/{n:02x}/{n:02x}{}", "0".repeat(62));
    let named = world.artifact(b"recorded").await;
    for n in 1..=5 {
        world.s3().put(BUCKET, &name(n), "left");
    }
    world.s3().put(BUCKET, "prefix/sha256/of-somebody-else", "kept");
    world.s3().set_page(2);
    assert_eq!(world.store.clean_up().await.unwrap().artifacts, 0, "they may be on their way to be recorded");
    world.s3().age(TimeDelta::hours(25));
    world.s3().put(BUCKET, &name(6), "young");
    assert_eq!(world.store.clean_up().await.unwrap().artifacts, 5);
    let left = world.s3().objects(BUCKET);
    assert_eq!(left.len(), 3, "{left:#?}");
    assert!(left.contains(&name(6)) && world.has(&named).await);
}

pub async fn a_cache_whose_content_somebody_has_removed_is_none(world: World) {
    world.run(vec![job("a", &[])]).await;
    let worker = world.worker("w", "1").await;
    let claim = world.claim(&worker).await;
    for (key, bytes) in [("k-1", b"one"), ("k-2", b"two")] {
        let digest = world.artifact(bytes).await;
        let save = SaveCache { epoch: claim.epoch, key: key.into(), version: "v".into(), digest };
        world.store.save_cache(claim.job, save).await.unwrap();
        world.pass(Duration::from_secs(1));
    }
    let find = |key: &str| FindCache {
        epoch: claim.epoch,
        key: key.into(),
        restore_keys: vec!["k-".into()],
        version: "v".into(),
    };
    let found = world.store.find_cache(claim.job, find("k-2")).await.unwrap().unwrap();
    let hex = found.digest.hex();
    world.s3().remove(BUCKET, &format!("prefix/sha256/{}/{hex}", &hex[..2]));
    let found = world.store.find_cache(claim.job, find("k-2")).await.unwrap().unwrap();
    assert_eq!(found.key, "k-1", "the next best");
    // it can't be known now what is there: that is no miss
    world.s3().set_down(true);
    let error = world.store.find_cache(claim.job, find("k-1")).await.unwrap_err();
    assert!(error.to_string().contains("can't be reached"), "{error}");
}
