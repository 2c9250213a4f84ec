//! Where GitHub's webhooks come in.

mod field;
mod payload;
mod signature;

pub use payload::{Meaning, PayloadError, is_rollback_tag};
