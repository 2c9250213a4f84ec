//! What lies outside of Segue and its work depends on: the clock, the repositories, Docker, GPUs.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt as _, stream};
use nix::libc;
use segue_runner::mirror::{Mirrors, Source};
use segue_schemas::config::Config;

use super::Check;
use crate::cli::connection::ServerArgs;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Repositories that are asked at once.
const AT_ONCE: usize = 4;
/// Clocks that are further apart make times in lists and logs hard to read together. `Date` counts whole seconds.
const APART: Duration = Duration::from_secs(2);

/// Whether this machine's clock is kept right, and agrees with the server's.
pub async fn clock(args: &ServerArgs) -> Vec<Check> {
    const NAME: &str = "clock";
    const REMEDY: &str = "have it kept by NTP: apt-get install chrony (in a container: on its machine)";
    let mut checks = vec![match clock_error() {
        Some(Ok(error)) => Check::good(NAME, format!("is kept right, at most {} ms off", error.as_millis())),
        Some(Err(())) => Check::remark(NAME, "nobody keeps it right", REMEDY),
        None => Check::remark(NAME, "whether it is kept right can't be asked here", REMEDY),
    }];
    if let Some(apart) = apart_from_server(args).await.filter(|apart| *apart > APART) {
        // leases and schedules go by the time of the server's store alone
        let found = format!("is {} s apart from the server's: times of logs and lists differ", apart.as_secs());
        checks.push(Check::remark("clocks", found, REMEDY));
    }
    checks
}

/// The largest error that the kernel reckons with; `Err`: its clock is not kept. `None` where it can't be asked.
fn clock_error() -> Option<Result<Duration, ()>> {
    // SAFETY: numbers alone, for which zero is a value; with `modes` zero it is only read
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives, and is the kernel's own
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    match answer {
        -1 => None,
        libc::TIME_ERROR => Some(Err(())),
        _ => Some(Ok(Duration::from_micros(u64::try_from(state.maxerror).unwrap_or(0)))),
    }
}

async fn apart_from_server(args: &ServerArgs) -> Option<Duration> {
    let url = args.anonymous().ok()?.base().join("readyz").ok()?;
    let client = reqwest::Client::builder().timeout(LIMIT).build().ok()?;
    let answer = client.get(url).send().await.ok()?;
    let theirs = httpdate::parse_http_date(answer.headers().get("date")?.to_str().ok()?).ok()?;
    let ours = SystemTime::now();
    ours.duration_since(theirs).or_else(|_| theirs.duration_since(ours)).ok()
}

/// Whether each repository that the configuration names can be read with what git has here.
pub async fn repositories(config: &Config, data: &Path) -> Vec<Check> {
    let mirrors = Mirrors::new(data.join("mirrors"));
    let named = config.repositories.iter().filter_map(|(name, repository)| {
        Some((name.as_str(), repository.clone_url.as_deref()?)) // without one, each event brings its own
    });
    stream::iter(named).map(|(name, url)| repository(&mirrors, name, url)).buffered(AT_ONCE).collect().await
}

async fn repository(mirrors: &Mirrors, name: &str, url: &str) -> Check {
    const REMEDY: &str = "look at `clone-url`, and at the credentials of the user that the server runs as: a deploy key for ssh, \
                          git's credential helper for https";
    let title = format!("repository {name}");
    let source = match Source::parse(url) {
        Ok(source) => source,
        Err(error) => return Check::bad(&title, error.to_string(), "mend `clone-url` in segue.yaml"),
    };
    match tokio::time::timeout(LIMIT, mirrors.resolve(&source, None)).await {
        Ok(Ok((head, commit))) => {
            let commit: String = commit.as_str().chars().take(7).collect();
            Check::good(&title, format!("can be read: {} is at {commit}", head.as_str()))
        }
        Ok(Err(error)) => {
            let said = error.to_string();
            Check::bad(&title, said.lines().next().unwrap_or_default(), REMEDY)
        }
        Err(_) => Check::bad(&title, format!("{} did not answer within {LIMIT:?}", source.shown()), REMEDY),
    }
}

/// The engine for containers, where there is one. Nothing needs it that this version does.
pub async fn docker() -> Option<Check> {
    const NAME: &str = "docker";
    let socket = Path::new("/var/run/docker.sock");
    if !socket.exists() {
        return None;
    }
    let asked = async {
        let client = reqwest::Client::builder().unix_socket(socket).timeout(LIMIT).build().ok()?;
        let version: serde_json::Value = client.get("http://docker/version").send().await.ok()?.json().await.ok()?;
        Some(format!("{}, API {}", version.get("Version")?.as_str()?, version.get("ApiVersion")?.as_str()?))
    };
    Some(match asked.await {
        Some(version) => Check::good(NAME, format!("version {version}; jobs do not get at it")),
        None => {
            Check::remark(NAME, format!("{} is there, and nobody answers", socket.display()), "systemctl start docker")
        }
    })
}

/// The GPUs, where the driver is loaded.
pub async fn gpus() -> Option<Check> {
    const NAME: &str = "gpus";
    if !Path::new("/proc/driver/nvidia/version").exists() {
        return None;
    }
    let query = ["--query-gpu=index,name,memory.total,driver_version", "--format=csv,noheader"];
    let asked = tokio::process::Command::new("nvidia-smi").args(query).kill_on_drop(true).output();
    Some(match tokio::time::timeout(LIMIT, asked).await {
        Ok(Ok(output)) if output.status.success() => {
            let found = String::from_utf8_lossy(&output.stdout);
            Check::good(NAME, found.lines().map(str::trim).collect::<Vec<_>>().join("; "))
        }
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            Check::bad(
                NAME,
                format!("nvidia-smi ended with {}: {said}", output.status),
                "look for `Xid` in dmesg; restart the machine",
            )
        }
        Ok(Err(error)) => {
            Check::bad(NAME, format!("nvidia-smi can't be run: {error}"), "install the tools of the loaded driver")
        }
        Err(_) => Check::bad(
            NAME,
            format!("nvidia-smi did not answer within {LIMIT:?}: the driver hangs"),
            "look for `Xid` in dmesg; restart the machine",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    #[tokio::test]
    async fn a_repository_that_can_be_read_is_told_from_one_that_can_not() {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        let git = |arguments: &[&str]| {
            let mut command = std::process::Command::new("git");
            command.arg("-C").arg(&work).args(["-c", "user.name=a", "-c", "user.email=a@example.com"]).args(arguments);
            assert!(command.status().unwrap().success());
        };
        std::fs::create_dir(&work).unwrap();
        git(&["init", "--quiet", "--initial-branch", "trunk"]);
        git(&["commit", "--quiet", "--allow-empty", "--message", "first"]);
        let yaml = format!(
            "repositories:\n  acme/a: {{clone-url: {}}}\n  acme/b: {{clone-url: {}}}\n  acme/c: {{}}\n",
            work.display(),
            folder.path().join("nowhere").display()
        );
        let config: Config = serde_yaml::from_str(&yaml).unwrap();
        let checks = repositories(&config, folder.path()).await;
        assert_eq!(checks.iter().map(|check| check.state).collect::<Vec<_>>(), [State::Good, State::Bad]);
        assert!(checks[0].found.contains("refs/heads/trunk is at"), "{}", checks[0].found);
        assert!(checks[1].found.contains("nowhere"), "{}", checks[1].found);
    }
}
