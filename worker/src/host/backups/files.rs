//! The files of backups: written aside, given their place once they are whole and on the disk, removed.

use std::{
    collections::HashSet,
    fs::{File, Permissions},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use segue_schemas::{
    host_api::{Backup, BackupState},
    id::Digest,
    size::Size,
};
use sha2::{Digest as _, Sha256};

/// Bytes that are read at once.
const BLOCK_BYTES: usize = 256 * 1024;

/// Free space of the disk below which nothing more is written: the host must be able to record what it does.
const LEAST_FREE: Size = Size::mib(64);

/// The folder of backups: `<environment>/<service>/<backup>`, and beside them where they are written.
#[derive(Debug, Clone)]
pub(super) struct Files {
    folder: PathBuf,
}

/// Where a command writes.
#[derive(Debug)]
pub(super) struct Aside {
    /// Its standard output.
    pub(super) output: PathBuf,
    /// Its standard error.
    pub(super) errors: PathBuf,
    /// What it may make under the name that it is told.
    pub(super) file: PathBuf,
}

impl Files {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where a backup is kept, or would be.
    pub(super) fn path(&self, backup: &Backup) -> PathBuf {
        self.folder.join(&backup.environment).join(&backup.service).join(backup.id.as_str())
    }

    /// A place to write to, with room for something.
    pub(super) fn aside(&self, name: &str) -> io::Result<Aside> {
        let folder = self.folder_aside();
        make(&folder)?;
        if let Some(short) = self.is_short() {
            return Err(io::Error::other(short));
        }
        let named = |what: &str| folder.join(format!("{name}.{what}"));
        let aside = Aside { output: named("output"), errors: named("errors"), file: named("file") };
        aside.clear();
        Ok(aside)
    }

    pub(super) fn trouble(&self, error: &io::Error) -> String {
        format!("{}: {error}", self.folder.display())
    }

    /// Why nothing more may be written; `None`: there is room.
    pub(super) fn is_short(&self) -> Option<String> {
        let disk = nix::sys::statvfs::statvfs(&self.folder).ok()?;
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        let folder = self.folder.display();
        let mib = free >> 20;
        (free < LEAST_FREE.0)
            .then(|| format!("the disk is short: {mib}MiB are free at {folder}, less than {LEAST_FREE}"))
    }

    /// Gives what a command wrote its place: the file that it made, else its output. The size and the digest.
    pub(super) async fn take_in(&self, aside: &Aside, backup: &Backup) -> Result<(u64, Digest), String> {
        let is_file = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
        let written = if is_file(&aside.file) { aside.file.clone() } else { aside.output.clone() };
        let (place, folder) = (self.path(backup), self.folder.clone());
        let kept = tokio::task::spawn_blocking(move || keep(&written, &place));
        let kept = kept.await.map_err(|error| error.to_string())?;
        let kept = kept.map_err(|error| format!("it can't be kept in {}: {error}", folder.display()))?;
        kept.ok_or_else(|| "its command ended well, and wrote nothing".to_owned())
    }

    /// A kept backup, opened, whose bytes are what they were.
    pub(super) async fn checked(&self, backup: &Backup) -> Result<File, String> {
        let BackupState::Kept { sha256, .. } = &backup.state else { return Err("it is not kept here".into()) };
        let (path, wanted) = (self.path(backup), sha256.clone());
        let checked = tokio::task::spawn_blocking(move || {
            let unreadable = |error: io::Error| format!("{} can't be read: {error}", path.display());
            let (_, found) = digest(&mut File::open(&path).map_err(unreadable)?).map_err(unreadable)?;
            if found != wanted {
                return Err(format!(
                    "{} is not what was kept: its digest is {found}, and was {wanted}; nothing was changed",
                    path.display()
                ));
            }
            File::open(&path).map_err(unreadable)
        });
        checked.await.map_err(|error| error.to_string())?
    }

    /// Removes a backup's file.
    pub(super) fn remove(&self, backup: &Backup) {
        remove(&self.path(backup));
    }

    /// Removes what is none of the recorded backups: what was written aside, and what got its place and was not recorded.
    pub(super) fn sweep(&self, recorded: &[&Backup]) {
        let kept: HashSet<PathBuf> = recorded
            .iter()
            .filter(|backup| matches!(backup.state, BackupState::Kept { .. }))
            .map(|backup| self.path(backup))
            .collect();
        let entries = |folder: &Path| {
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>()
        };
        for left in entries(&self.folder_aside()) {
            remove(&left);
        }
        for service in entries(&self.folder).iter().flat_map(|environment| entries(environment)) {
            for file in entries(&service).into_iter().filter(|file| !kept.contains(file)) {
                remove(&file);
            }
        }
    }

    /// On the same file system, where no environment can be called so.
    fn folder_aside(&self) -> PathBuf {
        self.folder.join(".taking")
    }
}

impl Aside {
    /// Removes what was written.
    pub(super) fn clear(&self) {
        for path in [&self.output, &self.errors, &self.file] {
            remove(path);
        }
    }
}

/// A file for this user alone, to write.
pub(super) fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

/// `None`: there is nothing in it.
fn keep(written: &Path, place: &Path) -> io::Result<Option<(u64, Digest)>> {
    let mut file = File::open(written)?;
    let (bytes, sha256) = digest(&mut file)?;
    if bytes == 0 {
        return Ok(None);
    }
    std::fs::set_permissions(written, Permissions::from_mode(0o600))?;
    file.sync_all()?;
    let folder = place.parent().unwrap_or(Path::new("."));
    make(folder)?;
    std::fs::rename(written, place)?;
    File::open(folder)?.sync_all()?;
    Ok(Some((bytes, sha256)))
}

fn digest(file: &mut File) -> io::Result<(u64, Digest)> {
    let (mut hash, mut block, mut bytes) = (Sha256::new(), vec![0; BLOCK_BYTES], 0);
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            break;
        }
        hash.update(&block[..read]);
        bytes += read as u64;
    }
    let digest = format!("sha256:{}", hex::encode(hash.finalize())).parse().map_err(io::Error::other)?;
    Ok((bytes, digest))
}

fn make(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn remove(path: &Path) {
    let removed = match std::fs::remove_file(path) {
        // a command may have made a folder of its file's name
        Err(_) if path.is_dir() => std::fs::remove_dir_all(path),
        removed => removed,
    };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "what is left of a backup can't be removed");
    }
}
