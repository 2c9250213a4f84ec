//! The plan in words: what would run and why, what not and why not. Decided by the very code that plans and advances runs.

use std::collections::{BTreeMap, HashMap};

use indexmap::IndexMap;
use segue_schemas::{
    plan::{JobPlan, RunPlan},
    status::{JobStatus, RunStatus},
    trigger::Trigger,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Inputs, Outcome, RunNumbers, actions_among, github_context, outcome, run_plan};
use crate::{
    diagnostic::Diagnostic,
    expr::{self, Contexts, Reference},
    pipeline::{self, ActionFiles},
    progress::{Action, JobView, Part, RunView, advance, apply, strategy_context},
    service::file_stem,
};

/// A pipeline, explained.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExplainedPipeline {
    /// Its file.
    pub file: String,
    /// Its name.
    pub name: String,
    /// Whether the event starts it.
    pub matches: bool,
    /// Why, or why not.
    pub reason: String,
    /// Its jobs in the order in which they could start; none where the file is broken.
    pub jobs: Vec<ExplainedJob>,
    /// What is wrong with the file.
    #[serde(skip)]
    pub diagnostics: Vec<Diagnostic>,
    /// Whether that keeps it from running.
    #[serde(skip)]
    pub is_broken: bool,
}

impl ExplainedPipeline {
    /// A pipeline whose file nobody looked at, as the event starts none at all.
    #[must_use]
    pub fn ignored(file: &str, reason: &str) -> Self {
        Self {
            file: file.to_owned(),
            name: file_stem(file).to_owned(),
            matches: false,
            reason: reason.to_owned(),
            jobs: Vec::new(),
            diagnostics: Vec::new(),
            is_broken: false,
        }
    }
}

/// A job, explained.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExplainedJob {
    /// Its key.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its combination of the matrix.
    pub matrix: IndexMap<String, Value>,
    /// The jobs before it.
    pub needs: Vec<String>,
    /// Whether it would run if every job before it ended well, and its condition holds where that is not known yet.
    pub would_run: bool,
    /// Why, or why not.
    pub reason: String,
}

/// Explains what an event does to each of the pipelines; arguments as for [`super::plan`].
#[must_use]
pub fn explain<P: AsRef<str>, T: AsRef<str>>(
    files: &[(P, T)],
    trigger: &Trigger,
    changed_files: Option<&[String]>,
) -> Vec<ExplainedPipeline> {
    let actions = actions_among(files);
    files
        .iter()
        .filter(|(file, _)| !ActionFiles::is_one(file.as_ref()))
        .map(|(file, text)| {
            let file = file.as_ref();
            let parsed = pipeline::parse_with(file, text.as_ref(), &actions);
            let planned = |inputs| parsed.pipeline.as_ref().map(|pipeline| run_plan(file, pipeline, inputs));
            let left_out = |why: &str| {
                let jobs = planned(Inputs::new()).map_or(Vec::new(), |plan| plan.jobs);
                jobs.iter().map(|job| explained(job, &job.name, false, why.into())).collect()
            };
            let (matches, reason, jobs) = match outcome(file, &parsed, trigger, changed_files) {
                Outcome::Run(pipeline, reason, inputs) => {
                    (true, reason, foresee(&run_plan(file, pipeline, inputs), trigger))
                }
                Outcome::Skipped(reason) => {
                    let reason = format!("its run is recorded as skipped, as {reason}");
                    (false, reason, left_out("the commit's message asks for no run"))
                }
                Outcome::Refused(reason) => (false, reason, left_out("the inputs do not fit the pipeline")),
                Outcome::NotMatching(reason) => (false, reason, left_out("the event does not start the pipeline")),
                Outcome::Broken => (false, "the file is broken".into(), Vec::new()),
            };
            let is_broken = parsed.pipeline.is_none();
            let (name, diagnostics) = (parsed.name, parsed.diagnostics);
            ExplainedPipeline { file: file.to_owned(), name, matches, reason, jobs, diagnostics, is_broken }
        })
        .collect()
}

/// Plays the run with every job that starts ending well at once, and notes what happens to each.
fn foresee(plan: &RunPlan, trigger: &Trigger) -> Vec<ExplainedJob> {
    let jobs = &plan.jobs;
    let github = github_context(trigger, &plan.pipeline, RunNumbers { id: 1, number: 1, attempt: 1 });
    let inputs = json!(plan.inputs);
    let contexts = Contexts::new().with("github", &github).with("inputs", &inputs);
    let view = |job: &JobPlan| {
        let view = JobView::planned(job);
        JobView {
            condition: view.condition.filter(|_| !is_open(job)),
            strategy: view.strategy.filter(|_| !is_matrix_open(job)),
            ..view
        }
    };
    let mut run = RunView {
        status: RunStatus::Queued,
        cancelled: false,
        jobs: jobs.iter().map(view).collect(),
        contexts: BTreeMap::from([("github".to_owned(), github), ("inputs".to_owned(), inputs)]),
    };
    let mut fates: BTreeMap<String, (bool, String)> = BTreeMap::new();
    // each round ends at least one job, so there are at most as many as jobs
    for _ in 0..=jobs.len() {
        for action in advance(&run) {
            perform(&mut run, &mut fates, action);
        }
        if run.jobs.iter().all(|job| job.status.is_final()) {
            break;
        }
    }
    let plans: HashMap<&str, &JobPlan> = jobs.iter().map(|job| (job.key.as_str(), job)).collect();
    let explain = |view: &JobView| {
        let job = plans.get(view.file_key())?;
        let part = view.combination.as_ref().map(|combination| {
            Part { key: view.key.clone(), combination: combination.clone(), matrix: view.matrix.clone() }.plan(job)
        });
        let plan = part.as_ref().unwrap_or(job);
        let contexts = contexts.clone().with("matrix", json!(plan.matrix)).with("strategy", strategy_context(plan));
        // of a matrix that is not known yet the template says more than a name without values
        let name = if part.is_none() && job.strategy.is_some() {
            plan.name.clone()
        } else {
            expr::render_template(&plan.name, &contexts).unwrap_or_else(|_| plan.name.clone())
        };
        let (would_run, reason) = match fates.remove(&view.key) {
            Some((true, _)) => (true, why_it_runs(job)),
            Some((false, reason)) => (false, reason),
            None => (false, "a job before it never ends".into()),
        };
        Some(ExplainedJob { matrix: view.matrix.clone(), ..explained(job, &name, would_run, reason) })
    };
    run.jobs.iter().filter_map(explain).collect()
}

/// Makes the run what it is after an action; a job that is queued has ended well.
fn perform(run: &mut RunView, fates: &mut BTreeMap<String, (bool, String)>, action: Action) {
    let (key, action, fate) = match action {
        Action::Queue { job } => (job, None, Some((true, String::new()))),
        Action::Skip { ref job, ref reason, .. }
        | Action::Cancel { ref job, ref reason }
        | Action::Fail { ref job, ref reason, .. } => {
            (job.clone(), Some(action.clone()), Some((false, reason.clone())))
        }
        Action::Expand { ref job, .. } | Action::Stop { ref job, .. } => (job.clone(), Some(action.clone()), None),
        Action::Run { .. } => return,
    };
    let Some(at) = run.jobs.iter().position(|job| job.key == key) else { return };
    match action {
        Some(action) => apply(&mut run.jobs, at, &action),
        None => run.jobs[at].status = JobStatus::Succeeded,
    }
    fates.extend(fate.map(|fate| (key, fate)));
}

fn why_it_runs(job: &JobPlan) -> String {
    let mut reason = match job.needs.as_slice() {
        [] => "it waits for nothing".to_owned(),
        needs => format!("after {}", needs.join(", ")),
    };
    match &job.condition {
        Some(condition) if is_open(job) => {
            reason.push_str(&format!("; if then `{condition}` holds, which is not known yet"))
        }
        Some(condition) => reason.push_str(&format!("; its condition `{condition}` holds")),
        None => {}
    }
    if is_matrix_open(job) {
        reason.push_str("; once for each combination of its matrix, which is not known yet");
    }
    if let Some(environment) = &job.environment {
        reason.push_str(&format!("; the environment `{environment}` may ask for an approval"));
    }
    if job.asks_for_container() {
        reason.push_str("; it asks for a container, and fails where no worker has the docker engine");
    }
    reason
}

/// Whether the job's condition reads what only the run will know: outputs of jobs, and the operator's variables. Such a
/// job is taken to run. A condition that asks how things went is decided all the same, with these values empty.
fn is_open(job: &JobPlan) -> bool {
    let Some(condition) = &job.condition else { return false };
    let references = expr::references(condition).unwrap_or_default();
    references.iter().any(is_unknown) && !expr::uses_status_function(condition).unwrap_or(false)
}

/// The same of its matrix.
fn is_matrix_open(job: &JobPlan) -> bool {
    let Some(strategy) = &job.strategy else { return false };
    // whatever in it is a template is a text of its JSON
    let mut open = vec![json!(strategy)];
    while let Some(value) = open.pop() {
        match value {
            Value::String(text) if expr::template_references(&text).unwrap_or_default().iter().any(is_unknown) => {
                return true;
            }
            Value::Array(items) => open.extend(items),
            Value::Object(entries) => open.extend(entries.into_iter().map(|(_, value)| value)),
            _ => {}
        }
    }
    false
}

fn is_unknown(reference: &Reference) -> bool {
    reference.is_in("vars") || (reference.is_in("needs") && reference.name(1) != Some("result"))
}

fn explained(job: &JobPlan, name: &str, would_run: bool, reason: String) -> ExplainedJob {
    ExplainedJob {
        id: job.key.clone(),
        name: name.to_owned(),
        matrix: job.matrix.clone(),
        needs: job.needs.clone(),
        would_run,
        reason,
    }
}
