//! Webhooks as GitHub sends them: <https://docs.github.com/webhooks/webhook-events-and-payloads>.

use anyhow::{Result, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;

use crate::repository::{Pushed, Repository, ZERO};

/// A sender of webhooks that knows the secret.
pub struct Webhook {
    url: String,
    secret: String,
    client: reqwest::Client,
}

impl Webhook {
    /// A sender to `url`.
    #[must_use]
    pub fn new(url: &str, secret: &str) -> Self {
        Self { url: url.to_owned(), secret: secret.to_owned(), client: reqwest::Client::new() }
    }

    /// Sends a push; the delivery's GUID.
    ///
    /// # Errors
    /// It is not answered with 202.
    pub async fn push(&self, repository: &Repository, pushed: &Pushed) -> Result<String> {
        let guid = Uuid::new_v4().to_string();
        let body = serde_json::to_vec(&push_payload(repository, pushed))?;
        let answer = self.send(&guid, "push", &body).await?;
        let status = answer.status();
        ensure!(status == 202, "the webhook was answered {status}: {}", answer.text().await?);
        Ok(guid)
    }

    /// Sends any body, signed.
    ///
    /// # Errors
    /// No answer.
    pub async fn send(&self, guid: &str, event: &str, body: &[u8]) -> Result<reqwest::Response> {
        let signature = sign(&self.secret, body);
        self.send_with_signature(guid, event, body, Some(&signature)).await
    }

    /// Sends any body with the signature that is given, or without one.
    ///
    /// # Errors
    /// No answer.
    pub async fn send_with_signature(
        &self,
        guid: &str,
        event: &str,
        body: &[u8],
        signature: Option<&str>,
    ) -> Result<reqwest::Response> {
        let mut request = self
            .client
            .post(&self.url)
            .header("content-type", "application/json")
            .header("user-agent", "GitHub-Hookshot/0000000")
            .header("x-github-delivery", guid)
            .header("x-github-event", event)
            .header("x-github-hook-id", "1");
        if let Some(signature) = signature {
            request = request.header("x-hub-signature-256", signature);
        }
        Ok(request.body(body.to_vec()).send().await?)
    }
}

/// `X-Hub-Signature-256` of a body.
#[must_use]
pub fn sign(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

/// The payload of a push, with the members that GitHub's has.
#[must_use]
pub fn push_payload(repository: &Repository, pushed: &Pushed) -> Value {
    let (owner, name) = repository.name.split_once('/').unwrap_or(("acme", "shop"));
    let commit = json!({
        "id": pushed.after, "message": pushed.message, "distinct": true, "timestamp": "2026-01-01T00:00:00Z",
        "url": format!("https://github.com/{owner}/{name}/commit/{}", pushed.after),
        "author": {"name": "A User", "email": "user@example.com", "username": "user"},
        "committer": {"name": "A User", "email": "user@example.com", "username": "user"},
        "added": [], "removed": [], "modified": [],
    });
    json!({
        "ref": pushed.git_ref, "before": pushed.before, "after": pushed.after, "base_ref": null,
        "created": pushed.before == ZERO, "deleted": pushed.after == ZERO, "forced": false,
        "compare": "", "commits": [commit], "head_commit": commit,
        "pusher": {"name": "user", "email": "user@example.com"},
        "sender": {"login": "user", "id": 1, "type": "User"},
        "repository": {
            "id": 1, "name": name, "full_name": repository.name, "private": true, "default_branch": "main",
            "owner": {"login": owner, "name": owner},
            "clone_url": repository.bare().display().to_string(),
        },
    })
}
