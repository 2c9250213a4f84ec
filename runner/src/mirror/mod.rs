//! Bare mirrors of the repositories, one each at `<root>/<owner>/<name>.git`, brought up to a commit on demand. Comes in: a
//! repository's checked name, where to fetch it from, commits and refs. Goes out: pipeline files at a commit, names of
//! changed files, what a branch points to, and a tag pushed back. Never here: what any of it means; a value that git could
//! take for an option; a git process without a time limit.

mod error;
mod git;
mod name;
mod reader;
mod tree;
mod upkeep;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use segue_schemas::id::CommitSha;
use tokio::sync::Semaphore;

pub use self::{
    error::MirrorError,
    name::{InvalidName, RefName, RepositoryName, Source},
};
use self::{
    reader::{Found, Object, Reader, WarmReaders},
    upkeep::{clean, is_mirror, make_mirror, note_source, tidy},
};

/// Time limit of a fetch. The first one of a repository brings its whole history.
const FETCH_LIMIT: Duration = Duration::from_secs(300);
/// Time limit of the first fetch.
const CLONE_LIMIT: Duration = Duration::from_secs(1800);
/// Time limit of everything else.
const QUICK_LIMIT: Duration = Duration::from_secs(60);
/// Fetches at a time, over all repositories.
const FETCHES: usize = 4;
/// Pipeline files of a commit at most.
pub const MAX_PIPELINE_FILES: usize = 100;
/// The largest pipeline file in bytes.
pub const MAX_PIPELINE_BYTES: usize = 1024 * 1024;
/// The largest folder whose list is read.
const MAX_FOLDER_BYTES: usize = 4 * 1024 * 1024;
/// The largest commit whose message is read.
const MAX_COMMIT_BYTES: usize = 256 * 1024;
/// After so many fetches git joins the packs that each of them brought.
const FETCHES_PER_TIDYING: u64 = 64;
/// After so many it looks through everything, for what nothing leads to any more. That takes minutes for a large repository.
const FETCHES_PER_CLEANING: u64 = 64 * FETCHES_PER_TIDYING;
/// Commits that are remembered to be fetched anew at most.
const HOLES: usize = 1000;
/// Names of changed files are listed up to this many bytes; above, every path counts as changed.
const CHANGED_LIMIT: usize = 8 * 1024 * 1024;
const SMALL_OUTPUT: usize = 64 * 1024;
const PIPELINES: &str = ".segue/pipelines";
const ACTIONS: &str = ".segue/actions";
/// Holds, in a mirror, the address that it was last fetched from.
const SOURCE_FILE: &str = "segue-source";

/// A commit that is wanted in the mirror, and the ref by which the remote keeps it.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The commit.
    pub commit: CommitSha,
    /// The remote's ref that leads to it. The mirror keeps the commit for it, and asks for it where a remote gives no
    /// single commits.
    pub git_ref: RefName,
}

/// A pipeline's file at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineFile {
    /// From the repository's root.
    pub path: String,
    /// Its text, or why it has none.
    pub text: Result<String, String>,
}

/// The mirrors of one data directory.
pub struct Mirrors {
    root: PathBuf,
    readers: WarmReaders,
    fetches: Semaphore,
    fetched: AtomicU64,
    /// One fetch at a time per repository; an entry lives as long as somebody fetches or waits to.
    fetching: Mutex<HashMap<RepositoryName, Weak<tokio::sync::Mutex<()>>>>,
    /// Commits of which a part was found to be missing, until they are fetched anew.
    holes: Mutex<HashSet<(RepositoryName, CommitSha)>>,
}

impl Mirrors {
    /// Mirrors below a folder, which is made when the first one is.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            readers: WarmReaders::default(),
            fetches: Semaphore::new(FETCHES),
            fetched: AtomicU64::new(0),
            fetching: Mutex::new(HashMap::new()),
            holes: Mutex::new(HashSet::new()),
        }
    }

    /// Where a repository's mirror lies, whether it is there or not.
    #[must_use]
    pub fn path(&self, repository: &RepositoryName) -> PathBuf {
        repository.mirror_path(&self.root)
    }

    /// Whether a commit is in the mirror.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn contains(&self, repository: &RepositoryName, commit: &CommitSha) -> Result<bool, MirrorError> {
        let path = self.path(repository);
        if !is_mirror(&path) {
            return Ok(false);
        }
        let mut reader = self.readers.take(&path)?;
        let found = reader.has(&format!("{commit}^{{commit}}")).await?;
        self.readers.give_back(reader);
        Ok(found)
    }

    /// Brings commits into the mirror; does nothing where they are there. A fetch that has begun goes on although nobody waits
    /// for it any more: the first one of a large repository outlasts a person's request.
    ///
    /// # Errors
    /// [`MirrorError`]; the mirror is as usable as before.
    pub async fn ensure(
        self: &Arc<Self>,
        repository: &RepositoryName,
        source: &Source,
        wanted: &[Wanted],
    ) -> Result<(), MirrorError> {
        if self.missing(repository, wanted).await?.is_empty() {
            return Ok(());
        }
        let (mirrors, repository, source) = (Arc::clone(self), repository.clone(), source.clone());
        let wanted = wanted.to_vec();
        let fetch = tokio::spawn(async move { mirrors.fetch_missing(&repository, &source, &wanted).await });
        fetch.await.unwrap_or_else(|error| Err(MirrorError::Spawn(error.to_string())))
    }

    /// Where the mirror was last fetched from, where it ever was.
    pub async fn last_source(&self, repository: &RepositoryName) -> Option<Source> {
        let text = tokio::fs::read_to_string(self.path(repository).join(SOURCE_FILE)).await.ok()?;
        Source::parse(text.trim_end()).ok()
    }

    /// The pipeline files at a commit that is in the mirror, by name.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn pipelines(
        &self,
        repository: &RepositoryName,
        commit: &CommitSha,
    ) -> Result<Vec<PipelineFile>, MirrorError> {
        let mut reader = self.readers.take(&self.path(repository))?;
        let mut files = Vec::new();
        if let Some(folder) = self.folder(repository, &mut reader, commit, PIPELINES).await? {
            let mut entries = tree::files(&folder).map_err(MirrorError::Read)?;
            entries.retain(|entry| entry.name.ends_with(".yml") || entry.name.ends_with(".yaml"));
            if entries.len() > MAX_PIPELINE_FILES {
                return Err(MirrorError::TooManyFiles { count: entries.len() });
            }
            for entry in entries {
                let text = self.pipeline_text(repository, &mut reader, &entry.id).await?;
                files.push(PipelineFile { path: format!("{PIPELINES}/{}", entry.name), text });
            }
        }
        self.readers.give_back(reader);
        Ok(files)
    }

    /// The composite actions at a commit that is in the mirror: `.segue/actions/NAME/action.yml` (or `.yaml`).
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn actions(
        &self,
        repository: &RepositoryName,
        commit: &CommitSha,
    ) -> Result<Vec<PipelineFile>, MirrorError> {
        let mut reader = self.readers.take(&self.path(repository))?;
        let mut files = Vec::new();
        if let Some(folder) = self.folder(repository, &mut reader, commit, ACTIONS).await? {
            let folders = tree::folders(&folder).map_err(MirrorError::Read)?;
            if folders.len() > MAX_PIPELINE_FILES {
                return Err(MirrorError::TooManyActions { count: folders.len() });
            }
            for entry in folders {
                let Found::Object(inside) = reader.read(&entry.id, MAX_PIPELINE_BYTES).await? else {
                    return Err(MirrorError::Read(format!("{ACTIONS}/{} is too large", entry.name)));
                };
                let found = tree::files(&inside).map_err(MirrorError::Read)?;
                let file = found.into_iter().find(|file| matches!(file.name.as_str(), "action.yml" | "action.yaml"));
                if let Some(file) = file {
                    let text = self.pipeline_text(repository, &mut reader, &file.id).await?;
                    files.push(PipelineFile { path: format!("{ACTIONS}/{}/{}", entry.name, file.name), text });
                }
            }
        }
        self.readers.give_back(reader);
        Ok(files)
    }

    /// The paths that differ between two commits (`since_fork`: between the newer one and where it left the older one's line);
    /// `None` where that can't be told (the older one is not there any more,
    /// or there are too many), so that every path counts as changed.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn changed_files(
        &self,
        repository: &RepositoryName,
        from: &CommitSha,
        to: &CommitSha,
        since_fork: bool,
    ) -> Result<Option<Vec<String>>, MirrorError> {
        if from.is_zero() || !self.contains(repository, from).await? {
            return Ok(None);
        }
        let mut command = git::command(Some(&self.path(repository)));
        command
            .args(["diff-tree", "-r", "-z", "--name-only", "--no-renames", "--no-ext-diff"])
            .args(since_fork.then_some("--merge-base"))
            .arg(git::end_of_options())
            .args([from.as_str(), to.as_str()]);
        let what = format!("comparing {} with {}", from.short(), to.short());
        match git::run_ok(&what, command, QUICK_LIMIT, CHANGED_LIMIT).await {
            Ok(names) => Ok(Some(
                names
                    .split(|&b| b == 0)
                    .filter(|name| !name.is_empty())
                    .map(|name| String::from_utf8_lossy(name).into_owned())
                    .collect(),
            )),
            Err(MirrorError::TooMuch { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The message of a commit that is in the mirror; empty where it is larger than any that is read.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn message(&self, repository: &RepositoryName, commit: &CommitSha) -> Result<String, MirrorError> {
        let mut reader = self.readers.take(&self.path(repository))?;
        match reader.read(&format!("{commit}^{{commit}}"), MAX_COMMIT_BYTES).await? {
            Found::Object(object) => {
                self.readers.give_back(reader);
                // the head ends with the first empty line
                let text = String::from_utf8_lossy(&object.bytes);
                Ok(text.split_once("\n\n").map_or_else(String::new, |(_, message)| message.to_owned()))
            }
            Found::Missing | Found::TooLarge => Ok(String::new()),
        }
    }

    /// The commits that `to` has and `from` has not, newest first, each with the first line of its message; `None` where one of the two is not
    /// in the mirror.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn commits_between(
        &self,
        repository: &RepositoryName,
        from: &CommitSha,
        to: &CommitSha,
        at_most: usize,
    ) -> Result<Option<Vec<(CommitSha, String)>>, MirrorError> {
        if !self.contains(repository, from).await? || !self.contains(repository, to).await? {
            return Ok(None);
        }
        let mut command = git::command(Some(&self.path(repository)));
        command
            .args(["log", "--no-color", "--format=%H %s", &format!("--max-count={at_most}")])
            .arg(git::end_of_options())
            .arg(format!("{from}..{to}"));
        let what = format!("listing the commits from {} to {}", from.short(), to.short());
        let listed = git::run_ok(&what, command, QUICK_LIMIT, CHANGED_LIMIT).await?;
        let text = String::from_utf8_lossy(&listed);
        let one = |line: &str| {
            let (commit, title) = line.split_once(' ').unwrap_or((line, ""));
            Some((commit.parse().ok()?, title.chars().take(200).collect()))
        };
        Ok(Some(text.lines().filter_map(one).collect()))
    }

    /// What a ref of the remote points to; its default branch where none is named.
    ///
    /// # Errors
    /// [`MirrorError::NoRef`], and others.
    pub async fn resolve(
        &self,
        source: &Source,
        git_ref: Option<&RefName>,
    ) -> Result<(RefName, CommitSha), MirrorError> {
        let mut command = git::command(None);
        command.arg("ls-remote");
        if git_ref.is_none() {
            command.arg("--symref");
        }
        command.arg(git::end_of_options()).arg(source.as_str());
        // for an annotated tag the commit is in the line of `<tag>^{}`
        match git_ref {
            Some(git_ref) => command.arg(git_ref.as_str()).arg(format!("{}^{{}}", git_ref.as_str())),
            None => command.arg("HEAD"),
        };
        let what = format!("asking {} for its refs", source.shown());
        let output = git::run_ok(&what, command, QUICK_LIMIT, SMALL_OUTPUT).await?;
        let output = String::from_utf8_lossy(&output);
        let found = match git_ref {
            Some(git_ref) => tree::ref_target(&output, git_ref.as_str()).map(|commit| (git_ref.clone(), commit)),
            None => tree::default_branch(&output),
        };
        found.ok_or_else(|| MirrorError::NoRef {
            source_shown: source.shown(),
            git_ref: git_ref.map_or("HEAD", RefName::as_str).to_owned(),
        })
    }

    /// Pushes a tag for a commit of the mirror to the repository. One that is there already with the same commit is fine.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn push_tag(
        &self,
        repository: &RepositoryName,
        source: &Source,
        tag: &str,
        commit: &CommitSha,
    ) -> Result<(), MirrorError> {
        let mut command = git::command(Some(&self.path(repository)));
        command
            .args(["push", "--quiet", "--no-verify", "--no-recurse-submodules"])
            .arg(git::end_of_options())
            .arg(source.as_str())
            .arg(format!("{commit}:refs/tags/{tag}"));
        let what = format!("pushing the tag {tag} to {}", source.shown());
        git::run_ok(&what, command, QUICK_LIMIT, SMALL_OUTPUT).await.map(drop)
    }

    async fn missing<'a>(
        &self,
        repository: &RepositoryName,
        wanted: &'a [Wanted],
    ) -> Result<Vec<&'a Wanted>, MirrorError> {
        let mut missing = Vec::new();
        for one in wanted {
            if self.has_hole(repository, &one.commit) || !self.contains(repository, &one.commit).await? {
                missing.push(one);
            }
        }
        Ok(missing)
    }

    fn holes(&self) -> MutexGuard<'_, HashSet<(RepositoryName, CommitSha)>> {
        self.holes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_hole(&self, repository: &RepositoryName, commit: &CommitSha) -> bool {
        let holes = self.holes();
        !holes.is_empty() && holes.contains(&(repository.clone(), commit.clone()))
    }

    /// A folder of a commit; `None`: the commit has none of that name.
    ///
    /// Git says "missing" of a folder that the commit does not have, and of one that the mirror does not have. A commit without
    /// pipelines starts nothing, so the one must not be taken for the other: the way there is gone step by step.
    async fn folder(
        &self,
        repository: &RepositoryName,
        reader: &mut Reader,
        commit: &CommitSha,
        path: &str,
    ) -> Result<Option<Object>, MirrorError> {
        match reader.read(&format!("{commit}:{path}"), MAX_FOLDER_BYTES).await? {
            Found::Object(folder) => return Ok((folder.kind == "tree").then_some(folder)),
            Found::TooLarge => return Err(MirrorError::Read(format!("`{path}` at {} is too large", commit.short()))),
            Found::Missing => {}
        }
        let mut id = format!("{commit}^{{tree}}");
        for name in path.split('/') {
            match reader.read(&id, MAX_FOLDER_BYTES).await? {
                Found::Object(tree) => {
                    let inside = tree::folders(&tree).map_err(MirrorError::Read)?;
                    match inside.into_iter().find(|entry| entry.name == name) {
                        Some(entry) => id = entry.id,
                        None => return Ok(None),
                    }
                }
                Found::Missing => break,
                Found::TooLarge => {
                    return Err(MirrorError::Read(format!("a folder of {} is too large", commit.short())));
                }
            }
        }
        let mut holes = self.holes();
        if holes.len() >= HOLES {
            holes.clear();
        }
        holes.insert((repository.clone(), commit.clone()));
        Err(MirrorError::Incomplete { commit: commit.clone() })
    }

    async fn fetch_missing(
        &self,
        repository: &RepositoryName,
        source: &Source,
        wanted: &[Wanted],
    ) -> Result<(), MirrorError> {
        let turn = self.turn(repository);
        let _turn = turn.lock().await;
        // somebody else's fetch may have brought it meanwhile
        let missing = self.missing(repository, wanted).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let Ok(_slot) = self.fetches.acquire().await else {
            return Err(MirrorError::Spawn("fetching has ended".into()));
        };
        let path = self.path(repository);
        // git would not ask for what hangs on a commit that is there, unless it is to ask for everything
        let anew = missing.iter().any(|one| self.has_hole(repository, &one.commit));
        let limit = if make_mirror(&path).await? || anew { CLONE_LIMIT } else { FETCH_LIMIT };
        self.fetch(repository, &path, source, &missing, anew, limit).await?;
        if anew {
            let mut holes = self.holes();
            holes.retain(|(of, commit)| of != repository || missing.iter().all(|one| one.commit != *commit));
        }
        if self.last_source(repository).await.as_ref() != Some(source) {
            note_source(&path, source).await?;
        }
        let fetches = self.fetched.fetch_add(1, Ordering::Relaxed) + 1;
        if fetches.is_multiple_of(FETCHES_PER_CLEANING) {
            tokio::spawn(clean(path));
        } else if fetches.is_multiple_of(FETCHES_PER_TIDYING) {
            tokio::spawn(tidy(path));
        }
        Ok(())
    }

    fn turn(&self, repository: &RepositoryName) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = fetching.get(repository).and_then(Weak::upgrade) {
            return turn;
        }
        fetching.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        fetching.insert(repository.clone(), Arc::downgrade(&turn));
        turn
    }

    /// By commit first: that needs no list of refs, and is right even when the ref has moved on. A server that speaks only
    /// the old protocol may refuse; then by ref.
    async fn fetch(
        &self,
        repository: &RepositoryName,
        path: &Path,
        source: &Source,
        wanted: &[&Wanted],
        anew: bool,
        limit: Duration,
    ) -> Result<(), MirrorError> {
        let what = format!("fetching from {}", source.shown());
        let by_commit = refspecs(wanted, |one| one.commit.as_str());
        let first = git::run(&what, fetch_command(path, source, by_commit, anew), limit, SMALL_OUTPUT).await?;
        if !first.status.success() {
            let by_ref = refspecs(wanted, |one| one.git_ref.as_str());
            let second = git::run(&what, fetch_command(path, source, by_ref, anew), limit, SMALL_OUTPUT).await?;
            if !second.status.success() {
                return Err(MirrorError::Git { what, message: git::last_words(&second) });
            }
        }
        for one in wanted {
            if !self.contains(repository, &one.commit).await? {
                return Err(MirrorError::NoCommit { source_shown: source.shown(), commit: one.commit.clone() });
            }
        }
        Ok(())
    }

    async fn pipeline_text(
        &self,
        repository: &RepositoryName,
        reader: &mut Reader,
        id: &str,
    ) -> Result<Result<String, String>, MirrorError> {
        Ok(match reader.read(id, MAX_PIPELINE_BYTES).await? {
            Found::Object(blob) => String::from_utf8(blob.bytes).map_err(|error| format!("not UTF-8: {error}")),
            Found::Missing => return Err(MirrorError::Read(format!("object {id} is missing"))),
            Found::TooLarge => {
                // its content is in the pipe, unread
                *reader = self.readers.take(&self.path(repository))?;
                Err(format!("larger than {} KiB", MAX_PIPELINE_BYTES / 1024))
            }
        })
    }
}

/// What to fetch and where to keep it: the newest commit of each of the remote's refs, under a name made of the ref's hash.
/// Under their own names `a` and `a/b` could not stand side by side, which they may do one after the other.
fn refspecs(wanted: &[&Wanted], source: impl Fn(&Wanted) -> &str) -> Vec<String> {
    let mut specs = Vec::with_capacity(wanted.len());
    let mut kept = HashSet::new();
    for one in wanted.iter().rev() {
        if kept.insert(&one.git_ref) {
            let hash = ring::digest::digest(&ring::digest::SHA256, one.git_ref.as_str().as_bytes());
            specs.push(format!("+{}:refs/segue/{}", source(one), hex::encode(&hash.as_ref()[..16])));
        } else {
            specs.push(source(one).to_owned());
        }
    }
    specs.sort_unstable();
    specs.dedup();
    specs
}

fn fetch_command(path: &Path, source: &Source, refspecs: Vec<String>, anew: bool) -> tokio::process::Command {
    let mut command = git::command(Some(path));
    command
        .args(["-c", "protocol.version=2", "-c", "fetch.writeCommitGraph=false"])
        // in one pack, which is there whole or not at all: as single files a commit is there before what belongs to it, and stays so
        // where the fetch is killed
        .args(["-c", "fetch.unpackLimit=1"])
        .args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance"])
        .args(["--no-recurse-submodules", "--no-show-forced-updates"])
        .args(anew.then_some("--refetch"))
        .arg(git::end_of_options())
        .arg(source.as_str())
        .args(refspecs);
    command
}

#[cfg(test)]
mod tests;
