use std::time::Duration;

use segue_pipelines::checks::{CheckState, checks};
use segue_runner::{
    control::Carried,
    store::{RollbackTarget, StoreError},
};
use segue_schemas::{
    config::{EnvironmentConfig, GitHubAppConfig, GitHubAppId},
    deploy::{JournalKind, Strategy},
    duration::Span,
    id::CommitSha,
    preview::{Preview, PreviewState},
    status::{Conclusion, RolloutStatus, RunStatus},
    time::Timestamp,
    trigger::{Event, Trigger},
    worker_api::{ClaimRequest, CreateRollout, CreatedRollout, JobClaim, RolloutClaim},
};

use crate::world::{World, commit, deploy_job, finish, report};

/// What GitHub tells of a pull request.
fn told(world: &World, number: u64, action: &str, head: CommitSha, at: i64) -> Trigger {
    let event = Event::PullRequest {
        action: action.into(),
        number,
        title: "t".into(),
        head_ref: "topic".into(),
        head,
        head_repository: Some("o/r".into()),
        base_ref: "main".into(),
        base: commit(1),
        draft: false,
        message: String::new(),
        is_closed: action == "closed",
        before: None,
        updated_at: Timestamp(at * 1000),
    };
    Trigger { event, ..world.push("o/r") }
}

async fn hear(world: &World, trigger: Trigger) {
    world.store.accept_delivery(world.delivery(trigger)).await.unwrap();
}

/// Runs a job up to where it asks for a preview.
async fn asking(world: &World, worker: &ClaimRequest, trigger: Trigger) -> JobClaim {
    world.run_of(trigger, vec![deploy_job("preview", "preview")]).await;
    world.claim(worker).await
}

async fn ask(world: &World, claim: &JobClaim) -> segue_runner::store::Result<CreatedRollout> {
    let create = CreateRollout { preview: true, ..world.asks_for(claim, b"v1").await };
    world.store.create_rollout(claim.job, create).await
}

/// A preview that serves; the trigger's pull request is told of by it.
async fn serving(world: &World, worker: &ClaimRequest, trigger: Trigger) -> CreatedRollout {
    let claim = asking(world, worker, trigger).await;
    let created = ask(world, &claim).await.unwrap();
    world.wait(&claim, created.rollout).await;
    let rollout = world.claim_rollout(worker).await;
    assert_eq!(rollout.rollout.id, created.rollout);
    world.end_rollout(&rollout, RolloutStatus::Succeeded).await;
    created
}

async fn only(world: &World) -> Preview {
    let mut all = world.store.previews().await.unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

async fn removal(world: &World, worker: &ClaimRequest) -> RolloutClaim {
    let claim = world.claim_rollout(worker).await;
    assert_eq!(claim.rollout.spec.strategy, Strategy::Remove);
    claim
}

pub async fn a_preview_lives_as_long_as_its_pull_request_is_open(world: World) {
    let worker = world.worker("w", "1").await;
    let created = serving(&world, &worker, told(&world, 7, "opened", commit(10), 10)).await;
    let name = created.release.service.clone();
    assert!(name.starts_with("pr-7-"), "{name}");
    let preview = only(&world).await;
    assert_eq!((preview.state, preview.commit), (PreviewState::Serving, Some(commit(10))));
    assert_eq!(created.url.as_deref(), Some(preview.url.as_str()));
    assert_eq!(preview.url.split(':').nth(1), Some(format!("//{name}.preview.localhost").as_str()));

    // an older word changes nothing
    hear(&world, told(&world, 7, "closed", commit(9), 9)).await;
    hear(&world, told(&world, 7, "synchronize", commit(11), 11)).await;
    assert_eq!(only(&world).await.state, PreviewState::Serving);

    let late = asking(&world, &worker, told(&world, 7, "labeled", commit(11), 11)).await;
    ask(&world, &late).await.unwrap();
    let driven = world.claim_rollout(&worker).await;
    hear(&world, told(&world, 7, "closed", commit(11), 12)).await;
    assert_eq!(only(&world).await.state, PreviewState::Removing);
    let error = world
        .store
        .report_rollout(driven.rollout.id, report(&driven, RolloutStatus::Succeeded, vec![(1, JournalKind::Ended)]));
    assert!(matches!(error.await, Err(StoreError::StaleEpoch { .. })), "who drove it does not any more");
    let error = ask(&world, &late).await.unwrap();
    assert_eq!(error.rollout, driven.rollout.id, "the same step has the same rollout");
    let gone = removal(&world, &worker).await;
    assert!(gone.epoch > driven.epoch);
    world.end_rollout(&gone, RolloutStatus::Succeeded).await;
    assert_eq!(world.store.previews().await.unwrap(), []);
    assert!(world.store.served().await.unwrap().iter().all(|served| served.current.is_none()), "nothing serves");
    assert!(world.store.claim_rollout(&worker).await.unwrap().is_none());

    // told twice, it is gone once
    hear(&world, told(&world, 7, "closed", commit(11), 12)).await;
    assert!(world.store.claim_rollout(&worker).await.unwrap().is_none());
    serving(&world, &worker, told(&world, 7, "reopened", commit(11), 13)).await;
    assert_eq!(only(&world).await.name, name, "it has the name that it had");
}

pub async fn what_asks_too_late_or_for_no_pull_request_is_refused(world: World) {
    let worker = world.worker("w", "1").await;
    let refused = |asked: segue_runner::store::Result<CreatedRollout>, words: &str| match asked {
        Err(StoreError::Refused(why) | StoreError::Outdated(why)) => assert!(why.contains(words), "{why}"),
        other => panic!("{other:?}"),
    };
    let push = asking(&world, &worker, world.push("o/r")).await;
    refused(ask(&world, &push).await, "this run is for a `push`");
    let old = asking(&world, &worker, told(&world, 7, "opened", commit(10), 1)).await;
    hear(&world, told(&world, 7, "synchronize", commit(11), 2)).await;
    refused(ask(&world, &old).await, "newer commit");
    hear(&world, told(&world, 7, "closed", commit(11), 3)).await;
    refused(ask(&world, &old).await, "#7 is closed");
    assert_eq!(world.store.previews().await.unwrap(), []);
    assert_eq!(world.status(old.run).await, RunStatus::Running, "it makes no preview by its action, and is left alone");
}

pub async fn a_run_of_an_older_commit_is_cancelled_and_no_preview_goes_back(world: World) {
    let app = GitHubAppConfig { id: Some(GitHubAppId::Number(1)), private_key_file: Some("key".into()) };
    let world = world.configured(|config| config.github.app = app).await;
    let worker = world.worker("w", "1").await;
    serving(&world, &worker, told(&world, 7, "opened", commit(10), 1)).await;
    let name = world.store.previews().await.unwrap().remove(0).name;
    let back = world.store.create_rollback("preview", &name, RollbackTarget::Previous, "ada".into()).await;
    assert!(matches!(&back, Err(StoreError::Refused(why)) if why.contains("is a preview")), "{back:?}");

    let old = asking(&world, &worker, told(&world, 7, "synchronize", commit(11), 2)).await;
    hear(&world, told(&world, 7, "synchronize", commit(12), 3)).await;
    assert!(matches!(ask(&world, &old).await, Err(StoreError::Outdated(_))));
    let end = finish(&old, Conclusion::Failure);
    world.store.finish_job(old.job, end.clone()).await.unwrap();
    world.store.finish_job(old.job, end).await.expect("the same end once more changes nothing");
    assert_eq!(world.status(old.run).await, RunStatus::Cancelled);
    assert!(world.jobs(old.run).await[0].contains("#7 has the newer commit"), "{:?}", world.jobs(old.run).await);
    let facts = world.store.show_facts(old.run, None).await.unwrap().unwrap();
    let shown: Vec<CheckState> = checks(&facts.run).iter().map(|check| check.state).collect();
    assert_eq!(shown, [CheckState::Cancelled, CheckState::Cancelled]);
    // a failure of its own stays one
    let own = asking(&world, &worker, told(&world, 8, "opened", commit(20), 1)).await;
    world.store.finish_job(own.job, finish(&own, Conclusion::Failure)).await.unwrap();
    assert_eq!(world.status(own.run).await, RunStatus::Failed);
}

pub async fn the_one_idle_for_longest_makes_room_and_time_ends_others(world: World) {
    let few =
        EnvironmentConfig { at_most: Some(2), time_to_live: Some(Span::seconds(3600)), ..EnvironmentConfig::default() };
    let world = world.configured(|config| drop(config.environments.insert("preview".into(), few.clone()))).await;
    let worker = world.worker("w", "1").await;
    for number in 1..=2 {
        serving(&world, &worker, told(&world, number, "opened", commit(10 + number), 1)).await;
        world.pass(Duration::from_secs(60));
    }
    let third = asking(&world, &worker, told(&world, 3, "opened", commit(13), 1)).await;
    let created = ask(&world, &third).await.unwrap();
    let states: Vec<(u64, PreviewState)> =
        world.store.previews().await.unwrap().iter().map(|one| (one.number, one.state)).collect();
    assert_eq!(states, [(1, PreviewState::Removing), (2, PreviewState::Serving), (3, PreviewState::Starting)]);
    for _ in 0..2 {
        let claim = world.claim_rollout(&worker).await;
        let is_removal = claim.rollout.spec.strategy == Strategy::Remove;
        assert_eq!(is_removal, claim.rollout.id != created.rollout);
        world.end_rollout(&claim, RolloutStatus::Succeeded).await;
    }
    assert!(world.store.next_expiry().await.unwrap().is_some());
    world.pass(Duration::from_secs(3600 - 30));
    world.store.reap_expired().await.unwrap();
    let states: Vec<(u64, PreviewState)> =
        world.store.previews().await.unwrap().iter().map(|one| (one.number, one.state)).collect();
    assert_eq!(states, [(2, PreviewState::Removing), (3, PreviewState::Serving)]);
}

pub async fn every_change_of_a_preview_is_to_be_told_below_its_pull_request(world: World) {
    let world = world.configured(|config| config.github.token_file = Some("unused".into())).await;
    let worker = world.worker("w", "1").await;
    let due = async || world.store.due_previews(10).await.unwrap();
    let claim = asking(&world, &worker, told(&world, 7, "opened", commit(10), 10)).await;
    ask(&world, &claim).await.unwrap();
    let first = due().await.remove(0);
    assert_eq!((first.repository.as_str(), first.number, first.comment, first.is_announced), ("o/r", 7, None, false));
    let facts = world.store.preview_facts("o/r", 7).await.unwrap();
    assert!(facts.is_open && !facts.is_settled);
    assert_eq!((facts.previews[0].state, &facts.previews[0].coming), (PreviewState::Starting, &Some(commit(10))));
    world.store.announce_previews(&first).await.unwrap();
    let until = world.store.now() + Duration::from_secs(90);
    world.store.previews_put_off(&first, until, Some("it is away".into())).await.unwrap();
    assert_eq!((due().await, world.store.next_previews_due().await.unwrap()), (vec![], Some(until)));
    world.pass(Duration::from_secs(91));
    let world = world.reopened().await;
    let due = async || world.store.due_previews(10).await.unwrap();
    let again = due().await.remove(0);
    assert_eq!((again.tries, again.is_announced), (1, true));
    // what changes while it is told is told again
    let rollout = world.claim_rollout(&worker).await;
    world.end_rollout(&rollout, RolloutStatus::Succeeded).await;
    world.store.previews_told(&again, Some(7_000_000_000), "d".into()).await.unwrap();
    world.store.previews_shown(&again, world.store.now(), None).await.unwrap();
    let later = due().await.remove(0);
    assert!(later.version > again.version && later.comment == Some(7_000_000_000) && later.told == "d", "{later:?}");
    let facts = world.store.preview_facts("o/r", 7).await.unwrap();
    assert!(facts.is_settled && facts.previews[0].state == PreviewState::Serving);
    world.store.previews_shown(&later, world.store.now(), None).await.unwrap();
    assert_eq!((due().await, world.store.next_previews_due().await.unwrap()), (vec![], None));
    hear(&world, told(&world, 7, "closed", commit(10), 12)).await;
    assert_eq!(due().await.len(), 1);
    assert!(!world.store.preview_facts("o/r", 7).await.unwrap().is_open);
}

pub async fn what_a_host_carries_is_compared_with_what_there_is_to_be(world: World) {
    let worker = world.worker("w", "1").await;
    let created = serving(&world, &worker, told(&world, 7, "opened", commit(10), 10)).await;
    let preview = only(&world).await;
    let one = |name: &str, is_asleep| Carried {
        name: name.into(),
        address: Some(format!("{name}.preview.localhost")),
        release: created.release.clone(),
        is_asleep,
    };
    let carries = async |carried: Vec<Carried>| world.store.host_carries("local", carried).await.unwrap();
    let quiet = async || assert!(world.store.claim_rollout(&worker).await.unwrap().is_none());

    carries(vec![one(&preview.name, true)]).await;
    assert_eq!(only(&world).await.state, PreviewState::Asleep);
    world.pass(Duration::from_secs(60));
    carries(vec![one(&preview.name, false)]).await;
    let woken = only(&world).await;
    assert_eq!((woken.state, woken.expires_at), (PreviewState::Serving, preview.expires_at));
    assert!(woken.touched_at > preview.touched_at, "it was used");

    // another Segue may use the host, and another host may have its name: nothing goes by its word alone
    let mut stray = one("pr-8-api", false);
    stray.release.service = "pr-8-api".into();
    carries(vec![one(&preview.name, false), stray.clone()]).await;
    world.pass(Duration::from_secs(121));
    carries(vec![]).await;
    assert_eq!(only(&world).await.state, PreviewState::Serving);
    quiet().await;

    let relied_on = EnvironmentConfig { remove_unknown: Some(true), ..EnvironmentConfig::default() };
    let world = world.reconfigured(|config| drop(config.environments.insert("preview".into(), relied_on))).await;
    let carries = async |carried: Vec<Carried>| world.store.host_carries("local", carried).await.unwrap();
    let quiet = async || assert!(world.store.claim_rollout(&worker).await.unwrap().is_none());
    // nobody's, by name and address; what else stands in that environment is somebody's
    let elsewhere = Carried { address: Some("pr-9-api.example.com".into()), ..one("pr-9-api", false) };
    carries(vec![one(&preview.name, false), one("api", false), elsewhere]).await;
    quiet().await;
    for _ in 0..2 {
        carries(vec![one(&preview.name, false), stray.clone()]).await;
    }
    let claim = removal(&world, &worker).await;
    assert_eq!(claim.rollout.spec.service.name, "pr-8-api");
    world.end_rollout(&claim, RolloutStatus::Succeeded).await;
    quiet().await;

    // what a host told before a preview came there says nothing of it
    serving(&world, &worker, told(&world, 7, "synchronize", commit(11), 11)).await;
    carries(vec![]).await;
    assert_eq!(only(&world).await.state, PreviewState::Serving);
    world.store.host_carries("other", vec![]).await.unwrap();
    world.pass(Duration::from_secs(121));
    world.store.host_carries("other", vec![]).await.unwrap();
    assert_eq!(only(&world).await.state, PreviewState::Serving);
    carries(vec![]).await;
    let lost = only(&world).await;
    assert_eq!(lost.state, PreviewState::Removing);
    assert!(lost.reason.is_some_and(|reason| reason.contains("`local` does not carry it")));
    let claim = removal(&world, &worker).await;
    world.end_rollout(&claim, RolloutStatus::Succeeded).await;
    assert_eq!(world.store.previews().await.unwrap(), []);
    // told of once more before it had gone
    carries(vec![one(&preview.name, false)]).await;
    removal(&world, &worker).await;
}
