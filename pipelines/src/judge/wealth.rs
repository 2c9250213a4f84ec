//! Testing by betting: a mixture of bettors against "the canary is as good", whose wealth is an e-process.

use serde::{Deserialize, Serialize};

/// Wealth that is reported at most; beyond it nobody needs the digits, and JSON has no infinity.
const LARGEST_REPORTED: f64 = 1e12;

/// The joint wealth of some bettors, 1 at the beginning. If each bet is fair (or worse) when the canary is as good as the
/// control, then the wealth ever reaches `1/a` with a probability of at most `a`, however often one looks (Ville's
/// inequality; Ramdas, Grünwald, Vovk and Shafer, "Game-Theoretic Statistics and Safe Anytime-Valid Inference", 2023).
///
/// Before each round a share of everybody's money is spread over all bettors, one of whom never bets (the fixed share of
/// Herbster and Warmuth, "Tracking the Best Expert", 1998, with a share that falls as `1/rounds`). Moving money is no bet, so
/// the wealth stays fair; and a release that turns bad late is met by bettors who are not yet ruined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Wealth {
    /// Each bettor's money; the one who never bets comes last. Rescaled by `log_scale`.
    money: Vec<f64>,
    /// The natural logarithm of what `money` is to be multiplied with.
    log_scale: f64,
    rounds: f64,
    /// After how many rounds the share has fallen to half of what it was.
    patience: f64,
}

impl Wealth {
    /// Equal parts for `bettors` bettors, and twice such a part for one that never bets.
    pub(super) fn new(bettors: usize, patience: f64) -> Self {
        let parts = bettors as f64 + 2.0;
        let mut money = vec![1.0 / parts; bettors];
        money.push(2.0 / parts);
        Self { money, log_scale: 0.0, rounds: 0.0, patience }
    }

    /// Spreads a share of the money; to be called once before each round that tells something of the canary.
    pub(super) fn spread(&mut self) {
        let share = 1.0 / (self.rounds + self.patience);
        self.rounds += 1.0;
        let total: f64 = self.money.iter().sum();
        let part = share * total / self.money.len() as f64;
        for money in &mut self.money {
            *money = *money * (1.0 - share) + part;
        }
    }

    /// Pays a bet out: the money of bettor `i` is multiplied with `factor(i)`, which must be above 0.
    pub(super) fn pay(&mut self, factor: impl Fn(usize) -> f64) {
        let bettors = self.money.len() - 1;
        for (i, money) in self.money[..bettors].iter_mut().enumerate() {
            *money *= factor(i);
        }
        let total: f64 = self.money.iter().sum();
        if !(1e-100..1e100).contains(&total) && total > 0.0 {
            self.money.iter_mut().for_each(|m| *m /= total);
            self.log_scale += total.ln();
        }
    }

    /// Whether the wealth has reached `1/level`.
    pub(super) fn reaches(&self, level: f64) -> bool {
        self.log() >= -level.ln()
    }

    /// The wealth: how many times likelier what was seen is if the canary is worse.
    pub(super) fn value(&self) -> f64 {
        self.log().min(LARGEST_REPORTED.ln()).exp()
    }

    /// The bettor, of those who bet, with the most money.
    pub(super) fn leader(&self) -> usize {
        let bettors = self.money.len() - 1;
        (0..bettors).max_by(|a, b| self.money[*a].total_cmp(&self.money[*b])).unwrap_or(0)
    }

    fn log(&self) -> f64 {
        self.money.iter().sum::<f64>().ln() + self.log_scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fair_bets_leave_the_mean_wealth_at_one() {
        // every sequence of eight fair coins, all equally likely
        let mean = (0..256_u32)
            .map(|coins| {
                let mut wealth = Wealth::new(2, 4.0);
                for toss in 0..8 {
                    wealth.spread();
                    let heads = coins >> toss & 1 == 1;
                    wealth.pay(|i| if heads == (i == 0) { 1.7 } else { 0.3 });
                }
                wealth.value() / 256.0
            })
            .sum::<f64>();
        assert!((mean - 1.0).abs() < 1e-9, "{mean}");
    }

    #[test]
    fn a_long_calm_does_not_ruin_the_bettors() {
        let rounds_until_alarm = |calm: u32| {
            let mut wealth = Wealth::new(1, 10.0);
            for _ in 0..calm {
                wealth.spread();
                wealth.pay(|_| 0.5);
            }
            let mut rounds = 0;
            while !wealth.reaches(0.005) {
                wealth.spread();
                wealth.pay(|_| 5.0);
                rounds += 1;
            }
            rounds
        };
        assert_eq!(rounds_until_alarm(0), 5);
        assert!(rounds_until_alarm(10_000) <= 14, "{}", rounds_until_alarm(10_000));
    }

    #[test]
    fn wealth_survives_extremes_and_stays_reportable() {
        let mut wealth = Wealth::new(1, 10.0);
        (0..10_000).for_each(|_| wealth.pay(|_| 9.0));
        assert!(wealth.value().is_finite() && wealth.reaches(1e-9));
        let text = serde_json::to_string(&wealth).unwrap();
        assert_eq!(serde_json::from_str::<Wealth>(&text).unwrap(), wealth);
    }
}
