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
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use nix::libc;

use super::{
    error::StepError,
    spares::{self, Spares},
};
use crate::engine::UserIds;

/// The mode of a workspace's own directory: the job's user passes through.
pub(super) const ROOT_MODE: u32 = 0o711;
/// The worker's directory in it.
pub(super) const COMMANDS: &str = "commands";
/// The job's directories in it, with their modes.
pub(super) const OF_THE_JOB: [(&str, u32); 3] = [(WORK, 0o700), (HOME, 0o700), (TEMP, 0o700)];
const WORK: &str = "work";
const HOME: &str = "home";
const TEMP: &str = "tmp";

/// A job's directories.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
    user: Option<UserIds>,
    /// Whether whoever a container runs as works in it.
    of_container: bool,
}

impl Workspace {
    /// The directories of a job at `root`; nothing is made.
    #[must_use]
    pub const fn at(root: PathBuf, user: Option<UserIds>) -> Self {
        Self { root, user, of_container: false }
    }

    /// The same for a job that runs in a container, as whomever its image names: its directories are anybody's there, and on the
    /// machine nobody but the worker's own tasks for the job comes in to them.
    #[must_use]
    pub fn of_container(self) -> Self {
        Self { of_container: true, ..self }
    }

    /// What of it is handed into the container.
    #[must_use]
    pub fn for_container(&self) -> Vec<PathBuf> {
        OF_THE_JOB.iter().map(|(name, _)| self.root.join(name)).chain([self.commands()]).collect()
    }

    /// The worker's directory in it.
    #[must_use]
    pub fn commands(&self) -> PathBuf {
        self.root.join(COMMANDS)
    }

    /// Makes them, empty, or takes spare ones.
    ///
    /// # Errors
    /// [`StepError::Infrastructure`] naming the directory.
    pub fn create(&self, spares: &Spares) -> Result<(), StepError> {
        self.remove();
        if self.of_container {
            // the group is that of the worker's own tasks for the job alone
            let gid = self.user.map_or(nix::unistd::getegid().as_raw(), |user| user.gid);
            make(&self.root, 0o710, None)?;
            chown(&self.root, None, Some(gid)).map_err(|error| infrastructure(&self.root, &error))?;
            make(&self.commands(), 0o711, None)?;
            return OF_THE_JOB.iter().try_for_each(|(name, _)| make(&self.root.join(name), 0o777, self.user));
        }
        if spares.take(&self.root, self.user) {
            return Ok(());
        }
        make(&self.root, ROOT_MODE, None)?;
        make(&self.root.join(COMMANDS), 0o711, None)?;
        OF_THE_JOB.iter().try_for_each(|(name, mode)| make(&self.root.join(name), *mode, self.user))
    }

    /// Whether they are there, and the user's for whom they were made.
    #[must_use]
    pub fn is_its_users(&self) -> bool {
        let work = self.work().symlink_metadata();
        work.is_ok_and(|work| work.is_dir() && self.user.is_none_or(|user| user.uid == work.uid()))
    }

    /// Removes them with all that is in them.
    pub fn remove(&self) {
        spares::remove(&self.root);
    }

    /// Where steps run.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.root.join(WORK)
    }

    /// What holds them all. The job's user may walk through it, and write nowhere in it but in its own.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `HOME` of the job.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.root.join(HOME)
    }

    /// `TMPDIR` of the job.
    #[must_use]
    pub fn temp(&self) -> PathBuf {
        self.root.join(TEMP)
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
        let path = self.root.join(COMMANDS).join(name);
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            if self.of_container {
                // its root can make files here, which must not stand in for the worker's
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => options.create_new(true),
                };
            } else {
                options.create(true).truncate(true);
            }
            let mut file = options.open(&path)?;
            file.write_all(content)?;
            if self.of_container {
                file.set_permissions(fs::Permissions::from_mode(0o666))?;
            }
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

pub(super) fn own(path: &Path, user: Option<UserIds>) -> io::Result<()> {
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
