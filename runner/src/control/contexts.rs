//! What the expressions of a job can see of its run.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use segue_pipelines::{
    plan::{RunNumbers, github_context},
    progress::{JobView, needs_context, strategy_context},
};
use segue_schemas::{config::Config, plan::JobPlan, trigger::Trigger};
use serde_json::{Value, json};

use crate::store::tables::{jobs::Job, runs::Run};

/// The contexts `github`, `vars` and `inputs`.
pub(super) fn of_run(run: &Run, environment: Option<&str>, config: &Config) -> BTreeMap<String, Value> {
    BTreeMap::from([
        ("github".to_owned(), github(run)),
        ("vars".to_owned(), json!(variables(&run.trigger, environment, config))),
        ("inputs".to_owned(), json!(run.inputs)),
    ])
}

/// The same, for a job that is about to begin: one of a called pipeline has the inputs of the call.
pub(super) fn of_plan(run: &Run, plan: &JobPlan, config: &Config) -> BTreeMap<String, Value> {
    let mut contexts = of_run(run, plan.environment.as_deref(), config);
    if let Some(called) = &plan.called {
        contexts.insert("inputs".into(), json!(called.inputs));
    }
    contexts
}

/// Those, and `needs` and `matrix`.
pub(super) fn of_job(run: &Run, job: &Job, needs: &[Job], config: &Config) -> BTreeMap<String, Value> {
    let plan = &job.record.plan;
    let mut contexts = of_plan(run, plan, config);
    if let Some(Value::Object(github)) = contexts.get_mut("github") {
        github.insert("job".into(), plan.local_key().into());
    }
    let needed: Vec<JobView> = needs.iter().map(Job::view).collect();
    contexts.insert("needs".into(), needs_context(&plan.needs, &needed));
    contexts.insert("strategy".into(), strategy_context(plan));
    contexts.insert("matrix".into(), json!(plan.matrix));
    contexts
}

fn github(run: &Run) -> Value {
    let record = &run.record;
    let numbers = RunNumbers { id: record.id.0, number: record.id.0, attempt: record.attempt.into() };
    github_context(&run.trigger, &record.pipeline, numbers)
}

/// `vars`: the repository's, and over them the environment's.
fn variables(trigger: &Trigger, environment: Option<&str>, config: &Config) -> IndexMap<String, String> {
    let of_repository = config.repositories.get(&trigger.repository).map(|r| r.variables.clone()).unwrap_or_default();
    // a fork gets no further than its preview, and that without what the operator gave to previews
    let environment = environment.filter(|_| !trigger.event.is_from_fork(&trigger.repository));
    let of_environment = environment.and_then(|name| config.environments.get(name)).map(|e| e.variables.clone());
    of_repository.into_iter().chain(of_environment.unwrap_or_default()).collect()
}
