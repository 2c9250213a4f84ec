use std::{path::Path, process::Command};

use anyhow::{Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use segue_schemas::status::RunStatus;
use serde_json::json;

use crate::{
    check_shown,
    github_comments_are_commands::{LIMIT, answered, say},
    with_github,
};

/// A branch that git takes, and that begins like an option.
const BRANCH: &str = "--upload-pack=$(touch${IFS}pwned);`touch${IFS}pwned`'\"&|<b>#%ä";
const TITLE: &str = "first\n::error::owned\r\n# <img src=x onerror=alert(1)> | `touch pwned` $(touch pwned) '\" ${{ secrets.KEY }} @everyone";

const PIPELINE: &str = r#"name: ci
on: [pull_request]
concurrency: "checks-${{ github.head_ref }}"
jobs:
  show:
    name: "Of ${{ github.head_ref }}"
    runs-on: [linux]
    outputs: {text: "${{ steps.keep.outputs.text }}"}
    steps:
      - uses: segue/checkout
      - name: Literal
        id: keep
        env:
          BRANCH: ${{ github.head_ref }}
          TITLE: ${{ github.event.pull_request.title }}
        run: |
          mkdir -p "dir/$BRANCH"
          printf '%s' "$TITLE" > "dir/$BRANCH/title"
          printf 'text<<THE_END\n%s\nTHE_END\n' "$TITLE" >> "$SEGUE_OUTPUT"
          echo "branch=$(printf '%s' "$BRANCH" | base64 --wrap 0)"
          echo "title=$(base64 --wrap 0 < "dir/$BRANCH/title")"
          printf '::warning title=%s::%s\n' '<b>' "$BRANCH"
  after:
    needs: show
    runs-on: [linux]
    steps:
      - env:
          TEXT: ${{ needs.show.outputs.text }}
        run: |
          echo "output=$(printf '%s' "$TEXT" | base64 --wrap 0)"
          exit 1
"#;

/// Every file below a folder of which the name is what the texts would have made.
fn made(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name() == "pwned" {
            found.push(entry.path().display().to_string());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            made(&entry.path(), found);
        }
    }
}

/// Markdown without what stands in it as text.
fn unescaped(markdown: &str) -> String {
    let mut rest = markdown.chars();
    let mut live = String::new();
    while let Some(c) = rest.next() {
        if c == '\\' {
            rest.next();
        } else {
            live.push(c);
        }
    }
    live
}

#[tokio::test]
async fn what_strangers_chose_is_text_in_files_variables_checks_and_comments() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms").await?;
    stand.repository.commit("base", &[("file", "base")])?;
    stand.repository.push("main")?;
    let message = format!("{TITLE}\n\n$(touch pwned)");
    let head = stand.repository.commit(&message, &[(".segue/pipelines/ci.yml", PIPELINE)])?;
    let bare = stand.repository.bare().display().to_string();
    let git = |arguments: &[&str]| -> Result<()> {
        let output = Command::new("git").arg("-C").arg(stand.repository.work()).args(arguments).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    git(&["push", "--quiet", &bare, &format!("{head}:refs/heads/{BRANCH}"), &format!("{head}:refs/pull/7/head")])?;
    github.set_pull("acme/shop", 7, &head, BRANCH, "acme/shop");
    github.set_permission("acme/shop", "ada", "write");
    let mut payload = github.pull_payload("acme/shop", 7, "opened", None);
    payload["pull_request"]["title"] = json!(TITLE);
    let answer = stand.webhook()?.send("t1", "pull_request", &serde_json::to_vec(&payload)?).await?;
    assert_eq!(answer.status(), 202);

    let view = stand.api()?.run_of("t1", LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Failed, "{view:#?}");
    let said = async |at: usize, name: &str| -> Result<Vec<u8>> {
        let log = stand.api()?.log(&view.jobs[at].id).await?;
        // before it stands the script, which has the words too
        let line = log.lines().rev().find_map(|line| line.split_once(&format!("{name}=")));
        let (_, encoded) = line.unwrap_or_default();
        Ok(STANDARD.decode(encoded.trim())?)
    };
    assert_eq!(String::from_utf8(said(0, "branch").await?)?, BRANCH);
    assert_eq!(String::from_utf8(said(0, "title").await?)?, TITLE);
    // an output is lines, whatever ends them
    assert_eq!(String::from_utf8(said(1, "output").await?)?, TITLE.replace("\r\n", "\n"));

    // the checks: names as they are, which GitHub shows as text, and in Markdown every mark escaped
    let of = format!("ci / Of {BRANCH}");
    let job = check_shown(&github, &head, &of, "success", LIMIT).await?;
    assert_eq!(job.annotations.len(), 0, "a line of a variable is no command: {:#?}", job.annotations);
    assert!(job.summary.contains("warning") && !job.summary.contains("<b>"), "{}", job.summary);
    let pipeline = check_shown(&github, &head, "ci", "failure", LIMIT).await?;
    assert!(pipeline.summary.contains("\\<b\\>\\#%ä"), "{}", pipeline.summary);
    let live = unescaped(&pipeline.summary);
    for bare in ["<b>", "`touch", "$(", "&"] {
        assert!(!live.contains(bare), "`{bare}` in {}", pipeline.summary);
    }

    // comments
    let hostile = "/segue deploy <img/src=x>|`x`$(touch${IFS}pwned)@everyone";
    let id = say(&stand, &github, "t2", "ada", hostile).await?;
    let answer = answered(&github, id).await?.body;
    let (_mark, said) = answer.split_once("-->").unwrap_or_default();
    assert!(!said.is_empty() && !unescaped(said).contains(['<', '`', '$']) && !said.contains("@everyone"), "{answer}");
    let id = say(&stand, &github, "t3", "ada", "/segue rerun").await?;
    let answer = answered(&github, id).await?.body;
    assert!(answer.contains("begins attempt 2"), "{answer}");
    stand.api()?.ended(view.run.id.0, LIMIT).await?;

    // what a person at a terminal sees
    let shown = stand.segue(&["runs", "1"])?;
    assert!(shown.status.success() && !shown.stdout.contains(&b'\r'), "{}", String::from_utf8_lossy(&shown.stdout));
    let mut found = Vec::new();
    made(stand.folder(), &mut found);
    assert!(found.is_empty(), "a text was done: {found:?}");
    Ok(())
}
