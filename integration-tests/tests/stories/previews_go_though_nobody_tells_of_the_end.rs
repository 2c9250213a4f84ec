use std::time::Duration;

use anyhow::{Result, ensure};
use http::Method;
use segue_integration_tests::pulls::{Pull, pipeline};
use segue_schemas::{preview::PreviewState, status::RunStatus};

use crate::{RUN_LIMIT, with_github};

#[tokio::test]
async fn what_github_says_is_open_is_compared_with_what_runs() -> Result<()> {
    let (mut stand, github) = with_github(", gather: 50ms, first-pause: 100ms").await?;
    stand.repository.commit("base", &[("file", "base")])?;
    stand.repository.push("main")?;
    let mut pull = Pull::new(&stand, &github, 7, "acme/shop");
    let guid = pull.push("1", &pipeline("true")).await?;
    let run = stand.api()?.planned(&guid, RUN_LIMIT).await?.runs[0].0;
    ensure!(stand.api()?.ended(run, RUN_LIMIT).await?.run.status == RunStatus::Succeeded);
    let mut other = Pull::new(&stand, &github, 8, "acme/shop");
    let guid = other.push("1", &pipeline("true")).await?;
    let run = stand.api()?.planned(&guid, RUN_LIMIT).await?.runs[0].0;
    ensure!(stand.api()?.ended(run, RUN_LIMIT).await?.run.status == RunStatus::Succeeded);
    // a thousand that nobody told of, and two words that never came: an end and a push
    for number in 1_000..2_000 {
        github.set_pull("acme/shop", number, &pull.head, "topic", "acme/shop");
    }
    github.set_pull_state("acme/shop", 7, "closed");
    other.commit("2", &pipeline("true"))?;
    drop((pull, other));
    stand.stop_server(Duration::from_secs(60)).await?;
    let before = github.requests().len();
    stand.start_server().await?;

    let pull = Pull::new(&stand, &github, 7, "acme/shop");
    pull.is_listed(None, RUN_LIMIT).await?;
    pull.answers(Err(404), RUN_LIMIT).await?;
    let other = Pull::new(&stand, &github, 8, "acme/shop");
    other.answers(Ok("2"), RUN_LIMIT).await?;
    other.is_listed(Some(PreviewState::Serving), RUN_LIMIT).await?;
    let requests = github.requests();
    let asked: Vec<_> = requests[before..]
        .iter()
        .filter(|one| one.method == Method::GET && one.path.starts_with("/repos/acme/shop/pulls"))
        .collect();
    eprintln!("figure: {} requests for 1,001 open pull requests", asked.len());
    ensure!((11..=30).contains(&asked.len()), "{asked:#?}");
    let runs = stand.api()?.runs().await?;
    ensure!(runs.items.len() == 3, "what nobody told of is run by nobody: {runs:#?}");
    Ok(())
}
