//! When one has to go.

use super::*;

const AT_WORK: Holder = Holder::Lives { is_at_work: true };
const IDLE: Holder = Holder::Lives { is_at_work: false };

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1000)
}

fn standing(state: MachineState) -> Standing {
    Standing {
        state,
        holder: AT_WORK,
        asked_at: at(0),
        heard_at: at(0),
        launched_at: (state != MachineState::Wanted).then_some(at(100)),
        idle_since: None,
        wait_for_capacity: Span::seconds(1800),
        idle_shutdown: Span::seconds(1200),
        lifetime: Span::seconds(14_400),
    }
}

fn goes(standing: &Standing, second: i64) -> String {
    let before = fate(standing, at(second - 1));
    assert_eq!(before, None, "a second before");
    assert_eq!(next_fate(standing), Some(at(second)));
    fate(standing, at(second)).unwrap_or_else(|| panic!("it stays at {second}"))
}

#[test]
fn it_goes_with_its_run_whatever_it_does() {
    for state in [MachineState::Wanted, MachineState::Launching, MachineState::Booting, MachineState::Ready] {
        let over = Standing { holder: Holder::Over, ..standing(state) };
        assert_eq!(fate(&over, at(1)).as_deref(), Some("its run has ended"), "{state:?}");
        let anew = Standing { holder: Holder::BeginsAnew, ..standing(state) };
        assert_eq!(fate(&anew, at(1)).as_deref(), Some("its job begins anew"), "{state:?}");
        assert_eq!(fate(&standing(state), at(1)), None, "{state:?}");
    }
    for state in [MachineState::Ending, MachineState::Ended] {
        let over = Standing { holder: Holder::Over, ..standing(state) };
        assert_eq!((fate(&over, at(1_000_000)), next_fate(&over)), (None, None), "what is to go goes");
    }
}

#[test]
fn no_wait_is_longer_than_was_asked() {
    let heard = |state, second| Standing { heard_at: at(second), ..standing(state) };
    assert!(goes(&heard(MachineState::Wanted, 1790), 1800).contains("within 30m"));
    let at_once = Standing { wait_for_capacity: Span::default(), ..heard(MachineState::Wanted, 170) };
    assert!(goes(&at_once, 180).contains("was not to be waited for"));
    assert!(goes(&heard(MachineState::Booting, 2450), 2500).contains("not ready within 40 minutes"));
    for state in [MachineState::Wanted, MachineState::Launching, MachineState::Booting] {
        assert!(goes(&heard(state, 300), 420).contains("waits no longer"), "{state:?}");
    }
}

#[test]
fn it_lives_no_longer_than_it_may_and_is_not_idle_for_longer() {
    let ready = standing(MachineState::Ready);
    assert_eq!(goes(&ready, 14_500), "it has lived for 4h");
    let idle = Standing { holder: IDLE, idle_since: Some(at(2000)), ..ready.clone() };
    assert_eq!(goes(&idle, 3200), "no job of its run was at work for 20m");
    let late = Standing { idle_since: Some(at(14_000)), ..idle };
    assert_eq!(goes(&late, 14_500), "it has lived for 4h", "the first that comes");
    assert_eq!(idle_since(None, AT_WORK, at(5)), None);
    assert_eq!(idle_since(None, IDLE, at(5)), Some(at(5)));
    assert_eq!(idle_since(Some(at(3)), IDLE, at(5)), Some(at(3)));
    assert_eq!(idle_since(Some(at(3)), AT_WORK, at(5)), None);
}
