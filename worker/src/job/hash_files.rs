//! `hashFiles(pattern, ...)` of expressions: one digest over the files of the workspace that match.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::libc;
use segue_pipelines::filter::Patterns;
use sha2::{Digest as _, Sha256};

/// Files and directories that are looked at.
const MAX_ENTRIES: usize = 200_000;
/// Bytes that are read, over all files.
const MAX_BYTES: u64 = 512 * 1024 * 1024;

/// The hexadecimal SHA-256 over the SHA-256 of each file below `root` that matches, in the order of their paths; empty where
/// none does. Patterns are those of `paths` filters, from `root`, in order, with `!` to leave out; one that names a directory
/// stands for all in it. Links are not followed.
///
/// # Errors
/// What cannot be read, or a pattern that is none, in words.
pub fn hash_files(root: &Path, patterns: &[String]) -> Result<String, String> {
    let patterns: Vec<String> = patterns.iter().map(|pattern| relative(root, pattern)).collect();
    let patterns = Patterns::parse(&patterns).map_err(|(index, error)| format!("`{}`: {error}", patterns[index]))?;
    let mut names = files(root).map_err(|error| error.to_string())?;
    names.retain(|name| is_in(name, &patterns));
    if names.is_empty() {
        return Ok(String::new());
    }
    names.sort_unstable();
    let mut all = Sha256::new();
    let mut left = MAX_BYTES;
    for name in &names {
        let (digest, bytes) = hash_file(&root.join(name), left).map_err(|error| format!("{name}: {error}"))?;
        left -= bytes;
        all.update(digest);
    }
    Ok(hex::encode(all.finalize()))
}

/// A pattern as it is seen from `root`: `./x` and `<root>/x` are `x`.
fn relative(root: &Path, pattern: &str) -> String {
    let (sign, body) = match pattern.strip_prefix('!') {
        Some(body) => ("!", body),
        None => ("", pattern),
    };
    let body = root.to_str().and_then(|root| body.strip_prefix(root)?.strip_prefix('/')).unwrap_or(body);
    format!("{sign}{}", body.trim_start_matches("./").trim_end_matches('/'))
}

/// Whether the file, or a directory that it lies in, matches, and no later `!` leaves the file out.
fn is_in(name: &str, patterns: &Patterns) -> bool {
    let left_out = patterns.deciding_text(name).is_some_and(|text| text.starts_with('!'));
    let around = name.match_indices('/').map(|(slash, _)| &name[..slash]);
    !left_out && around.chain([name]).any(|path| patterns.matches(path))
}

/// The names of all files below `root`, from there; names that are no UTF-8 cannot be matched and are left out.
fn files(root: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut entries = 0;
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(io::Error::other(format!("the workspace holds more than {MAX_ENTRIES} files")));
            }
            let (kind, path) = (entry.file_type()?, folder.join(entry.file_name()));
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                names.extend(path.to_str().map(String::from));
            }
        }
    }
    Ok(names)
}

fn hash_file(path: &Path, max_bytes: u64) -> io::Result<([u8; 32], u64)> {
    // a file that has become a link or a pipe meanwhile is neither followed nor waited for
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file any more"));
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((hash.finalize().into(), total));
        }
        total += read as u64;
        if total > max_bytes {
            return Err(io::Error::other(format!("the files hold more than {} MiB", MAX_BYTES / 1024 / 1024)));
        }
        hash.update(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_digest_follows_the_files_that_match() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for (name, text) in
            [("Cargo.lock", "a"), ("app/Cargo.lock", "b"), ("app/src/main.rs", "c"), ("vendor/x.lock", "d")]
        {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        symlink("/etc/passwd", root.join("link.lock")).unwrap();
        symlink("/", root.join("outside")).unwrap();
        let hash = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
            hash_files(root, &patterns)
        };
        // printf a | sha256sum | xxd -r -p | sha256sum
        let only_a = "bf5d3affb73efd2ec6c36ad3112dd933efed63c4e1cbffcfa88e2759c144f2d8";
        assert_eq!(hash(&["Cargo.lock"]).unwrap(), only_a);
        assert_eq!(hash(&["./Cargo.lock"]).unwrap(), only_a);
        assert_eq!(hash(&[&format!("{}/Cargo.lock", root.display())]).unwrap(), only_a);
        assert_eq!(hash(&["*.lock"]).unwrap(), only_a, "a link counts as no file");
        assert_ne!(hash(&["**/Cargo.lock"]).unwrap(), only_a);
        assert_eq!(hash(&["**/*.lock", "!vendor/**"]).unwrap(), hash(&["**/Cargo.lock"]).unwrap());
        assert_eq!(hash(&["app"]).unwrap(), hash(&["app/**"]).unwrap());
        assert_eq!(hash(&["nothing", "outside/**"]).unwrap(), "");
        assert!(hash(&["[a"]).unwrap_err().contains("`[a`"));
        let before = hash(&["app"]).unwrap();
        fs::write(root.join("app/src/main.rs"), "changed").unwrap();
        assert_ne!(hash(&["app"]).unwrap(), before);
    }
}
