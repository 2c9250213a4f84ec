//! What clients that keep their release can't prove by having been drawn, because they are few or have all been counted: that most of what
//! the canary answers them fails, or takes long.
//!
//! Such requests are not drawn one by one, so they are counted by blocks of time, and in a block each client weighs as much as any other: one
//! for whom everything fails wherever it is moves the share of a block by one client. A block is evidence by what it exceeds half by, and the
//! worst block of the former release, and only where the former release's clients of the same time are well. It rests on this: that hardly
//! ever most of the canary's clients are ones for whom most fails at either release. Of one client alone nothing is said.

use std::collections::BTreeMap;

use segue_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Arm, blocks::AboveRate, wealth::Wealth};

/// Clients of the canary that a block has at least.
const MIN_CLIENTS: usize = 2;
/// Clients of either release that a block looks at, at most: those that come first.
const MOST_CLIENTS: usize = 64;
/// Requests of either release that a block has at least.
const MIN_REQUESTS: u64 = 5;
/// The share of hits below which nothing has broken down.
const MOST_FAIL: f64 = 0.5;
/// The largest floor, see [`AboveRate`]: what exceeds it is bad whatever was before.
const LARGEST_FLOOR: f64 = 0.95;

/// Watches one kind of hit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Breakdown {
    length_ms: u64,
    begun: Option<Timestamp>,
    canary: Side,
    control: Side,
    /// The largest share of the control's hits in a block.
    worst: f64,
    test: AboveRate,
}

/// The requests of one release in a block.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Side {
    requests: u64,
    /// By client: requests and hits.
    clients: BTreeMap<u64, (u32, u32)>,
}

impl Breakdown {
    /// One with blocks of that length, that has seen nothing.
    pub(super) fn new(length_ms: u64) -> Self {
        let (canary, control) = (Side::default(), Side::default());
        Self { length_ms, begun: None, canary, control, worst: 0.0, test: AboveRate::new(super::blocks::BAD_LUCK) }
    }

    /// Counts a request of a client; whether a block has ended before it.
    pub(super) fn count(&mut self, arm: Arm, at: Timestamp, unit: u64, is_hit: bool) -> bool {
        let begun = *self.begun.get_or_insert(at);
        let is_over = at.since(begun).as_millis() >= u128::from(self.length_ms) && self.is_full();
        if is_over {
            self.end();
            self.begun = Some(at);
        }
        match arm {
            Arm::Canary => self.canary.count(unit, is_hit),
            Arm::Control => self.control.count(unit, is_hit),
        }
        is_over
    }

    /// The shares begin anew: a block has none of before.
    pub(super) fn begin(&mut self) {
        (self.begun, self.canary, self.control) = (None, Side::default(), Side::default());
    }

    /// What the bets came to.
    pub(super) fn wealth(&self) -> &Wealth {
        self.test.wealth()
    }

    fn is_full(&self) -> bool {
        let has_enough = self.canary.requests >= MIN_REQUESTS && self.control.requests >= MIN_REQUESTS;
        has_enough && self.canary.clients.len() >= MIN_CLIENTS
    }

    fn end(&mut self) {
        let (canary, control) = (std::mem::take(&mut self.canary).share(), std::mem::take(&mut self.control).share());
        self.worst = self.worst.max(control);
        let floor = self.worst.clamp(MOST_FAIL, LARGEST_FLOOR);
        let is_shared = control >= MOST_FAIL;
        self.test.block(if is_shared { 0.0 } else { (canary - floor).max(0.0) / (1.0 - floor) });
    }
}

impl Side {
    fn count(&mut self, unit: u64, is_hit: bool) {
        self.requests += 1;
        if self.clients.len() < MOST_CLIENTS || self.clients.contains_key(&unit) {
            let (requests, hits) = self.clients.entry(unit).or_default();
            *requests = requests.saturating_add(1);
            *hits = hits.saturating_add(u32::from(is_hit));
        }
    }

    /// The share of hits that a client had in the mean.
    fn share(self) -> f64 {
        let shares = self.clients.values().map(|(requests, hits)| f64::from(*hits) / f64::from((*requests).max(1)));
        shares.sum::<f64>() / self.clients.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks until the alarm, of ten requests each of `clients` canary's clients; `is_hit` says of (arm, client, block).
    fn blocks_until_alarm(clients: u64, is_hit: impl Fn(Arm, u64, i64) -> bool) -> Option<i64> {
        let mut breakdown = Breakdown::new(1_000);
        (0..200).find(|block| {
            for n in 0..10 {
                let at = Timestamp(block * 1_000 + n * 100);
                for (arm, clients) in [(Arm::Canary, clients), (Arm::Control, 9)] {
                    (0..clients).for_each(|unit| {
                        breakdown.count(arm, at, unit, is_hit(arm, unit, *block));
                    });
                }
            }
            breakdown.wealth().reaches(0.000_1)
        })
    }

    #[test]
    fn what_fails_for_most_clients_of_the_canary_alone_is_a_breakdown() {
        let is_canary = |arm| arm == Arm::Canary;
        assert!(blocks_until_alarm(2, |arm, _, _| is_canary(arm)).is_some_and(|blocks| blocks <= 7));
        assert!(blocks_until_alarm(40, |arm, unit, _| is_canary(arm) && unit >= 4).is_some_and(|blocks| blocks <= 9));
        assert!(
            blocks_until_alarm(2, |arm, _, block| is_canary(arm) && block > 100).is_some_and(|blocks| blocks < 120)
        );
        for (what, alarm) in [
            ("one client proves nothing", blocks_until_alarm(1, |arm, _, _| is_canary(arm))),
            ("one of two may always fail", blocks_until_alarm(2, |arm, unit, _| is_canary(arm) && unit == 0)),
            ("what strikes both is no fault", blocks_until_alarm(9, |_, unit, block| block % 3 == 0 || unit == 0)),
            ("nor if it comes to stay", blocks_until_alarm(9, |_, _, block| block > 100)),
        ] {
            assert_eq!(alarm, None, "{what}");
        }
    }

    #[test]
    fn however_many_clients_a_block_has_its_memory_is_bounded() {
        let mut breakdown = Breakdown::new(1_000);
        (0..100_000).for_each(|unit| {
            breakdown.count(Arm::Canary, Timestamp(0), unit, true);
        });
        assert_eq!((breakdown.canary.clients.len(), breakdown.canary.requests), (MOST_CLIENTS, 100_000));
    }
}
