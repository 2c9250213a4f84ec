//! Segue.
pub mod judge;
pub mod rollout;
