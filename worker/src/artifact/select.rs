//! Which files paths and patterns name, as GitHub's upload-artifact has it
//! (<https://github.com/actions/upload-artifact#upload-using-multiple-paths-and-exclusions>): a path that names a directory
//! stands for all in it; `*`, `?`, `[...]` and `**` are patterns; `!` takes out again, in order. Paths within the archive are
//! relative to what all of them have in common. Links are packed as links and never followed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use globset::{GlobBuilder, GlobMatcher};

/// The most files and directories that are looked at, and that an archive holds.
const MAX_ENTRIES: usize = 500_000;
/// Directories deeper than this are an error.
const MAX_DEPTH: usize = 200;

/// A file, link or directory to pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// Where it lies.
    pub path: PathBuf,
    /// Its path within the archive.
    pub inside: PathBuf,
}

struct Pattern {
    text: String,
    takes_out: bool,
    matcher: GlobMatcher,
    below: GlobMatcher,
    /// The path before its first component with a wildcard.
    base: PathBuf,
}

/// What the patterns name below `root`, sorted by path; directories only where they are empty. `whole_paths`: paths within
/// the archive are relative to `root`.
///
/// # Errors
/// A pattern that is none, a path that leads out of `root`, a directory that can't be read, too many files.
pub fn select(root: &Path, patterns: &[String], whole_paths: bool) -> io::Result<Vec<Selected>> {
    let patterns = patterns
        .iter()
        .map(|text| text.trim())
        .filter(|text| !text.is_empty())
        .map(Pattern::parse)
        .collect::<Result<Vec<_>, _>>()
        .map_err(io::Error::other)?;
    let mut bases: Vec<&Path> = patterns.iter().filter(|one| !one.takes_out).map(|one| one.base.as_path()).collect();
    bases.sort_unstable();
    bases.dedup();
    let mut walk = Walk { root, patterns: &patterns, looked_at: 0, found: Vec::new() };
    for base in outermost(&bases) {
        if leads_through_link(root, base) {
            return Err(io::Error::other(format!(
                "{}: a link stands in its way; write the path that it leads to",
                base.display()
            )));
        }
        match fs::symlink_metadata(root.join(base)) {
            Ok(_) => walk.visit(base, 0)?,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(at(base, &error)),
        }
    }
    let mut found = walk.found;
    found.sort_unstable();
    found.dedup();
    let common = if whole_paths { PathBuf::new() } else { common_folder(&bases, &found) };
    Ok(found
        .into_iter()
        .map(|path| Selected { path: root.join(&path), inside: path.strip_prefix(&common).unwrap_or(&path).to_owned() })
        .collect())
}

struct Walk<'a> {
    root: &'a Path,
    patterns: &'a [Pattern],
    looked_at: usize,
    found: Vec<PathBuf>,
}

impl Walk<'_> {
    fn visit(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        self.looked_at += 1;
        if self.looked_at > MAX_ENTRIES || depth > MAX_DEPTH {
            let message =
                format!("more than {MAX_ENTRIES} files, or {MAX_DEPTH} directories within each other; name less");
            return Err(io::Error::other(message));
        }
        let kind = fs::symlink_metadata(self.root.join(path)).map_err(|error| at(path, &error))?.file_type();
        if !kind.is_dir() {
            if self.is_taken(path) {
                self.found.push(path.to_owned());
            }
            return Ok(());
        }
        let mut is_empty = true;
        for entry in fs::read_dir(self.root.join(path)).map_err(|error| at(path, &error))? {
            is_empty = false;
            self.visit(&path.join(entry.map_err(|error| at(path, &error))?.file_name()), depth + 1)?;
        }
        if is_empty && !path.as_os_str().is_empty() && self.is_taken(path) {
            self.found.push(path.to_owned());
        }
        Ok(())
    }

    /// The last pattern that matches decides.
    fn is_taken(&self, path: &Path) -> bool {
        self.patterns.iter().rev().find(|pattern| pattern.matches(path)).is_some_and(|pattern| !pattern.takes_out)
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let (takes_out, plain) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest.trim_start()));
        let mut parts = Vec::new();
        for part in plain.split('/') {
            match part {
                "" | "." => {}
                ".." => return Err(format!("`{text}` leads out of the workspace; write a path within, without `..`")),
                part => parts.push(part),
            }
        }
        if plain.starts_with('/') {
            return Err(format!("`{text}` is not within the workspace; write a path relative to it"));
        }
        let base = parts.iter().take_while(|part| !part.contains(['*', '?', '[', '{', '\\'])).collect();
        let joined = parts.join("/");
        let matcher = |glob: &str| {
            let built = GlobBuilder::new(glob).literal_separator(true).backslash_escape(true).build();
            built
                .map(|glob| glob.compile_matcher())
                .map_err(|error| format!("`{text}` is no pattern: {}", error.kind()))
        };
        let below = if joined.is_empty() { "**".to_owned() } else { format!("{joined}/**") };
        Ok(Self { text: joined.clone(), takes_out, matcher: matcher(&joined)?, below: matcher(&below)?, base })
    }

    fn matches(&self, path: &Path) -> bool {
        path == Path::new(&self.text) || self.matcher.is_match(path) || self.below.is_match(path)
    }
}

/// Those of sorted paths that lie below none of the others.
fn outermost<'p>(sorted: &[&'p Path]) -> Vec<&'p Path> {
    let mut outer: Vec<&Path> = Vec::new();
    for path in sorted {
        if !outer.iter().any(|known| path.starts_with(known)) {
            outer.push(path);
        }
    }
    outer
}

/// What all paths have in common; the folder of a file that is named alone.
fn common_folder(bases: &[&Path], found: &[PathBuf]) -> PathBuf {
    let Some((first, rest)) = bases.split_first() else { return PathBuf::new() };
    let mut common = first.to_path_buf();
    for base in rest {
        while !base.starts_with(&common) {
            common.pop();
        }
    }
    if found.contains(&common) {
        common.pop();
    }
    common
}

fn leads_through_link(root: &Path, path: &Path) -> bool {
    path.ancestors().skip(1).any(|above| fs::symlink_metadata(root.join(above)).is_ok_and(|m| m.is_symlink()))
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in ["dist/app", "dist/lib/a.so", "dist/lib/b.txt", "reports/x.xml", "reports/deep/y.xml", "README"] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        fs::create_dir(root.path().join("dist/empty")).unwrap();
        symlink("/etc", root.path().join("etc")).unwrap();
        symlink("dist", root.path().join("current")).unwrap();
        root
    }

    fn inside(patterns: &[&str], whole: bool) -> Result<Vec<String>, String> {
        let root = tree();
        let patterns: Vec<String> = patterns.iter().map(|text| (*text).to_owned()).collect();
        let found = select(root.path(), &patterns, whole).map_err(|error| error.to_string())?;
        Ok(found.into_iter().map(|one| one.inside.display().to_string()).collect())
    }

    #[test]
    fn paths_and_patterns_name_files() {
        let cases: &[(&[&str], &[&str])] = &[
            (&["dist"], &["app", "empty", "lib/a.so", "lib/b.txt"]),
            (&["dist/"], &["app", "empty", "lib/a.so", "lib/b.txt"]),
            (&["./dist/app"], &["app"]),
            (&["dist/**/*.so"], &["lib/a.so"]),
            (&["dist/*"], &["app", "empty", "lib/a.so", "lib/b.txt"]),
            (&["dist", "!dist/lib"], &["app", "empty"]),
            (&["dist", "!**/*.txt"], &["app", "empty", "lib/a.so"]),
            (&["dist", "!dist/lib", "dist/lib/b.txt"], &["app", "empty", "lib/b.txt"]),
            (&["dist/app", "reports/**/*.xml"], &["dist/app", "reports/deep/y.xml", "reports/x.xml"]),
            (&["dist/app", "dist/lib/a.so"], &["app", "lib/a.so"]),
            (&["nothing", "no/such/*"], &[]),
            (&["README", "README"], &["README"]),
            (&["etc"], &["etc"]),
            (&["*.{md,xml}"], &[]),
        ];
        for (patterns, expected) in cases {
            assert_eq!(inside(patterns, false).unwrap(), *expected, "{patterns:?}");
        }
        assert_eq!(inside(&["dist/lib"], true).unwrap(), ["dist/lib/a.so", "dist/lib/b.txt"]);
        assert_eq!(inside(&["."], false).unwrap().len(), 9);
    }

    #[test]
    fn nothing_outside_is_reached() {
        for (pattern, expected) in [
            ("../x", "without `..`"),
            ("a/../../x", "without `..`"),
            ("/etc/passwd", "not within the workspace"),
            ("etc/passwd", "a link stands in its way"),
            ("current/lib", "a link stands in its way"),
            ("[a", "is no pattern"),
        ] {
            let error = inside(&[pattern], false).unwrap_err();
            assert!(error.contains(expected), "{pattern}: {error}");
        }
        assert_eq!(inside(&["etc/*"], false).unwrap(), [""; 0], "a link is not walked through");
    }
}
