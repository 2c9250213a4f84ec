//! An HAProxy or nginx of its own for a test: on a port of the loopback, with everything that it keeps in one folder. The tests of the worker
//! use this file as well.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::Pid};
use segue_schemas::router::{HaproxyConfig, NginxConfig, RouterSettings};

/// The longest that it may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// What carries a host's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The host's own proxy.
    Embedded,
    /// HAProxy, as a master with a worker.
    Haproxy,
    /// nginx, as a master with two workers.
    Nginx,
}

/// A router that is no part of the host. Dropped, it is killed, by id.
pub struct Router {
    kind: Kind,
    folder: PathBuf,
    master: Option<Child>,
    /// Where it is to listen.
    pub address: SocketAddr,
}

impl Router {
    /// One that is yet to be started; `kind` is another than the embedded one.
    ///
    /// # Panics
    /// The folder can't be written, or no port is free.
    #[must_use]
    pub fn prepare(kind: Kind, folder: &Path) -> Self {
        let router = Self { kind, folder: folder.to_owned(), master: None, address: free_address() };
        std::fs::write(router.own_file(), "").expect("a folder that can be written");
        router.write_main("");
        router
    }

    /// The main configuration, with something more at its end.
    ///
    /// # Panics
    /// It can't be written.
    pub fn write_main(&self, more: &str) {
        let folder = self.folder.display();
        let text = match self.kind {
            Kind::Embedded => panic!("the embedded router has no configuration"),
            Kind::Haproxy => format!(
                "global\n    stats socket {folder}/admin.sock mode 600 level admin expose-fd listeners\n    nbthread 2\n    \
                 maxconn 2000\ndefaults\n    timeout connect 5s\n    timeout client 5s\n    timeout server 5s\n{more}\n"
            ),
            Kind::Nginx => format!(
                "daemon off; worker_processes 2; pid {folder}/pid; error_log {folder}/log;\n\
                 events {{ worker_connections 1000; }}\nhttp {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path \
                 {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
                 include {folder}/segue.cfg;\n}}\n{more}\n"
            ),
        };
        std::fs::write(self.main_file(), text).expect("a folder that can be written");
    }

    /// The file that Segue writes.
    #[must_use]
    pub fn own_file(&self) -> PathBuf {
        self.folder.join("segue.cfg")
    }

    fn main_file(&self) -> PathBuf {
        self.folder.join("main.cfg")
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("pid")
    }

    /// The settings of a host that has it.
    #[must_use]
    pub fn settings(&self) -> RouterSettings {
        let text = |path: &Path| path.display().to_string();
        let (main, own, folder) = (text(&self.main_file()), text(&self.own_file()), text(&self.folder));
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        match self.kind {
            Kind::Embedded => RouterSettings::Embedded,
            Kind::Haproxy => RouterSettings::Haproxy(HaproxyConfig {
                admin_socket: self.folder.join("admin.sock"),
                config: self.own_file(),
                log: None,
                check: Some(words(&["haproxy", "-c", "-f", &main, "-f", &own])),
                // what `systemctl reload haproxy` does
                reload: words(&["sh", "-c", &format!("kill -USR2 \"$(cat {folder}/pid)\"")]),
            }),
            Kind::Nginx => RouterSettings::Nginx(NginxConfig {
                include: self.own_file(),
                pid: self.pid_file(),
                error_log: self.folder.join("log"),
                log: None,
                check: words(&["nginx", "-c", &main, "-p", &folder, "-t"]),
                reload: words(&["nginx", "-c", &main, "-p", &folder, "-s", "reload"]),
            }),
        }
    }

    /// Starts it; it answers when this returns.
    ///
    /// # Panics
    /// It is not installed, or does not start.
    pub fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).expect("a log");
        let mut command = match self.kind {
            Kind::Embedded => panic!("the host starts it"),
            Kind::Haproxy => {
                let mut command = Command::new("haproxy");
                command.arg("-W").arg("-f").arg(self.main_file()).arg("-f").arg(self.own_file());
                command.arg("-p").arg(self.pid_file());
                command
            }
            Kind::Nginx => {
                let mut command = Command::new("nginx");
                command.arg("-c").arg(self.main_file()).arg("-p").arg(&self.folder);
                command
            }
        };
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let program = command.get_program().display().to_string();
        self.master = Some(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; is it installed?")));
        let began = Instant::now();
        while !self.is_up() {
            assert!(began.elapsed() < PATIENCE, "{program} does not start:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn is_up(&self) -> bool {
        let answers = || std::os::unix::net::UnixStream::connect(self.folder.join("admin.sock")).is_ok();
        self.pid_file().exists() && (self.kind == Kind::Nginx || answers())
    }

    /// What it has said so far.
    #[must_use]
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// kill -9 of all its processes. They are gone when this returns.
    pub fn kill(&mut self) {
        let Some(mut master) = self.master.take() else { return };
        let workers = children(master.id());
        let _ = master.kill();
        let _ = master.wait();
        for worker in workers {
            let Ok(number) = i32::try_from(worker) else { continue };
            let _ = nix::sys::signal::kill(Pid::from_raw(number), Signal::SIGKILL);
            let began = Instant::now();
            while lives(worker) && began.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = std::fs::remove_file(self.pid_file());
    }

    /// As somebody else would have it read its configuration again.
    ///
    /// # Panics
    /// The command fails.
    pub fn reload(&self) {
        let reload = match self.settings() {
            RouterSettings::Haproxy(settings) => settings.reload,
            RouterSettings::Nginx(settings) => settings.reload,
            RouterSettings::Embedded => panic!("the embedded router has none"),
        };
        let ended = Command::new(&reload[0]).args(&reload[1..]).status();
        assert!(ended.is_ok_and(|status| status.success()), "{reload:?} failed:\n{}", self.said());
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.kill();
        // a test runner shows it where the test failed
        eprintln!("--- what the router said ---\n{}", self.said());
    }
}

/// The processes whose parent is `pid`.
fn children(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |child: &u32| stat(*child).and_then(|words| words.get(1)?.parse::<u32>().ok());
    pids.filter(|child| parent(child) == Some(pid)).collect()
}

fn lives(pid: u32) -> bool {
    stat(pid).is_some_and(|words| words.first().is_some_and(|state| state != "Z"))
}

/// The fields of `/proc/PID/stat` from the third on, proc(5).
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    Some(rest.split(' ').map(Into::into).collect())
}

/// A free port of the loopback, below those that hosts give to instances and the system to whoever asks for any: nobody is given it
/// before it is used.
fn free_address() -> SocketAddr {
    let addresses = (0..100).map(|_| SocketAddr::from(([127, 0, 0, 1], rand::random_range(10_240..20_000))));
    addresses.into_iter().find(|address| TcpListener::bind(address).is_ok()).expect("a free port of the loopback")
}
