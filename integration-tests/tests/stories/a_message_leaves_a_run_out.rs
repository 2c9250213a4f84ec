use std::time::Duration;

use anyhow::Result;
use segue_integration_tests::stand::Stand;
use segue_schemas::{
    api::{RerunRequest, RunSummary},
    status::{JobStatus, RunStatus},
};

const PIPELINE: &str = "on: [push]\njobs: { one: { steps: [{ run: echo hello }] } }\n";

#[tokio::test]
async fn its_run_is_skipped_says_why_and_can_be_run_all_the_same() -> Result<()> {
    let stand = Stand::start("").await?;
    let api = stand.api()?;
    let limit = Duration::from_secs(30);
    for message in ["Mend a word [skip ci]", "Mend a word\n\nLonger.\n\n\nskip-checks: true"] {
        stand.repository.commit(message, &[(".segue/pipelines/one.yml", PIPELINE), ("words", message)])?;
        let skipped = api.run_of(&stand.push("main").await?, limit).await?;
        assert_eq!(skipped.run.status, RunStatus::Skipped, "{message}: {skipped:#?}");
        let reason = skipped.run.reason.unwrap_or_default();
        let words = if message.contains("[skip ci]") { "[skip ci]" } else { "skip-checks: true" };
        assert!(reason.contains(words), "{reason}");
    }
    let newest = api.runs().await?.items[0].id;
    let _: RunSummary = api.post(&format!("/runs/{newest}/rerun"), &RerunRequest::default()).await?;
    let view = api.ended(newest.0, limit).await?;
    assert_eq!((view.run.status, view.jobs[0].status), (RunStatus::Succeeded, JobStatus::Succeeded), "{view:#?}");

    // whoever only speaks of it, has a run
    stand.repository.commit("Say what skip ci means", &[("words", "more")])?;
    assert_eq!(api.run_of(&stand.push("main").await?, limit).await?.run.status, RunStatus::Succeeded);
    Ok(())
}
