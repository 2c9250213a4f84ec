use std::time::Duration;

use anyhow::Result;
use segue_integration_tests::{
    github::Deployment,
    pulls::{Pull, pipeline},
};
use segue_schemas::{
    preview::PreviewState,
    status::{JobStatus, RunStatus},
};
use serde_json::Value;

use crate::{
    RUN_LIMIT, check_shown,
    github_comments_are_commands::{answered, say},
    with_github,
};

#[tokio::test]
async fn a_pull_request_has_its_copy_from_open_to_closed_and_again() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms, first-pause: 100ms").await?;
    stand.repository.commit("base", &[("file", "base")])?;
    stand.repository.push("main")?;
    let mut pull = Pull::new(&stand, &github, 7, "acme/shop");
    for version in ["1", "2", "3"] {
        let guid = pull.push(version, &pipeline("true")).await?;
        let run = stand.api()?.planned(&guid, RUN_LIMIT).await?.runs[0].0;
        // the rollout ends before the job does, which goes on after it
        let api = stand.api()?;
        let reached = async {
            pull.answers(Ok(version), RUN_LIMIT).await?;
            Ok(std::time::UNIX_EPOCH.elapsed()?.as_millis())
        };
        let (view, reached) = tokio::try_join!(api.ended(run, RUN_LIMIT), reached)?;
        assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
        pull.answers(Ok(version), Duration::from_secs(2)).await?;
        let built = view.jobs[0].steps[1].ended_at.expect("it was built").0;
        eprintln!("figure: it could be reached {} ms after its build had ended", reached.saturating_sub(built as u128));
        let log = stand.api()?.log(&view.jobs[0].id).await?;
        let port = stand.proxy.rsplit(':').next().unwrap_or_default();
        let url = format!("http://pr-7-api.preview.localhost:{port}");
        assert!(log.contains(&format!("it is at {url}")), "{log}");
        let listed = pull.is_listed(Some(PreviewState::Serving), RUN_LIMIT).await?.expect("it is listed");
        assert_eq!((listed.url, listed.commit.map(|commit| commit.to_string())), (url, Some(pull.head.clone())));
    }
    let shown = stand.segue(&["previews"])?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("acme/shop#7") && shown.contains("serving"), "{shown}");

    // an end that no pipeline listens to
    pull.turn("closed").await?;
    let took = pull.answers(Err(404), RUN_LIMIT).await?;
    eprintln!("figure: the route was gone {took:?} after `closed`");
    pull.is_listed(None, RUN_LIMIT).await?;
    let left = || segue_integration_tests::processes::with_argument("service.yml");
    let of_stand = stand.folder().display().to_string();
    let begun = std::time::Instant::now();
    while left().iter().any(|pid| belongs(*pid, &of_stand)) {
        assert!(begun.elapsed() < RUN_LIMIT, "something of the preview still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(stand.repository.tags()?.is_empty(), "a preview is no rollback point");
    let inactive = ["inactive"; 3];
    let begun = std::time::Instant::now();
    loop {
        let deployments = github.deployments("preview/pr-7-api");
        if deployments.iter().map(Deployment::state).eq(inactive) {
            assert!(deployments.iter().all(|one| one.body["transient_environment"] == true), "{deployments:#?}");
            break;
        }
        assert!(begun.elapsed() < RUN_LIMIT, "{deployments:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let guid = pull.turn("reopened").await?;
    let run = stand.api()?.planned(&guid, RUN_LIMIT).await?.runs[0].0;
    stand.api()?.ended(run, RUN_LIMIT).await?;
    pull.answers(Ok("3"), RUN_LIMIT).await?;

    github.set_permission("acme/shop", "ada", "write");
    let id = say(&stand, &github, "p1", "ada", "/segue preview").await?;
    assert!(answered(&github, id).await?.body.contains(&format!("run {run} (preview) makes it again")));
    stand.api()?.ended(run, RUN_LIMIT).await?;
    pull.is_listed(Some(PreviewState::Serving), RUN_LIMIT).await?;
    Ok(())
}

/// Whether a process works in a folder of the stand.
fn belongs(pid: u32, folder: &str) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.display().to_string().starts_with(folder))
}

#[tokio::test]
async fn a_pull_request_that_is_closed_while_it_is_built_has_no_copy() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms").await?;
    stand.repository.commit("base", &[("file", "base")])?;
    stand.repository.push("main")?;
    let mut pull = Pull::new(&stand, &github, 8, "acme/shop");
    let guid = pull.push("1", &pipeline("sleep 300")).await?;
    let run = stand.api()?.planned(&guid, RUN_LIMIT).await?.runs[0].0;
    stand.api()?.job_becomes(run, "preview", &[JobStatus::Running], RUN_LIMIT).await?;
    pull.turn("closed").await?;
    let view = stand.api()?.ended(run, RUN_LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Cancelled, "{view:#?}");
    assert!(view.run.reason.is_some_and(|reason| reason.contains("#8 was closed")));

    // its word comes last, and is older: what was closed stays so
    let mut late = Pull::new(&stand, &github, 9, "acme/shop");
    late.commit("1", &pipeline("true"))?;
    let opened = late.payload("opened", None);
    late.turn("closed").await?;
    let guid = late.tell(&opened).await?;
    let run = stand.api()?.planned(&guid, RUN_LIMIT).await?.runs[0].0;
    let view = stand.api()?.ended(run, RUN_LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Failed, "{view:#?}");
    assert!(view.jobs[0].reason.as_ref().is_some_and(|reason| reason.contains("#9 is closed")), "{view:#?}");
    late.is_listed(None, RUN_LIMIT).await?;
    assert_eq!(late.answer("preview.localhost").await?, Err(404));
    Ok(())
}

#[tokio::test]
async fn the_newest_head_is_shown_whatever_the_order_of_its_webhooks() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms").await?;
    stand.repository.commit("base", &[("file", "base")])?;
    stand.repository.push("main")?;
    let mut pull = Pull::new(&stand, &github, 10, "acme/shop");
    let first = pull.commit("1", &pipeline("true"))?;
    let second = pull.commit("2", &pipeline("true"))?;
    let older = pull.payload("synchronize", Some(&first));
    pull.commit("3", &pipeline("true"))?;
    let newer: Value = pull.payload("synchronize", Some(&second));
    let newest = pull.tell(&newer).await?;
    let outdated = pull.tell(&older).await?;
    let run = stand.api()?.planned(&newest, RUN_LIMIT).await?.runs[0].0;
    let view = stand.api()?.ended(run, RUN_LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    let run = stand.api()?.planned(&outdated, RUN_LIMIT).await?.runs[0].0;
    let view = stand.api()?.ended(run, RUN_LIMIT).await?;
    assert!(view.jobs[0].reason.as_ref().is_some_and(|reason| reason.contains("newer commit")), "{view:#?}");
    assert_eq!(view.run.status, RunStatus::Cancelled, "it is no failure: {view:#?}");
    check_shown(&github, &second, "preview", "cancelled", RUN_LIMIT).await?;
    pull.answers(Ok("3"), RUN_LIMIT).await?;
    Ok(())
}
