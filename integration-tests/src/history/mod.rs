//! What happened under a fault, and whether that is what was promised.
//!
//! Comes in: every delivery that was sent with its answer, what every step did outside (each step of [`pipeline`] appends lines to a
//! file: run, job, epoch, step), every lease, end and step that the store wrote (`trail`), and, at the end, what the API says of runs
//! and logs. Goes out: every promise that was broken, in words. `check` is pure, so that it is tested on histories that are wrong on purpose. Never here: who is killed, and when.

mod check;
mod record;
pub mod trail;

use std::{collections::BTreeMap, fmt};

pub use check::check;
pub use record::{Recorder, pipeline};
use segue_schemas::status::{JobStatus, RunStatus};

pub use crate::processes::Memory;

/// A webhook that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its GUID.
    pub guid: String,
    /// What it is about: who sends the same once more means the same work.
    pub identity: String,
    /// Whether it was answered 202. Without an answer nobody knows, and it may have been taken.
    pub accepted: bool,
}

/// A line that a step wrote outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The run's number.
    pub run: i64,
    /// The job's key.
    pub job: String,
    /// The epoch of the lease that it ran under.
    pub epoch: i64,
    /// The step's number.
    pub step: u32,
    /// Whether it began, or had done what it does.
    pub what: Mark,
}

/// What a step says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Its first act.
    Begins,
    /// Its last.
    Ends,
}

/// A write of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The run's number.
    pub run: i64,
    /// The job's key.
    pub job: String,
    /// The epoch of its newest lease.
    pub epoch: i64,
    /// How the job stood when it was written, or how it stands by it.
    pub status: JobStatus,
    /// What of it was written.
    pub what: Write,
}

/// What the store writes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Its state or its lease.
    Job,
    /// A step of it.
    Step,
}

/// A run as the API shows it at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedRun {
    /// Its number.
    pub run: i64,
    /// How it stands.
    pub status: RunStatus,
    /// Its jobs by key.
    pub jobs: BTreeMap<String, EndedJob>,
}

/// A job as the API shows it at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedJob {
    /// How it stands.
    pub status: JobStatus,
    /// The epochs that its log tells of, in the log's order.
    pub log_epochs: Vec<i64>,
    /// Whether each of its steps has the end of its output in the log.
    pub log_is_whole: bool,
    /// What it says of its end.
    pub reason: Option<String>,
}

/// Everything that is known when it is over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The webhooks, in the order in which they were sent.
    pub sent: Vec<Sent>,
    /// Which runs the API says that came of each delivery; `None`: the API does not know the delivery.
    pub runs_of: BTreeMap<String, Option<Vec<i64>>>,
    /// What steps did outside, in the order in which it reached the file.
    pub effects: Vec<Effect>,
    /// What the store wrote, in the order of its commits.
    pub written: Vec<Written>,
    /// The runs.
    pub runs: Vec<EndedRun>,
    /// Steps of each job by key.
    pub steps: BTreeMap<String, u32>,
    /// Jobs of which one at most may be at work at a time, over all runs.
    pub exclusive: Vec<String>,
    /// The memory of each server and worker at its highest.
    pub memory: Vec<Memory>,
}

/// A promise that was broken. The letters are those of `docs/architecture.md`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub invariant: char,
    /// How.
    pub how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.how)
    }
}
