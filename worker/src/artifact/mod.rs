//! Artifacts and caches: files as zstd-compressed tars, artifacts named by the SHA-256 of those bytes.
//!
//! Comes in: files below a directory, or an archive. Goes out: the other of the two. Never here: who may read or write
//! there. In a job both run as the job's user, in a process of their own (`supervisor/child.rs`), so that whatever a job
//! has laid in the way can only reach what the job can reach. There is one way to unpack, for jobs and for hosts.

pub mod context;
pub mod pack;
pub mod select;
pub mod unpack;

use std::{
    fs,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use context::Context;
use unpack::UnpackRules;

/// The folders of a job that a cache may hold parts of.
pub const CACHED_FOLDERS: [&str; 2] = ["work", "home"];

/// What of a directory is packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Packed {
    /// A directory with all in it, or one file. It must be there.
    Whole(String),
    /// What paths and patterns name, one each, in order, `!` to take out again.
    Matching(Vec<String>),
    /// The same, for a cache: [`CACHED_FOLDERS`] of the directory alone, with times.
    Cache(Vec<String>),
    /// What the build of an image sees, as a plain tar.
    Context(Context),
}

/// What became of packing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackEnd {
    /// It is packed; this was left out.
    Done(Vec<String>),
    /// There is no such file.
    Nothing,
    /// It is packed; this is to be told.
    Told(String),
}

/// Packs files of a directory into an archive. Blocks.
///
/// # Errors
/// What can't be packed, and why.
pub fn pack_from(directory: &Path, packed: &Packed, archive: File) -> io::Result<PackEnd> {
    let (patterns, cache) = match packed {
        Packed::Whole(path) => {
            return Ok(pack::pack(&directory.join(path), archive).map(|()| PackEnd::Done(Vec::new()))?);
        }
        Packed::Matching(patterns) => (patterns, false),
        Packed::Cache(patterns) => (patterns, true),
        Packed::Context(context) => return context::pack(directory, context, archive).map(PackEnd::Told),
    };
    let selected = select::select(directory, patterns, cache)?;
    if selected.is_empty() {
        return Ok(PackEnd::Nothing);
    }
    let left_out = if cache {
        pack::pack_cache(&selected, archive)?
    } else {
        pack::pack_selected(&selected, archive).map(|()| Vec::new())?
    };
    Ok(PackEnd::Done(left_out))
}

/// Unpacks an artifact below `root`, a job's directory, at `path`, which is made where it is not there; files in the way are
/// replaced. Blocks.
///
/// # Errors
/// The path leads out of the root; what is wrong with the archive, or can't be written.
pub fn unpack_into(archive: File, root: &Path, path: &str) -> io::Result<()> {
    let directory = make_beneath(root, Path::new(path))?;
    let rules = UnpackRules { replace: true, ..UnpackRules::default() };
    unpack::unpack(archive, &directory, rules).map_err(io::Error::other)
}

/// Makes the folders of a relative path below `root`, and says where that really is. A link may lead elsewhere within the root,
/// and not out of it: nothing is made there.
fn make_beneath(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let root = root.canonicalize()?;
    let mut place = root.clone();
    for part in path.components() {
        place.push(part);
        match fs::create_dir(&place) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(&place, &error)),
            _ => {}
        }
        place = place.canonicalize().map_err(|error| at(&place, &error))?;
        if !place.starts_with(&root) {
            let text = format!("{}: it leads out of the workspace, to {}", path.display(), place.display());
            return Err(io::Error::other(text));
        }
    }
    Ok(place)
}

fn at(place: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", place.display()))
}

/// Unpacks a cache into [`CACHED_FOLDERS`] of a job's directory. Blocks.
///
/// # Errors
/// As [`unpack_into`].
pub fn restore_into(archive: File, directory: &Path) -> io::Result<()> {
    let rules = UnpackRules { replace: true, keep_times: true, only_below: &CACHED_FOLDERS, ..UnpackRules::default() };
    unpack::unpack(archive, directory, rules).map_err(io::Error::other)
}
