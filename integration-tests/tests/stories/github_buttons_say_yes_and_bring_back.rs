use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use segue_integration_tests::{
    github::{CheckRun, GitHub},
    sample,
    stand::Stand,
};
use segue_schemas::status::JobStatus;
use serde_json::{Value, json};

use crate::{check_shown, version_in};

const LIMIT: Duration = Duration::from_secs(60);

const PIPELINE: &str = r#"name: release
on: [push]
jobs:
  production:
    environment: production
    steps:
      - uses: segue/checkout
      - run: |
          mkdir dist
          cp service.yml dist/
          cp "$SAMPLE_SERVICE" dist/sample-service
          test "$(grep -c refs/heads/main "$GITHUB_EVENT_PATH")" = 1
        env:
          SAMPLE_SERVICE: ${{ vars.SAMPLE_SERVICE }}
      - uses: segue/upload-artifact
        with: { name: api, path: dist }
      - uses: segue/deploy
        with: { service: api, artifact: api }
"#;

/// Somebody presses a button of a check; what came of it, once that is known.
async fn press(stand: &Stand, check: &CheckRun, button: &str, by: &str) -> Result<String> {
    let guid = uuid::Uuid::new_v4().to_string();
    let payload = json!({
        "action": "requested_action", "requested_action": {"identifier": button},
        "check_run": {"id": check.id, "head_sha": check.head_sha, "external_id": check.external_id, "name": check.name},
        "repository": {"full_name": "acme/shop"}, "sender": {"login": by},
    });
    let answer = stand.webhook()?.send(&guid, "check_run", &serde_json::to_vec(&payload)?).await?;
    ensure!(answer.status() == 202, "the webhook was answered {}", answer.status());
    let begun = Instant::now();
    loop {
        let delivery: Value = stand.api()?.get(&format!("/deliveries/{guid}")).await?;
        if let Some(reason) = delivery["reason"].as_str() {
            return Ok(reason.to_owned());
        }
        ensure!(begun.elapsed() < LIMIT, "nothing came of `{button}`: {delivery:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The newest check of a name once it has these buttons.
async fn with_buttons(github: &GitHub, commit: &str, name: &str, wanted: &[&str]) -> Result<CheckRun> {
    let begun = Instant::now();
    loop {
        let check = github.check_run(commit, name);
        if let Some(check) = check.as_ref().filter(|check| check.actions == wanted) {
            return Ok(check.clone());
        }
        ensure!(begun.elapsed() < LIMIT, "`{name}` has not the buttons {wanted:?}: {check:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_check_has_the_buttons_that_apply_and_who_may_presses_them_to_effect() -> Result<()> {
    let mut stand = Stand::prepare("environments: {production: {required-approvals: 1, requires: []}}\n")?;
    let github = GitHub::start(&stand.repository.name, stand.repository.bare()).await?;
    stand.add_settings(&github.as_app(", gather: 50ms"));
    stand.add_settings("public-url: https://ci.example.com\n");
    stand.start_server().await?;
    github.set_permission("acme/shop", "ada", "write");
    github.set_permission("acme/shop", "rob", "read");
    let mut checks = Vec::new();
    for version in ["1", "2"] {
        let files = [
            (".segue/pipelines/release.yml", PIPELINE),
            (".segue/services/api.yml", sample::SERVICE),
            ("service.yml", &sample::service_yml(version, 0.0)),
        ];
        let commit = stand.repository.commit(version, &files)?;
        stand.push("main").await?;
        let check = with_buttons(&github, &commit, "release / production", &["approve"]).await?;
        let refused = press(&stand, &check, "approve", "rob").await?;
        assert_eq!(refused, "rob pressed `approve`: rob has no write access to acme/shop");
        let done = press(&stand, &check, "approve", "ada").await?;
        assert!(done.starts_with("ada pressed `approve`: it counts for production of run"), "{done}");
        let check = check_shown(&github, &commit, "release / production", "success", LIMIT).await?;
        assert!(check.details_url.as_deref().is_some_and(|url| url.starts_with("https://ci.example.com/api/v1/jobs/")));
        let pipeline = check_shown(&github, &commit, "release", "success", LIMIT).await?;
        assert!(pipeline.summary.contains("ada approved it for"), "{}", pipeline.summary);
        let again = press(&stand, &check, "approve", "ada").await?;
        assert!(again.contains("does not wait for an approval"), "{again}");
        checks.push(check);
    }
    assert_eq!(version_in(&stand, "production").await?, "2");

    let commit = checks[1].head_sha.clone();
    let check = with_buttons(&github, &commit, "release / production", &["roll-back"]).await?;
    let refused = press(&stand, &check, "roll-back", "rob").await?;
    assert!(refused.contains("no write access"), "{refused}");
    let late = press(&stand, &checks[0], "roll-back", "ada").await?;
    assert!(late.contains("does not serve `production` any more"), "{late}");
    let done = press(&stand, &check, "roll-back", "ada").await?;
    assert!(done.contains("brings `api` in `production` back"), "{done}");
    let begun = Instant::now();
    while version_in(&stand, "production").await? != "1" {
        ensure!(begun.elapsed() < LIMIT, "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // nothing of it serves any more
    with_buttons(&github, &commit, "release / production", &[]).await?;
    let view = stand.api()?.job_becomes(2, "production", &[JobStatus::Succeeded], LIMIT).await?;
    assert_eq!(view.approvals[0].by, "ada");
    Ok(())
}
