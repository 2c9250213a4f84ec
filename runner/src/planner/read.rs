//! From a commit in the mirror to what is to be stored.

use std::borrow::Cow;

use segue_pipelines::{
    diagnostic::{Diagnostic, Style, render},
    plan::{NotMatching, Planned, is_called, plan},
};
use segue_schemas::{
    id::CommitSha,
    trigger::{Event, Trigger},
};

use super::{PlanError, Planner};
use crate::{
    mirror::{PipelineFile, RepositoryName},
    store::{LeftOut, NewRun, Planning},
};

/// Diagnostics of one file at most, in bytes; who has mended those sees the rest.
const DIAGNOSTICS_BYTES: usize = 64 * 1024;

impl Planner {
    /// Reads the pipelines at the event's commit, which is in the mirror, and plans them.
    pub(super) async fn read(&self, name: &RepositoryName, trigger: &Trigger) -> Result<Planning, PlanError> {
        let commit = pipelines_commit(trigger);
        let files = self.mirrors.pipelines(name, commit).await?;
        if files.is_empty() {
            return Ok(Planning::Ignored(format!("there is no `.segue/pipelines/*.yml` at {}", commit.short())));
        }
        let changed = if files.iter().any(filters_paths) { self.changed_files(name, trigger).await? } else { None };
        let actions =
            if files.iter().any(uses_actions) { self.mirrors.actions(name, commit).await? } else { Vec::new() };
        let texts: Vec<(&str, &str)> = files
            .iter()
            .chain(&actions)
            .filter_map(|file| Some((file.path.as_str(), file.text.as_deref().ok()?)))
            .collect();
        let trigger = &self.with_message(name, trigger).await?;
        let planned = plan(&texts, trigger, changed.as_deref());
        let runs: Vec<NewRun> = match &trigger.event {
            Event::Push { .. } | Event::PullRequest { .. } => files.iter().filter_map(unreadable).collect(),
            _ => Vec::new(),
        };
        self.store.note_left_out(left_out(&planned, trigger)).await?;
        Ok(settle(planned, trigger, &texts, runs))
    }

    /// A pull request's payload does not hold the message of its newest commit, which may ask for no run.
    async fn with_message<'t>(
        &self,
        name: &RepositoryName,
        trigger: &'t Trigger,
    ) -> Result<Cow<'t, Trigger>, PlanError> {
        let Event::PullRequest { head, .. } = &trigger.event else { return Ok(Cow::Borrowed(trigger)) };
        let found = self.mirrors.message(name, head).await?;
        let mut trigger = trigger.clone();
        if let Event::PullRequest { message, .. } = &mut trigger.event {
            *message = found;
        }
        Ok(Cow::Owned(trigger))
    }

    async fn changed_files(&self, name: &RepositoryName, trigger: &Trigger) -> Result<Option<Vec<String>>, PlanError> {
        Ok(match &trigger.event {
            Event::Push { before, after, .. } => self.mirrors.changed_files(name, before, after, false).await?,
            Event::PullRequest { base, head, .. } => self.mirrors.changed_files(name, base, head, true).await?,
            Event::WorkflowDispatch { .. }
            | Event::Schedule { .. }
            | Event::RepositoryDispatch { .. }
            | Event::IssueComment { .. } => None,
        })
    }
}

/// The pipelines of which a filter has left out the change.
fn left_out(planned: &Planned, trigger: &Trigger) -> Vec<LeftOut> {
    let one = |pipeline: &NotMatching| LeftOut {
        repository: trigger.repository.clone(),
        commit: trigger.event.commit().clone(),
        file: pipeline.file.clone(),
        pipeline: pipeline.name.clone(),
        reason: pipeline.reason.clone(),
        tries: 0,
    };
    planned.not_matching.iter().filter(|pipeline| pipeline.is_left_out).map(one).collect()
}

/// Whose pipelines run: foreign code does not bring its own.
fn pipelines_commit(trigger: &Trigger) -> &CommitSha {
    match &trigger.event {
        Event::PullRequest { base, .. } if trigger.event.is_from_fork(&trigger.repository) => base,
        event => event.commit(),
    }
}

/// Whether a file may use an action of the repository.
fn uses_actions(file: &PipelineFile) -> bool {
    file.text.as_ref().is_ok_and(|text| text.contains(".segue/actions/"))
}

/// Whether a file may ask for the changed paths; comparing commits costs a process.
fn filters_paths(file: &PipelineFile) -> bool {
    file.text.as_ref().is_ok_and(|text| text.contains("paths"))
}

pub(super) fn settle(planned: Planned, trigger: &Trigger, texts: &[(&str, &str)], mut runs: Vec<NewRun>) -> Planning {
    // a person who asks is told before anything starts
    if !planned.refused.is_empty() {
        let problems: Vec<String> = planned
            .refused
            .iter()
            .map(|one| format!("{} does not take these inputs: {}", one.name, one.reason))
            .collect();
        return Planning::Failed(problems.join("\n"));
    }
    for broken in planned.broken {
        let diagnostics = rendered(&broken.diagnostics, texts);
        runs.push(NewRun::Broken { file: broken.file, pipeline: broken.name, diagnostics });
    }
    runs.extend(planned.runs.into_iter().map(NewRun::Planned));
    let skipped = planned.skipped.into_iter();
    runs.extend(skipped.map(|one| NewRun::Skipped { plan: one.plan, reason: one.reason }));
    if runs.is_empty() {
        return Planning::Ignored(why_none(&trigger.event, &planned.not_matching));
    }
    Planning::Runs(runs)
}

/// Why nothing runs. A pipeline that a person named, and that is there, says itself why it is not for a person to start.
fn why_none(event: &Event, others: &[NotMatching]) -> String {
    let others_at_most = || others.iter().take(20);
    if let Event::WorkflowDispatch { pipeline: Some(asked), .. } = event
        && !others.iter().any(|one| is_called(asked, &one.file, &one.name))
    {
        let names: Vec<&str> = others_at_most().map(|one| one.name.as_str()).collect();
        return format!("there is no pipeline `{asked}`; there are {}", names.join(", "));
    }
    let reasons: Vec<String> = others_at_most().map(|one| format!("{}: {}", one.file, one.reason)).collect();
    format!("no pipeline is for this event. {}", reasons.join("; "))
}

/// A file that is there and is no text: nobody can say that it is not for this event.
fn unreadable(file: &PipelineFile) -> Option<NewRun> {
    let problem = file.text.as_ref().err()?;
    let stem = file.path.rsplit('/').next().unwrap_or(&file.path).split('.').next().unwrap_or_default();
    Some(NewRun::Broken {
        file: file.path.clone(),
        pipeline: stem.to_owned(),
        diagnostics: format!("error: {} can't be read: it is {problem}", file.path),
    })
}

/// Diagnostics of a pipeline, and of the actions that it uses.
fn rendered(diagnostics: &[Diagnostic], texts: &[(&str, &str)]) -> String {
    let mut all = String::new();
    for (n, diagnostic) in diagnostics.iter().enumerate() {
        if all.len() > DIAGNOSTICS_BYTES {
            all.push_str(&format!("\n\n... and {} more", diagnostics.len() - n));
            break;
        }
        if n > 0 {
            all.push_str("\n\n");
        }
        let text = texts.iter().find(|(path, _)| *path == diagnostic.file).map_or("", |(_, text)| *text);
        all.push_str(&render(diagnostic, text, Style::Plain));
    }
    all
}
