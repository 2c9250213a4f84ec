use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use segue_integration_tests::{
    docker::Docker,
    registry::{PASSWORD, Registry},
    stand::Stand,
};
use segue_schemas::{
    api::{JobView, RunView},
    status::RunStatus,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(120);
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

const PIPELINE: &str = r"on: [push]
jobs:
  first: &build
    outputs:
      digest: ${{ steps.image.outputs.digest }}
      image: ${{ steps.image.outputs.image }}
      sbom: ${{ steps.image.outputs.sbom }}
      provenance: ${{ steps.image.outputs.provenance }}
    steps:
      - uses: segue/checkout
      - id: image
        uses: segue/build-image
        with:
          context: app
          platforms: linux/amd64, linux/arm64, linux/arm/v7
          tags: |
            REGISTRY/shop/app:1
            REGISTRY/shop/app
          push: true
          username: pusher
          password: ${{ secrets.REGISTRY_PASSWORD }}
          sbom: true
  again:
    <<: *build
    needs: first
";

/// A program for no processor that there is: as good as one for another.
const FOREIGN: &str = r"on: [push]
jobs:
  run:
    steps:
      - uses: segue/checkout
      - uses: segue/build-image
        with: { context: foreign, platforms: linux/arm64, network: none }
";

#[tokio::test]
async fn each_is_pushed_by_itself_and_the_index_names_them() -> Result<()> {
    let (docker, registry) = (Docker::shared().await?, Registry::start().await?);
    let stand = Stand::start(&format!("{}public-url: https://ci.example.org\n", docker.settings(""))).await?;
    stand.set_secret("REGISTRY_PASSWORD", PASSWORD)?;
    ensure!(stand.segue(&["provenance", "key", "create"])?.status.success(), "no key");
    let pipeline = PIPELINE.replace("REGISTRY/", &format!("{}/", registry.address));
    stand.repository.commit(
        "first",
        &[
            (".segue/pipelines/one.yml", pipeline.as_str()),
            (".segue/pipelines/foreign.yml", FOREIGN),
            ("app/Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY main.$TARGETARCH /main\n"),
            ("app/main.amd64", "of amd64\n"),
            ("app/main.arm64", "of arm64\n"),
            ("app/main.arm", "of arm\n"),
            ("foreign/Dockerfile", "FROM scratch\nCOPY --chmod=755 main /main\nRUN [\"/main\"]\n"),
            ("foreign/main", "no program\n"),
        ],
    )?;
    let guid = stand.push("main").await?;
    let api = stand.api()?;
    let mut views = Vec::new();
    for run in api.planned(&guid, LIMIT).await?.runs {
        views.push(api.ended(run.0, LIMIT).await?);
    }
    let of = |file: &str| views.iter().find(|view| view.run.file.ends_with(file)).context("no such run");
    let view = of("one.yml")?;
    let (first, again) = (job(view, "first")?, job(view, "again")?);
    let log = api.log(&first.id).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "{log}\n{}", api.log(&again.id).await?);

    // both names are the index, which names an image for each platform, and is the same the second time
    let (digest, index) = registry.manifest("shop/app", "1").await?;
    ensure!(registry.manifest("shop/app", "latest").await?.0 == digest, "both names mean it");
    ensure!(index["mediaType"] == INDEX && index["schemaVersion"] == 2, "{index}");
    let platforms: Vec<&Value> =
        index["manifests"].as_array().context("none")?.iter().map(|one| &one["platform"]).collect();
    ensure!(
        platforms
            == [
                &json!({"architecture": "amd64", "os": "linux"}),
                &json!({"architecture": "arm64", "os": "linux"}),
                &json!({"architecture": "arm", "os": "linux", "variant": "v7"}),
            ],
        "{index}"
    );
    let mut known = BTreeSet::from([digest.clone()]);
    for one in index["manifests"].as_array().into_iter().flatten() {
        let of_one = one["digest"].as_str().context("a digest")?;
        let (seen, manifest) = registry.manifest("shop/app", of_one).await?;
        ensure!(seen == of_one && one["mediaType"] == manifest["mediaType"], "{one} {manifest}");
        let config = registry.blob("shop/app", manifest["config"]["digest"].as_str().context("a config")?).await?;
        ensure!(config["architecture"] == one["platform"]["architecture"], "{config} is no image for {one}");
        known.insert(seen);
    }
    ensure!(known.len() == 4, "each has its own: {known:?}");
    ensure!(first.outputs["digest"] == digest, "{:?}", first.outputs);
    ensure!(first.outputs["image"] == format!("{}/shop/app@{digest}", registry.address), "{:?}", first.outputs);
    ensure!(again.outputs["digest"] == digest, "the same commit and inputs: {:?}", again.outputs);
    ensure!(!log.contains(PASSWORD), "{log}");

    // what is in each is listed, and it is stated of all where they are from
    let lists: BTreeSet<&str> = first.outputs["sbom"].split(',').collect();
    ensure!(lists.len() == 3, "{lists:?}");
    let (run, to) = (view.run.id.to_string(), stand.folder().join("downloaded"));
    let artifact = &first.outputs["provenance"];
    let fetched = stand.segue(&["artifact", "download", &run, artifact, "--to", &to.to_string_lossy()])?;
    ensure!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    let envelope: Value = serde_json::from_slice(&fs::read(to.join("provenance.json"))?)?;
    let payload = STANDARD.decode(envelope["payload"].as_str().context("no payload")?)?;
    let statement: Value = serde_json::from_slice(&payload)?;
    let subjects = statement["subject"].as_array().context("no subjects")?;
    let stated = subjects.iter().filter_map(|one| Some(format!("sha256:{}", one["digest"]["sha256"].as_str()?)));
    ensure!(stated.collect::<BTreeSet<_>>() == known, "{statement}");
    let lists = statement["predicate"]["runDetails"]["byproducts"].as_array().map_or(0, Vec::len);
    ensure!(lists == 3, "{statement}");

    // a program that the engine can't run is told with its platform, and what to do
    let foreign = of("foreign.yml")?;
    let log = api.log(&foreign.jobs[0].id).await?;
    ensure!(foreign.run.status == RunStatus::Failed, "{log}");
    ensure!(log.contains("can't run programs of `linux/arm64`") && log.contains("--install arm64"), "{log}");
    Ok(())
}

fn job<'v>(view: &'v RunView, key: &str) -> Result<&'v JobView> {
    view.jobs.iter().find(|job| job.key == key).with_context(|| format!("no job {key}"))
}
