use std::time::{Duration, Instant};

use anyhow::Result;
use segue_integration_tests::github::Fault;
use segue_schemas::status::RunStatus;

use crate::{QUICK, check_shown, commit_version, with_github};

/// GitHub is away for as long as a deployment takes, and while the server dies and starts again: ten minutes, scaled.
#[tokio::test]
async fn github_is_away_during_a_deployment_which_does_not_wait_and_is_shown_afterwards() -> Result<()> {
    let (mut stand, github) = with_github(", gather: 50ms, first-pause: 100ms, longest-pause: 400ms").await?;
    stand.add_settings(QUICK);
    let commit = commit_version(&stand, "1", 0.0, "200ms")?;

    github.set_down(true);
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, Duration::from_secs(90)).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "a run does not wait for GitHub: {view:#?}");
    stand.kill_server()?;
    stand.start_server().await?;
    assert!(github.check_runs(&commit).is_empty());

    // what is made and answered with an error is found again, and not made twice
    github.fail(Fault::DoneAndBadGateway, 4);
    github.set_down(false);
    let begun = Instant::now();
    let pipeline = check_shown(&github, &commit, &view.run.pipeline, "success", Duration::from_secs(20)).await?;
    eprintln!("GitHub shows the end {:?} after it is back", begun.elapsed());
    let states: Vec<&str> = pipeline.history.iter().map(|(_, word)| word.as_str()).collect();
    assert_eq!(states, ["success"], "what nobody saw is left out");
    for job in &view.jobs {
        let name = format!("{} / {}", view.run.pipeline, job.name);
        check_shown(&github, &commit, &name, "success", Duration::from_secs(20)).await?;
    }
    let shown = github.check_runs(&commit);
    assert_eq!(shown.len(), view.jobs.len() + 1, "one check each: {shown:#?}");
    Ok(())
}
