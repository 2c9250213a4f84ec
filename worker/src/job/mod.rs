//! Runs one job.
//!
//! Comes in: a claim. Goes out: its steps' processes, its log, reports of its steps and its end, artifacts, and requests
//! for rollouts. Never here: which job runs next, how a process is started or killed (`engine`), what a rollout does.

pub mod built_in;
mod cache;
pub mod command_files;
mod containers;
pub mod context;
mod end;
pub mod error;
mod hash_files;
mod health;
mod image;
pub mod lease;
mod machines;
mod perform;
pub mod place;
mod platforms;
pub mod present;
mod provenance;
pub mod report;
pub mod run;
mod sbom;
pub mod script;
mod snapshots;
pub mod spares;
pub mod state;
mod steps;
pub mod users;
pub mod workspace;

pub use error::StepError;
pub use place::StepPlace;
pub use run::{JobRunner, LeasedJob, end_leftovers};
