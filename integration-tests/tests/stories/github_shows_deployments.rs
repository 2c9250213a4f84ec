use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http::Method;
use segue_integration_tests::github::{Deployment, Fault, GitHub};

use crate::{release, with_github};

const LIMIT: Duration = Duration::from_secs(60);

/// The newest states of the deployments to an environment, once they are so.
async fn shown(github: &GitHub, environment: &str, wanted: &[&str]) -> Result<Vec<Deployment>> {
    let begun = Instant::now();
    loop {
        let all = github.deployments(environment);
        if all.iter().map(Deployment::state).collect::<Vec<_>>() == wanted {
            return Ok(all);
        }
        ensure!(begun.elapsed() < LIMIT, "{environment} is not {wanted:?}: {all:#?}; asked: {:#?}", github.requests());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn each_rollout_is_a_deployment_and_what_served_before_is_inactive() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms, first-pause: 100ms").await?;
    // it is made, and nobody hears of it
    github.fail_at(Method::POST, "/deployments", Fault::DoneAndBadGateway);
    release(&stand, "1", 0.0, "300ms").await?;
    let first = shown(&github, "staging", &["success"]).await?;
    shown(&github, "production", &["success"]).await?;
    assert_eq!(first[0].sha, stand.repository.head()?);
    assert_eq!(first[0].body["description"], "api, release 1 (rollout 1)");
    assert!(first[0].states().iter().all(|state| ["queued", "in_progress", "success"].contains(state)));
    let status = first[0].statuses.last().expect("a status");
    assert_eq!(status["description"], "api 1 serves");
    let check = github.check_run(&first[0].sha, "release / staging").expect("the job's check");
    assert_eq!(status["log_url"], format!("{}/acme/shop/runs/{}", github.url(), check.id));

    release(&stand, "2", 0.0, "300ms").await?;
    shown(&github, "staging", &["inactive", "success"]).await?;
    let production = shown(&github, "production", &["inactive", "success"]).await?;
    assert_eq!(production[1].body["production_environment"], true);

    // back by a comment, which is a deployment of the release before
    github.set_permission("acme/shop", "ada", "write");
    github.set_pull("acme/shop", 7, &stand.repository.head()?, "main", "acme/shop");
    crate::github_comments_are_commands::say(&stand, &github, "d1", "ada", "/segue rollback production").await?;
    let production = shown(&github, "production", &["inactive", "inactive", "success"]).await?;
    assert_eq!(production[2].sha, production[0].sha);
    assert!(production[2].body["description"].as_str().is_some_and(|text| text.contains("rollback to release 1")));
    Ok(())
}
