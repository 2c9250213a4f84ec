use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use segue_integration_tests::{
    docker::Docker,
    registry::{PASSWORD, Registry},
    stand::Stand,
};
use segue_schemas::{api::RunView, status::RunStatus};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const LIMIT: Duration = Duration::from_secs(120);

const PIPELINE: &str = r"on: [push]
jobs:
  image:
    steps:
      - uses: segue/checkout
      - uses: segue/build-image
        with:
          context: app
          tags: REGISTRY/shop/app:${{ github.sha }}
          push: true
          username: pusher
          password: ${{ secrets.REGISTRY_PASSWORD }}
          network: none
          sbom: true
      - uses: segue/build-image
        with:
          context: app
          network: none
          reproducible: false
          sbom: spdx
";

/// Two packages of Debian's, of which a later layer takes one away; of npm's two, of which one goes with its folder; one of Python's.
const DOCKERFILE: &str = "FROM segue-test:1
COPY before /var/lib/dpkg/status
COPY release /etc/os-release
COPY npm /app/node_modules/left-pad/package.json
COPY npm /app/node_modules/gone/package.json
COPY python /usr/lib/python3/flask-3.1.0.dist-info/METADATA
COPY after /var/lib/dpkg/status
RUN rm -r /app/node_modules/gone
";

const FILES: &[(&str, &str)] = &[
    ("app/Dockerfile", DOCKERFILE),
    ("app/before", "Package: libc6\nStatus: install ok installed\nVersion: 1\n\nPackage: wget\nVersion: 2\n"),
    ("app/after", "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.41-12\n"),
    ("app/release", "ID=debian\nVERSION_ID=\"13\"\n"),
    ("app/npm", r#"{"name": "left-pad", "version": "1.3.0", "license": "WTFPL"}"#),
    ("app/python", "Metadata-Version: 2.4\nName: Flask\nVersion: 3.1.0\n\nA framework.\n"),
];

const PACKAGES: [&str; 3] =
    ["pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13", "pkg:pypi/flask@3.1.0", "pkg:npm/left-pad@1.3.0"];

#[tokio::test]
async fn in_a_list_that_the_server_vouches_for() -> Result<()> {
    let (docker, registry) = (Docker::shared().await?, Registry::start().await?);
    let stand = Stand::start(&format!("{}public-url: https://ci.example.org\n", docker.settings(""))).await?;
    stand.set_secret("REGISTRY_PASSWORD", PASSWORD)?;
    let made = stand.segue(&["provenance", "key", "create"])?;
    ensure!(made.status.success(), "{made:?}");
    let pipeline = PIPELINE.replace("REGISTRY/", &format!("{}/", registry.address));
    stand.repository.commit("list", &[FILES, &[(".segue/pipelines/one.yml", pipeline.as_str())]].concat())?;
    let view = pushed(&stand).await?;

    let cyclone = file(&stand, &view, "sbom-image-2-", "sbom.cdx.json")?;
    let document: Value = serde_json::from_slice(&cyclone)?;
    let components = document["components"].as_array().context("components")?;
    let urls: Vec<&str> = components.iter().filter_map(|one| one["purl"].as_str()).collect();
    assert_eq!(urls, PACKAGES);
    assert_eq!((&components[0]["type"], &components[0]["name"]), (&"operating-system".into(), &"debian".into()));

    // the statement of where the image is from names it
    let envelope: Value = serde_json::from_slice(&file(&stand, &view, "provenance-image-2-", "provenance.json")?)?;
    let payload = STANDARD.decode(envelope["payload"].as_str().context("a payload")?)?;
    let stated = serde_json::from_slice::<Value>(&payload)?["predicate"]["runDetails"]["byproducts"][0].clone();
    assert_eq!(stated["digest"]["sha256"], hex(&Sha256::digest(&cyclone)));
    ensure!(stated["name"].as_str().is_some_and(|name| name.ends_with("/sbom.cdx.json")), "{stated}");

    // the image as the engine built it has the same in it
    let spdx: Value = serde_json::from_slice(&file(&stand, &view, "sbom-image-3-", "sbom.spdx.json")?)?;
    let packages = spdx["packages"].as_array().context("packages")?;
    let urls: Vec<&str> =
        packages.iter().filter_map(|one| one["externalRefs"][0]["referenceLocator"].as_str()).collect();
    assert_eq!((urls, packages[0]["name"].as_str()), (PACKAGES.to_vec(), Some("acme/shop")));

    // once more, and it is the same to the last byte
    let first = view.run.id;
    let again = stand.segue(&["rerun", &first.to_string(), "--watch"])?;
    ensure!(again.status.success(), "{again:?}");
    let view: RunView = stand.api()?.get(&format!("/runs/{first}")).await?;
    assert_eq!((view.run.status, view.run.attempt), (RunStatus::Succeeded, 2));
    ensure!(file(&stand, &view, "sbom-image-2-", "sbom.cdx.json")? == cyclone, "it is another");
    Ok(())
}

async fn pushed(stand: &Stand) -> Result<RunView> {
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, LIMIT).await?;
    let log = stand.api()?.log(&view.jobs[0].id).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{log}");
    ensure!(log.contains("What is in the image (3 packages, on debian 13) is listed"), "{log}");
    Ok(view)
}

/// A file of an artifact, as a person downloads it.
fn file(stand: &Stand, view: &RunView, artifact: &str, name: &str) -> Result<Vec<u8>> {
    let found = view.artifacts.iter().find(|one| one.name.starts_with(artifact));
    let found = found.with_context(|| format!("no {artifact} among {:#?}", view.artifacts))?;
    let to = stand.folder().join(format!("{}-{}", found.name, view.run.attempt));
    let to_text = Path::to_str(&to).context("a path")?;
    let done = stand.segue(&["artifact", "download", &view.run.id.to_string(), &found.name, "--to", to_text])?;
    ensure!(done.status.success(), "{done:?}");
    Ok(fs::read(to.join(name))?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
