use std::time::Duration;

use anyhow::{Context as _, Result};
use segue_integration_tests::{
    docker::Docker,
    registry::{PASSWORD, Registry, USER},
    stand::Stand,
};
use segue_schemas::{
    api::{JobView, RunView},
    status::RunStatus,
};
use serde_json::Value;

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

fn job<'a>(view: &'a RunView, key: &str) -> Result<&'a JobView> {
    view.jobs.iter().find(|job| job.key == key).with_context(|| format!("no job {key}"))
}
