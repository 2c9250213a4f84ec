//! Pipeline files as data: each `cases/NAME.yml` stands beside `NAME.plan`, what is planned for the events that its first
//! lines name (`#! push refs/heads/main`), or `NAME.error`, its diagnostics as people see them.

#![expect(clippy::disallowed_methods, reason = "these tests read their cases from files")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fmt::Write as _, fs, path::Path};

use proptest::prelude::*;
use segue_pipelines::{
    diagnostic::{Severity, Style, render},
    pipeline,
    plan::{explain, plan},
};
use segue_schemas::{
    id::CommitSha,
    plan::RunPlan,
    trigger::{Event, Trigger},
};

const ACCEPT: &str = "ACCEPT=1 cargo test -p segue-pipelines --test pipelines cases";

#[test]
fn cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let accept = std::env::var("ACCEPT").is_ok_and(|value| value == "1");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".yml").map(String::from))
        .collect();
    names.sort();
    assert!(names.len() > 20, "the cases are gone");
    let mut differing = Vec::new();
    for name in names {
        let text = fs::read_to_string(folder.join(format!("{name}.yml"))).unwrap();
        let (extension, found) = report(&name, &text);
        let wanted = fs::read_to_string(folder.join(format!("{name}.{extension}"))).unwrap_or_default();
        if accept {
            for old in ["plan", "error"] {
                let _absent = fs::remove_file(folder.join(format!("{name}.{old}")));
            }
            fs::write(folder.join(format!("{name}.{extension}")), &found).unwrap();
        } else if found != wanted {
            differing.push(format!("--- {name}.{extension}: wanted\n{wanted}\n--- {name}.{extension}: found\n{found}"));
        }
    }
    assert!(differing.is_empty(), "{}\n\nto accept what was found: {ACCEPT}", differing.join("\n"));
}

/// What is to stand beside a case, and under which extension.
fn report(name: &str, text: &str) -> (&'static str, String) {
    let file = format!(".segue/pipelines/{name}.yml");
    let parsed = pipeline::parse(&file, text);
    let shown: String =
        parsed.diagnostics.iter().map(|diagnostic| render(diagnostic, text, Style::Plain) + "\n\n").collect();
    if parsed.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        assert!(parsed.pipeline.is_none(), "{name}: a broken file became a pipeline");
        return ("error", shown);
    }
    let mut report = shown;
    let mut planned: Option<RunPlan> = None;
    for line in text.lines().map_while(|line| line.strip_prefix("#! ")) {
        let (trigger, changed) = event(line);
        let files = [(file.as_str(), text)];
        for pipeline in explain(&files, &trigger, changed.as_deref()) {
            let verb = if pipeline.matches { "runs" } else { "does not run" };
            writeln!(report, "{line}\n  {} {verb}: {}", pipeline.name, pipeline.reason).unwrap();
            for job in pipeline.jobs.iter().filter(|_| pipeline.matches) {
                let verb = if job.would_run { "runs" } else { "does not run" };
                writeln!(report, "    {} {verb}: {}", job.id, job.reason).unwrap();
            }
        }
        let result = plan(&files, &trigger, changed.as_deref());
        assert!(result.broken.is_empty() && result.runs.len() + result.not_matching.len() == 1, "{name}: {line}");
        planned = planned.or_else(|| result.runs.into_iter().next());
    }
    if let Some(plan) = planned {
        write!(report, "---\n{}", serde_yaml::to_string(&plan).unwrap()).unwrap();
    }
    ("plan", report)
}

/// `push REF`, `pull_request ACTION BASE`, `workflow_dispatch`, each with ` changed: FILE ...` where that is known.
fn event(line: &str) -> (Trigger, Option<Vec<String>>) {
    let (event, changed) = match line.split_once(" changed:") {
        Some((event, files)) => (event, Some(files.split_whitespace().map(String::from).collect())),
        None => (line, None),
    };
    let commit = |digit: &str| -> CommitSha { digit.repeat(40).parse().unwrap() };
    let words: Vec<&str> = event.split_whitespace().collect();
    let event = match words.as_slice() {
        ["push", full_ref] => Event::Push {
            r#ref: (*full_ref).into(),
            before: commit("a"),
            after: commit("b"),
            message: "Change it".into(),
            forced: false,
        },
        ["delete", full_ref] => Event::Push {
            r#ref: (*full_ref).into(),
            before: commit("a"),
            after: commit("0"),
            message: String::new(),
            forced: false,
        },
        ["pull_request", action, base] => Event::PullRequest {
            action: (*action).into(),
            number: 7,
            title: "A title".into(),
            head_ref: "topic".into(),
            head: commit("c"),
            head_repository: Some("octo/app".into()),
            base_ref: (*base).into(),
            base: commit("a"),
            draft: false,
        },
        ["workflow_dispatch", rest @ ..] => Event::WorkflowDispatch {
            r#ref: "refs/heads/main".into(),
            commit: commit("b"),
            pipeline: rest.first().map(ToString::to_string),
            inputs: indexmap::IndexMap::new(),
        },
        _ => panic!("`{line}` is no event that the cases know"),
    };
    (Trigger { repository: "octo/app".into(), clone_url: None, actor: "mona".into(), event }, changed)
}

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
    assert_eq!(codes(&text).len(), segue_pipelines::diagnostic::MAX_PER_FILE);
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
    for diagnostic in &parsed.diagnostics {
        prop_assert!(text.get(diagnostic.span.clone()).is_some(), "{:?}", diagnostic);
        prop_assert!(!render(diagnostic, text, Style::Plain).is_empty());
    }
    Ok(())
}
