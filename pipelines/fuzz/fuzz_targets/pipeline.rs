//! Any text is a pipeline without errors, or has errors that lie within it and can be shown; whatever is a pipeline can be
//! planned and explained. The report on a workflow lies within it as well.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use segue_pipelines::{
    diagnostic::{Diagnostic, MAX_PER_FILE, Severity, Style, render},
    pipeline,
    plan::{explain, plan},
    workflow,
};
use segue_schemas::trigger::{Event, Trigger};

const FILE: &str = ".segue/pipelines/x.yml";
const WORKFLOW: &str = ".github/workflows/x.yml";

static EVENTS: LazyLock<Vec<Trigger>> = LazyLock::new(|| {
    let commit = |digit: &str| digit.repeat(40).parse().expect("a commit");
    let push = Event::Push {
        r#ref: "refs/heads/main".into(),
        before: commit("a"),
        after: commit("b"),
        message: "Change it".into(),
        forced: false,
    };
    let pull_request = Event::PullRequest {
        action: "opened".into(),
        number: 7,
        title: "A title".into(),
        head_ref: "topic".into(),
        head: commit("c"),
        head_repository: Some("octo/app".into()),
        base_ref: "main".into(),
        base: commit("a"),
        draft: false,
        message: String::new(),
        is_closed: false,
        before: None,
        updated_at: Default::default(),
    };
    let by_hand = Event::WorkflowDispatch {
        r#ref: "refs/heads/main".into(),
        commit: commit("b"),
        pipeline: None,
        inputs: Default::default(),
    };
    [push, pull_request, by_hand]
        .map(|event| Trigger { repository: "octo/app".into(), clone_url: None, actor: "mona".into(), authors: Vec::new(), event })
        .into()
});

fuzz_target!(|text: &str| {
    let parsed = pipeline::parse(FILE, text);
    let broken = parsed.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    assert_eq!(parsed.pipeline.is_none(), broken, "{:?}", parsed.diagnostics);
    let own: Vec<_> = parsed.diagnostics.iter().filter(|diagnostic| diagnostic.file == FILE).collect();
    assert!(own.len() <= MAX_PER_FILE);
    own.into_iter().for_each(|diagnostic| can_be_shown(diagnostic, text));
    let report = workflow::report(WORKFLOW, text);
    report
        .iter()
        .filter(|told| told.file == WORKFLOW)
        .take(MAX_PER_FILE)
        .for_each(|diagnostic| can_be_shown(diagnostic, text));
    let changed = ["src/main.rs".to_owned()];
    for event in EVENTS.iter() {
        let explained = explain(&[(FILE, text)], event, Some(&changed));
        let planned = plan(&[(FILE, text)], event, Some(&changed));
        assert_eq!(explained.len(), 1);
        let without = planned.not_matching.len() + planned.refused.len() + planned.skipped.len();
        let told = planned.runs.len() + planned.broken.len() + without;
        assert_eq!(told, 1, "a file must run, be left out for a reason, or be broken");
        assert!(broken || planned.broken.is_empty(), "a pipeline that cannot be planned");
    }
});

fn can_be_shown(diagnostic: &Diagnostic, text: &str) {
    assert!(text.get(diagnostic.span.clone()).is_some(), "{diagnostic:?} lies beside the file");
    assert!(diagnostic.line >= 1 && diagnostic.line <= text.lines().count().max(1) + 1, "{diagnostic:?}");
    assert!(render(diagnostic, text, Style::Plain).contains(diagnostic.code.as_str()));
}
