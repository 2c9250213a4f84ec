//! The webhook of a push, as GitHub sends it: its payload's shape, its headers, its signature.

use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Url;
use segue_schemas::{api::Accepted, id::DeliveryId};
use serde_json::json;
use sha2::Sha256;

use super::repository::{GIT_REF, NAME, Push, Repository};
use crate::cli::ending::{Explain as _, Failure};

/// Tells the server of a push, and gives the delivery's GUID back, which the server has on disk then.
///
/// # Errors
/// The server did not take it.
pub async fn send(server: &Url, secret: &str, repository: &Repository, push: &Push) -> Result<DeliveryId, Failure> {
    let body = payload(repository, push).to_string();
    let guid = uuid::Uuid::new_v4().to_string();
    let address = server.join("/webhooks/github").explain("the server's address")?;
    let response = reqwest::Client::builder()
        .no_proxy()
        .build()
        .explain("cannot set an HTTP client up")?
        .post(address)
        .header("content-type", "application/json")
        .header("user-agent", "GitHub-Hookshot/demo")
        .header("x-github-event", "push")
        .header("x-github-delivery", &guid)
        .header("x-hub-signature-256", signature(secret, body.as_bytes())?)
        .body(body)
        .send()
        .await
        .explain("cannot send the webhook")?;
    let status = response.status();
    let text = response.text().await.explain("cannot read the webhook's answer")?;
    if status != reqwest::StatusCode::ACCEPTED {
        return Err(Failure::new(format_args!("the webhook was answered {status}: {text}")));
    }
    let accepted: Accepted = serde_json::from_str(&text).explain("the webhook's answer")?;
    Ok(accepted.delivery)
}

fn payload(repository: &Repository, push: &Push) -> serde_json::Value {
    let commit = json!({
        "id": push.after,
        "message": push.message,
        "author": {"name": "Ada", "email": "ada@example.com", "username": "ada"},
    });
    json!({
        "ref": GIT_REF,
        "before": push.before,
        "after": push.after,
        "created": push.before.is_zero(),
        "deleted": false,
        "forced": false,
        "repository": {
            "full_name": NAME,
            "default_branch": "main",
            "clone_url": repository.clone_url(),
        },
        "pusher": {"name": "ada", "email": "ada@example.com"},
        "sender": {"login": "ada"},
        "head_commit": commit,
        "commits": [commit],
    })
}

/// `sha256=` and the HMAC-SHA256 of the body, in hexadecimal digits.
fn signature(secret: &str, body: &[u8]) -> Result<String, Failure> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).explain("the webhook's secret")?;
    mac.update(body);
    Ok(format!("sha256={}", hex::encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    /// The example of GitHub's documentation on validating webhook deliveries.
    #[test]
    fn signs_like_github() {
        let signed = super::signature("It's a Secret to Everybody", b"Hello, World!").unwrap();
        assert_eq!(signed, "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17");
    }
}
