use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use segue_runner::store::{Bell, QueuedPool, SecretScope, StoreError};
use segue_schemas::{
    gpu::GpuNeed,
    id::Epoch,
    plan::StepAction,
    status::{Conclusion, FailureClass, JobStatus, RunStatus, StepStatus},
    trigger::{Event, Trigger},
    worker_api::{AttachArtifact, ClaimRequest, JobHandBack, JobLost},
};

use crate::world::{World, commit, deploy_job, finish, job, running, script, step};

const LEASE: Duration = Duration::from_secs(30);

pub async fn a_job_goes_from_the_queue_to_its_end(world: World) {
    let run = world.run(vec![job("test", &[])]).await;
    assert_eq!(world.status(run).await, RunStatus::Queued);
    let worker = world.worker("w", "1").await;
    let claim = world.claim(&worker).await;
    assert_eq!((claim.run, claim.epoch, claim.attempt), (run, Epoch(1), 1));
    assert_eq!(claim.contexts["github"]["ref_name"], "main");
    assert_eq!(claim.contexts["github"]["event"]["head_commit"]["message"], "Change 1\n\nbody");
    assert_eq!(world.status(run).await, RunStatus::Running);
    let told = world.store.report_steps(claim.job, running(claim.epoch, 0)).await.unwrap();
    assert!(!told.cancel);
    assert_eq!(world.store.job(claim.job).await.unwrap().status, JobStatus::Running);
    world.finish(&claim, Conclusion::Success).await;
    assert_eq!(world.status(run).await, RunStatus::Succeeded);
    let detail = world.store.run_detail(run, None).await.unwrap();
    assert!(detail.run.ended_at.is_some() && detail.run.started_at.is_some());
    assert_eq!(detail.run.title, "Change 1");
    assert!(world.store.claim_job(&worker).await.unwrap().is_none());
}

pub async fn two_claims_get_one_job(world: World) {
    for _ in 0..20 {
        world.run(vec![job("test", &[])]).await;
    }
    let (a, b) =
        (world.worker_with("a", "1", 100, &["default"]).await, world.worker_with("b", "1", 100, &["default"]).await);
    let claims = (0..30).map(|n| world.store.claim_job(if n % 2 == 0 { &a } else { &b }));
    let claimed: Vec<_> = futures_util::future::join_all(claims).await.into_iter().filter_map(|c| c.unwrap()).collect();
    assert_eq!(claimed.len(), 20);
    let jobs: HashSet<_> = claimed.iter().map(|c| c.job).collect();
    assert_eq!(jobs.len(), 20, "each job has one owner");
}

pub async fn two_last_jobs_start_the_fan_in_once(world: World) {
    let worker = world.worker_with("w", "1", 100, &["default"]).await;
    for _ in 0..10 {
        let run = world.run(vec![job("a", &[]), job("b", &[]), job("after", &["a", "b"])]).await;
        let (a, b) = (world.claim(&worker).await, world.claim(&worker).await);
        assert!(world.store.claim_job(&worker).await.unwrap().is_none());
        tokio::join!(world.finish(&a, Conclusion::Success), world.finish(&b, Conclusion::Success));
        let after = world.claim(&worker).await;
        assert_eq!(after.plan.key, "after");
        assert!(world.store.claim_job(&worker).await.unwrap().is_none(), "once");
        world.finish(&after, Conclusion::Success).await;
        assert_eq!(world.status(run).await, RunStatus::Succeeded);
    }
}

pub async fn a_stale_epoch_changes_nothing(world: World) {
    let run = world.run(vec![job("test", &[])]).await;
    let worker = world.worker("w", "1").await;
    let lost = world.claim(&worker).await;
    world.pass(LEASE);
    assert_eq!(world.store.reap_expired().await.unwrap(), 1);
    let digest = world.artifact(b"late").await;
    let attach = AttachArtifact { epoch: lost.epoch, name: "late".into(), digest, bytes: 4, retention_days: None };
    let back = JobHandBack { epoch: lost.epoch, next_step: None, steps: vec![], log_bytes: 0, reason: "late".into() };
    for held_again in [false, true] {
        if held_again {
            assert_eq!(world.claim(&worker).await.epoch, Epoch(2));
        }
        let before = format!("{:?}", world.store.run_detail(run, None).await.unwrap());
        let store = &world.store;
        let refused = [
            store.renew_job(lost.job, lost.epoch).await.err(),
            store.report_steps(lost.job, running(lost.epoch, 0)).await.err(),
            store.finish_job(lost.job, finish(&lost, Conclusion::Success)).await.err(),
            store.attach_artifact(lost.job, attach.clone()).await.err(),
            store.append_log(lost.job, lost.epoch, 0, Bytes::from_static(b"late")).await.err(),
            store.job_cancel_requested(lost.job, lost.epoch).await.err(),
        ];
        for error in refused {
            assert!(matches!(error, Some(StoreError::StaleEpoch { .. })), "{error:?}");
        }
        if held_again {
            let error = store.hand_back_job(lost.job, back.clone()).await.unwrap_err();
            assert!(error.to_string().contains("the current epoch is 2"), "{error}");
        }
        assert_eq!(format!("{:?}", store.run_detail(run, None).await.unwrap()), before);
    }
}

pub async fn the_same_end_twice_is_one_end(world: World) {
    let run = world.run(vec![job("test", &[]), job("after", &["test"])]).await;
    let worker = world.worker("w", "1").await;
    let claim = world.claim(&worker).await;
    world.finish(&claim, Conclusion::Success).await;
    world.finish(&claim, Conclusion::Success).await;
    let other = world.store.finish_job(claim.job, finish(&claim, Conclusion::Failure)).await;
    assert!(matches!(other, Err(StoreError::StaleEpoch { .. })), "{other:?}");
    assert_eq!(world.jobs(run).await, ["test succeeded", "after queued"]);
}

pub async fn an_end_brings_the_next_job_and_each_fails_alone(world: World) {
    let store = &world.store;
    let run = world.run(vec![job("a", &[]), job("b", &["a"]), job("c", &["b"])]).await;
    let worker = world.worker("w", "1").await;
    let a = world.claim(&worker).await;
    let (ended, next) = store.finish_and_claim(a.job, finish(&a, Conclusion::Success), &worker).await;
    let (_, b) = (ended.unwrap(), next.unwrap().unwrap());
    assert_eq!((b.plan.key.as_str(), b.epoch), ("b", Epoch(1)), "it is claimable by that very end");

    let stranger = ClaimRequest { worker: "stranger".parse().unwrap(), ..worker.clone() };
    let (ended, next) = store.finish_and_claim(b.job, finish(&b, Conclusion::Success), &stranger).await;
    assert!(ended.is_ok() && matches!(next, Err(StoreError::StaleWorker { .. })), "{ended:?} {next:?}");
    assert_eq!(world.jobs(run).await, ["a succeeded", "b succeeded", "c queued"]);

    let late = finish(&a, Conclusion::Failure);
    let (ended, next) = store.finish_and_claim(a.job, late, &worker).await;
    assert!(matches!(ended, Err(StoreError::StaleEpoch { .. })), "{ended:?}");
    assert_eq!(next.unwrap().unwrap().plan.key, "c");
    assert_eq!(world.jobs(run).await, ["a succeeded", "b succeeded", "c leased"]);
}

pub async fn a_failed_need_skips_what_comes_after_and_says_why(world: World) {
    let mut cleanup = job("cleanup", &["deploy"]);
    cleanup.condition = Some("always()".into());
    let run = world.run(vec![job("test", &[]), job("build", &["test"]), job("deploy", &["build"]), cleanup]).await;
    let worker = world.worker("w", "1").await;
    let claim = world.claim(&worker).await;
    world.finish(&claim, Conclusion::Failure).await;
    let jobs = world.jobs(run).await;
    assert_eq!(jobs[0], "test failed: exit code 1");
    assert!(jobs[1].starts_with("build skipped: its need `test` failed"), "{jobs:?}");
    assert!(jobs[2].starts_with("deploy skipped: "), "{jobs:?}");
    assert_eq!(jobs[3], "cleanup queued");
    let claim = world.claim(&worker).await;
    world.finish(&claim, Conclusion::Success).await;
    assert_eq!(world.status(run).await, RunStatus::Failed);
    assert_eq!(world.store.due_notifications(10).await.unwrap().len(), 1);
}

pub async fn outputs_reach_the_jobs_that_need_them(world: World) {
    let mut after = job("after", &["build"]);
    after.condition = Some("needs.build.outputs.changed == 'yes'".into());
    let mut never = job("never", &["build"]);
    never.condition = Some("needs.build.outputs.changed == 'no'".into());
    let run = world.run(vec![job("build", &[]), after, never]).await;
    let worker = world.worker("w", "1").await;
    let claim = world.claim(&worker).await;
    let mut end = finish(&claim, Conclusion::Success);
    end.outputs.insert("changed".into(), "yes".into());
    world.store.finish_job(claim.job, end).await.unwrap();
    let after = world.claim(&worker).await;
    assert_eq!(after.contexts["needs"]["build"]["result"], "success");
    assert_eq!(after.contexts["needs"]["build"]["outputs"]["changed"], "yes");
    assert!(world.jobs(run).await[2].contains("was false"));
}

pub async fn labels_and_capacity_are_kept(world: World) {
    let mut gpu = job("gpu", &[]);
    gpu.runs_on = vec!["gpu".into(), "default".into()];
    let run = world.run(vec![gpu]).await;
    let plain = world.worker("plain", "1").await;
    assert!(world.store.claim_job(&plain).await.unwrap().is_none());
    assert_eq!(world.jobs(run).await, ["gpu queued: no worker offers all of `gpu, default`"]);
    assert!(world.store.queue(10).await.unwrap()[0].reason.contains("no worker offers all of `gpu, default`"));
    let gpu = world.worker_with("gpu", "1", 1, &["default", "gpu", "linux"]).await;
    world.claim(&gpu).await;
    world.run(vec![job("more", &[])]).await;
    assert!(world.store.claim_job(&gpu).await.unwrap().is_none(), "it has no room");
    assert!(world.store.claim_job(&plain).await.unwrap().is_some());
    let stranger = segue_schemas::worker_api::ClaimRequest { incarnation: "0".into(), ..plain };
    assert!(matches!(world.store.claim_job(&stranger).await, Err(StoreError::StaleWorker { .. })));
}

fn with_gpus(key: &str, count: u32, memory_mib: Option<u64>) -> segue_schemas::plan::JobPlan {
    let mut job = job(key, &[]);
    job.gpus = Some(GpuNeed { memory_mib, ..GpuNeed::whole(count) });
    job
}

pub async fn a_gpu_is_given_to_one_job_at_a_time(world: World) {
    let small = with_gpus("small", 1, None);
    for job in [with_gpus("large", 1, Some(60_000)), small.clone(), with_gpus("pair", 2, None), small] {
        world.run(vec![job]).await;
        world.pass(Duration::from_secs(1));
    }
    let plain = world.worker("plain", "1").await;
    assert!(world.store.claim_job(&plain).await.unwrap().is_none(), "it has none");
    let gpus = [("GPU-a", 81_559), ("GPU-b", 24_564)];
    let worker = world.worker_with_gpus("w", "1", 8, &["default"], &gpus).await;
    let large = world.claim(&worker).await;
    assert_eq!((large.plan.key.as_str(), large.gpus.as_slice()), ("large", &["GPU-a".to_owned()][..]));
    let small = world.claim(&worker).await;
    assert_eq!((small.plan.key.as_str(), small.gpus.as_slice()), ("small", &["GPU-b".to_owned()][..]));
    assert!(world.store.claim_job(&worker).await.unwrap().is_none(), "it has slots, and no GPU is free");
    let shown = world.store.workers().await.unwrap().into_iter().find(|one| one.id == worker.worker).unwrap();
    assert_eq!(shown.taken_gpus.get("GPU-a"), Some(&large.job));
    world.run(vec![job("other", &[])]).await;
    assert_eq!(world.claim(&worker).await.plan.key, "other", "what asks for none does not wait for one");

    // what comes free with an end goes to who fits, in the same breath
    let (ended, next) = world.store.finish_and_claim(small.job, finish(&small, Conclusion::Success), &worker).await;
    let next = (ended.unwrap(), next.unwrap()).1.unwrap();
    assert_eq!((next.plan.key.as_str(), next.gpus.as_slice()), ("small", &["GPU-b".to_owned()][..]));
    world.finish(&large, Conclusion::Success).await;
    assert!(world.store.claim_job(&worker).await.unwrap().is_none(), "one of two is free");
    world.finish(&next, Conclusion::Failure).await;
    let pair = world.claim(&worker).await;
    assert_eq!(pair.gpus, ["GPU-b", "GPU-a"]);

    // a worker that starts anew has lost its jobs, and they their GPUs
    let again = world.worker_with_gpus("w", "2", 8, &["default"], &gpus).await;
    let claims = [world.claim(&again).await, world.claim(&again).await];
    let told: Vec<_> = claims.iter().map(|claim| (claim.plan.key.as_str(), claim.gpus.len())).collect();
    assert!(told.contains(&("pair", 2)) && told.contains(&("other", 0)), "{told:?}");
}

pub async fn a_job_that_waits_for_gpus_says_which(world: World) {
    let reasons = || async { world.store.queue(10).await.unwrap().into_iter().map(|j| j.reason).collect::<Vec<_>>() };
    let run = world.run(vec![with_gpus("train", 2, Some(40_960))]).await;
    let none = "no worker offers all of `default, 2 GPUs with 40960 MiB each`; a worker offers GPUs once `worker.gpus` names them";
    assert!(reasons().await[0].starts_with(none), "{:?}", reasons().await);
    assert!(world.jobs(run).await[0].contains(none));
    world.worker_with_gpus("few", "1", 1, &["default"], &[("GPU-a", 81_559)]).await;
    assert!(reasons().await[0].starts_with(none), "one has too few");
    let worker = world.worker_with_gpus("w", "1", 4, &["default"], &[("GPU-b", 81_559), ("GPU-c", 46_068)]).await;
    assert_eq!(reasons().await, ["waits for a free worker"]);
    world.claim(&worker).await;
    world.run(vec![with_gpus("train", 2, Some(40_960))]).await;
    assert_eq!(reasons().await, ["waits for GPUs (`default, 2 GPUs with 40960 MiB each`): other jobs have those of w"]);
    let pools = world.store.queued_pools().await.unwrap();
    assert_eq!((pools[0].labels.join(" "), pools[0].workers), ("default gpu:2x40960".to_owned(), 1));
}

pub async fn what_waits_is_told_with_who_could_take_it(world: World) {
    let mut gpu = job("gpu", &[]);
    gpu.runs_on = vec!["gpu".into()];
    world.run(vec![gpu.clone(), job("one", &[]), job("two", &[]), job("three", &[])]).await;
    let worker = world.worker_with("w", "1", 2, &["default"]).await;
    let reasons = || async { world.store.queue(10).await.unwrap().into_iter().map(|j| j.reason).collect::<Vec<_>>() };
    let pools = || async {
        let pool = |p: QueuedPool| (p.labels.join(","), p.jobs, p.workers, p.free);
        world.store.queued_pools().await.unwrap().into_iter().map(pool).collect::<Vec<_>>()
    };
    world.claim(&worker).await;
    assert_eq!(pools().await, [("default".to_owned(), 2, 1, 1), ("gpu".to_owned(), 1, 0, 0)]);
    assert_eq!(reasons().await.iter().filter(|r| r.contains("no worker offers all of `gpu`")).count(), 1);
    world.store.drain_worker(&worker.worker, true).await.unwrap();
    assert_eq!(pools().await[0], ("default".to_owned(), 2, 0, 0));
    assert!(reasons().await.contains(&"every worker that offers `default` drains (w)".to_owned()));
    assert!(world.store.claim_job(&worker).await.unwrap().is_none());
    world.store.drain_worker(&worker.worker, false).await.unwrap();
    assert!(reasons().await.contains(&"waits for a free worker".to_owned()));
    world.pass(Duration::from_secs(120));
    assert!(reasons().await.contains(&"no worker that offers `default` is alive (w)".to_owned()));
    assert!(!world.store.is_alive(&world.store.workers().await.unwrap()[0]));
}

pub async fn environments_and_the_repository_with_less_go_first(world: World) {
    for _ in 0..3 {
        world.run_of(world.push("o/busy"), vec![job("busy", &[])]).await;
        world.pass(Duration::from_secs(1));
    }
    world.run_of(world.push("o/calm"), vec![job("calm", &[])]).await;
    world.pass(Duration::from_secs(1));
    let mut deploy = job("deploy", &[]);
    deploy.environment = Some("staging".into());
    world.run_of(world.push("o/busy"), vec![deploy]).await;
    let worker = world.worker("w", "1").await;
    let mut order = Vec::new();
    for _ in 0..5 {
        order.push(world.claim(&worker).await.plan.key);
    }
    assert_eq!(order, ["deploy", "calm", "busy", "busy", "busy"]);
}

pub async fn every_repository_of_many_has_its_turn(world: World) {
    // more than one claim compares, and each with more than its share
    for n in 0..80 {
        world
            .run_of(world.push(&format!("o/r{n:02}")), vec![job("one", &[]), job("two", &[]), job("three", &[])])
            .await;
    }
    let worker = world.worker_with("w", "1", 1000, &["default"]).await;
    let mut served = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..160 {
        *served.entry(world.claim(&worker).await.repository).or_default() += 1;
    }
    assert_eq!(served.len(), 80, "{served:?}");
    // what changes an environment goes first wherever it stands
    world.run_of(world.push("z/last"), vec![deploy_job("deploy", "staging")]).await;
    assert_eq!(world.claim(&worker).await.plan.key, "deploy");
    for _ in 0..80 {
        world.claim(&worker).await;
    }
    assert!(
        world.store.claim_job(&worker).await.unwrap().is_none(),
        "nothing was left behind, and nothing given twice"
    );
}

pub async fn a_lost_worker_without_an_environment_is_forgiven_three_times(world: World) {
    let run = world.run(vec![job("test", &[])]).await;
    let worker = world.worker("w", "1").await;
    for epoch in 1..=4 {
        let claim = world.claim(&worker).await;
        assert_eq!(claim.epoch, Epoch(epoch));
        world.store.report_steps(claim.job, running(claim.epoch, 0)).await.unwrap();
        world.pass(LEASE - Duration::from_secs(1));
        world.store.renew_job(claim.job, claim.epoch).await.unwrap();
        world.pass(LEASE - Duration::from_secs(1));
        assert_eq!(world.store.reap_expired().await.unwrap(), 0, "it was renewed");
        world.pass(Duration::from_secs(1));
        assert_eq!(world.store.reap_expired().await.unwrap(), 1);
    }
    let job = world.store.run_detail(run, None).await.unwrap().jobs.remove(0).0;
    assert_eq!((job.status, job.failure_class), (JobStatus::Failed, Some(FailureClass::WorkerLost)));
    let reason = job.reason.unwrap();
    assert!(reason.starts_with("worker `w` was lost in step 1 `step 0`; it was last heard at 20"), "{reason}");
    assert!(reason.ends_with("That was the last of 4 starts"), "{reason}");
    assert_eq!(world.status(run).await, RunStatus::Failed);
}

pub async fn a_lost_worker_in_an_environment_fails_the_job_by_name(world: World) {
    let mut deploy = job("deploy", &[]);
    deploy.environment = Some("staging".into());
    let mut idempotent = deploy.clone();
    idempotent.key = "again".into();
    idempotent.idempotent = true;
    let mut harmless = deploy.clone();
    harmless.key = "checkout".into();
    harmless.steps[0].action = StepAction::Uses { uses: "segue/checkout".into(), with: Default::default() };
    let run = world.run(vec![deploy, idempotent, harmless]).await;
    let worker = world.worker("build-1", "1").await;
    for _ in 0..3 {
        let claim = world.claim(&worker).await;
        world.store.report_steps(claim.job, running(claim.epoch, 0)).await.unwrap();
    }
    world.pass(LEASE);
    world.store.reap_expired().await.unwrap();
    let jobs = world.jobs(run).await;
    assert!(
        jobs[0].starts_with("deploy failed: worker `build-1` was lost in step 1 `step 0`; it was last heard at 20"),
        "{jobs:?}"
    );
    assert!(jobs[1].starts_with("again queued"), "{jobs:?}");
    assert!(jobs[2].starts_with("checkout queued"), "{jobs:?}");
}

pub async fn a_new_incarnation_ends_the_leases_of_the_old_one_at_once(world: World) {
    let run = world.run(vec![job("test", &[])]).await;
    let old = world.worker("w", "1").await;
    let claim = world.claim(&old).await;
    world.worker("w", "1").await;
    assert_eq!(world.jobs(run).await, ["test leased"], "the same incarnation loses nothing");
    let new = world.worker("w", "2").await;
    assert!(matches!(world.store.renew_job(claim.job, claim.epoch).await, Err(StoreError::StaleEpoch { .. })));
    assert!(matches!(world.store.claim_job(&old).await, Err(StoreError::StaleWorker { .. })));
    assert_eq!(world.claim(&new).await.epoch, Epoch(2));
}

pub async fn a_job_that_overstays_ends(world: World) {
    let mut short = job("short", &[]);
    short.timeout_seconds = 60;
    let run = world.run(vec![short]).await;
    let worker = world.worker("w", "1").await;
    let claim = world.claim(&worker).await;
    for _ in 0..11 {
        world.pass(Duration::from_secs(10));
        world.store.renew_job(claim.job, claim.epoch).await.unwrap();
        assert_eq!(world.store.reap_expired().await.unwrap(), 0);
    }
    world.pass(Duration::from_secs(10));
    assert_eq!(world.store.reap_expired().await.unwrap(), 1, "a time-out and two leases");
    assert!(world.jobs(run).await[0].contains("time limit of 60 s"));
    let unclaimed = world.run(vec![job("alone", &[])]).await;
    let due = world.store.next_expiry().await.unwrap().unwrap();
    world.pass(due.since(world.store.now()));
    assert_eq!(world.store.reap_expired().await.unwrap(), 1);
    assert_eq!(world.status(unclaimed).await, RunStatus::Failed);
    assert_eq!(world.store.next_expiry().await.unwrap(), None);
}

pub async fn a_job_handed_back_goes_on_at_its_step_with_its_worker(world: World) {
    let run = world.run(vec![job("test", &[])]).await;
    let worker = world.worker("w", "1").await;
    let other = world.worker("other", "1").await;
    let claim = world.claim(&worker).await;
    world.store.report_steps(claim.job, running(claim.epoch, 0)).await.unwrap();
    let mut done = step(0, StepStatus::Succeeded);
    done.outcome = Some(Conclusion::Success);
    done.outputs.insert("version".into(), "7".into());
    let back = JobHandBack {
        epoch: claim.epoch,
        next_step: Some(1),
        steps: vec![done.clone(), step(1, StepStatus::Running)],
        log_bytes: 0,
        reason: "the worker stops".into(),
    };
    world.store.hand_back_job(claim.job, back.clone()).await.unwrap();
    world.store.hand_back_job(claim.job, back).await.unwrap();
    assert!(world.store.claim_job(&other).await.unwrap().is_none(), "the workspace is at the first worker");
    assert!(world.store.queue(10).await.unwrap()[0].reason.contains("`w`"));
    let again = world.worker("w", "2").await;
    let resumed = world.claim(&again).await;
    let resume = resumed.resume.clone().unwrap();
    assert_eq!((resume.next_step, resume.steps), (1, vec![done]));
    world
        .store
        .hand_back_job(
            resumed.job,
            JobHandBack {
                epoch: resumed.epoch,
                next_step: Some(1),
                steps: vec![],
                log_bytes: 0,
                reason: "the worker stops".into(),
            },
        )
        .await
        .unwrap();
    world.pass(Duration::from_secs(120));
    let anew = world.claim(&other).await;
    assert!(anew.resume.is_none(), "its worker is gone, so it begins anew");
    world.finish(&anew, Conclusion::Success).await;
    assert_eq!(world.status(run).await, RunStatus::Succeeded);
}

pub async fn what_a_worker_stopped_by_itself_is_looked_after_as_lost(world: World) {
    let mut deploy = job("deploy", &[]);
    deploy.environment = Some("staging".into());
    let run = world.run(vec![job("test", &[]), deploy]).await;
    let worker = world.worker("w", "1").await;
    for _ in 0..2 {
        let claim = world.claim(&worker).await;
        let lost = JobLost { epoch: claim.epoch, steps: vec![step(0, StepStatus::Running)], log_bytes: 0 };
        world.store.lost_job(claim.job, lost.clone()).await.unwrap();
        let after = format!("{:?}", world.store.run_detail(run, None).await.unwrap());
        world.store.lost_job(claim.job, lost).await.unwrap();
        assert_eq!(format!("{:?}", world.store.run_detail(run, None).await.unwrap()), after, "said twice, done once");
    }
    let detail = world.store.run_detail(run, None).await.unwrap();
    let statuses: Vec<JobStatus> = detail.jobs.iter().map(|(job, _)| job.status).collect();
    assert_eq!(statuses, [JobStatus::Queued, JobStatus::Failed]);
    let reasons: Vec<String> = detail.jobs.iter().map(|(job, _)| job.reason.clone().unwrap_or_default()).collect();
    assert!(reasons.iter().all(|reason| reason.contains("stopped the job in step 1 `step 0`")), "{reasons:?}");
    assert!(reasons[1].contains("`staging` may have been changed"), "{reasons:?}");
    assert_eq!(detail.jobs[1].0.failure_class, Some(FailureClass::WorkerLost));
    // it counts as a loss, of which there are three
    for _ in 0..3 {
        let claim = world.claim(&worker).await;
        let late = JobLost { epoch: Epoch(claim.epoch.0 - 1), steps: Vec::new(), log_bytes: 0 };
        assert!(matches!(world.store.lost_job(claim.job, late).await, Err(StoreError::StaleEpoch { .. })));
        let lost = JobLost { epoch: claim.epoch, steps: Vec::new(), log_bytes: 0 };
        world.store.lost_job(claim.job, lost).await.unwrap();
    }
    let job = world.store.run_detail(run, None).await.unwrap().jobs.remove(0).0;
    assert!(job.reason.unwrap().ends_with("That was the last of 4 starts"));
    assert_eq!(world.status(run).await, RunStatus::Failed);
}

pub async fn low_disk_stops_jobs_and_not_deliveries(world: World) {
    let world = world.configured(|config| config.retention.low_disk_mib = u64::MAX).await;
    let run = world.run(vec![job("test", &[])]).await;
    let worker = world.worker("w", "1").await;
    assert!(world.store.claim_job(&worker).await.unwrap().is_none());
    assert_eq!(world.jobs(run).await, ["test queued"]);
    assert!(world.store.queue(10).await.unwrap()[0].reason.contains("MiB of disk are free"));
    let world = world.configured(|_| ()).await;
    world.claim(&worker).await;
}

pub async fn logs_are_fenced_and_survive_a_restart(world: World) {
    world.run(vec![job("test", &[])]).await;
    let worker = world.worker("w", "1").await;
    let claim = world.claim(&worker).await;
    let line = Bytes::from_static(b"one line\n");
    assert_eq!(world.store.append_log(claim.job, claim.epoch, 0, line.clone()).await.unwrap().offset, 9);
    let world = world.reopened().await;
    assert_eq!(world.store.append_log(claim.job, claim.epoch, 0, line.clone()).await.unwrap().offset, 9, "again");
    assert_eq!(world.store.append_log(claim.job, claim.epoch, 18, line.clone()).await.unwrap().offset, 9, "a gap");
    assert_eq!(world.store.append_log(claim.job, claim.epoch, 9, line).await.unwrap().offset, 18);
    let log = world.store.job_log(claim.job).await.unwrap().unwrap();
    assert_eq!(&world.store.logs().read(log.job, &log.path, 0, 100).await.unwrap()[..], b"one line\none line\n");
    world.store.renew_job(claim.job, claim.epoch).await.unwrap();
    let mut end = finish(&claim, Conclusion::Success);
    end.log_bytes = 18;
    world.store.finish_job(claim.job, end).await.unwrap();
    let log = world.store.job_log(claim.job).await.unwrap().unwrap();
    assert!(log.closed);
    assert_eq!(log.bytes, 18);
}

pub async fn the_end_of_a_log_comes_with_its_jobs(world: World) {
    world.run(vec![job("test", &[])]).await;
    let worker = world.worker("w", "1").await;
    let claim = world.claim(&worker).await;
    let line = Bytes::from_static(b"one line\n");
    world.store.append_log(claim.job, claim.epoch, 0, line).await.unwrap();
    let text = async || {
        let log = world.store.job_log(claim.job).await.unwrap().unwrap();
        let bytes = world.store.logs().read(log.job, &log.path, 0, 100).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    let mut end = finish(&claim, Conclusion::Success);
    end.log_tail = "the last, ü\n".into();
    end.log_bytes = 9 + end.log_tail.len() as u64;
    let mut stale = end.clone();
    stale.epoch = Epoch(claim.epoch.0 + 1);
    assert!(matches!(world.store.finish_job(claim.job, stale).await, Err(StoreError::StaleEpoch { .. })));
    assert_eq!(text().await, "one line\n", "an end under another epoch leaves nothing");
    world.store.finish_job(claim.job, end.clone()).await.unwrap();
    assert_eq!(text().await, "one line\nthe last, ü\n");
    world.store.finish_job(claim.job, end.clone()).await.unwrap();
    assert_eq!(text().await, "one line\nthe last, ü\n", "told twice, it is there once");
    let log = world.store.job_log(claim.job).await.unwrap().unwrap();
    assert!(log.closed);
    assert_eq!(log.bytes, end.log_bytes);
    end.log_tail = "x".repeat(17 * 1024);
    assert!(matches!(world.store.finish_job(claim.job, end).await, Err(StoreError::Refused(_))));
}

pub async fn artifacts_are_named_once_per_attempt(world: World) {
    world.run(vec![job("test", &[])]).await;
    let worker = world.worker("w", "1").await;
    let claim = world.claim(&worker).await;
    let attach = |name: &str, digest| AttachArtifact {
        epoch: claim.epoch,
        name: name.into(),
        digest,
        bytes: 0,
        retention_days: None,
    };
    let digest = world.artifact(b"build").await;
    let first = world.store.attach_artifact(claim.job, attach("build", digest.clone())).await.unwrap();
    assert_eq!((first.bytes, &first.digest), (5, &digest));
    world.store.attach_artifact(claim.job, attach("build", digest)).await.unwrap();
    let other = world.store.attach_artifact(claim.job, attach("build", world.artifact(b"other").await)).await;
    assert!(matches!(other, Err(StoreError::Conflict(_))), "{other:?}");
    let absent = format!("sha256:{:064}", 0).parse().unwrap();
    let missing = world.store.attach_artifact(claim.job, attach("none", absent)).await;
    assert!(matches!(missing, Err(StoreError::Refused(_))), "{missing:?}");
    assert_eq!(world.store.job_artifact(claim.job, "build").await.unwrap(), first);
    assert!(matches!(world.store.job_artifact(claim.job, "none").await, Err(StoreError::NotFound { .. })));
}

pub async fn secrets_come_with_the_claim_to_trusted_code_alone(world: World) {
    let world = world.configured(|config| config.github.forks_on_host = true).await;
    let scope = |repository: Option<&str>, environment: Option<&str>| SecretScope {
        repository: repository.map(Into::into),
        environment: environment.map(Into::into),
    };
    let put = |scope, name: &'static str, value: &'static str| {
        world.store.put_secret(scope, name, zeroize::Zeroizing::new(value.to_owned()), "ada".into())
    };
    put(scope(None, None), "TOKEN", "everywhere").await.unwrap();
    put(scope(Some("o/r"), None), "TOKEN", "repository").await.unwrap();
    put(scope(None, Some("staging")), "TOKEN", "environment").await.unwrap();
    put(scope(Some("o/r"), None), "UNNAMED", "not for this job").await.unwrap();
    let mut named = job("named", &[]);
    named.secrets = vec!["TOKEN".into(), "MISSING".into()];
    let mut deploy = named.clone();
    deploy.environment = Some("staging".into());
    let worker = world.worker("w", "1").await;
    for (repository, plan, expected) in
        [("o/other", &named, "everywhere"), ("o/r", &named, "repository"), ("o/r", &deploy, "environment")]
    {
        world.run_of(world.push(repository), vec![plan.clone()]).await;
        let claim = world.claim(&worker).await;
        assert_eq!(claim.secrets.into_iter().collect::<Vec<_>>(), [("TOKEN".to_owned(), expected.to_owned())]);
    }
    let database = world.stored_secrets();
    for value in ["everywhere", "not for this job"] {
        assert!(!database.windows(value.len()).any(|w| w == value.as_bytes()), "`{value}` is in the database");
    }
    let event = Event::PullRequest {
        action: "opened".into(),
        number: 1,
        title: "t".into(),
        head_ref: "b".into(),
        head: commit(77),
        head_repository: Some("fork/r".into()),
        base_ref: "main".into(),
        base: commit(78),
        draft: false,
        message: String::new(),
        is_closed: false,
        before: None,
        updated_at: segue_schemas::time::Timestamp(0),
    };
    let run = world.run_of(Trigger { event, ..world.push("o/r") }, vec![named]).await;
    assert!(world.store.claim_job(&worker).await.unwrap().is_none(), "foreign code waits for a yes");
    world.store.approve(run, None, "ada".into()).await.unwrap();
    let claim = world.claim(&worker).await;
    assert!(claim.secrets.is_empty() && !claim.trusted);
}

pub async fn a_claim_that_waits_is_woken(world: World) {
    let worker = world.worker("w", "1").await;
    let mut bell = world.store.doorbell().listen(Bell::Jobs);
    assert!(world.store.claim_job(&worker).await.unwrap().is_none());
    let mut plan = job("test", &[]);
    plan.steps = vec![script()];
    let run = world.run(vec![plan]).await;
    tokio::time::timeout(Duration::from_secs(5), bell.rung()).await.expect("the bell rings");
    let claim = world.claim(&worker).await;
    let mut cancel = world.store.doorbell().listen(Bell::Job(claim.job));
    let mut watch = world.store.doorbell().listen(Bell::Run(run));
    world.store.cancel_run(run, "ada".into()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), cancel.rung()).await.expect("the worker is told");
    tokio::time::timeout(Duration::from_secs(5), watch.rung()).await.expect("who watches is told");
    assert!(world.store.job_cancel_requested(claim.job, claim.epoch).await.unwrap());
}
