use std::time::Duration;

use anyhow::{Result, ensure};
use segue_integration_tests::stand::Stand;
use segue_schemas::api::{DeliveryStatus, DeliveryView};
use serde_json::{Value, json};

use crate::{check_shown, with_github};

const LIMIT: Duration = Duration::from_secs(30);
const PIPELINE: &str = "on: [push]
jobs:
  one:
    runs-on: [linux]
    steps:
      - run: until [ -e \"$GO\" ]; do sleep 0.1; done
        env:
          GO: ${{ vars.SAMPLE_SERVICE }}.go
";

/// Sends an event that starts nothing; why.
async fn told(stand: &Stand, event: &str, payload: &Value) -> Result<String> {
    let guid = uuid::Uuid::new_v4().to_string();
    let answer = stand.webhook()?.send(&guid, event, &serde_json::to_vec(payload)?).await?;
    ensure!(answer.status() == 202, "{event} was answered {}", answer.status());
    let view: DeliveryView = stand.api()?.get(&format!("/deliveries/{guid}")).await?;
    ensure!(view.status == DeliveryStatus::Ignored && view.runs.is_empty(), "{view:?}");
    Ok(view.reason.unwrap_or_default())
}

#[tokio::test]
async fn a_repository_is_renamed_in_the_middle_of_a_run_which_is_shown_to_its_end() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms, first-pause: 100ms").await?;
    let commit = stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    stand.push("main").await?;
    check_shown(&github, &commit, "one / one", "in_progress", LIMIT).await?;

    github.rename("acme/shop", "acme/store");
    // an hour passes, and with it the tokens that were made before
    github.revoke_tokens();
    let renamed = json!({
        "action": "renamed", "changes": {"repository": {"name": {"from": "shop"}}},
        "repository": {"full_name": "acme/store", "default_branch": "main"}, "sender": {"login": "ada"},
    });
    let reason = told(&stand, "repository", &renamed).await?;
    assert!(reason.contains("acme/shop is called acme/store now") && reason.contains("segue.yaml"), "{reason}");
    std::fs::write(stand.folder().join("sample-service.go"), "")?;
    check_shown(&github, &commit, "one / one", "success", LIMIT).await?;
    let check = check_shown(&github, &commit, "one", "success", LIMIT).await?;
    assert_eq!(check.repository, "acme/store");
    assert_eq!(github.check_runs(&commit).len(), 2, "none is made twice: {:#?}", github.check_runs(&commit));

    // its pushes come by the new name, which the operator has to say
    let pushed = json!({
        "ref": "refs/heads/main", "before": "0".repeat(40), "after": commit, "repository": {"full_name": "acme/store"},
    });
    let reason = told(&stand, "push", &pushed).await?;
    assert!(reason.contains("acme/store is not in segue.yaml"), "{reason}");
    let said = stand.until_said("acme/shop is called acme/store now", LIMIT).await?;
    assert!(said.contains("WARN"), "{said}");
    Ok(())
}

#[tokio::test]
async fn what_happens_to_the_app_starts_nothing_and_is_said() -> Result<()> {
    let (stand, _github) = with_github(", gather: 50ms").await?;
    let installation =
        |action: &str, login: &str| json!({"action": action, "installation": {"id": 1, "account": {"login": login}}});
    let reason = told(&stand, "installation", &installation("suspend", "acme")).await?;
    assert!(reason.starts_with("the App's installation for acme was suspended: "), "{reason}");
    let reason = told(&stand, "installation", &installation("deleted", "somebody-else")).await?;
    assert_eq!(reason, "the App was uninstalled for somebody-else", "which concerns nothing here");
    let removed =
        json!({"action": "removed", "repositories_removed": [{"full_name": "acme/shop"}], "repositories_added": null});
    let reason = told(&stand, "installation_repositories", &removed).await?;
    assert!(reason.starts_with("the App is no longer installed for acme/shop: install"), "{reason}");
    let moved = json!({
        "action": "transferred", "changes": {"owner": {"from": {"user": null, "organization": {"login": "acme"}}}},
        "repository": {"full_name": "octo/shop"},
    });
    let reason = told(&stand, "repository", &moved).await?;
    assert!(reason.starts_with("acme/shop has moved, and is octo/shop now: "), "{reason}");
    for zen in [json!("Keep it logically awesome."), Value::Null, json!(5)] {
        let ping = json!({"zen": zen, "hook_id": null, "hook": {"type": "App"}});
        assert!(told(&stand, "ping", &ping).await?.contains("the webhook works"));
    }
    for event in ["installation", "installation_repositories", "installation_target", "repository", "star", "x"] {
        assert!(!told(&stand, event, &json!({})).await?.is_empty(), "{event}");
    }
    Ok(())
}

/// Real payloads have nulls and holes everywhere: each is taken, or refused by the name of what is missing, and all is as before.
#[tokio::test]
async fn payloads_with_holes_are_taken_or_refused_by_name() -> Result<()> {
    let (stand, _github) = with_github(", gather: 50ms").await?;
    let sha = stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    stand.repository.push("main")?;
    let pull = json!({
        "action": "labeled", "number": 7, "label": null, "before": sha,
        "pull_request": {
            "number": 7, "title": "x", "state": "open", "draft": false, "updated_at": "2026-01-01T00:00:01Z",
            "head": {"ref": "topic", "sha": sha, "repo": {"full_name": "acme/shop"}},
            "base": {"ref": "main", "sha": sha, "repo": {"full_name": "acme/shop"}},
        },
        "repository": {"full_name": "acme/shop", "default_branch": "main"}, "sender": {"login": "ada"},
    });
    let needed = [
        "/action",
        "/head",
        "/head/ref",
        "/head/sha",
        "/base",
        "/base/ref",
        "/base/sha",
        "/pull_request",
        "/repository",
    ];
    let mut pointers = Vec::new();
    members(&pull, "", &mut pointers);
    let (mut taken, mut refused) = (0, 0);
    for pointer in &pointers {
        let mut payload = pull.clone();
        *payload.pointer_mut(pointer).expect("it was found there") = Value::Null;
        let guid = uuid::Uuid::new_v4().to_string();
        let answer = stand.webhook()?.send(&guid, "pull_request", &serde_json::to_vec(&payload)?).await?;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await?;
        let inner = pointer.strip_prefix("/pull_request").filter(|rest| !rest.is_empty()).unwrap_or(pointer);
        if needed.contains(&inner) || pointer == "/repository/full_name" {
            assert_eq!(status, 400, "{pointer}: {body}");
            let said = body["error"]["message"].as_str().unwrap_or_default();
            assert!(said.contains(&pointer[1..].replace('/', ".")), "{pointer}: {said}");
            refused += 1;
        } else {
            assert_eq!(status, 202, "{pointer}: {body}");
            stand.api()?.planned(&guid, LIMIT).await?;
            taken += 1;
        }
    }
    assert!(taken > 10 && refused == needed.len() + 1, "{taken} taken, {refused} refused");
    Ok(())
}

fn members(of: &Value, at: &str, found: &mut Vec<String>) {
    for (key, value) in of.as_object().into_iter().flatten() {
        let pointer = format!("{at}/{key}");
        members(value, &pointer, found);
        found.push(pointer);
    }
}
