//! `segue backup FILE` and `segue restore FILE`: everything that the embedded store keeps, in one zstd-compressed tar. A
//! backup is consistent while the server runs: the database is copied in one snapshot first, and the files that it names
//! only grow or stay. Comes in: a data directory, a file. Goes out: the other of the two. Not in it: what can be fetched again
//! (mirrors), what dies with its worker (workspaces), and the key of secrets, which lies outside for that very reason.

use std::{
    fs::File,
    io::{self, BufWriter, Read as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tar::{Archive, Builder, EntryType, Header};

use crate::{
    artifact_store,
    store::{self, StoreError},
};

/// The first entry: what this is. The last has the same form, and says that nothing is missing.
const FIRST: &str = "segue-backup.json";
const LAST: &str = "segue-backup.end.json";

/// The format that this version writes, and the highest that it reads.
const FORMAT: u32 = 1;

/// Zstandard's level: fast enough to be bound by the disk.
const LEVEL: i32 = 3;

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no store.
    #[error("{0} is not a data directory of Segue: it holds no segue.db")]
    NoStore(PathBuf),
    /// The state is elsewhere.
    #[error(
        "the state of {0} lies in PostgreSQL: back that up with `pg_dump --format=custom --file FILE URL`, which may run while \
         servers do, and the bucket and the key of secrets each by their own means. To have it again: `createdb`, `pg_restore`, and \
         start the servers"
    )]
    InDatabase(PathBuf),
    /// The file is there.
    #[error("{0} exists: name another file, or move it away")]
    Exists(PathBuf),
    /// The directory is not empty.
    #[error("{0} is not empty: restore into a new directory, or move this one away")]
    NotEmpty(PathBuf),
    /// The file is not a backup, or not a whole one.
    #[error("{file} can't be restored: {problem}")]
    NotABackup {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file can't be read or written.
    #[error("{action} {path} failed: {source}")]
    Io {
        /// `reading`, `writing`, ...
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The database can't be copied, or is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

type Result<T> = std::result::Result<T, BackupError>;

/// What a backup holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    /// [`FORMAT`].
    format: u32,
    /// The version of Segue that wrote it.
    pub version: String,
    /// When, RFC 3339.
    pub created_at: segue_schemas::time::Timestamp,
    /// Files in it, this summary not counted.
    pub files: u64,
    /// Their bytes, uncompressed.
    pub bytes: u64,
    /// The bucket that holds the contents of artifacts and caches, which are not in here then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents_elsewhere: Option<String>,
}

/// Writes a backup of a data directory, in use or not, to a new file that only its owner can read: it holds tokens.
///
/// # Errors
/// [`BackupError`]; no file is left then.
pub async fn backup(data: &Path, file: &Path) -> Result<Summary> {
    let database = data.join("segue.db");
    // a segue.db beside it is what was there before it was copied into the database
    if data.join(store::SERVER_ID).exists() {
        return Err(BackupError::InDatabase(data.into()));
    }
    if !database.exists() {
        return Err(BackupError::NoStore(data.into()));
    }
    if file.exists() {
        return Err(BackupError::Exists(file.into()));
    }
    let beside = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let scratch =
        tempfile::Builder::new().prefix(".segue-backup").tempdir_in(beside).map_err(failed("writing in", beside))?;
    let snapshot = scratch.path().join("segue.db");
    store::copy_database(&database, &snapshot).await?;
    let (data, file) = (data.to_owned(), file.to_owned());
    blocking(move || {
        let partial = scratch.path().join("backup");
        let summary = write(&data, &snapshot, &partial)?;
        // never over a file that came there meanwhile
        std::fs::hard_link(&partial, &file).map_err(failed("writing", &file))?;
        let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|f| f.sync_all()).map_err(failed("syncing", folder))?;
        Ok(summary)
    })
    .await
}

/// Restores a backup into a directory that is empty or not there.
///
/// # Errors
/// [`BackupError`]; the directory is as it was then.
pub async fn restore(file: &Path, data: &Path) -> Result<Summary> {
    let is_empty = match std::fs::read_dir(data) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(failed("reading", data)(error)),
    };
    if !is_empty {
        return Err(BackupError::NotEmpty(data.into()));
    }
    let (from, to) = (file.to_owned(), data.to_owned());
    let restored = blocking(move || read(&from, &to)).await;
    let checked = match restored {
        Ok(summary) => store::check_database(&data.join("segue.db")).await.map(|()| summary).map_err(Into::into),
        Err(error) => Err(error),
    };
    if checked.is_err() {
        // what was half restored must not be taken for a store; the error that caused it is the one to show
        let _ = std::fs::remove_dir_all(data);
    }
    checked
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Unavailable(error.to_string()).into()),
    }
}

fn write(data: &Path, snapshot: &Path, partial: &Path) -> Result<Summary> {
    let target =
        File::options().write(true).create_new(true).mode(0o600).open(partial).map_err(failed("writing", partial))?;
    let writing = || failed("writing", partial);
    let mut encoder = zstd::Encoder::new(BufWriter::new(target), LEVEL).map_err(writing())?;
    encoder.include_checksum(true).map_err(writing())?;
    let mut archive = Builder::new(encoder);
    let created_at = segue_schemas::time::Timestamp(chrono::Utc::now().timestamp_millis());
    let mut summary = Summary {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        created_at,
        files: 0,
        bytes: 0,
        contents_elsewhere: artifact_store::elsewhere(data),
    };
    append_summary(&mut archive, FIRST, &summary).map_err(writing())?;
    append(&mut archive, snapshot, Path::new("segue.db"), &mut summary)?;
    append_below(&mut archive, data, Path::new(""), &mut summary)?;
    append_summary(&mut archive, LAST, &summary).map_err(writing())?;
    let finished = archive.into_inner().and_then(zstd::Encoder::finish).and_then(|w| Ok(w.into_inner()?));
    finished.and_then(|file| file.sync_all()).map_err(writing())?;
    Ok(summary)
}

/// Whether a path below the data directory is left out.
fn is_left_out(path: &Path) -> bool {
    const LEFT_OUT: &[&str] = &[
        "segue.db",
        "segue.db-wal",
        "segue.db-shm",
        "lock",
        "mirrors",
        "worker",
        "artifacts/uploads",
        "artifacts/multipart",
        "host/output",
        "host/lock",
        "host/start.lock",
        "host/host.log",
    ];
    LEFT_OUT.iter().any(|left_out| path == Path::new(left_out))
}

fn append_below<W: io::Write>(
    archive: &mut Builder<W>,
    data: &Path,
    folder: &Path,
    summary: &mut Summary,
) -> Result<()> {
    let path = data.join(folder);
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        // retention may have removed it meanwhile
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("reading", &path)(error)),
    };
    let mut names: Vec<_> =
        entries.map(|e| e.map(|e| e.file_name())).collect::<io::Result<_>>().map_err(failed("reading", &path))?;
    names.sort();
    for name in names {
        let relative = folder.join(name);
        if is_left_out(&relative) {
            continue;
        }
        append(archive, &data.join(&relative), &relative, summary)?;
        if std::fs::symlink_metadata(data.join(&relative)).is_ok_and(|m| m.is_dir()) {
            append_below(archive, data, &relative, summary)?;
        }
    }
    Ok(())
}

/// Appends a file, a folder or a link; what is none of them (sockets) is left out, and so is what has gone meanwhile.
fn append<W: io::Write>(archive: &mut Builder<W>, path: &Path, name: &Path, summary: &mut Summary) -> Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("reading", path)(error)),
    };
    let mut header = Header::new_gnu();
    header.set_mode(metadata.mode() & 0o7777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(0);
    let written = if metadata.is_dir() {
        header.set_entry_type(EntryType::Directory);
        archive.append_data(&mut header, name, io::empty())
    } else if metadata.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        let target = std::fs::read_link(path).map_err(failed("reading", path))?;
        archive.append_link(&mut header, name, target)
    } else if metadata.is_file() {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("reading", path)(error)),
        };
        // a log that grows is kept as long as it is now
        header.set_size(metadata.len());
        summary.files += 1;
        summary.bytes += metadata.len();
        archive.append_data(&mut header, name, file.chain(io::repeat(0)).take(metadata.len()))
    } else {
        return Ok(());
    };
    written.map_err(failed("reading", path))
}

fn append_summary<W: io::Write>(archive: &mut Builder<W>, name: &str, summary: &Summary) -> io::Result<()> {
    let text = serde_json::to_vec(summary)?;
    let mut header = Header::new_gnu();
    header.set_mode(0o600);
    header.set_size(text.len() as u64);
    archive.append_data(&mut header, name, &text[..])
}

fn read(file: &Path, data: &Path) -> Result<Summary> {
    let wrong = |problem: String| BackupError::NotABackup { file: file.into(), problem };
    let source = File::open(file).map_err(failed("reading", file))?;
    let decoder = zstd::Decoder::new(source).map_err(failed("reading", file))?;
    let mut archive = Archive::new(decoder);
    archive.set_preserve_permissions(true);
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(data).map_err(failed("making", data))?;
    let broken = |e: io::Error| wrong(format!("it is not a backup of Segue, or a damaged one ({e})"));
    let mut first = true;
    let mut folders = Vec::new();
    let mut end = None;
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.into_owned();
        if std::mem::take(&mut first) {
            check_first(&name, &mut entry).map_err(wrong)?;
            continue;
        }
        if name == Path::new(LAST) {
            let summary: Summary = serde_json::from_reader(&mut entry).map_err(|e| wrong(e.to_string()))?;
            end = Some(summary);
        } else if entry.header().entry_type().is_dir() {
            folders.push((data.join(&name), entry.header().mode().map_err(broken)?));
            std::fs::create_dir_all(data.join(&name)).map_err(failed("making", &name))?;
        } else if !entry.unpack_in(data).map_err(broken)? {
            return Err(wrong(format!("{} would lie outside the directory", name.display())));
        }
    }
    let summary = end.ok_or_else(|| wrong("its end is missing: the backup or a copy of it was broken off".into()))?;
    // the checksum comes last
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(broken)?;
    // a read-only folder is one only once everything is in it
    folders.into_iter().rev().try_for_each(set_mode)?;
    set_mode((data.to_owned(), 0o711))?;
    File::open(data).and_then(|f| f.sync_all()).map_err(failed("syncing", data))?;
    Ok(summary)
}

fn check_first(name: &Path, entry: &mut impl io::Read) -> std::result::Result<(), String> {
    if name != Path::new(FIRST) {
        return Err("it is not a backup of Segue".into());
    }
    let summary: Summary = serde_json::from_reader(entry).map_err(|e| e.to_string())?;
    if summary.format > FORMAT {
        return Err(format!(
            "Segue {} wrote it, in a form that this version does not know: upgrade first",
            summary.version
        ));
    }
    Ok(())
}

fn set_mode((path, mode): (PathBuf, u32)) -> Result<()> {
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(failed("setting the mode of", &path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use segue_schemas::config::Config;

    use super::*;
    use crate::store::{Clock, Store, StoreOptions, TokenKind};

    async fn open(data: &Path) -> Store {
        let options = StoreOptions { data: data.into(), config: Arc::new(Config::default()), clock: Clock::system() };
        Store::open(options).await.unwrap()
    }

    #[tokio::test]
    async fn a_backup_of_a_running_store_restores_everything_but_what_can_be_fetched_again() {
        let place = tempfile::tempdir().unwrap();
        let (data, file, other) = (place.path().join("data"), place.path().join("backup"), place.path().join("other"));
        let store = open(&data).await;
        store.put_token("aa", "admin", TokenKind::Admin, None).await.unwrap();
        std::fs::write(data.join("admin-token"), "secret").unwrap();
        std::fs::set_permissions(data.join("admin-token"), std::fs::Permissions::from_mode(0o600)).unwrap();
        for folder in ["logs/2026-01-01/run-1", "mirrors/o", "worker/workspaces", "host/releases/x", "host/output"] {
            std::fs::create_dir_all(data.join(folder)).unwrap();
            std::fs::write(data.join(folder).join("file"), folder).unwrap();
        }
        std::os::unix::fs::symlink("file", data.join("host/releases/x/link")).unwrap();
        let summary = backup(&data, &file).await.unwrap();
        assert_eq!(summary.files, 4, "database, token, log, release");
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(backup(&data, &file).await, Err(BackupError::Exists(_))));
        // what comes after the backup is not in it
        store.put_token("bb", "worker", TokenKind::Worker, None).await.unwrap();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2, "no scratch is left");

        restore(&file, &other).await.unwrap();
        let restored = open(&other).await;
        assert_eq!(restored.token("aa").await.unwrap(), Some(("admin".into(), TokenKind::Admin)));
        assert_eq!(restored.token("bb").await.unwrap(), None);
        assert_eq!(std::fs::metadata(other.join("admin-token")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(other.join("logs/2026-01-01/run-1/file")).unwrap(), "logs/2026-01-01/run-1");
        assert_eq!(std::fs::read_to_string(other.join("host/releases/x/link")).unwrap(), "host/releases/x");
        for absent in ["mirrors", "worker", "host/output"] {
            assert!(!other.join(absent).exists(), "{absent}");
        }
        assert!(matches!(restore(&file, &other).await, Err(BackupError::NotEmpty(_))));
    }

    #[tokio::test]
    async fn half_a_backup_another_file_and_no_store_are_refused_and_leave_nothing() {
        let place = tempfile::tempdir().unwrap();
        let (data, file, other) = (place.path().join("data"), place.path().join("backup"), place.path().join("other"));
        assert!(matches!(backup(place.path(), &file).await, Err(BackupError::NoStore(_))));
        drop(open(&data).await);
        std::fs::create_dir_all(data.join("logs")).unwrap();
        let noise: Vec<u8> = (0..1_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        std::fs::write(data.join("logs/log"), noise).unwrap();
        backup(&data, &file).await.unwrap();
        let whole = std::fs::read(&file).unwrap();
        for length in [0, 10, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&file, &whole[..length]).unwrap();
            assert!(restore(&file, &other).await.is_err(), "{length} of {} bytes", whole.len());
            assert!(!other.exists());
        }
        std::fs::write(&file, "no backup at all").unwrap();
        assert!(restore(&file, &other).await.is_err());
    }
}
