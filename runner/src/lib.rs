//! The control plane: webhook intake, planning, run state, the API.
//!
//! Comes in: webhooks, workers' reports, people's requests, all over HTTP. Goes out: runs, leases, answers, messages. Never
//! here: what a worker or a host does (only the binary knows the worker).

pub mod api;
pub mod artifact_store;
pub mod auth;
pub mod authority;
pub mod backup;
pub mod control;
pub mod github;
pub mod lambda;
pub mod log_store;
pub mod mirror;
pub mod notify;
mod outgoing;
pub mod planner;
pub mod provenance;
pub mod queue;
pub mod reconcile;
pub mod retention;
pub mod scheduler;
pub mod secrets;
pub mod store;
pub mod tags;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod up;
pub mod webhook;
