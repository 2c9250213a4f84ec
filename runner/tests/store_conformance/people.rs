use std::time::Duration;

use segue_pipelines::progress::Deploys;
use segue_runner::store::{Again, AttemptKind, StoreError, TokenKind};
use segue_schemas::{
    config::{EnvironmentConfig, NotificationConfig, NotificationEvent, NotificationKind},
    status::{Conclusion, JobStatus, RunStatus},
    trigger::{Event, Trigger},
    worker_api::AttachArtifact,
};

use crate::world::{World, commit, finish, job, running};

fn environment(change: impl FnOnce(&mut EnvironmentConfig)) -> EnvironmentConfig {
    let mut environment = EnvironmentConfig::default();
    change(&mut environment);
    environment
}

pub async fn an_approval_is_bound_to_the_commit_and_counts_people(world: World) {
    let world = world
        .configured(|config| {
            config.environments.insert("production".into(), environment(|e| e.required_approvals = 2));
        })
        .await;
    let mut deploy = job("deploy", &["test"]);
    deploy.environment = Some("production".into());
    let plan = vec![job("test", &[]), deploy];
    let run = world.run(plan.clone()).await;
    let worker = world.worker("w", "1").await;
    let early = world.store.approve(run, None, "ada".into()).await;
    assert!(matches!(early, Err(StoreError::Conflict(_))), "nothing waits yet: {early:?}");
    let test = world.claim(&worker).await;
    world.finish(&test, Conclusion::Success).await;
    assert_eq!(world.status(run).await, RunStatus::Waiting);
    assert_eq!(world.jobs(run).await[1], "deploy waiting: `production` requires 2 approval(s), this commit has 0");
    for _ in 0..2 {
        assert_eq!(world.store.approve(run, Some("deploy"), "ada".into()).await.unwrap(), ["deploy"]);
        assert!(world.store.claim_job(&worker).await.unwrap().is_none(), "one person counts once");
    }
    let approval = world.store.job_approval(world.job_id(run, "deploy").await).await.unwrap().unwrap();
    assert_eq!((approval.required, approval.by), (2, vec!["ada".to_owned()]));
    world.store.approve(run, None, "grace".into()).await.unwrap();
    let deploy = world.claim(&worker).await;
    assert_eq!(deploy.plan.key, "deploy");
    world.finish(&deploy, Conclusion::Failure).await;
    // a rerun has the same commit, so the same people have said yes to it
    world.store.rerun(run, Again::of(AttemptKind::Failed, "ada").deploying(Deploys::Repeat)).await.unwrap();
    assert_eq!(world.claim(&worker).await.plan.key, "deploy");
    // another commit has nobody's yes
    let other = world.run(plan).await;
    let test = world.claim(&worker).await;
    world.finish(&test, Conclusion::Success).await;
    assert!(world.jobs(other).await[1].contains("this commit has 0"));
}

pub async fn a_ref_that_an_environment_does_not_let_in_fails(world: World) {
    let world = world
        .configured(|config| {
            config.environments.insert("production".into(), environment(|e| e.branches = vec!["release/*".into()]));
        })
        .await;
    let mut deploy = job("deploy", &[]);
    deploy.environment = Some("production".into());
    let run = world.run(vec![deploy, job("after", &["deploy"])]).await;
    let jobs = world.jobs(run).await;
    assert!(jobs[0].starts_with("deploy failed: `refs/heads/main` may not be deployed to `production`"), "{jobs:?}");
    assert!(jobs[1].starts_with("after skipped"), "{jobs:?}");
    assert_eq!(world.status(run).await, RunStatus::Failed);
}

/// A pull request of another repository's branch.
fn from_fork(world: &World) -> Trigger {
    let event = Event::PullRequest {
        action: "opened".into(),
        number: 5,
        title: "From a fork".into(),
        head_ref: "b".into(),
        head: commit(500),
        head_repository: Some("fork/r".into()),
        base_ref: "main".into(),
        base: commit(501),
        draft: false,
        message: String::new(),
        is_closed: false,
        before: None,
        updated_at: segue_schemas::time::Timestamp(0),
    };
    Trigger { event, ..world.push("o/r") }
}

pub async fn foreign_code_waits_for_a_yes_and_never_deploys(world: World) {
    let world = world.configured(|config| config.github.forks_on_host = true).await;
    let mut deploy = job("deploy", &[]);
    deploy.environment = Some("staging".into());
    let run = world.run_of(from_fork(&world), vec![job("test", &[]), deploy]).await;
    let jobs = world.jobs(run).await;
    assert!(jobs[0].starts_with("test waiting: the code comes from outside the repository"), "{jobs:?}");
    assert!(jobs[1].starts_with("deploy failed: code from outside the repository"), "{jobs:?}");
    assert_eq!(world.store.approve(run, None, "ada".into()).await.unwrap(), ["test"]);
    let worker = world.worker("w", "1").await;
    assert_eq!(world.claim(&worker).await.plan.key, "test");
}

pub async fn cancelling_takes_back_what_waits_and_tells_what_runs(world: World) {
    let mut cleanup = job("cleanup", &["running"]);
    cleanup.condition = Some("always()".into());
    let run = world.run(vec![job("running", &[]), job("queued", &[]), job("pending", &["running"]), cleanup]).await;
    let worker = world.worker("w", "1").await;
    let claim = world.claim(&worker).await;
    assert_eq!(claim.plan.key, "running");
    world.store.report_steps(claim.job, running(claim.epoch, 0)).await.unwrap();
    let cancelled = world.store.cancel_run(run, "ada".into()).await.unwrap();
    assert!(cancelled.cancel_requested);
    assert_eq!(cancelled.status, RunStatus::Running);
    let jobs = world.jobs(run).await;
    assert_eq!(jobs[0], "running running");
    assert!(jobs[1].starts_with("queued cancelled"), "{jobs:?}");
    assert!(world.store.renew_job(claim.job, claim.epoch).await.unwrap().cancel);
    world.finish(&claim, Conclusion::Cancelled).await;
    let jobs = world.jobs(run).await;
    assert!(jobs[2].starts_with("pending cancelled"), "{jobs:?}");
    assert_eq!(jobs[3], "cleanup queued");
    let cleanup = world.claim(&worker).await;
    world.finish(&cleanup, Conclusion::Success).await;
    assert_eq!(world.status(run).await, RunStatus::Cancelled);
    assert_eq!(world.store.cancel_run(run, "bob".into()).await.unwrap().cancelled_by.as_deref(), Some("ada"));
}

pub async fn a_rerun_of_what_failed_carries_the_rest_over(world: World) {
    let run = world.run(vec![job("build", &[]), job("test", &["build"]), job("deploy", &["test"])]).await;
    let worker = world.worker("w", "1").await;
    let early = world.store.rerun(run, Again::of(AttemptKind::Whole, "ada").deploying(Deploys::Repeat)).await;
    assert!(matches!(early, Err(StoreError::Conflict(_))), "{early:?}");
    let build = world.claim(&worker).await;
    world.store.append_log(build.job, build.epoch, 0, bytes::Bytes::from_static(b"built\n")).await.unwrap();
    let attach = AttachArtifact {
        epoch: build.epoch,
        name: "web".into(),
        digest: world.artifact(b"web").await,
        bytes: 3,
        retention_days: None,
    };
    world.store.attach_artifact(build.job, attach).await.unwrap();
    let mut end = finish(&build, Conclusion::Success);
    end.outputs.insert("version".into(), "7".into());
    world.store.finish_job(build.job, end).await.unwrap();
    let test = world.claim(&worker).await;
    world.finish(&test, Conclusion::Failure).await;
    world.pass(Duration::from_secs(60));
    let again = world.store.rerun(run, Again::of(AttemptKind::Failed, "ada").deploying(Deploys::Repeat)).await.unwrap();
    assert_eq!((again.attempt, again.status.is_final(), again.ended_at), (2, false, None));
    assert_eq!(world.jobs(run).await, ["build succeeded", "test queued", "deploy pending"]);
    let carried = world.store.run_detail(run, None).await.unwrap().jobs.remove(0).0;
    assert_eq!(carried.carried_from, Some(build.job));
    assert!(world.store.job_log(carried.id).await.unwrap().is_some());
    let test = world.claim(&worker).await;
    assert_eq!((test.attempt, test.epoch.0), (2, 1));
    assert_eq!(test.contexts["needs"]["build"]["outputs"]["version"], "7");
    assert_eq!(world.store.job_artifact(test.job, "web").await.unwrap().bytes, 3);
    world.finish(&test, Conclusion::Success).await;
    let deploy = world.claim(&worker).await;
    world.finish(&deploy, Conclusion::Success).await;
    assert_eq!(world.status(run).await, RunStatus::Succeeded);
    let attempts = world.store.attempts(run).await.unwrap();
    assert_eq!(attempts.iter().map(|a| a.status).collect::<Vec<_>>(), [RunStatus::Failed, RunStatus::Succeeded]);
    let first = world.store.run_detail(run, Some(1)).await.unwrap();
    assert_eq!(first.jobs[1].0.status, JobStatus::Failed, "former attempts stay readable");
    let nothing =
        world.store.rerun(run, Again::of(AttemptKind::Failed, "ada").deploying(Deploys::Repeat)).await.unwrap_err();
    assert!(nothing.to_string().contains("rerun it as a whole"), "{nothing}");
    assert_eq!(
        world.store.rerun(run, Again::of(AttemptKind::Whole, "ada").deploying(Deploys::Repeat)).await.unwrap().attempt,
        3
    );
    assert_eq!(world.jobs(run).await, ["build queued", "test pending", "deploy pending"]);
}

pub async fn recovery_is_told_after_a_failure(world: World) {
    let chat = NotificationConfig {
        kind: NotificationKind::Slack,
        url: Some("http://127.0.0.1:1/".into()),
        url_file: None,
        events: Vec::new(),
    };
    let world = world.configured(|config| config.notifications = vec![chat]).await;
    let worker = world.worker("w", "1").await;
    for conclusion in [Conclusion::Success, Conclusion::Failure, Conclusion::Success, Conclusion::Success] {
        world.run(vec![job("test", &[])]).await;
        let claim = world.claim(&worker).await;
        world.finish(&claim, conclusion).await;
    }
    let told: Vec<_> = world.store.due_notifications(10).await.unwrap().into_iter().map(|n| n.event).collect();
    assert_eq!(told, [NotificationEvent::RunFailed, NotificationEvent::RunRecovered]);
}

pub async fn tokens_open_what_they_say(world: World) {
    let store = &world.store;
    let until = store.now() + Duration::from_secs(60);
    store.put_token("aa", "admin", TokenKind::Admin, None).await.unwrap();
    store.put_token("bb", "worker", TokenKind::Worker, Some(until)).await.unwrap();
    assert_eq!(store.token("aa").await.unwrap(), Some(("admin".into(), TokenKind::Admin)));
    assert_eq!(store.token("bb").await.unwrap(), Some(("worker".into(), TokenKind::Worker)));
    assert_eq!(store.token("cc").await.unwrap(), None);
    store.put_token("dd", "admin", TokenKind::Admin, None).await.unwrap();
    assert_eq!(store.token("aa").await.unwrap(), None, "the new one took its place");
    world.pass(Duration::from_secs(60));
    assert_eq!(world.store.token("bb").await.unwrap(), None, "it has expired");
}

pub async fn foreign_code_runs_on_no_host_unless_the_operator_lets_it(world: World) {
    let run = world.run_of(from_fork(&world), vec![job("test", &[])]).await;
    let jobs = world.jobs(run).await;
    assert!(
        jobs[0].starts_with("test failed: code from outside the repository does not run on a worker's host"),
        "{jobs:?}"
    );
    assert!(world.store.approve(run, None, "ada".into()).await.is_err(), "nothing waits for a yes");
}
