//! The stand that the stories and the benchmarks are played on: the built `segue` binary in a folder of its own, a real git
//! repository to push to, webhooks signed as GitHub signs them, a client of the public API and a load generator.
//!
//! Comes in: nothing but the binary's path. Goes out: what a user could see. Never here: anything of Segue's inside; the
//! only crate of the workspace that this one knows is `segue-schemas`.

pub mod api;
pub mod boxed;
pub mod broker;
pub mod cluster;
pub mod cut;
pub mod disk;
pub mod docker;
pub mod engines;
pub mod exporter;
pub mod faults;
pub mod fleet;
pub mod github;
pub mod gpus;
pub mod history;
pub mod hostile;
pub mod joined;
pub mod lambda;
pub mod ledger;
pub mod load;
pub mod postgres;
pub mod processes;
pub mod pulls;
pub mod registry;
pub mod repository;
pub mod routers;
pub mod s3;
pub mod sample;
pub mod stand;
pub mod webhook;
