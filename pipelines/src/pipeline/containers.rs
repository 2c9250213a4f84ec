//! `container` and `services` of a job. What would leave the container is refused: there is no way to ask for it here.

use indexmap::IndexMap;
use segue_schemas::plan::{ContainerPlan, RegistryCredentials, Resources};

use super::{
    expressions::{CONTAINER_ENV, CREDENTIALS, JOB_SETTING, Scope},
    reader::{Keys, Reader},
};
use crate::{
    container::{bytes, millis, of_options},
    diagnostic::Code,
    document::{Content, Node, ScalarKind},
};

const CONTAINER: Keys =
    Keys { known: &["image", "env", "ports", "volumes", "options", "credentials", "resources"], later: &[] };
const CREDENTIAL_KEYS: Keys = Keys { known: &["username", "password"], later: &[] };
const RESOURCES: Keys = Keys { known: &["cpus", "memory"], later: &[] };

/// The most services of a job, and the most ports, volumes and arguments of a container.
const MAX_SERVICES: usize = 16;
const MAX_ITEMS: usize = 64;

/// Options of `docker create` that stay within the container; those behind the line take a value.
const SWITCHES: &[&str] = &["--init", "--read-only", "--no-healthcheck", "--tty", "-t", "--interactive", "-i"];
const WITH_VALUE: &[&str] = &[
    "--health-cmd",
    "--health-interval",
    "--health-timeout",
    "--health-retries",
    "--health-start-period",
    "--health-start-interval",
    "--hostname",
    "-h",
    "--user",
    "-u",
    "--workdir",
    "-w",
    "--cpus",
    "--cpu-shares",
    "--memory",
    "-m",
    "--memory-swap",
    "--memory-reservation",
    "--shm-size",
    "--tmpfs",
    "--ulimit",
    "--label",
    "-l",
    "--env",
    "-e",
    "--stop-signal",
    "--stop-timeout",
    "--pids-limit",
    "--cap-drop",
    "--dns",
    "--dns-search",
    "--add-host",
    "--network-alias",
    "--platform",
    "--pull",
    "--name",
];
/// What is refused, with the reason.
const REFUSED: &[(&str, &str)] = &[
    ("--privileged", "a privileged container is no container: it has the whole host"),
    ("--network", "a job's containers share a network of their own, and none has the host's"),
    ("--net", "a job's containers share a network of their own, and none has the host's"),
    ("--pid", "with the host's processes a container could end or read any of them"),
    ("--ipc", "with the host's memory a container could read that of others"),
    ("--uts", "the host's name is not a container's to change"),
    ("--userns", "with the host's users a container's root would be the host's"),
    ("--cgroupns", "with the host's control groups a container could lift its limits"),
    ("--cgroup-parent", "with the host's control groups a container could lift its limits"),
    ("--cap-add", "added capabilities lead out of the container"),
    ("--security-opt", "what confines the container is not lifted"),
    ("--device", "devices are the host's"),
    ("--device-cgroup-rule", "devices are the host's"),
    ("--gpus", "devices are the host's"),
    ("--volume", "a path of the host is not handed in; name a volume in `volumes`"),
    ("-v", "a path of the host is not handed in; name a volume in `volumes`"),
    ("--mount", "a path of the host is not handed in; name a volume in `volumes`"),
    ("--volumes-from", "a container's files are its own"),
    ("--sysctl", "the kernel's settings are the host's"),
    ("--entrypoint", "the runner starts the container and needs its own"),
    ("--publish", "ports are named in `ports`"),
    ("-p", "ports are named in `ports`"),
    ("--restart", "the runner ends containers with their job"),
];

impl Reader<'_, '_> {
    /// `container:` of a job, an image, or a mapping. An empty image is no container.
    pub(super) fn container(&mut self, node: &Node, what: &str, scope: &mut Scope) -> Option<ContainerPlan> {
        let Content::Mapping(_) = &node.content else {
            let image = self.template(node, what, &JOB_SETTING, scope)?;
            return (!image.trim().is_empty()).then(|| plain(image));
        };
        self.keys(node, &format!("`{what}`"), &CONTAINER);
        let Some(image) = node.get("image") else {
            self.missing("image", &format!("`{what}`"), &node.span, "name one: `image: debian:13`");
            return None;
        };
        let image = self.filled_template(image, "image", &JOB_SETTING, scope)?;
        scope.enter();
        let env = self.env(node, &CONTAINER_ENV, scope);
        scope.leave();
        let credentials = node.get("credentials").and_then(|node| self.credentials(node, scope));
        let resources = node.get("resources").and_then(|node| self.resources(node));
        let (ports, volumes, options) = (self.ports(node), self.volumes(node), self.options(node));
        Some(ContainerPlan { image, env, ports, volumes, options, credentials, resources })
    }

    /// `services:` of a job.
    pub(super) fn services(&mut self, node: &Node, scope: &mut Scope) -> IndexMap<String, ContainerPlan> {
        let mut services = IndexMap::new();
        let entries = self.entries(node, "services");
        if entries.len() > MAX_SERVICES {
            let message = format!("the job has {} services, and {MAX_SERVICES} are the limit", entries.len());
            self.findings.error(Code::TooMany, &node.span, message, Some("split the job".into()));
            return services;
        }
        for entry in entries {
            self.identifier(&entry.key, &entry.key_span, "a service");
            if let Some(service) = self.container(&entry.value, &format!("services.{}", entry.key), scope) {
                services.insert(entry.key.clone(), service);
            }
        }
        services
    }

    fn credentials(&mut self, node: &Node, scope: &mut Scope) -> Option<RegistryCredentials> {
        if !self.keys(node, "`credentials`", &CREDENTIAL_KEYS) {
            return None;
        }
        let mut part = |reader: &mut Self, key: &str| match node.get(key) {
            Some(node) => reader.filled_template(node, key, &CREDENTIALS, scope),
            None => {
                reader.missing(key, "`credentials`", &node.span, "both are needed: `{ username: ..., password: ... }`");
                None
            }
        };
        let (username, password) = (part(self, "username"), part(self, "password"));
        if let (Some(node), Some(text)) = (node.get("password"), &password)
            && !text.contains("${{")
        {
            let help = "keep it as a secret: `password: ${{ secrets.REGISTRY_PASSWORD }}`";
            self.findings.error(Code::InvalidValue, &node.span, "a password stands in the file", Some(help.into()));
        }
        Some(RegistryCredentials { username: username?, password: password? })
    }

    fn resources(&mut self, node: &Node) -> Option<Resources> {
        if !self.keys(node, "`resources`", &RESOURCES) {
            return None;
        }
        let mut resources = Resources::default();
        if let Some(cpus) = node.get("cpus") {
            resources.cpu_millis = cpus.scalar().and_then(|scalar| match scalar.kind {
                ScalarKind::Integer(_) | ScalarKind::Float(_) => millis(&scalar.text),
                _ => None,
            });
            if resources.cpu_millis.is_none() {
                let help = Some("write a number of processors: `cpus: 1.5`".into());
                self.findings.error(Code::InvalidValue, &cpus.span, "`cpus` is no number above 0 up to 1024", help);
            }
        }
        if let Some(memory) = node.get("memory") {
            resources.memory_bytes = memory.scalar().and_then(|scalar| bytes(&scalar.text));
            if resources.memory_bytes.is_none() {
                let help = Some("write a number and a unit: `memory: 512MiB`, or `2g`".into());
                self.findings.error(Code::InvalidValue, &memory.span, "`memory` is no size from 4 MiB on", help);
            }
        }
        Some(resources)
    }

    fn ports(&mut self, owner: &Node) -> Vec<String> {
        let ports = self.some_texts(owner, "ports");
        for (port, span) in &ports {
            if !is_port(port) {
                let message = format!("`{port}` is no port");
                let help = "write `80` for a free port of the host, `8080:80`, or `8080:80/udp`";
                self.findings.error(Code::InvalidValue, span, message, Some(help.into()));
            }
        }
        ports.into_iter().map(|(port, _)| port).collect()
    }

    fn volumes(&mut self, owner: &Node) -> Vec<String> {
        let volumes = self.some_texts(owner, "volumes");
        for (volume, span) in &volumes {
            if let Some(problem) = volume_problem(volume) {
                let help = "write `NAME:/path` for a volume of that name, or `/path` for one without";
                self.findings.error(Code::InvalidValue, span, format!("`{volume}`: {problem}"), Some(help.into()));
            }
        }
        volumes.into_iter().map(|(volume, _)| volume).collect()
    }

    /// `options:` as arguments.
    fn options(&mut self, owner: &Node) -> Vec<String> {
        let Some(node) = owner.get("options") else { return Vec::new() };
        let Some(text) = self.plain(node, "options") else { return Vec::new() };
        let Some(arguments) = shlex::split(&text).filter(|arguments| arguments.len() <= 2 * MAX_ITEMS) else {
            let message = "these options cannot be taken apart: a quote is not closed, or there are too many";
            self.findings.error(Code::InvalidValue, &node.span, message, None);
            return Vec::new();
        };
        let errors = self.findings.errors();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let (name, value) = argument.split_once('=').map_or((argument.as_str(), None), |(n, v)| (n, Some(v)));
            if let Some(why) = refused(name) {
                let message = format!("`{name}` is refused: {why}");
                self.findings.error(Code::InvalidValue, &node.span, message, Some("take it out".into()));
                rest.next_if_value(value.is_none());
            } else if SWITCHES.contains(&name) && value.is_none() {
                continue;
            } else if WITH_VALUE.contains(&name) {
                if value.is_none() && rest.next().is_none() {
                    self.findings.error(Code::InvalidValue, &node.span, format!("`{name}` has no value"), None);
                }
            } else {
                let message = format!("`{name}` is no option that is known to stay within the container");
                let known = "health checks, hostname, user, workdir, limits, labels, environment are";
                self.findings.error(Code::InvalidValue, &node.span, message, Some(known.into()));
                break;
            }
        }
        if self.findings.errors() == errors
            && let Err(message) = of_options(&arguments)
        {
            self.findings.error(Code::InvalidValue, &node.span, message, None);
        }
        arguments
    }

    fn some_texts(&mut self, owner: &Node, what: &str) -> Vec<(String, std::ops::Range<usize>)> {
        let Some(node) = owner.get(what) else { return Vec::new() };
        let texts = self.plain_list(node, what);
        if texts.len() > MAX_ITEMS {
            let message = format!("`{what}` has {} entries, and {MAX_ITEMS} are the limit", texts.len());
            self.findings.error(Code::TooMany, &node.span, message, None);
        }
        texts
    }
}

/// The value behind an option that is refused belongs to it, where it looks like one.
trait NextIfValue {
    fn next_if_value(&mut self, may: bool);
}

impl NextIfValue for std::slice::Iter<'_, String> {
    fn next_if_value(&mut self, may: bool) {
        if may && self.as_slice().first().is_some_and(|next| !next.starts_with('-')) {
            self.next();
        }
    }
}

fn plain(image: String) -> ContainerPlan {
    ContainerPlan {
        image,
        env: IndexMap::new(),
        ports: Vec::new(),
        volumes: Vec::new(),
        options: Vec::new(),
        credentials: None,
        resources: None,
    }
}

fn is_port(text: &str) -> bool {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let is_number = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
    let mut parts = ports.split(':');
    matches!(protocol, "tcp" | "udp")
        && parts.clone().count() <= 2
        && parts.all(|part| is_number(part) && part.bytes().all(|b| b.is_ascii_digit()))
}

/// Why an option is refused, where it is one of those that lead out of the container.
pub(crate) fn refused(option: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(refused, _)| *refused == option).map(|(_, why)| *why)
}

/// What is wrong with a volume of a container.
pub(crate) fn volume_problem(volume: &str) -> Option<&'static str> {
    if volume.contains("docker.sock") {
        return Some("the engine's socket is the whole host");
    }
    let mut parts = volume.split(':');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let Some(target) = second else {
        return (!first.starts_with('/') || first.contains("..")).then_some("a path in the container begins with `/`");
    };
    let is_name = first.starts_with(|c: char| c.is_ascii_alphanumeric())
        && first.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    match () {
        () if !is_name => Some("a path of the host is not handed in"),
        () if !target.starts_with('/') || target.contains("..") => Some("a path in the container begins with `/`"),
        () if !matches!(third, None | Some("ro" | "rw")) || parts.next().is_some() => {
            Some("only `ro` or `rw` comes after it")
        }
        () => None,
    }
}
