use std::time::Duration;

use segue_runner::store::{Accepted, DeliveryState, DispatchOutcome, Meaning, NewRun, PlanOutcome, Planning};
use segue_schemas::{
    config::NotificationEvent,
    status::RunStatus,
    trigger::{Event, Trigger},
};

use crate::world::{World, commit, job, plan};

fn one_run() -> Planning {
    Planning::Runs(vec![NewRun::Planned(plan(vec![job("test", &[])]))])
}

pub async fn a_delivery_twice_is_stored_once_and_planned_once(world: World) {
    let delivery = world.delivery(world.push("o/r"));
    let id = delivery.id.clone();
    assert_eq!(world.store.accept_delivery(delivery.clone()).await.unwrap(), Accepted::New);
    assert_eq!(world.store.accept_delivery(delivery).await.unwrap(), Accepted::Known);
    assert_eq!(world.store.next_deliveries(10).await.unwrap().len(), 1);
    assert!(
        matches!(world.store.record_planned(&id, one_run()).await.unwrap(), PlanOutcome::Made(runs) if runs.len() == 1)
    );
    assert_eq!(world.store.record_planned(&id, one_run()).await.unwrap(), PlanOutcome::Settled);
    assert!(world.store.next_deliveries(10).await.unwrap().is_empty());
    assert_eq!(world.store.runs_of_delivery(&id).await.unwrap().len(), 1);
}

pub async fn an_accepted_delivery_is_there_after_a_crash(world: World) {
    let delivery = world.delivery(world.push("o/r"));
    let (id, meaning) = (delivery.id.clone(), delivery.meaning.clone());
    world.store.accept_delivery(delivery).await.unwrap();
    let world = world.reopened().await;
    let found = world.store.next_deliveries(10).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].id, id);
    assert_eq!(found[0].trigger.clone().map(Meaning::Starts), Some(meaning));
}

pub async fn the_same_work_under_another_guid_makes_nothing(world: World) {
    let trigger = world.push("o/r");
    let (first, second) = (world.delivery(trigger.clone()), world.delivery(trigger));
    let (a, b) = (first.id.clone(), second.id.clone());
    world.store.accept_delivery(first).await.unwrap();
    world.store.accept_delivery(second).await.unwrap();
    // two planners at once
    let (one, two) = tokio::join!(world.store.record_planned(&a, one_run()), world.store.record_planned(&b, one_run()));
    let outcomes = [one.unwrap(), two.unwrap()];
    assert_eq!(outcomes.iter().filter(|o| matches!(o, PlanOutcome::Made(_))).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|o| matches!(o, PlanOutcome::KnownWork(_))).count(), 1, "{outcomes:?}");
    assert_eq!(world.store.runs(Default::default()).await.unwrap().len(), 1);
}

pub async fn a_push_that_nobody_told_of_is_planned_once(world: World) {
    let branch = "refs/heads/main";
    let pushed = |from: u64, to: u64| {
        let mut trigger = world.push("o/r");
        trigger.event = Event::Push {
            r#ref: branch.into(),
            before: commit(from),
            after: commit(to),
            message: String::new(),
            forced: false,
        };
        trigger
    };
    let come = async |from: u64, to: u64, planning: Planning| {
        let delivery = world.delivery(pushed(from, to));
        let id = delivery.id.clone();
        world.store.accept_delivery(delivery).await.unwrap();
        world.pass(Duration::from_millis(5));
        world.store.record_planned(&id, planning).await.unwrap()
    };
    let missed = async |head: u64| world.store.missed_push("o/r", branch, &commit(head)).await.unwrap();
    assert!(world.store.repositories_with_pushes().await.unwrap().is_empty());
    assert_eq!(missed(1).await, None, "nothing was ever heard of it");
    come(0, 1, one_run()).await;
    come(1, 2, Planning::Ignored("no pipeline is for it".into())).await;
    assert_eq!(world.store.repositories_with_pushes().await.unwrap(), ["o/r"]);
    assert_eq!(missed(2).await, None, "what starts nothing was told of as well");
    assert_eq!(missed(1).await, Some(commit(2)), "it was told of, and led away since");
    // one that waits to be planned may be what would be missed
    let waiting = world.delivery(pushed(2, 3));
    world.store.accept_delivery(waiting.clone()).await.unwrap();
    assert_eq!(missed(4).await, None);
    world.pass(Duration::from_millis(5));
    world.store.record_planned(&waiting.id, one_run()).await.unwrap();
    assert_eq!(missed(5).await, Some(commit(3)));

    assert!(world.store.plan_missed_push(pushed(3, 5)).await.unwrap());
    assert!(!world.store.plan_missed_push(pushed(3, 5)).await.unwrap(), "it was found before");
    let found = world.store.next_deliveries(10).await.unwrap();
    assert_eq!(found.len(), 1);
    world.pass(Duration::from_millis(5));
    assert!(matches!(world.store.record_planned(&found[0].id, one_run()).await.unwrap(), PlanOutcome::Made(_)));
    assert_eq!(missed(5).await, None);
    // both webhooks come late: the one that was never seen is new, the other is what was found
    assert!(matches!(come(3, 4, one_run()).await, PlanOutcome::Made(_)));
    assert_eq!(come(4, 5, one_run()).await, PlanOutcome::KnownWork(found[0].id.clone()));
    assert_eq!(missed(5).await, None, "the older one has come after it");
    // led away, it is no longer known to be there
    assert!(matches!(come(5, 6, one_run()).await, PlanOutcome::Made(_)));
    assert!(matches!(come(6, 5, one_run()).await, PlanOutcome::Made(_)));
}

pub async fn a_delivery_that_starts_nothing_is_kept_with_its_reason(world: World) {
    let mut ping = world.delivery(world.push("o/r"));
    ping.meaning = Meaning::Ignored("a ping starts nothing".into());
    let id = ping.id.clone();
    world.store.accept_delivery(ping).await.unwrap();
    let stored = world.store.delivery(&id).await.unwrap();
    assert_eq!((stored.state, stored.reason.as_deref()), (DeliveryState::Ignored, Some("a ping starts nothing")));
    let unmatched = world.delivery(world.push("o/r"));
    let id = unmatched.id.clone();
    world.store.accept_delivery(unmatched).await.unwrap();
    world.store.record_planned(&id, Planning::Ignored("no pipeline matches".into())).await.unwrap();
    assert_eq!(world.store.delivery(&id).await.unwrap().state, DeliveryState::Ignored);
    assert!(world.store.next_deliveries(10).await.unwrap().is_empty());
    let listed = world.store.deliveries(None, 10).await.unwrap();
    assert_eq!(listed[0].id, id, "newest first");
    assert_eq!(world.store.deliveries(Some(listed[0].position), 10).await.unwrap().len(), 1);
}

pub async fn a_delivery_that_was_put_off_comes_back_later(world: World) {
    let delivery = world.delivery(world.push("o/r"));
    let id = delivery.id.clone();
    world.store.accept_delivery(delivery).await.unwrap();
    for pause in [1, 2, 4, 8] {
        let until = world.store.defer_delivery(&id, "no route".into()).await.unwrap().unwrap();
        assert_eq!(until.since(world.store.now()), Duration::from_secs(pause));
        assert!(world.store.next_deliveries(10).await.unwrap().is_empty());
        assert_eq!(world.store.next_delivery_due().await.unwrap(), Some(until));
        world.pass(Duration::from_secs(pause));
        assert_eq!(world.store.next_deliveries(10).await.unwrap().len(), 1);
    }
    world.pass(Duration::from_secs(24 * 3600));
    assert_eq!(world.store.defer_delivery(&id, "no route".into()).await.unwrap(), None);
    assert_eq!(world.store.delivery(&id).await.unwrap().state, DeliveryState::Failed);
}

pub async fn a_pipeline_that_cannot_be_planned_is_a_failed_run_that_people_hear_of(world: World) {
    let delivery = world.delivery(world.push("o/r"));
    let id = delivery.id.clone();
    world.store.accept_delivery(delivery).await.unwrap();
    let broken = NewRun::Broken {
        file: ".segue/pipelines/main.yml".into(),
        pipeline: "main".into(),
        diagnostics: "line 3: unknown key `job`; did you mean `jobs`?".into(),
    };
    let PlanOutcome::Made(runs) = world.store.record_planned(&id, Planning::Runs(vec![broken])).await.unwrap() else {
        panic!("a run is made");
    };
    let run = world.store.run(runs[0]).await.unwrap();
    assert_eq!(run.status, RunStatus::Failed);
    assert!(run.diagnostics.unwrap().contains("did you mean"));
    assert!(run.ended_at.is_some());
    let told = world.store.due_notifications(10).await.unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].event, told[0].run), (NotificationEvent::RunFailed, Some(runs[0])));
    world.store.notification_tried(told[0].id, vec!["slack".into()], Some("webhook: 500".into())).await.unwrap();
    assert!(world.store.due_notifications(10).await.unwrap().is_empty());
    world.pass(Duration::from_secs(6));
    let again = world.store.due_notifications(10).await.unwrap();
    assert_eq!(again[0].told, ["slack"]);
    world.store.notification_tried(told[0].id, vec!["webhook".into()], None).await.unwrap();
    world.pass(Duration::from_secs(3600));
    assert!(world.store.due_notifications(10).await.unwrap().is_empty());
}

pub async fn a_key_dispatches_once(world: World) {
    let event = Event::WorkflowDispatch {
        r#ref: "refs/heads/main".into(),
        commit: commit(7),
        pipeline: None,
        inputs: Default::default(),
    };
    let trigger = Trigger { event, ..world.push("o/r") };
    let new = || vec![NewRun::Planned(plan(vec![job("test", &[])]))];
    let key = "by-hand-1".parse().unwrap();
    let first = world.store.create_dispatch_run(key, trigger.clone(), new()).await.unwrap();
    assert!(first.new);
    let again = world.store.create_dispatch_run("by-hand-1".parse().unwrap(), trigger.clone(), new()).await.unwrap();
    let ids = |outcome: &DispatchOutcome| outcome.runs.iter().map(|run| run.id).collect::<Vec<_>>();
    assert_eq!((again.new, ids(&again)), (false, ids(&first)));
    // the same commit by hand once more, under another key, is another run
    let other = world.store.create_dispatch_run("by-hand-2".parse().unwrap(), trigger, new()).await.unwrap();
    assert!(other.new);
    assert!(world.store.next_deliveries(10).await.unwrap().is_empty());
}
