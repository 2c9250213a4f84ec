use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{sample, stand::Stand};
use segue_schemas::{api::RunView, status::RunStatus};

use crate::{RUN_LIMIT, version_in};

/// Production takes what serves in staging; a version called `bad` is taken back by the pipeline itself.
const PIPELINE: &str = r#"on: [push]
jobs:
  staging:
    environment: staging
    steps:
      - uses: segue/checkout
      - run: |
          mkdir dist
          cp service.yml dist/
          cp "$SAMPLE_SERVICE" dist/sample-service
        env:
          SAMPLE_SERVICE: ${{ vars.SAMPLE_SERVICE }}
      - uses: segue/deploy
        with: { service: api, path: dist }
  production:
    needs: staging
    environment: production
    steps:
      - uses: segue/checkout
      - uses: segue/promote
        with: { service: api, from: staging }
      - id: health
        uses: segue/health-check
        with: { service: api, tries: 20, interval: 100ms }
      - uses: segue/notify
        with: { text: "Out at try ${{ steps.health.outputs.tries }}" }
      - id: missing
        uses: segue/health-check
        continue-on-error: true
        with: { service: api, path: /no/such/page, status: 200, tries: 2, interval: 10ms }
      - run: |
          ! grep -q bad service.yml
      - if: failure()
        uses: segue/rollback
        with: { service: api }
"#;

#[tokio::test]
async fn and_production_is_as_it_was() -> Result<()> {
    let (address, heard) = listen()?;
    let stand = Stand::start(&format!(
        "notifications:\n  - {{kind: webhook, url: \"http://{address}/\", events: [message]}}\n"
    ))
    .await?;
    let view = run(&stand, "good").await?;
    ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");
    assert_eq!(version_in(&stand, "production").await?, "good");
    let steps = &view.jobs[1].steps;
    assert_eq!(steps[2].outputs["status"], "200", "the service answers through the proxy");
    let reason = steps[4].reason.as_deref().unwrap_or_default();
    assert!(reason.contains("/no/such/page is not healthy after 2 tries"), "{reason}");
    let message = heard.recv_timeout(Duration::from_secs(20)).context("nobody was told")?;
    assert!(message.contains("Out at try 1") && message.contains(r#""event":"message""#), "{message}");

    let view = run(&stand, "bad").await?;
    ensure!(view.run.status == RunStatus::Failed, "{view:#?}");
    assert_eq!(version_in(&stand, "staging").await?, "bad");
    assert_eq!(version_in(&stand, "production").await?, "good", "the step brought the release before back");
    let rollouts = stand.api()?.rollouts("production").await?;
    assert!(rollouts[0].spec.is_rollback && rollouts[0].run == Some(view.run.id), "{:#?}", rollouts[0]);
    Ok(())
}

async fn run(stand: &Stand, version: &str) -> Result<RunView> {
    let files = [
        (".segue/pipelines/release.yml", PIPELINE),
        (".segue/services/api.yml", sample::SERVICE),
        ("service.yml", &sample::service_yml(version, 0.0)),
    ];
    stand.repository.commit(version, &files)?;
    let guid = stand.push("main").await?;
    stand.api()?.run_of(&guid, RUN_LIMIT).await
}

/// Answers every request with 200 and gives what it heard.
fn listen() -> Result<(String, mpsc::Receiver<String>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let (said, heard) = mpsc::channel();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            let _ = connection.set_read_timeout(Some(Duration::from_millis(500)));
            let mut all = Vec::new();
            let mut block = [0; 4096];
            while let Ok(count @ 1..) = connection.read(&mut block) {
                all.extend_from_slice(&block[..count]);
            }
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = said.send(String::from_utf8_lossy(&all).into_owned());
        }
    });
    Ok((address, heard))
}
