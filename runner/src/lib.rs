//! The control plane: webhook intake, planning, run state, the API.
//!
//! Comes in: webhooks, workers' reports, people's requests, all over HTTP. Goes out: runs, leases, answers, messages. Never
//! here: what a worker or a host does (only the binary knows the worker).

pub mod artifact_store;
pub mod control;
pub mod log_store;
pub mod mirror;
pub mod secrets;
pub mod store;
#[cfg(test)]
mod testing;
pub mod webhook;
