//! `segue up` from the built binary, on free ports of the loopback, with everything that it keeps in a temporary folder.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use segue_schemas::router::RouterSettings;

use crate::{
    api::Api,
    broker::Broker,
    processes,
    repository::Repository,
    routers::{Kind, Router},
    webhook::Webhook,
};

/// How long `segue up` may take until it says that it is ready.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running Segue with one repository. Dropped, it stops what it started, by id.
pub struct Stand {
    /// Where everything is.
    folder: tempfile::TempDir,
    /// Added to the configuration.
    extra_configuration: String,
    /// What the server is started as: `up`, or `server` where the other parts are apart.
    role: &'static str,
    server: Option<Child>,
    /// A host and a worker that run apart from the server.
    apart: Vec<Child>,
    /// What carries the traffic in the place of the host's own proxy.
    router: Option<Router>,
    /// The server's address.
    pub listen: String,
    /// The proxy's address.
    pub proxy: String,
    /// The repository that the configuration names.
    pub repository: Repository,
}

impl Stand {
    /// Starts Segue with a configuration that names one repository, `acme/shop`, with the sample service's path in
    /// `vars.SAMPLE_SERVICE`. `extra` is appended to `segue.yaml`.
    ///
    /// # Errors
    /// The binary is missing, or it does not become ready.
    pub async fn start(extra: &str) -> Result<Self> {
        let mut stand = Self::prepare(extra)?;
        stand.start_server().await?;
        Ok(stand)
    }

    /// The same with the router that is named, which is started first.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_behind(kind: Kind, extra: &str) -> Result<Self> {
        let mut stand = Self::prepare_behind(kind, extra)?;
        stand.start_server().await?;
        Ok(stand)
    }

    /// Everything but the start of the server; the router runs.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn prepare_behind(kind: Kind, extra: &str) -> Result<Self> {
        let mut stand = Self::prepare(extra)?;
        if kind != Kind::Embedded {
            let router = stand.router_of("router", kind)?;
            stand.proxy = router.address.to_string();
            stand.router = Some(router);
        }
        Ok(stand)
    }

    /// A router in a folder of this name, which runs.
    ///
    /// # Errors
    /// The folder can't be made.
    pub fn router_of(&self, name: &str, kind: Kind) -> Result<Router> {
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder)?;
        open_to_all(&folder)?;
        let mut router = Router::prepare(kind, &folder);
        router.start();
        Ok(router)
    }

    /// The router that the host was given.
    ///
    /// # Errors
    /// It has its own.
    pub fn router(&mut self) -> Result<&mut Router> {
        self.router.as_mut().context("the host has its own proxy")
    }

    /// The same with server, worker and host as three processes, none of which starts another.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_apart(extra: &str) -> Result<Self> {
        let mut stand = Self::prepare(extra)?;
        stand.role = "server";
        stand.start_server().await?;
        let host = stand.data().join("host").display().to_string();
        let proxy = stand.proxy.clone();
        stand.start_beside(&["host", "--data", &host, "--listen", &proxy])?;
        let config = stand.configuration_file().display().to_string();
        let (data, server) = (stand.data().display().to_string(), format!("http://{}", stand.listen));
        stand.start_beside(&["worker", "--config", &config, "--data", &data, "--server", &server])?;
        Ok(stand)
    }

    /// A server and a host as two processes, with a message queue between the server and workers that are started one by one
    /// ([`Self::start_worker`]).
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with_broker(broker: &Broker, extra: &str) -> Result<Self> {
        Self::start_with_settings(&(broker.settings() + extra)).await
    }

    /// The same with the settings of the message queue as they are given.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with_settings(extra: &str) -> Result<Self> {
        let mut stand = Self::prepare(extra)?;
        stand.role = "server";
        stand.start_server().await?;
        let host = stand.data().join("host").display().to_string();
        let proxy = stand.proxy.clone();
        stand.start_beside(&["host", "--data", &host, "--listen", &proxy])?;
        Ok(stand)
    }

    /// Starts a worker apart, with a directory of its own, which gets its bells by way of a broker's address; its process id.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start_worker(&mut self, name: &str, broker: &str) -> Result<u32> {
        let config = self.configuration_file().display().to_string();
        let data = self.folder.path().join(name).display().to_string();
        let token = self.data().join("worker-token").display().to_string();
        let server = format!("http://{}", self.listen);
        let arguments = ["worker", "--config", &config, "--data", &data, "--server", &server, "--token-file", &token];
        self.start_beside(&[&arguments[..], &["--broker", broker]].concat())?;
        Ok(self.apart.last().context("it was started")?.id())
    }

    /// A server alone.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_server_alone(extra: &str) -> Result<Self> {
        let mut stand = Self::prepare(extra)?;
        stand.role = "server";
        stand.start_server().await?;
        Ok(stand)
    }

    /// Starts a worker beside the server, with its data in a folder of its name and the token in a file of the server's data directory;
    /// its id.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start_worker_beside(&mut self, name: &str, token_file: &str) -> Result<u32> {
        let config = self.configuration_file().display().to_string();
        let data = self.folder.path().join(name).display().to_string();
        let token = self.data().join(token_file).display().to_string();
        let server = format!("http://{}", self.listen);
        self.start_beside(&[
            "worker",
            "--config",
            &config,
            "--data",
            &data,
            "--server",
            &server,
            "--token-file",
            &token,
        ])?;
        Ok(self.apart.last().context("it was started")?.id())
    }

    /// Starts a host beside the stand's own, with its socket in `data`; its process id once the socket is there.
    ///
    /// # Errors
    /// It can't be started.
    pub async fn start_host(&mut self, data: &Path, listen: &str) -> Result<u32> {
        self.start_host_behind(data, listen, None).await
    }

    /// The same with a router that is not its own proxy.
    ///
    /// # Errors
    /// It can't be started.
    pub async fn start_host_behind(
        &mut self,
        data: &Path,
        listen: &str,
        router: Option<RouterSettings>,
    ) -> Result<u32> {
        let router = router.as_ref().map(serde_json::to_string).transpose()?;
        let more: Vec<&str> = router.iter().flat_map(|router| ["--router", router]).collect();
        self.start_host_with(data, listen, &more).await
    }

    /// The same with more said to it.
    ///
    /// # Errors
    /// It can't be started.
    pub async fn start_host_with(&mut self, data: &Path, listen: &str, more: &[&str]) -> Result<u32> {
        let socket = data.join("host.sock");
        // what a host that was killed has left
        let _ = fs::remove_file(&socket);
        let data = data.display().to_string();
        let arguments = [&["host", "--data", &data, "--listen", listen], more].concat();
        self.start_beside(&arguments)?;
        let pid = self.apart.last().context("it was started")?.id();
        let begun = Instant::now();
        while !socket.exists() {
            ensure!(begun.elapsed() < Duration::from_secs(30), "the host at {data} does not begin");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(pid)
    }

    fn start_beside(&mut self, arguments: &[&str]) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.server_log())?;
        let child = Command::new(binary()?)
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start `segue {}`", arguments.join(" ")))?;
        self.apart.push(child);
        Ok(())
    }

    /// Everything but the start of the server.
    ///
    /// # Errors
    /// The binary is missing, or git is.
    pub fn prepare(extra: &str) -> Result<Self> {
        // the machine may have a provider already; installing it twice is no error worth a word
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::Builder::new().prefix("segue-stand-").tempdir()?;
        // jobs run as another user, who passes through here
        open_to_all(folder.path())?;
        let repository = Repository::create(&folder.path().join("git"), "acme/shop")?;
        let service = folder.path().join("sample-service");
        fs::copy(binary()?, &service).context("cannot copy the binary for the sample service")?;
        // a tenth of a debug build's size does as well; where there is no `strip`, stories only take longer
        let _ = Command::new("strip").arg(&service).status();
        open_to_all(&service)?;
        Ok(Self {
            extra_configuration: extra.to_owned(),
            role: "up",
            server: None,
            apart: Vec::new(),
            router: None,
            listen: free_address()?,
            proxy: free_address()?,
            repository,
            folder,
        })
    }

    /// Adds to the configuration with which the server starts next.
    pub fn add_settings(&mut self, extra: &str) {
        self.extra_configuration.push_str(extra);
    }

    /// Starts `segue up`, once more after it was stopped or killed.
    ///
    /// # Errors
    /// It ends, or does not become ready in a minute; its last words are part of the message.
    pub async fn start_server(&mut self) -> Result<()> {
        ensure!(self.server.is_none(), "the server runs already");
        fs::write(self.configuration_file(), self.configuration())?;
        let log = fs::File::options().create(true).append(true).open(self.server_log())?;
        let mut child = Command::new(binary()?)
            .arg(self.role)
            .arg("--config")
            .arg(self.configuration_file())
            .arg("--data")
            .arg(self.data())
            .args(["--listen", &self.listen])
            .env("XDG_CONFIG_HOME", self.folder.path().join("configuration"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start `segue up`")?;
        let lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let (said, hear) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        self.server = Some(child);
        self.await_readiness(&hear).await
    }

    async fn await_readiness(&mut self, hear: &mpsc::Receiver<String>) -> Result<()> {
        let begun = Instant::now();
        let client = reqwest::Client::new();
        loop {
            // a line on its output is the event; the pause bounds the wait for one that does not come
            let ended =
                matches!(hear.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Disconnected));
            if let Ok(answer) = client.get(format!("http://{}/readyz", self.listen)).send().await
                && answer.status().is_success()
            {
                return Ok(());
            }
            if ended || begun.elapsed() > START_LIMIT {
                bail!("`segue up` did not become ready; it said:\n{}", self.server_output());
            }
        }
    }

    /// The server's id.
    #[must_use]
    pub fn server_pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// Sends the server (and the worker in it) SIGTERM and waits for its end.
    ///
    /// # Errors
    /// It does not end within the limit.
    pub async fn stop_server(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        let mut child = self.server.take().context("the server does not run")?;
        processes::signal(child.id(), nix::sys::signal::Signal::SIGTERM)?;
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() > limit {
                let _ = child.kill();
                bail!("`segue up` did not end within {limit:?} of SIGTERM; it said:\n{}", self.server_output());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills the server and its worker with SIGKILL, as a crash would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_server(&mut self) -> Result<()> {
        let mut child = self.server.take().context("the server does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// The ids of the host, of its proxy and of every process below them, from the host's own lock file on.
    #[must_use]
    pub fn all_processes(&self) -> Vec<u32> {
        processes::with_argument(&self.folder.path().display().to_string())
    }

    /// A client with the admin's token.
    ///
    /// # Errors
    /// The server has not made the token.
    pub fn api(&self) -> Result<Api> {
        let token = fs::read_to_string(self.data().join("admin-token")).context("no admin token")?;
        Ok(Api::new(&format!("http://{}", self.listen), token.trim()))
    }

    /// What GitHub would send.
    ///
    /// # Errors
    /// The server has not made the webhook's secret.
    pub fn webhook(&self) -> Result<Webhook> {
        let secret = fs::read_to_string(self.data().join("webhook-secret")).context("no webhook secret")?;
        Ok(Webhook::new(&format!("http://{}/webhooks/github", self.listen), secret.trim()))
    }

    /// Pushes the branch and sends the signed webhook for it, as GitHub does; the delivery's GUID.
    ///
    /// # Errors
    /// git or the webhook refuses.
    pub async fn push(&self, branch: &str) -> Result<String> {
        let pushed = self.repository.push(branch)?;
        self.webhook()?.push(&self.repository, &pushed).await
    }

    /// Keeps a secret at the server, as a person does.
    ///
    /// # Errors
    /// It is refused.
    pub fn set_secret(&self, name: &str, value: &str) -> Result<()> {
        let mut child = Command::new(binary()?)
            .args(["secret", "set", name])
            .env("SEGUE_SERVER", format!("http://{}", self.listen))
            .env("SEGUE_DATA", self.data())
            .stdin(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no input")?.write_all(value.as_bytes())?;
        ensure!(child.wait()?.success(), "`segue secret set` failed");
        Ok(())
    }

    /// Runs a command of the built binary against this stand.
    ///
    /// # Errors
    /// It can't be started.
    pub fn segue(&self, arguments: &[&str]) -> Result<std::process::Output> {
        Command::new(binary()?)
            .args(arguments)
            .env("SEGUE_SERVER", format!("http://{}", self.listen))
            .env("SEGUE_DATA", self.data())
            .env("XDG_CONFIG_HOME", self.folder.path().join("configuration"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run `segue {}`", arguments.join(" ")))
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The folder of the stand.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Everything that the server wrote on its error output.
    #[must_use]
    pub fn server_output(&self) -> String {
        fs::read_to_string(self.server_log()).unwrap_or_default()
    }

    /// What they have said, once a word of it was said.
    ///
    /// # Errors
    /// It was not said within the limit.
    pub async fn until_said(&self, word: &str, limit: Duration) -> Result<String> {
        let begun = Instant::now();
        loop {
            let said = self.server_output();
            if said.contains(word) {
                return Ok(said);
            }
            ensure!(begun.elapsed() < limit, "`{word}` was not said:\n{said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn server_log(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    fn configuration_file(&self) -> PathBuf {
        self.folder.path().join("segue.yaml")
    }

    fn configuration(&self) -> String {
        let clone_url = self.repository.bare().display();
        let service = self.folder.path().join("sample-service");
        format!(
            "repositories:\n  acme/shop:\n    clone-url: {clone_url}\n    variables:\n      SAMPLE_SERVICE: {}\n\
             hosts:\n  local:\n    listen: [\"{}\"]\n{}{}",
            service.display(),
            self.proxy,
            self.router.as_ref().map(|router| settings_of(&router.settings())).unwrap_or_default(),
            self.extra_configuration
        )
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        // before its folder's processes, of which its workers do not show that they are
        drop(self.router.take());
        for child in self.server.iter_mut().chain(&mut self.apart) {
            let _ = child.kill();
            let _ = child.wait();
        }
        // the host outlives the server by design, and so do the services: everything that names this folder
        for _ in 0..5 {
            let left = self.all_processes();
            if left.is_empty() {
                break;
            }
            for pid in left {
                let _ = processes::signal(pid, nix::sys::signal::Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // a test runner shows it where the story failed
        eprintln!("--- what the server said ---\n{}", self.server_output());
    }
}

/// The built binary: `SEGUE_BIN`, or `segue` in the target directory that this test was built in.
///
/// # Errors
/// It is not there. A story never passes without it.
pub fn binary() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("SEGUE_BIN") {
        let named = PathBuf::from(named);
        ensure!(named.is_file(), "SEGUE_BIN names {}, which is not a file", named.display());
        return Ok(named);
    }
    let own = std::env::current_exe()?;
    own.ancestors()
        .map(|folder| folder.join("segue"))
        .find(|file| file.is_file())
        .context("the `segue` binary is not built: run `cargo build` first, or name it with SEGUE_BIN")
}

/// A free port of the loopback, below those that the system gives to whoever asks for any: nobody is given it before it is used.
///
/// # Errors
/// There is none.
pub fn free_address() -> Result<String> {
    for _ in 0..100 {
        let address = format!("127.0.0.1:{}", rand::random_range(10_240..20_000));
        if TcpListener::bind(&address).is_ok() {
            return Ok(address);
        }
    }
    bail!("none of a hundred ports of the loopback is free")
}

/// The keys of a host that has this router. JSON is YAML as well.
///
/// # Panics
/// Never: they are text.
#[must_use]
pub fn settings_of(settings: &RouterSettings) -> String {
    let json = |value: serde_json::Result<String>| value.expect("settings that JSON can hold");
    match settings {
        RouterSettings::Embedded => String::new(),
        RouterSettings::Haproxy(haproxy) => {
            format!("    router: haproxy\n    haproxy: {}\n", json(serde_json::to_string(haproxy)))
        }
        RouterSettings::Nginx(nginx) => {
            format!("    router: nginx\n    nginx: {}\n", json(serde_json::to_string(nginx)))
        }
    }
}

fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
