//! Packing and unpacking.
//!
//! The same files give the same bytes: entries are sorted by path, times and owners are zero, permissions are reduced to
//! "may be executed" (0755) or not (0644), and compression is single-threaded at one level.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};

use tar::{Archive, Builder, EntryType, Header};

/// zstd's own default: a good artifact is a fast one.
const LEVEL: i32 = 3;
/// Bounds of an archive when it is unpacked; more than any service has, less than fills a machine.
const MAX_UNPACKED_BYTES: u64 = 16 * 1024 * 1024 * 1024;
const MAX_ENTRIES: usize = 500_000;
const BUFFER: usize = 256 * 1024;

/// Why something could not be packed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something that an artifact cannot hold.
    #[error("{}: {reason}", path.display())]
    Unfit {
        /// Which.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// An archive that is not to be unpacked.
    #[error("the archive is refused: `{entry}` {reason}")]
    Unsafe {
        /// Which entry.
        entry: String,
        /// Why.
        reason: String,
    },
    /// The archive itself could not be read or written.
    #[error("the archive: {0}")]
    Archive(io::Error),
}

impl From<PackError> for io::Error {
    fn from(error: PackError) -> Self {
        Self::other(error.to_string())
    }
}

/// Packs a directory, or one file, into `archive`. Paths in it are relative to the directory (of the file).
///
/// # Errors
/// [`PackError`]; what `archive` holds then is worthless.
pub fn pack(path: &Path, archive: impl Write) -> Result<(), PackError> {
    let at = |source| PackError::File { path: path.to_owned(), source };
    let compressed =
        zstd::Encoder::new(BufWriter::with_capacity(BUFFER, archive), LEVEL).map_err(PackError::Archive)?;
    let mut tar = Builder::new(compressed);
    let kind = fs::metadata(path).map_err(at)?.file_type();
    if kind.is_dir() {
        append_directory(&mut tar, path, Path::new(""))?;
    } else {
        let name = path.file_name().ok_or_else(|| unfit(path, "it has no name"))?;
        append(&mut tar, path, Path::new(name))?;
    }
    let compressed = tar.into_inner().map_err(PackError::Archive)?;
    compressed.finish().and_then(|mut archive| archive.flush()).map_err(PackError::Archive)
}

/// Unpacks `archive` below `directory`, which is made if it is not there. Files in the way are replaced.
///
/// # Errors
/// [`PackError::Unsafe`] for an entry that would lie outside, or is neither file, directory nor a link within.
pub fn unpack(archive: impl io::Read, directory: &Path) -> Result<(), PackError> {
    fs::create_dir_all(directory).map_err(|source| PackError::File { path: directory.to_owned(), source })?;
    let plain = zstd::Decoder::new(archive).map_err(PackError::Archive)?;
    let mut archive = Archive::new(BufReader::with_capacity(BUFFER, plain));
    let mut bytes_left = MAX_UNPACKED_BYTES;
    for (number, entry) in archive.entries().map_err(PackError::Archive)?.enumerate() {
        let mut entry = entry.map_err(PackError::Archive)?;
        let path = entry.path().map_err(PackError::Archive)?.into_owned();
        let refuse = |reason: &str| PackError::Unsafe { entry: path.display().to_string(), reason: reason.into() };
        if number >= MAX_ENTRIES {
            return Err(refuse("is one entry too many"));
        }
        bytes_left = bytes_left.checked_sub(entry.size()).ok_or_else(|| refuse("makes it too large"))?;
        if !is_plain(&path) {
            return Err(refuse("lies outside the directory"));
        }
        let target = directory.join(&path);
        let at = |source| PackError::File { path: target.clone(), source };
        if target == directory {
            continue;
        }
        make_parents(directory, &path).map_err(|reason| refuse(&reason))?;
        match entry.header().entry_type() {
            EntryType::Directory => make_directory(&target).map_err(at)?,
            EntryType::Regular => {
                remove_file(&target).map_err(at)?;
                let mode = if entry.header().mode().unwrap_or(0) & 0o111 == 0 { 0o644 } else { 0o755 };
                let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&target).map_err(at)?;
                io::copy(&mut entry, &mut file).map_err(at)?;
            }
            EntryType::Symlink => {
                let link =
                    entry.link_name().map_err(PackError::Archive)?.ok_or_else(|| refuse("is a link to nothing"))?;
                if !stays_within(&path, &link) {
                    return Err(refuse("is a link out of the directory"));
                }
                remove_file(&target).map_err(at)?;
                symlink(&link, &target).map_err(at)?;
            }
            _ => return Err(refuse("is neither a file, a directory nor a symbolic link")),
        }
    }
    Ok(())
}

fn append_directory<W: Write>(tar: &mut Builder<W>, directory: &Path, inside: &Path) -> Result<(), PackError> {
    let at = |source| PackError::File { path: directory.to_owned(), source };
    let mut names: Vec<OsString> = fs::read_dir(directory)
        .map_err(at)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<_>>()
        .map_err(at)?;
    names.sort_unstable();
    for name in names {
        append(tar, &directory.join(&name), &inside.join(&name))?;
    }
    Ok(())
}

fn append<W: Write>(tar: &mut Builder<W>, path: &Path, inside: &Path) -> Result<(), PackError> {
    let at = |source| PackError::File { path: path.to_owned(), source };
    let kind = fs::symlink_metadata(path).map_err(at)?.file_type();
    let mut header = Header::new_gnu();
    header.set_size(0);
    if kind.is_dir() {
        header.set_entry_type(EntryType::Directory);
        header.set_mode(0o755);
        tar.append_data(&mut header, inside, io::empty()).map_err(at)?;
        append_directory(tar, path, inside)
    } else if kind.is_symlink() {
        let link = fs::read_link(path).map_err(at)?;
        if !stays_within(inside, &link) {
            return Err(unfit(path, "is a link out of the directory that is packed; copy what it points to instead"));
        }
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        tar.append_link(&mut header, inside, &link).map_err(at)
    } else if kind.is_file() {
        let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path).map_err(at)?;
        let metadata = file.metadata().map_err(at)?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(if metadata.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 });
        header.set_size(metadata.len());
        tar.append_data(&mut header, inside, Exactly { file, left: metadata.len() }).map_err(at)
    } else {
        Err(unfit(path, "is neither a file, a directory nor a symbolic link; remove it before packing"))
    }
}

/// A file's content as long as it was when its header was written: one that grows meanwhile is cut there, one that
/// shrinks is an error.
struct Exactly {
    file: File,
    left: u64,
}

impl io::Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..limit])?;
        if count == 0 && limit > 0 {
            return Err(io::Error::other("the file became shorter while it was packed"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Makes the directories above `path`. A link among them could lead anywhere, and is refused.
fn make_parents(directory: &Path, path: &Path) -> Result<(), String> {
    let mut parent = directory.to_owned();
    let components: Vec<Component<'_>> = path.components().collect();
    for component in components.iter().take(components.len().saturating_sub(1)) {
        parent.push(component);
        make_directory(&parent)
            .map_err(|error| format!("can't be made, because of `{}`: {error}", parent.display()))?;
    }
    Ok(())
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(io::Error::other("something that is not a directory is in the way")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(path),
        Err(error) => Err(error),
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn is_plain(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// Whether a link at `path` to `link` stays within the root that `path` is relative to.
fn stays_within(path: &Path, link: &Path) -> bool {
    let mut depth = path.components().filter(|part| matches!(part, Component::Normal(_))).count().saturating_sub(1);
    for part in link.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

fn unfit(path: &Path, reason: &str) -> PackError {
    PackError::Unfit { path: path.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive_of(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut tar = Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
        for (path, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            // Written past the checks of the library, as an attacker's tool would.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            let content = if matches!(kind, EntryType::Symlink | EntryType::Link) {
                header.set_link_name_literal(content).unwrap();
                ""
            } else {
                *content
            };
            header.set_size(content.len() as u64);
            header.set_cksum();
            tar.append(&header, content.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (root.path().join("one"), root.path().join("two"));
        for (directory, names) in [(&one, ["b", "a", "z"]), (&two, ["z", "b", "a"])] {
            fs::create_dir_all(directory.join("sub")).unwrap();
            for name in names {
                fs::write(directory.join("sub").join(name), name.repeat(1000)).unwrap();
            }
            symlink("sub/a", directory.join("link")).unwrap();
        }
        fs::set_permissions(one.join("sub/a"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(two.join("sub/a"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut packed = [Vec::new(), Vec::new()];
        pack(&one, &mut packed[0]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        pack(&two, &mut packed[1]).unwrap();
        assert_eq!(packed[0], packed[1]);

        let out = root.path().join("out/deep");
        unpack(&packed[0][..], &out).unwrap();
        assert_eq!(fs::read_to_string(out.join("link")).unwrap(), "a".repeat(1000));
        assert_eq!(fs::metadata(out.join("sub/a")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::metadata(out.join("sub/b")).unwrap().permissions().mode() & 0o111, 0);
        unpack(&packed[0][..], &out).unwrap();
    }

    #[test]
    fn a_file_alone_is_packed_by_its_name() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("app"), "x").unwrap();
        let mut packed = Vec::new();
        pack(&root.path().join("app"), &mut packed).unwrap();
        unpack(&packed[..], &root.path().join("out")).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("out/app")).unwrap(), "x");
    }

    #[test]
    fn what_points_outside_is_not_packed() {
        let root = tempfile::tempdir().unwrap();
        symlink("/etc/passwd", root.path().join("link")).unwrap();
        let error = pack(root.path(), Vec::new()).unwrap_err();
        assert!(error.to_string().contains("is a link out of the directory"), "{error}");
    }

    #[test]
    fn unsafe_archives_are_refused_and_nothing_is_written_outside() {
        use EntryType::{Char, Directory, Link, Regular, Symlink};
        type Entry = (&'static str, EntryType, &'static str);
        let cases: &[(&str, &[Entry])] = &[
            ("lies outside", &[("../evil", Regular, "x")]),
            ("lies outside", &[("/tmp/segue-evil", Regular, "x")]),
            ("lies outside", &[("a/../../evil", Regular, "x")]),
            ("link out of", &[("l", Symlink, "/etc")]),
            ("link out of", &[("a/l", Symlink, "../../x")]),
            ("neither", &[("hard", Link, "/etc/passwd")]),
            ("neither", &[("dev", Char, "")]),
            ("can't be made", &[("p", Symlink, "."), ("p/p/p/q", Symlink, "../../..")]),
            ("can't be made", &[("d", Directory, ""), ("l", Symlink, "d"), ("l/evil", Regular, "x")]),
        ];
        for (expected, entries) in cases {
            let root = tempfile::tempdir().unwrap();
            let inside = root.path().join("inside");
            let error = unpack(&archive_of(entries)[..], &inside).unwrap_err().to_string();
            assert!(error.contains(expected), "{entries:?}: {error}");
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "{entries:?}");
        }
    }
}
