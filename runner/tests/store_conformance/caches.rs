use std::time::Duration;

use segue_runner::store::StoreError;
use segue_schemas::{
    id::Epoch,
    status::Conclusion,
    trigger::Event,
    worker_api::{AttachArtifact, FindCache, JobClaim, SaveCache},
};

use crate::world::{World, job};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A job of a branch, claimed.
async fn on(world: &World, branch: &str) -> JobClaim {
    let mut trigger = world.push("o/r");
    if let Event::Push { r#ref, .. } = &mut trigger.event {
        *r#ref = format!("refs/heads/{branch}");
    }
    world.run_of(trigger, vec![job("a", &[])]).await;
    let worker = world.worker("w", "1").await;
    world.claim(&worker).await
}

async fn save(world: &World, claim: &JobClaim, key: &str, bytes: &[u8]) -> bool {
    let digest = world.artifact(bytes).await;
    let save = SaveCache { epoch: claim.epoch, key: key.into(), version: "v".into(), digest };
    world.store.save_cache(claim.job, save).await.unwrap().new
}

async fn find(world: &World, claim: &JobClaim, key: &str, restore: &[&str], version: &str) -> Option<String> {
    let restore_keys = restore.iter().map(|key| (*key).to_owned()).collect();
    let find = FindCache { epoch: claim.epoch, key: key.into(), restore_keys, version: version.into() };
    world.store.find_cache(claim.job, find).await.unwrap().map(|found| found.key)
}

pub async fn a_cache_stays_as_it_is_and_other_branches_fall_back_to_the_default_one(world: World) {
    let main = on(&world, "main").await;
    assert!(save(&world, &main, "k-1", b"one").await);
    assert!(!save(&world, &main, "k-1", b"other").await, "a key stays as it is");
    world.pass(Duration::from_secs(1));
    assert!(save(&world, &main, "k-2", b"two").await);
    assert_eq!(find(&world, &main, "k-1", &[], "v").await.as_deref(), Some("k-1"));
    assert_eq!(find(&world, &main, "k-3", &["x", "k-"], "v").await.as_deref(), Some("k-2"), "the newest");
    assert_eq!(find(&world, &main, "k", &[], "v").await.as_deref(), Some("k-2"), "a key is a beginning as well");
    assert_eq!(find(&world, &main, "k-1", &["k-"], "other paths").await, None);
    assert_eq!(find(&world, &main, "%", &["_-", "k%"], "v").await, None, "nothing in a key is a pattern");

    let topic = on(&world, "topic").await;
    assert_eq!(find(&world, &topic, "k-1", &[], "v").await.as_deref(), Some("k-1"), "of the default branch");
    assert!(save(&world, &topic, "k-1", b"own").await, "under its own name");
    assert!(save(&world, &topic, "t-1", b"own").await);
    let other = on(&world, "other").await;
    assert_eq!(find(&world, &other, "t-1", &["t-"], "v").await, None, "a branch's own stays its own");

    let late = FindCache { epoch: Epoch(9), key: "k-1".into(), restore_keys: Vec::new(), version: "v".into() };
    assert!(matches!(world.store.find_cache(main.job, late).await, Err(StoreError::StaleEpoch { .. })));
    world.finish(&main, Conclusion::Success).await;
    let digest = world.artifact(b"late").await;
    let late = SaveCache { epoch: main.epoch, key: "late".into(), version: "v".into(), digest };
    assert!(matches!(world.store.save_cache(main.job, late).await, Err(StoreError::StaleEpoch { .. })));
}

pub async fn what_is_too_much_or_too_old_goes_the_least_used_first(world: World) {
    let world = world.configured(|config| config.retention.caches_max_count = 2).await;
    let main = on(&world, "main").await;
    for key in ["a", "b"] {
        assert!(save(&world, &main, key, key.as_bytes()).await);
        world.pass(Duration::from_secs(1));
    }
    assert_eq!(find(&world, &main, "a", &[], "v").await.as_deref(), Some("a"));
    world.pass(Duration::from_secs(1));
    assert!(save(&world, &main, "c", b"c").await);
    assert_eq!(find(&world, &main, "b", &[], "v").await, None, "it was not used for longest");
    assert_eq!(find(&world, &main, "a", &[], "v").await.as_deref(), Some("a"));

    // an artifact for a day, and the content of a cache that nobody uses: both go with their bytes
    let (short, cached) = (world.artifact(b"short").await, world.artifact(b"c").await);
    let attach = AttachArtifact {
        epoch: main.epoch,
        name: "short".into(),
        digest: short.clone(),
        bytes: 5,
        retention_days: Some(1),
    };
    world.store.attach_artifact(main.job, attach).await.unwrap();
    world.finish(&main, Conclusion::Success).await;
    world.store.clean_up().await.unwrap();
    assert!(world.has(&short).await);
    world.pass(2 * DAY);
    world.store.clean_up().await.unwrap();
    assert!(!world.has(&short).await, "its day is over");
    assert!(world.has(&cached).await);
    world.pass(8 * DAY);
    world.store.clean_up().await.unwrap();
    assert!(!world.has(&cached).await, "not used for a week");
}
