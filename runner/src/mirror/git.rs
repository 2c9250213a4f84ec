//! One git process, bounded: in time, in what it may say, and in what it may do.

use std::{
    ffi::OsStr,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

use super::MirrorError;

/// What is kept of git's error output; its last words are the ones that matter.
const ERROR_LIMIT: usize = 4 * 1024;

/// What a git process said.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// The end of its standard error, without passwords.
    pub stderr: String,
}

/// A git command that asks nobody anything, runs no hooks, and reads no other repository's settings.
pub fn command(repository: Option<&Path>) -> Command {
    let mut command = Command::new("git");
    if let Some(repository) = repository {
        command.arg(format_dir(repository));
    }
    command
        .args(["-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", "-c", "maintenance.auto=false"])
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ASKPASS", "true")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_ALLOW_PROTOCOL", "file:git:http:https:ssh")
        .env("LC_ALL", "C")
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .env_remove("GIT_OBJECT_DIRECTORY")
        .env_remove("GIT_ALTERNATE_OBJECT_DIRECTORIES")
        .stdin(Stdio::null())
        // its own group, so that a time-out also ends ssh, upload-pack and what else it has started
        .process_group(0)
        .kill_on_drop(true);
    if std::env::var_os("GIT_SSH_COMMAND").is_none() {
        command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
    }
    command
}

fn format_dir(repository: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from("--git-dir=");
    argument.push(repository);
    argument
}

/// Runs a git process to its end.
///
/// # Errors
/// [`MirrorError::Spawn`] where there is no git, [`MirrorError::Timeout`] (the whole process group is killed), and
/// [`MirrorError::TooMuch`] where it says more than `output_limit` bytes.
pub async fn run(
    what: &str,
    mut command: Command,
    limit: Duration,
    output_limit: usize,
) -> Result<Output, MirrorError> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| MirrorError::Spawn(error.to_string()))?;
    let group = Group(child.id());
    let mut stdout = child.stdout.take();
    let mut stderr = child.stderr.take();
    let work = async {
        let (stdout, stderr) = tokio::join!(read_bounded(&mut stdout, output_limit), read_tail(&mut stderr));
        Ok::<_, std::io::Error>((child.wait().await?, stdout?, stderr?))
    };
    match tokio::time::timeout(limit, work).await {
        Ok(Ok((status, Some(stdout), stderr))) => {
            group.ended();
            Ok(Output { status, stdout, stderr: redact(&stderr) })
        }
        Ok(Ok((_, None, _))) => Err(MirrorError::TooMuch { what: what.into(), limit_bytes: output_limit as u64 }),
        Ok(Err(error)) => Err(MirrorError::Spawn(error.to_string())),
        Err(_) => Err(MirrorError::Timeout { what: what.into(), seconds: limit.as_secs() }),
    }
}

/// As [`run`], for a command whose failure is an error.
///
/// # Errors
/// As [`run`], and [`MirrorError::Git`] with git's own words.
pub async fn run_ok(
    what: &str,
    command: Command,
    limit: Duration,
    output_limit: usize,
) -> Result<Vec<u8>, MirrorError> {
    let output = run(what, command, limit, output_limit).await?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(MirrorError::Git { what: what.into(), message: last_words(&output) })
    }
}

/// What git said when it failed, for people.
pub fn last_words(output: &Output) -> String {
    let said = output.stderr.trim();
    if said.is_empty() { format!("git ended with {}", output.status) } else { said.to_owned() }
}

/// A process group that is killed when this is dropped before the process has ended.
struct Group(Option<u32>);

impl Group {
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.and_then(|pid| i32::try_from(pid).ok()) {
            let _gone_already = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
    }
}

/// Everything, or `None` (and the rest unread) where it is more than `limit`.
async fn read_bounded(source: &mut Option<impl AsyncRead + Unpin>, limit: usize) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    if let Some(mut source) = source.take() {
        (&mut source).take(limit as u64 + 1).read_to_end(&mut bytes).await?;
    }
    Ok((bytes.len() <= limit).then_some(bytes))
}

/// The last [`ERROR_LIMIT`] bytes.
async fn read_tail(source: &mut Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut tail = Vec::with_capacity(256);
    if let Some(mut source) = source.take() {
        let mut buffer = [0; 1024];
        loop {
            let n = source.read(&mut buffer).await?;
            if n == 0 {
                break;
            }
            tail.extend_from_slice(&buffer[..n]);
            if tail.len() > 2 * ERROR_LIMIT {
                tail.drain(..tail.len() - ERROR_LIMIT);
            }
        }
    }
    let start = tail.len().saturating_sub(ERROR_LIMIT);
    Ok(String::from_utf8_lossy(&tail[start..]).into_owned())
}

/// Takes `user:password@` out of the URLs that git repeats in its messages.
fn redact(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        shown.push_str(before);
        let end = after.find(|c: char| c == '/' || c.is_whitespace() || c == '\'').unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => {
                shown.push_str("***");
                &after[at..]
            }
            None => after,
        };
    }
    shown.push_str(rest);
    shown
}

/// The argument that ends git's options, whatever comes behind begins with.
pub fn end_of_options() -> &'static OsStr {
    OsStr::new("--end-of-options")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_message_is_taken_out() {
        assert_eq!(
            redact("fatal: unable to access 'https://bot:hunter2@git.example/a.git/': no\nsee https://git-scm.com/x@y"),
            "fatal: unable to access 'https://***@git.example/a.git/': no\nsee https://git-scm.com/x@y"
        );
    }

    #[tokio::test]
    async fn a_process_that_takes_too_long_ends_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let mut command = command(None);
        command.args(["-c", &format!("alias.slow=!sleep 100 & echo $! > {}; wait", pid_file.display()), "slow"]);
        let error = run("sleeping", command, Duration::from_millis(500), 100).await.unwrap_err();
        assert!(matches!(error, MirrorError::Timeout { .. }), "{error}");
        let pid: i32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        let gone = || {
            // a killed process whose new parent has not looked yet is a zombie
            std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z"))
        };
        for _ in 0..100 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("process {pid} outlived the time-out");
    }

    #[tokio::test]
    async fn what_says_too_much_is_stopped() {
        let mut command = command(None);
        command.args(["-c", "alias.loud=!yes", "loud"]);
        let error = run("shouting", command, Duration::from_secs(20), 1000).await.unwrap_err();
        assert!(matches!(error, MirrorError::TooMuch { .. }), "{error}");
    }
}
