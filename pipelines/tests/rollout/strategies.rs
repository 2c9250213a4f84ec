//! What goes host after host, and what stands ready before it serves.

use proptest::prelude::*;
use segue_pipelines::{
    judge::Decision,
    rollout::{Action, Serves},
};
use segue_schemas::{
    deploy::{JudgeSpec, RolloutCommand, Strategy as How},
    duration::Span,
    status::RolloutStatus,
    strategy::{Batch, BlueGreenSpec, RollingSpec},
};

use super::world::World;

const DONE: Option<(RolloutStatus, Serves)> = Some((RolloutStatus::Succeeded, Serves::New));
const BACK: Option<(RolloutStatus, Serves)> = Some((RolloutStatus::RolledBack, Serves::Former));

pub fn rolling(batch: Batch) -> How {
    let judge = JudgeSpec { min_requests: 0, ..JudgeSpec::default() };
    How::Rolling(RollingSpec { batch, pause: Span::seconds(60), hold_limit: Span::seconds(600), judge })
}

fn blue_green(hold: bool) -> How {
    let judge = JudgeSpec { min_requests: 0, ..JudgeSpec::default() };
    How::BlueGreen(BlueGreenSpec { hold, hold_limit: Span::seconds(600), soak: Span::seconds(60), judge })
}

pub fn any() -> impl Strategy<Value = How> {
    prop_oneof![
        (1..4_u32).prop_map(|count| rolling(Batch::Hosts(count))),
        (1..101_u8).prop_map(|percent| rolling(Batch::Percent(percent))),
        proptest::bool::ANY.prop_map(blue_green),
    ]
}

fn tail(world: &World, lines: usize) -> String {
    world.story[world.story.len().saturating_sub(lines)..].join("\n")
}

#[test]
fn hosts_go_over_one_after_the_other() {
    let mut world = World::on_hosts(rolling(Batch::Hosts(1)), &["a", "b", "c"]);
    world.claim();
    world.settle();
    for (step, (percent, hosts)) in [(33, "a"), (66, "a b"), (100, "a b c")].into_iter().enumerate() {
        assert_eq!((world.machine.weight(), world.new_at().join(" ")), (percent, hosts.to_owned()));
        assert_eq!((world.machine.stage(), world.machine.status()), (step, RolloutStatus::Running));
        // without any request too
        world.traffic(if step == 1 { 0 } else { 600 }, None);
        world.settle();
        assert_eq!(world.new_at().join(" "), hosts, "the pause is not over");
        world.pass(60);
        world.settle();
    }
    assert_eq!(world.finished, DONE, "{}", world.story.join("\n"));
    insta::assert_snapshot!(world.story.join("\n"));
}

#[test]
fn it_counts_when_a_request_was_answered_and_not_which_host_told_of_it_first() {
    let after = |by_host: Option<usize>| {
        let mut world = World::on_hosts(rolling(Batch::Hosts(1)), &["a", "b"]);
        world.claim();
        world.settle();
        world.hosts_tell(400, 3, by_host);
        let verdict = world.machine.verdict().unwrap();
        (verdict.decision, verdict.canary_requests)
    };
    let as_it_happened = after(None);
    assert_eq!(as_it_happened.0, Decision::RollBack);
    assert_eq!([after(Some(0)), after(Some(1))], [as_it_happened; 2]);
}

#[test]
fn what_is_bad_at_one_host_goes_back_at_all_that_went_over() {
    let mut world = World::on_hosts(rolling(Batch::Percent(50)), &["a", "b", "c", "d"]);
    world.claim();
    world.settle();
    world.traffic(600, None);
    world.pass(60);
    world.settle();
    assert_eq!(world.new_at().len(), 4);
    world.pass(1);
    world.traffic(16_000, Some(1));
    world.settle();
    assert_eq!((world.finished, world.new_at().len()), (BACK, 0), "{}", world.story.join("\n"));
    let reason = world.machine.reason().unwrap();
    assert!(reason.contains("of the former release's, as stored"), "{reason}");
}

#[test]
fn hosts_that_still_have_the_former_release_are_what_it_is_compared_with() {
    let mut world = World::on_hosts(rolling(Batch::Hosts(1)), &["a", "b"]);
    world.claim();
    world.settle();
    world.traffic(600, Some(4));
    world.settle();
    assert_eq!((world.finished, world.new_at().len()), (BACK, 0), "{}", tail(&world, 20));
    let verdict = world.machine.verdict().unwrap();
    assert!(!verdict.control_is_stored && verdict.canary_requests < 200, "{verdict:?}");
}

#[test]
fn a_host_that_has_far_more_traffic_than_the_others_is_no_evidence_against_a_good_release() {
    // one failure in fifty on either side, and nine requests of ten at the host that went over
    let mut world = World::on_hosts(rolling(Batch::Hosts(1)), &["a", "b"]);
    world.claim();
    world.settle();
    for _ in 0..20 {
        world.uneven_traffic(1_000, 9, 50);
        world.settle();
    }
    assert!(world.finished.is_none(), "{}", tail(&world, 12));
    assert_eq!(world.new_at(), ["a"]);
}

#[test]
fn a_lost_host_is_left_out_and_the_next_one_goes_over_in_its_place() {
    let mut world = World::on_hosts(rolling(Batch::Hosts(1)), &["a", "b", "c"]);
    world.claim();
    world.settle();
    world.pass(60);
    world.settle();
    assert_eq!(world.new_at(), ["a", "b"]);
    world.lose_host("b");
    world.settle();
    world.pass(60);
    world.settle();
    assert_eq!((world.new_at().join(" "), world.machine.weight()), ("a c".into(), 100));
    world.pass(60);
    world.settle();
    assert_eq!(world.finished, DONE, "{}", world.story.join("\n"));
}

#[test]
fn a_new_owner_goes_on_with_the_hosts_that_went_over() {
    let mut world = World::on_hosts(rolling(Batch::Hosts(1)), &["a", "b", "c"]);
    world.claim();
    world.settle();
    for hosts in ["a", "a b", "a b c"] {
        for _ in 0..3 {
            world.claim();
            world.settle();
            assert_eq!(world.new_at().join(" "), hosts, "{}", tail(&world, 12));
        }
        // and one that comes while the next host is asked to go over
        world.pass(60);
        assert!(world.finished.is_none());
        world.claim();
        world.settle();
    }
    assert_eq!(world.finished, DONE, "{}", world.story.join("\n"));
}

#[test]
fn what_was_taken_back_at_a_host_that_went_over_goes_back_everywhere() {
    let mut world = World::on_hosts(rolling(Batch::Hosts(1)), &["a", "b", "c"]);
    world.claim();
    world.settle();
    world.pass(60);
    world.settle();
    let back = world.elsewhere["c"].clone();
    world.elsewhere.insert("b".into(), back);
    world.claim();
    world.settle();
    assert_eq!((world.finished, world.new_at().len()), (BACK, 0), "{}", world.story.join("\n"));
}

#[test]
fn promoted_the_hosts_go_over_without_pauses_and_one_after_the_other() {
    let mut world = World::on_hosts(rolling(Batch::Hosts(1)), &["a", "b", "c"]);
    world.claim();
    world.settle();
    world.say(RolloutCommand::Promote);
    let mut steps = Vec::new();
    while world.perform(true) {
        steps.push(world.new_at().len());
    }
    steps.dedup();
    assert_eq!((steps, world.finished), (vec![1, 2, 3], DONE), "{}", world.story.join("\n"));
}

#[test]
fn at_one_host_it_is_a_hot_swap_that_is_watched() {
    let mut world = World::on_hosts(rolling(Batch::Hosts(1)), &["a"]);
    world.claim();
    world.settle();
    assert_eq!((world.machine.weight(), world.finished), (100, None));
    world.pass(60);
    world.settle();
    assert_eq!(world.finished, DONE);
}

#[test]
fn what_is_held_stands_ready_until_it_is_promoted_and_is_watched_then() {
    let mut world = World::on_hosts(blue_green(true), &["a", "b"]);
    world.claim();
    world.settle();
    assert!(world.is_standing_by && world.new_at().is_empty(), "{}", world.story.join("\n"));
    assert_eq!((world.machine.weight(), world.machine.status()), (0, RolloutStatus::Held));
    world.traffic(600, None);
    // another owner puts it there again, and does not wait longer
    world.pass(300);
    world.claim();
    world.settle();
    assert_eq!(world.machine.next_wake().map(|at| at.0), Some(1_000_000 + 600_000));
    world.say(RolloutCommand::Promote);
    world.settle();
    assert_eq!((world.new_at().len(), world.machine.status()), (2, RolloutStatus::Running));
    assert!(world.dead_man && !world.is_standing_by);
    world.traffic(600, None);
    world.pass(60);
    world.settle();
    assert_eq!(world.finished, DONE);
    insta::assert_snapshot!(world.story.join("\n"));
}

#[test]
fn what_nobody_promotes_goes_away_and_what_is_bad_goes_back_while_it_is_watched() {
    let mut world = World::on_hosts(blue_green(true), &["a"]);
    world.claim();
    world.settle();
    assert!(world.sleep());
    world.settle();
    assert_eq!((world.finished, world.is_standing_by), (BACK, false), "{}", world.story.join("\n"));
    assert!(world.machine.reason().unwrap().contains("nobody promoted it"));

    let mut world = World::on_hosts(blue_green(false), &["a", "b"]);
    world.claim();
    world.traffic(600, None);
    world.settle();
    assert_eq!(world.new_at().len(), 2, "without `hold` it serves at once");
    world.pass(1);
    world.traffic(4_000, Some(1));
    world.settle();
    assert_eq!((world.finished, world.new_at().len()), (BACK, 0), "{}", world.story.join("\n"));
}

#[test]
fn a_word_before_it_stands_ready_spares_the_wait_and_not_the_watch() {
    let mut world = World::on_hosts(blue_green(true), &["a"]);
    world.claim();
    world.say(RolloutCommand::Promote);
    world.settle();
    assert_eq!((world.machine.weight(), world.finished), (100, None));
    // and once more ends the watch
    world.say(RolloutCommand::Promote);
    world.settle();
    assert_eq!(world.finished, DONE);
}

#[test]
fn a_word_that_is_told_again_counts_once_whoever_hears_it() {
    let mut world = World::on_hosts(blue_green(true), &["a"]);
    world.claim();
    world.settle();
    world.tell(RolloutCommand::Promote, 4);
    world.settle();
    assert_eq!((world.machine.weight(), world.finished), (100, None), "it serves, and is watched");
    for is_new_owner in [false, true] {
        if is_new_owner {
            world.claim();
            world.settle();
        }
        // late, also one that was said before it
        for word in [4, 3] {
            world.tell(RolloutCommand::Promote, word);
            // the journal has it once more, so that it is not told for ever
            assert!(
                world
                    .queue
                    .iter()
                    .any(|action| matches!(action, Action::Record { detail, .. } if detail["word"] == word))
            );
            world.settle();
        }
        assert_eq!(world.finished, None, "{}", tail(&world, 12));
    }
    world.tell(RolloutCommand::Promote, 5);
    world.settle();
    assert_eq!(world.finished, DONE, "another one ends the watch");
}

#[test]
fn what_can_not_be_put_beside_what_serves_is_taken_away() {
    let mut world = World::on_hosts(blue_green(true), &["a"]);
    world.claim();
    while !matches!(world.queue.front(), Some(Action::StandBy { .. })) {
        assert!(world.perform(true));
    }
    world.perform(false);
    world.settle();
    assert_eq!(world.finished, BACK);
    assert!(world.machine.reason().unwrap().contains("could not be put beside what serves"));
}

#[test]
fn each_answer_is_that_of_one_shift_whatever_the_percent() {
    for (strategy, hosts) in [(rolling(Batch::Hosts(1)), &["a"][..]), (blue_green(false), &["a", "b"][..])] {
        let mut world = World::on_hosts(strategy, hosts);
        world.claim();
        world.settle();
        assert!(world.dead_man);
        // a new owner asserts the watched weights once more, and before that is done a person ends the watch
        world.claim();
        world.say(RolloutCommand::Skip);
        let shifts = world.queue.iter().filter(|action| matches!(action, Action::Shift { percent: 100, .. }));
        assert_eq!(shifts.count(), 2, "{}", tail(&world, 8));
        let mut seen = 0;
        while let Some(action) = world.queue.front() {
            seen += u32::from(matches!(action, Action::Shift { .. }));
            // the one that would have cleared the dead man's switch is refused
            let is_refused = seen == 2 && matches!(action, Action::Shift { .. });
            world.perform(!is_refused);
        }
        assert_eq!((world.finished, world.dead_man), (BACK, false), "{}", tail(&world, 16));
    }
}

#[test]
fn where_the_hosts_that_had_not_gone_over_are_lost_the_release_is_judged_by_what_is_stored() {
    for is_found_by_a_new_owner in [false, true] {
        let mut world = World::on_hosts(rolling(Batch::Hosts(1)), &["a", "b"]);
        world.claim();
        world.settle();
        // the former release was seen at both, and then at one
        world.traffic(4_000, None);
        world.settle();
        assert_eq!((world.new_at().join(" "), world.machine.weight()), ("a".into(), 50));
        if is_found_by_a_new_owner {
            world.lose_host_unseen("b");
            world.claim();
        } else {
            world.lose_host("b");
        }
        world.settle();
        assert_eq!((world.new_at().join(" "), world.machine.weight()), ("a".into(), 100), "{}", tail(&world, 12));
        assert!(world.dead_man && world.finished.is_none());
        world.pass(1);
        world.traffic(4_000, Some(1));
        world.settle();
        assert_eq!((world.finished, world.new_at().len()), (BACK, 0), "{}", tail(&world, 12));
        let reason = world.machine.reason().unwrap();
        assert!(reason.contains("as stored"), "{reason}");
    }
}

#[test]
fn a_first_release_that_is_held_has_no_traffic_before_it_is_promoted() {
    let mut world = World::first(blue_green(true));
    world.claim();
    world.settle();
    assert!(world.is_standing_by && world.targets.is_empty(), "{}", world.story.join("\n"));
    assert_eq!((world.machine.weight(), world.machine.status()), (0, RolloutStatus::Held));
    world.claim();
    world.settle();
    world.say(RolloutCommand::Promote);
    world.settle();
    assert_eq!(world.finished, DONE, "{}", world.story.join("\n"));

    let mut world = World::first(blue_green(true));
    world.claim();
    world.settle();
    assert!(world.sleep());
    world.settle();
    assert_eq!((world.finished, world.targets.len()), (BACK, 0), "{}", world.story.join("\n"));
}
