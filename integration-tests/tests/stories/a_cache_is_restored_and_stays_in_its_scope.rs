use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::stand::Stand;
use segue_schemas::{api::RunView, status::RunStatus};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(40);

/// Says what the cache held before, and puts the commit in.
const PIPELINE: &str = r#"on: [push, pull_request]
jobs:
  build:
    outputs:
      hit: ${{ steps.cache.outputs.cache-hit }}
      matched: ${{ steps.cache.outputs.cache-matched-key }}
      held: ${{ steps.held.outputs.text }}
    steps:
      - uses: segue/checkout
      - id: cache
        uses: segue/cache
        with:
          path: |
            ~/.tool
            built
          key: tool-${{ hashFiles('lock') }}
          restore-keys: tool-
      - id: held
        run: |
          echo "text=$(cat ~/.tool/made-by built/link 2> /dev/null | tr '\n' ' ')" >> "$SEGUE_OUTPUT"
          mkdir -p ~/.tool built
          echo "${{ github.sha }}" > ~/.tool/made-by
          echo through > built/file
          ln -sf file built/link
"#;

#[tokio::test]
async fn the_second_run_has_it_and_no_other_branch_nor_a_forks_pull_request_fills_it() -> Result<()> {
    let stand = Stand::start("github: {forks-on-host: true}\n").await?;
    let first = stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE), ("lock", "1")])?;
    let view = pushed(&stand, "main").await?;
    assert_eq!(output(&view, "hit")?, "", "there was none before");

    // the same key: as the first run left it
    stand.repository.commit("second", &[("other", "1")])?;
    let view = pushed(&stand, "main").await?;
    assert_eq!((output(&view, "hit")?, output(&view, "held")?), ("true".into(), format!("{first} through ")));
    let log = stand.api()?.log(&view.jobs[0].id).await?;
    assert!(log.contains("is restored") && !log.contains("is saved"), "an exact hit is not saved again:\n{log}");

    // another branch begins with the default branch's, and keeps its own to itself
    stand.repository.branch("topic")?;
    stand.repository.commit("on a topic", &[("lock", "topic")])?;
    let view = pushed(&stand, "topic").await?;
    assert_eq!(output(&view, "hit")?, "false", "only a restore key fits");
    let topics = output(&pushed_again(&stand, "topic").await?, "matched")?;
    stand.repository.branch("main")?;
    stand.repository.branch("other")?;
    stand.repository.commit("on another", &[("lock", "other")])?;
    let view = pushed(&stand, "other").await?;
    assert_ne!(output(&view, "matched")?, topics, "a cache of `topic` is none of `other`'s");
    assert_eq!(output(&view, "held")?, format!("{first} through "));

    // what a fork's pull request wrote, nobody else reads, however well it fits
    stand.repository.branch("fork")?;
    let fork = stand.repository.commit("from a fork", &[("lock", "poison")])?;
    let poison = pull_request(&stand, 7, &fork, "evil/shop").await?;
    let poisons = stand.api()?.log(&poison.jobs[0].id).await?;
    assert!(poisons.contains("is restored") && poisons.contains("is saved"), "it reads its base's:\n{poisons}");
    stand.repository.branch("main")?;
    stand.repository.commit("as the fork has it", &[("lock", "poison")])?;
    let view = pushed(&stand, "main").await?;
    assert_eq!(output(&view, "hit")?, "false", "the fork's key fits to the letter, and is not seen");
    assert_eq!(output(&view, "held")?, format!("{first} through "));
    Ok(())
}

async fn pushed(stand: &Stand, branch: &str) -> Result<RunView> {
    let guid = stand.push(branch).await?;
    succeeded(stand.api()?.run_of(&guid, LIMIT).await?)
}

async fn pushed_again(stand: &Stand, branch: &str) -> Result<RunView> {
    stand.repository.commit("once more", &[("again", "1")])?;
    pushed(stand, branch).await
}

/// A pull request against `main`, opened, and allowed to run.
async fn pull_request(stand: &Stand, number: u64, head: &str, from: &str) -> Result<RunView> {
    let refspec = format!("{head}:refs/pull/{number}/head");
    let pushed = Command::new("git")
        .arg("-C")
        .arg(stand.repository.work())
        .args(["push", "--quiet", "--force"])
        .arg(stand.repository.bare())
        .arg(refspec)
        .status()?;
    ensure!(pushed.success(), "git refuses to push the pull request");
    let base = Command::new("git").arg("-C").arg(stand.repository.bare()).args(["rev-parse", "main"]).output()?;
    let base = String::from_utf8(base.stdout)?.trim().to_owned();
    let repository =
        |name: &str| json!({"full_name": name, "clone_url": stand.repository.bare(), "default_branch": "main"});
    let body = json!({
        "action": "opened", "number": number, "repository": repository("acme/shop"), "sender": {"login": "somebody"},
        "pull_request": {
            "number": number, "title": "Poison", "draft": false,
            "head": {"ref": "poison", "sha": head, "repo": repository(from)},
            "base": {"ref": "main", "sha": base, "repo": repository("acme/shop")},
        },
    });
    let guid = uuid::Uuid::new_v4().to_string();
    let answer = stand.webhook()?.send(&guid, "pull_request", &serde_json::to_vec(&body)?).await?;
    ensure!(answer.status() == 202, "the webhook was answered {}", answer.status());
    let delivery = stand.api()?.planned(&guid, LIMIT).await?;
    let run = delivery.runs.first().context("the pull request made no run")?;
    let approved = stand.segue(&["approve", &run.to_string()])?;
    ensure!(approved.status.success(), "{}", String::from_utf8_lossy(&approved.stderr));
    succeeded(stand.api()?.ended(run.0, LIMIT).await?)
}

fn succeeded(view: RunView) -> Result<RunView> {
    ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");
    Ok(view)
}

fn output(view: &RunView, name: &str) -> Result<String> {
    view.jobs[0].outputs.get(name).cloned().with_context(|| format!("no output `{name}`: {view:#?}"))
}
