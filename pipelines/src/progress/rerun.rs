use std::collections::BTreeSet;

use segue_schemas::status::JobStatus;
use serde::{Deserialize, Serialize};

use super::{JobView, SkipCause};

/// What is to run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// Everything.
    Whole,
    /// What failed, was cancelled or never came to run because of that, and whatever comes after it.
    Failed,
}

/// A new attempt's beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rerun {
    /// The keys of the jobs that are `pending` again, in the order of the run.
    pub again: Vec<String>,
    /// The keys in the file of those among them whose matrix is evaluated again: what comes before it may say something else now.
    pub anew: Vec<String>,
    /// The keys of the jobs that have called a pipeline of which only some jobs are pending again: they wait for those.
    pub calling: Vec<String>,
    /// The keys of the jobs that are no more: their pipeline is called again, and brings its own.
    pub dropped: Vec<String>,
    /// The keys of the jobs that keep status, outputs and artifacts of the attempt before, in the order of the run.
    pub carried: Vec<String>,
}

/// Why there is no rerun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RerunError {
    /// The last attempt goes on.
    #[error("the run has not ended: job `{0}` is {1}; cancel the run first, or wait for its end")]
    NotEnded(String, JobStatus),
    /// There is nothing to mend.
    #[error("no job of the run failed or was cancelled; rerun it as a whole instead")]
    NothingFailed,
}

/// Which jobs a new attempt runs again, and which it takes over from the last one.
///
/// # Errors
/// Where the last attempt has not ended, or `Failed` finds nothing.
pub fn rerun(jobs: &[JobView], selection: Selection) -> Result<Rerun, RerunError> {
    if let Some(job) = jobs.iter().find(|j| !j.status.is_final()) {
        return Err(RerunError::NotEnded(job.key.clone(), job.status));
    }
    let is_chosen = |job: &&JobView| match (selection, job.status) {
        (Selection::Whole, _) | (Selection::Failed, JobStatus::Failed | JobStatus::Cancelled) => true,
        (Selection::Failed, JobStatus::Skipped) => !matches!(job.skip_cause, None | Some(SkipCause::Condition)),
        (Selection::Failed, _) => false,
    };
    let chosen: BTreeSet<&str> = jobs.iter().filter(is_chosen).map(|job| job.key.as_str()).collect();
    if chosen.is_empty() && selection == Selection::Failed {
        return Err(RerunError::NothingFailed);
    }
    let again = with_dependants(jobs, chosen);
    let anew = matrices(&jobs.iter().filter(|j| again.contains(j.key.as_str())).collect::<Vec<_>>(), selection);
    let mut result = Rerun { again: vec![], anew, calling: vec![], dropped: vec![], carried: vec![] };
    let mut called_anew: BTreeSet<&str> = BTreeSet::new();
    // who calls stands before what it calls
    for job in jobs {
        let is_part_of_anew = job.called.as_ref().is_some_and(|called| called_anew.contains(called.by.as_str()));
        let is_again = again.contains(job.key.as_str());
        if is_part_of_anew || (is_again && calls_again(job, jobs, &again, &result.anew, selection)) {
            called_anew.insert(&job.key);
        }
        let list = match () {
            () if is_part_of_anew => &mut result.dropped,
            () if !is_again => &mut result.carried,
            () if job.call.is_some() && !called_anew.contains(job.key.as_str()) => &mut result.calling,
            () => &mut result.again,
        };
        list.push(job.key.clone());
    }
    Ok(result)
}

/// Whether a job that runs again calls its pipeline again: with what comes before it, or because nothing of it can be kept.
fn calls_again(job: &JobView, jobs: &[JobView], again: &BTreeSet<&str>, anew: &[String], selection: Selection) -> bool {
    let runs_again = |other: &&JobView| again.contains(other.key.as_str());
    let needs_again = jobs.iter().filter(runs_again).any(|other| job.needs.iter().any(|need| need == other.file_key()));
    let is_part = |other: &&JobView| other.called.as_ref().is_some_and(|called| called.by == job.key);
    job.call.is_some()
        && (selection == Selection::Whole
            || needs_again
            || anew.iter().any(|key| key == job.file_key())
            || !jobs.iter().filter(is_part).any(|part| again.contains(part.key.as_str())))
}

/// The matrices that are evaluated again. Where nothing before one runs again, its combinations are what they were.
fn matrices(again: &[&JobView], selection: Selection) -> Vec<String> {
    let runs_again: BTreeSet<&str> = again.iter().map(|job| job.file_key()).collect();
    let is_anew = |job: &&&JobView| {
        job.combination.is_some()
            && (selection == Selection::Whole || job.needs.iter().any(|need| runs_again.contains(need.as_str())))
    };
    let mut anew: Vec<String> = again.iter().filter(is_anew).map(|job| job.file_key().to_owned()).collect();
    anew.dedup();
    anew
}

/// The chosen jobs and everything after them, which saw their former results.
fn with_dependants<'a>(jobs: &'a [JobView], mut chosen: BTreeSet<&'a str>) -> BTreeSet<&'a str> {
    let mut again: BTreeSet<&str> =
        jobs.iter().filter(|job| chosen.contains(job.key.as_str())).map(JobView::file_key).collect();
    loop {
        let next = jobs.iter().find(|job| {
            let calls = |other: &JobView| other.called.as_ref().is_some_and(|called| called.by == job.key);
            !chosen.contains(job.key.as_str())
                && (job.needs.iter().any(|need| again.contains(need.as_str()))
                    || (job.call.is_some()
                        && jobs.iter().any(|other| calls(other) && chosen.contains(other.key.as_str()))))
        });
        match next {
            Some(job) => {
                chosen.insert(&job.key);
                again.insert(job.file_key());
            }
            None => return chosen,
        };
    }
}
