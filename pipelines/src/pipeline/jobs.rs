//! `jobs`.

use std::rc::Rc;

use indexmap::IndexMap;
use segue_schemas::id::is_name;

use super::{
    Job,
    expressions::{JOB_ENV, JOB_IF, JOB_NAME, JOB_OUTPUT, Jobs, Scope},
    graph::Placed,
    reader::{Keys, Reader, RunDefaults},
};
use crate::{
    diagnostic::Code,
    document::{Content, Entry, Node},
    nearest::{did_you_mean, listed},
};

const JOB: Keys = Keys {
    known: &[
        "name",
        "needs",
        "if",
        "runs-on",
        "environment",
        "idempotent",
        "timeout-minutes",
        "env",
        "defaults",
        "outputs",
        "steps",
    ],
    later: &[
        "strategy",
        "concurrency",
        "retry",
        "continue-on-error",
        "container",
        "services",
        "permissions",
        "uses",
        "with",
        "secrets",
    ],
};
const ENVIRONMENT: Keys = Keys { known: &["name"], later: &["url"] };

/// The most jobs of a pipeline.
const MAX_JOBS: usize = 1_000;

/// The time limit of a job that names none: GitHub's, 6 hours.
const DEFAULT_TIMEOUT_SECONDS: u64 = 6 * 3600;

impl Reader<'_, '_> {
    /// `jobs:`. `outer` is what the pipeline's own texts used.
    pub(super) fn jobs(&mut self, entry: &Entry, defaults: &RunDefaults, outer: &Scope) -> Option<Vec<Placed>> {
        let Content::Mapping(entries) = &entry.value.content else {
            self.wrong_type(&entry.value, "`jobs`", "a mapping from names to jobs");
            return None;
        };
        if entries.is_empty() {
            let help = Some("add a job: `jobs: { test: { steps: [{ run: make test }] } }`".into());
            self.findings.error(Code::MissingKey, &entry.key_span, "the pipeline has no job", help);
            return None;
        }
        if entries.len() > MAX_JOBS {
            let message = format!("the pipeline has {} jobs, and {MAX_JOBS} are the limit", entries.len());
            self.findings.error(
                Code::TooMany,
                &entry.key_span,
                message,
                Some("split it into several pipelines".into()),
            );
            return None;
        }
        let jobs: Jobs = entries.iter().map(|entry| (entry.key.clone(), output_names(&entry.value))).collect();
        let mut outer = outer.clone();
        outer.jobs = Rc::new(jobs);
        Some(entries.iter().filter_map(|entry| self.job(entry, defaults, outer.clone())).collect())
    }

    fn job(&mut self, entry: &Entry, defaults: &RunDefaults, mut scope: Scope) -> Option<Placed> {
        let (key, node) = (&entry.key, &*entry.value);
        self.identifier(key, &entry.key_span, "a job");
        if !self.keys(node, &format!("the job `{key}`"), &JOB) {
            return None;
        }
        let needs_span = node.entry("needs").map_or(entry.key_span.clone(), |needs| needs.value.span.clone());
        let needs = self.needs(node, &scope);
        scope.needs.clone_from(&needs);
        let name = node.get("name").and_then(|name| self.template(name, "name", &JOB_NAME, &mut scope));
        let condition = node.get("if").and_then(|node| self.condition(node, &JOB_IF, &mut scope));
        let runs_on = node.get("runs-on").map_or(Vec::new(), |node| self.runs_on(node));
        let environment = node.get("environment").and_then(|node| self.environment(node));
        let idempotent = node.get("idempotent").and_then(|node| self.boolean(node, "idempotent")).unwrap_or(false);
        let timeout_seconds = self.timeout_seconds(node).unwrap_or(DEFAULT_TIMEOUT_SECONDS);
        scope.enter();
        let env = self.env(node, &JOB_ENV, &mut scope);
        let defaults = self.defaults(node, defaults);
        let steps = match node.entry("steps") {
            Some(steps) => self.steps(steps, &defaults, node.get("environment").is_some(), &mut scope),
            None => {
                let what = format!("the job `{key}`");
                self.missing("steps", &what, &entry.key_span, "add `steps:` with at least one `run` or `uses`");
                Vec::new()
            }
        };
        let outputs = self.outputs(node, &mut scope);
        let job = Job {
            key: key.clone(),
            name: name.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| key.clone()),
            needs,
            condition,
            runs_on,
            environment,
            idempotent,
            timeout_seconds,
            env,
            outputs,
            secrets: scope.secrets.into_iter().collect(),
            steps,
            line: self.findings.source.line(entry.key_span.start),
        };
        Some(Placed { job, needs_span })
    }

    fn needs(&mut self, owner: &Node, scope: &Scope) -> Vec<String> {
        let mut needs: Vec<String> = Vec::new();
        let Some(node) = owner.get("needs") else { return needs };
        for (need, span) in self.plain_list(node, "needs") {
            if self.findings.is_full() {
                break;
            }
            if !scope.jobs.contains_key(&need) {
                let keys = || scope.jobs.keys().map(String::as_str);
                let help = did_you_mean(&need, keys()).unwrap_or_else(|| format!("the jobs are {}", listed(keys())));
                let message = format!("there is no job `{need}` to need");
                self.findings.error(Code::UnknownNeed, &span, message, Some(help));
            } else if !needs.contains(&need) {
                needs.push(need);
            }
        }
        needs
    }

    fn runs_on(&mut self, node: &Node) -> Vec<String> {
        if let Content::Mapping(_) = node.content {
            let message = "`runs-on` as a mapping is not supported yet";
            let help = Some("write the labels: `runs-on: [linux, gpu]`".into());
            self.findings.error(Code::NotSupportedYet, &node.span, message, help);
            return Vec::new();
        }
        self.plain_list(node, "runs-on").into_iter().map(|(label, _)| label).collect()
    }

    /// The environment's name: the gate before the job asks for it, so it is fixed.
    fn environment(&mut self, node: &Node) -> Option<String> {
        let node = match &node.content {
            Content::Mapping(_) => {
                self.keys(node, "`environment`", &ENVIRONMENT);
                match node.get("name") {
                    Some(name) => name,
                    None => {
                        self.missing("name", "`environment`", &node.span, "name it: `environment: production`");
                        return None;
                    }
                }
            }
            _ => node,
        };
        let name = self.plain(node, "environment")?;
        if !is_name(&name) {
            let message = format!("`{name}` cannot name an environment");
            let help = "use 1 to 64 letters, digits, `-`, `_` and `.`, beginning with none of `-` and `.`";
            self.findings.error(Code::InvalidValue, &node.span, message, Some(help.into()));
            return None;
        }
        Some(name)
    }

    fn outputs(&mut self, owner: &Node, scope: &mut Scope) -> IndexMap<String, String> {
        let mut outputs = IndexMap::new();
        let Some(node) = owner.get("outputs") else { return outputs };
        for entry in self.entries(node, "outputs") {
            self.identifier(&entry.key, &entry.key_span, "an output");
            if let Some(value) = self.template(&entry.value, &entry.key, &JOB_OUTPUT, scope) {
                outputs.insert(entry.key.clone(), value);
            }
        }
        outputs
    }

    /// A name that expressions can use: `needs.<name>`, `steps.<name>`.
    pub(super) fn identifier(&mut self, name: &str, span: &std::ops::Range<usize>, what: &str) {
        let fits = name.len() <= 100
            && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !fits {
            let message = format!("`{name}` cannot name {what}");
            let help = "begin with a letter or `_`, go on with letters, digits, `-` and `_`, 100 at most";
            self.findings.error(Code::InvalidValue, span, message, Some(help.into()));
        }
    }
}

fn output_names(job: &Node) -> Vec<String> {
    job.get("outputs").map_or(&[][..], Node::entries).iter().map(|entry| entry.key.clone()).collect()
}
