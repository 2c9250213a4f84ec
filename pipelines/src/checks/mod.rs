//! What a forge shows of a run: a check for its pipeline and one for each of its jobs, and how each stands.
//!
//! Comes in: a run, its jobs and their steps as the store has them. Goes out: names, states, titles, summaries and annotations.
//! It is a function of what is stored and of nothing else, so that whoever looks again later comes to the same. Never here: how the
//! forge is told, or what it shows now.

mod annotations;
mod deployment;
pub(crate) mod markdown;
mod status;

use segue_schemas::{
    api::AttemptTerms,
    id::{JobId, RunId},
    status::{FailureClass, JobStatus, RunStatus, StepStatus},
    time::Timestamp,
    worker_api::StepReport,
};
use serde::{Deserialize, Serialize};

pub use annotations::{CheckAnnotation, Level};
pub(crate) use deployment::is_address;
pub use deployment::{Deployment, DeploymentState, DeploymentStatus, RolloutFacts, deployment};
pub use status::{CommitState, CommitStatus, commit_status};

/// What the button for what failed is called in the event of its being pressed.
pub const RERUN_FAILED: &str = "rerun-failed";
/// The same of the button that says yes to what waits.
pub const APPROVE: &str = "approve";
/// The same of the button that brings back what served before.
pub const ROLL_BACK: &str = "roll-back";
/// Characters of a title.
const TITLE_CHARS: usize = 200;
/// Bytes of a summary; GitHub takes 65,535 characters.
const SUMMARY_BYTES: usize = 60_000;
/// Jobs that a pipeline's summary lists.
const LISTED_JOBS: usize = 200;

/// A run as the store has it: one attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFacts {
    /// Its number.
    pub run: RunId,
    /// The attempt, from 1.
    pub attempt: u32,
    /// The pipeline's name.
    pub pipeline: String,
    /// The pipeline's file.
    pub file: String,
    /// How it stands.
    pub status: RunStatus,
    /// Why, where there is something to say.
    #[serde(default)]
    pub reason: Option<String>,
    /// What is wrong with the file, where it can't be planned.
    #[serde(default)]
    pub diagnostics: Option<String>,
    /// Whether another run shows the same pipeline at the same commit, of which this one is only the shadow.
    #[serde(default)]
    pub is_shadow: bool,
    /// When its first job started.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// With what the attempt was asked for.
    #[serde(default)]
    pub terms: AttemptTerms,
    /// Who said yes to it, each in a sentence.
    #[serde(default)]
    pub approvals: Vec<String>,
    /// Where people reach the server, where that is known.
    #[serde(default)]
    pub public_url: Option<String>,
    /// Its jobs, in the plan's order.
    #[serde(default)]
    pub jobs: Vec<JobFacts>,
}

/// A job as the store has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobFacts {
    /// Its number, by which its log is found.
    #[serde(default)]
    pub id: Option<JobId>,
    /// Its key, unique in the attempt.
    pub key: String,
    /// Its name.
    pub name: String,
    /// How it stands.
    pub status: JobStatus,
    /// Why, where there is something to say.
    #[serde(default)]
    pub reason: Option<String>,
    /// What kind of failure it ended in.
    #[serde(default)]
    pub failure_class: Option<FailureClass>,
    /// Whether its failure is none of the run.
    #[serde(default)]
    pub may_fail: bool,
    /// Whether it was skipped for what became of others, and not by its own condition.
    #[serde(default)]
    pub is_blocked: bool,
    /// Whether it was cancelled because a newer commit has come in the place of its own.
    #[serde(default)]
    pub is_outdated: bool,
    /// Whether it waits for somebody's yes.
    #[serde(default)]
    pub awaits_approval: bool,
    /// Whether what it deployed serves now, and something served before it that it can be brought back to.
    #[serde(default)]
    pub can_roll_back: bool,
    /// Where what it deployed can be seen.
    #[serde(default)]
    pub environment_url: Option<String>,
    /// When it started.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// Its steps that have begun or were skipped.
    #[serde(default)]
    pub steps: Vec<StepReport>,
    /// What its steps wrote for the summary, in Markdown.
    #[serde(default)]
    pub summaries: Vec<String>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// The job's key; `None`: the pipeline's own.
    pub job: Option<String>,
    /// Its name, which branch protection knows it by.
    pub name: String,
    /// How it stands.
    pub state: CheckState,
    /// One line.
    pub title: String,
    /// Markdown.
    pub summary: String,
    /// Where there is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details_url: Option<String>,
    /// What is shown beside lines of files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<CheckAnnotation>,
    /// Its buttons.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<CheckAction>,
    /// When it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// A button of a check. <https://docs.github.com/en/rest/checks/runs#create-a-check-run>
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckAction {
    /// What stands on it; 20 characters at most.
    pub label: &'static str,
    /// What it does; 40 characters at most.
    pub description: &'static str,
    /// What it is called in the event of its being pressed.
    pub identifier: &'static str,
}

/// How a check stands; the words are GitHub's. <https://docs.github.com/en/rest/checks/runs>
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// Nothing of it has started.
    Queued,
    /// It is on its way, or waits for somebody.
    InProgress,
    /// Ended well.
    Success,
    /// Ended badly.
    Failure,
    /// Ended badly, which its file allows.
    Neutral,
    /// Cancelled.
    Cancelled,
    /// A time limit was reached.
    TimedOut,
    /// Not run; counts as well ended.
    Skipped,
}

impl CheckState {
    /// How it ended, if it did: the word for `conclusion`.
    #[must_use]
    pub const fn conclusion(self) -> Option<&'static str> {
        match self {
            Self::Queued | Self::InProgress => None,
            Self::Success => Some("success"),
            Self::Failure => Some("failure"),
            Self::Neutral => Some("neutral"),
            Self::Cancelled => Some("cancelled"),
            Self::TimedOut => Some("timed_out"),
            Self::Skipped => Some("skipped"),
        }
    }

    /// The word for `status`.
    #[must_use]
    pub const fn status(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            _ => "completed",
        }
    }
}

/// The checks of a run, the pipeline's first. A job that can't start yet has none: it would say nothing that its pipeline's does not,
/// and cost two changes of the few that may be made.
#[must_use]
pub fn checks(run: &RunFacts) -> Vec<Check> {
    if run.is_shadow {
        return Vec::new();
    }
    let jobs = run.jobs.iter().filter(|job| job.status != JobStatus::Pending);
    std::iter::once(of_pipeline(run)).chain(jobs.map(|job| of_job(run, job))).collect()
}

/// The check of a pipeline that a filter left out of an event, so that branch protection does not wait for it for ever.
#[must_use]
pub fn left_out(pipeline: &str, file: &str, reason: &str) -> Check {
    Check {
        job: None,
        name: line(pipeline),
        state: CheckState::Skipped,
        title: line(&format!("Not for this change: {reason}")),
        summary: bounded(format!("{} is not run: {}\n", markdown::escape(file), markdown::escape(reason))),
        details_url: None,
        annotations: Vec::new(),
        actions: Vec::new(),
        started_at: None,
        ended_at: None,
    }
}

/// Where what the API has below a path is found, where people can reach the server.
fn link(run: &RunFacts, path: &str) -> Option<String> {
    Some(format!("{}/api/v1/{path}", run.public_url.as_ref()?.trim_end_matches('/')))
}

fn run_link(run: &RunFacts) -> Option<String> {
    link(run, &format!("runs/{}", run.run))
}

fn log_link(run: &RunFacts, job: &JobFacts) -> Option<String> {
    link(run, &format!("jobs/{}/logs", job.id?))
}

fn of_pipeline(run: &RunFacts) -> Check {
    let state = match run.status {
        RunStatus::Queued => CheckState::Queued,
        RunStatus::Running | RunStatus::Waiting => CheckState::InProgress,
        RunStatus::Succeeded => CheckState::Success,
        RunStatus::Failed => CheckState::Failure,
        RunStatus::Cancelled => CheckState::Cancelled,
        // branch protection lets pass what is skipped
        RunStatus::Skipped if run.jobs.iter().any(|job| job.is_blocked) => CheckState::Cancelled,
        RunStatus::Skipped => CheckState::Skipped,
    };
    let took = took(run.started_at, run.ended_at);
    let outdated = run.jobs.iter().find(|job| job.is_outdated);
    let title = match run.status {
        RunStatus::Queued => "Queued".into(),
        RunStatus::Running => "Running".into(),
        RunStatus::Waiting => waiting(run),
        RunStatus::Succeeded => format!("Succeeded{took}"),
        RunStatus::Failed if run.diagnostics.is_some() => format!("{} can't be used", run.file),
        RunStatus::Failed => format!("Failed{took}: {}", failed(run)),
        RunStatus::Cancelled => match outdated {
            // it is no skip, which branch protection lets pass: a push back to this commit makes it the newest again
            Some(job) => format!("Cancelled: {}", job.reason.as_deref().unwrap_or("a newer commit has come")),
            None => format!("Cancelled{took}"),
        },
        RunStatus::Skipped => run.reason.clone().unwrap_or_else(|| "Skipped".into()),
    };
    // a file that can't be used is mended, not run again
    let can_rerun = matches!(run.status, RunStatus::Failed | RunStatus::Cancelled) && run.diagnostics.is_none();
    let mut actions = Vec::new();
    if can_rerun {
        actions.push(CheckAction {
            label: "Rerun what failed",
            description: "Run the jobs that did not succeed",
            identifier: RERUN_FAILED,
        });
    }
    if run.jobs.iter().any(|job| job.awaits_approval) {
        actions.push(CheckAction {
            label: "Approve",
            description: "Say yes to every job that waits for it",
            identifier: APPROVE,
        });
    }
    let annotations = run.diagnostics.as_deref().map(annotations::of_diagnostics).unwrap_or_default();
    Check {
        job: None,
        name: line(&run.pipeline),
        state,
        title: line(&title),
        summary: bounded(pipeline_summary(run, state)),
        details_url: run_link(run),
        annotations,
        actions,
        started_at: run.started_at,
        ended_at: run.ended_at,
    }
}

/// What a run waits for.
fn waiting(run: &RunFacts) -> String {
    let waits = run.jobs.iter().find(|job| job.status == JobStatus::Waiting);
    match waits.and_then(|job| Some((&job.name, job.reason.as_ref()?))) {
        Some((name, reason)) => format!("Waiting: {name} {reason}"),
        None => "Waiting".into(),
    }
}

fn failed(run: &RunFacts) -> String {
    let mut failed = run.jobs.iter().filter(|job| job.status == JobStatus::Failed && !job.may_fail);
    match (failed.next(), failed.count()) {
        (Some(first), 0) => first.name.clone(),
        (Some(first), more) => format!("{} and {more} more", first.name),
        (None, _) => run.reason.clone().unwrap_or_else(|| "nothing says why".into()),
    }
}

fn pipeline_summary(run: &RunFacts, state: CheckState) -> String {
    let mut text = format!("Run {}, attempt {}: `segue runs {}`\n", run.run, run.attempt, run.run);
    for term in run.terms.in_words() {
        text.push_str(&format!("- {}\n", markdown::escape(&term)));
    }
    for approval in &run.approvals {
        text.push_str(&format!("- {}\n", markdown::escape(approval)));
    }
    if let Some(reason) = &run.reason {
        text.push_str(&format!("\n{}\n", markdown::escape(reason)));
    }
    if let Some(diagnostics) = &run.diagnostics {
        text.push_str(&format!("\n{}\n", markdown::block(diagnostics)));
    }
    if state.conclusion().is_some() && !run.jobs.is_empty() {
        text.push_str("\n| Job | | Time |\n| --- | --- | --- |\n");
        for job in run.jobs.iter().take(LISTED_JOBS) {
            let reason = job.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let how = markdown::cell(&format!("{}{reason}", job.status));
            let time = span(job.started_at, job.ended_at).unwrap_or_default();
            let name = markdown::cell(&job.name);
            let name = match log_link(run, job).filter(|_| job.started_at.is_some()) {
                Some(url) => format!("[{name}]({url})"),
                None => name,
            };
            text.push_str(&format!("| {name} | {how} | {time} |\n"));
        }
        if run.jobs.len() > LISTED_JOBS {
            text.push_str(&format!("\nand {} more\n", run.jobs.len() - LISTED_JOBS));
        }
    }
    text
}

fn of_job(run: &RunFacts, job: &JobFacts) -> Check {
    let state = match job.status {
        JobStatus::Pending | JobStatus::Queued => CheckState::Queued,
        JobStatus::Leased | JobStatus::Running | JobStatus::Waiting | JobStatus::Recovering => CheckState::InProgress,
        JobStatus::Succeeded => CheckState::Success,
        JobStatus::Failed if job.may_fail => CheckState::Neutral,
        JobStatus::Failed if job.failure_class == Some(FailureClass::Timeout) => CheckState::TimedOut,
        JobStatus::Failed => CheckState::Failure,
        JobStatus::Cancelled => CheckState::Cancelled,
        JobStatus::Skipped if job.is_blocked => CheckState::Cancelled,
        JobStatus::Skipped => CheckState::Skipped,
    };
    let took = took(job.started_at, job.ended_at);
    let reason = || job.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let title = match job.status {
        JobStatus::Pending | JobStatus::Queued => "Queued".into(),
        JobStatus::Leased | JobStatus::Running => "Running".into(),
        JobStatus::Waiting => format!("Waiting{}", reason()),
        JobStatus::Recovering => format!("Recovering{}", reason()),
        JobStatus::Succeeded => format!("Succeeded{took}"),
        JobStatus::Failed if job.may_fail => format!("Failed{took}, which is allowed{}", reason()),
        JobStatus::Failed => format!("Failed{took}{}", reason()),
        JobStatus::Cancelled => format!("Cancelled{took}{}", reason()),
        JobStatus::Skipped if job.is_blocked => format!("Not run{}", reason()),
        JobStatus::Skipped => job.reason.clone().unwrap_or_else(|| "Skipped".into()),
    };
    let is_over = state.conclusion().is_some();
    let mut actions = Vec::new();
    if job.awaits_approval {
        let description = "Say yes to this job, at this commit";
        actions.push(CheckAction { label: "Approve", description, identifier: APPROVE });
    }
    if job.can_roll_back {
        let description = "Bring back the release that was before";
        actions.push(CheckAction { label: "Roll back", description, identifier: ROLL_BACK });
    }
    let (annotations, others) = if is_over { annotations::of_steps(&job.steps) } else { Default::default() };
    Check {
        job: Some(job.key.clone()),
        name: line(&format!("{} / {}", run.pipeline, job.name)),
        state,
        title: line(&title),
        summary: bounded(job_summary(run, job, is_over, &others)),
        details_url: log_link(run, job).filter(|_| job.started_at.is_some()).or_else(|| run_link(run)),
        annotations,
        actions,
        started_at: job.started_at,
        ended_at: job.ended_at,
    }
}

fn job_summary(run: &RunFacts, job: &JobFacts, is_over: bool, others: &[String]) -> String {
    let mut text = format!("Run {}, attempt {}: `segue logs {}`", run.run, run.attempt, run.run);
    if let Some(url) = log_link(run, job).filter(|_| job.started_at.is_some()) {
        text.push_str(&format!(" ([log]({url}))"));
    }
    text.push('\n');
    if let Some(reason) = &job.reason {
        text.push_str(&format!("\n{}\n", markdown::escape(reason)));
    }
    if !is_over {
        return text;
    }
    if let Some(url) = &job.environment_url {
        text.push_str(&format!("\nDeployed to {}\n", markdown::escape(url)));
    }
    if !job.steps.is_empty() {
        text.push_str("\n| Step | | Time |\n| --- | --- | --- |\n");
        for step in &job.steps {
            let why = match (&step.reason, step.exit_code) {
                (Some(reason), _) => format!(": {reason}"),
                (None, Some(code)) if step.status == StepStatus::Failed => format!(": exit code {code}"),
                _ => String::new(),
            };
            let how = markdown::cell(&format!("{}{why}", step.status));
            let time = span(step.started_at, step.ended_at).unwrap_or_default();
            text.push_str(&format!("| {} | {how} | {time} |\n", markdown::cell(&step.name)));
        }
    }
    if !others.is_empty() {
        text.push('\n');
        others.iter().for_each(|other| text.push_str(&format!("- {other}\n")));
    }
    for summary in &job.summaries {
        text.push_str(&format!("\n{summary}\n"));
    }
    text
}

/// One line of bounded length, whatever people wrote.
fn line(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let plain = plain.trim();
    if plain.chars().count() <= TITLE_CHARS {
        return plain.to_owned();
    }
    plain.chars().take(TITLE_CHARS - 1).chain(['…']).collect()
}

fn bounded(mut text: String) -> String {
    const CUT: &str = "\n\n(cut off here: `segue runs` and `segue logs` have all of it)\n";
    if text.len() > SUMMARY_BYTES {
        text.truncate(text.floor_char_boundary(SUMMARY_BYTES - CUT.len()));
        text.push_str(CUT);
    }
    text
}

fn took(from: Option<Timestamp>, to: Option<Timestamp>) -> String {
    span(from, to).map(|span| format!(" in {span}")).unwrap_or_default()
}

/// `850 ms`, `12 s`, `3 m 20 s`, `1 h 2 m`
fn span(from: Option<Timestamp>, to: Option<Timestamp>) -> Option<String> {
    let took = to?.since(from?);
    let seconds = took.as_secs();
    Some(match seconds {
        0 => format!("{} ms", took.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} m {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} m", seconds / 3600, seconds % 3600 / 60),
    })
}
