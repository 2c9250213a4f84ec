//! Previews: every open pull request's own copy of a service.
//!
//! Comes in: what GitHub told of pull requests, and which previews there are. Goes out: what a preview is called, which of two words
//! about a pull request is the newer, who makes room, and what a comment says of them. Never here: making one, or taking it away.

mod comment;
mod name;
mod pull;
mod room;

pub use comment::{Told, comment, is_comment};
pub use name::{LONGEST_NAME, is_preview, name};
pub use pull::Pull;
pub use room::{Occupant, makes_room};

/// The environment of previews.
pub const ENVIRONMENT: &str = "preview";
/// The action that makes one.
pub const ACTION: &str = "segue/preview";
