use anyhow::Result;
use segue_integration_tests::{
    stand::Stand,
    webhook::{push_payload, sign},
};
use segue_schemas::api::DeliveryPage;

#[tokio::test]
async fn a_wrong_a_missing_and_a_truncated_signature_are_refused_and_leave_no_trace() -> Result<()> {
    let stand = Stand::start("").await?;
    stand.repository.commit("first", &[("file", "x")])?;
    let pushed = stand.repository.push("main")?;
    let body = serde_json::to_vec(&push_payload(&stand.repository, &pushed))?;
    let webhook = stand.webhook()?;
    let secret = std::fs::read_to_string(stand.data().join("webhook-secret"))?;
    let right = sign(secret.trim(), &body);

    let forged = [
        None,
        Some(sign("another secret", &body)),
        Some(right[..right.len() - 1].to_owned()),
        Some(right.replacen("sha256=", "sha1=", 1)),
        Some("sha256=".to_owned()),
        Some(sign(secret.trim(), b"another body")),
    ];
    for (number, signature) in forged.iter().enumerate() {
        let guid = format!("forged-{number}");
        let answer = webhook.send_with_signature(&guid, "push", &body, signature.as_deref()).await?;
        assert_eq!(answer.status(), 401, "{signature:?}");
        let text = answer.text().await?;
        assert!(!text.contains(secret.trim()) && !text.contains(&right), "the answer helps nobody to forge: {text}");
    }
    let deliveries: DeliveryPage = stand.api()?.get("/deliveries").await?;
    assert_eq!(deliveries.items, [], "nothing was written");

    let answer = webhook.send("good", "push", &body).await?;
    assert_eq!(answer.status(), 202, "the right one is taken");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_taken_is_answered_with_what_is_wrong() -> Result<()> {
    let stand = Stand::start("").await?;
    let webhook = stand.webhook()?;

    let answer = webhook.send("no-json", "push", b"{not json").await?;
    assert_eq!(answer.status(), 400);

    let answer = webhook
        .send("no-after", "push", br#"{"ref": "refs/heads/main", "repository": {"full_name": "acme/shop"}}"#)
        .await?;
    assert_eq!(answer.status(), 400);
    let text = answer.text().await?;
    assert!(text.contains("before") || text.contains("after"), "the missing field is named: {text}");

    let answer = webhook.send("too-large", "push", &vec![b' '; 26 * 1024 * 1024]).await?;
    assert_eq!(answer.status(), 413);

    let answer = webhook.send("ping", "ping", br#"{"zen": "Keep it logically awesome.", "hook_id": 1}"#).await?;
    assert_eq!(answer.status(), 202);
    let delivery = stand.api()?.planned("ping", std::time::Duration::from_secs(10)).await?;
    assert!(delivery.reason.is_some(), "stored and ignored, with the reason: {delivery:?}");
    Ok(())
}
