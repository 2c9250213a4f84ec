//! How fast it is. The bounds here are far below what is promised, so that a busy machine fails nobody; the figures are
//! printed (`cargo test -p segue-runner --release --test store_conformance speed -- --nocapture`). `SEGUE_QUEUED` says how many jobs
//! are queued while claims are timed.

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
    assert!(took.as_secs() < 60, "{took:?}");
}

pub async fn a_claim_costs_the_same_however_much_is_queued(world: World) {
    let queued: usize = std::env::var("SEGUE_QUEUED").map_or(10_000, |n| n.parse().unwrap());
    let worker = world.worker("w", "1").await;
    let mut alone = Vec::new();
    for _ in 0..CLAIMS {
        world.run(vec![job("test", &[])]).await;
        alone.push(timed_claim(&world, &worker).await);
    }
    // most of it from one repository, the rest from many; a third for labels that nobody has
    for n in 0..queued / JOBS_OF_A_RUN {
        let repository = if n % 2 == 0 { "o/large".to_owned() } else { format!("o/r{}", n % 150) };
        let mut jobs: Vec<_> = (0..JOBS_OF_A_RUN).map(|n| job(&format!("job-{n}"), &[])).collect();
        jobs.iter_mut().step_by(3).for_each(|job| job.runs_on = vec!["gpu".into()]);
        world.run_of(world.push(&repository), jobs).await;
    }
    let mut among_many = Vec::new();
    for _ in 0..CLAIMS {
        among_many.push(timed_claim(&world, &worker).await);
    }
    let (alone, among_many) = (median(alone), median(among_many));
    println!("claim_job: {alone:?} with none other, {among_many:?} with {queued} queued");
    assert!(among_many < alone * 10 + std::time::Duration::from_millis(10), "{among_many:?} against {alone:?}");
}

const CLAIMS: usize = 51;
const JOBS_OF_A_RUN: usize = 100;

async fn timed_claim(world: &World, worker: &segue_schemas::worker_api::ClaimRequest) -> std::time::Duration {
    let asked = Instant::now();
    let claim = world.claim(worker).await;
    let took = asked.elapsed();
    world.finish(&claim, Conclusion::Success).await;
    took
}

fn median(mut times: Vec<std::time::Duration>) -> std::time::Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
