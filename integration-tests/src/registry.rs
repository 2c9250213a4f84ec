//! A registry of images for the tests: Debian's `docker-registry` with a folder of its own, and one user. Dropped, it stops.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Client, Method, Response};
use serde_json::Value;

use crate::stand::free_address;

const START_LIMIT: Duration = Duration::from_secs(60);
/// Who may push and pull.
pub const USER: &str = "pusher";
/// Its password.
pub const PASSWORD: &str = "pushed-with-this";
/// The same as the registry keeps it (bcrypt).
const KEPT: &str = "$2b$04$abcdefghijklmnopqrstuuWN7EdOoo8NMfdot5Mw5/0/6hSjLdIl2";
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json";

/// A registry.
pub struct Registry {
    folder: tempfile::TempDir,
    process: Option<Child>,
    /// Its address, as the names of its images begin.
    pub address: String,
}

impl Registry {
    /// Starts one.
    ///
    /// # Errors
    /// The program is missing, or it does not start.
    pub async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("segue-registry-").tempdir()?;
        let mut registry = Self { folder, process: None, address: free_address()? };
        registry.restart().await?;
        Ok(registry)
    }

    /// Starts it once more, after it was stopped, with what it holds.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn restart(&mut self) -> Result<()> {
        let folder = self.folder.path();
        fs::write(folder.join("users"), format!("{USER}:{KEPT}\n"))?;
        let config = serde_json::json!({
            "version": 0.1,
            "log": { "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": folder.join("data") } },
            "http": { "addr": self.address, "secret": "of the tests" },
            "auth": { "htpasswd": { "realm": "tests", "path": folder.join("users") } },
        });
        // JSON is YAML
        fs::write(folder.join("config.yml"), config.to_string())?;
        let log = fs::File::options().create(true).append(true).open(folder.join("log"))?;
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(folder.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start docker-registry: install the package docker-registry")?;
        self.process = Some(process);
        let begun = Instant::now();
        while self.ask(Method::GET, "/v2/").await.is_err() {
            let ended = self.process.as_mut().map(Child::try_wait).transpose()?.flatten().is_some();
            if ended || begun.elapsed() > START_LIMIT {
                bail!("docker-registry did not start; it said:\n{}", fs::read_to_string(folder.join("log"))?);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Stops it.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// The digest that a name's tag stands for, and the manifest.
    ///
    /// # Errors
    /// There is none.
    pub async fn manifest(&self, name: &str, tag: &str) -> Result<(String, Value)> {
        let answer = self.ask(Method::GET, &format!("/v2/{name}/manifests/{tag}")).await?;
        let digest = answer.headers().get("docker-content-digest").context("no digest")?.to_str()?.to_owned();
        Ok((digest, serde_json::from_str(&answer.text().await?)?))
    }

    /// A blob that is JSON, such as the configuration of an image.
    ///
    /// # Errors
    /// There is none.
    pub async fn blob(&self, name: &str, digest: &str) -> Result<Value> {
        let answer = self.ask(Method::GET, &format!("/v2/{name}/blobs/{digest}")).await?;
        Ok(serde_json::from_str(&answer.text().await?)?)
    }

    /// The tags of a name; none where there is no such name.
    ///
    /// # Errors
    /// No answer.
    pub async fn tags(&self, name: &str) -> Result<Vec<String>> {
        let Ok(answer) = self.ask(Method::GET, &format!("/v2/{name}/tags/list")).await else { return Ok(Vec::new()) };
        let list: Value = serde_json::from_str(&answer.text().await?)?;
        Ok(serde_json::from_value(list["tags"].clone())?)
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Response> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let credentials = STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let request = Client::new()
            .request(method, format!("http://{}{path}", self.address))
            .header("authorization", format!("Basic {credentials}"))
            .header("accept", MANIFEST);
        let answer = request.send().await?;
        ensure!(answer.status().is_success(), "{path} was answered {}", answer.status());
        Ok(answer)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
