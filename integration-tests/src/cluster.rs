//! Two servers and two workers on one PostgreSQL, with contents in a bucket and one host: each server has a data directory of its
//! own, as on a machine of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    api::Api,
    fleet::configuration,
    postgres::{Database, Postgres},
    s3::S3,
    stand::{Stand, binary, free_address},
    webhook::Webhook,
};

/// How long the second server may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running one. Dropped, it stops what it started.
pub struct Cluster {
    /// The first server, the first worker and the host, with the repository.
    pub stand: Stand,
    /// The second server's address.
    pub second: String,
    children: Vec<Child>,
    /// The database of all.
    pub database: Database,
    /// The bucket of all.
    pub s3: S3,
    _keys: tempfile::TempDir,
}

impl Cluster {
    /// Starts it on a PostgreSQL of its own, which may be spoiled. `extra` is appended to `segue.yaml`.
    ///
    /// # Errors
    /// A part does not start.
    pub async fn start(extra: &str) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let database = Arc::new(Postgres::start()?).database()?;
        let s3 = S3::start("contents", "key", "secret").await?;
        let keys = tempfile::tempdir()?;
        let configuration = format!("{}{extra}", configuration(&database, &s3, keys.path())?);
        let stand = Stand::start_apart(&configuration).await?;
        let mut cluster = Self { stand, second: free_address()?, children: Vec::new(), database, s3, _keys: keys };
        cluster.start_second().await?;
        Ok(cluster)
    }

    async fn start_second(&mut self) -> Result<()> {
        let data = self.stand.folder().join("second");
        fs::create_dir(&data)?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755))?;
        // the one host of this machine
        std::os::unix::fs::symlink(self.stand.data().join("host"), data.join("host"))?;
        let (data, second) = (data.display().to_string(), self.second.clone());
        self.begin(&["server", "--data", &data, "--listen", &second])?;
        let begun = Instant::now();
        while !ready(&second).await {
            ensure!(begun.elapsed() < START_LIMIT, "the second server is not ready: {}", self.stand.server_output());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let worker = self.stand.folder().join("second-worker");
        fs::create_dir(&worker)?;
        fs::set_permissions(&worker, fs::Permissions::from_mode(0o755))?;
        let (worker, url) = (worker.display().to_string(), format!("http://{second}"));
        self.begin(&["worker", "--data", &worker, "--server", &url, "--token-file", &format!("{data}/worker-token")])
    }

    /// Starts a part of the binary that reads the stand's configuration.
    fn begin(&mut self, arguments: &[&str]) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.stand.folder().join("server.log"))?;
        let child = Command::new(binary()?)
            .args(arguments)
            .arg("--config")
            .arg(self.stand.folder().join("segue.yaml"))
            .env("SEGUE__WORKER__NAME", "second")
            .env("XDG_CONFIG_HOME", self.stand.folder().join("configuration"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start `segue {}`", arguments.join(" ")))?;
        self.children.push(child);
        Ok(())
    }

    /// The second server's process.
    #[must_use]
    pub fn second_pid(&self) -> u32 {
        self.children[0].id()
    }

    /// Clients of both servers, which know one token.
    ///
    /// # Errors
    /// There is none.
    pub fn apis(&self) -> Result<[Api; 2]> {
        let token = fs::read_to_string(self.stand.data().join("admin-token"))?;
        Ok([&self.stand.listen, &self.second].map(|listen| Api::new(&format!("http://{listen}"), token.trim())))
    }

    /// Senders of webhooks to both servers, which know one secret.
    ///
    /// # Errors
    /// There is none.
    pub fn webhooks(&self) -> Result<[Webhook; 2]> {
        let secret = fs::read_to_string(self.stand.data().join("webhook-secret"))?;
        let url = |listen: &String| format!("http://{listen}/webhooks/github");
        Ok([&self.stand.listen, &self.second].map(|listen| Webhook::new(&url(listen), secret.trim())))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

async fn ready(listen: &str) -> bool {
    let answer = reqwest::Client::new().get(format!("http://{listen}/readyz")).send().await;
    answer.is_ok_and(|answer| answer.status().is_success())
}
