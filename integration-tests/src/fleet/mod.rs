//! Servers, workers and a host as processes of their own, each with a directory of its own, any of which may be killed, stopped or
//! started again without the others. What they share is what they share in production: addresses, a token for workers, git.

mod memory;
mod part;
mod shape;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use memory::Watch;
use nix::sys::signal::Signal;
use part::Part;
use shape::Surroundings;
pub use shape::{Bells, Shape, Store, Whose, configuration};

use crate::{
    api::Api,
    broker::Broker,
    cut::Wire,
    history::{Written, trail},
    postgres::Postgres,
    processes::{self, Memory},
    repository::Repository,
    stand::{binary, free_address},
    webhook::Webhook,
};

/// How long a server may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What a server or a worker may take at most while a story runs, in MiB: twice what a debug build was seen to take.
const MEMORY_MIB: u64 = 96;

/// Everything, with one repository, `acme/shop`. Dropped, it stops what it started, by id.
pub struct Fleet {
    servers: Vec<Part>,
    listen: Vec<String>,
    workers: Vec<Part>,
    /// From each worker to its server, where it is wired.
    wires: Vec<Wire>,
    watch: Watch,
    around: Surroundings,
    shape: Shape,
    /// The repository.
    pub repository: Arc<Repository>,
    folder: tempfile::TempDir,
}

/// The wires of a fleet that is wired.
#[derive(Clone, Copy)]
pub struct Wires<'a> {
    /// From each worker to its server.
    pub of_workers: &'a [Wire],
    /// From all servers to the broker.
    pub servers_to_broker: Option<&'a Wire>,
    /// From all workers to the broker.
    pub workers_to_broker: Option<&'a Wire>,
}

/// Where GitHub sends what happens in the repository: the webhook of each server.
pub struct Doors {
    /// The repository.
    pub repository: Arc<Repository>,
    /// The servers' webhooks; at least one.
    pub webhooks: Vec<Webhook>,
}

impl Fleet {
    /// Starts all of it; workers come with a token that was made for them.
    ///
    /// # Errors
    /// Something does not become ready; its last words are part of the message.
    pub async fn start(shape: Shape) -> Result<Self> {
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::Builder::new().prefix("segue-fleet-").tempdir()?;
        open_to_all(folder.path())?;
        let repository = Arc::new(Repository::create(&folder.path().join("git"), "acme/shop")?);
        let around = Surroundings::start(&shape).await?;
        let mut fleet = Self {
            servers: Vec::new(),
            listen: Vec::new(),
            workers: Vec::new(),
            wires: Vec::new(),
            watch: Watch::start(),
            around,
            shape,
            repository,
            folder,
        };
        for number in 0..fleet.shape.servers {
            fleet.add_server(number)?;
            fleet.start_server(number).await?;
        }
        fleet.keep_trail()?;
        fleet.renew_token("fleet")?;
        for number in 0..fleet.shape.workers {
            fleet.add_worker(number).await?;
            fleet.start_worker(number)?;
        }
        Ok(fleet)
    }

    fn add_server(&mut self, number: usize) -> Result<()> {
        let listen = free_address()?;
        let data = self.server_data(number).display().to_string();
        let more = self.around.for_servers(&self.folder.path().join("keys"))?;
        let config = self.configuration(&format!("server-{number}"), &more)?;
        let arguments = ["server", "--config", &config, "--data", &data, "--listen", &listen];
        let part = Part::new(self.log(&format!("server-{number}")), &arguments);
        self.listen.push(listen);
        self.servers.push(part);
        Ok(())
    }

    async fn add_worker(&mut self, number: usize) -> Result<()> {
        let more =
            format!("worker: {{name: w{number}, capacity: {}}}\n{}", self.shape.capacity, self.around.for_workers());
        let config = self.configuration(&format!("worker-{number}"), &more)?;
        let mut address = self.listen[number % self.listen.len()].clone();
        if self.shape.wired {
            let wire = Wire::to(&address).await?;
            address = wire.address().to_owned();
            self.wires.push(wire);
        }
        let server = format!("http://{address}");
        let (data, token) = (self.worker_data(number).display().to_string(), self.token_file().display().to_string());
        let arguments = ["worker", "--config", &config, "--data", &data, "--server", &server, "--token-file", &token];
        let part = Part::new(self.log(&format!("worker-{number}")), &arguments);
        self.workers.push(part);
        Ok(())
    }

    /// Makes a token of this name, with which workers come from their next start on.
    ///
    /// # Errors
    /// The server refuses.
    pub fn renew_token(&self, name: &str) -> Result<()> {
        let made = self.segue(&["worker", "token", "create", name])?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Ok(fs::write(self.token_file(), made.stdout)?)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    fn configuration(&self, name: &str, more: &str) -> Result<String> {
        let file = self.folder.path().join(format!("{name}.yaml"));
        let clone_url = self.repository.bare().display();
        let extra = &self.shape.extra;
        fs::write(&file, format!("repositories:\n  acme/shop:\n    clone-url: {clone_url}\n{more}{extra}"))?;
        Ok(file.display().to_string())
    }

    /// Starts a server that does not run, and waits until it is ready.
    ///
    /// # Errors
    /// It ends, or does not become ready in a minute.
    pub async fn start_server(&mut self, number: usize) -> Result<()> {
        self.begin_server(number)?;
        self.server_is_ready(number).await
    }

    /// Starts a server that does not run.
    ///
    /// # Errors
    /// It can't be started.
    pub fn begin_server(&mut self, number: usize) -> Result<()> {
        self.servers[number].start(&self.shape.server_env, self.folder.path())?;
        self.watch.is_now(&format!("server {number}"), self.servers[number].pid());
        Ok(())
    }

    /// Waits until a server that was started is ready.
    ///
    /// # Errors
    /// It ends, or does not become ready in a minute.
    pub async fn server_is_ready(&mut self, number: usize) -> Result<()> {
        let (begun, client) = (Instant::now(), reqwest::Client::new());
        loop {
            let ready = client.get(format!("http://{}/readyz", self.listen[number])).send().await;
            if ready.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            let ended = self.servers[number].ended();
            if ended.is_some() || begun.elapsed() > START_LIMIT {
                let said = self.servers[number].said();
                bail!("server {number} did not become ready ({ended:?}); it said:\n{said}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a worker that does not run.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start_worker(&mut self, number: usize) -> Result<()> {
        self.workers[number].start(&[], self.folder.path())?;
        self.watch.is_now(&format!("worker {number}"), self.workers[number].pid());
        Ok(())
    }

    /// Kills a server as a crash would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_server(&mut self, number: usize) -> Result<()> {
        self.watch.is_now(&format!("server {number}"), None);
        self.servers[number].kill()
    }

    /// Kills a worker as a crash would; the steps that it runs die with it.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_worker(&mut self, number: usize) -> Result<()> {
        self.watch.is_now(&format!("worker {number}"), None);
        self.workers[number].kill()
    }

    /// Sends a server a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal_server(&self, number: usize, signal: Signal) -> Result<()> {
        self.servers[number].signal(signal)
    }

    /// Sends a worker a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal_worker(&self, number: usize, signal: Signal) -> Result<()> {
        self.workers[number].signal(signal)
    }

    /// Asks a server to stop, and waits for its end.
    ///
    /// # Errors
    /// It does not end within the limit.
    pub async fn stop_server(&mut self, number: usize, limit: Duration) -> Result<()> {
        self.watch.is_now(&format!("server {number}"), None);
        self.servers[number].stop(limit).await
    }

    /// The same for a worker.
    ///
    /// # Errors
    /// It does not end within the limit.
    pub async fn stop_worker(&mut self, number: usize, limit: Duration) -> Result<()> {
        self.watch.is_now(&format!("worker {number}"), None);
        self.workers[number].stop(limit).await
    }

    /// The id of a server's process.
    #[must_use]
    pub fn server_pid(&self, number: usize) -> Option<u32> {
        self.servers[number].pid()
    }

    /// What it consists of.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The end of what a server said.
    #[must_use]
    pub fn server_said(&self, number: usize) -> String {
        self.servers[number].said()
    }

    /// The same of a worker.
    #[must_use]
    pub fn worker_said(&self, number: usize) -> String {
        self.workers[number].said()
    }

    /// The most memory that each server and worker has had since the beginning.
    #[must_use]
    pub fn memory(&self) -> Vec<Memory> {
        self.watch.peaks(MEMORY_MIB)
    }

    /// Its own PostgreSQL.
    ///
    /// # Errors
    /// It has none, or one that tests share.
    pub fn postgres(&self) -> Result<&Postgres> {
        ensure!(self.shape.store == Store::Postgres(Whose::Own), "this fleet has no PostgreSQL of its own");
        Ok(self.around.database.as_ref().context("no database")?.server())
    }

    /// Runs statements in its database.
    ///
    /// # Errors
    /// It has none; the database's message.
    pub fn sql(&self, sql: &str) -> Result<String> {
        self.around.database.as_ref().context("this fleet's state is in no PostgreSQL")?.sql(sql)
    }

    /// Has its database keep what is written of jobs.
    fn keep_trail(&self) -> Result<()> {
        match self.shape.store {
            Store::Sqlite => self.sqlite(&trail::for_sqlite()).map(drop),
            Store::Postgres(_) => self.sql(&trail::for_postgres()).map(drop),
        }
    }

    /// What was written of jobs, in the order of the commits.
    ///
    /// # Errors
    /// The database's message.
    pub fn trail(&self) -> Result<Vec<Written>> {
        let lines = match self.shape.store {
            Store::Sqlite => self.sqlite(trail::READ),
            Store::Postgres(_) => self.sql(trail::READ),
        };
        trail::read(&lines?)
    }

    fn sqlite(&self, sql: &str) -> Result<String> {
        let file = self.server_data(0).join("segue.db");
        let done =
            Command::new("sqlite3").args(["-batch", "-bail", "-cmd", ".timeout 30000"]).arg(file).arg(sql).output();
        let done = done.context("`sqlite3` can't be started: `apt-get install sqlite3`")?;
        ensure!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
    }

    /// Its broker, which may be stopped or spoiled where it is its own.
    ///
    /// # Errors
    /// It has none.
    pub fn broker(&mut self) -> Result<&mut Broker> {
        self.around.broker.as_mut().context("this fleet has no broker")
    }

    /// The wires that can be cut.
    #[must_use]
    pub fn wires(&self) -> Wires<'_> {
        Wires {
            of_workers: &self.wires,
            servers_to_broker: self.around.servers_to_broker.as_ref(),
            workers_to_broker: self.around.workers_to_broker.as_ref(),
        }
    }

    /// A client of a server, with the admin's token.
    ///
    /// # Errors
    /// The server has not made the token.
    pub fn api(&self, number: usize) -> Result<Api> {
        let token = fs::read_to_string(self.server_data(number).join("admin-token")).context("no admin token")?;
        Ok(Api::new(&format!("http://{}", self.listen[number]), token.trim()))
    }

    /// The webhooks of all servers.
    ///
    /// # Errors
    /// A server has not made the webhook's secret.
    pub fn doors(&self) -> Result<Doors> {
        let webhook = |(number, listen): (usize, &String)| {
            let secret = fs::read_to_string(self.server_data(number).join("webhook-secret"))?;
            Ok(Webhook::new(&format!("http://{listen}/webhooks/github"), secret.trim()))
        };
        let webhooks = self.listen.iter().enumerate().map(webhook).collect::<Result<_>>();
        Ok(Doors { repository: self.repository.clone(), webhooks: webhooks.context("no webhook secret")? })
    }

    /// Runs a command of the built binary against the first server.
    ///
    /// # Errors
    /// It can't be started.
    pub fn segue(&self, arguments: &[&str]) -> Result<std::process::Output> {
        Command::new(binary()?)
            .args(arguments)
            .env("SEGUE_SERVER", format!("http://{}", self.listen[0]))
            .env("SEGUE_DATA", self.server_data(0))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run `segue {}`", arguments.join(" ")))
    }

    /// The folder of everything.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A server's directory.
    #[must_use]
    pub fn server_data(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("data-{number}"))
    }

    /// A worker's directory.
    #[must_use]
    pub fn worker_data(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("worker-data-{number}"))
    }

    fn token_file(&self) -> PathBuf {
        self.folder.path().join("fleet-token")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let said: Vec<_> = self.servers.iter().chain(&self.workers).map(|p| (p.role().to_owned(), p.said())).collect();
        self.servers.clear();
        self.workers.clear();
        for _ in 0..5 {
            let left = processes::with_argument(&self.folder.path().display().to_string());
            if left.is_empty() {
                break;
            }
            for pid in left {
                let _ = processes::signal(pid, Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for (role, said) in said {
            eprintln!("--- what `segue {role}` said ---\n{said}");
        }
    }
}

fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
