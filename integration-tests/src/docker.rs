//! A container engine for the tests: Debian's `dockerd` with files, sockets and a process of its own, stopped by id; and an image made
//! from nothing but a static busybox, as no registry is reached here.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use nix::sys::signal::Signal;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::{
    engines::{Certificates, MACHINE},
    processes,
    registry::{self, Registry},
    stand::free_address,
};

/// How long an engine may take to start, beside other tests on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// The engine that tests share, where one was started for them: its socket.
const SHARED: &str = "SEGUE_TEST_DOCKER";
/// The one image that there is: a static busybox with its names, and two users.
pub const IMAGE: &str = "segue-test:1";
/// An image with the sample service.
pub const SAMPLE: &str = "segue-sample:1";
const BUSYBOX: &str = "/bin/busybox";

/// A container engine.
pub struct Docker {
    own: Option<Own>,
    socket: PathBuf,
    client: Client,
}

/// One that this story started.
struct Own {
    folder: tempfile::TempDir,
    data: PathBuf,
    /// Programs that it finds before others.
    beside: Option<PathBuf>,
    /// What it is started with.
    more: Vec<String>,
    process: Option<Child>,
}

impl Docker {
    /// The engine that the tests share, with the image, or one of its own where none was started for them.
    ///
    /// # Errors
    /// There is none.
    pub async fn shared() -> Result<Self> {
        let Ok(socket) = std::env::var(SHARED) else { return Self::start().await };
        let docker = Self { own: None, client: client(Path::new(&socket))?, socket: socket.into() };
        docker.furnish().await?;
        Ok(docker)
    }

    /// Starts one.
    ///
    /// # Errors
    /// The program is missing, or it does not start.
    pub async fn start() -> Result<Self> {
        Self::start_with(None, None, Vec::new()).await
    }

    /// Starts one that keeps its data in a directory that is there.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_at(data: &Path) -> Result<Self> {
        Self::start_with(Some(data.to_owned()), None, Vec::new()).await
    }

    /// Starts one that finds the programs of a folder before others.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_beside(programs: &Path) -> Result<Self> {
        Self::start_with(None, Some(programs.to_owned()), Vec::new()).await
    }

    /// Starts one that listens at an address of TCP as well, with these certificates; and that address, as a host is told it.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with_tls(certificates: &Certificates) -> Result<(Self, String)> {
        Self::start_with_tls_beside(certificates, None).await
    }

    /// The same with programs that it finds before others.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with_tls_beside(certificates: &Certificates, programs: Option<&Path>) -> Result<(Self, String)> {
        let port = free_address()?.rsplit_once(':').context("a port")?.1.to_owned();
        let address = format!("tcp://{MACHINE}:{port}");
        Ok((Self::start_at_tls(certificates, &address, programs).await?, address))
    }

    async fn start_at_tls(certificates: &Certificates, address: &str, programs: Option<&Path>) -> Result<Self> {
        let mut more = certificates.of_engine();
        more.extend(["--host".to_owned(), address.to_owned()]);
        Self::start_with(None, programs.map(Path::to_owned), more).await
    }

    /// Starts another one at the address of one that ended, with a number of its own; `programs` that it finds before others.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_in_place(certificates: &Certificates, address: &str, programs: Option<&Path>) -> Result<Self> {
        let mut more = certificates.of_engine();
        more.extend(["--host".to_owned(), address.to_owned()]);
        let version = Command::new("dockerd").arg("--version").output().context("dockerd is missing")?;
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        let major = version.split(' ').nth(2).and_then(|words| words.split('.').next()?.parse::<u32>().ok());
        // a newer one has its number with its data, an older one with its machine's key
        if major.is_some_and(|major| major < 23) {
            let config = certificates.file("engine.json");
            // of one that was here before; there is none the first time
            let _ = fs::remove_file(certificates.file("engine-key.json"));
            fs::write(&config, json!({"deprecated-key-path": certificates.file("engine-key.json")}).to_string())?;
            more.extend(["--config-file".to_owned(), config.display().to_string()]);
        }
        Self::start_with(None, programs.map(Path::to_owned), more).await
    }

    async fn start_with(data: Option<PathBuf>, beside: Option<PathBuf>, more: Vec<String>) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "dockerd is started as root alone");
        let folder = tempfile::Builder::new().prefix("segue-docker-").tempdir()?;
        let socket = folder.path().join("docker.sock");
        let data = data.unwrap_or_else(|| folder.path().join("data"));
        let own = Own { folder, data, beside, more, process: None };
        let mut docker = Self { own: Some(own), client: client(&socket)?, socket };
        docker.restart().await?;
        docker.furnish().await?;
        Ok(docker)
    }

    /// Starts it once more, after it was killed.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn restart(&mut self) -> Result<()> {
        let own = self.own.as_mut().context("the shared engine is nobody's to start")?;
        let folder = own.folder.path();
        let log = fs::File::options().create(true).append(true).open(folder.join("log"))?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = own.beside.iter().cloned().chain(std::env::split_paths(&path));
        let process = Command::new("dockerd")
            .env("PATH", std::env::join_paths(folders)?)
            .arg("--data-root")
            .arg(&own.data)
            .arg("--exec-root")
            .arg(folder.join("exec"))
            .arg("--pidfile")
            .arg(folder.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", self.socket.display()))
            // its own networks need neither a bridge of the machine's nor rules in its firewall
            .args(["--bridge=none", "--iptables=false", "--ip-masq=false"])
            // of the usual pools, which have room for thirty networks of all engines, nothing may be left
            .args(["--default-address-pool", "base=10.96.0.0/12,size=26"])
            .args(&own.more)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start dockerd: install the package docker.io")?;
        own.process = Some(process);
        let begun = Instant::now();
        // nothing tells when it is ready but its answer
        while self.ask(Method::GET, "/_ping", None).await.is_err() {
            let own = self.own.as_mut().context("no engine")?;
            let ended = own.process.as_mut().map(Child::try_wait).transpose()?.flatten().is_some();
            if ended || begun.elapsed() > START_LIMIT {
                bail!("dockerd did not start; it said:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Kills it, as a crash would; what its containers run goes on.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let own = self.own.as_mut().context("the shared engine is nobody's to kill")?;
        let mut process = own.process.take().context("it does not run")?;
        process.kill()?;
        process.wait()?;
        // what it keeps its containers with dies with it; the next start takes one that is not reaped yet for alive
        let beside = fs::read_to_string(own.folder.path().join("exec/containerd/containerd.pid")).unwrap_or_default();
        let begun = Instant::now();
        while !beside.is_empty()
            && Path::new("/proc").join(beside.trim()).exists()
            && begun.elapsed() < Duration::from_secs(20)
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Sends it a signal: STOP and CONT make one that hangs for a while.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let own = self.own.as_ref().context("the shared engine is nobody's to stop")?;
        processes::signal(own.process.as_ref().context("it does not run")?.id(), signal)
    }

    /// What goes into `segue.yaml`, in one line: `worker: {docker: {socket: ...}, MORE}`.
    #[must_use]
    pub fn settings(&self, more: &str) -> String {
        let engine = json!({ "socket": self.socket, "patience": "3s" });
        format!("worker: {{docker: {engine}, kill-grace: 1s{}{more}}}\n", if more.is_empty() { "" } else { ", " })
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Everything that a worker made: the names of containers, networks and volumes.
    ///
    /// # Errors
    /// No answer.
    pub async fn made_by(&self, worker: &Path) -> Result<Vec<String>> {
        let owner = worker.canonicalize()?;
        let filter = json!({ "label": [format!("segue.worker={}", owner.display())] }).to_string();
        let mut made = Vec::new();
        for path in ["/containers/json?all=true&", "/networks?", "/volumes?"] {
            let url = format!("{path}filters={}", percent(&filter));
            let found = self.ask(Method::GET, &url, None).await?;
            let list = found.get("Volumes").unwrap_or(&found).as_array().cloned().unwrap_or_default();
            made.extend(list.iter().map(|one| one.get("Name").or(one.get("Names")).unwrap_or(one).to_string()));
        }
        Ok(made)
    }

    /// What the engine says of the one container that a worker has; `None` where there is none.
    ///
    /// # Errors
    /// No answer.
    pub async fn container_of(&self, worker: &Path) -> Result<Option<Value>> {
        let owner = worker.canonicalize()?;
        let filter = json!({ "label": [format!("segue.worker={}", owner.display())] }).to_string();
        let url = format!("/containers/json?all=true&filters={}", percent(&filter));
        let found = self.ask(Method::GET, &url, None).await?;
        let Some(id) = found.get(0).and_then(|one| one.get("Id")?.as_str()) else { return Ok(None) };
        self.ask(Method::GET, &format!("/containers/{id}/json"), None).await.map(Some)
    }

    /// Waits until nothing is left of what a worker made.
    ///
    /// # Errors
    /// Something is left.
    pub async fn until_clean(&self, worker: &Path, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            let left = self.made_by(worker).await;
            match &left {
                Ok(left) if left.is_empty() => return Ok(()),
                left if begun.elapsed() > limit => bail!("after {limit:?} this is left: {left:?}"),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Brings the image, where it is not there yet.
    async fn furnish(&self) -> Result<()> {
        self.image(IMAGE, "").await
    }

    /// Brings an image with the sample service, at `/app/sample-service`, and the libraries that it is linked with.
    ///
    /// # Errors
    /// A program is missing, or the engine refuses.
    pub async fn sample_image(&self, service: &Path) -> Result<()> {
        let linked = Command::new("ldd").arg(service).output().context("ldd is missing")?;
        let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
        let libraries = linked.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
        let mut files: Vec<(PathBuf, PathBuf)> = libraries.map(|library| (library.clone(), library)).collect();
        files.push((service.to_owned(), "/app/sample-service".into()));
        self.image_with(SAMPLE, "", &files).await
    }

    /// Brings an image like [`IMAGE`] under another name, with a further line of a Dockerfile.
    ///
    /// # Errors
    /// A program is missing, or the engine refuses.
    pub async fn image(&self, name: &str, line: &str) -> Result<()> {
        self.image_with(name, line, &[]).await
    }

    async fn image_with(&self, name: &str, line: &str, files: &[(PathBuf, PathBuf)]) -> Result<()> {
        if self.ask(Method::GET, &format!("/images/{name}/json"), None).await.is_ok() {
            return Ok(());
        }
        ensure!(Path::new(BUSYBOX).exists(), "{BUSYBOX} is missing: install the package busybox-static");
        let folder = tempfile::tempdir()?;
        let root = folder.path().join("root");
        for directory in ["bin", "etc", "root"] {
            fs::create_dir_all(root.join(directory))?;
        }
        fs::copy(BUSYBOX, root.join("bin/busybox"))?;
        let names = Command::new(BUSYBOX).arg("--list").output()?;
        for name in String::from_utf8_lossy(&names.stdout).lines().filter(|name| *name != "busybox") {
            symlink("busybox", root.join("bin").join(name))?;
        }
        for (from, to) in files {
            let to = root.join(to.strip_prefix("/")?);
            fs::create_dir_all(to.parent().context("a folder")?)?;
            fs::copy(from, to)?;
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nmaker:x:1234:1234::/tmp:/bin/sh\n")?;
        fs::write(root.join("etc/group"), "root:x:0:\nmaker:x:1234:\n")?;
        let tar = folder.path().join("image.tar");
        let mut packed = Command::new("tar");
        packed.args(["--owner=0", "--group=0", "-cf"]).arg(&tar).arg("-C").arg(&root).arg(".");
        ensure!(packed.status()?.success(), "tar could not pack the image");
        let (repository, version) = name.split_once(':').context("a tag")?;
        let lines: String = ["ENV PATH=/bin:/opt/tools", line]
            .iter()
            .filter(|line| !line.is_empty())
            .map(|line| format!("&changes={}", percent(line)))
            .collect();
        let url = format!("/images/create?fromSrc=-&repo={repository}&tag={version}{lines}");
        self.ask(Method::POST, &url, Some(fs::read(tar)?)).await.map(drop)
    }

    /// What the engine answers at a path.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn look(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, None).await
    }

    /// All of an image, layers and history, as the engine saves it.
    ///
    /// # Errors
    /// There is none.
    pub async fn saved(&self, image: &str) -> Result<Vec<u8>> {
        let answer = self.client.get(format!("http://docker/images/{image}/get")).send().await?.error_for_status()?;
        Ok(answer.bytes().await?.to_vec())
    }

    /// Brings an image that was saved.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn load(&self, saved: Vec<u8>) -> Result<()> {
        self.ask(Method::POST, "/images/load?quiet=1", Some(saved)).await.map(drop)
    }

    /// The containers of a host's instances, as the engine lists them.
    ///
    /// # Errors
    /// No answer.
    pub async fn instances_of(&self, stand: &Path) -> Result<Vec<Value>> {
        Ok(self.of_host("/containers/json?all=true&", stand).await?.as_array().cloned().unwrap_or_default())
    }

    /// The containers of every host's instances, as the engine lists them.
    ///
    /// # Errors
    /// No answer.
    pub async fn instances(&self) -> Result<Vec<Value>> {
        let filter = percent(&json!({ "label": ["segue.host"] }).to_string());
        let found = self.ask(Method::GET, &format!("/containers/json?all=true&filters={filter}"), None).await?;
        Ok(found.as_array().cloned().unwrap_or_default())
    }

    /// The names of volumes and networks that a host made.
    ///
    /// # Errors
    /// No answer.
    pub async fn shared_of(&self, stand: &Path) -> Result<Vec<String>> {
        let networks = self.of_host("/networks?", stand).await?;
        let volumes = self.of_host("/volumes?", stand).await?;
        let all = networks.as_array().into_iter().chain(volumes["Volumes"].as_array()).flatten();
        Ok(all.filter_map(|one| Some(one["Name"].as_str()?.to_owned())).collect())
    }

    /// Removes the volumes that a host made, as one does who empties the engine's data; how many.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn lose_volumes(&self, stand: &Path) -> Result<usize> {
        let volumes = self.of_host("/volumes?", stand).await?;
        let names = volumes["Volumes"].as_array().into_iter().flatten().filter_map(|one| one["Name"].as_str());
        let names: Vec<&str> = names.collect();
        for name in &names {
            self.ask(Method::DELETE, &format!("/volumes/{name}"), None).await?;
        }
        Ok(names.len())
    }

    /// What carries the label of the host whose data are below a stand's.
    async fn of_host(&self, path: &str, stand: &Path) -> Result<Value> {
        let filter = json!({ "label": [format!("segue.host={}", stand.join("host").display())] }).to_string();
        self.ask(Method::GET, &format!("{path}filters={}", percent(&filter)), None).await
    }

    /// Makes a container that does not run, of the image, with these labels; its number.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn labelled(&self, labels: &Value) -> Result<String> {
        let body = json!({"Image": IMAGE, "Cmd": ["true"], "Labels": labels}).to_string().into_bytes();
        let made = self.ask(Method::POST, "/containers/create", Some(body)).await?;
        Ok(made["Id"].as_str().context("an id")?.to_owned())
    }

    /// Does something with a container as somebody by hand would: `remove`, `pause`, or an update of its limits.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn by_hand(&self, container: &str, what: &str) -> Result<()> {
        let (method, path, body) = match what {
            "remove" => (Method::DELETE, format!("/containers/{container}?force=true"), None),
            "pause" | "unpause" => (Method::POST, format!("/containers/{container}/{what}"), None),
            limits => (Method::POST, format!("/containers/{container}/update"), Some(limits.as_bytes().to_vec())),
        };
        let mut request = self.client.request(method, format!("http://docker{path}"));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// Gives an image that is here another name.
    ///
    /// # Errors
    /// There is none.
    pub async fn tag(&self, image: &str, repository: &str, tag: &str) -> Result<()> {
        self.ask(Method::POST, &format!("/images/{image}/tag?repo={repository}&tag={tag}"), None).await.map(drop)
    }

    /// Brings an image that is here to a registry under a name there, and forgets that name here.
    ///
    /// # Errors
    /// Either refuses.
    pub async fn give(&self, image: &str, registry: &Registry, name: &str) -> Result<()> {
        let (repository, tag) = name.split_once(':').context("a tag")?;
        let there = format!("{}/{repository}", registry.address);
        self.tag(image, &there, tag).await?;
        let login =
            json!({ "username": registry::USER, "password": registry::PASSWORD, "serveraddress": registry.address });
        let push = self.client.post(format!("http://docker/images/{there}/push?tag={tag}"));
        let answer = push.header("X-Registry-Auth", URL_SAFE.encode(login.to_string())).send().await?;
        let said = answer.error_for_status()?.text().await?;
        ensure!(!said.contains("errorDetail"), "the image could not be pushed: {said}");
        self.ask(Method::DELETE, &format!("/images/{there}:{tag}"), None).await.map(drop)
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Value> {
        let mut request = self.client.request(method, format!("http://docker{path}"));
        if let Some(body) = body {
            let is_json = body.first() == Some(&b'{');
            let kind = if is_json { "application/json" } else { "application/x-tar" };
            request = request.header("content-type", kind).body(body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{path} was answered {status}: {text}");
        Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    fn log(&self) -> String {
        let path = self.own.as_ref().map(|own| own.folder.path().join("log"));
        path.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let Some(own) = &mut self.own else { return };
        if let Some(process) = &mut own.process {
            // told to end, it ends its containers and takes its mounts away
            let _ = processes::signal(process.id(), Signal::SIGCONT);
            let _ = processes::signal(process.id(), Signal::SIGTERM);
            let begun = Instant::now();
            while matches!(process.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        let folder = own.folder.path().display().to_string();
        for pid in processes::with_argument(&folder) {
            let _ = processes::signal(pid, Signal::SIGKILL);
        }
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let below: Vec<&str> =
            mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| path.starts_with(&folder)).collect();
        for path in below.iter().rev() {
            let _ = Command::new("umount").arg("--lazy").arg(path).status();
        }
    }
}

fn client(socket: &Path) -> Result<Client> {
    // the machine may have a provider already; installing it twice is no error worth a word
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::builder().unix_socket(socket).timeout(Duration::from_secs(30)).build()?)
}

/// As a part of a query.
fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
