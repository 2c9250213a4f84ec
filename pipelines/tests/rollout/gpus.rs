//! What becomes of a rollout when GPUs fail.

use segue_pipelines::rollout::{Action, Serves};
use segue_schemas::{
    deploy::{JournalKind, RolloutCommand, Strategy as How},
    status::RolloutStatus,
};

use crate::{
    live,
    world::{World, canary},
};

/// A canary at its first stage.
fn watched(hosts: &[&str]) -> World {
    let mut world = World::with_gpus(canary(), hosts);
    world.claim();
    world.settle();
    assert_eq!(world.machine.weight(), 10);
    world
}

fn reason(world: &World) -> &str {
    world.machine.reason().unwrap_or_default()
}

#[test]
fn a_host_whose_gpu_breaks_is_left_out_and_the_others_go_on() {
    let mut world = watched(&["a", "b"]);
    world.traffic(300, None);
    world.fail_gpu("b", 79, &world.canary());
    world.tell_gpus(false);
    world.settle();
    assert_eq!(world.quarantined, ["b"]);
    assert_eq!(
        (world.machine.status(), world.machine.weight(), world.machine.stage()),
        (RolloutStatus::Running, 10, 0)
    );
    insta::assert_snapshot!(world.story.iter().rev().take(8).rev().cloned().collect::<Vec<_>>().join("\n"));
    // what was seen with it does not count: the stage has begun again
    assert!(world.machine.verdict().is_none());
    live(&mut world, 10, None);
    assert_eq!(world.finished, Some((RolloutStatus::Succeeded, Serves::New)));
    assert_eq!(world.machine.told_verdict().unwrap()["gpus"][0]["xid"], 79, "it is kept with the verdict");
}

#[test]
fn requests_that_fail_with_the_gpu_of_a_host_do_not_count_against_the_release() {
    let mut world = watched(&["a", "b"]);
    // the requests fail before anybody knows why
    world.fail_gpu("b", 79, &world.canary());
    world.traffic(300, Some(1));
    assert!(
        !world.has_weight(&world.canary())
            || world.queue.iter().any(|one| matches!(one, Action::Shift { percent: 0, .. }))
    );
    world.settle();
    assert_eq!(world.quarantined, ["b"]);
    assert_eq!((world.machine.status(), world.machine.weight()), (RolloutStatus::Running, 10), "it is tried again");
    insta::assert_snapshot!(world.story.iter().rev().take(14).rev().cloned().collect::<Vec<_>>().join("\n"));
    // where it does badly at the others as well, it is to blame
    live(&mut world, 10, Some(2));
    assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)));
    assert_eq!(world.quarantined, ["b"]);
}

#[test]
fn a_release_that_goes_back_unjudged_by_a_host_says_so_and_what_nobody_looked_at_is_no_baseline() {
    let mut world = watched(&["a", "b"]);
    world.fail_gpu("b", 79, &world.canary());
    world.speechless = vec!["b".into()];
    world.traffic(300, Some(1));
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)));
    assert!(reason(&world).contains("the GPUs of host `b` could not be asked after"), "{}", reason(&world));

    // one that says it later has nothing to be compared with
    let mut world = World::with_gpus(canary(), &["a", "b"]);
    world.fail_gpu("b", 79, &"old".parse().unwrap());
    world.speechless = vec!["b".into()];
    world.claim();
    world.settle();
    world.speechless.clear();
    for time in 1..3 {
        world.tell_gpus(false);
        world.settle();
        let baselines = world.story.iter().filter(|line| line.contains("GpuBaseline")).count();
        assert_eq!((baselines, world.quarantined.len()), (2, 0), "{time}: {:#?}", world.story);
    }
}

#[test]
fn the_only_host_goes_back_and_the_release_is_not_to_blame() {
    for is_seen_first in [true, false] {
        let mut world = watched(&["a"]);
        world.fail_gpu("a", 79, &world.canary());
        if is_seen_first {
            world.tell_gpus(false);
        } else {
            world.traffic(300, Some(1));
        }
        world.settle();
        assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)));
        for words in ["Xid 79 (GPU has fallen off the bus)", "fault of host `a`", "does not count against release 2"] {
            assert!(reason(&world).contains(words), "{words}: {}", reason(&world));
        }
        assert!(world.quarantined.is_empty());
    }
}

#[test]
fn a_gpu_that_breaks_under_the_former_release_alone_gives_it_no_traffic() {
    for hosts in [&["a", "b"][..], &["a"]] {
        let mut world = watched(hosts);
        world.fail_gpu("a", 79, &"old".parse().unwrap());
        world.tell_gpus(false);
        world.settle();
        assert!(world.quarantined.is_empty(), "{:?}", world.quarantined);
        assert_eq!((world.machine.status(), world.machine.weight()), (RolloutStatus::Running, 10));
        live(&mut world, 10, None);
        assert_eq!(world.finished, Some((RolloutStatus::Succeeded, Serves::New)));
        assert_eq!(world.machine.told_verdict().unwrap()["gpus"][0]["xid"], 79, "it is told");
    }
}

#[test]
fn what_a_release_alone_does_to_its_gpu_counts_against_it() {
    let mut world = watched(&["a", "b"]);
    world.fail_gpu("b", 31, &world.canary());
    world.tell_gpus(false);
    world.settle();
    assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)));
    let canary = world.canary().to_string();
    for words in ["GPU-a: the driver reported Xid 31 (GPU memory page fault)", canary.as_str(), "at host `b`"] {
        assert!(reason(&world).contains(words), "{words}: {}", reason(&world));
    }
    assert!(world.quarantined.is_empty());
    insta::assert_snapshot!(world.story.join("\n"));
}

#[test]
fn a_release_is_not_blamed_for_what_the_former_one_has_as_well_nor_for_what_was_before() {
    let mut world = World::with_gpus(canary(), &["a"]);
    world.fail_gpu("a", 13, &"old".parse().unwrap());
    world.claim();
    world.settle();
    for (code, instance) in
        [(31, "old".parse().unwrap()), (31, world.canary()), (13, world.canary()), (45, world.canary())]
    {
        world.fail_gpu("a", code, &instance);
        world.tell_gpus(false);
        world.settle();
        assert_eq!((world.machine.status(), world.machine.weight()), (RolloutStatus::Running, 10), "Xid {code}");
    }
    let kinds = [JournalKind::GpuBaseline, JournalKind::GpuFinding];
    let told: Vec<bool> =
        kinds.iter().map(|kind| world.story.iter().any(|line| line.contains(&format!("{kind:?}")))).collect();
    assert_eq!(told, [true, true]);
    live(&mut world, 10, None);
    assert_eq!(world.finished, Some((RolloutStatus::Succeeded, Serves::New)));
}

#[test]
fn what_does_not_become_ready_with_a_broken_gpu_is_awaited_at_the_others() {
    for hosts in [&["a", "b"][..], &["a"]] {
        let mut world = World::with_gpus(How::HotSwap, hosts);
        world.claim();
        // recorded, started; then it climbs
        world.perform(true);
        world.perform(true);
        world.fail_gpu("a", 48, &world.canary());
        world.perform(false);
        world.settle();
        if hosts.len() == 2 {
            assert_eq!(world.finished, Some((RolloutStatus::Succeeded, Serves::New)));
            assert_eq!(world.quarantined, ["a"]);
        } else {
            assert_eq!(world.finished, Some((RolloutStatus::Failed, Serves::Former)));
            assert!(reason(&world).contains("does not count against release 2"), "{}", reason(&world));
        }
    }
}

#[test]
fn a_new_owner_looks_again_and_a_person_may_end_it_meanwhile() {
    for word in [None, Some(RolloutCommand::Abort)] {
        let mut world = watched(&["a", "b"]);
        world.traffic(300, Some(1));
        world.claim();
        if let Some(word) = word {
            world.say(word);
        }
        world.settle();
        assert_eq!(world.finished, Some((RolloutStatus::RolledBack, Serves::Former)));
        assert_eq!(reason(&world).contains("aborted"), word.is_some(), "{}", reason(&world));
    }
}
