//! Check runs. <https://docs.github.com/en/rest/checks/runs>

use std::time::Instant;

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Asked, State,
    access::{Level, is_integration, may},
    answer::{Answer, page},
};

/// Annotations of one request.
const ANNOTATIONS: usize = 50;
/// Buttons of one check run.
const ACTIONS: usize = 3;
/// Characters of a summary, and of a text.
const LONGEST: usize = 65_535;
const STATUSES: [&str; 3] = ["queued", "in_progress", "completed"];
const CONCLUSIONS: [&str; 7] =
    ["action_required", "cancelled", "failure", "neutral", "success", "skipped", "timed_out"];

/// A check run as people see it.
#[derive(Debug, Clone, Default)]
pub struct CheckRun {
    /// GitHub's number.
    pub id: u64,
    /// `owner/name`
    pub repository: String,
    /// Its name.
    pub name: String,
    /// The commit.
    pub head_sha: String,
    /// `queued`, `in_progress`, `completed`
    pub status: String,
    /// How it was completed.
    pub conclusion: Option<String>,
    /// What the App knows it by.
    pub external_id: String,
    /// The output's title.
    pub title: String,
    /// The output's summary.
    pub summary: String,
    /// All annotations that were sent.
    pub annotations: Vec<Value>,
    /// Where there is more.
    pub details_url: Option<String>,
    /// The identifiers of its buttons.
    pub actions: Vec<String>,
    /// The states that it went through, and when each was there.
    pub history: Vec<(Instant, String)>,
}

/// `POST /repos/{owner}/{repo}/check-runs`
pub(super) fn create(state: &mut State, asked: &Asked, repository: &str) -> Result<Answer, Answer> {
    is_integration(state, asked)?;
    may(state, asked, repository, "checks", Level::Write)?;
    let text = |field: &str| match &asked.body[field] {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        Value::Null => Err(Answer::invalid(&format!("\"{field}\" wasn't supplied."))),
        other => Err(Answer::invalid(&format!("{other} is not a string."))),
    };
    let (name, head_sha) = (text("name")?, text("head_sha")?);
    check(asked.body, &["title", "summary"])?;
    let known = state.repositories.get(repository).is_some_and(|known| known.has_commit(&head_sha));
    if !known {
        let message = format!("No commit found for SHA: {head_sha}");
        return Err(Answer::refusal(StatusCode::UNPROCESSABLE_ENTITY, &message));
    }
    let id = state.next_id();
    let mut run =
        CheckRun { id, repository: repository.into(), name, head_sha, status: "queued".into(), ..CheckRun::default() };
    change(&mut run, asked.body);
    let body = shown(&run);
    state.check_runs.push(run);
    Ok(Answer::json(StatusCode::CREATED, body))
}

/// `PATCH /repos/{owner}/{repo}/check-runs/{check_run_id}`
pub(super) fn update(state: &mut State, asked: &Asked, repository: &str, id: &str) -> Result<Answer, Answer> {
    is_integration(state, asked)?;
    may(state, asked, repository, "checks", Level::Write)?;
    check(asked.body, &["summary"])?;
    let run = state.check_runs.iter_mut().find(|run| run.repository == repository && run.id.to_string() == id);
    let run = run.ok_or_else(Answer::not_found)?;
    change(run, asked.body);
    Ok(Answer::ok(shown(run)))
}

/// `GET /repos/{owner}/{repo}/commits/{ref}/check-runs`: the newest of each name, or with `filter=all` every one.
pub(super) fn list(state: &State, asked: &Asked, repository: &str, commit: &str) -> Result<Answer, Answer> {
    may(state, asked, repository, "checks", Level::Read)?;
    let is_all = asked.query.get("filter").is_some_and(|filter| filter == "all");
    let of_commit = || state.check_runs.iter().filter(|run| run.repository == repository && run.head_sha == commit);
    let is_newest = |run: &CheckRun| !of_commit().any(|other| other.name == run.name && other.id > run.id);
    let named = |run: &&CheckRun| asked.query.get("check_name").is_none_or(|name| *name == run.name);
    let found: Vec<Value> = of_commit().rev().filter(named).filter(|run| is_all || is_newest(run)).map(shown).collect();
    let total = found.len();
    let (items, link) = page(found, asked, &state.url);
    let answer = Answer::ok(json!({"total_count": total, "check_runs": items}));
    Ok(match link {
        Some(link) => answer.with("link", link),
        None => answer,
    })
}

/// What a body must hold, and may not.
fn check(body: &Value, required_of_output: &[&str]) -> Result<(), Answer> {
    one_of(&body["status"], &STATUSES)?;
    one_of(&body["conclusion"], &CONCLUSIONS)?;
    if body["status"] == "completed" && body["conclusion"].is_null() {
        return Err(Answer::invalid("\"conclusion\" wasn't supplied."));
    }
    if body["details_url"].as_str().is_some_and(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
        return Err(Answer::validation("CheckRun", "details_url", "invalid"));
    }
    if let Some(actions) = body["actions"].as_array() {
        if actions.len() > ACTIONS {
            return Err(Answer::validation("CheckRun", "actions", "invalid"));
        }
        for action in actions {
            for (field, longest) in [("label", 20), ("description", 40), ("identifier", 20)] {
                bounded(action, field, longest)?;
            }
        }
    }
    let output = &body["output"];
    if output.is_null() {
        return Ok(());
    }
    for field in required_of_output {
        if output[field].as_str().is_none_or(str::is_empty) {
            return Err(Answer::invalid(&format!("For 'properties/output', \"{field}\" wasn't supplied.")));
        }
    }
    for field in ["summary", "text"] {
        if output[field].as_str().is_some_and(|text| text.chars().count() > LONGEST) {
            return Err(Answer::invalid(&format!("{field} is too long (maximum is {LONGEST} characters)")));
        }
    }
    let annotations = output["annotations"].as_array().map_or(&[][..], Vec::as_slice);
    if annotations.len() > ANNOTATIONS {
        return Err(Answer::invalid(&format!(
            "No more than {ANNOTATIONS} items are allowed; {} were supplied.",
            annotations.len()
        )));
    }
    annotations.iter().try_for_each(check_annotation)
}

fn check_annotation(annotation: &Value) -> Result<(), Answer> {
    bounded(annotation, "path", 4096)?;
    bounded(annotation, "message", 64 * 1024)?;
    if !annotation["title"].is_null() {
        bounded(annotation, "title", 255)?;
    }
    one_of(&annotation["annotation_level"], &["notice", "warning", "failure"])?;
    let (Some(start), Some(end)) = (annotation["start_line"].as_u64(), annotation["end_line"].as_u64()) else {
        return Err(Answer::invalid("\"start_line\" and \"end_line\" are required of an annotation."));
    };
    let has_columns = !annotation["start_column"].is_null() || !annotation["end_column"].is_null();
    if annotation["annotation_level"].is_null() || end < start || (has_columns && start != end) {
        return Err(Answer::validation("CheckAnnotation", "data", "invalid"));
    }
    if annotation["path"].as_str().is_some_and(|path| path.starts_with('/')) {
        return Err(Answer::validation("CheckAnnotation", "path", "invalid"));
    }
    Ok(())
}

fn bounded(value: &Value, field: &str, longest: usize) -> Result<(), Answer> {
    match value[field].as_str() {
        Some(text) if !text.is_empty() && text.chars().count() <= longest => Ok(()),
        Some(_) => Err(Answer::invalid(&format!("{field} is too long (maximum is {longest} characters)"))),
        None => Err(Answer::invalid(&format!("\"{field}\" wasn't supplied."))),
    }
}

fn one_of(value: &Value, words: &[&str]) -> Result<(), Answer> {
    match value {
        Value::Null => Ok(()),
        Value::String(word) if words.contains(&word.as_str()) => Ok(()),
        other => Err(Answer::invalid(&format!("{other} is not a member of {words:?}."))),
    }
}

/// Annotations are added to those that are there; everything else takes the place of what was. A conclusion completes.
fn change(run: &mut CheckRun, body: &Value) {
    let set = |field: &mut String, value: &Value| {
        if let Some(text) = value.as_str() {
            text.clone_into(field);
        }
    };
    set(&mut run.name, &body["name"]);
    set(&mut run.external_id, &body["external_id"]);
    set(&mut run.status, &body["status"]);
    if let Some(conclusion) = body["conclusion"].as_str() {
        run.conclusion = Some(conclusion.into());
        run.status = "completed".into();
    } else if run.status != "completed" {
        run.conclusion = None;
    }
    if let Some(url) = body["details_url"].as_str() {
        run.details_url = Some(url.to_owned());
    }
    set(&mut run.title, &body["output"]["title"]);
    set(&mut run.summary, &body["output"]["summary"]);
    run.annotations.extend(body["output"]["annotations"].as_array().into_iter().flatten().cloned());
    if let Some(actions) = body["actions"].as_array() {
        run.actions = actions.iter().filter_map(|action| action["identifier"].as_str().map(str::to_owned)).collect();
    }
    let word = run.conclusion.clone().unwrap_or_else(|| run.status.clone());
    if run.history.last().is_none_or(|(_, last)| *last != word) {
        run.history.push((Instant::now(), word));
    }
}

fn shown(run: &CheckRun) -> Value {
    json!({
        "id": run.id, "name": run.name, "head_sha": run.head_sha, "external_id": run.external_id, "status": run.status,
        "conclusion": run.conclusion, "app": {"id": super::APP_ID}, "pull_requests": [],
        "output": {
            "title": run.title, "summary": run.summary, "text": null, "annotations_count": run.annotations.len(),
        },
    })
}
