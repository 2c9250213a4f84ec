//! What `needs` names: a job, or all combinations of its matrix.

use std::collections::{HashMap, HashSet};

use segue_schemas::status::{Conclusion, JobStatus};
use serde_json::{Map, Value, json};

use super::{JobView, SkipCause};

/// The jobs of a run by the key that `needs` names.
pub(super) struct Groups<'a> {
    by_key: HashMap<&'a str, Group<'a>>,
    /// Whether a job failed or was cancelled; where none did, nobody needs to ask what came before what.
    has_trouble: bool,
}

/// A job, or the combinations of one, in order.
pub(super) struct Group<'a> {
    pub key: &'a str,
    /// Where its first job stands in the run.
    position: usize,
    pub jobs: Vec<&'a JobView>,
}

impl<'a> Groups<'a> {
    pub(super) fn new(jobs: impl IntoIterator<Item = &'a JobView>) -> Self {
        let mut by_key: HashMap<&str, Group<'_>> = HashMap::new();
        let mut has_trouble = false;
        for (position, job) in jobs.into_iter().enumerate() {
            let key = job.file_key();
            has_trouble |= matches!(job.status, JobStatus::Failed | JobStatus::Cancelled);
            by_key.entry(key).or_insert_with(|| Group { key, position, jobs: Vec::new() }).jobs.push(job);
        }
        Self { by_key, has_trouble }
    }

    /// The one whose key is this in its own file.
    pub(super) fn ending_in(&self, key: &str) -> Option<&Group<'a>> {
        self.by_key.values().find(|group| local_key(group.key) == key)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Group<'a>> {
        self.by_key.get(key)
    }

    /// Everything that comes before a job, in the order of the run, where anything of the run failed or was cancelled.
    pub(super) fn troubled_ancestors(&self, job: &JobView) -> Vec<&Group<'a>> {
        if !self.has_trouble {
            return Vec::new();
        }
        let mut found: Vec<&Group<'a>> = Vec::new();
        let mut seen: HashSet<&str> = HashSet::new();
        let mut open: Vec<&str> = job.needs.iter().map(String::as_str).collect();
        while let Some(key) = open.pop() {
            if let Some(group) = self.by_key.get(key)
                && seen.insert(group.key)
            {
                found.push(group);
                open.extend(group.jobs.iter().flat_map(|job| job.needs.iter().map(String::as_str)));
            }
        }
        found.sort_by_key(|group| group.position);
        found
    }
}

impl<'a> Group<'a> {
    pub(super) fn of(key: &'a str, jobs: Vec<&'a JobView>) -> Self {
        Self { key, position: 0, jobs }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.jobs.iter().all(|job| job.status.is_final())
    }

    /// The first of its jobs that failed where that is not allowed.
    pub(super) fn failure(&self) -> Option<&JobView> {
        self.jobs.iter().copied().find(|job| job.is_failure())
    }

    /// How it ended, all in all. The worst counts; it is skipped only where all of it is.
    pub(super) fn status(&self) -> JobStatus {
        let any = |status| self.jobs.iter().any(|job| job.status == status);
        match () {
            () if !self.has_ended() => JobStatus::Running,
            () if self.failure().is_some() => JobStatus::Failed,
            () if any(JobStatus::Cancelled) => JobStatus::Cancelled,
            () if any(JobStatus::Succeeded) || any(JobStatus::Failed) => JobStatus::Succeeded,
            () => JobStatus::Skipped,
        }
    }

    /// Why it was skipped: what weighs most for those after it.
    pub(super) fn skip_cause(&self) -> SkipCause {
        let causes = || self.jobs.iter().map(|job| job.skip_cause.unwrap_or(SkipCause::Condition));
        [SkipCause::Superseded, SkipCause::Upstream]
            .into_iter()
            .find(|cause| causes().any(|of_job| of_job == *cause))
            .unwrap_or(SkipCause::Condition)
    }

    fn result(&self) -> &'static str {
        match self.status() {
            JobStatus::Succeeded => Conclusion::Success.as_str(),
            JobStatus::Failed => Conclusion::Failure.as_str(),
            JobStatus::Cancelled => Conclusion::Cancelled.as_str(),
            JobStatus::Skipped => Conclusion::Skipped.as_str(),
            _ => "",
        }
    }

    /// As `needs.<key>`: `result` and `outputs`; of a matrix `result`, and `matrix` with each combination by its label, so that
    /// no output takes the place of another.
    pub(super) fn context(&self) -> Value {
        if let [job] = self.jobs.as_slice()
            && job.combination.is_none()
        {
            return json!({ "result": self.result(), "outputs": job.outputs });
        }
        let combinations: Map<String, Value> = self
            .jobs
            .iter()
            .filter_map(|job| {
                let label = job.combination.as_ref()?.label.clone();
                let result = job.result().map_or("", Conclusion::as_str);
                Some((label, json!({ "matrix": job.matrix, "result": result, "outputs": job.outputs })))
            })
            .collect();
        json!({ "result": self.result(), "matrix": combinations })
    }
}

/// The context `needs` of a job that needs these keys.
#[must_use]
pub fn needs_context<'a>(needs: &[String], jobs: impl IntoIterator<Item = &'a JobView>) -> Value {
    of_needs(needs, &Groups::new(jobs))
}

pub(super) fn of_needs(needs: &[String], groups: &Groups<'_>) -> Value {
    let context = |key: &String| groups.get(key).map(|group| (local_key(key).to_owned(), group.context()));
    Value::Object(needs.iter().filter_map(context).collect())
}

/// The key of a job in its own file; that of a called one stands behind the keys of those that called.
fn local_key(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}
