//! What lies outside of Segue and its work depends on: the clock, the repositories, Docker.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt as _, stream};
use nix::libc;
use segue_runner::{
    lambda::Lambda,
    mirror::{Mirrors, Source},
};
use segue_schemas::config::{Config, DockerConfig, LambdaConfig};

use super::Check;
use crate::cli::{connection::ServerArgs, ending::with_causes};

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

/// The engine for containers: the one that the worker is to use, and else whether there is one that it could.
pub async fn docker(config: &DockerConfig) -> Option<Check> {
    const NAME: &str = "docker";
    /// The engine's API must have what jobs are run with.
    const OLDEST: (u32, u32) = (1, 41);
    let usual = Path::new("/var/run/docker.sock");
    let Some(socket) = &config.socket else {
        let found = format!("{} is there; jobs that ask for a container are left to other workers", usual.display());
        let remedy = "to take them here, name it in segue.yaml: worker: { docker: { socket: /var/run/docker.sock } }";
        return usual.exists().then(|| Check::remark(NAME, found, remedy));
    };
    let shown = socket.display();
    if !socket.exists() {
        let remedy = "install Docker (apt-get install docker.io), start it, or mend `worker.docker.socket`";
        return Some(Check::bad(NAME, format!("{shown} is not there"), remedy));
    }
    let asked = async {
        let client = reqwest::Client::builder().unix_socket(socket.clone()).timeout(LIMIT).build()?;
        client.get("http://docker/version").send().await?.error_for_status()?.json::<serde_json::Value>().await
    };
    let text = |value: &serde_json::Value, name: &str| value.get(name)?.as_str().map(str::to_owned);
    Some(match asked.await {
        Ok(version) => {
            let api = text(&version, "ApiVersion").unwrap_or_default();
            let found = format!("version {}, API {api}, at {shown}", text(&version, "Version").unwrap_or_default());
            let number = api.split_once('.').and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)));
            if number.is_some_and(|number| number >= OLDEST) {
                Check::good(NAME, found)
            } else {
                Check::bad(NAME, found, "jobs in containers need Docker 20.10 or newer (API 1.41)")
            }
        }
        Err(error) => {
            let said = with_causes(&error);
            let remedy = "systemctl start docker; the user that the worker runs as must be able to use the socket";
            Check::bad(NAME, format!("{shown} is there, and nobody answers: {said}"), remedy)
        }
    })
}

/// Lambda Cloud, where jobs may rent machines: whether the key works, the names in the configuration mean something there, and what may be
/// spent at most.
pub async fn lambda(config: &LambdaConfig) -> Vec<Check> {
    const NAME: &str = "lambda";
    const REMEDY: &str = "look at `lambda` in segue.yaml";
    if !config.is_open() {
        return Vec::new();
    }
    let asked = async {
        let lambda = Lambda::new(config)?;
        Ok::<_, segue_runner::lambda::LambdaError>((lambda.types().await?, lambda.ssh_keys().await?))
    };
    let (offers, keys) = match asked.await {
        Ok(found) => found,
        Err(error) => return vec![Check::bad(NAME, error.to_string(), REMEDY)],
    };
    let most = config.max_price.unwrap_or_default();
    let may = |name: &str| config.types.is_empty() || config.types.iter().any(|listed| listed == name);
    let offered: Vec<_> = offers.iter().filter(|offer| may(&offer.name) && offer.price <= most).collect();
    let mut checks = Vec::new();
    if let Some(unknown) = config.types.iter().find(|name| offers.iter().all(|offer| offer.name != **name)) {
        checks.push(Check::bad(NAME, format!("it has no type `{unknown}`"), "mend `lambda.types` in segue.yaml"));
    }
    if let Some(unknown) = config.ssh_keys.iter().find(|key| !keys.contains(key)) {
        let remedy = "add it at https://cloud.lambda.ai/ssh-keys, or mend `lambda.ssh-keys` in segue.yaml";
        checks.push(Check::bad(NAME, format!("it has no SSH key `{unknown}`"), remedy));
    }
    if offered.is_empty() {
        let found = format!("no type that may be rented costs {most} USD an hour or less");
        checks.push(Check::bad(NAME, found, "raise `lambda.max-price` in segue.yaml"));
    }
    let there = offered.iter().filter(|offer| !offer.regions.is_empty()).count();
    let found = format!(
        "the key works; {} may rent {} types ({there} can be had now), {} at a time, {} USD an hour each, {} at most",
        config.repositories.join(", "),
        offered.len(),
        config.max_machines,
        most,
        config.max_lifetime
    );
    checks.push(Check::good(NAME, found));
    checks
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
