use std::time::Duration;

use segue_runner::store::{ReleaseFilter, RollbackTarget, RolloutFilter, StoreError};
use segue_schemas::{
    config::NotificationEvent,
    deploy::{JournalKind, Release, RolloutCommand},
    host_api::{EmergencyResult, HostState},
    id::Epoch,
    status::{Conclusion, JobStatus, RolloutStatus, RunStatus},
    time::Timestamp,
    worker_api::{ClaimRequest, CreateRollout, RolloutHandBack, RolloutRenewed},
};

use serde_json::json;

use crate::world::{World, deploy_job, report, running, script};

const LEASE: Duration = Duration::from_secs(30);

pub async fn a_deploy_waits_without_a_slot_and_goes_on(world: World) {
    let worker = world.worker_with("w", "1", 1, &["default"]).await;
    let mut plan = deploy_job("deploy", "staging");
    plan.steps.push(script());
    plan.outputs.insert("release".into(), "${{ steps.deploy.outputs.release }}".into());
    let run = world.run(vec![plan]).await;
    let job = world.claim(&worker).await;
    let created = world.ask(&job, b"v1").await.unwrap();
    assert_eq!(world.ask(&job, b"v1").await.unwrap().rollout, created.rollout, "one step has one rollout");
    world.wait(&job, created.rollout).await;
    world.wait(&job, created.rollout).await;
    assert_eq!(world.status(run).await, RunStatus::Waiting);
    world.run(vec![crate::world::job("other", &[])]).await;
    let other = world.claim(&worker).await;
    world.finish(&other, Conclusion::Success).await;
    let rollout = world.claim_rollout(&worker).await;
    assert_eq!((rollout.rollout.status, rollout.epoch), (RolloutStatus::Running, Epoch(1)));
    assert!(rollout.hosts["local"].ends_with("host/host.sock"));
    assert_eq!(rollout.artifacts.len(), 1);
    world.end_rollout(&rollout, RolloutStatus::Succeeded).await;
    let resumed = world.claim(&worker).await;
    let resume = resumed.resume.clone().unwrap();
    assert_eq!((resumed.job, resume.next_step), (job.job, 1));
    assert_eq!(resume.steps[0].outputs["status"], "succeeded");
    assert_eq!(resume.steps[0].outputs["release"], created.release.id.to_string());
    world.finish(&resumed, Conclusion::Success).await;
    assert_eq!(world.status(run).await, RunStatus::Succeeded);

    // a job with nothing after its deploy ends without a worker, with its outputs
    let mut last = deploy_job("deploy", "staging");
    last.outputs.insert("release".into(), "${{ steps.deploy.outputs.release }}".into());
    let run = world.run(vec![last]).await;
    let job = world.claim(&worker).await;
    let created = world.ask(&job, b"v2").await.unwrap();
    let rollout = world.claim_rollout(&worker).await;
    world.end_rollout(&rollout, RolloutStatus::Succeeded).await;
    assert_eq!(world.store.job(job.job).await.unwrap().status, JobStatus::Leased);
    // the rollout was faster than the word that the job waits
    world.wait(&job, created.rollout).await;
    let ended = world.store.job(job.job).await.unwrap();
    assert_eq!(ended.outputs["release"], created.release.id.to_string());
    assert_eq!(world.status(run).await, RunStatus::Succeeded);
}

pub async fn a_job_whose_rollout_fails_ends_with_its_reason(world: World) {
    let worker = world.worker("w", "1").await;
    world.deployed(&worker, "staging", b"v1").await;
    let (run, job, created) = world.deploy(&worker, "staging", b"v2").await;
    let rollout = world.claim_rollout(&worker).await;
    let mut end = report(&rollout, RolloutStatus::RolledBack, vec![(1, JournalKind::Verdict), (2, JournalKind::Ended)]);
    end.reason = Some("20 of 50 requests failed".into());
    end.verdict = Some(serde_json::json!({ "errors": 20 }));
    world.store.report_rollout(created.rollout, end).await.unwrap();
    assert_eq!(world.jobs(run).await, ["deploy failed: the rollout was rolled back: 20 of 50 requests failed"]);
    assert_eq!(world.store.job(job.job).await.unwrap().failure_class.map(|c| c.as_str()), Some("rollout"));
    let told = world.store.due_notifications(10).await.unwrap();
    assert_eq!(told[0].event, NotificationEvent::RolledBack);
    assert_eq!(told[0].detail["verdict"]["errors"], 20);
    let served = world.store.served().await.unwrap();
    assert_ne!(served[0].current.as_ref().unwrap().id, created.release.id, "the record says that the old one serves");
}

pub async fn a_failure_that_an_expression_allows_is_none_of_the_job(world: World) {
    let worker = world.worker("w", "1").await;
    for (may_fail, ended) in [(Some(true), "deploy succeeded"), (Some(false), "deploy failed"), (None, "deploy failed")]
    {
        let run = world.run(vec![deploy_job("deploy", "staging")]).await;
        let claim = world.claim(&worker).await;
        let created = world.ask(&claim, b"v1").await.unwrap();
        world.wait_forgiving(&claim, created.rollout, may_fail).await;
        // it is kept with the job
        let rollout = world.claim_rollout(&worker).await;
        world.end_rollout(&rollout, RolloutStatus::RolledBack).await;
        assert!(world.jobs(run).await[0].starts_with(ended), "{may_fail:?}: {:?}", world.jobs(run).await);
    }
}

pub async fn one_rollout_at_a_time_per_pair(world: World) {
    let worker = world.worker("w", "1").await;
    let (_, _, first) = world.deploy(&worker, "staging", b"v1").await;
    let (_, _, second) = world.deploy(&worker, "staging", b"v2").await;
    let (_, _, elsewhere) = world.deploy(&worker, "preview", b"v2").await;
    let (a, b) = tokio::join!(world.claim_rollout(&worker), world.claim_rollout(&worker));
    let mut claimed = [a.rollout.id, b.rollout.id];
    claimed.sort_unstable();
    assert_eq!(claimed, [first.rollout, elsewhere.rollout]);
    assert!(world.store.claim_rollout(&worker).await.unwrap().is_none(), "the slot of the pair is taken");
    let first_claim = if a.rollout.id == first.rollout { a } else { b };
    world.end_rollout(&first_claim, RolloutStatus::Succeeded).await;
    let next = world.claim_rollout(&worker).await;
    assert_eq!((next.rollout.id, next.epoch), (second.rollout, Epoch(2)), "epochs rise over the rollouts of the pair");
    assert_eq!(next.rollout.spec.previous.as_ref(), Some(&first.release), "it replaces what serves now");
}

pub async fn an_older_worker_is_given_no_rollout_that_it_can_not_drive(world: World) {
    let worker = world.worker("w", "1").await;
    let run = world.run(vec![deploy_job("deploy", "staging")]).await;
    let claim = world.claim(&worker).await;
    let strategy = segue_schemas::deploy::Strategy::Rolling(segue_schemas::strategy::RollingSpec::default());
    let create = CreateRollout { strategy, ..world.asks_for(&claim, b"v1").await };
    let created = world.store.create_rollout(claim.job, create).await.unwrap();
    world.wait(&claim, created.rollout).await;
    let (_, _, elsewhere) = world.deploy(&worker, "preview", b"v2").await;
    let older = ClaimRequest { strategies: Vec::new(), ..world.worker("older", "1").await };
    assert_eq!(world.claim_rollout(&older).await.rollout.id, elsewhere.rollout, "it keeps no other one back");
    // and none of its own pair goes before it
    let (_, _, behind) = world.deploy(&worker, "staging", b"v3").await;
    assert!(world.store.claim_rollout(&older).await.unwrap().is_none());
    // whoever can drive it has it at once
    let claimed = world.claim_rollout(&worker).await;
    assert_eq!(claimed.rollout.id, created.rollout);
    world.end_rollout(&claimed, RolloutStatus::Succeeded).await;
    let behind_claim = world.claim_rollout(&older).await;
    assert_eq!(behind_claim.rollout.id, behind.rollout);
    world.end_rollout(&behind_claim, RolloutStatus::Succeeded).await;
    // nor one whose service asks for what it does not know
    let run_of_service = world.run(vec![deploy_job("deploy", "staging")]).await;
    let claim = world.claim(&worker).await;
    let mut create = world.asks_for(&claim, b"v4").await;
    create.service.sticky = Some(serde_json::from_str(r#"{"cookie":"segue-client"}"#).unwrap());
    let asking = world.store.create_rollout(claim.job, create).await.unwrap();
    assert!(world.store.claim_rollout(&older).await.unwrap().is_none());
    assert_eq!(world.claim_rollout(&worker).await.rollout.id, asking.rollout);
    assert_eq!((world.jobs(run).await.len(), world.jobs(run_of_service).await.len()), (1, 1));
}

pub async fn a_lost_driver_hands_over_under_a_higher_epoch(world: World) {
    let worker = world.worker("w", "1").await;
    let (_, _, created) = world.deploy(&worker, "staging", b"v1").await;
    let first = world.claim_rollout(&worker).await;
    let started = report(&first, RolloutStatus::Running, vec![(1, JournalKind::StartIntent)]);
    world.store.report_rollout(created.rollout, started.clone()).await.unwrap();
    world.pass(LEASE);
    world.store.reap_expired().await.unwrap();
    let late = world.store.report_rollout(created.rollout, started).await;
    assert!(matches!(late, Err(StoreError::StaleEpoch { .. })), "{late:?}");
    let second = world.claim_rollout(&worker).await;
    assert_eq!((second.epoch, second.journal.len()), (Epoch(2), 1));
    assert_eq!(second.rollout.state, Some(serde_json::json!({ "phase": "some" })));
    let hand_back = RolloutHandBack { epoch: second.epoch, reason: "the host is away".into(), not_before_ms: 5000 };
    world.store.hand_back_rollout(created.rollout, hand_back).await.unwrap();
    assert!(world.store.claim_rollout(&worker).await.unwrap().is_none());
    world.pass(Duration::from_secs(5));
    assert_eq!(world.claim_rollout(&worker).await.epoch, Epoch(3));
    let anew = world.worker("w", "2").await;
    assert_eq!(world.claim_rollout(&anew).await.epoch, Epoch(4), "a new incarnation ends the old one's leases");
}

pub async fn the_journal_takes_each_entry_once_and_no_gap(world: World) {
    let worker = world.worker("w", "1").await;
    let (_, _, created) = world.deploy(&worker, "staging", b"v1").await;
    let claim = world.claim_rollout(&worker).await;
    let id = created.rollout;
    let one = report(&claim, RolloutStatus::Running, vec![(1, JournalKind::StartIntent), (2, JournalKind::Started)]);
    world.store.report_rollout(id, one.clone()).await.unwrap();
    world.store.report_rollout(id, one).await.unwrap();
    let gap = report(&claim, RolloutStatus::Running, vec![(4, JournalKind::Ready)]);
    assert!(matches!(world.store.report_rollout(id, gap).await, Err(StoreError::Conflict(_))));
    assert_eq!(world.store.journal(id, 0).await.unwrap().len(), 2);
    assert_eq!(world.store.journal(id, 1).await.unwrap()[0].kind, JournalKind::Started);
    let world = world.reopened().await;
    assert_eq!(world.store.journal(id, 0).await.unwrap().len(), 2);
    let end = report(&claim, RolloutStatus::Failed, vec![(3, JournalKind::NotReady)]);
    world.store.report_rollout(id, end.clone()).await.unwrap();
    world.store.report_rollout(id, end).await.unwrap();
    let after = report(&claim, RolloutStatus::Running, vec![(4, JournalKind::Ready)]);
    assert!(matches!(world.store.report_rollout(id, after).await, Err(StoreError::StaleEpoch { .. })));
}

pub async fn production_refuses_what_has_not_passed_staging(world: World) {
    let worker = world.worker("w", "1").await;
    world.run(vec![deploy_job("deploy", "production")]).await;
    let job = world.claim(&worker).await;
    let refused = world.ask(&job, b"v1").await.unwrap_err();
    assert!(refused.to_string().contains("takes only what has passed `staging`"), "{refused}");
    // asked for and running is not passed
    let (_, _, staged) = world.deploy(&worker, "staging", b"v1").await;
    let rollout = world.claim_rollout(&worker).await;
    assert!(world.ask(&job, b"v1").await.is_err());
    world.end_rollout(&rollout, RolloutStatus::Succeeded).await;
    assert!(world.ask(&job, b"v2").await.is_err(), "another artifact");
    world.ask(&job, b"v1").await.unwrap();
    let (digest, staging) = (staged.release.digest, vec!["staging".to_owned()]);
    assert!(world.artifact(b"v1").await == digest && world.store.required_environments("production") == staging);
    let world = world
        .configured(|config| {
            config.environments.entry("production".into()).or_default().requires = Some(Vec::new());
        })
        .await;
    world.run(vec![deploy_job("deploy", "production")]).await;
    let job = world.claim(&worker).await;
    world.ask(&job, b"v3").await.unwrap();
}

pub async fn a_rollback_aborts_what_runs_first(world: World) {
    let worker = world.worker("w", "1").await;
    let rollback = |target| world.store.create_rollback("staging", "web", target, "ada".into());
    assert!(matches!(rollback(RollbackTarget::Previous).await, Err(StoreError::Refused(_))), "nothing serves");
    let one = world.deployed(&worker, "staging", b"v1").await;
    assert!(matches!(rollback(RollbackTarget::Previous).await, Err(StoreError::Refused(_))), "there is none before");
    let two = world.deployed(&worker, "staging", b"v2").await;

    // nothing runs: a rollout of what was before
    let id = rollback(RollbackTarget::Previous).await.unwrap();
    let back = world.claim_rollout(&worker).await;
    assert_eq!((back.rollout.id, &back.rollout.spec.release), (id, &one.release));
    assert!(back.rollout.spec.is_rollback && back.rollout.run.is_none());
    world.end_rollout(&back, RolloutStatus::Succeeded).await;

    // one runs and another waits: the abort alone brings back what served, and who waited is told
    let (_, _, three) = world.deploy(&worker, "staging", b"v3").await;
    let running = world.claim_rollout(&worker).await;
    let (waiting_run, _, four) = world.deploy(&worker, "staging", b"v4").await;
    assert_eq!(rollback(RollbackTarget::Previous).await.unwrap(), three.rollout);
    assert_eq!(world.store.rollout(four.rollout).await.unwrap().rollout.status, RolloutStatus::Failed);
    assert_eq!(world.status(waiting_run).await, RunStatus::Failed);
    let word = world.store.renew_rollout(three.rollout, running.epoch).await.unwrap();
    assert_eq!((word.command, word.by.as_deref()), (Some(RolloutCommand::Abort), Some("ada (rollback)")));

    // to another release: abort first, then go
    let id = rollback(RollbackTarget::Release(two.release.id)).await.unwrap();
    assert_ne!(id, three.rollout);
    assert!(world.store.claim_rollout(&worker).await.unwrap().is_none(), "the slot is taken until the abort is done");
    world.end_rollout(&running, RolloutStatus::RolledBack).await;
    let back = world.claim_rollout(&worker).await;
    assert_eq!((back.rollout.id, back.rollout.spec.release.id), (id, two.release.id));
    assert_eq!(back.rollout.spec.previous.as_ref().unwrap().id, one.release.id);
    let never = rollback(RollbackTarget::Release(three.release.id)).await;
    assert!(matches!(never, Err(StoreError::Refused(_))), "it has never served: {never:?}");
}

pub async fn rollback_points_have_tags_of_their_own(world: World) {
    let worker = world.worker("w", "1").await;
    let one = world.deployed(&worker, "staging", b"v1").await;
    world.deployed(&worker, "production", b"v1").await;
    world.pass(Duration::from_secs(1));
    world.deployed(&worker, "staging", b"v2").await;
    let points = world.store.rollback_points(None, None).await.unwrap();
    let tags: Vec<_> = points.iter().map(|p| (p.tag.as_str(), p.environment.as_str(), p.current)).collect();
    assert_eq!(
        tags,
        [
            ("rollback-20231114-221321", "staging", true),
            ("rollback-20231114-221320-2", "production", true),
            ("rollback-20231114-221320", "staging", false),
        ]
    );
    let wanted = world.store.wanted_tags(10).await.unwrap();
    assert_eq!((wanted.len(), &wanted[0].commit), (3, &one.release.commit));
    world.store.tag_pushed("rollback-20231114-221320", None).await.unwrap();
    world.store.tag_pushed("rollback-20231114-221321", Some("read only".into())).await.unwrap();
    assert_eq!(world.store.wanted_tags(10).await.unwrap().len(), 1);
    let tag = RollbackTarget::Tag("rollback-20231114-221320".into());
    let other = world.store.create_rollback("production", "web", tag.clone(), "ada".into()).await;
    assert!(matches!(other, Err(StoreError::NotFound { .. })), "that of another environment: {other:?}");
    let id = world.store.create_rollback("staging", "web", tag, "ada".into()).await.unwrap();
    let back = world.claim_rollout(&worker).await;
    assert_eq!((back.rollout.id, back.rollout.spec.release.id), (id, one.release.id));
    world.end_rollout(&back, RolloutStatus::Succeeded).await;
    assert_eq!(world.store.rollback_points(None, None).await.unwrap().len(), 3, "it is a point already");
    let filter = ReleaseFilter { environment: Some("production".into()), limit: 10, ..Default::default() };
    let releases = world.store.releases(filter).await.unwrap();
    assert_eq!(releases.len(), 1);
    assert!(releases[0].1.len() == 1 || releases[0].1.len() == 2);
}

pub async fn a_word_is_given_once_to_each_owner(world: World) {
    let worker = world.worker("w", "1").await;
    let (_, _, created) = world.deploy(&worker, "staging", b"v1").await;
    let id = created.rollout;
    let early = world.store.command_rollout(id, RolloutCommand::Promote, "ada".into()).await;
    assert!(matches!(early, Err(StoreError::Conflict(_))), "{early:?}");
    let claim = world.claim_rollout(&worker).await;
    let mut bell = world.store.doorbell().listen(segue_runner::store::Bell::Rollout(id));
    world.store.command_rollout(id, RolloutCommand::Promote, "ada".into()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), bell.rung()).await.expect("the driver is woken");
    let is_told = |renewed: RolloutRenewed| renewed.command == Some(RolloutCommand::Promote);
    assert!(is_told(world.store.rollout_command(id, claim.epoch).await.unwrap()));
    assert!(!is_told(world.store.renew_rollout(id, claim.epoch).await.unwrap()), "once");
    world.pass(Duration::from_secs(10));
    assert!(is_told(world.store.renew_rollout(id, claim.epoch).await.unwrap()), "the answer was lost");
    let back = RolloutHandBack { epoch: claim.epoch, reason: "stops".into(), not_before_ms: 0 };
    world.store.hand_back_rollout(id, back).await.unwrap();
    let claim = world.claim_rollout(&worker).await;
    assert!(is_told(world.store.renew_rollout(id, claim.epoch).await.unwrap()), "the next owner as well");
    let heard = report(&claim, RolloutStatus::Running, vec![(1, JournalKind::Command)]);
    world.store.report_rollout(id, heard).await.unwrap();
    world.pass(Duration::from_secs(10));
    assert!(!is_told(world.store.renew_rollout(id, claim.epoch).await.unwrap()), "the journal has it");
    world.end_rollout_at(&claim, RolloutStatus::Succeeded, 2).await;
    let late = world.store.command_rollout(id, RolloutCommand::Abort, "ada".into()).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
}

pub async fn a_word_has_a_number_and_is_told_until_the_journal_has_that(world: World) {
    let worker = world.worker("w", "1").await;
    let (_, _, created) = world.deploy(&worker, "staging", b"v1").await;
    let (id, store) = (created.rollout, &world.store);
    let claim = world.claim_rollout(&worker).await;
    store.command_rollout(id, RolloutCommand::Skip, "ada".into()).await.unwrap();
    let skip = store.rollout_command(id, claim.epoch).await.unwrap();
    let first = skip.word.expect("it has a number");
    world.pass(Duration::from_secs(10));
    assert_eq!(store.rollout_command(id, claim.epoch).await.unwrap().word, Some(first), "told again it is the same");
    // another takes its place before the journal has the first, and is told at once
    store.command_rollout(id, RolloutCommand::Promote, "ada".into()).await.unwrap();
    let promote = store.rollout_command(id, claim.epoch).await.unwrap();
    assert_eq!(promote.command, Some(RolloutCommand::Promote));
    assert!(promote.word > Some(first), "{promote:?}");
    let heard = |sequence: i64, word: i64| {
        let mut report = report(&claim, RolloutStatus::Running, vec![(sequence, JournalKind::Command)]);
        report.entries[0].detail = serde_json::json!({ "command": "skip", "word": word });
        report
    };
    store.report_rollout(id, heard(1, first)).await.unwrap();
    world.pass(Duration::from_secs(10));
    assert_eq!(store.rollout_command(id, claim.epoch).await.unwrap().word, promote.word, "that one was not heard yet");
    store.report_rollout(id, heard(2, promote.word.unwrap())).await.unwrap();
    world.pass(Duration::from_secs(10));
    assert_eq!(store.rollout_command(id, claim.epoch).await.unwrap().command, None, "the journal has it");
}

pub async fn a_word_that_is_asked_for_again_or_said_twice_is_one(world: World) {
    let worker = world.worker("w", "1").await;
    let (_, _, created) = world.deploy(&worker, "staging", b"v1").await;
    let (id, store) = (created.rollout, &world.store);
    let claim = world.claim_rollout(&worker).await;
    let say = async |command, key: Option<&str>| {
        store.command_rollout_once(id, command, "ada".into(), key.map(str::to_owned)).await
    };
    let told = async || store.rollout_command(id, claim.epoch).await.unwrap();
    say(RolloutCommand::Skip, Some("one")).await.unwrap();
    let word = told().await.word.expect("it has a number");
    // said once more, by whomever, before it was heard
    say(RolloutCommand::Skip, Some("two")).await.unwrap();
    say(RolloutCommand::Skip, None).await.unwrap();
    world.pass(Duration::from_secs(10));
    assert_eq!(told().await.word, Some(word), "it is the one that waits");
    let mut heard = report(&claim, RolloutStatus::Running, vec![(1, JournalKind::Command)]);
    heard.entries[0].detail = serde_json::json!({ "command": "skip", "word": word });
    store.report_rollout(id, heard).await.unwrap();
    // asked for again, as the answers were lost: they were heard
    for key in ["one", "two"] {
        say(RolloutCommand::Skip, Some(key)).await.unwrap();
        world.pass(Duration::from_secs(10));
        assert_eq!(told().await.command, None, "{key}");
    }
    // another one is another, and one in its place that has not been heard is no more
    say(RolloutCommand::Skip, Some("three")).await.unwrap();
    assert!(told().await.word > Some(word));
    say(RolloutCommand::Abort, Some("four")).await.unwrap();
    assert_eq!(told().await.command, Some(RolloutCommand::Abort));
    // once it has ended, who asks again for what was done hears that it was
    world.end_rollout_at(&claim, RolloutStatus::RolledBack, 2).await;
    say(RolloutCommand::Abort, Some("four")).await.unwrap();
    let late = say(RolloutCommand::Abort, Some("five")).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
    // and a hundred are not kept
    let (_, _, created) = world.deploy(&worker, "staging", b"v2").await;
    let claim = world.claim_rollout(&worker).await;
    for number in 0..100 {
        let command = if number % 2 == 0 { RolloutCommand::Skip } else { RolloutCommand::Promote };
        store.command_rollout_once(created.rollout, command, "ada".into(), Some(number.to_string())).await.unwrap();
    }
    let last = store.rollout_command(created.rollout, claim.epoch).await.unwrap().word;
    let again = async |key: &str| {
        store
            .command_rollout_once(created.rollout, RolloutCommand::Skip, "ada".into(), Some(key.into()))
            .await
            .unwrap();
        world.pass(Duration::from_secs(10));
        store.rollout_command(created.rollout, claim.epoch).await.unwrap().word
    };
    assert_eq!(again("98").await, last);
    assert!(again("0").await > last, "so old a one is not known any more");
}

pub async fn an_emergency_ends_what_drove_the_pair(world: World) {
    let worker = world.worker("w", "1").await;
    let one = world.deployed(&worker, "staging", b"v1").await;
    let (run, _, two) = world.deploy(&worker, "staging", b"v2").await;
    let driven = world.claim_rollout(&worker).await;
    let result = EmergencyResult {
        epoch: Epoch(driven.epoch.0 + 1),
        from: Some(two.release.clone()),
        to: one.release.clone(),
        took_us: 800,
        before: Vec::new(),
        stands: None,
    };
    let record = || world.store.record_emergency("staging", "web", result.clone(), "ada: it burns".into(), None);
    let (id, is_new) = record().await.unwrap();
    assert!(is_new);
    assert_eq!(record().await.unwrap(), (id, false), "recorded once");
    let late = world.store.report_rollout(two.rollout, report(&driven, RolloutStatus::Succeeded, vec![])).await;
    assert!(matches!(late, Err(StoreError::StaleEpoch { .. })), "{late:?}");
    assert_eq!(world.store.rollout(two.rollout).await.unwrap().rollout.status, RolloutStatus::RolledBack);
    assert_eq!(world.status(run).await, RunStatus::Failed);
    assert_eq!(world.store.served().await.unwrap()[0].current.as_ref(), Some(&one.release));
    let journal = world.store.journal(id, 0).await.unwrap();
    assert_eq!((journal[0].kind, &journal[0].detail["took_us"]), (JournalKind::Emergency, &800.into()));
    assert_eq!(world.store.highest_epoch("staging", "web").await.unwrap(), result.epoch);
    world.deploy(&worker, "staging", b"v3").await;
    assert_eq!(world.claim_rollout(&worker).await.epoch, result.epoch.next());
    let open = RolloutFilter { open: Some(true), limit: 10, ..Default::default() };
    assert_eq!(world.store.rollouts(open).await.unwrap().len(), 1);
}

pub async fn a_claim_that_knows_nothing_of_an_emergency_is_below_it(world: World) {
    let worker = world.worker("w", "1").await;
    let one = world.deployed(&worker, "staging", b"v1").await;
    let (_, _, two) = world.deploy(&worker, "staging", b"v2").await;
    let seen = world.claim_rollout(&worker).await;
    // the emergency comes between two claims of which the host meets only the first
    let emergency = seen.epoch.after_emergency();
    let back = RolloutHandBack { epoch: seen.epoch, reason: "stops".into(), not_before_ms: 0 };
    world.store.hand_back_rollout(two.rollout, back).await.unwrap();
    let unaware = world.claim_rollout(&worker).await;
    assert!(seen.epoch < unaware.epoch && unaware.epoch < emergency, "the host refuses it");

    let state = host_state(emergency, Some("emergency: ada: it burns"), &one.release);
    for _ in 0..2 {
        segue_runner::reconcile::host(&world.store, "local", &state).await.unwrap();
    }
    assert_eq!(world.store.rollout(two.rollout).await.unwrap().rollout.status, RolloutStatus::RolledBack);
    let all = world.store.rollouts(RolloutFilter { limit: 10, ..Default::default() }).await.unwrap();
    assert_eq!(all.len(), 3, "the emergency is one more, once");
    world.deploy(&worker, "staging", b"v3").await;
    assert_eq!(world.claim_rollout(&worker).await.epoch, emergency.next());
}

pub async fn claims_go_on_above_what_a_host_has_seen(world: World) {
    let worker = world.worker("w", "1").await;
    let one = world.deployed(&worker, "staging", b"v1").await;
    // a server that was put back to an earlier state, and a host that is told twice
    let state = host_state(Epoch(50), None, &one.release);
    for _ in 0..2 {
        segue_runner::reconcile::host(&world.store, "local", &state).await.unwrap();
    }
    world.deploy(&worker, "staging", b"v2").await;
    assert_eq!(world.claim_rollout(&worker).await.epoch, Epoch(51));
}

pub async fn what_a_host_that_stayed_away_carries_is_recorded_when_it_is_back(world: World) {
    let worker = world.worker("w", "1").await;
    for new_serves in [true, false] {
        let environment = if new_serves { "staging" } else { "test" };
        let one = world.deployed(&worker, environment, b"v1").await;
        let (run, _, two) = world.deploy(&worker, environment, b"v2").await;
        let claim = world.claim_rollout(&worker).await;
        let mut unknown = report(&claim, RolloutStatus::Failed, vec![(1, JournalKind::Ended)]);
        unknown.entries[0].detail["serves"] = "unknown".into();
        world.store.report_rollout(two.rollout, unknown).await.unwrap();
        assert_eq!(world.status(run).await, RunStatus::Failed, "the run has ended");
        let serves = if new_serves { &two.release } else { &one.release };
        let mut state = host_state(claim.epoch, None, serves);
        (state.routes[0].environment, state.instances[0].environment) = (environment.into(), environment.into());
        for _ in 0..2 {
            segue_runner::reconcile::host(&world.store, "local", &state).await.unwrap();
        }
        let ended = world.store.rollout(two.rollout).await.unwrap().rollout;
        assert!(ended.reason.unwrap().contains("host `local` is back"));
        let journal = world.store.journal(two.rollout, 1).await.unwrap();
        assert_eq!(journal.len(), 1, "recorded once");
        assert_eq!(journal[0].detail["serves"], if new_serves { "new" } else { "former" });
        let served = world.store.served().await.unwrap();
        let current = served.iter().find(|s| s.environment == environment).unwrap().current.as_ref();
        assert_eq!(current, Some(serves));
    }
}

pub async fn a_waiting_job_that_ends_is_told_to_whoever_keeps_its_workspace(world: World) {
    let worker = world.worker("w", "1").await;
    let (_, waits, created) = world.deploy(&worker, "staging", b"v1").await;
    let stranger = segue_schemas::id::JobId(uuid::Uuid::new_v4());
    let kept = [waits.job, stranger];
    let looked = world.store.look_at_kept(&kept).await.unwrap();
    assert_eq!((looked.ended.len(), looked.open.len()), (0, 1), "one waits, one is not known here");
    let mut bell = world.store.doorbell().listen(segue_runner::store::Bell::Run(looked.open[0]));
    let rollout = world.claim_rollout(&worker).await;
    assert_eq!(rollout.rollout.id, created.rollout);
    let now = || world.store.now();
    let is_heard_since = async |at| world.store.is_heard_since_rollouts("staging", "web", at).await.unwrap();
    assert!(!is_heard_since(now()).await, "the rollout goes on");
    world.end_rollout(&rollout, RolloutStatus::RolledBack).await;
    let ended = now();
    world.pass(Duration::from_secs(1));
    assert!(!is_heard_since(ended).await && is_heard_since(now()).await, "what was told before its end says nothing");
    tokio::time::timeout(Duration::from_secs(5), bell.rung()).await.expect("whoever waits is woken");
    assert_eq!(world.store.look_at_kept(&kept).await.unwrap().ended, [waits.job]);
}

/// A host on which a release serves.
fn host_state(epoch: Epoch, restored: Option<&str>, serves: &Release) -> HostState {
    let restored = restored.map(|reason| json!({ "at": Timestamp(1), "reason": reason, "epoch": epoch }));
    let state = json!({
        "version": "1", "pid": 1, "listen": [], "proxy_pid": null, "releases": [],
        "instances": [{
            "id": "web-1", "environment": "staging", "release": serves, "address": "127.0.0.1:1",
            "state": { "state": "running" }, "pid": 1, "restarts": 0, "retire_at": null, "output": "",
        }],
        "routes": [{
            "environment": "staging", "service": "web", "epoch": epoch, "rules": [], "fallback": [],
            "targets": [{ "instance": "web-1", "weight": 100 }], "dead_man_at": null, "restored": restored,
        }],
    });
    serde_json::from_value(state).unwrap()
}

pub async fn a_rollout_that_was_put_off_is_offered_again_in_time(world: World) {
    let worker = world.worker("w", "1").await;
    let (_, _, created) = world.deploy(&worker, "staging", b"v1").await;
    let claim = world.claim_rollout(&worker).await;
    let later = RolloutHandBack { epoch: claim.epoch, reason: "no host".into(), not_before_ms: 200 };
    world.store.hand_back_rollout(created.rollout, later).await.unwrap();
    assert!(world.store.claim_rollout(&worker).await.unwrap().is_none(), "not before its time");
    assert_eq!(world.store.next_expiry().await.unwrap(), Some(world.store.now() + Duration::from_millis(200)));
    let mut bell = world.store.doorbell().listen(segue_runner::store::Bell::Rollouts);
    let store = world.store.clone();
    let reaper = tokio::spawn(async move { store.run_reaper().await });
    let early = tokio::time::timeout(Duration::from_millis(300), bell.rung()).await;
    assert!(early.is_err(), "the time has not come yet");
    world.pass(Duration::from_millis(200));
    tokio::time::timeout(Duration::from_secs(5), bell.rung()).await.expect("whoever waits for a rollout is woken");
    reaper.abort();
    assert_eq!(world.claim_rollout(&worker).await.rollout.id, created.rollout);
}

pub async fn a_rollout_that_never_begins_ends_after_a_week(world: World) {
    let worker = world.worker("w", "1").await;
    let (_, _, first) = world.deploy(&worker, "staging", b"v1").await;
    let held = world.claim_rollout(&worker).await;
    let (run, _, second) = world.deploy(&worker, "staging", b"v2").await;
    let put_off = RolloutHandBack { epoch: held.epoch, reason: "no host".into(), not_before_ms: u64::from(u32::MAX) };
    world.store.hand_back_rollout(first.rollout, put_off).await.unwrap();
    let week = Duration::from_secs(7 * 86_400);
    assert_eq!(world.store.next_expiry().await.unwrap(), Some(world.store.now() + week));
    world.pass(week - Duration::from_secs(1));
    assert_eq!(world.store.reap_expired().await.unwrap(), 0);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.store.reap_expired().await.unwrap(), 1);
    let ended = world.store.rollout(second.rollout).await.unwrap().rollout;
    assert_eq!(ended.status, RolloutStatus::Failed);
    assert!(ended.reason.unwrap().contains("did not begin within 168 hours"));
    assert_eq!(world.status(run).await, RunStatus::Failed);
    assert!(!world.store.rollout(first.rollout).await.unwrap().rollout.status.is_final(), "what has begun goes on");
}

pub async fn a_lost_worker_that_had_asked_for_a_rollout_waits_for_it(world: World) {
    let worker = world.worker("w", "1").await;
    let run = world.run(vec![deploy_job("deploy", "staging")]).await;
    let job = world.claim(&worker).await;
    world.store.report_steps(job.job, running(job.epoch, 0)).await.unwrap();
    let created = world.ask(&job, b"v1").await.unwrap();
    let anew = world.worker("w", "2").await;
    assert_eq!(world.status(run).await, RunStatus::Waiting);
    let rollout = world.claim_rollout(&anew).await;
    assert_eq!(rollout.rollout.id, created.rollout);
    world.end_rollout(&rollout, RolloutStatus::Succeeded).await;
    assert_eq!(world.status(run).await, RunStatus::Succeeded);
}

pub async fn cancelling_aborts_the_rollout_that_is_waited_for(world: World) {
    let worker = world.worker("w", "1").await;
    // one that nobody drives yet ends at once
    let (run, ..) = world.deploy(&worker, "staging", b"v1").await;
    world.store.cancel_run(run, "ada".into()).await.unwrap();
    assert_eq!(world.status(run).await, RunStatus::Cancelled);
    // one that is driven is aborted by its driver
    let (run, _, created) = world.deploy(&worker, "staging", b"v2").await;
    let rollout = world.claim_rollout(&worker).await;
    world.store.cancel_run(run, "ada".into()).await.unwrap();
    assert_eq!(world.status(run).await, RunStatus::Waiting);
    let word = world.store.renew_rollout(created.rollout, rollout.epoch).await.unwrap();
    assert_eq!(word.command, Some(RolloutCommand::Abort));
    world.end_rollout(&rollout, RolloutStatus::RolledBack).await;
    assert_eq!(world.status(run).await, RunStatus::Cancelled);
}
