//! What the demonstration came to: the figures, and whether all of it is true.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use segue_schemas::{
    api::{JobView, RolloutView, RunSummary},
    deploy::{JournalEntry, JournalKind},
    id::CommitSha,
    status::{RolloutStatus, RunStatus},
    time::Timestamp,
};
use serde::Serialize;

use super::load::Tally;
use crate::cli::{ending::Failure, out::mention, show};

/// The summary as `--json` prints it.
#[derive(Debug, Serialize)]
pub struct Summary {
    runs: Vec<RunFigures>,
    rollback: Option<RollbackFigures>,
    dropped_requests: u64,
}

/// One run.
#[derive(Debug, Serialize)]
struct RunFigures {
    commit: CommitSha,
    status: RunStatus,
    /// From the accepted webhook to the run's end.
    seconds: f64,
}

/// The rollback.
#[derive(Debug, Serialize)]
struct RollbackFigures {
    /// Requests that the canary had answered when the verdict was made.
    canary_requests: u64,
    /// From the canary's first traffic to the verdict.
    verdict_seconds: f64,
    /// From the verdict until the host confirmed that all traffic goes to the former release.
    traffic_back_seconds: f64,
}

/// One push and what came of it.
pub struct Chapter {
    /// What the commit calls itself.
    pub version: &'static str,
    /// The run as it ended.
    pub run: RunSummary,
    /// Its jobs as they ended.
    pub jobs: Vec<JobView>,
    /// The rollout to production, if it came to that.
    pub production: Option<RolloutView>,
}

/// Everything that was seen.
pub struct Evidence {
    /// The first release: there was nothing before it.
    pub first: Chapter,
    /// The good commit.
    pub good: Chapter,
    /// The commit that fails in production.
    pub bad: Chapter,
    /// Production's traffic.
    pub tally: Tally,
    /// From the start of the demonstration to the end of the last run.
    pub took: Duration,
}

impl Evidence {
    /// The figures.
    pub fn summary(&self) -> Summary {
        let runs = self.chapters().map(|chapter| RunFigures {
            commit: chapter.run.commit.clone(),
            status: chapter.run.status,
            seconds: seconds(chapter.run.ended_at.unwrap_or(chapter.run.created_at), chapter.run.created_at),
        });
        let rollback = self.bad.production.as_ref().and_then(rollback_figures);
        Summary { runs: runs.into(), rollback, dropped_requests: self.tally.dropped }
    }

    /// What should be true and is not; empty when the demonstration holds.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut claim = |is_true: bool, otherwise: String| {
            if !is_true {
                complaints.push(otherwise);
            }
        };
        for chapter in [&self.first, &self.good] {
            claim(
                chapter.run.status == RunStatus::Succeeded,
                format!(
                    "{} should reach production, but its run is {}: {}",
                    chapter.version,
                    chapter.run.status,
                    why(chapter)
                ),
            );
        }
        let weights = self.good.production.as_ref().map(weights).unwrap_or_default();
        claim(weights == [10, 50, 100], format!("the good release should go 10, 50, 100 %, but went {weights:?}"));
        claim(
            self.bad.run.status == RunStatus::Failed,
            format!("the run of {} should fail, but is {}", self.bad.version, self.bad.run.status),
        );
        let passed = ["test", "build", "staging", "integration"].iter().all(|key| {
            self.bad.jobs.iter().any(|job| job.key == *key && job.status == segue_schemas::status::JobStatus::Succeeded)
        });
        claim(passed, format!("{} should pass its tests and staging: {}", self.bad.version, why(&self.bad)));
        let rolled_back = self.bad.production.as_ref().map(|view| view.rollout.status);
        claim(
            rolled_back == Some(RolloutStatus::RolledBack),
            format!("the rollout of {} should be rolled back, but is {rolled_back:?}", self.bad.version),
        );
        let figures = self.bad.production.as_ref().and_then(rollback_figures);
        claim(figures.is_some(), "the rollback should be recorded with the numbers of its verdict".into());
        claim(
            figures.is_none_or(|figures| figures.canary_requests > 0),
            "the verdict should rest on requests that the canary answered".into(),
        );
        self.claim_traffic(&mut claim);
        complaints
    }

    fn claim_traffic(&self, claim: &mut impl FnMut(bool, String)) {
        let tally = &self.tally;
        claim(
            tally.dropped == 0,
            format!("no request should be dropped, but {} were: {}", tally.dropped, tally.reasons.join("; ")),
        );
        claim(tally.streams > 0, "streamed answers should have arrived whole".into());
        for (version, answers) in tally.versions.iter().filter(|(version, _)| *version != self.bad.version) {
            claim(
                answers.failed == 0,
                format!("{version} is good, but answered {} of its requests with an error", answers.failed),
            );
        }
        let answered = |version: &str| tally.versions.get(version);
        claim(
            answered(self.good.version).is_some(),
            format!("production should have answered with {}", self.good.version),
        );
        let bad = answered(self.bad.version);
        claim(
            bad.is_some_and(|answers| answers.failed > 0),
            format!("{} should have failed requests in production", self.bad.version),
        );
        let back_at = self.bad.production.as_ref().and_then(|view| traffic_back_at(&view.journal));
        if let (Some(bad), Some(back_at)) = (bad, back_at) {
            claim(
                bad.last_begun <= back_at,
                format!(
                    "no request should reach {} after {back_at}, but one did at {}",
                    self.bad.version, bad.last_begun
                ),
            );
        }
    }

    fn chapters(&self) -> [&Chapter; 3] {
        [&self.first, &self.good, &self.bad]
    }

    /// Prints the summary for people.
    pub fn print(&self) {
        let mut table =
            show::table(&["", "commit", "run", "took", "test", "build", "staging", "integration", "production"]);
        for chapter in self.chapters() {
            let mut row = vec![
                chapter.version.into(),
                chapter.run.commit.short().into(),
                show::status_cell(&chapter.run.status),
                show::span(Some(chapter.run.created_at), chapter.run.ended_at).into(),
            ];
            row.extend(["test", "build", "staging", "integration", "production"].map(|key| {
                let job = chapter.jobs.iter().find(|job| job.key == key);
                comfy_table::Cell::new(job.map(|job| show::span(job.started_at, job.ended_at)).unwrap_or_default())
            }));
            table.add_row(row);
        }
        mention!();
        show::print_table(&table, "");
        mention!();
        if let Some(view) = &self.good.production {
            mention!("{} went to production by {}", self.good.version, stage_times(&view.journal));
        }
        self.print_rollback();
        let tally = &self.tally;
        let versions: Vec<String> = tally
            .versions
            .iter()
            .map(|(version, answers)| format!("{version}: {} ({} failed)", answers.total, answers.failed))
            .collect();
        mention!(
            "production answered {} requests; {}; {} streams whole",
            tally.total(),
            versions.join(", "),
            tally.streams
        );
        if tally.held_back > 0 {
            mention!("the load generator held {} requests back: this machine is busy", tally.held_back);
        }
        let tone = show::tone_style(if tally.dropped == 0 { show::Tone::Good } else { show::Tone::Bad });
        mention!("{tone}dropped requests: {}{tone:#}", tally.dropped);
        mention!("all of it took {}", show::length(self.took));
    }

    fn print_rollback(&self) {
        let Some(view) = &self.bad.production else { return };
        let Some(figures) = rollback_figures(view) else { return };
        let reason = view.rollout.reason.as_deref().unwrap_or("no reason was recorded");
        mention!("{} is {}: {reason}", self.bad.version, show::status_text(&view.rollout.status));
        mention!(
            "  the canary answered {} requests before the verdict, {:.2} s after its first traffic;",
            figures.canary_requests,
            figures.verdict_seconds
        );
        mention!("  all traffic was back {:.0} ms after the verdict", figures.traffic_back_seconds * 1000.0);
    }
}

/// Prints what is not as it should be.
pub fn print_complaints(complaints: &[String]) {
    let style = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
    for complaint in complaints {
        anstream::eprintln!("{style}not as it should be:{style:#} {complaint}");
    }
}

/// Prints the summary as one line of JSON.
///
/// # Errors
/// It has no form in JSON.
pub fn print_json(summary: &Summary) -> Result<(), Failure> {
    show::json(summary)
}

/// The run's own reason, else those of its jobs.
fn why(chapter: &Chapter) -> String {
    let of_jobs =
        chapter.jobs.iter().filter_map(|job| job.reason.as_ref().map(|reason| format!("{}: {reason}", job.key)));
    chapter.run.reason.clone().unwrap_or_else(|| of_jobs.collect::<Vec<_>>().join("; "))
}

fn seconds(to: Timestamp, from: Timestamp) -> f64 {
    // milliseconds are what the record holds
    to.since(from).as_millis() as f64 / 1000.0
}

/// The weights that the host confirmed, in order, each once.
fn weights(view: &RolloutView) -> Vec<u64> {
    shifts(&view.journal).into_iter().map(|(_, percent)| percent).collect()
}

/// When the host confirmed a weight other than the one before, and which.
fn shifts(journal: &[JournalEntry]) -> Vec<(Timestamp, u64)> {
    let confirmed = journal
        .iter()
        .filter(|entry| entry.kind == JournalKind::Shifted)
        .filter_map(|entry| Some((entry.at, entry.detail.get("weight")?.as_u64()?)));
    let mut shifts: Vec<(Timestamp, u64)> = confirmed.collect();
    shifts.dedup_by_key(|(_, percent)| *percent);
    shifts
}

/// `10 % (2.1s), 50 % (2.0s), 100 %`.
fn stage_times(journal: &[JournalEntry]) -> String {
    let shifts = shifts(journal);
    let ended = journal.iter().find(|entry| entry.kind == JournalKind::Ended).map(|entry| entry.at);
    let ends = shifts.iter().skip(1).map(|(at, _)| Some(*at)).chain([ended]);
    let stages = shifts.iter().zip(ends).map(|((at, percent), end)| match end {
        Some(end) => format!("{percent} % ({})", show::length(end.since(*at))),
        None => format!("{percent} %"),
    });
    stages.collect::<Vec<_>>().join(", ")
}

fn rollback_figures(view: &RolloutView) -> Option<RollbackFigures> {
    let verdict = view.journal.iter().rfind(|entry| entry.kind == JournalKind::Verdict)?;
    let (first_traffic, _) = shifts(&view.journal).into_iter().find(|(_, percent)| *percent > 0)?;
    Some(RollbackFigures {
        canary_requests: verdict.detail.get("canary_requests")?.as_u64()?,
        verdict_seconds: seconds(verdict.at, first_traffic),
        traffic_back_seconds: measured_way_back(&view.journal)
            .or_else(|| Some(seconds(traffic_back_at(&view.journal)?, verdict.at)))?,
    })
}

/// From the decision to the host's word, as the driver measured it: finer than the times of the journal's entries, which the
/// server gives them when they reach it.
fn measured_way_back(journal: &[JournalEntry]) -> Option<f64> {
    let micros = journal.iter().find_map(|entry| entry.detail.pointer("/numbers/traffic_back_us")?.as_u64())?;
    Some(micros as f64 / 1_000_000.0)
}

fn traffic_back_at(journal: &[JournalEntry]) -> Option<Timestamp> {
    journal.iter().find(|entry| entry.kind == JournalKind::RolledBack).map(|entry| entry.at)
}
