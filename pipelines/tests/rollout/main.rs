//! Rollouts against a host in memory: the main ways as stories, and any order of any events as properties.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod gpus;
mod refusals;
mod strategies;
mod turn_gpus;
mod turns;
mod world;

use proptest::prelude::*;
use segue_pipelines::rollout::{Action, Input, RestoreError, RolloutMachine, Serves};
use segue_schemas::{
    deploy::{Repair, RolloutCommand, RolloutSpec, Strategy as How},
    duration::Span,
    gpu::WhenFull,
    id::RolloutId,
    status::RolloutStatus,
    time::Timestamp,
};
use world::{World, canary, release, spec};

/// Traffic and time until nothing more happens, at most for so many minutes.
fn live(world: &mut World, minutes: u32, fails: Option<u64>) {
    for _ in 0..minutes {
        world.settle();
        if world.finished.is_some() {
            return;
        }
        world.traffic(600, fails);
        world.settle();
        world.pass(61);
    }
    world.settle();
}

#[test]
fn a_good_canary_goes_from_stage_to_stage() {
    let mut world = World::new(canary());
    world.claim();
    live(&mut world, 10, None);
    assert_eq!(world.finished, Some((RolloutStatus::Succeeded, Serves::New)));
    insta::assert_snapshot!(world.story.join("\n"));
}

#[test]
fn a_bad_canary_is_taken_back() {
    let mut world = World::new(canary());
    world.claim();
    live(&mut world, 10, Some(2));
    assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)));
    let verdict = world.machine.verdict().unwrap();
    assert!(verdict.canary_requests <= 15, "{verdict:?}");
    insta::assert_snapshot!(world.story.join("\n"));
}

#[test]
fn a_hot_swap_starts_shifts_and_retires() {
    let mut world = World::new(How::HotSwap);
    world.claim();
    world.settle();
    insta::assert_snapshot!(world.story.join("\n"));
}

#[test]
fn the_first_release_has_nothing_to_be_compared_with() {
    let mut world = World::first(canary());
    world.claim();
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::Succeeded, Serves::New)));
    assert!(world.machine.reason().unwrap().contains("nothing to compare with"));
}

#[test]
fn without_traffic_a_stage_is_held_and_then_taken_back() {
    let mut world = World::new(canary());
    world.claim();
    world.settle();
    assert!(world.sleep());
    assert_eq!(world.machine.status(), RolloutStatus::Held);
    assert!(world.machine.reason().unwrap().contains("too few samples"), "{:?}", world.machine.reason());
    assert!(world.sleep());
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)));
    assert!(world.machine.reason().unwrap().starts_with("held for 10m"), "{:?}", world.machine.reason());
}

#[test]
fn a_held_stage_goes_on_once_there_is_evidence() {
    let mut world = World::new(canary());
    world.claim();
    world.settle();
    world.sleep();
    assert_eq!(world.machine.status(), RolloutStatus::Held);
    world.traffic(600, None);
    world.settle();
    assert_eq!((world.machine.status(), world.machine.weight()), (RolloutStatus::Running, 50));
}

#[test]
fn a_release_that_is_not_ready_never_gets_weight() {
    let mut world = World::new(canary());
    world.claim();
    world.perform(true);
    world.perform(false);
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::Failed, Serves::Former)));
    insta::assert_snapshot!(world.story.join("\n"));
}

#[test]
fn a_new_owner_asserts_the_weights_and_goes_on() {
    let mut world = World::new(canary());
    world.claim();
    world.settle();
    world.traffic(600, None);
    world.claim();
    insta::assert_snapshot!(world.story.iter().rev().take(4).rev().cloned().collect::<Vec<_>>().join("\n"));
    live(&mut world, 10, None);
    assert_eq!(world.finished, Some((RolloutStatus::Succeeded, Serves::New)));
}

#[test]
fn a_new_owner_of_a_stage_waits_for_what_was_seen_before_it_came() {
    for (hosts, wanted_ms) in [(&["a"][..], 5_000), (&["a", "b"], 60_000)] {
        let mut world = World::on_hosts(canary(), hosts);
        world.claim();
        world.settle();
        // the stage is over when somebody comes who has seen nothing of it
        world.now = Timestamp(world.now.0 + 61_000);
        world.claim();
        world.settle();
        let wait = world.machine.next_wake().expect("the stage ends").0 - world.now.0;
        assert_eq!(wait, wanted_ms, "{hosts:?}: {}", world.story.join("\n"));
    }
}

#[test]
fn what_is_gone_back_to_is_kept_until_it_has_its_traffic_whatever_it_is_kept_warm_for() {
    let mut spec = RolloutSpec { is_rollback: true, ..World::new(How::HotSwap).machine.spec().clone() };
    spec.service.keep_warm = Span::seconds(0);
    let mut world = World::new(How::HotSwap);
    world.machine = RolloutMachine::new(RolloutId(7), spec);
    world.keep_warm("warm", release(2));
    world.claim();
    let is_kept = |action: &Action| matches!(action, Action::Retire { instance, after, .. } if instance.as_str() == "warm" && after.as_millis() == 24 * 3_600_000);
    assert!(world.queue.iter().any(is_kept), "{}", world.story.join("\n"));
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::Succeeded, Serves::New)));
}

#[test]
fn where_a_host_serves_what_it_is_to_serve_only_what_was_left_there_goes() {
    let old = World::new(How::HotSwap).machine.spec().previous.clone().unwrap();
    let spec = RolloutSpec { is_rollback: true, repair: Some(Repair::default()), ..spec(How::HotSwap) };
    let spec = RolloutSpec { release: old, ..spec };
    let mut world = World::new(How::HotSwap);
    world.machine = RolloutMachine::new(RolloutId(7), spec);
    world.keep_warm("left", release(2));
    world.claim();
    let acts: Vec<&Action> = world.queue.iter().filter(|act| !matches!(act, Action::Record { .. })).collect();
    assert!(matches!(acts[..], [Action::Retire { instance, .. }] if instance.as_str() == "left"), "{acts:?}");
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::Succeeded, Serves::New)));
    assert_eq!(world.machine.reason(), Some("release 1 has all the traffic already"));
}

#[test]
fn what_the_dead_man_took_back_stays_back() {
    for is_told in [true, false] {
        let mut world = World::new(canary());
        world.claim();
        world.settle();
        world.let_dead_man_act(is_told);
        world.claim();
        world.settle();
        assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)));
        assert!(world.machine.reason().unwrap().contains("dead-man"), "{:?}", world.machine.reason());
    }
}

#[test]
fn an_emergency_at_the_host_ends_the_rollout() {
    let mut world = World::new(canary());
    world.claim();
    world.settle();
    world.emergency();
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)));
    assert!(world.machine.reason().unwrap().contains("emergency: ada"));
}

#[test]
fn an_abort_is_taken_while_the_former_release_retires() {
    let mut world = World::new(How::HotSwap);
    world.claim();
    for _ in 0..3 {
        world.perform(true);
    }
    assert_eq!(world.machine.weight(), 100);
    world.say(RolloutCommand::Abort);
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)));
}

#[test]
fn a_former_release_that_died_is_started_anew() {
    let mut world = World::new(canary());
    world.claim();
    world.settle();
    world.lose(false);
    world.say(RolloutCommand::Abort);
    world.settle();
    world.sleep();
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)));
    insta::assert_snapshot!(world.story.join("\n"));
}

#[test]
fn where_the_former_release_cannot_be_brought_back_the_new_one_gets_everything() {
    let mut world = World::new(canary());
    world.claim();
    world.settle();
    world.lose(false);
    world.say(RolloutCommand::Abort);
    while world.finished.is_none() {
        let is_revival = matches!(world.queue.front(), Some(Action::Start { .. }));
        if !world.perform(!is_revival) {
            assert!(world.sleep(), "{}", world.story.join("\n"));
        }
    }
    assert_eq!(world.finished, Some((RolloutStatus::Succeeded, Serves::New)));
    let reason = world.machine.reason().unwrap();
    let failed =
        "aborted (ada); the way back failed 5 times, the last time because the former release did not become ready";
    let end = "; but the former release could not be brought back, so release 2 has all the traffic";
    assert!(reason.starts_with(failed) && reason.ends_with(end), "{reason}");
}

#[test]
fn where_both_releases_died_neither_gets_weight_before_it_is_ready() {
    for replicas in [1, 2] {
        let mut world = World::with_replicas(How::HotSwap, replicas);
        world.claim();
        for _ in 0..2 * replicas {
            world.perform(true);
        }
        world.lose(false);
        world.perform(false);
        // every revival fails, and in the middle of it the new release dies as well and a new owner comes
        for round in 0..60 {
            while world.perform(false) {}
            if round == 20 {
                world.lose(true);
                world.claim();
            }
            world.sleep();
        }
        assert!(world.finished.is_none(), "there is nothing to end in: {}", world.story.join("\n"));
        // the former release can be brought up again
        for _ in 0..20 {
            world.settle();
            if world.finished.is_some() || !world.sleep() {
                break;
            }
        }
        assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)), "{}", world.story.join("\n"));
    }
}

#[test]
fn a_new_release_that_was_never_ready_has_no_turn_where_the_former_one_does_not_come_back() {
    let mut world = World::on_hosts(How::HotSwap, &["a", "b"]);
    world.claim();
    world.emergency();
    world.lose(false);
    for _ in 0..40 {
        // the world sees to it that nothing gets weight that was not ready
        while world.perform(false) {}
        assert!(world.sleep(), "it is tried on after a pause: {}", world.story.join("\n"));
    }
    assert!(world.finished.is_none(), "there is nothing to end in: {}", world.story.join("\n"));
    come_to_an_end(&mut world, None);
    assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)), "{}", world.story.join("\n"));
}

#[test]
fn a_first_release_that_died_leaves_nothing_behind() {
    let mut world = World::first(How::HotSwap);
    world.claim();
    world.perform(true);
    world.perform(true);
    world.lose(true);
    for _ in 0..6 {
        world.perform(false);
        world.pass(40);
    }
    world.settle();
    world.sleep();
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)));
    assert!(world.targets.is_empty());
}

#[test]
fn a_rollback_takes_the_instances_that_are_still_warm() {
    let mut world = World::new(How::HotSwap);
    let mut spec = world.machine.spec().clone();
    spec.is_rollback = true;
    world.machine = RolloutMachine::new(segue_schemas::id::RolloutId(8), spec);
    world.keep_warm("still-warm", release(2));
    world.claim();
    world.settle();
    assert_eq!(world.targets.len(), 1);
    assert_eq!(world.targets[0].instance.as_str(), "still-warm");
    assert_eq!(world.finished, Some((RolloutStatus::Succeeded, Serves::New)));
}

#[test]
fn where_both_do_not_fit_what_serves_is_stopped_only_if_that_was_chosen() {
    let mut world = World::tight(WhenFull::Refuse, 1);
    world.claim();
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::Failed, Serves::Former)));
    assert!(world.has_weight(&"old".parse().unwrap()), "it is not touched");
    let reason = world.machine.reason().unwrap();
    assert!(
        reason.contains("it does not fit beside what serves") && reason.contains("`when-full: recreate`"),
        "{reason}"
    );

    let mut world = World::tight(WhenFull::Recreate, 2);
    world.claim();
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::Succeeded, Serves::New)));
    insta::assert_snapshot!(world.story.join("\n"));
}

#[test]
fn what_was_stopped_for_a_release_that_fails_is_brought_back() {
    let mut world = World::tight(WhenFull::Recreate, 1);
    world.claim();
    while !matches!(world.queue.front(), Some(Action::AwaitReady { .. })) {
        assert!(world.perform(true));
    }
    assert!(world.targets.is_empty(), "nobody has traffic");
    world.perform(false);
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)));
    assert_eq!(world.targets.len(), 1, "the former release serves again");
    assert!(world.machine.reason().unwrap().contains("did not become ready: health: 503"));
    insta::assert_snapshot!(world.story.join("\n"));
}

/// Performs what waits, each well or not, until nothing does.
fn perform_all(world: &mut World, well: impl Fn(&Action) -> bool) {
    while let Some(action) = world.queue.front() {
        let is_well = well(action);
        world.perform(is_well);
    }
}

#[test]
fn what_served_until_now_is_stopped_before_it_is_started_anew() {
    let mut world = World::tight(WhenFull::Recreate, 2);
    world.claim();
    // nothing that the route is asked for is done: what was to be stopped serves on
    let is_of_route = |action: &Action| matches!(action, Action::Interrupt { .. } | Action::Shift { .. });
    for _ in 0..3 {
        perform_all(&mut world, |action| !is_of_route(action));
        assert!(world.has_weight(&"old".parse().unwrap()), "{}", world.story.join("\n"));
        world.sleep();
    }
    for _ in 0..5 {
        world.settle();
        world.sleep();
    }
    assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)), "{}", world.story.join("\n"));
    assert_eq!((world.targets.len(), world.running()), (2, 2), "{}", world.story.join("\n"));
}

#[test]
fn a_former_release_that_does_not_come_back_is_left_after_some_tries_or_by_a_word() {
    for is_aborted in [false, true] {
        let mut world = World::tight(WhenFull::Recreate, 1);
        world.claim();
        let is_ladder = |action: &Action| matches!(action, Action::AwaitReady { .. });
        perform_all(&mut world, |action| !is_ladder(action));
        let mut tries = 0;
        if is_aborted {
            world.say(RolloutCommand::Abort);
            perform_all(&mut world, |action| !is_ladder(action));
        }
        while world.finished.is_none() {
            tries += 1;
            assert!(tries < 20 && world.sleep(), "it never ends:\n{}", world.story.join("\n"));
            perform_all(&mut world, |action| !is_ladder(action));
        }
        assert_eq!(tries > 0, !is_aborted);
        assert_eq!(world.finished, Some((RolloutStatus::Failed, Serves::Former)));
        assert_eq!((world.targets.len(), world.running()), (0, 0), "another release has room");
        let reason = world.machine.reason().unwrap();
        for words in ["health: 503", "Nobody serves `web` in `production`", "`segue rollback production web`"] {
            assert!(reason.contains(words), "{reason}");
        }
    }
}

#[test]
fn an_abort_while_what_serves_is_stopped_brings_it_back() {
    let mut world = World::tight(WhenFull::Recreate, 1);
    world.claim();
    while !matches!(world.queue.front(), Some(Action::Stop { .. })) {
        assert!(world.perform(true));
    }
    world.say(RolloutCommand::Abort);
    // a second word in a hurry is none against the way back
    world.say(RolloutCommand::Abort);
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)), "{}", world.story.join("\n"));
    assert_eq!((world.targets.len(), world.running()), (1, 1));
    assert_eq!(world.machine.reason(), Some("aborted (ada)"));
}

#[test]
fn what_serves_is_not_stopped_where_nobody_knows_how_it_is_brought_back() {
    let mut world = World::tight(WhenFull::Recreate, 1);
    let mut spec = world.machine.spec().clone();
    spec.previous = None;
    world.machine = RolloutMachine::new(segue_schemas::id::RolloutId(7), spec);
    world.claim();
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::Failed, Serves::Former)));
    assert!(world.has_weight(&"old".parse().unwrap()));
    assert!(world.machine.reason().unwrap().contains("is not on record"), "{:?}", world.machine.reason());
}

#[test]
fn a_host_that_answers_nobody_is_brought_in_step_whatever_its_file_says_of_room() {
    for is_ready in [true, false] {
        let mut world = World::tight(WhenFull::Refuse, 1);
        let mut spec = world.machine.spec().clone();
        // as the server makes it for a host that was left out, where what it carries is of another release
        (spec.is_rollback, spec.previous) = (true, Some(spec.release.clone()));
        world.machine = RolloutMachine::new(segue_schemas::id::RolloutId(7), spec);
        world.targets.clear();
        world.claim();
        while world.finished.is_none() {
            let is_ladder = matches!(world.queue.front(), Some(Action::AwaitReady { .. }));
            assert!(world.perform(is_ready || !is_ladder), "it never ends: {}", world.story.join("\n"));
        }
        if is_ready {
            assert_eq!((world.finished, world.running()), (Some((RolloutStatus::Succeeded, Serves::New)), 1));
        } else {
            assert_eq!((world.finished, world.running()), (Some((RolloutStatus::Failed, Serves::Former)), 0));
            let reason = world.machine.reason().unwrap();
            assert!(reason.contains("health: 503") && reason.contains("nothing served before"), "{reason}");
        }
    }

    // where it answers, its file says what may be stopped
    let mut world = World::tight(WhenFull::Refuse, 1);
    let mut spec = world.machine.spec().clone();
    (spec.is_rollback, spec.previous) = (true, Some(spec.release.clone()));
    world.machine = RolloutMachine::new(segue_schemas::id::RolloutId(7), spec);
    world.claim();
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::Failed, Serves::Former)));
    assert!(world.has_weight(&"old".parse().unwrap()), "{}", world.story.join("\n"));
}

#[test]
fn a_state_of_another_form_is_refused_in_words() {
    let mut state = serde_json::to_value(&World::new(canary()).machine).unwrap();
    state["version"] = 9.into();
    let error = RolloutMachine::restore(state).unwrap_err();
    assert!(matches!(error, RestoreError::Version { found: 9 }));
    assert!(error.to_string().contains("finish it with the version that began it"));
    assert!(RolloutMachine::restore(serde_json::json!({ "version": 1 })).is_err());
}

/// What may happen at any time.
#[derive(Debug, Clone)]
enum Happening {
    Perform { well: bool },
    Traffic { count: u64, fails: Option<u64> },
    Pass { seconds: i64 },
    Say(RolloutCommand),
    NewOwner,
    DeadMan { is_told: bool },
    Emergency,
    Lose { is_new: bool },
    Router { is_broken: bool },
    Stray(Box<Input>),
    LoseHost { host: usize },
    Gpu { host: usize, code: u32, is_new: bool, is_told: bool },
}

fn happening() -> impl Strategy<Value = Happening> {
    let instance = || prop_oneof![Just("old"), Just("web-2-0-7"), Just("who")].prop_map(|name| name.parse().unwrap());
    let command = prop_oneof![Just(RolloutCommand::Promote), Just(RolloutCommand::Abort), Just(RolloutCommand::Skip)];
    prop_oneof![
        12 => proptest::bool::weighted(0.85).prop_map(|well| Happening::Perform { well }),
        3 => (1..400_u64, proptest::option::weighted(0.2, 1..10_u64))
            .prop_map(|(count, fails)| Happening::Traffic { count, fails }),
        3 => (1..100_i64).prop_map(|seconds| Happening::Pass { seconds }),
        1 => command.prop_map(Happening::Say),
        1 => Just(Happening::NewOwner),
        1 => any::<bool>().prop_map(|is_told| Happening::DeadMan { is_told }),
        1 => Just(Happening::Emergency),
        1 => any::<bool>().prop_map(|is_new| Happening::Lose { is_new }),
        1 => any::<bool>().prop_map(|is_broken| Happening::Router { is_broken }),
        1 => (instance(), 0..4_u8).prop_map(|(instance, kind)| Happening::Stray(Box::new(match kind {
            0 => Input::Retired { instance },
            1 => Input::Stopped { instance },
            2 => Input::Drained { instance, in_flight: 0 },
            _ => Input::NotReady { instance, reason: "stray".into() },
        }))),
    ]
}

/// Hosts that are lost, among all else.
fn happening_on_hosts() -> impl Strategy<Value = Happening> {
    prop_oneof![12 => happening(), 1 => (1..4_usize).prop_map(|host| Happening::LoseHost { host })]
}

/// What happens to GPUs, among all else.
fn happening_with_gpus() -> impl Strategy<Value = Happening> {
    let code = prop_oneof![Just(79_u32), Just(31), Just(13), Just(45)];
    let gpu = (0..3_usize, code, any::<bool>(), any::<bool>())
        .prop_map(|(host, code, is_new, is_told)| Happening::Gpu { host, code, is_new, is_told });
    prop_oneof![6 => happening(), 1 => gpu]
}

fn happen(world: &mut World, what: Happening) {
    if world.finished.is_some() {
        return;
    }
    match what {
        Happening::Perform { well } => drop(world.perform(well)),
        Happening::Traffic { count, fails } => world.traffic(count, fails),
        Happening::Pass { seconds } => world.pass(seconds),
        Happening::Say(command) => world.say(command),
        Happening::NewOwner => world.claim(),
        Happening::DeadMan { is_told } => world.let_dead_man_act(is_told),
        // one that comes after the end is another story
        Happening::Emergency if world.machine.is_ended() => {}
        Happening::Emergency => world.emergency(),
        Happening::Lose { is_new } => world.lose(is_new),
        Happening::Router { is_broken } => world.is_router_broken = is_broken,
        Happening::Stray(input) => world.give(*input),
        Happening::LoseHost { host } => {
            if let Some(host) = world.machine.spec().hosts.get(host).cloned() {
                world.lose_host(&host);
            }
        }
        Happening::Gpu { host, code, is_new, is_told } => {
            let instance = if is_new { world.machine.new_instances().next().cloned() } else { "old".parse().ok() };
            if let Some((host, instance)) = world.hosts.get(host % world.hosts.len().max(1)).cloned().zip(instance) {
                world.fail_gpu(&host, code, &instance);
            }
            if is_told {
                world.tell_gpus(false);
            }
        }
    }
}

/// From here on everything that can work does, and time passes; a person may have said a last word.
fn come_to_an_end(world: &mut World, word: Option<RolloutCommand>) {
    if world.finished.is_some() {
        return;
    }
    world.is_router_broken = false;
    world.claim();
    if let Some(word) = word {
        world.say(word);
    }
    for _ in 0..200 {
        world.settle();
        if world.finished.is_some() || !world.sleep() {
            break;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// The world checks at each act that nothing gets weight before it was ready, that nothing with weight is stopped, that every
    /// change of status is legal, and at the end that the target is wholly old or new.
    #[test]
    fn any_order_of_any_events_keeps_what_must_hold_and_ends(
        is_canary in any::<bool>(),
        is_first in proptest::bool::weighted(0.2),
        replicas in 1..4_u32,
        happenings in proptest::collection::vec(happening(), 0..60),
        word in proptest::option::of(Just(RolloutCommand::Abort)),
    ) {
        let how = if is_canary { canary() } else { How::HotSwap };
        let mut world = if is_first { World::first(how) } else { World::with_replicas(how, replicas) };
        world.claim();
        let mut both_dead = (false, false);
        for what in happenings {
            if let Happening::Lose { is_new } = what {
                if is_new { both_dead.0 = true } else { both_dead.1 = true }
            }
            happen(&mut world, what);
        }
        come_to_an_end(&mut world, word);
        // where nothing lives any more, on either side, there is nothing to end in
        if !(both_dead.0 && both_dead.1) {
            prop_assert!(world.finished.is_some(), "it never ends:\n{}", world.story.join("\n"));
        }
    }

    /// As above of what goes host after host, and of what stands ready first.
    #[test]
    fn other_strategies_end_wholly_old_or_new_as_well(
        how in strategies::any(),
        hosts in 1..5_usize,
        happenings in proptest::collection::vec(happening_on_hosts(), 0..80),
        word in proptest::option::of(Just(RolloutCommand::Abort)),
    ) {
        let mut world = World::on_hosts(how, &["a", "b", "c", "d"][..hosts]);
        world.claim();
        let mut both_dead = (false, false);
        for what in happenings {
            if let Happening::Lose { is_new } = what {
                if is_new { both_dead.0 = true } else { both_dead.1 = true }
            }
            happen(&mut world, what);
        }
        come_to_an_end(&mut world, word);
        if !(both_dead.0 && both_dead.1) {
            prop_assert!(world.finished.is_some(), "it never ends:\n{}", world.story.join("\n"));
        }
    }

    /// As above of a service with GPUs, whatever happens to those of its hosts.
    #[test]
    fn whatever_happens_to_gpus_it_ends_wholly_old_or_new(
        is_canary in any::<bool>(),
        hosts in 1..4_usize,
        happenings in proptest::collection::vec(happening_with_gpus(), 0..60),
        word in proptest::option::of(Just(RolloutCommand::Abort)),
    ) {
        let how = if is_canary { canary() } else { How::HotSwap };
        let mut world = World::with_gpus(how, &["a", "b", "c"][..hosts]);
        world.claim();
        let mut both_dead = (false, false);
        for what in happenings {
            if let Happening::Lose { is_new } = what {
                if is_new { both_dead.0 = true } else { both_dead.1 = true }
            }
            happen(&mut world, what);
        }
        come_to_an_end(&mut world, word);
        if !(both_dead.0 && both_dead.1) {
            prop_assert!(world.finished.is_some(), "it never ends:\n{}", world.story.join("\n"));
        }
    }

    /// As above where old and new never fit side by side: in the end one of them serves.
    #[test]
    fn releases_that_change_places_end_with_one_that_serves(
        replicas in 1..4_u32,
        happenings in proptest::collection::vec(happening(), 0..60),
        word in proptest::option::of(Just(RolloutCommand::Abort)),
    ) {
        let mut world = World::tight(WhenFull::Recreate, replicas);
        world.claim();
        let mut is_lost = false;
        let mut is_ended_by_word = word.is_some();
        for what in happenings {
            is_ended_by_word |= matches!(what, Happening::Say(RolloutCommand::Abort));
            is_lost |= matches!(what, Happening::Lose { .. } | Happening::Emergency);
            happen(&mut world, what);
        }
        come_to_an_end(&mut world, word);
        if !is_lost {
            prop_assert!(world.finished.is_some(), "it never ends:\n{}", world.story.join("\n"));
            // a person may have had enough of a former release that did not come back; then everything has gone
            // or nobody knows, where the host did not do what it was asked for
            let is_unknown = world.finished == Some((RolloutStatus::Failed, Serves::Unknown));
            let is_left = is_unknown
                || world.finished == Some((RolloutStatus::Failed, Serves::Former))
                    && world.machine.reason().is_some_and(|reason| reason.contains("Nobody serves"));
            prop_assert!(is_left || !world.targets.is_empty(), "nobody serves:\n{}", world.story.join("\n"));
            let was_tried = world.machine.reason().is_some_and(|reason| reason.contains("tried often enough"));
            prop_assert!(!is_left || is_ended_by_word || was_tried, "nobody said so:\n{}", world.story.join("\n"));
        }
    }

    #[test]
    fn a_way_back_is_always_open(replicas in 1..4_u32, happenings in proptest::collection::vec(happening(), 0..40)) {
        let mut world = World::with_replicas(canary(), replicas);
        world.claim();
        for what in happenings {
            if !matches!(what, Happening::Lose { .. } | Happening::Say(_)) {
                happen(&mut world, what);
            }
        }
        if world.finished.is_none() {
            come_to_an_end(&mut world, Some(RolloutCommand::Abort));
            prop_assert!(
                matches!(world.finished, Some((RolloutStatus::RolledBack | RolloutStatus::Failed, Serves::Former))),
                "{:?}\n{}", world.finished, world.story.join("\n")
            );
        }
    }
}

#[test]
fn what_only_brings_a_host_to_what_is_on_record_is_known_from_servers_of_both_versions() {
    let new = spec(canary());
    assert!(!new.is_repair());
    let back = RolloutSpec { is_rollback: true, ..new };
    assert!(!back.is_repair(), "another release serves");
    let said = RolloutSpec { repair: Some(Repair::default()), ..back.clone() };
    assert!(said.is_repair());
    let unsaid = RolloutSpec { previous: Some(back.release.clone()), ..back };
    assert!(unsaid.is_repair());
}
