//! A PostgreSQL of the tests' own: Debian's binaries, everything in a temporary folder, a unix socket and no port. It ends with
//! the process that started it, however that ends.
//!
//! `integration-tests/run` starts one for all tests and names its folder in `SEGUE_TEST_POSTGRES`; a test that finds none starts
//! its own. Where there is no PostgreSQL at all, that is a failure.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::Signal,
    unistd::{User, geteuid},
};

use crate::processes;

/// How long it may take to start or stop.
const LIMIT: Duration = Duration::from_secs(60);

/// Names the folder of the socket of one that runs.
pub const VARIABLE: &str = "SEGUE_TEST_POSTGRES";

/// A server.
#[derive(Debug)]
pub struct Postgres {
    /// Where its socket is.
    socket: PathBuf,
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    folder: tempfile::TempDir,
    keeper: Mutex<Option<Child>>,
    env: Vec<(String, String)>,
}

impl Postgres {
    /// The one that the tests share.
    ///
    /// # Errors
    /// There is none, and none can be started.
    pub fn shared() -> Result<Arc<Self>> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return Ok(running);
        }
        let started = Arc::new(match std::env::var_os(VARIABLE) {
            Some(socket) => Self { socket: socket.into(), own: None },
            None => Self::start()?,
        });
        *shared = Arc::downgrade(&started);
        Ok(started)
    }

    /// One for whoever wants to stop it, or to spoil it.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// The same with variables in its environment.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(env: &[(String, String)]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("segue-pg-").tempdir()?;
        // it refuses to be root
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let data = folder.path().join("data");
        fs::create_dir(&data)?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
        let socket = folder.path().join("socket");
        fs::create_dir(&socket)?;
        if let Some(user) = unprivileged()? {
            for path in [&data, &socket] {
                chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
            }
        }
        let made = as_unprivileged(Command::new(program("initdb")?))?
            .args(["--username=segue", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--pgdata"])
            .arg(&data)
            .current_dir(folder.path())
            .output()?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let server = Self { socket, own: Some(Own { folder, keeper: Mutex::new(None), env: env.to_vec() }) };
        server.start_again(&[])?;
        Ok(server)
    }

    /// Starts it, with further settings (`name=value`), after it was stopped.
    ///
    /// # Errors
    /// It is not this process's own, or it does not start.
    pub fn start_again(&self, settings: &[&str]) -> Result<()> {
        let own = self.own()?;
        let mut line = format!(
            "exec 3<&0; '{}' -D '{}' -k '{}' -c listen_addresses= -c max_connections=200 -c shared_buffers=64MB",
            program("postgres")?.display(),
            self.data()?.display(),
            self.socket.display(),
        );
        for setting in settings {
            line.push_str(&format!(" -c '{setting}'"));
        }
        // whoever holds the other end of its input is gone: it ends at once
        line.push_str(" < /dev/null & pid=$!; cat <&3 > /dev/null; kill -INT $pid; wait $pid");
        let log = fs::File::options().create(true).append(true).open(own.folder.path().join("log"))?;
        let child = as_unprivileged(Command::new("sh"))?
            .args(["-c", &line])
            .envs(own.env.iter().map(|(name, value)| (name, value)))
            .current_dir(own.folder.path())
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        *own.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let begun = Instant::now();
        while self.sql("postgres", "SELECT 1").is_err() {
            if begun.elapsed() > LIMIT {
                let said = fs::read_to_string(own.folder.path().join("log")).unwrap_or_default();
                bail!("PostgreSQL does not start: {said}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Stops it: at once, without a word to anybody (`SIGQUIT`, as a crash), or by closing its connections first.
    ///
    /// # Errors
    /// It does not run, or does not end.
    pub fn stop(&self, crash: bool) -> Result<()> {
        let pid = self.pid()?;
        processes::signal(pid, if crash { Signal::SIGQUIT } else { Signal::SIGINT })?;
        let begun = Instant::now();
        while processes::lives(pid) {
            ensure!(begun.elapsed() < LIMIT, "PostgreSQL does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        let keeper = self.own()?.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut keeper) = keeper {
            drop(keeper.stdin.take());
            keeper.wait()?;
        }
        Ok(())
    }

    /// The server's process.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        let text = fs::read_to_string(self.data()?.join("postmaster.pid")).context("PostgreSQL does not run")?;
        Ok(text.lines().next().unwrap_or_default().trim().parse()?)
    }

    /// A new, empty database, which goes with what is returned.
    ///
    /// # Errors
    /// It can't be made.
    pub fn database(self: &Arc<Self>) -> Result<Database> {
        let name = format!("t{}", uuid::Uuid::new_v4().simple());
        self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(Database { server: self.clone(), name })
    }

    /// Runs statements; gives what they answer, one row a line, columns with `|` between them.
    ///
    /// # Errors
    /// The server's message.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let done = Command::new(program("psql")?)
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "segue", "-d", database, "-c", sql, "-h"])
            .arg(&self.socket)
            .env("PGCONNECT_TIMEOUT", "5")
            .output()?;
        ensure!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
    }

    fn own(&self) -> Result<&Own> {
        self.own.as_ref().context("this PostgreSQL is shared with other tests")
    }

    fn data(&self) -> Result<PathBuf> {
        Ok(self.own()?.folder.path().join("data"))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.own.is_some() {
            let _ = self.stop(true);
        }
    }
}

/// A database of one test.
#[derive(Debug)]
pub struct Database {
    server: Arc<Postgres>,
    name: String,
}

impl Database {
    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://segue@localhost/{}?host={}", self.name, self.server.socket.display())
    }

    /// Its server.
    #[must_use]
    pub fn server(&self) -> &Postgres {
        &self.server
    }

    /// Runs statements in it.
    ///
    /// # Errors
    /// The server's message.
    pub fn sql(&self, sql: &str) -> Result<String> {
        self.server.sql(&self.name, sql)
    }
}

impl Database {
    /// A session that has taken the lock of Segue's writers, under the limits that a server's sessions have, and is stopped.
    ///
    /// # Panics
    /// It can't be started.
    #[must_use]
    pub fn stand_still(&self) -> StoodStill {
        use std::io::{BufRead as _, Write as _};
        let mut session = Command::new(program("psql").expect("psql"))
            .args(["-X", "-q", "-A", "-t", "-U", "segue", "-d", &self.name, "-h"])
            .arg(&self.server.socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("psql");
        let sql = "SET idle_in_transaction_session_timeout = '5s'; BEGIN; SELECT pg_advisory_xact_lock(1583407105); SELECT 'has it';\n";
        let input = session.stdin.as_mut().expect("an input");
        input.write_all(sql.as_bytes()).expect("psql");
        input.flush().expect("psql");
        let mut answers = std::io::BufReader::new(session.stdout.take().expect("an output")).lines();
        assert!(answers.any(|line| line.is_ok_and(|line| line == "has it")), "the lock was not had");
        processes::signal(session.id(), Signal::SIGSTOP).expect("a signal");
        StoodStill(session)
    }
}

/// A session that is stopped; killed when this is dropped.
#[derive(Debug)]
pub struct StoodStill(Child);

impl Drop for StoodStill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // with the server of a test alone it goes anyway
        if self.server.own.is_none() {
            let _ = self.server.sql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", self.name));
        }
    }
}

/// Where one of the server's programs is. Debian keeps them beside the path, by version: the newest counts.
///
/// # Errors
/// There is none.
pub fn program(name: &str) -> Result<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((path.file_name()?.to_str()?.parse().ok()?, path.join("bin").join(name)))
        })
        .filter(|(_, path)| path.exists())
        .collect();
    versions.sort();
    if let Some((_, path)) = versions.pop() {
        return Ok(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder: PathBuf| folder.join(name))
        .find(|path: &PathBuf| Path::exists(path))
        .with_context(|| format!("`{name}` is missing: apt-get install postgresql"))
}

fn unprivileged() -> Result<Option<User>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten());
    user.map(Some).context("there is no user for PostgreSQL: it refuses to be root")
}

fn as_unprivileged(mut command: Command) -> Result<Command> {
    if let Some(user) = unprivileged()? {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    Ok(command)
}
