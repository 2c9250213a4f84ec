//! The plan of a job that calls another pipeline: the jobs of that, ready to become jobs of the run.

use indexmap::IndexMap;
use segue_schemas::plan::{CallPlan, JobPlan, Permissions};

use super::job_plan;
use crate::pipeline::{Call, Job, PassedSecrets};

/// What a job calls; `permissions` are the job's, for the jobs that have none of their own.
pub(super) fn call_plan(call: &Call, permissions: Option<&Permissions>) -> CallPlan {
    let pipeline = &call.pipeline;
    let outputs = pipeline.triggers.workflow_call.as_ref().map(|callable| callable.outputs.clone());
    let job = |job: &Job| {
        let mut plan = job_plan(job, pipeline);
        pass_secrets(&mut plan, &call.secrets);
        allow(&mut plan, permissions);
        plan
    };
    CallPlan {
        file: call.file.clone(),
        inputs: call.inputs.clone(),
        env: pipeline.env.clone(),
        outputs: outputs.unwrap_or_default(),
        jobs: pipeline.jobs.iter().map(job).collect(),
    }
}

/// Leaves a called job the secrets that its caller passes, and notes under which names those are stored.
fn pass_secrets(plan: &mut JobPlan, passed: &PassedSecrets) {
    if let PassedSecrets::Named(passed) = passed {
        let mut stored = IndexMap::new();
        plan.secrets.retain(|name| {
            // where a call within this call gave it another name already, that is the name here
            let here = plan.stored_secrets.get(name).unwrap_or(name);
            let source = passed.iter().find(|(there, _)| there.eq_ignore_ascii_case(here)).map(|(_, source)| source);
            stored.extend(source.filter(|source| *source != name).map(|source| (name.clone(), source.clone())));
            source.is_some()
        });
        plan.stored_secrets = stored;
    }
    for job in plan.call.iter_mut().flat_map(|call| &mut call.jobs) {
        pass_secrets(job, passed);
    }
}

/// What the token may do, where neither the called job nor its pipeline says it: what the caller says.
fn allow(plan: &mut JobPlan, of_caller: Option<&Permissions>) {
    if plan.permissions.is_none() {
        plan.permissions = of_caller.cloned();
    }
    for job in plan.call.iter_mut().flat_map(|call| &mut call.jobs) {
        allow(job, of_caller);
    }
}
