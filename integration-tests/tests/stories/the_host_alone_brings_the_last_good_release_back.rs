use std::{
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use segue_integration_tests::{
    processes,
    stand::{Stand, binary},
};

use crate::{good_release, version_in};

#[tokio::test]
async fn after_everything_was_killed_the_host_serves_again_with_nobody_else_there() -> Result<()> {
    let mut stand = Stand::start("").await?;
    good_release(&stand, "1").await?;
    good_release(&stand, "2").await?;

    stand.kill_server()?;
    for pid in stand.all_processes() {
        let _ = processes::signal(pid, Signal::SIGKILL);
    }
    while !stand.all_processes().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ensure!(version_in(&stand, "production").await.is_err(), "nothing serves any more");

    let host = stand.data().join("host");
    let child = Command::new(binary()?)
        .arg("host")
        .arg("--data")
        .arg(&host)
        .args(["--listen", &stand.proxy])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let begun = std::time::Instant::now();
    loop {
        if version_in(&stand, "production").await.is_ok_and(|version| version == "2") {
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(30), "not back after 30 s (host: {})", child.id());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(version_in(&stand, "staging").await?, "2");

    // the server comes back to a host that was there before it
    stand.start_server().await?;
    good_release(&stand, "3").await?;
    assert_eq!(version_in(&stand, "production").await?, "3");
    Ok(())
}

#[tokio::test]
async fn a_host_that_was_killed_alone_finds_its_services_again_and_they_never_stopped() -> Result<()> {
    let stand = Stand::start("").await?;
    good_release(&stand, "1").await?;
    let host = pid_of(&stand, "host")?;
    let service = pid_of(&stand, "sample-service")?;

    processes::signal(host, Signal::SIGKILL)?;
    // the server starts it again, and the next release goes through it
    good_release(&stand, "2").await?;
    assert_eq!(version_in(&stand, "production").await?, "2");
    assert!(pid_of(&stand, "host")? != host);
    assert!(processes::lives(service), "what it parented before lives on, kept warm");
    Ok(())
}

fn pid_of(stand: &Stand, sub_command: &str) -> Result<u32> {
    stand
        .all_processes()
        .into_iter()
        .find(|pid| processes::sub_command(*pid).as_deref() == Some(sub_command))
        .ok_or_else(|| anyhow::anyhow!("no `segue {sub_command}` runs"))
}
