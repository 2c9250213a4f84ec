//! What the tests of several modules stand on: a real git repository to fetch from. Not in the product.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use segue_schemas::id::CommitSha;

use crate::mirror::Source;

/// A bare repository, as a git server has it, and a working copy that pushes to it.
pub struct Upstream {
    bare: PathBuf,
    work: PathBuf,
}

impl Upstream {
    /// Makes both in a folder.
    pub fn new(folder: &Path) -> Self {
        let upstream = Self { bare: folder.join("upstream.git"), work: folder.join("work") };
        git(folder, &["init", "-q", "--bare", "-b", "main", "upstream.git"]);
        git(folder, &["init", "-q", "-b", "main", "work"]);
        upstream
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.bare
    }

    /// Where it is, as an address.
    pub fn source(&self) -> Source {
        Source::parse(self.bare.to_str().unwrap()).unwrap()
    }

    /// Writes files, commits them on top of whatever was committed last, and pushes that to a branch.
    pub fn commit(&self, branch: &str, files: &[(&str, &str)]) -> CommitSha {
        for (path, text) in files {
            let path = self.work.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        git(&self.work, &["add", "-A"]);
        git(&self.work, &["commit", "-q", "--allow-empty", "-m", &format!("Change {} files", files.len())]);
        let bare = self.bare.to_str().unwrap();
        git(&self.work, &["push", "-q", "--force", bare, &format!("HEAD:refs/heads/{branch}")]);
        git(&self.work, &["rev-parse", "HEAD"]).trim().parse().unwrap()
    }
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(folder)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs([("GIT_AUTHOR_NAME", "Ada"), ("GIT_AUTHOR_EMAIL", "ada@example.com")])
        .envs([("GIT_COMMITTER_NAME", "Ada"), ("GIT_COMMITTER_EMAIL", "ada@example.com")])
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
