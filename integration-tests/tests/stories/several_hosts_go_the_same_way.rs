//! An environment on two hosts, each with a proxy and instances of its own.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use segue_integration_tests::{load::Load, processes, sample, stand::Stand, stand::free_address};
use segue_schemas::{
    deploy::{JournalKind, Rollout},
    status::RolloutStatus,
};

use crate::{RUN_LIMIT, nothing_was_dropped, release};

const SOON: Duration = Duration::from_secs(60);
const STAGE: &str = "400ms";

/// A stand whose production is on `local` and on `b`.
struct Pair {
    stand: Stand,
    data: PathBuf,
    listen: String,
    /// The process of host `b`.
    host: u32,
}

impl Pair {
    async fn start() -> Result<Self> {
        let mut stand = Stand::prepare("")?;
        let (data, listen) = (stand.data().with_file_name("b"), free_address()?);
        stand.add_settings(&format!(
            "  b:\n    socket: {}/host.sock\n    listen: [\"{listen}\"]\n\
             environments: {{production: {{hosts: [local, b]}}}}\n\
             timing: {{lease: 3s, renew: 500ms, dead-man: 3s, absent-host: 4s}}\n",
            data.display()
        ));
        let host = stand.start_host(&data, &listen).await?;
        stand.start_server().await?;
        Ok(Self { stand, data, listen, host })
    }

    /// What both say.
    async fn versions(&self) -> Result<[String; 2]> {
        Ok([version_at(&self.stand.proxy).await?, version_at(&self.listen).await?])
    }

    async fn newest(&self) -> Result<Rollout> {
        Ok(self.stand.api()?.rollouts("production").await?.remove(0))
    }
}

async fn version_at(proxy: &str) -> Result<String> {
    let request =
        reqwest::Client::new().get(format!("http://{proxy}/")).header("host", sample::host_name("production"));
    let body: serde_json::Value = request.timeout(Duration::from_secs(5)).send().await?.json().await?;
    Ok(body["version"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn both_come_to_a_good_release_and_back_from_a_bad_one() -> Result<()> {
    let pair = Pair::start().await?;
    release(&pair.stand, "1", 0.0, STAGE).await?;
    assert_eq!(pair.versions().await?, ["1", "1"]);
    let other = Load::to(&pair.listen, "production").start();
    release(&pair.stand, "2", 0.0, STAGE).await?;
    assert_eq!(pair.versions().await?, ["2", "2"]);
    let rollout = pair.newest().await?;
    ensure!(rollout.status == RolloutStatus::Succeeded && rollout.spec.hosts == ["local", "b"], "{rollout:#?}");
    release(&pair.stand, "3", 1.0, STAGE).await?;
    assert_eq!(pair.newest().await?.status, RolloutStatus::RolledBack);
    assert_eq!(pair.versions().await?, ["2", "2"]);
    let tally = other.stop().await;
    nothing_was_dropped(&tally);
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_lost_comes_to_what_the_other_serves_once_it_is_back() -> Result<()> {
    let mut pair = Pair::start().await?;
    release(&pair.stand, "1", 0.0, STAGE).await?;
    assert_eq!(pair.versions().await?, ["1", "1"]);
    let other = Load::to(&pair.listen, "production").start();
    processes::signal(pair.host, Signal::SIGKILL)?;
    release(&pair.stand, "2", 0.0, STAGE).await?;
    // nobody drives it, and what it carries goes on
    assert_eq!(pair.versions().await?, ["2", "1"]);
    let rollout = pair.stand.api()?.rollout(pair.newest().await?.id).await?;
    let left_out: Vec<_> = rollout.journal.iter().filter(|entry| entry.kind == JournalKind::Quarantined).collect();
    ensure!(left_out.len() == 1 && left_out[0].host.as_deref() == Some("b"), "{:#?}", rollout.journal);

    pair.host = pair.stand.start_host(&pair.data, &pair.listen).await?;
    let begun = Instant::now();
    while pair.versions().await? != ["2", "2"] {
        ensure!(begun.elapsed() < SOON, "it stays behind: {:#?}", pair.newest().await?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let follows = pair.newest().await?;
    assert_eq!(follows.spec.hosts, ["b"]);
    assert_eq!(pair.stand.api()?.rollout_ended(follows.id, RUN_LIMIT).await?.rollout.status, RolloutStatus::Succeeded);
    // what it calls its instances is its own, and the next release goes to both
    release(&pair.stand, "3", 0.0, STAGE).await?;
    assert_eq!(pair.versions().await?, ["3", "3"]);
    nothing_was_dropped(&other.stop().await);
    Ok(())
}

#[tokio::test]
async fn one_goes_over_after_the_other_and_both_come_back_from_what_is_bad_at_the_second() -> Result<()> {
    let pair = Pair::start().await?;
    release(&pair.stand, "1", 0.0, STAGE).await?;
    let load = Load::to(&pair.listen, "production").start();
    for (version, failing, ends, serves) in
        [("2", 0.0, RolloutStatus::Succeeded, "2"), ("3", 1.0, RolloutStatus::RolledBack, "2")]
    {
        pair.stand.repository.commit(
            &format!("version {version}"),
            &[
                (".segue/pipelines/release.yml", &sample::deployed("strategy: rolling, pause: 3s")),
                ("service.yml", &sample::service_yml(version, failing)),
            ],
        )?;
        let before = pair.versions().await?;
        let guid = pair.stand.push("main").await?;
        let begun = Instant::now();
        // nobody asks the first for anything, so that it is seen at the second alone
        while pair.newest().await?.weight != 50 {
            ensure!(begun.elapsed() < SOON, "none goes over: {:#?}", pair.newest().await?);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(version_at(&pair.listen).await?, before[1], "the second waits for the first");
        pair.stand.api()?.run_of(&guid, RUN_LIMIT).await?;
        let rollout = pair.newest().await?;
        ensure!(rollout.status == ends && rollout.stage == 1, "{rollout:#?}");
        assert_eq!(pair.versions().await?, [serves, serves]);
    }
    nothing_was_dropped(&load.stop().await);
    Ok(())
}

#[tokio::test]
async fn an_emergency_at_one_is_followed_by_the_other() -> Result<()> {
    let pair = Pair::start().await?;
    release(&pair.stand, "1", 0.0, STAGE).await?;
    release(&pair.stand, "2", 0.0, STAGE).await?;
    let socket = pair.data.join("host.sock").display().to_string();
    let emergency = ["rollback", "production", "api", "--emergency", "--socket", &socket, "--reason", "it is red"];
    let said = pair.stand.segue(&emergency)?;
    ensure!(said.status.success(), "{said:?}");
    assert_eq!(version_at(&pair.listen).await?, "1");
    let begun = Instant::now();
    while pair.versions().await? != ["1", "1"] {
        ensure!(begun.elapsed() < SOON, "the other one stays: {:#?}", pair.newest().await?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
