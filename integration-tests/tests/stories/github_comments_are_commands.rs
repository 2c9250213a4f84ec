use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http::Method;
use segue_integration_tests::{
    github::{Comment, Fault, GitHub},
    stand::Stand,
};
use serde_json::Value;

use crate::{check_shown, with_github};

pub const LIMIT: Duration = Duration::from_secs(60);

const PIPELINE: &str = "name: ci\non: [push]\njobs:\n  hello:\n    steps:\n      - run: echo hello\n";
const DEPLOY: &str = "name: deploy
on:
  workflow_dispatch:
    inputs:
      environment: { type: choice, options: [staging], required: true }
jobs:
  go:
    steps:
      - run: echo \"to ${{ inputs.environment }}\"
";

/// Somebody writes it, and the webhook brings it; the comment's number.
pub async fn say(stand: &Stand, github: &GitHub, guid: &str, user: &str, text: &str) -> Result<u64> {
    let (id, payload) = github.write_comment(&stand.repository.name, 7, user, text);
    deliver(stand, guid, &payload).await?;
    Ok(id)
}

/// What GitHub sends of a comment.
pub async fn deliver(stand: &Stand, guid: &str, payload: &Value) -> Result<()> {
    let answer = stand.webhook()?.send(guid, "issue_comment", &serde_json::to_vec(payload)?).await?;
    ensure!(answer.status() == 202, "the webhook was answered {}", answer.status());
    Ok(())
}

/// The answer to a comment, once it has come.
pub async fn answered(github: &GitHub, id: u64) -> Result<Comment> {
    let begun = Instant::now();
    loop {
        let mut answers = github.answers(7).into_iter().filter(|one| one.body.contains(&format!("segue-answer:{id} ")));
        if let Some(answer) = answers.next() {
            return Ok(answer);
        }
        ensure!(begun.elapsed() < LIMIT, "the comment {id} is not answered; asked: {:#?}", github.requests());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A comment once it has such a reaction.
async fn reacted(github: &GitHub, id: u64, reaction: &str) -> Result<Comment> {
    let begun = Instant::now();
    loop {
        if let Some(comment) = github.comment(id).filter(|comment| comment.reactions.iter().any(|r| r == reaction)) {
            return Ok(comment);
        }
        ensure!(begun.elapsed() < LIMIT, "the comment {id} gets no {reaction}; asked: {:#?}", github.requests());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What became of a delivery, in words.
pub async fn reason(stand: &Stand, guid: &str) -> Result<String> {
    let delivery: Value = stand.api()?.get(&format!("/deliveries/{guid}")).await?;
    Ok(delivery["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn who_may_write_commands_by_comments_and_who_may_not_is_told() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms").await?;
    stand.repository.branch("topic")?;
    let files = [(".segue/pipelines/ci.yml", PIPELINE), (".segue/pipelines/deploy.yml", DEPLOY)];
    let commit = stand.repository.commit("first", &files)?;
    stand.push("topic").await?;
    github.set_pull("acme/shop", 7, &commit, "topic", "acme/shop");
    github.set_permission("acme/shop", "ada", "write");
    github.set_permission("acme/shop", "rob", "read");
    check_shown(&github, &commit, "ci", "success", LIMIT).await?;
    let attempt = async || -> Result<i64> {
        let view: Value = stand.api()?.get("/runs/1").await?;
        Ok(view["run"]["attempt"].as_i64().unwrap_or_default())
    };

    // a stranger: nothing happens, and he hears of it, once
    let first = say(&stand, &github, "c1", "rob", "please\n/segue rerun").await?;
    let answer = answered(&github, first).await?;
    assert!(answer.body.contains("Nothing was done: rob has no write access to acme/shop."), "{}", answer.body);
    assert_eq!(github.comment(first).unwrap().reactions, ["-1"], "no eyes: nothing is looked at");
    let second = say(&stand, &github, "c2", "rob", "/segue rollback production").await?;
    reacted(&github, second, "-1").await?;

    // somebody who may, whose answer gets lost on its way
    github.fail_at(Method::POST, "/issues/7/comments", Fault::DoneAndBadGateway);
    let (id, payload) = github.write_comment("acme/shop", 7, "ada", "It fails by chance.\r\n\r\n/segue rerun\r\n");
    deliver(&stand, "c3", &payload).await?;
    deliver(&stand, "c3", &payload).await?;
    deliver(&stand, "c4", &payload).await?;
    let answer = answered(&github, id).await?;
    assert!(answer.body.contains("As ada asked, to run it once more: run 1 (ci) begins attempt 2."), "{}", answer.body);
    assert_eq!(github.comment(id).unwrap().reactions, ["eyes", "+1"]);
    assert_eq!(reason(&stand, "c4").await?, "the comment came before, with another delivery");
    check_shown(&github, &commit, "ci", "success", LIMIT).await?;
    assert_eq!(attempt().await?, 2);
    let run: Value = stand.api()?.get("/runs/1").await?;
    assert!(run.to_string().contains("ada (in #7)"), "who, and by which way: {run}");
    assert!(reason(&stand, "c3").await?.starts_with("ada asked in #7 to run it once more: run 1"));

    // what can't be read, what can't be done, and what is no command
    let id = say(&stand, &github, "c5", "ada", "/segue rerum `x` @rob").await?;
    let answer = answered(&github, id).await?;
    assert!(answer.body.contains("did you mean \\`rerun\\`?"), "{}", answer.body);
    assert_eq!(github.comment(id).unwrap().reactions, ["confused"]);
    let id = say(&stand, &github, "c6", "ada", "/segue rollback production").await?;
    let answer = answered(&github, id).await?;
    assert!(answer.body.contains("nothing of acme/shop serves"), "{}", answer.body);
    say(&stand, &github, "c7", "ada", "> /segue rerun\n\nplease do not").await?;
    assert!(reason(&stand, "c7").await?.contains("holds no command"));

    // a deployment is a run of the pipeline that is there for it
    let id = say(&stand, &github, "c8", "ada", "/segue deploy staging").await?;
    let answer = answered(&github, id).await?;
    assert!(answer.body.contains("run 2 does it"), "{}", answer.body);
    let view = stand.api()?.ended(2, LIMIT).await?;
    assert!(stand.api()?.log(&view.jobs[0].id).await?.contains("to staging"));
    assert_eq!(view.run.actor, "ada");
    let id = say(&stand, &github, "c9", "ada", "/segue deploy moon").await?;
    let answer = answered(&github, id).await?;
    assert!(answer.body.contains("does not take these inputs"), "{}", answer.body);

    // each has had one answer, and the stranger's second wish none but the reaction
    assert_eq!(github.answers(7).len(), 6, "{:#?}", github.answers(7));
    assert_eq!(attempt().await?, 2);
    Ok(())
}
