//! Pipelines, beyond the cases of `files.rs`: what holds for many texts, or for any.

use std::fmt::Write as _;

use proptest::prelude::*;
use segue_pipelines::{
    config,
    diagnostic::{MAX_PER_FILE, Severity, Style, render},
    pipeline, service,
};

/// A whole pipeline, for tests that vary a part of it.
fn with_step(step: &str) -> String {
    format!("on: push\njobs:\n  a:\n    environment: staging\n    steps:\n      - {step}\n")
}

/// The codes of the diagnostics of a file.
fn codes(text: &str) -> Vec<&'static str> {
    pipeline::parse("x.yml", text).diagnostics.iter().map(|diagnostic| diagnostic.code.as_str()).collect()
}

#[test]
fn what_an_outsider_chooses_cannot_be_pasted_into_a_script() {
    for untrusted in [
        "github.head_ref",
        "github.ref",
        "github.ref_name",
        "github.event.pull_request.title",
        "github.event.pull_request.body",
        "github.event.pull_request.head.ref",
        "github.event.head_commit.message",
        "github.event.commits[0].message",
        "github.event.commits.*.message",
        "github.event.comment['body']",
        "GitHub.Event.Issue.TITLE",
        "toJSON(github)",
        "toJSON(github.event)",
        "format('{0}', github.event.head_commit)",
        "github[format('head_{0}', 'ref')]",
        "github.*",
        "github.event.pull_request.title || 'none'",
    ] {
        let step = format!("run: \"echo ${{{{ {untrusted} }}}}\"");
        assert_eq!(codes(&with_step(&step)), ["untrusted-value"], "{untrusted}");
        let through_env = format!("{{env: {{X: \"${{{{ {untrusted} }}}}\"}}, run: echo \"$X\"}}");
        assert_eq!(codes(&with_step(&through_env)), [""; 0], "{untrusted}");
        let around = format!("{{env: {{X: \"${{{{ {untrusted} }}}}\"}}, run: \"echo ${{{{ env.X }}}}\"}}");
        assert_eq!(codes(&with_step(&around)), ["untrusted-value"], "{untrusted}");
    }
    for trusted in
        ["github.sha", "github.run_id", "github.event.number", "github.event.pull_request.head.sha", "vars.X"]
    {
        let step = format!("run: \"echo ${{{{ {trusted} }}}}\"");
        assert_eq!(codes(&with_step(&step)), [""; 0], "{trusted}");
    }
}

#[test]
fn limits_are_errors_and_fast() {
    let only = |text: &str, code: &str| assert_eq!(codes(text), [code], "{}", &text[..text.len().min(80)]);
    only(&"a".repeat(1024 * 1024 + 1), "yaml-limit");
    only(&"[".repeat(10_000), "yaml-limit");
    only(&"{a: ".repeat(10_000), "yaml-limit");
    only(&"- ".repeat(10_000), "yaml-limit");
    only(&(0..2_000).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>(), "yaml-limit");
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
        writeln!(bomb, "a{i}: &a{i} [{aliases}]").unwrap();
    }
    only(&bomb, "yaml-limit");
    let mut merges = "a0: &a0 {k: v}\n".to_owned();
    for i in 1..40 {
        writeln!(merges, "a{i}: &a{i} {{l: *a{}, m: *a{}, <<: *a{}}}", i - 1, i - 1, i - 1).unwrap();
    }
    only(&merges, "yaml-limit");
    only("a: &a [*a]\n", "yaml-unsupported");
    only(&with_step(&format!("{{if: \"{}\", run: x}}", "x".repeat(100_000))), "expression-limit");
    let many = (0..100_000).map(|_| "- 1\n").collect::<String>();
    only(&many, "yaml-limit");
}

#[test]
fn no_more_diagnostics_than_anyone_reads() {
    let text: String = (0..5_000).map(|i| format!("k{i}: 1\n")).collect();
    assert_eq!(codes(&text).len(), MAX_PER_FILE);
}

#[test]
fn json_has_the_documented_shape() {
    let parsed = pipeline::parse("p.yml", "on: push\njobs:\n  a:\n    stepz: []\n");
    assert_eq!(
        serde_json::to_value(&parsed.diagnostics[1]).unwrap(),
        serde_json::json!({
            "file": "p.yml", "line": 4, "column": 5, "severity": "error", "code": "unknown-key",
            "message": "the job `a` has no key `stepz`", "help": "did you mean `steps`?"
        })
    );
}

proptest! {
    #[test]
    fn any_text_is_a_pipeline_or_diagnostics(text in "\\PC{0,120}") {
        sound(&text)?;
    }

    #[test]
    fn any_pile_of_lines_is_a_pipeline_or_diagnostics(lines in prop::collection::vec(prop::sample::select(vec![
        "on: push", "on:", "  push:", "    branches: [main, '!x']", "jobs:", "  a:", "  b:", "    needs: [a]", "    needs: b",
        "    steps:", "      - run: x", "      - run: |", "          echo ${{ github.sha }}", "      - uses: segue/deploy",
        "        with: {service: x, path: .}", "        if: ${{ always() }}", "    environment: ä", "&a", "*a", "<<: *a", "  <<: {}",
        "command: [a]", "health: {path: x}", "environments: {a: {hosts: [b]}}", "warm-up:", " - count: 2", "replicas: x",
        "\t", "- ", "? [a]", "---", "!!str", "'", "\"", "\u{feff}", "\u{0}", "{", "]", "# c", "env: {A: 1.10, B: ${{ x }}}",
    ]), 0..24)) {
        sound(&lines.join("\n"))?;
    }
}

/// A file is a pipeline without errors, or has errors that lie within it; both can be shown.
fn sound(text: &str) -> Result<(), TestCaseError> {
    let parsed = pipeline::parse("x.yml", text);
    let errors = parsed.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count();
    prop_assert_eq!(parsed.pipeline.is_none(), errors > 0);
    let of_service = service::parse("x.yml", text).err().unwrap_or_default();
    let of_config = config::parse("segue.yaml", text).err().unwrap_or_default();
    for diagnostic in parsed.diagnostics.iter().chain(&of_service).chain(&of_config) {
        prop_assert!(text.get(diagnostic.span.clone()).is_some(), "{:?}", diagnostic);
        prop_assert!(!render(diagnostic, text, Style::Plain).is_empty());
    }
    Ok(())
}
