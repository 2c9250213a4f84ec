//! The directories of a job, below `DIR/workspaces/<job>`:
//!
//! | directory | what | owner |
//! | --- | --- | --- |
//! | `work` | the workspace, where steps run | the job's user |
//! | `home`, `tmp` | `HOME`, `TMPDIR` | the job's user |
//! | `commands` | scripts and command files | the worker; the files are the job's |
//!
//! What the worker writes and reads lies in `commands`, where a job can make no file and no link.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::libc;
use tokio::sync::Semaphore;

use super::error::StepError;
use crate::engine::UserIds;

/// Workspaces that are removed at once.
const REMOVALS: usize = 4;

/// A job's directories.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
    user: Option<UserIds>,
}

impl Workspace {
    /// The directories of a job at `root`; nothing is made.
    #[must_use]
    pub const fn at(root: PathBuf, user: Option<UserIds>) -> Self {
        Self { root, user }
    }

    /// Makes them, empty.
    ///
    /// # Errors
    /// [`StepError::Infrastructure`] naming the directory.
    pub fn create(&self) -> Result<(), StepError> {
        self.remove();
        make(&self.root, 0o711, None)?;
        make(&self.root.join("commands"), 0o711, None)?;
        make(&self.work(), 0o755, self.user)?;
        make(&self.home(), 0o700, self.user)?;
        make(&self.temp(), 0o700, self.user)
    }

    /// Whether they are there.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.work().is_dir()
    }

    /// Removes them with all that is in them.
    pub fn remove(&self) {
        remove(&self.root);
    }

    /// Where steps run.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// What holds them all. The job's user may walk through it, and write nowhere in it but in its own.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `HOME` of the job.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    /// `TMPDIR` of the job.
    #[must_use]
    pub fn temp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// A directory of the worker's own beside the job's.
    #[must_use]
    pub fn private(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes a file in `commands` that the job's user may read and write.
    ///
    /// # Errors
    /// [`StepError::Infrastructure`] naming the file.
    pub fn command_file(&self, name: &str, content: &[u8]) -> Result<PathBuf, StepError> {
        let path = self.root.join("commands").join(name);
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            let mut file = options.open(&path)?;
            file.write_all(content)?;
            own_file(&file, self.user)
        };
        write().map_err(|error| infrastructure(&path, &error))?;
        Ok(path)
    }

    /// Reads a command file, at most `max_bytes` of it.
    ///
    /// # Errors
    /// [`StepError::Configuration`] where it is larger or no file any more.
    pub fn read_command_file(&self, path: &Path, max_bytes: u64) -> Result<String, StepError> {
        let bytes = read_plain(path, max_bytes)?;
        String::from_utf8(bytes).map_err(|_| StepError::Configuration(format!("{} is not UTF-8 text", path.display())))
    }

    /// Makes what the worker made the job's.
    ///
    /// # Errors
    /// Where the owner can't be changed.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        own(path, self.user)
    }
}

/// Removes workspaces beside the jobs that follow: a large one takes seconds, and even an empty one waits for the disk.
#[derive(Debug)]
pub struct Removals {
    /// Numbers the names that workspaces wait under.
    next: AtomicU64,
    /// Who has a place may remove; the slots of others wait for one.
    places: Arc<Semaphore>,
}

impl Default for Removals {
    fn default() -> Self {
        Self { next: AtomicU64::new(0), places: Arc::new(Semaphore::new(REMOVALS)) }
    }
}

impl Removals {
    /// Takes a workspace out of the way, so that its job could begin anew at once, and has it removed. Waits where many are
    /// being removed. What is left when the process ends is swept away by the next.
    pub async fn remove(&self, root: &Path) {
        let aside = root.with_file_name(format!("removed-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        match fs::rename(root, &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(_) => return remove(root),
        }
        // the semaphore is never closed
        let Ok(place) = self.places.clone().acquire_owned().await else { return };
        tokio::task::spawn_blocking(move || {
            remove(&aside);
            drop(place);
        });
    }
}

fn remove(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(directory = %directory.display(), %error, "a workspace can't be removed");
    }
}

/// Reads a plain file that a job had its hands on: no link is followed, no pipe is waited for.
fn read_plain(path: &Path, max_bytes: u64) -> Result<Vec<u8>, StepError> {
    let mut content = Vec::new();
    let mut read = || {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no plain file any more"));
        }
        file.take(max_bytes + 1).read_to_end(&mut content)
    };
    read().map_err(|error| StepError::Configuration(format!("{}: {error}", path.display())))?;
    if content.len() as u64 > max_bytes {
        return Err(StepError::Configuration(format!("{} is larger than {} KiB", path.display(), max_bytes / 1024)));
    }
    Ok(content)
}

fn make(path: &Path, mode: u32, user: Option<UserIds>) -> Result<(), StepError> {
    let make = || {
        DirBuilder::new().recursive(true).mode(mode).create(path)?;
        // The worker's own umask must not take away what the job needs.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        own(path, user)
    };
    make().map_err(|error| infrastructure(path, &error))
}

fn own(path: &Path, user: Option<UserIds>) -> io::Result<()> {
    match user {
        Some(UserIds { uid, gid }) => chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

fn own_file(file: &File, user: Option<UserIds>) -> io::Result<()> {
    match user {
        Some(UserIds { uid, gid }) => std::os::unix::fs::fchown(file, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

fn infrastructure(path: &Path, error: &io::Error) -> StepError {
    StepError::Infrastructure(format!("{}: {error}", path.display()))
}
