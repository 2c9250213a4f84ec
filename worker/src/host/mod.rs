//! `segue host`: the one process per machine that owns what lives long.
//!
//! Comes in: the calls of [`segue_schemas::host_api`] over a unix socket. Goes out: running services, the routes that the proxy
//! carries, and the observations that it makes. Never here: decisions about a rollout; a host does what the holder of the highest
//! epoch says, and goes back by itself when that holder is no longer heard.

pub mod client;
pub mod unix_http;
