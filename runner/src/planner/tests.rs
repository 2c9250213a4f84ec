use serde_json::{Value, json};

use crate::testing::{PIPELINE, REPOSITORY, Stand, pull_request_payload, push_payload};

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

const CI: &str = ".segue/pipelines/ci.yml";

/// Tells the server of an event, and gives the first run that came of it.
async fn run_of(stand: &Stand, guid: &str, event: &str, body: String) -> Value {
    assert_eq!(stand.webhook(guid, event, body).send().await.unwrap().status(), 202);
    let delivery = stand.settled(guid).await;
    assert_eq!(delivery["status"], "planned", "{delivery}");
    run(stand, &delivery["runs"][0]).await["run"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_and_pull_request_of_the_same_head_run_once_unless_asked_for() {
    let stand = Stand::start().await;
    let both = PIPELINE.replace("[push, workflow_dispatch]", "[push, pull_request]");
    let base = stand.upstream.commit("main", &[(CI, &both)]);
    let head = stand.upstream.commit("topic", &[("a", "1")]);
    let push = |head| push_payload("refs/heads/topic", head);
    let opened = |head| pull_request_payload("opened", "topic", head, &base);
    let first = run_of(&stand, "push", "push", push(&head)).await;
    assert_eq!(first["status"], "queued");
    let second = run_of(&stand, "pr", "pull_request", opened(&head)).await;
    assert_eq!(second["status"], "skipped");
    let reason = second["reason"].as_str().unwrap();
    assert!(
        reason.contains(&format!("run {} has this commit", first["id"])) && reason.contains("repeat-push"),
        "{reason}"
    );
    // the other way round, and another branch at the same commit is another matter
    let head = stand.upstream.commit("topic", &[("a", "2")]);
    assert_eq!(run_of(&stand, "pr2", "pull_request", opened(&head)).await["status"], "queued");
    assert_eq!(run_of(&stand, "push2", "push", push(&head)).await["status"], "skipped");
    let elsewhere = push_payload("refs/heads/main", &head);
    stand.upstream.commit("main", &[]);
    assert_eq!(run_of(&stand, "push3", "push", elsewhere).await["status"], "queued");
    // asked for
    let asked = PIPELINE.replace("[push, workflow_dispatch]", "{push: , pull_request: {repeat-push: true}}");
    let head = stand.upstream.commit("topic", &[(CI, &asked)]);
    assert_eq!(run_of(&stand, "push4", "push", push(&head)).await["status"], "queued");
    assert_eq!(run_of(&stand, "pr4", "pull_request", opened(&head)).await["status"], "queued");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_asks_for_no_run_leaves_a_skipped_one_that_can_be_run_all_the_same() {
    let stand = Stand::start().await;
    let both = PIPELINE.replace("[push, workflow_dispatch]", "[push, pull_request]");
    let base = stand.upstream.commit("main", &[(CI, &both)]);
    let head = stand.upstream.commit_saying("Write more [skip ci]", "topic", &[("README.md", "x")]);
    // the payload of a pull request does not hold the message: it is read from the commit
    let skipped = run_of(&stand, "pr", "pull_request", pull_request_payload("opened", "topic", &head, &base)).await;
    assert_eq!(skipped["status"], "skipped");
    assert!(skipped["reason"].as_str().unwrap().contains("[skip ci]"), "{skipped}");
    let body = push_payload("refs/heads/topic", &head).replace("Sell more", "Sell more\\n\\nskip-checks: true");
    let skipped = run_of(&stand, "push", "push", body).await;
    assert_eq!(skipped["status"], "skipped");
    assert!(stand.claim().await.is_none(), "nothing is to be done");
    let path = format!("/api/v1/runs/{}/rerun", skipped["id"]);
    let again = stand.admin(reqwest::Method::POST, &path).json(&json!({})).send().await.unwrap();
    assert_eq!(again.status(), 200, "{}", again.text().await.unwrap());
    assert_eq!(run(&stand, &skipped["id"]).await["run"]["status"], "queued");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_are_checked_before_anything_starts_and_keep_their_types() {
    let stand = Stand::start().await;
    let inputs = "{workflow_dispatch: {inputs: {count: {type: number, default: 2}, dry: {type: boolean}, to: {required: true}}}}";
    stand.upstream.commit("main", &[(CI, &PIPELINE.replace("[push, workflow_dispatch]", inputs))]);
    let path = format!("/api/v1/repositories/{REPOSITORY}/dispatches");
    let post = |inputs: Value| stand.admin(reqwest::Method::POST, &path).json(&json!({"inputs": inputs})).send();
    let refused = post(json!({"count": "many", "too": "x"})).await.unwrap();
    assert_eq!(refused.status(), 422);
    let text = refused.text().await.unwrap();
    for words in ["no input `too`: did you mean `to`?", "`many` is not a number", "input `to` is required"] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    assert_eq!(stand.get("/api/v1/runs").await["items"], json!([]));
    assert_eq!(post(json!({"to": "ada", "dry": "true"})).await.unwrap().status(), 201);
    let claimed = stand.claim().await.unwrap();
    assert_eq!(claimed["contexts"]["inputs"], json!({"count": 2, "dry": true, "to": "ada"}));
    let of_event = &claimed["contexts"]["github"]["event"]["inputs"];
    assert_eq!(*of_event, json!({"count": "2", "dry": "true", "to": "ada"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_dispatch_runs_the_default_branch_by_webhook_and_by_hand() {
    let stand = Stand::start().await;
    let pipeline = PIPELINE.replace("[push, workflow_dispatch]", "{repository_dispatch: {types: [deploy]}}");
    let commit = stand.upstream.commit("main", &[(CI, &pipeline)]);
    stand.upstream.commit("topic", &[("a", "1")]);
    let body = json!({
        "action": "deploy", "branch": "main", "client_payload": {"version": 3},
        "repository": {"full_name": REPOSITORY}, "sender": {"login": "ada"},
    });
    let started = run_of(&stand, "d1", "repository_dispatch", body.to_string()).await;
    assert_eq!((&started["commit"], &started["ref"]), (&json!(commit), &json!("refs/heads/main")));
    assert_eq!(stand.claim().await.unwrap()["contexts"]["github"]["event"]["client_payload"], json!({"version": 3}));
    let path = format!("/api/v1/repositories/{REPOSITORY}/events");
    let post = |body: Value| stand.admin(reqwest::Method::POST, &path).json(&body).send();
    assert_eq!(post(json!({"event_type": "deploy"})).await.unwrap().status(), 201);
    for refused in [
        json!({"event_type": "other"}),
        json!({"event_type": ""}),
        json!({"event_type": "deploy", "client_payload": [1]}),
    ] {
        assert_eq!(post(refused.clone()).await.unwrap().status(), 422, "{refused}");
    }
    let comment = json!({
        "action": "created", "issue": {"number": 7}, "comment": {"body": "/segue deploy staging"},
        "repository": {"full_name": REPOSITORY}, "sender": {"login": "ada"},
    });
    assert_eq!(stand.webhook("c1", "issue_comment", comment.to_string()).send().await.unwrap().status(), 202);
    let delivery = stand.settled("c1").await;
    assert!(delivery["reason"].as_str().unwrap().contains("commands are for pull requests"), "{delivery}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schedules_of_the_default_branch_are_known_and_follow_its_pushes() {
    let stand = Stand::start().await;
    let nightly = |cron: &str| {
        PIPELINE.replace("[push, workflow_dispatch]", &format!("{{push: , schedule: [{{cron: '{cron}'}}]}}"))
    };
    stand.push("d1", &[(CI, &nightly("30 5 * * *"))]).await;
    let store = stand.store();
    let due = async |hour: &str| {
        for _ in 0..500 {
            let due = store.next_schedule_due().await.unwrap().map(|due| due.to_string()).unwrap_or_default();
            if due.contains(hour) || (hour.is_empty() && due.is_empty()) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{hour} is not what is scheduled: {:?}", store.next_schedule_due().await);
    };
    due("T05:30:00").await;
    let other = stand.upstream.commit("topic", &[(CI, &nightly("30 7 * * *"))]);
    run_of(&stand, "d2", "push", push_payload("refs/heads/topic", &other)).await;
    stand.push("d3", &[(CI, &nightly("30 6 * * *"))]).await;
    due("T06:30:00").await;
    stand.push("d4", &[(CI, PIPELINE)]).await;
    due("").await;
}
