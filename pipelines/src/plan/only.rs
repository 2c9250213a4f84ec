//! A part of a plan: what a person runs on the own machine.

use std::collections::HashSet;

use segue_schemas::plan::{JobPlan, RunPlan};

/// A job that is not run here, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The key of the job.
    pub job: String,
    /// Why, in words.
    pub reason: String,
}

/// Leaves of a plan what changes no environment, and of that only `job` with all that it needs, where one is named. What
/// needs a job that was left out is left out as well. A plan without `job` keeps no job.
#[must_use]
pub fn without_deployments(mut plan: RunPlan, job: Option<&str>) -> (RunPlan, Vec<LeftOut>) {
    let wanted = job.map(|job| with_needs(&plan, job));
    let mut left_out: Vec<LeftOut> = Vec::new();
    plan.jobs.retain(|job| wanted.as_ref().is_none_or(|wanted| wanted.contains(&job.key)));
    prune(&mut plan.jobs, "", &mut left_out);
    (plan, left_out)
}

/// Prunes jobs, and those of the pipelines that they call, whose keys begin with theirs.
fn prune(jobs: &mut Vec<JobPlan>, above: &str, left_out: &mut Vec<LeftOut>) {
    // In topological order, so that what a job needs was looked at before it.
    jobs.retain_mut(|job| {
        let key = format!("{above}{}", job.key);
        let gone = job.needs.iter().find(|need| left_out.iter().any(|one| one.job == format!("{above}{need}")));
        let reason = match (&job.environment, gone) {
            (Some(environment), _) => format!("it changes the environment `{environment}`"),
            (None, Some(need)) => format!("it needs `{need}`"),
            (None, None) => {
                let Some(call) = &mut job.call else { return true };
                prune(&mut call.jobs, &format!("{key}/"), left_out);
                if !call.jobs.is_empty() {
                    return true;
                }
                format!("of {}, which it calls, no job is left", call.file)
            }
        };
        left_out.push(LeftOut { job: key, reason });
        false
    });
}

/// The keys of a job and of everything before it.
fn with_needs(plan: &RunPlan, job: &str) -> HashSet<String> {
    let mut keys = HashSet::from([job.to_owned()]);
    // Backwards through the topological order: whoever names a job stands behind it.
    for one in plan.jobs.iter().rev() {
        if keys.contains(&one.key) {
            keys.extend(one.needs.iter().cloned());
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use segue_schemas::trigger::{Event, Trigger};

    use super::*;

    const FILE: &str = "
on: workflow_dispatch
jobs:
  lint: { steps: [{ run: a }] }
  test: { steps: [{ run: b }] }
  build: { needs: [lint, test], steps: [{ run: c }] }
  staging: { needs: build, environment: staging, steps: [{ run: d }] }
  smoke: { needs: staging, steps: [{ run: e }] }
  docs: { steps: [{ run: f }] }
";

    fn keys(job: Option<&str>) -> (Vec<String>, Vec<(String, String)>) {
        let commit: segue_schemas::id::CommitSha = "1".repeat(40).parse().unwrap();
        let event = Event::WorkflowDispatch {
            r#ref: "refs/heads/main".into(),
            commit,
            pipeline: None,
            inputs: Default::default(),
        };
        let trigger =
            Trigger { repository: "o/n".into(), clone_url: None, actor: "me".into(), authors: Vec::new(), event };
        let planned = crate::plan::plan(&[("a.yml", FILE)], &trigger, None);
        let (plan, left_out) = without_deployments(planned.runs.into_iter().next().unwrap(), job);
        let left_out = left_out.into_iter().map(|one| (one.job, one.reason)).collect();
        (plan.jobs.into_iter().map(|job| job.key).collect(), left_out)
    }

    #[test]
    fn what_changes_an_environment_is_left_out_with_what_follows_it() {
        let (kept, left_out) = keys(None);
        assert_eq!(kept, ["lint", "test", "build", "docs"]);
        let left_out: Vec<_> = left_out.iter().map(|(job, reason)| format!("{job}: {reason}")).collect();
        assert_eq!(left_out, ["staging: it changes the environment `staging`", "smoke: it needs `staging`"]);
    }

    #[test]
    fn a_job_comes_with_all_that_it_needs() {
        assert_eq!(keys(Some("build")).0, ["lint", "test", "build"]);
        assert_eq!(keys(Some("docs")), (vec!["docs".into()], vec![]));
        let (kept, left_out) = keys(Some("smoke"));
        assert_eq!(kept, ["lint", "test", "build"]);
        assert_eq!(left_out.len(), 2);
        assert_eq!(keys(Some("nothing")), (vec![], vec![]));
    }
}
