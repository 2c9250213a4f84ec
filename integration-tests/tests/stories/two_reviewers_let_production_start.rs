use std::time::Duration;

use anyhow::{Result, ensure};
use segue_integration_tests::{github::GitHub, stand::Stand};
use segue_schemas::{
    api::RunView,
    status::{JobStatus, RunStatus},
};

use crate::{
    check_shown,
    github_comments_are_commands::{LIMIT, answered, say},
};

const PIPELINE: &str = "name: release
on: [push]
jobs:
  production:
    environment: production
    steps:
      - run: echo released
";

/// A Segue with these environments that is an App of a GitHub, and a pull request of a commit that was pushed to `main`.
async fn pushed(environments: &str) -> Result<(Stand, GitHub, String, i64)> {
    let mut stand = Stand::prepare(environments)?;
    let github = GitHub::start(&stand.repository.name, stand.repository.bare()).await?;
    stand.add_settings(&github.as_app(", gather: 50ms"));
    stand.start_server().await?;
    let commit = stand.repository.commit("release", &[(".segue/pipelines/release.yml", PIPELINE)])?;
    let guid = stand.push("main").await?;
    let run = stand.api()?.planned(&guid, LIMIT).await?.runs[0].0;
    github.set_pull("acme/shop", 7, &commit, "main", "acme/shop");
    Ok((stand, github, commit, run))
}

/// What the waiting job says that it waits for.
async fn waiting(stand: &Stand, run: i64) -> Result<String> {
    let view = stand.api()?.job_becomes(run, "production", &[JobStatus::Waiting], LIMIT).await?;
    Ok(view.jobs[0].reason.clone().unwrap_or_default())
}

fn told(stand: &Stand, arguments: &[&str]) -> Result<String> {
    let output = stand.segue(arguments)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test]
async fn two_reviewers_who_are_not_the_author_let_production_start() -> Result<()> {
    let rules = "environments: {production: {required-approvals: 2, reviewers: [bob, user, acme/release], \
                 prevent-self-review: true, branches: [main]}}\n";
    let (stand, github, commit, run) = pushed(rules).await?;
    for person in ["user", "ada", "bob", "cy", "dan"] {
        github.set_permission("acme/shop", person, "write");
    }
    github.set_membership("acme/release", "cy", "active");
    github.set_membership("acme/release", "dan", "pending");
    let reason = waiting(&stand, run).await?;
    assert_eq!(reason, "`production` has 0 of 2 approvals; those of bob, user, acme/release count, and not of user");
    check_shown(&github, &commit, "release", "in_progress", LIMIT).await?;
    assert!(told(&stand, &["queues"])?.contains("0 of 2 approvals"));

    for (person, words) in [
        ("user", "user has pushed, written or started this"),
        ("ada", "ada is none of the reviewers of"),
        ("dan", "dan is none of the reviewers of"),
        ("bob", "it counts for production of run"),
        ("bob", "it counts for production of run"),
    ] {
        let guid = uuid::Uuid::new_v4().to_string();
        let id = say(&stand, &github, &guid, person, &format!("/segue approve {commit}")).await?;
        let answer = answered(&github, id).await?;
        assert!(answer.body.contains(words), "{person}: {}", answer.body);
    }
    let reason = waiting(&stand, run).await?;
    assert!(reason.starts_with("`production` has 1 of 2 approvals (by bob)"), "each counts once: {reason}");

    let id = say(&stand, &github, "r-cy", "cy", &format!("/segue approve {commit}")).await?;
    answered(&github, id).await?;
    let view = stand.api()?.ended(run, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    let by: Vec<&str> = view.approvals.iter().map(|given| given.by.as_str()).collect();
    assert_eq!(by, ["bob", "cy"]);
    assert!(told(&stand, &["runs", &run.to_string()])?.contains("cy approved it for `production`"));
    check_shown(&github, &commit, "release", "success", LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn a_frozen_environment_starts_nothing_unless_an_administrator_says_why() -> Result<()> {
    let rules = "environments: {production: {freeze: [{cron: \"0 0 * * *\", duration: 1d, reason: stock-taking}]}}\n";
    let (stand, github, _, run) = pushed(rules).await?;
    let reason = waiting(&stand, run).await?;
    assert!(reason.starts_with("`production` is frozen until ") && reason.ends_with("(stock-taking)"), "{reason}");
    assert!(told(&stand, &["queues"])?.contains("`production` is frozen until"));
    let number = run.to_string();
    let output = stand.segue(&["approve", &number])?;
    assert!(!output.status.success(), "nobody is asked for anything");

    github.set_permission("acme/shop", "ada", "write");
    github.set_permission("acme/shop", "root", "admin");
    // GitHub tells times in whole seconds: what is written from now on is known to be later than the push
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let id = say(&stand, &github, "b-1", "ada", "/segue bypass the shop is down").await?;
    let answer = answered(&github, id).await?;
    assert!(answer.body.contains("ada does not administer"), "{}", answer.body);
    waiting(&stand, run).await?;
    let id = say(&stand, &github, "b-2", "root", "/segue bypass the shop is down").await?;
    let answer = answered(&github, id).await?;
    assert!(answer.body.contains("it counts for production of run"), "{}", answer.body);
    let view = stand.api()?.ended(run, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    let said = told(&stand, &["runs", &number])?;
    assert!(said.contains("root passed by the rules of `production`: the shop is down"), "{said}");

    // and from the command line
    stand.repository.commit("again", &[("file", "2")])?;
    let guid = stand.push("main").await?;
    let second = stand.api()?.planned(&guid, LIMIT).await?.runs[0].0;
    waiting(&stand, second).await?;
    let number = second.to_string();
    told(&stand, &["approve", &number, "--by", "ops", "--bypass", "incident 42"])?;
    let view = stand.api()?.ended(second, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    assert_eq!(view.approvals[0].bypass.as_deref(), Some("incident 42"));
    Ok(())
}

#[tokio::test]
async fn a_wait_timer_opens_by_itself() -> Result<()> {
    let stand = Stand::start("environments: {production: {wait-timer: 2s}}\n").await?;
    stand.repository.commit("release", &[(".segue/pipelines/release.yml", PIPELINE)])?;
    let guid = stand.push("main").await?;
    let run = stand.api()?.planned(&guid, LIMIT).await?.runs[0].0;
    let view: RunView = stand.api()?.ended(run, Duration::from_secs(60)).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    let waited = view.jobs[0].started_at.unwrap_or_default().since(view.run.created_at);
    assert!(waited >= Duration::from_secs(2), "it began after {waited:?}");
    Ok(())
}
