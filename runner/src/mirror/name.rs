//! Names that come from outside and end up in paths and command lines: checked once, here.

use std::path::{Path, PathBuf};

/// Why a name can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not `owner/name`.
    #[error("`{0}` is not `owner/name`, each of letters, digits, `-`, `_` and `.`")]
    Repository(String),
    /// Not a ref that git would take.
    #[error("`{0}` is not a ref that git allows (see `git check-ref-format`)")]
    Ref(String),
    /// Not an address to fetch from.
    #[error(
        "`{0}` is not an address to fetch from: an absolute path, or a URL with https, http, ssh, git or file is needed"
    )]
    Source(String),
}

/// `owner/name`, fit for a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName {
    full: String,
    slash: usize,
}

impl RepositoryName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`InvalidName::Repository`].
    pub fn parse(full: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName::Repository(full.chars().take(200).collect());
        let (owner, name) = full.split_once('/').ok_or_else(invalid)?;
        if [owner, name].into_iter().all(is_path_part) {
            Ok(Self { full: full.to_owned(), slash: owner.len() })
        } else {
            Err(invalid())
        }
    }

    /// `owner/name`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// Where its mirror lies below the mirrors' folder.
    #[must_use]
    pub fn mirror_path(&self, root: &Path) -> PathBuf {
        root.join(&self.full[..self.slash]).join(format!("{}.git", &self.full[self.slash + 1..]))
    }
}

/// GitHub's own `.github` begins with a dot, so only `.` and `..` are kept out.
fn is_path_part(part: &str) -> bool {
    (1..=100).contains(&part.len())
        && part != "."
        && part != ".."
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A full ref (`refs/heads/main`) that git would take. May begin a part with a dash or hold `$(...)`: it is only ever one
/// argument behind `--end-of-options`, or a part of one that begins with something else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RefName(String);

impl RefName {
    /// Checks a ref by the rules of `git check-ref-format`.
    ///
    /// # Errors
    /// [`InvalidName::Ref`].
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        let forbidden = |c: char| c.is_ascii_control() || " ~^:?*[\\".contains(c);
        let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
        let is_ref = name.len() <= 1024
            && name.strip_prefix("refs/").is_some_and(|rest| rest.contains('/') && rest.split('/').all(is_part))
            && !name.contains("..")
            && !name.contains("@{")
            && !name.ends_with('.')
            && !name.contains(forbidden);
        if is_ref { Ok(Self(name.to_owned())) } else { Err(InvalidName::Ref(name.chars().take(200).collect())) }
    }

    /// As [`RefName::parse`]; a name without `refs/` is a branch.
    ///
    /// # Errors
    /// [`InvalidName::Ref`].
    pub fn parse_branch_or_ref(name: &str) -> Result<Self, InvalidName> {
        if name.starts_with("refs/") { Self::parse(name) } else { Self::parse(&format!("refs/heads/{name}")) }
    }

    /// The whole ref.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The whole ref.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

/// Where a repository is fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source(String);

impl Source {
    /// Checks an address. Remote helpers (`ext::`, `fd::`) would run commands; an scp-like `host:path` is not told from them
    /// without guessing, `ssh://host/path` says the same.
    ///
    /// # Errors
    /// [`InvalidName::Source`].
    pub fn parse(address: &str) -> Result<Self, InvalidName> {
        let is_url = ["https://", "http://", "ssh://", "git://", "file:///"]
            .iter()
            .any(|scheme| address.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('-')));
        let is_clean = address.len() <= 4096 && !address.contains(|c: char| c.is_ascii_control());
        // git takes `user@host:path` (no `::`) as ssh: the one form without a scheme that people really write
        let is_scp = !address.starts_with(['-', ':'])
            && !address.contains("::")
            && address.split_once(':').is_some_and(|(host, path)| {
                host.contains('@') && !host.contains('/') && !host.contains("@-") && !path.starts_with('-')
            });
        if is_clean && (address.starts_with('/') || is_url || is_scp) {
            Ok(Self(address.to_owned()))
        } else {
            Err(InvalidName::Source(without_password(address)))
        }
    }

    /// The address as git takes it. It may hold a password.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address as it may be shown.
    #[must_use]
    pub fn shown(&self) -> String {
        without_password(&self.0)
    }

    /// Whether it lies on this machine, so that pushing to it needs nobody's leave.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.0.starts_with('/') || self.0.starts_with("file:///")
    }
}

/// `https://user:password@host/...` with the part before `@` taken out.
fn without_password(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.chars().take(200).collect() };
    let authority_end = rest.find('/').unwrap_or(rest.len());
    match rest[..authority_end].rfind('@') {
        Some(at) => format!("{scheme}://***@{}", &rest[at + 1..]),
        None => address.chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_name_can_not_leave_its_folder() {
        let root = Path::new("/m");
        assert_eq!(RepositoryName::parse("acme/.github").unwrap().mirror_path(root), Path::new("/m/acme/.github.git"));
        for bad in
            ["", "acme", "acme/", "/shop", "../shop", "acme/..", "a/b/c", "acme/sh op", "acme/$(x)", "a/b\n", "./x"]
        {
            assert!(RepositoryName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn refs_are_those_that_git_allows() {
        for good in [
            "refs/heads/main",
            "refs/heads/-x",
            "refs/heads/$(touch${IFS}x)",
            "refs/tags/v1.0",
            "refs/heads/a/b",
            "refs/heads/ä",
        ] {
            assert!(RefName::parse(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "main",
            "refs/heads/",
            "refs/main",
            "refs/heads/a..b",
            "refs/heads/$(touch x)",
            "refs/heads/.a",
            "refs/heads/a.lock",
            "refs/heads/a//b",
            "refs/heads/a:b",
            "refs/heads/a\nb",
            "refs/heads/a@{1}",
            "refs/heads/a.",
            "-refs/heads/a",
            "refs/heads/a^",
        ] {
            assert!(RefName::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(RefName::parse_branch_or_ref("-x").unwrap().as_str(), "refs/heads/-x");
    }

    #[test]
    fn sources_run_no_commands_and_show_no_password() {
        for good in [
            "/srv/git/a.git",
            "https://github.com/a/b.git",
            "file:///srv/a",
            "ssh://git@host/a",
            "git@github.com:a/b.git",
        ] {
            assert!(Source::parse(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "ext::sh -c touch% x",
            "-u",
            "--upload-pack=x",
            "a.git",
            "ssh://-oProxyCommand=x/y",
            "fd::3",
            "host:x",
            "git@-oProxyCommand=x:y",
            "https://",
            "/a\nb",
        ] {
            assert!(Source::parse(bad).is_err(), "{bad:?}");
        }
        let source = Source::parse("https://bot:hunter2@git.example/a.git").unwrap();
        assert_eq!(source.shown(), "https://***@git.example/a.git");
    }
}
