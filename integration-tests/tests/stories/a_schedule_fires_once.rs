use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use segue_integration_tests::stand::Stand;
use segue_schemas::{api::RunPage, status::RunStatus};

/// The next whole minute that leaves a few seconds for a push to be planned, as `cron` says it, and how long until then.
fn soon() -> Result<(String, Duration)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let minutes = (now.as_secs() + 6) / 60 + 1;
    let cron = format!("{} {} * * *", minutes % 60, minutes / 60 % 24);
    Ok((cron, Duration::from_secs(minutes * 60) - now))
}

#[tokio::test]
async fn when_its_time_comes_and_no_more_after_a_restart() -> Result<()> {
    let mut stand = Stand::start("").await?;
    let api = stand.api()?;
    let (cron, wait) = soon()?;
    let pipeline = format!(
        "on: {{ push: , schedule: [{{ cron: '{cron}' }}] }}\njobs: {{ one: {{ steps: [{{ run: echo hello }}] }} }}\n"
    );
    let commit = stand.repository.commit("first", &[(".segue/pipelines/one.yml", &pipeline)])?;
    let pushed = api.run_of(&stand.push("main").await?, Duration::from_secs(30)).await?;
    // a branch that is not the default one has no say
    stand.repository.branch("topic")?;
    stand.repository.commit("other", &[(".segue/pipelines/two.yml", &pipeline)])?;
    let planned = api.planned(&stand.push("topic").await?, Duration::from_secs(30)).await?;
    assert_eq!(planned.runs.len(), 2);

    let scheduled = async || -> Result<RunPage> { api.get("/runs?event=schedule").await };
    assert!(scheduled().await?.items.is_empty(), "it is not due yet");
    tokio::time::sleep(wait).await;
    let mut runs = scheduled().await?;
    for _ in 0..250 {
        if !runs.items.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
        runs = scheduled().await?;
    }
    assert_eq!(runs.items.len(), 1, "{runs:#?}");
    let view = api.ended(runs.items[0].id.0, Duration::from_secs(30)).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    assert_eq!((view.run.r#ref.as_str(), view.run.commit.to_string()), ("refs/heads/main", commit));
    assert!(view.run.id > pushed.run.id);

    stand.kill_server()?;
    stand.start_server().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(scheduled().await?.items.len(), 1, "the time has had its run");
    Ok(())
}
