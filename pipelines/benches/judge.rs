//! The judge's figures, simulated: how soon bad releases are caught, how seldom good ones are.
//! `cargo bench -p segue-pipelines --bench judge [-- --seeds 1000] [--only WORDS] [--json]`; exits 1 where a figure is missed.

mod simulation;

use std::process::ExitCode;

use segue_pipelines::judge::Decision;
use simulation::{Ending, Scenario, rollout};

/// What a scenario must come to.
enum Figure {
    /// The median of the canary's requests until it is rolled back, at most.
    CaughtWithin(u64),
    /// The share of rollouts that end promoted, at least.
    Promoted(f64),
    /// The share of rollouts that are rolled back, at most.
    SeldomBack(f64),
    /// The median of the seconds until it is rolled back, from when it is worse, at most.
    CaughtAfter(f64),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let seeds = arguments
        .iter()
        .position(|a| a == "--seeds")
        .and_then(|at| arguments.get(at + 1)?.parse().ok())
        .unwrap_or(1_000);
    let as_json = arguments.iter().any(|a| a == "--json");
    let only = arguments.iter().position(|a| a == "--only").and_then(|at| arguments.get(at + 1));
    let mut rows = Vec::new();
    for (name, scenario, figure) in scenarios() {
        if only.is_some_and(|words| !name.contains(words)) {
            continue;
        }
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
            ("identical, 2 requests/s", Scenario { rate: 2.0, stage_seconds: 900, ..plain }),
        ]
        .map(|(name, scenario)| (name, scenario, Figure::Promoted(0.99)))
    };
    // clients that keep their release: of 40, four come to the first stage's canary
    let crowd = |clients| Scenario { clients, ..Scenario::IDENTICAL };
    let late = |clients| Scenario { outage_until: 25.0, worse_from: 40.0, ..crowd(clients) };
    let crowds = [
        ("sticky: fails every request", Scenario { added_errors: 1.0, ..crowd(40) }, 15.0),
        ("sticky: fails every request", Scenario { added_errors: 1.0, ..crowd(400) }, 2.0),
        ("sticky: fails 20 %", Scenario { added_errors: 0.2, ..crowd(400) }, 10.0),
        ("sticky: fails 20 %", Scenario { added_errors: 0.2, ..crowd(4_000) }, 10.0),
        ("sticky: 50 % slower", Scenario { slowness: 1.5, ..crowd(4_000) }, 120.0),
        ("sticky, an outage: fails later", Scenario { added_errors: 1.0, ..late(400) }, 10.0),
        ("sticky, an outage: fails 20 % later", Scenario { added_errors: 0.2, ..late(400) }, 30.0),
        ("sticky, an outage: fails 20 % later", Scenario { added_errors: 0.2, ..late(4_000) }, 30.0),
    ];
    let well = [40, 400, 4_000].map(|clients| {
        [
            ("sticky: identical", Scenario { base_errors: 0.05, ..crowd(clients) }),
            ("sticky, an outage: identical", Scenario { outage_until: 25.0, ..crowd(clients) }),
            ("sticky, slow habits: identical", Scenario { habit: 10.0, ..crowd(clients) }),
        ]
    });
    let mut all = Vec::new();
    all.extend(bad("fails every request", 1.0, 1.0, 5));
    all.extend(bad("fails 20 %", 0.2, 1.0, 25));
    all.extend(bad("50 % slower", 0.0, 1.5, 400));
    [0.0, 0.001, 0.01, 0.05].into_iter().for_each(|base| all.extend(same(base)));
    all.extend(crowds.map(|(name, scenario, seconds)| (name, scenario, Figure::CaughtAfter(seconds))));
    all.extend(well.into_iter().flatten().map(|(name, scenario)| (name, scenario, Figure::SeldomBack(0.005))));
    all
}

fn measure(name: &str, scenario: &Scenario, figure: &Figure, seeds: u64) -> serde_json::Value {
    // others are drawn each time
    let endings: Vec<_> = (0..seeds).map(|seed| rollout(&Scenario { crowd: seed, ..scenario.clone() }, seed)).collect();
    let count = |decision| endings.iter().filter(|e| e.decision == decision).count() as f64 / seeds as f64;
    // one that was never caught counts as caught after for ever
    let mut requests: Vec<u64> =
        endings.iter().map(|e| if e.decision == Decision::RollBack { e.canary_requests } else { u64::MAX }).collect();
    requests.sort_unstable();
    let percentile = |p: usize| requests[(requests.len() * p / 100).min(requests.len() - 1)];
    let is_back = |e: &&Ending| e.decision == Decision::RollBack;
    let mut seconds: Vec<f64> = endings.iter().map(|e| if is_back(&e) { e.seconds } else { f64::INFINITY }).collect();
    seconds.sort_unstable_by(f64::total_cmp);
    let seconds_at = |p: usize| seconds[(seconds.len() * p / 100).min(seconds.len() - 1)];
    let (passed, needed) = match figure {
        Figure::CaughtWithin(within) => (percentile(50) <= *within, format!("median at most {within} requests")),
        Figure::Promoted(share) => {
            (count(Decision::Advance) >= *share, format!("promoted at least {:.0} %", share * 100.0))
        }
        Figure::SeldomBack(share) => {
            (count(Decision::RollBack) <= *share, format!("back at most {:.1} %", share * 100.0))
        }
        Figure::CaughtAfter(most) => (seconds_at(50) <= *most, format!("median at most {most} s")),
    };
    let wanted = match figure {
        Figure::CaughtWithin(within) => serde_json::json!({ "caught_within": within }),
        Figure::Promoted(share) => serde_json::json!({ "promoted": share }),
        Figure::SeldomBack(share) => serde_json::json!({ "rolled_back": share }),
        Figure::CaughtAfter(seconds) => serde_json::json!({ "caught_after_seconds": seconds }),
    };
    let shown = |requests: u64| if requests == u64::MAX { serde_json::Value::Null } else { requests.into() };
    serde_json::json!({
        "scenario": name,
        "base_errors": scenario.base_errors,
        "bursts": scenario.bursts,
        "clients": scenario.clients,
        "promoted": count(Decision::Advance),
        "rolled_back": count(Decision::RollBack),
        "held": count(Decision::Hold),
        "canary_requests_p50": shown(percentile(50)),
        "canary_requests_p95": shown(percentile(95)),
        // JSON has no infinity: null
        "seconds_p50": seconds_at(50),
        "seconds_p95": seconds_at(95),
        "rolled_back_because": endings.iter().find(|e| e.decision == Decision::RollBack).map(|e| &e.verdict.reason),
        "needed": needed,
        "wanted": wanted,
        "passed": passed,
    })
}

fn print_row(row: &serde_json::Value, is_first: bool) {
    if is_first {
        println!(
            "{:38} {:>7} {:>6} {:>6} {:>9} {:>7} {:>6} {:>6} {:>6} {:>7} {:>7}  needed",
            "release", "clients", "errors", "bursts", "promoted", "back", "held", "p50", "p95", "s p50", "s p95"
        );
    }
    let plain = |key: &str| row[key].to_string().replace("null", "-");
    let seconds = |key: &str| row[key].as_f64().map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}"));
    let percent = |key: &str| format!("{:.1} %", row[key].as_f64().unwrap_or_default() * 100.0);
    println!(
        "{:38} {:>7} {:>6} {:>6} {:>9} {:>7} {:>6} {:>6} {:>6} {:>7} {:>7}  {}{}",
        row["scenario"].as_str().unwrap_or_default(),
        plain("clients"),
        percent("base_errors"),
        plain("bursts"),
        percent("promoted"),
        percent("rolled_back"),
        percent("held"),
        plain("canary_requests_p50"),
        plain("canary_requests_p95"),
        seconds("seconds_p50"),
        seconds("seconds_p95"),
        row["needed"].as_str().unwrap_or_default(),
        if row["passed"] == true { "" } else { "   MISSED" },
    );
}
