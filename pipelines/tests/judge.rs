//! The judge: few simulated rollouts of each kind, and the rules one by one. `cargo bench --bench judge` draws 1,000 of each.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../benches/simulation/mod.rs"]
mod simulation;

use segue_pipelines::judge::{Arm, Decision, Judge, Verdict};
use segue_schemas::{
    assignment::ReleaseRule,
    deploy::{CanarySpec, JudgeSpec, Observation, Outcome},
    duration::Span,
    time::Timestamp,
};
use simulation::{Scenario, rollout};

/// The median of the canary's requests until it is rolled back.
fn median_until_caught(scenario: &Scenario) -> u64 {
    let mut requests: Vec<u64> = (0..15)
        .map(|seed| {
            let ending = rollout(scenario, seed);
            assert_eq!(ending.decision, Decision::RollBack, "{seed}: {:?}", ending.verdict);
            ending.canary_requests
        })
        .collect();
    requests.sort_unstable();
    requests[7]
}

#[test]
fn a_release_that_fails_every_request_is_caught_within_five() {
    let median = median_until_caught(&Scenario { added_errors: 1.0, ..Scenario::IDENTICAL });
    assert!(median <= 5, "{median}");
}

#[test]
fn a_release_that_fails_one_request_in_five_is_caught_within_twenty_five() {
    let median = median_until_caught(&Scenario { added_errors: 0.2, ..Scenario::IDENTICAL });
    assert!(median <= 25, "{median}");
}

#[test]
fn a_release_that_is_half_as_slow_again_is_caught_within_four_hundred() {
    let median = median_until_caught(&Scenario { slowness: 1.5, ..Scenario::IDENTICAL });
    assert!(median <= 400, "{median}");
}

#[test]
fn an_identical_release_is_promoted_through_bursts() {
    for base_errors in [0.0, 0.05] {
        for seed in 0..5 {
            let scenario = Scenario { base_errors, stage_seconds: 20, ..Scenario::IDENTICAL };
            let ending = rollout(&scenario, seed);
            assert_eq!(ending.decision, Decision::Advance, "{seed}: {:?}", ending.verdict);
        }
    }
}

#[test]
fn clients_for_whom_everything_fails_or_is_slow_anywhere_bring_no_release_back() {
    let alarms: Vec<_> = [(30, 0.05, 1.0), (200, 0.05, 1.0), (30, 0.0, 10.0), (200, 0.0, 10.0)]
        .into_iter()
        .flat_map(|(clients, base_errors, habit)| {
            (0..5).filter_map(move |seed| {
                let habits = Scenario { clients, base_errors, habit, crowd: seed, ..Scenario::IDENTICAL };
                let ending = rollout(&Scenario { rate: 20.0, stage_seconds: 20, ..habits }, seed);
                (ending.decision == Decision::RollBack).then_some((clients, habit, seed, ending.verdict.reason))
            })
        })
        .collect();
    assert!(alarms.len() <= 1, "{alarms:?}");
}

#[test]
fn a_partial_fault_that_begins_after_every_client_has_failed_once_is_rolled_back() {
    let late =
        Scenario { clients: 400, added_errors: 0.2, outage_until: 25.0, worse_from: 40.0, ..Scenario::IDENTICAL };
    for crowd in 0..3 {
        let ending = rollout(&Scenario { crowd, ..late.clone() }, crowd);
        assert_eq!(ending.decision, Decision::RollBack, "{crowd}: {:?}", ending.verdict);
        assert!(ending.seconds <= 45.0, "{crowd}: {} s: {}", ending.seconds, ending.verdict.reason);
    }
    let alarms: Vec<_> = (0..4)
        .filter_map(|crowd| {
            let ending = rollout(&Scenario { added_errors: 0.0, crowd, stage_seconds: 40, ..late.clone() }, crowd);
            (ending.decision == Decision::RollBack).then_some((crowd, ending.verdict.reason))
        })
        .collect();
    assert!(alarms.is_empty(), "{alarms:?}");
}

/// A judge, and requests for it as it were from a script.
struct Script {
    judge: Judge,
    sequence: u64,
    /// How many clients the control has, who come in turn; 0: none is known.
    control_clients: u64,
    /// What becomes of their requests.
    control: Outcome,
}

impl Script {
    fn new(rules: JudgeSpec) -> Self {
        let spec = CanarySpec { stage_duration: Span::seconds(60), judge: rules, ..CanarySpec::default() };
        let mut judge = Judge::new(&spec, &[]);
        judge.begin_stage(10);
        Self { judge, sequence: 0, control_clients: 0, control: Outcome::Ok }
    }

    /// `count` requests, each tenth of them the canary's; `change` makes of a canary's request what it is to be.
    fn requests(&mut self, count: u64, change: impl Fn(u64, &mut Observation)) -> Verdict {
        for _ in 0..count {
            self.sequence += 1;
            let is_canary = self.sequence.is_multiple_of(10);
            let mut observation = Observation {
                sequence: self.sequence,
                at: Timestamp(self.sequence as i64 * 10),
                instance: "any".parse().unwrap(),
                probability: if is_canary { 0.1 } else { 0.9 },
                status: 200,
                outcome: Outcome::Ok,
                latency_us: 10_000 + self.sequence * 7_919 % 10_000,
                duration_us: 30_000,
                rule: None,
                attempt: 1,
                unit: None,
                synthetic: false,
            };
            if !is_canary {
                observation.outcome = self.control;
                observation.unit = (self.control_clients > 0).then(|| 1_000_000 + self.sequence % self.control_clients);
            }
            if is_canary {
                change(self.sequence / 10, &mut observation);
            }
            self.judge.observe(if is_canary { Arm::Canary } else { Arm::Control }, &observation);
        }
        self.judge.verdict(true)
    }
}

#[test]
fn too_few_samples_hold_the_stage_and_say_so() {
    let mut script = Script::new(JudgeSpec::default());
    let verdict = script.requests(400, |_, _| {});
    assert_eq!(verdict.decision, Decision::Hold);
    assert_eq!(verdict.reason, "too few samples: it answered 40 requests in this stage, 50 are needed");
    let verdict = script.requests(100, |_, _| {});
    assert_eq!(verdict.decision, Decision::Advance, "{}", verdict.reason);
}

#[test]
fn synthetic_requests_count_and_are_marked() {
    let mut script = Script::new(JudgeSpec::default());
    let verdict = script.requests(500, |_, o| o.synthetic = true);
    assert_eq!((verdict.decision, verdict.stage_requests, verdict.synthetic_requests), (Decision::Advance, 50, 50));
}

#[test]
fn what_the_client_gave_up_says_nothing() {
    let mut script = Script::new(JudgeSpec::default());
    let verdict = script.requests(1_000, |_, o| o.outcome = Outcome::ClientGone);
    assert_eq!((verdict.canary_requests, verdict.canary_errors), (0, 0));
    assert_eq!(verdict.decision, Decision::Hold);
}

#[test]
fn a_small_excess_is_within_the_margin_and_a_larger_one_holds() {
    let fails_each = |every: u64| {
        move |n: u64, o: &mut Observation| {
            if n.is_multiple_of(every) {
                o.outcome = Outcome::ServerError;
            }
        }
    };
    let verdict = Script::new(JudgeSpec::default()).requests(4_000, fails_each(200));
    assert_eq!(verdict.decision, Decision::Advance, "{}", verdict.reason);
    let verdict = Script::new(JudgeSpec::default()).requests(1_000, fails_each(50));
    assert_eq!(verdict.decision, Decision::Hold);
    assert!(
        verdict.reason.contains("2.00 % of its requests failed, 0.00 % of the former release's"),
        "{}",
        verdict.reason
    );
}

#[test]
fn a_difference_below_the_floor_is_none() {
    let twice_as_slow = |floor| {
        let rules = JudgeSpec { latency_floor: Span::millis(floor), ..JudgeSpec::default() };
        Script::new(rules).requests(4_000, |_, o| o.latency_us *= 2)
    };
    let verdict = twice_as_slow(5);
    assert_eq!(verdict.decision, Decision::RollBack);
    assert!(verdict.reason.contains(" times as slow at the "), "{}", verdict.reason);
    assert_eq!(twice_as_slow(50).decision, Decision::Advance);
}

#[test]
fn errors_of_one_client_count_once() {
    let poisoned = |unit: Option<u64>| {
        move |n: u64, o: &mut Observation| {
            if n.is_multiple_of(3) {
                (o.outcome, o.unit) = (Outcome::ServerError, unit);
            }
        }
    };
    assert_eq!(Script::new(JudgeSpec::default()).requests(300, poisoned(None)).decision, Decision::RollBack);
    let verdict = Script::new(JudgeSpec::default()).requests(300, poisoned(Some(7)));
    assert_eq!(verdict.decision, Decision::Hold, "{}", verdict.reason);
}

#[test]
fn a_stage_needs_clients_where_each_keeps_its_release() {
    let of_clients = |clients: u64| move |n: u64, o: &mut Observation| o.unit = Some(n % clients);
    let verdict = Script::new(JudgeSpec::default()).requests(4_000, of_clients(40));
    assert_eq!((verdict.decision, verdict.stage_requests, verdict.canary_requests), (Decision::Hold, 40, 400));
    assert_eq!(verdict.reason, "too few samples: it answered 40 clients in this stage, 50 are needed");
    let mut script = Script::new(JudgeSpec::default());
    let verdict = script.requests(4_000, of_clients(60));
    assert_eq!((verdict.decision, verdict.stage_requests), (Decision::Advance, 60), "{}", verdict.reason);
    // whoever stays is counted in the next stage once more, and what is stored in between is read on
    script.judge.begin_stage(50);
    let stored = serde_json::to_string(&script.judge).unwrap();
    script.judge = serde_json::from_str(&stored).unwrap();
    assert_eq!(script.requests(4_000, of_clients(60)).stage_requests, 60);
}

#[test]
fn a_breakdown_is_caught_however_few_clients_meet_it() {
    let of_twenty = |clients: u64| {
        let mut script = Script { control_clients: 18, ..Script::new(JudgeSpec::default()) };
        script.requests(1_500, |n, o| (o.unit, o.outcome) = (Some(n % clients), Outcome::Cut))
    };
    let verdict = of_twenty(2);
    assert_eq!(verdict.decision, Decision::RollBack, "{}", verdict.reason);
    assert_eq!(
        verdict.reason,
        "most requests of its clients fail: 100.00 % of its requests did, 0.00 % of the former release's"
    );
    assert_eq!(of_twenty(1).decision, Decision::Hold, "one client alone may be one for whom everything fails");
}

#[test]
fn clients_that_were_counted_before_do_not_hide_a_breakdown() {
    let of_clients = |n: u64, o: &mut Observation| o.unit = Some(n % 40);
    let begin = || {
        let mut script = Script { control_clients: 400, ..Script::new(JudgeSpec::default()) };
        // something that both need fails once for everybody
        script.control = Outcome::ServerError;
        script.requests(400, |n, o| (o.unit, o.outcome) = (Some(n % 40), Outcome::ServerError));
        script.control = Outcome::Ok;
        let verdict = script.requests(10_000, of_clients);
        assert_eq!(verdict.decision, Decision::Hold, "{}", verdict.reason);
        script.judge.begin_stage(50);
        script
    };
    let verdict = begin().requests(2_000, |n, o| {
        of_clients(n, o);
        o.outcome = Outcome::ServerError;
    });
    assert_eq!(verdict.decision, Decision::RollBack, "{}", verdict.reason);
    let verdict = begin().requests(3_000, |n, o| {
        of_clients(n, o);
        o.latency_us *= 10;
    });
    assert_eq!(verdict.decision, Decision::RollBack, "{}", verdict.reason);
    assert!(verdict.reason.contains("slower than nine of ten of the former release's"), "{}", verdict.reason);
    // and what strikes both is no fault of the canary's
    let mut script = begin();
    script.control = Outcome::ServerError;
    let verdict = script.requests(2_000, |n, o| {
        of_clients(n, o);
        o.outcome = Outcome::ServerError;
    });
    assert_ne!(verdict.decision, Decision::RollBack, "{}", verdict.reason);
}

#[test]
fn a_client_of_the_former_release_counts_again_when_the_share_grows() {
    let mut script =
        Script { control_clients: 400, control: Outcome::ServerError, ..Script::new(JudgeSpec::default()) };
    let weight = |script: &mut Script| script.requests(400, |_, o| o.outcome = Outcome::ClientGone).errors.e_value;
    let once = weight(&mut script);
    assert!(once < 1.0, "{once}");
    assert_eq!(weight(&mut script), once, "each has failed");
    script.judge.begin_stage(50);
    assert!(weight(&mut script) < once);
}

#[test]
fn a_retry_at_a_clients_release_is_evidence() {
    let failing = |n: u64, o: &mut Observation| (o.attempt, o.outcome, o.unit) = (2, Outcome::Unreachable, Some(n));
    let verdict = Script::new(JudgeSpec::default()).requests(1_000, failing);
    assert_eq!(verdict.decision, Decision::RollBack, "{}", verdict.reason);
    assert!(verdict.errors.is_alarm(), "{verdict:?}");
}

#[test]
fn a_retry_elsewhere_is_no_evidence_of_its_own() {
    let mut script = Script::new(JudgeSpec::default());
    let verdict = script.requests(1_000, |_, o| (o.attempt, o.outcome) = (2, Outcome::Unreachable));
    assert!(verdict.errors.e_value < 2.0, "{verdict:?}");
    assert_eq!(verdict.canary_errors, 100, "it is counted all the same");
}

#[test]
fn absolute_limits_hold_whatever_the_control_does() {
    let slow = JudgeSpec { max_p95: Some(Span::millis(15)), latency_ratio: 100.0, ..JudgeSpec::default() };
    let verdict = Script::new(slow).requests(20_000, |_, o| o.latency_us = 16_000);
    assert_eq!(verdict.decision, Decision::RollBack);
    assert!(verdict.reason.contains("took longer than 15ms, 5 % may"), "{}", verdict.reason);
    let faulty = JudgeSpec { max_error_rate: Some(0.05), error_margin: 1.0, ..JudgeSpec::default() };
    let verdict = Script::new(faulty).requests(20_000, |n, o| {
        if n.is_multiple_of(2) {
            o.outcome = Outcome::Cut;
        }
    });
    assert_eq!(verdict.decision, Decision::RollBack);
    assert!(verdict.reason.contains("50.00 % of its requests failed, 5.00 % are the limit"), "{}", verdict.reason);
}

#[test]
fn at_full_weight_the_stored_rates_are_the_control() {
    let mut script = Script::new(JudgeSpec::default());
    script.requests(10_000, |_, _| {});
    script.judge.begin_stage(100);
    let observe = |script: &mut Script, outcome| {
        script.requests(1, |_, _| {});
        let at = Timestamp(script.sequence as i64 * 10);
        let observation = Observation {
            sequence: script.sequence,
            at,
            instance: "new".parse().unwrap(),
            probability: 1.0,
            status: 0,
            outcome,
            latency_us: 12_000,
            duration_us: 12_000,
            rule: None,
            attempt: 1,
            unit: None,
            synthetic: false,
        };
        script.judge.observe(Arm::Canary, &observation);
    };
    (0..200).for_each(|_| observe(&mut script, Outcome::Ok));
    let verdict = script.judge.verdict(true);
    assert!(verdict.control_is_stored && verdict.control.requests > 8_000.0, "{verdict:?}");
    assert_eq!(verdict.decision, Decision::Advance, "{}", verdict.reason);
    let broken = (0..3_000).find(|_| {
        observe(&mut script, Outcome::Unreachable);
        script.judge.is_alarmed()
    });
    assert!(broken.is_some_and(|requests| requests < 2_000), "{broken:?}");
}

#[test]
fn what_comes_by_rule_has_numbers_of_its_own_and_counts_against_limits_alone() {
    let rules: Vec<ReleaseRule> = ["canary", "stable"]
        .map(|to| serde_json::from_value(serde_json::json!({ "header": "x-release", "equals": to, "to": to })).unwrap())
        .into();
    let run = |max_error_rate| {
        let spec = CanarySpec { judge: JudgeSpec { max_error_rate, ..JudgeSpec::default() }, ..CanarySpec::default() };
        let mut judge = Judge::new(&spec, &rules);
        judge.begin_stage(10);
        let mut script = Script { judge, sequence: 0, control_clients: 0, control: Outcome::Ok };
        for n in 0..2_000 {
            // of what is drawn nothing fails; every second one of those that a rule sends to the canary does
            script.requests(1, |_, _| {});
            for (rule, arm, is_bad) in [(0, Arm::Canary, n % 2 == 0), (1, Arm::Control, false)] {
                let by_rule = Observation {
                    sequence: 0,
                    at: Timestamp(script.sequence as i64 * 10),
                    instance: "any".parse().unwrap(),
                    probability: 1.0,
                    rule: Some(rule),
                    status: 200,
                    outcome: if is_bad { Outcome::ServerError } else { Outcome::Ok },
                    latency_us: if rule == 0 { 80_000 } else { 20_000 },
                    duration_us: 80_000,
                    attempt: 1,
                    unit: None,
                    synthetic: false,
                };
                script.judge.observe(arm, &by_rule);
            }
        }
        script.judge.verdict(true)
    };
    let verdict = run(None);
    assert_eq!((verdict.decision, verdict.canary_requests), (Decision::Advance, 200), "{}", verdict.reason);
    assert!(verdict.errors.measured.abs() < 1e-9 && verdict.control.requests < 2_000.0, "{verdict:?}");
    let shown: Vec<_> = verdict.rules.iter().map(|r| (r.rule.as_str(), r.to.as_str(), r.requests, r.errors)).collect();
    assert_eq!(
        shown,
        [("header x-release = canary", "canary", 2_000, 1_000), ("header x-release = stable", "stable", 2_000, 0)]
    );
    assert!(verdict.rules[0].p50_ms.is_some_and(|ms| (75.0..90.0).contains(&ms)), "{:?}", verdict.rules);
    assert!(verdict.rules[1].p95_ms.is_some_and(|ms| (18.0..22.0).contains(&ms)), "{:?}", verdict.rules);
    let verdict = run(Some(0.05));
    assert_eq!(verdict.decision, Decision::RollBack, "{}", verdict.reason);
    assert!(verdict.reason.contains("5.00 % are the limit"), "{}", verdict.reason);
}

#[test]
fn a_judge_goes_on_where_it_was_stored() {
    let mut script = Script::new(JudgeSpec::default());
    script.requests(1_000, |n, o| o.latency_us += n * 100);
    let stored = serde_json::to_string(&script.judge).unwrap();
    assert!(stored.len() < 64 * 1024, "{} bytes", stored.len());
    let mut restored = Script {
        judge: serde_json::from_str(&stored).unwrap(),
        sequence: script.sequence,
        ..Script::new(JudgeSpec::default())
    };
    let go_on = |script: &mut Script| script.requests(100, |_, o| o.outcome = Outcome::ServerError);
    let (here, there) = (go_on(&mut script), go_on(&mut restored));
    assert_eq!((here.decision, here.canary_requests), (there.decision, there.canary_requests));
    assert_eq!(here.decision, Decision::RollBack);
}
