use std::time::Duration;

use segue_pipelines::schedule::Schedule;
use segue_runner::store::Delivery;
use segue_schemas::{time::Timestamp, trigger::Event};

use crate::world::World;

const MINUTE: Duration = Duration::from_secs(60);

fn every(cron: &str) -> (String, Schedule) {
    (".segue/pipelines/nightly.yml".into(), Schedule::parse(cron).unwrap())
}

/// The deliveries that schedules made, and when each was due, oldest first.
async fn fired(world: &World) -> Vec<Timestamp> {
    let due = |delivery: &Delivery| match &delivery.trigger.as_ref().unwrap().event {
        Event::Schedule { due, .. } => *due,
        other => panic!("{other:?}"),
    };
    world.store.next_deliveries(100).await.unwrap().iter().map(due).collect()
}

pub async fn a_time_that_comes_makes_one_delivery(world: World) {
    world.store.set_schedules("o/r", vec![every("*/5 * * * *")]).await.unwrap();
    assert_eq!(world.store.fire_schedules().await.unwrap(), 0, "a new schedule begins with its next time");
    let due = world.store.next_schedule_due().await.unwrap().unwrap();
    assert_eq!(due, Timestamp(1_700_000_100_000));
    world.pass(due.since(world.store.now()));
    // several servers ask at once
    let (a, b, c) =
        tokio::join!(world.store.fire_schedules(), world.store.fire_schedules(), world.store.fire_schedules());
    assert_eq!(a.unwrap() + b.unwrap() + c.unwrap(), 1);
    assert_eq!(fired(&world).await, [due]);
    let world = world.reopened().await;
    assert_eq!(world.store.fire_schedules().await.unwrap(), 0, "after a crash as well");
    assert_eq!(world.store.next_schedule_due().await.unwrap(), Some(due + 5 * MINUTE));
}

pub async fn of_the_times_that_passed_while_it_was_down_the_latest_alone_comes(world: World) {
    world.store.set_schedules("o/r", vec![every("0 * * * *"), every("30 3 * * *")]).await.unwrap();
    world.pass(50 * 60 * MINUTE);
    let world = world.reopened().await;
    assert_eq!(world.store.fire_schedules().await.unwrap(), 2, "one for each schedule");
    let mut due = fired(&world).await;
    due.sort();
    let now = world.store.now();
    assert!(now.since(due[1]) < 60 * MINUTE && now.since(due[0]) < 24 * 60 * MINUTE, "{due:?} at {now}");
}

pub async fn what_the_default_branch_says_is_what_is_scheduled(world: World) {
    world.store.set_schedules("o/r", vec![every("*/5 * * * *"), every("0 0 1 1 *")]).await.unwrap();
    world.store.set_schedules("o/other", vec![every("0 12 * * *")]).await.unwrap();
    let first = world.store.next_schedule_due().await.unwrap().unwrap();
    world.pass(MINUTE);
    world.store.set_schedules("o/r", vec![every("0 0 1 1 *"), every("*/5 * * * *")]).await.unwrap();
    assert_eq!(world.store.next_schedule_due().await.unwrap(), Some(first), "the same again changes nothing");
    world.store.set_schedules("o/r", vec![]).await.unwrap();
    assert_eq!(world.store.scheduled_repositories().await.unwrap(), ["o/other"]);
    assert!(world.store.next_schedule_due().await.unwrap().unwrap() > first);
    world.pass(10 * MINUTE);
    assert_eq!(world.store.fire_schedules().await.unwrap(), 0);
}
