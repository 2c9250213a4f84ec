//! `segue explain`: what an event would start, and why.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use indexmap::IndexMap;
use segue_pipelines::plan::{ExplainedPipeline, explain};
use segue_runner::{
    store::Clock,
    webhook::{PayloadMeaning as Meaning, Upkeep, read_payload},
};
use segue_schemas::{
    id::CommitSha,
    trigger::{Event, Trigger},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    ending::{Exit, Explain as _, Failure},
    out::say,
    pipeline_files::{self, Kind, SourceFile},
    show, validate,
};

/// Say what an event would start, and why
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue explain .\n  \
    segue explain . --ref releases/2 --changed src/main.rs --changed docs/a.md\n  \
    segue explain .segue/pipelines/test.yml --event pull_request --ref main\n  \
    segue explain . --event push --payload delivery.json --json\n  \
    segue explain . --event workflow_dispatch --input version=12\n  \
    segue explain . --event schedule\n\n\
    Jobs are explained as if every job before them ended well. Exit code 1: a file is broken.")]
pub struct Args {
    /// A pipeline, or a folder with a repository
    #[arg(default_value = ".", value_name = "PATH")]
    path: PathBuf,
    /// What happens
    #[arg(long, value_enum, default_value = "push")]
    event: EventName,
    /// The webhook's payload; what it leaves out is made up
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    /// The branch (`main`) or full ref (`refs/tags/v1`); of a pull request, the branch that it goes to
    #[arg(long = "ref", value_name = "REF")]
    git_ref: Option<String>,
    /// What happened to the pull request or comment, or the type of the repository dispatch [default: the payload's, else
    /// opened, created, any]
    #[arg(long, value_name = "TYPE")]
    action: Option<String>,
    /// The message of the newest commit, or the text of the comment [default: the payload's]
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
    /// An input of a run by hand; may be repeated
    #[arg(long = "input", value_name = "NAME=VALUE", value_parser = super::run::pair)]
    inputs: Vec<(String, String)>,
    /// A file that changed; may be repeated [default: those of the payload's commits, else not known]
    #[arg(long, value_name = "FILE")]
    changed: Vec<String>,
    /// Print {"pipelines":[{"file","name","matches","reason","jobs":[...]}]}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum EventName {
    Push,
    PullRequest,
    Schedule,
    WorkflowDispatch,
    RepositoryDispatch,
    IssueComment,
}

/// An event as far as it is told; the rest is made up.
#[derive(Debug, Clone, Copy)]
pub struct Told<'t> {
    /// Which.
    pub event: EventName,
    /// The branch or full ref.
    pub git_ref: Option<&'t str>,
    /// What happened to the pull request or comment, or the type of a repository dispatch.
    pub action: Option<&'t str>,
    /// The message of the newest commit, or the text of the comment.
    pub message: Option<&'t str>,
    /// The inputs of a run by hand.
    pub inputs: &'t [(String, String)],
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Explained<'e> {
    pipelines: &'e [ExplainedPipeline],
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    let sources: Vec<SourceFile> =
        pipeline_files::collect(&args.path)?.into_iter().filter(|file| file.kind == Kind::Pipeline).collect();
    if sources.is_empty() {
        let failure = Failure::usage(format_args!("{} holds no pipeline", args.path.display()));
        return Err(failure.remedy("pipelines lie in `.segue/pipelines/*.yml`"));
    }
    let given = payload(args.payload.as_deref())?;
    let mut beside = pipeline_files::beside(&sources)?;
    beside.retain(|file| sources.iter().all(|source| source.name != file.name));
    let files: Vec<(&str, &str)> =
        sources.iter().chain(&beside).map(|file| (file.name.as_str(), file.text.as_str())).collect();
    let changed = changed_files(args, &given);
    let told = Told {
        event: args.event,
        git_ref: args.git_ref.as_deref(),
        action: args.action.as_deref(),
        message: args.message.as_deref(),
        inputs: &args.inputs,
    };
    let explained = match trigger(told, given)? {
        Meaning::Trigger(trigger) | Meaning::Comment(trigger, _) => {
            let mut explained = explain(&files, &trigger, changed.as_deref());
            explained.truncate(sources.len());
            explained
        }
        Meaning::Asks(_) => {
            return Err(Failure::new("this event asks something of runs that are there, and starts none of its own"));
        }
        Meaning::Ignored { reason, .. } | Meaning::Upkeep(Upkeep { reason, .. }) => {
            sources.iter().map(|file| ExplainedPipeline::ignored(&file.name, &reason)).collect()
        }
    };
    if args.json {
        show::json(&Explained { pipelines: &explained })?;
    } else {
        for (pipeline, source) in explained.iter().zip(&sources) {
            print(pipeline, source)?;
        }
    }
    let broken = explained.iter().any(|pipeline| pipeline.is_broken);
    Ok(if broken { Exit::Failed } else { Exit::Done })
}

/// The files that the payload's commits touch, unless the command line names some; `None` where nobody knows.
fn changed_files(args: &Args, payload: &Value) -> Option<Vec<String>> {
    if !args.changed.is_empty() {
        return Some(args.changed.clone());
    }
    let commits = payload.get("commits")?.as_array()?;
    let mut files = Vec::new();
    for commit in commits {
        for key in ["added", "modified", "removed"] {
            let named = commit.get(key).and_then(Value::as_array).into_iter().flatten();
            files.extend(named.filter_map(|file| file.as_str().map(String::from)));
        }
    }
    Some(files)
}

/// The event, read by the code that reads deliveries: made up where nothing is given, then as the payload says, then as
/// the command line says.
///
/// # Errors
/// The payload is none of that event.
pub fn trigger(told: Told<'_>, given: Value) -> Result<Meaning, Failure> {
    let full_ref = told.git_ref.map(full_ref);
    match told.event {
        EventName::Push => {
            let mut payload = json!({
                "ref": "refs/heads/main", "before": "1".repeat(40), "after": "2".repeat(40),
                "repository": {"full_name": "owner/name"}, "sender": {"login": "somebody"},
            });
            merge(&mut payload, given);
            if let Some(full_ref) = full_ref {
                payload["ref"] = full_ref.into();
            }
            if let Some(message) = told.message {
                payload["head_commit"] = json!({"message": message});
            }
            read("push", &payload)
        }
        EventName::PullRequest => {
            let mut payload = json!({
                "action": "opened",
                "number": 1,
                "pull_request": {
                    "number": 1, "title": "A change",
                    "head": {"ref": "topic", "sha": "2".repeat(40), "repo": {"full_name": "owner/name"}},
                    "base": {"ref": "main", "sha": "1".repeat(40)},
                },
                "repository": {"full_name": "owner/name"},
                "sender": {"login": "somebody"},
            });
            merge(&mut payload, given);
            if let Some(git_ref) = told.git_ref {
                payload["pull_request"]["base"]["ref"] = git_ref.trim_start_matches("refs/heads/").into();
            }
            if let Some(action) = told.action {
                payload["action"] = action.into();
            }
            if let Some(message) = told.message {
                payload["pull_request"]["head_message"] = message.into();
            }
            read("pull_request", &payload)
        }
        EventName::RepositoryDispatch => {
            let mut payload = json!({
                "action": "any", "branch": "main", "client_payload": {},
                "repository": {"full_name": "owner/name"}, "sender": {"login": "somebody"},
            });
            merge(&mut payload, given);
            if let Some(action) = told.action {
                payload["action"] = action.into();
            }
            read("repository_dispatch", &payload)
        }
        EventName::IssueComment => {
            let mut payload = json!({
                "action": "created",
                "issue": {"number": 1, "pull_request": {}},
                "comment": {"body": "", "author_association": "MEMBER"},
                "repository": {"full_name": "owner/name", "default_branch": "main"},
                "sender": {"login": "somebody"},
            });
            merge(&mut payload, given);
            if let Some(action) = told.action {
                payload["action"] = action.into();
            }
            if let Some(message) = told.message {
                payload["comment"]["body"] = message.into();
            }
            read("issue_comment", &payload)
        }
        EventName::WorkflowDispatch | EventName::Schedule => {
            let text = |key: &str| given.pointer(key).and_then(Value::as_str).map(String::from);
            let mut inputs: IndexMap<String, String> = match given.get("inputs").and_then(Value::as_object) {
                Some(inputs) => inputs.iter().map(|(key, value)| (key.clone(), plain(value))).collect(),
                None => IndexMap::new(),
            };
            let commit: CommitSha = "2".repeat(40).parse().explain("cannot make up a commit")?;
            inputs.extend(told.inputs.iter().cloned());
            let full_ref = full_ref.or_else(|| text("/ref")).unwrap_or_else(|| "refs/heads/main".into());
            let event = if told.event == EventName::Schedule {
                let (cron, timezone, due) = (text("/schedule"), text("/timezone"), Clock::system().now());
                Event::Schedule { r#ref: full_ref, commit, file: None, cron, timezone, due }
            } else {
                Event::WorkflowDispatch { r#ref: full_ref, commit, pipeline: None, inputs }
            };
            Ok(Meaning::Trigger(Box::new(Trigger {
                repository: text("/repository/full_name").unwrap_or_else(|| "owner/name".into()),
                clone_url: None,
                actor: text("/sender/login").unwrap_or_else(|| "somebody".into()),
                authors: Vec::new(),
                event,
            })))
        }
    }
}

fn read(event: &str, payload: &Value) -> Result<Meaning, Failure> {
    read_payload(event, payload.to_string().as_bytes())
        .map_err(|error| Failure::usage(format_args!("the payload is no `{event}` event: {error}")))
}

fn full_ref(name: &str) -> String {
    if name.starts_with("refs/") { name.to_owned() } else { format!("refs/heads/{name}") }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

/// Puts the entries of `over` into `base`, mappings into mappings.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// A webhook's payload from a file; nothing where none is named.
///
/// # Errors
/// The file holds no JSON object.
pub fn payload(file: Option<&Path>) -> Result<Value, Failure> {
    file.map_or_else(|| Ok(json!({})), read_json)
}

fn read_json(file: &Path) -> Result<Value, Failure> {
    let shown = file.display();
    let bytes = std::fs::read(file).map_err(|error| Failure::usage(format_args!("cannot read {shown}: {error}")))?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::usage(format_args!("{shown} is not readable JSON: {error}")))?;
    if value.is_object() { Ok(value) } else { Err(Failure::usage(format_args!("{shown} holds no JSON object"))) }
}

fn print(pipeline: &ExplainedPipeline, source: &SourceFile) -> Result<(), Failure> {
    let verb = |runs| if runs { "runs" } else { "does not run" };
    say!("{} ({}) {}: {}", pipeline.name, pipeline.file, verb(pipeline.matches), pipeline.reason);
    for job in &pipeline.jobs {
        let name = if job.name == job.id { String::new() } else { format!(" ({})", job.name) };
        say!("  {}{name} {}: {}", job.id, verb(job.would_run), job.reason);
    }
    if pipeline.is_broken {
        say!();
        validate::print(&pipeline.diagnostics, &source.text);
    }
    Ok(())
}
