//! Segue.

pub mod deploy;
pub mod host;
