//! Segue.

pub mod host;
