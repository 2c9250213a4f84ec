//! The context of an image's build: the files of a directory that `.dockerignore` does not leave out, as a plain tar.
//!
//! The same commit gives the same bytes: entries are sorted, nobody owns them, and all times are the commit's.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read as _, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use segue_pipelines::image::{Ignore, Standing};
use serde::{Deserialize, Serialize};
use tar::{Builder, EntryType, Header};

use super::{at, pack::Exactly};

const BUFFER: usize = 256 * 1024;
/// The most bytes of a `.dockerignore`.
const MAX_IGNORE: u64 = 1024 * 1024;
/// The most files and directories of a context.
const MAX_ENTRIES: u64 = 500_000;
/// Directories deeper than this are an error.
const MAX_DEPTH: usize = 200;
const IGNORE: &str = ".dockerignore";

/// What the build of an image sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// The directory, from that of the task.
    pub directory: String,
    /// The Dockerfile within it, which is always sent.
    pub dockerfile: String,
    /// The file that is sent as the Dockerfile, from the task's directory, where it lies beside the context.
    pub from_beside: Option<String>,
    /// The time of every file, in seconds since 1970.
    pub time: u64,
}

/// Packs it; what to tell of it.
///
/// # Errors
/// What is not there, leads out of the task's directory, or can't be read.
pub(super) fn pack(root: &Path, context: &Context, archive: File) -> io::Result<String> {
    let root = root.canonicalize()?;
    let wrong = |path: &str, reason: &str| io::Error::other(format!("{path}: {reason}"));
    let directory = inside(&root, &context.directory)?;
    if !directory.is_dir() {
        return Err(wrong(&context.directory, "the context is no directory; `context` names one of the workspace"));
    }
    let (ignore, named) = ignore(&root, &directory, context)?;
    let mut packer = Packer {
        tar: Builder::new(BufWriter::with_capacity(BUFFER, archive)),
        ignore,
        time: context.time,
        pending: Vec::new(),
        files: 0,
        bytes: 0,
        entries: 0,
        left_out: 0,
        unfit: Vec::new(),
        has_dockerfile: false,
        dockerfile: PathBuf::from(&context.dockerfile),
    };
    if let Some(beside) = &context.from_beside {
        let path = inside(&root, beside)?;
        packer.entry(&path, Path::new(&context.dockerfile))?;
    }
    packer.directory(&directory, Path::new(""), &Standing::default(), 0)?;
    if !packer.has_dockerfile {
        return Err(wrong(
            &context.dockerfile,
            "the context has no such Dockerfile; `file` names it, from the workspace",
        ));
    }
    let told = packer.told(&context.directory, named.as_deref());
    packer.tar.into_inner()?.flush()?;
    Ok(told)
}

/// Where a path of the workspace really is, which must be in it.
fn inside(root: &Path, path: &str) -> io::Result<PathBuf> {
    let place = root.join(path).canonicalize().map_err(|error| at(Path::new(path), &error))?;
    if !place.starts_with(root) {
        return Err(io::Error::other(format!("{path}: it leads out of the workspace, to {}", place.display())));
    }
    Ok(place)
}

/// What is left out, and which file says it: one beside the Dockerfile that bears its name comes first.
fn ignore(root: &Path, directory: &Path, context: &Context) -> io::Result<(Ignore, Option<String>)> {
    let own = match &context.from_beside {
        Some(beside) => root.join(format!("{beside}{IGNORE}")),
        None => directory.join(format!("{}{IGNORE}", context.dockerfile)),
    };
    for path in [own, directory.join(IGNORE)] {
        let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        if fs::symlink_metadata(&path).is_err() {
            continue;
        }
        let file = File::open(inside(root, &shown)?).map_err(|error| at(&path, &error))?;
        let mut text = String::new();
        file.take(MAX_IGNORE + 1).read_to_string(&mut text).map_err(|error| at(Path::new(&shown), &error))?;
        if text.len() as u64 > MAX_IGNORE {
            return Err(io::Error::other(format!("{shown}: it is larger than {MAX_IGNORE} bytes")));
        }
        let mut ignore = Ignore::parse(&text).map_err(|error| io::Error::other(format!("{shown}: {error}")))?;
        ignore.always_send(&context.dockerfile);
        return Ok((ignore, Some(shown)));
    }
    Ok((Ignore::default(), None))
}

struct Packer {
    tar: Builder<BufWriter<File>>,
    ignore: Ignore,
    time: u64,
    /// Directories that are left out, with something in them that may not be: each is sent before that.
    pending: Vec<(PathBuf, PathBuf)>,
    files: u64,
    bytes: u64,
    entries: u64,
    left_out: u64,
    unfit: Vec<String>,
    has_dockerfile: bool,
    dockerfile: PathBuf,
}

impl Packer {
    fn directory(&mut self, directory: &Path, within: &Path, above: &Standing, depth: usize) -> io::Result<()> {
        let failed = |error: io::Error| at(within, &error);
        if depth > MAX_DEPTH {
            return Err(io::Error::other(format!("{}: it is deeper than {MAX_DEPTH} directories", within.display())));
        }
        let mut names: Vec<OsString> = fs::read_dir(directory)
            .map_err(failed)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()
            .map_err(failed)?;
        names.sort_unstable();
        for name in names {
            let (path, within) = (directory.join(&name), within.join(&name));
            let shown = within.to_string_lossy();
            let (is_out, standing) = self.ignore.look(&shown, above);
            let is_directory = fs::symlink_metadata(&path).map_err(failed)?.is_dir();
            self.left_out += u64::from(is_out);
            if !is_out {
                self.entry(&path, &within)?;
            }
            if is_directory && (!is_out || self.ignore.may_hold_exceptions(&shown)) {
                if is_out {
                    self.pending.push((path.clone(), within.clone()));
                }
                self.directory(&path, &within, &standing, depth + 1)?;
                if is_out && self.pending.last().is_some_and(|(_, last)| *last == within) {
                    self.pending.pop();
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, within: &Path) -> io::Result<()> {
        for (path, within) in std::mem::take(&mut self.pending) {
            self.append(&path, &within)?;
        }
        self.append(path, within)
    }

    fn append(&mut self, path: &Path, within: &Path) -> io::Result<()> {
        let failed = |error: io::Error| at(within, &error);
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            let text = format!(
                "the context has more than {MAX_ENTRIES} files; leave out what the build does not need in {IGNORE}"
            );
            return Err(io::Error::other(text));
        }
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        let kind = metadata.file_type();
        let mut header = Header::new_gnu();
        header.set_size(0);
        header.set_mtime(self.time);
        header.set_mode(metadata.mode() & 0o7777);
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.tar.append_data(&mut header, within, io::empty()).map_err(failed)?;
        } else if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            self.tar.append_link(&mut header, within, fs::read_link(path).map_err(failed)?).map_err(failed)?;
            self.files += 1;
        } else if kind.is_file() {
            let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path).map_err(failed)?;
            let length = file.metadata().map_err(failed)?.len();
            header.set_size(length);
            self.tar.append_data(&mut header, within, Exactly { file, left: length }).map_err(failed)?;
            self.files += 1;
            self.bytes += length;
        } else {
            let what = if kind.is_socket() { "a socket" } else { "no plain file" };
            if self.unfit.len() < 10 {
                self.unfit.push(format!("{} ({what})", within.display()));
            }
        }
        self.has_dockerfile |= !kind.is_dir() && within == self.dockerfile;
        Ok(())
    }

    fn told(&self, directory: &str, ignored_by: Option<&str>) -> String {
        let mut told = format!("Context `{directory}`: {} files, {} bytes", self.files, self.bytes);
        if let Some(file) = ignored_by {
            told.push_str(&format!("; {} files and directories are left out by {file}", self.left_out));
        }
        for unfit in &self.unfit {
            told.push_str(&format!("\n##[warning]{unfit} is left out of the context"));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn packed(root: &Path, context: &Context) -> io::Result<(Vec<String>, Vec<u8>, String)> {
        let file = tempfile::NamedTempFile::new()?;
        let told = pack(root, context, file.reopen()?)?;
        let bytes = fs::read(file.path())?;
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names =
            archive.entries()?.map(|entry| Ok(entry?.path()?.display().to_string())).collect::<io::Result<_>>()?;
        Ok((names, bytes, told))
    }

    fn context(directory: &str) -> Context {
        Context { directory: directory.into(), dockerfile: "Dockerfile".into(), from_beside: None, time: 1_000_000 }
    }

    #[test]
    fn what_is_sent_hangs_on_the_files_alone() {
        let root = tempfile::tempdir().unwrap();
        let app = root.path().join("app");
        fs::create_dir_all(app.join("out/deep")).unwrap();
        fs::create_dir_all(app.join("src")).unwrap();
        for (name, text) in [
            ("Dockerfile", "FROM scratch"),
            (".dockerignore", "out\n!out/deep/kept\n*.log\nDockerfile\n"),
            ("src/a", "a"),
            ("x.log", ""),
            ("out/gone", ""),
            ("out/deep/kept", "k"),
            ("out/deep/lost", ""),
        ] {
            fs::write(app.join(name), text).unwrap();
        }
        symlink("/etc/passwd", app.join("link")).unwrap();
        let (names, bytes, told) = packed(root.path(), &context("app")).unwrap();
        let expected = [".dockerignore", "Dockerfile", "link", "out/", "out/deep/", "out/deep/kept", "src/", "src/a"];
        assert_eq!(
            names.iter().map(|name| name.trim_end_matches('/')).collect::<Vec<_>>(),
            expected.map(|name| name.trim_end_matches('/'))
        );
        assert!(told.contains("5 files") && told.contains("left out by app/.dockerignore"), "{told}");
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(app.join("src/a"), "a").unwrap();
        assert_eq!(packed(root.path(), &context("app")).unwrap().1, bytes, "the same files, at another time");
    }

    #[test]
    fn nothing_outside_of_the_workspace_is_a_context() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("Dockerfile"), "FROM scratch").unwrap();
        let root = tempfile::tempdir().unwrap();
        symlink(outside.path(), root.path().join("link")).unwrap();
        let error = packed(root.path(), &context("link")).unwrap_err().to_string();
        assert!(error.contains("leads out of the workspace"), "{error}");
        fs::create_dir(root.path().join("app")).unwrap();
        fs::write(root.path().join("app/Dockerfile"), "FROM scratch").unwrap();
        symlink("/etc/hostname", root.path().join("app/.dockerignore")).unwrap();
        let error = packed(root.path(), &context("app")).unwrap_err().to_string();
        assert!(error.contains("leads out of the workspace"), "{error}");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("app")).unwrap();
        let error = packed(root.path(), &context("app")).unwrap_err().to_string();
        assert!(error.contains("no such Dockerfile"), "{error}");
        fs::write(root.path().join("app/Dockerfile"), "FROM scratch").unwrap();
        fs::write(root.path().join("app/.dockerignore"), "a\n[").unwrap();
        let error = packed(root.path(), &context("app")).unwrap_err().to_string();
        assert!(error.contains("app/.dockerignore: line 2"), "{error}");
    }

    #[test]
    fn a_dockerfile_from_beside_comes_with_its_own_ignore_file() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("app")).unwrap();
        fs::write(root.path().join("app/a"), "").unwrap();
        fs::write(root.path().join("app/b"), "").unwrap();
        fs::write(root.path().join("File"), "FROM scratch").unwrap();
        fs::write(root.path().join("File.dockerignore"), "b").unwrap();
        let beside = Context { dockerfile: ".file".into(), from_beside: Some("File".into()), ..context("app") };
        assert_eq!(packed(root.path(), &beside).unwrap().0, [".file", "a"]);
    }
}
