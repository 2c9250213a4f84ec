//! Several servers on one database: what one writer hides. Whoever is second, is second by a hair, again and again.

use std::time::Duration;

use bytes::Bytes;
use segue_pipelines::schedule::Schedule;
use segue_runner::store::{Accepted, Bell, NewRun, PlanOutcome, Planning, SecretScope, StoreError};
use segue_schemas::{
    id::RunId,
    plan::{ConcurrencyPlan, JobPlan, Setting},
    status::{Conclusion, RunStatus},
};
use tokio::time::timeout;

use crate::world::{World, finish, job, plan};

const SOON: Duration = Duration::from_secs(5);

pub async fn two_last_jobs_that_end_on_two_servers_start_the_fan_in_once(world: World) {
    let other = world.another_server().await;
    let worker = world.worker("w", "1").await;
    for _ in 0..20 {
        let run = world.run(vec![job("a", &[]), job("b", &[]), job("c", &["a", "b"])]).await;
        let (a, b) = (world.claim(&worker).await, world.claim(&worker).await);
        let (one, two) = tokio::join!(
            world.store.finish_job(a.job, finish(&a, Conclusion::Success)),
            other.finish_job(b.job, finish(&b, Conclusion::Success)),
        );
        one.and(two).unwrap();
        let (one, two) = tokio::join!(world.store.claim_job(&worker), other.claim_job(&worker));
        let claims: Vec<_> = [one.unwrap(), two.unwrap()].into_iter().flatten().collect();
        assert_eq!(claims.iter().map(|claim| claim.plan.key.as_str()).collect::<Vec<_>>(), ["c"]);
        world.finish(&claims[0], Conclusion::Success).await;
        assert_eq!(other.run(run).await.unwrap().status, RunStatus::Succeeded);
    }
}

fn in_group() -> JobPlan {
    let group = ConcurrencyPlan { group: "deploy".into(), cancel_in_progress: Setting::Fixed(false) };
    JobPlan { concurrency: Some(group), ..job("deploy", &[]) }
}

pub async fn two_claims_on_two_servers_get_one_slot(world: World) {
    let other = world.another_server().await;
    let worker = world.worker("w", "1").await;
    let mut runs: Vec<RunId> = Vec::new();
    for _ in 0..10 {
        runs.push(world.run(vec![in_group()]).await);
    }
    for _ in 0..10 {
        let (one, two) = tokio::join!(world.store.claim_job(&worker), other.claim_job(&worker));
        let claims: Vec<_> = [one.unwrap(), two.unwrap()].into_iter().flatten().collect();
        assert_eq!(claims.len(), 1, "the gate was open to both a moment ago, and is closed to the second");
        other.finish_job(claims[0].job, finish(&claims[0], Conclusion::Success)).await.unwrap();
    }
    for run in runs {
        assert_eq!(world.status(run).await, RunStatus::Succeeded);
    }
}

pub async fn a_time_that_comes_to_two_servers_makes_one_delivery(world: World) {
    let other = world.another_server().await;
    let schedule = Schedule::parse("*/5 * * * *").unwrap();
    world.store.set_schedules("o/r", vec![("nightly.yml".into(), schedule)]).await.unwrap();
    for n in 1..=10 {
        world.pass(Duration::from_secs(300));
        let (one, two) = tokio::join!(world.store.fire_schedules(), other.fire_schedules());
        assert_eq!(one.unwrap() + two.unwrap(), 1);
        assert_eq!(world.store.deliveries(None, 100).await.unwrap().len(), n);
    }
}

pub async fn a_delivery_that_comes_to_two_servers_is_one(world: World) {
    let other = world.another_server().await;
    for _ in 0..20 {
        let delivery = world.delivery(world.push("o/r"));
        let id = delivery.id.clone();
        let (one, two) =
            tokio::join!(world.store.accept_delivery(delivery.clone()), other.accept_delivery(delivery.clone()));
        let mut answers = [one.unwrap(), two.unwrap()];
        answers.sort_by_key(|accepted| *accepted == Accepted::Known);
        assert_eq!(answers, [Accepted::New, Accepted::Known]);
        let made = || Planning::Runs(vec![NewRun::Planned(plan(vec![job("a", &[])]))]);
        let (one, two) = tokio::join!(world.store.record_planned(&id, made()), other.record_planned(&id, made()));
        let made = [one.unwrap(), two.unwrap()];
        assert_eq!(made.iter().filter(|outcome| matches!(outcome, PlanOutcome::Made(_))).count(), 1, "{made:?}");
        assert_eq!(world.store.runs_of_delivery(&id).await.unwrap().len(), 1);
    }
}

pub async fn what_happens_on_one_server_is_heard_on_the_other(world: World) {
    let other = world.another_server().await;
    let mut jobs = other.doorbell().listen(Bell::Jobs);
    // until the other one has begun to hear
    loop {
        world.run(vec![job("a", &[])]).await;
        if timeout(Duration::from_millis(200), jobs.rung()).await.is_ok() {
            break;
        }
    }
    let worker = world.worker("w", "1").await;
    let claim = world.claim(&worker).await;
    let mut told = other.doorbell().listen(Bell::Job(claim.job));
    let mut run = other.doorbell().listen(Bell::Run(claim.run));
    world.store.cancel_run(claim.run, "ada".into()).await.unwrap();
    timeout(SOON, told.rung()).await.expect("the cancellation is heard where the worker's renewal is parked");
    timeout(SOON, run.rung()).await.expect("so is what changed of the run");
    assert!(other.job_cancel_requested(claim.job, claim.epoch).await.unwrap());
}

pub async fn a_lost_connection_is_made_again_and_nothing_is_missed(world: World) {
    let other = world.another_server().await;
    let worker = world.worker("w", "1").await;
    world.run(vec![job("a", &[])]).await;
    for _ in 0..3 {
        let mut jobs = other.doorbell().listen(Bell::Jobs);
        world.cut_connections();
        // the first of each on a connection that is no more
        let run = world.run(vec![job("a", &[])]).await;
        assert_eq!(other.run(run).await.unwrap().status, RunStatus::Queued);
        let claim = other.claim_job(&worker).await.unwrap().expect("a job");
        timeout(SOON, jobs.rung()).await.expect("everything is rung once when bells are heard again");
        world.finish(&claim, Conclusion::Success).await;
    }
}

pub async fn a_log_is_one_whichever_server_takes_and_reads_it(world: World) {
    let other = world.another_server().await;
    let worker = world.worker("w", "1").await;
    world.run(vec![job("a", &[])]).await;
    let claim = world.claim(&worker).await;
    let log = other.job_log(claim.job).await.unwrap().expect("it has a log");
    let mut follower = other.logs().follow(claim.job, &log.path).unwrap();
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    let append = async |server: &segue_runner::store::Store, offset, chunk| {
        server.append_log(claim.job, claim.epoch, offset, chunk).await.map(|ack| ack.offset)
    };
    assert_eq!(append(&world.store, 0, text("hello ")).await.unwrap(), 6);
    timeout(SOON, follower.grown()).await.expect("a follower on the other server is told");
    assert_eq!(append(&other, 6, text("world\n")).await.unwrap(), 12);
    assert_eq!(append(&other, 3, text("lo world\n")).await.unwrap(), 12, "what is there changes nothing");
    assert_eq!(
        append(&world.store, 9, text("ld\nand more\n")).await.unwrap(),
        21,
        "what overlaps is taken as far as it is new"
    );
    assert_eq!(append(&world.store, 30, text("gap")).await.unwrap(), 21, "a gap is refused");
    for server in [&world.store, &other] {
        let read = async |offset, limit| server.logs().read(claim.job, &log.path, offset, limit).await.unwrap();
        assert_eq!(&read(0, 100).await[..], b"hello world\nand more\n");
        assert_eq!(&read(4, 4).await[..], b"o wo");
        assert_eq!(&read(13, 100).await[..], b"nd more\n");
        assert!(read(21, 100).await.is_empty());
        assert_eq!(server.logs().bytes(claim.job, &log.path).await.unwrap(), 21);
    }
    // the worker is lost, and another one goes on from another server
    world.pass(Duration::from_secs(31));
    other.reap_expired().await.unwrap();
    let late = append(&world.store, 21, text("late")).await;
    assert!(matches!(late, Err(StoreError::StaleEpoch { .. })), "{late:?}");
    let again = other.claim_job(&worker).await.unwrap().expect("it is queued again");
    assert_eq!(again.log_offset, 21);
    let late = append(&world.store, 21, text("late")).await;
    assert!(matches!(late, Err(StoreError::StaleEpoch { .. })), "{late:?}");
    let ack = world.store.append_log(again.job, again.epoch, 21, text("again\n")).await.unwrap();
    assert_eq!(ack.offset, 27);
}

pub async fn a_message_to_people_is_one_server_s(world: World) {
    let other = world.another_server().await;
    let worker = world.worker("w", "1").await;
    world.run(vec![job("a", &[])]).await;
    world.finish(&world.claim(&worker).await, Conclusion::Failure).await;
    let (one, two) = tokio::join!(world.store.due_notifications(10), other.due_notifications(10));
    let taken = [one.unwrap(), two.unwrap()].concat();
    assert_eq!(taken.len(), 1, "one of them sends it");
    // which dies before it has said what came of it
    world.pass(Duration::from_secs(61));
    let again = other.due_notifications(10).await.unwrap();
    assert_eq!(again.iter().map(|one| one.id).collect::<Vec<_>>(), [taken[0].id]);
    other.notification_tried(taken[0].id, vec!["somebody".into()], None).await.unwrap();
    world.pass(Duration::from_secs(3600));
    assert!(world.store.due_notifications(10).await.unwrap().is_empty());
}

pub async fn a_server_that_stands_still_in_a_transaction_holds_nobody_up_for_long(world: World) {
    world.run(vec![job("a", &[])]).await;
    // one that was stopped after it took the writers' lock: the database ends it as it would end any of this program's
    let _still = world.stand_still();
    let begun = std::time::Instant::now();
    world.run(vec![job("a", &[])]).await;
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(1), "it did not wait for the lock: {waited:?}");
    assert!(waited < Duration::from_secs(11), "{waited:?}");
}

pub async fn what_one_server_leaves_unplanned_another_plans(world: World) {
    let other = world.another_server().await;
    let delivery = world.delivery(world.push("o/r"));
    world.store.accept_delivery(delivery).await.unwrap();
    assert_eq!(world.store.next_deliveries(10).await.unwrap().len(), 1, "it plans what it has taken");
    assert!(other.next_deliveries(10).await.unwrap().is_empty(), "and no other does");
    let due = other.next_delivery_due().await.unwrap().expect("a time to look again");
    world.pass(due.since(other.now()));
    assert_eq!(other.next_deliveries(10).await.unwrap().len(), 1, "unless it does not");
}

pub async fn a_database_that_only_reads_is_said_and_used_again(world: World) {
    world.only_reads(true);
    let refused = world.store.accept_delivery(world.delivery(world.push("o/r"))).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(world.store.runs(Default::default()).await.is_ok(), "what is there can be looked at");
    world.only_reads(false);
    world.store.accept_delivery(world.delivery(world.push("o/r"))).await.unwrap();
}

pub async fn what_one_server_kept_is_copied_whole_into_an_empty_database(empty: World) {
    let to = empty.store.config().database.clone();
    let world = crate::world::sqlite().await;
    let worker = world.worker("w", "1").await;
    let ended = world.run(vec![job("a", &[]), job("b", &["a"])]).await;
    let claim = world.claim(&worker).await;
    let long = Bytes::from(vec![b'x'; 3 << 20]);
    for (n, part) in long.chunks(1 << 20).enumerate() {
        world.store.append_log(claim.job, claim.epoch, (n as u64) << 20, long.slice_ref(part)).await.unwrap();
    }
    world.finish(&claim, Conclusion::Success).await;
    world.finish(&world.claim(&worker).await, Conclusion::Failure).await;
    let open = world.run(vec![job("a", &[])]).await;
    let held = world.claim(&worker).await;
    let before = format!("{:?} {:?}", world.store.run(ended).await.unwrap(), world.jobs(ended).await);

    let mut tables = 0;
    let copied = segue_runner::store::copy(&world.data(), &to, |_| tables += 1).await.unwrap();
    assert_eq!(tables, copied.len());
    let of = |what: &str| copied.iter().find(|one| one.what == what).map(|one| (one.rows, one.bytes));
    assert_eq!((of("runs"), of("jobs")), (Some((2, 0)), Some((3, 0))));
    assert_eq!(of("contents of logs"), Some((3, 3 << 20)));
    let again = segue_runner::store::copy(&world.data(), &to, |_| ()).await;
    assert!(matches!(again, Err(StoreError::Refused(_))), "{again:?}");

    let world = world.reconfigured(|config| config.database = to).await;
    let after = format!("{:?} {:?}", world.store.run(ended).await.unwrap(), world.jobs(ended).await);
    assert_eq!(after, before);
    let log = world.store.job_log(claim.job).await.unwrap().unwrap();
    let text = world.store.logs().read(claim.job, &log.path, (1 << 20) - 5, 20).await.unwrap();
    assert_eq!((world.store.logs().bytes(claim.job, &log.path).await.unwrap(), &text[..]), (3 << 20, &[b'x'; 20][..]));
    // what was at work goes on under its lease, and new things are numbered behind the old ones
    assert_eq!(world.store.append_log(held.job, held.epoch, 0, Bytes::from_static(b"on")).await.unwrap().offset, 2);
    world.finish(&held, Conclusion::Success).await;
    assert_eq!(world.status(open).await, RunStatus::Succeeded);
    assert_eq!(world.run(vec![job("a", &[])]).await.0, open.0 + 1);
}

pub async fn a_server_with_another_key_is_told_so(world: World) {
    let name = "TOKEN";
    let put = async |world: &World| {
        let scope = SecretScope { repository: None, environment: None };
        world.store.put_secret(scope, name, zeroize::Zeroizing::new("value".to_owned()), "ada".into()).await
    };
    let with_key = |world: World, key: &'static str| async move {
        let file = world.directory.path().join(key);
        world.reconfigured(|config| config.secrets.key_file = Some(file)).await
    };
    let world = with_key(world, "one").await;
    put(&world).await.unwrap();
    let world = with_key(world, "another").await;
    let refused = put(&world).await;
    assert!(matches!(&refused, Err(StoreError::Secret(_))), "{refused:?}");
    let world = with_key(world, "one").await;
    put(&world).await.unwrap();
}

pub async fn a_worker_that_one_server_hears_lives_for_all(world: World) {
    let other = world.another_server().await;
    let worker = world.worker("w", "1").await;
    for _ in 0..3 {
        world.pass(Duration::from_secs(30));
        assert!(world.store.claim_job(&worker).await.unwrap().is_none());
        assert_eq!(other.workers().await.unwrap()[0].heard_at, world.store.now());
    }
}
