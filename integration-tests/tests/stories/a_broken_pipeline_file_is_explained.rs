use std::time::Duration;

use anyhow::Result;
use segue_integration_tests::stand::Stand;
use segue_schemas::status::RunStatus;

const BROKEN: &str = "on: [push]\njobs:\n  one:\n    runs-on: [linux]\n    step:\n      - run: echo hello\n  two:\n    needs: [onne]\n    runs-on: [linux]\n    steps:\n      - run: echo ${{ github.event.head_commit.message }}\n";

#[tokio::test]
async fn a_push_with_a_broken_file_makes_a_failed_run_that_shows_every_mistake_at_its_place() -> Result<()> {
    let stand = Stand::start("").await?;
    stand.repository.commit("broken", &[(".segue/pipelines/broken.yml", BROKEN)])?;
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, Duration::from_secs(30)).await?;

    assert_eq!(view.run.status, RunStatus::Failed);
    let reason = view.run.reason.unwrap_or_default();
    for expected in [".segue/pipelines/broken.yml:5", "steps", "onne", "one", "env:"] {
        assert!(reason.contains(expected), "`{expected}` is not in:\n{reason}");
    }

    // the very same is said on the developer's own machine
    let file = stand.folder().join("broken.yml");
    std::fs::write(&file, BROKEN)?;
    let validated = stand.segue(&["validate", &file.display().to_string()])?;
    assert_eq!(validated.status.code(), Some(1));
    let said = String::from_utf8_lossy(&validated.stdout).into_owned() + &String::from_utf8_lossy(&validated.stderr);
    assert!(said.contains("broken.yml:5") && said.contains("onne"), "{said}");
    Ok(())
}
