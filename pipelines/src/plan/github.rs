//! The `github` context: what expressions can see of the event.

use segue_schemas::trigger::{Event, Trigger};
use serde_json::{Value, json};

/// What `github.` can be followed by. The worker adds `event_path`, `job` and `workspace`, which are not known before.
pub const GITHUB_CONTEXT_KEYS: [&str; 19] = [
    "actor",
    "base_ref",
    "event",
    "event_name",
    "event_path",
    "head_ref",
    "job",
    "ref",
    "ref_name",
    "ref_type",
    "repository",
    "repository_owner",
    "run_attempt",
    "run_id",
    "run_number",
    "sha",
    "triggering_actor",
    "workflow",
    "workspace",
];

/// The numbers of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunNumbers {
    /// The run, unique in this installation.
    pub id: i64,
    /// The run among those of its pipeline; the id where nobody counts.
    pub number: i64,
    /// The attempt, from 1.
    pub attempt: i64,
}

/// The `github` context of a run. Names and shapes are GitHub's; `event` holds what of the payload was kept.
#[must_use]
pub fn github_context(trigger: &Trigger, pipeline: &str, run: RunNumbers) -> Value {
    let event = &trigger.event;
    let full_ref = event.git_ref();
    let (ref_type, ref_name) = match full_ref.strip_prefix("refs/tags/") {
        Some(tag) => ("tag", tag),
        None => (
            "branch",
            full_ref.strip_prefix("refs/heads/").or(full_ref.strip_prefix("refs/pull/")).unwrap_or(&full_ref),
        ),
    };
    let (head_ref, base_ref) = match event {
        Event::PullRequest { head_ref, base_ref, .. } => (head_ref.as_str(), base_ref.as_str()),
        _ => ("", ""),
    };
    let owner = trigger.repository.split('/').next().unwrap_or_default();
    json!({
        "actor": trigger.actor,
        "base_ref": base_ref,
        "event": payload(trigger),
        "event_name": event.name(),
        "head_ref": head_ref,
        "ref": full_ref,
        "ref_name": ref_name,
        "ref_type": ref_type,
        "repository": trigger.repository,
        "repository_owner": owner,
        "run_attempt": run.attempt.to_string(),
        "run_id": run.id.to_string(),
        "run_number": run.number.to_string(),
        "sha": event.commit().as_str(),
        "triggering_actor": trigger.actor,
        "workflow": pipeline,
    })
}

fn payload(trigger: &Trigger) -> Value {
    let (owner, name) = trigger.repository.split_once('/').unwrap_or(("", &trigger.repository));
    let mut payload = match &trigger.event {
        Event::Push { r#ref, before, after, message, forced } => json!({
            "ref": r#ref,
            "before": before.as_str(),
            "after": after.as_str(),
            "created": before.is_zero(),
            "deleted": after.is_zero(),
            "forced": forced,
            "head_commit": {"id": after.as_str(), "message": message},
        }),
        Event::PullRequest {
            action, number, title, head_ref, head, head_repository, base_ref, base, draft, ..
        } => json!({
            "action": action,
            "number": number,
            "pull_request": {
                "number": number,
                "title": title,
                "draft": draft,
                "head": {
                    "ref": head_ref,
                    "sha": head.as_str(),
                    "repo": head_repository.as_ref().map(|full_name| json!({"full_name": full_name})),
                },
                "base": {"ref": base_ref, "sha": base.as_str(), "repo": {"full_name": trigger.repository}},
            },
        }),
        Event::WorkflowDispatch { r#ref, inputs, .. } => json!({"ref": r#ref, "inputs": inputs}),
        Event::Schedule { cron, .. } => json!({"schedule": cron}),
        Event::RepositoryDispatch { r#ref, action, client_payload, .. } => json!({
            "action": action,
            "branch": r#ref.strip_prefix("refs/heads/"),
            "client_payload": client_payload,
        }),
        Event::IssueComment { action, number, is_pull_request, body, author_association, .. } => json!({
            "action": action,
            "issue": {"number": number, "pull_request": is_pull_request.then(|| json!({}))},
            "comment": {
                "body": body,
                "author_association": author_association,
                "user": {"login": trigger.actor},
            },
        }),
    };
    payload["repository"] = json!({"full_name": trigger.repository, "name": name, "owner": {"login": owner}});
    payload["sender"] = json!({"login": trigger.actor});
    payload
}
