//! Where the demonstration takes place: a directory, a server with its worker in this process, a host beside it, and the end
//! of all of them.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use reqwest::Url;
use segue_runner::up::{self, ServerOptions};
use segue_schemas::{
    config::{Config, HostConfig, RepositoryConfig},
    host_api::Shutdown,
};
use segue_worker::host::client::HostClient;
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    repository::{self, Repository},
    screen::Screen,
};
use crate::cli::{
    client::Client,
    connection::read_token,
    ending::{Explain as _, Failure},
    serve,
};

/// Everything that runs.
pub struct House {
    dir: PathBuf,
    /// Taken away at the end, unless the directory was named.
    temporary: Option<tempfile::TempDir>,
    proxy: SocketAddr,
    client: Client,
    webhook_secret: String,
    host: HostClient,
    stop: CancellationToken,
    server: JoinHandle<Result<(), up::UpError>>,
}

impl House {
    /// Makes the directory and starts everything.
    ///
    /// # Errors
    /// The directory or a port can't be used.
    pub async fn open(named: Option<PathBuf>, screen: &Screen) -> Result<Self, Failure> {
        let (dir, temporary) = directory(named)?;
        let program = copy_of_this_program(&dir)?;
        // two ports that nobody has; held until both are known, so that they differ
        let held = [free_port()?, free_port()?];
        let [listen, proxy] = [address(&held[0])?, address(&held[1])?];
        drop(held);
        let data = dir.join("data");
        let config = configuration(&dir, &program, proxy);
        let host_options = serve::host_options(&config, &data)?;
        let host = HostClient::new(host_options.socket.clone());
        let stop = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let options = ServerOptions { config, data: data.clone(), listen, schedules: false };
        let parts = (Some(serve::keeper(host_options, Vec::new())), Some(serve::worker_part()));
        let say = move |running: &up::Running| drop(ready.send((running.address, running.admin_token_file.clone())));
        // on a thread of its own: the main task of a server is not one that moves between threads
        let (runtime, told) = (tokio::runtime::Handle::current(), stop.clone());
        let mut server =
            tokio::task::spawn_blocking(move || runtime.block_on(up::up(options, parts.0, parts.1, say, told)));
        let Ok((address, admin_token)) = is_ready.await else {
            // it ended before it was ready, and says why
            (&mut server).await.explain("the server")?.map_err(Failure::new)?;
            return Err(Failure::new("the server ended before it was ready"));
        };
        let base = Url::parse(&format!("http://{address}")).explain("the server's address")?;
        screen.line(format_args!("server and worker at {base}, proxy at {proxy}, everything in {}", dir.display()));
        let client = Client::new(base, Some(read_token(&admin_token)?))?;
        let secret = data.join("webhook-secret");
        let webhook_secret = fs::read_to_string(&secret).explain(format_args!("cannot read {}", secret.display()))?;
        let webhook_secret = webhook_secret.trim().to_owned();
        Ok(Self { dir, temporary, proxy, client, webhook_secret, host, stop, server })
    }

    /// The sample repository, made anew.
    ///
    /// # Errors
    /// git refuses.
    pub async fn repository(&self) -> Result<Repository, Failure> {
        Repository::create(&self.dir).await
    }

    /// The public API.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Where production and staging are asked.
    pub const fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// What webhooks are signed with.
    pub fn webhook_secret(&self) -> &str {
        &self.webhook_secret
    }

    /// Says how to look around, and waits to be told to end.
    pub async fn keep(&self, told_to_end: &CancellationToken) {
        let (server, data) = (self.client.base(), self.dir.join("data"));
        anstream::eprintln!(
            "\nIt goes on until Ctrl-C. In another terminal:\n  \
             export SEGUE_SERVER={server} SEGUE_DATA={}\n  \
             segue runs; segue logs 2; segue rollout list; segue releases\n  \
             curl -H 'Host: greeter.production.localhost' http://{}/\n  \
             segue rollback production greeter\n\
             The repository that is pushed to is {}.",
            data.display(),
            self.proxy,
            self.dir.join("clone").display()
        );
        told_to_end.cancelled().await;
    }

    /// Ends everything: server and worker, then host, proxy and services. The directory is taken away, unless it was named
    /// or `is_evidence`.
    ///
    /// # Errors
    /// Something did not end in order.
    pub async fn close(self, is_evidence: bool) -> Result<(), Failure> {
        self.stop.cancel();
        let server = self.server.await.explain("the server")?;
        let host = self.host.shutdown(Shutdown { services: true }).await;
        if is_evidence && let Some(temporary) = self.temporary {
            let kept = temporary.keep();
            anstream::eprintln!("what there is to look at was left in {}", kept.display());
        }
        server.map_err(Failure::new)?;
        host.map_err(Failure::new).map(drop)
    }
}

/// The named directory, or a new one where jobs, which run as another user, can reach it.
fn directory(named: Option<PathBuf>) -> Result<(PathBuf, Option<tempfile::TempDir>), Failure> {
    let (dir, temporary) = match named {
        Some(dir) => {
            if fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) {
                return Err(
                    Failure::usage(format_args!("{} is not empty", dir.display())).remedy("name a new directory")
                );
            }
            fs::create_dir_all(&dir).explain(format_args!("cannot make {}", dir.display()))?;
            (std::path::absolute(&dir).explain("the directory")?, None)
        }
        None => {
            let made = tempfile::Builder::new().prefix("segue-demo-").tempdir().explain("cannot make a directory")?;
            (made.path().to_owned(), Some(made))
        }
    };
    open_to_others(&dir, 0o711)?;
    Ok((dir, temporary))
}

/// The sample service is a part of this program, which may lie where jobs can't come; they get a copy.
fn copy_of_this_program(dir: &Path) -> Result<PathBuf, Failure> {
    let program = std::env::current_exe().explain("cannot find this program's own path")?;
    let copy = dir.join("sample-service");
    fs::copy(&program, &copy).explain(format_args!("cannot copy {} to {}", program.display(), copy.display()))?;
    open_to_others(&copy, 0o755)?;
    Ok(copy)
}

fn open_to_others(path: &Path, mode: u32) -> Result<(), Failure> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .explain(format_args!("cannot open {} to jobs", path.display()))
}

fn configuration(dir: &Path, program: &Path, proxy: SocketAddr) -> Config {
    let repository = RepositoryConfig {
        default_branch: None,
        clone_url: Some(repository::bare(dir).display().to_string()),
        variables: IndexMap::from([
            ("SAMPLE_SERVICE".into(), program.display().to_string()),
            ("PROXY".into(), proxy.to_string()),
        ]),
        rollback_tags: None,
    };
    Config {
        repositories: IndexMap::from([(repository::NAME.into(), repository)]),
        hosts: IndexMap::from([(
            "local".into(),
            HostConfig { listen: vec![proxy.to_string()], ..HostConfig::default() },
        )]),
        ..Config::default()
    }
}

fn free_port() -> Result<TcpListener, Failure> {
    TcpListener::bind("127.0.0.1:0").explain("there is no free port")
}

fn address(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().explain("a port has no number")
}
