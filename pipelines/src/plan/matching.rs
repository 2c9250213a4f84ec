//! Whether an event starts a pipeline, with the reason either way.

use segue_schemas::{
    time::Timestamp,
    trigger::{Event, Trigger},
};

use crate::{
    comment,
    pipeline::{PullRequestFilter, PushFilter, RefFilter, Triggers},
    plan::Outcome,
    schedule::Schedule,
    service::file_stem,
};

/// Why the event starts the pipeline, or why not.
pub(super) fn matching(
    file: &str,
    name: &str,
    triggers: &Triggers,
    trigger: &Trigger,
    changed_files: Option<&[String]>,
) -> Result<String, String> {
    match &trigger.event {
        Event::Push { r#ref, after, .. } => {
            let filter = triggers.push.as_ref().ok_or_else(|| not_listed(triggers, "push"))?;
            push(filter, r#ref, after.is_zero(), changed_files)
        }
        Event::PullRequest { action, base_ref, number, .. } => {
            let filter = triggers.pull_request.as_ref().ok_or_else(|| not_listed(triggers, "pull_request"))?;
            pull_request(filter, action, *number, base_ref, changed_files)
        }
        Event::WorkflowDispatch { pipeline, .. } => {
            if let Some(asked) = pipeline.as_deref().filter(|asked| !is_called(asked, file, name)) {
                return Err(format!("a run of `{asked}` was asked for"));
            }
            if triggers.workflow_dispatch.is_none() {
                return Err(not_listed(triggers, "workflow_dispatch"));
            }
            Ok("a person asked for it".into())
        }
        Event::Schedule { file: of, cron, timezone, due, .. } => {
            if let Some(of) = of.as_deref().filter(|of| *of != file) {
                return Err(format!("the time has come for {of}"));
            }
            schedule(triggers, cron.as_deref(), timezone.as_deref(), *due)
        }
        Event::RepositoryDispatch { action, .. } => {
            let filter =
                triggers.repository_dispatch.as_ref().ok_or_else(|| not_listed(triggers, "repository_dispatch"))?;
            match &filter.types {
                Some(types) if !types.contains(action) => {
                    Err(format!("the request is of the type `{action}`, and `types` is {}", types.join(", ")))
                }
                _ => Ok(format!("a request of the type `{action}` came")),
            }
        }
        Event::IssueComment { action, body, .. } => {
            let filter = triggers.issue_comment.as_ref().ok_or_else(|| not_listed(triggers, "issue_comment"))?;
            if !filter.types.contains(action) {
                return Err(format!("the comment was `{action}`, and `types` is {}", filter.types.join(", ")));
            }
            Err(format!("a comment starts no pipeline yet; {}", comment::answer(body)))
        }
    }
}

fn not_listed(triggers: &Triggers, event: &str) -> String {
    let listed: Vec<&str> = [
        ("push", triggers.push.is_some()),
        ("pull_request", triggers.pull_request.is_some()),
        ("schedule", !triggers.schedule.is_empty()),
        ("workflow_dispatch", triggers.workflow_dispatch.is_some()),
        ("workflow_call", triggers.workflow_call.is_some()),
        ("repository_dispatch", triggers.repository_dispatch.is_some()),
        ("issue_comment", triggers.issue_comment.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, listed)| listed.then_some(name))
    .collect();
    match listed.as_slice() {
        [] => format!("it is not started by `{event}`"),
        listed => format!("it is started by {}, not by `{event}`", listed.join(", ")),
    }
}

/// By the named schedule, or by any where none is named.
fn schedule(triggers: &Triggers, cron: Option<&str>, timezone: Option<&str>, due: Timestamp) -> Result<String, String> {
    let zone = |schedule: &Schedule| schedule.timezone().unwrap_or("UTC").to_owned();
    if triggers.schedule.is_empty() {
        return Err(not_listed(triggers, "schedule"));
    }
    let Some(cron) = cron else {
        let each: Vec<String> = triggers
            .schedule
            .iter()
            .map(|one| {
                let next = one.next_after(due).map_or_else(|| "never".into(), |at| at.to_string());
                format!("`{}` ({}), next at {next}", one.text(), zone(one))
            })
            .collect();
        return Ok(format!("its times are {}", each.join("; ")));
    };
    let asked = |one: &&Schedule| one.text() == cron && one.timezone().unwrap_or("UTC") == timezone.unwrap_or("UTC");
    match triggers.schedule.iter().find(asked) {
        Some(one) => Ok(format!("its schedule `{cron}` ({}) was due at {due}", zone(one))),
        None => Err(format!("it has no schedule `{cron}` ({}) any more", timezone.unwrap_or("UTC"))),
    }
}

fn push(
    filter: &PushFilter,
    full_ref: &str,
    deleted: bool,
    changed_files: Option<&[String]>,
) -> Result<String, String> {
    if let Some(tag) = full_ref.strip_prefix("refs/tags/") {
        if deleted {
            return Err(format!("the tag `{tag}` was deleted"));
        }
        return match (&filter.tags, &filter.branches) {
            (Some(tags), _) => admits(tags, "tags", tag).map(|by| format!("the tag `{tag}` was pushed{by}")),
            (None, Some(_)) => Err(format!("`{tag}` is a tag, and `on.push` names only branches")),
            (None, None) => Ok(format!("the tag `{tag}` was pushed")),
        };
    }
    let Some(branch) = full_ref.strip_prefix("refs/heads/") else {
        return Err(format!("`{full_ref}` is neither a branch nor a tag"));
    };
    if deleted {
        return Err(format!("the branch `{branch}` was deleted"));
    }
    let by = match (&filter.branches, &filter.tags) {
        (Some(branches), _) => admits(branches, "branches", branch)?,
        (None, Some(_)) => return Err(format!("`{branch}` is a branch, and `on.push` names only tags")),
        (None, None) => String::new(),
    };
    let paths = paths(filter.paths.as_ref(), changed_files)?;
    Ok(format!("the branch `{branch}` was pushed{by}{paths}"))
}

fn pull_request(
    filter: &PullRequestFilter,
    action: &str,
    number: u64,
    base: &str,
    changed_files: Option<&[String]>,
) -> Result<String, String> {
    if !filter.types.iter().any(|kind| kind == action) {
        return Err(format!("the pull request was `{action}`, and `types` is {}", filter.types.join(", ")));
    }
    let by = match &filter.branches {
        Some(branches) => admits(branches, "branches", base)?,
        None => String::new(),
    };
    let paths = paths(filter.paths.as_ref(), changed_files)?;
    Ok(format!("pull request {number} into `{base}` was `{action}`{by}{paths}"))
}

/// By which pattern a name is let in, or why not.
fn admits(filter: &RefFilter, key: &str, name: &str) -> Result<String, String> {
    match filter {
        RefFilter::Only(patterns) => match patterns.deciding_text(name) {
            Some(text) if !text.starts_with('!') => Ok(format!(", which `{key}` takes in by `{text}`")),
            Some(text) => Err(format!("`{key}` leaves `{name}` out by `{text}`")),
            None => Err(format!("no pattern of `{key}` matches `{name}`")),
        },
        RefFilter::Ignore(patterns) => match patterns.deciding_text(name) {
            Some(text) => Err(format!("`{key}-ignore` leaves `{name}` out by `{text}`")),
            None => Ok(format!(", which `{key}-ignore` does not leave out")),
        },
    }
}

fn paths(filter: Option<&RefFilter>, changed_files: Option<&[String]>) -> Result<String, String> {
    let Some(filter) = filter else { return Ok(String::new()) };
    let Some(files) = changed_files else {
        return Ok("; which files changed is not known, so `paths` is not asked".into());
    };
    match filter {
        RefFilter::Only(patterns) => match files.iter().find(|file| patterns.matches(file)) {
            Some(file) => Ok(format!("; `{file}` changed, which `paths` takes in")),
            None => Err(format!("`paths` takes none of the {} changed files in", files.len())),
        },
        RefFilter::Ignore(patterns) => match files.iter().find(|file| !patterns.matches(file)) {
            Some(file) => Ok(format!("; `{file}` changed, which `paths-ignore` does not leave out")),
            None => Err(format!("`paths-ignore` leaves all of the {} changed files out", files.len())),
        },
    }
}

/// Whether a pipeline that an event does not start listens to new code of its kind, so that a filter left it out.
pub(super) fn is_left_out(triggers: &Triggers, event: &Event) -> bool {
    match event {
        Event::Push { r#ref, after, .. } => {
            let is_branch = r#ref.starts_with("refs/heads/") && !after.is_zero();
            is_branch && triggers.push.is_some() && triggers.pull_request.is_none()
        }
        Event::PullRequest { action, .. } => {
            let listens = |filter: &PullRequestFilter| filter.types.contains(action);
            event.brings_code() && triggers.pull_request.as_ref().is_some_and(listens)
        }
        _ => false,
    }
}

/// Whether a person who writes this means the pipeline: by its name, its file, or the file's name without what follows the dot.
#[must_use]
pub fn is_called(asked: &str, file: &str, name: &str) -> bool {
    asked == name || asked == file_stem(file) || asked == file
}

/// What an event does to a file that is too broken to say what starts it. Who has changed it is told; a time, a request or a
/// comment that another pipeline waits for is not the place to say so.
pub(super) fn without_triggers(file: &str, name: &str, event: &Event) -> Outcome<'static> {
    let is_meant = match event {
        Event::Push { .. } | Event::PullRequest { .. } => true,
        Event::WorkflowDispatch { pipeline, .. } => {
            pipeline.as_deref().is_some_and(|asked| is_called(asked, file, name))
        }
        Event::Schedule { .. } | Event::RepositoryDispatch { .. } | Event::IssueComment { .. } => false,
    };
    if is_meant {
        Outcome::Broken
    } else {
        Outcome::NotMatching("the file is too broken to say what starts it; `segue validate` says what is wrong".into())
    }
}
