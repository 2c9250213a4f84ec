//! Service processes: started in a process group of their own, watched by pidfd whether they are this process's children or
//! not, found again by process id and start time, ended as a group.

use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

/// The environment variable that marks every process of an instance with the path that names it on this machine.
pub const MARK: &str = "SEGUE_INSTANCE";

/// Ports for instances: below the range that Linux takes for outgoing connections (32768 and up by default), so that none
/// of those sits on an instance's port while the instance is started again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// How an end with success is described.
pub(super) const SUCCESS: &str = "exit code 0";

/// Ports that are tried.
const PORT_TRIES: u32 = 200;

/// What tells a process from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Its number, which is its process group's too.
    pub pid: u32,
    /// When it began, in clock ticks since the boot (field 22 of `/proc/PID/stat`, proc(5)).
    pub start_ticks: u64,
}

/// A living process.
#[derive(Debug)]
pub struct Process {
    /// Who it is.
    pub record: ProcessRecord,
    mark: String,
    pidfd: AsyncFd<OwnedFd>,
    /// Only of a process that this host started itself.
    child: Option<Child>,
}

/// What is started.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Program and arguments, `$PORT` and `${PORT}` still in them.
    pub command: &'a [String],
    /// The whole environment but `PATH`, `PORT` and the mark.
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub directory: &'a Path,
    /// The port.
    pub port: u16,
    /// What it reads; nothing where it is left out.
    pub input: Option<File>,
    /// The file that takes what it prints, opened to append.
    pub output: File,
    /// The file that takes its errors, where that is another.
    pub errors: Option<File>,
    /// What marks its processes.
    pub mark: &'a str,
}

/// A text with the port in the place of `$PORT` and `${PORT}`; a longer name that begins so is another.
fn with_port(text: &str, port: u16) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        filled.push_str(before);
        let goes_on = |rest: &str| rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let behind = from.strip_prefix("${PORT}").or_else(|| from.strip_prefix("$PORT").filter(|rest| !goes_on(rest)));
        rest = match behind {
            Some(behind) => {
                filled.push_str(&port.to_string());
                behind
            }
            None => {
                filled.push('$');
                &from[1..]
            }
        };
    }
    filled + rest
}

impl Process {
    /// Starts a process, the leader of a group of its own. It is not bound to the life of this one.
    pub fn start(launch: Launch<'_>) -> io::Result<Self> {
        let (program, arguments) =
            launch.command.split_first().ok_or_else(|| io::Error::other("the command is empty"))?;
        let filled = |text: &String| with_port(text, launch.port);
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".into());
        let errors = launch.errors.map_or_else(|| launch.output.try_clone(), Ok)?;
        let child = Command::new(found_in(launch.directory, program))
            .args(arguments.iter().map(filled))
            .current_dir(launch.directory)
            .env_clear()
            .env("PATH", path)
            .envs(launch.env)
            .env("PORT", launch.port.to_string())
            .env(MARK, launch.mark)
            .stdin(launch.input.map_or_else(Stdio::null, Stdio::from))
            .stdout(launch.output)
            .stderr(errors)
            .process_group(0)
            .spawn()?;
        Self::of_child(child, launch.mark)
    }

    /// A process that this one has just started as the leader of a group.
    pub fn of_child(mut child: Child, mark: &str) -> io::Result<Self> {
        let pid = child.id();
        let watched = || Ok::<_, io::Error>((awaitable(open_pidfd(pid)?)?, start_ticks(pid)?));
        match watched() {
            Ok((pidfd, start_ticks)) => {
                let record = ProcessRecord { pid, start_ticks };
                Ok(Self { record, mark: mark.to_owned(), pidfd, child: Some(child) })
            }
            Err(error) => {
                // What can't be watched must not run.
                signal_group(pid, Signal::SIGKILL);
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// The recorded process, if it still lives.
    #[must_use]
    pub fn adopt(record: ProcessRecord, mark: &str) -> Option<Self> {
        // First the descriptor, then the comparison: what it stands for can no longer be mistaken after that.
        let pidfd = open_pidfd(record.pid).ok()?;
        if start_ticks(record.pid).ok()? != record.start_ticks || is_zombie(record.pid) {
            return None;
        }
        Some(Self { record, mark: mark.to_owned(), pidfd: awaitable(pidfd).ok()?, child: None })
    }

    /// A living process group leader with this mark: one that was started, but not recorded any more.
    #[must_use]
    pub fn find(mark: &str) -> Option<Self> {
        let leader = processes().find(|pid| group_of(*pid) == Some(*pid) && has_mark(*pid, mark))?;
        Self::adopt(ProcessRecord { pid: leader, start_ticks: start_ticks(leader).ok()? }, mark)
    }

    /// Waits for its end; says how it ended. What is left of its group is killed.
    pub async fn ended(&mut self) -> String {
        // Readable means ended (pidfd_open(2)); an error here could only come from a closed descriptor.
        let _ = self.pidfd.readable().await;
        match &mut self.child {
            Some(child) => {
                // Before the leader is reaped nobody else can get its number, so the group is still this one.
                signal_group(self.record.pid, Signal::SIGKILL);
                match child.wait() {
                    Ok(status) => describe(status),
                    Err(error) => format!("unknown ({error})"),
                }
            }
            None => {
                kill_marked_group(self.record.pid, &self.mark);
                "unknown (it was started by an earlier host process)".to_owned()
            }
        }
    }

    /// TERM to the group, KILL when it has not ended after `patience`.
    pub async fn terminate(&mut self, patience: Duration) -> String {
        signal_group(self.record.pid, Signal::SIGTERM);
        match tokio::time::timeout(patience, self.ended()).await {
            Ok(exit) => exit,
            Err(_) => {
                signal_group(self.record.pid, Signal::SIGKILL);
                self.ended().await
            }
        }
    }
}

/// The record of a living process.
#[must_use]
pub fn record_of(pid: u32) -> Option<ProcessRecord> {
    Some(ProcessRecord { pid, start_ticks: start_ticks(pid).ok()? })
}

/// A port of 127.0.0.1 that nobody listens on now and that is not among `taken`.
pub fn free_port(taken: &[u16]) -> io::Result<u16> {
    let mut random = rand::rng();
    for _ in 0..PORT_TRIES {
        let port = random.random_range(PORTS);
        if !taken.contains(&port) && is_free(port) {
            return Ok(port);
        }
    }
    let message = format!("no free port found on 127.0.0.1 in {PORT_TRIES} tries between {PORTS:?}");
    Err(io::Error::new(io::ErrorKind::AddrInUse, message))
}

/// Whether nobody listens on a port of 127.0.0.1.
#[must_use]
pub fn is_free(port: u16) -> bool {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A program with a `/` in its name is looked for in the release's directory, any other on the `PATH`.
fn found_in(directory: &Path, program: &str) -> std::path::PathBuf {
    if program.contains('/') { directory.join(program) } else { program.into() }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers and touches no memory of this process.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::pid_t::try_from(pid).unwrap_or(0), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec) for this process; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor whose readiness can be awaited.
pub(super) fn awaitable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, so it stays the same and open for as long as the registration lives.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

fn signal_group(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid)
        && pid > 1
    {
        // None there: it has ended, which is what was wanted.
        let _ = killpg(Pid::from_raw(pid), signal);
    }
}

/// Kills what is left of a group whose leader was reaped by somebody else; only if it carries the mark, because the number
/// may belong to others by now.
fn kill_marked_group(pid: u32, mark: &str) {
    if processes().any(|member| group_of(member) == Some(pid) && has_mark(member, mark)) {
        signal_group(pid, Signal::SIGKILL);
    }
}

/// Which processes of the machine belong together.
#[derive(Debug)]
pub struct Families {
    /// Number, parent and group of each.
    all: Vec<(u32, u32, u32)>,
}

impl Families {
    /// As they are now.
    #[must_use]
    pub fn now() -> Self {
        let read = |pid| {
            let fields = stat_fields(pid).ok()?;
            Some((pid, fields.get(1)?.parse().ok()?, fields.get(2)?.parse().ok()?))
        };
        Self { all: processes().filter_map(read).collect() }
    }

    /// A process, those of its group, and whatever these have started and not left behind.
    #[must_use]
    pub fn of(&self, pid: u32) -> Vec<u32> {
        let mut family: Vec<u32> =
            self.all.iter().filter(|one| one.0 == pid || one.2 == pid).map(|one| one.0).collect();
        let mut known = 0;
        while let Some(parent) = family.get(known).copied() {
            let children = self.all.iter().filter(|one| one.1 == parent).map(|one| one.0);
            let new: Vec<u32> = children.filter(|child| !family.contains(child)).collect();
            family.extend(new);
            known += 1;
        }
        family
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn has_mark(pid: u32, mark: &str) -> bool {
    let wanted = format!("{MARK}={mark}");
    std::fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|b| *b == 0).any(|pair| pair == wanted.as_bytes()))
}

fn start_ticks(pid: u32) -> io::Result<u64> {
    // Field 22; the first two (number and name) are cut off by `stat_fields`.
    let field = stat_fields(pid)?.get(19).and_then(|text| text.parse().ok());
    field.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not as expected")))
}

fn is_zombie(pid: u32) -> bool {
    stat_fields(pid).is_ok_and(|fields| fields.first().is_some_and(|state| state == "Z" || state == "X"))
}

fn group_of(pid: u32) -> Option<u32> {
    stat_fields(pid).ok()?.get(2)?.parse().ok()
}

/// The fields of `/proc/PID/stat` after the name, which may hold anything up to the last `)` (proc(5)).
fn stat_fields(pid: u32) -> io::Result<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').unwrap_or(("", ""));
    Ok(rest.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn launch<'a>(command: &'a [String], directory: &'a Path, mark: &'a str) -> Launch<'a> {
        let output = tempfile::tempfile().unwrap();
        Launch { command, env: Vec::new(), directory, port: 1234, input: None, output, errors: None, mark }
    }

    fn shell(script: &str) -> Vec<String> {
        vec!["sh".into(), "-c".into(), script.into()]
    }

    #[test]
    fn the_port_takes_the_place_of_its_own_name_alone() {
        for (text, filled) in [
            ("--port=$PORT/${PORT}", "--port=80/80"),
            ("$PORTAL $PORT_2 ${PORTAL}", "$PORTAL $PORT_2 ${PORTAL}"),
            ("$$PORT é$PORT-x $", "$80 é80-x $"),
            ("", ""),
        ] {
            assert_eq!(with_port(text, 80), filled, "{text}");
        }
    }

    #[tokio::test]
    async fn an_end_is_seen_and_described() {
        let folder = tempfile::tempdir().unwrap();
        for (script, end) in [("exit 7", "exit code 7"), ("kill -9 $$", "signal 9")] {
            let mut process = Process::start(launch(&shell(script), folder.path(), "m")).unwrap();
            assert_eq!(process.ended().await, end);
        }
    }

    #[tokio::test]
    async fn the_environment_is_whole_and_the_port_is_filled_in() {
        let folder = tempfile::tempdir().unwrap();
        let script = "env | grep -v -E '^(PATH|PWD|SHLVL|_|OLDPWD)=' | sort > out; echo $0 >> out";
        let command = ["sh", "-c", script, "--port=$PORT/${PORT}"].map(str::to_owned);
        let mut start = launch(&command, folder.path(), "here/a");
        start.env.push(("A".into(), "1".into()));
        Process::start(start).unwrap().ended().await;
        let out = std::fs::read_to_string(folder.path().join("out")).unwrap();
        assert_eq!(out, "A=1\nPORT=1234\nSEGUE_INSTANCE=here/a\n--port=1234/1234\n");
    }

    #[tokio::test]
    async fn a_group_that_ignores_term_is_killed_whole() {
        let folder = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; (trap '' TERM; echo $$ > x; sleep 60) & echo $! > child; while :; do sleep 1; done";
        let mut process = Process::start(launch(&shell(script), folder.path(), "m")).unwrap();
        let child = folder.path().join("child");
        while std::fs::read_to_string(&child).is_ok_and(|s| s.ends_with('\n')).eq(&false) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let child: u32 = std::fs::read_to_string(child).unwrap().trim().parse().unwrap();
        let began = Instant::now();
        assert_eq!(process.terminate(Duration::from_millis(200)).await, "signal 9");
        assert!(began.elapsed() < Duration::from_secs(5));
        while Path::new(&format!("/proc/{child}")).exists() && !is_zombie(child) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert!(began.elapsed() < Duration::from_secs(5), "the grandchild lives on");
        }
    }

    #[tokio::test]
    async fn a_process_is_found_by_its_record_or_its_mark_and_never_mistaken() {
        let folder = tempfile::tempdir().unwrap();
        let mark = format!("{}/a", folder.path().display());
        let mut process = Process::start(launch(&shell("sleep 60"), folder.path(), &mark)).unwrap();
        let record = process.record;
        assert!(Process::adopt(record, &mark).is_some());
        assert!(Process::adopt(ProcessRecord { start_ticks: record.start_ticks + 1, ..record }, &mark).is_none());
        let mut found = None;
        for _ in 0..200 {
            found = Process::find(&mark);
            if found.is_some() {
                break;
            }
            // The mark is there once the shell has been executed.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(found.unwrap().record, record);
        assert!(Process::find("another").is_none());
        process.terminate(Duration::from_secs(5)).await;
        assert!(Process::adopt(record, &mark).is_none());
    }

    #[test]
    fn a_taken_port_is_not_given_out() {
        let port = free_port(&[]).unwrap();
        let _held = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(!is_free(port));
        assert_ne!(free_port(&[port]).unwrap(), port);
    }
}
