//! The files that take what services print. A service writes into its file directly, so that nothing is lost and nobody
//! blocks while the host is away; the host keeps the files small.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use segue_schemas::id::InstanceId;

use super::process::awaitable;

/// The size at which a file is put aside as `<name>.1`, whose predecessor goes: each instance has at most twice this, and
/// what it prints within [`PAUSE`].
pub const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// After something was printed, how long until the sizes are looked at: many writes, one look.
const PAUSE: Duration = Duration::from_millis(200);

/// Where an instance's output goes.
#[must_use]
pub fn path(folder: &Path, instance: &InstanceId) -> PathBuf {
    folder.join(format!("{instance}.log"))
}

/// A file to append to; only this user can read it.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Removes an instance's output.
pub fn remove(folder: &Path, instance: &InstanceId) {
    let path = path(folder, instance);
    for path in [&path, &aside(&path)] {
        if let Err(error) = std::fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "an old output file can't be removed");
        }
    }
}

/// Keeps every file of `folder` below `max_bytes`, for ever. Woken by the first write after a look, so that silence costs
/// nothing.
pub async fn keep_in_bounds(folder: PathBuf, max_bytes: u64) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let readable = awaitable(inotify.as_fd().try_clone_to_owned()?)?;
    loop {
        // Watch first, look second: a write in between is seen by the one or the other.
        inotify.add_watch(&folder, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONESHOT)?;
        let looked = folder.clone();
        tokio::task::spawn_blocking(move || put_large_aside(&looked, max_bytes)).await?;
        let mut ready = readable.readable().await?;
        let _ = inotify.read_events();
        ready.clear_ready();
        tokio::time::sleep(PAUSE).await;
    }
}

fn put_large_aside(folder: &Path, max_bytes: u64) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_large = entry.metadata().is_ok_and(|m| m.is_file() && m.len() > max_bytes);
        if is_large
            && path.extension().is_some_and(|e| e == "log")
            && let Err(error) = put_aside(&path, max_bytes)
        {
            tracing::warn!(path = %path.display(), %error, "an output file can't be put aside");
        }
    }
}

/// Copies the newest `max_bytes` aside and empties the file under its writer, who appends and so goes on at the beginning.
/// What is printed between the last read and the emptying is lost: the price of a writer that nobody stands between.
fn put_aside(path: &Path, max_bytes: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    let mut from = OpenOptions::new().read(true).write(true).open(path)?;
    let size = from.metadata()?.len();
    from.seek(SeekFrom::Start(size.saturating_sub(max_bytes)))?;
    let temporary = path.with_extension("log.new");
    let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    io::copy(&mut io::Read::take(&from, max_bytes * 2), &mut to)?;
    from.set_len(0)?;
    std::fs::rename(temporary, aside(path))
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn a_chatty_service_does_not_fill_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = tokio::spawn(keep_in_bounds(folder.path().to_owned(), 1000));
        let log = folder.path().join("a.log");
        let mut output = open(&log).unwrap();
        for round in 0..5 {
            for line in 0..30 {
                writeln!(output, "round {round} line {line:04} {}", "x".repeat(40)).unwrap();
            }
            let emptied = async {
                while std::fs::metadata(&log).unwrap().len() > 1000 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), emptied).await.expect("the file is put aside");
        }
        let kept = std::fs::read_to_string(folder.path().join("a.log.1")).unwrap();
        assert!(kept.len() <= 2000 && kept.contains("round 4 line 0029"), "{kept}");
        writeln!(output, "more").unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "more\n", "the writer goes on at the beginning");
        watcher.abort();
    }
}
