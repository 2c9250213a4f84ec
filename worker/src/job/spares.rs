//! What becomes of workspaces: they are emptied beside the jobs that follow, a few are kept for those, the others removed.
//!
//! A trivial job would make and remove a dozen files and directories, which is a good part of its work: file systems wait for the
//! disk to discard their blocks, and ext4 without a journal passes over every inode that was deleted within minutes, for each new one.

use std::{
    fs::{self, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::libc;
use tokio::sync::Semaphore;

use super::workspace::{COMMANDS, OF_THE_JOB, ROOT_MODE, own};
use crate::engine::UserIds;

/// Workspaces that are emptied or removed at once.
const AT_ONCE: usize = 4;
/// Workspaces that wait for a job.
const SPARES: usize = 4;
/// Emptied command files that wait with one: those of two steps.
const COMMAND_FILES: usize = 10;

/// Workspaces of jobs that have ended.
#[derive(Debug)]
pub struct Spares {
    /// Numbers the names that they lie under.
    next: AtomicU64,
    /// Who has a place may empty or remove; the slots of others wait for one.
    places: Arc<Semaphore>,
    spares: Arc<Mutex<Vec<PathBuf>>>,
}

/// None yet.
impl Default for Spares {
    fn default() -> Self {
        Self { next: AtomicU64::new(0), places: Arc::new(Semaphore::new(AT_ONCE)), spares: Arc::default() }
    }
}

impl Spares {
    /// Takes a workspace out of the way, so that its job could begin anew at once, and has it emptied, where it is certain that
    /// no process of its job lives (`unused`), or removed. Waits where many are. What is left when the worker ends is swept away
    /// by the next.
    pub async fn retire(&self, root: &Path, unused: bool) {
        let aside = root.with_file_name(format!("retired-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        match fs::rename(root, &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(_) => return remove(root),
        }
        // the semaphore is never closed
        let Ok(place) = self.places.clone().acquire_owned().await else { return };
        let spares = self.spares.clone();
        tokio::task::spawn_blocking(move || {
            if unused && locked(&spares).len() < SPARES && empty(&aside).is_ok() {
                locked(&spares).push(aside);
            } else {
                remove(&aside);
            }
            drop(place);
        });
    }

    /// Makes `root` of a workspace that waits, for a job of this user; whether there was one.
    pub(super) fn take(&self, root: &Path, user: Option<UserIds>) -> bool {
        let Some(spare) = locked(&self.spares).pop() else { return false };
        let taken = OF_THE_JOB
            .iter()
            .try_for_each(|(name, _)| own(&spare.join(name), user))
            .and_then(|()| fs::set_permissions(&spare, Permissions::from_mode(ROOT_MODE)))
            .and_then(|()| fs::rename(&spare, root));
        if taken.is_err() {
            remove(&spare);
        }
        taken.is_ok()
    }
}

/// Makes of a workspace what a new one is, but for emptied command files. Nobody else may come in from here on, so that nobody
/// gets hold of what the next job will use. An error: it can't be, as where the job has put something else in a directory's place.
fn empty(root: &Path) -> io::Result<()> {
    fs::set_permissions(root, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let known = |name: &str| entry.file_name() == name;
        if !known(COMMANDS) && !OF_THE_JOB.iter().any(|(name, _)| known(name)) {
            remove_entry(&entry.path())?;
        }
    }
    for (name, mode) in OF_THE_JOB {
        let directory = root.join(name);
        is_directory(&directory)?;
        for entry in fs::read_dir(&directory)? {
            remove_entry(&entry?.path())?;
        }
        fs::set_permissions(&directory, Permissions::from_mode(mode))?;
    }
    let commands = root.join(COMMANDS);
    is_directory(&commands)?;
    let mut kept = 0;
    for entry in fs::read_dir(commands)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        // one that has a second name could be written to by that
        if kept < COMMAND_FILES && metadata.is_file() && metadata.nlink() == 1 {
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            OpenOptions::new().write(true).truncate(true).custom_flags(libc::O_NOFOLLOW).open(&path)?;
            kept += 1;
        } else {
            remove_entry(&path)?;
        }
    }
    Ok(())
}

fn is_directory(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

fn remove_entry(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Removes a workspace with all that is in it.
pub(super) fn remove(root: &Path) {
    if let Err(error) = fs::remove_dir_all(root)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(directory = %root.display(), %error, "a workspace can't be removed");
    }
}

fn locked(spares: &Mutex<Vec<PathBuf>>) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
    spares.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::job::workspace::Workspace;

    /// Every path below a directory with its mode and, of a file, its length.
    fn tree(root: &Path) -> Vec<(PathBuf, u32, u64)> {
        let mut found = Vec::new();
        let mut open = vec![root.to_owned()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                let length = if metadata.is_dir() { 0 } else { metadata.len() };
                found.push((path.strip_prefix(root).unwrap().to_owned(), metadata.mode() & 0o7777, length));
                if metadata.is_dir() {
                    open.push(path);
                }
            }
        }
        found.sort();
        found
    }

    async fn retired(spares: &Spares, root: &Path) {
        spares.retire(root, true).await;
        assert!(!root.exists(), "its job could begin anew at once");
        let all = u32::try_from(AT_ONCE).unwrap();
        drop(spares.places.acquire_many(all).await.unwrap());
    }

    #[tokio::test]
    async fn the_next_job_gets_an_empty_workspace_with_the_modes_of_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let spares = Spares::default();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        let workspace = Workspace::at(first.clone(), None);
        workspace.create(&spares).unwrap();
        let new = tree(&first);
        fs::create_dir_all(workspace.work().join("deep/er")).unwrap();
        fs::write(workspace.work().join("deep/er/file"), "left").unwrap();
        symlink("/etc", workspace.work().join("link")).unwrap();
        fs::write(workspace.home().join(".profile"), "left").unwrap();
        fs::set_permissions(workspace.home(), Permissions::from_mode(0o777)).unwrap();
        fs::create_dir(workspace.private("checkout")).unwrap();
        let file = workspace.command_file("step-0", b"a secret").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o4666)).unwrap();
        retired(&spares, &first).await;

        let workspace = Workspace::at(second.clone(), None);
        workspace.create(&spares).unwrap();
        assert_eq!(fs::metadata(&second).unwrap().mode() & 0o7777, ROOT_MODE);
        let (command_files, rest): (Vec<_>, Vec<_>) =
            tree(&second).into_iter().partition(|(path, ..)| path.starts_with("commands/step-0"));
        assert_eq!(rest, new);
        assert_eq!(command_files, [("commands/step-0".into(), 0o600, 0)]);
        assert!(Path::new("/etc/passwd").exists(), "what a link pointed to is left alone");
    }

    #[tokio::test]
    async fn what_was_tampered_with_serves_no_other_job() {
        let folder = tempfile::tempdir().unwrap();
        let spares = Spares::default();
        let victim = folder.path().join("victim");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("file"), "content").unwrap();
        let root = folder.path().join("job");
        let workspace = Workspace::at(root.clone(), None);

        workspace.create(&spares).unwrap();
        fs::remove_dir(workspace.work()).unwrap();
        symlink(&victim, workspace.work()).unwrap();
        retired(&spares, &root).await;
        assert!(!spares.take(&root, None), "a link in a directory's place");
        assert_eq!(fs::read(victim.join("file")).unwrap(), b"content");

        workspace.create(&spares).unwrap();
        let file = workspace.command_file("step-0.output", b"").unwrap();
        fs::hard_link(&file, victim.join("second-name")).unwrap();
        retired(&spares, &root).await;
        workspace.create(&spares).unwrap();
        assert!(!file.exists(), "a command file with a second name is not used again");
    }

    #[tokio::test]
    async fn no_more_are_kept_than_the_bound() {
        let folder = tempfile::tempdir().unwrap();
        let spares = Spares::default();
        let roots: Vec<PathBuf> = (0..SPARES + 3).map(|n| folder.path().join(n.to_string())).collect();
        for root in &roots {
            Workspace::at(root.clone(), None).create(&spares).unwrap();
        }
        for root in &roots {
            retired(&spares, root).await;
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), SPARES);
    }
}
