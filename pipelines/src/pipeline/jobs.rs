//! `jobs`.

use std::{collections::HashMap, rc::Rc};

use indexmap::IndexMap;
use segue_schemas::plan::{Late, Setting, StepAction, StepPlan};

use super::{
    Job,
    expressions::{JOB_ENV, JOB_IF, JOB_OUTPUT, JOB_SETTING, Jobs, Outline, Scope},
    graph::Placed,
    reader::{Keys, Reader, RunDefaults},
};
use crate::{
    diagnostic::Code,
    document::{Content, Entry, Node},
    expr,
    nearest::{did_you_mean, listed},
    preview,
};

const JOB: Keys = Keys {
    known: &[
        "name",
        "needs",
        "if",
        "runs-on",
        "strategy",
        "environment",
        "idempotent",
        "snapshots",
        "timeout-minutes",
        "continue-on-error",
        "concurrency",
        "retry",
        "container",
        "services",
        "resources",
        "permissions",
        "env",
        "defaults",
        "outputs",
        "steps",
        "uses",
        "with",
        "secrets",
    ],
    later: &[],
};

/// The most jobs of a pipeline.
pub(super) const MAX_JOBS: usize = 1_000;

/// The time limit of a job that names none: GitHub's, 6 hours.
const DEFAULT_TIMEOUT_SECONDS: u64 = 6 * 3600;

impl Reader<'_, '_> {
    /// `jobs:`. `outer` is what the pipeline's own texts used; the jobs' outlines are noted in it.
    pub(super) fn jobs(&mut self, entry: &Entry, defaults: &RunDefaults, outer: &mut Scope) -> Option<Vec<Placed>> {
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
        let mut seen: HashMap<String, &str> = HashMap::new();
        for entry in entries {
            if let Some(known) = seen.insert(entry.key.to_lowercase(), &entry.key) {
                let message = format!("the jobs `{known}` and `{}` differ in case alone", entry.key);
                let help = Some("expressions do not tell them apart: give one another name".into());
                self.findings.error(Code::DuplicateId, &entry.key_span, message, help);
            }
        }
        let jobs: Jobs = entries.iter().map(|entry| (entry.key.clone(), self.outline(&entry.value))).collect();
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
        let strategy = self.strategy(node, &mut scope);
        let name = node.get("name").and_then(|name| self.template(name, "name", &JOB_SETTING, &mut scope));
        let condition = node.get("if").and_then(|node| self.condition(node, &JOB_IF, &mut scope));
        let runs_on = node.get("runs-on").map_or(Vec::new(), |node| self.runs_on(node, &mut scope));
        let environment_name = node.get("environment").and_then(|node| self.environment(node, &mut scope));
        let idempotent = node.get("idempotent").and_then(|node| self.boolean(node, "idempotent")).unwrap_or(false);
        let snapshots = node.get("snapshots").and_then(|node| self.boolean(node, "snapshots")).unwrap_or(false);
        let timeout = self.job_timeout(node, &mut scope);
        let may_fail = node
            .get("continue-on-error")
            .and_then(|node| self.setting(node, "continue-on-error", &JOB_SETTING, &mut scope));
        let concurrency = node.get("concurrency").and_then(|node| self.concurrency(node, &JOB_SETTING, &mut scope));
        let retry = self.job_retry(node);
        if let Some(condition) = &condition {
            self.warn_of_deploying_always(node, condition);
        }
        scope.enter();
        let env = self.env(node, &JOB_ENV, &mut scope);
        let container = node.get("container").and_then(|node| self.container(node, "container", &mut scope));
        let services = node.get("services").map(|node| self.services(node, &mut scope)).unwrap_or_default();
        let gpus = node.get("resources").and_then(|node| self.job_resources(node));
        let permissions = node.get("permissions").and_then(|node| self.permissions(node));
        if let Some(entry) = node.entry("services").filter(|_| container.is_none() && !services.is_empty()) {
            let message = "`services` stand beside a container, and this job has none: it fails and says so";
            let help = Some("add `container: IMAGE`; what runs there reaches each service by its name".into());
            self.findings.warning(Code::NotSupportedYet, &entry.key_span, message, help);
        }
        let mut defaults = self.defaults(node, defaults);
        if container.is_some() {
            // images have `sh`, and often no `bash`; GitHub takes it too
            defaults.shell.get_or_insert_with(|| "sh".into());
        }
        let call = node.entry("uses").map(|uses| self.calling(entry, uses, &mut scope));
        let steps = match node.entry("steps") {
            _ if call.is_some() => Vec::new(),
            Some(steps) => self.steps(steps, &defaults, node.get("environment").is_some(), &mut scope),
            None => {
                self.refuse_call_keys(node);
                let what = format!("the job `{key}`");
                self.missing("steps", &what, &entry.key_span, "add `steps:` with at least one `run` or `uses`");
                Vec::new()
            }
        };
        if let Some(environment) = node.get("environment").filter(|_| steps.iter().any(makes_preview)) {
            self.check_preview(environment, environment_name.as_deref());
        }
        let outputs = self.outputs(node, &mut scope);
        let environment_url = self.environment_url(node, &mut scope);
        let late = Late {
            timeout_minutes: timeout.template,
            continue_on_error: match &may_fail {
                Some(Setting::Late(template)) => Some(template.clone()),
                _ => None,
            },
        };
        let job = Job {
            key: key.clone(),
            name: name.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| key.clone()),
            needs,
            condition,
            runs_on,
            strategy,
            environment: environment_name,
            environment_url,
            idempotent,
            snapshots,
            timeout_seconds: timeout.seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS),
            continue_on_error: may_fail.and_then(|setting| setting.fixed()).unwrap_or(false),
            concurrency,
            retry,
            container,
            services,
            gpus,
            permissions,
            late,
            env,
            outputs,
            secrets: scope.secrets.into_iter().collect(),
            call: call.flatten(),
            steps,
            line: self.findings.source.line(entry.key_span.start),
        };
        Some(Placed { job, needs_span })
    }

    /// A preview is no deployment to an environment of another name.
    fn check_preview(&mut self, node: &Node, name: Option<&str>) {
        let Some(name) = name.filter(|name| !name.contains("${{") && *name != preview::ENVIRONMENT) else { return };
        let message = format!("`{}` makes no preview in `{name}`", preview::ACTION);
        let help = format!("write `environment: {}`; `segue/deploy` deploys to `{name}`", preview::ENVIRONMENT);
        self.findings.error(Code::Conflict, &node.span, message, Some(help));
    }

    /// What other jobs can name of a job.
    fn outline(&self, job: &Node) -> Outline {
        let has_matrix = job.get("strategy").is_some_and(|strategy| strategy.get("matrix").is_some());
        let called = job.get("uses").and_then(Node::scalar).map(|uses| self.calls.declared_outputs(&uses.text));
        let own = || job.get("outputs").map_or(&[][..], Node::entries).iter().map(|entry| entry.key.clone()).collect();
        let is_unknown = matches!(called, Some(None));
        Outline { outputs: called.map_or_else(own, Option::unwrap_or_default), has_matrix, is_unknown }
    }

    /// `with` and `secrets` belong to `uses`.
    fn refuse_call_keys(&mut self, job: &Node) {
        for key in ["with", "secrets"] {
            if let Some(entry) = job.entry(key) {
                let message = format!("`{key}` of a job means nothing without `uses`");
                let help = Some("a job that calls a pipeline has `uses: ./.segue/pipelines/NAME.yml`".into());
                self.findings.error(Code::Conflict, &entry.key_span, message, help);
            }
        }
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

    /// `always()` deploys even after a cancel, which is hardly ever meant.
    fn warn_of_deploying_always(&mut self, node: &Node, condition: &str) {
        let calls = expr::calls(condition).unwrap_or_default();
        if node.get("environment").is_some() && calls.iter().any(|call| call.function == "always") {
            let span = node.get("if").map_or(node.span.clone(), |node| node.span.clone());
            let message = "with `always()` this job changes its environment even after the run was cancelled";
            self.findings.warning(Code::InvalidValue, &span, message, Some("write `!cancelled()`".into()));
        }
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

fn makes_preview(step: &StepPlan) -> bool {
    matches!(&step.action, StepAction::Uses { uses, .. } if uses == preview::ACTION)
}
