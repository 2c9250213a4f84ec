//! Service files, `.segue/services/<service>.yml`.
//!
//! Comes in: a file's name and text. Goes out: the service's description, or everything that is wrong with it. Never here:
//! reading files, starting services.

use segue_schemas::{
    assignment::{MAX_RULES, Sticky},
    deploy::{ServiceBackup, ServiceContainer, ServiceSpec},
    id::is_name,
    size::Size,
    sync::ServiceSync,
};

use crate::{
    container::{MAX_PIDS, is_memory, millis, of_service},
    diagnostic::{Code, Diagnostic, Findings, Source},
    document::{self, Node},
    pipeline::containers::{refused, volume_problem},
    preview::ENVIRONMENT as PREVIEW,
    sanitise::{self, Mistake},
    sync,
};

/// The most volumes of a service.
const MAX_VOLUMES: usize = 64;

/// Reads a service file. A name that is left out is the file's stem.
///
/// # Errors
/// Everything that is wrong with the file, in the order of its lines.
pub fn parse(path: &str, text: &str) -> Result<ServiceSpec, Vec<Diagnostic>> {
    let mut findings = Findings::new(Source::new(path, text));
    let spec = document::parse(&mut findings).and_then(|root| read(&root, &mut findings));
    if let Some(spec) = spec.filter(|_| !findings.has_errors()) {
        return Ok(spec);
    }
    if !findings.has_errors() {
        let help = Some("write at least `command: [\"./server\"]`, or `container: {port: 8080}`".into());
        findings.error(Code::EmptyDocument, &(0..0), "the service file is empty", help);
    }
    Err(findings.finish())
}

fn read(root: &Node, findings: &mut Findings<'_>) -> Option<ServiceSpec> {
    if root.is_null() {
        return None;
    }
    let mut spec: ServiceSpec = document::deserialize(root, findings)?;
    let stem = file_stem(findings.source.file);
    if spec.name.is_empty() {
        spec.name = stem.to_owned();
    }
    let mut check = Check { root, findings };
    check.name(&spec, stem);
    check.command(&spec);
    check.resources(&spec);
    if let Some(container) = &spec.container {
        check.container(container, &spec);
    }
    check.variables("env");
    check.requests(&spec);
    check.routes(&spec);
    check.rules(&spec);
    if let Some(sticky) = &spec.sticky {
        check.sticky(sticky);
    }
    if let Some(backup) = &spec.backup {
        check.backup(backup, &spec);
    }
    if let Some(sync) = &spec.sync {
        check.sync(sync, &spec);
    }
    check.no_expressions(root);
    Some(spec)
}

struct Check<'n, 'f, 's> {
    root: &'n Node,
    findings: &'f mut Findings<'s>,
}

impl Check<'_, '_, '_> {
    fn name(&mut self, spec: &ServiceSpec, stem: &str) {
        if !is_name(&spec.name) {
            let message = format!("`{}` cannot name a service", spec.name);
            let help = "use 1 to 64 letters, digits, `-`, `_` and `.`, beginning with none of `-` and `.`";
            self.refuse(&["name"], message, Some(help));
        } else if spec.name != stem {
            let message = format!("the service is named `{}`, but its file `{stem}`", spec.name);
            self.refuse(&["name"], message, Some("leave `name` out, or name the file like the service"));
        }
    }

    fn command(&mut self, spec: &ServiceSpec) {
        if spec.container.is_some() && spec.command.is_empty() {
            return;
        }
        if spec.command.first().is_none_or(|program| program.trim().is_empty()) {
            let help = "name the program and its arguments: `command: [\"./server\", \"--port\", \"$PORT\"]`";
            self.refuse(&["command"], "the command is empty", Some(help));
        }
    }

    fn resources(&mut self, spec: &ServiceSpec) {
        let resources = &spec.resources;
        if spec.container.is_none() && !resources.is_empty() {
            let help = "run it from an image, with `container:`, or leave `resources` out";
            let message = "a process has no limits here: `resources` are a container's";
            self.refuse(&["resources"], message, Some(help));
            return;
        }
        if let Some(memory) = resources.memory.filter(|Size(bytes)| !is_memory(*bytes)) {
            let help = Some("write 4MiB or more, such as `512MiB`");
            self.refuse(&["resources", "memory"], format!("{memory} of memory are not enough, or too much"), help);
        }
        if let Some(cpus) = resources.cpus.filter(|cpus| millis(&cpus.to_string()).is_none()) {
            let help = Some("write a number of processors above 0 and up to 1024: `cpus: 0.5`");
            self.refuse(&["resources", "cpus"], format!("`{cpus}` is no number of processors"), help);
        }
        if let Some(pids) = resources.pids.filter(|pids| !(1..=MAX_PIDS).contains(&i64::from(*pids))) {
            let message = format!("`pids` is {pids}, and 1 to {MAX_PIDS} are allowed");
            self.refuse(&["resources", "pids"], message, None);
        }
    }

    fn container(&mut self, container: &ServiceContainer, spec: &ServiceSpec) {
        if container.port == 0 {
            self.refuse(&["container", "port"], "0 is no port", Some("write the port that the service listens on"));
        }
        for volume in &container.volumes {
            if let Some(problem) = volume_problem(volume) {
                let help = "write `NAME:/path` for a volume of that name, or `/path` for one without";
                self.refuse(&["container", "volumes"], format!("`{volume}`: {problem}"), Some(help));
            }
        }
        if container.volumes.len() > MAX_VOLUMES {
            let message = format!("there are {} volumes, and {MAX_VOLUMES} are the limit", container.volumes.len());
            self.refuse(&["container", "volumes"], message, None);
        }
        let options = shlex::split(container.options.as_deref().unwrap_or_default()).unwrap_or_default();
        let leads_out = options.iter().find_map(|option| {
            let name = option.split('=').next().unwrap_or(option);
            refused(name).map(|why| format!("`{name}` is refused: {why}"))
        });
        let problem = leads_out.or_else(|| of_service(container, &spec.resources).err());
        if let Some(problem) = problem {
            self.refuse(&["container", "options"], problem, Some("take it out"));
        }
    }

    fn variables(&mut self, key: &str) {
        let Some(variables) = self.root.get(key) else { return };
        for entry in variables.entries().iter().filter(|entry| !is_variable(&entry.key)) {
            let message = format!("`{}` cannot name an environment variable", entry.key);
            let help = Some("use letters, digits and `_`, not beginning with a digit".into());
            self.findings.error(Code::InvalidValue, &entry.key_span, message, help);
        }
    }

    fn requests(&mut self, spec: &ServiceSpec) {
        let slash = Some("begin it with `/`");
        if !spec.health.path.starts_with('/') {
            self.refuse(&["health", "path"], format!("`{}` is no path of a request", spec.health.path), slash);
        }
        if spec.health.tries == 0 {
            self.refuse(&["health", "tries"], "a health check needs at least one try", Some("write 1 or more"));
        }
        for (key, span) in [("interval", spec.health.interval), ("timeout", spec.health.timeout)] {
            if span.0.is_zero() {
                self.refuse(&["health", key], format!("`{key}` of a health check cannot be 0"), Some("write `1s`"));
            }
        }
        let warm_ups = if self.is_whole("warm-up", spec.warm_up.len()) { &spec.warm_up[..] } else { &[] };
        for (i, warm_up) in warm_ups.iter().enumerate() {
            if !warm_up.path.starts_with('/') {
                self.refuse_item("warm-up", i, "path", format!("`{}` is no path of a request", warm_up.path), slash);
            }
            if !(1..=1000).contains(&warm_up.count) {
                let message = format!("`count` is {}, and 1 to 1000 are allowed", warm_up.count);
                self.refuse_item("warm-up", i, "count", message, None);
            }
        }
        if !(1..=64).contains(&spec.replicas) {
            self.refuse(&["replicas"], format!("`replicas` is {}, and 1 to 64 are allowed", spec.replicas), None);
        }
    }

    fn routes(&mut self, spec: &ServiceSpec) {
        let routes = if self.is_whole("routes", spec.routes.len()) { &spec.routes[..] } else { &[] };
        for (i, route) in routes.iter().enumerate() {
            if !route.path.starts_with('/') {
                let message = format!("`{}` is no path of a request", route.path);
                self.refuse_item("routes", i, "path", message, Some("begin it with `/`"));
            }
            if let Some(host) = route.host.as_deref().filter(|host| !is_host(host)) {
                let message = format!("`{host}` is no host name");
                self.refuse_item(
                    "routes",
                    i,
                    "host",
                    message,
                    Some("write the name alone, without scheme, port and path"),
                );
            }
            if let Some(environment) = route.environment.as_deref().filter(|name| !is_name(name)) {
                let message = format!("`{environment}` cannot name an environment");
                self.refuse_item("routes", i, "environment", message, None);
            }
        }
    }

    fn rules(&mut self, spec: &ServiceSpec) {
        if spec.rules.len() > MAX_RULES {
            let message = format!("there are {} rules, and {MAX_RULES} are the limit", spec.rules.len());
            self.refuse(&["rules"], message, None);
        }
        let rules = if self.is_whole("rules", spec.rules.len()) { &spec.rules[..] } else { &[] };
        for (i, rule) in rules.iter().enumerate() {
            if let Err(problem) = rule.parts() {
                self.refuse_item("rules", i, problem.key, problem.message, Some(problem.help));
            } else if let Some(earlier) = rules[..i].iter().position(|earlier| earlier.is_same_match(rule)) {
                let message = format!("rule {} looks for the same, so this one matches nothing", earlier + 1);
                self.refuse_item("rules", i, "to", message, Some("take one of the two out"));
            } else if rule.cookie.is_some() && rule.cookie.as_ref() == spec.sticky.as_ref().map(|sticky| &sticky.cookie)
            {
                let message = "this is the cookie that clients are known by, whose value is random".into();
                self.refuse_item(
                    "rules",
                    i,
                    "cookie",
                    message,
                    Some("look at another cookie, or give `sticky` another"),
                );
            }
        }
    }

    fn sticky(&mut self, sticky: &Sticky) {
        if let Err(problem) = sticky.check() {
            self.refuse(&["sticky", problem.key], problem.message, Some(problem.help));
        }
    }

    fn backup(&mut self, backup: &ServiceBackup, spec: &ServiceSpec) {
        let empty = |text: &str| text.trim().is_empty();
        if let Some(image) = &backup.container {
            if spec.container.is_none() {
                let message = "`container` is for the backup of a service that runs as one: this one is a process, and backed up beside it";
                self.refuse(&["backup", "container"], message, Some("take it out"));
            } else if empty(image) || image.contains(char::is_whitespace) {
                let help = Some("write its name as `docker pull` takes it: `postgres:17`");
                self.refuse(&["backup", "container"], format!("`{image}` cannot name an image"), help);
            }
        }
        if empty(&backup.run) {
            let help = "write what backs up to its standard output: `run: pg_dump \"$DATABASE_URL\"`";
            self.refuse(&["backup", "run"], "the command is empty", Some(help));
        }
        if backup.restore.as_deref().is_some_and(empty) {
            let help = "write what reads a backup from its standard input, or leave `restore` out";
            self.refuse(&["backup", "restore"], "the command is empty", Some(help));
        }
        for environment in &backup.environments {
            if !is_name(environment) {
                let message = format!("`{environment}` cannot name an environment");
                self.refuse(&["backup", "environments"], message, None);
            } else if environment == PREVIEW {
                let message = "previews go with their pull requests, and their data with them: they are not backed up";
                self.refuse(&["backup", "environments"], message, Some("take it out"));
            }
        }
        let numbers = [
            (&["backup", "timeout-minutes"][..], Some(backup.timeout_minutes), 1440),
            (&["backup", "keep", "last"], Some(backup.keep.last), 1000),
            (&["backup", "keep", "days"], backup.keep.days, 3650),
        ];
        for (path, number, most) in numbers {
            if let Some(number) = number.filter(|number| !(1..=most).contains(number)) {
                let key = path.last().copied().unwrap_or_default();
                self.refuse(path, format!("`{key}` is {number}, and 1 to {most} are allowed"), None);
            }
        }
    }

    fn sync(&mut self, sync: &ServiceSync, spec: &ServiceSpec) {
        if spec.backup.is_none() {
            let message =
                "data can only come where those that are there are backed up first, and the file has no `backup`";
            self.refuse(&["sync"], message, Some("write `backup` with `run` and `restore`"));
        } else if sync::restore_command(spec).is_none() {
            let help = "write `sync.restore`, or `backup.restore` where that reads the same";
            self.refuse(&["sync"], "nothing says how data are taken in where they come to", Some(help));
        }
        for (key, command) in [("run", &sync.run), ("restore", &sync.restore)] {
            if command.as_deref().is_some_and(|line| line.trim().is_empty()) {
                self.refuse(
                    &["sync", key],
                    "the command is empty",
                    Some("leave it out, or write a command for the shell"),
                );
            }
        }
        let Some(node) = self.root.get("sync") else { return };
        for Mistake { list, index, key, message, help } in sanitise::mistakes(sync) {
            let items = node.get(list).map_or(&[][..], Node::items);
            let read = if list == "rules" { sync.rules.len() } else { sync.keep.len() };
            // where one could not be read, positions are others than the file's
            let item = items.get(index).filter(|_| items.len() == read);
            if key == "set" && item.is_some_and(|item| item.get(key).is_some_and(|set| !set.is_null())) {
                // what is wrong with it is told already
                continue;
            }
            let span = match item {
                Some(item) if key.is_empty() => item.span.clone(),
                Some(item) => document::place(item, &[key]),
                None => document::place(self.root, &["sync", list]),
            };
            self.findings.error(Code::InvalidValue, &span, message, Some(help.into()));
        }
    }

    /// Service files are read as they are; an expression in one would reach the service as text.
    fn no_expressions(&mut self, node: &Node) {
        if node.scalar().is_some_and(|scalar| scalar.text.contains("${{")) {
            let help = "put the value under `variables` of the environment in `segue.yaml`; the service gets it as an environment variable";
            let message = "expressions are not evaluated in a service file";
            self.findings.error(Code::InvalidValue, &node.span, message, Some(help.into()));
        }
        for item in node.items() {
            self.no_expressions(item);
        }
        for entry in node.entries() {
            self.no_expressions(&entry.value);
        }
    }

    /// Whether every item of a list could be read, so that positions agree with the file's.
    fn is_whole(&self, list: &str, read: usize) -> bool {
        self.root.get(list).map_or(0, |list| list.items().len()) == read
    }

    fn refuse(&mut self, path: &[&str], message: impl Into<String>, help: Option<&str>) {
        let span = document::place(self.root, path);
        self.findings.error(Code::InvalidValue, &span, message, help.map(Into::into));
    }

    fn refuse_item(&mut self, list: &str, index: usize, key: &str, message: String, help: Option<&str>) {
        let list = self.root.get(list).map_or(&[][..], Node::items);
        let item = list.get(index);
        let span = item.map_or(0..0, |item| document::place(item, &[key]));
        self.findings.error(Code::InvalidValue, &span, message, help.map(Into::into));
    }
}

/// The name of a file without its directories and its last extension.
pub(crate) fn file_stem(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Whether a text can name an environment variable.
pub(crate) fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

pub(crate) fn is_host(host: &str) -> bool {
    (1..=253).contains(&host.len())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}
