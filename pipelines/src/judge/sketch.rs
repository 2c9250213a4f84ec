//! A histogram of latencies with buckets of equal ratio.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Buckets per doubling: each is 4.4 % wide.
const BUCKETS_PER_DOUBLING: f64 = 16.0;
/// The last bucket: above 9 hours, in microseconds. Bounds the memory.
const LAST_BUCKET: u16 = 16 * 35;
/// A bucket with less than this is forgotten.
const NEGLIGIBLE: f64 = 1.0 / 64.0;

/// Counts by bucket. Exact up to a bucket's width; as large as there are buckets in use, at most 561.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sketch {
    counts: BTreeMap<u16, f64>,
    total: f64,
}

impl Sketch {
    /// The bucket that a latency falls in.
    pub(super) fn bucket(latency_us: u64) -> u16 {
        let bucket = (latency_us.max(1) as f64).log2() * BUCKETS_PER_DOUBLING;
        (bucket as u16).min(LAST_BUCKET)
    }

    /// Counts a latency.
    pub(super) fn add(&mut self, latency_us: u64) {
        *self.counts.entry(Self::bucket(latency_us)).or_default() += 1.0;
        self.total += 1.0;
    }

    /// How many were counted, less what was faded out.
    pub(super) fn total(&self) -> f64 {
        self.total
    }

    /// Lets everything that was counted weigh half.
    pub(super) fn fade(&mut self) {
        self.counts.values_mut().for_each(|count| *count /= 2.0);
        self.counts.retain(|_, count| *count >= NEGLIGIBLE);
        self.total = self.counts.values().sum();
    }

    /// The latency, in microseconds, that the share `quantile` lies below; `None` while it is empty. Within its bucket the
    /// counts are taken as spread evenly over the logarithm.
    pub(super) fn quantile(&self, quantile: f64) -> Option<f64> {
        let wanted = quantile * self.total;
        let mut below = 0.0;
        for (bucket, count) in &self.counts {
            if below + count >= wanted {
                let part = ((wanted - below) / count).clamp(0.0, 1.0);
                return Some(((f64::from(*bucket) + part) / BUCKETS_PER_DOUBLING).exp2());
            }
            below += count;
        }
        self.counts.keys().next_back().map(|bucket| (f64::from(bucket + 1) / BUCKETS_PER_DOUBLING).exp2())
    }

    /// The share of counts in buckets above `bucket`.
    pub(super) fn share_above(&self, bucket: u16) -> f64 {
        if self.total <= 0.0 { 0.0 } else { self.counts.range(bucket + 1..).map(|(_, c)| c).sum::<f64>() / self.total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_a_bucket() {
        let mut sketch = Sketch::default();
        (1..=10_000).for_each(|us| sketch.add(us));
        for quantile in [0.1, 0.5, 0.9, 0.95, 0.99] {
            let ratio = sketch.quantile(quantile).unwrap() / (quantile * 10_000.0);
            assert!((0.95..1.05).contains(&ratio), "{quantile}: {ratio}");
        }
        let median = sketch.quantile(0.5).unwrap();
        sketch.fade();
        assert!((sketch.quantile(0.5).unwrap() / median - 1.0).abs() < 0.02);
        assert_eq!(sketch.total(), 5_000.0);
    }

    #[test]
    fn memory_is_bounded_and_the_extremes_are_counted() {
        let mut sketch = Sketch::default();
        (0..64).for_each(|power| sketch.add(1 << power));
        sketch.add(0);
        sketch.add(u64::MAX);
        assert_eq!(sketch.total(), 66.0);
        assert!(sketch.counts.len() <= usize::from(LAST_BUCKET) + 1);
        assert!(sketch.quantile(1.0).unwrap().is_finite());
        assert_eq!(Sketch::default().quantile(0.5), None);
    }
}
