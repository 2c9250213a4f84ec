//! Jobs that call a pipeline: when its jobs begin, what the caller becomes, what a rerun takes.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use segue_pipelines::progress::{
    Action, Deploys, JobView, RunView, Selection, advance, called_jobs, needs_context, rerun,
};
use segue_schemas::{
    plan::{CallInput, CallInputKind, CallPlan, JobPlan},
    status::{JobStatus, RunStatus},
};
use serde_json::{Value, json};

use super::words;

fn input(kind: CallInputKind, value: Value) -> CallInput {
    CallInput { kind, value }
}

/// `first` and then `second`.
fn call() -> CallPlan {
    let job = |key: &str, needs: &[&str]| JobPlan {
        key: key.into(),
        name: key.into(),
        needs: needs.iter().map(ToString::to_string).collect(),
        ..JobPlan::default()
    };
    CallPlan {
        file: "x.yml".into(),
        inputs: IndexMap::from([
            ("n".to_owned(), input(CallInputKind::Number, json!("${{ needs.a.outputs.n }}"))),
            ("text".to_owned(), input(CallInputKind::String, json!("of ${{ matrix.os || 'nothing' }}"))),
            ("flag".to_owned(), input(CallInputKind::Boolean, json!(true))),
        ]),
        outputs: IndexMap::from([(
            "all".to_owned(),
            "${{ jobs.first.outputs.n }} ${{ jobs.second.result }} ${{ inputs.n }}".to_owned(),
        )]),
        jobs: vec![job("first", &[]), job("second", &["first"])],
        ..CallPlan::default()
    }
}

/// `a`, `c` that calls, and `z` that needs it.
fn jobs() -> Vec<JobView> {
    let job = |key: &str, needs: &[&str]| JobView {
        key: key.into(),
        needs: needs.iter().map(ToString::to_string).collect(),
        ..JobView::planned(&JobPlan::default())
    };
    let mut jobs = vec![job("a", &[]), job("c", &["a"]), job("z", &["c"])];
    jobs[0].status = JobStatus::Succeeded;
    jobs[0].outputs = IndexMap::from([("n".to_owned(), "7".to_owned())]);
    jobs[1].call = Some(Box::new(call()));
    jobs
}

fn run(jobs: &[JobView]) -> RunView {
    RunView { status: RunStatus::Running, cancelled: false, jobs: jobs.to_vec(), contexts: BTreeMap::new() }
}

/// After the call, with these statuses in the order of the run.
fn called(statuses: [JobStatus; 5]) -> Vec<JobView> {
    let mut jobs = jobs();
    let inputs = IndexMap::from([("n".to_owned(), json!(7))]);
    let inner = called_jobs(&call(), "c", "Call it", &inputs);
    jobs.splice(2..2, inner.iter().map(JobView::planned));
    for (job, status) in jobs.iter_mut().zip(statuses) {
        job.status = status;
    }
    jobs
}

use JobStatus::{Cancelled, Failed, Pending, Queued, Running, Skipped, Succeeded, Waiting};

#[test]
fn its_jobs_begin_once_its_needs_have_ended_with_inputs_of_their_types() {
    let said = words(&advance(&run(&jobs())));
    let wanted = r#"call c: {"flag":true,"n":7,"text":"of nothing"}"#;
    assert_eq!(said, format!("{wanted}\nqueue c/first"));
    let inner = called_jobs(&call(), "c", "Call it", &IndexMap::new());
    assert_eq!(inner[1].name, "Call it / second");
    assert_eq!((inner[1].key.as_str(), inner[1].needs.as_slice()), ("c/second", &["c/first".to_owned()][..]));
    assert_eq!(inner[1].local_key(), "second");
}

#[test]
fn what_does_not_fit_fails_it_before_anything_begins() {
    let mut jobs = jobs();
    jobs[0].outputs["n"] = "many".into();
    let said = words(&advance(&run(&jobs)));
    assert!(said.starts_with("fail c: the input `n` is `many`, where a number is expected\nskip z"), "{said}");
}

#[test]
fn it_ends_with_the_last_of_its_jobs_and_gives_their_outputs() {
    let mut jobs = called([Succeeded, Waiting, Succeeded, Running, Pending]);
    assert_eq!(words(&advance(&run(&jobs))), "", "it waits for both");
    jobs[2].outputs = IndexMap::from([("n".to_owned(), "1".to_owned())]);
    jobs[3].status = Succeeded;
    assert_eq!(words(&advance(&run(&jobs))), "return c succeeded: {\"all\":\"1 success 7\"} \nqueue z");
}

#[test]
fn what_its_jobs_became_it_becomes() {
    let end = |first, second| words(&advance(&run(&called([Succeeded, Waiting, first, second, Pending]))));
    assert!(end(Succeeded, Failed).starts_with("return c failed: {\"all\":\" failure 7\"} `c/second` failed\nskip z"));
    assert!(end(Cancelled, Skipped).starts_with("return c cancelled:"));
    assert!(end(Skipped, Skipped).starts_with("return c skipped:"));
    // a failure before skips the rest of the call, and then the call has failed
    let said = end(Failed, Pending);
    assert!(said.starts_with("skip c/second (upstream): its need `c/first` failed\nreturn c failed:"), "{said}");
}

#[test]
fn a_cancelled_run_leaves_it_to_its_jobs() {
    let cancelled = |statuses| RunView { cancelled: true, ..run(&called(statuses)) };
    assert_eq!(words(&advance(&cancelled([Succeeded, Waiting, Running, Pending, Pending]))), "");
    let said = words(&advance(&cancelled([Succeeded, Waiting, Queued, Pending, Pending])));
    assert!(said.starts_with("cancel c/first:"), "{said}");
    assert!(said.contains("cancel c/second:") && said.contains("return c cancelled:"), "{said}");
}

#[test]
fn expressions_of_its_jobs_know_each_other_by_the_names_of_their_file() {
    let jobs = called([Succeeded, Waiting, Succeeded, Pending, Pending]);
    let needs = needs_context(&jobs[3].needs, &jobs);
    assert_eq!(needs["first"]["result"], "success");
}

#[test]
fn a_failing_combination_ends_what_the_others_have_called() {
    let combination = |index: u32, label: &str| segue_schemas::plan::Combination {
        job: "c".into(),
        label: label.into(),
        index,
        total: 2,
        fail_fast: true,
        max_parallel: None,
    };
    let caller = |index, label: &str, status| JobView {
        key: format!("c ({label})"),
        combination: Some(combination(index, label)),
        status,
        ..jobs()[1].clone()
    };
    let inner = |by: &str, statuses: [JobStatus; 2]| {
        let views = called_jobs(&call(), by, by, &IndexMap::new());
        views
            .iter()
            .zip(statuses)
            .map(|(plan, status)| JobView { status, ..JobView::planned(plan) })
            .collect::<Vec<_>>()
    };
    let mut all = vec![jobs()[0].clone(), caller(0, "x", Waiting)];
    all.extend(inner("c (x)", [Failed, Skipped]));
    all.push(caller(1, "y", Waiting));
    all.extend(inner("c (y)", [Running, Pending]));
    let said = words(&advance(&run(&all)));
    assert!(said.contains("return c (x) failed:"), "{said}");
    assert!(said.contains("stop c (y)/first:") && said.contains("cancel c (y)/second:"), "{said}");
    assert!(!said.contains("stop c (y):") && !said.contains("cancel c (y):"), "{said}");
}

#[test]
fn a_rerun_keeps_of_a_call_what_succeeded_unless_it_is_called_anew() {
    let failed = called([Succeeded, Failed, Succeeded, Failed, Skipped]);
    let mut failed = failed;
    failed[4].skip_cause = Some(segue_pipelines::progress::SkipCause::Upstream);
    let chosen = rerun(&failed, Selection::Failed, &Deploys::Repeat).unwrap();
    assert_eq!(chosen.calling, ["c"]);
    assert_eq!(chosen.again, ["c/second", "z"]);
    assert_eq!(chosen.carried, ["a", "c/first"]);
    assert!(chosen.dropped.is_empty());
    let whole = rerun(&failed, Selection::Whole, &Deploys::Repeat).unwrap();
    assert_eq!(
        (whole.again, whole.dropped),
        (vec!["a".into(), "c".into(), "z".into()], vec!["c/first".to_owned(), "c/second".into()])
    );
    // what it was given may have changed
    failed[0].status = Failed;
    assert_eq!(rerun(&failed, Selection::Failed, &Deploys::Repeat).unwrap().dropped, ["c/first", "c/second"]);
}

#[test]
fn a_call_goes_on_where_a_rerun_left_it() {
    let jobs = called([Succeeded, Waiting, Succeeded, Pending, Pending]);
    assert_eq!(advance(&run(&jobs)), [Action::Queue { job: "c/second".into() }]);
}
