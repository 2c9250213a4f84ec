//! Unpacks an artifact or a cache, a zstd-compressed tar, without trusting it: nothing leaves the folder, nothing but folders,
//! files and links within is made, and it ends where a limit is reached. What lies in the folder already is not trusted
//! either: nothing is written through a link.

use std::{
    ffi::OsStr,
    fs, io,
    io::Read,
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Component, Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use tar::EntryType;

/// The largest window that a compressed stream may ask for, as a power of two: 128 MiB of memory.
const WINDOW_LOG_MAX: u32 = 27;

/// What an artifact may hold at most.
#[derive(Debug, Clone, Copy)]
pub struct UnpackLimits {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Files, folders and links.
    pub entries: u64,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self { bytes: 16 * 1024 * 1024 * 1024, entries: 500_000 }
    }
}

/// How an artifact is unpacked.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnpackRules<'a> {
    /// What it may hold.
    pub limits: UnpackLimits,
    /// Whether files that lie where an entry goes are replaced, or the entry is refused.
    pub replace: bool,
    /// Whether files get the times that the archive gives them.
    pub keep_times: bool,
    /// The folders at its top that it may fill; empty: any.
    pub only_below: &'a [&'a str],
}

/// Why an artifact was not unpacked. What was unpacked until then is left behind, for the caller to remove.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// An entry is of a kind, or leads to a place, that is not allowed.
    #[error("`{path}` in the artifact {what}")]
    Refused {
        /// The entry.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// There is too much in it.
    #[error("the artifact holds more than {0}")]
    TooLarge(String),
    /// It can't be read, or the disk can't take it.
    #[error("the artifact can't be unpacked: {0}")]
    Io(#[from] io::Error),
}

/// Unpacks `artifact` into `folder`, which exists. Blocks.
///
/// # Errors
/// [`UnpackError`]
pub fn unpack(artifact: impl Read, folder: &Path, rules: UnpackRules<'_>) -> Result<(), UnpackError> {
    let limits = rules.limits;
    let mut decoder = zstd::Decoder::new(artifact)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut archive = tar::Archive::new(decoder);
    let mut left = limits.bytes;
    let mut entries = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        entries += 1;
        if entries > limits.entries {
            return Err(UnpackError::TooLarge(format!("{} files and folders", limits.entries)));
        }
        let name = entry.path()?.into_owned();
        let refused = |what| UnpackError::Refused { path: name.display().to_string(), what };
        let kind = entry.header().entry_type();
        let parts = safe_parts(&name).ok_or_else(|| refused("leads out of its folder"))?;
        if parts.is_empty() {
            if kind == EntryType::Directory {
                continue;
            }
            return Err(refused("has no name"));
        }
        if !rules.only_below.is_empty() && !rules.only_below.iter().any(|top| parts[0] == *top) {
            return Err(refused("lies where nothing is to be unpacked"));
        }
        let place = make_parents(folder, &parts).map_err(|e| at(e, &refused))?;
        match kind {
            EntryType::Directory => make_folder(&place).map_err(|e| at(e, &refused))?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let executable = entry.header().mode()? & 0o111 != 0;
                let seconds = entry.header().mtime().ok().filter(|seconds| rules.keep_times && *seconds > 0);
                make_way(&place, rules)?;
                let (file, written) = write_file(&mut entry, &place, executable, left).map_err(|e| at(e, &refused))?;
                if let Some(time) = seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds))) {
                    file.set_modified(time)?;
                }
                left = left
                    .checked_sub(written)
                    .ok_or_else(|| UnpackError::TooLarge(format!("{} bytes", limits.bytes)))?;
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| refused("is a link to nowhere"))?.into_owned();
                if !stays_inside(&target, parts.len() - 1) {
                    return Err(refused("is a link that leads out of the artifact"));
                }
                make_way(&place, rules)?;
                symlink(&target, &place).map_err(|e| at(e, &refused))?;
            }
            EntryType::Link => return Err(refused("is a hard link, which artifacts don't hold")),
            _ => return Err(refused("is neither a file, a folder nor a symbolic link")),
        }
    }
    Ok(())
}

/// The parts of a relative path without `..`; `None` for any other.
fn safe_parts(path: &Path) -> Option<Vec<&OsStr>> {
    let parts = path.components().filter(|c| *c != Component::CurDir).map(|component| match component {
        Component::Normal(part) => Some(part),
        _ => None,
    });
    parts.collect()
}

/// Whether a symbolic link in a folder `depth` levels below the root leads to a place inside, whatever other links that obey
/// this rule are passed. `..` is allowed at the beginning alone: after a name it could step out of where a link has led.
pub(super) fn stays_inside(target: &Path, depth: usize) -> bool {
    let mut ups = 0;
    let mut named = false;
    for component in target.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if !named => ups += 1,
            Component::Normal(_) => named = true,
            _ => return false,
        }
    }
    ups <= depth && (named || ups > 0)
}

/// Makes the folders above an entry; refuses to go through anything that is not a folder, links above all.
fn make_parents(folder: &Path, parts: &[&OsStr]) -> io::Result<PathBuf> {
    let mut place = folder.to_owned();
    let (name, parents) = parts.split_last().ok_or(io::ErrorKind::InvalidInput)?;
    for parent in parents {
        place.push(parent);
        make_folder(&place)?;
    }
    place.push(name);
    Ok(place)
}

fn make_folder(place: &Path) -> io::Result<()> {
    match fs::create_dir(place) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if fs::symlink_metadata(place)?.is_dir() {
                Ok(())
            } else {
                Err(error)
            }
        }
        done => done,
    }
}

/// Removes a file or link that lies in the way, where that is asked for; never a folder.
fn make_way(place: &Path, rules: UnpackRules<'_>) -> io::Result<()> {
    if !rules.replace {
        return Ok(());
    }
    match fs::symlink_metadata(place) {
        Ok(metadata) if !metadata.is_dir() => fs::remove_file(place),
        _ => Ok(()),
    }
}

/// Writes a new file of at most `limit` + 1 bytes; how many there were. The set-user-id and other special bits are not taken
/// over.
fn write_file(entry: &mut impl Read, place: &Path, executable: bool, limit: u64) -> io::Result<(fs::File, u64)> {
    let mode = if executable { 0o755 } else { 0o644 };
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(place)?;
    let written = io::copy(&mut entry.take(limit.saturating_add(1)), &mut file)?;
    Ok((file, written))
}

fn at(error: io::Error, refused: &impl Fn(&'static str) -> UnpackError) -> UnpackError {
    match error.kind() {
        io::ErrorKind::AlreadyExists => refused("is there twice, or goes through something that is not a folder"),
        _ => UnpackError::Io(error),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// An entry of a test artifact.
    pub(crate) enum Item<'a> {
        File(&'a str, u32, &'a [u8]),
        Folder(&'a str),
        Symlink(&'a str, &'a str),
        Other(&'a str, EntryType, &'a str),
    }

    /// A zstd-compressed tar of `items`, written byte by byte as they are, safe or not.
    pub(crate) fn artifact(items: &[Item<'_>]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for item in items {
            let (path, kind, mode, content, link) = match item {
                Item::File(path, mode, content) => (*path, EntryType::Regular, *mode, *content, ""),
                Item::Folder(path) => (*path, EntryType::Directory, 0o755, &b""[..], ""),
                Item::Symlink(path, link) => (*path, EntryType::Symlink, 0o777, &b""[..], *link),
                Item::Other(path, kind, link) => (*path, *kind, 0o644, &b""[..], *link),
            };
            let mut header = tar::Header::new_gnu();
            // Set directly: the builder itself refuses such names.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(content.len() as u64);
            header.set_cksum();
            tar.append(&header, content).unwrap();
        }
        zstd::encode_all(&tar.into_inner().unwrap()[..], 1).unwrap()
    }

    fn check(items: &[Item<'_>], limits: UnpackLimits) -> Result<tempfile::TempDir, String> {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("release");
        fs::create_dir(&folder).unwrap();
        let rules = UnpackRules { limits, ..UnpackRules::default() };
        let result = unpack(&artifact(items)[..], &folder, rules).map_err(|e| e.to_string());
        let outside: Vec<_> = fs::read_dir(outer.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(outside, ["release"], "something was written outside");
        result.map(|()| outer)
    }

    #[test]
    fn files_folders_and_inner_links_come_out_as_they_went_in() {
        let outer = check(
            &[
                Item::Folder("./"),
                Item::Folder("bin"),
                Item::File("bin/run", 0o4755, b"#!/bin/sh\n"),
                Item::File("./data/deep/x", 0o600, b"x"),
                Item::Symlink("bin/x", "../data/deep/x"),
                Item::Symlink("current", "data"),
            ],
            UnpackLimits::default(),
        );
        let root = outer.unwrap();
        let root = root.path().join("release");
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("bin/run") & 0o4111, 0o111 & mode("bin/run"), "executable, without set-uid");
        assert_eq!(mode("bin/run") & 0o7000, 0);
        assert_eq!(fs::read(root.join("bin/x")).unwrap(), b"x");
        assert_eq!(fs::read(root.join("current/deep/x")).unwrap(), b"x");
    }

    #[test]
    fn what_leads_out_or_is_not_plain_is_refused() {
        let cases: &[(&str, &[Item<'_>])] = &[
            ("leads out", &[Item::File("../x", 0o644, b"x")]),
            ("leads out", &[Item::File("a/../../x", 0o644, b"x")]),
            ("leads out", &[Item::File("/x", 0o644, b"x")]),
            ("leads out of the artifact", &[Item::Symlink("l", "/etc/passwd")]),
            ("leads out of the artifact", &[Item::Symlink("l", "..")]),
            ("leads out of the artifact", &[Item::Symlink("a/l", "../..")]),
            ("leads out of the artifact", &[Item::Symlink("a/b/l", "../.."), Item::Symlink("m", "a/b/l/../x")]),
            ("goes through", &[Item::Folder("d"), Item::Symlink("l", "d"), Item::File("l/x", 0o644, b"x")]),
            ("there twice", &[Item::File("x", 0o644, b"1"), Item::File("x", 0o644, b"2")]),
            ("there twice", &[Item::Folder("d"), Item::Symlink("x", "d"), Item::File("x", 0o644, b"2")]),
            ("hard link", &[Item::Other("l", EntryType::Link, "/etc/passwd")]),
            ("neither", &[Item::Other("d", EntryType::Char, "")]),
            ("neither", &[Item::Other("d", EntryType::Block, "")]),
            ("neither", &[Item::Other("d", EntryType::Fifo, "")]),
        ];
        for (expected, items) in cases {
            let error = check(items, UnpackLimits::default()).unwrap_err();
            assert!(error.contains(expected), "`{error}` does not say `{expected}`");
        }
    }

    #[test]
    fn limits_hold() {
        let bytes = UnpackLimits { bytes: 5, entries: 10 };
        assert!(check(&[Item::File("a", 0o644, b"12345")], bytes).is_ok());
        let two = [Item::File("a", 0o644, b"123"), Item::File("b", 0o644, b"456")];
        assert!(check(&two, bytes).unwrap_err().contains("more than 5 bytes"));
        let entries = UnpackLimits { bytes: 5, entries: 1 };
        assert!(check(&[Item::Folder("a"), Item::Folder("b")], entries).unwrap_err().contains("more than 1 files"));
        assert!(unpack(&b"not zstd"[..], tempfile::tempdir().unwrap().path(), UnpackRules::default()).is_err());
    }

    #[test]
    fn what_lies_in_the_way_is_replaced_and_never_written_through() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("work");
        fs::create_dir_all(folder.join("taken")).unwrap();
        fs::write(outer.path().join("outside"), "kept").unwrap();
        symlink("../outside", folder.join("link")).unwrap();
        symlink("..", folder.join("out")).unwrap();
        fs::write(folder.join("old"), "old").unwrap();
        let rules = UnpackRules { replace: true, ..UnpackRules::default() };
        let items = [Item::File("old", 0o644, b"new"), Item::File("link", 0o644, b"x"), Item::Symlink("l", "old")];
        for _ in 0..2 {
            unpack(&artifact(&items)[..], &folder, rules).unwrap();
        }
        assert_eq!(fs::read_to_string(folder.join("l")).unwrap(), "new");
        assert_eq!(fs::read_to_string(outer.path().join("outside")).unwrap(), "kept");
        for (item, expected) in
            [(Item::File("out/x", 0o644, b"x"), "goes through"), (Item::File("taken", 0o644, b"x"), "is there twice")]
        {
            let error = unpack(&artifact(&[item])[..], &folder, rules).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(!outer.path().join("x").exists());
    }

    #[test]
    fn only_named_folders_are_filled() {
        let folder = tempfile::tempdir().unwrap();
        let rules = UnpackRules { only_below: &["work", "home"], ..UnpackRules::default() };
        unpack(&artifact(&[Item::File("work/x", 0o644, b"x")])[..], folder.path(), rules).unwrap();
        let error = unpack(&artifact(&[Item::File("commands/x", 0o644, b"x")])[..], folder.path(), rules).unwrap_err();
        assert!(error.to_string().contains("nothing is to be unpacked"), "{error}");
        assert!(!folder.path().join("commands").exists());
    }
}
