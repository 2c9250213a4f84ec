//! From files and an event to runs.
//!
//! Comes in: pipeline files as texts, what happened, which files changed. Goes out: the runs that follow, and for every
//! other file the reason why none does. Never here: reading files or repositories, storing, starting anything.

mod call;
mod explain;
mod github;
mod matching;
mod only;
mod skip;

use indexmap::IndexMap;
use segue_schemas::{
    plan::{JobPlan, RunPlan},
    trigger::{Event, Trigger},
};
use serde_json::Value;

use crate::{
    diagnostic::Diagnostic,
    inputs,
    pipeline::{self, ActionFiles, Job, Parsed, Pipeline},
};
pub use explain::{ExplainedJob, ExplainedPipeline, explain};
pub use github::{GITHUB_CONTEXT_KEYS, RunNumbers, github_context};
pub use matching::is_called;
pub use only::{LeftOut, without_deployments};

/// What follows from an event, file by file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Planned {
    /// The runs, in the order of the files.
    pub runs: Vec<RunPlan>,
    /// The pipelines that it would start, had nobody asked to leave them out.
    pub skipped: Vec<Skipped>,
    /// The pipelines that a person asked for with inputs that they do not take.
    pub refused: Vec<NotMatching>,
    /// The pipelines that this event does not start, and why.
    pub not_matching: Vec<NotMatching>,
    /// The files that cannot be read, unless what could be read says that this event does not start them.
    pub broken: Vec<Broken>,
}

/// A pipeline that an event does not start, or not now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotMatching {
    /// Its file.
    pub file: String,
    /// Its name.
    pub name: String,
    /// Why not, in words.
    pub reason: String,
    /// Whether it listens to the event, and a filter (`branches`, `paths`) left it out: whoever waits for its check is to hear of that.
    /// Of a push only if no pull request would start it, whose own word counts for the same commit.
    pub is_left_out: bool,
}

/// A run that somebody asked to leave out.
#[derive(Debug, Clone, PartialEq)]
pub struct Skipped {
    /// What would run; without jobs where the file is broken.
    pub plan: RunPlan,
    /// Why it does not, in words.
    pub reason: String,
}

/// A file that is no pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The file.
    pub file: String,
    /// The pipeline's name, as far as it could be read.
    pub name: String,
    /// What is wrong with it; at least one error.
    pub diagnostics: Vec<Diagnostic>,
}

/// Plans the runs of an event. `files` are paths from the repository's root and texts, at the commit of the event: pipelines,
/// and the actions that they may use (`.segue/actions/NAME/action.yml`);
/// `changed_files` the paths that it changed, `None` where they are not known: then no filter on paths keeps anything out.
#[must_use]
pub fn plan<P: AsRef<str>, T: AsRef<str>>(
    files: &[(P, T)],
    trigger: &Trigger,
    changed_files: Option<&[String]>,
) -> Planned {
    let mut planned = Planned::default();
    let actions = actions_among(files);
    for (file, text) in files {
        let (file, text) = (file.as_ref(), text.as_ref());
        if ActionFiles::is_one(file) {
            continue;
        }
        let parsed = pipeline::parse_with(file, text, &actions);
        match outcome(file, &parsed, trigger, changed_files) {
            Outcome::Run(pipeline, _, inputs) => planned.runs.push(run_plan(file, pipeline, inputs)),
            Outcome::Skipped(reason) => {
                let plan = match &parsed.pipeline {
                    Some(pipeline) => run_plan(file, pipeline, Inputs::new()),
                    None => RunPlan { file: file.to_owned(), pipeline: parsed.name, ..RunPlan::default() },
                };
                planned.skipped.push(Skipped { plan, reason });
            }
            Outcome::Refused(reason) => {
                let (file, name) = (file.to_owned(), parsed.name);
                planned.refused.push(NotMatching { file, name, reason, is_left_out: false });
            }
            Outcome::NotMatching(reason) => {
                let is_left_out =
                    parsed.triggers.as_ref().is_some_and(|triggers| matching::is_left_out(triggers, &trigger.event));
                let (file, name) = (file.to_owned(), parsed.name);
                planned.not_matching.push(NotMatching { file, name, reason, is_left_out });
            }
            Outcome::Broken => {
                let Parsed { name, diagnostics, .. } = parsed;
                planned.broken.push(Broken { file: file.to_owned(), name, diagnostics });
            }
        }
    }
    planned
}

fn actions_among<P: AsRef<str>, T: AsRef<str>>(files: &[(P, T)]) -> ActionFiles {
    ActionFiles::among(files.iter().map(|(path, text)| (path.as_ref(), text.as_ref())))
}

/// What an event does to one file.
enum Outcome<'p> {
    /// It starts it, for this reason and with these inputs.
    Run(&'p Pipeline, String, Inputs),
    /// It would, had the commit's message not asked to leave it out.
    Skipped(String),
    /// It would, but for what it was given.
    Refused(String),
    NotMatching(String),
    Broken,
}

type Inputs = IndexMap<String, Value>;

fn outcome<'p>(file: &str, parsed: &'p Parsed, trigger: &Trigger, changed_files: Option<&[String]>) -> Outcome<'p> {
    let Some(triggers) = &parsed.triggers else {
        return matching::without_triggers(file, &parsed.name, &trigger.event);
    };
    let reason = match matching::matching(file, &parsed.name, triggers, trigger, changed_files) {
        Ok(reason) => reason,
        Err(reason) => return Outcome::NotMatching(reason),
    };
    if let Some(reason) = skip::skip_reason(&trigger.event) {
        return Outcome::Skipped(reason);
    }
    let Some(pipeline) = &parsed.pipeline else { return Outcome::Broken };
    match (&trigger.event, &triggers.workflow_dispatch) {
        (Event::WorkflowDispatch { inputs: given, .. }, Some(dispatch)) => {
            match inputs::resolve(&dispatch.inputs, given) {
                Ok(inputs) => Outcome::Run(pipeline, reason, inputs),
                Err(problems) => Outcome::Refused(problems.join("; ")),
            }
        }
        _ => Outcome::Run(pipeline, reason, Inputs::new()),
    }
}

fn run_plan(file: &str, pipeline: &Pipeline, inputs: Inputs) -> RunPlan {
    let triggers = &pipeline.triggers;
    RunPlan {
        file: file.to_owned(),
        pipeline: pipeline.name.clone(),
        env: pipeline.env.clone(),
        inputs,
        once_per_head: triggers.push.is_some()
            && triggers.pull_request.as_ref().is_some_and(|filter| !filter.repeat_push),
        concurrency: pipeline.concurrency.clone(),
        jobs: pipeline.jobs.iter().map(|job| job_plan(job, pipeline)).collect(),
    }
}

fn job_plan(job: &Job, pipeline: &Pipeline) -> JobPlan {
    let permissions = job.permissions.as_ref().or(pipeline.permissions.as_ref());
    JobPlan {
        key: job.key.clone(),
        name: job.name.clone(),
        needs: job.needs.clone(),
        condition: job.condition.clone(),
        runs_on: job.runs_on.clone(),
        environment: job.environment.clone(),
        environment_url: job.environment_url.clone(),
        idempotent: job.idempotent,
        snapshots: job.snapshots,
        timeout_seconds: job.timeout_seconds,
        env: job.env.clone(),
        outputs: job.outputs.clone(),
        secrets: job.secrets.clone(),
        strategy: job.strategy.clone(),
        continue_on_error: job.continue_on_error,
        concurrency: job.concurrency.clone(),
        retry: job.retry.clone(),
        container: job.container.clone(),
        services: job.services.clone(),
        gpus: job.gpus.clone(),
        permissions: permissions.cloned(),
        late: job.late.clone(),
        call: job.call.as_ref().map(|call| Box::new(call::call_plan(call, permissions))),
        steps: job.steps.clone(),
        ..JobPlan::default()
    }
}
