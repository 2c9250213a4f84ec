use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use segue_integration_tests::{
    docker::Docker,
    registry::{PASSWORD, Registry},
    stand::Stand,
};
use segue_schemas::status::RunStatus;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

const PIPELINE: &str = r"on: [push]
jobs:
  image:
    outputs: { image: '${{ steps.image.outputs.image }}', provenance: '${{ steps.image.outputs.provenance }}' }
    steps:
      - uses: segue/checkout
      - id: image
        uses: segue/build-image
        with:
          context: app
          tags: REGISTRY/shop/app:${{ github.sha }}
          push: true
          username: pusher
          password: ${{ secrets.REGISTRY_PASSWORD }}
          network: none
";

#[tokio::test]
async fn the_server_vouches_for_it_and_others_can_tell() -> Result<()> {
    let (docker, registry) = (Docker::shared().await?, Registry::start().await?);
    let stand = Stand::start(&format!("{}public-url: https://ci.example.org\n", docker.settings(""))).await?;
    stand.set_secret("REGISTRY_PASSWORD", PASSWORD)?;
    let pipeline = PIPELINE.replace("REGISTRY/", &format!("{}/", registry.address));
    let files =
        [(".segue/pipelines/one.yml", pipeline.as_str()), ("app/Dockerfile", "FROM segue-test:1\nCOPY . /app/\n")];

    // without a key nothing is stated, and the log says so
    stand.repository.commit("first", &files)?;
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, LIMIT).await?;
    let log = stand.api()?.log(&view.jobs[0].id).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{log}");
    assert!(log.contains("segue provenance key create"), "{log}");
    assert_eq!((view.jobs[0].outputs["provenance"].as_str(), view.artifacts.len()), ("", 0));

    // one that is made while the server runs is there with the next image
    let made = said(&stand, &["provenance", "key", "create"])?;
    let public = stand.folder().join("segue.pub");
    fs::write(&public, said(&stand, &["provenance", "key", "show"])?)?;
    assert_eq!(made, fs::read_to_string(&public)?);
    let commit = stand.repository.commit("second", &[])?;
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, LIMIT).await?;
    let log = stand.api()?.log(&view.jobs[0].id).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{log}");
    let (image, artifact) = (&view.jobs[0].outputs["image"], &view.jobs[0].outputs["provenance"]);
    assert!(artifact.starts_with("provenance-image-2-"), "{artifact} {log}");
    assert_eq!(artifact, &view.artifacts[0].name);
    let (run, to) = (view.run.id.to_string(), stand.folder().join("downloaded"));
    said(&stand, &["artifact", "download", &run, artifact, "--to", &path(&to)])?;
    let file = to.join("provenance.json");
    let verify = |file: &Path, more: &[&str]| {
        let (file, public) = (path(file), path(&public));
        stand.segue(&[&["provenance", "verify", &file, "--key", &public][..], more].concat())
    };

    // it is about the image that the registry has, of this commit, from this base
    let digest = registry.manifest("shop/app", commit.trim()).await?.0;
    assert!(image.ends_with(&digest), "{image} {digest}");
    for image in [image, &digest] {
        let seen = verify(&file, &["--image", image])?;
        assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
    }
    let seen = verify(&file, &["--json"])?;
    let statement = serde_json::from_slice::<Value>(&seen.stdout)?["statement"].clone();
    let build = &statement["predicate"]["buildDefinition"];
    assert_eq!(statement["subject"][0]["name"], format!("{}/shop/app", registry.address));
    assert_eq!(build["resolvedDependencies"][0]["digest"]["gitCommit"], commit.trim());
    let base = docker.look("/images/segue-test:1/json").await?["Id"].clone();
    let known = build["resolvedDependencies"][1]["digest"]["sha256"].as_str().context("no base")?;
    assert_eq!(base, format!("sha256:{known}"), "{statement}");
    assert_eq!(build["externalParameters"]["pipeline"], ".segue/pipelines/one.yml");
    assert!(build["externalParameters"]["inputs"].get("password").is_none(), "{statement}");
    assert_eq!(statement["predicate"]["runDetails"]["builder"]["id"], "https://ci.example.org");

    let made_of = build["resolvedDependencies"][0]["uri"].as_str().context("no source")?;
    let (source, _) = made_of.split_once("@refs/").context("no ref")?;
    for source in [source, made_of] {
        let seen = verify(&file, &["--source", source, "--commit", commit.trim()])?;
        assert!(seen.status.success(), "{source} {}", String::from_utf8_lossy(&seen.stderr));
    }

    // another tool finds the signature right, and a changed statement wrong
    let envelope: Value = serde_json::from_slice(&fs::read(&file)?)?;
    let payload = STANDARD.decode(envelope["payload"].as_str().context("no payload")?)?;
    assert!(openssl(&stand, &envelope, &payload, &public)?);
    let changed = String::from_utf8(payload)?.replace(commit.trim(), &"0".repeat(40));
    assert!(!openssl(&stand, &envelope, changed.as_bytes(), &public)?);
    let mut tampered = envelope;
    tampered["payload"] = STANDARD.encode(changed).into();
    let elsewhere = stand.folder().join("tampered.json");
    fs::write(&elsewhere, tampered.to_string())?;
    let (other, no_commit) = (format!("sha256:{}", "0".repeat(64)), "0".repeat(40));
    for (file, more, word) in [
        (&elsewhere, &[][..], "it was changed"),
        (&file, &["--image", &other][..], "not about"),
        (&file, &["--source", "https://example.org/other"][..], "not from https://example.org/other"),
        (&file, &["--commit", &no_commit][..], "not of 0000"),
    ] {
        let seen = verify(file, more)?;
        let why = String::from_utf8_lossy(&seen.stderr).into_owned();
        assert!(seen.status.code() == Some(1) && why.contains(word), "{why}");
    }
    Ok(())
}

/// Whether openssl takes the signature of an envelope for one of this payload.
fn openssl(stand: &Stand, envelope: &Value, payload: &[u8], public: &Path) -> Result<bool> {
    let (bytes, signature) = (stand.folder().join("signed"), stand.folder().join("signature"));
    let kind = envelope["payloadType"].as_str().context("no type")?;
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    fs::write(&bytes, [head.as_bytes(), payload].concat())?;
    fs::write(&signature, STANDARD.decode(envelope["signatures"][0]["sig"].as_str().context("no signature")?)?)?;
    let seen = Command::new("openssl")
        .args(["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey"])
        .arg(public)
        .arg("-in")
        .arg(&bytes)
        .arg("-sigfile")
        .arg(&signature)
        .output()
        .context("openssl is missing")?;
    let said = String::from_utf8_lossy(&seen.stdout).into_owned();
    ensure!(said.contains("Verif") || said.contains("Signature"), "{said}{}", String::from_utf8_lossy(&seen.stderr));
    Ok(seen.status.success())
}

fn said(stand: &Stand, arguments: &[&str]) -> Result<String> {
    let output = stand.segue(arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
