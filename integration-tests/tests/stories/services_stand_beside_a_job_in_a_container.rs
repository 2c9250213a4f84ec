use std::time::Duration;

use anyhow::Result;
use segue_integration_tests::{docker::Docker, stand::Stand};
use segue_schemas::{
    api::RunView,
    status::{FailureClass, RunStatus},
};

const LIMIT: Duration = Duration::from_secs(60);

const PIPELINE: &str = r#"on: [push]
jobs:
  one:
    container: segue-test:1
    services:
      web:
        image: segue-test:1
        env: { WORD: "hello from a service" }
        options: >-
          --health-cmd "test -e /tmp/ready" --health-interval 200ms --health-timeout 5s --health-retries 300 --workdir /tmp
          --tmpfs /tmp
    steps:
      - run: |
          # it was healthy before this began
          wget -q -O - http://web:8080/word
"#;

const BROKEN: &str = r#"on: [push]
jobs:
  one:
    container: segue-test:1
    services:
      ends: segue-test:1
    steps:
      - run: echo never
"#;

#[tokio::test]
async fn it_is_reached_by_its_name_once_it_is_healthy_and_its_words_are_kept() -> Result<()> {
    let docker = Docker::shared().await?;
    let serve =
        r#"sleep 1; echo "$WORD" > /tmp/word; echo "serving now"; touch /tmp/ready; exec httpd -f -p 8080 -h /tmp"#;
    docker.image("segue-test-web:1", &format!("CMD [\"sh\", \"-c\", {serve:?}]")).await?;
    let stand = Stand::start(&docker.settings("")).await?;
    let pipeline = PIPELINE.replacen("web:\n        image: segue-test:1", "web:\n        image: segue-test-web:1", 1);
    let (view, log) = push(&stand, &pipeline).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{log}\n{view:#?}");
    for line in ["Service web is ready", "hello from a service", "serving now"] {
        assert!(log.contains(line), "`{line}` is missing:\n{log}");
    }
    docker.until_clean(&stand.data().join("worker"), LIMIT).await
}

#[tokio::test]
async fn one_that_ends_is_named_with_what_it_said() -> Result<()> {
    let docker = Docker::shared().await?;
    docker.image("segue-test-ends:1", r#"CMD ["sh", "-c", "echo no database here; exit 3"]"#).await?;
    let stand = Stand::start(&docker.settings("")).await?;
    let pipeline =
        BROKEN.replace("ends: segue-test:1", "ends: { image: \"segue-test-ends:1\", options: --health-cmd false }");
    let (view, log) = push(&stand, &pipeline).await?;
    assert_eq!(view.jobs[0].failure_class, Some(FailureClass::Configuration), "{view:#?}");
    let reason = view.jobs[0].reason.clone().unwrap_or_default();
    assert!(reason.contains("`ends` has ended with exit code 3") && reason.contains("no database here"), "{reason}");
    assert!(!log.lines().any(|line| line.trim() == "never"), "{log}");
    docker.until_clean(&stand.data().join("worker"), LIMIT).await
}

async fn push(stand: &Stand, pipeline: &str) -> Result<(RunView, String)> {
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", pipeline)])?;
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, LIMIT).await?;
    let log = stand.api()?.log(&view.jobs[0].id).await?;
    Ok((view, log))
}
