//! What two attempts have come to, side by side: a case is two attempts and what is told of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use segue_pipelines::attempts::{compare, first_difference};
use segue_schemas::api::{Difference, JobDiff, JobView};
use serde_json::{Value, json};

/// Jobs, one a line: `key status [carried] [VALUE of the output `v`]`, and below each, indented, its steps: `name status [exit code]`.
fn attempt(text: &str, took_ms: i64) -> Vec<JobView> {
    let mut jobs: Vec<Value> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ended = json!(segue_schemas::time::Timestamp(1_000 + took_ms));
        let started = json!(segue_schemas::time::Timestamp(1_000));
        if line.starts_with(' ') {
            let steps = jobs.last_mut().unwrap()["steps"].as_array_mut().unwrap();
            steps.push(json!({
                "index": steps.len(), "name": words[0], "status": words[1], "outputs": {}, "log_start": 0, "log_end": 0,
                "exit_code": words.get(2).map(|code| code.parse::<i32>().unwrap()),
                "started_at": started, "ended_at": ended,
            }));
            continue;
        }
        let outputs = words.get(2).filter(|word| **word != "carried").map(|value| json!({"v": value}));
        let mut job = json!({
            "id": uuid(jobs.len()), "run": 1, "attempt": 1, "key": words[0], "name": words[0], "needs": [],
            "status": words[1], "outputs": outputs.unwrap_or_else(|| json!({})), "log_bytes": 0, "steps": [],
            "started_at": started, "ended_at": ended,
        });
        if words.contains(&"carried") {
            job["carried_from"] = uuid(100).into();
        }
        jobs.push(job);
    }
    serde_json::from_value(jobs.into()).unwrap()
}

fn uuid(n: usize) -> String {
    format!("00000000-0000-7000-8000-{n:012}")
}

fn told(jobs: &[JobDiff]) -> String {
    let mut lines = Vec::new();
    for job in jobs {
        let outputs =
            if job.outputs.is_empty() { String::new() } else { format!(" outputs {}", job.outputs.join(",")) };
        lines.push(format!("{} {}{outputs}", job.key, word(job.difference)));
        for step in &job.steps {
            let code = |code: Option<i32>| code.map_or("-".into(), |code| code.to_string());
            let codes =
                |one: &Option<segue_schemas::api::StepOutcome>| code(one.as_ref().and_then(|one| one.exit_code));
            let difference = word(step.difference);
            lines.push(format!("  {} {difference} {} {}", step.name, codes(&step.from), codes(&step.to)));
        }
    }
    lines.push(format!("first: {}", first_difference(jobs).unwrap_or_else(|| "none".into())));
    lines.join("\n")
}

fn word(difference: Difference) -> String {
    json!(difference).as_str().unwrap().to_owned()
}

#[track_caller]
fn check(before: &str, after: &str, expected: &str) {
    // how long it took makes no difference
    let told = told(&compare(&attempt(before, 10), &attempt(after, 9_000)));
    let expected: Vec<&str> = expected.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(told, expected.join("\n"));
}

#[test]
fn the_step_that_came_out_otherwise_is_named() {
    check(
        "build succeeded\n  make succeeded 0\ntest failed\n  setup succeeded 0\n  unit failed 101",
        "build succeeded carried\n  make succeeded 0\ntest succeeded\n  setup succeeded 0\n  unit succeeded 0",
        "build carried\n  make same 0 0\ntest differs\n  setup same 0 0\n  unit differs 101 0\nfirst: test / unit",
    );
}

#[test]
fn what_came_out_the_same_is_told_as_such_however_long_it_took() {
    check("a failed\n  x failed 1", "a failed\n  x failed 1", "a same\n  x same 1 1\nfirst: none");
}

#[test]
fn another_exit_code_of_a_failure_is_a_difference() {
    check("a failed\n  x failed 1", "a failed\n  x failed 137", "a differs\n  x differs 1 137\nfirst: a / x");
}

#[test]
fn a_step_that_only_one_of_them_came_to_is_there_alone() {
    check(
        "a failed\n  x failed 1\n  y pending",
        "a succeeded\n  x succeeded 0\n  y succeeded 0",
        "a differs\n  x differs 1 0\n  y only_after - 0\nfirst: a / x",
    );
    check("a cancelled\n  x succeeded 0", "a cancelled", "a differs\n  x only_before 0 -\nfirst: a / x");
}

#[test]
fn another_output_is_a_difference_where_all_else_is_the_same() {
    check("a succeeded one", "a succeeded two", "a differs outputs v\nfirst: a");
    check("a succeeded one", "a succeeded", "a differs outputs v\nfirst: a");
}

#[test]
fn a_job_that_only_one_of_them_has_is_told() {
    check(
        "a succeeded\nb(1) failed\n  x failed 1",
        "a succeeded\nb(2) succeeded\n  x succeeded 0",
        "a same\nb(2) only_after\n  x only_after - 0\nb(1) only_before\n  x only_before 1 -\nfirst: b(2) / x",
    );
}
