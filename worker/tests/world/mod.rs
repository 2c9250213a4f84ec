//! A host with its services in a folder of its own, and the means to watch, load and break it.

use std::{
    io::Write,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use indexmap::IndexMap;
use nix::sys::signal::Signal;
use segue_schemas::{
    assignment::Assignment,
    deploy::{Health, Release},
    duration::Span,
    host_api::{
        ApplyRoute, ArtifactSource, Fence, Instance, Probe, Restored, RouteState, Shutdown, StartInstance, Target,
    },
    id::{Digest, Epoch, InstanceId, ReleaseId, RunId},
    time::Timestamp,
};
use segue_worker::host::{client::HostClient, unix_http};
use sha2::Digest as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The program that plays every part.
pub const FIXTURE: &str = env!("CARGO_BIN_EXE_host-fixture");

/// The longest that anything here is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct World {
    folder: tempfile::TempDir,
    host: Option<Child>,
    pub client: HostClient,
    pub address: SocketAddr,
    /// The host's router, as an argument.
    router: Option<String>,
    /// What else its host is told.
    more: Vec<String>,
}

impl World {
    pub async fn start() -> Self {
        Self::start_behind(([127, 0, 0, 1], 0).into(), None).await
    }

    /// With another router than the embedded one, which listens there.
    pub async fn start_behind(address: SocketAddr, router: Option<String>) -> Self {
        Self::start_as(address, router, Vec::new()).await
    }

    /// With more said to its host.
    pub async fn start_with(more: Vec<String>) -> Self {
        Self::start_as(([127, 0, 0, 1], 0).into(), None, more).await
    }

    async fn start_as(address: SocketAddr, router: Option<String>, more: Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("boot-id"), "boot 1").unwrap();
        let client = HostClient::new(folder.path().join("host.sock"));
        let mut world = Self { folder, host: None, client, address, router, more };
        world.start_host().await;
        world
    }

    pub fn host_command(&self) -> Command {
        let mut command = Command::new(FIXTURE);
        command.arg("host").arg("--data").arg(self.data()).arg("--socket").arg(self.client.channel().socket().unwrap());
        command.args(["--proxy-drain-ms", "3000", "--boot-id"]);
        command.arg(self.folder.path().join("boot-id"));
        command.args(self.router.iter().flat_map(|router| ["--router", router]));
        command.args(&self.more);
        command
    }

    pub async fn start_host(&mut self) {
        let listen = if self.router.is_some() { self.address.to_string() } else { "127.0.0.1:0".into() };
        self.start_host_listening(&[&listen]).await;
    }

    pub async fn start_host_listening(&mut self, listen: &[&str]) {
        let mut command = self.host_command();
        command.args(listen.iter().flat_map(|address| ["--listen", address]));
        self.host = Some(command.stdin(Stdio::null()).process_group(0).spawn().unwrap());
        let began = Instant::now();
        loop {
            match self.client.state().await {
                Ok(state) => {
                    let address = state.listen[0].parse().unwrap();
                    assert!(self.address.port() == 0 || self.address == address, "the port stays over restarts");
                    self.address = address;
                    return;
                }
                Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// kill -9 of the host alone.
    pub fn kill_host(&mut self) {
        let mut host = self.host.take().unwrap();
        host.kill().unwrap();
        host.wait().unwrap();
    }

    /// kill -9 of host, proxy and every service, and another boot of the machine.
    pub fn reboot(&mut self) {
        self.kill_all();
        std::fs::write(self.folder.path().join("boot-id"), "boot 2").unwrap();
    }

    fn kill_all(&mut self) {
        if let Some(mut host) = self.host.take() {
            let _ = host.kill();
            let _ = host.wait();
        }
        let Ok(state) = std::fs::read(self.data().join("state.json")) else { return };
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        let instances = state["instances"].as_object().into_iter().flatten().map(|(_, i)| &i["process"]["pid"]);
        for pid in instances.chain([&state["proxy_process"]["pid"]]).filter_map(serde_json::Value::as_i64) {
            let group = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
            let _ = nix::sys::signal::killpg(group, Signal::SIGKILL);
        }
    }

    /// Ends everything and looks that nothing is left.
    pub async fn end(mut self) {
        let state = self.client.state().await.unwrap();
        self.client.shutdown(Shutdown { services: true }).await.unwrap();
        let mut host = self.host.take().unwrap();
        let status = tokio::task::spawn_blocking(move || host.wait().unwrap()).await.unwrap();
        assert!(status.success(), "{status}");
        let proxy = state.proxy_pid.filter(|_| self.router.is_none());
        for pid in state.instances.iter().filter_map(|i| i.pid).chain(proxy) {
            until_gone(pid).await;
        }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn host(&self) -> String {
        "web.production.localhost".into()
    }

    pub fn fence(&self, epoch: i64) -> Fence {
        Fence { environment: "production".into(), service: "web".into(), epoch: Epoch(epoch) }
    }

    pub fn start_request(&self, id: &str, release: i64, epoch: i64) -> StartInstance {
        let (file, digest) = self.artifact(release);
        StartInstance {
            fence: self.fence(epoch),
            instance: id.parse().unwrap(),
            release: Release {
                id: ReleaseId(release),
                repository: "a/b".into(),
                service: "web".into(),
                digest,
                image: None,
                commit: "0123456789".repeat(4).parse().unwrap(),
                run: RunId(1),
                created_at: Timestamp(0),
            },
            artifact: ArtifactSource::File(file.display().to_string()),
            command: vec![FIXTURE.into(), "service".into()],
            container: None,
            env: IndexMap::new(),
            stop_timeout_ms: 5000,
            health: Health { path: "/".into(), tries: 100, interval: Span::millis(50), timeout: Span::seconds(2) },
            sleep_after_ms: None,
            data: None,
            gpus: None,
            as_before: false,
        }
    }

    /// The artifact of a release: a folder with the file `version`.
    fn artifact(&self, release: i64) -> (PathBuf, Digest) {
        let version = format!("v{release}");
        let mut header = tar::Header::new_gnu();
        header.set_size(version.len() as u64);
        header.set_mode(0o644);
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_data(&mut header, "version", version.as_bytes()).unwrap();
        let bytes = zstd::encode_all(&tar.into_inner().unwrap()[..], 1).unwrap();
        let digest = format!("sha256:{}", hex::encode(sha2::Sha256::digest(&bytes))).parse().unwrap();
        let file = self.folder.path().join(format!("artifact-{release}"));
        std::fs::File::create(&file).unwrap().write_all(&bytes).unwrap();
        (file, digest)
    }

    /// Starts an instance and waits until it answers.
    pub async fn run(&self, id: &str, release: i64, epoch: i64) -> Instance {
        let instance = self.client.start_instance(&self.start_request(id, release, epoch)).await.unwrap();
        self.wait_until_well(instance.id.as_str()).await
    }

    /// Waits until an instance answers.
    pub async fn wait_until_well(&self, id: &str) -> Instance {
        let id: InstanceId = id.parse().unwrap();
        let began = Instant::now();
        loop {
            let probe = Probe { path: "/".into(), timeout_ms: 2000 };
            let result = self.client.probe(&id, &probe).await.unwrap();
            if result.status == Some(200) {
                return self.client.instance(&id, Duration::ZERO).await.unwrap();
            }
            assert!(began.elapsed() < PATIENCE, "{result:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn route(&self, epoch: i64, targets: &[(&str, u32)], fallback: &[(&str, u32)]) -> RouteState {
        self.apply(self.change(epoch, targets, fallback)).await
    }

    /// As `segue rollback` does it.
    pub async fn go_back(&self, epoch: i64, targets: &[(&str, u32)], fallback: &[(&str, u32)]) {
        self.apply(ApplyRoute { leaves: true, ..self.change(epoch, targets, fallback) }).await;
    }

    /// The same where what is left was stopped before: it has no traffic, and nothing falls back to it.
    pub async fn go_back_in_a_gap(&self, epoch: i64, targets: &[(&str, u32)], left: i64) {
        let left = Some(ReleaseId(left));
        self.apply(ApplyRoute { leaves: true, left, ..self.change(epoch, targets, &[]) }).await;
    }

    /// As this host is brought to what others serve.
    pub async fn follow(&self, epoch: i64, targets: &[(&str, u32)], fallback: &[(&str, u32)]) {
        self.apply(ApplyRoute { leaves: true, follows: true, ..self.change(epoch, targets, fallback) }).await;
    }

    pub async fn canary(&self, epoch: i64, targets: &[(&str, u32)], fallback: &[(&str, u32)], dead_man_ms: u64) {
        let dead_man_ms = Some(dead_man_ms);
        self.apply(ApplyRoute { dead_man_ms, ..self.change(epoch, targets, fallback) }).await;
    }

    fn change(&self, epoch: i64, targets: &[(&str, u32)], fallback: &[(&str, u32)]) -> ApplyRoute {
        let made = |list: &[(&str, u32)]| {
            list.iter().map(|(id, weight)| Target { instance: id.parse().unwrap(), weight: *weight }).collect()
        };
        ApplyRoute {
            fence: self.fence(epoch),
            rules: vec![],
            assignment: Assignment::default(),
            targets: made(targets),
            fallback: made(fallback),
            dead_man_ms: None,
            leaves: false,
            left: None,
            follows: false,
        }
    }

    async fn apply(&self, change: ApplyRoute) -> RouteState {
        self.client.apply_route(&change).await.unwrap()
    }

    /// Waits until an instance is as wanted.
    pub async fn until(&self, id: &InstanceId, wanted: impl Fn(&Instance) -> bool) -> Instance {
        let began = Instant::now();
        loop {
            let instance = self.client.instance(id, Duration::ZERO).await.unwrap();
            if wanted(&instance) {
                return instance;
            }
            assert!(began.elapsed() < PATIENCE, "{instance:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the host knows a proxy that is not `other_than`.
    pub async fn until_proxy(&self, other_than: Option<u32>) -> u32 {
        let began = Instant::now();
        loop {
            match self.client.state().await.unwrap().proxy_pid {
                Some(pid) if Some(pid) != other_than => return pid,
                known => assert!(began.elapsed() < PATIENCE, "{known:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn until_restored(&self) -> Restored {
        let began = Instant::now();
        loop {
            if let Some(restored) = self.client.state().await.unwrap().routes[0].restored.clone() {
                return restored;
            }
            assert!(began.elapsed() < PATIENCE, "nothing was restored");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the host has recorded reaches the proxy a moment later.
    pub async fn until_all_answer(&self, version: &str) {
        let began = Instant::now();
        let mut in_a_row = 0;
        while in_a_row < 30 {
            let answer = get(self.address, self.host(), "/").await.unwrap().1;
            in_a_row = if answer == version { in_a_row + 1 } else { 0 };
            assert!(began.elapsed() < Duration::from_secs(2), "`{answer}` after {:?}", began.elapsed());
        }
    }

    pub async fn until_in_flight(&self, id: &str, wanted: u64) {
        let began = Instant::now();
        loop {
            let state = self.client.state().await.unwrap();
            if state.routes[0].in_flight.get(id).copied().unwrap_or(0) == wanted {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{:?}", state.routes[0].in_flight);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Only after a failure is anything left.
        self.kill_all();
    }
}

/// One GET on a connection of its own; status and body.
pub async fn get(address: SocketAddr, host: String, path: &str) -> Result<(u16, String), String> {
    let path = path.to_owned();
    let exchange = async move {
        let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        unix_http::exchange(stream, Method::GET, &host, &path, None).await
    };
    let (status, body) = tokio::time::timeout(PATIENCE, exchange).await.map_err(|e| e.to_string())??;
    Ok((status.as_u16(), String::from_utf8_lossy(&body).into_owned()))
}

/// Writes, then reads until what came ends with `end`.
pub async fn read_all(stream: &mut TcpStream, write: &[u8], end: &[u8]) -> String {
    let (mut from, mut to) = stream.split();
    let read = async {
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        while !all.ends_with(end) {
            let n = from.read(&mut buffer).await.unwrap();
            assert_ne!(n, 0, "ended after {}", String::from_utf8_lossy(&all));
            all.extend_from_slice(&buffer[..n]);
        }
        String::from_utf8_lossy(&all).into_owned()
    };
    let both = async { tokio::join!(to.write_all(write), read) };
    let (written, read) = tokio::time::timeout(PATIENCE, both).await.unwrap();
    written.unwrap();
    read
}

pub fn kill(pid: u32) {
    signal(pid, Signal::SIGKILL);
}

pub fn signal(pid: u32, signal: Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}

/// Ends an instance of release 1 and has every further start of it crash.
pub async fn stop_for_good(world: &World, pid: u32) {
    let (_, digest) = world.artifact(1);
    std::fs::write(world.data().join("releases").join(digest.hex()).join("crash"), "").unwrap();
    kill(pid);
    until_gone(pid).await;
}

pub async fn until_gone(pid: u32) {
    let began = Instant::now();
    let lives = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    };
    while lives() {
        assert!(began.elapsed() < PATIENCE, "process {pid} lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Requests on keep-alive connections, one after the other on each, until it is ended.
pub struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<Answer>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub began: Instant,
    /// 0 without an answer.
    pub status: u16,
    pub body: String,
}

impl Load {
    pub fn begin(world: &World, connections: usize) -> Self {
        // The only TLS implementation there is; not used here, but a client can't be made without one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let one = |_| {
            let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
            let (stop, answers) = (stop.clone(), answers.clone());
            let (url, host) = (format!("http://{}/", world.address), world.host());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let answer = match client.get(&url).header("host", &host).send().await {
                        Ok(response) => {
                            let status = response.status().as_u16();
                            match response.text().await {
                                Ok(body) => Answer { began, status, body },
                                Err(error) => Answer { began, status: 0, body: format!("{error:?}") },
                            }
                        }
                        Err(error) => Answer { began, status: 0, body: format!("{error:?}") },
                    };
                    answers.lock().unwrap().push(answer);
                }
            })
        };
        let tasks = (0..connections).map(one).collect();
        Self { stop, answers, tasks }
    }

    /// Waits for so many more answers.
    pub async fn wait_for(&self, more: usize) {
        let began = Instant::now();
        let count = || self.answers.lock().unwrap().len();
        let wanted = count() + more;
        while count() < wanted {
            assert!(began.elapsed() < PATIENCE, "the load stands still at {} answers", count());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn end(self) -> Vec<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.answers.lock().unwrap().clone()
    }
}
