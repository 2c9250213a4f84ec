//! What GitHub is to be told of.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use segue_pipelines::checks::{Check, checks};
use segue_runner::store::{
    Asked, AskedOf, Button, DeliveryState, DueButton, DueShow, LeftOut, Meaning, NewDelivery, ShownCheck,
};
use segue_schemas::{
    config::{Config, EnvironmentConfig, GitHubAppConfig, GitHubAppId},
    id::RunId,
    status::{Conclusion, JobStatus, RolloutStatus, RunStatus},
    time::Timestamp,
};

use crate::world::{World, deploy_job, job};

/// Longer than changes are gathered.
const LATER: Duration = Duration::from_secs(2);

fn told(config: &mut Config) {
    config.github.app = GitHubAppConfig { id: Some(GitHubAppId::Number(1)), private_key_file: Some("key".into()) };
}

async fn due(world: &World) -> Vec<DueShow> {
    world.store.due_shows(10).await.unwrap()
}

async fn shown(world: &World, due: &DueShow) {
    world.store.run_shown(due, world.store.now(), None).await.unwrap();
}

pub async fn every_change_of_a_run_is_to_be_told_and_none_twice(world: World) {
    let world = world.configured(told).await;
    let worker = world.worker("w", "1").await;
    let run = world.run(vec![job("a", &[]), job("b", &["a"])]).await;
    let first = due(&world).await;
    assert_eq!(first.iter().map(|due| due.run).collect::<Vec<_>>(), [run], "at once");
    let facts = world.store.show_facts(run, None).await.unwrap().unwrap();
    assert_eq!((facts.repository.as_str(), facts.run.status), ("o/r", RunStatus::Queued));

    // what changes while it is told is to be told afterwards
    let claim = world.claim(&worker).await;
    shown(&world, &first[0]).await;
    world.pass(LATER);
    let second = due(&world).await;
    assert_eq!(second.len(), 1);
    assert!(second[0].version > first[0].version);
    shown(&world, &second[0]).await;
    assert_eq!((due(&world).await, world.store.next_show_due().await.unwrap()), (vec![], None));

    world.finish(&claim, Conclusion::Failure).await;
    world.pass(LATER);
    let world = world.reopened().await;
    assert_eq!(due(&world).await.len(), 1, "a new start knows of it");
    let facts = world.store.show_facts(run, None).await.unwrap().unwrap().run;
    let jobs: Vec<_> = facts.jobs.iter().map(|job| (job.key.as_str(), job.status, job.is_blocked)).collect();
    assert_eq!(jobs, [("a", JobStatus::Failed, false), ("b", JobStatus::Skipped, true)]);
    assert!(world.store.show_facts(RunId(999), None).await.unwrap().is_none());
}

pub async fn what_could_not_be_told_comes_back_and_changes_bring_it_forward(world: World) {
    let world = world.configured(told).await;
    let worker = world.worker("w", "1").await;
    let run = world.run(vec![job("a", &[])]).await;
    let first = due(&world).await[0].clone();
    let until = world.store.now() + Duration::from_secs(60);
    world.store.show_put_off(run, until, Some("it is away".into())).await.unwrap();
    assert_eq!(due(&world).await, []);
    assert_eq!(world.store.next_show_due().await.unwrap(), Some(until));
    world.pass(Duration::from_secs(61));
    let again = due(&world).await;
    assert_eq!((again[0].version, again[0].tries), (first.version, 1));

    let far = world.store.now() + Duration::from_secs(600);
    world.store.show_put_off(run, far, None).await.unwrap();
    world.claim(&worker).await;
    world.pass(LATER);
    assert_eq!(due(&world).await[0].tries, 1, "what ended may be told although what began may not");
}

pub async fn what_github_shows_is_kept_by_attempt_and_goes_with_the_run(world: World) {
    let world = world.configured(told).await;
    let run = world.run(vec![job("a", &[])]).await;
    world.store.announce_checks(run, 1, vec![String::new(), "a".into()]).await.unwrap();
    let pipeline = ShownCheck { id: Some(7_000_000_000), digest: "d".into(), annotations: 3 };
    world.store.check_shown(run, 1, "", pipeline.clone()).await.unwrap();
    // announced once more: what is known stays
    world.store.announce_checks(run, 1, vec![String::new()]).await.unwrap();
    let known = world.store.shown_checks(run, 1).await.unwrap();
    assert_eq!((known.len(), &known[""], &known["a"]), (2, &pipeline, &ShownCheck::default()));
    assert!(world.store.shown_checks(run, 2).await.unwrap().is_empty());
    world.store.check_shown(RunId(999), 1, "", pipeline).await.unwrap();
    assert!(world.store.shown_checks(RunId(999), 1).await.unwrap().is_empty(), "of a run that is gone nothing is kept");
}

pub async fn without_github_nothing_is_noted(world: World) {
    world.run(vec![job("a", &[])]).await;
    assert_eq!((due(&world).await, world.store.next_show_due().await.unwrap()), (vec![], None::<Timestamp>));
}

pub async fn a_run_is_told_of_by_one_of_two_servers(world: World) {
    let world = world.configured(told).await;
    let other = world.another_server().await;
    for _ in 0..10 {
        world.run(vec![job("a", &[])]).await;
        let (one, two) = tokio::join!(world.store.due_shows(10), other.due_shows(10));
        let taken: Vec<_> = [one.unwrap(), two.unwrap()].concat();
        assert_eq!(taken.len(), 1);
        shown(&world, &taken[0]).await;
    }
    // one that dies with it leaves it to the other
    world.run(vec![job("a", &[])]).await;
    assert_eq!(due(&world).await.len(), 1);
    assert_eq!(other.due_shows(10).await.unwrap(), []);
    world.pass(Duration::from_secs(61));
    assert_eq!(other.due_shows(10).await.unwrap().len(), 1);
}

pub async fn a_pipeline_that_was_left_out_is_told_once_unless_it_runs(world: World) {
    let world = world.configured(told).await;
    let trigger = world.push("o/r");
    let one = |file: &str| LeftOut {
        repository: "o/r".into(),
        commit: trigger.event.commit().clone(),
        file: file.into(),
        pipeline: "front".into(),
        reason: "`paths` takes none of them in".into(),
        tries: 0,
    };
    for _ in 0..2 {
        world.store.note_left_out(vec![one("front.yml"), one("back.yml")]).await.unwrap();
    }
    let mut due = world.store.due_left_out(10).await.unwrap();
    due.sort_by(|a, b| a.file.cmp(&b.file));
    assert_eq!(due, [one("back.yml"), one("front.yml")]);
    world.store.left_out_told(&due[0], None).await.unwrap();
    let until = world.store.now() + Duration::from_secs(90);
    world.store.left_out_put_off(&due[1], until, Some("it is away".into())).await.unwrap();
    assert_eq!(world.store.due_left_out(10).await.unwrap(), []);
    assert_eq!(world.store.next_left_out_due().await.unwrap(), Some(until));
    world.pass(Duration::from_secs(91));
    let world = world.reopened().await;
    world.store.note_left_out(vec![one("back.yml")]).await.unwrap();
    let again = world.store.due_left_out(10).await.unwrap();
    assert_eq!((again.len(), again[0].file.as_str(), again[0].tries), (1, "front.yml", 1), "what was told stays told");

    assert!(!world.store.is_run_elsewhere(&again[0]).await.unwrap());
    let run = world.run_of(trigger, vec![job("a", &[])]).await;
    let file = world.store.run(run).await.unwrap().file;
    let running = LeftOut { file, ..again[0].clone() };
    assert!(world.store.is_run_elsewhere(&running).await.unwrap());
}

pub async fn a_button_of_a_check_runs_what_it_stands_for_once(world: World) {
    let world = world.configured(told).await;
    let worker = world.worker("w", "1").await;
    let run = world.run(vec![job("a", &[]), job("b", &[])]).await;
    for (key, id) in [("", 70), ("a", 71), ("b", 72)] {
        let shown = ShownCheck { id: Some(id), ..ShownCheck::default() };
        world.store.check_shown(run, 1, key, shown).await.unwrap();
    }
    let press = async |repository: &str, id: i64| {
        let what = AskedOf::Check { id, failed: false };
        let asked = Asked { repository: repository.into(), by: "ada".into(), what };
        let delivery = NewDelivery { meaning: Meaning::Asks(asked), ..world.delivery(world.push(repository)) };
        let guid = delivery.id.clone();
        world.store.accept_delivery(delivery).await.unwrap();
        let delivery = world.store.delivery(&guid).await.unwrap();
        (delivery.state, delivery.reason.unwrap_or_default())
    };
    let (state, reason) = press("o/r", 70).await;
    assert_eq!((state, reason.as_str()), (DeliveryState::Ignored, "run 1 has not ended: it is queued"));
    let (one, two) = (world.claim(&worker).await, world.claim(&worker).await);
    world.finish(&one, Conclusion::Success).await;
    world.finish(&two, Conclusion::Failure).await;
    assert_eq!(press("o/other", 72).await.0, DeliveryState::Ignored, "a check is its own repository's");
    assert_eq!(press("o/r", 72).await, (DeliveryState::Planned, String::new()));
    assert_eq!(press("o/r", 70).await.1, "attempt 2 of run 1 has begun since");
    let again = world.store.run_detail(run, None).await.unwrap();
    let jobs: Vec<_> = again.jobs.iter().map(|(job, _)| job.carried_from.is_some()).collect();
    assert_eq!((again.run.attempt, again.attempt.requested_by.as_str(), jobs.len()), (2, "ada", 2));
    assert_eq!(jobs.iter().filter(|carried| **carried).count(), 1, "what succeeded is carried over");
    assert!(world.store.next_deliveries(10).await.unwrap().is_empty(), "the planner has nothing to do with it");
}

/// The buttons of a run's checks, by job.
async fn buttons(world: &World, run: RunId) -> Vec<String> {
    let facts = world.store.show_facts(run, None).await.unwrap().unwrap();
    let of_check = |check: Check| {
        let of = check.job.unwrap_or_default();
        check.actions.into_iter().map(move |action| format!("{of} {}", action.identifier)).collect::<Vec<_>>()
    };
    checks(&facts.run).into_iter().flat_map(of_check).collect()
}

pub async fn a_button_says_yes_or_brings_back_once_and_only_while_it_applies(world: World) {
    let guarded = EnvironmentConfig { required_approvals: 1, ..EnvironmentConfig::default() };
    let world = world.configured(told).await;
    let world = world.reconfigured(|config| drop(config.environments.insert("staging".into(), guarded))).await;
    let worker = world.worker("w", "1").await;
    let number = AtomicI64::new(70);
    let deploy = async |bytes: &[u8]| {
        let run = world.run(vec![deploy_job("deploy", "staging")]).await;
        assert_eq!(buttons(&world, run).await, [" approve", "deploy approve"]);
        let id = number.fetch_add(1, Ordering::SeqCst);
        let shown = ShownCheck { id: Some(id), ..ShownCheck::default() };
        world.store.check_shown(run, 1, "deploy", shown).await.unwrap();
        let pressed = pressed(&world, id, Button::Approve).await;
        world.store.press(&pressed, Vec::new()).await.unwrap();
        assert_eq!(
            became(&world, &pressed).await,
            (DeliveryState::Planned, format!("ada pressed `approve`: it counts for deploy of run {run}"))
        );
        world.store.press(&pressed, Vec::new()).await.expect("once more changes nothing");
        let claim = world.claim(&worker).await;
        let created = world.ask(&claim, bytes).await.unwrap();
        world.wait(&claim, created.rollout).await;
        let rollout = world.claim_rollout(&worker).await;
        world.end_rollout(&rollout, RolloutStatus::Succeeded).await;
        (run, id)
    };
    let (first, _) = deploy(b"one").await;
    assert_eq!(buttons(&world, first).await, [""; 0], "there is nothing before it");
    let (second, of_second) = deploy(b"two").await;
    assert_eq!(buttons(&world, second).await, ["deploy roll-back"]);
    world.pass(LATER);
    for one in due(&world).await {
        shown(&world, &one).await;
    }
    world.pass(LATER);
    let (third, of_third) = deploy(b"three").await;
    assert!(due(&world).await.iter().any(|due| due.run == second), "its button goes");
    assert_eq!(
        (buttons(&world, second).await, buttons(&world, third).await),
        (vec![], vec!["deploy roll-back".to_owned()])
    );

    let late = pressed(&world, of_second, Button::RollBack).await;
    world.store.press(&late, Vec::new()).await.unwrap();
    let (state, reason) = became(&world, &late).await;
    assert!(state == DeliveryState::Ignored && reason.contains("does not serve `staging` any more"), "{reason}");
    let back = pressed(&world, of_third, Button::RollBack).await;
    world.store.press(&back, Vec::new()).await.unwrap();
    let (state, reason) = became(&world, &back).await;
    assert!(state == DeliveryState::Planned && reason.ends_with("brings `web` in `staging` back"), "{reason}");
    // pressed by two at once: the second must not call off what the first has begun
    let again = pressed(&world, of_third, Button::RollBack).await;
    world.store.press(&again, Vec::new()).await.unwrap();
    let (state, reason) = became(&world, &again).await;
    assert!(state == DeliveryState::Ignored && reason.contains("brings it back already"), "{reason}");
    let rollout = world.claim_rollout(&worker).await;
    assert!(rollout.rollout.spec.is_rollback);
    // who may not press it, and when GitHub could not be asked
    let stranger = pressed(&world, of_third, Button::RollBack).await;
    let until = world.store.now() + Duration::from_secs(90);
    world.store.button_put_off(&stranger, until, Some("it is away".into())).await.unwrap();
    assert_eq!(world.store.next_button_due().await.unwrap(), Some(until));
    world.store.refuse_button(&stranger, "ada has no write access to o/r".into()).await.unwrap();
    assert_eq!(became(&world, &stranger).await.0, DeliveryState::Ignored);
    assert_eq!(world.store.next_button_due().await.unwrap(), None);
}

/// A button that the webhook tells of, as it is due.
async fn pressed(world: &World, id: i64, button: Button) -> DueButton {
    let asked = Asked { repository: "o/r".into(), by: "ada".into(), what: AskedOf::Button { id, button } };
    let delivery = NewDelivery { meaning: Meaning::Asks(asked), ..world.delivery(world.push("o/r")) };
    world.store.accept_delivery(delivery).await.unwrap();
    let mut due = world.store.due_buttons(10).await.unwrap();
    assert_eq!((due.len(), due[0].check, due[0].button), (1, id, button));
    due.remove(0)
}

async fn became(world: &World, pressed: &DueButton) -> (DeliveryState, String) {
    let delivery = world.store.delivery(&pressed.delivery).await.unwrap();
    (delivery.state, delivery.reason.unwrap_or_default())
}

pub async fn every_change_of_a_rollout_is_to_be_told_and_that_of_what_served_before(world: World) {
    let world = world.configured(told).await;
    let worker = world.worker("w", "1").await;
    let due = async || world.store.due_deployments(10).await.unwrap();
    let first = world.deployed(&worker, "staging", b"one").await.rollout;
    let told_first = due().await;
    assert_eq!(told_first.iter().map(|due| due.rollout).collect::<Vec<_>>(), [first]);
    let facts = world.store.deployment_facts(first).await.unwrap().unwrap();
    assert_eq!((facts.repository.as_str(), facts.rollout.is_current, facts.rollout.is_rollback), ("o/r", true, false));
    world.store.announce_deployment(first).await.unwrap();
    let until = world.store.now() + Duration::from_secs(90);
    world.store.deployment_put_off(first, until, Some("it is away".into())).await.unwrap();
    assert_eq!((due().await, world.store.next_deployment_due().await.unwrap()), (vec![], Some(until)));
    world.pass(Duration::from_secs(91));
    let world = world.reopened().await;
    let due = async || world.store.due_deployments(10).await.unwrap();
    let again = due().await.remove(0);
    assert_eq!((again.tries, again.is_announced, again.id), (1, true, None));
    world.store.deployment_told(first, Some(7_000_000_000), "d".into()).await.unwrap();
    world.store.deployment_shown(&again, world.store.now(), None).await.unwrap();
    assert_eq!((due().await, world.store.next_deployment_due().await.unwrap()), (vec![], None));

    // another environment is no concern of it
    world.deployed(&worker, "qa", b"one").await;
    assert!(due().await.iter().all(|due| due.rollout != first));
    let second = world.deployed(&worker, "staging", b"two").await.rollout;
    let all = due().await;
    assert!([first, second].iter().all(|wanted| all.iter().any(|due| due.rollout == *wanted)), "{all:?}");
    let before = all.iter().find(|due| due.rollout == first).unwrap();
    assert_eq!((before.id, before.told.as_str()), (Some(7_000_000_000), "d"));
    assert!(!world.store.deployment_facts(first).await.unwrap().unwrap().rollout.is_current);
    assert!(world.store.deployment_facts(second).await.unwrap().unwrap().rollout.is_current);
}
