//! Runs one job.
//!
//! Comes in: a claim. Goes out: its steps' processes, its log, reports of its steps and its end, artifacts, and requests
//! for rollouts. Never here: which job runs next, how a process is started or killed (`engine`), what a rollout does.

pub mod error;
pub mod place;

pub use error::StepError;
pub use place::StepPlace;
