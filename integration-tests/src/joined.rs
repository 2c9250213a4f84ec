//! A host that joins the stand's server from another address of the loopback, as one on another machine does.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use segue_schemas::api::{HostList, HostStatus, HostView};

use crate::stand::{Stand, binary, free_address};

/// How long a host may take to be heard.
const HEARD_LIMIT: Duration = Duration::from_secs(60);

/// A host that joined. Dropped, its process ends; the stand ends what it carries.
pub struct JoinedHost {
    /// Its name.
    pub name: String,
    /// Its data folder.
    pub data: PathBuf,
    /// Where workers reach it.
    pub address: String,
    proxy: String,
    child: Option<Child>,
}

impl Stand {
    /// A server and a worker as two processes, and a host that has joined them as `name` and carries staging and production.
    ///
    /// # Errors
    /// One of them does not start, or the host is not heard.
    pub async fn start_joined(name: &str, extra: &str) -> Result<(Self, JoinedHost)> {
        // the configuration ends with its hosts
        let settings = format!(
            "  {name}: {{join: true}}\nenvironments: {{staging: {{hosts: [{name}]}}, production: {{hosts: [{name}]}}}}\n{extra}"
        );
        let mut stand = Self::start_server_alone(&settings).await?;
        let mut host = JoinedHost::new(&stand, name)?;
        host.join(&stand)?;
        host.start()?;
        stand.host_becomes(name, HostStatus::Reachable).await?;
        stand.start_worker_beside("worker", "worker-token")?;
        Ok((stand, host))
    }

    /// A token for a host.
    ///
    /// # Errors
    /// It is refused.
    pub fn invite(&self, name: &str) -> Result<String> {
        let output = self.segue(&["host", "invite", name])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// A host, once it stands so.
    ///
    /// # Errors
    /// It does not within a minute.
    pub async fn host_becomes(&self, name: &str, status: HostStatus) -> Result<HostView> {
        self.host_with(name, |host| host.status == status).await
    }

    /// A host, once something is so.
    ///
    /// # Errors
    /// It is not within a minute.
    pub async fn host_with(&self, name: &str, is: impl Fn(&HostView) -> bool) -> Result<HostView> {
        let begun = Instant::now();
        loop {
            let list: HostList = self.api()?.get("/hosts").await?;
            let found = list.items.into_iter().find(|host| host.name == name);
            match found {
                Some(host) if is(&host) => return Ok(host),
                found if begun.elapsed() > HEARD_LIMIT => bail!("the host `{name}` stands so: {found:#?}"),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

impl JoinedHost {
    /// A host that has not joined yet.
    ///
    /// # Errors
    /// No port is free.
    pub fn new(stand: &Stand, name: &str) -> Result<Self> {
        let address = free_address()?.replace("127.0.0.1", "127.0.0.2");
        let (data, proxy) = (stand.folder().join(format!("host-{name}")), stand.proxy.clone());
        Ok(Self { name: name.to_owned(), data, address, proxy, child: None })
    }

    /// Joins the stand's server with a new token.
    ///
    /// # Errors
    /// It is refused.
    pub fn join(&self, stand: &Stand) -> Result<()> {
        let output = self.join_with(stand, &stand.invite(&self.name)?)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// What joining with this token comes to.
    ///
    /// # Errors
    /// The binary can't be run.
    pub fn join_with(&self, stand: &Stand, token: &str) -> Result<Output> {
        let data = self.data.display().to_string();
        let server = format!("http://{}", stand.listen);
        let named = ["--token", token, "--name", &self.name, "--listen", &self.address, "--data", &data];
        stand.segue(&[&["host", "join", &server], &named[..]].concat())
    }

    /// Starts it, once more after it was killed.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(&mut self) -> Result<()> {
        fs::create_dir_all(&self.data)?;
        let log = fs::File::options().create(true).append(true).open(self.log())?;
        let child = Command::new(binary()?)
            .arg("host")
            .arg("--data")
            .arg(&self.data)
            .args(["--listen", &self.proxy])
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start `segue host`")?;
        self.child = Some(child);
        Ok(())
    }

    /// Kills it; what it carries lives on.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the host does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// What it has said.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// What it has said, once a word of it was said.
    ///
    /// # Errors
    /// It was not said within a minute.
    pub async fn until_said(&self, word: &str) -> Result<String> {
        let begun = Instant::now();
        loop {
            let said = self.said();
            if said.contains(word) {
                return Ok(said);
            }
            ensure!(begun.elapsed() < HEARD_LIMIT, "`{word}` was not said:\n{said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn log(&self) -> PathBuf {
        self.data.with_extension("log")
    }
}

impl Drop for JoinedHost {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        // a test runner shows it where the story failed
        eprintln!("--- what the host `{}` said ---\n{}", self.name, self.said());
    }
}
