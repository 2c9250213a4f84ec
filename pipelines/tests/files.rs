//! Files as data: each `cases/pipeline/NAME.yml` stands beside `NAME.plan`, what is planned for the events that its first lines
//! name (`#! push refs/heads/main`), or `NAME.error`, its diagnostics as people see them; each file of `cases/service` and
//! `cases/config` beside `NAME.value`, what is read, or `NAME.error`; each of `cases/checks`, a run as the store has it, beside
//! `NAME.value`, what GitHub is to show of it; each of `cases/workflow` beside `NAME.report`. Pipelines may
//! use the actions of `cases/actions`.

#![expect(clippy::disallowed_methods, reason = "these tests read their cases from files")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fmt::Write as _, fs, path::Path};

use segue_pipelines::{
    checks::{RunFacts, checks, commit_status},
    config,
    diagnostic::{Diagnostic, Severity, Style, render},
    pipeline::{self, ActionFiles, check_action},
    plan::{explain, plan},
    service, workflow,
};
use segue_schemas::{
    id::CommitSha,
    plan::RunPlan,
    trigger::{Event, Trigger},
};
use serde::Serialize;

const ACCEPT: &str = "ACCEPT=1 cargo test -p segue-pipelines --test files";

#[test]
fn pipelines() {
    check("pipeline", 20, pipeline_report);
}

#[test]
fn services() {
    check("service", 3, |name, text| read_report(text, service::parse(&format!(".segue/services/{name}.yml"), text)));
}

#[test]
fn configurations() {
    check("config", 3, |_, text| read_report(text, config::parse("segue.yaml", text)));
}

#[test]
fn what_github_shows() {
    check("checks", 5, |_, text| {
        let facts: RunFacts = serde_yaml::from_str(text).unwrap();
        let checks = checks(&facts);
        let statuses: Vec<_> = checks.iter().map(commit_status).collect();
        let shown = serde_json::json!({"checks": checks, "statuses": statuses});
        ("value", serde_yaml::to_string(&shown).unwrap())
    });
}

/// Of a workflow, a line for each key.
#[test]
fn workflows() {
    check("workflow", 3, |name, text| {
        let line = |told: &Diagnostic| {
            let help = told.help.as_ref().map(|help| format!("\n    {help}")).unwrap_or_default();
            format!("{}:{} {} {}{help}\n", told.line, told.column, told.code, told.message)
        };
        ("report", workflow::report(&format!(".github/workflows/{name}.yml"), text).iter().map(line).collect())
    });
}

/// Compares every case of a folder with what stands beside it, or puts it there.
fn check(folder: &str, fewest: usize, report: impl Fn(&str, &str) -> (&'static str, String)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(folder);
    let accept = std::env::var("ACCEPT").is_ok_and(|value| value == "1");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".yml").map(String::from))
        .collect();
    names.sort();
    assert!(names.len() >= fewest, "cases are gone from {}", folder.display());
    let mut differing = Vec::new();
    for name in names {
        let text = fs::read_to_string(folder.join(format!("{name}.yml"))).unwrap();
        let (extension, found) = report(&name, &text);
        let wanted = fs::read_to_string(folder.join(format!("{name}.{extension}"))).unwrap_or_default();
        if accept {
            for old in ["plan", "value", "error", "report"] {
                let _absent = fs::remove_file(folder.join(format!("{name}.{old}")));
            }
            fs::write(folder.join(format!("{name}.{extension}")), &found).unwrap();
        } else if found != wanted {
            differing.push(format!("--- {name}.{extension}: wanted\n{wanted}\n--- {name}.{extension}: found\n{found}"));
        }
    }
    assert!(differing.is_empty(), "{}\n\nto accept what was found: {ACCEPT}", differing.join("\n"));
}

fn read_report<T: Serialize>(text: &str, read: Result<T, Vec<Diagnostic>>) -> (&'static str, String) {
    match read {
        Ok(value) => ("value", serde_yaml::to_string(&value).unwrap()),
        Err(diagnostics) => ("error", shown(&diagnostics, text)),
    }
}

fn shown(diagnostics: &[Diagnostic], text: &str) -> String {
    diagnostics.iter().map(|diagnostic| render(diagnostic, text, Style::Plain) + "\n\n").collect()
}

/// What is to stand beside a case, and under which extension.
fn pipeline_report(name: &str, text: &str) -> (&'static str, String) {
    let file = format!(".segue/pipelines/{name}.yml");
    let mut texts = beside();
    let among = ActionFiles::among(texts.iter().map(|(path, text)| (path.as_str(), text.as_str())));
    let parsed = pipeline::parse_with(&file, text, &among);
    texts.push((file.clone(), text.to_owned()));
    let shown: String = (parsed.diagnostics.iter())
        .map(|diagnostic| {
            let text = texts.iter().find(|(path, _)| *path == diagnostic.file).map_or("", |(_, text)| text);
            render(diagnostic, text, Style::Plain) + "\n\n"
        })
        .collect();
    if parsed.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        assert!(parsed.pipeline.is_none(), "{name}: a broken file became a pipeline");
        return ("error", shown);
    }
    let mut report = shown;
    let mut planned: Option<RunPlan> = None;
    for line in text.lines().map_while(|line| line.strip_prefix("#! ")) {
        let (trigger, changed) = event(line);
        let files: Vec<(&str, &str)> = texts.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        for pipeline in explain(&files, &trigger, changed.as_deref()).into_iter().filter(|one| one.file == file) {
            let verb = if pipeline.matches { "runs" } else { "does not run" };
            writeln!(report, "{line}\n  {} {verb}: {}", pipeline.name, pipeline.reason).unwrap();
            for job in pipeline.jobs.iter().filter(|_| pipeline.matches) {
                let verb = if job.would_run { "runs" } else { "does not run" };
                writeln!(report, "    {} {verb}: {}", job.id, job.reason).unwrap();
            }
        }
        let result = plan(&files, &trigger, changed.as_deref());
        let runs: Vec<RunPlan> = result.runs.into_iter().filter(|run| run.file == file).collect();
        let left_out = result.not_matching.iter().chain(&result.refused).map(|one| &one.file);
        let left_out =
            left_out.chain(result.skipped.iter().map(|one| &one.plan.file)).filter(|of| **of == file).count();
        let is_broken = result.broken.iter().any(|broken| broken.file == file);
        assert!(!is_broken && runs.len() + left_out == 1, "{name}: {line}");
        planned = planned.or_else(|| runs.into_iter().next());
    }
    if let Some(plan) = planned {
        write!(report, "---\n{}", serde_yaml::to_string(&plan).unwrap()).unwrap();
    }
    ("plan", report)
}

/// What lies in the repository of all cases: `cases/actions/NAME.yml` at `.segue/actions/NAME/action.yml`, and
/// `cases/called/NAME.yml` at `.segue/pipelines/NAME.yml`.
fn beside() -> Vec<(String, String)> {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let in_folder = |folder: &str, place: fn(&str) -> String| -> Vec<(String, String)> {
        let entries = fs::read_dir(cases.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| (place(path.file_stem().unwrap().to_str().unwrap()), fs::read_to_string(&path).unwrap()))
            .collect()
    };
    let mut files = in_folder("actions", |name| format!(".segue/actions/{name}/action.yml"));
    files.extend(in_folder("called", |name| format!(".segue/pipelines/{name}.yml")));
    files
}

#[test]
fn the_library_has_no_fault() {
    for (name, text) in segue_pipelines::actions::LIBRARY {
        let found = check_action(&format!("{name}/action.yml"), text, &ActionFiles::default());
        assert_eq!(shown(&found, text), "", "{name}");
    }
}

/// `push REF`, `pull_request ACTION BASE`, `workflow_dispatch [PIPELINE] [NAME=VALUE ...]`, `schedule [CRON]`,
/// `repository_dispatch TYPE`, `issue_comment ACTION BODY`, each with ` changed: FILE ...` where that is known; the first two with
/// ` message: TEXT` at the end.
fn event(line: &str) -> (Trigger, Option<Vec<String>>) {
    let (line, message) = line.split_once(" message: ").unwrap_or((line, "Change it"));
    let message = message.replace("\\n", "\n");
    let (event, changed) = match line.split_once(" changed:") {
        Some((event, files)) => (event, Some(files.split_whitespace().map(String::from).collect())),
        None => (line, None),
    };
    let commit = |digit: &str| -> CommitSha { digit.repeat(40).parse().unwrap() };
    let words: Vec<&str> = event.split_whitespace().collect();
    let event = match words.as_slice() {
        ["push", full_ref] => {
            Event::Push { r#ref: (*full_ref).into(), before: commit("a"), after: commit("b"), message, forced: false }
        }
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
            message,
            is_closed: false,
            before: None,
            updated_at: segue_schemas::time::Timestamp(0),
        },
        ["workflow_dispatch", rest @ ..] => Event::WorkflowDispatch {
            r#ref: "refs/heads/main".into(),
            commit: commit("b"),
            pipeline: rest.iter().find(|word| !word.contains('=')).map(ToString::to_string),
            inputs: rest.iter().filter_map(|word| word.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect(),
        },
        ["schedule", cron @ ..] => Event::Schedule {
            r#ref: "refs/heads/main".into(),
            commit: commit("b"),
            file: None,
            cron: (!cron.is_empty()).then(|| cron.join(" ")),
            timezone: None,
            due: serde_json::from_str("\"2026-03-06T05:30:00Z\"").unwrap(),
        },
        ["repository_dispatch", action] => Event::RepositoryDispatch {
            r#ref: "refs/heads/main".into(),
            commit: commit("b"),
            action: (*action).into(),
            client_payload: serde_json::json!({"version": 3}),
        },
        ["issue_comment", action, body @ ..] => Event::IssueComment {
            action: (*action).into(),
            r#ref: "refs/heads/main".into(),
            commit: commit("b"),
            number: 7,
            is_pull_request: true,
            body: body.join(" "),
            author_association: "MEMBER".into(),
        },
        _ => panic!("`{line}` is no event that the cases know"),
    };
    (
        Trigger { repository: "octo/app".into(), clone_url: None, actor: "mona".into(), authors: Vec::new(), event },
        changed,
    )
}
