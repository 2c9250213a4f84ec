use std::time::Duration;

use segue_pipelines::{progress::Deploys, protection::Yes};
use segue_runner::store::{Again, AttemptKind, StoreError, TokenKind};
use segue_schemas::{
    config::{EnvironmentConfig, FreezeConfig, NotificationConfig, NotificationEvent, NotificationKind},
    duration::Span,
    id::RunId,
    status::{Conclusion, JobStatus, RolloutStatus, RunStatus},
    trigger::{Event, Trigger},
    worker_api::AttachArtifact,
};

use crate::world::{World, commit, deploy_job, finish, job, running, script};

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
    assert_eq!(world.jobs(run).await[1], "deploy waiting: `production` has 0 of 2 approvals");
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
    assert!(world.jobs(other).await[1].contains("0 of 2 approvals"));
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

/// A world whose production has these rules, and a run that deploys to it.
async fn guarded(world: World, rules: impl FnOnce(&mut EnvironmentConfig)) -> (World, RunId) {
    let world = world
        .configured(|config| {
            config.environments.insert("production".into(), environment(rules));
        })
        .await;
    let mut deploy = job("deploy", &[]);
    deploy.environment = Some("production".into());
    let trigger = Trigger { authors: vec!["linus".into()], ..world.push("o/r") };
    let run = world.run_of(trigger, vec![deploy]).await;
    (world, run)
}

pub async fn a_reviewer_is_named_and_reviews_nothing_of_their_own(world: World) {
    let (world, run) = guarded(world, |rules| {
        (rules.required_approvals, rules.prevent_self_review) = (2, true);
        rules.reviewers = ["ada", "linus", "grace", "acme/release"].map(str::to_owned).to_vec();
    })
    .await;
    let approve = async |yes: Yes| world.store.approve(run, None, yes).await;
    // `ada` pushed it, `linus` wrote it, and who asks for another attempt started that
    for (by, why) in
        [("Ada", "has pushed, written or started this"), ("linus", "written"), ("bob", "none of the reviewers")]
    {
        let refused = approve(by.into()).await;
        assert!(matches!(&refused, Err(StoreError::Refused(reason)) if reason.contains(why)), "{by}: {refused:?}");
    }
    assert_eq!(approve("grace".into()).await.unwrap(), ["deploy"]);
    assert_eq!(approve("Grace".into()).await.unwrap(), ["deploy"]);
    let worker = world.worker("w", "1").await;
    assert!(world.store.claim_job(&worker).await.unwrap().is_none(), "one person counts once, however written");
    let of_team = Yes { teams: vec!["acme/release".into()], ..Yes::from("bob") };
    assert_eq!(approve(of_team).await.unwrap(), ["deploy"]);
    let deploy = world.claim(&worker).await;
    world.finish(&deploy, Conclusion::Failure).await;
    // who asks for it again does not count any more
    world.store.rerun(run, Again::of(AttemptKind::Whole, "grace (in #7)").deploying(Deploys::Repeat)).await.unwrap();
    assert!(world.store.claim_job(&worker).await.unwrap().is_none());
    assert!(world.jobs(run).await[0].contains("1 of 2 approvals (by bob)"), "{:?}", world.jobs(run).await);
    let given = world.store.run_detail(run, None).await.unwrap().given;
    assert_eq!(given.len(), 3, "what was said is kept: {given:?}");
}

pub async fn a_gate_opens_in_time_and_is_closed_at_the_claim_where_its_time_is_over(world: World) {
    // the clock begins on a Tuesday, 2023-11-14T22:13:20Z
    let freeze = |cron: &str, hours: u64| FreezeConfig {
        cron: Some(cron.into()),
        duration: Some(Span::seconds(hours * 3600)),
        ..FreezeConfig::default()
    };
    let (world, run) = guarded(world, |rules| {
        rules.wait_timer = Some(Span::seconds(600));
        rules.freeze = vec![freeze("0 23 14 NOV *", 48)];
    })
    .await;
    let worker = world.worker("w", "1").await;
    assert!(
        world.jobs(run).await[0].starts_with("deploy waiting: `production` waits 10m"),
        "{:?}",
        world.jobs(run).await
    );
    assert_eq!(world.store.next_expiry().await.unwrap(), Some(world.store.now() + Duration::from_secs(600)));
    assert!(matches!(world.store.approve(run, None, "ada".into()).await, Err(StoreError::Conflict(_))));
    let mut bell = world.store.doorbell().listen(segue_runner::store::Bell::Jobs);
    world.pass(Duration::from_secs(600));
    world.store.reap_expired().await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), bell.rung()).await.expect("its time has come");
    assert_eq!(world.jobs(run).await, ["deploy queued"]);
    // nobody took it before the freeze began: the claim finds the gate closed
    world.pass(Duration::from_secs(3600));
    assert!(world.store.claim_job(&worker).await.unwrap().is_none());
    assert_eq!(world.jobs(run).await, ["deploy waiting: `production` is frozen until 2023-11-16 23:00 UTC"]);
    assert_eq!(world.status(run).await, RunStatus::Waiting);
    // a day in the queue is its limit, and waiting for a time is none
    world.pass(Duration::from_secs(40 * 3600));
    world.store.reap_expired().await.unwrap();
    assert!(world.jobs(run).await[0].starts_with("deploy waiting"), "{:?}", world.jobs(run).await);
    let next = world.store.next_expiry().await.unwrap().unwrap();
    world.pass(next.since(world.store.now()));
    world.store.reap_expired().await.unwrap();
    assert_eq!(world.claim(&worker).await.plan.key, "deploy");
}

pub async fn a_job_that_has_begun_goes_on_whatever_begins_meanwhile(world: World) {
    let (cron, duration) = (Some("0 23 14 NOV *".into()), Some(Span::seconds(86_400)));
    let freeze = vec![FreezeConfig { cron, duration, ..FreezeConfig::default() }];
    let guarded = environment(|rules| rules.freeze = freeze);
    let world = world.configured(|config| drop(config.environments.insert("staging".into(), guarded))).await;
    let worker = world.worker("w", "1").await;
    let mut plan = deploy_job("deploy", "staging");
    plan.steps.push(script());
    let run = world.run(vec![plan.clone()]).await;
    let job = world.claim(&worker).await;
    let created = world.ask(&job, b"v1").await.unwrap();
    world.wait(&job, created.rollout).await;
    let rollout = world.claim_rollout(&worker).await;
    // the freeze begins while it is rolled out
    world.pass(Duration::from_secs(3600));
    world.end_rollout(&rollout, RolloutStatus::Succeeded).await;
    let other = world.run(vec![plan]).await;
    let resumed = world.claim(&worker).await;
    assert_eq!((resumed.job, resumed.resume.map(|resume| resume.next_step)), (job.job, Some(1)));
    assert!(world.jobs(other).await[0].starts_with("deploy waiting: `staging` is frozen"), "what has not begun waits");
    assert_eq!(world.status(run).await, RunStatus::Running);
}

pub async fn what_never_opens_ends_and_who_passes_by_is_kept(world: World) {
    let (world, run) = guarded(world, |rules| {
        rules.required_approvals = 1;
        let (cron, duration) = (Some("0 0 * * *".into()), Some(Span::seconds(86_400)));
        rules.freeze = vec![FreezeConfig { cron, duration, ..FreezeConfig::default() }];
    })
    .await;
    assert!(world.jobs(run).await[0].contains("0 of 1 approvals; it is frozen until"), "{:?}", world.jobs(run).await);
    world.store.approve(run, None, "grace".into()).await.unwrap();
    assert!(world.jobs(run).await[0].starts_with("deploy waiting: `production` is frozen until"));
    assert_eq!(world.status(run).await, RunStatus::Waiting);
    let mut deploy = job("deploy", &[]);
    deploy.environment = Some("production".into());
    let other = world.run(vec![deploy]).await;
    let bypass = Yes { bypass: Some("incident 42".into()), ..Yes::from("root") };
    assert_eq!(world.store.approve(other, None, bypass).await.unwrap(), ["deploy"]);
    let worker = world.worker("w", "1").await;
    let claim = world.claim(&worker).await;
    assert_eq!(claim.run, other);
    let given = world.store.run_detail(other, None).await.unwrap().given;
    assert_eq!((given[0].by.as_str(), given[0].bypass.as_deref()), ("root", Some("incident 42")));
    // the incident is over, and the freeze holds for who begins it again: the commit is the same, the time is not
    world.pass(Duration::from_secs(1));
    world.finish(&claim, Conclusion::Failure).await;
    let again = Again::of(AttemptKind::Failed, "ada").deploying(Deploys::Repeat);
    world.store.rerun(other, again).await.unwrap();
    assert!(world.jobs(other).await[0].contains("is frozen until"), "{:?}", world.jobs(other).await);
    for _ in 0..4 {
        world.pass(Duration::from_secs(30 * 24 * 3600));
        world.store.reap_expired().await.unwrap();
    }
    let jobs = world.jobs(run).await;
    assert!(jobs[0].starts_with("deploy failed: its gates did not open within 90 days"), "{jobs:?}");
}
