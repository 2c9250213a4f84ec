//! What of a job is known only when its needs have ended: names, labels, limits that are expressions.

use std::collections::BTreeMap;

use segue_schemas::{
    id::is_name,
    plan::{Combination, ConcurrencyPlan, JobPlan, Late, Setting},
};
use serde_json::{Value as Json, json};

use crate::expr::{Contexts, Value, evaluate_template, render_template};

/// The longest time limit of a job: 30 days.
const LONGEST_MINUTES: f64 = 30.0 * 24.0 * 60.0;
/// The longest name of a job, in characters, and of a concurrency group: GitHub's limits.
const LONGEST_NAME: usize = 100;
const LONGEST_GROUP: usize = 400;
/// The most labels of a job, and the longest.
const MAX_LABELS: usize = 32;
const LONGEST_LABEL: usize = 256;

/// Whether nothing in the plan is left to be evaluated before the job is queued.
#[must_use]
pub fn is_settled(plan: &JobPlan) -> bool {
    let open = |text: &String| text.contains("${{");
    plan.late.is_empty()
        && !open(&plan.name)
        && !plan.runs_on.iter().any(open)
        && !plan.environment.as_ref().is_some_and(open)
        && plan.concurrency.as_ref().is_none_or(is_evaluated)
}

fn is_evaluated(concurrency: &ConcurrencyPlan) -> bool {
    let group = &concurrency.group;
    !group.contains("${{") && *group == group.trim().to_lowercase() && concurrency.cancel_in_progress.fixed().is_some()
}

/// The plan of a job that is about to be queued, with these evaluated: name, labels, environment, time limit, whether it may
/// fail, concurrency. `contexts`: `github`, `vars`, `inputs` and `needs`; those of the matrix are the plan's own.
///
/// # Errors
/// What is wrong, naming the key, for people.
pub fn settle(plan: &JobPlan, contexts: &BTreeMap<String, Json>) -> Result<JobPlan, String> {
    let mut visible = Contexts::new();
    for name in ["github", "vars", "inputs", "needs"] {
        visible.set(name, contexts.get(name).map_or_else(|| Value::object([]), Value::from));
    }
    visible.set("matrix", Value::from(json!(plan.matrix)));
    visible.set("strategy", Value::from(strategy_context(plan)));
    let mut settled = plan.clone();
    settled.name = name(plan, &visible)?;
    settled.runs_on = labels(plan, &visible)?;
    settled.environment = environment(plan, &visible)?;
    if let Some(template) = &plan.late.timeout_minutes {
        settled.timeout_seconds = seconds(template, &visible)?;
    }
    if let Some(template) = &plan.late.continue_on_error {
        settled.continue_on_error = evaluated(&Setting::Late(template.clone()), "continue-on-error", &visible)?;
    }
    settled.concurrency = plan.concurrency.as_ref().map(|plan| concurrency(plan, &visible)).transpose()?;
    settled.late = Late::default();
    Ok(settled)
}

/// `strategy`, as expressions of a job see it. One without a matrix is the only one of its kind.
#[must_use]
pub fn strategy_context(plan: &JobPlan) -> Json {
    of_combination(plan.combination.as_ref())
}

pub(super) fn of_combination(combination: Option<&Combination>) -> Json {
    let (index, total, fail_fast, max_parallel) =
        combination.map_or((0, 1, true, None), |part| (part.index, part.total, part.fail_fast, part.max_parallel));
    json!({
        "fail-fast": fail_fast,
        "job-index": index,
        "job-total": total,
        "max-parallel": max_parallel.unwrap_or(total),
    })
}

/// `concurrency`, evaluated.
pub(super) fn concurrency(plan: &ConcurrencyPlan, contexts: &Contexts) -> Result<ConcurrencyPlan, String> {
    let group = render(&plan.group, "concurrency.group", contexts)?.trim().to_lowercase();
    if group.is_empty() {
        return Err(format!("`concurrency.group` is empty: `{}` says nothing here", plan.group));
    }
    if group.chars().count() > LONGEST_GROUP {
        return Err(format!("`concurrency.group` is longer than {LONGEST_GROUP} characters"));
    }
    let cancel = evaluated(&plan.cancel_in_progress, "concurrency.cancel-in-progress", contexts)?;
    Ok(ConcurrencyPlan { group, cancel_in_progress: Setting::Fixed(cancel) })
}

/// What a setting can be.
pub(super) trait Scalar: Copy {
    const WANTED: &'static str;
    fn of(value: &Value) -> Option<Self>;
}

impl Scalar for bool {
    const WANTED: &'static str = "`true` or `false`";
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(*value),
            Value::String(text) => text.trim().to_ascii_lowercase().parse().ok(),
            Value::Null => Some(false),
            _ => None,
        }
    }
}

impl Scalar for u32 {
    const WANTED: &'static str = "a whole number from 1 on";
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the limits of the guard")]
    fn of(value: &Value) -> Option<Self> {
        let number = value.to_number();
        (value.is_primitive() && number.fract() == 0.0 && (1.0..=f64::from(Self::MAX)).contains(&number))
            .then_some(number as Self)
    }
}

/// The value of a setting.
pub(super) fn evaluated<T: Scalar>(setting: &Setting<T>, key: &str, contexts: &Contexts) -> Result<T, String> {
    let template = match setting {
        Setting::Fixed(value) => return Ok(*value),
        Setting::Late(template) => template,
    };
    let value = evaluate_template(template.trim(), contexts).map_err(|error| format!("`{key}`: {error}"))?;
    T::of(&value).ok_or_else(|| format!("`{key}` is `{}`, where {} is expected", value.to_text(), T::WANTED))
}

/// The name on one line; the key where it says nothing.
fn name(plan: &JobPlan, contexts: &Contexts) -> Result<String, String> {
    if !plan.name.contains("${{") {
        return Ok(plan.name.clone());
    }
    let name = render(&plan.name, "name", contexts)?;
    let line = name.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(if line.is_empty() { plan.key.clone() } else { shortened(&line) })
}

/// A name as GitHub would cut it.
pub(super) fn shortened(name: &str) -> String {
    if name.chars().count() <= LONGEST_NAME {
        return name.to_owned();
    }
    name.chars().take(LONGEST_NAME - 3).chain("...".chars()).collect()
}

fn labels(plan: &JobPlan, contexts: &Contexts) -> Result<Vec<String>, String> {
    let mut labels: Vec<String> = Vec::new();
    for text in &plan.runs_on {
        if !text.contains("${{") {
            labels.push(text.clone());
            continue;
        }
        let value = evaluate_template(text.trim(), contexts).map_err(|error| format!("`runs-on`: {error}"))?;
        match &value {
            Value::Array(items) if items.iter().all(Value::is_primitive) => {
                labels.extend(items.iter().map(|item| item.to_text().trim().to_owned()));
            }
            Value::Array(_) | Value::Object(_) => {
                return Err(format!("`runs-on` is {}, where a label or a list of labels is expected", value.kind()));
            }
            label => labels.push(label.to_text().trim().to_owned()),
        }
    }
    for label in &labels {
        // a comma parts labels where they are stored
        if label.is_empty() || label.contains(',') || label.chars().count() > LONGEST_LABEL {
            return Err(format!("`runs-on`: `{label}` cannot be a label"));
        }
    }
    if labels.len() > MAX_LABELS {
        return Err(format!("`runs-on` has {} labels, and {MAX_LABELS} are the limit", labels.len()));
    }
    Ok(labels)
}

/// The environment; an expression that says nothing names none.
fn environment(plan: &JobPlan, contexts: &Contexts) -> Result<Option<String>, String> {
    let Some(text) = &plan.environment else { return Ok(None) };
    let name = render(text, "environment", contexts)?.trim().to_owned();
    if name.is_empty() {
        return Ok(None);
    }
    if !is_name(&name) {
        return Err(format!("`environment`: `{name}` cannot name an environment"));
    }
    Ok(Some(name))
}

fn seconds(template: &str, contexts: &Contexts) -> Result<u64, String> {
    let value = evaluate_template(template.trim(), contexts).map_err(|error| format!("`timeout-minutes`: {error}"))?;
    let (minutes, seconds) = (value.to_number(), (value.to_number() * 60.0).round());
    if !(value.is_primitive() && minutes <= LONGEST_MINUTES && seconds >= 1.0) {
        return Err(format!(
            "`timeout-minutes` is `{}`, and more than 0 up to {LONGEST_MINUTES} (30 days) is allowed",
            value.to_text()
        ));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the limits above")]
    Ok(seconds as u64)
}

fn render(template: &str, key: &str, contexts: &Contexts) -> Result<String, String> {
    render_template(template, contexts).map_err(|error| format!("`{key}`: {error}"))
}
