//! What expressions and processes of a job see.

use std::path::Path;

use indexmap::IndexMap;
use segue_pipelines::expr::{Contexts, StatusFunctions, Value, render_template};
use segue_schemas::{
    status::{Conclusion, StepStatus},
    worker_api::{JobClaim, StepReport},
};
use serde_json::{Map, Value as Json, json};

use super::{error::StepError, hash_files::hash_files, state::JobState, workspace::Workspace};

/// Where programs are looked for, after what steps put before it.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Beginnings of names that belong to the runner.
pub const RESERVED: [&str; 3] = ["SEGUE_", "GITHUB_", "RUNNER_"];

/// The file that holds what happened, in the directory of command files.
pub const EVENT_FILE: &str = "event.json";

/// What it holds: the same as the expression `github.event`. What the webhook brought besides is not kept with a run.
#[must_use]
pub fn event(claim: &JobClaim) -> String {
    claim.contexts.get("github").and_then(|github| github.get("event")).unwrap_or(&json!({})).to_string()
}

/// How the job stands, for conditions and for `job.status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing failed.
    Success,
    /// A step failed, or the time is up.
    Failure,
    /// It was cancelled.
    Cancelled,
}

impl Standing {
    /// As status functions of a condition.
    #[must_use]
    pub fn functions(self) -> StatusFunctions {
        StatusFunctions {
            success: self == Self::Success,
            failure: self == Self::Failure,
            cancelled: self == Self::Cancelled,
        }
    }

    /// As the job's end.
    #[must_use]
    pub const fn conclusion(self) -> Conclusion {
        match self {
            Self::Success => Conclusion::Success,
            Self::Failure => Conclusion::Failure,
            Self::Cancelled => Conclusion::Cancelled,
        }
    }
}

/// The contexts of a job but for `env`, `steps` and `job`, which change on the way.
#[must_use]
pub fn job_contexts(claim: &JobClaim, workspace: &Workspace, worker: &str) -> Contexts {
    let mut contexts = Contexts::new();
    for (name, value) in &claim.contexts {
        contexts.set(name, Value::from(value));
    }
    for name in ["needs", "vars", "inputs", "matrix"] {
        if contexts.get(name).is_none() {
            contexts.set(name, Value::from(json!({})));
        }
    }
    contexts.set("github", Value::from(github(claim, workspace)));
    contexts.set("runner", Value::from(runner(workspace, worker, claim.debug)));
    let secrets: Map<String, Json> = claim.secrets.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    contexts.set("secrets", Value::from(Json::Object(secrets)));
    let work = workspace.work();
    contexts.with_hash_files(move |patterns| hash_files(&work, patterns))
}

/// The context `steps`: those that have an id and ended.
#[must_use]
pub fn ended_steps(claim: &JobClaim, steps: &[StepReport]) -> Map<String, Json> {
    let mut ended = Map::new();
    for report in steps {
        let Some(plan) = claim.plan.steps.get(report.index) else { continue };
        let (Some(id), Some(outcome)) = (&plan.id, report.outcome) else { continue };
        let forgiven = outcome == Conclusion::Failure && report.status == StepStatus::Succeeded;
        ended.insert(id.clone(), ended_step(&report.outputs, outcome, forgiven));
    }
    ended
}

/// One of them.
#[must_use]
pub fn ended_step(outputs: &IndexMap<String, String>, outcome: Conclusion, forgiven: bool) -> Json {
    let conclusion = if forgiven { Conclusion::Success } else { outcome };
    json!({ "outputs": outputs, "outcome": outcome.as_str(), "conclusion": conclusion.as_str() })
}

/// These contexts with `steps`, `job` and `env` as they stand.
#[must_use]
pub fn step_contexts(
    base: &Contexts,
    steps: &Map<String, Json>,
    standing: Standing,
    env: &IndexMap<String, String>,
) -> Contexts {
    let mut contexts = base.clone();
    contexts.set("steps", Value::from(Json::Object(steps.clone())));
    contexts.set("job", Value::from(json!({ "status": standing.conclusion().as_str() })));
    contexts.set("env", env_context(env));
    contexts
}

/// The contexts of a composite action: its inputs, and nothing of the job's steps, needs, variables and secrets.
#[must_use]
pub fn action_contexts(job: &Contexts, inputs: &IndexMap<String, String>) -> Contexts {
    let mut contexts = job.clone();
    for name in ["needs", "vars", "secrets"] {
        contexts.set(name, Value::from(json!({})));
    }
    contexts.set("inputs", Value::from(json!(inputs)));
    contexts
}

/// The environment of texts: each layer is evaluated with those before it as `env`, and overlays them.
///
/// # Errors
/// [`StepError::Configuration`] naming the variable.
pub fn overlay_env(
    env: &mut IndexMap<String, String>,
    layer: &IndexMap<String, String>,
    contexts: &Contexts,
) -> Result<(), StepError> {
    let mut contexts = contexts.clone();
    contexts.set("env", env_context(env));
    for (name, template) in layer {
        let value = render(&format!("`env: {name}`"), template, &contexts)?;
        env.insert(name.clone(), value);
    }
    Ok(())
}

/// A text with its expressions evaluated.
///
/// # Errors
/// [`StepError::Configuration`] that begins with `what`.
pub fn render(what: &str, template: &str, contexts: &Contexts) -> Result<String, StepError> {
    render_template(template, contexts).map_err(|error| StepError::Configuration(format!("{what}: {error}")))
}

/// What surrounds a process.
#[derive(Debug, Clone, Copy)]
pub struct Within<'a> {
    /// Whom it runs as; in a container, whose image says who that is, `None`.
    pub user: Option<&'a str>,
    /// Where it looks for programs, after what steps put before it.
    pub path: &'a str,
    /// Whether the worker offers GPUs: then a job sees those that it was given, and no other.
    pub offers_gpus: bool,
}

/// The whole environment of a process.
#[must_use]
pub fn process_env(
    claim: &JobClaim,
    workspace: &Workspace,
    worker: &str,
    within: Within<'_>,
    state: &JobState,
    env: &IndexMap<String, String>,
    command_files: &[(&str, &Path)],
) -> Vec<(String, String)> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut all: IndexMap<String, String> = [
        ("CI", "true".to_owned()),
        ("SEGUE", "true".to_owned()),
        ("HOME", text(&workspace.home())),
        ("TMPDIR", text(&workspace.temp())),
        ("SHELL", "/bin/sh".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    match within.user {
        Some(user) => {
            all.insert("USER".into(), user.to_owned());
            all.insert("LOGNAME".into(), user.to_owned());
        }
        // the worker's task that checked the repository out ran as somebody else than who looks at it now
        None => all.extend(
            [("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "safe.directory"), ("GIT_CONFIG_VALUE_0", "*")]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        ),
    }
    let contexts = [
        (github(claim, workspace), "GITHUB_", "SEGUE_"),
        (runner(workspace, worker, claim.debug), "RUNNER_", "SEGUE_RUNNER_"),
    ];
    for (context, theirs, ours) in contexts {
        for (name, value) in context.as_object().into_iter().flatten() {
            let Some(value) = scalar(value) else { continue };
            let name = name.to_uppercase();
            all.insert(format!("{ours}{name}"), value.clone());
            all.insert(format!("{theirs}{name}"), value);
        }
    }
    // grows with each start of the job: whoever a step speaks to can tell a late word from a new one by it
    all.insert("SEGUE_EPOCH".into(), claim.epoch.to_string());
    if claim.debug {
        all.insert("SEGUE_DEBUG".into(), "1".into());
    }
    if let Some(environment) = &claim.plan.environment {
        all.insert("SEGUE_ENVIRONMENT".into(), environment.clone());
    }
    for (name, path) in command_files {
        all.insert(format!("SEGUE_{name}"), text(path));
        all.insert(format!("GITHUB_{name}"), text(path));
    }
    all.extend(env.iter().map(|(name, value)| (name.clone(), value.clone())));
    if within.offers_gpus {
        // by UUID, as numbers change with a restart of the machine; empty: none
        all.insert("CUDA_VISIBLE_DEVICES".into(), claim.gpus.join(","));
    }
    let path = env.get("PATH").map_or(within.path, String::as_str);
    let path = state.path.iter().rev().map(String::as_str).chain([path]).collect::<Vec<_>>().join(":");
    all.insert("PATH".into(), path);
    all.into_iter().collect()
}

fn env_context(env: &IndexMap<String, String>) -> Value {
    Value::object(env.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))))
}

/// The context that came with the claim, and what only the worker knows or what every job has.
fn github(claim: &JobClaim, workspace: &Workspace) -> Json {
    let mut github = claim.contexts.get("github").and_then(Json::as_object).cloned().unwrap_or_default();
    let mut default = |name: &str, value: Json| {
        github.entry(name).or_insert(value);
    };
    default("repository", json!(claim.repository));
    default("sha", json!(claim.commit.as_str()));
    default("run_id", json!(claim.run.to_string()));
    default("run_attempt", json!(claim.attempt.to_string()));
    default("workflow", json!(claim.pipeline));
    github.insert("job".into(), json!(claim.plan.key));
    github.insert("workspace".into(), json!(workspace.work().to_string_lossy()));
    github.insert("event_path".into(), json!(workspace.commands().join(EVENT_FILE).to_string_lossy()));
    Json::Object(github)
}

fn runner(workspace: &Workspace, worker: &str, debug: bool) -> Json {
    let mut runner = json!({
        "name": worker,
        "os": "Linux",
        "arch": match std::env::consts::ARCH { "x86_64" => "X64", "aarch64" => "ARM64", other => other },
        "temp": workspace.temp().to_string_lossy(),
        "environment": "self-hosted",
    });
    // there only where it is asked for, as at GitHub
    if let (true, Some(runner)) = (debug, runner.as_object_mut()) {
        runner.insert("debug".into(), json!("1"));
    }
    runner
}

fn scalar(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(value) => Some(value.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}
