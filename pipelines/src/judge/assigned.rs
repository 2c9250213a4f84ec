//! Compares two releases that answer side by side, by the one thing that is known for certain: the probability with which
//! each request was assigned.
//!
//! If the canary is as good as the control, then *that* a request failed says nothing of *who* answered it: the canary did with
//! the probability of its assignment, p. So whoever bets on the canary at those odds wins nothing in the long run, however the
//! rate of errors moves, and in whatever bursts they come; a burst strikes both. If the canary fails r times as often, it answered a
//! failed request with the probability `p r / (p r + 1 - p)`, and the bettor for that r multiplies its money with `r / (p r + 1 - p)`
//! for an error of the canary, and with `1 / (p r + 1 - p)` for one of the control. It is the likelihood ratio of a
//! randomisation test, taken one request at a time; nothing is assumed of the outcomes. The same holds for "slower than what
//! the control took for half of its requests so far", and for its contrary.
//!
//! A client that always comes to the same release was assigned once, so it counts once. Where the canary's share grows, those who had been at the
//! control are drawn once more, for what is added; their failures count again then. They come to the canary with less than the probability of its
//! whole share, so betting at that one's odds is fair or worse.

use serde::{Deserialize, Serialize};

use super::{Arm, sketch::Sketch, units::Units, wealth::Wealth};

/// How many times as often the canary fails, as the bettors see it.
const ERROR_RATIOS: [f64; 4] = [3.0, 8.0, 40.0, 200.0];
/// Errors after which the bettors' shares have halved.
const ERROR_PATIENCE: f64 = 20.0;
/// The control's quantiles that latency is compared at.
pub(super) const QUANTILES: [f64; 3] = [0.5, 0.75, 0.9];
/// How many times the odds of exceeding such a quantile are those of the control, as the bettors see it.
const ODDS_RATIOS: [f64; 3] = [1.5, 2.2, 6.0];
/// Requests of the canary after which the bettors' shares have halved.
const LATENCY_PATIENCE: f64 = 200.0;
/// Requests of the control before its quantiles mean anything.
const MIN_CONTROL: f64 = 20.0;
/// The control's quantiles are looked up again when this part has been added to its requests.
const REFRESH: f64 = 1.02;

/// Whether the canary fails more often.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ErrorTest {
    wealth: Wealth,
    failed_units: Units,
    /// Those that failed at the control since the share last grew.
    #[serde(default)]
    failed_at_control: Units,
}

impl ErrorTest {
    pub(super) fn new() -> Self {
        Self {
            wealth: Wealth::new(ERROR_RATIOS.len(), ERROR_PATIENCE),
            failed_units: Units::default(),
            failed_at_control: Units::default(),
        }
    }

    /// The canary's share has grown.
    pub(super) fn draws_again(&mut self) {
        self.failed_at_control = Units::default();
    }

    /// A request failed that the canary had `probability` to get.
    pub(super) fn failed(&mut self, arm: Arm, probability: f64, unit: Option<u64>) {
        let (units, others) = match arm {
            Arm::Canary => (&mut self.failed_units, &self.failed_at_control),
            Arm::Control => (&mut self.failed_at_control, &self.failed_units),
        };
        if !others.has(unit) && units.is_drawn(unit) {
            self.wealth.spread();
            self.wealth.pay(|i| payoff(arm, probability, ERROR_RATIOS[i]));
        }
    }

    pub(super) fn wealth(&self) -> &Wealth {
        &self.wealth
    }
}

/// Whether the canary is slower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LatencyTest {
    wealth: Wealth,
    units: Units,
    /// For each quantile: the bucket of the control's latency, and the share of its requests above that bucket.
    cuts: Option<[(u16, f64); QUANTILES.len()]>,
    refresh_at: f64,
}

impl LatencyTest {
    pub(super) fn new() -> Self {
        Self {
            wealth: Wealth::new(QUANTILES.len() * ODDS_RATIOS.len(), LATENCY_PATIENCE),
            units: Units::default(),
            cuts: None,
            refresh_at: MIN_CONTROL,
        }
    }

    /// A request was answered that the canary had `probability` to get.
    pub(super) fn answered(&mut self, arm: Arm, probability: f64, unit: Option<u64>, latency_us: u64) {
        let Some(cuts) = self.cuts else { return };
        if !self.units.is_drawn(unit) {
            return;
        }
        if arm == Arm::Canary {
            self.wealth.spread();
        }
        let bucket = Sketch::bucket(latency_us);
        self.wealth.pay(|i| {
            let (cut, above) = cuts[i / ODDS_RATIOS.len()];
            let odds = ODDS_RATIOS[i % ODDS_RATIOS.len()];
            let above_if_worse = above * odds / (above * odds + 1.0 - above);
            let ratio = if bucket > cut { above_if_worse / above } else { (1.0 - above_if_worse) / (1.0 - above) };
            payoff(arm, probability, ratio)
        });
    }

    /// Looks at the control's quantiles, for the requests that come after.
    pub(super) fn learn(&mut self, control: &Sketch) {
        if control.total() < self.refresh_at && control.total() * 4.0 > self.refresh_at {
            return;
        }
        self.refresh_at = control.total().max(MIN_CONTROL) * REFRESH;
        if control.total() >= MIN_CONTROL {
            self.cuts = Some(QUANTILES.map(|quantile| {
                let bucket = control.quantile(quantile).map_or(0, |us| Sketch::bucket(us as u64));
                // never sure, so that nobody bets everything
                (bucket, control.share_above(bucket).clamp(0.01, 0.99))
            }));
        }
    }

    /// The bucket that the control's quantile lies in.
    pub(super) fn cut(&self, quantile: usize) -> Option<u16> {
        self.cuts.map(|cuts| cuts[quantile].0)
    }

    /// The quantile at which the evidence is strongest.
    pub(super) fn leading_quantile(&self) -> f64 {
        QUANTILES[self.wealth.leader() / ODDS_RATIOS.len()]
    }

    pub(super) fn wealth(&self) -> &Wealth {
        &self.wealth
    }
}

/// What a bet on "`ratio` times as likely to be the canary's" pays.
fn payoff(arm: Arm, probability: f64, ratio: f64) -> f64 {
    let mean = probability * ratio + 1.0 - probability;
    match arm {
        Arm::Canary => ratio / mean,
        Arm::Control => 1.0 / mean,
    }
}
