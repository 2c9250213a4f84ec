//! Drives rollouts: performs at the hosts what `segue_pipelines::rollout` decides, and writes it into the rollout's journal.
//!
//! Comes in: rollouts leased from the server with their journals, what the hosts report, observations, persons' commands.
//! Goes out: mutations of hosts under the lease's epoch, each journaled before it is made and after it was seen. Never
//! here: a decision about a rollout, and a second way to recover; a new owner goes through the same loop as the first.

pub mod hosts;
pub mod inputs;
pub mod ladder;
pub mod server;
