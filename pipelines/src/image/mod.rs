//! What `segue/build-image` is told, and which files of its context it may see.
//!
//! Comes in: the evaluated texts of `with`, the text of a `.dockerignore`. Goes out: a [`Build`], or which input is wrong and what to
//! write; whether a path is left out. Never here: reading files, asking an engine.

mod build;
mod ignore;
mod reference;

pub use build::{Build, Login, Network, Pairs, WrongInput, is_after, pairs, platform, rfc3339, source};
pub use ignore::{BadPattern, Ignore, Standing};
pub use reference::{check_tag, list, repository};
