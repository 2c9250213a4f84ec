use std::collections::BTreeSet;

use segue_schemas::status::JobStatus;
use serde::{Deserialize, Serialize};

use super::{JobView, SkipCause};

/// What is to run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection<'a> {
    /// Everything.
    Whole,
    /// What failed, was cancelled or never came to run because of that, and whatever comes after it.
    Failed,
    /// The job with this key, and whatever comes after it.
    From(&'a str),
}

/// Which jobs that have changed an environment may do so again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deploys {
    /// All that are to run again: somebody said so.
    Repeat,
    /// None: they stay as they ended.
    LeaveOut,
    /// The one with this key alone.
    Only(String),
}

/// A new attempt's beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Those of the jobs that begin again which have changed an environment before.
    pub deploys: Vec<String>,
    /// Those of the carried ones that would begin again, had nothing changed an environment before.
    pub left_out: Vec<String>,
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
    /// There is no such job.
    #[error("the run has no job `{0}`; its jobs are {1}")]
    NoJob(String, String),
    /// What would run again deploys, and is not to.
    #[error("only what has deployed before would run again ({0}), and a deploy is not repeated unless it is asked for")]
    OnlyDeploys(String),
}

/// Which jobs a new attempt runs again, and which it takes over from the last one. What has changed an environment stays as it
/// ended unless `deploys` lets it begin again; a called pipeline that has is one thing with all its jobs, and so is a matrix.
///
/// # Errors
/// Where the last attempt has not ended, `Failed` finds nothing, `From` no such job, or only deploys are left.
pub fn rerun(jobs: &[JobView], selection: Selection<'_>, deploys: &Deploys) -> Result<Rerun, RerunError> {
    if let Some(job) = jobs.iter().find(|j| !j.status.is_final()) {
        return Err(RerunError::NotEnded(job.key.clone(), job.status));
    }
    if let Selection::From(key) = selection
        && jobs.iter().all(|job| job.key != key)
    {
        let keys: Vec<&str> = jobs.iter().map(|job| job.key.as_str()).collect();
        return Err(RerunError::NoJob(key.into(), keys.join(", ")));
    }
    let is_chosen = |job: &&JobView| match (selection, job.status) {
        (Selection::Whole, _) | (Selection::Failed, JobStatus::Failed | JobStatus::Cancelled) => true,
        (Selection::Failed, JobStatus::Skipped) => !matches!(job.skip_cause, None | Some(SkipCause::Condition)),
        (Selection::Failed, _) => false,
        (Selection::From(key), _) => job.key == key,
    };
    let chosen: BTreeSet<&str> = jobs.iter().filter(is_chosen).map(|job| job.key.as_str()).collect();
    if chosen.is_empty() && selection == Selection::Failed {
        return Err(RerunError::NothingFailed);
    }
    let wanted = with_dependants(jobs, chosen.clone(), &BTreeSet::new());
    let kept = kept_out(jobs, deploys);
    let chosen: BTreeSet<&str> = chosen.into_iter().filter(|key| !kept.contains(key)).collect();
    let left_out = in_order(jobs, |job| {
        job.call.is_none() && kept.contains(job.key.as_str()) && wanted.contains(job.key.as_str())
    });
    // what was skipped for them would be skipped again
    let is_hopeless = |job: &JobView| selection == Selection::Failed && job.skip_cause == Some(SkipCause::Upstream);
    let has_hope = jobs.iter().any(|job| chosen.contains(job.key.as_str()) && !is_hopeless(job));
    if !has_hope && !left_out.is_empty() {
        return Err(RerunError::OnlyDeploys(left_out.join(", ")));
    }
    let again = with_dependants(jobs, chosen, &kept);
    let anew = matrices(&jobs.iter().filter(|j| again.contains(j.key.as_str())).collect::<Vec<_>>(), selection);
    let deploys = in_order(jobs, |job| job.has_deployed && again.contains(job.key.as_str()));
    let mut result = Rerun { anew, deploys, left_out, ..Rerun::default() };
    let mut called_anew: BTreeSet<&str> = BTreeSet::new();
    // who calls stands before what it calls
    for job in jobs {
        let is_part_of_anew = job.called.as_ref().is_some_and(|called| called_anew.contains(called.by.as_str()));
        let is_again = again.contains(job.key.as_str());
        if is_part_of_anew || (is_again && calls_again(job, jobs, &again, &result.anew, selection)) {
            called_anew.insert(&job.key);
        }
        if is_part_of_anew && job.has_deployed && !is_again {
            result.deploys.push(job.key.clone());
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

fn in_order(jobs: &[JobView], is_meant: impl Fn(&JobView) -> bool) -> Vec<String> {
    jobs.iter().filter(|job| is_meant(job)).map(|job| job.key.clone()).collect()
}

/// The jobs that stay as they ended, because they have changed an environment, or are one thing with such a job.
fn kept_out<'a>(jobs: &'a [JobView], deploys: &Deploys) -> BTreeSet<&'a str> {
    let may = match deploys {
        Deploys::Repeat => return BTreeSet::new(),
        Deploys::LeaveOut => None,
        Deploys::Only(key) => jobs.iter().find(|job| job.key == *key).map(|job| root(jobs, job).file_key()),
    };
    let deploying: BTreeSet<&str> =
        jobs.iter().filter(|job| job.has_deployed).map(|job| root(jobs, job).file_key()).collect();
    let is_kept = |job: &&JobView| {
        let root = root(jobs, job).file_key();
        deploying.contains(root) && Some(root) != may
    };
    jobs.iter().filter(is_kept).map(|job| job.key.as_str()).collect()
}

/// The job of the run's own file that a job of a called pipeline belongs to.
fn root<'a>(jobs: &'a [JobView], job: &'a JobView) -> &'a JobView {
    let mut at = job;
    // each call is one deeper, so this is as long as calls are deep
    for _ in 0..jobs.len() {
        match at.called.as_ref().and_then(|called| jobs.iter().find(|other| other.key == called.by)) {
            Some(caller) => at = caller,
            None => break,
        }
    }
    at
}

/// Whether a job that runs again calls its pipeline again: with what comes before it, or because nothing of it can be kept.
fn calls_again(
    job: &JobView,
    jobs: &[JobView],
    again: &BTreeSet<&str>,
    anew: &[String],
    selection: Selection<'_>,
) -> bool {
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
fn matrices(again: &[&JobView], selection: Selection<'_>) -> Vec<String> {
    let runs_again: BTreeSet<&str> = again.iter().map(|job| job.file_key()).collect();
    let is_anew = |job: &&&JobView| {
        job.combination.is_some()
            && (selection == Selection::Whole || job.needs.iter().any(|need| runs_again.contains(need.as_str())))
    };
    let mut anew: Vec<String> = again.iter().filter(is_anew).map(|job| job.file_key().to_owned()).collect();
    anew.dedup();
    anew
}

/// The chosen jobs and everything after them, which saw their former results; nothing that is kept out.
fn with_dependants<'a>(jobs: &'a [JobView], mut chosen: BTreeSet<&'a str>, kept: &BTreeSet<&str>) -> BTreeSet<&'a str> {
    let mut again: BTreeSet<&str> =
        jobs.iter().filter(|job| chosen.contains(job.key.as_str())).map(JobView::file_key).collect();
    loop {
        let next = jobs.iter().find(|job| {
            let calls = |other: &JobView| other.called.as_ref().is_some_and(|called| called.by == job.key);
            !chosen.contains(job.key.as_str())
                && !kept.contains(job.key.as_str())
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
