//! Data folders: filled once, kept over releases, taken away with the service.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use segue_schemas::{
    deploy::DataSpec,
    host_api::{InstanceState, RemoveRoute, StartInstance},
    id::InstanceId,
};

use crate::world::World;

fn folder(world: &World) -> PathBuf {
    world.data().join("data/production/web")
}

fn seeds(world: &World) -> Vec<String> {
    let text = std::fs::read_to_string(folder(world).join("seeds")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn start(world: &World, id: &str, release: i64, epoch: i64, seed: &str) -> StartInstance {
    let mut start = world.start_request(id, release, epoch);
    start.env.insert("GREETING".into(), "hello".into());
    start.data = Some(DataSpec { seed: Some(seed.into()) });
    start
}

#[tokio::test]
async fn a_data_folder_is_filled_once_and_goes_with_its_service() {
    let world = World::start().await;
    let seed = "echo \"$GREETING from $(cat version)\" >> \"$SEGUE_DATA/seeds\"";
    for (id, release) in [("web-1", 1), ("web-2", 2)] {
        let started = world.client.start_instance(&start(&world, id, release, 1, seed)).await.unwrap();
        assert_eq!(started.state, InstanceState::Running);
        assert_eq!(seeds(&world), ["hello from v1"], "once, before the service is first started");
    }
    world.route(1, &[("web-2", 100)], &[]).await;
    world.client.remove(&RemoveRoute { fence: world.fence(2) }).await.unwrap();
    assert!(!folder(&world).exists(), "it goes with the service");
    world.client.start_instance(&start(&world, "web-3", 3, 3, seed)).await.unwrap();
    assert_eq!(seeds(&world), ["hello from v3"], "the next one begins anew");
    world.end().await;
}

#[tokio::test]
async fn data_go_once_nobody_writes_them_any_more() {
    let world = World::start().await;
    // it goes on to write for a second after it was told to end, and lets nobody write in a folder of its own
    let script = "mkdir -p $SEGUE_DATA/own && touch $SEGUE_DATA/own/file && chmod 500 $SEGUE_DATA/own; cd $SEGUE_DATA; \
        trap 'n=0; while [ $n -lt 100 ]; do touch late-$n; n=$((n+1)); sleep 0.01; done; exit' TERM; touch ready; \
        while :; do sleep 0.01; done";
    let mut begin = start(&world, "web-1", 1, 1, "true");
    begin.command = ["sh", "-c", script].map(str::to_owned).into();
    world.client.start_instance(&begin).await.unwrap();
    let begun = Instant::now();
    while !folder(&world).join("ready").exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the service does not begin");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.client.remove(&RemoveRoute { fence: world.fence(2) }).await.unwrap();
    assert!(!folder(&world).exists(), "its place is free at once");
    let aside = world.data().join("data/.removed");
    let begun = Instant::now();
    while std::fs::read_dir(&aside).unwrap().next().is_some() {
        assert!(begun.elapsed() < Duration::from_secs(30), "its data stay");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.end().await;
}

#[tokio::test]
async fn a_seed_that_fails_is_told_and_leaves_nothing_to_the_next_try() {
    let world = World::start().await;
    let failing = "echo half >> $SEGUE_DATA/seeds; exit 3";
    let failed = world.client.start_instance(&start(&world, "web-1", 1, 1, failing)).await.unwrap();
    let InstanceState::Failed { reason } = &failed.state else { panic!("{failed:?}") };
    assert!(reason.contains("`seed` ended with exit code 3"), "{reason}");
    world.client.start_instance(&start(&world, "web-2", 1, 1, "echo whole >> $SEGUE_DATA/seeds")).await.unwrap();
    assert_eq!(seeds(&world), ["whole"]);
    world.end().await;
}

#[tokio::test]
async fn a_seed_that_is_cut_short_by_the_end_of_its_host_begins_anew() {
    let mut world = World::start().await;
    let first = world.data().join("first");
    let seed = format!(
        "echo seeded >> $SEGUE_DATA/seeds; [ -e {0} ] || {{ touch {0}; sleep 600; }}; echo done >> $SEGUE_DATA/seeds",
        first.display()
    );
    let start = start(&world, "web-1", 1, 1, &seed);
    let client = world.client.clone();
    let asked = tokio::spawn(async move { client.start_instance(&start).await });
    let begun = Instant::now();
    while !first.exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the seed does not begin");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.kill_host();
    assert!(asked.await.unwrap().is_err());
    world.start_host().await;
    let id: InstanceId = "web-1".parse().unwrap();
    world.until(&id, |one| one.state == InstanceState::Running).await;
    assert_eq!(seeds(&world), ["seeded", "done"]);
    world.end().await;
}
