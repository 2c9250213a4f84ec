//! A job that calls another pipeline: the jobs of that begin with it, and it ends with the last of them.

use indexmap::IndexMap;
use segue_schemas::{
    plan::{CallInput, CallInputKind, CallPlan, Called, JobPlan},
    status::{FailureClass, JobStatus},
};
use serde_json::{Map, Value as Json, json};

use super::{
    Action, JobView, MAX_RUN_JOBS, RunView,
    groups::{Group, Groups},
    settle::shortened,
};
use crate::expr::{Contexts, Value, evaluate_template, render_template};

/// The jobs of a called pipeline as jobs of the run: below the key and the name of the job that called.
#[must_use]
pub fn called_jobs(call: &CallPlan, by: &str, name: &str, inputs: &IndexMap<String, Json>) -> Vec<JobPlan> {
    let below = |key: &String| format!("{by}/{key}");
    let job = |job: &JobPlan| JobPlan {
        key: below(&job.key),
        name: shortened(&format!("{name} / {}", job.name)),
        needs: job.needs.iter().map(below).collect(),
        called: Some(Called { by: by.to_owned(), inputs: inputs.clone(), env: call.env.clone() }),
        ..job.clone()
    };
    call.jobs.iter().map(job).collect()
}

/// What becomes of a job whose needs and condition let it call now. `others`: the jobs that the run has beside it.
pub(super) fn begin(job: &JobView, call: &CallPlan, contexts: &Contexts, others: usize) -> Action {
    let evaluated = |(name, input): (&String, &CallInput)| Ok((name.clone(), evaluate(name, input, contexts)?));
    let inputs: Result<IndexMap<String, Json>, String> = call.inputs.iter().map(evaluated).collect();
    let reason = match inputs {
        Ok(_) if others + call.jobs.len() >= MAX_RUN_JOBS => {
            format!("with the {} jobs of {} the run would have more than {MAX_RUN_JOBS}", call.jobs.len(), call.file)
        }
        Ok(inputs) => return Action::Call { job: job.key.clone(), inputs },
        Err(reason) => reason,
    };
    Action::Fail { job: job.key.clone(), class: FailureClass::Configuration, reason }
}

fn evaluate(name: &str, input: &CallInput, contexts: &Contexts) -> Result<Json, String> {
    let Some(template) = input.value.as_str().filter(|text| text.contains("${{")) else {
        return Ok(input.value.clone());
    };
    let failed = |error: String| format!("the input `{name}` cannot be evaluated: {error}");
    if input.kind == CallInputKind::String {
        return render_template(template, contexts).map(Json::from).map_err(|error| failed(error.to_string()));
    }
    let value = evaluate_template(template.trim(), contexts).map_err(|error| failed(error.to_string()))?;
    let misfit = |wanted: &str| Err(format!("the input `{name}` is `{}`, where {wanted} is expected", value.to_text()));
    match (input.kind, &value) {
        (CallInputKind::Boolean, Value::Bool(value)) => Ok(json!(value)),
        (CallInputKind::Boolean, Value::String(text)) if matches!(text.trim(), "true" | "false") => {
            Ok(json!(text.trim() == "true"))
        }
        (CallInputKind::Boolean, _) => misfit("`true` or `false`"),
        (CallInputKind::Number, Value::String(text)) if text.trim().is_empty() => misfit("a number"),
        (CallInputKind::Number, value) if value.is_primitive() && value.to_number().is_finite() => {
            Ok(number(value.to_number()))
        }
        (CallInputKind::Number | CallInputKind::String, _) => misfit("a number"),
    }
}

/// A number as it is written: `3`, not `3.0`.
fn number(number: f64) -> Json {
    // the largest whole numbers that are exact
    if number.fract() != 0.0 || number.abs() > 9.0e15 {
        return json!(number);
    }
    #[expect(clippy::cast_possible_truncation, reason = "a whole number within the limit above")]
    let whole = number as i64;
    json!(whole)
}

/// Whether it has called, and its jobs are at work.
pub(super) fn is_at_work(job: &JobView) -> bool {
    job.call.is_some() && job.status == JobStatus::Waiting
}

/// Where the jobs of a called pipeline have ended, how the job that called ends: as they did, with the outputs that are made of
/// theirs. `None` while one of them has not ended.
pub(super) fn end(job: &JobView, jobs: &[JobView], run: &RunView) -> Option<Action> {
    let call = job.call.as_ref()?;
    let is_part = |part: &&JobView| part.called.as_ref().is_some_and(|called| called.by == job.key);
    let parts: Vec<&JobView> = jobs.iter().filter(is_part).collect();
    let all = Group::of(&job.key, parts.clone());
    if !all.has_ended() {
        return None;
    }
    let ended = |status, outputs, reason| {
        let cause = (status == JobStatus::Skipped).then(|| all.skip_cause());
        Some(Action::Return { job: job.key.clone(), status, cause, outputs, reason })
    };
    let status = all.status();
    let reason = match status {
        JobStatus::Failed => all.failure().map(|failed| format!("`{}` failed", failed.key)),
        JobStatus::Skipped => Some(format!("every job of {} was skipped", call.file)),
        _ => None,
    };
    match outputs(call, &parts, run) {
        Ok(outputs) => ended(status, outputs, reason),
        Err(problem) => ended(JobStatus::Failed, IndexMap::new(), Some(reason.unwrap_or(problem))),
    }
}

fn outputs(call: &CallPlan, parts: &[&JobView], run: &RunView) -> Result<IndexMap<String, String>, String> {
    if call.outputs.is_empty() {
        return Ok(IndexMap::new());
    }
    let groups = Groups::new(parts.iter().copied());
    let jobs: Map<String, Json> =
        call.jobs.iter().filter_map(|job| Some((job.key.clone(), groups.ending_in(&job.key)?.context()))).collect();
    let inputs = parts.first().and_then(|part| part.called.as_ref()).map(|called| json!(called.inputs));
    let empty = Json::Object(Map::new());
    let contexts = ["github", "vars"]
        .into_iter()
        .fold(Contexts::new(), |contexts, name| contexts.with(name, run.contexts.get(name).unwrap_or(&empty)))
        .with("inputs", inputs.unwrap_or(empty.clone()))
        .with("jobs", Json::Object(jobs));
    let output = |(name, template): (&String, &String)| {
        let value = render_template(template, &contexts)
            .map_err(|error| format!("the output `{name}` of {} cannot be evaluated: {error}", call.file))?;
        Ok((name.clone(), value))
    };
    call.outputs.iter().map(output).collect()
}
