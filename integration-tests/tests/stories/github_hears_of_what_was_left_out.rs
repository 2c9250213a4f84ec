use std::time::Duration;

use anyhow::Result;

use crate::{check_shown, with_github};

const LIMIT: Duration = Duration::from_secs(30);

/// A monorepo with a required check: each pipeline says something of every change.
#[tokio::test]
async fn a_pipeline_that_a_filter_left_out_is_shown_as_skipped() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms").await?;
    let job = "jobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: echo hello\n";
    let pipeline = |on: &str| format!("on:\n{on}{job}");
    let front = pipeline("  push:\n    paths: ['front/**']\n");
    let back = pipeline("  push:\n    paths: ['back/**']\n");
    let on_request = pipeline("  push:\n    paths: ['front/**']\n  pull_request:\n");
    let by_hand = pipeline("  workflow_dispatch:\n");
    stand.repository.commit(
        "first",
        &[
            (".segue/pipelines/front.yml", front.as_str()),
            (".segue/pipelines/back.yml", back.as_str()),
            (".segue/pipelines/on-request.yml", on_request.as_str()),
            (".segue/pipelines/by-hand.yml", by_hand.as_str()),
        ],
    )?;
    stand.repository.push("main")?;
    let commit = stand.repository.commit("second", &[("back/a.txt", "a")])?;
    stand.push("main").await?;
    check_shown(&github, &commit, "back", "success", LIMIT).await?;
    let front = check_shown(&github, &commit, "front", "skipped", LIMIT).await?;
    assert!(front.title.contains("`paths` takes none of the 1 changed files in"), "{}", front.title);
    check_shown(&github, &commit, "back / one", "success", LIMIT).await?;
    let mut names: Vec<String> = github.check_runs(&commit).into_iter().map(|run| run.name).collect();
    names.sort();
    assert_eq!(names, ["back", "back / one", "front"], "of what a pull request would start, its own event speaks");

    // run by hand at the same commit, it counts
    let run = stand.segue(&["run", "--repository", "acme/shop", "--ref", "main", "--pipeline", "by-hand"])?;
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    check_shown(&github, &commit, "by-hand", "success", LIMIT).await?;
    Ok(())
}
