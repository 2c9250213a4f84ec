use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{
    github::GitHub,
    pulls::{Pull, pipeline},
    stand::Stand,
};
use segue_schemas::{preview::PreviewState, status::JobStatus};

use crate::RUN_LIMIT;

/// A fork's pull request, approved; what its job ended with.
async fn approved(stand: &Stand, pull: &mut Pull<'_>) -> Result<(JobStatus, String)> {
    let guid = pull.push("1", &pipeline("true")).await?;
    let run = stand.api()?.planned(&guid, RUN_LIMIT).await?.runs[0].0;
    stand.api()?.job_becomes(run, "preview", &[JobStatus::Waiting], RUN_LIMIT).await?;
    assert_eq!(pull.answer("forks.localhost").await?, Err(404), "nothing of it before the approval");
    let said = stand.segue(&["approve", &run.to_string()])?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let view = stand.api()?.ended(run, RUN_LIMIT).await?;
    let job = view.jobs.first().context("one job")?;
    Ok((job.status, job.reason.clone().unwrap_or_default()))
}

#[tokio::test]
async fn a_forks_copy_is_made_only_apart_and_with_leave() -> Result<()> {
    let mut stand = Stand::prepare("")?;
    let github = GitHub::start(&stand.repository.name, stand.repository.bare()).await?;
    stand.add_settings(&github.as_app(", gather: 50ms, forks-on-host: true"));
    // a fork runs the pipeline of its base
    stand.repository.commit("base", &[(".segue/pipelines/preview.yml", &pipeline("true"))])?;
    stand.repository.push("main")?;
    stand.start_server().await?;
    let mut pull = Pull::new(&stand, &github, 5, "eve/shop");
    let (status, reason) = approved(&stand, &mut pull).await?;
    ensure!(status == JobStatus::Failed && reason.contains("fork-domain"), "{status}: {reason}");
    pull.is_listed(None, RUN_LIMIT).await?;
    drop(pull);

    stand.stop_server(RUN_LIMIT).await?;
    stand.add_settings("environments: {preview: {fork-domain: forks.localhost, variables: {MODE: of-the-operator}}}\n");
    stand.start_server().await?;
    let mut pull = Pull::new(&stand, &github, 6, "eve/shop");
    let (status, reason) = approved(&stand, &mut pull).await?;
    ensure!(status == JobStatus::Succeeded, "{status}: {reason}");
    assert_eq!(pull.answer("forks.localhost").await?, Ok("1".into()));
    assert_eq!(pull.answer("preview.localhost").await?, Err(404), "it is not where the others are");
    let listed = pull.is_listed(Some(PreviewState::Serving), RUN_LIMIT).await?.context("it is listed")?;
    ensure!(listed.is_fork && listed.url.contains("//pr-6-api.forks.localhost"), "{listed:#?}");
    let rollouts = stand.api()?.rollouts("preview").await?;
    ensure!(rollouts.iter().all(|rollout| !rollout.spec.variables.contains_key("MODE")), "{rollouts:#?}");
    Ok(())
}
