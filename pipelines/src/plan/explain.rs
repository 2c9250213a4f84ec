//! The plan in words: what would run and why, what not and why not. Decided by the very code that plans and advances runs.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use indexmap::IndexMap;
use segue_schemas::{
    plan::{CallInputKind, JobPlan, RunPlan},
    status::RunStatus,
    trigger::Trigger,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Inputs, Outcome, RunNumbers, actions_among, github_context, outcome, run_plan};
use crate::{
    diagnostic::Diagnostic,
    expr::{self, Contexts, Reference},
    pipeline::{self, ActionFiles},
    progress::{Action, JobView, Part, RunView, called_jobs, play, strategy_context},
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
    let github = github_context(trigger, &plan.pipeline, RunNumbers { id: 1, number: 1, attempt: 1 });
    let inputs = json!(plan.inputs);
    let of_run = Contexts::new().with("github", &github).with("inputs", &inputs);
    let contexts = BTreeMap::from([("github".to_owned(), github), ("inputs".to_owned(), inputs)]);
    let mut jobs = plan.jobs.iter().map(|job| JobView::planned(&foreseeable(job))).collect();
    let run = RunView { status: RunStatus::Queued, cancelled: false, jobs: Vec::new(), contexts };
    let actions = play(&run, &mut jobs);
    let mut foresight = Foresight {
        views: jobs.iter().map(|view| (view.key.as_str(), view)).collect(),
        plans: plan.jobs.iter().map(|job| (job.key.clone(), Cow::Borrowed(job))).collect(),
        fates: HashMap::new(),
        of_run,
    };
    actions.into_iter().for_each(|action| foresight.note(action));
    jobs.iter().filter_map(|view| foresight.explain(view)).collect()
}

/// A job whose condition, matrix and inputs are only asked where they can be known; as far as it takes to play it.
fn foreseeable(job: &JobPlan) -> JobPlan {
    let mut call = job.call.clone();
    if let Some(call) = &mut call {
        for input in call.inputs.values_mut() {
            let template = input.value.as_str().unwrap_or_default();
            if expr::template_references(template).unwrap_or_default().iter().any(is_unknown) {
                input.value = match input.kind {
                    CallInputKind::String => json!(""),
                    CallInputKind::Boolean => json!(false),
                    CallInputKind::Number => json!(0),
                };
            }
        }
        call.jobs = call.jobs.iter().map(foreseeable).collect();
    }
    JobPlan {
        key: job.key.clone(),
        needs: job.needs.clone(),
        condition: job.condition.clone().filter(|_| !is_open(job)),
        environment: job.environment.clone(),
        strategy: job.strategy.clone().filter(|_| !is_matrix_open(job)),
        continue_on_error: job.continue_on_error,
        call,
        ..JobPlan::default()
    }
}

/// A run that was played, and what is known of its jobs.
struct Foresight<'p> {
    /// The jobs as they are at its end, by their own keys.
    views: HashMap<&'p str, &'p JobView>,
    /// The plans of the jobs, by their keys in the file.
    plans: HashMap<String, Cow<'p, JobPlan>>,
    fates: HashMap<String, (bool, String)>,
    /// What the names of its jobs can see.
    of_run: Contexts,
}

impl Foresight<'_> {
    /// Notes what an action, in their order, meant for its job.
    fn note(&mut self, action: Action) {
        let (key, fate) = match action {
            Action::Queue { job } => (job, (true, String::new())),
            Action::Skip { job, reason, .. } | Action::Cancel { job, reason } | Action::Fail { job, reason, .. } => {
                (job, (false, reason))
            }
            Action::Call { job, inputs } => {
                self.call(&job, &inputs);
                (job, (true, String::new()))
            }
            Action::Expand { .. } | Action::Stop { .. } | Action::Return { .. } | Action::Run { .. } => return,
        };
        self.fates.insert(key, fate);
    }

    /// The jobs of a call, with all that the file says of them.
    fn call(&mut self, key: &str, inputs: &IndexMap<String, Value>) {
        let Some(view) = self.views.get(key).copied() else { return };
        let Some(plan) = self.plan(view) else { return };
        let name = self.name(view, &plan);
        let called = plan.call.as_ref().map_or_else(Vec::new, |call| called_jobs(call, key, &name, inputs));
        self.plans.extend(called.into_iter().map(|job| (job.key.clone(), Cow::Owned(job))));
    }

    /// The plan of a job; of a combination its own.
    fn plan(&self, view: &JobView) -> Option<Cow<'_, JobPlan>> {
        let job = self.plans.get(view.file_key())?;
        Some(match &view.combination {
            None => Cow::Borrowed(job.as_ref()),
            Some(combination) => {
                let (combination, matrix) = (combination.clone(), view.matrix.clone());
                Cow::Owned(Part { key: view.key.clone(), combination, matrix }.plan(job))
            }
        })
    }

    fn name(&self, view: &JobView, plan: &JobPlan) -> String {
        // of a matrix that is not known yet the template says more than a name without values
        let is_open = view.combination.is_none() && plan.strategy.is_some();
        if is_open || !plan.name.contains("${{") {
            return plan.name.clone();
        }
        let mut contexts = self.of_run.clone();
        if let Some(called) = &view.called {
            contexts = contexts.with("inputs", json!(called.inputs));
        }
        let contexts = contexts.with("matrix", json!(plan.matrix)).with("strategy", strategy_context(plan));
        expr::render_template(&plan.name, &contexts).unwrap_or_else(|_| plan.name.clone())
    }

    fn explain(&self, view: &JobView) -> Option<ExplainedJob> {
        let job = self.plans.get(view.file_key())?;
        let name = self.name(view, &*self.plan(view)?);
        let (would_run, reason) = match self.fates.get(&view.key) {
            Some((true, _)) => (true, why_it_runs(job)),
            Some((false, reason)) => (false, reason.clone()),
            None => (false, "a job before it never ends".into()),
        };
        Some(ExplainedJob { matrix: view.matrix.clone(), ..explained(job, &name, would_run, reason) })
    }
}

fn why_it_runs(job: &JobPlan) -> String {
    let mut reason = match (job.needs.as_slice(), &job.called) {
        ([], None) => "it waits for nothing".to_owned(),
        ([], Some(called)) => format!("with {}, which calls it", called.by),
        (needs, _) => format!("after {}", needs.join(", ")),
    };
    match &job.condition {
        Some(condition) if is_open(job) => {
            reason.push_str(&format!("; if then `{condition}` holds, which is not known yet"))
        }
        Some(condition) => reason.push_str(&format!("; its condition `{condition}` holds")),
        None => {}
    }
    if let Some(call) = &job.call {
        reason.push_str(&format!("; it calls {}", call.file));
    }
    if is_matrix_open(job) {
        reason.push_str("; once for each combination of its matrix, which is not known yet");
    }
    if let Some(environment) = &job.environment {
        reason.push_str(&format!("; the environment `{environment}` may ask for an approval"));
    }
    if job.asks_for_container() {
        reason.push_str("; it asks for a container, and waits for a worker that offers `docker`");
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
