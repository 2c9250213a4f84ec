//! The operator's file, `segue.yaml`.
//!
//! Comes in: its name and text. Goes out: the configuration, or everything that is wrong with it. Never here: reading
//! files, overrides from the environment.

mod broker;
mod engines;
mod github;
mod lambda;
mod previews;
mod protection;
mod routers;
mod storage;

use std::{net::SocketAddr, ops::Range};

use segue_schemas::{
    config::{Config, EnvironmentConfig},
    id::is_name,
};

use crate::{
    diagnostic::{Code, Diagnostic, Findings, Source},
    document::{self, Entry, Node},
    gpu,
    nearest::did_you_mean,
    preview,
    service::is_variable,
};
use engines::{doubled_listens, faults_of_host, faults_of_look, no_engine_of_jobs};
use previews::{PreviewFault, keys_of_previews, preview_faults};
use protection::{ProtectionFault, protection_faults};
use routers::{RouterFault, router_faults, sleepless};

pub use broker::{BrokerFault, address_fault, broker_faults};
pub use engines::{EngineAddress, EngineFault, engine_faults, look_faults, one_address};
pub use github::{GitHubFault, github_faults};
pub use lambda::{LambdaFault, lambda_faults};
pub use storage::{StorageFault, is_loopback_endpoint, storage_faults};

/// Environments and hosts that exist without being named.
const BUILT_IN_ENVIRONMENTS: [&str; 2] = ["staging", "production"];
const BUILT_IN_HOST: &str = "local";

/// Reads the operator's file. An empty one is the default configuration.
///
/// # Errors
/// Everything that is wrong with the file, in the order of its lines.
pub fn parse(path: &str, text: &str) -> Result<Config, Vec<Diagnostic>> {
    let mut findings = Findings::new(Source::new(path, text));
    let root = document::parse(&mut findings);
    let config = match &root {
        Some(root) if !root.is_null() => document::deserialize(root, &mut findings).inspect(|config| {
            Check { root, config, findings: &mut findings }.all();
        }),
        _ => Some(Config::default()),
    };
    match config.filter(|_| !findings.has_errors()) {
        Some(config) => Ok(config),
        None => Err(findings.finish()),
    }
}

struct Check<'n, 'f, 's> {
    root: &'n Node,
    config: &'n Config,
    findings: &'f mut Findings<'s>,
}

impl<'n> Check<'n, '_, '_> {
    fn all(&mut self) {
        self.repositories();
        self.environments();
        self.hosts();
        self.worker();
        self.notifications();
        self.github();
        self.public_url();
        self.broker();
        self.storage();
        self.lambda();
        self.limits();
    }

    fn repositories(&mut self) {
        for entry in self.entries("repositories") {
            let named = entry.key.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name));
            if !named {
                let message = format!("`{}` is no repository", entry.key);
                self.refuse(&entry.key_span, message, Some("write `owner/name`".into()));
            }
            self.variables(&entry.value);
        }
    }

    fn environments(&mut self) {
        for entry in self.entries("environments") {
            self.name(entry, "an environment");
            self.variables(&entry.value);
            let Some(environment) = self.config.environments.get(&entry.key) else { continue };
            if environment.hosts.is_empty() {
                let message = format!("the environment `{}` has no host", entry.key);
                let help = Some(format!("name one, or leave `hosts` out: that is `{BUILT_IN_HOST}`"));
                self.refuse(&document::place(&entry.value, &["hosts"]), message, help);
            }
            let hosts: Vec<&str> = self.config.hosts.keys().map(String::as_str).chain([BUILT_IN_HOST]).collect();
            self.known(&entry.value, "hosts", &environment.hosts, "host", &hosts);
            let names = self.config.environments.keys().map(String::as_str);
            let environments: Vec<&str> = names.chain(BUILT_IN_ENVIRONMENTS).collect();
            let required = environment.requires.as_deref().unwrap_or_default();
            self.known(&entry.value, "requires", required, "environment", &environments);
            if required.contains(&entry.key) {
                let message =
                    format!("the environment `{}` requires itself, so nothing could ever come here", entry.key);
                self.refuse(&document::place(&entry.value, &["requires"]), message, None);
            }
            self.known(&entry.value, "data-from", &environment.data_from, "environment", &environments);
            if environment.data_from.contains(&entry.key) {
                let message = format!("the environment `{}` has its own data already", entry.key);
                self.refuse(&document::place(&entry.value, &["data-from"]), message, None);
            }
            if entry.key == preview::ENVIRONMENT && !environment.data_from.is_empty() {
                let message = "the data of previews go with their pull requests: fill them with `seed`";
                self.refuse(&document::place(&entry.value, &["data-from"]), message, None);
            }
            self.previews(entry, environment);
            for ProtectionFault { span, message, help } in protection_faults(environment, &entry.value) {
                self.refuse(&span, message, help);
            }
        }
    }

    fn previews(&mut self, entry: &Entry, environment: &EnvironmentConfig) {
        if entry.key == preview::ENVIRONMENT {
            for PreviewFault { key, message, help } in preview_faults(environment) {
                self.refuse(&document::place(&entry.value, &[key]), message, Some(help));
            }
            if environment.previews().sleep_after.is_some()
                && let Some(host) = sleepless(self.config, environment)
            {
                let message =
                    format!("previews sleep, and the router of the host `{host}` can't hold their requests meanwhile");
                let help = "write `sleep-after: 0s`, or give that host `router: embedded`";
                self.refuse(&document::place(&entry.value, &["sleep-after"]), message, Some(help.into()));
            }
            return;
        }
        for key in keys_of_previews(environment) {
            let message = format!("`{key}` is for previews, and `{}` holds none", entry.key);
            let help = format!("write it under `environments.{}`", preview::ENVIRONMENT);
            self.refuse(&document::place(&entry.value, &[key]), message, Some(help));
        }
    }

    fn hosts(&mut self) {
        let doubled = doubled_listens(self.config);
        for entry in self.entries("hosts") {
            self.name(entry, "a host");
            for address in entry.value.get("listen").map_or(&[][..], Node::items) {
                let text = address.scalar().map_or("", |scalar| scalar.text.as_str());
                if text.parse::<SocketAddr>().is_err() {
                    let message = format!("`{text}` is no address to listen on");
                    self.refuse(&address.span, message, Some("write address and port: `127.0.0.1:8080`".into()));
                }
            }
            let Some(host) = self.config.hosts.get(&entry.key) else { continue };
            if let Some(gpu) = named_wrongly(&host.gpus) {
                self.refuse(
                    &document::place(&entry.value, &["gpus"]),
                    format!("`{gpu}` names no GPU"),
                    Some(GPU_HELP.into()),
                );
            }
            if let Some(message) = host.dcgm.as_deref().and_then(dcgm_fault) {
                self.refuse(&document::place(&entry.value, &["dcgm"]), message, Some(DCGM_HELP.into()));
            }
            for EngineFault { key, message, help } in faults_of_host(&entry.key, host) {
                let is_written =
                    !key.is_empty() && entry.value.get("docker").is_some_and(|node| node.get(key).is_some());
                let path = if is_written { &["docker", key][..] } else { &["docker"] };
                self.refuse(&document::place(&entry.value, path), message, Some(help));
            }
            for EngineFault { key, message, help } in faults_of_look(host) {
                self.refuse(&document::place(&entry.value, &[key]), message, Some(help));
            }
            for RouterFault { key, message, help } in router_faults(host) {
                self.refuse(&document::place(&entry.value, &[key]), message, Some(help));
            }
            for (_, index, other) in doubled.iter().filter(|(name, ..)| *name == entry.key) {
                let Some(address) = entry.value.get("listen").and_then(|list| list.items().get(*index)) else {
                    continue;
                };
                let message = format!("the router of `{other}` listens here already");
                let help = "write an address or a port that no other host of this machine has";
                self.refuse(&address.span, message, Some(help.into()));
            }
        }
    }

    fn worker(&mut self) {
        let worker = &self.config.worker;
        if !(1..=1024).contains(&worker.capacity) {
            let message = format!("`capacity` is {}, and 1 to 1024 are allowed", worker.capacity);
            self.refuse(&self.place(&["worker", "capacity"]), message, None);
        }
        if worker.name.as_deref().is_some_and(|name| !is_name(name)) {
            self.refuse(&self.place(&["worker", "name"]), "this cannot name a worker", Some(NAME_HELP.into()));
        }
        if worker.labels.iter().any(|label| label.trim().is_empty()) {
            self.refuse(&self.place(&["worker", "labels"]), "a label is empty", Some("remove it".into()));
        }
        let socket = worker.docker.socket.as_ref().map(|socket| socket.to_string_lossy());
        if let Some(EngineFault { key, message, help }) = socket.as_deref().and_then(no_engine_of_jobs) {
            self.refuse(&self.place(&["worker", "docker", key]), message, Some(help));
        }
        if let Some(gpu) = named_wrongly(&worker.gpus) {
            self.refuse(&self.place(&["worker", "gpus"]), format!("`{gpu}` names no GPU"), Some(GPU_HELP.into()));
        }
    }

    fn notifications(&mut self) {
        let Some(list) = self.root.get("notifications") else { return };
        if list.items().len() != self.config.notifications.len() {
            // some could not be read, and say so already
            return;
        }
        for (item, notification) in list.items().iter().zip(&self.config.notifications) {
            let message = match (&notification.url, &notification.url_file) {
                (None, None) => "this says nobody's address",
                (Some(_), Some(_)) => "`url` and `url-file` both give an address",
                _ => continue,
            };
            let help = Some("give `url-file`, a file that holds the address, or `url` where it is no secret".into());
            self.refuse(&item.span, message, help);
        }
    }

    fn github(&mut self) {
        for GitHubFault { key, message, help } in github_faults(&self.config.github) {
            self.refuse(&self.place(&["github", key]), message, Some(help));
        }
    }

    fn public_url(&mut self) {
        let Some(url) = &self.config.public_url else { return };
        if !is_public(url) {
            let help =
                "write where people reach the server, without anything behind its path: `https://ci.example.com`";
            self.refuse(&self.place(&["public-url"]), format!("`{url}` is no such address"), Some(help.into()));
        }
    }

    fn broker(&mut self) {
        for BrokerFault { key, message, help } in broker_faults(&self.config.broker) {
            self.refuse(&self.place(&["broker", key]), message, Some(help));
        }
    }

    fn storage(&mut self) {
        for StorageFault { key, message, help } in storage_faults(&self.config.storage) {
            self.refuse(&self.place(&["storage", key]), message, Some(help));
        }
    }

    fn lambda(&mut self) {
        for LambdaFault { key, message, help } in lambda_faults(&self.config.lambda) {
            self.refuse(&self.place(&["lambda", key]), message, Some(help));
        }
    }

    fn limits(&mut self) {
        let timing = &self.config.timing;
        for (key, span) in [("lease", timing.lease), ("renew", timing.renew), ("dead-man", timing.dead_man)] {
            if span.0.is_zero() {
                self.refuse(&self.place(&["timing", key]), format!("`{key}` cannot be 0"), None);
            }
        }
        if timing.renew.0 * 2 > timing.lease.0 {
            let message = format!(
                "`renew` is {} and `lease` {}: one late renewal would lose the lease",
                timing.renew, timing.lease
            );
            let key = if self.root.get("timing").and_then(|timing| timing.get("renew")).is_some() {
                "renew"
            } else {
                "lease"
            };
            self.refuse(&self.place(&["timing", key]), message, Some("make the lease at least twice as long".into()));
        }
        if self.config.retention.releases == 0 {
            let help = Some("keep at least 1: it is what a rollback goes back to".into());
            self.refuse(&self.place(&["retention", "releases"]), "no release would be kept", help);
        }
    }

    fn name(&mut self, entry: &Entry, what: &str) {
        if !is_name(&entry.key) {
            let message = format!("`{}` cannot name {what}", entry.key);
            self.refuse(&entry.key_span, message, Some(NAME_HELP.into()));
        }
    }

    fn variables(&mut self, owner: &Node) {
        for entry in
            owner.get("variables").map_or(&[][..], Node::entries).iter().filter(|entry| !is_variable(&entry.key))
        {
            let message = format!("`{}` cannot name a variable", entry.key);
            let help = Some("use letters, digits and `_`, not beginning with a digit".into());
            self.refuse(&entry.key_span, message, help);
        }
    }

    fn known(&mut self, owner: &Node, key: &str, names: &[String], what: &str, known: &[&str]) {
        let items = owner.get(key).map_or(&[][..], Node::items);
        for (item, name) in items.iter().zip(names).filter(|(_, name)| !known.contains(&name.as_str())) {
            let help = did_you_mean(name, known.iter().copied())
                .unwrap_or_else(|| format!("add it under `{what}s`; known: {}", known.join(", ")));
            self.refuse(&item.span, format!("there is no {what} `{name}`"), Some(help));
        }
    }

    fn entries(&self, key: &str) -> &'n [Entry] {
        self.root.get(key).map_or(&[], Node::entries)
    }

    fn place(&self, path: &[&str]) -> Range<usize> {
        document::place(self.root, path)
    }

    fn refuse(&mut self, span: &Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.findings.error(Code::InvalidValue, span, message, help);
    }
}

/// Whether a text is an address that links can begin with: nothing in it ends a link or says who asks.
fn is_public(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~/:[]".contains(c);
    rest.is_some_and(|rest| {
        rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[') && rest.chars().all(is_plain)
    })
}

const NAME_HELP: &str = "use 1 to 64 letters, digits, `-`, `_` and `.`, beginning with none of `-` and `.`";
const GPU_HELP: &str = "write `[all]`, or UUIDs as `nvidia-smi -L` prints them: `[GPU-5b4e07f6-...]`";

/// What to write in the place of an address at which no exporter is asked.
pub const DCGM_HELP: &str = "write the address of its metrics on this machine, `http://127.0.0.1:9400/metrics`, or one that begins with `https://`";

/// Why nothing is asked at an address of a dcgm-exporter: what it says may quarantine the host, so nobody on the way may write it.
#[must_use]
pub fn dcgm_fault(url: &str) -> Option<String> {
    let host = |rest: &str| rest.split('/').next().unwrap_or_default().to_owned();
    let is_named = |host: &str| !host.is_empty() && !host.contains('@');
    let is_safe = match url.split_once("://") {
        Some(("http", rest)) => is_named(&host(rest)) && is_loopback_endpoint(&format!("http://{}", host(rest))),
        Some(("https", rest)) => is_named(&host(rest)),
        _ => false,
    };
    let is_plain = url.chars().all(|c| c.is_ascii_graphic());
    (!is_safe || !is_plain).then(|| format!("`{url}` is no address of an exporter on this machine, and none with TLS"))
}

/// The first that names no GPU.
fn named_wrongly(gpus: &[String]) -> Option<&String> {
    gpus.iter().find(|gpu| *gpu != gpu::ALL && !gpu.starts_with("GPU-"))
}
