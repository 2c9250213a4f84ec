//! Servers, workers and a host as processes of their own, each with a directory of its own, any of which may be killed, stopped or
//! started again without the others. What they share is what they share in production: addresses, a token for workers, git.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::{
    api::Api,
    processes,
    repository::Repository,
    stand::{binary, free_address},
    webhook::Webhook,
};

/// How long a server may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What a fleet consists of.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Servers; more than one need a store that they share, which `extra` names.
    pub servers: usize,
    /// Workers; each speaks to the server with its number, modulo their count.
    pub workers: usize,
    /// Slots of each worker.
    pub capacity: u32,
    /// Appended to every `segue.yaml`.
    pub extra: String,
    /// Set in the environment of every server.
    pub server_env: Vec<(String, String)>,
}

impl Default for Shape {
    fn default() -> Self {
        Self { servers: 1, workers: 2, capacity: 2, extra: String::new(), server_env: Vec::new() }
    }
}

/// A process of the fleet, whether or not it runs.
struct Part {
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

/// Everything, with one repository, `acme/shop`. Dropped, it stops what it started, by id.
pub struct Fleet {
    folder: tempfile::TempDir,
    shape: Shape,
    servers: Vec<Part>,
    listen: Vec<String>,
    workers: Vec<Part>,
    /// The repository.
    pub repository: Repository,
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
        let repository = Repository::create(&folder.path().join("git"), "acme/shop")?;
        let mut fleet = Self {
            folder,
            shape: shape.clone(),
            servers: Vec::new(),
            listen: Vec::new(),
            workers: Vec::new(),
            repository,
        };
        for number in 0..shape.servers {
            let listen = free_address()?;
            let data = fleet.server_data(number).display().to_string();
            let config = fleet.configuration(&format!("server-{number}"), "")?;
            let arguments = ["server", "--config", &config, "--data", &data, "--listen", &listen].map(str::to_owned);
            fleet.listen.push(listen);
            let part = fleet.part(&format!("server-{number}"), &arguments);
            fleet.servers.push(part);
            fleet.start_server(number).await?;
        }
        fleet.renew_token("fleet")?;
        for number in 0..shape.workers {
            fleet.add_worker(number)?;
            fleet.start_worker(number)?;
        }
        Ok(fleet)
    }

    fn add_worker(&mut self, number: usize) -> Result<()> {
        let more = format!("worker: {{name: w{number}, capacity: {}}}\n", self.shape.capacity);
        let config = self.configuration(&format!("worker-{number}"), &more)?;
        let server = format!("http://{}", self.listen[number % self.listen.len()]);
        let (data, token) = (self.worker_data(number).display().to_string(), self.token_file().display().to_string());
        let arguments = ["worker", "--config", &config, "--data", &data, "--server", &server, "--token-file", &token];
        let part = self.part(&format!("worker-{number}"), &arguments.map(str::to_owned));
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

    fn part(&self, name: &str, arguments: &[String]) -> Part {
        Part { arguments: arguments.to_vec(), log: self.folder.path().join(format!("{name}.log")), child: None }
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
        start(&mut self.servers[number], &self.shape.server_env, self.folder.path())?;
        let (begun, client) = (Instant::now(), reqwest::Client::new());
        loop {
            let ready = client.get(format!("http://{}/readyz", self.listen[number])).send().await;
            if ready.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            let part = &mut self.servers[number];
            let ended = part.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || begun.elapsed() > START_LIMIT {
                bail!("server {number} did not become ready ({ended:?}); it said:\n{}", said(&part.log));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a worker that does not run.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start_worker(&mut self, number: usize) -> Result<()> {
        start(&mut self.workers[number], &[], self.folder.path())
    }

    /// Kills a server as a crash would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_server(&mut self, number: usize) -> Result<()> {
        kill(&mut self.servers[number])
    }

    /// Kills a worker as a crash would; the steps that it runs die with it.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_worker(&mut self, number: usize) -> Result<()> {
        kill(&mut self.workers[number])
    }

    /// Sends a worker a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal_worker(&self, number: usize, signal: Signal) -> Result<()> {
        let child = self.workers[number].child.as_ref().context("the worker does not run")?;
        processes::signal(child.id(), signal)
    }

    /// Asks a server, or a worker, to stop, and waits for its end.
    ///
    /// # Errors
    /// It does not end within the limit.
    pub async fn stop_server(&mut self, number: usize, limit: Duration) -> Result<()> {
        stop(&mut self.servers[number], limit).await
    }

    /// The same for a worker.
    ///
    /// # Errors
    /// It does not end within the limit.
    pub async fn stop_worker(&mut self, number: usize, limit: Duration) -> Result<()> {
        stop(&mut self.workers[number], limit).await
    }

    /// The id of a server's process.
    #[must_use]
    pub fn server_pid(&self, number: usize) -> Option<u32> {
        self.servers[number].child.as_ref().map(Child::id)
    }

    /// Whether a worker's process runs.
    #[must_use]
    pub fn worker_runs(&self, number: usize) -> bool {
        self.workers[number].child.is_some()
    }

    /// A client of a server, with the admin's token.
    ///
    /// # Errors
    /// The server has not made the token.
    pub fn api(&self, number: usize) -> Result<Api> {
        let token = fs::read_to_string(self.server_data(number).join("admin-token")).context("no admin token")?;
        Ok(Api::new(&format!("http://{}", self.listen[number]), token.trim()))
    }

    /// What GitHub would send to a server.
    ///
    /// # Errors
    /// The server has not made the webhook's secret.
    pub fn webhook(&self, number: usize) -> Result<Webhook> {
        let secret =
            fs::read_to_string(self.server_data(number).join("webhook-secret")).context("no webhook secret")?;
        Ok(Webhook::new(&format!("http://{}/webhooks/github", self.listen[number]), secret.trim()))
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
        for part in self.servers.iter_mut().chain(&mut self.workers) {
            if let Some(child) = &mut part.child {
                // one that is stopped hears nothing but this
                let _ = child.kill();
                let _ = child.wait();
            }
        }
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
        for part in self.servers.iter().chain(&self.workers) {
            eprintln!("--- what `segue {}` said ---\n{}", part.arguments[0], said(&part.log));
        }
    }
}

fn start(part: &mut Part, env: &[(String, String)], home: &Path) -> Result<()> {
    ensure!(part.child.is_none(), "`segue {}` runs already", part.arguments.join(" "));
    let log = fs::File::options().create(true).append(true).open(&part.log)?;
    let child = Command::new(binary()?)
        .args(&part.arguments)
        .env("XDG_CONFIG_HOME", home.join("configuration"))
        .env("NO_COLOR", "1")
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start `segue {}`", part.arguments.join(" ")))?;
    part.child = Some(child);
    Ok(())
}

fn kill(part: &mut Part) -> Result<()> {
    let mut child = part.child.take().with_context(|| format!("`segue {}` does not run", part.arguments[0]))?;
    child.kill()?;
    child.wait()?;
    Ok(())
}

async fn stop(part: &mut Part, limit: Duration) -> Result<()> {
    let mut child = part.child.take().with_context(|| format!("`segue {}` does not run", part.arguments[0]))?;
    processes::signal(child.id(), Signal::SIGTERM)?;
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            bail!("`segue {}` did not end within {limit:?} of SIGTERM", part.arguments[0]);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The end of what a process said.
fn said(log: &Path) -> String {
    const SHOWN: usize = 20_000;
    let text = fs::read_to_string(log).unwrap_or_default();
    let from = text.char_indices().rev().nth(SHOWN).map_or(0, |(at, _)| at);
    text[from..].to_owned()
}

fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
