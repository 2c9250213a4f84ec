use std::collections::{BTreeMap, BTreeSet};

use segue_schemas::status::{Conclusion, FailureClass, JobStatus, RunStatus};
use serde_json::{Map, Value, json};

use super::{Action, JobView, RunView, SkipCause};
use crate::expr::{Contexts, StatusFunctions, evaluate_condition};

/// What follows from the jobs as they stand: which pending ones can be queued now, which will never run, and what the run's
/// status is. Follows chains to their end, so that one call is enough after any change. In a cancelled run it also takes back
/// what is queued, or waits for a person, without having begun.
#[must_use]
pub fn advance(run: &RunView) -> Vec<Action> {
    let mut jobs = run.jobs.clone();
    let mut actions = Vec::new();
    // each pass decides at least one job for good, so there are at most as many passes as jobs
    loop {
        let decided: Vec<(usize, Action)> = jobs
            .iter()
            .enumerate()
            .filter(|(_, job)| is_open(job, run.cancelled))
            .filter_map(|(at, job)| Some((at, decide(job, &jobs, run)?)))
            .filter(|(at, action)| jobs[*at].status == JobStatus::Pending || !matches!(action, Action::Queue { .. }))
            .collect();
        if decided.is_empty() {
            break;
        }
        for (at, action) in decided {
            apply(&mut jobs[at], &action);
            actions.push(action);
        }
    }
    actions.extend(end_circle(&mut jobs));
    let status = run_status(&jobs);
    if status != run.status {
        actions.push(Action::Run { status });
    }
    actions
}

/// The status of a run, from those of its jobs. The one place where it is derived.
#[must_use]
pub fn run_status(jobs: &[JobView]) -> RunStatus {
    let (mut held, mut queued, mut waiting, mut pending) = (false, false, false, false);
    let (mut succeeded, mut failed, mut cancelled) = (false, false, false);
    for job in jobs {
        match job.status {
            JobStatus::Leased | JobStatus::Running | JobStatus::Recovering => held = true,
            JobStatus::Queued => queued = true,
            JobStatus::Waiting => waiting = true,
            JobStatus::Pending => pending = true,
            JobStatus::Succeeded => succeeded = true,
            JobStatus::Failed => failed = true,
            JobStatus::Cancelled => cancelled = true,
            JobStatus::Skipped => {}
        }
    }
    let started = succeeded || failed || cancelled || jobs.iter().any(|j| j.has_started);
    match () {
        () if held => RunStatus::Running,
        () if queued && started => RunStatus::Running,
        () if queued => RunStatus::Queued,
        () if waiting => RunStatus::Waiting,
        () if pending && started => RunStatus::Running,
        () if pending => RunStatus::Queued,
        () if failed => RunStatus::Failed,
        () if cancelled => RunStatus::Cancelled,
        () if succeeded => RunStatus::Succeeded,
        () => RunStatus::Skipped,
    }
}

/// Jobs that wait for each other fail, so that the run ends; the planner lets no such pipeline through.
fn end_circle(jobs: &mut [JobView]) -> Vec<Action> {
    if !jobs.iter().all(|j| j.status == JobStatus::Pending || j.status.is_final()) {
        return Vec::new();
    }
    let circle = jobs.iter_mut().filter(|j| j.status == JobStatus::Pending);
    circle
        .map(|job| {
            let reason = "it needs, in a circle, itself; take one of the `needs` away".into();
            let action = Action::Fail { job: job.key.clone(), class: FailureClass::Configuration, reason };
            apply(job, &action);
            action
        })
        .collect()
}

/// Whether it is still open if the job will run.
fn is_open(job: &JobView, cancelled: bool) -> bool {
    match job.status {
        JobStatus::Pending => true,
        JobStatus::Queued | JobStatus::Waiting => cancelled && !job.has_started,
        _ => false,
    }
}

/// What becomes of a job that has not begun; `None` while a need has not ended.
fn decide(job: &JobView, jobs: &[JobView], run: &RunView) -> Option<Action> {
    let find = |key: &String| jobs.iter().find(|j| j.key == *key);
    if let Some(missing) = job.needs.iter().find(|key| find(key).is_none()) {
        let reason = format!("it needs the job `{missing}`, which this run does not have");
        return Some(Action::Fail { job: job.key.clone(), class: FailureClass::Configuration, reason });
    }
    let needs: Vec<&JobView> = job.needs.iter().filter_map(find).collect();
    if needs.iter().any(|need| !need.status.is_final()) {
        return None;
    }
    let ancestors = ancestors(job, jobs);
    let obstacle = obstacle(job, &needs, &ancestors);
    let status = StatusFunctions {
        success: obstacle.is_none() && !run.cancelled,
        failure: ancestors.iter().any(|a| a.status == JobStatus::Failed),
        cancelled: run.cancelled,
    };
    let holds = evaluate_condition(job.condition.as_deref(), &contexts(&run.contexts, &needs), status);
    let (key, condition) = (job.key.clone(), job.condition.as_deref().unwrap_or("success()"));
    Some(match (holds, obstacle) {
        (Ok(true), _) => Action::Queue { job: key },
        (Ok(false), _) if run.cancelled => {
            Action::Cancel { job: key, reason: "the run was cancelled before the job began".into() }
        }
        (Ok(false), Some(reason)) => Action::Skip { job: key, cause: SkipCause::Upstream, reason },
        (Ok(false), None) => Action::Skip {
            job: key,
            cause: SkipCause::Condition,
            reason: format!("its condition `{condition}` was false"),
        },
        (Err(message), _) => Action::Fail {
            job: key,
            class: FailureClass::Configuration,
            reason: format!("its condition `{condition}` cannot be evaluated: {message}"),
        },
    })
}

/// Why `success()` is false for a job whose needs have ended; `None` where it is true.
fn obstacle(job: &JobView, needs: &[&JobView], ancestors: &[&JobView]) -> Option<String> {
    let in_need = needs.iter().find_map(|need| match need.status {
        JobStatus::Failed => Some(format!("its need `{}` failed", need.key)),
        JobStatus::Cancelled => Some(format!("its need `{}` was cancelled", need.key)),
        JobStatus::Skipped => match need.skip_cause.unwrap_or(SkipCause::Condition) {
            SkipCause::Condition if job.has_environment => Some(format!(
                "its need `{}` was skipped by its own condition, and a job with an environment runs only after needs that ran",
                need.key
            )),
            SkipCause::Condition => None,
            SkipCause::Upstream => Some(format!("its need `{}` was skipped because of what came before it", need.key)),
            SkipCause::Superseded => Some(format!("its need `{}` was superseded by a newer run", need.key)),
        },
        _ => None,
    });
    in_need.or_else(|| {
        ancestors.iter().find_map(|ancestor| match ancestor.status {
            JobStatus::Failed => Some(format!("`{}`, which comes before its needs, failed", ancestor.key)),
            JobStatus::Cancelled => Some(format!("`{}`, which comes before its needs, was cancelled", ancestor.key)),
            _ => None,
        })
    })
}

/// Everything that comes before a job, in the order of the run.
fn ancestors<'a>(job: &JobView, jobs: &'a [JobView]) -> Vec<&'a JobView> {
    let mut found: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<&str> = job.needs.iter().map(String::as_str).collect();
    while let Some(key) = open.pop() {
        if let Some(ancestor) = jobs.iter().find(|j| j.key == key)
            && found.insert(&ancestor.key)
        {
            open.extend(ancestor.needs.iter().map(String::as_str));
        }
    }
    jobs.iter().filter(|j| found.contains(j.key.as_str())).collect()
}

/// What a job's `if` can see.
fn contexts(of_run: &BTreeMap<String, Value>, needs: &[&JobView]) -> Contexts {
    let needs: Map<String, Value> = needs
        .iter()
        .map(|need| {
            let result = need.result().map_or("", Conclusion::as_str);
            (need.key.clone(), json!({ "result": result, "outputs": need.outputs }))
        })
        .collect();
    let empty = Value::Object(Map::new());
    ["github", "vars", "inputs"]
        .into_iter()
        .fold(Contexts::new(), |contexts, name| contexts.with(name, of_run.get(name).unwrap_or(&empty)))
        .with("needs", Value::Object(needs))
}

fn apply(job: &mut JobView, action: &Action) {
    match action {
        Action::Queue { .. } => job.status = JobStatus::Queued,
        Action::Skip { cause, .. } => {
            job.status = JobStatus::Skipped;
            job.skip_cause = Some(*cause);
        }
        Action::Cancel { .. } => job.status = JobStatus::Cancelled,
        Action::Fail { .. } => job.status = JobStatus::Failed,
        Action::Run { .. } => {}
    }
}
