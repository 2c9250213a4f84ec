//! What a run on the own machine prints: each job's log while it runs, one job after the other, and how it ended.

use std::{io::Write as _, time::Duration};

use indexmap::IndexMap;
use segue_schemas::{
    api::{JobView, LogChunk, RunEvent, RunSummary},
    id::{JobId, RunId},
    status::JobStatus,
};
use tokio::sync::watch;

use crate::cli::{
    client::{CallError, Client},
    ending::{Explain as _, Failure},
    follow,
    out::mention,
    show,
};

/// How long a shell waits for the screen to have shown what was printed before it.
const SHOWN_LIMIT: Duration = Duration::from_secs(5);

/// Where the output of jobs goes, and how far it has got.
#[derive(Debug, Clone)]
pub struct Screen {
    is_error: bool,
    shown: watch::Sender<Option<(JobId, u64)>>,
}

/// How the jobs stand, as last heard.
#[derive(Debug, Default)]
struct Board {
    jobs: IndexMap<JobId, JobView>,
    has_ended: bool,
}

impl Screen {
    /// On standard output, or (where that is for JSON) on standard error.
    pub fn new(is_error: bool) -> Self {
        Self { is_error, shown: watch::Sender::new(None) }
    }

    /// Waits until a job's log was shown up to there.
    pub async fn wait_for(&self, job: JobId, offset: u64) {
        let mut shown = self.shown.subscribe();
        let _ = tokio::time::timeout(
            SHOWN_LIMIT,
            shown.wait_for(|shown| shown.is_some_and(|(of, end)| of == job && end >= offset)),
        )
        .await;
    }

    /// Follows a run to its end.
    ///
    /// # Errors
    /// The server does not answer any more.
    pub async fn follow(&self, client: &Client, run: RunId) -> Result<RunSummary, Failure> {
        let (latest, seen) = watch::channel(Board::default());
        let following = follow::run(client, run, |event| {
            latest.send_if_modified(|board| match event {
                RunEvent::Job(job) => {
                    board.jobs.insert(job.id, (**job).clone());
                    true
                }
                RunEvent::End(_) => {
                    board.has_ended = true;
                    true
                }
                RunEvent::Gone(id) => board.jobs.shift_remove(id).is_some(),
                RunEvent::Run(_) | RunEvent::Rollout(_) => false,
            });
        });
        let (ended, shown) = tokio::join!(following, self.show(client, seen));
        shown?;
        ended
    }

    /// One line.
    pub fn line(&self, text: impl std::fmt::Display) {
        if self.is_error { anstream::eprintln!("{text}") } else { mention!("{text}") }
    }

    async fn show(&self, client: &Client, mut seen: watch::Receiver<Board>) -> Result<(), Failure> {
        let mut shown: Vec<JobId> = Vec::new();
        loop {
            let (next, has_ended) = {
                let board = seen.borrow_and_update();
                let mut left = board.jobs.values().filter(|job| !shown.contains(&job.id));
                (left.find(|job| job.status.is_final() || job.status == JobStatus::Running).cloned(), board.has_ended)
            };
            match next {
                Some(job) => {
                    shown.push(job.id);
                    self.job(client, job, &mut seen).await?;
                }
                None if has_ended => return Ok(()),
                None => drop(seen.changed().await),
            }
        }
    }

    /// One job, from its first line to how it ended.
    async fn job(&self, client: &Client, mut job: JobView, seen: &mut watch::Receiver<Board>) -> Result<(), Failure> {
        if job.started_at.is_some() {
            let bold = anstyle::Style::new().bold();
            self.line(format_args!("{bold}== {} =={bold:#}", job.name));
            self.log(client, job.id).await?;
            let ended =
                |board: &Board| board.has_ended || board.jobs.get(&job.id).is_some_and(|job| job.status.is_final());
            if let Ok(board) = seen.wait_for(ended).await {
                job = board.jobs.get(&job.id).cloned().unwrap_or(job);
            }
        }
        let took = show::span(job.started_at, job.ended_at);
        let reason = job.reason.as_deref().map(|reason| format!("  {reason}")).unwrap_or_default();
        self.line(format_args!("{:<24} {} {took}{reason}", job.name, show::job_status(&job)));
        Ok(())
    }

    async fn log(&self, client: &Client, job: JobId) -> Result<(), Failure> {
        let query = serde_json::json!({"follow": true});
        let mut events = client.events(&format!("/jobs/{job}/logs"), &query).await?;
        let mut is_open = false;
        while let Some(event) = events.next().await? {
            match event.name.as_str() {
                "log" => {
                    let chunk: LogChunk =
                        serde_json::from_str(&event.data).map_err(|error| CallError::Unreadable(error.to_string()))?;
                    self.write(chunk.text.as_bytes()).explain("cannot write the log")?;
                    is_open = !chunk.text.ends_with('\n');
                    let end = event.id.and_then(|id| id.parse().ok());
                    self.shown.send_replace(Some((job, end.unwrap_or(chunk.offset + chunk.text.len() as u64))));
                }
                "end" => break,
                _ => {}
            }
        }
        // a last line that its step did not end
        if is_open { self.write(b"\n").explain("cannot write the log") } else { Ok(()) }
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        if self.is_error {
            return std::io::stderr().write_all(bytes);
        }
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush())
    }
}
