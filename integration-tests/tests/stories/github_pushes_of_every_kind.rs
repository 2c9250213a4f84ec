use std::{process::Command, time::Duration};

use anyhow::{Result, ensure};
use segue_integration_tests::{
    repository::{Pushed, ZERO},
    stand::Stand,
    webhook::push_payload,
};
use segue_schemas::{
    api::{DeliveryStatus, DeliveryView, RunView},
    status::RunStatus,
};
use serde_json::{Value, json};

use crate::{check_shown, with_github};

const LIMIT: Duration = Duration::from_secs(60);

const FRONT: &str = "name: front
on:
  push:
    branches: ['**']
    paths: ['front/**']
jobs:
  one:
    runs-on: [linux]
    steps:
      - run: echo front
";
const RELEASE: &str = "name: release
on:
  push:
    tags: ['v[0-9]+.*']
jobs:
  publish:
    runs-on: [linux]
    steps:
      - uses: segue/checkout
        id: code
      - env:
          NAME: ${{ github.ref_name }}
          KIND: ${{ github.ref_type }}
          COMMIT: ${{ github.sha }}
        run: echo \"publishing $KIND $NAME of $COMMIT with $(cat file)\"
";

fn git(stand: &Stand, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .args(["-c", "user.name=A User", "-c", "user.email=user@example.com", "-c", "tag.gpgsign=false"])
        .arg("-C")
        .arg(stand.repository.work())
        .args(arguments)
        .output()?;
    ensure!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Sends a push with these members changed, and what came of it.
async fn tell(stand: &Stand, pushed: &Pushed, changes: Value) -> Result<DeliveryView> {
    let mut payload = push_payload(&stand.repository, pushed);
    for (key, value) in changes.as_object().into_iter().flatten() {
        payload[key] = value.clone();
    }
    let guid = uuid::Uuid::new_v4().to_string();
    let answer = stand.webhook()?.send(&guid, "push", &serde_json::to_vec(&payload)?).await?;
    ensure!(answer.status() == 202, "the webhook was answered {}", answer.status());
    stand.api()?.planned(&guid, LIMIT).await
}

/// How the runs of a delivery ended, by their pipelines.
async fn ended(stand: &Stand, delivery: &DeliveryView) -> Result<Vec<(String, RunStatus)>> {
    let mut all = Vec::new();
    for run in &delivery.runs {
        let view = stand.api()?.ended(run.0, LIMIT).await?;
        all.push((view.run.pipeline, view.run.status));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

#[tokio::test]
async fn new_branches_long_pushes_forced_ones_and_deletions_are_taken_for_what_they_are() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms").await?;
    let ran = |status| vec![("front".to_owned(), status)];

    // a new branch has no commit before it: everything counts as changed
    stand.repository.commit("first", &[(".segue/pipelines/front.yml", FRONT), ("front/a", "1")])?;
    let first = stand.repository.push("main")?;
    assert_eq!(first.before, ZERO);
    let delivery = tell(&stand, &first, json!({"created": true})).await?;
    assert_eq!(ended(&stand, &delivery).await?, ran(RunStatus::Succeeded));

    // more commits than a payload lists, which is 20; what matters is in the first of all
    for n in 0..25 {
        let file = if n == 0 { "front/b" } else { "back/b" };
        stand.repository.commit(&format!("commit {n}"), &[(file, &n.to_string())])?;
    }
    let long = stand.repository.push("main")?;
    let listed: Vec<Value> = (5..25).map(|n| json!({"id": long.after, "modified": ["back/b"], "message": n})).collect();
    let delivery = tell(&stand, &long, json!({"commits": listed})).await?;
    assert_eq!(ended(&stand, &delivery).await?, ran(RunStatus::Succeeded), "the payload's list is not what changed");
    check_shown(&github, &long.after, "front", "success", LIMIT).await?;

    // 25 others, of which none concerns it
    for n in 0..25 {
        stand.repository.commit(&format!("other {n}"), &[("back/c", &n.to_string())])?;
    }
    let other = stand.repository.push("main")?;
    let delivery = tell(&stand, &other, json!({})).await?;
    assert!(ended(&stand, &delivery).await?.iter().all(|(_, status)| *status == RunStatus::Skipped), "{delivery:?}");
    check_shown(&github, &other.after, "front", "skipped", LIMIT).await?;

    // forced: back to where it was, with a commit of another history on top
    git(&stand, &["reset", "--quiet", "--hard", &long.after])?;
    stand.repository.commit("rewritten", &[("front/b", "rewritten")])?;
    let forced = stand.repository.push("main")?;
    assert_eq!(forced.before, other.after);
    let delivery = tell(&stand, &forced, json!({"forced": true, "commits": []})).await?;
    assert_eq!(ended(&stand, &delivery).await?, ran(RunStatus::Succeeded));
    // a commit before it that nobody has any more: nothing is known to be unchanged
    let lost = Pushed { before: "d".repeat(40), git_ref: "refs/heads/other".into(), ..forced.clone() };
    git(&stand, &["push", "--quiet", "origin", "HEAD:refs/heads/other"])?;
    let delivery = tell(&stand, &lost, json!({"forced": true})).await?;
    assert_eq!(ended(&stand, &delivery).await?, ran(RunStatus::Succeeded));

    // a branch that goes starts nothing, and says so
    git(&stand, &["push", "--quiet", "origin", ":refs/heads/other"])?;
    let gone =
        Pushed { before: forced.after.clone(), after: ZERO.into(), git_ref: "refs/heads/other".into(), ..forced };
    let delivery = tell(&stand, &gone, json!({"deleted": true, "head_commit": null, "commits": []})).await?;
    assert_eq!(delivery.status, DeliveryStatus::Ignored);
    assert_eq!(delivery.reason.as_deref(), Some("`refs/heads/other` was deleted"));
    assert!(github.requests().iter().all(|request| request.status.is_success()), "{:#?}", github.requests());
    Ok(())
}

#[tokio::test]
async fn a_tag_of_either_kind_releases_its_commit() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms").await?;
    let files = [(".segue/pipelines/release.yml", RELEASE), (".segue/pipelines/front.yml", FRONT), ("file", "it")];
    let commit = stand.repository.commit("first", &files)?;
    stand.repository.push("main")?;
    git(&stand, &["tag", "v1.0"])?;
    git(&stand, &["tag", "--annotate", "--message", "Second", "v1.1"])?;
    git(&stand, &["tag", "nightly"])?;
    git(&stand, &["push", "--quiet", "origin", "--tags"])?;
    let object = git(&stand, &["rev-parse", "refs/tags/v1.1"])?;
    assert_ne!(object, commit, "an annotated tag is an object of its own");

    for (tag, after) in [("v1.0", &commit), ("v1.1", &object)] {
        let git_ref = format!("refs/tags/{tag}");
        let pushed = Pushed { git_ref, before: ZERO.into(), after: after.clone(), message: "first".into() };
        // as GitHub tells it: `after` is the tag's object, and `head_commit` the commit
        let head = json!({"id": commit, "message": "first"});
        let delivery = tell(&stand, &pushed, json!({"commits": [], "head_commit": head, "created": true})).await?;
        let [run] = delivery.runs[..] else { panic!("{tag}: {delivery:?}") };
        let view: RunView = stand.api()?.ended(run.0, LIMIT).await?;
        assert_eq!((view.run.pipeline.as_str(), view.run.status), ("release", RunStatus::Succeeded), "{view:#?}");
        let log = stand.api()?.log(&view.jobs[0].id).await?;
        assert!(log.contains(&format!("publishing tag {tag} of {commit} with it")), "{log}");
    }
    check_shown(&github, &commit, "release", "success", LIMIT).await?;
    check_shown(&github, &commit, "release / publish", "success", LIMIT).await?;

    let pushed = Pushed {
        git_ref: "refs/tags/nightly".into(),
        before: ZERO.into(),
        after: commit.clone(),
        message: String::new(),
    };
    let delivery = tell(&stand, &pushed, json!({})).await?;
    assert!(ended(&stand, &delivery).await?.iter().all(|(_, status)| *status == RunStatus::Skipped), "{delivery:?}");
    assert!(github.requests().iter().all(|request| request.status.is_success()), "{:#?}", github.requests());
    Ok(())
}
