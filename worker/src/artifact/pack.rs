//! Packing.
//!
//! The same files give the same bytes: entries are sorted by path, times and owners are zero, permissions are reduced to
//! "may be executed" (0755) or not (0644), and compression is single-threaded at one level. A cache keeps the times, because
//! build tools compare them.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

use tar::{Builder, EntryType, Header};

use super::{select::Selected, unpack::stays_inside};

/// zstd's own default: a good artifact is a fast one.
const LEVEL: i32 = 3;
const BUFFER: usize = 256 * 1024;

/// Why something could not be packed.
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
    /// The archive itself could not be written.
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
    let mut packer = Packer::new(archive, false)?;
    let kind = fs::metadata(path).map_err(|source| PackError::File { path: path.to_owned(), source })?.file_type();
    if kind.is_dir() {
        packer.append_directory(path, Path::new(""))?;
    } else {
        let name = path.file_name().ok_or_else(|| unfit(path, "it has no name"))?;
        packer.append(path, Path::new(name))?;
    }
    packer.finish().map(drop)
}

/// Packs what was selected, in the order of the paths.
///
/// # Errors
/// As [`pack`].
pub fn pack_selected(selected: &[Selected], archive: impl Write) -> Result<(), PackError> {
    let mut packer = Packer::new(archive, false)?;
    for one in selected {
        packer.append_alone(&one.path, &one.inside)?;
    }
    packer.finish().map(drop)
}

/// Packs what was selected as a cache: with times, and without what an archive can't hold (links out of the folder, sockets),
/// which is what this returns, the first few of it.
///
/// # Errors
/// As [`pack`].
pub fn pack_cache(selected: &[Selected], archive: impl Write) -> Result<Vec<String>, PackError> {
    let mut packer = Packer::new(archive, true)?;
    for one in selected {
        packer.append_alone(&one.path, &one.inside)?;
    }
    packer.finish()
}

struct Packer<W: Write> {
    tar: Builder<zstd::Encoder<'static, BufWriter<W>>>,
    /// Times are kept, and what is unfit is left out.
    cache: bool,
    left_out: Vec<String>,
}

/// How many of the things left out are named.
const NAMED: usize = 10;

impl<W: Write> Packer<W> {
    fn new(archive: W, cache: bool) -> Result<Self, PackError> {
        let compressed =
            zstd::Encoder::new(BufWriter::with_capacity(BUFFER, archive), LEVEL).map_err(PackError::Archive)?;
        Ok(Self { tar: Builder::new(compressed), cache, left_out: Vec::new() })
    }

    fn finish(self) -> Result<Vec<String>, PackError> {
        let compressed = self.tar.into_inner().map_err(PackError::Archive)?;
        compressed.finish().and_then(|mut archive| archive.flush()).map_err(PackError::Archive)?;
        Ok(self.left_out)
    }

    fn append_directory(&mut self, directory: &Path, inside: &Path) -> Result<(), PackError> {
        let at = |source| PackError::File { path: directory.to_owned(), source };
        let mut names: Vec<OsString> = fs::read_dir(directory)
            .map_err(at)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()
            .map_err(at)?;
        names.sort_unstable();
        for name in names {
            self.append(&directory.join(&name), &inside.join(&name))?;
        }
        Ok(())
    }

    fn append(&mut self, path: &Path, inside: &Path) -> Result<(), PackError> {
        if self.append_alone(path, inside)? { self.append_directory(path, inside) } else { Ok(()) }
    }

    /// One entry; whether it is a directory.
    fn append_alone(&mut self, path: &Path, inside: &Path) -> Result<bool, PackError> {
        let at = |source| PackError::File { path: path.to_owned(), source };
        let metadata = fs::symlink_metadata(path).map_err(at)?;
        let kind = metadata.file_type();
        let mut header = Header::new_gnu();
        header.set_size(0);
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            self.tar.append_data(&mut header, inside, io::empty()).map_err(at)?;
            return Ok(true);
        }
        if kind.is_symlink() {
            let link = fs::read_link(path).map_err(at)?;
            let depth = inside.components().filter(|part| matches!(part, Component::Normal(_))).count();
            if !stays_inside(&link, depth.saturating_sub(1)) {
                return self.leave_out(
                    path,
                    "is a link out of the directory that is packed, or with `..` after a name; copy what it points to instead",
                );
            }
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            self.tar.append_link(&mut header, inside, &link).map_err(at)?;
        } else if kind.is_file() {
            let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path).map_err(at)?;
            let metadata = file.metadata().map_err(at)?;
            header.set_entry_type(EntryType::Regular);
            header.set_mode(if metadata.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 });
            header.set_size(metadata.len());
            if self.cache {
                header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
            }
            self.tar.append_data(&mut header, inside, Exactly { file, left: metadata.len() }).map_err(at)?;
        } else {
            return self
                .leave_out(path, "is neither a file, a directory nor a symbolic link; remove it before packing");
        }
        Ok(false)
    }

    fn leave_out(&mut self, path: &Path, reason: &str) -> Result<bool, PackError> {
        if !self.cache {
            return Err(unfit(path, reason));
        }
        if self.left_out.len() < NAMED {
            self.left_out.push(path.display().to_string());
        }
        Ok(false)
    }
}

/// A file's content as long as it was when its header was written: one that grows meanwhile is cut there, one that
/// shrinks is an error.
pub(super) struct Exactly {
    pub file: File,
    pub left: u64,
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

fn unfit(path: &Path, reason: &str) -> PackError {
    PackError::Unfit { path: path.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::artifact::unpack::{UnpackRules, unpack};

    fn unpack_into(packed: &[u8], folder: &Path, keep_times: bool) {
        fs::create_dir_all(folder).unwrap();
        unpack(packed, folder, UnpackRules { replace: true, keep_times, ..UnpackRules::default() }).unwrap();
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
        unpack_into(&packed[0], &out, false);
        assert_eq!(fs::read_to_string(out.join("link")).unwrap(), "a".repeat(1000));
        assert_eq!(fs::metadata(out.join("sub/a")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::metadata(out.join("sub/b")).unwrap().permissions().mode() & 0o111, 0);
        unpack_into(&packed[0], &out, false);
    }

    #[test]
    fn a_file_alone_is_packed_by_its_name() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("app"), "x").unwrap();
        let mut packed = Vec::new();
        pack(&root.path().join("app"), &mut packed).unwrap();
        unpack_into(&packed, &root.path().join("out"), false);
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
    fn a_cache_keeps_times_and_leaves_out_what_it_cannot_hold() {
        let root = tempfile::tempdir().unwrap();
        let work = root.path().join("work");
        fs::create_dir(&work).unwrap();
        fs::write(work.join("built"), "x").unwrap();
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::options().write(true).open(work.join("built")).unwrap().set_modified(long_ago).unwrap();
        symlink("/etc/passwd", work.join("out")).unwrap();
        let selected: Vec<Selected> = ["built", "out"]
            .map(|name| Selected { path: work.join(name), inside: Path::new("work").join(name) })
            .into();
        let mut packed = Vec::new();
        let left_out = pack_cache(&selected, &mut packed).unwrap();
        assert_eq!(left_out, [work.join("out").display().to_string()]);
        let again = root.path().join("again");
        unpack_into(&packed, &again, true);
        assert_eq!(fs::metadata(again.join("work/built")).unwrap().modified().unwrap(), long_ago);
        assert!(!again.join("work/out").exists());
        assert!(pack_selected(&selected, Vec::new()).is_err());
    }

    #[test]
    fn a_link_that_leads_out_over_another_is_not_packed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        symlink("../..", root.path().join("a/b/s")).unwrap();
        symlink("a/b/s/../x", root.path().join("t")).unwrap();
        let error = pack(root.path(), Vec::new()).unwrap_err().to_string();
        assert!(error.contains("`..` after a name"), "{error}");
    }
}
