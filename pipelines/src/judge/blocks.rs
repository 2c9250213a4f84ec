//! What is measured against a fixed rate, without a control beside it: counted by blocks of time, because requests of one
//! moment share their fate and are no evidence of their own each.

use std::time::Duration;

use segue_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::wealth::Wealth;

/// Requests that a block has at least.
const MIN_REQUESTS: u64 = 5;
/// How much is bet on a block that is wholly bad: its bettor's money is multiplied with about this, plus 1.
const STAKES: [f64; 3] = [0.5, 2.0, 8.0];

/// The share that no block of a well release exceeds on the whole: bad luck in one block of fifty is allowed for.
pub(super) const BAD_LUCK: f64 = 0.02;
/// Blocks of the former release from which the worst of them is known.
const MIN_BLOCKS: u64 = 10;
/// What counts as its worst before: only where most requests fail, nobody needs to compare.
const WORST_UNKNOWN: f64 = 0.5;

/// Counts the hits (errors, slow answers) of the requests of one release by blocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Blocks {
    length_ms: u64,
    begun: Option<Timestamp>,
    requests: u64,
    hits: u64,
    closed: u64,
    worst: f64,
}

impl Blocks {
    /// Blocks for a stage of that length: thirty of them, each between 100 ms and 2 s long.
    pub(super) fn for_stage(stage: Duration) -> Self {
        let length_ms = u64::try_from(stage.as_millis() / 30).unwrap_or(u64::MAX).clamp(100, 2_000);
        Self { length_ms, begun: None, requests: 0, hits: 0, closed: 0, worst: 0.0 }
    }

    /// How long a block lasts, in milliseconds.
    pub(super) fn length_ms(&self) -> u64 {
        self.length_ms
    }

    /// Counts a request; the share of hits in the block before, where this request begins a new one.
    pub(super) fn count(&mut self, at: Timestamp, is_hit: bool) -> Option<f64> {
        let begun = *self.begun.get_or_insert(at);
        let mut ended = None;
        if self.requests >= MIN_REQUESTS && at.since(begun).as_millis() >= u128::from(self.length_ms) {
            let share = self.hits as f64 / self.requests as f64;
            self.closed += 1;
            self.worst = self.worst.max(share);
            ended = Some(share);
            (self.begun, self.requests, self.hits) = (Some(at), 0, 0);
        }
        self.requests += 1;
        self.hits += u64::from(is_hit);
        ended
    }

    /// The largest share of hits that a block had.
    pub(super) fn worst(&self) -> f64 {
        if self.closed >= MIN_BLOCKS { self.worst } else { self.worst.max(WORST_UNKNOWN) }
    }
}

/// Bets on blocks that the mean share of hits is above a fixed rate (Waudby-Smith and Ramdas, "Estimating means of bounded
/// random variables by betting", 2024): a block with share x multiplies a bettor's money with `1 + stake * (x - rate)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct AboveRate {
    /// Only what a block has above this counts.
    floor: f64,
    rate: f64,
    wealth: Wealth,
}

impl AboveRate {
    /// Against the claim that the rate is at most `rate`.
    pub(super) fn new(rate: f64) -> Self {
        Self { floor: 0.0, rate: rate.clamp(1e-6, 1.0), wealth: Wealth::new(STAKES.len(), 20.0) }
    }

    /// Against the claim that a block hardly ever comes out worse than the worst one of the former release. What both suffer
    /// at different times, bursts and swings of the load, cannot be told from a fault by anything but its size.
    pub(super) fn worse_than(former: &Blocks) -> Self {
        Self { floor: former.worst().min(0.95), ..Self::new(BAD_LUCK) }
    }

    /// A block has ended with this share of hits.
    pub(super) fn block(&mut self, share: f64) {
        let (rate, excess) = (self.rate, (share - self.floor).max(0.0) / (1.0 - self.floor));
        self.wealth.spread();
        self.wealth.pay(|i| 1.0 + STAKES[i].min(0.9 / rate) * (excess - rate));
    }

    /// The rate that is claimed.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// What the bets came to.
    pub(super) fn wealth(&self) -> &Wealth {
        &self.wealth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_its_time_and_its_requests() {
        let mut blocks = Blocks::for_stage(Duration::from_secs(15));
        let at = |ms: i64| Timestamp(ms);
        assert!((0..10).all(|i| blocks.count(at(i * 50), i == 0).is_none()));
        assert_eq!(blocks.count(at(500), false), Some(0.1));
        // little traffic: the block goes on until it has enough
        assert!((1..5).all(|i| blocks.count(at(500 + i * 1_000), true).is_none()));
        assert_eq!(blocks.count(at(10_000), false), Some(0.8));
    }

    fn blocks_until_alarm(former: &[f64], share: f64) -> Option<usize> {
        let mut blocks = Blocks::for_stage(Duration::from_secs(3));
        for (second, share) in former.iter().chain(&[0.0]).enumerate() {
            let hits = (share * 100.0) as usize;
            for i in 0..100 {
                blocks.count(Timestamp((second * 1_000 + i) as i64), i < hits);
            }
        }
        let mut test = AboveRate::worse_than(&blocks);
        (1..100).find(|_| {
            test.block(share);
            test.wealth().reaches(0.000_3)
        })
    }

    #[test]
    fn what_the_former_release_went_through_is_no_alarm_and_a_breakdown_is() {
        let calm = [0.0; 20];
        let mut burst = calm;
        burst[7] = 0.6;
        assert_eq!(blocks_until_alarm(&burst, 0.6), None);
        assert!(matches!(blocks_until_alarm(&burst, 1.0), Some(4..=6)));
        assert!(matches!(blocks_until_alarm(&calm, 1.0), Some(4..=6)));
        assert!(matches!(blocks_until_alarm(&calm, 0.2), Some(10..=40)));
        assert_eq!(blocks_until_alarm(&calm[..3], 0.4), None, "three blocks are no experience");
    }

    #[test]
    fn an_absolute_limit_is_held_to() {
        let until_alarm = |share: f64| {
            let mut test = AboveRate::new(0.05);
            (1..1_000).find(|_| {
                test.block(share);
                test.wealth().reaches(0.005)
            })
        };
        assert_eq!(until_alarm(0.05), None);
        assert!(matches!(until_alarm(0.15), Some(2..=40)), "{:?}", until_alarm(0.15));
    }
}
