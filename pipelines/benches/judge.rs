//! The judge's figures, simulated: how soon bad releases are caught, how seldom good ones are.
//! `cargo bench -p segue-pipelines --bench judge [-- --seeds 1000] [--json]`; exits 1 where a figure is missed.

mod simulation;

use std::process::ExitCode;

use segue_pipelines::judge::Decision;
use simulation::{Scenario, rollout};

/// What a scenario must come to.
enum Figure {
    /// The median of the canary's requests until it is rolled back, at most.
    CaughtWithin(u64),
    /// The share of rollouts that end promoted, at least.
    Promoted(f64),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let seeds = arguments
        .iter()
        .position(|a| a == "--seeds")
        .and_then(|at| arguments.get(at + 1)?.parse().ok())
        .unwrap_or(1_000);
    let as_json = arguments.iter().any(|a| a == "--json");
    let mut rows = Vec::new();
    for (name, scenario, figure) in scenarios() {
        let row = measure(name, &scenario, &figure, seeds);
        if !as_json {
            print_row(&row, rows.is_empty());
        }
        rows.push(row);
    }
    let passed = rows.iter().all(|row| row["passed"] == true);
    if as_json {
        println!("{}", serde_json::json!({ "bench": "judge", "seeds": seeds, "rows": rows, "passed": passed }));
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn scenarios() -> Vec<(&'static str, Scenario, Figure)> {
    let bad = |name, added_errors, slowness, within| {
        [true, false].map(|bursts| {
            let scenario = Scenario { added_errors, slowness, bursts, ..Scenario::IDENTICAL };
            (name, scenario, Figure::CaughtWithin(within))
        })
    };
    let same = |base_errors| {
        let plain = Scenario { base_errors, ..Scenario::IDENTICAL };
        [
            ("identical", plain.clone()),
            ("identical, steady", Scenario { bursts: false, ..plain.clone() }),
            ("identical, sticky clients", Scenario { clients: 400, ..plain.clone() }),
            ("identical, 2 requests/s", Scenario { rate: 2.0, stage_seconds: 900, ..plain }),
        ]
        .map(|(name, scenario)| (name, scenario, Figure::Promoted(0.99)))
    };
    let mut all = Vec::new();
    all.extend(bad("fails every request", 1.0, 1.0, 5));
    all.extend(bad("fails 20 %", 0.2, 1.0, 25));
    all.extend(bad("50 % slower", 0.0, 1.5, 400));
    [0.0, 0.001, 0.01, 0.05].into_iter().for_each(|base| all.extend(same(base)));
    all
}

fn measure(name: &str, scenario: &Scenario, figure: &Figure, seeds: u64) -> serde_json::Value {
    let endings: Vec<_> = (0..seeds).map(|seed| rollout(scenario, seed)).collect();
    let count = |decision| endings.iter().filter(|e| e.decision == decision).count() as f64 / seeds as f64;
    // one that was never caught counts as caught after for ever
    let mut requests: Vec<u64> =
        endings.iter().map(|e| if e.decision == Decision::RollBack { e.canary_requests } else { u64::MAX }).collect();
    requests.sort_unstable();
    let percentile = |p: usize| requests[(requests.len() * p / 100).min(requests.len() - 1)];
    let (passed, needed) = match figure {
        Figure::CaughtWithin(within) => (percentile(50) <= *within, format!("median at most {within} requests")),
        Figure::Promoted(share) => {
            (count(Decision::Advance) >= *share, format!("promoted at least {:.0} %", share * 100.0))
        }
    };
    let wanted = match figure {
        Figure::CaughtWithin(within) => serde_json::json!({ "caught_within": within }),
        Figure::Promoted(share) => serde_json::json!({ "promoted": share }),
    };
    let shown = |requests: u64| if requests == u64::MAX { serde_json::Value::Null } else { requests.into() };
    serde_json::json!({
        "scenario": name,
        "base_errors": scenario.base_errors,
        "bursts": scenario.bursts,
        "promoted": count(Decision::Advance),
        "rolled_back": count(Decision::RollBack),
        "held": count(Decision::Hold),
        "canary_requests_p50": shown(percentile(50)),
        "canary_requests_p95": shown(percentile(95)),
        "rolled_back_because": endings.iter().find(|e| e.decision == Decision::RollBack).map(|e| &e.verdict.reason),
        "needed": needed,
        "wanted": wanted,
        "passed": passed,
    })
}

fn print_row(row: &serde_json::Value, is_first: bool) {
    if is_first {
        println!(
            "{:28} {:>6} {:>6} {:>9} {:>9} {:>6} {:>6} {:>6}  needed",
            "release", "errors", "bursts", "promoted", "back", "held", "p50", "p95"
        );
    }
    let plain = |key: &str| row[key].to_string().replace("null", "-");
    let percent = |key: &str| format!("{:.1} %", row[key].as_f64().unwrap_or_default() * 100.0);
    println!(
        "{:28} {:>6} {:>6} {:>9} {:>9} {:>6} {:>6} {:>6}  {}{}",
        row["scenario"].as_str().unwrap_or_default(),
        percent("base_errors"),
        plain("bursts"),
        percent("promoted"),
        percent("rolled_back"),
        percent("held"),
        plain("canary_requests_p50"),
        plain("canary_requests_p95"),
        row["needed"].as_str().unwrap_or_default(),
        if row["passed"] == true { "" } else { "   MISSED" },
    );
}
