//! Following runs and rollouts by their event streams until they end, over restarts of the server.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use segue_schemas::{
    api::{RolloutEvent, RunEvent, RunSummary},
    deploy::{JournalEntry, Rollout},
    id::{RolloutId, RunId},
    status::{JobStatus, RolloutStatus},
};
use serde::de::DeserializeOwned;

use super::{
    client::{CallError, Client},
    ending::Failure,
    out::say,
    show,
};

/// How long a server may be away while it is followed. A restart takes a second or two.
const AWAY_LIMIT: Duration = Duration::from_secs(120);
/// Pause between two tries to reach it again: nothing tells when a server comes back.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Follows a run to the end of its newest attempt, giving every event to `each`.
///
/// # Errors
/// There is no such run, the token is refused, or the server stayed away.
pub async fn run(client: &Client, id: RunId, mut each: impl FnMut(&RunEvent)) -> Result<RunSummary, Failure> {
    stream(client, &format!("/runs/{id}/events"), |event: RunEvent| {
        each(&event);
        match event {
            RunEvent::End(summary) => Some(summary),
            RunEvent::Run(_) | RunEvent::Job(_) | RunEvent::Gone(_) | RunEvent::Rollout(_) => None,
        }
    })
    .await
}

/// Follows a rollout to its end, giving every event to `each`.
///
/// # Errors
/// There is no such rollout, the token is refused, or the server stayed away.
pub async fn rollout(client: &Client, id: RolloutId, mut each: impl FnMut(&RolloutEvent)) -> Result<Rollout, Failure> {
    stream(client, &format!("/rollouts/{id}/events"), |event: RolloutEvent| {
        each(&event);
        match event {
            RolloutEvent::End(rollout) => Some(*rollout),
            RolloutEvent::Rollout(_) | RolloutEvent::Journal(_) => None,
        }
    })
    .await
}

/// Reads one stream until `each` gives a result. A stream that breaks off is opened again: it begins with the state.
async fn stream<E: DeserializeOwned, T>(
    client: &Client,
    path: &str,
    mut each: impl FnMut(E) -> Option<T>,
) -> Result<T, Failure> {
    let mut away_since: Option<Instant> = None;
    loop {
        let error = match read(client, path, &mut each, &mut away_since).await {
            Ok(Some(end)) => return Ok(end),
            Ok(None) => CallError::Unreachable(format!("{} ended the stream", client.base())),
            Err(error) => error,
        };
        let since = *away_since.get_or_insert_with(Instant::now);
        if !error.may_pass() || since.elapsed() > AWAY_LIMIT {
            return Err(error.into());
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn read<E: DeserializeOwned, T>(
    client: &Client,
    path: &str,
    each: &mut impl FnMut(E) -> Option<T>,
    away_since: &mut Option<Instant>,
) -> Result<Option<T>, CallError> {
    let mut events = client.events(path, &()).await?;
    while let Some(event) = events.next_as().await? {
        *away_since = None;
        if let Some(end) = each(event) {
            return Ok(Some(end));
        }
    }
    Ok(None)
}

/// Prints what changes in a run, a line for each change.
#[derive(Debug, Default)]
pub struct RunLines {
    jobs: HashMap<String, JobStatus>,
    rollouts: HashMap<RolloutId, (RolloutStatus, u8)>,
}

impl RunLines {
    /// Prints the event, if it tells something new.
    pub fn print(&mut self, event: &RunEvent) {
        match event {
            RunEvent::Run(_) | RunEvent::Gone(_) => {}
            RunEvent::Job(job) => {
                let known = self.jobs.insert(job.key.clone(), job.status);
                let is_news =
                    known != Some(job.status) && !matches!(job.status, JobStatus::Pending | JobStatus::Leased);
                if is_news {
                    let took = show::span(job.started_at, job.ended_at);
                    let reason =
                        job.reason.as_deref().map(|r| format!("  {}", show::one_line(r, 200))).unwrap_or_default();
                    say!("{:<24} {} {took}{reason}", job.key, show::job_status(job));
                }
            }
            RunEvent::Rollout(rollout) => {
                let stand = (rollout.status, rollout.weight);
                if self.rollouts.insert(rollout.id, stand) != Some(stand) {
                    print_rollout(rollout);
                }
            }
            RunEvent::End(run) => {
                let took = show::span(run.started_at.or(Some(run.created_at)), run.ended_at);
                say!("run {} {} {took}", run.id, show::status_text(&run.status));
                if let Some(reason) = &run.reason {
                    say!("{reason}");
                }
            }
        }
    }
}

/// Prints what changes in a rollout, a line for each change.
#[derive(Debug, Default)]
pub struct RolloutLines {
    last: Option<(RolloutStatus, u8)>,
}

impl RolloutLines {
    /// Prints the event, if it tells something new.
    pub fn print(&mut self, event: &RolloutEvent) {
        match event {
            RolloutEvent::Rollout(rollout) => {
                let stand = (rollout.status, rollout.weight);
                if self.last.replace(stand) != Some(stand) {
                    print_rollout(rollout);
                }
            }
            RolloutEvent::Journal(entry) => print_entry(entry),
            RolloutEvent::End(rollout) => print_rollout(rollout),
        }
    }
}

fn print_rollout(rollout: &Rollout) {
    let target = format!("{}/{}", rollout.spec.environment, rollout.spec.service.name);
    let reason = rollout.reason.as_deref().map(|reason| format!("  {reason}")).unwrap_or_default();
    say!("rollout {} {target}  {} {:>3} %{reason}", rollout.id, show::status_text(&rollout.status), rollout.weight);
}

/// One line of a rollout's journal.
pub fn print_entry(entry: &JournalEntry) {
    let kind = serde_json::to_value(entry.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
    let time = entry.at.as_chrono().format("%H:%M:%S%.3f");
    let host = entry.host.as_deref().unwrap_or("-");
    let detail = entry.detail.get("message").and_then(|message| message.as_str());
    let detail = detail.map_or_else(|| entry.detail.to_string(), str::to_owned);
    say!("{time}  {:<16} {host:<8} {detail}", kind.unwrap_or_default());
}
