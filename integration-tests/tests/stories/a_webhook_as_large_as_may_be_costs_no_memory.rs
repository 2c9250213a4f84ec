use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{processes, stand::Stand, webhook::push_payload};
use segue_schemas::api::DeliveryPage;

/// GitHub's limit, and ours.
const LIMIT: usize = 25 * 1024 * 1024;
/// What a body of that size may cost, in KiB.
const ALLOWED_KIB: u64 = 16 * 1024;

#[tokio::test]
async fn twenty_five_mebibytes_are_taken_and_one_byte_more_is_not() -> Result<()> {
    let stand = Stand::start("").await?;
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    let pushed = stand.repository.push("main")?;
    let mut payload = push_payload(&stand.repository, &pushed);
    payload["padding"] = "".into();
    let padding = LIMIT - serde_json::to_vec(&payload)?.len();
    payload["padding"] = "x".repeat(padding).into();
    let body = serde_json::to_vec(&payload)?;
    assert_eq!(body.len(), LIMIT);
    drop(payload);
    let server = stand.server_pid().context("no server")?;
    let webhook = stand.webhook()?;
    // what the first request of all costs is not the body's
    assert_eq!(webhook.send("ping", "ping", br#"{"zen": "Design for failure.", "hook_id": 1}"#).await?.status(), 202);
    let before = processes::pss_kib(server)?;

    for round in 0..4 {
        let guid = format!("large-{round}");
        let (answer, peak) = watched(server, webhook.send(&guid, "push", &body)).await;
        assert_eq!(answer?.status(), 202);
        println!("round {round}: {} KiB before, {peak} KiB at most", before);
        ensure!(peak < before + ALLOWED_KIB, "memory grew from {before} to {peak} KiB");
    }
    let mut more = body;
    more.push(b' ');
    let (answer, peak) = watched(server, webhook.send("too-large", "push", &more)).await;
    assert_eq!(answer?.status(), 413);
    ensure!(peak < before + ALLOWED_KIB, "memory grew from {before} to {peak} KiB");

    let api = stand.api()?;
    let delivery = api.planned("large-0", Duration::from_secs(30)).await?;
    assert_eq!(delivery.runs.len(), 1, "the large one is as good as any");
    let deliveries: DeliveryPage = api.get("/deliveries").await?;
    assert!(deliveries.items.iter().all(|item| item.id.as_str() != "too-large"), "nothing of it was written");
    let left = std::fs::read_dir(stand.data().join("deliveries"))?.filter_map(Result::ok);
    let unfinished = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(".incoming-")).count();
    assert_eq!(unfinished, 0, "no half of a body is left");
    Ok(())
}

const PIPELINE: &str = "on: [push]\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: 'true'\n";

/// What a request brings, and the most memory that the process had meanwhile.
async fn watched<T>(pid: u32, request: impl Future<Output = T>) -> (T, u64) {
    tokio::pin!(request);
    let mut peak = 0;
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    loop {
        tokio::select! {
            answer = &mut request => return (answer, peak.max(processes::pss_kib(pid).unwrap_or(0))),
            _ = ticks.tick() => peak = peak.max(processes::pss_kib(pid).unwrap_or(0)),
        }
    }
}
