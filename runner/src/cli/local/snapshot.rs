//! The working tree as a commit: what lies in the folder now, also what is not committed, but for what git ignores. It is
//! made in a bare repository of its own, so that the person's repository is only read.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use segue_runner::mirror::RepositoryName;
use segue_schemas::id::CommitSha;

use crate::cli::ending::{Explain as _, Failure};

/// A working tree as a commit.
#[derive(Debug)]
pub struct Snapshot {
    /// The working tree's root.
    pub root: PathBuf,
    /// `owner/name`, as its remote says, else `local/<folder>`.
    pub repository: String,
    /// The bare repository that has it.
    pub bare: PathBuf,
    /// The commit; `HEAD` itself where nothing was changed.
    pub commit: CommitSha,
    /// `HEAD`, where there is a commit.
    pub head: Option<CommitSha>,
    /// The branch; `main` where there is none.
    pub branch: String,
}

impl Snapshot {
    /// Takes one of the working tree that `folder` is in, with what git needs for it in `bare`, which does not exist yet.
    ///
    /// # Errors
    /// git is missing or refuses.
    pub fn take(folder: &Path, bare: &Path) -> Result<Self, Failure> {
        let own = Git { arguments: vec!["-C".into(), folder.into()] };
        let root = own.ask(&["rev-parse", "--show-toplevel"])?.map(PathBuf::from);
        let is_repository = root.is_some();
        let root = root.unwrap_or_else(|| folder.to_owned());
        let new = Git { arguments: vec![flag("--git-dir", bare), flag("--work-tree", &root)] };
        Git { arguments: Vec::new() }.tell(&["init", "--quiet", "--bare", "--template="], Some(bare))?;
        if is_repository {
            borrow(&own, bare)?;
        }
        let question: &[&str] = &["rev-parse", "--quiet", "--verify", "HEAD^{commit}"];
        let head = if is_repository { own.ask(question)? } else { None };
        // all of it, wherever in it one stands
        new.tell(&["add", "--all", "--", ":/"], None)?;
        let tree = new.tell(&["write-tree"], None)?;
        let unchanged = match &head {
            Some(head) => new.ask(&["rev-parse", &format!("{head}^{{tree}}")])?.as_deref() == Some(&tree),
            None => false,
        };
        let commit = match &head {
            Some(head) if unchanged => head.clone(),
            Some(head) => new.tell(&["commit-tree", &tree, "-p", head, "-m", "the working tree"], None)?,
            None => new.tell(&["commit-tree", &tree, "-m", "the working tree"], None)?,
        };
        let branch = if is_repository { own.ask(&["symbolic-ref", "--quiet", "--short", "HEAD"])? } else { None };
        let branch = branch.unwrap_or_else(|| "main".into());
        new.tell(&["update-ref", &format!("refs/heads/{branch}"), &commit], None)?;
        let remote = if is_repository { own.ask(&["remote", "get-url", "origin"])? } else { None };
        let repository = remote.as_deref().and_then(name_in).unwrap_or_else(|| name_of(&root));
        let commit = parse(&commit)?;
        let head = head.as_deref().map(parse).transpose()?;
        Ok(Self { root, repository, bare: bare.to_owned(), commit, head, branch })
    }

    /// Gives the commit a second name.
    ///
    /// # Errors
    /// git refuses.
    pub fn name(&self, git_ref: &str, commit: &CommitSha) -> Result<(), Failure> {
        let git = Git { arguments: vec![flag("--git-dir", &self.bare)] };
        git.tell(&["update-ref", git_ref, commit.as_str()], None).map(drop)
    }
}

/// Lets the new repository read the person's objects, and begin with the person's index, so that only what has changed is
/// read.
fn borrow(own: &Git, bare: &Path) -> Result<(), Failure> {
    let place = |name: &str| {
        let place = own.ask(&["rev-parse", "--path-format=absolute", "--git-path", name])?;
        place.map(PathBuf::from).ok_or_else(|| Failure::new(format_args!("git does not say where its {name} is")))
    };
    let doing = format!("cannot write to {}", bare.display());
    let mut alternates = place("objects")?.into_os_string();
    alternates.push("\n");
    fs::create_dir_all(bare.join("objects/info")).explain(&doing)?;
    fs::write(bare.join("objects/info/alternates"), alternates.as_bytes()).explain(&doing)?;
    fs::create_dir_all(bare.join("info")).explain(&doing)?;
    for name in ["index", "shallow", "info/exclude"] {
        let from = place(name)?;
        if from.is_file() {
            fs::copy(&from, bare.join(name)).explain(&doing)?;
        }
    }
    Ok(())
}

/// A git with its first arguments.
struct Git {
    arguments: Vec<std::ffi::OsString>,
}

impl Git {
    /// What it says to a question that may have no answer.
    fn ask(&self, arguments: &[&str]) -> Result<Option<String>, Failure> {
        let output = self.command(arguments, None).stderr(Stdio::null()).output().explain("cannot start git")?;
        let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        Ok((output.status.success() && !said.is_empty()).then_some(said))
    }

    /// Has it do something; what it says.
    fn tell(&self, arguments: &[&str], path: Option<&Path>) -> Result<String, Failure> {
        let output = self.command(arguments, path).output().explain("cannot start git")?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let verb = arguments.first().copied().unwrap_or_default();
        Err(Failure::new(format_args!("git {verb} refuses: {}", said.trim())))
    }

    fn command(&self, arguments: &[&str], path: Option<&Path>) -> Command {
        let mut command = Command::new("git");
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX"] {
            command.env_remove(name);
        }
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "segue").env(format!("GIT_{who}_EMAIL"), "segue@localhost");
        }
        command.env("GIT_OPTIONAL_LOCKS", "0").stdin(Stdio::null());
        command.args(["-c", "core.hooksPath=/dev/null", "-c", "advice.addEmbeddedRepo=false"]);
        command.args(&self.arguments).args(arguments).args(path);
        command
    }
}

fn flag(name: &str, path: &Path) -> std::ffi::OsString {
    let mut flag = std::ffi::OsString::from(name);
    flag.push("=");
    flag.push(path);
    flag
}

fn parse(commit: &str) -> Result<CommitSha, Failure> {
    commit.parse().map_err(|error| Failure::new(format_args!("git names a commit `{commit}`: {error}")))
}

/// `owner/name` at the end of a remote's address.
fn name_in(address: &str) -> Option<String> {
    let address = address.trim_end_matches('/');
    let address = address.strip_suffix(".git").unwrap_or(address);
    let mut parts = address.rsplit(['/', ':']);
    let (name, owner) = (parts.next()?, parts.next()?);
    let full = format!("{owner}/{name}");
    RepositoryName::parse(&full).is_ok().then_some(full)
}

/// A name for a folder without a remote.
fn name_of(root: &Path) -> String {
    let folder = root.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    let name: String =
        folder.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    let full = format!("local/{name}");
    if RepositoryName::parse(&full).is_ok() { full } else { "local/repository".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_named_by_its_remote_or_its_folder() {
        for (address, name) in [
            ("https://github.com/acme/shop.git", Some("acme/shop")),
            ("git@github.com:acme/shop.git", Some("acme/shop")),
            ("ssh://git@example.com:22/acme/shop/", Some("acme/shop")),
            ("shop", None),
        ] {
            assert_eq!(name_in(address).as_deref(), name, "{address}");
        }
        assert_eq!(name_of(Path::new("/home/me/my shop")), "local/my-shop");
        assert_eq!(name_of(Path::new("/")), "local/repository");
    }

    fn git(folder: &Path, arguments: &[&str]) -> String {
        let git = Git { arguments: vec!["-C".into(), folder.into()] };
        git.tell(arguments, None).unwrap()
    }

    #[test]
    fn what_is_not_committed_is_in_it_and_the_repository_stays_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        let own = place.path().join("own");
        fs::create_dir(&own).unwrap();
        git(&own, &["init", "--quiet", "--initial-branch=topic"]);
        fs::write(own.join("kept"), "1").unwrap();
        fs::write(own.join(".gitignore"), "ignored\n").unwrap();
        git(&own, &["add", "."]);
        git(&own, &["commit", "--quiet", "-m", "first"]);
        let head = git(&own, &["rev-parse", "HEAD"]);

        let clean = Snapshot::take(&own, &place.path().join("clean.git")).unwrap();
        assert_eq!((clean.commit.as_str(), clean.branch.as_str()), (head.as_str(), "topic"));

        fs::write(own.join("kept"), "2").unwrap();
        fs::write(own.join("new"), "3").unwrap();
        fs::write(own.join("ignored"), "4").unwrap();
        let before = git(&own, &["status", "--porcelain"]);
        fs::create_dir(own.join("inner")).unwrap();
        let changed = Snapshot::take(&own.join("inner"), &place.path().join("changed.git")).unwrap();
        assert_eq!(changed.head.as_ref().map(CommitSha::as_str), Some(head.as_str()));
        let show = |file: &str| git(&changed.bare, &["show", &format!("{}:{file}", changed.commit)]);
        assert_eq!((show("kept"), show("new")), ("2".into(), "3".into()));
        let files = git(&changed.bare, &["ls-tree", "--name-only", changed.commit.as_str()]);
        assert_eq!(files, ".gitignore\nkept\nnew");
        assert_eq!(git(&own, &["status", "--porcelain"]), before);
        assert_eq!(git(&own, &["rev-parse", "HEAD"]), head);
    }

    #[test]
    fn a_folder_without_git_is_taken_as_well() {
        let place = tempfile::tempdir().unwrap();
        let own = place.path().join("plain");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("file"), "x").unwrap();
        let taken = Snapshot::take(&own, &place.path().join("bare.git")).unwrap();
        assert_eq!((taken.repository.as_str(), taken.branch.as_str(), taken.head), ("local/plain", "main", None));
        assert_eq!(git(&taken.bare, &["show", &format!("{}:file", taken.commit)]), "x");
        assert!(!own.join(".git").exists());
    }
}
