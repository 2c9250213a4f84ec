//! A whole worker, against a server in memory: on the scripted engine where it is about order, on real processes where it
//! is about what they can do.

mod fake_server;

use std::{os::unix::fs::PermissionsExt, path::PathBuf, time::Instant};

use fake_server::FakeServer;
use segue_schemas::{
    id::{Epoch, JobId, RunId},
    plan::JobPlan,
    status::{Conclusion, FailureClass, StepStatus},
    worker_api::{JobFinish, JobReport, Resume, StepReport},
};
use serde_json::json;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::*;
use crate::{
    engine::{UserIds, scripted::Scripted, user::JobUser},
    supervisor::tests::nursery_command,
};

struct World {
    server: Arc<FakeServer>,
    directory: tempfile::TempDir,
}

/// A worker that runs until it is told to stop.
struct Working {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Working {
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

impl World {
    async fn new() -> Self {
        Self::with_lease(6000).await
    }

    async fn with_lease(lease_ms: u64) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        Self { server: FakeServer::start(lease_ms).await, directory }
    }

    fn options(&self) -> WorkerOptions {
        let mut options =
            WorkerOptions::new(&self.server.url, "test-token".to_owned().into(), self.directory.path().join("worker"));
        options.capacity = 1;
        options.kill_grace = Duration::from_millis(300);
        options.shutdown_grace = Duration::from_millis(400);
        options.cleanup_limit = Duration::from_millis(800);
        options.supervisor_command = nursery_command();
        options
    }

    fn start(&self, engine: Arc<dyn Engine>, user: JobUser) -> Working {
        self.start_as(self.options(), engine, JobUsers { shared: user, own: Vec::new() })
    }

    fn start_as(&self, options: WorkerOptions, engine: Arc<dyn Engine>, users: JobUsers) -> Working {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run_with(Arc::new(options), users, engine, shutdown.clone()));
        Working { shutdown, task }
    }

    fn scripted(&self) -> Working {
        // Never taken by the scripted engine; files are given to it as the worker's own.
        let user = JobUser { name: "job".into(), ids: Some(own_ids()) };
        self.start(Arc::new(Scripted::default()), user)
    }

    async fn shell(&self) -> Working {
        let engine = Shell::start(nursery_command()).await.unwrap();
        self.start(Arc::new(engine), user::job_users(None).unwrap().shared)
    }

    fn workspace(&self, job: JobId) -> PathBuf {
        self.directory.path().join("worker/workspaces").join(job.to_string())
    }

    async fn finish(&self) -> JobFinish {
        self.server.until("a job's end", |state| state.finished.pop()).await
    }

    /// The job's end, once its workspace is gone as well.
    async fn whole_end(&self, job: JobId) -> JobFinish {
        let finish = self.finish().await;
        let workspace = self.workspace(job);
        self.server.until("the workspace's removal", |_| (!workspace.exists()).then_some(())).await;
        finish
    }
}

fn own_ids() -> UserIds {
    UserIds { uid: nix::unistd::getuid().as_raw(), gid: nix::unistd::getgid().as_raw() }
}

/// A claim of a job with these steps: `(script, changes)`.
fn claim(steps: &[(&str, serde_json::Value)]) -> JobClaim {
    claim_of(json!({}), steps)
}

fn claim_of(changes: serde_json::Value, steps: &[(&str, serde_json::Value)]) -> JobClaim {
    let steps: Vec<serde_json::Value> = steps
        .iter()
        .enumerate()
        .map(|(n, (script, changes))| {
            let mut step = json!({
                "name": format!("step {n}"), "line": n + 1, "action": { "run": { "script": script, "shell": "bash" } },
            });
            step.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            step
        })
        .collect();
    let mut plan = json!({
        "key": "build", "name": "build", "runs_on": ["linux"], "timeout_seconds": 60, "steps": steps,
    });
    plan.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let plan: JobPlan = serde_json::from_value(plan).unwrap();
    JobClaim {
        job: JobId(Uuid::new_v4()),
        run: RunId(1),
        attempt: 1,
        epoch: Epoch(1),
        plan,
        pipeline: "ci".into(),
        pipeline_env: [("FROM_PIPELINE".to_owned(), "${{ github.ref_name }}".to_owned())].into(),
        contexts: [("github".to_owned(), json!({ "ref": "refs/heads/main", "ref_name": "main" }))].into(),
        secrets: [].into(),
        repository: "acme/shop".into(),
        clone_url: "/no/such/repository".into(),
        mirror: None,
        commit: "0123456789012345678901234567890123456789".parse().unwrap(),
        trusted: true,
        log_offset: 0,
        restore: None,
        gpus: Vec::new(),
        debug: false,
        resume: None,
        token: None,
        held_ms: None,
    }
}

fn none() -> serde_json::Value {
    json!({})
}

fn statuses(steps: &[StepReport]) -> Vec<StepStatus> {
    steps.iter().map(|step| step.status).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_comes_with_the_end_of_the_one_before_it() {
    let world = World::new().await;
    let claims: Vec<_> = (0..3).map(|_| claim(&[("show SEGUE_JOB", none())])).collect();
    for claim in &claims {
        world.server.queue(claim.clone());
    }
    let worker = world.scripted();
    let ended = world.server.until("three ends", |state| (state.finished.len() == 3).then(|| state.finished.clone()));
    assert!(ended.await.iter().all(|finish| finish.conclusion == Conclusion::Success && finish.next.is_some()));
    assert_eq!(world.server.with(|state| state.claims), 1, "the other two came with the ends");
    for claim in &claims {
        world.server.until("its workspace is gone", |_| (!world.workspace(claim.job).exists()).then_some(())).await;
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_token_was_revoked_ends_what_it_holds() {
    let world = World::new().await;
    let claim = claim(&[("show SEGUE_JOB", none())]);
    world.server.with(|state| state.revoked = true);
    world.server.queue(claim);
    let worker = world.scripted();
    let finish = world.finish().await;
    assert_eq!((finish.conclusion, finish.next.is_none()), (Conclusion::Success, true));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_and_hands_values_on() {
    let world = World::new().await;
    let worker = world.scripted();
    let claim = claim_of(
        json!({ "outputs": { "version": "${{ steps.one.outputs.version }}!" }, "env": { "JOB": "${{ env.FROM_PIPELINE }}-job" } }),
        &[
            (
                "show JOB\nappend SEGUE_OUTPUT version=7\nappend GITHUB_ENV ADDED=yes\nappend SEGUE_PATH /opt/x",
                json!({ "id": "one" }),
            ),
            (
                "show OWN\nshow ADDED\nshow PATH\nshow GITHUB_REPOSITORY\nshow SEGUE_JOB",
                json!({ "env": { "OWN": "${{ steps.one.outputs.version }}" } }),
            ),
        ],
    );
    let job = claim.job;
    world.server.queue(claim);
    let finish = world.whole_end(job).await;
    assert_eq!(finish.conclusion, Conclusion::Success, "{finish:?}");
    assert_eq!(finish.outputs["version"], "7!");
    assert_eq!(statuses(&finish.steps), [StepStatus::Succeeded, StepStatus::Succeeded]);
    let log = world.server.log(job);
    assert_eq!(finish.log_bytes, log.len() as u64);
    for line in [
        "JOB=main-job\n",
        "OWN=7\n",
        "ADDED=yes\n",
        "PATH=/opt/x:/usr/local/sbin",
        "GITHUB_REPOSITORY=acme/shop\n",
        "SEGUE_JOB=build\n",
    ] {
        assert!(log.contains(line), "{line:?} in {log}");
    }
    let (first, second) = (&finish.steps[0], &finish.steps[1]);
    let part = |step: &StepReport| {
        log[usize::try_from(step.log_start).unwrap()..usize::try_from(step.log_end).unwrap()].to_owned()
    };
    assert!(part(first).contains("JOB=main-job") && !part(first).contains("OWN="), "{}", part(first));
    assert!(part(second).contains("OWN=7"));
    assert!(world.server.with(|state| state.reports.is_empty()), "a short job reports its end alone");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_failure_is_what_its_if_says() {
    let world = World::new().await;
    let worker = world.scripted();
    let claim = claim(&[
        ("exit 2", json!({ "continue_on_error": true, "id": "soft" })),
        ("print ${{ steps.soft.outcome }} ${{ steps.soft.conclusion }}", none()),
        ("exit 3", none()),
        ("print never", none()),
        ("print cleanup ${{ job.status }}", json!({ "if": "failure()", "name": "clean\n  up ${{ job.status }}" })),
        ("print ${{ nonsense }}", json!({ "if": "always()" })),
    ]);
    let job = claim.job;
    world.server.queue(claim);
    let finish = world.finish().await;
    use StepStatus::{Failed, Skipped, Succeeded};
    assert_eq!(statuses(&finish.steps), [Succeeded, Succeeded, Failed, Skipped, Succeeded, Failed], "{finish:#?}");
    assert_eq!(finish.conclusion, Conclusion::Failure);
    assert_eq!(finish.failure_class, Some(FailureClass::Script));
    assert_eq!(finish.reason.as_deref(), Some("step `step 2`: exit code 3"));
    assert_eq!(finish.steps[0].outcome, Some(Conclusion::Failure));
    assert_eq!(finish.steps[2].exit_code, Some(3));
    assert_eq!(finish.steps[4].name, "clean up failure", "a name is one line");
    assert_eq!(finish.steps[3].reason.as_deref(), Some("an earlier step failed"));
    let log = world.server.log(job);
    assert!(
        log.contains("failure success\n") && log.contains("cleanup failure\n") && log.contains("nonsense"),
        "{log}"
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_the_step_at_once_and_leaves_time_to_clean_up() {
    let world = World::new().await;
    let worker = world.scripted();
    let claim = claim(&[
        ("print running\nhang", none()),
        ("print never", none()),
        ("print tidy", json!({ "if": "cancelled()" })),
        ("ignore-term\nhang", json!({ "if": "always()" })),
    ]);
    let job = claim.job;
    world.server.queue(claim);
    world.server.until("the log", |state| state.logs.contains_key(&job).then_some(())).await;
    world.server.until("a renewal", |state| (state.renewals > 0).then_some(())).await;
    let cancelled = Instant::now();
    world.server.with(|state| state.cancelled.insert(job));
    let finish = world.finish().await;
    use StepStatus::{Cancelled, Failed, Skipped, Succeeded};
    assert_eq!(statuses(&finish.steps), [Cancelled, Skipped, Succeeded, Failed], "{finish:#?}");
    assert_eq!(finish.conclusion, Conclusion::Cancelled);
    assert!(finish.steps[3].reason.as_deref().unwrap().contains("steps that run after a cancel"));
    assert!(cancelled.elapsed() < Duration::from_secs(3), "{:?}", cancelled.elapsed());
    assert!(world.server.log(job).contains("tidy\n"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_limits_hold_for_steps_and_jobs() {
    let world = World::new().await;
    let worker = world.scripted();
    world
        .server
        .queue(claim(&[("hang", json!({ "timeout_seconds": 1 })), ("print after", json!({ "if": "failure()" }))]));
    let finish = world.finish().await;
    assert_eq!(finish.failure_class, Some(FailureClass::Timeout));
    assert_eq!(finish.reason.as_deref(), Some("step `step 0`: it took longer than its 1 s"));
    assert_eq!(statuses(&finish.steps), [StepStatus::Failed, StepStatus::Succeeded]);

    world.server.queue(claim_of(
        json!({ "timeout_seconds": 1 }),
        &[("hang", none()), ("print x", json!({ "if": "always()" }))],
    ));
    let finish = world.finish().await;
    assert_eq!(finish.reason.as_deref(), Some("step `step 0`: the job took longer than its 1 s"));
    assert_eq!(statuses(&finish.steps), [StepStatus::Failed, StepStatus::Succeeded]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_no_log_output_or_reason() {
    let world = World::new().await;
    let worker = world.scripted();
    let mut claim = claim_of(
        json!({ "outputs": { "leak": "${{ steps.a.outputs.token }}", "half": "x${{ secrets.TOKEN }}" } }),
        &[
            (
                "print hunter2-token\nshow T\nappend SEGUE_OUTPUT token=hunter2-token\nappend SEGUE_OUTPUT fine=1\nvalue MASK",
                json!({ "id": "a", "env": { "T": "${{ secrets.TOKEN }}", "MASK": "::add-mask::later-mask" } }),
            ),
            ("print later-mask hunter2-token", json!({ "name": "with ${{ secrets.TOKEN }}" })),
            ("${{ fail", json!({ "name": "${{ secrets.TOKEN }}" })),
        ],
    );
    claim.secrets = [("TOKEN".to_owned(), "hunter2-token".to_owned())].into();
    let job = claim.job;
    world.server.queue(claim);
    let finish = world.finish().await;
    let log = world.server.log(job);
    let told = serde_json::to_string(&finish).unwrap();
    for text in [&log, &told] {
        assert!(!text.contains("hunter2") && !text.contains("later-mask"), "{text}");
    }
    assert!(log.contains("T=***\n") && log.contains("*** ***\n"), "{log}");
    // One is made of an output that was left out, the other of the secret itself.
    assert_eq!(finish.outputs.iter().collect::<Vec<_>>(), [(&"leak".to_owned(), &String::new())]);
    assert_eq!(finish.steps[0].outputs.keys().collect::<Vec<_>>(), ["fine"]);
    assert_eq!(finish.steps[1].name, "with ***");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_and_foreign_code_are_refused_without_another_user() {
    let world = World::new().await;
    let worker = world.start(Arc::new(Scripted::default()), JobUser { name: "alice".into(), ids: None });
    let mut with_secret = claim(&[("print x", none())]);
    with_secret.secrets = [("TOKEN".to_owned(), "hunter2".to_owned())].into();
    let mut foreign = claim(&[("print x", none())]);
    foreign.trusted = false;
    for (claim, why) in [(with_secret, "it uses secrets"), (foreign, "pull request from a fork")] {
        world.server.queue(claim);
        let finish = world.finish().await;
        assert_eq!(finish.failure_class, Some(FailureClass::Configuration));
        let reason = finish.reason.unwrap();
        assert!(reason.contains(why) && reason.contains("alice") && reason.contains("useradd"), "{reason}");
    }
    world.server.queue(claim(&[("print x", none())]));
    assert_eq!(world.finish().await.conclusion, Conclusion::Success);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_asks_for_a_container_is_not_let_loose_on_the_host() {
    let world = World::new().await;
    let worker = world.scripted();
    for asks in
        [json!({ "container": { "image": "debian:13" } }), json!({ "services": { "db": { "image": "postgres" } } })]
    {
        let claim = claim_of(asks, &[("print escaped", none())]);
        let job = claim.job;
        world.server.queue(claim);
        let finish = world.finish().await;
        assert_eq!((finish.conclusion, finish.failure_class), (Conclusion::Failure, Some(FailureClass::Configuration)));
        assert!(finish.reason.as_deref().unwrap().contains("asks for a container"), "{finish:#?}");
        assert!(!world.server.log(job).contains("escaped"));
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_hands_the_rest_back_and_goes_on_after_its_start() {
    let world = World::new().await;
    let worker = world.scripted();
    let first = claim(&[
        (
            "append SEGUE_ENV KEPT=1\nappend SEGUE_OUTPUT a=b\nprint ::add-mask::a-secret\nsleep 250",
            json!({ "id": "one" }),
        ),
        ("show KEPT\nprint a-secret ${{ steps.one.outputs.a }}", none()),
    ]);
    world.server.queue(first.clone());
    world.server.until("a report", |state| state.reports.pop()).await;
    worker.stop().await;
    let back = world.server.with(|state| state.handed_back.pop()).expect("handed back");
    assert_eq!(back.next_step, Some(1));
    assert!(world.workspace(first.job).exists());
    let kept_log = world.server.log(first.job);
    assert_eq!(back.log_bytes, kept_log.len() as u64);

    let worker = world.scripted();
    let mut again = first;
    again.epoch = Epoch(2);
    again.log_offset = back.log_bytes;
    again.resume = Some(Resume { next_step: 1, steps: back.steps });
    let job = again.job;
    world.server.queue(again);
    let finish = world.whole_end(job).await;
    assert_eq!(finish.conclusion, Conclusion::Success, "{finish:?}");
    let log = world.server.log(job);
    assert!(log.starts_with(&kept_log) && log.contains("KEPT=1\n") && log.contains("*** b\n"), "{log}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_left_to_go_on_with_goes_when_it_ends_elsewhere() {
    let world = World::new().await;
    let worker = world.scripted();
    let claim = claim(&[("sleep 250", none()), ("print never", none())]);
    let job = claim.job;
    world.server.queue(claim);
    world.server.until("a report", |state| state.reports.pop()).await;
    worker.stop().await;
    let state = world.directory.path().join(format!("worker/state/{job}.json"));
    assert!(world.workspace(job).exists() && state.exists(), "it is to go on here");

    let worker = world.scripted();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(world.workspace(job).exists());
    world.server.with(|state| state.ended.insert(job));
    world.server.until("the removal", |_| (!world.workspace(job).exists() && !state.exists()).then_some(())).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_ends_what_jobs_of_an_earlier_one_left_running() {
    let world = World::new().await;
    let sleep_in = |workspace: PathBuf| {
        std::process::Command::new("sleep").arg("600").env("SEGUE_WORKSPACE", workspace).spawn().unwrap()
    };
    let mut left = sleep_in(world.workspace(JobId(Uuid::new_v4())).join("work"));
    let mut of_another_worker = sleep_in(world.directory.path().join("worker-2/workspaces/x/work"));
    let worker = world.scripted();
    let ended = world.server.until("its end", |_| left.try_wait().unwrap()).await;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9));
    assert!(of_another_worker.try_wait().unwrap().is_none(), "what is not this worker's lives on");
    of_another_worker.kill().unwrap();
    of_another_worker.wait().unwrap();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_outlasts_the_grace_begins_anew_unless_it_changes_an_environment() {
    for environment in [None, Some("production")] {
        let world = World::new().await;
        let worker = world.scripted();
        let claim = claim_of(json!({ "environment": environment }), &[("print x", none()), ("hang", none())]);
        world.server.queue(claim);
        let is_second = |report: &JobReport| report.steps.iter().any(|step| step.index == 1);
        world.server.until("a report", |state| state.reports.iter().any(is_second).then_some(())).await;
        worker.stop().await;
        if environment.is_none() {
            let back = world.server.with(|state| state.handed_back.pop()).expect("handed back");
            assert_eq!(back.next_step, None);
        } else {
            let finish = world.server.with(|state| state.finished.pop()).expect("ended");
            assert_eq!(finish.failure_class, Some(FailureClass::WorkerLost));
            let reason = finish.reason.unwrap();
            assert!(reason.contains("step 1") && reason.contains("production"), "{reason}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_may_change_the_world_starts_once_the_server_knows_of_it() {
    for (changes, waits) in [
        (json!({ "environment": "production" }), true),
        (json!({ "environment": "production", "idempotent": true }), false),
        (json!({}), false),
    ] {
        let world = World::new().await;
        let engine = Scripted::default();
        let worker = world.start(Arc::new(engine.clone()), JobUser { name: "job".into(), ids: Some(own_ids()) });
        let started = || engine.history().iter().any(|done| done.starts_with("start"));
        world.server.with(|state| state.holds_reports = true);
        world.server.queue(claim_of(changes, &[("print x\nsleep 300", none()), ("print y", none())]));
        if waits {
            world.server.until("a renewal", |state| (state.renewals > 0).then_some(())).await;
            tokio::time::sleep(Duration::from_millis(400)).await;
            assert!(!started(), "it started although the server does not know");
            world.server.with(|state| state.holds_reports = false);
        }
        world.server.until("the start", |_| started().then_some(())).await;
        if waits {
            let told =
                world.server.with(|state| state.reports.iter().flat_map(|r| r.steps.clone()).collect::<Vec<_>>());
            assert!(told.iter().any(|step| (step.index, step.status) == (0, StepStatus::Running)), "{told:?}");
        }
        let finish = world.finish().await;
        assert_eq!(statuses(&finish.steps), [StepStatus::Succeeded, StepStatus::Succeeded]);
        world.server.with(|state| state.holds_reports = false);
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_go_on_here_begins_anew_or_says_so() {
    let world = World::new().await;
    let worker = world.scripted();
    for environment in [None, Some("production")] {
        let mut claim = claim_of(json!({ "environment": environment }), &[("print x", none()), ("print y", none())]);
        claim.resume = Some(Resume { next_step: 1, steps: Vec::new() });
        world.server.queue(claim);
        if environment.is_none() {
            let back = world.server.until("a hand-back", |state| state.handed_back.pop()).await;
            assert_eq!(back.next_step, None);
        } else {
            let finish = world.finish().await;
            assert_eq!(finish.failure_class, Some(FailureClass::Infrastructure));
            assert!(finish.reason.unwrap().contains("has its workspace no more"));
        }
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_stops_everything_and_reports_nothing() {
    let world = World::new().await;
    let engine = Scripted::default();
    let worker = world.start(Arc::new(engine.clone()), JobUser { name: "job".into(), ids: Some(own_ids()) });
    let claim = claim(&[("print x\nhang", none())]);
    let job = claim.job;
    world.server.queue(claim);
    world.server.until("a renewal", |state| (state.renewals > 0).then_some(())).await;
    world.server.with(|state| state.epochs.insert(job, Epoch(2)));
    let workspace = world.workspace(job);
    world.server.until("the workspace's removal", |_| (!workspace.exists()).then_some(())).await;
    assert!(engine.history().contains(&"kill".to_owned()));
    assert!(world.server.with(|state| state.finished.is_empty() && state.handed_back.is_empty()));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_lost_and_comes_again_to_another_slot_begins_when_the_first_is_cleaned_up() {
    let world = World::new().await;
    let mut options = world.options();
    options.capacity = 2;
    let users = user::job_users(None).unwrap();
    let worker = world.start_as(options, Arc::new(Shell::start(nursery_command()).await.unwrap()), users);
    let first = claim(&[("sleep 60", none())]);
    let mut again = claim(&[("sleep 2", none()), ("echo whole", none())]);
    (again.job, again.epoch) = (first.job, Epoch(first.epoch.0 + 1));
    world.server.queue(first);
    world.server.until("a renewal", |state| (state.renewals > 0).then_some(())).await;
    // the server has given the job up before its slot has noticed
    let job = again.job;
    world.server.queue(again);
    let finish = world.whole_end(job).await;
    assert_eq!((finish.conclusion, finish.epoch.0), (Conclusion::Success, 2), "{finish:?}");
    assert!(world.server.log(job).contains("whole\n"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_lease_cannot_be_renewed_is_stopped_before_it_ends_and_the_servers_to_judge() {
    for changes in [json!({}), json!({ "environment": "production" })] {
        let world = World::with_lease(1800).await;
        let engine = Scripted::default();
        let worker = world.start(Arc::new(engine.clone()), JobUser { name: "job".into(), ids: Some(own_ids()) });
        let claim = claim_of(
            changes,
            &[("print x", none()), ("print y\nhang", none()), ("print z", json!({ "if": "always()" }))],
        );
        let job = claim.job;
        world.server.queue(claim);
        let is_second = |report: &JobReport| report.steps.iter().any(|step| step.index == 1);
        world.server.until("a report", |state| state.reports.iter().any(is_second).then_some(())).await;
        world.server.with(|state| state.away = true);
        world.server.until("its end", |_| engine.history().contains(&"kill".to_owned()).then_some(())).await;
        // the lease has not ended yet, and the worker's word gets through
        world.server.with(|state| state.away = false);
        let lost = world.server.until("what it says of it", |state| state.lost.pop()).await;
        assert_eq!(statuses(&lost.steps), [StepStatus::Succeeded, StepStatus::Running], "which step it was is known");
        assert!(world.server.with(|state| state.finished.is_empty() && state.handed_back.is_empty()));
        let log = world.server.with(|state| String::from_utf8_lossy(&state.logs[&job]).into_owned());
        assert!(log.contains("could not be reached until the lease ended"), "{log}");
        let workspace = world.workspace(job);
        world.server.until("the workspace's removal", |_| (!workspace.exists()).then_some(())).await;
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_for_a_moment_misses_nothing() {
    let world = World::new().await;
    let worker = world.scripted();
    let claim = claim(&[("print before\nsleep 600\nprint after", none())]);
    let job = claim.job;
    world.server.queue(claim);
    world.server.until("a renewal", |state| (state.renewals > 0).then_some(())).await;
    world.server.with(|state| state.away = true);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    world.server.with(|state| state.away = false);
    let finish = world.finish().await;
    assert_eq!(finish.conclusion, Conclusion::Success);
    assert!(world.server.log(job).contains("before\nafter\n"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_its_rollout_without_its_slot_and_goes_on() {
    let world = World::new().await;
    let worker = world.shell().await;
    let uses = |uses: &str, with: serde_json::Value| {
        json!({
            "action": { "uses": { "uses": uses, "with": with } }, "id": "it",
            "continue_on_error_when": "${{ job.status == 'success' }}",
        })
    };
    let first = claim_of(
        json!({ "environment": "staging" }),
        &[
            (
                "mkdir -p .segue/services dist && echo '#!' > dist/run && echo 'command: [./run]' > .segue/services/app.yml",
                none(),
            ),
            ("", uses("segue/deploy", json!({ "service": "app", "path": "dist" }))),
            ("echo rollout ${{ steps.it.outputs.status }}; ls dist", none()),
        ],
    );
    world.server.queue(first.clone());
    let wait = world.server.until("a wait", |state| state.waits.pop()).await;
    assert_eq!((wait.rollout.0, wait.step), (7, 1));
    assert_eq!(wait.may_fail, Some(true), "what the expression came to");
    assert_eq!(statuses(&wait.steps), [StepStatus::Succeeded, StepStatus::Waiting]);
    let create = world.server.with(|state| state.rollouts.pop()).unwrap();
    assert_eq!((create.environment.as_str(), create.step, create.service.name.as_str()), ("staging", 1, "app"));
    assert!(world.server.with(|state| state.blobs.contains_key(create.digest.as_str())));

    let mut again = first;
    again.epoch = Epoch(2);
    again.log_offset = wait.log_bytes;
    let mut steps = wait.steps;
    steps[1].status = StepStatus::Succeeded;
    steps[1].outcome = Some(Conclusion::Success);
    steps[1].outputs.insert("status".into(), "succeeded".into());
    again.resume = Some(Resume { next_step: 2, steps });
    let job = again.job;
    world.server.queue(again);
    let finish = world.whole_end(job).await;
    assert_eq!(finish.conclusion, Conclusion::Success, "{finish:?} {}", world.server.log(job));
    assert!(world.server.log(job).contains("rollout succeeded\nrun\n"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_steps_check_out_build_and_pass_artifacts_on_as_another_user() {
    let world = World::new().await;
    let origin = world.directory.path().join("origin");
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git")
            .arg("-C")
            .arg(world.directory.path())
            .args(["-c", "user.name=t", "-c", "user.email=t@t"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "--quiet", "-b", "main", "origin"]);
    std::fs::write(origin.join("app.txt"), "content").unwrap();
    git(&["-C", "origin", "add", "."]);
    git(&["-C", "origin", "commit", "--quiet", "-m", "first"]);
    git(&["clone", "--quiet", "--bare", "origin", "mirror"]);
    let commit = git(&["-C", "origin", "rev-parse", "HEAD"]);
    // The mirror is the server's; the job's user can't reach it.
    std::fs::set_permissions(world.directory.path().join("mirror"), std::fs::Permissions::from_mode(0o700)).unwrap();

    let worker = world.shell().await;
    let uses = |uses: &str, with: serde_json::Value| json!({ "action": { "uses": { "uses": uses, "with": with } } });
    let mut claim = claim(&[
        ("", uses("segue/checkout", none())),
        (
            "git log --format=%s; git status --porcelain | wc -l; git rev-parse --abbrev-ref HEAD; id -un; mkdir dist && cp app.txt dist/; echo \"$HOME $TMPDIR\" >/dev/stdout",
            none(),
        ),
        ("", uses("segue/upload-artifact", json!({ "name": "app", "path": "dist" }))),
        ("", uses("segue/download-artifact", json!({ "name": "app", "path": "again" }))),
        ("cat again/app.txt; echo; sleep 300 & disown; false | true", none()),
        ("", uses("segue/checkout", json!({ "depth": "1" }))),
    ]);
    claim.commit = commit.parse().unwrap();
    claim.mirror = Some(world.directory.path().join("mirror").to_string_lossy().into_owned());
    let job = claim.job;
    world.server.queue(claim);
    let finish = world.whole_end(job).await;
    let log = world.server.log(job);
    use StepStatus::{Failed, Skipped, Succeeded};
    assert_eq!(statuses(&finish.steps), [Succeeded, Succeeded, Succeeded, Succeeded, Failed, Skipped], "{log}");
    let user = user::job_users(None).unwrap().shared.name;
    assert!(log.contains(&format!("first\n0\nmain\n{user}\n")), "{log}");
    assert!(log.contains("content\n"), "{log}");
    assert_eq!(finish.steps[4].exit_code, Some(1), "a pipe fails with any of its commands");
    worker.stop().await;
}

/// Jobs side by side that each have a user of their own can't look into each other, nor end each other.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_with_users_of_their_own_are_closed_to_each_other() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not root: jobs here have no user of their own");
        return;
    }
    let world = World::new().await;
    let user = |uid| JobUser { name: format!("job-{uid}"), ids: Some(UserIds { uid, gid: uid }) };
    let users = JobUsers { shared: user(61_000), own: vec![user(61_001), user(61_002)] };
    let (mut options, meeting) = (world.options(), tempfile::tempdir().unwrap());
    options.capacity = 2;
    std::fs::set_permissions(meeting.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
    let at = meeting.path().display();
    let worker = world.start_as(options, Arc::new(Shell::start(nursery_command()).await.unwrap()), users);
    let quiet = format!(
        "id -u; echo mine > file; mkfifo {at}/end; chmod 666 {at}/end; echo $$ $PWD > {at}/pid; read word < {at}/end; echo $word"
    );
    let curious = format!(
        "until test -s {at}/pid; do sleep 0.05; done; read pid dir < {at}/pid; id -u\n\
         cat /proc/$pid/environ || echo no environment\n\
         kill -KILL $pid || echo no kill\n\
         cat $dir/file || echo no file\n\
         echo whole > {at}/end"
    );
    let own = json!({ "env": { "SECRET": "s3cret-value" } });
    let (first, second) = (claim_of(own, &[(&quiet, none())]), claim(&[(&curious, none())]));
    let (quiet, curious) = (first.job, second.job);
    world.server.queue(first);
    world.server.queue(second);
    for _ in 0..2 {
        let finish = world.finish().await;
        assert_eq!(finish.conclusion, Conclusion::Success, "{finish:?} {}", world.server.log(curious));
    }
    let (quiet, curious) = (world.server.log(quiet), world.server.log(curious));
    assert!(quiet.contains("whole\n"), "{quiet}");
    for denied in ["no environment\n", "no kill\n", "no file\n"] {
        assert!(curious.contains(denied), "{denied} {curious}");
    }
    assert!(!curious.contains("s3cret-value") && !curious.contains("mine\n"), "{curious}");
    let uid = |log: &str| log.lines().find(|line| line.starts_with("6100")).map(str::to_owned);
    assert!(uid(&quiet).is_some() && uid(&quiet) != uid(&curious), "{quiet} {curious}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_in_the_same_directory_is_refused_and_the_name_is_kept() {
    let world = World::new().await;
    let worker = world.scripted();
    world.server.queue(claim(&[("print x", none())]));
    world.finish().await;
    let users = JobUsers { shared: JobUser { name: "job".into(), ids: None }, own: Vec::new() };
    let second =
        run_with(Arc::new(world.options()), users, Arc::new(Scripted::default()), CancellationToken::new()).await;
    assert!(second.unwrap_err().to_string().contains("another worker"));
    let kept = name(&world.options()).unwrap();
    assert_eq!(name(&world.options()).unwrap(), kept);
    worker.stop().await;
}

#[tokio::test]
async fn a_wrong_token_is_said_at_once() {
    let world = World::new().await;
    let mut options = world.options();
    options.token = "wrong".to_owned().into();
    let users = JobUsers { shared: JobUser { name: "job".into(), ids: None }, own: Vec::new() };
    let result = run_with(Arc::new(options), users, Arc::new(Scripted::default()), CancellationToken::new()).await;
    assert!(matches!(result, Err(WorkerError::ControlPlane(ControlPlaneError::Unauthorized { .. }))), "{result:?}");
}

/// Prints how long a claim takes until its first command runs; run with `--release --run-ignored all --no-capture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn claim_to_first_command() {
    let world = World::new().await;
    let worker = world.shell().await;
    let mut samples = Vec::new();
    let mut ends = Vec::new();
    for _ in 0..200 {
        let claim = claim(&[("date +%s%N", none())]);
        let job = claim.job;
        tokio::time::sleep(Duration::from_millis(3)).await;
        let asked = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let begun = Instant::now();
        world.server.queue(claim);
        world.finish().await;
        ends.push(begun.elapsed().as_secs_f64() * 1e3);
        let log = world.server.log(job);
        let at: u128 = log.lines().find_map(|line| line.parse().ok()).expect("a time");
        samples.push((at - asked.as_nanos()) as f64 / 1e6);
    }
    for (what, samples) in [("claim -> first command", &mut samples), ("claim -> finish", &mut ends)] {
        samples.sort_by(f64::total_cmp);
        eprintln!("{what}: p50 {:.2} ms, p95 {:.2} ms", samples[100], samples[190]);
    }
    worker.stop().await;
}
