//! The traps of GitHub Actions that this language does not have, one test for each row of the design's table. Rows that show
//! only in a run (pipefail, the bounded time of `always()` after a cancel, push and pull request of one head) have their tests with the worker and the stories.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use segue_pipelines::{
    diagnostic::{Diagnostic, Severity},
    pipeline,
    plan::{explain, plan},
    progress::{Action, JobView, RunView, advance, needs_context},
};
use segue_schemas::{
    plan::{JobPlan, StepAction},
    status::{JobStatus, RunStatus},
    trigger::{Event, Trigger},
};
use serde_json::json;

fn job(text: &str) -> String {
    let indented: String = text.lines().map(|line| format!("    {}\n", line.trim_start_matches("    "))).collect();
    format!("on: push\njobs:\n  a:\n{indented}")
}

fn diagnostics(text: &str) -> Vec<Diagnostic> {
    pipeline::parse(".segue/pipelines/x.yml", text).diagnostics
}

fn codes(text: &str) -> Vec<&'static str> {
    diagnostics(text).iter().map(|diagnostic| diagnostic.code.as_str()).collect()
}

fn push() -> Trigger {
    Trigger {
        repository: "octo/app".into(),
        clone_url: None,
        actor: "mona".into(),
        authors: Vec::new(),
        event: Event::Push {
            r#ref: "refs/heads/main".into(),
            before: "a".repeat(40).parse().unwrap(),
            after: "b".repeat(40).parse().unwrap(),
            message: "Change it".into(),
            forced: false,
        },
    }
}

fn planned(text: &str) -> Vec<JobPlan> {
    plan(&[(".segue/pipelines/x.yml", text)], &push(), None).runs.remove(0).jobs
}

#[test]
fn text_around_an_expression_in_if_is_an_error() {
    let mixed = job("if: ${{ github.ref == 'refs/heads/main' }} && false\nsteps: [{ run: make }]");
    assert_eq!(codes(&mixed), ["expression-syntax"]);
    assert!(diagnostics(&mixed)[0].message.contains("would always be true"));
    for right in ["github.ref == 'refs/heads/main' && false", "${{ github.ref == 'refs/heads/main' && false }}"] {
        assert_eq!(codes(&job(&format!("if: {right}\nsteps: [{{ run: make }}]"))), [""; 0]);
    }
}

#[test]
fn an_expression_pasted_into_a_script_is_refused_with_the_fix_shown() {
    let found = diagnostics(&job("steps: [{ run: \"echo ${{ github.event.pull_request.title }}\" }]"));
    assert_eq!(found[0].code.as_str(), "untrusted-value");
    let fix = "give the step `env: { TITLE: \"${{ github.event.pull_request.title }}\" }` and write `\"$TITLE\"` in the script";
    assert_eq!(found[0].help.as_deref(), Some(fix));
    let mended = job("steps: [{ env: { TITLE: \"${{ github.event.pull_request.title }}\" }, run: 'echo \"$TITLE\"' }]");
    assert_eq!(codes(&mended), [""; 0]);
    // a value does not become harmless on its way through a matrix
    let matrix =
        job("strategy: { matrix: { t: ['${{ github.head_ref }}'] } }\nsteps: [{ run: \"echo ${{ matrix.t }}\" }]");
    assert_eq!(codes(&matrix), ["untrusted-value"]);
}

#[test]
fn a_skipped_need_does_not_skip_everything_after_it_in_silence() {
    let text = "on: push\njobs:\n  docs: { if: false, steps: [{ run: x }] }\n  test: { needs: docs, steps: [{ run: x }] }\n  \
                ship: { needs: docs, environment: production, steps: [{ run: x }] }\n  last: { needs: ship, steps: [{ run: x }] }\n";
    let explained = explain(&[("x.yml", text)], &push(), None).remove(0);
    let fate = |id: &str| {
        explained.jobs.iter().find(|job| job.id == id).map(|job| (job.would_run, job.reason.as_str())).unwrap()
    };
    assert_eq!(fate("docs"), (false, "its condition `false` was false"));
    assert!(fate("test").0, "a need that its own condition skipped is satisfied");
    let (runs, why) = fate("ship");
    assert!(!runs && why.contains("a job with an environment runs only after needs that ran"), "{why}");
    assert_eq!(fate("last"), (false, "its need `ship` was skipped because of what came before it"));
}

#[test]
fn always_is_no_trap_before_a_deploy() {
    let guarded = [
        job("if: always()\nenvironment: production\nsteps: [{ run: x }]"),
        job("environment: production\nsteps: [{ if: always(), uses: segue/deploy, with: { service: a, path: . } }]"),
    ];
    for text in &guarded {
        let found = diagnostics(text);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!((found[0].severity, found[0].help.as_deref()), (Severity::Warning, Some("write `!cancelled()`")));
        assert_eq!(codes(&text.replace("always()", "\"!cancelled()\"")), [""; 0]);
    }
    // what it says is what happens: after a cancel such a job runs
    let jobs = planned(&guarded[0]);
    let mut run = RunView {
        status: RunStatus::Queued,
        cancelled: true,
        jobs: jobs.iter().map(JobView::planned).collect(),
        contexts: [("github".to_owned(), json!({}))].into(),
    };
    assert_eq!(advance(&run)[..1], [Action::Queue { job: "a".into() }]);
    run.jobs[0].condition = Some("!cancelled()".into());
    assert!(matches!(&advance(&run)[0], Action::Cancel { .. }));
}

#[test]
fn a_script_runs_with_pipefail() {
    // `bash` is `bash -eo pipefail` wherever it is planned; `worker/src/job/script.rs` has the run of it
    for (text, shell) in [("{ run: a | b }", "bash"), ("{ run: a | b, shell: bash }", "bash")] {
        let job = planned(&job(&format!("steps: [{text}]"))).remove(0);
        let StepAction::Run { shell: found, .. } = &job.steps[0].action else { panic!("{job:?}") };
        assert_eq!(found, shell);
    }
}

#[test]
fn outputs_of_a_matrix_are_keyed_by_the_combination() {
    let outputs = |label: &str| {
        let mut job = JobView::planned(&JobPlan { key: format!("build ({label})"), ..JobPlan::default() });
        job.status = JobStatus::Succeeded;
        job.outputs = [("digest".to_owned(), format!("of {label}"))].into_iter().collect();
        job.combination = Some(segue_schemas::plan::Combination {
            job: "build".into(),
            label: label.into(),
            index: 0,
            total: 2,
            fail_fast: true,
            max_parallel: None,
        });
        job
    };
    let needs = needs_context(&["build".into()], &[outputs("linux"), outputs("mac")]);
    assert_eq!(needs["build"]["matrix"]["linux"]["outputs"]["digest"], "of linux");
    assert_eq!(needs["build"]["matrix"]["mac"]["outputs"]["digest"], "of mac");
    assert_eq!(needs["build"]["result"], "success");
    assert_eq!(needs["build"].get("outputs"), None, "there is no output that another could take the place of");
    let reads = |path: &str| {
        format!(
            "on: push\njobs:\n  build:\n    strategy: {{ matrix: {{ os: [linux, mac] }} }}\n    outputs: {{ digest: x }}\n    \
             steps: [{{ run: x }}]\n  ship: {{ needs: build, steps: [{{ env: {{ D: \"${{{{ {path} }}}}\" }}, run: x }}] }}\n"
        )
    };
    let refused = diagnostics(&reads("needs.build.outputs.digest"));
    assert_eq!(refused[0].code.as_str(), "unknown-reference");
    assert!(refused[0].help.as_deref().unwrap().contains("needs.build.matrix.*.outputs.digest"));
    assert_eq!(codes(&reads("needs.build.matrix.linux.outputs.digest")), [""; 0]);
    assert_eq!(codes(&reads("join(needs.build.matrix.*.outputs.digest)")), [""; 0]);
}

#[test]
fn a_file_that_cannot_be_read_fails_for_who_pushed_it_and_not_for_others() {
    let files = [
        ("broken.yml", "on: push\njobs: { a: ["),
        ("fine.yml", "on: workflow_dispatch\njobs: { a: { steps: [{ run: x }] } }\n"),
    ];
    let asked = |pipeline: &str| {
        let mut trigger = push();
        let (commit, pipeline) = (trigger.event.commit().clone(), Some(pipeline.to_owned()));
        trigger.event =
            Event::WorkflowDispatch { r#ref: "refs/heads/main".into(), commit, pipeline, inputs: Default::default() };
        let planned = plan(&files, &trigger, None);
        (planned.runs.len(), planned.broken.len())
    };
    assert_eq!(plan(&files, &push(), None).broken.len(), 1);
    assert_eq!(asked("fine"), (1, 0));
    assert_eq!(asked("broken"), (0, 1));
    assert_eq!(asked("nope"), (0, 0));
}

#[test]
fn every_matching_pipeline_reports_a_conclusion() {
    let skipped = "on: push\njobs:\n  a: { if: false, steps: [{ run: x }] }\n";
    let broken = "on: push\njobs:\n  a: { stepz: [] }\n";
    let filtered = "on: { push: { paths: [docs/**] } }\njobs:\n  a: { steps: [{ run: x }] }\n";
    let files = [("skipped.yml", skipped), ("broken.yml", broken), ("filtered.yml", filtered)];
    let changed = ["src/main.rs".to_owned()];
    let planned = plan(&files, &push(), Some(&changed));
    // each file is a run, a failure that is shown, or a reason
    assert_eq!((planned.runs.len(), planned.broken.len(), planned.not_matching.len()), (1, 1, 1));
    assert!(!planned.not_matching[0].reason.is_empty());
    // and a run in which nothing is to be done ends, instead of waiting for ever
    let run = RunView {
        status: RunStatus::Queued,
        cancelled: false,
        jobs: planned.runs[0].jobs.iter().map(JobView::planned).collect(),
        contexts: Default::default(),
    };
    assert_eq!(advance(&run).last(), Some(&Action::Run { status: RunStatus::Skipped }));
}

#[test]
fn unknown_keys_are_errors_with_a_place_and_a_suggestion_and_all_are_told() {
    let text = "on: push\njob:\n  a: {}\njobs:\n  a:\n    enviroment: staging\n    steps: [{ runn: make }]\n";
    let found: Vec<(usize, usize, Option<String>)> =
        diagnostics(text).into_iter().map(|one| (one.line, one.column, one.help)).collect();
    let did = |word: &str| Some(format!("did you mean `{word}`?"));
    assert_eq!(found[0], (2, 1, did("jobs")));
    assert_eq!(found[1], (6, 5, did("environment")));
    assert_eq!((found[2].0, found[2].1, &found[2].2), (7, 15, &did("run")));
}

#[test]
fn a_push_and_its_pull_request_run_once_unless_asked_for() {
    let once = |on: &str| {
        let text = format!("on: {on}\njobs:\n  a: {{ steps: [{{ run: x }}] }}\n");
        plan(&[(".segue/pipelines/x.yml", text.as_str())], &push(), None).runs.remove(0).once_per_head
    };
    assert!(once("[push, pull_request]"));
    assert!(!once("{ push: , pull_request: { repeat-push: true } }"));
    assert!(!once("push"), "there is no second event");
}

#[test]
fn there_is_no_pull_request_target() {
    let found = diagnostics("on: pull_request_target\njobs:\n  a: { steps: [{ run: x }] }\n");
    assert_eq!(found[0].severity, Severity::Error);
    let told = format!("{} {}", found[0].message, found[0].help.as_deref().unwrap_or_default());
    assert!(told.contains("pull_request_target"), "{told}");
}
