//! The control plane of Segue and its command line, as a library that `main` starts.

pub mod artifact_store;
pub mod control;
pub mod log_store;
pub mod secrets;
pub mod store;
