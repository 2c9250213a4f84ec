//! What follows from the list of instances.

use proptest::prelude::*;

use super::*;

const SETTLE: Duration = Duration::from_secs(120);

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1000)
}

fn seen(id: &str, name: &str, status: SeenStatus) -> Seen {
    let ip = (status == SeenStatus::Active).then(|| "10.0.0.1".to_owned());
    Seen { id: id.into(), name: name.into(), status, ip }
}

/// A machine whose second launch was asked for at 0.
fn place(state: MachineState, instance: Option<&str>) -> Place<'_> {
    let launched = (state != MachineState::Wanted).then_some(Launched { number: 2, at: at(0) });
    Place { name: "segue-ab", state, instance, launched }
}

fn shown(look: &Look, terminate: &[String]) -> String {
    let what = match look {
        Look::Same => "same".to_owned(),
        Look::Boots { instance } => format!("boots {instance}"),
        Look::Ready { instance, ip } => format!("ready {instance} {ip}"),
        Look::Again => "again".into(),
        Look::End(_) => "end".into(),
        Look::Found { instance } => format!("found {instance}"),
        Look::Ask { instance } => format!("ask {instance}"),
        Look::Ended => "ended".into(),
    };
    [&[what][..], terminate].concat().join(" -")
}

/// State, instance, seconds since the newest launch, the list (id, name, status), and what follows.
type Case<'c> = (MachineState, Option<&'static str>, i64, &'c [Listed], &'static str);
type Listed = (&'static str, &'static str, SeenStatus);

#[test]
fn what_the_list_shows_is_what_is_there() {
    use MachineState::{Booting, Ended, Ending, Launching, Ready, Wanted};
    use SeenStatus::{Active, Gone, Terminating, Unhealthy};
    let boots = SeenStatus::Booting;
    let cases: &[Case<'_>] = &[
        // an answer that was lost: found by its name, or waited for until it can't come any more
        (Launching, None, 5, &[("i", "segue-ab-2", boots)], "boots i"),
        (Launching, None, 5, &[("i", "segue-ab-2", Active)], "ready i 10.0.0.1"),
        (Launching, None, 5, &[], "same"),
        (Launching, None, 119, &[("x", "segue-abc-2", boots), ("y", "segue-ab", boots), ("z", "other", boots)], "same"),
        (Launching, None, 120, &[], "again"),
        // an earlier launch that shows up late is nobody's
        (Launching, None, 5, &[("old", "segue-ab-1", boots)], "same -old"),
        (Wanted, None, 5, &[("old", "segue-ab-1", Active)], "same -old"),
        (Ended, None, 5, &[("late", "segue-ab-2", boots)], "same -late"),
        (Ended, Some("i"), 5, &[("i", "segue-ab-2", Active)], "same -i"),
        (Ended, Some("i"), 5, &[("i", "segue-ab-2", Terminating)], "same"),
        // on its way
        (Booting, Some("i"), 5, &[("i", "segue-ab-2", boots)], "same"),
        (Booting, Some("i"), 5, &[("i", "segue-ab-2", Active), ("j", "segue-ab-1", boots)], "ready i 10.0.0.1 -j"),
        (Booting, Some("i"), 5, &[("i", "segue-ab-2", Unhealthy)], "end -i"),
        (Booting, Some("i"), 5, &[], "same"),
        (Booting, Some("i"), 120, &[], "ask i"),
        (Ready, Some("i"), 200, &[("i", "segue-ab-2", Active)], "same"),
        (Ready, Some("i"), 200, &[("i", "renamed by a person", Active)], "same"),
        (Ready, Some("i"), 200, &[("i", "segue-ab-2", Unhealthy)], "same"),
        (Ready, Some("i"), 200, &[("i", "segue-ab-2", Terminating)], "end"),
        (Ready, Some("i"), 200, &[("i", "segue-ab-2", Gone)], "end"),
        (Ready, Some("i"), 200, &[], "ask i"),
        // to go, until it is gone
        (Ending, Some("i"), 200, &[("i", "segue-ab-2", Active)], "same -i"),
        (Ending, Some("i"), 200, &[("i", "segue-ab-2", SeenStatus::Unknown)], "same -i"),
        (Ending, Some("i"), 200, &[("i", "segue-ab-2", Terminating)], "same"),
        (Ending, Some("i"), 200, &[("i", "segue-ab-2", Gone)], "ended"),
        (Ending, Some("i"), 200, &[], "ask i"),
        (Ending, None, 5, &[("i", "segue-ab-2", boots)], "found i -i"),
        (Ending, None, 5, &[], "same"),
        (Ending, None, 120, &[], "ended"),
    ];
    for (state, instance, second, list, expected) in cases {
        let list: Vec<Seen> = list.iter().map(|(id, name, status)| seen(id, name, *status)).collect();
        let (look, terminate) = look(&place(*state, *instance), &list, at(*second), SETTLE);
        assert_eq!(shown(&look, &terminate), *expected, "{state:?} {instance:?} at {second}: {list:?}");
    }
}

#[test]
fn names_of_launches_are_told_from_others() {
    assert_eq!(instance_name("segue-ab", 3), "segue-ab-3");
    assert!(of_machine("segue-ab", "segue-ab-3") && of_machine("segue-ab", "segue-ab-12"));
    for other in ["segue-ab", "segue-ab-", "segue-abc-3", "segue-ab-3x", "segue-ab--3", "", "my segue-ab-3"] {
        assert!(!of_machine("segue-ab", other), "{other}");
    }
}

fn any_state() -> impl Strategy<Value = MachineState> {
    use MachineState::{Booting, Ended, Ending, Launching, Ready, Wanted};
    prop::sample::select(vec![Wanted, Launching, Booting, Ready, Ending, Ended])
}

fn any_status() -> impl Strategy<Value = SeenStatus> {
    use SeenStatus::{Active, Booting, Gone, Terminating, Unhealthy, Unknown};
    prop::sample::select(vec![Booting, Active, Unhealthy, Terminating, Gone, Unknown])
}

proptest! {
    /// Whatever is shown: nothing of others is touched, nothing of a machine's own that lives stays unless it is the one that the run
    /// has, and none is let go of while the list shows it alive.
    #[test]
    fn nothing_is_left_and_nothing_of_others_is_taken(
        state in any_state(),
        is_known in any::<bool>(),
        second in 0_i64..300,
        list in prop::collection::vec((0_usize..6, any_status()), 0..6),
    ) {
        let names = ["segue-ab-1", "segue-ab-2", "segue-ab-3", "segue-abc-2", "somebody's", "segue-ab"];
        let mut list: Vec<Seen> = list.into_iter().map(|(n, status)| seen(&format!("i{n}"), names[n], status)).collect();
        list.sort_by(|a, b| a.id.cmp(&b.id));
        list.dedup_by(|a, b| a.id == b.id);
        let has_instance = is_known && !matches!(state, MachineState::Wanted | MachineState::Launching);
        let place = place(state, has_instance.then_some("i1"));
        let (look, terminate) = look(&place, &list, at(second), SETTLE);
        for id in &terminate {
            prop_assert!(["i0", "i1", "i2"].contains(&id.as_str()), "{id} is another's");
        }
        let has_it = matches!(state, MachineState::Launching | MachineState::Booting | MachineState::Ready)
            && matches!(look, Look::Same | Look::Boots { .. } | Look::Ready { .. });
        for seen in list.iter().filter(|seen| ["i0", "i1", "i2"].contains(&seen.id.as_str()) && seen.status.lives()) {
            let is_current = has_it && seen.id == "i1";
            prop_assert_eq!(terminate.contains(&seen.id), !is_current, "{:?} {:?}", seen, look);
            if look == Look::Ended {
                prop_assert!(seen.id != "i1", "it lives, and counts as ended");
            }
        }
        if matches!(look, Look::Again | Look::Ended) && place.instance.is_none() {
            let is_shown_gone = list.iter().any(|seen| seen.id == "i1" && seen.status == SeenStatus::Gone);
            prop_assert!(second >= 120 || is_shown_gone, "it may still come");
        }
    }
}
