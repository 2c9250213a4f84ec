use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http::Method;
use segue_integration_tests::{
    github::{Comment, Fault, GitHub, Level},
    pulls::{Pull, pipeline},
};
use segue_schemas::preview::PreviewState;

use crate::{RUN_LIMIT, with_github};

const MARK: &str = "<!-- segue-previews -->";

/// The comment of our own that tells of previews, once it says all of that; never is there another.
async fn told(github: &GitHub, words: &[&str]) -> Result<Comment> {
    let begun = Instant::now();
    loop {
        let mut ours = github.answers(7);
        ensure!(ours.len() < 2, "one for each pull request: {ours:#?}");
        if let Some(one) = ours.pop_if(|one| words.iter().all(|word| one.body.contains(word))) {
            return Ok(one);
        }
        ensure!(begun.elapsed() < RUN_LIMIT, "not {words:?}, but {ours:#?}; asked: {:#?}", github.requests());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_pull_requests_previews_are_told_of_in_one_comment_to_their_end() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms, first-pause: 100ms, longest-pause: 1s").await?;
    stand.repository.commit("base", &[("file", "base")])?;
    stand.repository.push("main")?;
    let granted = |level| [("pull_requests".to_owned(), level), ("metadata".to_owned(), Level::Read)];
    // it may not comment at first
    let mut permissions: std::collections::BTreeMap<_, _> =
        ["checks", "deployments"].into_iter().map(|name| (name.to_owned(), Level::Write)).collect();
    permissions.extend(granted(Level::Read));
    github.grant(permissions.clone());
    let mut pull = Pull::new(&stand, &github, 7, "acme/shop");
    let guid = pull.push("1", &pipeline("true")).await?;
    // whoever else writes the mark could change that comment later
    let (foreign, _) = github.write_comment("acme/shop", 7, "mallory", &format!("{MARK}\n<http://evil>"));
    let run = stand.api()?.planned(&guid, RUN_LIMIT).await?.runs[0].0;
    stand.api()?.ended(run, RUN_LIMIT).await?;
    pull.answers(Ok("1"), RUN_LIMIT).await?;
    stand.until_said("the comment about previews of", RUN_LIMIT).await?;
    ensure!(github.answers(7).is_empty(), "{:#?}", github.answers(7));

    // its first answer is lost
    github.fail_at(Method::POST, "/issues/7/comments", Fault::DoneAndBadGateway);
    permissions.extend(granted(Level::Write));
    github.grant(permissions);
    let url = pull.is_listed(Some(PreviewState::Serving), RUN_LIMIT).await?.expect("it is listed").url;
    let check = github.check_run(&pull.head, "preview / preview").expect("the job has a check").id;
    let log = format!("/acme/shop/runs/{check}");
    told(&github, &[MARK, "| api | serves |", &pull.head[..7], &format!("<{url}>"), &log]).await?;

    // the next push says so in the same comment; once that is deleted, in another
    let first = told(&github, &[]).await?.id;
    for (version, is_deleted) in [("2", false), ("3", true)] {
        if is_deleted {
            github.delete_comment(first);
        }
        pull.push(version, &pipeline("true")).await?;
        pull.answers(Ok(version), RUN_LIMIT).await?;
        let comment = told(&github, &["| api | serves |", &pull.head[..7]]).await?;
        ensure!((comment.id == first) != is_deleted, "{comment:#?}");
    }
    pull.turn("closed").await?;
    let comment = told(&github, &["| api | was taken away: \\#7 was closed |"]).await?;
    ensure!(!comment.body.contains(&url), "nothing is there any more: {comment:#?}");
    let foreign = github.comment(foreign).expect("it is nobody else's");
    ensure!(foreign.earlier.is_empty(), "{foreign:#?}");
    let said = stand.server_output().matches("the comment about previews of").count();
    ensure!(said == 1, "what can't be done is said once, not {said} times");
    Ok(())
}
