//! What follows for the jobs of a run: cases by rule, and any order of any events as properties.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod calls;
mod chance;
mod concurrency;

use std::collections::BTreeMap;

use indexmap::IndexMap;
use segue_pipelines::progress::{
    Action, AfterRollout, CancelAction, Deploys, Gate, GateFacts, JobView, Loss, LostJob, LostStep, Next, OnLoss,
    RerunError, RunView, Selection, SkipCause, advance, after_rollout, begin_again, cancel, first_failure, gate,
    on_worker_lost, rerun,
};
use segue_schemas::{
    id::RolloutId,
    plan::{Combination, JobPlan, RetryPlan, StepAction, StepPlan},
    status::{Conclusion, FailureClass, JobStatus, RolloutStatus, RunStatus, StepStatus},
    time::Timestamp,
    worker_api::StepReport,
};
use serde_json::json;

/// Jobs, one a line: `key [status] [cause CAUSE] [needs a,b] [environment] [started] [deployed] [again] [stopped] [may-fail] [of JOB] [slow-fail]
/// [if EXPRESSION]`. `of JOB`: it is a combination of that job's matrix, and its key the label; `slow-fail`: without fail-fast.
fn jobs(text: &str) -> Vec<JobView> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(job).collect()
}

fn job(line: &str) -> JobView {
    let (line, condition) = line.split_once(" if ").map_or((line, None), |(line, condition)| (line, Some(condition)));
    let mut words = line.split_whitespace();
    let mut job = JobView {
        key: words.next().unwrap().into(),
        needs: Vec::new(),
        condition: condition.map(Into::into),
        has_environment: false,
        status: JobStatus::Pending,
        has_started: false,
        skip_cause: None,
        outputs: IndexMap::from([("answer".to_owned(), "42".to_owned())]),
        ..JobView::planned(&JobPlan::default())
    };
    while let Some(word) = words.next() {
        match word {
            "needs" => job.needs = words.next().unwrap().split(',').map(Into::into).collect(),
            "environment" => job.has_environment = true,
            "started" => job.has_started = true,
            "deployed" => (job.has_environment, job.has_deployed) = (true, true),
            "again" => (job.has_started, job.begins_again) = (true, true),
            "stopped" => job.stopped = true,
            "may-fail" => job.may_fail = true,
            "of" => {
                let combination = Combination {
                    job: words.next().unwrap().into(),
                    label: job.key.clone(),
                    index: 0,
                    total: 2,
                    fail_fast: true,
                    max_parallel: None,
                };
                job.matrix = IndexMap::from([("value".to_owned(), job.key.clone().into())]);
                job.combination = Some(combination);
            }
            "slow-fail" => job.combination.as_mut().unwrap().fail_fast = false,
            "cause" => job.skip_cause = SkipCause::parse(words.next().unwrap()),
            status => job.status = JobStatus::parse(status).unwrap(),
        }
    }
    job
}

fn run(text: &str, status: RunStatus, cancelled: bool) -> RunView {
    let contexts = BTreeMap::from([("vars".to_owned(), serde_json::json!({ "deploy": "yes" }))]);
    RunView { status, cancelled, jobs: jobs(text), contexts }
}

fn words(actions: &[Action]) -> String {
    let word = |action: &Action| match action {
        Action::Queue { job } => format!("queue {job}"),
        Action::Skip { job, cause, reason } => format!("skip {job} ({}): {reason}", cause.as_str()),
        Action::Cancel { job, reason } => format!("cancel {job}: {reason}"),
        Action::Fail { job, reason, .. } => format!("fail {job}: {reason}"),
        Action::Expand { job, into } => {
            format!("expand {job}: {}", into.iter().map(|part| part.key.as_str()).collect::<Vec<_>>().join("; "))
        }
        Action::Call { job, inputs } => format!("call {job}: {}", json!(inputs)),
        Action::Return { job, status, outputs, reason, .. } => {
            format!("return {job} {status}: {} {}", json!(outputs), reason.as_deref().unwrap_or_default())
        }
        Action::Stop { job, reason } => format!("stop {job}: {reason}"),
        Action::Run { status } => format!("run {status}"),
    };
    actions.iter().map(word).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn check(before: &str, expected: &str) {
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    assert_eq!(words(&advance(&run(before, RunStatus::Queued, false))), expected.join("\n"));
}

#[test]
fn a_job_is_queued_when_its_needs_have_ended_well() {
    check("a\nb needs a", "queue a");
    check("a running\nb needs a", "run running");
    check("a succeeded\nb needs a", "queue b\nrun running");
    check("a succeeded\nb running\nc needs a,b", "run running");
}

#[test]
fn a_failure_skips_what_comes_after_it_and_says_so() {
    check(
        "a failed\nb needs a\nc needs b",
        "skip b (upstream): its need `a` failed
         skip c (upstream): its need `b` was skipped because of what came before it
         run failed",
    );
    check("a cancelled\nb needs a", "skip b (upstream): its need `a` was cancelled\nrun cancelled");
    check(
        "a skipped cause superseded\nb needs a",
        "skip b (upstream): its need `a` was superseded by a newer run\nrun skipped",
    );
}

#[test]
fn a_need_that_its_own_condition_skipped_is_satisfied_except_before_an_environment() {
    check("a if false\nb needs a", "skip a (condition): its condition `false` was false\nqueue b");
    check(
        "a skipped cause condition\nb needs a environment",
        "skip b (upstream): its need `a` was skipped by its own condition, and a job with an environment runs only after needs that ran
         run skipped",
    );
    check("a skipped cause condition\nb needs a environment if always()", "queue b");
}

#[test]
fn status_functions_mean_what_they_mean_elsewhere() {
    check("a failed\nb needs a if failure()", "queue b\nrun running");
    check("a failed\nb needs a if always()", "queue b\nrun running");
    check("a failed\nb needs a if !cancelled()", "queue b\nrun running");
    check(
        "a succeeded\nb needs a if failure()",
        "skip b (condition): its condition `failure()` was false\nrun succeeded",
    );
    // a condition without a status function has `success()` in it
    check("a failed\nb needs a if true", "skip b (upstream): its need `a` failed\nrun failed");
    // what came before the needs counts
    check(
        "a failed\nb succeeded needs a if always()\nc needs b\nd needs b if failure()",
        "skip c (upstream): `a`, which comes before its needs, failed\nqueue d\nrun running",
    );
}

#[test]
fn a_condition_sees_needs_and_variables() {
    check("a succeeded\nb needs a if needs.a.outputs.answer == 42 && vars.deploy == 'yes'", "queue b\nrun running");
    check("a failed\nb needs a if always() && needs.a.result == 'failure'", "queue b\nrun running");
}

#[test]
fn a_condition_that_cannot_be_read_fails_the_job_and_names_it() {
    let actions = advance(&run("a if vars.", RunStatus::Queued, false));
    let Action::Fail { job, class, reason } = &actions[0] else { panic!("{actions:?}") };
    assert_eq!((job.as_str(), *class), ("a", FailureClass::Configuration));
    assert!(reason.starts_with("its condition `vars.` cannot be evaluated: "), "{reason}");
    assert_eq!(actions[1], Action::Run { status: RunStatus::Failed });
}

#[test]
fn jobs_that_no_plan_would_hold_end_all_the_same() {
    check("a needs ghost", "fail a: it needs the job `ghost`, which this run does not have\nrun failed");
    check(
        "a needs b\nb needs a",
        "fail a: it needs, in a circle, itself; take one of the `needs` away
         fail b: it needs, in a circle, itself; take one of the `needs` away
         run failed",
    );
}

#[test]
fn a_cancelled_run_takes_back_what_has_not_begun() {
    let text = "a running\nb queued\nc needs a\nd waiting\ne queued started\nf if always()\ng queued if cancelled()";
    let cancelled = run(text, RunStatus::Running, true);
    assert_eq!(
        words(&advance(&cancelled)),
        "cancel b: the run was cancelled before the job began\n\
         cancel d: the run was cancelled before the job began\n\
         queue f"
    );
    assert_eq!(
        cancel(&jobs("a running\nb queued\nc waiting started\nd queued started\ne succeeded\nf waiting")),
        [
            CancelAction::Signal { job: "a".into() },
            CancelAction::AbortRollout { job: "c".into() },
            CancelAction::Signal { job: "d".into() },
        ]
    );
    // nobody has what waits to begin again: it need not be claimed first in order to end
    let again = "a queued again\nb queued again if always()";
    assert_eq!(
        words(&advance(&run(again, RunStatus::Running, true))),
        "cancel a: the run was cancelled before the job began again"
    );
    assert_eq!(cancel(&jobs(again)), []);
}

#[test]
fn a_combination_that_fails_ends_the_others_unless_that_is_allowed() {
    let why = "`a` failed, and its matrix is `fail-fast`";
    check(
        "a failed started of m\nb running started of m\nc queued of m\nd queued again of m\ne succeeded started of m\nf running",
        &format!("stop b: {why}\ncancel c: {why}\ncancel d: {why}\nrun running"),
    );
    check("a failed started of m may-fail\nb running started of m", "run running");
    check("a failed started of m slow-fail\nb running started of m slow-fail", "run running");
    check("a failed started of m\nb running started stopped of m", "run running");
}

#[test]
fn a_job_begins_again_as_often_as_it_says_and_never_in_an_environment() {
    let retry = RetryPlan { max: 3, on: vec![FailureClass::Script, FailureClass::Timeout], backoff_seconds: 1500 };
    let plain = JobPlan { retry: Some(retry), ..JobPlan::default() };
    let again = |class, before| begin_again(&plain, class, before, false);
    let pauses: Vec<Option<u64>> = (0..4).map(|before| again(FailureClass::Script, before)).collect();
    assert_eq!(pauses, [Some(1500), Some(3000), Some(3600), None], "doubled, an hour at most");
    assert_eq!(again(FailureClass::Timeout, 0), Some(1500));
    assert_eq!(again(FailureClass::Configuration, 0), None);
    assert_eq!(begin_again(&plain, FailureClass::Script, 0, true), None, "it was told to end");
    assert_eq!(begin_again(&JobPlan::default(), FailureClass::Script, 0, false), None);
    let deploy = JobPlan { environment: Some("staging".into()), ..plain };
    assert_eq!(begin_again(&deploy, FailureClass::Script, 0, false), None);
    assert_eq!(begin_again(&JobPlan { idempotent: true, ..deploy }, FailureClass::Script, 0, false), Some(1500));
}

#[test]
fn a_run_is_what_its_jobs_are() {
    let status = |text: &str| segue_pipelines::progress::run_status(&jobs(text));
    assert_eq!(status("a queued\nb"), RunStatus::Queued);
    assert_eq!(status("a leased"), RunStatus::Running);
    assert_eq!(status("a recovering"), RunStatus::Running);
    assert_eq!(status("a succeeded\nb queued"), RunStatus::Running);
    assert_eq!(status("a succeeded\nb waiting"), RunStatus::Waiting);
    assert_eq!(status("a succeeded\nb skipped"), RunStatus::Succeeded);
    assert_eq!(status("a succeeded\nb failed\nc cancelled"), RunStatus::Failed);
    assert_eq!(status("a succeeded\nb cancelled"), RunStatus::Cancelled);
    assert_eq!(status("a skipped"), RunStatus::Skipped);
    assert_eq!(status(""), RunStatus::Skipped);
}

#[test]
fn a_rerun_takes_what_failed_and_what_comes_after() {
    let ended = "a succeeded\nb failed\nc skipped cause upstream needs b\nd skipped cause condition\ne succeeded needs b if always()";
    let failed = rerun(&jobs(ended), Selection::Failed, &Deploys::Repeat).unwrap();
    assert_eq!((failed.again.join(" "), failed.carried.join(" ")), ("b c e".into(), "a d".into()));
    let whole = rerun(&jobs(ended), Selection::Whole, &Deploys::Repeat).unwrap();
    assert_eq!((whole.again.len(), whole.carried.len()), (5, 0));
    assert_eq!(rerun(&jobs("a succeeded"), Selection::Failed, &Deploys::Repeat), Err(RerunError::NothingFailed));
    let error = rerun(&jobs("a running"), Selection::Whole, &Deploys::Repeat).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the run has not ended: job `a` is running; cancel the run first, or wait for its end"
    );
}

#[test]
fn a_rerun_repeats_no_deploy_that_nobody_asked_for() {
    let told = |text: &str, selection: Selection<'_>, deploys: &Deploys| match rerun(&jobs(text), selection, deploys) {
        Ok(rerun) => format!(
            "again {} | carried {} | deploys {} | left out {}",
            rerun.again.join(" "),
            rerun.carried.join(" "),
            rerun.deploys.join(" "),
            rerun.left_out.join(" ")
        ),
        Err(error) => error.to_string(),
    };
    let all = "a succeeded\nb failed needs a\nd succeeded deployed needs a\ne succeeded needs d";
    let only = |key: &str| Deploys::Only(key.into());
    for (selection, deploys, expected) in [
        (Selection::Whole, Deploys::Repeat, "again a b d e | carried  | deploys d | left out "),
        (Selection::Whole, Deploys::LeaveOut, "again a b e | carried d | deploys  | left out d"),
        (Selection::Whole, only("d"), "again a b d e | carried  | deploys d | left out "),
        (Selection::Whole, only("b"), "again a b e | carried d | deploys  | left out d"),
        (Selection::Failed, Deploys::LeaveOut, "again b | carried a d e | deploys  | left out "),
        (Selection::From("a"), Deploys::LeaveOut, "again a b | carried d e | deploys  | left out d"),
        (Selection::From("e"), Deploys::LeaveOut, "again e | carried a b d | deploys  | left out "),
        (Selection::From("x"), Deploys::LeaveOut, "the run has no job `x`; its jobs are a, b, d, e"),
    ] {
        assert_eq!(told(all, selection, &deploys), expected, "{selection:?} {deploys:?}");
    }
    // one that never came to begin is not repeated, but done
    let first = "a failed\nd skipped cause upstream environment needs a";
    assert_eq!(told(first, Selection::Failed, &Deploys::LeaveOut), "again a d | carried  | deploys  | left out ");
    let broken = "d failed deployed\ne skipped cause upstream needs d";
    let refused = told(broken, Selection::Failed, &Deploys::LeaveOut);
    assert!(refused.starts_with("only what has deployed before would run again (d)"), "{refused}");
    assert_eq!(told(broken, Selection::Failed, &only("d")), "again d e | carried  | deploys d | left out ");
    // a matrix is one thing
    let matrix = "d (1) succeeded deployed of d\nd (2) failed environment of d\nf failed";
    assert_eq!(
        told(matrix.replace(" (", "(").as_str(), Selection::Failed, &Deploys::LeaveOut),
        "again f | carried d(1) d(2) | deploys  | left out d(2)"
    );
}

fn lost(environment: Option<&str>, steps: &[(&str, StepStatus, bool)]) -> LostJob {
    LostJob {
        loss: Loss::Unheard,
        worker: "w1".parse().unwrap(),
        last_heard: Timestamp(0),
        environment: environment.map(Into::into),
        idempotent: false,
        cancelled: false,
        losses_before: 0,
        rollout: None,
        steps: steps
            .iter()
            .enumerate()
            .map(|(index, (name, status, is_contained))| LostStep {
                index,
                name: (*name).into(),
                status: *status,
                is_contained: *is_contained,
            })
            .collect(),
    }
}

#[test]
fn nothing_that_may_have_changed_the_world_is_run_again_in_silence() {
    use StepStatus::{Running, Succeeded};
    let requeued = |job: &LostJob| matches!(on_worker_lost(job), OnLoss::Requeue { .. });
    let test = lost(None, &[("make test", Running, false)]);
    assert!(requeued(&test));
    assert!(requeued(&LostJob { losses_before: 2, ..test.clone() }));
    assert!(matches!(on_worker_lost(&LostJob { losses_before: 3, ..test }), OnLoss::Fail { .. }));

    let deploy = lost(Some("production"), &[("checkout", Succeeded, true), ("./migrate", Running, false)]);
    let OnLoss::Fail { reason, class } = on_worker_lost(&deploy) else { panic!("run again") };
    assert_eq!(class, FailureClass::WorkerLost);
    assert_eq!(
        reason,
        "worker `w1` was lost in step 2 `./migrate`; it was last heard at 1970-01-01T00:00:00.000Z. \
         `production` may have been changed: look at it, then rerun the job or mark it `idempotent`"
    );
    assert!(requeued(&LostJob { idempotent: true, ..deploy.clone() }));
    assert!(requeued(&lost(Some("production"), &[("checkout", Running, true)])));
    assert!(requeued(&lost(Some("production"), &[])));
    let rolling = LostJob { rollout: Some(RolloutId(3)), cancelled: true, ..deploy.clone() };
    assert_eq!(on_worker_lost(&rolling), OnLoss::AwaitRollout { rollout: RolloutId(3), step: 1 });
    assert!(matches!(on_worker_lost(&LostJob { cancelled: true, ..deploy }), OnLoss::Cancel { .. }));
}

#[test]
fn what_a_worker_stopped_by_itself_is_judged_as_if_it_were_lost() {
    let stopped = |job: LostJob| on_worker_lost(&LostJob { loss: Loss::Stopped, ..job });
    let OnLoss::Requeue { reason } = stopped(lost(None, &[("make test", StepStatus::Running, false)])) else {
        panic!("nothing else was changed by it")
    };
    assert_eq!(
        reason,
        "worker `w1` could not reach the server from 1970-01-01T00:00:00.000Z on, and stopped the job in step 1 `make test` \
         before its lease ended"
    );
    let deploy = lost(Some("production"), &[("./migrate", StepStatus::Running, false)]);
    let OnLoss::Fail { reason, class } = stopped(deploy.clone()) else { panic!("run again") };
    assert_eq!(class, FailureClass::WorkerLost);
    assert!(
        reason.contains("in step 1 `./migrate`") && reason.contains("`production` may have been changed"),
        "{reason}"
    );
    assert!(matches!(stopped(LostJob { losses_before: 3, idempotent: true, ..deploy }), OnLoss::Fail { .. }));
}

fn plan(steps: &[(bool, Option<&str>)]) -> JobPlan {
    let step = |(continue_on_error, condition): &(bool, Option<&str>)| StepPlan {
        id: None,
        name: "step".into(),
        condition: condition.map(Into::into),
        env: IndexMap::new(),
        working_directory: None,
        timeout_seconds: None,
        timeout_minutes: None,
        continue_on_error_when: None,
        retry: None,
        continue_on_error: *continue_on_error,
        action: StepAction::Run { script: "true".into(), shell: "bash".into() },
        line: 1,
    };
    JobPlan {
        key: "deploy".into(),
        name: "deploy".into(),
        environment: Some("production".into()),
        timeout_seconds: 60,
        steps: steps.iter().map(step).collect(),
        ..JobPlan::default()
    }
}

#[test]
fn a_job_goes_on_after_its_rollout_where_a_step_can_run() {
    use RolloutStatus::{Failed, Held, RolledBack, Succeeded};
    let next = |steps: &[(bool, Option<&str>)], end, cancelled| {
        after_rollout(&plan(steps), 0, None, None, end, Some("too many errors"), cancelled).map(|after| after.next)
    };
    let finish = |conclusion| move |next: &Option<Next>| matches!(next, Some(Next::Finish { conclusion: c, .. }) if *c == conclusion);
    let on = Some(Next::Requeue { next_step: 1 });
    let alone = [(false, None)];
    assert_eq!(next(&alone, Held, false), None);
    assert!(finish(Conclusion::Success)(&next(&alone, Succeeded, false)));
    assert!(finish(Conclusion::Failure)(&next(&alone, RolledBack, false)));
    assert!(finish(Conclusion::Cancelled)(&next(&alone, RolledBack, true)));
    assert!(finish(Conclusion::Success)(&next(&[(true, None)], RolledBack, false)));
    assert_eq!(next(&[(false, None), (false, None)], Succeeded, false), on);
    assert!(finish(Conclusion::Failure)(&next(&[(false, None), (false, None)], Failed, false)));
    assert!(finish(Conclusion::Failure)(&next(&[(false, None), (false, Some("vars.x"))], Failed, false)));
    assert_eq!(next(&[(false, None), (false, Some("failure()"))], Failed, false), on);
    assert_eq!(next(&[(false, None), (false, Some("always()"))], Failed, true), on);
    let allowed = after_rollout(&plan(&[(true, None), (false, None)]), 0, None, None, RolledBack, None, false).unwrap();
    assert_eq!((allowed.step, allowed.outcome), (StepStatus::Succeeded, Conclusion::Failure));
    assert_eq!(allowed.next, Next::Requeue { next_step: 1 }, "and no step after it takes the job for failed");
    for (planned, may_fail, status) in [
        (false, Some(true), StepStatus::Succeeded),
        (true, Some(false), StepStatus::Failed),
        (true, None, StepStatus::Succeeded),
    ] {
        let steps = plan(&[(planned, None)]);
        let after = after_rollout(&steps, 0, may_fail, None, RolledBack, None, false).unwrap();
        assert_eq!(
            (after.step, after.outcome),
            (status, Conclusion::Failure),
            "planned {planned}, came to {may_fail:?}"
        );
    }
    let AfterRollout { step, outcome, reason, .. } =
        after_rollout(&plan(&alone), 0, None, None, RolledBack, Some("too many errors"), false).unwrap();
    assert_eq!((step, outcome), (StepStatus::Failed, Conclusion::Failure));
    assert_eq!(reason.as_deref(), Some("the rollout was rolled back: too many errors"));
}

#[test]
fn a_rollout_after_a_failed_step_does_not_mend_the_job() {
    let report = |index, name: &str, status, outcome| StepReport {
        status,
        outcome: Some(outcome),
        reason: Some("exit code 1".into()),
        ..StepReport::pending(index, name.into())
    };
    let steps = plan(&[(true, None), (false, None), (false, Some("failure()")), (false, None)]);
    let allowed = report(0, "flaky", StepStatus::Succeeded, Conclusion::Failure);
    assert_eq!(first_failure(&steps, std::slice::from_ref(&allowed)), None);
    let before = first_failure(&steps, &[allowed, report(1, "smoke", StepStatus::Failed, Conclusion::Failure)]);
    assert_eq!(before, Some((FailureClass::Script, "step `smoke`: exit code 1".into())));
    let after = after_rollout(&steps, 2, None, before, RolloutStatus::Succeeded, None, false).unwrap();
    assert_eq!((after.step, after.outcome), (StepStatus::Succeeded, Conclusion::Success));
    let Next::Finish { conclusion, reason, class } = after.next else { panic!("{:?}", after.next) };
    assert_eq!((conclusion, class), (Conclusion::Failure, Some(FailureClass::Script)));
    assert_eq!(reason.as_deref(), Some("step `smoke`: exit code 1"));
}

#[test]
fn gates_say_what_they_wait_for() {
    let open = GateFacts {
        environment: Some("production".into()),
        protection: Gate::Open,
        refused_by: None,
        trusted: true,
        foreign_code_approved: false,
        keeps_foreign_out: false,
        environment_held_by: None,
        free_disk_mib: 1000,
        low_disk_mib: 512,
    };
    let reason = |facts: &GateFacts| match gate(facts) {
        Gate::Open => "open".to_owned(),
        Gate::AwaitPerson { reason } => format!("person: {reason}"),
        Gate::Closed { reason } => format!("closed: {reason}"),
        Gate::ClosedUntil { reason, until } => format!("until {}: {reason}", until.0),
        Gate::Refused { reason } => format!("refused: {reason}"),
    };
    assert_eq!(reason(&open), "open");
    let with = |change: fn(&mut GateFacts)| {
        let mut facts = open.clone();
        change(&mut facts);
        reason(&facts)
    };
    let rule = |protection: Gate, change: fn(&mut GateFacts)| {
        let mut facts = GateFacts { protection, ..open.clone() };
        change(&mut facts);
        reason(&facts)
    };
    let person = || Gate::AwaitPerson { reason: "0 of 1 approvals".into() };
    let frozen = || Gate::ClosedUntil { reason: "frozen".into(), until: segue_schemas::time::Timestamp(7) };
    let no_branch = || Gate::Refused { reason: "no such branch".into() };
    assert_eq!(rule(person(), |_| {}), "person: 0 of 1 approvals");
    assert_eq!(rule(frozen(), |_| {}), "until 7: frozen");
    assert_eq!(rule(no_branch(), |f| f.foreign_code_approved = false), "refused: no such branch");
    assert_eq!(with(|f| f.refused_by = Some("ada".into())), "refused: refused by ada");
    assert!(with(|f| f.trusted = false).starts_with("refused: code from outside"));
    assert!(with(|f| (f.trusted, f.environment) = (false, None)).starts_with("person: the code comes from outside"));
    let outside = |f: &mut GateFacts| {
        (f.trusted, f.environment, f.foreign_code_approved, f.keeps_foreign_out) = (false, None, true, true);
    };
    assert!(with(outside).starts_with("refused: code from outside the repository does not run on a worker's host"));
    assert_eq!(with(|f| f.keeps_foreign_out = true), "open", "the repository's own code may");
    assert!(with(|f| f.free_disk_mib = 100).starts_with("closed: only 100 MiB of disk are free"));
    assert_eq!(with(|f| f.environment_held_by = Some("run 7".into())), "closed: run 7 is changing `production`");
    // what never opens is said first, then what needs a person
    assert!(rule(person(), |f| f.refused_by = Some("ada".into())).starts_with("refused"));
    let outside = |f: &mut GateFacts| (f.trusted, f.environment) = (false, Some("preview".into()));
    assert!(rule(frozen(), outside).starts_with("person: the code comes from outside"));
    assert!(rule(no_branch(), outside).starts_with("refused: no such branch"));
    assert_eq!(rule(frozen(), |f| f.free_disk_mib = 100), "until 7: frozen");
}
