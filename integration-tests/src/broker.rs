//! A RabbitMQ of a story's own: Debian's program under a name, ports, a cookie and a folder of its own. It is stopped by id, and
//! everything that it wrote goes with it. What a story looks at or does there goes through the management plugin.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::{processes, stand::free_address};

/// The program itself: Debian's wrapper on the path insists on a user and on folders of the system.
const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// Speaks to a broker as its administrator.
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
/// How long a broker may take to start, beside other tests on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(300);
/// The broker that tests share, where one was started for them: `AMQP-ADDRESS MANAGEMENT-ADDRESS`.
const SHARED: &str = "SEGUE_TEST_BROKER";
/// The administrator of a broker of the tests.
const ADMIN: (&str, &str) = ("admin", "admin");

/// A broker with a virtual host for one story, and the users of a server and of a worker in it.
pub struct Broker {
    own: Option<Own>,
    address: String,
    management: String,
    vhost: String,
    client: Client,
}

/// A broker that this story started.
struct Own {
    folder: tempfile::TempDir,
    settings: String,
    /// The port of its name service.
    names: String,
    process: Option<Child>,
}

impl Broker {
    /// A virtual host at the broker that the tests share, or at one of its own where none was started for them.
    ///
    /// # Errors
    /// There is no broker.
    pub async fn shared() -> Result<Self> {
        let Ok(shared) = std::env::var(SHARED) else { return Self::start("").await };
        let (address, management) = shared.split_once(' ').context("SEGUE_TEST_BROKER holds two addresses")?;
        let vhost = format!("story-{}", uuid::Uuid::new_v4().simple());
        let broker =
            Self { own: None, address: address.into(), management: management.into(), vhost, client: client() };
        broker.furnish().await?;
        Ok(broker)
    }

    /// Starts a broker; `settings` are lines of `rabbitmq.conf`.
    ///
    /// # Errors
    /// The program is missing, or it does not start.
    pub async fn start(settings: &str) -> Result<Self> {
        ensure!(Path::new(PROGRAM).exists(), "{PROGRAM} is missing: install the package rabbitmq-server");
        let folder = tempfile::Builder::new().prefix("segue-broker-").tempdir()?;
        let own = Own { folder, settings: settings.into(), names: String::new(), process: None };
        let (address, management) = (free_address()?, free_address()?);
        let mut broker = Self { own: Some(own), address, management, vhost: "segue".into(), client: client() };
        broker.restart().await?;
        Ok(broker)
    }

    /// Starts it once more, after it was killed.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn restart(&mut self) -> Result<()> {
        let own = self.own.as_mut().context("the shared broker is nobody's to start")?;
        let folder = own.folder.path().to_path_buf();
        let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
        let settings = format!(
            "management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {}\nlog.console = true\nlog.console.level = warning\n\
             log.file = false\nnum_acceptors.tcp = 2\ndefault_user = {}\ndefault_pass = {}\n{}\n",
            port(&self.management),
            ADMIN.0,
            ADMIN.1,
            own.settings
        );
        fs::write(folder.join("rabbitmq.conf"), settings)?;
        fs::write(folder.join("plugins"), "[rabbitmq_management].")?;
        fs::write(folder.join("environment"), "")?;
        let log = fs::File::options().create(true).append(true).open(folder.join("log"))?;
        let free_port = || free_address().map(|address| port(&address));
        own.names = free_port()?;
        let process = own
            .command(PROGRAM, &self.address)
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", port(&self.address))
            .env("RABBITMQ_DIST_PORT", free_port()?)
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", &folder)
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
            // few threads, which do not spin: others test here as well
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 2:2 +SDio 2 +sbwt none +sbwtdcpu none +sbwtdio none")
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start rabbitmq-server")?;
        own.process = Some(process);
        self.await_readiness().await?;
        self.furnish().await
    }

    async fn await_readiness(&mut self) -> Result<()> {
        let begun = Instant::now();
        // nothing tells when it is ready but its answer
        while !self.is_ready().await {
            let own = self.own.as_mut().context("no broker")?;
            let ended = own.process.as_mut().map(Child::try_wait).transpose()?.flatten().is_some();
            if ended || begun.elapsed() > START_LIMIT {
                bail!("the broker did not start; it said:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn is_ready(&self) -> bool {
        let amqp = tokio::net::TcpStream::connect(&self.address).await.is_ok();
        amqp && self.ask(Method::GET, "health/checks/virtual-hosts", &Value::Null).await.is_ok()
    }

    /// Makes the virtual host, and users with the permissions that the documentation gives them.
    async fn furnish(&self) -> Result<()> {
        let vhost = &self.vhost;
        self.ask(Method::PUT, &format!("vhosts/{vhost}"), &json!({})).await?;
        for (user, configure, write, read) in [
            (ADMIN.0, ".*", ".*", ".*"),
            ("server", r"^segue\.", r"^(segue\.|amq\.default$)", r"^segue\."),
            ("worker", r"^amq\.gen-", r"^amq\.gen-", r"^(segue\.jobs\.|segue\.cancellations$|amq\.gen-)"),
        ] {
            if user != ADMIN.0 {
                self.ask(Method::PUT, &format!("users/{user}"), &json!({"password": user, "tags": ""})).await?;
            }
            let permissions = json!({"configure": configure, "write": write, "read": read});
            self.ask(Method::PUT, &format!("permissions/{vhost}/{user}"), &permissions).await?;
        }
        Ok(())
    }

    /// The address for a user, `server` or `worker`.
    #[must_use]
    pub fn url(&self, user: &str) -> String {
        self.url_at(&self.address, user)
    }

    /// The same by way of somebody who listens elsewhere.
    #[must_use]
    pub fn url_at(&self, address: &str, user: &str) -> String {
        format!("amqp://{user}:{user}@{address}/{}", self.vhost)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where its management plugin listens.
    #[must_use]
    pub fn management(&self) -> &str {
        &self.management
    }

    /// The line of `segue.yaml` for a server.
    #[must_use]
    pub fn settings(&self) -> String {
        format!("broker: {{url: \"{}\"}}\n", self.url("server"))
    }

    /// Its folder.
    ///
    /// # Errors
    /// It is not this story's own.
    pub fn folder(&self) -> Result<&Path> {
        Ok(self.own.as_ref().context("the shared broker has no folder here")?.folder.path())
    }

    /// What it wrote on its output.
    #[must_use]
    pub fn log(&self) -> String {
        self.own.as_ref().and_then(|own| fs::read_to_string(own.folder.path().join("log")).ok()).unwrap_or_default()
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// It is not this story's own, or does not run.
    pub fn kill(&mut self) -> Result<()> {
        let own = self.own.as_mut().context("the shared broker is nobody's to kill")?;
        let mut process = own.process.take().context("the broker does not run")?;
        own.kill_all();
        process.wait()?;
        Ok(())
    }

    /// Removes everything that it knows, while it does not run.
    ///
    /// # Errors
    /// It runs.
    pub fn wipe(&mut self) -> Result<()> {
        let own = self.own.as_ref().context("the shared broker is nobody's to wipe")?;
        ensure!(own.process.is_none(), "the broker runs");
        Ok(fs::remove_dir_all(own.folder.path().join("data"))?)
    }

    /// Runs a command of `rabbitmqctl`, for what the management plugin has no word for.
    ///
    /// # Errors
    /// It is not this story's own, or refuses.
    pub async fn command(&self, arguments: &[&str]) -> Result<()> {
        let own = self.own.as_ref().context("the shared broker is nobody's to command")?;
        let mut command = own.command(CONTROL, &self.address);
        command.args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// The names of the queues.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn queues(&self) -> Result<Vec<String>> {
        let all = self.ask(Method::GET, &format!("queues/{}?columns=name", self.vhost), &Value::Null).await?;
        let names = all.as_array().into_iter().flatten().filter_map(|queue| queue["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// Takes up to `count` messages from a queue, each as `{payload, properties, ...}`; they stay there.
    ///
    /// # Errors
    /// There is no such queue.
    pub async fn peek(&self, queue: &str, count: u32) -> Result<Vec<Value>> {
        let how = json!({"count": count, "ackmode": "ack_requeue_true", "encoding": "auto"});
        let found = self.ask(Method::POST, &format!("queues/{}/{queue}/get", self.vhost), &how).await?;
        Ok(found.as_array().cloned().unwrap_or_default())
    }

    /// Publishes a text straight to a queue.
    ///
    /// # Errors
    /// The broker refuses, or nobody gets it.
    pub async fn publish(&self, queue: &str, text: &str) -> Result<()> {
        let what = json!({"routing_key": queue, "payload": text, "payload_encoding": "string",
            "properties": {"delivery_mode": 2}});
        let path = format!("exchanges/{}/amq.default/publish", self.vhost);
        let told = self.ask(Method::POST, &path, &what).await?;
        ensure!(told["routed"] == true, "nobody got what was published to {queue}");
        Ok(())
    }

    /// Removes a queue.
    ///
    /// # Errors
    /// There is none.
    pub async fn remove(&self, queue: &str) -> Result<()> {
        self.ask(Method::DELETE, &format!("queues/{}/{queue}", self.vhost), &Value::Null).await.map(drop)
    }

    /// Declares a queue.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn declare(&self, queue: &str, arguments: &Value) -> Result<()> {
        let how = json!({"durable": true, "arguments": arguments});
        self.ask(Method::PUT, &format!("queues/{}/{queue}", self.vhost), &how).await.map(drop)
    }

    /// Waits until something is so.
    ///
    /// # Errors
    /// Not within the limit.
    pub async fn until(
        &self,
        what: &str,
        limit: Duration,
        mut is_so: impl AsyncFnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let begun = Instant::now();
        loop {
            let seen = is_so(self).await;
            if matches!(seen, Ok(true)) {
                return Ok(());
            }
            if begun.elapsed() > limit {
                bail!("waited {limit:?} in vain until {what}: {seen:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let url = format!("http://{}/api/{path}", self.management);
        let mut request = self.client.request(method.clone(), url).basic_auth(ADMIN.0, Some(ADMIN.1));
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{method} {path} was answered {status}: {text}");
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }
}

fn client() -> Client {
    // the machine may have a provider already; installing it twice is no error worth a word
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap_or_default()
}

impl Own {
    /// One of RabbitMQ's programs, for this broker.
    fn command(&self, program: &str, address: &str) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(program);
        command
            .current_dir(folder)
            .env("HOME", folder)
            .env("RABBITMQ_NODENAME", format!("segue-{}@localhost", address.rsplit(':').next().unwrap_or_default()))
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("environment"))
            .env("ERL_EPMD_PORT", &self.names)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .stdin(Stdio::null());
        command
    }

    /// The program, what it started, and its name service, which is a daemon: everything whose environment names the folder.
    fn kill_all(&self) {
        for _ in 0..50 {
            let left = processes::with_argument(&self.folder.path().display().to_string());
            if left.is_empty() {
                break;
            }
            for pid in left {
                let _ = processes::signal(pid, Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.kill_all();
        if let Some(mut process) = self.process.take() {
            let _ = process.wait();
        }
    }
}
