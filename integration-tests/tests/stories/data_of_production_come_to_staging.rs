//! Data of production come to staging, on another host, without what is personal in them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use segue_integration_tests::{
    postgres::{self, Database, Postgres},
    processes, sample,
    stand::{Stand, free_address},
};
use segue_schemas::{
    api::{RolloutView, RunView},
    deploy::JournalKind,
    status::{RolloutStatus, RunStatus},
};

use crate::RUN_LIMIT;

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
  data:
    needs: production
    environment: staging
    steps:
      - uses: segue/sync-data
        with: { service: api, from: production, to: staging }
"#;

const DATA: &str = r#"backup:
  run: PGBIN/pg_dump --format custom "$DATABASE_URL"
  restore: PGBIN/pg_restore --clean --if-exists --single-transaction --dbname "$DATABASE_URL"
sync:
  format: sql
  run: PGBIN/pg_dump --format plain --no-owner --clean --if-exists "$DATABASE_URL"
  restore: |
    if [ -e SHOP/slow ]; then touch SHOP/reached; sleep 61234; fi
    if [ -e SHOP/held ]; then echo once >> SHOP/taken; while [ -e SHOP/held ]; do sleep 0.05; done; fi
    PGBIN/psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --single-transaction "$DATABASE_URL"
  emails: unique
  keep: [users.id]
  rules:
    - { column: users.COLUMN, set: hash }
    - { column: users.city, value: Springfield }
"#;

/// What nobody outside of production is to see.
const PERSONAL: &str = "lovelace";

/// Files that are larger are not looked through.
const LARGEST: u64 = 4 * 1024 * 1024;

#[tokio::test]
async fn and_nothing_personal_in_them_leaves_their_host() -> Result<()> {
    let mut shop = Shop::start().await?;
    shop.production.sql(
        "CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE, full_name text, phone text, note text, city text);
         INSERT INTO users VALUES (1, 'ada@lovelace.org', 'Ada Lovelace', '+44 20 1843', E'asks for\\tlovelace', 'London'),
             (2, 'byron@lovelace.org', 'lovelace', NULL, '', NULL)",
    )?;
    shop.staging.sql("CREATE TABLE users (id int PRIMARY KEY, note text); INSERT INTO users VALUES (9, 'staging')")?;

    let view = shop.push("1", "note").await?;
    ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");
    let rows = shop.staging.sql("SELECT * FROM users ORDER BY id")?;
    let rows: Vec<Vec<&str>> = rows.lines().map(|row| row.split('|').collect()).collect();
    ensure!(rows.len() == 2 && rows[0][0] == "1" && rows[0][2..4] == ["Test User", "555-0123"], "{rows:?}");
    ensure!(
        rows[0][1].starts_with("test+") && rows[0][1].ends_with("@example.com") && rows[0][1] != rows[1][1],
        "{rows:?}"
    );
    ensure!(rows[0][4].len() == 32 && rows[0][5] == "Springfield" && rows[1][3..] == ["", "", ""], "{rows:?}");
    let synced = shop.newest().await?;
    let order: Vec<JournalKind> = synced.journal.iter().map(|entry| entry.kind).collect();
    let wanted = [
        JournalKind::CopyIntent,
        JournalKind::Copied,
        JournalKind::BackUpIntent,
        JournalKind::BackedUp,
        JournalKind::ImportIntent,
        JournalKind::RestoreIntent,
        JournalKind::Restored,
    ];
    ensure!(order.iter().filter(|kind| wanted.contains(kind)).eq(&wanted), "{order:?}");
    let copied = synced.journal.iter().find(|entry| entry.kind == JournalKind::Copied).context("no copy")?;
    let message = copied.detail["message"].as_str().unwrap_or_default();
    ensure!(message.contains("2 replaced by `public.users.email` (by its name)"), "{message}");
    shop.nothing_personal_is_about()?;

    // production says nowhere that it takes data
    let back = shop.sync("staging", "production")?;
    let said = String::from_utf8_lossy(&back.stderr).into_owned();
    ensure!(back.status.code() == Some(1) && said.contains("environments.production.data-from"), "{back:?}");

    // killed while they are taken in: what was there stays, and the next try brings all of it
    shop.staging.sql("UPDATE users SET city = 'Old' WHERE id = 1; DELETE FROM users WHERE id = 2")?;
    fs::write(shop.folder.join("slow"), "")?;
    shop.begin_sync()?;
    shop.until_there("reached").await?;
    processes::signal(shop.host, Signal::SIGKILL)?;
    fs::remove_file(shop.folder.join("slow"))?;
    let since = Instant::now();
    while processes::lives(shop.host) {
        ensure!(since.elapsed() < RUN_LIMIT, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    shop.host = shop.stand.start_host(&shop.data, &shop.listen).await?;
    let id = shop.newest().await?.rollout.id;
    let ended = shop.stand.api()?.rollout_ended(id, RUN_LIMIT).await?.rollout;
    let reason = ended.reason.clone().unwrap_or_default();
    ensure!(ended.status == RolloutStatus::Failed && reason.contains("what was there before is kept as"), "{ended:#?}");
    assert_eq!(shop.staging.sql("SELECT id, city FROM users")?.trim(), "1|Old");
    let again = shop.sync("production", "staging")?;
    ensure!(again.status.success(), "{again:?}");
    assert_eq!(shop.staging.sql("SELECT id, city FROM users ORDER BY id")?.trim(), "1|Springfield\n2|");

    // a worker that is killed meanwhile, with its server: the host goes on, and they are taken in once
    shop.staging.sql("DELETE FROM users")?;
    fs::write(shop.folder.join("held"), "")?;
    shop.begin_sync()?;
    shop.until_there("taken").await?;
    shop.stand.kill_server()?;
    shop.stand.start_server().await?;
    fs::remove_file(shop.folder.join("held"))?;
    let id = shop.newest().await?.rollout.id;
    let ended = shop.stand.api()?.rollout_ended(id, RUN_LIMIT).await?;
    ensure!(ended.rollout.status == RolloutStatus::Succeeded, "{ended:#?}");
    assert_eq!(fs::read_to_string(shop.folder.join("taken"))?, "once\n");
    assert_eq!(shop.staging.sql("SELECT id, city FROM users ORDER BY id")?.trim(), "1|Springfield\n2|");

    // a rule that finds no column changes nothing
    shop.staging.sql("UPDATE users SET city = 'Old'")?;
    let view = shop.push("2", "remark").await?;
    ensure!(view.run.status == RunStatus::Failed, "{view:#?}");
    let refused = shop.newest().await?;
    let reason = refused.rollout.reason.clone().unwrap_or_default();
    for part in ["nothing was changed", "`public.users.note`"] {
        ensure!(reason.contains(part), "{reason}");
    }
    ensure!(refused.journal.iter().all(|entry| entry.kind != JournalKind::BackUpIntent), "{refused:#?}");
    assert_eq!(shop.staging.sql("SELECT DISTINCT city FROM users")?.trim(), "Old");
    shop.nothing_personal_is_about()
}

struct Shop {
    stand: Stand,
    folder: PathBuf,
    production: Database,
    staging: Database,
    /// Of the host that carries staging.
    data: PathBuf,
    listen: String,
    host: u32,
}

impl Shop {
    async fn start() -> Result<Self> {
        let mut stand = Stand::prepare("")?;
        let folder = stand.folder().join("shop");
        fs::create_dir(&folder)?;
        let server = Postgres::shared()?;
        let (production, staging) = (server.database()?, server.database()?);
        let (data, listen) = (stand.data().with_file_name("b"), free_address()?);
        stand.add_settings(&format!(
            "  b:\n    socket: {}/host.sock\n    listen: [\"{listen}\"]\n\
             environments:\n  production: {{hosts: [local], variables: {{DATABASE_URL: \"{}\"}}}}\n  \
             staging: {{hosts: [b], data-from: [production], variables: {{DATABASE_URL: \"{}\"}}}}\n",
            data.display(),
            production.url(),
            staging.url(),
        ));
        let host = stand.start_host(&data, &listen).await?;
        stand.start_server().await?;
        Ok(Self { stand, folder, production, staging, data, listen, host })
    }

    async fn push(&self, version: &str, column: &str) -> Result<RunView> {
        let programs = postgres::program("pg_dump")?;
        let programs = programs.parent().context("a program has a folder")?.display().to_string();
        let data = DATA
            .replace("PGBIN", &programs)
            .replace("SHOP", &self.folder.display().to_string())
            .replace("COLUMN", column);
        let files = [
            (".segue/pipelines/release.yml", PIPELINE),
            (".segue/services/api.yml", &format!("{}{data}", sample::SERVICE)),
            ("service.yml", &sample::service_yml(version, 0.0)),
        ];
        self.stand.repository.commit(version, &files)?;
        let guid = self.stand.push("main").await?;
        self.stand.api()?.run_of(&guid, RUN_LIMIT).await
    }

    fn sync(&self, from: &str, to: &str) -> Result<std::process::Output> {
        self.stand.segue(&[
            "backup",
            "sync",
            "--from",
            from,
            "--to",
            to,
            "--service",
            "api",
            "--yes",
            "--reason",
            "a story",
        ])
    }

    /// Asks for the same, and does not wait.
    fn begin_sync(&self) -> Result<()> {
        let asked = "backup sync --from production --to staging --service api --yes --no-wait";
        let begun = self.stand.segue(&asked.split(' ').collect::<Vec<_>>())?;
        ensure!(begun.status.success(), "{begun:?}");
        Ok(())
    }

    async fn until_there(&self, file: &str) -> Result<()> {
        let since = Instant::now();
        while !self.folder.join(file).exists() {
            ensure!(since.elapsed() < RUN_LIMIT, "they do not come: {:#?}", self.newest().await?);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The newest rollout to staging.
    async fn newest(&self) -> Result<RolloutView> {
        let api = self.stand.api()?;
        let newest = api.rollouts("staging").await?.into_iter().next().context("there is no rollout")?;
        api.rollout(newest.id).await
    }

    /// Backups of production are at home on its host; apart from them, nobody has kept or said anything.
    fn nothing_personal_is_about(&self) -> Result<()> {
        let home = self.stand.data().join("host/backups/production");
        let mut folders = vec![self.stand.folder().to_owned()];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let (kind, path) = (entry.file_type()?, entry.path());
                if kind.is_dir() && path != home {
                    folders.push(path);
                } else if kind.is_file() {
                    seen += 1;
                    ensure!(!holds(&path)?, "{} holds something personal", path.display());
                }
            }
        }
        ensure!(seen > 10, "only {seen} files were looked at");
        Ok(())
    }
}

fn holds(path: &Path) -> Result<bool> {
    // what is removed meanwhile holds nothing; a large one is the program itself
    let Some(bytes) = fs::metadata(path).ok().filter(|file| file.len() < LARGEST).and_then(|_| fs::read(path).ok())
    else {
        return Ok(false);
    };
    let begins = |byte: u8| byte.eq_ignore_ascii_case(&PERSONAL.as_bytes()[0]);
    let mut parts = bytes.windows(PERSONAL.len()).filter(|part| begins(part[0]));
    Ok(parts.any(|part| part.eq_ignore_ascii_case(PERSONAL.as_bytes())))
}
