//! What two attempts of one run have come to, side by side. Comes in: the jobs of both as they are shown. Goes out: what differs.

use indexmap::IndexMap;
use segue_schemas::{
    api::{Difference, JobDiff, JobOutcome, JobView, StepDiff, StepOutcome, StepView},
    status::StepStatus,
    time::Timestamp,
};

/// Every job of either attempt: those of the one after in its order, then those that it has no more. How long something took is
/// told, and makes no difference.
#[must_use]
pub fn compare(before: &[JobView], after: &[JobView]) -> Vec<JobDiff> {
    let was = |key: &str| before.iter().find(|job| job.key == key);
    let gone = before.iter().filter(|job| after.iter().all(|other| other.key != job.key));
    after.iter().map(|job| of_job(was(&job.key), Some(job))).chain(gone.map(|job| of_job(Some(job), None))).collect()
}

/// The first job that came out otherwise, and the first step of it that did: `test / unit tests`.
#[must_use]
pub fn first_difference(jobs: &[JobDiff]) -> Option<String> {
    let job = jobs.iter().find(|job| !is_quiet(job.difference))?;
    let step = job.steps.iter().find(|step| !is_quiet(step.difference));
    Some(step.map_or_else(|| job.key.clone(), |step| format!("{} / {}", job.key, step.name)))
}

/// Whether nothing came out otherwise.
#[must_use]
pub const fn is_quiet(difference: Difference) -> bool {
    matches!(difference, Difference::Same | Difference::Carried)
}

fn of_job(before: Option<&JobView>, after: Option<&JobView>) -> JobDiff {
    let steps = steps(before.map_or(&[], |job| &job.steps), after.map_or(&[], |job| &job.steps));
    let outputs = match (before, after) {
        (Some(before), Some(after)) => differing(&before.outputs, &after.outputs),
        _ => Vec::new(),
    };
    let (from, to) = (before.map(job_outcome), after.map(job_outcome));
    let is_same = match (&from, &to) {
        (Some(from), Some(to)) => {
            (from.status, from.failure_class) == (to.status, to.failure_class)
                && outputs.is_empty()
                && steps.iter().all(|step| is_quiet(step.difference))
        }
        _ => false,
    };
    let difference = match (before, after) {
        (Some(_), Some(after)) if after.carried_from.is_some() => Difference::Carried,
        _ => difference(from.is_some(), to.is_some(), is_same),
    };
    JobDiff {
        key: after.or(before).map(|job| job.key.clone()).unwrap_or_default(),
        difference,
        from,
        to,
        outputs,
        steps,
    }
}

/// A commit's plan is one, so that a step is known by its place.
fn steps(before: &[StepView], after: &[StepView]) -> Vec<StepDiff> {
    let mut places: Vec<usize> =
        before.iter().chain(after).filter(|step| is_told(step)).map(|step| step.index).collect();
    places.sort_unstable();
    places.dedup();
    let at = |steps: &[StepView], index: usize| -> Option<StepView> {
        steps.iter().find(|step| step.index == index && is_told(step)).cloned()
    };
    places.into_iter().map(|index| of_step(index, at(before, index).as_ref(), at(after, index).as_ref())).collect()
}

/// One that nothing became of says nothing.
fn is_told(step: &StepView) -> bool {
    step.status != StepStatus::Pending
}

fn of_step(index: usize, before: Option<&StepView>, after: Option<&StepView>) -> StepDiff {
    let is_same = match (before, after) {
        (Some(before), Some(after)) => {
            (before.status, before.exit_code) == (after.status, after.exit_code) && before.outputs == after.outputs
        }
        _ => false,
    };
    StepDiff {
        index,
        name: after.or(before).map(|step| step.name.clone()).unwrap_or_default(),
        difference: difference(before.is_some(), after.is_some(), is_same),
        from: before.map(step_outcome),
        to: after.map(step_outcome),
    }
}

const fn difference(before: bool, after: bool, is_same: bool) -> Difference {
    match (before, after) {
        (true, false) => Difference::OnlyBefore,
        (false, _) => Difference::OnlyAfter,
        (true, true) if is_same => Difference::Same,
        (true, true) => Difference::Differs,
    }
}

fn differing(before: &IndexMap<String, String>, after: &IndexMap<String, String>) -> Vec<String> {
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let others = after.iter().filter(|(name, value)| before.get(*name) != Some(value)).map(|(name, _)| name);
    others.chain(gone).cloned().collect()
}

fn job_outcome(job: &JobView) -> JobOutcome {
    JobOutcome {
        status: job.status,
        reason: job.reason.clone(),
        failure_class: job.failure_class,
        took_ms: took(job.started_at, job.ended_at),
    }
}

fn step_outcome(step: &StepView) -> StepOutcome {
    StepOutcome {
        status: step.status,
        exit_code: step.exit_code,
        reason: step.reason.clone(),
        took_ms: took(step.started_at, step.ended_at),
    }
}

fn took(from: Option<Timestamp>, to: Option<Timestamp>) -> Option<u64> {
    u64::try_from(to?.since(from?).as_millis()).ok()
}
