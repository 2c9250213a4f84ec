use serde_json::{Value, json};

use crate::testing::{PIPELINE, REPOSITORY, Stand, push_payload};

async fn run(stand: &Stand, id: &Value) -> Value {
    stand.get(&format!("/api/v1/runs/{id}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_pipeline_file_makes_a_failed_run_that_shows_where_and_why() {
    let stand = Stand::start().await;
    let broken = "on: push\njobs:\n  test:\n    runs_on: linux\n    steps:\n      - run: 'true'\n";
    stand.push("d1", &[(".segue/pipelines/ci.yml", PIPELINE), (".segue/pipelines/deploy.yml", broken)]).await;
    let delivery = stand.settled("d1").await;
    assert_eq!(delivery["runs"].as_array().unwrap().len(), 2, "{delivery}");
    let runs = stand.get("/api/v1/runs?status=failed").await;
    let failed = &runs["items"][0];
    assert_eq!((&failed["pipeline"], &failed["file"]), (&json!("deploy"), &json!(".segue/pipelines/deploy.yml")));
    let reason = failed["reason"].as_str().unwrap();
    for wanted in [".segue/pipelines/deploy.yml:4", "runs_on", "runs-on"] {
        assert!(reason.contains(wanted), "{wanted} is not in\n{reason}");
    }
    assert_eq!(run(&stand, &failed["id"]).await["jobs"], json!([]));
    assert_eq!(stand.get("/api/v1/runs?status=queued").await["items"][0]["pipeline"], "ci");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_without_a_pipeline_for_it_starts_nothing_and_says_so() {
    let stand = Stand::start().await;
    stand.push("none", &[("README.md", "x")]).await;
    let delivery = stand.settled("none").await;
    assert!(delivery["reason"].as_str().unwrap().contains("no `.segue/pipelines/*.yml`"), "{delivery}");
    let for_tags = PIPELINE.replace("[push, workflow_dispatch]", "{push: {tags: [v*]}}");
    stand.push("tags", &[(".segue/pipelines/ci.yml", &for_tags)]).await;
    let delivery = stand.settled("tags").await;
    assert_eq!(delivery["status"], "ignored");
    assert!(delivery["reason"].as_str().unwrap().contains(".segue/pipelines/ci.yml"), "{delivery}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_on_paths_is_held_against_what_changed() {
    let stand = Stand::start().await;
    let filtered = PIPELINE.replace("[push, workflow_dispatch]", "{push: {paths: ['src/**']}}");
    let first = stand.push("first", &[(".segue/pipelines/ci.yml", &filtered)]).await;
    assert_eq!(stand.settled("first").await["status"], "planned", "of a new branch everything counts as changed");
    for (guid, file, status) in [("docs", "README.md", "ignored"), ("code", "src/a.rs", "planned")] {
        let commit = stand.upstream.commit("main", &[(file, guid)]);
        let from = stand.get("/api/v1/deliveries?limit=1").await;
        assert!(from["items"][0]["id"].is_string());
        let before = if guid == "docs" { first.to_string() } else { parent(&stand, &commit.to_string()) };
        let body = push_payload("refs/heads/main", &commit).replace(&"0".repeat(40), &before);
        assert_eq!(stand.webhook(guid, "push", body).send().await.unwrap().status(), 202);
        assert_eq!(stand.settled(guid).await["status"], status, "{guid}");
    }
}

fn parent(stand: &Stand, commit: &str) -> String {
    let output = std::process::Command::new("git")
        .args(["--git-dir", stand.upstream.path().to_str().unwrap(), "rev-parse", &format!("{commit}^")])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_is_away_is_asked_again_and_the_push_is_not_lost() {
    let mut stand = Stand::start().await;
    let commit = stand.upstream.commit("main", &[(".segue/pipelines/ci.yml", PIPELINE)]);
    let away = stand.upstream.path().with_extension("away");
    std::fs::rename(stand.upstream.path(), &away).unwrap();
    let body = push_payload("refs/heads/main", &commit);
    assert_eq!(stand.webhook("d1", "push", body).send().await.unwrap().status(), 202);
    let mut reason = Value::Null;
    for _ in 0..200 {
        reason = stand.get("/api/v1/deliveries/d1").await["reason"].clone();
        if reason.is_string() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(reason.as_str().unwrap().contains("upstream.git"), "{reason}");
    // over a restart as well
    let config = stand.stop().await;
    std::fs::rename(&away, stand.upstream.path()).unwrap();
    stand.serve(config).await;
    assert_eq!(stand.settled("d1").await["status"], "planned");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_nowhere_ends_as_a_failed_run() {
    let stand = Stand::start().await;
    stand.upstream.commit("main", &[(".segue/pipelines/ci.yml", PIPELINE)]);
    let nowhere = "0123456789012345678901234567890123456789".parse().unwrap();
    let body = push_payload("refs/heads/main", &nowhere);
    assert_eq!(stand.webhook("d1", "push", body).send().await.unwrap().status(), 202);
    stand.settled("d1").await;
    let run = &stand.get("/api/v1/runs").await["items"][0];
    assert_eq!(run["status"], "failed");
    assert!(run["reason"].as_str().unwrap().contains("has no commit 0123456789"), "{run}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_is_run_by_hand_and_the_same_key_starts_it_once() {
    let stand = Stand::start().await;
    let commit = stand.upstream.commit("-x", &[(".segue/pipelines/ci.yml", PIPELINE)]);
    let path = format!("/api/v1/repositories/{REPOSITORY}/dispatches");
    for _ in 0..2 {
        let request = stand.admin(reqwest::Method::POST, &path).json(&json!({"ref": "-x", "key": "k1", "by": "ada"}));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 201);
        let dispatched: Value = response.json().await.unwrap();
        let run = &dispatched["runs"][0];
        assert_eq!((&run["id"], &run["commit"], &run["ref"]), (&json!(1), &json!(commit), &json!("refs/heads/-x")));
        assert_eq!((&dispatched["delivery"], &run["actor"]), (&json!("k1"), &json!("ada")));
    }
    let missing = stand.admin(reqwest::Method::POST, &path).json(&json!({"ref": "nope"})).send().await.unwrap();
    assert_eq!(missing.status(), 404);
    let other = stand.admin(reqwest::Method::POST, "/api/v1/repositories/acme/other/dispatches").send().await.unwrap();
    assert_eq!(other.status(), 422);
    assert!(other.text().await.unwrap().contains("repositories.acme/other.clone-url"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pushes_at_once_are_all_planned() {
    let stand = Stand::start().await;
    let commits: Vec<_> = (0..20)
        .map(|n| stand.upstream.commit("main", &[(".segue/pipelines/ci.yml", PIPELINE), ("n", &n.to_string())]))
        .collect();
    let sent = commits
        .iter()
        .enumerate()
        .map(|(n, commit)| stand.webhook(&format!("d{n}"), "push", push_payload("refs/heads/main", commit)).send());
    for response in futures_util::future::join_all(sent).await {
        assert_eq!(response.unwrap().status(), 202);
    }
    for n in 0..commits.len() {
        assert_eq!(stand.settled(&format!("d{n}")).await["status"], "planned");
    }
    assert_eq!(stand.get("/api/v1/runs").await["items"].as_array().unwrap().len(), commits.len());
}
