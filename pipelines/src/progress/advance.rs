use std::{cell::OnceCell, collections::HashSet};

use segue_schemas::status::{FailureClass, JobStatus, RunStatus};
use serde_json::{Map, Value, json};

use super::{
    Action, JobView, RunView, SkipCause,
    call::{self, called_jobs},
    expand::expand,
    groups::{Group, Groups, of_needs},
    settle::of_combination,
};
use crate::expr::{Contexts, StatusFunctions, evaluate_condition};

/// What follows from the jobs as they stand: which pending ones can be queued now, which will never run, and what the run's
/// status is. Follows chains to their end, so that one call is enough after any change. In a cancelled run it also takes back
/// what is queued, or waits for a person, without having begun.
#[must_use]
pub fn advance(run: &RunView) -> Vec<Action> {
    let mut jobs = run.jobs.clone();
    let mut actions = decide_all(run, &mut jobs, JobStatus::Queued);
    actions.extend(end_circle(&mut jobs));
    let status = run_status(&jobs);
    if status != run.status {
        actions.push(Action::Run { status });
    }
    actions
}

/// Plays a run to its end, with every job that is queued ending well at once: what [`advance`] would say on the way. `jobs`
/// become what they are then.
pub(crate) fn play(run: &RunView, jobs: &mut Vec<JobView>) -> Vec<Action> {
    decide_all(run, jobs, JobStatus::Succeeded)
}

/// Decides until there is nothing to decide. `queued`: what a job becomes that is queued.
fn decide_all(run: &RunView, jobs: &mut Vec<JobView>, queued: JobStatus) -> Vec<Action> {
    let mut actions = Vec::new();
    let of_run = OnceCell::new();
    // each pass decides at least one job for good, so there are at most as many passes as jobs
    loop {
        let groups = Groups::new(jobs.iter());
        let mut decided = fail_fast(jobs);
        if decided.is_empty() {
            let run = OfRun { run, contexts: &of_run };
            let open = jobs.iter().enumerate().filter(|(_, job)| is_open(job, run.run.cancelled));
            let open = open.filter_map(|(at, job)| Some((at, decide(job, jobs, &groups, run)?)));
            let is_news = |(at, action): &(usize, Action)| {
                jobs[*at].status == JobStatus::Pending || !matches!(action, Action::Queue { .. })
            };
            decided = open.filter(is_news).collect();
        }
        if decided.is_empty() {
            return actions;
        }
        // from the last to the first: what takes a job's place moves those after it
        for (at, action) in decided.iter().rev() {
            apply(jobs, *at, action);
            if let Action::Queue { .. } = action {
                jobs[*at].status = queued;
            }
        }
        actions.extend(decided.into_iter().map(|(_, action)| action));
    }
}

/// A run, and what its expressions see, which is made once and only where one of them is evaluated.
#[derive(Clone, Copy)]
struct OfRun<'a> {
    run: &'a RunView,
    contexts: &'a OnceCell<Contexts>,
}

impl OfRun<'_> {
    /// What a job's `if` and its matrix can see.
    fn contexts(self, job: &JobView, groups: &Groups<'_>) -> Contexts {
        let of_run = || {
            let empty = Value::Object(Map::new());
            ["github", "vars", "inputs"].into_iter().fold(Contexts::new(), |contexts, name| {
                contexts.with(name, self.run.contexts.get(name).unwrap_or(&empty))
            })
        };
        let contexts = self.contexts.get_or_init(of_run).clone().with("needs", of_needs(&job.needs, groups));
        match &job.called {
            Some(called) => contexts.with("inputs", json!(called.inputs)),
            None => contexts,
        }
    }
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
            JobStatus::Failed if job.may_fail => succeeded = true,
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

/// What ends because another combination of the same matrix has failed.
fn fail_fast(jobs: &[JobView]) -> Vec<(usize, Action)> {
    let failed = jobs.iter().filter(|job| job.is_failure() && job.combination.as_ref().is_some_and(|c| c.fail_fast));
    let mut told: HashSet<&str> = HashSet::new();
    let mut ends = Vec::new();
    for failed in failed {
        if !told.insert(failed.file_key()) {
            continue;
        }
        let reason = || format!("`{}` failed, and its matrix is `fail-fast`", failed.key);
        for (at, job) in jobs.iter().enumerate().filter(|(_, job)| is_within(jobs, job, failed.file_key())) {
            let key = job.key.clone();
            // one that has called ends with what it called
            if job.status.is_final() || job.stopped || call::is_at_work(job) {
                continue;
            }
            ends.push(match (job.has_started && !job.begins_again) || job.status.is_held() {
                true => (at, Action::Stop { job: key, reason: reason() }),
                false => (at, Action::Cancel { job: key, reason: reason() }),
            });
        }
    }
    ends.sort_by_key(|(at, _)| *at);
    ends
}

/// Whether a job is of this matrix, or was called by one that is.
fn is_within(jobs: &[JobView], job: &JobView, matrix: &str) -> bool {
    let caller = |job: &JobView| {
        let called = job.called.as_ref()?;
        jobs.iter().find(|other| called.by == other.key)
    };
    let mut at = Some(job);
    // no call is within itself
    for _ in 0..=jobs.len() {
        let Some(job) = at else { return false };
        if job.file_key() == matrix {
            return true;
        }
        at = caller(job);
    }
    false
}

/// Jobs that wait for each other fail, so that the run ends; the planner lets no such pipeline through.
fn end_circle(jobs: &mut Vec<JobView>) -> Vec<Action> {
    if !jobs.iter().all(|j| j.status == JobStatus::Pending || j.status.is_final()) {
        return Vec::new();
    }
    let mut actions = Vec::new();
    for at in (0..jobs.len()).filter(|at| jobs[*at].status == JobStatus::Pending).collect::<Vec<_>>() {
        let reason = "it needs, in a circle, itself; take one of the `needs` away".into();
        let action = Action::Fail { job: jobs[at].key.clone(), class: FailureClass::Configuration, reason };
        apply(jobs, at, &action);
        actions.push(action);
    }
    actions
}

/// Whether it is still open if the job will run.
fn is_open(job: &JobView, cancelled: bool) -> bool {
    match job.status {
        JobStatus::Pending => true,
        JobStatus::Waiting if call::is_at_work(job) => true,
        JobStatus::Queued | JobStatus::Waiting => cancelled && (!job.has_started || job.begins_again),
        _ => false,
    }
}

/// What becomes of a job that has not begun; `None` while a need has not ended.
fn decide(job: &JobView, jobs: &[JobView], groups: &Groups<'_>, of_run: OfRun<'_>) -> Option<Action> {
    let run = of_run.run;
    if call::is_at_work(job) {
        return call::end(job, jobs, run);
    }
    let others = jobs.len() - 1;
    if let Some(missing) = job.needs.iter().find(|key| groups.get(key).is_none()) {
        let reason = format!("it needs the job `{missing}`, which this run does not have");
        return Some(Action::Fail { job: job.key.clone(), class: FailureClass::Configuration, reason });
    }
    let needs: Vec<&Group<'_>> = job.needs.iter().filter_map(|key| groups.get(key)).collect();
    if needs.iter().any(|need| !need.has_ended()) {
        return None;
    }
    let ancestors = groups.troubled_ancestors(job);
    let obstacle = obstacle(job, &needs, &ancestors);
    let status = StatusFunctions {
        success: obstacle.is_none() && !run.cancelled,
        failure: ancestors.iter().any(|ancestor| ancestor.failure().is_some()),
        cancelled: run.cancelled,
    };
    // contexts are made only where something reads them
    let reads = job.condition.is_some() || job.strategy.is_some() || job.call.is_some();
    let contexts = if reads { of_run.contexts(job, groups) } else { Contexts::new() };
    let holds = evaluate_condition(job.condition.as_deref(), &contexts, status);
    let (key, condition) = (job.key.clone(), job.condition.as_deref().unwrap_or("success()"));
    Some(match (holds, obstacle) {
        (Ok(true), _) => match (&job.strategy, &job.call) {
            (Some(strategy), _) => expand(job, strategy, &contexts, others),
            (None, Some(call)) => {
                let contexts = contexts
                    .with("matrix", json!(job.matrix))
                    .with("strategy", of_combination(job.combination.as_ref()));
                call::begin(job, call, &contexts, others)
            }
            (None, None) => Action::Queue { job: key },
        },
        (Ok(false), _) if run.cancelled => {
            let again = if job.begins_again { " again" } else { "" };
            Action::Cancel { job: key, reason: format!("the run was cancelled before the job began{again}") }
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
fn obstacle(job: &JobView, needs: &[&Group<'_>], ancestors: &[&Group<'_>]) -> Option<String> {
    let in_need = needs.iter().find_map(|need| match need.status() {
        JobStatus::Failed => Some(format!("its need `{}` failed", need.failure().map_or(need.key, |job| &job.key))),
        JobStatus::Cancelled => Some(format!("its need `{}` was cancelled", need.key)),
        JobStatus::Skipped => match need.skip_cause() {
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
        ancestors.iter().find_map(|ancestor| match ancestor.status() {
            JobStatus::Failed => Some(format!("`{}`, which comes before its needs, failed", ancestor.key)),
            JobStatus::Cancelled => Some(format!("`{}`, which comes before its needs, was cancelled", ancestor.key)),
            _ => None,
        })
    })
}

/// Makes the jobs what they are once the action, which concerns the job at this place, is stored.
pub(crate) fn apply(jobs: &mut Vec<JobView>, at: usize, action: &Action) {
    let job = &mut jobs[at];
    match action {
        Action::Queue { .. } => job.status = JobStatus::Queued,
        Action::Skip { cause, .. } => {
            job.status = JobStatus::Skipped;
            job.skip_cause = Some(*cause);
        }
        Action::Cancel { .. } => job.status = JobStatus::Cancelled,
        Action::Fail { .. } => job.status = JobStatus::Failed,
        Action::Stop { .. } => job.stopped = true,
        Action::Expand { into, .. } => {
            let parts: Vec<JobView> = into.iter().map(|part| job.part(part)).collect();
            jobs.splice(at..=at, parts);
        }
        Action::Call { inputs, .. } => {
            job.status = JobStatus::Waiting;
            let called = job.call.as_ref().map(|call| called_jobs(call, &job.key, &job.key, inputs));
            let called: Vec<JobView> = called.iter().flatten().map(JobView::planned).collect();
            jobs.splice(at + 1..=at, called);
        }
        Action::Return { status, cause, outputs, .. } => {
            job.status = *status;
            job.skip_cause = *cause;
            job.outputs.clone_from(outputs);
        }
        Action::Run { .. } => {}
    }
}
