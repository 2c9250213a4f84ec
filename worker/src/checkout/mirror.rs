//! Bare mirrors: the server's, where this machine has it, else one kept here.

use std::{
    collections::HashMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use segue_schemas::id::CommitSha;
use tokio::process::Command;

use super::CheckoutError;

/// A fetch that takes longer is given up.
const FETCH_LIMIT: Duration = Duration::from_secs(20 * 60);
/// A question to a local repository.
const LOCAL_LIMIT: Duration = Duration::from_secs(30);
/// Of git's complaints, what is shown.
const MAX_COMPLAINT: usize = 2000;

/// The mirrors of this worker, below one directory.
#[derive(Debug)]
pub struct Mirrors {
    directory: PathBuf,
    /// One fetch at a time for each repository.
    fetching: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
}

impl Mirrors {
    /// Mirrors below this directory; nothing is made.
    #[must_use]
    pub fn at(directory: PathBuf) -> Self {
        Self { directory, fetching: Mutex::default() }
    }

    /// A mirror that has the commit: `servers`, where it is given and has it, else the own one, fetched from `clone_url`
    /// where it lacks it.
    ///
    /// # Errors
    /// [`CheckoutError::Git`] with git's own words.
    pub async fn with_commit(
        &self,
        servers: Option<&Path>,
        repository: &str,
        clone_url: &str,
        commit: &CommitSha,
    ) -> Result<PathBuf, CheckoutError> {
        if let Some(mirror) = servers
            && mirror.is_dir()
        {
            return Ok(mirror.to_owned());
        }
        let mirror = self.path(repository)?;
        let lock = {
            let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
            fetching.entry(mirror.clone()).or_default().clone()
        };
        let _one = lock.lock().await;
        if has_commit(&mirror, commit).await {
            return Ok(mirror);
        }
        if !mirror.join("HEAD").exists() {
            let format = if commit.as_str().len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
            let init = ["init".as_ref(), "--quiet".as_ref(), "--bare".as_ref(), format.as_ref(), mirror.as_os_str()];
            git(&init, LOCAL_LIMIT).await?;
        }
        fetch(&mirror, clone_url, "+refs/*:refs/*").await?;
        if !has_commit(&mirror, commit).await {
            // A commit that no ref holds any more, as after a forced push.
            fetch(&mirror, clone_url, commit.as_str()).await?;
        }
        Ok(mirror)
    }

    fn path(&self, repository: &str) -> Result<PathBuf, CheckoutError> {
        let is_part = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        match repository.split_once('/') {
            Some((owner, name)) if is_part(owner) && is_part(name) => {
                Ok(self.directory.join(owner).join(format!("{name}.git")))
            }
            _ => Err(CheckoutError::Name(repository.to_owned())),
        }
    }
}

/// The commit that a name means in a mirror.
///
/// # Errors
/// [`CheckoutError::Git`] where it means none.
pub async fn resolve(mirror: &Path, name: &str) -> Result<CommitSha, CheckoutError> {
    let mut reason = String::new();
    for candidate in [format!("refs/heads/{name}"), format!("refs/tags/{name}"), name.to_owned()] {
        let commit = format!("{candidate}^{{commit}}");
        match git_in(mirror, &["rev-parse", "--verify", "--quiet", "--end-of-options", &commit], LOCAL_LIMIT).await {
            Ok(output) => match String::from_utf8_lossy(&output).trim().parse() {
                Ok(sha) => return Ok(sha),
                Err(error) => reason = error.to_string(),
            },
            Err(error) => reason = error.to_string(),
        }
    }
    tracing::debug!(name, reason, "not a commit");
    let reason = format!("the repository has no branch, tag or commit `{name}`");
    Err(CheckoutError::Git { command: "rev-parse".into(), reason })
}

/// When a commit was made, in seconds since 1970.
///
/// # Errors
/// [`CheckoutError::Git`] where there is no such commit.
pub async fn commit_time(mirror: &Path, commit: &CommitSha) -> Result<i64, CheckoutError> {
    let output =
        git_in(mirror, &["log", "-1", "--format=%ct", "--end-of-options", commit.as_str()], LOCAL_LIMIT).await?;
    String::from_utf8_lossy(&output).trim().parse().map_err(|_| {
        let reason = format!("the commit {commit} has no time");
        CheckoutError::Git { command: "log".into(), reason }
    })
}

/// A file of a commit, without a checkout; `None` where there is none.
///
/// # Errors
/// [`CheckoutError::Git`] where it is no file, or larger than `max_bytes`.
pub async fn read_file(
    mirror: &Path,
    commit: &CommitSha,
    path: &str,
    max_bytes: u64,
) -> Result<Option<Vec<u8>>, CheckoutError> {
    let object = format!("{commit}:{path}");
    let Ok(size) = git_in(mirror, &["cat-file", "-s", &object], LOCAL_LIMIT).await else { return Ok(None) };
    let size: u64 = String::from_utf8_lossy(&size).trim().parse().unwrap_or(u64::MAX);
    if size > max_bytes {
        let reason = format!("{path} has {size} bytes; {max_bytes} are the most");
        return Err(CheckoutError::Git { command: "cat-file".into(), reason });
    }
    git_in(mirror, &["cat-file", "blob", &object], LOCAL_LIMIT).await.map(Some)
}

async fn has_commit(mirror: &Path, commit: &CommitSha) -> bool {
    let commit = format!("{commit}^{{commit}}");
    mirror.is_dir() && git_in(mirror, &["cat-file", "-e", &commit], LOCAL_LIMIT).await.is_ok()
}

async fn fetch(mirror: &Path, clone_url: &str, what: &str) -> Result<(), CheckoutError> {
    // As packs, not as thousands of files: a checkout links each of them.
    let settings = ["-c", "fetch.unpackLimit=1", "-c", "protocol.ext.allow=never"];
    let arguments = ["fetch", "--quiet", "--prune", "--no-write-fetch-head", "--end-of-options", clone_url, what];
    git_in(mirror, &[&settings[..], &arguments[..]].concat(), FETCH_LIMIT).await.map(drop)
}

async fn git_in(mirror: &Path, arguments: &[&str], limit: Duration) -> Result<Vec<u8>, CheckoutError> {
    let mut all: Vec<&OsStr> = vec!["--git-dir".as_ref(), mirror.as_os_str()];
    all.extend(arguments.iter().map(OsStr::new));
    git(&all, limit).await
}

async fn git(arguments: &[&OsStr], limit: Duration) -> Result<Vec<u8>, CheckoutError> {
    let failed = |reason: String| CheckoutError::Git {
        command: arguments
            .iter()
            .skip_while(|a| a.as_encoded_bytes().starts_with(b"-"))
            .map(|a| a.to_string_lossy())
            .find(|a| !a.contains(['/', '=', ':']))
            .unwrap_or_default()
            .into_owned(),
        reason,
    };
    let run = Command::new("git")
        // The server's mirror may belong to another user; it is as trusted as the server.
        .args(["-c", "safe.directory=*"])
        .args(arguments)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(limit, run).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(failed(format!("can't be started: {error}"))),
        Err(_) => return Err(failed(format!("took longer than {} s", limit.as_secs()))),
    };
    if output.status.success() {
        return Ok(output.stdout);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint: String = complaint.trim().chars().take(MAX_COMPLAINT).collect();
    Err(failed(if complaint.is_empty() { output.status.to_string() } else { complaint }))
}
