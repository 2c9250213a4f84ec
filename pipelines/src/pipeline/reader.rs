//! The steps that every part of a pipeline is read by: mappings with known keys, texts, lists, numbers.

use std::{ops::Range, rc::Rc};

use indexmap::IndexMap;

use super::{
    Parsed, Pipeline, Triggers,
    composite::Calls,
    expressions::{PIPELINE_CONCURRENCY, PIPELINE_ENV, Scope},
    graph,
};
use crate::{
    diagnostic::{Code, Findings},
    document::{Content, Entry, Node, ScalarKind},
    nearest::did_you_mean,
    service::is_variable,
};

/// Reads a file, and keeps what it finds.
pub(super) struct Reader<'f, 's> {
    pub findings: &'f mut Findings<'s>,
    /// The actions that are known, and where in them reading stands.
    pub calls: Calls,
}

/// The keys of a mapping: those that it takes, and those of GitHub's language that are not acted on yet.
pub(super) struct Keys {
    pub known: &'static [&'static str],
    pub later: &'static [&'static str],
}

const PIPELINE: Keys =
    Keys { known: &["name", "on", "env", "defaults", "concurrency", "permissions", "jobs"], later: &["run-name"] };
const DEFAULTS: Keys = Keys { known: &["run"], later: &[] };
const DEFAULTS_RUN: Keys = Keys { known: &["shell", "working-directory"], later: &[] };

/// `defaults.run`.
#[derive(Debug, Clone, Default)]
pub(super) struct RunDefaults {
    pub shell: Option<String>,
    pub working_directory: Option<String>,
}

/// The names of the inputs, and whether an outsider fills them.
fn inputs_of(triggers: Option<&Triggers>, calls: &Calls) -> Rc<IndexMap<String, bool>> {
    let Some(triggers) = triggers else { return Rc::default() };
    let by_hand = triggers.workflow_dispatch.iter().flat_map(|dispatch| dispatch.inputs.keys());
    let by_call = triggers.workflow_call.iter().flat_map(|callable| callable.inputs.keys());
    let is_tainted = |name: &String| calls.tainted.get(&name.to_lowercase()).copied().unwrap_or(false);
    Rc::new(by_hand.chain(by_call).map(|name| (name.clone(), is_tainted(name))).collect())
}

impl<'f, 's> Reader<'f, 's> {
    pub(super) fn new(findings: &'f mut Findings<'s>, calls: Calls) -> Self {
        Self { findings, calls }
    }

    /// The pipeline; what of it can be read although the rest is broken, goes into `parsed`.
    pub(super) fn pipeline(&mut self, root: &Node, parsed: &mut Parsed) -> Option<Pipeline> {
        let head = root.entries().first().map_or(root.span.clone(), |entry| entry.key_span.clone());
        if !self.keys(root, "a pipeline", &PIPELINE) {
            return None;
        }
        if let Some(name) = root.get("name").and_then(|node| self.text(node, "name")) {
            parsed.name = name;
        }
        let before = self.findings.has_errors();
        let mut triggers = match root.entry("on") {
            Some(entry) => self.triggers(entry),
            None => {
                let help = "say what starts it: `on: push`";
                self.missing("on", "the pipeline", &head, help);
                None
            }
        };
        parsed.triggers = triggers.clone().filter(|_| before || !self.findings.has_errors());
        let mut scope = Scope::default();
        scope.inputs = inputs_of(triggers.as_ref(), &self.calls);
        let env = self.env(root, &PIPELINE_ENV, &mut scope);
        let defaults = self.defaults(root, &RunDefaults::default());
        let concurrency =
            root.get("concurrency").and_then(|node| self.concurrency(node, &PIPELINE_CONCURRENCY, &mut scope));
        let permissions = root.get("permissions").and_then(|node| self.permissions(node));
        let jobs = match root.entry("jobs") {
            Some(entry) => self.jobs(entry, &defaults, &mut scope),
            None => {
                self.missing("jobs", "the pipeline", &head, "add `jobs:` with at least one job");
                None
            }
        };
        if let Some(callable) = triggers.as_mut().and_then(|triggers| triggers.workflow_call.as_mut()) {
            callable.outputs = self.call_outputs(root, &mut scope);
        }
        let jobs = graph::in_order(jobs?, self.findings)?;
        Some(Pipeline { name: parsed.name.clone(), triggers: triggers?, env, concurrency, permissions, jobs })
    }

    /// `env:` of `owner`. Names of variables that outsiders can fill, and the secrets used, are noted in `scope`.
    pub(super) fn env(
        &mut self,
        owner: &Node,
        place: &super::expressions::Place,
        scope: &mut Scope,
    ) -> IndexMap<String, String> {
        let mut env = IndexMap::new();
        let Some(node) = owner.get("env") else { return env };
        for entry in self.entries(node, "env") {
            if !is_variable(&entry.key) {
                let message = format!("`{}` cannot name an environment variable", entry.key);
                let help = Some("use letters, digits and `_`, not beginning with a digit".into());
                self.findings.error(Code::InvalidValue, &entry.key_span, message, help);
            }
            let Some(value) = self.template(&entry.value, &format!("env.{}", entry.key), place, scope) else {
                continue;
            };
            scope.note_variable(&entry.key, &value);
            env.insert(entry.key.clone(), value);
        }
        env
    }

    /// `defaults.run` of `owner`, over those around it.
    pub(super) fn defaults(&mut self, owner: &Node, outer: &RunDefaults) -> RunDefaults {
        let mut defaults = outer.clone();
        let Some(node) = owner.get("defaults") else { return defaults };
        if !self.keys(node, "`defaults`", &DEFAULTS) {
            return defaults;
        }
        let Some(run) = node.get("run") else { return defaults };
        if !self.keys(run, "`defaults.run`", &DEFAULTS_RUN) {
            return defaults;
        }
        if let Some(shell) = run.get("shell").and_then(|node| self.shell(node)) {
            defaults.shell = Some(shell);
        }
        if let Some(directory) = run.get("working-directory").and_then(|node| self.plain(node, "working-directory")) {
            defaults.working_directory = Some(directory);
        }
        defaults
    }

    /// `shell:` as the worker takes it: a name that it knows, or a command with `{0}` for the script.
    pub(super) fn shell(&mut self, node: &Node) -> Option<String> {
        let shell = self.plain(node, "shell")?;
        match shell.as_str() {
            "bash" | "sh" => Some(shell),
            "python" => Some("python3 {0}".into()),
            template if template.contains("{0}") => Some(shell),
            _ => {
                let message = format!("`{shell}` is no shell that is known here");
                let help = "write `bash`, `sh`, `python`, or a command in which `{0}` stands for the script's file: `perl {0}`";
                self.findings.error(Code::InvalidValue, &node.span, message, Some(help.into()));
                None
            }
        }
    }

    /// Whether `node` is a mapping; its unknown keys are errors. `what` names it in messages.
    pub(super) fn keys(&mut self, node: &Node, what: &str, keys: &Keys) -> bool {
        let Content::Mapping(entries) = &node.content else {
            self.wrong_type(node, what, "a mapping");
            return false;
        };
        for entry in entries {
            let key = entry.key.as_str();
            if self.findings.is_full() {
                break;
            }
            if keys.known.contains(&key) {
                continue;
            }
            if keys.later.contains(&key) {
                let message = format!("`{key}` of {what} is not supported yet");
                let help = Some("remove it; this version would not act on it".into());
                self.findings.error(Code::NotSupportedYet, &entry.key_span, message, help);
                continue;
            }
            let help = did_you_mean(key, keys.known.iter().copied())
                .unwrap_or_else(|| format!("known here: {}", keys.known.join(", ")));
            self.findings.error(Code::UnknownKey, &entry.key_span, format!("{what} has no key `{key}`"), Some(help));
        }
        true
    }

    /// The entries of a mapping with keys of the author's own; nothing, and an error, where it is something else. Nothing
    /// written counts as empty.
    pub(super) fn entries<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Entry] {
        match &node.content {
            Content::Mapping(entries) => entries,
            _ if node.is_null() => &[],
            _ => {
                self.wrong_type(node, &format!("`{what}`"), "a mapping");
                &[]
            }
        }
    }

    /// A text, number or boolean, as written. Nothing written is an empty text.
    pub(super) fn text(&mut self, node: &Node, what: &str) -> Option<String> {
        match node.scalar() {
            Some(scalar) if scalar.kind == ScalarKind::Null => Some(String::new()),
            Some(scalar) => Some(scalar.text.clone()),
            None => {
                self.wrong_type(node, &format!("`{what}`"), "a text");
                None
            }
        }
    }

    /// A text that is there, and fixed: it holds no expression.
    pub(super) fn plain(&mut self, node: &Node, what: &str) -> Option<String> {
        let text = self.text(node, what)?;
        let problem = if text.trim().is_empty() {
            format!("`{what}` is empty")
        } else if text.contains("${{") {
            format!("`{what}` cannot be an expression yet; it must be known before the run starts")
        } else {
            return Some(text);
        };
        self.findings.error(Code::InvalidValue, &node.span, problem, None);
        None
    }

    /// One text or a list of them, each there and fixed, with where it stands.
    pub(super) fn plain_list(&mut self, node: &Node, what: &str) -> Vec<(String, Range<usize>)> {
        match &node.content {
            Content::Sequence(items) => {
                items.iter().filter_map(|item| self.plain(item, what).map(|text| (text, item.span.clone()))).collect()
            }
            Content::Scalar(_) => self.plain(node, what).map(|text| (text, node.span.clone())).into_iter().collect(),
            Content::Mapping(_) => {
                self.wrong_type(node, &format!("`{what}`"), "a text or a list of texts");
                Vec::new()
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
        match node.scalar().map(|scalar| (scalar.kind, scalar.text.contains("${{"))) {
            Some((ScalarKind::Bool(value), _)) => Some(value),
            Some((_, true)) => {
                let message = format!("`{what}` as an expression is not supported yet");
                self.findings.error(Code::NotSupportedYet, &node.span, message, Some("write `true` or `false`".into()));
                None
            }
            _ => {
                self.wrong_type(node, &format!("`{what}`"), "`true` or `false`");
                None
            }
        }
    }

    /// `timeout-minutes`, in seconds.
    pub(super) fn timeout_seconds(&mut self, owner: &Node) -> Option<u64> {
        const WHAT: &str = "timeout-minutes";
        const LONGEST_MINUTES: f64 = 30.0 * 24.0 * 60.0;
        let node = owner.get(WHAT)?;
        #[expect(clippy::cast_precision_loss, reason = "far below what a double holds exactly")]
        let minutes = match node.scalar().map(|scalar| (scalar.kind, scalar.text.contains("${{"))) {
            Some((ScalarKind::Integer(minutes), _)) => minutes as f64,
            Some((ScalarKind::Float(minutes), _)) => minutes,
            Some((_, true)) => {
                let message = format!("`{WHAT}` as an expression is not supported yet");
                self.findings.error(Code::NotSupportedYet, &node.span, message, Some("write a number".into()));
                return None;
            }
            _ => {
                self.wrong_type(node, &format!("`{WHAT}`"), "a number of minutes");
                return None;
            }
        };
        let seconds = (minutes * 60.0).round();
        if !(minutes <= LONGEST_MINUTES && seconds >= 1.0) {
            let message =
                format!("`{WHAT}` is {minutes}, and more than 0 up to {LONGEST_MINUTES} (30 days) is allowed");
            self.findings.error(Code::InvalidValue, &node.span, message, None);
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the limits above")]
        Some(seconds as u64)
    }

    pub(super) fn wrong_type(&mut self, node: &Node, what: &str, wanted: &str) {
        let message = format!("{what} is {}, where {wanted} is expected", node.kind());
        self.findings.error(Code::WrongType, &node.span, message, None);
    }

    pub(super) fn missing(&mut self, key: &str, what: &str, place: &Range<usize>, help: &str) {
        self.findings.error(Code::MissingKey, place, format!("{what} has no `{key}`"), Some(help.into()));
    }
}
