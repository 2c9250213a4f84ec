//! What a container is made with: the options of `docker create` that stay within it, as settings with their units.
//!
//! Comes in: arguments. Goes out: settings, or what is wrong with a value. Which options may be written at all is decided where
//! a pipeline is read (`pipeline/containers.rs`); an option that is unknown here is refused once more, whoever wrote it.

use std::time::Duration;

use segue_schemas::{
    deploy::{ServiceContainer, ServiceResources},
    id::Digest,
    plan::{ContainerPlan, Resources},
    size::Size,
};

/// Processes of a container, where nothing is said.
pub const DEFAULT_PIDS: i64 = 4096;
/// The most processes that may be asked for.
pub(crate) const MAX_PIDS: i64 = 65_536;
/// What the capabilities of a container come down to: what package managers and servers need within it. Without `MKNOD`, `NET_RAW`,
/// `SYS_CHROOT`, `SETFCAP`, `SETPCAP` and `AUDIT_WRITE`, which the engine would add to these (`docker run --help`, "Runtime privilege").
pub const CAPABILITIES: [&str; 8] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];

/// What a container is made with, besides its image, environment and volumes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Its host name.
    pub hostname: Option<String>,
    /// Whom its processes run as: `USER`, `UID` or `UID:GID`.
    pub user: Option<String>,
    /// Where its processes begin.
    pub workdir: Option<String>,
    /// Variables, `NAME=VALUE`.
    pub env: Vec<String>,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Thousandths of a processor.
    pub cpu_millis: Option<u64>,
    /// Its weight where processors are short.
    pub cpu_shares: Option<i64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; -1: any.
    pub memory_swap: Option<i64>,
    /// Bytes of memory that are left to it where memory is short.
    pub memory_reservation: Option<u64>,
    /// Bytes of `/dev/shm`.
    pub shm: Option<u64>,
    /// Processes and threads; `None`: [`DEFAULT_PIDS`].
    pub pids: Option<i64>,
    /// Limits by name: soft, hard.
    pub ulimits: Vec<(String, i64, i64)>,
    /// Directories in memory, with their mount options.
    pub tmpfs: Vec<(String, String)>,
    /// Capabilities that are dropped as well, without `CAP_`; `ALL`: every one.
    pub cap_drop: Vec<String>,
    /// Name servers.
    pub dns: Vec<String>,
    /// Domains that names are looked for in.
    pub dns_search: Vec<String>,
    /// `NAME:ADDRESS`.
    pub hosts: Vec<String>,
    /// Other names of it in the job's network.
    pub aliases: Vec<String>,
    /// Whether its own files can't be changed.
    pub read_only: bool,
    /// `linux/arm64` and the like.
    pub platform: Option<String>,
    /// When its image is pulled.
    pub pull: Option<Pull>,
    /// The signal that asks it to end.
    pub stop_signal: Option<String>,
    /// Seconds that it has to end.
    pub stop_seconds: Option<i64>,
    /// How its health is asked for; what is `None` is the image's.
    pub health: Health,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// Before each job.
    Always,
    /// Where it is missing.
    Missing,
    /// Not at all.
    Never,
}

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// The image's own is turned off.
    pub off: bool,
    /// A command for the container's shell.
    pub command: Option<String>,
    /// Between two checks.
    pub interval: Option<Duration>,
    /// How long a check may take.
    pub timeout: Option<Duration>,
    /// Failures in a row until it is unhealthy.
    pub retries: Option<i64>,
    /// How long failures at the beginning do not count.
    pub start_period: Option<Duration>,
}

/// The settings of a container that is planned. What `resources` says goes before options.
///
/// # Errors
/// The option, and what is wrong with its value.
pub fn settings(plan: &ContainerPlan) -> Result<Settings, String> {
    let mut settings = of_options(&plan.options)?;
    let Resources { cpu_millis, memory_bytes } = plan.resources.clone().unwrap_or_default();
    settings.cpu_millis = cpu_millis.or(settings.cpu_millis);
    settings.memory = memory_bytes.or(settings.memory);
    Ok(settings)
}

/// The settings of a service's container. What `user` and `resources` say goes before options.
///
/// # Errors
/// The option, and what is wrong with its value.
pub fn of_service(container: &ServiceContainer, resources: &ServiceResources) -> Result<Settings, String> {
    let text = container.options.as_deref().unwrap_or_default();
    let arguments = shlex::split(text).ok_or("these options cannot be taken apart: a quote is not closed")?;
    let mut settings = of_options(&arguments)?;
    settings.user = container.user.clone().or(settings.user);
    if let Some(Size(bytes)) = resources.memory {
        // swap would be memory beyond it
        (settings.memory, settings.memory_swap) = (Some(bytes), None);
    }
    settings.cpu_millis = resources.cpus.and_then(|cpus| millis(&cpus.to_string())).or(settings.cpu_millis);
    settings.pids = resources.pids.map(i64::from).or(settings.pids);
    Ok(settings)
}

/// The digest in an image's name: `NAME@sha256:...`, or `sha256:...` alone, which is that of an image that only its engine has.
/// `None`: the name can come to mean another image.
#[must_use]
pub fn pinned(image: &str) -> Option<Digest> {
    image.rsplit_once('@').map_or(image, |(_, digest)| digest).parse().ok()
}

/// Whether an image is named by what its engine knows it by, and no registry does.
#[must_use]
pub fn is_local(image: &str) -> bool {
    !image.contains('@') && pinned(image).is_some()
}

/// The settings that these arguments name.
///
/// # Errors
/// The option, and what is wrong with its value.
pub fn of_options(arguments: &[String]) -> Result<Settings, String> {
    let mut settings = Settings::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let (name, value) = argument.split_once('=').map_or((argument.as_str(), None), |(n, v)| (n, Some(v)));
        match (name, value) {
            // an init is there anyway, and nobody sits at a terminal
            ("--init" | "--tty" | "-t" | "--interactive" | "-i", None) => {}
            ("--read-only", None) => settings.read_only = true,
            ("--no-healthcheck", None) => settings.health.off = true,
            _ => {
                let value = value.map(str::to_owned).or_else(|| rest.next().cloned());
                let value = value.ok_or_else(|| format!("`{name}` has no value"))?;
                settings.set(name, &value)?;
            }
        }
    }
    Ok(settings)
}

impl Settings {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let wrong = |expected: &str| format!("`{name} {value}`: {expected} is expected");
        let size = || bytes(value).ok_or_else(|| wrong("a size such as `512m` or `2g`"));
        let number = || value.parse::<i64>().map_err(|_| wrong("a number"));
        let duration = || span(value).ok_or_else(|| wrong("a duration such as `10s` or `1m30s`"));
        let pair = || value.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        match name {
            "--health-cmd" => self.health.command = Some(value.to_owned()),
            "--health-interval" => self.health.interval = Some(duration()?),
            "--health-timeout" => self.health.timeout = Some(duration()?),
            "--health-retries" => self.health.retries = Some(number()?.max(0)),
            "--health-start-period" => self.health.start_period = Some(duration()?),
            // an engine of API 1.41 knows no interval of its own for the beginning
            "--health-start-interval" => drop(duration()?),
            "--hostname" | "-h" => self.hostname = Some(value.to_owned()),
            "--user" | "-u" => self.user = Some(value.to_owned()),
            "--workdir" | "-w" if value.starts_with('/') => self.workdir = Some(value.to_owned()),
            "--workdir" | "-w" => return Err(wrong("a path from the container's root")),
            "--cpus" => self.cpu_millis = Some(millis(value).ok_or_else(|| wrong("a number above 0"))?),
            "--cpu-shares" => self.cpu_shares = Some(number()?),
            "--memory" | "-m" => self.memory = Some(size()?),
            "--memory-swap" if value == "-1" => self.memory_swap = Some(-1),
            "--memory-swap" => self.memory_swap = Some(i64::try_from(size()?).map_err(|_| wrong("a size"))?),
            "--memory-reservation" => self.memory_reservation = Some(size()?),
            "--shm-size" => self.shm = Some(size()?),
            "--pids-limit" => match number()? {
                pids @ 1..=MAX_PIDS => self.pids = Some(pids),
                _ => return Err(wrong(&format!("a number from 1 to {MAX_PIDS}"))),
            },
            "--ulimit" => self.ulimits.push(ulimit(value).ok_or_else(|| wrong("`NAME=SOFT` or `NAME=SOFT:HARD`"))?),
            "--tmpfs" => {
                let (path, options) = value.split_once(':').unwrap_or((value, ""));
                if !path.starts_with('/') {
                    return Err(wrong("a path from the container's root"));
                }
                self.tmpfs.push((path.to_owned(), options.to_owned()));
            }
            "--label" | "-l" => self.labels.push(pair().unwrap_or_else(|| (value.to_owned(), String::new()))),
            "--env" | "-e" => match pair() {
                Some(_) => self.env.push(value.to_owned()),
                None => return Err(wrong("`NAME=VALUE`, as the worker's own environment stays with it,")),
            },
            "--stop-signal" => self.stop_signal = Some(value.to_owned()),
            "--stop-timeout" => self.stop_seconds = Some(number()?),
            "--cap-drop" => {
                let name = value.to_ascii_uppercase();
                self.cap_drop.push(name.strip_prefix("CAP_").unwrap_or(&name).to_owned());
            }
            "--dns" => self.dns.push(value.to_owned()),
            "--dns-search" => self.dns_search.push(value.to_owned()),
            "--add-host" => match value.split_once([':', '=']) {
                // the machine's own name in a network: what listens there is not the container's
                Some((_, "host-gateway")) => {
                    return Err(format!("`{name} {value}`: the machine itself is not reached"));
                }
                Some((host, address)) => self.hosts.push(format!("{host}:{address}")),
                None => return Err(wrong("`NAME:ADDRESS`")),
            },
            // the engine's names are the runner's; in its network the container has it all the same
            "--network-alias" | "--name" => self.aliases.push(value.to_owned()),
            "--platform" => self.platform = Some(value.to_owned()),
            "--pull" => self.pull = Some(pull(value).ok_or_else(|| wrong("`always`, `missing` or `never`"))?),
            _ => return Err(format!("`{name}` is no option that is known to stay within the container")),
        }
        Ok(())
    }

    /// The capabilities that it keeps.
    #[must_use]
    pub fn capabilities(&self) -> Vec<&'static str> {
        let dropped = |name: &str| self.cap_drop.iter().any(|dropped| dropped == name || dropped == "ALL");
        CAPABILITIES.into_iter().filter(|name| !dropped(name)).collect()
    }
}

/// `always`, `missing` (or `if-not-present`), `never`.
#[must_use]
pub fn pull(text: &str) -> Option<Pull> {
    match text {
        "always" => Some(Pull::Always),
        "missing" | "if-not-present" => Some(Pull::Missing),
        "never" => Some(Pull::Never),
        _ => None,
    }
}

/// An image's name with the tag that the engine would take for it: one without would have every tag pulled.
#[must_use]
pub fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

/// The registry that an image is from, as credentials name it; `None`: Docker Hub.
/// <https://pkg.go.dev/github.com/distribution/reference>: the first part is a registry if it holds a `.` or a `:`, or is `localhost`.
#[must_use]
pub fn registry(image: &str) -> Option<&str> {
    let (first, _) = image.split_once('/')?;
    (first.contains(['.', ':']) || first == "localhost").then_some(first)
}

/// A number of processors, in thousandths.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the limits")]
pub(crate) fn millis(text: &str) -> Option<u64> {
    let cpus: f64 = text.parse().ok()?;
    let millis = (cpus * 1000.0).round();
    (1.0..=1_024_000.0).contains(&millis).then_some(millis as u64)
}

/// `512MiB`, `2g`, `1048576`; the units of the container engine, which are powers of 1024.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let Size(bytes) = text.parse().ok()?;
    is_memory(bytes).then_some(bytes)
}

/// Whether a container can live with as much memory.
pub(crate) fn is_memory(bytes: u64) -> bool {
    (4 << 20..=1 << 44).contains(&bytes)
}

/// Durations as the engine's command line takes them: `300ms`, `10s`, `1m30s`, `0`.
fn span(text: &str) -> Option<Duration> {
    const LONGEST: Duration = Duration::from_secs(86_400);
    let mut total = Duration::ZERO;
    let mut rest = text;
    if text == "0" {
        return Some(total);
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        let unit = rest.get(digits..)?;
        let letters = unit.bytes().take_while(u8::is_ascii_alphabetic).count();
        let seconds = match unit.get(..letters)? {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number * seconds).ok()?;
        rest = unit.get(letters..)?;
    }
    (total > Duration::ZERO && total <= LONGEST).then_some(total)
}

fn ulimit(text: &str) -> Option<(String, i64, i64)> {
    let (name, limits) = text.split_once('=')?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    Some((name.to_owned(), soft.parse().ok()?, hard.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_services_memory_is_all_that_it_has_whatever_its_options_say() {
        let options = |text: &str| ServiceContainer { options: Some(text.into()), ..ServiceContainer::default() };
        for text in ["--memory-swap -1", "--memory 1g --memory-swap 8g", ""] {
            let limited = ServiceResources { memory: Some(Size(64 << 20)), ..ServiceResources::default() };
            let settings = of_service(&options(text), &limited).unwrap();
            assert_eq!((settings.memory, settings.memory_swap), (Some(64 << 20), None), "{text}");
        }
        let settings = of_service(&options("--memory 1g --memory-swap 8g"), &ServiceResources::default()).unwrap();
        assert_eq!((settings.memory, settings.memory_swap), (Some(1 << 30), Some(8 << 30)), "it is its own to say");
    }
}
