//! Previews: every open pull request's own copy of a service.
//!
//! Comes in: what GitHub told of pull requests, and which previews there are. Goes out: what a preview is called, which of two words
//! about a pull request is the newer, and who makes room. Never here: making one, or taking it away.

mod name;
mod pull;
mod room;

pub use name::{LONGEST_NAME, name};
pub use pull::Pull;
pub use room::{Occupant, makes_room};

/// The environment of previews.
pub const ENVIRONMENT: &str = "preview";
/// The action that makes one.
pub const ACTION: &str = "segue/preview";
