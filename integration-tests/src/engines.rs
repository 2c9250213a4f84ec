//! Ways to an engine as to one on another machine: certificates for both ends of TLS, made by `openssl`; and an `sshd` before it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{processes, stand::free_address};

/// The address that engines of tests have: of the loopback, and nobody else's.
pub const MACHINE: &str = "127.0.0.2";

/// Certificates of an engine and of whoever may use it, by one authority.
pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    /// Makes them.
    ///
    /// # Errors
    /// `openssl` is missing.
    pub fn make() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("segue-certificates-").tempdir()?;
        let made = Self { folder };
        let openssl = |arguments: &str| -> Result<()> {
            let mut command = Command::new("openssl");
            let said = command.args(arguments.split_whitespace()).current_dir(made.folder.path()).output();
            let said = said.context("openssl is missing: install the package openssl")?;
            ensure!(said.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&said.stderr));
            Ok(())
        };
        const NEW: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(&format!("req -x509 {NEW} -days 2 -subj /CN=authority -keyout ca-key.pem -out ca.pem"))?;
        for (name, extensions) in [
            ("server", format!("subjectAltName=IP:{MACHINE}\nextendedKeyUsage=serverAuth\n")),
            ("cert", "extendedKeyUsage=clientAuth\n".to_owned()),
        ] {
            fs::write(made.file(&format!("{name}.ext")), extensions)?;
            openssl(&format!("req {NEW} -subj /CN={name} -keyout {name}-key.pem -out {name}.csr"))?;
            openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"
            ))?;
            fs::set_permissions(made.file(&format!("{name}-key.pem")), fs::Permissions::from_mode(0o600))?;
        }
        Ok(made)
    }

    /// One of the files: `ca.pem`, `server.pem`, `server-key.pem`, `cert.pem`, `cert-key.pem`.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What `dockerd` is started with to show and to ask for them.
    #[must_use]
    pub fn of_engine(&self) -> Vec<String> {
        let file = |name: &str| self.file(name).display().to_string();
        [
            "--tlsverify",
            "--tlscacert",
            &file("ca.pem"),
            "--tlscert",
            &file("server.pem"),
            "--tlskey",
            &file("server-key.pem"),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// What a host's `docker` in segue.yaml is for an engine at this address.
    #[must_use]
    pub fn settings(&self, address: &str) -> Value {
        json!({"address": address, "ca": self.file("ca.pem"), "cert": self.file("cert.pem"), "key": self.file("cert-key.pem")})
    }

    /// What `segue host` is started with for it; `ca` in the place of the authority's.
    #[must_use]
    pub fn arguments(&self, address: &str, ca: &Path) -> Vec<String> {
        let (cert, key) = (self.file("cert.pem"), self.file("cert-key.pem"));
        let mut arguments = vec!["--docker".to_owned(), address.to_owned()];
        for (flag, file) in [("--docker-ca", ca), ("--docker-cert", &cert), ("--docker-key", &key)] {
            arguments.extend([flag.to_owned(), file.display().to_string()]);
        }
        arguments
    }
}

/// Debian's `sshd` with files, a port and a process of its own, by which the user of the tests comes to an engine.
pub struct Sshd {
    folder: tempfile::TempDir,
    process: Child,
    address: String,
}

impl Sshd {
    /// Starts one before the engine at a socket.
    ///
    /// # Errors
    /// A program is missing, or it does not start.
    pub async fn start(engine: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("segue-sshd-").tempdir()?;
        let file = |name: &str| folder.path().join(name);
        for name in ["machine", "client", "other"] {
            let mut command = Command::new("ssh-keygen");
            let made = command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file(name)).status();
            ensure!(made.context("ssh-keygen is missing: install openssh-client")?.success(), "no key {name}");
        }
        let port = free_address()?.rsplit_once(':').context("a port")?.1.to_owned();
        let known = |key: &str| -> Result<String> {
            Ok(format!("[{MACHINE}]:{port} {}", fs::read_to_string(file(&format!("{key}.pub")))?))
        };
        fs::write(file("known"), known("machine")?)?;
        fs::write(file("other_known"), known("other")?)?;
        fs::write(file("nothing_known"), "")?;
        fs::copy(file("client.pub"), file("authorized"))?;
        let is_root = nix::unistd::geteuid().is_root();
        if is_root {
            // where Debian's has its processes that nobody is let in by yet
            fs::create_dir_all("/run/sshd")?;
        }
        let shown = |name: &str| file(name).display().to_string();
        let config = format!(
            "Port {port}\nListenAddress {MACHINE}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM {}\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nSetEnv DOCKER_HOST=unix://{}\n",
            shown("machine"),
            shown("authorized"),
            if is_root { "yes" } else { "no" },
            engine.display()
        );
        fs::write(file("config"), config)?;
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid())?.context("a user")?.name;
        let process = listen(folder.path())?;
        let started = Self { address: format!("ssh://{user}@{MACHINE}:{port}"), folder, process };
        started.until_ready().await?;
        Ok(started)
    }

    async fn until_ready(&self) -> Result<()> {
        let begun = Instant::now();
        let at = self.address.rsplit_once('@').context("a machine")?.1;
        while tokio::net::TcpStream::connect(at).await.is_err() {
            let log = || fs::read_to_string(self.file("log")).unwrap_or_default();
            ensure!(begun.elapsed() < Duration::from_secs(20), "sshd did not start; it said:\n{}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// One of the files: `known`, `other_known` and `nothing_known` of machines' keys; the keys `client`, which is let in, and `other`.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What a host's `docker` in segue.yaml is for the engine behind it.
    #[must_use]
    pub fn settings(&self) -> Value {
        json!({"address": self.address, "identity": self.file("client"), "known-hosts": self.file("known")})
    }

    /// Ends every connection to it at once, and takes no new one for a while. How many there were.
    ///
    /// # Errors
    /// It does not run.
    pub async fn break_off(&self, pause: Duration) -> Result<usize> {
        processes::signal(self.process.id(), Signal::SIGSTOP)?;
        let connections = self.end_connections();
        tokio::time::sleep(pause).await;
        processes::signal(self.process.id(), Signal::SIGCONT)?;
        Ok(connections)
    }

    /// Ends every connection to it at once, and refuses every new one until it is opened again.
    ///
    /// # Errors
    /// It does not run.
    pub fn close(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        self.end_connections();
        Ok(())
    }

    /// Opens it again.
    ///
    /// # Errors
    /// It does not start.
    pub async fn open(&mut self) -> Result<()> {
        self.process = listen(self.folder.path())?;
        self.until_ready().await
    }

    fn end_connections(&self) -> usize {
        let of_ssh = format!("UserKnownHostsFile=\"{}\"", self.file("known").display());
        let connections = processes::with_argument(&of_ssh);
        for pid in &connections {
            // one that has ended by itself needs none
            let _ = processes::signal(*pid, Signal::SIGKILL);
        }
        connections.len()
    }

    /// What `segue host` is started with to come to the engine.
    #[must_use]
    pub fn arguments(&self, known_hosts: &Path, identity: &Path) -> Vec<String> {
        let mut arguments = vec!["--docker".to_owned(), self.address.clone()];
        for (flag, file) in [("--docker-known-hosts", known_hosts), ("--docker-identity", identity)] {
            arguments.extend([flag.to_owned(), file.display().to_string()]);
        }
        arguments
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Has `sshd` listen by the files of a folder.
fn listen(folder: &Path) -> Result<Child> {
    let log = fs::File::options().create(true).append(true).open(folder.join("log"))?;
    // it starts itself again by its whole path
    let mut command = Command::new("/usr/sbin/sshd");
    command.args(["-D", "-e", "-f"]).arg(folder.join("config")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().context("cannot start sshd: install the package openssh-server")
}
