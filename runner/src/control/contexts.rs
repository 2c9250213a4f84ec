//! What the expressions of a job can see of its run.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use segue_schemas::{
    config::Config,
    status::Conclusion,
    trigger::{Event, Trigger},
};
use serde_json::{Value, json};

use crate::store::tables::{jobs::Job, runs::Run};

/// The contexts `github`, `vars` and `inputs`.
pub(super) fn of_run(run: &Run, environment: Option<&str>, config: &Config) -> BTreeMap<String, Value> {
    BTreeMap::from([
        ("github".to_owned(), github(run)),
        ("vars".to_owned(), json!(variables(&run.trigger, environment, config))),
        ("inputs".to_owned(), inputs(&run.trigger.event)),
    ])
}

/// Those, and `needs` and `matrix`.
pub(super) fn of_job(run: &Run, job: &Job, needs: &[Job], config: &Config) -> BTreeMap<String, Value> {
    let plan = &job.record.plan;
    let mut contexts = of_run(run, plan.environment.as_deref(), config);
    if let Some(Value::Object(github)) = contexts.get_mut("github") {
        github.insert("job".into(), plan.key.as_str().into());
    }
    let needs: serde_json::Map<String, Value> = needs
        .iter()
        .map(|need| {
            let result = need.view().result().map_or("", Conclusion::as_str);
            (need.record.plan.key.clone(), json!({ "result": result, "outputs": need.record.outputs }))
        })
        .collect();
    contexts.insert("needs".into(), needs.into());
    contexts.insert("matrix".into(), json!(plan.matrix));
    contexts
}

fn github(run: &Run) -> Value {
    let (record, event) = (&run.record, &run.trigger.event);
    let git_ref = record.git_ref.as_str();
    let (ref_type, ref_name) = match (git_ref.strip_prefix("refs/heads/"), git_ref.strip_prefix("refs/tags/")) {
        (Some(branch), _) => ("branch", branch),
        (_, Some(tag)) => ("tag", tag),
        _ => ("branch", git_ref.strip_prefix("refs/pull/").unwrap_or(git_ref)),
    };
    let (owner, _) = record.repository.split_once('/').unwrap_or((&record.repository, ""));
    let mut github = json!({
        "event_name": record.event,
        "ref": git_ref,
        "ref_name": ref_name,
        "ref_type": ref_type,
        "sha": record.commit,
        "repository": record.repository,
        "repository_owner": owner,
        "actor": record.actor,
        "workflow": record.pipeline,
        "run_id": record.id,
        "run_number": record.id,
        "run_attempt": record.attempt,
        "event": payload(event),
    });
    if let (Event::PullRequest { head_ref, base_ref, .. }, Value::Object(github)) = (event, &mut github) {
        github.insert("head_ref".into(), head_ref.as_str().into());
        github.insert("base_ref".into(), base_ref.as_str().into());
    }
    github
}

/// `github.event`, as far as it was kept.
fn payload(event: &Event) -> Value {
    match event {
        Event::Push { r#ref, before, after, message, forced } => json!({
            "ref": r#ref, "before": before, "after": after, "forced": forced,
            "head_commit": { "id": after, "message": message },
        }),
        Event::PullRequest { action, number, title, head_ref, head, base_ref, base, draft, head_repository } => json!({
            "action": action, "number": number,
            "pull_request": {
                "number": number, "title": title, "draft": draft,
                "head": { "ref": head_ref, "sha": head, "repo": { "full_name": head_repository } },
                "base": { "ref": base_ref, "sha": base },
            },
        }),
        Event::WorkflowDispatch { r#ref, inputs, .. } => json!({ "ref": r#ref, "inputs": inputs }),
    }
}

fn inputs(event: &Event) -> Value {
    match event {
        Event::WorkflowDispatch { inputs, .. } => json!(inputs),
        Event::Push { .. } | Event::PullRequest { .. } => json!({}),
    }
}

/// `vars`: the repository's, and over them the environment's.
fn variables(trigger: &Trigger, environment: Option<&str>, config: &Config) -> IndexMap<String, String> {
    let of_repository = config.repositories.get(&trigger.repository).map(|r| r.variables.clone()).unwrap_or_default();
    let of_environment = environment.and_then(|name| config.environments.get(name)).map(|e| e.variables.clone());
    of_repository.into_iter().chain(of_environment.unwrap_or_default()).collect()
}
