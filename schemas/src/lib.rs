//! What crosses a wire or is stored: ids, times, statuses, plans, messages and configuration.
//!
//! Comes in: nothing, this crate depends on no other crate of the workspace. Goes out: plain data with serde,
//! JSON Schema and OpenAPI descriptions. Never here: IO, clocks, randomness, decisions.

pub mod annotation;
pub mod api;
pub mod artifact;
pub mod assignment;
pub mod config;
pub mod deploy;
pub mod duration;
pub mod engine;
pub mod gpu;
pub mod gpu_health;
pub mod host_api;
pub mod host_join;
pub mod id;
pub mod json_schema;
pub mod machine;
pub mod plan;
pub mod preview;
pub mod price;
pub mod provenance;
pub mod queue;
pub mod router;
pub mod size;
pub mod status;
pub mod strategy;
pub mod sync;
pub mod time;
pub mod trigger;
pub mod worker_api;
