use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{s3::S3, sample, stand::Stand};
use segue_schemas::{
    api::{RerunRequest, RunSummary, RunView},
    status::{FailureClass, JobStatus, RunStatus},
};

use crate::version_in;

const LIMIT: Duration = Duration::from_secs(90);

/// The cache is larger than one part of an upload.
const PIPELINE: &str = r#"on: push
jobs:
  build:
    runs-on: [linux]
    outputs:
      hit: ${{ steps.cache.outputs.cache-hit }}
    steps:
      - uses: segue/checkout
      - id: cache
        uses: segue/cache
        with: {path: noise, key: noise-1}
      - run: |
          [ -s noise ] || head -c 20000000 /dev/urandom > noise
          mkdir dist
          cp service.yml dist/
          cp "$SAMPLE_SERVICE" dist/sample-service
        env:
          SAMPLE_SERVICE: ${{ vars.SAMPLE_SERVICE }}
      - uses: segue/upload-artifact
        with: {name: api, path: dist}
  staging:
    needs: [build]
    runs-on: [linux]
    environment: staging
    steps:
      - uses: segue/checkout
      - uses: segue/deploy
        with: {service: api, artifact: api}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_an_outage_of_it_is_told_and_over_when_it_is_over() -> Result<()> {
    let s3 = S3::start("contents", "key", "secret").await?;
    let keys = tempfile::tempdir()?;
    let stand = Stand::start(&storage(&s3, keys.path(), "secret")?).await?;

    let view = pushed(&stand, "1").await?;
    ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");
    assert_eq!(version_in(&stand, "staging").await?, "1", "the host has fetched it by way of the server");
    let objects = s3.objects("contents");
    let contents = objects.iter().filter(|name| name.starts_with("stories/sha256/")).count();
    assert_eq!((contents, objects.len()), (2, 3), "an artifact, a cache, and whose they are: {objects:#?}");
    assert!(!stand.data().join("artifacts/sha256").exists(), "the disk holds none of it");
    assert_eq!(s3.open_uploads(), 0);

    // a second run restores the cache
    let view = pushed(&stand, "2").await?;
    ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");
    assert_eq!(view.jobs[0].outputs.get("hit").map(String::as_str), Some("true"));
    let log = stand.api()?.log(&view.jobs[0].id).await?;
    assert!(log.contains("Cache `noise-1` is restored"), "{log}");
    assert_eq!(version_in(&stand, "staging").await?, "2");

    // people are told where contents are, and where they are not
    let doctor = said(&stand, &["doctor", "--config", &file(stand.folder(), "segue.yaml")])?;
    assert!(doctor.contains("good  storage") && doctor.contains("s3://contents/stories"), "{doctor}");
    let data = stand.data().display().to_string();
    let backup = said(&stand, &["backup", &file(stand.folder(), "backup"), "--data", &data])?;
    assert!(backup.contains("are not among them: they lie in s3://contents/stories"), "{backup}");

    // an outage: pushes are taken, what needs a content fails and says why
    s3.set_down(true);
    let view = pushed(&stand, "3").await?;
    assert_eq!(view.run.status, RunStatus::Failed);
    let build = &view.jobs[0];
    assert_eq!(build.failure_class, Some(FailureClass::Infrastructure), "{build:#?}");
    let reason = build.reason.clone().unwrap_or_default();
    assert!(
        reason.contains("the object store s3://contents/stories") && reason.contains("can't be reached"),
        "{reason}"
    );
    let doctor = said(&stand, &["doctor", "--config", &file(stand.folder(), "segue.yaml")])?;
    assert!(doctor.contains("BAD   storage") && doctor.contains("`storage.endpoint`"), "{doctor}");
    assert_eq!(version_in(&stand, "staging").await?, "2", "what serves goes on");

    // it is over, and the same run goes on
    s3.set_down(false);
    let api = stand.api()?;
    let run = view.run.id;
    let _: RunSummary =
        api.post(&format!("/runs/{run}/rerun"), &RerunRequest { failed: true, ..RerunRequest::default() }).await?;
    let view = api.ended(run.0, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    assert!(view.jobs.iter().all(|job| job.status == JobStatus::Succeeded));
    assert_eq!(version_in(&stand, "staging").await?, "3");
    assert_eq!(s3.open_uploads(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_what_is_wrong_with_it_for_good_ends_the_start_with_a_remedy() -> Result<()> {
    let s3 = S3::start("contents", "key", "secret").await?;
    let keys = tempfile::tempdir()?;
    let refused = Stand::start(&storage(&s3, keys.path(), "another")?).await.err().context("it starts all the same")?;
    let told = format!("{refused:#}");
    assert!(told.contains("artifacts and caches can't be kept: the object store s3://contents/stories"), "{told}");
    assert!(told.contains("correct what `storage.secret-key-file` holds"), "{told}");
    Ok(())
}

/// The section of `segue.yaml`.
pub fn storage(s3: &S3, folder: &Path, secret: &str) -> Result<String> {
    let (id, secret_file) = (file(folder, "id"), file(folder, "secret"));
    fs::write(&id, "key\n")?;
    fs::write(&secret_file, secret)?;
    fs::set_permissions(&secret_file, fs::Permissions::from_mode(0o600))?;
    let endpoint = s3.endpoint();
    Ok(format!(
        "storage:\n  kind: s3\n  bucket: contents\n  endpoint: {endpoint}\n  prefix: stories\n  access-key-file: {id}\n  \
         secret-key-file: {secret_file}\n"
    ))
}

async fn pushed(stand: &Stand, version: &str) -> Result<RunView> {
    stand.repository.commit(
        version,
        &[
            (".segue/pipelines/release.yml", PIPELINE),
            (".segue/services/api.yml", sample::SERVICE),
            ("service.yml", &sample::service_yml(version, 0.0)),
        ],
    )?;
    let guid = stand.push("main").await?;
    stand.api()?.run_of(&guid, LIMIT).await
}

fn said(stand: &Stand, arguments: &[&str]) -> Result<String> {
    let output = stand.segue(arguments)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

fn file(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}
