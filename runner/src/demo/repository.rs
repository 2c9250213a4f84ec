//! The sample repository: a bare one that stands for the one at GitHub, a clone of it to work in, commits and pushes by
//! real git.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use segue_schemas::id::CommitSha;
use tokio::process::Command;

use crate::cli::ending::{Explain as _, Failure};

/// Its name at "GitHub".
pub const NAME: &str = "acme/greeter";
/// The branch that is pushed to.
pub const GIT_REF: &str = "refs/heads/main";

/// Path, content, and whether it is a program.
const FILES: &[(&str, &str, bool)] = &[
    ("README.md", include_str!("sample/README.md"), false),
    ("ask.sh", include_str!("sample/ask.sh"), false),
    ("test.sh", include_str!("sample/test.sh"), true),
    ("build.sh", include_str!("sample/build.sh"), true),
    ("integration-test.sh", include_str!("sample/integration-test.sh"), true),
    (".segue/pipelines/deploy.yml", include_str!("sample/.segue/pipelines/deploy.yml"), false),
    (".segue/services/greeter.yml", include_str!("sample/.segue/services/greeter.yml"), false),
];

/// What is committed and pushed.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// What the service calls itself from then on.
    pub version: &'static str,
    /// The share of production's requests that it will fail.
    pub fails_in_production: f64,
    /// The commit's message.
    pub message: &'static str,
}

/// What a push did, as GitHub's webhook tells it.
#[derive(Debug, Clone)]
pub struct Push {
    /// The branch's commit before; zeros for a new branch.
    pub before: CommitSha,
    /// Its commit now.
    pub after: CommitSha,
    /// The commit's message.
    pub message: &'static str,
}

/// The repository that is pushed to.
pub fn bare(dir: &Path) -> PathBuf {
    dir.join("origin.git")
}

/// The two repositories.
#[derive(Debug)]
pub struct Repository {
    bare: PathBuf,
    clone: PathBuf,
    head: CommitSha,
}

impl Repository {
    /// Makes the bare repository and its clone in `dir`.
    ///
    /// # Errors
    /// git is missing or refuses.
    pub async fn create(dir: &Path) -> Result<Self, Failure> {
        let (bare, clone) = (bare(dir), dir.join("clone"));
        let zeros = "0".repeat(40).parse().explain("a commit of zeros")?;
        let repository = Self { bare, clone, head: zeros };
        git(dir, &["init", "--quiet", "--bare", "--initial-branch=main", "origin.git"]).await?;
        git(dir, &["init", "--quiet", "--initial-branch=main", "clone"]).await?;
        repository.run(&["remote", "add", "origin", &repository.bare.to_string_lossy()]).await?;
        for (path, content, is_program) in FILES {
            let file = repository.clone.join(path);
            write(&file, content)?;
            if *is_program {
                fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
                    .explain(format_args!("cannot make {} a program", file.display()))?;
            }
        }
        Ok(repository)
    }

    /// Where it is cloned from.
    pub fn clone_url(&self) -> &Path {
        &self.bare
    }

    /// Commits a change and pushes it.
    ///
    /// # Errors
    /// git refuses.
    pub async fn push(&mut self, change: Change) -> Result<Push, Failure> {
        let mut service = format!("version: {}\nlatency: 20ms\n", change.version);
        if change.fails_in_production > 0.0 {
            service.push_str(&format!("fail-share:\n  production: {}\n", change.fails_in_production));
        }
        write(&self.clone.join("service.yml"), &service)?;
        self.run(&["add", "--all"]).await?;
        self.run(&["commit", "--quiet", "--message", change.message]).await?;
        self.run(&["push", "--quiet", "origin", "main"]).await?;
        let after: CommitSha = self.run(&["rev-parse", "HEAD"]).await?.trim().parse().explain("git rev-parse")?;
        let before = std::mem::replace(&mut self.head, after.clone());
        Ok(Push { before, after, message: change.message })
    }

    async fn run(&self, args: &[&str]) -> Result<String, Failure> {
        git(&self.clone, args).await
    }
}

fn write(file: &Path, content: &str) -> Result<(), Failure> {
    let made = file.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(file, content));
    made.explain(format_args!("cannot write {}", file.display()))
}

/// Runs git untouched by the user's own settings.
async fn git(dir: &Path, args: &[&str]) -> Result<String, Failure> {
    let output = Command::new("git")
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "commit.gpgsign=false"])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .map_err(|error| {
            Failure::new(format_args!("cannot run git: {error}")).remedy("install git (apt-get install git)")
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::new(format_args!("git {} failed: {said}", args.join(" "))))
}

#[cfg(test)]
mod tests {
    use segue_pipelines::{pipeline, service};

    use super::*;

    #[test]
    fn the_sample_is_as_segue_would_have_it() {
        let text = |path: &str| FILES.iter().find(|file| file.0 == path).expect("the file is there").1;
        let path = ".segue/pipelines/deploy.yml";
        assert!(pipeline::parse(path, text(path)).diagnostics.is_empty());
        let path = ".segue/services/greeter.yml";
        service::parse(path, text(path)).unwrap();
    }

    #[tokio::test]
    async fn pushes_are_commits_on_top_of_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut repository = Repository::create(dir.path()).await.unwrap();
        let change = Change { version: "1", fails_in_production: 0.0, message: "one" };
        let first = repository.push(change).await.unwrap();
        assert!(first.before.is_zero());
        let second = repository.push(Change { version: "2", fails_in_production: 0.2, ..change }).await.unwrap();
        assert_eq!(second.before, first.after);
        let pushed = git(repository.clone_url(), &["rev-parse", "main"]).await.unwrap();
        assert_eq!(pushed.trim(), second.after.as_str());
        let service = git(repository.clone_url(), &["show", "main:service.yml"]).await.unwrap();
        assert!(service.contains("production: 0.2"), "{service}");
    }
}
