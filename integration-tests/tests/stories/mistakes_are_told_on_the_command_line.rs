//! `segue validate` and `segue eval` need no server and no configuration.

use std::{
    fs,
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use segue_integration_tests::{hostile, stand::binary};
use serde_json::{Value, json};

fn segue(arguments: &[&str]) -> Result<Output> {
    Command::new(binary()?).args(arguments).env("NO_COLOR", "1").output().context("cannot start segue")
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_hostile_file_is_an_error_with_its_place() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("x.yml");
    let name = file.display().to_string();
    for (what, text) in hostile::files() {
        fs::write(&file, text)?;
        let start = Instant::now();
        let output = segue(&["validate", "--json", &name])?;
        // the figure is of a release build on a quiet machine; here, only what grows without bound shows
        assert!(start.elapsed() < Duration::from_secs(10), "{what} takes {:?}", start.elapsed());
        assert_eq!(output.status.code(), Some(1), "{what}: {}", said(&output.stderr));
        let told: Vec<Value> = serde_json::from_slice(&output.stdout)?;
        let first = told.first().with_context(|| format!("{what}: nothing is said"))?;
        assert_eq!(first["severity"], "error", "{what}: {first}");
        assert_eq!(first["file"], name.as_str(), "{what}: {first}");
        assert!(first["line"].as_u64() >= Some(1) && first["column"].as_u64() >= Some(1), "{what}: {first}");
        assert!(told.len() <= 100, "{what}: {} diagnostics", told.len());
    }
    Ok(())
}

#[test]
fn an_expression_has_a_value_or_a_caret() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("contexts.json");
    fs::write(
        &file,
        r#"{"github": {"ref": "refs/tags/v1"}, "matrix": {"os": ["a", "b"]}, "job": {"status": "failure"}}"#,
    )?;
    let contexts = file.display().to_string();
    for (expression, value) in [
        ("1 == '1'", json!(true)),
        ("startsWith(github.ref, 'refs/TAGS/')", json!(true)),
        ("${{ matrix.os }}", json!(["a", "b"])),
        ("github.nothing && 1", json!(null)),
        ("failure() && !success()", json!(true)),
        ("-1", json!(-1)),
        ("fromJSON('{\"b\": [1.5], \"a\": null}')", json!({"b": [1.5], "a": null})),
    ] {
        let output = segue(&["eval", "--contexts", &contexts, expression])?;
        assert_eq!(output.status.code(), Some(0), "{expression}: {}", said(&output.stderr));
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout)?, value, "{expression}");
    }
    for (expression, code, caret) in [
        ("github.ref == = 'x'", "expression-syntax", "              ^"),
        ("true && gihub.ref", "unknown-context", "        ^^^^^"),
        ("upper('x')", "unknown-function", "^^^^^"),
        ("contains('x')", "argument-count", "^^^^^^^^^^^^^"),
        ("fromJSON('{')", "expression-value", "^^^^^^^^^^^^^"),
    ] {
        let output = segue(&["eval", expression])?;
        let errors = said(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{expression}: {errors}");
        assert!(output.stdout.is_empty(), "{expression}: {}", said(&output.stdout));
        assert!(errors.contains(&format!("[{code}]")), "{expression}: {errors}");
        let marked = errors.lines().any(|line| line.ends_with(&format!("| {caret}")));
        assert!(marked, "{expression}: {errors}");
    }
    for usage in [&["eval"][..], &["eval", "--contexts", "/nonexistent", "1"], &["eval", "--nonsense", "1"]] {
        assert_eq!(segue(usage)?.status.code(), Some(2), "{usage:?}");
    }
    Ok(())
}

#[test]
fn diagnostics_are_printed_for_people_and_for_programs() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let name = |file: &str| folder.path().join(file).display().to_string();
    fs::write(name("x.yml"), "on: push\njobs:\n  a:\n    stepz: []\n")?;
    fs::write(name("clean.yml"), "on: push\njobs:\n  a:\n    steps:\n      - run: make\n")?;

    let output = segue(&["validate", &name("x.yml")])?;
    let (printed, summary) = (said(&output.stdout), said(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    for part in ["error[unknown-key]", "x.yml:4:5", "stepz: []", "^^^^^", "did you mean `steps`?"] {
        assert!(printed.contains(part), "`{part}` is not in:\n{printed}");
    }
    assert!(summary.contains("segue validate --explain"), "{summary}");

    let output = segue(&["validate", "--sarif", &name("x.yml"), &name("clean.yml")])?;
    assert_eq!(output.status.code(), Some(1));
    let log: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(log["version"], "2.1.0");
    let result = &log["runs"][0]["results"][1];
    assert_eq!((&result["ruleId"], &result["level"]), (&json!("unknown-key"), &json!("error")));
    let region = &result["locations"][0]["physicalLocation"]["region"];
    assert_eq!(
        (&region["startLine"], &region["startColumn"], &region["endColumn"]),
        (&json!(4), &json!(5), &json!(10))
    );

    assert_eq!(segue(&["validate", &name("clean.yml")])?.status.code(), Some(0));
    for usage in
        [&["validate", "/nonexistent"][..], &["validate", "--json", "--sarif"], &["validate", "--explain", "x"]]
    {
        assert_eq!(segue(usage)?.status.code(), Some(2), "{usage:?}");
    }
    let page = said(&segue(&["validate", "--explain", "unknown-key"])?.stdout);
    assert!(page.contains("**Instead:**") && !page.contains("## `missing-key`"), "{page}");
    Ok(())
}

#[test]
fn of_a_workflow_of_githubs_it_is_said_what_would_run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let workflows = folder.path().join(".github/workflows");
    fs::create_dir_all(&workflows)?;
    fs::write(
        workflows.join("ci.yml"),
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v4\n      - uses: actions/setup-go@v5\n      - run: go test\n",
    )?;
    let output = segue(&["validate", &folder.path().display().to_string()])?;
    let printed = said(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    for line in [
        "1:1  runs-as-is      `on` runs as it is",
        "4:14  another-name    `jobs.a.runs-on`",
        "6:15  another-name    `jobs.a.steps[0].uses`: `actions/checkout@v4` is `segue/checkout` here",
        "7:15  no-equivalent   `jobs.a.steps[1].uses`",
        "8:9  runs-as-is      `jobs.a.steps[2].run` runs as it is",
    ] {
        assert!(printed.contains(line), "`{line}` is not in:\n{printed}");
    }
    Ok(())
}
