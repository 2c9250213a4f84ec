use std::{process::Command, time::Duration};

use anyhow::{Result, ensure};
use segue_integration_tests::{github::GitHub, stand::Stand};
use segue_schemas::{
    api::RunView,
    status::{JobStatus, RunStatus},
};
use serde_json::json;

use crate::{
    github_comments_are_commands::{LIMIT, answered, deliver, say},
    with_github,
};

const PIPELINE: &str =
    "name: ci\non: [pull_request]\njobs:\n  test:\n    steps:\n      - uses: segue/checkout\n      - run: cat file\n";
/// What a fork would like to run.
const FORKS: &str = "name: ci\non: [pull_request]\njobs:\n  evil:\n    steps:\n      - run: echo evil\n";

/// A fork's pull request gets a head, and the webhook tells it; its run.
async fn push(stand: &Stand, github: &GitHub, action: &str, text: &str) -> Result<(String, i64)> {
    push_files(stand, github, action, &[(".segue/pipelines/ci.yml", FORKS), ("file", text)], "test").await
}

/// The same with these files, and the job that waits.
pub async fn push_files(
    stand: &Stand,
    github: &GitHub,
    action: &str,
    files: &[(&str, &str)],
    job: &str,
) -> Result<(String, i64)> {
    let head = stand.repository.commit("of the fork", files)?;
    let git = |folder: &std::path::Path, arguments: &[&str]| -> Result<String> {
        let output = Command::new("git").arg("-C").arg(folder).args(arguments).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let bare = stand.repository.bare().display().to_string();
    git(stand.repository.work(), &["push", "--quiet", "--force", &bare, &format!("{head}:refs/pull/7/head")])?;
    let base = git(stand.repository.bare(), &["rev-parse", "main"])?;
    github.set_pull("acme/shop", 7, &head, "main", "eve/shop");
    let repository = |name: &str| json!({"full_name": name, "clone_url": bare, "default_branch": "main"});
    let payload = json!({
        "action": action, "number": 7, "repository": repository("acme/shop"), "sender": {"login": "eve"},
        "pull_request": {
            "number": 7, "title": "Mine", "draft": false, "head": {"ref": "main", "sha": head, "repo": repository("eve/shop")},
            "base": {"ref": "main", "sha": base, "repo": repository("acme/shop")},
        },
    });
    let guid = uuid::Uuid::new_v4().to_string();
    let answer = stand.webhook()?.send(&guid, "pull_request", &serde_json::to_vec(&payload)?).await?;
    ensure!(answer.status() == 202, "the webhook was answered {}", answer.status());
    let run = stand.api()?.planned(&guid, LIMIT).await?.runs[0].0;
    stand.api()?.job_becomes(run, job, &[JobStatus::Waiting], LIMIT).await?;
    Ok((head, run))
}

/// GitHub tells times in whole seconds: what is written from now on is known to be later than what is there.
async fn a_second_passes() {
    tokio::time::sleep(Duration::from_millis(1_100)).await;
}

#[tokio::test]
async fn a_forks_code_waits_for_the_approval_of_its_very_commit_and_a_push_closes_the_gate() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms, forks-on-host: true").await?;
    stand.repository.commit("base", &[(".segue/pipelines/ci.yml", PIPELINE), ("file", "base")])?;
    stand.repository.push("main")?;
    github.set_permission("acme/shop", "ada", "write");

    let (_, first) = push(&stand, &github, "opened", "one").await?;
    a_second_passes().await;
    let id = say(&stand, &github, "f1", "eve", "/segue approve").await?;
    assert!(answered(&github, id).await?.body.contains("eve has no write access"));
    let id = say(&stand, &github, "f2", "ada", "/segue deploy production").await?;
    assert!(answered(&github, id).await?.body.contains("code from outside the repository"));
    let view: RunView = stand.api()?.get(&format!("/runs/{first}")).await?;
    assert_eq!(view.jobs[0].status, JobStatus::Waiting, "{view:#?}");

    let id = say(&stand, &github, "f3", "ada", "Looks good.\n\n/segue approve").await?;
    assert!(answered(&github, id).await?.body.contains("it counts for test of run"));
    let view = stand.api()?.ended(first, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    assert_eq!(view.jobs.iter().map(|job| job.key.as_str()).collect::<Vec<_>>(), ["test"], "the base's pipeline");
    assert!(stand.api()?.log(&view.jobs[0].id).await?.contains("one"), "the fork's code");

    // written before the push, and brought after it
    let (late, payload) = github.write_comment("acme/shop", 7, "ada", "/segue approve");
    a_second_passes().await;
    let (second_head, second) = push(&stand, &github, "synchronize", "two").await?;
    deliver(&stand, "f4", &payload).await?;
    let answer = answered(&github, late).await?;
    assert!(answer.body.contains(&format!("write \\`/segue approve {second_head}\\`")), "{}", answer.body);
    // a rerun of what was approved opens nothing of what was not
    let id = say(&stand, &github, "f5", "ada", "/segue rerun").await?;
    answered(&github, id).await?;
    let view: RunView = stand.api()?.get(&format!("/runs/{second}")).await?;
    assert_eq!(view.jobs[0].status, JobStatus::Waiting, "{view:#?}");

    let id = say(&stand, &github, "f6", "ada", "/segue approve 0123456789").await?;
    assert!(answered(&github, id).await?.body.contains("waits for an approval"));
    let id = say(&stand, &github, "f7", "ada", &format!("/segue approve {second_head}")).await?;
    assert!(answered(&github, id).await?.body.contains(&second_head));
    let view = stand.api()?.ended(second, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    assert!(stand.api()?.log(&view.jobs[0].id).await?.contains("two"));
    Ok(())
}
