//! The comparison of errors of clients that keep their release, begun anew period after period.
//!
//! Over a whole rollout a client counts once, by its first failure: where most have failed once already, as after an outage of both releases, a
//! fault that begins then is proven by nobody. In each period everybody counts once again. Nobody is drawn anew for that: what chance has
//! done to one period it does to the next as well, so nothing is added up. Each period is a test of its own at a level of its own, and the levels of
//! all come to that of the whole: 1/2 + 1/6 + 1/12 + ... = 1. When one ends is said by time alone, which knows nothing of who answered what;
//! so its first bet is as fair as that of the rollout.

use std::time::Duration;

use segue_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Arm, assigned::ErrorTest};

/// Periods that a stage has.
const IN_A_STAGE: u32 = 4;
/// The shortest and the longest one.
const SHORTEST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(300);

/// The comparison in the period that goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Periods {
    length_ms: u64,
    begun: Option<Timestamp>,
    /// From 1 on.
    number: u32,
    test: ErrorTest,
}

impl Periods {
    /// Those of a rollout with stages of that length.
    pub(super) fn for_stage(stage: Duration) -> Self {
        let length = (stage / IN_A_STAGE).clamp(SHORTEST, LONGEST);
        let length_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        Self { length_ms, begun: None, number: 1, test: ErrorTest::new() }
    }

    /// A request of a client was answered, by whichever release.
    pub(super) fn answered(&mut self, at: Timestamp) {
        let begun = *self.begun.get_or_insert(at);
        if at.since(begun).as_millis() >= u128::from(self.length_ms) {
            self.begin();
            self.begun = Some(at);
        }
    }

    /// It failed, and the canary had `probability` to get its client.
    pub(super) fn failed(&mut self, arm: Arm, probability: f64, unit: u64) {
        self.test.failed(arm, probability, Some(unit));
    }

    /// The next period begins with the next request, as it does where the shares change.
    pub(super) fn begin(&mut self) {
        if self.begun.take().is_some() {
            (self.number, self.test) = (self.number.saturating_add(1), ErrorTest::new());
        }
    }

    /// Whether this period's bets prove at this level of all periods' that the canary fails more often.
    pub(super) fn reaches(&self, level: f64) -> bool {
        let number = f64::from(self.number);
        self.test.wealth().reaches(level / (number * (number + 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Periods until the alarm, at 400 clients of whom one in ten is the canary's, each with one request a period; `fails` says of (client, period).
    fn periods_until_alarm(fails: impl Fn(u64, i64) -> bool) -> Option<i64> {
        let mut periods = Periods::for_stage(Duration::from_secs(60));
        (0..500).find(|period| {
            for client in 0..400 {
                let is_canary = client % 10 == 0;
                let (arm, probability) = if is_canary { (Arm::Canary, 0.1) } else { (Arm::Control, 0.9) };
                periods.answered(Timestamp(period * 15_000 + client as i64 * 37));
                if fails(client, *period) {
                    periods.failed(arm, if is_canary { probability } else { 1.0 - probability }, client);
                }
            }
            periods.reaches(0.000_1)
        })
    }

    #[test]
    fn what_begins_after_everybody_has_failed_once_is_proven_in_a_period() {
        let late = |client: u64, period: i64| period == 0 || period >= 100 && client.is_multiple_of(30);
        assert!(periods_until_alarm(late).is_some_and(|at| (100..=101).contains(&at)));
    }

    #[test]
    fn nothing_is_added_up_over_periods() {
        let one_more = |client: u64, _| client.is_multiple_of(100) || client % 77 == 3;
        assert_eq!(periods_until_alarm(one_more), None, "chance that stays is no evidence");
    }
}
