//! An engine behind SSH: for each connection the program `ssh` runs `docker system dial-stdio` there, whose streams are the connection.
//!
//! Nobody is ever asked for a password, a machine whose key is not known is refused, nothing is forwarded, and what a person's
//! configuration of `ssh` says of these is overridden. The rest of it (names, jumps) holds.

use std::{
    ffi::OsString,
    io,
    path::PathBuf,
    pin::Pin,
    process::Stdio,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    sync::Semaphore,
    task::JoinHandle,
};

/// What is set in any case. `ConnectTimeout` is of the way there, the others of a way that is no more.
const OPTIONS: [&str; 24] = [
    // newer than some `ssh` (8.5 and 8.7), which have none of what these turn off; it has to come first
    "IgnoreUnknown=KnownHostsCommand,SessionType,ForkAfterAuthentication",
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "VerifyHostKeyDNS=no",
    "NoHostAuthenticationForLocalhost=no",
    "KnownHostsCommand=none",
    "UpdateHostKeys=no",
    "ConnectTimeout=10",
    "ConnectionAttempts=1",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "GSSAPIDelegateCredentials=no",
    "Tunnel=no",
    "SessionType=default",
    "RemoteCommand=none",
    "ForkAfterAuthentication=no",
    "PermitLocalCommand=no",
    "ControlMaster=no",
    "ControlPath=none",
    "EscapeChar=none",
    "LogLevel=ERROR",
];
/// What is run there.
const COMMAND: [&str; 3] = ["docker", "system", "dial-stdio"];
/// Bytes that are kept of what `ssh` says of its failure.
const SAID_BYTES: usize = 2048;
/// Connections that begin at once, each counted for so long: sshd turns away those that come in a crowd (`MaxStartups`).
const BEGINNINGS: (usize, Duration) = (6, Duration::from_secs(1));

/// Whom to reach, and how.
#[derive(Debug)]
pub(super) struct Ssh {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    identity: Option<PathBuf>,
    known_hosts: Option<PathBuf>,
    beginnings: Arc<Semaphore>,
}

impl Ssh {
    pub(super) fn new(
        user: Option<String>,
        host: String,
        port: Option<u16>,
        identity: Option<PathBuf>,
        known_hosts: Option<PathBuf>,
    ) -> Self {
        Self { user, host, port, identity, known_hosts, beginnings: Arc::new(Semaphore::new(BEGINNINGS.0)) }
    }

    /// The machine.
    pub(super) const fn host(&self) -> &String {
        &self.host
    }

    /// A connection. That it can't be made shows when it is read.
    pub(super) async fn open(&self) -> io::Result<SshStream> {
        let begun = self.beginnings.clone().acquire_owned().await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            tokio::time::sleep(BEGINNINGS.1).await;
            drop(begun);
        });
        let mut command = Command::new("ssh");
        command.args(self.arguments()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // no program that would ask for a password in a window
        command.env_remove("SSH_ASKPASS").env_remove("DISPLAY").kill_on_drop(true).process_group(0);
        let mut child = command.spawn().map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("`ssh` can't be run ({error}): install it (apt-get install openssh-client)"),
            )
        })?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("`ssh` has no streams"));
        };
        let said = Some(tokio::spawn(listen(stderr)));
        let failed =
            Failure { host: self.host.clone(), known_hosts: self.known_hosts.clone(), identity: self.identity.clone() };
        Ok(SshStream { _child: child, stdin: Some(stdin), stdout, said, failed })
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["-T".into()];
        let mut option = |text: OsString| arguments.extend(["-o".into(), text]);
        OPTIONS.iter().for_each(|text| option(text.into()));
        if let Some(file) = &self.known_hosts {
            option(named("UserKnownHostsFile", file));
            option("GlobalKnownHostsFile=/dev/null".into());
        }
        if let Some(file) = &self.identity {
            option(named("IdentityFile", file));
            option("IdentitiesOnly=yes".into());
            option("IdentityAgent=none".into());
        }
        if let Some(port) = self.port {
            option(format!("Port={port}").into());
        }
        if let Some(user) = &self.user {
            option(format!("User={user}").into());
        }
        arguments.extend(["--", &self.host].map(OsString::from));
        arguments.extend(COMMAND.map(OsString::from));
        arguments
    }
}

/// An option that names a file, in quotes: `ssh` splits it at blanks.
fn named(option: &str, file: &std::path::Path) -> OsString {
    let mut text = OsString::from(format!("{option}=\""));
    text.push(file);
    text.push("\"");
    text
}

/// A connection by a program's streams. It ends with this.
pub(super) struct SshStream {
    _child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    /// What it says of its failure, as long as nothing came.
    said: Option<JoinHandle<String>>,
    failed: Failure,
}

impl AsyncRead for SshStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stdout).poll_read(cx, buf))?;
        if buf.filled().len() > before || buf.remaining() == 0 {
            self.said = None; // whose task goes on until the end
            return Poll::Ready(Ok(()));
        }
        let Some(said) = &mut self.said else { return Poll::Ready(Ok(())) };
        let said = ready!(Pin::new(said).poll(cx)).unwrap_or_default();
        self.said = None;
        Poll::Ready(Err(io::Error::other(self.failed.words(&said))))
    }
}

impl AsyncWrite for SshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_write(cx, buf),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // the other end reads this as the end of what is sent
        self.stdin = None;
        Poll::Ready(Ok(()))
    }
}

/// Reads to the end, whatever comes, and keeps the beginning.
async fn listen(mut stderr: ChildStderr) -> String {
    let (mut said, mut block) = (Vec::new(), [0; 512]);
    while let Ok(read @ 1..) = stderr.read(&mut block).await {
        let room = SAID_BYTES.saturating_sub(said.len()).min(read);
        said.extend_from_slice(&block[..room]);
    }
    String::from_utf8_lossy(&said).trim().to_owned()
}

/// Why a connection did not come about.
struct Failure {
    host: String,
    known_hosts: Option<PathBuf>,
    identity: Option<PathBuf>,
}

impl Failure {
    fn words(&self, said: &str) -> String {
        let host = &self.host;
        let known = self.known_hosts.as_ref().map_or("~/.ssh/known_hosts".into(), |file| file.display().to_string());
        let identity = self.identity.as_ref().map_or("of this user's".into(), |file| file.display().to_string());
        let last =
            said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it ended and said nothing");
        let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
        let remedy = if has(&["REMOTE HOST IDENTIFICATION HAS CHANGED"]) {
            format!(
                "the key that `{host}` shows is another than the one in {known}: somebody else answers there, or it was made anew; \
                 once you know, replace it (ssh-keygen -R {host} -f {known})"
            )
        } else if has(&["Host key verification failed", "host key is known"]) {
            format!(
                "no key of `{host}` is in {known}: have it there, compared with the machine's own (ssh-keyscan {host})"
            )
        } else if has(&["Permission denied (", "Too many authentication failures"]) {
            format!(
                "`{host}` takes no key {identity}: have its public half in ~/.ssh/authorized_keys there, without a passphrase here"
            )
        } else if has(&["UNPROTECTED PRIVATE KEY", "bad permissions"]) {
            format!("others come to the key {identity}: chmod 600")
        } else if has(&["Identity file"]) {
            format!("the key {identity} is not there")
        } else if has(&["command not found", "docker: not found", "No such file"]) {
            format!("install the `docker` command on `{host}` (docker.io or docker-cli, 18.09 or newer)")
        } else if has(&[
            "permission denied while trying to connect",
            "dial unix",
            "Cannot connect to the Docker daemon",
        ]) {
            format!(
                "on `{host}` that user does not come to the engine: start it, and have the user in the group `docker`"
            )
        } else {
            "try `ssh` by hand, as the user that `segue host` runs as".into()
        };
        format!("{last}; {remedy}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_told_whatever_a_configuration_says() {
        let ssh = Ssh::new(
            Some("deploy".into()),
            "10.0.0.5".into(),
            Some(2222),
            Some("/etc/a key".into()),
            Some("/etc/known".into()),
        );
        let arguments: Vec<String> = ssh.arguments().into_iter().map(|one| one.into_string().unwrap()).collect();
        let text = arguments.join(" ");
        assert!(
            text.starts_with("-T -o IgnoreUnknown=KnownHostsCommand,"),
            "what comes before it is not ignored: {text}"
        );
        for part in [
            "-o NoHostAuthenticationForLocalhost=no -o KnownHostsCommand=none",
            "-o SessionType=default -o RemoteCommand=none -o ForkAfterAuthentication=no",
            "-o BatchMode=yes",
            "-o StrictHostKeyChecking=yes",
            "-o UserKnownHostsFile=\"/etc/known\" -o GlobalKnownHostsFile=/dev/null",
            "-o IdentityFile=\"/etc/a key\" -o IdentitiesOnly=yes",
            "-o Port=2222 -o User=deploy",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.ends_with(" -- 10.0.0.5 docker system dial-stdio"), "{text}");
        let plain = Ssh::new(None, "gpu-1".into(), None, None, None).arguments();
        assert!(plain.iter().all(|one| !one.to_string_lossy().contains("KnownHostsFile")), "a person's own holds");
    }

    #[test]
    fn failures_name_the_file_and_the_remedy() {
        let failed = |said: &str| {
            let files = (Some("/k".into()), Some("/i".into()));
            Failure { host: "gpu-1".into(), known_hosts: files.0, identity: files.1 }.words(said)
        };
        for (said, word) in [
            (
                "No ED25519 host key is known for gpu-1 and you have requested strict checking.\nHost key verification failed.",
                "in /k",
            ),
            (
                "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
                "another than the one in /k",
            ),
            ("deploy@gpu-1: Permission denied (publickey).", "takes no key /i"),
            ("bash: line 1: docker: command not found", "install the `docker` command"),
            ("ssh: connect to host gpu-1 port 22: Connection refused", "Connection refused"),
            ("", "said nothing"),
        ] {
            let words = failed(said);
            assert!(words.contains(word), "{word}: {words}");
        }
    }
}
