use std::time::Duration;

use anyhow::{Context as _, Result};
use segue_integration_tests::{
    docker::{Docker, IMAGE},
    github::GitHub,
    registry::{PASSWORD, Registry, USER},
    repository::Repository,
    stand::Stand,
};
use segue_schemas::{
    api::{JobView, RunView},
    status::RunStatus,
};
use serde_json::Value;

use crate::{github_comments_are_commands::say, github_forks_wait_for_their_very_commit::push_files};

const LIMIT: Duration = Duration::from_secs(120);
const SECRET: &str = "only-while-it-is-built";

const DOCKERFILE: &str = r#"FROM segue-test:1 AS made
ARG GREETING=nothing
COPY . /app/
RUN --mount=type=secret,id=token test "$(wc -c < /run/secrets/token)" = 22 && cat /run/secrets/token && echo "$GREETING" > /app/greeting
FROM made AS other
RUN exit 1
"#;

const PIPELINE: &str = r#"on: [push]
jobs:
  first:
    outputs: { image: "${{ steps.image.outputs.image }}", id: "${{ steps.image.outputs.id }}" }
    steps:
      - uses: segue/checkout
      - id: image
        uses: segue/build-image
        with:
          context: app
          file: app/docker/Dockerfile
          target: made
          build-args: GREETING=hello
          secrets: token=${{ secrets.TOKEN }}
          labels: team=shop
          tags: |
            REGISTRY/shop/app:1
            REGISTRY/shop/app
          push: true
          username: pusher
          password: ${{ secrets.REGISTRY_PASSWORD }}
          network: none
      - run: echo "built ${{ steps.image.outputs.digest }} of ${{ steps.image.outputs.size }} bytes"
  second:
    needs: first
    outputs: { image: "${{ steps.image.outputs.image }}", id: "${{ steps.image.outputs.id }}" }
STEPS"#;

#[tokio::test]
async fn it_is_pushed_by_its_digest_and_built_from_the_cache_again() -> Result<()> {
    let (docker, registry) = (Docker::shared().await?, Registry::start().await?);
    let stand = Stand::start(&docker.settings("")).await?;
    stand.set_secret("TOKEN", SECRET)?;
    stand.set_secret("REGISTRY_PASSWORD", PASSWORD)?;
    let steps =
        PIPELINE.split_once("    steps:").and_then(|(_, rest)| rest.split_once("  second:")).context("no steps")?.0;
    let pipeline = PIPELINE
        .replace("STEPS", &format!("    steps:{steps}"))
        .replace("REGISTRY/", &format!("{}/", registry.address));
    let commit = stand.repository.commit(
        "first",
        &[
            (".segue/pipelines/one.yml", &pipeline),
            ("app/docker/Dockerfile", DOCKERFILE),
            ("app/.dockerignore", "docker\n*.log\n!kept.log\n"),
            ("app/src/main", "main\n"),
            ("app/left.log", "left\n"),
            ("app/kept.log", "kept\n"),
        ],
    )?;
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, LIMIT).await?;
    let (first, second) = (job(&view, "first")?, job(&view, "second")?);
    let api = stand.api()?;
    let (log, again) = (api.log(&first.id).await?, api.log(&second.id).await?);
    assert_eq!(view.run.status, RunStatus::Succeeded, "{log}\n{again}");

    // what the step said: each step of the build, and what was sent
    assert!(log.contains("COPY . /app/") && log.contains("left out by app/.dockerignore"), "{log}");
    assert!(again.contains("CACHED"), "{again}");
    for log in [&log, &again] {
        assert!(!log.contains(SECRET) && !log.contains(PASSWORD), "{log}");
    }

    // the registry has it under both names, by the digest that the step said, and so it had the second time
    let (digest, manifest) = registry.manifest("shop/app", "1").await?;
    assert_eq!(registry.manifest("shop/app", "latest").await?.0, digest);
    assert_eq!(first.outputs["image"], format!("{}/shop/app@{digest}", registry.address));
    assert_eq!(second.outputs, first.outputs, "the same commit and inputs");
    let id = &first.outputs["id"];
    assert_eq!(manifest["config"]["digest"], Value::from(id.as_str()));

    // the image says where it is from, and nothing of what was secret
    let image = docker.look(&format!("/images/{id}/json")).await?;
    let labels = &image["Config"]["Labels"];
    assert_eq!(labels["org.opencontainers.image.revision"], Value::from(commit.trim()));
    assert!(labels["org.opencontainers.image.created"].as_str().is_some_and(|time| time.ends_with('Z')), "{labels}");
    assert_eq!(labels["team"], "shop");
    let saved = docker.saved(id).await?;
    for (word, is_there) in [
        ("kept.log", true),
        ("app/greeting", true),
        ("left.log", false),
        (SECRET, false),
        (PASSWORD, false),
        (USER, false),
    ] {
        let found = saved.windows(word.len()).any(|window| window == word.as_bytes());
        assert_eq!(found, is_there, "`{word}` in the image");
    }
    Ok(())
}

/// What the repository's own code may do, and a fork's may not, with the base's pipeline.
const OF_THE_BASE: &str = r"on: [pull_request]
jobs:
  image:
    outputs: { image: '${{ steps.image.outputs.image }}' }
    steps:
      - uses: segue/checkout
      - id: image
        uses: segue/build-image
        with: { tags: 'REGISTRY/shop/forked:1', push: true, network: none, secrets: 'token=given', username: pusher, password: wrong }
";

#[tokio::test]
async fn a_forks_image_is_neither_named_nor_pushed_and_has_no_secrets() -> Result<()> {
    let (docker, registry) = (Docker::shared().await?, Registry::start().await?);
    let mut stand = Stand::prepare(&docker.settings(""))?;
    let github = GitHub::start(&stand.repository.name, stand.repository.bare()).await?;
    stand.add_settings(&github.as_app(", gather: 50ms, forks-on-host: true"));
    stand.start_server().await?;
    let pipeline = OF_THE_BASE.replace("REGISTRY", &registry.address);
    stand
        .repository
        .commit("base", &[(".segue/pipelines/ci.yml", &pipeline), ("Dockerfile", "FROM segue-test:1\n")])?;
    stand.repository.push("main")?;
    github.set_permission("acme/shop", "ada", "write");
    let dockerfile =
        "FROM segue-test:1\nRUN --mount=type=secret,id=token if test -e /run/secrets/token; then exit 7; fi\n";
    let (_, run) = push_files(&stand, &github, "opened", &[("Dockerfile", dockerfile)], "image").await?;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    say(&stand, &github, "f1", "ada", "/segue approve").await?;
    let view = stand.api()?.ended(run, LIMIT).await?;
    let log = stand.api()?.log(&view.jobs[0].id).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{log}\n{view:#?}");
    assert!(log.contains("The code is of a fork"), "{log}");
    assert_eq!(registry.tags("shop/forked").await?, Vec::<String>::new());
    let id = &view.jobs[0].outputs["image"];
    let names = docker.look(&format!("/images/{id}/json")).await?["RepoTags"].clone();
    assert!(names.as_array().is_none_or(Vec::is_empty), "{names}");
    Ok(())
}

/// What a clock tells apart: directories that are made, a file that a step writes, one that it takes away.
const AT_ANY_TIME: &str =
    "FROM segue-test:1\nCOPY . /app/\nWORKDIR /made/here\nRUN echo made > file && rm /etc/group\n";
const AT_TWO_ENGINES: &str = r"on: [push]
jobs:
  image:
    outputs:
      id: ${{ steps.same.outputs.id }}
      image: ${{ steps.same.outputs.image }}
      as-built: ${{ steps.another.outputs.id }}
    steps:
      - uses: segue/checkout
      - id: same
        uses: segue/build-image
        with:
          context: app
          tags: REGISTRY/shop/same:1
          push: true
          username: pusher
          password: ${{ secrets.REGISTRY_PASSWORD }}
          cache-to: inline
          network: none
      - id: another
        uses: segue/build-image
        with: { context: app, cache-to: inline, network: none, reproducible: false }
";

#[tokio::test]
async fn the_same_commit_is_the_same_image_at_another_engine_and_another_time() -> Result<()> {
    let registry = Registry::start().await?;
    let (one, other) = (Docker::start().await?, Docker::start().await?);
    other.load(one.saved(IMAGE).await?).await?;
    let pipeline = AT_TWO_ENGINES.replace("REGISTRY/", &format!("{}/", registry.address));
    let mut made: Vec<JobView> = Vec::new();
    let mut from: Option<Stand> = None;
    for docker in [&one, &other] {
        let stand = Stand::start(&docker.settings("")).await?;
        stand.set_secret("REGISTRY_PASSWORD", PASSWORD)?;
        match &from {
            None => {
                let files = [
                    (".segue/pipelines/one.yml", pipeline.as_str()),
                    ("app/Dockerfile", AT_ANY_TIME),
                    ("app/src/main", "main\n"),
                ];
                stand.repository.commit("first", &files)?;
            }
            Some(first) => take_over(&first.repository, &stand.repository)?,
        }
        let guid = stand.push("main").await?;
        let view = stand.api()?.run_of(&guid, LIMIT).await?;
        let image = job(&view, "image")?;
        assert_eq!(view.run.status, RunStatus::Succeeded, "{}", stand.api()?.log(&image.id).await?);
        made.push(image.clone());
        from.get_or_insert(stand);
        // a layer knows whole seconds
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
    let output = |at: usize, name: &str| made[at].outputs[name].clone();
    assert_eq!(output(0, "id"), output(1, "id"));
    assert_eq!(output(0, "image"), output(1, "image"), "the digest at the registry");
    assert_ne!(output(0, "as-built"), output(1, "as-built"), "an engine alone writes its own time");
    // it can be run, and is what the Dockerfile says
    let seen = std::process::Command::new("docker")
        .env("DOCKER_HOST", format!("unix://{}", other.socket().display()))
        .args(["run", "--rm", "--network", "none", &output(1, "id")])
        .args(["sh", "-c", "cat file /app/src/main; stat -c %y file /made/here; test ! -e /etc/group"])
        .output()?;
    let said = String::from_utf8_lossy(&seen.stdout);
    assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines[0], lines[1]), ("made", "main"));
    let image = one.look(&format!("/images/{}/json", output(0, "id"))).await?;
    let created = image["Created"].as_str().context("no time")?;
    let day = created.split_once('T').context("no time")?.0;
    assert!(lines[2].starts_with(day) && lines[2] == lines[3], "{said} and {created}");
    assert_eq!(image["Config"]["Labels"]["org.opencontainers.image.created"], created);
    Ok(())
}

/// Gives a repository what another has, commit by commit.
fn take_over(from: &Repository, to: &Repository) -> Result<()> {
    for arguments in [
        &["fetch", "--quiet", from.work().to_str().context("a path")?, "main"][..],
        &["reset", "--hard", "--quiet", "FETCH_HEAD"],
    ] {
        let done = std::process::Command::new("git").args(arguments).current_dir(to.work()).status()?;
        anyhow::ensure!(done.success(), "git {arguments:?}");
    }
    Ok(())
}

/// Hard patterns, and the files that they are tried on. `**.bak` is none of them: clients of Docker 20.10 and 28 take it otherwise, and
/// Segue takes it as the newer one.
const PATTERNS: [&str; 10] = [
    "*\n!src\n!*.toml\n",
    "**/*.log\n!**/kept.log\n",
    "# none\n/docs/\ntemp?\n",
    "src/**\n!src/a/b.rs\n",
    "**/target\n**/*.bak\n",
    "[a-d]*\n!doc[!x]\nDockerfile\n",
    "a/../docs\n./src/a\n",
    "  spaced name  \n\\*star\n",
    "docs/*\n!docs/x.md\ndocs/x.md\n!docs/[wx].md\n",
    "src/*/b.rs\n.dockerignore\n**/.hid*\n",
];
const FILES: [&str; 17] = [
    "Cargo.toml",
    "docs/x.md",
    "docs/y.md",
    "docs/deep/z.md",
    "src/a/b.rs",
    "src/a/c.rs",
    "src/main.rs",
    "src/target/x",
    "temp1",
    "temporary",
    "x.log",
    "src/kept.log",
    "a.bak",
    "src/c.bak",
    "spaced name",
    "*star",
    "src/.hidden",
];

#[tokio::test]
async fn a_dockerignore_leaves_out_what_dockers_own_client_leaves_out() -> Result<()> {
    let docker = Docker::shared().await?;
    let stand = Stand::start(&docker.settings("")).await?;
    let mut pipeline = String::from("on: [push]\njobs:\n  image:\n    steps:\n      - uses: segue/checkout\n");
    let mut files = Vec::new();
    for (at, patterns) in PATTERNS.iter().enumerate() {
        pipeline.push_str(&format!("      - {{ uses: segue/build-image, with: {{ context: c{at}, tags: 'segue-ignore:{at}', network: none }} }}\n"));
        files.push((format!("c{at}/Dockerfile"), "FROM segue-test:1\nCOPY . /seen/\n"));
        files.push((format!("c{at}/.dockerignore"), *patterns));
        files.extend(FILES.iter().map(|file| (format!("c{at}/{file}"), "x")));
    }
    let mut all = vec![(".segue/pipelines/one.yml", pipeline.as_str())];
    all.extend(files.iter().map(|(name, text)| (name.as_str(), *text)));
    stand.repository.commit("first", &all)?;
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{}", stand.api()?.log(&view.jobs[0].id).await?);
    let mut differ = Vec::new();
    for (at, patterns) in PATTERNS.iter().enumerate() {
        let theirs = format!("segue-ignored-by-docker:{at}");
        let built = std::process::Command::new("docker")
            .env("DOCKER_BUILDKIT", "0")
            .env("DOCKER_HOST", format!("unix://{}", docker.socket().display()))
            .args(["build", "--quiet", "--network", "none", "--tag", &theirs])
            .arg(stand.repository.work().join(format!("c{at}")))
            .output()?;
        anyhow::ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let (ours, theirs) = (seen(&docker, &format!("segue-ignore:{at}"))?, seen(&docker, &theirs)?);
        // a Dockerfile that is left out is sent, and so can be copied: their client takes it away again
        let ours: Vec<_> = ours.into_iter().filter(|file| file != "Dockerfile" && file != ".dockerignore").collect();
        let theirs: Vec<_> =
            theirs.into_iter().filter(|file| file != "Dockerfile" && file != ".dockerignore").collect();
        if ours != theirs {
            differ.push(format!("{patterns}: {ours:?} and theirs {theirs:?}"));
        }
    }
    assert_eq!(differ, Vec::<String>::new());
    Ok(())
}

/// The files that were copied into an image.
fn seen(docker: &Docker, image: &str) -> Result<Vec<String>> {
    let run = |script: &str| -> Result<String> {
        let output = std::process::Command::new("sh")
            .env("DOCKER_HOST", format!("unix://{}", docker.socket().display()))
            .args(["-ec", script, "sh", image])
            .output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let all = run(r#"made=$(docker create "$1" true); docker export "$made" | tar -t; docker rm "$made" > /dev/null"#)?;
    let below = all.lines().filter_map(|path| path.strip_prefix("seen/"));
    let mut files: Vec<String> =
        below.filter(|path| !path.is_empty() && !path.ends_with('/')).map(str::to_owned).collect();
    files.sort();
    Ok(files)
}

fn job<'a>(view: &'a RunView, key: &str) -> Result<&'a JobView> {
    view.jobs.iter().find(|job| job.key == key).with_context(|| format!("no job {key}"))
}
