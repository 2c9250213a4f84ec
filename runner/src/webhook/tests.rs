use serde_json::{Value, json};

use crate::testing::{PIPELINE, Stand, peak_memory_kib, push_payload};

const GUID: &str = "72d3162e-cc78-11e3-81ab-4c9367dc0958";

async fn error(response: reqwest::Response) -> (u16, String, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    let word = |key: &str| body["error"][key].as_str().unwrap().to_owned();
    (status, word("code"), word("message"))
}

fn stored(stand: &Stand) -> usize {
    std::fs::read_dir(stand.data().join("deliveries")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_push_is_taken_once_and_the_same_delivery_twice_runs_once() {
    let stand = Stand::start().await;
    let commit = stand.upstream.commit("main", &[(".segue/pipelines/ci.yml", PIPELINE)]);
    let body = push_payload("refs/heads/main", &commit);
    for _ in 0..2 {
        let response = stand.webhook(GUID, "push", body.clone()).send().await.unwrap();
        assert_eq!(response.status(), 202);
        assert_eq!(response.json::<Value>().await.unwrap(), json!({"delivery": GUID}));
    }
    let delivery = stand.settled(GUID).await;
    assert_eq!((&delivery["status"], &delivery["runs"]), (&json!("planned"), &json!([1])));
    // the same work under another GUID
    let response = stand.webhook("other", "push", body).send().await.unwrap();
    assert_eq!(response.status(), 202);
    assert_eq!(stand.settled("other").await["status"], "ignored");
    assert_eq!(stand.get("/api/v1/runs").await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_signature_writes_nothing() {
    let stand = Stand::start().await;
    let commit = "6113728f27ae82c7b1a177c8d03f9e96e0adf246".parse().unwrap();
    let body = push_payload("refs/heads/main", &commit);
    let signed = |signature: Option<(&str, &str)>| {
        let request = stand.anonymous(reqwest::Method::POST, "/webhooks/github");
        let request = request.header("content-type", "application/json").header("x-github-event", "push");
        let request = request.header("x-github-delivery", GUID).body(body.clone());
        match signature {
            Some((name, value)) => request.header(name, value),
            None => request,
        }
    };
    let forged = format!("sha256={}", "0".repeat(64));
    for (signature, wanted) in [
        (None, "not signed"),
        (Some(("x-hub-signature", "sha1=7d38cdd689735b008b3c702edd92eea23791c5f6")), "SHA-1"),
        (Some(("x-hub-signature-256", "sha256=abc")), "64 hexadecimal digits"),
        (Some(("x-hub-signature-256", forged.as_str())), "does not match"),
    ] {
        let (status, code, message) = error(signed(signature).send().await.unwrap()).await;
        assert_eq!((status, code.as_str()), (401, "bad_signature"), "{message}");
        assert!(message.contains(wanted), "{message}");
    }
    // a large forged body goes through a file: that is gone as well
    let large = vec![b' '; 3 << 20];
    let request = stand.webhook(GUID, "push", "other").body(large);
    assert_eq!(error(request.send().await.unwrap()).await.0, 401);
    assert_eq!(stand.get("/api/v1/deliveries").await["items"], json!([]));
    assert_eq!(stored(&stand), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_read_is_refused_with_its_reason_and_not_stored() {
    let stand = Stand::start().await;
    let send = async |request: reqwest::RequestBuilder| error(request.send().await.unwrap()).await;

    let (status, _, message) = send(stand.webhook(GUID, "push", "{")).await;
    assert_eq!(status, 400);
    assert!(message.contains("not readable JSON"), "{message}");
    let (status, _, message) = send(stand.webhook(GUID, "push", "{\"ref\":\"refs/heads/x\"}")).await;
    assert_eq!((status, message.as_str()), (400, "the payload has no `repository`"));
    let (status, _, message) = send(stand.webhook("not a guid!", "push", "{}")).await;
    assert_eq!(status, 400);
    assert!(message.contains("X-GitHub-Delivery"), "{message}");

    let form = stand.webhook(GUID, "push", "payload=%7B%7D").build().unwrap();
    let mut headers = form.headers().clone();
    headers.insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
    let form = stand.anonymous(reqwest::Method::POST, "/webhooks/github").headers(headers).body("payload=%7B%7D");
    let (status, code, message) = send(form).await;
    assert_eq!((status, code.as_str()), (415, "unsupported_media_type"));
    assert!(message.contains("set `Content type` to `application/json`"), "{message}");
    assert_eq!(stand.get("/api/v1/deliveries").await["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_payload_is_kept_in_a_file_and_one_too_large_costs_no_memory() {
    let stand = Stand::start().await;
    let commit = stand.upstream.commit("main", &[(".segue/pipelines/ci.yml", PIPELINE)]);
    let mut payload: Value = serde_json::from_str(&push_payload("refs/heads/main", &commit)).unwrap();
    payload["commits"] = json!(vec!["x".repeat(1000); 20_000]);
    let response = stand.webhook(GUID, "push", payload.to_string()).send().await.unwrap();
    assert_eq!(response.status(), 202);
    assert_eq!(stored(&stand), 1);
    assert_eq!(stand.settled(GUID).await["runs"], json!([1]));
    // sent again: its file is not needed
    let response = stand.webhook(GUID, "push", payload.to_string()).send().await.unwrap();
    assert_eq!(response.status(), 202);
    assert_eq!(stored(&stand), 1);

    // 40 MiB in parts without a length, so that only counting them can tell
    let before = peak_memory_kib();
    let parts = futures_util::stream::iter(
        (0..640).map(|_| Ok::<_, std::io::Error>(bytes::Bytes::from_static(&[b' '; 65536]))),
    );
    let request = stand.webhook("large", "push", "").body(reqwest::Body::wrap_stream(parts));
    let (status, code, _) = error(request.send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (413, "too_large"));
    let grown = peak_memory_kib() - before;
    assert!(grown < 12 * 1024, "memory grew by {grown} KiB");
    assert_eq!(stored(&stand), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_starts_nothing_is_stored_with_the_reason() {
    let stand = Stand::start().await;
    let commit = "6113728f27ae82c7b1a177c8d03f9e96e0adf246".parse().unwrap();
    let tag = push_payload("refs/tags/rollback-20260728-093015", &commit);
    let unknown = push_payload("refs/heads/main", &commit).replace("acme/shop", "acme/other");
    for (guid, event, body, wanted) in [
        ("ping", "ping", r#"{"zen": "Speak like a human.", "hook_id": 1}"#.to_owned(), "the webhook works"),
        ("issue", "issues", r#"{"action": "opened"}"#.to_owned(), "nothing is run for the event `issues`"),
        ("tag", "push", tag, "rollback point"),
        ("unknown", "push", unknown, "acme/other is not in segue.yaml"),
    ] {
        assert_eq!(stand.webhook(guid, event, body).send().await.unwrap().status(), 202);
        let delivery = stand.settled(guid).await;
        assert_eq!(delivery["status"], "ignored", "{delivery}");
        assert!(delivery["reason"].as_str().unwrap().contains(wanted), "{delivery}");
    }
    assert_eq!(stand.get("/api/v1/runs").await["items"], json!([]));
}
