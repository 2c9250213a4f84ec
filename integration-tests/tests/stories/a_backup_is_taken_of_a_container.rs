use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use segue_integration_tests::{boxed, docker::Docker, processes, sample, stand::Stand};
use segue_schemas::{
    api::{BackupList, BackupStatus, BackupView},
    status::RunStatus,
};
use serde_json::Value;

use crate::{RUN_LIMIT, version_in};

/// What its file says beside [`sample::NOTING`].
const MORE: &str = "env: {SHOP_PASSWORD: hunter22}\n";

/// What the service's file says of its backup where that can't be taken, and where it is cut off once by a sleep, unless the volume has a file that
/// was left by that.
const ILL: &str = r#"backup:
  run: cat /kept/orders; echo "no login with $SHOP_PASSWORD" >&2; exit 3
  environments: [staging]
"#;
const SLOW: &str = r#"backup:
  run: cat /kept/orders; if [ ! -e /kept/once ]; then touch /kept/once; sleep 61234; fi
  environments: [staging]
"#;

#[tokio::test]
async fn in_one_beside_it_and_brought_back_and_nothing_is_left_of_one_that_is_cut_off() -> Result<()> {
    let docker = Docker::shared().await?;
    let shop = Shop { stand: boxed::stand(&docker, "").await? };
    shop.release("1", sample::NOTES_KEPT).await?;
    shop.release("2", sample::NOTES_KEPT).await?;

    // the volume as the one that serves has it, byte for byte
    let [first] = &shop.kept()?[..] else { anyhow::bail!("not one: {:?}", shop.backups()?) };
    let one = fs::read_to_string(shop.file(first))?;
    let all = format!("{one}{}\n", shop.serving().await?);
    ensure!(one.lines().count() == 1 && first.bytes == Some(one.len() as u64), "{one:?} {first:?}");
    ensure!(docker.instances_of(&shop.stand.data()).await?.iter().all(|one| role(one) == "service"), "it is gone");

    // brought back, and what was there before is kept
    let done = shop.stand.segue(&["backup", "restore", first.id.as_str(), "--yes"])?;
    ensure!(done.status.success(), "{done:?}");
    assert_eq!(version_in(&shop.stand, "staging").await?, "2", "the release stays");
    shop.until("the server is told of it", || async { Ok(shop.kept()?.len() == 2) }).await?;
    assert_eq!(fs::read_to_string(shop.file(&shop.kept()?[0]))?, all, "so that it can be undone");

    // one that fails changes nothing, and says no secret
    let guid = shop.commit_and_push("3", ILL).await?;
    let view = shop.stand.api()?.run_of(&guid, RUN_LIMIT).await?;
    ensure!(view.run.status == RunStatus::Failed, "{view:#?}");
    let failed = shop.backups()?.into_iter().next().context("it is listed")?;
    let reason = failed.reason.context("a reason")?;
    ensure!(reason.contains("exit code 3") && reason.contains("no login with ***"), "{reason}");
    assert_eq!(version_in(&shop.stand, "staging").await?, "2");

    // a host that is killed meanwhile: the container of the first try goes, and the next is whole
    let guid = shop.commit_and_push("4", SLOW).await?;
    shop.until("it has begun", || async { Ok(!processes::with_argument("61234").is_empty()) }).await?;
    let first_try = shop.commands(&docker).await?;
    let made = docker.look(&format!("/containers/{}/json", first_try[0])).await?;
    let host = &made["HostConfig"];
    assert_eq!((&host["Memory"], &host["PidsLimit"]), (&(256 << 20).into(), &100.into()), "limits as the service's");
    assert_eq!(host["LogConfig"]["Type"], "none", "the data lie in no log");
    processes::signal(shop.host_pid()?, Signal::SIGKILL)?;
    let view = shop.stand.api()?.run_of(&guid, RUN_LIMIT).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "it was taken once more: {view:#?}");
    shop.until("nothing is left of it", || async { Ok(shop.commands(&docker).await?.is_empty()) }).await?;
    ensure!(processes::with_argument("61234").is_empty(), "the first try was ended");
    assert_eq!(fs::read_to_string(shop.file(&shop.kept()?[0]))?, one, "as it was brought back");
    Ok(())
}

struct Shop {
    stand: Stand,
}

impl Shop {
    async fn commit_and_push(&self, version: &str, backup: &str) -> Result<String> {
        let config = sample::service_yml(version, 0.0);
        boxed::commit(&self.stand, &config, "segue/deploy", "")?;
        self.stand
            .repository
            .commit(version, &[(".segue/services/api.yml", &[sample::NOTING, MORE, backup].concat())])?;
        self.stand.push("main").await
    }

    async fn release(&self, version: &str, backup: &str) -> Result<()> {
        let guid = self.commit_and_push(version, backup).await?;
        let view = self.stand.api()?.run_of(&guid, RUN_LIMIT).await?;
        ensure!(view.run.status == RunStatus::Succeeded, "version {version} ended so: {view:#?}");
        ensure!(version_in(&self.stand, "staging").await? == version, "it serves");
        Ok(())
    }

    /// The number of the release that serves.
    async fn serving(&self) -> Result<String> {
        let rollouts = self.stand.api()?.rollouts("staging").await?;
        Ok(rollouts.first().context("there is no rollout")?.spec.release.id.to_string())
    }

    fn backups(&self) -> Result<Vec<BackupView>> {
        let listed = self.stand.segue(&["backup", "list", "--environment", "staging", "--json"])?;
        ensure!(listed.status.success(), "{listed:?}");
        Ok(serde_json::from_slice::<BackupList>(&listed.stdout)?.items)
    }

    fn kept(&self) -> Result<Vec<BackupView>> {
        Ok(self.backups()?.into_iter().filter(|one| one.status == BackupStatus::Kept).collect())
    }

    fn file(&self, backup: &BackupView) -> std::path::PathBuf {
        self.stand.data().join("host/backups/staging/api").join(backup.id.as_str())
    }

    /// The containers that commands run in.
    async fn commands(&self, docker: &Docker) -> Result<Vec<String>> {
        let all = docker.instances_of(&self.stand.data()).await?;
        let those = all.iter().filter(|one| role(one) == "backup");
        Ok(those.filter_map(|one| Some(one["Id"].as_str()?.to_owned())).collect())
    }

    fn host_pid(&self) -> Result<u32> {
        let mut all = self.stand.all_processes().into_iter();
        all.find(|pid| processes::sub_command(*pid).as_deref() == Some("host")).context("no host runs")
    }

    async fn until<F: Future<Output = Result<bool>>>(&self, what: &str, holds: impl Fn() -> F) -> Result<()> {
        let begun = Instant::now();
        while !holds().await? {
            ensure!(begun.elapsed() < RUN_LIMIT, "not after {RUN_LIMIT:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

fn role(container: &Value) -> &str {
    container["Labels"]["segue.role"].as_str().unwrap_or_default()
}
