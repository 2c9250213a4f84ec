use std::sync::{Arc, Mutex};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use serde_json::{Value, json};

use super::*;
use crate::testing::Stand;

/// Somebody who is told things: refuses the first `refusals` messages.
struct Hook {
    url: String,
    heard: Arc<Mutex<Vec<Value>>>,
}

impl Hook {
    async fn open(refusals: usize) -> Self {
        let heard: Arc<Mutex<Vec<Value>>> = Arc::default();
        let left = Arc::new(Mutex::new(refusals));
        let take = move |State(heard): State<Arc<Mutex<Vec<Value>>>>, body: axum::Json<Value>| async move {
            let mut left = left.lock().unwrap();
            if *left > 0 {
                *left -= 1;
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            heard.lock().unwrap().push(body.0);
            StatusCode::OK
        };
        let router = Router::new().route("/services/T0/s3cret", post(take)).with_state(heard.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/services/T0/s3cret", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, heard }
    }

    async fn heard(&self, count: usize) -> Vec<Value> {
        for _ in 0..1000 {
            let heard = self.heard.lock().unwrap().clone();
            if heard.len() >= count {
                return heard;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("only {:?} was heard", self.heard.lock().unwrap());
    }
}

fn config(kind: NotificationKind, url: &str) -> NotificationConfig {
    NotificationConfig { kind, url_file: None, url: Some(url.into()), events: Vec::new() }
}

/// A pipeline that can't be read makes a run that has failed.
async fn fail(stand: &Stand, guid: &str) {
    stand.push(guid, &[(".segue/pipelines/ci.yml", "on: push\njobs: 1\n"), ("n", guid)]).await;
    stand.settled(guid).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_told_once_to_each_also_after_a_refusal_and_a_restart() {
    let (slack, plain) = (Hook::open(0).await, Hook::open(1).await);
    let mut stand = Stand::start_with(|settings| {
        settings.notifications.push(config(NotificationKind::Slack, &slack.url));
        settings.notifications.push(config(NotificationKind::Webhook, &plain.url));
    })
    .await;
    fail(&stand, "d1").await;
    let text = slack.heard(1).await[0]["text"].as_str().unwrap().to_owned();
    assert!(text.starts_with(":x: ") && text.contains("acme/shop") && text.ends_with("(run 1)"), "{text}");
    // the other one refused; the message waits in the store over a restart
    let config = stand.stop().await;
    stand.serve(config).await;
    let told = plain.heard(1).await;
    assert_eq!((&told[0]["event"], &told[0]["run"]), (&json!("run-failed"), &json!(1)));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((slack.heard(1).await.len(), plain.heard(1).await.len()), (1, 1));
}

#[tokio::test]
async fn an_address_is_in_no_error() {
    let away = config(NotificationKind::Slack, "http://127.0.0.1:9/services/T0/s3cret");
    let receiver = receiver(0, &away).unwrap();
    assert!(!receiver.name.contains("s3cret"));
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let error = reqwest::Client::new().post(receiver.url.expose_secret()).send().await.unwrap_err();
    let shown = cause(&error.without_url());
    assert!(!shown.contains("s3cret") && !shown.is_empty(), "{shown}");
    for bad in ["not a url", "ftp://host/s3cret", "s3cret"] {
        let error = super::receiver(3, &config(NotificationKind::Slack, bad)).err().unwrap().to_string();
        assert!(error.starts_with("notifications[3]") && !error.contains("s3cret"), "{error}");
    }
}

#[test]
fn a_message_can_not_break_out_of_slacks_format() {
    let notification = Notification {
        id: 1,
        event: NotificationEvent::RolledBack,
        run: Some(segue_schemas::id::RunId(4)),
        rollout: Some(segue_schemas::id::RolloutId(2)),
        detail: json!({"summary": "shop <!channel> & more"}),
        created_at: segue_schemas::time::Timestamp(0),
        told: Vec::new(),
        tries: 0,
    };
    let slack = message(NotificationKind::Slack, &notification);
    assert_eq!(slack["text"], ":rewind: shop &lt;!channel&gt; &amp; more (rollout 2)");
    let plain = message(NotificationKind::Webhook, &notification);
    assert_eq!((&plain["event"], &plain["summary"]), (&json!("rolled-back"), &json!("shop <!channel> & more")));
}
