use std::time::Duration;

use anyhow::Result;
use segue_integration_tests::stand::Stand;
use segue_schemas::{api::RunView, status::RunStatus};

const PIPELINE: &str =
    "on: [push]\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: echo a line that must not be lost\n";

#[tokio::test]
async fn a_backup_of_a_running_segue_brings_runs_and_logs_back_in_an_empty_folder() -> Result<()> {
    let mut stand = Stand::start("").await?;
    let api = stand.api()?;
    stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    let guid = stand.push("main").await?;
    let view = api.run_of(&guid, Duration::from_secs(30)).await?;

    let data = stand.data();
    let file = stand.folder().join("backup.tar.zst");
    let output = stand.segue(&["backup", &file.display().to_string(), "--data", &data.display().to_string()])?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    stand.stop_server(Duration::from_secs(60)).await?;
    for pid in stand.all_processes() {
        let _ = segue_integration_tests::processes::signal(pid, nix::sys::signal::Signal::SIGKILL);
    }
    // a folder that holds something is not overwritten
    let refused = stand.segue(&["restore", &file.display().to_string(), "--data", &data.display().to_string()])?;
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));

    std::fs::rename(&data, stand.folder().join("lost"))?;
    let restored = stand.segue(&["restore", &file.display().to_string(), "--data", &data.display().to_string()])?;
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    stand.start_server().await?;
    let again: RunView = stand.api()?.get(&format!("/runs/{}", view.run.id)).await?;
    assert_eq!(again.run.status, RunStatus::Succeeded);
    assert!(stand.api()?.log(&again.jobs[0].id).await?.contains("a line that must not be lost"));
    // and it goes on
    stand.repository.commit("second", &[("file", "x")])?;
    let guid = stand.push("main").await?;
    assert_eq!(stand.api()?.run_of(&guid, Duration::from_secs(30)).await?.run.status, RunStatus::Succeeded);
    Ok(())
}
