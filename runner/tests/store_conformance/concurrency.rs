//! Concurrency groups and retries: slots, turns, and who gives way to whom.

use std::time::Duration;

use segue_runner::store::{NewRun, PlanOutcome, Planning};
use segue_schemas::{
    id::RunId,
    plan::{ConcurrencyPlan, ContainerPlan, JobPlan, RetryPlan, RunPlan, Setting},
    status::{Conclusion, FailureClass, RunStatus},
};

use crate::world::{World, deploy_job, finish, job, plan};

pub fn group(name: &str, cancel: bool) -> Option<ConcurrencyPlan> {
    Some(ConcurrencyPlan { group: name.into(), cancel_in_progress: Setting::Fixed(cancel) })
}

/// A push that becomes one run of a pipeline with a group.
async fn run_in(world: &World, name: &str, cancel: bool, jobs: Vec<JobPlan>) -> RunId {
    world.pass(Duration::from_secs(1));
    grouped_run(world, group(name, cancel), jobs).await
}

/// A push that becomes one run.
pub async fn grouped_run(world: &World, concurrency: Option<ConcurrencyPlan>, jobs: Vec<JobPlan>) -> RunId {
    let delivery = world.delivery(world.push("o/r"));
    let id = delivery.id.clone();
    world.store.accept_delivery(delivery).await.unwrap();
    let run = NewRun::Planned(RunPlan { concurrency, ..plan(jobs) });
    match world.store.record_planned(&id, Planning::Runs(vec![run])).await.unwrap() {
        PlanOutcome::Made(runs) => runs[0],
        other => panic!("{other:?}"),
    }
}

fn in_group(mut job: JobPlan, name: &str) -> JobPlan {
    job.concurrency = group(name, false);
    job
}

pub async fn one_run_of_a_group_is_at_work_and_the_others_wait_in_order(world: World) {
    let worker = world.worker("w", "1").await;
    let name = "Main ${{ github.ref_name }}";
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(run_in(&world, name, false, vec![job("a", &[]), job("b", &[])]).await);
    }
    let elsewhere = run_in(&world, "other", false, vec![job("x", &[])]).await;
    let (a, b) = (world.claim(&worker).await, world.claim(&worker).await);
    assert_eq!((a.run, b.run), (runs[0], runs[0]), "both jobs of the run that has the slot");
    let x = world.claim(&worker).await;
    assert_eq!(x.run, elsewhere);
    world.finish(&x, Conclusion::Success).await;
    assert!(world.store.claim_job(&worker).await.unwrap().is_none());
    assert_eq!(world.jobs(runs[1]).await[0], "a queued: waits: run 1 has the concurrency group `main main`");
    world.finish(&a, Conclusion::Success).await;
    assert!(world.store.claim_job(&worker).await.unwrap().is_none(), "the run has not ended");
    let mut bell = world.store.doorbell().listen(segue_runner::store::Bell::Jobs);
    world.finish(&b, Conclusion::Failure).await;
    tokio::time::timeout(Duration::from_secs(5), bell.rung()).await.expect("what frees a slot rings");
    assert_eq!(
        world.jobs(runs[2]).await[0],
        "a queued: waits: run 2 comes before it in the concurrency group `main main`"
    );
    assert_eq!(world.claim(&worker).await.run, runs[1]);
    // a slot outlives a restart, and a cancelled run gives it back
    let world = world.reopened().await;
    let worker = world.worker("v", "1").await;
    assert_eq!(world.claim(&worker).await.run, runs[1]);
    world.store.cancel_run(runs[1], "ada".into()).await.unwrap();
    assert!(world.store.claim_job(&worker).await.unwrap().is_none(), "what runs has been told, and has not ended");
    world.pass(Duration::from_secs(3600));
    world.store.reap_expired().await.unwrap();
    let worker = world.worker("u", "1").await;
    assert_eq!(world.claim(&worker).await.run, runs[2]);
}

pub async fn of_the_deploys_that_wait_the_newest_supersedes_the_others(world: World) {
    let worker = world.worker("w", "1").await;
    let deploy = || vec![in_group(deploy_job("deploy", "staging"), "staging")];
    let first = world.run(deploy()).await;
    let held = world.claim(&worker).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        world.pass(Duration::from_secs(1));
        others.push(world.run(deploy()).await);
    }
    let why = |run: RunId| {
        format!(
            "deploy skipped: superseded by `deploy` of run {run}, the newer deploy in the concurrency group `staging`"
        )
    };
    assert_eq!(world.jobs(others[0]).await, [why(others[1])]);
    assert_eq!(world.jobs(others[1]).await, [why(others[2])]);
    assert_eq!(world.status(others[0]).await, RunStatus::Skipped);
    assert_eq!(world.status(first).await, RunStatus::Running, "what is at work is left alone");
    world.finish(&held, Conclusion::Success).await;
    assert_eq!(world.claim(&worker).await.run, others[2]);
    // one of an older run that comes late gives way
    let late = world
        .run(vec![
            job("slow", &[]),
            in_group(JobPlan { needs: vec!["slow".into()], ..deploy_job("deploy", "staging") }, "staging"),
        ])
        .await;
    let slow = world.claim(&worker).await;
    world.pass(Duration::from_secs(1));
    let newer = world.run(deploy()).await;
    world.finish(&slow, Conclusion::Success).await;
    assert_eq!(world.jobs(late).await[1], why(newer));
    // and whole runs as well
    let held = run_in(&world, "whole", false, vec![deploy_job("d", "staging")]).await;
    assert_eq!(world.claim(&worker).await.run, held);
    let older = run_in(&world, "WHOLE", false, vec![deploy_job("d", "staging"), job("after", &["d"])]).await;
    let newest = run_in(&world, "whole", false, vec![deploy_job("d", "staging")]).await;
    assert_eq!(world.status(older).await, RunStatus::Skipped);
    let reason = world.store.run(older).await.unwrap().reason.unwrap();
    assert_eq!(reason, format!("superseded by run {newest}, the newer deploy in the concurrency group `whole`"));
}

pub async fn the_oldest_gets_its_turn_however_many_were_queued_before_it(world: World) {
    let worker = world.worker("w", "1").await;
    let member = || in_group(job("e2e", &[]), "e2e");
    let oldest = world.run(vec![job("slow", &[]), JobPlan { needs: vec!["slow".into()], ..member() }]).await;
    let slow = world.claim(&worker).await;
    world.pass(Duration::from_secs(1));
    world.run(vec![member()]).await;
    let holder = world.claim(&worker).await;
    for _ in 0..40 {
        world.pass(Duration::from_secs(1));
        world.run(vec![member()]).await;
    }
    let other = world.run(vec![job("other", &[])]).await;
    world.finish(&slow, Conclusion::Success).await;
    world.finish(&holder, Conclusion::Success).await;
    let claim = world.claim(&worker).await;
    assert_eq!((claim.run, claim.plan.key.as_str()), (oldest, "e2e"));
    assert_eq!(world.claim(&worker).await.run, other, "those who wait keep nobody else back");
    // and the same of whole runs
    let held = run_in(&world, "whole", false, vec![job("a", &[])]).await;
    let holder = world.claim(&worker).await;
    assert_eq!(holder.run, held);
    let mut waiting = Vec::new();
    for _ in 0..40 {
        waiting.push(run_in(&world, "whole", false, vec![job("a", &[])]).await);
    }
    world.pass(Duration::from_secs(1));
    let other = world.run(vec![job("other", &[])]).await;
    assert_eq!(world.claim(&worker).await.run, other);
    world.finish(&holder, Conclusion::Success).await;
    world.pass(Duration::from_secs(1));
    let last = world.run(vec![job("last", &[])]).await;
    assert_eq!(world.claim(&worker).await.run, waiting[0]);
    assert_eq!(world.claim(&worker).await.run, last);
}

pub async fn what_comes_may_cancel_what_is_in_progress(world: World) {
    let worker = world.worker("w", "1").await;
    let first = run_in(&world, "pr", true, vec![job("a", &[]), job("b", &["a"])]).await;
    let held = world.claim(&worker).await;
    let second = run_in(&world, "pr", true, vec![job("a", &[])]).await;
    assert!(world.store.job_cancel_requested(held.job, held.epoch).await.unwrap());
    let third = run_in(&world, "pr", true, vec![job("a", &[])]).await;
    assert_eq!(world.status(second).await, RunStatus::Cancelled);
    assert!(world.store.claim_job(&worker).await.unwrap().is_none(), "the slot is not free before the end");
    world.finish(&held, Conclusion::Cancelled).await;
    assert_eq!(world.status(first).await, RunStatus::Cancelled);
    let reason = world.store.run(first).await.unwrap().reason.unwrap();
    assert!(reason.contains(&format!("run {second} is newer in the concurrency group `pr`")), "{reason}");
    assert_eq!(world.claim(&worker).await.run, third);
}

pub async fn a_group_that_cannot_be_had_is_said(world: World) {
    let run = run_in(&world, "same", false, vec![in_group(job("a", &[]), "Same")]).await;
    let jobs = world.jobs(run).await;
    assert!(jobs[0].starts_with("a failed: its run has the concurrency group `same` already"), "{jobs:?}");
    let broken = run_in(&world, "${{ fromJSON('x') }}", false, vec![job("a", &[])]).await;
    assert_eq!(world.status(broken).await, RunStatus::Failed);
    assert!(world.jobs(broken).await[0].contains("`concurrency.group`: `fromJSON` got"));
}

pub async fn a_job_that_fails_begins_again_after_a_pause_and_no_more_often_than_it_says(world: World) {
    let worker = world.worker("w", "1").await;
    let mut flaky = job("flaky", &[]);
    flaky.retry = Some(RetryPlan { max: 2, on: vec![FailureClass::Script], backoff_seconds: 10 });
    let run = world.run(vec![flaky.clone(), job("after", &["flaky"])]).await;
    let first = world.claim(&worker).await;
    let end = finish(&first, Conclusion::Failure);
    world.store.finish_job(first.job, end.clone()).await.unwrap();
    assert_eq!(
        world.jobs(run).await,
        ["flaky queued: try 1 of 3 failed: exit code 1; it begins again after 10 s", "after pending"]
    );
    world.store.finish_job(first.job, end).await.expect("the same end once more changes nothing");
    assert!(world.store.claim_job(&worker).await.unwrap().is_none(), "not before its time");
    assert_eq!(world.store.next_expiry().await.unwrap(), Some(world.store.now() + Duration::from_secs(10)));
    let mut bell = world.store.doorbell().listen(segue_runner::store::Bell::Jobs);
    world.pass(Duration::from_secs(10));
    world.store.reap_expired().await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), bell.rung()).await.expect("its time has come");
    let second = world.claim(&worker).await;
    assert!(second.epoch > first.epoch && second.resume.is_none());
    world.finish(&second, Conclusion::Failure).await;
    assert!(world.jobs(run).await[0].ends_with("it begins again after 20 s"));
    world.pass(Duration::from_secs(20));
    let third = world.claim(&worker).await;
    world.finish(&third, Conclusion::Failure).await;
    assert_eq!(world.jobs(run).await, ["flaky failed: exit code 1", "after skipped: its need `flaky` failed"]);
    // only after what it names, and never in an environment
    let mut other = finish(&first, Conclusion::Failure);
    let another = world.run(vec![flaky.clone()]).await;
    let claim = world.claim(&worker).await;
    (other.epoch, other.failure_class) = (claim.epoch, Some(FailureClass::Configuration));
    world.store.finish_job(claim.job, other).await.unwrap();
    assert_eq!(world.status(another).await, RunStatus::Failed);
    let deploy = world.run(vec![JobPlan { environment: Some("staging".into()), ..flaky.clone() }]).await;
    let claim = world.claim(&worker).await;
    world.finish(&claim, Conclusion::Failure).await;
    assert_eq!(world.status(deploy).await, RunStatus::Failed);
    let harmless = world.run(vec![JobPlan { environment: Some("staging".into()), idempotent: true, ..flaky }]).await;
    let claim = world.claim(&worker).await;
    world.finish(&claim, Conclusion::Failure).await;
    assert_eq!(world.status(harmless).await, RunStatus::Running);
}

pub async fn a_job_that_waits_to_begin_again_ends_at_once_with_its_run_or_its_group(world: World) {
    let worker = world.worker("w", "1").await;
    let mut flaky = in_group(job("flaky", &[]), "g");
    flaky.retry = Some(RetryPlan { max: 2, on: vec![FailureClass::Script], backoff_seconds: 3600 });
    let run = world.run(vec![flaky.clone()]).await;
    let claim = world.claim(&worker).await;
    world.finish(&claim, Conclusion::Failure).await;
    assert_eq!(world.status(run).await, RunStatus::Running);
    // it keeps its place in the group while it waits
    world.pass(Duration::from_secs(1));
    let next = world.run(vec![in_group(job("next", &[]), "g")]).await;
    assert!(world.store.claim_job(&worker).await.unwrap().is_none());
    let mut bell = world.store.doorbell().listen(segue_runner::store::Bell::Job(claim.job));
    world.store.cancel_run(run, "ada".into()).await.unwrap();
    assert_eq!(world.jobs(run).await, ["flaky cancelled: the run was cancelled before the job began again"]);
    assert_eq!(world.status(run).await, RunStatus::Cancelled);
    tokio::time::timeout(Duration::from_secs(5), bell.rung()).await.expect("who follows its log hears of the end");
    let claim = world.claim(&worker).await;
    assert_eq!(claim.run, next, "its place is free");
    world.finish(&claim, Conclusion::Success).await;
    // and so does one that a newer one of its group cancels
    let run = world.run(vec![flaky]).await;
    let claim = world.claim(&worker).await;
    world.finish(&claim, Conclusion::Failure).await;
    world.pass(Duration::from_secs(1));
    let newer = world.run(vec![JobPlan { concurrency: group("g", true), ..job("newer", &[]) }]).await;
    assert_eq!(world.status(run).await, RunStatus::Cancelled);
    assert_eq!(world.claim(&worker).await.run, newer);
}

pub async fn a_job_that_asks_for_a_container_never_runs_outside_of_one(world: World) {
    let worker = world.worker("w", "1").await;
    let image = ContainerPlan {
        image: "debian".into(),
        env: Default::default(),
        ports: Vec::new(),
        volumes: Vec::new(),
        options: Vec::new(),
        credentials: None,
        resources: None,
    };
    let mut contained = job("contained", &[]);
    contained.services.insert("db".into(), image);
    let run = world.run(vec![contained]).await;
    assert!(world.store.claim_job(&worker).await.unwrap().is_none());
    let jobs = world.jobs(run).await;
    assert!(
        jobs[0]
            .starts_with("contained queued: no worker offers all of `default, docker`; a worker offers `docker` once"),
        "{jobs:?}"
    );
}
