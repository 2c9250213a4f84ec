//! How fast it is. The bounds here are far below what is promised, so that a busy machine fails nobody; the figures are
//! printed (`cargo test -p segue-runner --release --test store_conformance speed -- --nocapture`).

use std::{sync::Arc, time::Instant};

use segue_schemas::status::Conclusion;

use crate::world::{World, job};

pub async fn a_thousand_deliveries_over_a_hundred_connections(world: World) {
    let world = Arc::new(world);
    let begun = Instant::now();
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move {
                let mut slowest = std::time::Duration::ZERO;
                for _ in 0..10 {
                    let delivery = world.delivery(world.push("o/r"));
                    let asked = Instant::now();
                    world.store.accept_delivery(delivery).await.unwrap();
                    slowest = slowest.max(asked.elapsed());
                }
                slowest
            })
        })
        .collect();
    let mut slowest = std::time::Duration::ZERO;
    for caller in callers {
        slowest = slowest.max(caller.await.unwrap());
    }
    let took = begun.elapsed();
    println!("accept_delivery: {:.0}/s, slowest {slowest:?}", 1000.0 / took.as_secs_f64());
    assert_eq!(world.store.next_deliveries(2000).await.unwrap().len(), 1000);
    assert!(took.as_secs() < 10, "{took:?}");
}

pub async fn a_thousand_jobs_two_at_a_time(world: World) {
    let begun = Instant::now();
    for _ in 0..1000 {
        world.run(vec![job("test", &[])]).await;
    }
    println!("planned runs, one after the other: {:.0}/s", 1000.0 / begun.elapsed().as_secs_f64());
    let (world, begun) = (Arc::new(world), Instant::now());
    let workers: Vec<_> = ["a", "b"]
        .map(|name| {
            let world = world.clone();
            tokio::spawn(async move {
                let worker = world.worker(name, "1").await;
                let mut ended = 0;
                while let Some(claim) = world.store.claim_job(&worker).await.unwrap() {
                    world.finish(&claim, Conclusion::Success).await;
                    ended += 1;
                }
                ended
            })
        })
        .into_iter()
        .collect();
    let mut ended = 0;
    for worker in workers {
        ended += worker.await.unwrap();
    }
    let took = begun.elapsed();
    println!("claim and finish: {:.0} jobs/s", 1000.0 / took.as_secs_f64());
    assert_eq!(ended, 1000);
    assert!(took.as_secs() < 30, "{took:?}");
}
