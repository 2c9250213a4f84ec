use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use segue_integration_tests::{processes, stand::binary};
use serde_json::Value;

/// How long it may take with a debug build on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn it_ends_with_its_summary_stays_as_long_as_is_wanted_and_then_is_gone() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("segue-demo-story-").tempdir()?;
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut demo = Command::new(binary()?)
        .args(["demo", "--json", "--keep"])
        .env("TMPDIR", folder.path())
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let told = Arc::new(Mutex::new(String::new()));
    let mut stderr = BufReader::new(demo.stderr.take().context("no standard error")?);
    let listener = std::thread::spawn({
        let told = told.clone();
        move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                told.lock().expect("nobody panics with it").push_str(&std::mem::take(&mut line));
            }
        }
    });
    let said = || told.lock().expect("nobody panics with it").clone();
    let begun = Instant::now();
    while !said().contains("Ctrl-C") {
        let ended = demo.try_wait()?;
        ensure!(ended.is_none() && begun.elapsed() < LIMIT, "{ended:?} after {:?}:\n{}", begun.elapsed(), said());
        std::thread::sleep(Duration::from_millis(50));
    }

    // it runs on, and says how to look around
    let exported = |name: &str| {
        let said = said();
        let after = said.split_once(&format!("{name}="))?.1;
        Some(after.split_whitespace().next()?.to_owned())
    };
    let (server, data) = (exported("SEGUE_SERVER").context("no server")?, exported("SEGUE_DATA").context("no data")?);
    let runs = Command::new(binary()?).args(["runs"]).env("SEGUE_SERVER", &server).env("SEGUE_DATA", &data).output()?;
    assert!(runs.status.success(), "{}", String::from_utf8_lossy(&runs.stderr));
    assert!(String::from_utf8_lossy(&runs.stdout).lines().count() >= 3, "{}", String::from_utf8_lossy(&runs.stdout));

    processes::signal(demo.id(), Signal::SIGINT)?;
    let mut output = String::new();
    demo.stdout.take().context("no standard output")?.read_to_string(&mut output)?;
    let status = demo.wait()?;
    let _ = listener.join();
    assert!(status.success(), "it ended with {status}:\n{}", said());

    let summary: Value = serde_json::from_str(output.lines().last().context("no line")?)?;
    let runs = summary["runs"].as_array().context("no runs")?;
    assert!(
        runs.iter().all(|run| run["commit"].is_string() && run["status"].is_string() && run["seconds"].is_number())
    );
    for figure in ["canary_requests", "verdict_seconds", "traffic_back_seconds"] {
        assert!(summary["rollback"][figure].is_number(), "{figure} in {summary}");
    }
    assert_eq!(summary["dropped_requests"], 0);

    let left = processes::with_argument(&folder.path().display().to_string());
    assert!(left.is_empty(), "processes are left: {left:?}");
    let files: Vec<_> = std::fs::read_dir(folder.path())?.filter_map(Result::ok).map(|entry| entry.path()).collect();
    assert!(files.is_empty(), "files are left: {files:?}");
    Ok(())
}
