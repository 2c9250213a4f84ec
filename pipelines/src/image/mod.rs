//! What `segue/build-image` is told, and which files of its context it may see.
//!
//! Comes in: the evaluated texts of `with`, the text of a `.dockerignore`. Goes out: a [`Build`], or which input is wrong and what to
//! write; whether a path is left out. Never here: reading files, asking an engine.

mod build;
mod ignore;
mod index;
mod reference;

pub use build::{Build, Login, Network, Pairs, WrongInput, cache_to, is_after, pairs, platforms, rfc3339, source};
pub use ignore::{BadPattern, Ignore, Standing};
pub use index::{
    Challenge, INDEX, MANIFESTS, MAX_PLATFORMS, OfPlatform, at_registry, challenge, index, is_of, platform_tag,
};
pub use reference::{check_tag, list, repository};
