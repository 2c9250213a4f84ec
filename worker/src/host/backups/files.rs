//! The files of backups: written aside, given their place once they are whole and on the disk, removed.

use std::{
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
        let aside = self.named(name);
        aside.clear();
        Ok(aside)
    }

    /// Where that is.
    pub(super) fn named(&self, name: &str) -> Aside {
        let named = |what: &str| self.folder_aside().join(format!("{name}.{what}"));
        Aside { output: named("output"), errors: named("errors"), file: named("file") }
    }

    /// Where a copy of data is that may be fetched.
    pub(super) fn copy(&self, name: &str) -> PathBuf {
        self.folder_aside().join(format!("{name}.copy"))
    }

    /// Removes it.
    pub(super) fn remove_copy(&self, name: &str) {
        remove(&self.copy(name));
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

    /// Gives what a command wrote its place: the file that it made, else its output. The size and the digest. `promised`: the digest
    /// that it must have.
    pub(super) async fn take_in(
        &self,
        aside: &Aside,
        backup: &Backup,
        promised: Option<&Digest>,
    ) -> Result<(u64, Digest), String> {
        let (written, promised) = (aside.written(), promised.cloned());
        let (place, folder) = (self.path(backup), self.folder.clone());
        let kept = tokio::task::spawn_blocking(move || keep(&written, &place, promised.as_ref()));
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

    /// Removes what a host before this one has left: what was written aside, and what of the backups that were being taken has its place. A file
    /// that nobody knows stays: it may be what somebody has brought here from another machine.
    pub(super) fn sweep<'b>(&self, taking: impl Iterator<Item = &'b Backup>) {
        let left = std::fs::read_dir(self.folder_aside()).into_iter().flatten().flatten();
        left.for_each(|entry| remove(&entry.path()));
        taking.for_each(|backup| self.remove(backup));
    }

    /// Whether somebody has taken a backup's file away. Where its folder is not there either, a disk may not be mounted.
    pub(super) fn is_gone(&self, backup: &Backup) -> bool {
        let path = self.path(backup);
        let is_missing = |path: &Path| std::fs::metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
        is_missing(&path) && path.parent().is_some_and(Path::is_dir)
    }

    /// On the same file system, where no environment can be called so.
    fn folder_aside(&self) -> PathBuf {
        self.folder.join(".taking")
    }
}

impl Aside {
    /// What was written: the file that a command made, else its output.
    pub(super) fn written(&self) -> PathBuf {
        let is_file = std::fs::symlink_metadata(&self.file).is_ok_and(|found| found.is_file());
        if is_file { self.file.clone() } else { self.output.clone() }
    }

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
fn keep(written: &Path, place: &Path, promised: Option<&Digest>) -> io::Result<Option<(u64, Digest)>> {
    let mut file = File::open(written)?;
    let (bytes, sha256) = digest(&mut file)?;
    if bytes == 0 {
        return Ok(None);
    }
    if let Some(promised) = promised.filter(|promised| **promised != sha256) {
        return Err(io::Error::other(format!("its digest is {sha256}, and {promised} was promised")));
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

pub(super) fn remove(path: &Path) {
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

#[cfg(test)]
mod tests {
    use segue_schemas::{id::ReleaseId, time::Timestamp};

    use super::*;

    fn backup(id: &str, state: BackupState) -> Backup {
        Backup {
            id: id.parse().unwrap(),
            environment: "production".into(),
            service: "web".into(),
            release: ReleaseId(1),
            commit: "0123456789abcdef0123456789abcdef01234567".parse().unwrap(),
            begun_at: Timestamp(0),
            why: String::new(),
            copied_from: None,
            state,
        }
    }

    #[test]
    fn only_what_is_known_to_be_half_is_removed() {
        let data = tempfile::tempdir().unwrap();
        let files = Files::new(data.path().join("backups"));
        let [half, kept] = ["half", "kept"].map(|id| backup(id, BackupState::Taking));
        let aside = files.aside("half").unwrap();
        std::fs::write(&aside.output, "ha").unwrap();
        for path in [files.path(&half), files.path(&kept)] {
            make(path.parent().unwrap()).unwrap();
            std::fs::write(path, "all of it").unwrap();
        }
        // the second is of a host that was here before, or was brought from another machine
        files.sweep([&half].into_iter());
        assert!(!aside.output.exists() && !files.path(&half).exists());
        assert_eq!(std::fs::read(files.path(&kept)).unwrap(), b"all of it");
    }

    #[test]
    fn a_disk_that_is_not_mounted_takes_no_backup_away() {
        let data = tempfile::tempdir().unwrap();
        let files = Files::new(data.path().join("backups"));
        let kept = backup("kept", BackupState::Taking);
        assert!(!files.is_gone(&kept), "not even its folder is there");
        make(files.path(&kept).parent().unwrap()).unwrap();
        assert!(files.is_gone(&kept), "somebody has removed it");
        std::fs::write(files.path(&kept), "all of it").unwrap();
        assert!(!files.is_gone(&kept));
    }
}
