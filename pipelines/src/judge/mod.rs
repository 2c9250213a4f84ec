//! Judges a canary by the requests that it and the release before it answered. Comes in: observations, each with the
//! probability with which it was assigned. Goes out: verdicts with the numbers they were made from. Never here: weights,
//! clocks, randomness; the same observations give the same verdict, and the judge's memory is bounded.
//!
//! A release is rolled back when it is *proven* worse, at any request, and *measured* worse by more than the margin allows. It
//! passes a stage when the time is over, enough requests were seen, and it is measured no worse than the margin allows; else the
//! stage is held. The probability to roll a release back that is as good as the one before is `false_alarm` over the whole rollout,
//! shared out among the tests: [`ErrorTest`](assigned) and [`LatencyTest`](assigned) while both releases answer, with [`breakdown`] and
//! [`periods`] where clients are counted; [`blocks`] against the former release's stored rates once it answers nothing any more. A limit that the service's owner set is another matter: it
//! gets `false_alarm` for itself.
//!
//! Where clients keep their release ([`Observation::unit`]), a client was drawn once, so that it counts once: in the comparison by its first
//! failure and its first answer, and among the requests that a stage needs. Limits and what is measured are of requests, as ever. What
//! cannot be proven of clients, because they were counted before, is looked for in [`periods`], in each of which all count once more; and, where they are
//! few, as a [`breakdown`].
//!
//! Requests that a rule of the service's sent to a release have numbers of their own, by rule. They are no evidence of the comparison, and not
//! among the requests that a stage needs: who sends such a header was not drawn, and whoever knows which release answers could choose what
//! that one is asked. A limit is another matter here too: it says what is never acceptable, of whomever, so that what the canary answers by
//! rule counts there.

mod assigned;
mod blocks;
mod breakdown;
mod periods;
mod sketch;
mod units;
mod verdict;
mod wealth;

use segue_schemas::{
    assignment::ReleaseRule,
    deploy::{CanarySpec, JudgeSpec, Observation, Outcome},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use assigned::{ErrorTest, LatencyTest, QUANTILES};
use blocks::{AboveRate, Blocks};
use breakdown::Breakdown;
use periods::Periods;
use sketch::Sketch;
use units::Units;
pub use verdict::{ArmNumbers, Decision, Evidence, RuleNumbers, Verdict};
use wealth::Wealth;

/// The part of `false_alarm` that each of the two tests gets while both releases answer.
const SIDE_BY_SIDE_PART: f64 = 0.4;
/// The part that each of the three tests against stored rates gets: errors, median, 90th percentile.
const STORED_PART: f64 = 0.16 / 3.0;
/// The part that each of three tests of clients gets: both breakdowns, errors and slow answers, and errors by periods.
const CLIENTS_PART: f64 = 0.04 / 3.0;
/// The control's quantile that most of the canary's answers must be slower than by more than is allowed, to be a breakdown.
const BROKEN_QUANTILE: f64 = 0.9;
/// Recent requests of the canary, at most; when they are reached, all that was measured weighs half.
const RECENT_REQUESTS: f64 = 512.0;
/// The same at 100 %, where there is nothing beside it that goes through the same swings.
const RECENT_REQUESTS_ALONE: f64 = 4096.0;
/// Requests of the control that are stored, at most; then they weigh half.
const STORED_REQUESTS: f64 = 1_000_000.0;
/// Requests of the control below which it is no measure.
const MIN_CONTROL_REQUESTS: f64 = 20.0;
/// Which of the quantiles are compared with the stored ones: median and 90th percentile.
const STORED_QUANTILES: [usize; 2] = [0, 2];

/// Which release answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// The new one.
    Canary,
    /// The one before.
    Control,
}

/// Watches one rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judge {
    rules: JudgeSpec,
    percent: u8,
    /// Of clients that keep their release, one of each.
    stage_requests: u64,
    /// Those clients.
    #[serde(default, skip_serializing_if = "Units::is_empty")]
    stage_units: Units,
    canary_requests: u64,
    canary_errors: u64,
    synthetic_requests: u64,
    lost: u64,
    canary: Recent,
    /// The control's, over the same time as the canary's.
    control: Recent,
    /// The control's, over the whole rollout: what is stored of it.
    former: Recent,
    error_test: ErrorTest,
    latency_test: LatencyTest,
    /// The control's errors, and its answers slower than its median and 90th percentile, by blocks.
    control_blocks: [Blocks; 3],
    stored: Option<Stored>,
    max_errors: Option<Limit>,
    max_p95: Option<Limit>,
    canary_blocks: Blocks,
    /// Where clients keep their release; none before the first such request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    breakdowns: Option<Breakdowns>,
    /// Errors of clients that keep their release; none in a rollout that was begun by a version before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    periods: Option<Periods>,
    /// What the canary answered by rule lately.
    #[serde(default)]
    canary_by_rule: Recent,
    /// By the rules of the service, in their order.
    #[serde(default)]
    by_rule: Vec<ByRule>,
}

/// What was measured of the requests that one rule sent to a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ByRule {
    rule: String,
    to: String,
    requests: u64,
    errors: u64,
    latency: Sketch,
}

/// What was measured of one release lately.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Recent {
    requests: f64,
    errors: f64,
    latency: Sketch,
}

/// The former release's stored rates, and the new one's blocks against them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stored {
    errors: Limit,
    /// For the quantiles of `STORED_QUANTILES`: the latency in microseconds that is too slow.
    latency: [(u64, Limit); 2],
}

/// What of clients that keep their release breaks down at the canary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Breakdowns {
    errors: Breakdown,
    slow: Breakdown,
    /// From how many microseconds on an answer is slow; looked up with each block, none while the control is no measure.
    slow_us: Option<u64>,
}

/// A rate that must not be exceeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Limit {
    blocks: Blocks,
    test: AboveRate,
}

impl Judge {
    /// A judge that has seen nothing. `by_rule` are the service's rules.
    #[must_use]
    pub fn new(spec: &CanarySpec, by_rule: &[ReleaseRule]) -> Self {
        let blocks = Blocks::for_stage(spec.stage_duration.0);
        let rules = spec.judge.clone();
        Self {
            percent: 0,
            stage_requests: 0,
            stage_units: Units::default(),
            canary_requests: 0,
            canary_errors: 0,
            synthetic_requests: 0,
            lost: 0,
            canary: Recent::default(),
            control: Recent::default(),
            former: Recent::default(),
            error_test: ErrorTest::new(),
            latency_test: LatencyTest::new(),
            control_blocks: [blocks.clone(), blocks.clone(), blocks.clone()],
            stored: None,
            max_errors: rules.max_error_rate.map(|rate| Limit::new(&blocks, rate)),
            max_p95: rules.max_p95.map(|_| Limit::new(&blocks, 0.05)),
            canary_blocks: blocks,
            breakdowns: None,
            periods: Some(Periods::for_stage(spec.stage_duration.0)),
            canary_by_rule: Recent::default(),
            by_rule: by_rule.iter().map(ByRule::new).collect(),
            rules,
        }
    }

    /// The share of the stage that is judged.
    pub(crate) fn stage_percent(&self) -> u8 {
        self.percent
    }

    /// The canary's weight changes; the requests that a stage needs are counted from here. From 100 % on, what the control
    /// did before is what the canary is compared with.
    pub fn begin_stage(&mut self, percent: u8) {
        if percent > self.percent {
            self.error_test.draws_again();
        }
        if let Some(breakdowns) = &mut self.breakdowns {
            breakdowns.errors.begin();
            breakdowns.slow.begin();
        }
        if let Some(periods) = &mut self.periods {
            periods.begin();
        }
        self.percent = percent;
        self.stage_requests = 0;
        self.stage_units = Units::default();
        if percent >= 100 && self.stored.is_none() {
            self.canary = Recent::default();
            self.control = self.former.clone();
            let beside =
                |former: &Blocks| Limit { blocks: self.canary_blocks.clone(), test: AboveRate::worse_than(former) };
            let slow = |i: usize| {
                let usual = self.former.latency.quantile(QUANTILES[STORED_QUANTILES[i]]).unwrap_or(f64::MAX);
                (
                    (usual * self.allowed_ratio(QUANTILES[STORED_QUANTILES[i]])) as u64,
                    beside(&self.control_blocks[i + 1]),
                )
            };
            self.stored = Some(Stored { errors: beside(&self.control_blocks[0]), latency: [slow(0), slow(1)] });
        }
    }

    /// Takes in one attempt of one request. What the client gave up says nothing.
    pub fn observe(&mut self, arm: Arm, observation: &Observation) {
        let Some(is_error) = observation.outcome.is_error() else { return };
        let latency_us = (observation.outcome == Outcome::Ok).then_some(observation.latency_us);
        if let Some(rule) = observation.rule {
            return self.observe_by_rule(rule, arm, observation, is_error, latency_us);
        }
        self.compare_side_by_side(arm, observation, latency_us);
        match arm {
            Arm::Canary => self.observe_canary(observation, is_error, latency_us),
            Arm::Control => self.observe_control(observation.at, is_error, latency_us),
        }
        if self.stored.is_none() && self.canary.requests >= RECENT_REQUESTS {
            self.canary.fade();
            self.canary_by_rule.fade();
            self.control.fade();
        } else if self.canary.requests >= RECENT_REQUESTS_ALONE {
            self.canary.fade();
        }
    }

    /// Requests that nobody saw.
    pub fn lose(&mut self, requests: u64) {
        self.lost = self.lost.saturating_add(requests);
    }

    /// Whether the verdict is to roll back, whatever the time.
    #[must_use]
    pub fn is_alarmed(&self) -> bool {
        // this is asked after every request: the cheap part first
        let level = self.rules.false_alarm * SIDE_BY_SIDE_PART;
        let is_proven = self.error_test.wealth().reaches(level)
            || self.latency_test.wealth().reaches(level)
            || self.is_broken(|breakdowns| &breakdowns.errors)
            || self.is_broken(|breakdowns| &breakdowns.slow)
            || self.fails_in_a_period()
            || self.limits().any(|(limit, level)| limit.test.wealth().reaches(level));
        is_proven && self.accusation(&self.numbers(Decision::Continue, String::new())).is_some()
    }

    /// The verdict at this moment.
    #[must_use]
    pub fn verdict(&self, stage_is_over: bool) -> Verdict {
        let numbers = self.numbers(Decision::Continue, "nothing speaks against it so far".into());
        let (decision, reason) = if let Some(reason) = self.accusation(&numbers) {
            (Decision::RollBack, reason)
        } else if !stage_is_over {
            return numbers;
        } else if let Some(reason) = self.doubt(&numbers) {
            (Decision::Hold, reason)
        } else {
            (Decision::Advance, self.praise(&numbers))
        };
        Verdict { decision, reason, ..numbers }
    }

    // --- taking in ---

    fn compare_side_by_side(&mut self, arm: Arm, observation: &Observation, latency_us: Option<u64>) {
        let probability = match arm {
            Arm::Canary => observation.probability,
            Arm::Control => 1.0 - observation.probability,
        };
        // a later attempt goes where the first did not: it was not assigned at random. Those of a client that keeps its release stay there
        let is_elsewhere = observation.attempt > 1 && observation.unit.is_none();
        if !(probability > 0.0 && probability < 1.0) || is_elsewhere {
            return;
        }
        if let Some(unit) = observation.unit {
            self.watch_clients(arm, observation.at, unit, latency_us);
            if let Some(periods) = self.periods.as_mut().filter(|_| self.stored.is_none()) {
                periods.answered(observation.at);
                if latency_us.is_none() {
                    periods.failed(arm, probability, unit);
                }
            }
        }
        match latency_us {
            Some(latency_us) => self.latency_test.answered(arm, probability, observation.unit, latency_us),
            None => self.error_test.failed(arm, probability, observation.unit),
        }
    }

    fn watch_clients(&mut self, arm: Arm, at: Timestamp, unit: u64, latency_us: Option<u64>) {
        if self.stored.is_some() {
            return;
        }
        let mut breakdowns = self.breakdowns.take().unwrap_or_else(|| Breakdowns::new(&self.canary_blocks));
        breakdowns.errors.count(arm, at, unit, latency_us.is_none());
        if breakdowns.slow_us.is_none() {
            breakdowns.slow_us = self.slow_us();
        }
        if let (Some(latency_us), Some(slow_us)) = (latency_us, breakdowns.slow_us)
            && breakdowns.slow.count(arm, at, unit, latency_us > slow_us)
        {
            breakdowns.slow_us = self.slow_us();
        }
        self.breakdowns = Some(breakdowns);
    }

    /// From when on an answer is slower than nine of ten of the control's by more than is allowed.
    fn slow_us(&self) -> Option<u64> {
        let usual = self.former.latency.quantile(BROKEN_QUANTILE).filter(|_| self.has_control())?;
        Some((usual * self.allowed_ratio(BROKEN_QUANTILE)) as u64)
    }

    fn observe_canary(&mut self, observation: &Observation, is_error: bool, latency_us: Option<u64>) {
        self.stage_requests += u64::from(self.stage_units.is_new(observation.unit));
        self.canary_requests += 1;
        self.canary_errors += u64::from(is_error);
        self.synthetic_requests += u64::from(observation.synthetic);
        self.canary.add(is_error, latency_us);
        self.hold_to_limits(observation, is_error);
        if let Some(stored) = &mut self.stored {
            stored.errors.count(observation.at, is_error);
            if let Some(latency_us) = latency_us {
                for (slow, limit) in &mut stored.latency {
                    limit.count(observation.at, latency_us > *slow);
                }
            }
        }
    }

    fn hold_to_limits(&mut self, observation: &Observation, is_error: bool) {
        if let Some(limit) = &mut self.max_errors {
            limit.count(observation.at, is_error);
        }
        if let (Some(limit), Some(max)) = (&mut self.max_p95, self.rules.max_p95) {
            limit.count(observation.at, observation.latency_us > max.as_millis().saturating_mul(1_000));
        }
    }

    fn observe_by_rule(
        &mut self,
        rule: u8,
        arm: Arm,
        observation: &Observation,
        is_error: bool,
        latency_us: Option<u64>,
    ) {
        if let Some(by_rule) = self.by_rule.get_mut(usize::from(rule)) {
            by_rule.add(is_error, latency_us);
        }
        if arm == Arm::Canary {
            self.canary_by_rule.add(is_error, latency_us);
            self.hold_to_limits(observation, is_error);
            if self.canary_by_rule.requests >= RECENT_REQUESTS {
                self.canary_by_rule.fade();
            }
        }
    }

    fn observe_control(&mut self, at: Timestamp, is_error: bool, latency_us: Option<u64>) {
        if self.stored.is_some() {
            // stragglers; what is stored stays
            return;
        }
        self.control_blocks[0].count(at, is_error);
        if let Some(latency_us) = latency_us {
            for (i, quantile) in STORED_QUANTILES.into_iter().enumerate() {
                if let Some(cut) = self.latency_test.cut(quantile) {
                    self.control_blocks[i + 1].count(at, Sketch::bucket(latency_us) > cut);
                }
            }
        }
        self.control.add(is_error, latency_us);
        self.former.add(is_error, latency_us);
        if self.former.requests >= STORED_REQUESTS {
            self.former.fade();
        }
        self.latency_test.learn(&self.former.latency);
    }

    // --- making up its mind ---

    /// Every limit in force, with the part of the false alarms that it may raise.
    fn limits(&self) -> impl Iterator<Item = (&Limit, f64)> {
        let all = self.rules.false_alarm;
        let stored =
            self.stored.iter().flat_map(|s| std::iter::once(&s.errors).chain(s.latency.iter().map(|(_, l)| l)));
        let absolute = self.max_errors.iter().chain(&self.max_p95);
        stored.map(move |limit| (limit, all * STORED_PART)).chain(absolute.map(move |limit| (limit, all)))
    }

    /// Why the canary is to be rolled back.
    fn accusation(&self, n: &Verdict) -> Option<String> {
        let side = if n.control_is_stored { "the former release's, as stored" } else { "the former release's" };
        if n.errors.is_alarm() {
            return Some(format!(
                "{} of its requests failed, {} of {side} ({})",
                n.canary.errors_words(),
                n.control.errors_words(),
                n.errors.words()
            ));
        }
        if n.latency.is_alarm() {
            return Some(format!(
                "it is {:.2} times as slow at the {} as {side}, {:.2} times are allowed ({})",
                n.latency.measured,
                quantile_words(n.latency_quantile),
                n.latency.allowed,
                n.latency.words()
            ));
        }
        if let Some(reason) = self.broken_words(n, side) {
            return Some(reason);
        }
        if let Some(errors) = n.absolute_errors.as_ref().filter(|e| e.is_alarm()) {
            return Some(format!(
                "{:.2} % of its requests failed, {:.2} % are the limit ({})",
                errors.measured * 100.0,
                errors.allowed * 100.0,
                errors.words()
            ));
        }
        let latency = n.absolute_latency.as_ref().filter(|e| e.is_alarm())?;
        Some(format!(
            "{:.1} % of its requests took longer than {}, 5 % may ({})",
            latency.measured * 100.0,
            self.rules.max_p95.unwrap_or_default(),
            latency.words()
        ))
    }

    /// Whether it is proven that most of what the canary answers its clients is of a kind that the former release's is not.
    fn is_broken(&self, kind: impl Fn(&Breakdowns) -> &Breakdown) -> bool {
        let level = self.rules.false_alarm * CLIENTS_PART;
        self.stored.is_none() && self.breakdowns.as_ref().is_some_and(|all| kind(all).wealth().reaches(level))
    }

    /// Whether it is proven of this period that the canary fails its clients more often.
    fn fails_in_a_period(&self) -> bool {
        let level = self.rules.false_alarm * CLIENTS_PART;
        self.stored.is_none() && self.periods.as_ref().is_some_and(|periods| periods.reaches(level))
    }

    fn broken_words(&self, n: &Verdict, side: &str) -> Option<String> {
        if self.is_broken(|breakdowns| &breakdowns.errors) && n.errors.measured > n.errors.allowed {
            return Some(format!(
                "most requests of its clients fail: {} of its requests did, {} of {side}",
                n.canary.errors_words(),
                n.control.errors_words()
            ));
        }
        if self.fails_in_a_period() && n.errors.measured > n.errors.allowed {
            return Some(format!(
                "more of its clients fail lately than chance explains: {} of its requests did, {} of {side}",
                n.canary.errors_words(),
                n.control.errors_words()
            ));
        }
        let (ratio, allowed) = (self.latency_ratio(BROKEN_QUANTILE), self.allowed_ratio(BROKEN_QUANTILE));
        (self.is_broken(|breakdowns| &breakdowns.slow) && ratio > allowed).then(|| {
            format!(
                "most answers to its clients are slower than nine of ten of {side}: it is {ratio:.2} times as slow at the {}, {allowed:.2} \
                 times are allowed",
                quantile_words(BROKEN_QUANTILE)
            )
        })
    }

    /// Why the stage cannot be left yet, although its time is over.
    fn doubt(&self, n: &Verdict) -> Option<String> {
        if n.stage_requests < n.min_requests {
            return Some(format!(
                "too few samples: it answered {} {} in this stage, {} are needed",
                n.stage_requests,
                self.units_word(),
                n.min_requests
            ));
        }
        // who asks for none of the canary's requests asks for none to compare them with
        if n.min_requests > 0 && !n.control_is_stored && n.control.requests < MIN_CONTROL_REQUESTS {
            return Some(format!(
                "too few samples to compare with: the former release answered {:.0} requests, {MIN_CONTROL_REQUESTS:.0} are needed",
                n.control.requests
            ));
        }
        if self.has_control() {
            if n.errors.measured > n.errors.allowed {
                return Some(format!(
                    "{} of its requests failed, {} of the former release's: more than the margin of {:.2} points, and too few samples \
                     to tell chance from fault",
                    n.canary.errors_words(),
                    n.control.errors_words(),
                    n.errors.allowed * 100.0
                ));
            }
            for quantile in [0.5, 0.9] {
                let (ratio, allowed) = (self.latency_ratio(quantile), self.allowed_ratio(quantile));
                if ratio > allowed {
                    return Some(format!(
                        "it is {ratio:.2} times as slow at the {} as the former release, {:.2} times are allowed, and there are too few \
                         samples to tell chance from fault",
                        quantile_words(quantile),
                        allowed
                    ));
                }
            }
        }
        let over =
            |e: &Option<Evidence>| e.as_ref().filter(|e| e.measured > e.allowed).map(|e| (e.measured, e.allowed));
        if let Some((measured, allowed)) = over(&n.absolute_errors) {
            let (measured, allowed) = (measured * 100.0, allowed * 100.0);
            return Some(format!("{measured:.2} % of its requests failed, {allowed:.2} % are the limit"));
        }
        over(&n.absolute_latency).map(|(measured, _)| {
            let limit = self.rules.max_p95.unwrap_or_default();
            format!("{:.1} % of its requests took longer than {limit}, 5 % may", measured * 100.0)
        })
    }

    fn praise(&self, n: &Verdict) -> String {
        if !self.has_control() {
            return format!(
                "{} {}, {} of its requests failed; the former release answered too few to compare with",
                n.stage_requests,
                self.units_word(),
                n.canary.errors_words()
            );
        }
        format!(
            "no worse: {} of its requests failed ({} of the former release's), {:.2} times as slow at the median ({:.2} are allowed)",
            n.canary.errors_words(),
            n.control.errors_words(),
            self.latency_ratio(0.5),
            self.allowed_ratio(0.5)
        )
    }

    /// What is counted among the requests that a stage needs.
    fn units_word(&self) -> &'static str {
        if self.stage_units.is_empty() { "requests" } else { "clients" }
    }

    fn has_control(&self) -> bool {
        self.control.requests >= MIN_CONTROL_REQUESTS
    }

    fn numbers(&self, decision: Decision, reason: String) -> Verdict {
        let difference = self.canary.error_rate() - self.control.error_rate();
        let stored_errors = self.stored.as_ref().map(|s| &s.errors);
        let stored_latency = self.stored.as_ref().and_then(|s| {
            let (i, (_, limit)) = s
                .latency
                .iter()
                .enumerate()
                .max_by(|a, b| a.1.1.test.wealth().value().total_cmp(&b.1.1.test.wealth().value()))?;
            Some((QUANTILES[STORED_QUANTILES[i]], limit))
        });
        let latency_quantile =
            stored_latency.map_or_else(|| self.latency_test.leading_quantile(), |(quantile, _)| quantile);
        let all = self.rules.false_alarm;
        let compared = |side_by_side: &Wealth, stored: Option<&Limit>| match stored {
            Some(limit) => (limit.test.wealth().value(), 1.0 / (all * STORED_PART)),
            None => (side_by_side.value(), 1.0 / (all * SIDE_BY_SIDE_PART)),
        };
        let evidence = |(e_value, needed), measured, allowed| Evidence { e_value, needed, measured, allowed };
        let absolute =
            |limit: &Limit, measured| evidence((limit.test.wealth().value(), 1.0 / all), measured, limit.test.rate());
        Verdict {
            decision,
            reason,
            stage_percent: self.percent,
            stage_requests: self.stage_requests,
            min_requests: self.rules.min_requests,
            canary_requests: self.canary_requests,
            canary_errors: self.canary_errors,
            synthetic_requests: self.synthetic_requests,
            lost_observations: self.lost,
            canary: self.canary.numbers(),
            control: self.control.numbers(),
            control_is_stored: self.stored.is_some(),
            errors: evidence(compared(self.error_test.wealth(), stored_errors), difference, self.rules.error_margin),
            latency: evidence(
                compared(self.latency_test.wealth(), stored_latency.map(|(_, limit)| limit)),
                self.latency_ratio(latency_quantile),
                self.allowed_ratio(latency_quantile),
            ),
            latency_quantile,
            absolute_errors: self.max_errors.as_ref().map(|limit| absolute(limit, self.whole_error_rate())),
            absolute_latency: self.max_p95.as_ref().map(|limit| {
                let max_us = self.rules.max_p95.unwrap_or_default().as_millis().saturating_mul(1_000);
                absolute(limit, self.whole_share_above(Sketch::bucket(max_us)))
            }),
            rules: self.by_rule.iter().map(ByRule::numbers).collect(),
        }
    }

    /// Of all that the canary answered lately, by weight and by rule, the share that failed.
    fn whole_error_rate(&self) -> f64 {
        let (drawn, ruled) = (&self.canary, &self.canary_by_rule);
        let requests = drawn.requests + ruled.requests;
        if requests > 0.0 { (drawn.errors + ruled.errors) / requests } else { 0.0 }
    }

    /// The same for answers slower than a bucket.
    fn whole_share_above(&self, bucket: u16) -> f64 {
        let (drawn, ruled) = (&self.canary.latency, &self.canary_by_rule.latency);
        let above = drawn.share_above(bucket) * drawn.total() + ruled.share_above(bucket) * ruled.total();
        let all = drawn.total() + ruled.total();
        if all > 0.0 { above / all } else { 0.0 }
    }

    /// How many times as slow as the control the canary may be: the rule's ratio, or what the rule's floor comes to.
    fn allowed_ratio(&self, quantile: f64) -> f64 {
        let floor_us = self.rules.latency_floor.0.as_secs_f64() * 1e6;
        let by_floor = self.control.latency.quantile(quantile).map_or(1.0, |control| 1.0 + floor_us / control);
        self.rules.latency_ratio.max(by_floor)
    }

    /// How many times as slow as the control the canary is; 1 where there is nothing to compare.
    fn latency_ratio(&self, quantile: f64) -> f64 {
        match (self.canary.latency.quantile(quantile), self.control.latency.quantile(quantile)) {
            (Some(canary), Some(control)) if self.has_control() => canary / control,
            _ => 1.0,
        }
    }
}

impl Recent {
    fn add(&mut self, is_error: bool, latency_us: Option<u64>) {
        self.requests += 1.0;
        self.errors += f64::from(u8::from(is_error));
        if let Some(latency_us) = latency_us {
            self.latency.add(latency_us);
        }
    }

    fn fade(&mut self) {
        self.requests /= 2.0;
        self.errors /= 2.0;
        self.latency.fade();
    }

    fn error_rate(&self) -> f64 {
        if self.requests > 0.0 { self.errors / self.requests } else { 0.0 }
    }

    fn numbers(&self) -> ArmNumbers {
        let milliseconds = |quantile| self.latency.quantile(quantile).map(|us| us / 1_000.0);
        ArmNumbers {
            requests: self.requests,
            error_rate: self.error_rate(),
            p50_ms: milliseconds(0.5),
            p90_ms: milliseconds(0.9),
            p95_ms: milliseconds(0.95),
        }
    }
}

impl ByRule {
    fn new(rule: &ReleaseRule) -> Self {
        let (rule, to) = (rule.words(), rule.to.word().to_owned());
        Self { rule, to, requests: 0, errors: 0, latency: Sketch::default() }
    }

    fn add(&mut self, is_error: bool, latency_us: Option<u64>) {
        self.requests += 1;
        self.errors += u64::from(is_error);
        if let Some(latency_us) = latency_us {
            self.latency.add(latency_us);
            if self.latency.total() >= RECENT_REQUESTS_ALONE {
                self.latency.fade();
            }
        }
    }

    fn numbers(&self) -> RuleNumbers {
        let milliseconds = |quantile| self.latency.quantile(quantile).map(|us| us / 1_000.0);
        RuleNumbers {
            rule: self.rule.clone(),
            to: self.to.clone(),
            requests: self.requests,
            errors: self.errors,
            p50_ms: milliseconds(0.5),
            p95_ms: milliseconds(0.95),
        }
    }
}

impl Breakdowns {
    fn new(blocks: &Blocks) -> Self {
        let breakdown = Breakdown::new(blocks.length_ms());
        Self { errors: breakdown.clone(), slow: breakdown, slow_us: None }
    }
}

impl Limit {
    fn new(blocks: &Blocks, rate: f64) -> Self {
        Self { blocks: blocks.clone(), test: AboveRate::new(rate) }
    }

    fn count(&mut self, at: Timestamp, is_hit: bool) {
        if let Some(share) = self.blocks.count(at, is_hit) {
            self.test.block(share);
        }
    }
}

fn quantile_words(quantile: f64) -> String {
    if quantile == 0.5 { "median".into() } else { format!("{:.0}th percentile", quantile * 100.0) }
}
