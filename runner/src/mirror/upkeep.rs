//! The folder of a mirror: made, named after where it came from, and kept tidy.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::io::AsyncWriteExt as _;

use super::{MirrorError, QUICK_LIMIT, SMALL_OUTPUT, SOURCE_FILE, Source, git};

/// Time limit of tidying up.
const TIDY_LIMIT: Duration = Duration::from_secs(1800);
/// Commits that no ref leads to any more (a forced push) can be run again for so long.
const PRUNE: &str = "gc.pruneExpire=90.days.ago";

pub(super) fn is_mirror(path: &Path) -> bool {
    path.join("HEAD").is_file()
}

/// Makes an empty mirror; `false` where there was one.
pub(super) async fn make_mirror(path: &Path) -> Result<bool, MirrorError> {
    if is_mirror(path) {
        return Ok(false);
    }
    let folder = |problem: std::io::Error| MirrorError::Folder { path: path.to_owned(), problem: problem.to_string() };
    let unfinished = path.with_extension("git.new");
    match tokio::fs::remove_dir_all(&unfinished).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(folder(error)),
        _ => {}
    }
    tokio::fs::create_dir_all(&unfinished).await.map_err(folder)?;
    let mut command = git::command(None);
    command.args(["init", "--quiet", "--bare", "--template="]).arg(git::end_of_options()).arg(&unfinished);
    git::run_ok("making a mirror", command, QUICK_LIMIT, SMALL_OUTPUT).await?;
    tokio::fs::rename(&unfinished, path).await.map_err(folder)?;
    Ok(true)
}

/// Joins packs, so that each is at least twice as large as all smaller ones: what is large is left alone. Readers and fetches go on
/// meanwhile.
pub(super) async fn tidy(mirror: PathBuf) {
    tidied(&mirror, &["repack", "--geometric=2", "-d", "-l", "--quiet"]).await;
}

/// Packs everything anew, and removes what nothing has led to for long. Readers and fetches go on meanwhile.
pub(super) async fn clean(mirror: PathBuf) {
    tidied(&mirror, &["-c", PRUNE, "gc", "--quiet"]).await;
}

async fn tidied(mirror: &Path, arguments: &[&str]) {
    let mut command = git::command(Some(mirror));
    command.args(arguments);
    if let Err(error) = git::run_ok("tidying a mirror up", command, TIDY_LIMIT, SMALL_OUTPUT).await {
        tracing::warn!(mirror = %mirror.display(), %error, "a mirror is left as it is");
    }
}

/// The address may hold a password: only the owner reads it.
pub(super) async fn note_source(mirror: &Path, source: &Source) -> Result<(), MirrorError> {
    let path = mirror.join(SOURCE_FILE);
    let problem = |problem: std::io::Error| MirrorError::Folder { path: path.clone(), problem: problem.to_string() };
    let mut options = tokio::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path).await;
    let mut file = file.map_err(problem)?;
    file.write_all(source.as_str().as_bytes()).await.map_err(problem)?;
    file.flush().await.map_err(problem)
}
