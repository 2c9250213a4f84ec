//! What lies on disk: the data directory, its speed and room, tokens, the key for secrets, the database.

use std::{
    env, fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use segue_schemas::config::Config;
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

use super::Check;
use crate::cli::show;

/// Durable writes that are timed.
const WRITES: usize = 20;
/// A durable write that takes longer makes everything slow: three of them stand in the way of a job.
const SLOW_WRITE: Duration = Duration::from_millis(20);

/// Whether it is there, or can be made.
pub fn data_directory(data: &Path) -> Check {
    const NAME: &str = "data directory";
    let shown = data.display();
    if !data.exists() {
        let parent = data.ancestors().skip(1).find(|dir| dir.exists()).unwrap_or(Path::new("/"));
        return match tempfile::tempfile_in(parent) {
            Ok(_) => Check::remark(NAME, format!("{shown} is not there yet"), "`segue up` makes it at its first start"),
            Err(error) => Check::bad(
                NAME,
                format!("{shown} is not there, and can't be made in {}: {error}", parent.display()),
                "name another with --data, or make it as root and give it to this user",
            ),
        };
    }
    match tempfile::tempfile_in(data) {
        Ok(_) => Check::good(NAME, shown.to_string()),
        Err(error) => Check::bad(
            NAME,
            format!("{shown} can't be written: {error}"),
            "give it to the user that runs Segue (chown), or run this as that user",
        ),
    }
}

/// How long a durable write takes, in the middle of twenty.
pub fn write_speed(data: &Path) -> Option<Check> {
    const NAME: &str = "durable writes";
    let mut file = tempfile::tempfile_in(data).ok()?;
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let begun = Instant::now();
        let written = file.write_all(&[0; 4096]).and_then(|()| file.sync_data());
        if let Err(error) = written {
            return Some(Check::bad(NAME, format!("fail: {error}"), "look at the disk (dmesg, smartctl)"));
        }
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let median = times[WRITES / 2];
    let found = format!("{:.2} ms each", median.as_secs_f64() * 1000.0);
    Some(if median > SLOW_WRITE {
        Check::remark(
            NAME,
            format!("{found}: slow; every job waits for three of them"),
            "put the data directory on a faster disk",
        )
    } else {
        Check::good(NAME, found)
    })
}

/// Whether there is room.
pub fn disk(data: &Path, low_mib: u64) -> Check {
    const NAME: &str = "disk";
    let existing = data.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let space = match nix::sys::statvfs::statvfs(existing) {
        Ok(space) => space,
        Err(error) => return Check::bad(NAME, format!("can't be looked at: {error}"), "is it mounted?"),
    };
    let free_mib = space.blocks_available().saturating_mul(space.fragment_size()) / (1024 * 1024);
    let found = format!("{free_mib} MiB free");
    if free_mib < low_mib {
        let found = format!("{found}, below the {low_mib} MiB under which no job starts");
        return Check::bad(NAME, found, "make room, shorten `retention`, or lower retention.low-disk-mib");
    }
    if space.files_available() == 0 && space.files() > 0 {
        return Check::bad(NAME, format!("{found}, but no inode"), "delete files, or take another file system");
    }
    Check::good(NAME, found)
}

/// Whether what is secret is kept from others.
pub fn tokens(data: &Path) -> Vec<Check> {
    ["admin-token", "worker-token", "webhook-secret"]
        .into_iter()
        .filter_map(|name| {
            let file = data.join(name);
            let mode = mode_of(&file)?;
            Some(if mode & 0o077 == 0 {
                Check::good(name, format!("mode {mode:04o}"))
            } else {
                Check::bad(
                    name,
                    format!("mode {mode:04o}: others can read it"),
                    format!("chmod 600 {0}; then take another value: others may know this one", file.display()),
                )
            })
        })
        .collect()
}

/// Whether the key for secrets is kept from others, and apart from what it locks.
pub fn key(config: &Config, data: &Path) -> Check {
    const NAME: &str = "key for secrets";
    let Some(file) = config.secrets.key_file.clone().or_else(default_key_file) else {
        return Check::remark(
            NAME,
            "has no place: neither XDG_CONFIG_HOME nor HOME is set",
            "name one in secrets.key-file; without it no secret can be set",
        );
    };
    let shown = file.display();
    if file.starts_with(data) {
        return Check::bad(
            NAME,
            format!("{shown} lies in the data directory, with what it locks"),
            "name a place outside in secrets.key-file, and move the file there",
        );
    }
    match mode_of(&file) {
        None => Check::good(NAME, format!("{shown}: made when the first secret is set")),
        Some(mode) if mode & 0o077 == 0 => Check::good(NAME, format!("{shown}, mode {mode:04o}")),
        Some(mode) => {
            Check::bad(NAME, format!("{shown} has mode {mode:04o}: others can read it"), format!("chmod 600 {shown}"))
        }
    }
}

/// As the server chooses it.
fn default_key_file() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let configuration = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(configuration.join("segue/secret.key"))
}

fn mode_of(file: &Path) -> Option<u32> {
    fs::metadata(file).ok().map(|metadata| metadata.permissions().mode() & 0o7777)
}

/// Whether the database is sound. Read only: a server may be at work on it.
pub async fn database(data: &Path) -> Option<Check> {
    const NAME: &str = "database";
    let file = data.join("segue.db");
    if !file.exists() {
        return None;
    }
    let remedy = "stop the server, keep a copy of the data directory, and `segue restore` the newest backup";
    let begun = Instant::now();
    Some(match faults(&file).await {
        Ok(faults) if faults.is_empty() => {
            Check::good(NAME, format!("sound; looked through in {}", show::length(begun.elapsed())))
        }
        Ok(faults) => Check::bad(NAME, format!("is damaged: {}", faults.join("; ")), remedy),
        Err(error) => Check::bad(NAME, format!("{} can't be read: {error}", file.display()), remedy),
    })
}

/// What SQLite finds wrong; a handful at most.
async fn faults(file: &Path) -> Result<Vec<String>, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(file).read_only(true).busy_timeout(Duration::from_secs(10));
    let mut connection = options.disable_statement_logging().connect().await?;
    let lines: Vec<String> = sqlx::query_scalar("PRAGMA quick_check(5)").fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    #[test]
    fn a_token_that_others_can_read_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("admin-token");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(tokens(dir.path())[0].state, State::Bad);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(tokens(dir.path())[0].state, State::Good);
    }

    #[test]
    fn a_key_beside_what_it_locks_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.secrets.key_file = Some(dir.path().join("secret.key"));
        assert_eq!(key(&config, dir.path()).state, State::Bad);
        assert_eq!(key(&config, &dir.path().join("data")).state, State::Good);
    }

    #[test]
    fn too_little_room_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(disk(dir.path(), u64::MAX).state, State::Bad);
        assert_eq!(disk(dir.path(), 0).state, State::Good);
    }

    #[tokio::test]
    async fn a_damaged_database_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert!(database(dir.path()).await.is_none());
        fs::write(dir.path().join("segue.db"), [7; 8192]).unwrap();
        assert_eq!(database(dir.path()).await.unwrap().state, State::Bad);
    }
}
