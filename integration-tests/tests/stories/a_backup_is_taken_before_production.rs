use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use segue_integration_tests::{api::has, processes, sample, stand::Stand};
use segue_schemas::{
    api::{BackupList, BackupStatus, BackupView, RolloutView, RunView},
    deploy::JournalKind,
    status::{RolloutStatus, RunStatus},
};

use crate::{RUN_LIMIT, version_in};

const PIPELINE: &str = r#"on: [push]
jobs:
  staging:
    environment: staging
    steps:
      - uses: segue/checkout
      - run: |
          mkdir dist
          cp service.yml dist/
          cp "$SAMPLE_SERVICE" dist/sample-service
        env:
          SAMPLE_SERVICE: ${{ vars.SAMPLE_SERVICE }}
      - uses: segue/deploy
        with: { service: api, path: dist }
  production:
    needs: staging
    environment: production
    steps:
      - uses: segue/checkout
      - uses: segue/promote
        with: { service: api, from: staging }
"#;

/// Keeps orders in a file. Backing it up fails, or takes for ever, while there is a file that says so.
const BACKUP: &str = r#"env: { SHOP_PASSWORD: hunter22 }
backup:
  run: |
    if [ -e SHOP/fail ]; then echo "no login with $SHOP_PASSWORD" >&2; exit 3; fi
    cat SHOP/orders
    if [ -e SHOP/slow ]; then touch SHOP/reached; sleep 61234; fi
  restore: cat > SHOP/orders
  keep: { last: 2 }
"#;

#[tokio::test]
async fn and_without_one_nothing_changes_and_it_can_be_brought_back() -> Result<()> {
    let shop = Shop::start().await?;

    // there is nothing yet
    shop.receives("one")?;
    shop.release("1").await?;
    let first = shop.newest().await?;
    assert!(said(&first, JournalKind::BackedUp).contains("its first release here"), "{first:#?}");
    assert!(shop.backups()?.is_empty());

    // what served, as it was before the next one came
    shop.receives("two")?;
    shop.release("2").await?;
    let [backup] = &shop.backups()?[..] else { anyhow::bail!("not one backup: {:?}", shop.backups()?) };
    assert_eq!(
        (backup.status, backup.bytes, backup.release),
        (BackupStatus::Kept, Some(3), first.rollout.spec.release.id)
    );
    assert_eq!((backup.environment.as_str(), backup.service.as_str()), ("production", "api"), "staging asks for none");
    let file = shop.file(backup);
    assert_eq!((fs::read_to_string(&file)?, fs::metadata(&file)?.permissions().mode() & 0o777), ("two".into(), 0o600));
    let order: Vec<JournalKind> = shop.newest().await?.journal.iter().map(|entry| entry.kind).collect();
    let at = |kind| order.iter().position(|one| *one == kind).context("it is not in the journal");
    ensure!(at(JournalKind::BackUpIntent)? < at(JournalKind::BackedUp)?, "{order:?}");
    ensure!(at(JournalKind::BackedUp)? < at(JournalKind::StartIntent)?, "nothing was changed before: {order:?}");

    // one that fails ends the rollout
    shop.mark("fail")?;
    let view = shop.push("3").await?;
    ensure!(view.run.status == RunStatus::Failed, "{view:#?}");
    let failed = shop.newest().await?;
    let reason = failed.rollout.reason.clone().unwrap_or_default();
    assert_eq!(failed.rollout.status, RolloutStatus::Failed);
    for part in ["nothing was changed", "exit code 3", "no login with ***"] {
        assert!(reason.contains(part), "{reason}");
    }
    assert!(!serde_json::to_string(&failed.journal)?.contains("hunter22"), "{failed:#?}");
    assert!(!has(&failed, JournalKind::StartIntent), "{failed:#?}");
    assert_eq!(
        (version_in(&shop.stand, "production").await?.as_str(), version_in(&shop.stand, "staging").await?.as_str()),
        ("2", "3")
    );
    shop.unmark("fail")?;

    // the data come back, the release stays, and what was there is kept
    shop.receives("three")?;
    let id = backup.id.to_string();
    let unasked = shop.stand.segue(&["backup", "restore", &id])?;
    assert_eq!((unasked.status.code(), shop.orders()?.as_str()), (Some(2), "three"), "who can't be asked says --yes");
    let done = shop.stand.segue(&["backup", "restore", &id, "--yes", "--reason", "orders were lost"])?;
    ensure!(done.status.success(), "{done:?}");
    assert_eq!((shop.orders()?.as_str(), version_in(&shop.stand, "production").await?.as_str()), ("two", "2"));
    let restored = shop.newest().await?;
    ensure!(has(&restored, JournalKind::RestoreIntent) && has(&restored, JournalKind::Restored), "{restored:#?}");
    shop.until("the server is told of it", |shop| shop.kept().is_ok_and(|kept| kept.len() == 2)).await?;
    let kept = shop.kept()?;
    assert_eq!(fs::read_to_string(shop.file(&kept[0]))?, "three", "so that it can be undone");
    let unknown = shop.stand.segue(&["backup", "restore", "production-api-never", "--yes"])?;
    ensure!(
        unknown.status.code() == Some(1) && String::from_utf8_lossy(&unknown.stderr).contains("production-api-never"),
        "{unknown:?}"
    );

    // two are kept
    shop.receives("four")?;
    shop.release("4").await?;
    let kept = shop.kept()?;
    let held: Vec<String> = kept.iter().map(|one| fs::read_to_string(shop.file(one))).collect::<Result<_, _>>()?;
    assert_eq!(held, ["four", "three"], "the oldest went: {kept:?}");
    assert!(!file.exists(), "its file too");
    Ok(())
}

#[tokio::test]
async fn and_a_host_that_is_killed_meanwhile_leaves_nothing_half() -> Result<()> {
    let shop = Shop::start().await?;
    shop.receives("one")?;
    shop.release("1").await?;

    shop.mark("slow")?;
    shop.commit("2")?;
    let guid = shop.stand.push("main").await?;
    shop.until("it is being taken", |shop| shop.folder.join("reached").exists()).await?;
    shop.unmark("slow")?;
    let command = processes::with_argument("61234");
    ensure!(!command.is_empty(), "the command runs");
    let host = shop.host_pid()?;
    processes::signal(host, Signal::SIGKILL)?;
    let view = shop.stand.api()?.run_of(&guid, RUN_LIMIT).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "it was taken once more: {view:#?}");
    assert_eq!(version_in(&shop.stand, "production").await?, "2");
    ensure!(command.into_iter().all(|pid| !processes::lives(pid)), "the command of the first try was ended");
    let statuses: Vec<BackupStatus> = shop.backups()?.iter().map(|one| one.status).collect();
    assert_eq!(statuses, [BackupStatus::Kept, BackupStatus::Failed]);
    assert_eq!(fs::read_dir(shop.stand.data().join("host/backups/.taking"))?.count(), 0, "nothing is left of it");
    assert_eq!(fs::read_dir(shop.stand.data().join("host/backups/production/api"))?.count(), 1);

    // who goes back waits for none, and ends one that is being taken
    fs::remove_file(shop.folder.join("reached"))?;
    shop.mark("slow")?;
    shop.commit("3")?;
    shop.stand.push("main").await?;
    shop.until("it is being taken", |shop| shop.folder.join("reached").exists()).await?;
    let begun = Instant::now();
    let back = shop.stand.segue(&["rollback", "production", "api", "--to", &shop.first_release().await?])?;
    ensure!(back.status.success(), "{back:?}");
    ensure!(begun.elapsed() < Duration::from_secs(60), "it waited for {:?}", begun.elapsed());
    assert_eq!(version_in(&shop.stand, "production").await?, "1");
    let rollback = shop.newest().await?;
    ensure!(rollback.rollout.spec.is_rollback && !has(&rollback, JournalKind::BackUpIntent), "{rollback:#?}");
    let aborted = &shop.stand.api()?.rollouts("production").await?[1];
    let reason = aborted.reason.clone().unwrap_or_default();
    assert!(reason.contains("nothing was changed") && reason.contains("aborted it"), "{reason}");
    ensure!(processes::with_argument("61234").is_empty(), "its command was ended");
    Ok(())
}

struct Shop {
    stand: Stand,
    folder: PathBuf,
}

impl Shop {
    async fn start() -> Result<Self> {
        let stand = Stand::start("").await?;
        let folder = stand.folder().join("shop");
        fs::create_dir(&folder)?;
        Ok(Self { stand, folder })
    }

    fn receives(&self, orders: &str) -> Result<()> {
        Ok(fs::write(self.folder.join("orders"), orders)?)
    }

    fn orders(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join("orders"))?)
    }

    fn mark(&self, word: &str) -> Result<()> {
        Ok(fs::write(self.folder.join(word), "")?)
    }

    fn unmark(&self, word: &str) -> Result<()> {
        Ok(fs::remove_file(self.folder.join(word))?)
    }

    fn commit(&self, version: &str) -> Result<()> {
        let backup = BACKUP.replace("SHOP/", &format!("{}/", self.folder.display()));
        let files = [
            (".segue/pipelines/release.yml", PIPELINE),
            (".segue/services/api.yml", &format!("{}{backup}", sample::SERVICE)),
            ("service.yml", &sample::service_yml(version, 0.0)),
        ];
        self.stand.repository.commit(version, &files).map(drop)
    }

    async fn push(&self, version: &str) -> Result<RunView> {
        self.commit(version)?;
        let guid = self.stand.push("main").await?;
        self.stand.api()?.run_of(&guid, RUN_LIMIT).await
    }

    async fn release(&self, version: &str) -> Result<()> {
        let view = self.push(version).await?;
        ensure!(view.run.status == RunStatus::Succeeded, "version {version} ended so: {view:#?}");
        Ok(())
    }

    /// The newest rollout to production.
    async fn newest(&self) -> Result<RolloutView> {
        let api = self.stand.api()?;
        let newest = api.rollouts("production").await?.into_iter().next().context("there is no rollout")?;
        api.rollout(newest.id).await
    }

    /// The number of the first release that served in production.
    async fn first_release(&self) -> Result<String> {
        let rollouts = self.stand.api()?.rollouts("production").await?;
        Ok(rollouts.last().context("there is no rollout")?.spec.release.id.to_string())
    }

    fn backups(&self) -> Result<Vec<BackupView>> {
        let listed =
            self.stand.segue(&["backup", "list", "--environment", "production", "--service", "api", "--json"])?;
        ensure!(listed.status.success(), "{listed:?}");
        Ok(serde_json::from_slice::<BackupList>(&listed.stdout)?.items)
    }

    fn kept(&self) -> Result<Vec<BackupView>> {
        Ok(self.backups()?.into_iter().filter(|one| one.status == BackupStatus::Kept).collect())
    }

    fn file(&self, backup: &BackupView) -> PathBuf {
        let folder: &Path = &self.stand.data().join("host/backups");
        folder.join(&backup.environment).join(&backup.service).join(backup.id.as_str())
    }

    fn host_pid(&self) -> Result<u32> {
        let mut all = self.stand.all_processes().into_iter();
        all.find(|pid| processes::sub_command(*pid).as_deref() == Some("host")).context("no host runs")
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !holds(self) {
            ensure!(begun.elapsed() < RUN_LIMIT, "not after {RUN_LIMIT:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// The line of a rollout's journal.
fn said(view: &RolloutView, kind: JournalKind) -> String {
    let entry = view.journal.iter().find(|entry| entry.kind == kind);
    entry.and_then(|entry| entry.detail["message"].as_str()).unwrap_or_default().to_owned()
}
