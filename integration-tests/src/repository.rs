//! A real git repository: a bare one that is pushed to, and a clone to work in.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// A bare repository with a working copy.
pub struct Repository {
    /// `owner/name`.
    pub name: String,
    bare: PathBuf,
    work: PathBuf,
}

/// What a push changed.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// `refs/heads/main`.
    pub git_ref: String,
    /// The commit before; zeros for a new ref.
    pub before: String,
    /// The commit after.
    pub after: String,
    /// The head commit's message.
    pub message: String,
}

/// GitHub's "no commit".
pub const ZERO: &str = "0000000000000000000000000000000000000000";

impl Repository {
    /// Makes both below `folder`.
    ///
    /// # Errors
    /// git is missing or refuses.
    pub fn create(folder: &Path, name: &str) -> Result<Self> {
        let (bare, work) = (folder.join("bare.git"), folder.join("work"));
        fs::create_dir_all(folder)?;
        run(folder, &["init", "--quiet", "--bare", "--initial-branch=main", &bare.display().to_string()])?;
        run(folder, &["clone", "--quiet", &bare.display().to_string(), &work.display().to_string()])?;
        run(&work, &["checkout", "--quiet", "-B", "main"])?;
        Ok(Self { name: name.to_owned(), bare, work })
    }

    /// The bare repository, which stands for GitHub's.
    #[must_use]
    pub fn bare(&self) -> &Path {
        &self.bare
    }

    /// The working copy.
    #[must_use]
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Writes files and commits them on the current branch; the commit.
    ///
    /// # Errors
    /// git refuses.
    pub fn commit(&self, message: &str, files: &[(&str, &str)]) -> Result<String> {
        for (path, text) in files {
            let file = self.work.join(path);
            fs::create_dir_all(file.parent().context("no parent")?)?;
            fs::write(file, text)?;
        }
        run(&self.work, &["add", "--all"])?;
        run(&self.work, &["commit", "--quiet", "--allow-empty", "--message", message])?;
        self.head()
    }

    /// Makes or moves to a branch.
    ///
    /// # Errors
    /// git refuses.
    pub fn branch(&self, name: &str) -> Result<()> {
        run(&self.work, &["checkout", "--quiet", "-B", name]).map(drop)
    }

    /// The current commit.
    ///
    /// # Errors
    /// There is none.
    pub fn head(&self) -> Result<String> {
        run(&self.work, &["rev-parse", "HEAD"])
    }

    /// Pushes a branch to the bare repository.
    ///
    /// # Errors
    /// git refuses.
    pub fn push(&self, branch: &str) -> Result<Pushed> {
        let git_ref = format!("refs/heads/{branch}");
        let before = run(&self.bare, &["rev-parse", "--verify", "--quiet", &git_ref]).unwrap_or_else(|_| ZERO.into());
        run(&self.work, &["push", "--quiet", "--force", "origin", &format!("HEAD:{git_ref}")])?;
        let message = run(&self.work, &["log", "-1", "--format=%B"])?;
        Ok(Pushed { git_ref, before, after: self.head()?, message })
    }

    /// The tags of the bare repository.
    ///
    /// # Errors
    /// git refuses.
    pub fn tags(&self) -> Result<Vec<String>> {
        Ok(run(&self.bare, &["tag", "--list"])?.lines().map(str::to_owned).collect())
    }
}

fn run(folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .args(["-c", "user.name=A User", "-c", "user.email=user@example.com", "-c", "init.defaultBranch=main"])
        .args(["-c", "commit.gpgsign=false", "-c", "safe.directory=*"])
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .context("cannot run git; install it with `apt-get install git`")?;
    ensure!(
        output.status.success(),
        "`git {}` failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
