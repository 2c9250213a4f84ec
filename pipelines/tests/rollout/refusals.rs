//! Hosts that answer and refuse: what is tried again has an end, or says how often it was tried.

use segue_pipelines::rollout::{Action, Serves};
use segue_schemas::{deploy::RolloutCommand, gpu::WhenFull, status::RolloutStatus, strategy::Batch};

use super::{
    strategies::rolling,
    turns::{DONE, TIGHT, Yard},
    world::{World, canary},
};

const UNKNOWN: Option<(RolloutStatus, Serves)> = Some((RolloutStatus::Failed, Serves::Unknown));

/// Two hosts that have gone over, and are to go back.
fn on_the_way_back() -> Yard {
    let mut yard = Yard::new(rolling(Batch::Hosts(1)), &TIGHT);
    yard.claim();
    yard.settle();
    yard.pass(61);
    yard.settle();
    assert_eq!(yard.serving(), "a=2/1 b=2/1");
    yard.say(RolloutCommand::Abort);
    yard
}

/// Until it ends, with these acts refused; a person has enough of it after so many refusals. How many there were.
fn refuse(yard: &mut Yard, enough: Option<u32>, is_refused: impl Fn(&Action) -> bool) -> u32 {
    let mut refusals = 0;
    while yard.finished.is_none() {
        let refuses = matches!(yard.queue.front(), Some(Action::At { what, .. }) if is_refused(what));
        refusals += u32::from(refuses);
        assert!(refusals < 100, "it never ends:\n{}", yard.tail(40));
        if !yard.perform(!refuses) {
            if enough.is_some_and(|enough| refusals >= enough) {
                yard.say(RolloutCommand::Abort);
            }
            assert!(!yard.queue.is_empty() || yard.sleep(), "it never ends:\n{}", yard.tail(40));
        }
    }
    refusals
}

fn is_interrupt(action: &Action) -> bool {
    matches!(action, Action::Interrupt { .. })
}

fn is_of_route(action: &Action) -> bool {
    matches!(action, Action::Interrupt { .. } | Action::Shift { .. })
}

#[track_caller]
fn says(reason: Option<&str>, words: &[&str]) {
    let reason = reason.unwrap_or_default();
    for word in words {
        assert!(reason.contains(word), "{word}: {reason}");
    }
}

#[test]
fn where_no_host_gives_its_traffic_back_all_stay_at_the_new_release() {
    for (enough, tries) in [(None, 20), (Some(1), 2)] {
        let mut yard = on_the_way_back();
        assert_eq!(refuse(&mut yard, enough, is_interrupt), tries, "{}", yard.tail(40));
        assert_eq!((yard.finished, yard.serving().as_str(), yard.had_outage), (DONE, "a=2/1 b=2/1", false));
        assert!(yard.quarantined.is_empty(), "{:?}", yard.quarantined);
        let words = ["host `a`: aborted (ada)", "host `b`: ", "refused", "so release 2 has all the traffic"];
        says(yard.machine.reason(), &words);
    }
}

#[test]
fn where_hosts_refuse_everything_it_ends_and_says_what_had_the_traffic() {
    for (enough, most) in [(None, 40), (Some(1), 5)] {
        let mut yard = on_the_way_back();
        let refusals = refuse(&mut yard, enough, is_of_route);
        assert!(refusals <= most, "{refusals}:\n{}", yard.tail(40));
        assert_eq!((yard.finished, yard.serving().as_str()), (UNKNOWN, "a=2/1 b=2/1"), "{}", yard.tail(40));
        let words = ["at host `a` is not known", "at host `b` is not known", "release 2 had all of it"];
        says(yard.machine.reason(), &words);
    }
}

#[test]
fn while_a_host_refuses_the_reason_says_how_often() {
    let mut yard = on_the_way_back();
    for _ in 0..3 {
        while let Some(action) = yard.queue.front() {
            let well = !matches!(action, Action::At { what, .. } if is_interrupt(what));
            yard.perform(well);
        }
        assert!(yard.sleep());
    }
    says(
        yard.machine.reason(),
        &["aborted (ada); host `a`: the way back failed 3 times", "refused; it is tried again"],
    );
    // and when it is over there is no word of it
    yard.settle();
    for _ in 0..5 {
        yard.sleep();
        yard.settle();
    }
    assert_eq!(yard.machine.reason(), Some("aborted (ada)"), "{}", yard.tail(40));
}

#[test]
fn a_single_host_that_refuses_in_its_gap_is_left_after_some_tries_or_by_a_word() {
    for is_aborted in [false, true] {
        let mut world = World::tight(WhenFull::Recreate, 1);
        world.claim();
        let mut refusals = 0;
        while !matches!(world.queue.front(), Some(Action::AwaitReady { .. })) {
            world.perform(true);
        }
        world.perform(false);
        while world.finished.is_none() {
            let refuses = world.queue.front().is_some_and(is_interrupt);
            refusals += u32::from(refuses);
            assert!(refusals < 30, "{}", world.story.join("\n"));
            if !world.perform(!refuses) {
                if is_aborted {
                    world.say(RolloutCommand::Abort);
                }
                assert!(!world.queue.is_empty() || world.sleep(), "{}", world.story.join("\n"));
            }
        }
        // the last is that of the end
        assert_eq!(refusals, if is_aborted { 2 } else { 11 }, "{}", world.story.join("\n"));
        assert_eq!((world.finished, world.running()), (Some((RolloutStatus::Failed, Serves::Former)), 0));
        says(world.machine.reason(), &["health: 503", "refused", "Nobody serves `web` in `production`"]);
    }
}

#[test]
fn what_serves_gets_its_traffic_back_where_a_person_has_enough_before_anything_was_stopped() {
    for is_done in [true, false] {
        let mut world = World::tight(WhenFull::Recreate, 1);
        world.claim();
        while !world.queue.front().is_some_and(is_interrupt) {
            world.perform(true);
        }
        world.say(RolloutCommand::Abort);
        // refused as it was asked for first, and then to bring what serves back
        world.perform(false);
        world.perform(false);
        while !world.queue.is_empty() {
            world.perform(false);
        }
        world.say(RolloutCommand::Abort);
        while world.finished.is_none() && !world.queue.is_empty() {
            let well = is_done || !world.queue.front().is_some_and(is_of_route);
            world.perform(well);
        }
        let expected = if is_done { Some((RolloutStatus::RolledBack, Serves::Former)) } else { UNKNOWN };
        assert_eq!(world.finished, expected, "{}", world.story.join("\n"));
        assert!(world.has_weight(&"old".parse().unwrap()), "{}", world.story.join("\n"));
    }
}

#[test]
fn what_has_to_have_traffic_somewhere_is_tried_on_and_the_journal_has_its_bound() {
    let mut world = World::new(canary());
    world.claim();
    world.settle();
    world.say(RolloutCommand::Abort);
    let records = |world: &World| world.story.iter().filter(|line| line.contains("record NotReady")).count();
    let mut told = 0;
    for round in 0..300 {
        while let Some(action) = world.queue.front() {
            let well = !is_of_route(action) && !matches!(action, Action::AwaitReady { .. });
            world.perform(well);
        }
        assert!(world.finished.is_none() && world.sleep(), "{round}: {}", world.story.join("\n"));
        if round == 60 {
            told = records(&world);
            says(world.machine.reason(), &["aborted (ada); the way back failed ", " times", "it is tried again"]);
        }
    }
    assert!(world.machine.has_told_enough());
    assert_eq!((told > 0, records(&world)), (true, told));
    // as soon as the host can do it, it does
    world.settle();
    for _ in 0..5 {
        world.sleep();
        world.settle();
    }
    assert!(world.finished.is_some(), "{}", world.story.join("\n"));
}

/// Until somebody mends the router: what is asked for, in tries.
fn while_the_router_is_broken(world: &mut World, rounds: usize) -> Vec<Action> {
    world.is_router_broken = true;
    let mut asked = Vec::new();
    for _ in 0..rounds {
        while let Some(action) = world.queue.front().cloned() {
            asked.push(action);
            world.perform(true);
        }
        assert!(world.finished.is_some() || world.sleep(), "it is tried on: {}", world.story.join("\n"));
    }
    asked
}

#[test]
fn a_router_that_refuses_the_way_back_is_asked_again_and_nothing_else_is_done() {
    let mut world = World::new(canary());
    world.claim();
    world.settle();
    world.say(RolloutCommand::Abort);
    let asked = while_the_router_is_broken(&mut world, 30);
    let is_way_back = |action: &Action| matches!(action, Action::Shift { percent: 0, .. } | Action::Record { .. });
    assert!(asked.iter().all(is_way_back), "{}", world.story.join("\n"));
    says(world.machine.reason(), &["aborted (ada)", "failed 30 times", "refused"]);
    let told = world.story.iter().filter(|line| line.contains("the way back was refused")).count();
    assert_eq!(told, 2, "the first and the tenth: {}", world.story.join("\n"));
    let rest = world.machine.next_wake().map_or(0, |wake| wake.0 - world.now.0);
    assert!(rest <= 4_000, "{rest} ms go by once it is mended");

    world.is_router_broken = false;
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)), "{}", world.story.join("\n"));
}

#[test]
fn what_a_router_refused_is_no_reason_to_wait_long_for_a_release_that_has_died_meanwhile() {
    let mut world = World::new(canary());
    world.claim();
    world.settle();
    world.say(RolloutCommand::Abort);
    while_the_router_is_broken(&mut world, 60);
    world.is_router_broken = false;
    let mended_at = world.now;
    while !matches!(world.queue.front(), Some(Action::Start { .. })) {
        let well = !world.queue.front().is_some_and(is_of_route);
        assert!(world.perform(well) || !world.queue.is_empty() || world.sleep(), "{}", world.story.join("\n"));
    }
    let took = world.now.0 - mended_at.0;
    assert!(took <= 8_000, "{took} ms until the former release is started anew");
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)), "{}", world.story.join("\n"));
}

/// In a gap: the new release was never ready, and the former one runs anew and is to have its traffic again.
fn back_in_a_gap() -> World {
    let mut world = World::tight(WhenFull::Recreate, 1);
    world.claim();
    let is_of_new = |world: &World, action: &Action| matches!(action, Action::AwaitReady { instance } if *instance == world.canary());
    while !matches!(world.queue.front(), Some(Action::Shift { percent: 0, .. })) {
        let action = world.queue.front().cloned().expect("it goes on");
        let is_bad = is_of_new(&world, &action);
        world.perform(!is_bad);
    }
    world
}

#[test]
fn a_release_that_came_back_ready_is_not_started_again_for_a_router_that_refuses() {
    let mut world = back_in_a_gap();
    let asked = while_the_router_is_broken(&mut world, 5);
    assert!(!asked.iter().any(|action| matches!(action, Action::Start { .. } | Action::Stop { .. })), "{asked:?}");
    world.say(RolloutCommand::Abort);
    assert_eq!(world.machine.status(), RolloutStatus::Failed, "{}", world.story.join("\n"));
    says(world.machine.reason(), &["aborted (ada)", "is not known for certain", "--emergency"]);

    // nobody would give it its traffic later: it is tried for as long as it takes
    let mut world = back_in_a_gap();
    while_the_router_is_broken(&mut world, 60);
    world.is_router_broken = false;
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)), "{}", world.story.join("\n"));
}
