use std::time::Duration;

use anyhow::Result;
use segue_integration_tests::{github::CheckRun, stand::Stand};
use serde_json::json;

use crate::{check_shown, with_github};

const LIMIT: Duration = Duration::from_secs(30);

const PIPELINE: &str = r#"name: ci
on: [push]
jobs:
  good:
    runs-on: [linux]
    steps:
      - run: echo good
  bad:
    runs-on: [linux]
    steps:
      - run: exit 1
"#;

/// What GitHub sends when a button of a check is pressed.
async fn press(
    stand: &Stand,
    guid: &str,
    repository: &str,
    check: &CheckRun,
    action: &str,
    button: &str,
) -> Result<String> {
    let payload = json!({
        "action": action, "requested_action": {"identifier": button},
        "check_run": {"id": check.id, "head_sha": check.head_sha, "external_id": check.external_id, "name": check.name},
        "repository": {"full_name": repository}, "sender": {"login": "ada"},
    });
    let answer = stand.webhook()?.send(guid, "check_run", &serde_json::to_vec(&payload)?).await?;
    assert_eq!(answer.status(), 202);
    let delivery: serde_json::Value = stand.api()?.get(&format!("/deliveries/{guid}")).await?;
    Ok(delivery["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn the_buttons_of_checks_run_what_they_stand_for_once_more_and_nothing_else() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms").await?;
    let commit = stand.repository.commit("first", &[(".segue/pipelines/ci.yml", PIPELINE)])?;
    stand.push("main").await?;
    let pipeline = check_shown(&github, &commit, "ci", "failure", LIMIT).await?;
    let bad = check_shown(&github, &commit, "ci / bad", "failure", LIMIT).await?;
    check_shown(&github, &commit, "ci / good", "success", LIMIT).await?;
    assert_eq!(pipeline.actions, ["rerun-failed"]);
    let started = async |attempt: u32| -> Result<Vec<String>> {
        let view: serde_json::Value = stand.api()?.get(&format!("/runs/1?attempt={attempt}")).await?;
        let jobs = view["jobs"].as_array().cloned().unwrap_or_default();
        Ok(jobs.iter().map(|job| job["started_at"].as_str().unwrap_or_default().to_owned()).collect())
    };
    // of which jobs an attempt has another start than the one before
    let begun_in = async |attempt: u32| -> Result<Vec<bool>> {
        let (before, now) = (started(attempt - 1).await?, started(attempt).await?);
        Ok(before.iter().zip(&now).map(|(before, now)| before != now).collect())
    };

    // one that is another repository's, or nobody's, or no button
    let elsewhere = press(&stand, "g1", "acme/other", &pipeline, "rerequested", "").await?;
    assert!(elsewhere.contains("acme/other is not in segue.yaml"), "{elsewhere}");
    let unknown = CheckRun { id: 5, ..pipeline.clone() };
    let reason = press(&stand, "g2", "acme/shop", &unknown, "rerequested", "").await?;
    assert_eq!(reason, "no run of acme/shop is shown by the check 5");
    let reason = press(&stand, "g3", "acme/shop", &pipeline, "requested_action", "deploy-everything").await?;
    assert_eq!(reason, "a check has no button `deploy-everything`");
    assert_eq!(
        press(&stand, "g4", "acme/shop", &pipeline, "completed", "").await?,
        "a check was `completed`, which asks for nothing"
    );

    // the check of the job that failed: that job alone
    assert_eq!(press(&stand, "g5", "acme/shop", &bad, "rerequested", "").await?, "");
    let reason = press(&stand, "g6", "acme/shop", &pipeline, "rerequested", "").await?;
    assert_eq!(reason, "attempt 2 of run 1 has begun since", "two buttons of one attempt are one wish");
    assert_eq!(
        press(&stand, "g5", "acme/shop", &bad, "rerequested", "").await?,
        "",
        "and so is a delivery that comes twice"
    );
    let again = newer(&github, &commit, &pipeline).await?;
    assert_eq!(again.external_id, "1.2.");
    assert_eq!(begun_in(2).await?, [false, true], "what succeeded is carried over");

    // the button below the pipeline's check
    assert_eq!(press(&stand, "g7", "acme/shop", &again, "requested_action", "rerun-failed").await?, "");
    let third = newer(&github, &commit, &again).await?;
    assert_eq!((third.external_id.as_str(), begun_in(3).await?), ("1.3.", vec![false, true]));

    // all checks of the commit
    let payload = json!({
        "action": "rerequested", "check_suite": {"id": 1, "head_sha": commit},
        "repository": {"full_name": "acme/shop"}, "sender": {"login": "ada"},
    });
    stand.webhook()?.send("g8", "check_suite", &serde_json::to_vec(&payload)?).await?;
    let fourth = newer(&github, &commit, &third).await?;
    assert_eq!((fourth.external_id.as_str(), begun_in(4).await?), ("1.4.", vec![true, true]));
    Ok(())
}

/// The pipeline's check of a later attempt, once it has ended.
async fn newer(github: &segue_integration_tests::github::GitHub, commit: &str, than: &CheckRun) -> Result<CheckRun> {
    let found = tokio::time::timeout(LIMIT, async {
        loop {
            let newest = check_shown(github, commit, "ci", "failure", LIMIT).await?;
            if newest.id > than.id {
                return Ok(newest);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    found.await?
}
