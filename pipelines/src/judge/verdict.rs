use serde::{Deserialize, Serialize};

/// What follows from a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The stage is not over, and nothing speaks against the canary.
    Continue,
    /// The stage is passed.
    Advance,
    /// The stage is over, and there is too little evidence to go on.
    Hold,
    /// The canary is worse.
    RollBack,
}

/// A decision, and the numbers that it was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What follows.
    pub decision: Decision,
    /// Why, in words.
    pub reason: String,
    /// The canary's weight when it was made.
    pub stage_percent: u8,
    /// Requests that the canary answered in this stage, and how many it must.
    pub stage_requests: u64,
    /// See `stage_requests`.
    pub min_requests: u64,
    /// Requests that the canary has answered since it first had weight.
    pub canary_requests: u64,
    /// Of those, how many failed.
    pub canary_errors: u64,
    /// Of the canary's requests, how many were declared synthetic.
    pub synthetic_requests: u64,
    /// Requests of which nothing is known, because nobody fetched them in time.
    pub lost_observations: u64,
    /// The canary's recent requests.
    pub canary: ArmNumbers,
    /// The former release's: recent, or at 100 % as stored before.
    pub control: ArmNumbers,
    /// Whether the control's numbers are stored ones.
    pub control_is_stored: bool,
    /// Errors compared.
    pub errors: Evidence,
    /// Latency compared.
    pub latency: Evidence,
    /// The control's quantile that latency is compared at.
    pub latency_quantile: f64,
    /// The share of failed requests against the absolute limit, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absolute_errors: Option<Evidence>,
    /// The share of requests slower than the absolute limit of the 95th percentile, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absolute_latency: Option<Evidence>,
    /// What the service's rules sent to either release, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleNumbers>,
}

/// The requests that one rule of the service's sent to a release, since the canary first had weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleNumbers {
    /// What it looks for, in words.
    pub rule: String,
    /// To which release.
    pub to: String,
    /// Requests that were answered or failed; those that the client gave up are not counted.
    pub requests: u64,
    /// Of those, how many failed.
    pub errors: u64,
    /// Median of the time to the first byte, in milliseconds, of those that did not fail lately.
    pub p50_ms: Option<f64>,
    /// 95th percentile.
    pub p95_ms: Option<f64>,
}

/// One release's requests. They are faded out, so that the counts are no whole numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmNumbers {
    /// Requests that were answered or failed; those that the client gave up are not counted.
    pub requests: f64,
    /// The share that failed, from 0 to 1.
    pub error_rate: f64,
    /// Median of the time to the first byte, in milliseconds, of those that did not fail.
    pub p50_ms: Option<f64>,
    /// 90th percentile.
    pub p90_ms: Option<f64>,
    /// 95th percentile.
    pub p95_ms: Option<f64>,
}

/// A test's numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// How many times likelier what was seen is if the canary is worse (an e-value; at most 10^12 is reported).
    pub e_value: f64,
    /// The e-value from which it counts as proven.
    pub needed: f64,
    /// What was measured: the difference of error rates, the ratio of latencies, or a rate.
    pub measured: f64,
    /// What is allowed.
    pub allowed: f64,
}

impl Evidence {
    /// Whether it is proven that the canary is worse, and it is worse by more than is allowed.
    #[must_use]
    pub fn is_alarm(&self) -> bool {
        self.e_value >= self.needed && self.measured > self.allowed
    }

    /// As people read it.
    pub(super) fn words(&self) -> String {
        format!("evidence {:.0} to 1, {:.0} needed", self.e_value, self.needed)
    }
}

impl ArmNumbers {
    /// The error rate in percent, as people read it.
    pub(super) fn errors_words(&self) -> String {
        format!("{:.2} %", self.error_rate * 100.0)
    }
}
