//! The command of a backup or a restore, run beside the instance that serves: with its variables, in its release's directory, as its user;
//! or beside its container, in one like it (`apart.rs`).

use std::{
    fs::File,
    future::Future,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use segue_schemas::id::InstanceId;
use tokio::time::{interval, sleep};

use super::{
    super::{
        Host,
        process::{Launch, Process, SUCCESS},
        state::InstanceRecord,
    },
    apart::Apart,
    files::{self, Aside},
};
use crate::log::mask::Masker;

/// The variable that names a backup's file.
pub(super) const FILE_VARIABLE: &str = "SEGUE_BACKUP_FILE";

/// How long a command may take to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the disk is looked at: nobody tells when it fills.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The most that a command may write to standard error.
const MAX_ERRORS: u64 = 16 * 1024 * 1024;

/// What is kept of that: so many bytes, and of them so many lines.
const LAST_WORDS: (u64, usize) = (4096, 20);

/// Bytes of a command's last words that are looked through for secrets.
const MASKED: u64 = 64 * 1024;

/// Parts of the names of variables whose values are told to nobody.
const SECRET_NAMES: [&str; 8] = ["SECRET", "TOKEN", "PASSWORD", "PASSWD", "PWD", "KEY", "CREDENTIAL", "AUTH"];

/// What is to be run.
pub(super) struct Command<'a> {
    /// The instance that it runs beside.
    pub(super) beside: (&'a InstanceId, &'a InstanceRecord),
    /// For the shell.
    pub(super) line: &'a str,
    /// The backup's file, to be made or to be read.
    pub(super) file: PathBuf,
    /// What it is known by: its processes or its container are found again by that.
    pub(super) name: &'a str,
    /// The image of its container, if that is not its service's own.
    pub(super) image: Option<&'a str>,
    /// How long it may take.
    pub(super) limit: Duration,
    /// What it reads.
    pub(super) input: Option<File>,
    /// Where it writes.
    pub(super) aside: &'a Aside,
}

/// Why a command brought nothing.
pub(super) struct Over {
    pub(super) reason: String,
    pub(super) said: Vec<String>,
}

impl Host {
    /// Runs a command to its end; it is ended where `off` says why. What it writes lies aside then.
    pub(super) async fn run_command(
        &self,
        command: &Command<'_>,
        off: impl Future<Output = &'static str>,
    ) -> Result<(), Over> {
        let files = self.backup_files();
        let exceeds = async {
            let mut looks = interval(LOOK_EVERY);
            loop {
                looks.tick().await;
                if let Some(short) = files.is_short() {
                    return short;
                }
                if std::fs::metadata(&command.aside.errors).is_ok_and(|errors| errors.len() > MAX_ERRORS) {
                    return format!("it wrote more than {MAX_ERRORS} bytes to standard error");
                }
            }
        };
        let over = async {
            tokio::select! {
                () = sleep(command.limit) => {
                    format!("its command did not end within {} minutes", command.limit.as_secs_f64() / 60.0)
                }
                reason = exceeds => reason,
                why = off => why.to_owned(),
            }
        };
        tokio::pin!(over);
        let nothing_said = |reason| Over { reason, said: Vec::new() };
        // an image may be long in coming
        let mut running = tokio::select! {
            begun = self.begin_command(command) => begun.map_err(nothing_said)?,
            reason = &mut over => return Err(nothing_said(reason)),
        };
        let reason = tokio::select! {
            exit = running.ended() => (exit != SUCCESS).then(|| format!("its command ended with {exit}")),
            reason = &mut over => Some(reason),
        };
        let Some(reason) = reason else {
            running.clear().await;
            return Ok(());
        };
        running.terminate(PATIENCE).await;
        running.clear().await;
        Err(Over { reason, said: last_words(&command.aside.errors, &self.variables(command.beside.1)) })
    }

    async fn begin_command(&self, command: &Command<'_>) -> Result<At, String> {
        let (id, instance) = command.beside;
        let opened = |path: &Path| files::create(path).map_err(|e| format!("{} can't be made: {e}", path.display()));
        let (output, errors) = (opened(&command.aside.output)?, opened(&command.aside.errors)?);
        if instance.run.is_container() {
            return self
                .begin_apart(id, instance, command, output, errors)
                .await
                .map(|apart| At::Apart(Box::new(apart)));
        }
        let unusable = |e: std::io::Error| format!("what it is to read can't be used: {e}");
        let input = command.input.as_ref().map(File::try_clone).transpose().map_err(unusable)?;
        let directory = self.releases.path(&instance.release.digest);
        let file = (FILE_VARIABLE.to_owned(), command.file.display().to_string());
        let line = ["sh", "-ec", command.line].map(str::to_owned);
        let launch = Launch {
            command: &line,
            env: self.variables(instance).into_iter().chain([file]).collect(),
            directory: &directory,
            port: instance.port,
            input,
            output,
            errors: Some(errors),
            mark: &self.backup_mark(command.name),
        };
        let started = Process::start(launch).map_err(|e| format!("it can't be run in {}: {e}", directory.display()))?;
        Ok(At::Host(Box::new(started)))
    }
}

/// Where a command runs.
enum At {
    /// On the machine.
    Host(Box<Process>),
    /// In a container.
    Apart(Box<Apart>),
}

impl At {
    async fn ended(&mut self) -> String {
        match self {
            Self::Host(process) => process.ended().await,
            Self::Apart(apart) => apart.ended().await,
        }
    }

    async fn terminate(&mut self, patience: Duration) {
        match self {
            Self::Host(process) => {
                process.terminate(patience).await;
            }
            Self::Apart(apart) => apart.terminate(patience).await,
        }
    }

    async fn clear(&mut self) {
        match self {
            Self::Host(_) => {}
            Self::Apart(apart) => apart.clear().await,
        }
    }
}

/// The last lines of a file, without what looks like a secret among the variables that the command had.
fn last_words(path: &Path, variables: &[(String, String)]) -> Vec<String> {
    let read = || {
        let mut file = File::open(path)?;
        let end = file.seek(SeekFrom::End(0))?;
        // a secret that is cut is not known for one: far more is masked than is told
        file.seek(SeekFrom::Start(end.saturating_sub(MASKED)))?;
        let mut bytes = Vec::new();
        file.take(MASKED).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let masked = Masker::new(variables.iter().filter_map(secret)).mask(&text);
    let told = usize::try_from(LAST_WORDS.0).unwrap_or(usize::MAX);
    let from = (masked.len().saturating_sub(told)..=masked.len()).find(|at| masked.is_char_boundary(*at));
    let lines: Vec<&str> =
        masked[from.unwrap_or_default()..].lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_WORDS.1)..].iter().map(|line| (*line).to_owned()).collect()
}

/// What of a variable is told to nobody: the value of one that is named like a secret, and the password in an address.
fn secret((name, value): &(String, String)) -> Option<&str> {
    let name = name.to_ascii_uppercase();
    if SECRET_NAMES.iter().any(|part| name.contains(part)) {
        return Some(value).filter(|value| !value.is_empty()).map(String::as_str);
    }
    let (_, rest) = value.split_once("://")?;
    let (user, _) = rest.split_once('/').unwrap_or((rest, "")).0.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password).filter(|password| !password.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_told_to_nobody() {
        let variables = [
            ("DATABASE_URL", "postgres://shop:hunter2@db:5432/shop"),
            ("S3_SECRET", "abcdefgh"),
            ("MODE", "production"),
            ("EMPTY_TOKEN", ""),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first\n\nno login as shop:hunter2@db\nwith abcdefgh in production\n").unwrap();
        let said = last_words(file.path(), &variables);
        assert_eq!(said, ["first", "no login as shop:***@db", "with *** in production"]);

        // cut where a secret stands, nothing of it is left
        let long = format!("{}abcdefgh{}", "x".repeat(5000), "y".repeat(4093));
        std::fs::write(file.path(), long).unwrap();
        let said = last_words(file.path(), &variables);
        assert!(said.len() == 1 && said[0].ends_with("yyy") && !said[0].contains("fgh"), "{said:?}");
    }

    #[test]
    fn of_many_words_the_last_are_kept() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let all: Vec<String> = (0..10_000).map(|n| format!("line {n}")).collect();
        std::fs::write(file.path(), all.join("\n")).unwrap();
        let said = last_words(file.path(), &[]);
        assert_eq!((said.len(), said.last().map(String::as_str)), (LAST_WORDS.1, Some("line 9999")));
        assert!(last_words(Path::new("/nowhere"), &[]).is_empty());
    }
}
