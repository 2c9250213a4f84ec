//! The way to Lambda Cloud, from which runs rent machines with GPUs.
//!
//! Comes in: what the store says is wanted, or is to go. Goes out: launches and terminations, each written down before it is asked for,
//! and what Lambda shows. The key never leaves the server. Never here: what is launched, or when one has to go
//! (`segue_pipelines::machines` says that).

mod answer;
mod client;
mod error;
mod keeper;

pub use client::{Lambda, Launch};
pub use error::LambdaError;
pub use keeper::Keeper;

#[cfg(test)]
mod tests;
