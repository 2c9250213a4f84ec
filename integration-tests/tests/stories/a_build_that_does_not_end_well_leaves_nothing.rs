use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{disk::SmallDisk, docker::Docker, processes, registry::Registry, stand::Stand};
use segue_schemas::{
    api::{CancelRequest, RunSummary, RunView},
    status::{FailureClass, JobStatus, RunStatus},
};

const LIMIT: Duration = Duration::from_secs(90);

const PIPELINE: &str = r#"on: [push]
jobs:
  image:
    retry: { max: 5, on: [infrastructure], backoff: 1s }
    steps:
      - uses: segue/checkout
      - { id: claim, run: 'echo "number=$SEGUE_EPOCH" >> "$SEGUE_OUTPUT"' }
      - uses: segue/build-image
        with: { tags: TAG, network: none, build-args: 'CLAIM=${{ steps.claim.outputs.number }}' }
"#;

#[tokio::test]
async fn a_cancelled_one_ends_at_the_engine() -> Result<()> {
    let docker = Docker::shared().await?;
    let stand = Stand::start(&docker.settings("")).await?;
    let api = stand.api()?;
    let run = begin(&stand, "segue-cancelled:1", "RUN sleep 4815162", "4815162").await?;
    let cancel = CancelRequest { by: Some("a user".into()), reason: None };
    let _: RunSummary = api.post(&format!("/runs/{run}/cancel"), &cancel).await?;
    let view = api.ended(run, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Cancelled, "{view:#?}");
    until_none_runs("4815162").await?;
    assert!(docker.look("/images/segue-cancelled:1/json").await.is_err(), "it has no name");
    docker.until_clean(&stand.data().join("worker"), LIMIT).await
}

#[tokio::test]
async fn one_whose_engine_is_killed_begins_again() -> Result<()> {
    let mut docker = Docker::start().await?;
    let stand = Stand::start(&docker.settings("")).await?;
    // the first claim's build waits for what will happen to the engine
    let run =
        begin(&stand, "segue-begun-again:1", "ARG CLAIM\nRUN if test $CLAIM = 1; then sleep 2342342; fi", "2342342")
            .await?;
    docker.kill()?;
    let api = stand.api()?;
    let view = api.job_becomes(run, "image", &[JobStatus::Queued], LIMIT).await?;
    let reason = view.jobs[0].reason.clone().unwrap_or_default();
    assert!(reason.contains("the container engine could not"), "{reason}");
    for pid in processes::with_argument("sleep\u{0}2342342") {
        processes::signal(pid, nix::sys::signal::Signal::SIGKILL)?;
    }
    docker.restart().await?;
    let view = api.ended(run, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    docker.look("/images/segue-begun-again:1/json").await.map(drop)
}

#[tokio::test]
async fn one_that_has_no_room_left_is_the_machines_failure() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let _disk = SmallDisk::mount(&folder.path().join("data"), 96)?;
    let docker = Docker::start_at(&folder.path().join("data")).await?;
    let stand = Stand::start(&docker.settings("")).await?;
    let pipeline = PIPELINE.replace("    retry: { max: 5, on: [infrastructure], backoff: 1s }\n", "");
    let files = [("Dockerfile", "FROM segue-test:1\nRUN dd if=/dev/zero of=/large bs=1M count=200\n")];
    let view = push(&stand, &pipeline.replace("TAG", "segue-too-large:1"), &files).await?;
    let log = stand.api()?.log(&view.jobs[0].id).await?;
    assert_eq!(view.run.status, RunStatus::Failed, "{log}");
    assert_eq!(view.jobs[0].failure_class, Some(FailureClass::Infrastructure), "{log}\n{view:#?}");
    assert!(log.to_lowercase().contains("no space left"), "{log}");
    Ok(())
}

/// What goes wrong: the input and the Dockerfile, then the class, and a part of the reason.
const WRONG: [(&str, &str, FailureClass, &str); 6] = [
    ("network: none", "FROM segue-test:1\nRUN echo it said this; exit 3\n", FailureClass::Script, "exit code: 3"),
    ("network: none", "FRM segue-test:1\n", FailureClass::Configuration, "unknown instruction"),
    ("network: none", "FROM segue-test:1\nCOPY absent /\n", FailureClass::Configuration, "absent"),
    ("context: nowhere", "FROM segue-test:1\n", FailureClass::Configuration, "the context can't be sent"),
    ("target: absent", "FROM segue-test:1\n", FailureClass::Configuration, "absent"),
    ("tags: '${{ github.ref }}:@'", "FROM segue-test:1\n", FailureClass::Configuration, "input `tags`"),
];

#[tokio::test]
async fn what_is_wrong_is_told_as_what_it_is() -> Result<()> {
    let docker = Docker::shared().await?;
    let stand = Stand::start(&docker.settings("")).await?;
    let mut pipeline = String::from("on: [push]\njobs:\n");
    let mut files = Vec::new();
    for (at, (with, dockerfile, ..)) in WRONG.iter().enumerate() {
        files.push((format!("job{at}/Dockerfile"), *dockerfile));
        let context = if with.contains("context") { String::new() } else { format!("context: job{at}, ") };
        pipeline.push_str(&format!("  job{at}:\n    steps: [{{ uses: segue/checkout }}, {{ uses: segue/build-image, with: {{ {context}{with} }} }}]\n"));
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    let view = push(&stand, &pipeline, &files).await?;
    assert_eq!(view.run.status, RunStatus::Failed, "{view:#?}");
    for (at, (_, _, class, words)) in WRONG.iter().enumerate() {
        let job = view.jobs.iter().find(|job| job.key == format!("job{at}")).context("no job")?;
        let log = stand.api()?.log(&job.id).await?;
        assert_eq!(job.failure_class, Some(*class), "{job:#?}\n{log}");
        assert!(job.reason.as_deref().unwrap_or_default().contains(words), "`{words}`: {job:#?}\n{log}");
    }
    let log = stand.api()?.log(&view.jobs[0].id).await?;
    assert!(log.contains("it said this"), "{log}");
    Ok(())
}

#[tokio::test]
async fn the_classic_builder_builds_the_same_files() -> Result<()> {
    let (docker, mut registry) = (Docker::shared().await?, Registry::start().await?);
    let stand = Stand::start(&docker.settings("").replace("\"patience\"", "\"buildkit\":false,\"patience\"")).await?;
    let tag = format!("{}/classic/app:1", registry.address);
    let pipeline = PIPELINE.replace("TAG", &format!("'{tag}', push: true, username: pusher, password: wrong"));
    let files = [
        ("Dockerfile", "FROM segue-test:1\nCOPY . /app/\nRUN ls /app\n"),
        (".dockerignore", "a\n"),
        ("a", ""),
        ("b", ""),
    ];
    let view = push(&stand, &pipeline, &files).await?;
    let log = stand.api()?.log(&view.jobs[0].id).await?;
    assert!(log.contains(" : RUN ls /app") && log.contains("# b\n") && !log.contains("# a\n"), "{log}");
    // and a registry that takes nothing from whom it does not know says so at once
    assert_eq!(view.jobs[0].failure_class, Some(FailureClass::Configuration), "{log}\n{view:#?}");
    assert!(log.contains("inputs `username` and `password`"), "{log}");
    assert_eq!(registry.tags("classic/app").await?, Vec::<String>::new());
    registry.stop();
    Ok(())
}

async fn begin(stand: &Stand, tag: &str, line: &str, seconds: &str) -> Result<i64> {
    let dockerfile = format!("FROM segue-test:1\n{line}\n");
    let files = [(".segue/pipelines/one.yml", &*PIPELINE.replace("TAG", tag)), ("Dockerfile", &dockerfile)];
    stand.repository.commit("first", &files)?;
    let guid = stand.push("main").await?;
    let api = stand.api()?;
    let run = api.planned(&guid, LIMIT).await?.runs[0].0;
    let begun = std::time::Instant::now();
    while processes::with_argument(&format!("sleep\u{0}{seconds}")).is_empty() {
        let view: RunView = api.get(&format!("/runs/{run}")).await?;
        ensure!(begun.elapsed() < LIMIT, "the build did not begin: {view:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(run)
}

async fn push(stand: &Stand, pipeline: &str, files: &[(&str, &str)]) -> Result<RunView> {
    let mut all = vec![(".segue/pipelines/one.yml", pipeline)];
    all.extend(files);
    stand.repository.commit("first", &all)?;
    let guid = stand.push("main").await?;
    stand.api()?.run_of(&guid, LIMIT).await
}

async fn until_none_runs(seconds: &str) -> Result<()> {
    let begun = std::time::Instant::now();
    while !processes::with_argument(&format!("sleep\u{0}{seconds}")).is_empty() {
        ensure!(begun.elapsed() < LIMIT, "the step of the build still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
