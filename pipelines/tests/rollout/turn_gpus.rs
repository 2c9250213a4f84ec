//! GPUs that break while hosts change in turn.

use segue_pipelines::rollout::{Action, Serves};
use segue_schemas::{
    deploy::{RolloutCommand, Strategy as How},
    status::RolloutStatus,
    strategy::Batch,
};

use super::{
    strategies::rolling,
    turns::{BACK, DONE, Yard},
};

const THREE: [(&str, bool); 3] = [("a", false), ("b", false), ("c", false)];

fn is_at(host: &str, action: &Action, is_it: impl Fn(&Action) -> bool) -> bool {
    matches!(action, Action::At { host: at, what } if at == host && is_it(what))
}

/// The second host has made room, and the new release climbs there.
fn climbing_at_b(hosts: &[(&str, bool)]) -> Yard {
    let mut yard = Yard::with_gpus(How::HotSwap, hosts);
    yard.until(|action| is_at("b", action, |what| matches!(what, Action::AwaitReady { .. })));
    yard
}

#[test]
fn what_does_not_become_ready_with_a_broken_gpu_is_no_reason_to_go_back() {
    let mut yard = climbing_at_b(&THREE);
    yard.fail_gpu("b", 79, "web-2-0-7");
    yard.perform(false);
    assert!(!yard.has_asked("RollBackIntent"), "{}", yard.tail(20));
    yard.settle();
    assert_eq!((yard.finished, yard.serving().as_str()), (DONE, "a=2/1 b=0/1 c=2/1"), "{}", yard.tail(60));
    assert_eq!(yard.quarantined, ["b"]);
}

#[test]
fn what_does_not_become_ready_on_a_gpu_that_is_well_goes_back_once_the_hosts_have_looked() {
    for has_word in [false, true] {
        let mut yard = climbing_at_b(&THREE);
        yard.perform(false);
        // no other host's turn comes meanwhile
        assert!(!yard.has_asked("at c:"), "{}", yard.tail(20));
        yard.claim();
        if has_word {
            yard.say(RolloutCommand::Abort);
        }
        yard.settle();
        assert_eq!((yard.finished, yard.serving().as_str()), (BACK, "a=1/1 b=1/1 c=1/1"), "{}", yard.tail(60));
        let expected =
            if has_word { "aborted (ada)" } else { "host `b`: instance web-2-0-7 did not become ready: health: 503" };
        assert_eq!((yard.machine.reason(), yard.had_outage), (Some(expected), false));
        assert!(yard.quarantined.is_empty());
    }
}

#[test]
fn where_the_only_host_is_broken_the_reason_says_that_the_release_is_not_to_blame() {
    let mut yard = Yard::with_gpus(rolling(Batch::Hosts(1)), &[("a", false)]);
    yard.until(|action| is_at("a", action, |what| matches!(what, Action::AwaitReady { .. })));
    yard.fail_gpu("a", 79, "web-2-0-7");
    yard.perform(false);
    yard.settle();
    assert_eq!((yard.finished, yard.serving().as_str()), (BACK, "a=1/1"), "{}", yard.tail(40));
    let reason = yard.machine.reason().unwrap();
    assert!(reason.contains("fault of host `a` and does not count against release 2"), "{reason}");
}

#[test]
fn what_is_bad_or_lost_with_a_broken_gpu_is_watched_anew_at_the_others() {
    for is_lost in [false, true] {
        let mut yard = Yard::with_gpus(rolling(Batch::Hosts(1)), &THREE);
        yard.settle();
        assert_eq!(yard.serving(), "a=2/1 b=1/1 c=1/1");
        yard.fail_gpu("a", 79, "web-2-0-7");
        if is_lost {
            yard.lose_instance("a", "web-2-0-7");
        } else {
            yard.traffic(300, Some(1));
        }
        assert!(!yard.has_asked("RollBackIntent"), "{}", yard.tail(20));
        yard.settle();
        assert_eq!((yard.finished, yard.quarantined.as_slice()), (None, ["a".to_owned()].as_slice()));
        for _ in 0..4 {
            yard.traffic(300, None);
            yard.settle();
            yard.pass(61);
        }
        yard.settle();
        assert_eq!(yard.finished, DONE, "{}", yard.tail(40));
        assert!(yard.serving().ends_with("b=2/1 c=2/1"), "{}", yard.serving());
    }
}

#[test]
fn what_is_bad_on_gpus_that_are_well_goes_back() {
    let mut yard = Yard::with_gpus(rolling(Batch::Hosts(1)), &THREE);
    yard.settle();
    yard.traffic(600, Some(2));
    yard.settle();
    assert_eq!((yard.finished, yard.serving().as_str()), (BACK, "a=1/1 b=1/1 c=1/1"), "{}", yard.tail(40));
}

#[test]
fn a_host_whose_gpu_breaks_on_the_way_back_is_left_out() {
    let mut yard = climbing_at_b(&THREE);
    yard.say(RolloutCommand::Abort);
    let is_former =
        |what: &Action| matches!(what, Action::AwaitReady { instance } if instance.as_str() == "web-1-0-7-back1");
    yard.until(|action| is_at("b", action, is_former));
    yard.fail_gpu("b", 79, "web-1-0-7-back1");
    yard.perform(false);
    yard.tell_gpus(false);
    yard.settle();
    assert_eq!(yard.finished, BACK, "{}", yard.tail(40));
    assert_eq!((yard.quarantined.as_slice(), yard.had_outage), (["b".to_owned()].as_slice(), false));
    assert!(yard.serving().starts_with("a=1/1") && yard.serving().ends_with("c=1/1"), "{}", yard.serving());

    // one that the former release serves is left as it is
    let mut yard = climbing_at_b(&THREE);
    yard.say(RolloutCommand::Abort);
    yard.fail_gpu("c", 79, "old-c");
    yard.tell_gpus(false);
    yard.settle();
    assert_eq!((yard.finished, yard.serving().as_str()), (BACK, "a=1/1 b=1/1 c=1/1"), "{}", yard.tail(40));
    assert_eq!(yard.finished.map(|end| end.1), Some(Serves::Former));
    assert_eq!(yard.machine.status(), RolloutStatus::RolledBack);
    assert!(yard.quarantined.is_empty());
}
