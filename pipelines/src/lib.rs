//! The pipeline language and every decision: expressions, files into models, plans, progress, rollouts, verdicts.
//!
//! Comes in: texts, events, observations and times, all as data. Goes out: values, plans, actions and diagnostics, for
//! others to store and perform. Never here: IO, clocks, randomness, environment, processes; `clippy.toml` holds that.

pub mod actions;
pub mod attempts;
pub mod backup;
pub mod checks;
pub mod comment;
pub mod config;
pub mod container;
pub mod diagnostic;
pub mod document;
pub mod expr;
pub mod filter;
pub mod gpu;
pub mod image;
pub mod inputs;
pub mod json_schema;
pub mod judge;
pub mod machines;
pub mod matrix;
mod nearest;
pub mod pipeline;
pub mod plan;
pub mod preview;
pub mod progress;
pub mod promotion;
pub mod protection;
pub mod provenance;
pub mod rollout;
pub mod sanitise;
pub mod sbom;
pub mod schedule;
pub mod service;
pub mod strategies;
pub mod sync;
pub mod workflow;
