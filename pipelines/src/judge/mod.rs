//! Judges a canary by the requests that it and the release before it answered. Comes in: observations, each with the
//! probability with which it was assigned. Goes out: verdicts with the numbers they were made from. Never here: weights,
//! clocks, randomness; the same observations give the same verdict, and the judge's memory is bounded.

use segue_schemas::{
    deploy::{CanarySpec, JudgeSpec, Observation},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

/// Which release answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// The new one.
    Canary,
    /// The one before.
    Control,
}

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

/// A decision, and what it was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What follows.
    pub decision: Decision,
    /// Why, in words.
    pub reason: String,
    /// The canary's weight when it was made.
    pub stage_percent: u8,
}

/// Watches one rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judge {
    rules: JudgeSpec,
    percent: u8,
    canary_requests: u64,
    lost: u64,
}

impl Judge {
    /// A judge that has seen nothing.
    #[must_use]
    pub fn new(spec: &CanarySpec, _now: Timestamp) -> Self {
        Self { rules: spec.judge.clone(), percent: 0, canary_requests: 0, lost: 0 }
    }

    /// The canary's weight changes; minimum samples are counted from here.
    pub fn begin_stage(&mut self, percent: u8, _now: Timestamp) {
        self.percent = percent;
        self.canary_requests = 0;
    }

    /// Takes in one attempt of one request.
    pub fn observe(&mut self, arm: Arm, observation: &Observation) {
        if arm == Arm::Canary && observation.outcome.is_error().is_some() {
            self.canary_requests += 1;
        }
    }

    /// Requests that nobody saw.
    pub fn lose(&mut self, requests: u64) {
        self.lost += requests;
    }

    /// Whether the verdict is to roll back, whatever the time.
    #[must_use]
    pub fn is_alarmed(&self) -> bool {
        false
    }

    /// The verdict at this moment.
    #[must_use]
    pub fn verdict(&self, _now: Timestamp, stage_is_over: bool) -> Verdict {
        let enough = self.canary_requests >= self.rules.min_requests;
        let (decision, reason) = match (stage_is_over, enough) {
            (false, _) => (Decision::Continue, "nothing speaks against it".to_owned()),
            (true, true) => (Decision::Advance, "no worse".to_owned()),
            (true, false) => (
                Decision::Hold,
                format!("{} of the {} requests that a stage needs", self.canary_requests, self.rules.min_requests),
            ),
        };
        Verdict { decision, reason, stage_percent: self.percent }
    }
}
