//! The sample service as a container: its image is built by the pipeline, from one that has the program already.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use reqwest::Method;
use segue_schemas::host_api::HostState;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    docker::{Docker, SAMPLE},
    processes, sample,
    stand::{Stand, binary, free_address},
};

/// The pipeline that builds the image and brings it to staging; `STEP` is the deploying one.
const PIPELINE: &str = r#"name: release
on:
  push:
    branches: [main]
jobs:
  build:
    runs-on: [linux]
    outputs: { image: "${{ steps.image.outputs.image }}" }
    steps:
      - uses: segue/checkout
      - id: image
        uses: segue/build-image
        with: {context: ., network: none}
  staging:
    needs: [build]
    runs-on: [linux]
    environment: staging
    steps:
      - uses: segue/checkout
      - uses: STEP
        with: {service: api, image: "${{ needs.build.outputs.image }}"MORE}
"#;

/// The service's own file. Short times, so that stories are short.
pub const SERVICE: &str = r#"command: [/app/sample-service, sample-service, --config, /app/service.yml, --address, 0.0.0.0]
container: {port: 8000, user: "1234:1234", volumes: ["kept:/kept"]}
resources: {memory: 256MiB, cpus: 1, pids: 100}
health: {path: /healthz, tries: 100, interval: 100ms, timeout: 2s}
warm-up: [{path: /healthz, count: 3}]
drain: 10s
keep-warm: 60s
"#;

/// What goes into the repository beside pipeline and configuration.
pub const DOCKERFILE: &str = "COPY service.yml /app/service.yml\n";

/// What a host is asked with that nobody else asks anything: the service `web` in production.
#[must_use]
pub fn fence(epoch: u64) -> Value {
    json!({"environment": "production", "service": "web", "epoch": epoch})
}

/// What has a host start an instance of the service `web`: this script in an image, and `more`, which goes before what is said here.
#[must_use]
pub fn web(image: &str, name: &str, script: &str, more: &Value) -> Value {
    let mut start = json!({
        "fence": fence(1),
        "instance": name,
        "release": {
            "id": 1, "repository": "acme/shop", "service": "web", "digest": image, "image": image,
            "commit": "1".repeat(40), "run": 1, "created_at": "2026-01-01T00:00:00Z",
        },
        "artifact": "image",
        "command": ["sh", "-c", script],
        "container": {"container": {"port": 8080}, "resources": {"memory": "64MiB"}},
        "env": {},
        "stop_timeout_ms": 500,
        "health": {"path": "/healthz", "tries": 50, "interval": "100ms", "timeout": "2s"},
    });
    if let (Some(start), Some(more)) = (start.as_object_mut(), more.as_object()) {
        start.extend(more.clone());
    }
    start
}

/// What has a host's proxy send all requests to one instance of `web`.
#[must_use]
pub fn all_to(name: &str) -> Value {
    let targets = json!([{"instance": name, "weight": 100}]);
    json!({"fence": fence(1), "rules": [], "targets": targets, "fallback": [], "dead_man_ms": null})
}

/// A Segue whose jobs and services use this engine, which has the sample service's image.
///
/// # Errors
/// It does not start.
pub async fn stand(docker: &Docker, more: &str) -> Result<Stand> {
    let stand = Stand::start(&(docker.settings("") + more)).await?;
    docker.sample_image(&stand.folder().join("sample-service")).await?;
    Ok(stand)
}

/// Commits a version of the service. `step` deploys it, with further inputs in `more`.
///
/// # Errors
/// git refuses.
pub fn commit(stand: &Stand, config: &str, step: &str, more: &str) -> Result<String> {
    stand.repository.commit(
        config,
        &[
            (".segue/pipelines/release.yml", &PIPELINE.replace("STEP", step).replace("MORE", more)),
            (".segue/services/api.yml", SERVICE),
            ("Dockerfile", &format!("FROM {SAMPLE}\n{DOCKERFILE}")),
            ("service.yml", config),
        ],
    )
}

/// Commits a version that is deployed at once.
///
/// # Errors
/// git refuses.
pub fn commit_version(stand: &Stand, version: &str) -> Result<String> {
    commit(stand, &sample::service_yml(version, 0.0), "segue/deploy", "")
}

/// A `segue host` with nobody else there, spoken to over its API. Dropped, it is killed, and what it carries at the engine stays: see
/// [`HostAlone::end`].
pub struct HostAlone {
    folder: tempfile::TempDir,
    process: Child,
    client: reqwest::Client,
    engine: Vec<String>,
    listen: String,
}

impl HostAlone {
    /// Starts one whose containers run at this engine.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(docker: &Docker) -> Result<Self> {
        Self::start_with(docker, &[]).await
    }

    /// The same with further arguments.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_with(docker: &Docker, more: &[&str]) -> Result<Self> {
        let socket = docker.socket().display().to_string();
        let engine = ["--docker", &socket].into_iter().chain(more.iter().copied());
        Self::start_at(engine.map(str::to_owned).collect()).await
    }

    /// The same with arguments that say where the engine is.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_at(engine: Vec<String>) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::Builder::new().prefix("segue-host-").tempdir()?;
        let socket = folder.path().join("host/host.sock");
        let client = reqwest::Client::builder().unix_socket(socket).timeout(Duration::from_secs(60)).build()?;
        let listen = free_address()?;
        let process = launch(folder.path(), &engine, &listen)?;
        let host = Self { folder, process, client, engine, listen };
        host.until_ready().await?;
        Ok(host)
    }

    /// Kills it, and starts it again.
    ///
    /// # Errors
    /// It does not start.
    pub async fn kill_and_start(&mut self) -> Result<()> {
        self.start_again_with(&[]).await
    }

    /// Kills it, and starts it with further arguments, for this time.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_again_with(&mut self, more: &[&str]) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        let arguments: Vec<String> =
            self.engine.iter().cloned().chain(more.iter().map(|&one| one.to_owned())).collect();
        self.process = launch(self.folder.path(), &arguments, &self.listen)?;
        self.until_ready().await
    }

    async fn until_ready(&self) -> Result<()> {
        let begun = Instant::now();
        while let Err(error) = self.state().await {
            ensure!(begun.elapsed() < Duration::from_secs(60), "the host does not answer: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The directory that holds the host's own.
    #[must_use]
    pub fn data(&self) -> &Path {
        self.folder.path()
    }

    /// What it has said on its error output.
    #[must_use]
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Everything that it carries.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn state(&self) -> Result<HostState> {
        Ok(serde_json::from_value(self.call(Method::GET, "/v1/state", &Value::Null).await?)?)
    }

    /// One call of its API.
    ///
    /// # Errors
    /// What it says.
    pub async fn call(&self, method: Method, path: &str, body: &impl Serialize) -> Result<Value> {
        let answer = self.client.request(method, format!("http://host{path}")).json(body).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{path}: {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// What its proxy answers a request for the service `web` in `production`.
    ///
    /// # Errors
    /// No answer, or none that is well.
    pub async fn ask(&self, path: &str) -> Result<String> {
        let request = reqwest::Client::new().get(format!("http://{}{path}", self.listen));
        let answer = request.header("host", "web.production.localhost").timeout(Duration::from_secs(10)).send().await?;
        Ok(answer.error_for_status()?.text().await?)
    }

    /// Asks again until it is answered well.
    ///
    /// # Errors
    /// It is not within the limit.
    pub async fn until_answered(&self, path: &str, limit: Duration) -> Result<String> {
        let begun = Instant::now();
        loop {
            match self.ask(path).await {
                Ok(text) => return Ok(text),
                Err(error) if begun.elapsed() > limit => bail!("not answered in {limit:?}: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Ends it with what it carries.
    ///
    /// # Errors
    /// It does not.
    pub async fn end(mut self) -> Result<()> {
        self.call(Method::POST, "/v1/shutdown", &json!({"services": true})).await?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for HostAlone {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for pid in processes::with_argument(&self.folder.path().display().to_string()) {
            let _ = processes::signal(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn launch(folder: &Path, engine: &[String], listen: &str) -> Result<Child> {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log"))?;
    let child = Command::new(binary()?)
        .arg("host")
        .arg("--data")
        .arg(folder.join("host"))
        .args(["--listen", listen])
        .args(engine)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    Ok(child)
}
