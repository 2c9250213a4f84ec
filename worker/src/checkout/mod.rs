//! The repository at a commit, in a job's workspace.
//!
//! Comes in: a bare mirror, the server's own or one kept here. Goes out: a git directory that the job owns and that needs
//! the mirror no more: its packs are hard links, which cost no copying, and the mirror's owner alone can change them.
//! Never here: files of the working tree. Those are written by git under the job's user, as are the files that the job
//! may have laid in the way.

pub mod mirror;

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use segue_schemas::id::CommitSha;

/// What is run as the job's user to finish a checkout: directory, the git directory made by [`lay_out`].
pub const FINISH: &str = r#"root=$(pwd -P)
case $(readlink -m -- "$1") in
    "${root%/}" | "${root%/}"/*) ;;
    *) echo "\`path\` of the checkout leads out of the workspace, to $(readlink -m -- "$1")" >&2; exit 1 ;;
esac
mkdir -p -- "$1"
rm -rf -- "$1/.git"
mv -- "$2" "$1/.git"
cd -- "$1"
exec git read-tree --reset -u HEAD"#;

/// Why there is no checkout.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// A file could not be made.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Git could not do what was asked of it.
    #[error("git {command}: {reason}")]
    Git {
        /// The beginning of the command line.
        command: String,
        /// Its output's end, or why there is none.
        reason: String,
    },
    /// A name that cannot stand in a path.
    #[error("`{0}` is not the name of a repository, OWNER/NAME")]
    Name(String),
}

/// What a checkout is of.
#[derive(Debug)]
pub struct Source<'a> {
    /// The bare mirror.
    pub mirror: &'a Path,
    /// The commit, which the mirror has.
    pub commit: &'a CommitSha,
    /// The branch that the commit is checked out as; detached without one.
    pub branch: Option<&'a str>,
    /// The address of `origin`.
    pub origin: &'a str,
    /// Whether objects are copied: where the job may write to files that are the mirror's owner's, as root in a container may.
    pub copied: bool,
}

/// Makes the git directory of a clone at `git_dir`, without index and working tree. `own` is called with everything that
/// was made and is not a link.
///
/// # Errors
/// [`CheckoutError::File`].
pub fn lay_out(
    source: &Source<'_>,
    git_dir: &Path,
    mut own: impl FnMut(&Path) -> io::Result<()>,
) -> Result<(), CheckoutError> {
    let mut made = Vec::new();
    for directory in ["", "objects", "objects/info", "objects/pack", "refs", "refs/heads", "refs/tags", "info"] {
        make_directory(&git_dir.join(directory), &mut made)?;
    }
    link_objects(source.copied, &source.mirror.join("objects"), &git_dir.join("objects"), 0, &mut made)?;

    let head = source.branch.map_or_else(|| source.commit.to_string(), |branch| format!("ref: refs/heads/{branch}"));
    let mut refs = String::from("# pack-refs with:\n");
    for (name, object) in refs_of(source.mirror)? {
        if let Some(branch) = name.strip_prefix("refs/heads/") {
            refs.push_str(&format!("{object} refs/remotes/origin/{branch}\n"));
        } else if name.starts_with("refs/tags/") {
            refs.push_str(&format!("{object} {name}\n"));
        }
    }
    if let Some(branch) = source.branch {
        refs.push_str(&format!("{} refs/heads/{branch}\n", source.commit));
    }
    for (name, content) in [("HEAD", format!("{head}\n")), ("packed-refs", refs), ("config", config(source))] {
        let path = git_dir.join(name);
        fs::write(&path, content).map_err(at(&path))?;
        made.push(path);
    }
    made.iter().try_for_each(|path| own(path).map_err(at(path)))
}

fn config(source: &Source<'_>) -> String {
    let quoted = source.origin.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], "");
    let (version, extensions) = match source.commit.as_str().len() {
        40 => (0, ""),
        _ => (1, "[extensions]\n\tobjectformat = sha256\n"),
    };
    format!(
        "[core]\n\trepositoryformatversion = {version}\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n{extensions}\
         [remote \"origin\"]\n\turl = \"{quoted}\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
    )
}

/// Links every object, or copies it where that is asked for, or on another file system. What a repacking removes meanwhile is in a pack that came
/// before; git says so if it is not.
fn link_objects(
    copied: bool,
    from: &Path,
    to: &Path,
    depth: usize,
    made: &mut Vec<PathBuf>,
) -> Result<(), CheckoutError> {
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let (source, target) = (entry.path(), to.join(&name));
        let kind = entry.file_type().map_err(at(&source))?;
        if kind.is_dir() && depth == 0 && (text == "pack" || text.len() == 2) {
            make_directory(&target, made)?;
            link_objects(copied, &source, &target, 1, made)?;
        } else if kind.is_file() && depth == 1 && !text.starts_with("tmp_") && !text.ends_with(".lock") {
            let linked = if copied { Err(io::ErrorKind::Unsupported.into()) } else { fs::hard_link(&source, &target) };
            match linked {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => {
                    fs::copy(&source, &target).map_err(at(&source))?;
                    made.push(target);
                }
            }
        }
    }
    Ok(())
}

fn make_directory(path: &Path, made: &mut Vec<PathBuf>) -> Result<(), CheckoutError> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => made.push(path.to_owned()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(at(path)(error)),
    }
    Ok(())
}

/// Every ref of a repository with its object: loose ones before packed ones.
fn refs_of(repository: &Path) -> Result<Vec<(String, String)>, CheckoutError> {
    let mut refs = indexmap::IndexMap::new();
    let mut directories = vec![repository.join("refs/heads"), repository.join("refs/tags")];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(path);
            } else if let (Ok(name), Ok(object)) = (path.strip_prefix(repository), fs::read_to_string(&path)) {
                let (name, object) = (name.to_string_lossy().into_owned(), object.trim().to_owned());
                if is_object(&object) && !name.ends_with(".lock") {
                    refs.insert(name, object);
                }
            }
        }
    }
    let packed = repository.join("packed-refs");
    match fs::read_to_string(&packed) {
        Ok(text) => {
            for line in text.lines() {
                if let Some((object, name)) = line.split_once(' ')
                    && is_object(object)
                {
                    refs.entry(name.to_owned()).or_insert_with(|| object.to_owned());
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(&packed)(error)),
    }
    Ok(refs.into_iter().collect())
}

fn is_object(text: &str) -> bool {
    text.parse::<CommitSha>().is_ok()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CheckoutError + '_ {
    move |source| CheckoutError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
