//! Machines that runs rent: written down before they are asked for, and had by whoever asked for as long as that lives.

use std::time::Duration;

use segue_integration_tests::lambda::{Fault, KEY, LambdaCloud};
use segue_runner::{
    control::{Basis, Keeping, KeptMachines, MachineChange},
    lambda::Keeper,
    store::{Store, StoreError},
};
use segue_schemas::{
    config::LambdaConfig,
    duration::Span,
    machine::{AskMachine, Machine, MachineAnswer, MachineRequest, MachineState, ReleaseMachine},
    price::Price,
    status::Conclusion,
    time::Timestamp,
    worker_api::{JobClaim, JobLost},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::world::{World, job};

const MINUTE: Duration = Duration::from_secs(60);

async fn renting(world: World) -> World {
    world
        .configured(|config| {
            config.lambda = LambdaConfig {
                repositories: vec!["o/r".into()],
                ssh_keys: vec!["ci".into()],
                max_price: Some(Price(150)),
                ..LambdaConfig::default()
            };
        })
        .await
}

fn ask(claim: &JobClaim) -> AskMachine {
    let request = MachineRequest {
        types: vec!["gpu_1x_a10".into()],
        regions: Vec::new(),
        max_price: None,
        wait_for_capacity: Span::seconds(1800),
        idle_shutdown: Span::seconds(1200),
        lifetime: Span::seconds(4 * 3600),
        ssh_key: None,
    };
    AskMachine { epoch: claim.epoch, step: 0, ask: Uuid::new_v4(), request, known: None, wait_ms: 0 }
}

/// A job that is held, and its world.
async fn held(world: World) -> (World, JobClaim) {
    let world = renting(world).await;
    world.run(vec![job("a", &[])]).await;
    let worker = world.worker("w", "1").await;
    let claim = world.claim(&worker).await;
    (world, claim)
}

async fn kept(store: &Store) -> KeptMachines {
    match store.keep_machines(Timestamp(0), true).await.unwrap() {
        Keeping::Here(kept) => kept,
        Keeping::Elsewhere(until) => panic!("another server until {until}"),
    }
}

async fn only(store: &Store) -> Machine {
    let (mut all, _) = store.machines(10).await.unwrap();
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

fn launch() -> MachineChange {
    MachineChange::Launch { instance_type: "gpu_1x_a10".into(), region: "us-west-1".into(), price: Price(75) }
}

/// Launches the machine of an ask, up to where it can be used.
async fn launched(store: &Store, asked: &MachineAnswer) {
    let name = &asked.machine.name;
    let written = store.change_machine(name, Basis::Version(asked.version), launch()).await.unwrap().unwrap();
    assert_eq!((written.record.state, written.launches), (MachineState::Launching, 1));
    let ready = MachineChange::Ready { instance: "i-1".into(), ip: "198.51.100.2".into() };
    store.change_machine(name, Basis::Launch(1), ready).await.unwrap().unwrap();
}

pub async fn an_ask_twice_is_one_machine_and_one_that_is_forbidden_is_none(world: World) {
    let (world, claim) = held(world).await;
    let first = ask(&claim);
    let one = world.store.ask_machine(claim.job, first.clone()).await.unwrap();
    let again = world.store.ask_machine(claim.job, first.clone()).await.unwrap();
    assert_eq!(one.machine, again.machine);
    assert_eq!((one.machine.state, only(&world.store).await.name), (MachineState::Wanted, one.machine.name.clone()));
    let world = world.reopened().await;
    let again = world.store.ask_machine(claim.job, first).await.unwrap();
    assert_eq!(one.machine, again.machine, "after a crash as well");

    let stale = AskMachine { epoch: segue_schemas::id::Epoch(claim.epoch.0 + 1), ..ask(&claim) };
    let refused = world.store.ask_machine(claim.job, stale).await.unwrap_err();
    assert!(matches!(refused, StoreError::StaleEpoch { .. }), "{refused}");
    let world = world.reconfigured(|config| config.lambda.repositories = vec!["o/other".into()]).await;
    let refused = world.store.ask_machine(claim.job, ask(&claim)).await.unwrap_err();
    assert!(refused.to_string().contains("`o/r` may rent no machines"), "{refused}");
    assert_eq!(only(&world.store).await.name, one.machine.name);
}

pub async fn a_step_that_is_tried_again_waits_for_the_machine_that_it_had_asked_for(world: World) {
    let (world, claim) = held(world).await;
    let one = world.store.ask_machine(claim.job, ask(&claim)).await.unwrap();
    let again = ask(&claim);
    world.pass(Duration::from_secs(1));
    let same = world.store.ask_machine(claim.job, again.clone()).await.unwrap();
    assert_eq!(same.machine.asked_at, one.machine.asked_at + Duration::from_secs(1), "it waits for capacity from now");
    assert_eq!(Machine { asked_at: one.machine.asked_at, ..same.machine.clone() }, one.machine);
    let world = world.reopened().await;
    let known = world.store.machine_of_ask(claim.job, claim.epoch, again.ask).await.unwrap();
    assert_eq!(same.machine, known.machine, "under the number of the newest try");

    // another step's is another, as is one of another kind, and as is a second one of a step that has the first
    let elsewhere = world.store.ask_machine(claim.job, AskMachine { step: 1, ..ask(&claim) }).await.unwrap();
    let mut other = ask(&claim);
    other.request.types = vec!["gpu_8x_a100".into()];
    let other = world.store.ask_machine(claim.job, other).await.unwrap();
    launched(&world.store, &known).await;
    let second = world.store.ask_machine(claim.job, ask(&claim)).await.unwrap();
    let names = [&one, &elsewhere, &other, &second].map(|answer| answer.machine.name.clone());
    assert_eq!(std::collections::BTreeSet::from(names).len(), 4);
}

pub async fn a_launch_is_written_down_first_and_what_came_of_it_is_not_lost(world: World) {
    let (world, claim) = held(world).await;
    let asked = world.store.ask_machine(claim.job, ask(&claim)).await.unwrap();
    let name = asked.machine.name.clone();
    let written = world.store.change_machine(&name, Basis::Version(asked.version), launch()).await.unwrap().unwrap();
    assert_eq!(written.record.expires_at, Some(world.store.now() + 240 * MINUTE));
    let world = world.reopened().await;
    let kept_now = kept(&world.store).await;
    assert_eq!(kept_now.open[0].record.state, MachineState::Launching);
    assert_eq!(kept_now.launched_at, world.store.now());
    assert_eq!(only(&world.store).await.expires_at, Some(world.store.now() + 240 * MINUTE));
    let twice = world.store.change_machine(&name, Basis::Version(asked.version), launch()).await.unwrap();
    assert_eq!(twice, None, "what it goes by is no longer so");
    // a person ends it before the answer comes: what was launched is known all the same
    world.store.end_machine(name.clone()).await.unwrap();
    let boots = MachineChange::Boots { instance: "i-1".into() };
    world.store.change_machine(&name, Basis::Launch(1), boots).await.unwrap().unwrap();
    let machine = only(&world.store).await;
    assert_eq!((machine.state, machine.instance.as_deref()), (MachineState::Ending, Some("i-1")));
    let ended = kept(&world.store).await.open.remove(0);
    world.store.change_machine(&name, Basis::Version(ended.version), MachineChange::Ended).await.unwrap().unwrap();
    assert_eq!(only(&world.store).await.state, MachineState::Ended);
    let late = MachineChange::Boots { instance: "i-2".into() };
    assert_eq!(world.store.change_machine(&name, Basis::Launch(1), late).await.unwrap(), None);
    let remembered = kept(&world.store).await;
    assert_eq!((remembered.open.len(), remembered.remembered.len()), (0, 1), "should it show up late");
    world.pass(61 * MINUTE);
    assert_eq!(kept(&world.store).await.remembered.len(), 0);
}

pub async fn a_machine_goes_with_its_run_and_after_its_times(world: World) {
    let (world, claim) = held(world).await;
    let asked = world.store.ask_machine(claim.job, ask(&claim)).await.unwrap();
    launched(&world.store, &asked).await;
    let first = kept(&world.store).await;
    assert_eq!(first.open[0].record.state, MachineState::Ready);
    assert_eq!(first.next_fate, Some(world.store.now() + 240 * MINUTE));
    world.finish(&claim, Conclusion::Success).await;
    assert_eq!(kept(&world.store).await.open[0].record.state, MachineState::Ending);
    assert_eq!(only(&world.store).await.reason.as_deref(), Some("its run has ended"));
    let world = world.reopened().await;
    assert_eq!(kept(&world.store).await.open[0].record.state, MachineState::Ending, "until it is known to be gone");

    // one whose run lives on ends when its life does
    world.run(vec![job("a", &[])]).await;
    let worker = world.worker("w", "2").await;
    let claim = world.claim(&worker).await;
    let asked = world.store.ask_machine(claim.job, ask(&claim)).await.unwrap();
    let waiting = asked.machine.name.clone();
    world.pass(3 * MINUTE);
    kept(&world.store).await;
    let (all, _) = world.store.machines(10).await.unwrap();
    let ended = all.iter().find(|one| one.name == waiting).unwrap();
    let reason = ended.reason.as_deref().unwrap_or_default();
    assert_eq!((ended.state, reason), (MachineState::Ended, "whoever asked for it waits no longer"));
}

pub async fn a_job_that_begins_anew_has_another_machine(world: World) {
    let (world, claim) = held(world).await;
    let asked = world.store.ask_machine(claim.job, ask(&claim)).await.unwrap();
    launched(&world.store, &asked).await;
    let lost = JobLost { epoch: claim.epoch, steps: Vec::new(), log_bytes: 0 };
    world.store.lost_job(claim.job, lost).await.unwrap();
    kept(&world.store).await;
    let first = only(&world.store).await;
    assert_eq!((first.state, first.reason.as_deref()), (MachineState::Ending, Some("its job begins anew")));
    let worker = world.worker("w", "1").await;
    let again = world.claim(&worker).await;
    assert_eq!(again.job, claim.job);
    let second = world.store.ask_machine(again.job, ask(&again)).await.unwrap();
    assert_ne!(second.machine.name, first.name);
    // and gives it back itself, by its name; another run's it can't
    let release = |machine: &str| ReleaseMachine { epoch: again.epoch, machine: machine.into() };
    let refused = world.store.release_machine(again.job, release("segue-none")).await.unwrap_err();
    assert!(refused.to_string().contains("has no machine `segue-none`"), "{refused}");
    world.store.release_machine(again.job, release(&second.machine.name)).await.unwrap();
    let (all, _) = world.store.machines(10).await.unwrap();
    let ended = all.iter().find(|one| one.name == second.machine.name).unwrap();
    assert_eq!((ended.state, ended.reason.as_deref()), (MachineState::Ended, Some("a step gave it back")));
    world.finish(&again, Conclusion::Failure).await;
}

/// The machine of an ask, once it is so.
async fn until(store: &Store, name: &str, is_so: impl Fn(&Machine) -> bool) -> Machine {
    for _ in 0..1500 {
        let (all, _) = store.machines(10).await.unwrap();
        if let Some(one) = all.into_iter().find(|one| one.name == name && is_so(one)) {
            return one;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:#?}", store.machines(10).await.unwrap());
}

pub async fn a_launch_without_an_answer_is_found_or_made_again(world: World) {
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let cloud = LambdaCloud::start().await.unwrap();
    let (world, claim) = held(world).await;
    let key_file = world.directory.path().join("lambda.key");
    std::fs::write(&key_file, KEY).unwrap();
    std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (url, quick) = (cloud.url(), Span::millis(20));
    let world = world
        .reconfigured(|config| {
            let lambda = &mut config.lambda;
            (lambda.url, lambda.key_file, lambda.request_every, lambda.look_every) =
                (url, Some(key_file), quick, quick);
            (lambda.launch_every, lambda.settle) = (quick, Span::seconds(120));
        })
        .await;
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(Keeper::new(world.store.clone()).unwrap().run(stop.clone()));

    // made, and the answer was lost: found by its name
    cloud.fails(&[Fault::MadeAndBadGateway]);
    let first = world.store.ask_machine(claim.job, ask(&claim)).await.unwrap().machine.name;
    let found = until(&world.store, &first, |one| one.state == MachineState::Ready).await;
    assert_eq!((cloud.left(), found.instance.as_ref()), (vec![format!("{first}-1")], Some(&cloud.launched()[0].id)));

    // taken back by Lambda
    cloud.preempts(&cloud.launched()[0].id);
    let taken = until(&world.store, &first, |one| one.state == MachineState::Ended).await;
    assert!(taken.reason.as_deref().unwrap_or_default().contains("not from here"), "{taken:#?}");

    // not made, and the answer was lost: after a while it counts as not made, and another is launched
    world.pass(MINUTE);
    cloud.fails(&[Fault::BadGateway]);
    let second = world.store.ask_machine(claim.job, ask(&claim)).await.unwrap().machine.name;
    until(&world.store, &second, |one| one.state == MachineState::Launching).await;
    world.pass(Duration::from_secs(119));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(until(&world.store, &second, |_| true).await.state, MachineState::Launching, "it may still come");
    world.store.ask_machine(claim.job, ask_again(&world, &second, &claim).await).await.unwrap();
    world.pass(Duration::from_secs(2));
    until(&world.store, &second, |one| one.state == MachineState::Ready).await;
    assert_eq!(cloud.left(), [format!("{second}-2")]);

    // the run ends while Lambda is away: told to end once it is back, though the list is behind
    cloud.is_down(true);
    world.finish(&claim, Conclusion::Success).await;
    until(&world.store, &second, |one| one.state == MachineState::Ending).await;
    cloud.hides(true);
    cloud.is_down(false);
    until(&world.store, &second, |one| one.state == MachineState::Ended).await;
    assert_eq!(cloud.left(), [""; 0]);
    stop.cancel();
    keeper.await.unwrap();
}

/// The same ask once more: whoever asked still waits.
async fn ask_again(world: &World, name: &str, claim: &JobClaim) -> AskMachine {
    let Keeping::Here(kept) = world.store.keep_machines(Timestamp(0), true).await.unwrap() else { panic!("kept here") };
    let known = kept.open.into_iter().find(|one| one.record.name == name).unwrap();
    AskMachine { ask: known.ask, ..ask(claim) }
}

pub async fn one_server_speaks_to_the_cloud_and_another_takes_over(world: World) {
    let (world, claim) = held(world).await;
    let asked = world.store.ask_machine(claim.job, ask(&claim)).await.unwrap();
    let other = world.another_server().await;
    kept(&world.store).await;
    assert!(matches!(other.keep_machines(Timestamp(0), true).await.unwrap(), Keeping::Elsewhere(_)));
    let name = &asked.machine.name;
    let refused = other.change_machine(name, Basis::Version(asked.version), launch()).await.unwrap();
    assert_eq!(refused, None, "it launches nothing");
    let until = match other.keep_machines(Timestamp(0), true).await.unwrap() {
        Keeping::Elsewhere(until) => until,
        Keeping::Here(kept) => panic!("{kept:?}"),
    };
    assert!(until > other.now() && until.since(other.now()) <= Duration::from_secs(90));
    // one that can't speak to the cloud does not stay the one, however often it looks
    for _ in 0..4 {
        world.pass(Duration::from_secs(23));
        world.store.keep_machines(Timestamp(0), false).await.unwrap();
    }
    assert!(matches!(other.keep_machines(Timestamp(0), true).await.unwrap(), Keeping::Here(_)), "it takes over");
    assert!(matches!(world.store.keep_machines(Timestamp(0), false).await.unwrap(), Keeping::Elsewhere(_)));
    let late = world.store.change_machine(name, Basis::Version(asked.version), launch()).await.unwrap();
    assert_eq!(late, None, "the former one launches nothing any more");
}
