//! The data plane: takes jobs and rollouts from a server, runs steps, performs deployments; keeps a machine's services.
//!
//! Comes in: claims, over the worker's API. Goes out: logs, reports, artifacts and journal entries over the same API,
//! and changes of hosts. Never here: a decision about what runs next or whether a release is good (`pipelines`), and no
//! access to the server's store.

pub mod artifact;
pub mod checkout;
pub mod control_plane;
pub mod deploy;
pub mod engine;
pub mod gpu;
pub mod host;
pub mod job;
pub mod log;
pub mod options;
pub mod proxy;
pub mod queue;
mod router;
pub mod supervisor;
mod worker;

pub use options::WorkerOptions;
pub use worker::{WorkerError, run};
