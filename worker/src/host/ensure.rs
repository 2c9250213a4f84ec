//! Has a `segue host` running: one that answers is left alone, else one is started, in a session of its own.

use std::{
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use segue_schemas::{engine::EngineConfig, router::RouterSettings};
use tokio::net::UnixDatagram;

use super::{HostOptions, client::HostClient, output};

/// How long a host may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How much of its log a failure shows.
const TAIL_BYTES: usize = 2000;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// A host answered.
    Running,
    /// None did; one was started and answers.
    Started,
}

/// Why no host runs.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// The folder or the program can't be used.
    #[error("a host can't be started from {program}: {source}")]
    System {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It was started and ended, or did not become ready.
    #[error("the host that was started {what}; the end of {log}:\n{tail}")]
    Ended {
        /// What it did.
        what: String,
        /// Its log.
        log: PathBuf,
        /// The end of that.
        tail: String,
    },
}

/// Has a host running on `options.socket`: if none answers, `options.program` is started as
/// `PROGRAM host --data DIR --socket PATH --docker ADDRESS [--docker-ca FILE]... [--docker-anew ID] [--gpus GPU]... [--nvidia-smi PATH] [--nvidia-smi-image IMAGE] [--dcgm URL] [--listen ADDRESS]...`, in a session of its own, with `/` as its directory and
/// `DIR/output/host.log` for what it says. It outlives the caller. Called twice at once, one host is started.
pub async fn ensure_running(options: &HostOptions) -> Result<Ensured, EnsureError> {
    let program = options.program.clone();
    let system = |source| EnsureError::System { program: program.clone(), source };
    // The host's own directory is another one.
    let absolute = |path: &Path| std::path::absolute(path).map_err(system);
    let file = |file: &Option<PathBuf>| file.as_deref().map(absolute).transpose();
    let docker = EngineConfig {
        ca: file(&options.docker.ca)?,
        cert: file(&options.docker.cert)?,
        key: file(&options.docker.key)?,
        identity: file(&options.docker.identity)?,
        known_hosts: file(&options.docker.known_hosts)?,
        ..options.docker.clone()
    };
    let options = HostOptions {
        data: absolute(&options.data)?,
        socket: absolute(&options.socket)?,
        program: absolute(&options.program)?,
        docker,
        ..options.clone()
    };
    let client = HostClient::new(&options.socket);
    if client.state().await.is_ok() {
        return Ok(Ensured::Running);
    }
    let data = options.data.clone();
    let locked =
        tokio::task::spawn_blocking(move || lock_start(&data)).await.map_err(|e| system(io::Error::other(e)))?;
    let _lock = locked.map_err(system)?;
    if client.state().await.is_ok() {
        return Ok(Ensured::Running);
    }
    start(&options).await
}

fn lock_start(data: &Path) -> io::Result<Flock<std::fs::File>> {
    super::make_private_folder(data)?;
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(data.join("start.lock"))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

async fn start(options: &HostOptions) -> Result<Ensured, EnsureError> {
    let system = |source| EnsureError::System { program: options.program.clone(), source };
    let folder = options.data.join("output");
    super::make_private_folder(&folder).map_err(system)?;
    let log = folder.join("host.log");
    let notify = options.data.join("ready.sock");
    match std::fs::remove_file(&notify) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(system(error)),
        _ => {}
    }
    let ready = UnixDatagram::bind(&notify).map_err(system)?;
    let out = output::open(&log).map_err(system)?;
    let errors = out.try_clone().map_err(system)?;
    let mut command = std::process::Command::new(&options.program);
    command.arg("host").arg("--data").arg(&options.data).arg("--socket").arg(&options.socket);
    name_engine(&mut command, &options.docker);
    for gpu in &options.gpus {
        command.arg("--gpus").arg(gpu);
    }
    if let Some(program) = &options.nvidia_smi {
        command.arg("--nvidia-smi").arg(program);
    }
    if let Some(image) = &options.nvidia_smi_image {
        command.arg("--nvidia-smi-image").arg(image);
    }
    if let Some(url) = &options.dcgm {
        command.arg("--dcgm").arg(url);
    }
    for address in &options.listen {
        command.arg("--listen").arg(address.to_string());
    }
    if options.router != RouterSettings::Embedded {
        command.arg("--router").arg(serde_json::to_string(&options.router).map_err(|e| system(e.into()))?);
    }
    command.env("NOTIFY_SOCKET", &notify).current_dir("/").stdin(Stdio::null()).stdout(out).stderr(errors);
    // SAFETY: runs in the child between fork and exec and calls nothing but setsid(2), which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    // Not killed when dropped; the runtime reaps it should it end before this process does.
    let mut child = tokio::process::Command::from(command).spawn().map_err(system)?;
    let mut message = [0; 64];
    let what = tokio::select! {
        received = ready.recv(&mut message) => match received {
            Ok(_) => None,
            Err(error) => Some(format!("could not be heard: {error}")),
        },
        ended = child.wait() => Some(ended.map_or_else(|e| e.to_string(), |status| format!("ended ({status})"))),
        () = tokio::time::sleep(START_LIMIT) => Some(format!("was not ready within {START_LIMIT:?}")),
    };
    // It has been used; if it stays, the next start replaces it.
    let _ = std::fs::remove_file(&notify);
    match what {
        None => Ok(Ensured::Started),
        Some(what) => Err(EnsureError::Ended { what, tail: tail(&log), log }),
    }
}

fn name_engine(command: &mut std::process::Command, engine: &EngineConfig) {
    command.arg("--docker").arg(&engine.address);
    for (flag, file) in [
        ("--docker-ca", &engine.ca),
        ("--docker-cert", &engine.cert),
        ("--docker-key", &engine.key),
        ("--docker-identity", &engine.identity),
        ("--docker-known-hosts", &engine.known_hosts),
    ] {
        if let Some(file) = file {
            command.arg(flag).arg(file);
        }
    }
    // what is said to hosts that are started by hand is not about this one
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SEGUE_DOCKER_")) {
        command.env_remove(name);
    }
    if let Some(address) = &engine.publish {
        command.arg("--docker-publish").arg(address);
    }
    if let Some(id) = &engine.anew {
        command.arg("--docker-anew").arg(id);
    }
}

fn tail(log: &Path) -> String {
    let content = std::fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&content[content.len().saturating_sub(TAIL_BYTES)..]).trim().to_owned()
}

/// Tells whoever started this process that it is ready, the way systemd is told (sd_notify(3)), if anybody wants to know.
pub(super) fn notify_ready() {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let told = std::os::unix::net::UnixDatagram::unbound().and_then(|from| match socket.to_str() {
        Some(name) if name.starts_with('@') => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(&name[1..])?;
            from.send_to_addr(b"READY=1", &address)
        }
        _ => from.send_to(b"READY=1", &socket),
    });
    if let Err(error) = told {
        tracing::warn!(%error, "the starter of this host can't be told that it is ready");
    }
}
