use std::process::Command;

use super::*;
use mirror::Mirrors;

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(directory)
        .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A repository with a branch and a tag.
fn repository(root: &Path) -> (PathBuf, CommitSha) {
    let origin = root.join("origin");
    fs::create_dir(&origin).unwrap();
    git(&origin, &["init", "--quiet"]);
    fs::create_dir(origin.join("sub")).unwrap();
    fs::write(origin.join("sub/file"), "one").unwrap();
    git(&origin, &["add", "."]);
    git(&origin, &["commit", "--quiet", "-m", "first"]);
    git(&origin, &["tag", "-a", "v1", "-m", "v1"]);
    fs::write(origin.join("sub/file"), "two").unwrap();
    git(&origin, &["commit", "--quiet", "-am", "second"]);
    let commit = git(&origin, &["rev-parse", "HEAD"]).parse().unwrap();
    (origin, commit)
}

fn finish(work: &Path, git_dir: &Path) {
    let output =
        Command::new("sh").args(["-ec", FINISH, "sh"]).args([work, git_dir]).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_checkout_from_an_own_mirror_is_a_whole_clone() {
    let root = tempfile::tempdir().unwrap();
    let (origin, commit) = repository(root.path());
    let mirrors = Mirrors::at(root.path().join("mirrors"));
    let origin_url = origin.to_str().unwrap();
    let mirror = mirrors.with_commit(None, "acme/shop", origin_url, &commit).await.unwrap();
    assert!(mirror.ends_with("mirrors/acme/shop.git"));
    // What the mirror has is not fetched again, although the origin is gone.
    fs::rename(&origin, root.path().join("moved")).unwrap();
    assert_eq!(mirrors.with_commit(None, "acme/shop", origin_url, &commit).await.unwrap(), mirror);

    let (work, git_dir) = (root.path().join("work"), root.path().join("git"));
    let source = Source { mirror: &mirror, commit: &commit, branch: Some("main"), origin: origin_url, copied: false };
    let mut owned = 0;
    lay_out(&source, &git_dir, |_| {
        owned += 1;
        Ok(())
    })
    .unwrap();
    assert!(owned > 5);
    finish(&work, &git_dir);
    fs::remove_dir_all(&mirror).unwrap();
    assert_eq!(fs::read_to_string(work.join("sub/file")).unwrap(), "two");
    assert_eq!(git(&work, &["status", "--porcelain"]), "");
    assert_eq!(git(&work, &["rev-parse", "--abbrev-ref", "HEAD"]), "main");
    assert_eq!(git(&work, &["describe", "--tags"]), format!("v1-1-g{}", &commit.as_str()[..7]));
    assert_eq!(git(&work, &["rev-parse", "origin/main"]), commit.as_str());
    git(&work, &["fsck", "--strict"]);
}

#[tokio::test]
async fn a_checkout_again_takes_the_place_of_the_first() {
    let root = tempfile::tempdir().unwrap();
    let (origin, commit) = repository(root.path());
    let mirror = origin.join(".git");
    let first = mirror::resolve(&mirror, "v1").await.unwrap();
    assert_ne!(first, commit);
    assert_eq!(mirror::resolve(&mirror, "main").await.unwrap(), commit);
    assert!(mirror::resolve(&mirror, "--all").await.is_err());
    let (work, git_dir) = (root.path().join("work"), root.path().join("git"));
    for (commit, content) in [(&commit, "two"), (&first, "one")] {
        let source = Source { mirror: &mirror, commit, branch: None, origin: "", copied: false };
        lay_out(&source, &git_dir, |_| Ok(())).unwrap();
        finish(&work, &git_dir);
        assert_eq!(fs::read_to_string(work.join("sub/file")).unwrap(), content);
        assert_eq!(git(&work, &["status", "--porcelain"]), "");
    }
}

#[tokio::test]
async fn a_file_is_read_without_a_checkout() {
    let root = tempfile::tempdir().unwrap();
    let (origin, commit) = repository(root.path());
    let mirror = origin.join(".git");
    assert_eq!(mirror::read_file(&mirror, &commit, "sub/file", 100).await.unwrap().unwrap(), b"two");
    assert_eq!(mirror::read_file(&mirror, &commit, "sub/none", 100).await.unwrap(), None);
    assert!(mirror::read_file(&mirror, &commit, "sub/file", 2).await.is_err());
}

#[tokio::test]
async fn what_git_says_is_passed_on() {
    let root = tempfile::tempdir().unwrap();
    let mirrors = Mirrors::at(root.path().join("mirrors"));
    let commit = "0123456789012345678901234567890123456789".parse().unwrap();
    let error = mirrors.with_commit(None, "acme/shop", "/no/such/repository", &commit).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/repository"), "{error}");
    for name in ["../evil", "acme", "acme/..", "a/b/c"] {
        let error = mirrors.with_commit(None, name, "x", &commit).await.unwrap_err();
        assert!(matches!(error, CheckoutError::Name(_)), "{name}: {error}");
    }
}

#[test]
fn a_link_that_leads_out_of_the_workspace_gets_no_checkout() {
    let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
    for path in ["link", "link/deep", ".."] {
        let output = Command::new("sh")
            .args(["-ec", FINISH, "sh", path, "no-such-directory"])
            .current_dir(root.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("leads out of the workspace"), "{path}: {said}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}
