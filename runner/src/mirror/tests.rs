use super::*;
use crate::testing::Upstream;

struct World {
    folder: tempfile::TempDir,
    upstream: Upstream,
    mirrors: Arc<Mirrors>,
    repository: RepositoryName,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::new(folder.path());
    let mirrors = Arc::new(Mirrors::new(folder.path().join("mirrors")));
    World { upstream, mirrors, repository: RepositoryName::parse("acme/shop").unwrap(), folder }
}

impl World {
    async fn bring(&self, git_ref: &str, commit: &CommitSha) -> Result<(), MirrorError> {
        let wanted = Wanted { commit: commit.clone(), git_ref: RefName::parse(git_ref).unwrap() };
        self.mirrors.ensure(&self.repository, &self.upstream.source(), &[wanted]).await
    }
}

#[tokio::test]
async fn a_pushed_commit_is_fetched_and_its_pipelines_are_read() {
    let world = world();
    let first = world.upstream.commit("main", &[(".segue/pipelines/b.yaml", "b"), (".segue/pipelines/a.yml", "a")]);
    assert!(!world.mirrors.contains(&world.repository, &first).await.unwrap());
    world.bring("refs/heads/main", &first).await.unwrap();
    let files = world.mirrors.pipelines(&world.repository, &first).await.unwrap();
    let read: Vec<_> = files.iter().map(|f| (f.path.as_str(), f.text.as_deref().unwrap())).collect();
    assert_eq!(read, [(".segue/pipelines/a.yml", "a"), (".segue/pipelines/b.yaml", "b")]);

    // the warm reader sees what was fetched after it had started, and an older commit as it was
    let second = world.upstream.commit("main", &[(".segue/pipelines/a.yml", "changed"), ("README.md", "x")]);
    world.bring("refs/heads/main", &second).await.unwrap();
    let files = world.mirrors.pipelines(&world.repository, &second).await.unwrap();
    assert_eq!(files[0].text.as_deref(), Ok("changed"));
    assert_eq!(world.mirrors.pipelines(&world.repository, &first).await.unwrap()[0].text.as_deref(), Ok("a"));
    let changed = world.mirrors.changed_files(&world.repository, &first, &second, false).await.unwrap();
    assert_eq!(changed.unwrap(), [".segue/pipelines/a.yml", "README.md"]);
    assert_eq!(world.mirrors.readers.len(), 1, "one process did it all");
}

#[tokio::test]
async fn a_commit_that_is_there_is_not_fetched_again() {
    let world = world();
    let commit = world.upstream.commit("main", &[("a", "a")]);
    world.bring("refs/heads/main", &commit).await.unwrap();
    std::fs::remove_dir_all(world.upstream.path()).unwrap();
    world.bring("refs/heads/main", &commit).await.unwrap();
    assert_eq!(world.mirrors.pipelines(&world.repository, &commit).await.unwrap(), []);
}

#[tokio::test]
async fn a_commit_is_found_although_its_branch_has_moved_on() {
    let world = world();
    let first = world.upstream.commit("main", &[("a", "1")]);
    let _second = world.upstream.commit("main", &[("a", "2")]);
    world.bring("refs/heads/main", &first).await.unwrap();
    assert!(world.mirrors.contains(&world.repository, &first).await.unwrap());
}

#[tokio::test]
async fn names_that_look_like_options_or_commands_are_only_names() {
    let world = world();
    for branch in ["-x", "--upload-pack=touch${IFS}pwned", "$(touch${IFS}pwned)", "`id`"] {
        let commit = world.upstream.commit(branch, &[("a", branch)]);
        world.bring(&format!("refs/heads/{branch}"), &commit).await.unwrap();
        let (_, target) = world
            .mirrors
            .resolve(&world.upstream.source(), Some(&RefName::parse_branch_or_ref(branch).unwrap()))
            .await
            .unwrap();
        assert_eq!(target, commit);
    }
    assert!(!Path::new("pwned").exists() && !world.upstream.path().join("pwned").exists());
}

#[tokio::test]
async fn what_is_not_there_is_an_error_that_says_so() {
    let world = world();
    let _ = world.upstream.commit("main", &[("a", "1")]);
    let nowhere: CommitSha = "0123456789012345678901234567890123456789".parse().unwrap();
    let error = world.bring("refs/heads/main", &nowhere).await.unwrap_err();
    assert!(error.to_string().contains("has no commit 0123456789012345678901234567890123456789"), "{error}");
    let gone = Source::parse("/nowhere/at/all.git").unwrap();
    let wanted = Wanted { commit: nowhere, git_ref: RefName::parse("refs/heads/main").unwrap() };
    let error = world.mirrors.ensure(&world.repository, &gone, &[wanted]).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all.git"), "{error}");
    let missing = RefName::parse("refs/heads/nope").unwrap();
    let error = world.mirrors.resolve(&world.upstream.source(), Some(&missing)).await.unwrap_err();
    assert!(matches!(error, MirrorError::NoRef { .. }), "{error}");
}

#[tokio::test]
async fn the_default_branch_is_asked_for() {
    let world = world();
    let commit = world.upstream.commit("main", &[("a", "1")]);
    let (branch, target) = world.mirrors.resolve(&world.upstream.source(), None).await.unwrap();
    assert_eq!((branch.as_str(), target), ("refs/heads/main", commit));
}

#[tokio::test]
async fn after_a_forced_push_every_path_counts_as_changed() {
    let world = world();
    let commit = world.upstream.commit("main", &[("a", "1")]);
    world.bring("refs/heads/main", &commit).await.unwrap();
    let forgotten: CommitSha = "0123456789012345678901234567890123456789".parse().unwrap();
    assert_eq!(world.mirrors.changed_files(&world.repository, &forgotten, &commit, false).await.unwrap(), None);
    let none: CommitSha = "0".repeat(40).parse().unwrap();
    assert_eq!(world.mirrors.changed_files(&world.repository, &none, &commit, false).await.unwrap(), None);
}

#[tokio::test]
async fn a_file_too_large_or_not_text_is_told_and_the_others_are_read() {
    let world = world();
    let large = "x".repeat(MAX_PIPELINE_BYTES + 1);
    let commit = world.upstream.commit(
        "main",
        &[(".segue/pipelines/a.yml", &large), (".segue/pipelines/b.yml", "b"), (".segue/pipelines/notes.md", "n")],
    );
    world.bring("refs/heads/main", &commit).await.unwrap();
    let files = world.mirrors.pipelines(&world.repository, &commit).await.unwrap();
    assert_eq!(files.len(), 2);
    assert!(files[0].text.as_ref().unwrap_err().contains("1024 KiB"), "{files:?}");
    assert_eq!(files[1].text.as_deref(), Ok("b"));
}

#[tokio::test]
async fn many_at_once_fetch_once_each_and_all_succeed() {
    let world = Arc::new(world());
    let commits: Vec<_> = (0..8).map(|n| world.upstream.commit("main", &[("a", &n.to_string())])).collect();
    let tasks: Vec<_> = commits
        .iter()
        .flat_map(|commit| [commit.clone(), commit.clone()])
        .map(|commit| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.bring("refs/heads/main", &commit).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_tag_is_pushed_back_and_pushing_it_again_is_fine() {
    let world = world();
    let commit = world.upstream.commit("main", &[("a", "1")]);
    world.bring("refs/heads/main", &commit).await.unwrap();
    for _ in 0..2 {
        let tag = "rollback-20260102-030405";
        world.mirrors.push_tag(&world.repository, &world.upstream.source(), tag, &commit).await.unwrap();
    }
    let tag = RefName::parse("refs/tags/rollback-20260102-030405").unwrap();
    assert_eq!(world.mirrors.resolve(&world.upstream.source(), Some(&tag)).await.unwrap().1, commit);
}

#[tokio::test]
async fn tidying_up_joins_packs_and_keeps_what_is_read() {
    let world = world();
    let mut commits = Vec::new();
    for n in 0..12 {
        let commit = world.upstream.commit("main", &[(".segue/pipelines/a.yml", &format!("{n}"))]);
        world.bring("refs/heads/main", &commit).await.unwrap();
        commits.push(commit);
    }
    let mirror = world.mirrors.path(&world.repository);
    let packs = || {
        let files = std::fs::read_dir(mirror.join("objects/pack")).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "pack")).count()
    };
    assert_eq!(packs(), 12, "each fetch brings a pack, whole or not at all");
    tidy(mirror.clone()).await;
    assert!(packs() < 4, "{} packs are left", packs());
    clean(mirror.clone()).await;
    assert_eq!(packs(), 1);
    for (n, commit) in commits.iter().enumerate() {
        let files = world.mirrors.pipelines(&world.repository, commit).await.unwrap();
        assert_eq!(files[0].text.as_deref(), Ok(n.to_string().as_str()));
    }
}

/// As a fetch leaves it that was killed while it wrote single files, and as a disk leaves it that lost some.
#[tokio::test]
async fn a_commit_of_which_a_part_is_missing_is_fetched_anew_and_not_taken_for_one_without_pipelines() {
    for part in ["", ".segue", ".segue/pipelines"] {
        let world = world();
        let first = world.upstream.commit("main", &[("README.md", "x")]);
        world.bring("refs/heads/main", &first).await.unwrap();
        let commit = world.upstream.commit("main", &[(".segue/pipelines/a.yml", "a")]);
        world.bring("refs/heads/main", &commit).await.unwrap();
        let mirror = world.mirrors.path(&world.repository);
        loosen(&world, &mirror).await;
        let mut command = git::command(Some(&mirror));
        command.args(["rev-parse", &format!("{commit}:{part}")]);
        let id = String::from_utf8(git::run_ok("asking", command, QUICK_LIMIT, 100).await.unwrap()).unwrap();
        let (folder, file) = id.trim().split_at(2);
        std::fs::remove_file(mirror.join("objects").join(folder).join(file)).unwrap();

        let mirrors = Arc::new(Mirrors::new(world.folder.path().join("mirrors")));
        let world = World { mirrors, ..world };
        world.bring("refs/heads/main", &commit).await.unwrap();
        let error = world.mirrors.pipelines(&world.repository, &commit).await.unwrap_err();
        assert!(matches!(error, MirrorError::Incomplete { .. }), "without `{part}`: {error}");
        world.bring("refs/heads/main", &commit).await.unwrap();
        let files = world.mirrors.pipelines(&world.repository, &commit).await.unwrap();
        assert_eq!(files[0].text.as_deref(), Ok("a"), "without `{part}`");
        assert_eq!(world.mirrors.pipelines(&world.repository, &first).await.unwrap(), [], "it never had any");
    }
}

/// Takes everything out of its packs.
async fn loosen(world: &World, mirror: &Path) {
    let packs = world.folder.path().join("packs");
    std::fs::rename(mirror.join("objects/pack"), &packs).unwrap();
    for file in std::fs::read_dir(&packs).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "pack") {
            let mut command = git::command(Some(mirror));
            command.args(["unpack-objects", "-q"]).stdin(std::fs::File::open(file).unwrap());
            git::run_ok("unpacking", command, QUICK_LIMIT, 100).await.unwrap();
        }
    }
}
