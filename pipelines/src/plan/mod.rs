//! From files and an event to runs.
//!
//! Comes in: pipeline files as texts, what happened, which files changed. Goes out: the runs that follow, and for every
//! other file the reason why none does. Never here: reading files or repositories, storing, starting anything.

mod explain;
mod github;
mod matching;
mod only;

use segue_schemas::{
    plan::{JobPlan, RunPlan},
    trigger::Trigger,
};

use crate::{
    diagnostic::Diagnostic,
    pipeline::{self, ActionFiles, Job, Parsed, Pipeline},
};
pub use explain::{ExplainedJob, ExplainedPipeline, explain};
pub use github::{GITHUB_CONTEXT_KEYS, RunNumbers, github_context};
pub use only::{LeftOut, without_deployments};

/// What follows from an event, file by file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Planned {
    /// The runs, in the order of the files.
    pub runs: Vec<RunPlan>,
    /// The pipelines that this event does not start, and why.
    pub not_matching: Vec<NotMatching>,
    /// The files that cannot be read, unless what could be read says that this event does not start them.
    pub broken: Vec<Broken>,
}

/// A pipeline that an event does not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotMatching {
    /// Its file.
    pub file: String,
    /// Its name.
    pub name: String,
    /// Why not, in words.
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
            Outcome::Run(pipeline, _) => planned.runs.push(run_plan(file, pipeline)),
            Outcome::NotMatching(reason) => {
                planned.not_matching.push(NotMatching { file: file.to_owned(), name: parsed.name, reason });
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
    /// It starts it, for this reason.
    Run(&'p Pipeline, String),
    NotMatching(String),
    Broken,
}

fn outcome<'p>(file: &str, parsed: &'p Parsed, trigger: &Trigger, changed_files: Option<&[String]>) -> Outcome<'p> {
    let matched = parsed
        .triggers
        .as_ref()
        .map(|triggers| matching::matching(file, &parsed.name, triggers, trigger, changed_files));
    match (matched, &parsed.pipeline) {
        (Some(Err(reason)), _) => Outcome::NotMatching(reason),
        (Some(Ok(reason)), Some(pipeline)) => Outcome::Run(pipeline, reason),
        _ => Outcome::Broken,
    }
}

fn run_plan(file: &str, pipeline: &Pipeline) -> RunPlan {
    RunPlan {
        file: file.to_owned(),
        pipeline: pipeline.name.clone(),
        env: pipeline.env.clone(),
        jobs: pipeline.jobs.iter().map(job_plan).collect(),
    }
}

fn job_plan(job: &Job) -> JobPlan {
    JobPlan {
        key: job.key.clone(),
        name: job.name.clone(),
        needs: job.needs.clone(),
        condition: job.condition.clone(),
        runs_on: job.runs_on.clone(),
        environment: job.environment.clone(),
        idempotent: job.idempotent,
        timeout_seconds: job.timeout_seconds,
        env: job.env.clone(),
        outputs: job.outputs.clone(),
        secrets: job.secrets.clone(),
        matrix: indexmap::IndexMap::new(),
        steps: job.steps.clone(),
    }
}
