use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{
    boxed::{DOCKERFILE, SERVICE},
    docker::{Docker, SAMPLE},
    github::GitHub,
    pulls::Pull,
    stand::Stand,
};
use segue_schemas::preview::PreviewState;

use crate::RUN_LIMIT;

const PIPELINE: &str = r#"name: preview
on: [pull_request]
jobs:
  preview:
    runs-on: [linux]
    environment: {name: preview, url: "${{ steps.copy.outputs.url }}"}
    steps:
      - uses: segue/checkout
      - id: image
        uses: segue/build-image
        with: {context: ., network: none}
      - uses: segue/preview
        id: copy
        with: {service: api, image: "${{ steps.image.outputs.image }}", seed: "echo $SEGUE_PULL_REQUEST >> $SEGUE_DATA/seeds"}
"#;

#[tokio::test]
async fn a_preview_in_a_container_has_limits_sleeps_and_goes_with_its_volumes() -> Result<()> {
    let docker = Docker::shared().await?;
    let mut stand = Stand::prepare("")?;
    let github = GitHub::start(&stand.repository.name, stand.repository.bare()).await?;
    stand.add_settings(&github.as_app(", gather: 50ms"));
    stand.add_settings(&docker.settings(""));
    stand.add_settings("environments: {preview: {sleep-after: 3s, memory: 128MiB, cpus: 0.5}}\n");
    stand.start_server().await?;
    docker.sample_image(&stand.folder().join("sample-service")).await?;
    stand.repository.commit("base", &[("file", "base")])?;
    stand.repository.push("main")?;

    let mut pull = Pull::new(&stand, &github, 7, "acme/shop");
    pull.files = vec![
        (".segue/services/api.yml".into(), SERVICE.replace(r#"user: "1234:1234", "#, "")),
        ("Dockerfile".into(), format!("FROM {SAMPLE}\n{DOCKERFILE}")),
    ];
    let guid = pull.push("1", PIPELINE).await?;
    let run = stand.api()?.planned(&guid, RUN_LIMIT).await?.runs[0].0;
    let view = stand.api()?.ended(run, RUN_LIMIT).await?;
    ensure!(pull.answer("preview.localhost").await? == Ok("1".into()), "it answers: {view:#?}");
    let made = docker.instances_of(&stand.data()).await?;
    let id = made[0]["Id"].as_str().context("an id")?;
    let host = docker.look(&format!("/containers/{id}/json")).await?["HostConfig"].clone();
    ensure!(host["Memory"] == 128 << 20, "what previews have, not what the service asks for: {host}");
    ensure!(host["NanoCpus"] == 500_000_000 && host["PidsLimit"] == 100, "{host}");
    let shared = docker.shared_of(&stand.data()).await?;
    let volume = shared.iter().find(|name| name.ends_with("segue-data")).context("its data")?;
    let place = docker.look(&format!("/volumes/{volume}")).await?["Mountpoint"].as_str().context("a path")?.to_owned();
    let seeds = std::path::Path::new(&place).join("seeds");
    ensure!(std::fs::read_to_string(&seeds)? == "7\n", "it is seeded when it is first made");

    // asleep it has no container; the first request makes one
    pull.is_listed(Some(PreviewState::Asleep), RUN_LIMIT).await?;
    until_none_runs(&docker, &stand).await?;
    let begun = Instant::now();
    ensure!(pull.answer("preview.localhost").await? == Ok("1".into()), "it is woken by the first request");
    eprintln!("figure: a preview in a container that slept answered its first request after {:?}", begun.elapsed());

    // a push brings another image, with the same data
    let guid = pull.push("2", PIPELINE).await?;
    let run = stand.api()?.planned(&guid, RUN_LIMIT).await?.runs[0].0;
    let api = stand.api()?;
    let reached = async {
        pull.answers(Ok("2"), RUN_LIMIT).await?;
        Ok(std::time::UNIX_EPOCH.elapsed()?.as_millis())
    };
    let (view, reached) = tokio::try_join!(api.ended(run, RUN_LIMIT), reached)?;
    let built = view.jobs[0].steps[1].ended_at.context("its image was built")?.0;
    eprintln!("figure: it could be reached {} ms after its image was built", reached.saturating_sub(built as u128));
    ensure!(pull.answer("preview.localhost").await? == Ok("2".into()), "the newer one answers");
    ensure!(std::fs::read_to_string(&seeds)? == "7\n", "once");

    pull.turn("closed").await?;
    pull.answers(Err(404), RUN_LIMIT).await?;
    pull.is_listed(None, RUN_LIMIT).await?;
    until_none_runs(&docker, &stand).await?;
    let begun = Instant::now();
    loop {
        let left = docker.shared_of(&stand.data()).await?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(begun.elapsed() < RUN_LIMIT, "this is left: {left:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_none_runs(docker: &Docker, stand: &Stand) -> Result<()> {
    let begun = Instant::now();
    loop {
        let left = docker.instances_of(&stand.data()).await?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(begun.elapsed() < RUN_LIMIT, "this is left: {left:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
