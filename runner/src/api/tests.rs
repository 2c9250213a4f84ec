use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::testing::{PIPELINE, REPOSITORY, Stand};

const PIPELINES: &str = ".segue/pipelines/ci.yml";

/// Starts a run and leases its job.
async fn claimed(stand: &Stand) -> Value {
    stand.push("d1", &[(PIPELINES, PIPELINE)]).await;
    stand.settled("d1").await;
    stand.claim().await.unwrap()
}

async fn append(stand: &Stand, claim: &Value, offset: usize, text: &str) -> Value {
    let path = format!("/api/v1/worker/jobs/{}/logs?epoch={}&offset={offset}", id(claim), claim["epoch"]);
    let response = stand.worker(Method::POST, &path).body(text.to_owned()).send().await.unwrap();
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    response.json().await.unwrap()
}

async fn finish(stand: &Stand, claim: &Value, conclusion: &str) {
    let failed = conclusion == "failure";
    let finish = json!({
        "epoch": claim["epoch"], "conclusion": conclusion, "outputs": {"a": "1"}, "log_bytes": 0,
        "reason": failed.then_some("exit code 1"), "failure_class": failed.then_some("script"),
        "steps": [{"index": 0, "name": "true", "status": if failed { "failed" } else { "succeeded" }, "outcome": conclusion}],
    });
    let path = format!("/api/v1/worker/jobs/{}/finish", id(claim));
    let response = stand.worker(Method::POST, &path).json(&finish).send().await.unwrap();
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
}

fn id(claim: &Value) -> &str {
    claim["job"].as_str().unwrap()
}

/// Reads server-sent events as `(event, id, data)`.
struct Events {
    stream: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    text: String,
}

impl Events {
    async fn open(stand: &Stand, path: &str) -> Self {
        let response = stand.admin(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { stream: Box::pin(response.bytes_stream()), text: String::new() }
    }

    async fn next(&mut self) -> Option<(String, String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    line.unwrap_or_default().to_owned()
                };
                let parsed = (field("event"), field("id"), field("data"));
                self.text = rest.to_owned();
                if !parsed.2.is_empty() {
                    return Some((parsed.0, parsed.1, serde_json::from_str(&parsed.2).unwrap()));
                }
                continue;
            }
            let part = tokio::time::timeout(Duration::from_secs(10), self.stream.next()).await.expect("an event");
            self.text.push_str(std::str::from_utf8(&part?.unwrap()).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_token_opens_its_own_part_and_nothing_opens_without() {
    let stand = Stand::start().await;
    let worker_path = "/api/v1/worker/jobs/claim";
    for (request, path) in [
        (stand.anonymous(Method::GET, "/api/v1/runs"), "no token"),
        (stand.worker(Method::GET, "/api/v1/runs"), "the worker's token"),
        (stand.anonymous(Method::GET, "/api/v1/runs").bearer_auth("x"), "another token"),
        (stand.admin(Method::POST, worker_path), "the admin's token"),
        (stand.anonymous(Method::GET, "/api/v1/nowhere"), "no token, no path"),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 401, "{path}");
        assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "unauthorized");
    }
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/nowhere", 404)] {
        assert_eq!(stand.anonymous(Method::GET, path).send().await.unwrap().status(), status, "{path}");
    }
    let nowhere = stand.admin(Method::GET, "/api/v1/nowhere").send().await.unwrap();
    assert!(nowhere.headers().contains_key("x-request-id"));
    assert_eq!(nowhere.json::<Value>().await.unwrap()["error"]["code"], "not_found");
    use std::os::unix::fs::PermissionsExt as _;
    for file in ["admin-token", "worker-token", "webhook-secret", "segue.db", "segue.db-wal", "segue.db-shm"] {
        assert_eq!(std::fs::metadata(stand.data().join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_names_every_public_path() {
    let stand = Stand::start().await;
    let description = stand.get("/api/v1/openapi.json").await;
    let paths = description["paths"].as_object().unwrap();
    for path in [
        "/runs",
        "/runs/{id}",
        "/runs/{id}/events",
        "/runs/{id}/rerun",
        "/runs/{id}/cancel",
        "/runs/{id}/approve",
        "/repositories/{owner}/{name}/dispatches",
        "/jobs/{id}",
        "/jobs/{id}/logs",
        "/releases",
        "/environments",
        "/environments/{environment}/services/{service}/rollback",
        "/promotions",
        "/backups",
        "/backups/sync",
        "/backups/{id}/restore",
        "/rollouts",
        "/rollouts/{id}",
        "/rollouts/{id}/events",
        "/rollouts/{id}/promote",
        "/rollouts/{id}/abort",
        "/rollouts/{id}/skip",
        "/secrets",
        "/secrets/{name}",
        "/workers",
        "/workers/{id}/drain",
        "/worker-tokens",
        "/worker-tokens/{name}",
        "/queue",
        "/queue/dead-letters",
        "/queue/dead-letters/requeue",
        "/status",
        "/deliveries",
        "/deliveries/{guid}",
    ] {
        assert!(paths.contains_key(path), "{path} is not described");
    }
    let text = description.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(description["components"]["schemas"][name].is_object(), "{name} is not described");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_read_is_answered_in_the_apis_words() {
    let stand = Stand::start().await;
    let post = |path: &str| stand.admin(Method::POST, path);
    let json = "application/json";
    for (request, status, code) in [
        (stand.admin(Method::GET, "/api/v1/runs/x"), 400, "bad_request"),
        (stand.admin(Method::GET, "/api/v1/runs/99"), 404, "not_found"),
        (stand.admin(Method::GET, "/api/v1/runs?status=odd"), 400, "bad_request"),
        (stand.admin(Method::GET, "/api/v1/runs?ref=a%20b"), 400, "bad_request"),
        (stand.admin(Method::GET, "/api/v1/jobs/1/logs"), 400, "bad_request"),
        (stand.admin(Method::GET, "/api/v1/runs/99/events"), 404, "not_found"),
        (stand.admin(Method::GET, "/api/v1/rollouts/7/events"), 404, "not_found"),
        (post("/api/v1/runs/99/cancel"), 404, "not_found"),
        (post("/api/v1/runs/99/rerun").header("content-type", json).body("{\"faild\":true}"), 400, "bad_request"),
        (post("/api/v1/runs/99/rerun").header("content-type", "text/plain").body("x"), 415, "unsupported_media_type"),
        (post("/api/v1/runs/99/rerun").header("content-type", json).body(vec![b' '; 5 << 20]), 413, "too_large"),
        (post("/api/v1/rollouts/7/promote"), 404, "not_found"),
        (stand.worker(Method::POST, "/api/v1/worker/register").json(&json!({})), 400, "bad_request"),
        (stand.worker(Method::GET, &format!("/api/v1/worker/artifacts/sha256:{}", "0".repeat(64))), 404, "not_found"),
    ] {
        let response = request.send().await.unwrap();
        let url = response.url().to_string();
        assert_eq!(response.status(), status, "{url}: {}", response.text().await.unwrap());
        let body: Value = response.json().await.unwrap_or_default();
        assert_eq!(body["error"]["code"], code, "{url}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_from_claim_to_end_and_a_stale_epoch_changes_nothing() {
    let stand = Stand::start().await;
    let claim = claimed(&stand).await;
    assert_eq!(claim["repository"], REPOSITORY);
    let mirror = stand.data().join("mirrors/acme/shop.git");
    assert_eq!(claim["mirror"], mirror.to_str().unwrap());
    assert!(mirror.join("HEAD").is_file());

    append(&stand, &claim, 0, "hello\n").await;
    let stale = format!("/api/v1/worker/jobs/{}/logs?epoch=0&offset=6", id(&claim));
    let stale = stand.worker(Method::POST, &stale).body("late\n").send().await.unwrap();
    assert_eq!(stale.status(), 409);
    assert_eq!(stale.json::<Value>().await.unwrap()["error"]["code"], "stale_epoch");
    finish(&stand, &claim, "failure").await;

    let run = stand.get("/api/v1/runs/1").await;
    assert_eq!((&run["run"]["status"], &run["jobs"][0]["status"]), (&json!("failed"), &json!("failed")));
    assert_eq!(run["jobs"][0]["reason"], "exit code 1");
    let log = stand.admin(Method::GET, &format!("/api/v1/jobs/{}/logs", id(&claim))).send().await.unwrap();
    assert_eq!(log.headers()["segue-log-end"], "6");
    assert_eq!(log.text().await.unwrap(), "hello\n");
    let part = format!("/api/v1/jobs/{}/logs?offset=1&limit=3", id(&claim));
    assert_eq!(stand.admin(Method::GET, &part).send().await.unwrap().text().await.unwrap(), "ell");

    let rerun = stand.admin(Method::POST, "/api/v1/runs/1/rerun").json(&json!({"failed": true})).send().await.unwrap();
    assert_eq!(rerun.status(), 200);
    assert_eq!(rerun.json::<Value>().await.unwrap()["attempt"], 2);
    assert_eq!(stand.get("/api/v1/runs/1?attempt=1").await["jobs"][0]["status"], "failed", "it stays readable");
    let second = stand.claim().await.unwrap();
    finish(&stand, &second, "success").await;
    assert_eq!(stand.get("/api/v1/runs/1").await["run"]["status"], "succeeded");
    assert_eq!(stand.get("/api/v1/runs?status=succeeded").await["items"][0]["id"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_carried_over_shows_the_log_that_it_wrote() {
    let stand = Stand::start().await;
    let two = PIPELINE.replace("jobs:\n", "jobs:\n  first:\n    runs-on: linux\n    steps:\n      - run: 'true'\n");
    let two = two.replace("  test:\n", "  test:\n    needs: first\n");
    stand.push("d1", &[(PIPELINES, &two)]).await;
    stand.settled("d1").await;
    let first = stand.claim().await.unwrap();
    append(&stand, &first, 0, "from the first attempt\n").await;
    finish(&stand, &first, "success").await;
    let second = stand.claim().await.unwrap();
    finish(&stand, &second, "failure").await;
    let rerun = stand.admin(Method::POST, "/api/v1/runs/1/rerun").json(&json!({"failed": true})).send().await.unwrap();
    assert_eq!(rerun.status(), 200);
    let carried = stand.get("/api/v1/runs/1").await["jobs"][0].clone();
    assert_eq!((&carried["key"], &carried["status"]), (&json!("first"), &json!("succeeded")));
    assert_ne!(carried["id"], first["job"]);
    for query in ["", "?follow=true"] {
        let path = format!("/api/v1/jobs/{}/logs{query}", carried["id"].as_str().unwrap());
        let log = stand.admin(Method::GET, &path).send().await.unwrap().text().await.unwrap();
        assert!(log.contains("from the first attempt"), "{query}: {log}");
    }
}

/// A job that somebody was given, once it has been given back.
async fn claimed_again(stand: &Stand) -> Value {
    let asked = Instant::now();
    loop {
        match stand.claim().await {
            Some(claim) => return claim,
            None => assert!(asked.elapsed() < Duration::from_secs(5), "the job is leased to nobody"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_brings_the_next_job_to_whoever_may_claim_one() {
    let stand = Stand::start().await;
    for delivery in ["d1", "d2", "d3"] {
        stand.push(delivery, &[(PIPELINES, &format!("{PIPELINE}# {delivery}\n"))]).await;
        stand.settled(delivery).await;
    }
    let end = |claim: &Value| {
        json!({"epoch": claim["epoch"], "conclusion": "success", "outputs": {}, "steps": [], "log_bytes": 0,
               "next": {"worker": "w1", "incarnation": "1", "labels": ["linux"], "wait_ms": 0}})
    };
    let path = |claim: &Value| format!("/api/v1/worker/jobs/{}/finish", id(claim));
    let first = stand.claim().await.unwrap();
    let ended = stand.worker(Method::POST, &path(&first)).json(&end(&first)).send().await.unwrap();
    let second = ended.json::<Value>().await.unwrap()["next"].clone();
    assert_eq!((&second["run"], &second["held_ms"]), (&json!(2), &json!(0)), "{second}");

    // the lease's own token ends its job, and opens no other
    let token = second["token"].as_str().unwrap();
    let ended =
        stand.anonymous(Method::POST, &path(&second)).bearer_auth(token).json(&end(&second)).send().await.unwrap();
    assert_eq!(ended.status(), 200);
    assert_eq!(ended.json::<Value>().await.unwrap(), json!({"cancel": false}));
    for run in [1, 2] {
        assert_eq!(stand.get(&format!("/api/v1/runs/{run}")).await["run"]["status"], "succeeded");
    }

    // an end that is refused leaves the job that it would have brought to others
    let stale = stand.worker(Method::POST, &path(&first)).json(&{
        let mut end = end(&first);
        end["epoch"] = json!(7);
        end
    });
    assert_eq!(stale.send().await.unwrap().status(), 409);
    assert_eq!(claimed_again(&stand).await["run"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_caller_goes_away_is_given_back() {
    use tokio::io::AsyncWriteExt as _;

    let stand = Stand::start().await;
    stand.push("d1", &[(PIPELINES, PIPELINE)]).await;
    stand.settled("d1").await;
    let mut claim = stand.claim().await.unwrap();
    let body = json!({"worker": "w1", "incarnation": "1", "labels": ["linux"], "wait_ms": 20_000}).to_string();
    let request = stand.worker(Method::POST, "/api/v1/worker/jobs/claim").build().unwrap();
    let token = request.headers()["authorization"].to_str().unwrap().to_owned();
    let address = request.url().socket_addrs(|| None).unwrap()[0];
    let head = format!(
        "POST /api/v1/worker/jobs/claim HTTP/1.1\r\nhost: segue\r\nauthorization: {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for _ in 0..10 {
        let path = format!("/api/v1/worker/jobs/{}/hand-back", id(&claim));
        let back =
            json!({"epoch": claim["epoch"], "next_step": null, "steps": [], "log_bytes": 0, "reason": "it stops"});
        assert_eq!(stand.worker(Method::POST, &path).json(&back).send().await.unwrap().status(), 200);
        let mut gone = tokio::net::TcpStream::connect(address).await.unwrap();
        gone.write_all(head.as_bytes()).await.unwrap();
        drop(gone);
        claim = claimed_again(&stand).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_artifact_that_was_asked_for_is_not_removed_before_it_is_named() {
    let stand = Stand::start().await;
    let store = crate::store::Store::open(crate::store::StoreOptions {
        data: stand.data(),
        config: stand.running.as_ref().unwrap().reach.config.clone(),
        clock: crate::store::Clock::system(),
    });
    let store = store.await.unwrap();
    for method in [Method::HEAD, Method::PUT] {
        let content = format!("brought by {method}");
        let hash = hex::encode(ring::digest::digest(&ring::digest::SHA256, content.as_bytes()));
        let path = format!("/api/v1/worker/artifacts/sha256:{hash}");
        let put = |method: Method| stand.worker(method, &path).body(content.clone()).send();
        assert_eq!(put(Method::PUT).await.unwrap().status(), 201);
        // it lay there for so long that retention takes it for left over
        let file = store.artifacts().path(&format!("sha256:{hash}").parse().unwrap()).unwrap();
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(7 * 86_400);
        std::fs::File::open(&file).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(put(method.clone()).await.unwrap().status(), 200, "{method}");
        store.clean_up().await.unwrap();
        assert!(file.exists(), "removed after a {method} that said that it is here");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_claim_is_answered_when_a_push_is_planned() {
    let stand = Stand::start().await;
    assert_eq!(stand.claim().await, None);
    let wait = json!({"worker": "w1", "incarnation": "1", "labels": ["linux"], "wait_ms": 20_000});
    let parked = tokio::spawn(stand.worker(Method::POST, "/api/v1/worker/jobs/claim").json(&wait).send());
    tokio::time::sleep(Duration::from_millis(100)).await;
    stand.push("d1", &[(PIPELINES, PIPELINE)]).await;
    let claim: Value = parked.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(claim["run"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_answers_the_parked_renewal_at_once() {
    let stand = Stand::start().await;
    let claim = claimed(&stand).await;
    let renew = format!("/api/v1/worker/jobs/{}/renew", id(&claim));
    let renew = stand.worker(Method::POST, &renew).json(&json!({"epoch": claim["epoch"], "wait_ms": 20_000}));
    let parked = tokio::spawn(renew.send());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    let cancelled =
        stand.admin(Method::POST, "/api/v1/runs/1/cancel").json(&json!({"by": "ada"})).send().await.unwrap();
    assert_eq!(cancelled.status(), 200);
    let renewed: Value = parked.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(renewed, json!({"cancel": true}));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_followed_from_an_offset_to_the_end_of_its_job() {
    let stand = Stand::start().await;
    stand.push("d1", &[(PIPELINES, PIPELINE)]).await;
    stand.settled("d1").await;
    let job = stand.get("/api/v1/runs/1").await["jobs"][0]["id"].as_str().unwrap().to_owned();
    // before anybody has claimed the job
    let mut events = Events::open(&stand, &format!("/api/v1/jobs/{job}/logs?follow=true")).await;
    let claim = stand.claim().await.unwrap();
    append(&stand, &claim, 0, "one €").await;
    assert_eq!(events.next().await.unwrap(), ("log".into(), "7".into(), json!({"offset": 0, "text": "one €"})));
    append(&stand, &claim, 7, "two\n").await;
    assert_eq!(events.next().await.unwrap(), ("log".into(), "11".into(), json!({"offset": 7, "text": "two\n"})));
    finish(&stand, &claim, "success").await;
    assert_eq!(events.next().await.unwrap().2, json!({"offset": 11, "status": "succeeded"}));
    assert_eq!(events.next().await, None);

    // whoever was cut off goes on where it stopped
    let request =
        stand.admin(Method::GET, &format!("/api/v1/jobs/{job}/logs?follow=true")).header("last-event-id", "7");
    let rest = request.send().await.unwrap().text().await.unwrap();
    assert!(rest.contains("{\"offset\":7,\"text\":\"two\\n\"}") && rest.contains("event: end"), "{rest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_of_a_large_log_costs_no_memory() {
    let stand = Stand::start().await;
    let claim = claimed(&stand).await;
    let chunk = "0123456789abcde\n".repeat(1 << 18);
    for n in 0..16 {
        append(&stand, &claim, n * chunk.len(), &chunk).await;
    }
    finish(&stand, &claim, "success").await;
    let before = crate::testing::peak_memory_kib();
    let path = format!("/api/v1/jobs/{}/logs", id(&claim));
    let mut readers = Vec::new();
    for query in ["", "?follow=true"].repeat(4) {
        readers.push(stand.admin(Method::GET, &format!("{path}{query}")).send().await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let grown = crate::testing::peak_memory_kib() - before;
    assert!(grown < 16 * 1024, "eight readers of 64 MiB that do not read cost {grown} KiB");
    let mut length = 0;
    let mut stream = readers.swap_remove(0).bytes_stream();
    while let Some(part) = stream.next().await {
        length += part.unwrap().len();
    }
    assert_eq!(length, 16 * chunk.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_watched_from_its_state_to_its_end() {
    let stand = Stand::start().await;
    stand.push("d1", &[(PIPELINES, PIPELINE)]).await;
    stand.settled("d1").await;
    let mut events = Events::open(&stand, "/api/v1/runs/1/events").await;
    let (kind, _, run) = events.next().await.unwrap();
    assert_eq!((kind.as_str(), &run["kind"], &run["data"]["status"]), ("run", &json!("run"), &json!("queued")));
    let (kind, _, job) = events.next().await.unwrap();
    assert_eq!((kind.as_str(), &job["data"]["key"], &job["data"]["status"]), ("job", &json!("test"), &json!("queued")));
    let claim = stand.claim().await.unwrap();
    finish(&stand, &claim, "success").await;
    let mut seen = Vec::new();
    while let Some((kind, _, event)) = events.next().await {
        seen.push(format!("{kind} {}", event["data"]["status"].as_str().unwrap()));
    }
    assert_eq!(seen.last().unwrap(), "end succeeded", "{seen:?}");
    assert!(seen.contains(&"job succeeded".to_owned()), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_a_run_hears_that_combinations_took_the_place_of_a_job() {
    const MATRIX: &str = "on: push\njobs:\n  list: { steps: [{ run: x }] }\n  each:\n    needs: list\n    strategy: { matrix: { n: [1, 2] } }\n    \
                          steps: [{ run: x }]\n";
    let stand = Stand::start().await;
    stand.push("d1", &[(PIPELINES, MATRIX)]).await;
    stand.settled("d1").await;
    let mut events = Events::open(&stand, "/api/v1/runs/1/events").await;
    let mut each = None;
    while each.is_none() {
        let (_, _, event) = events.next().await.unwrap();
        each = (event["data"]["key"] == "each").then(|| event["data"]["id"].clone());
    }
    let list = stand.claim().await.unwrap();
    finish(&stand, &list, "success").await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let (kind, _, event) = events.next().await.unwrap();
        match kind.as_str() {
            "gone" => seen.push(event["data"].clone()),
            "job" if event["data"]["key"] != "list" => seen.push(event["data"]["key"].clone()),
            _ => {}
        }
    }
    seen[1..].sort_by_key(Value::to_string);
    assert_eq!(seen, [each.unwrap(), json!("each (1)"), json!("each (2)")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_artifact_is_taken_only_under_its_own_digest() {
    let stand = Stand::start().await;
    let claim = claimed(&stand).await;
    let content = vec![7_u8; 3 << 20];
    let digest = format!("sha256:{}", hex::encode(ring::digest::digest(&ring::digest::SHA256, &content)));
    let path = format!("/api/v1/worker/artifacts/{digest}");
    assert_eq!(stand.worker(Method::HEAD, &path).send().await.unwrap().status(), 404);
    let other = stand.worker(Method::PUT, &path).body("something else").send().await.unwrap();
    assert_eq!(other.status(), 422);
    for status in [201, 200] {
        assert_eq!(stand.worker(Method::PUT, &path).body(content.clone()).send().await.unwrap().status(), status);
    }
    let attach = json!({"epoch": claim["epoch"], "name": "shop", "digest": digest, "bytes": content.len()});
    let artifacts = format!("/api/v1/worker/jobs/{}/artifacts", id(&claim));
    assert_eq!(stand.worker(Method::POST, &artifacts).json(&attach).send().await.unwrap().status(), 200);
    let found = stand.worker(Method::GET, &format!("{artifacts}/shop")).send().await.unwrap();
    assert_eq!(found.json::<Value>().await.unwrap()["digest"], digest);
    let fetched = stand.worker(Method::GET, &path).send().await.unwrap();
    assert_eq!(fetched.headers()["content-length"], content.len().to_string());
    assert_eq!(fetched.bytes().await.unwrap(), content);
    assert_eq!(stand.get("/api/v1/runs/1").await["artifacts"][0]["name"], "shop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_set_and_listed_and_never_read() {
    let stand = Stand::start().await;
    let put = |scope: &str| {
        stand.admin(Method::PUT, &format!("/api/v1/secrets/TOKEN{scope}")).json(&json!({"value": "hunter2"}))
    };
    for scope in ["", "?environment=production", "?repository=acme/shop"] {
        let answer = put(scope).send().await.unwrap();
        assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
    }
    assert_eq!(put("?repository=nonsense").send().await.unwrap().status(), 400);
    let list = stand.get("/api/v1/secrets").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
    assert!(!list.to_string().contains("hunter2"));
    let delete = |scope: &str| stand.admin(Method::DELETE, &format!("/api/v1/secrets/TOKEN{scope}"));
    assert_eq!(delete("?environment=production").send().await.unwrap().status(), 204);
    assert_eq!(delete("?environment=production").send().await.unwrap().status(), 404);
    let database = std::fs::read(stand.data().join("segue.db")).unwrap();
    assert!(!database.windows(7).any(|bytes| bytes == b"hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_says_how_it_stands() {
    let stand = Stand::start().await;
    stand.push("d1", &[(PIPELINES, PIPELINE)]).await;
    stand.settled("d1").await;
    let status = stand.get("/api/v1/status").await;
    assert_eq!((&status["queued_jobs"], &status["unplanned_deliveries"]), (&json!(1), &json!(0)));
    assert!(status["disk_free_mib"].as_u64().unwrap() > 0);
    assert_eq!(stand.get("/api/v1/queue").await["items"][0]["key"], "test");
    let environments = stand.get("/api/v1/environments").await;
    let names: Vec<_> = environments["items"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["staging", "production"]);
    assert_eq!(environments["items"][1]["requires"], json!(["staging"]));
    let metrics = stand.anonymous(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("segue_jobs{status=\"queued\"} 1"), "{metrics}");
    assert!(metrics.contains("segue_deliveries_total{event=\"push\",status=\"202\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_what_waits_and_a_second_server_is_refused() {
    let mut stand = Stand::start().await;
    assert_eq!(stand.claim().await, None);
    let wait = json!({"worker": "w1", "incarnation": "1", "labels": ["linux"], "wait_ms": 20_000});
    let parked = tokio::spawn(stand.worker(Method::POST, "/api/v1/worker/jobs/claim").json(&wait).send());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let options = crate::up::ServerOptions {
        config: segue_schemas::config::Config::default(),
        data: stand.data(),
        listen: "127.0.0.1:0".parse().unwrap(),
        schedules: true,
    };
    let second = crate::up::serve(options).await.err().unwrap().to_string();
    assert!(second.contains("is served by another segue already"), "{second}");
    let begun = Instant::now();
    stand.stop().await;
    assert_eq!(parked.await.unwrap().unwrap().status(), 204);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
