//! Composite actions: `uses: ./.segue/actions/NAME`, and those of the library. An action is read once more for each step that
//! uses it, so that what an outsider chooses is followed through its inputs into its scripts.
//! <https://docs.github.com/en/actions/reference/workflows-and-actions/metadata-syntax>

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use indexmap::IndexMap;
use segue_schemas::plan::{CompositePlan, StepPlan};

use super::{
    call::pipeline_name,
    expressions::{ACTION_DEFAULT, STEP, Scope},
    jobs::MAX_JOBS,
    reader::{Keys, Reader, RunDefaults},
    steps::MAX_STEPS,
};
use crate::{
    actions,
    diagnostic::{Code, Diagnostic, Findings, MAX_PER_FILE, Severity, Source},
    document::{self, Entry, Node},
    nearest::{did_you_mean, listed},
};

/// Actions within each other, as many as GitHub allows.
const MAX_DEPTH: usize = 10;
/// Text of actions that one pipeline has read, however often it uses them.
const MAX_READ_BYTES: usize = 8 * 1024 * 1024;
/// Where a repository keeps its actions.
const FOLDER: &str = ".segue/actions/";

const ACTION: Keys =
    Keys { known: &["name", "description", "author", "inputs", "outputs", "runs"], later: &["branding"] };
const INPUT: Keys = Keys { known: &["description", "required", "default", "deprecationMessage"], later: &[] };
const OUTPUT: Keys = Keys { known: &["description", "value"], later: &[] };
const RUNS: Keys = Keys { known: &["using", "steps"], later: &[] };

/// What pipelines of a repository can use of it: the actions `.segue/actions/NAME/action.yml` (or `.yaml`) by their names, and
/// other pipelines by the names of their files.
#[derive(Debug, Clone, Default)]
pub struct ActionFiles {
    /// Path and text by name.
    files: Arc<BTreeMap<String, (String, Arc<str>)>>,
    /// The same of the pipelines.
    pub(super) pipelines: Arc<BTreeMap<String, (String, Arc<str>)>>,
}

impl ActionFiles {
    /// Those among these files, paths and texts.
    pub fn among<'t>(files: impl IntoIterator<Item = (&'t str, &'t str)>) -> Self {
        let (mut actions, mut pipelines) = (BTreeMap::new(), BTreeMap::new());
        for (path, text) in files {
            if let Some(name) = action_name(path) {
                actions.insert(name.to_owned(), (path.to_owned(), text.into()));
            } else if let Some(name) = pipeline_name(path) {
                pipelines.insert(name.to_owned(), (path.to_owned(), text.into()));
            }
        }
        Self { files: Arc::new(actions), pipelines: Arc::new(pipelines) }
    }

    /// Whether a path is that of an action's file.
    #[must_use]
    pub fn is_one(path: &str) -> bool {
        action_name(path).is_some()
    }
}

fn action_name(path: &str) -> Option<&str> {
    let (_, inside) = path.rsplit_once(FOLDER)?;
    let (name, file) = inside.split_once('/')?;
    matches!(file, "action.yml" | "action.yaml").then_some(name).filter(|name| !name.is_empty())
}

/// Checks an action's file by itself: no input of it is chosen by an outsider.
#[must_use]
pub fn check_action(path: &str, text: &str, actions: &ActionFiles) -> Vec<Diagnostic> {
    let mut findings = Findings::new(Source::new(path, text));
    if let Some(root) = root(&mut findings) {
        let mut calls = Calls::new(path, actions);
        calls.stack.push(action_name(path).map_or_else(|| path.to_owned(), |name| format!("./{FOLDER}{name}")));
        Reader::new(&mut findings, calls).composite(&root, &BTreeMap::new());
    }
    findings.finish()
}

/// The actions that are known while a file is read, and where in them reading stands.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) files: ActionFiles,
    /// The paths of the pipelines around, the outermost first.
    pub(super) around: Vec<String>,
    /// The inputs of the pipeline that an outsider fills, in lower case, where it is called.
    pub(super) tainted: BTreeMap<String, bool>,
    /// How many jobs the pipelines that are called may have together.
    pub(super) jobs_left: usize,
    /// The actions around, the outermost first.
    stack: Vec<String>,
    steps_left: usize,
    bytes_left: usize,
    /// What is wrong in the files that are used.
    pub(super) found: Vec<Diagnostic>,
}

impl Calls {
    pub(super) fn new(path: &str, files: &ActionFiles) -> Self {
        Self {
            files: files.clone(),
            around: vec![path.to_owned()],
            tainted: BTreeMap::new(),
            jobs_left: MAX_JOBS,
            steps_left: MAX_STEPS,
            bytes_left: MAX_READ_BYTES,
            stack: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Everything that is wrong in the files of actions, each thing once.
    pub(super) fn finish(self) -> Vec<Diagnostic> {
        let mut found = self.found;
        found.sort_by(|a, b| (&a.file, a.span.start).cmp(&(&b.file, b.span.start)));
        found.dedup();
        found.truncate(MAX_PER_FILE);
        found
    }

    pub(super) fn is_within(&self) -> bool {
        !self.stack.is_empty()
    }

    /// Counts steps; a job begins anew. Whether there are not too many.
    pub(super) fn take_steps(&mut self, count: usize) -> bool {
        if !self.is_within() {
            self.steps_left = MAX_STEPS;
        }
        let left = self.steps_left.checked_sub(count);
        self.steps_left = left.unwrap_or(0);
        left.is_some()
    }

    pub(super) fn knows(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<(String, Arc<str>)> {
        if let Some(text) = actions::library(name) {
            return Some((format!("{name}/action.yml"), text.into()));
        }
        let path = name.strip_prefix("./")?.strip_prefix(FOLDER)?.trim_end_matches('/');
        let (path, text) = self.files.files.get(path)?;
        Some((path.clone(), text.clone()))
    }

    /// What to say of a local action that is not there.
    pub(super) fn missing(&self, name: &str) -> (Code, String, Option<String>) {
        let known: Vec<String> = self.files.files.keys().map(|known| format!("./{FOLDER}{known}")).collect();
        let names = || known.iter().map(String::as_str);
        let help = did_you_mean(name, names()).unwrap_or_else(|| {
            if known.is_empty() {
                format!(
                    "an action of the repository lies in `{FOLDER}NAME/action.yml`, and is used as `./{FOLDER}NAME`"
                )
            } else {
                format!("the actions of the repository are {}", listed(names()))
            }
        });
        (Code::UnknownAction, format!("there is no action `{name}`"), Some(help))
    }
}

impl Reader<'_, '_> {
    /// The composite action that a step uses, with what the step gives it.
    pub(super) fn call(&mut self, node: &Node, name: &str, uses: &Entry, scope: &mut Scope) -> Option<CompositePlan> {
        let mut given = IndexMap::new();
        let mut tainted = BTreeMap::new();
        for entry in node.get("with").map_or(&[][..], |node| self.entries(node, "with")) {
            let Some(value) = self.template(&entry.value, &entry.key, &STEP, scope) else { continue };
            tainted.insert(entry.key.to_lowercase(), scope.is_untrusted_text(&value));
            given.insert(entry.key.clone(), (value, entry.key_span.clone()));
        }
        let name = name.trim_end_matches('/');
        let (path, text) = self.calls.find(name)?;
        if !self.may_nest(name, uses, text.len()) {
            return None;
        }
        let mut findings = Findings::new(Source::new(&path, &text));
        let calls = std::mem::take(&mut self.calls);
        let (action, mut calls) = inner(&mut findings, calls, name, &tainted);
        let broken = findings.has_errors();
        let found = findings.finish();
        let first = found.iter().find(|diagnostic| diagnostic.severity == Severity::Error).cloned();
        calls.found.extend(found);
        self.calls = calls;
        let action = action.filter(|_| !broken);
        let Some(action) = action else {
            let why =
                first.map_or_else(String::new, |d| format!(": {}:{}:{}: {}", d.file, d.line, d.column, d.message));
            let message = format!("the action `{name}` cannot be used{why}");
            self.findings.error(Code::BrokenAction, &uses.value.span, message, None);
            return None;
        };
        let inputs = self.inputs(name, uses, &action, given);
        Some(CompositePlan { uses: name.to_owned(), inputs, outputs: action.outputs, steps: action.steps })
    }

    fn may_nest(&mut self, name: &str, uses: &Entry, bytes: usize) -> bool {
        let span = &uses.value.span;
        let stack = &self.calls.stack;
        if stack.iter().any(|around| around == name) {
            let path: Vec<&str> = stack.iter().map(String::as_str).chain([name]).collect();
            let message = format!("actions use each other in a circle: {}", path.join(" -> "));
            self.findings.error(Code::ActionNesting, span, message, Some("remove one of these uses".into()));
            return false;
        }
        if stack.len() >= MAX_DEPTH {
            let message =
                format!("actions within each other: {} levels, and {MAX_DEPTH} are the limit", stack.len() + 1);
            self.findings.error(Code::ActionNesting, span, message, None);
            return false;
        }
        self.take_bytes(bytes, &uses.value.span)
    }

    /// Counts what is read of other files. Whether it is not too much.
    pub(super) fn take_bytes(&mut self, bytes: usize, span: &std::ops::Range<usize>) -> bool {
        let left = self.calls.bytes_left.checked_sub(bytes);
        self.calls.bytes_left = left.unwrap_or(0);
        if left.is_none() {
            let message = format!(
                "the pipeline uses other files so often that more than {} MiB had to be read",
                MAX_READ_BYTES >> 20
            );
            self.findings.error(Code::TooMany, span, message, Some("split the pipeline".into()));
        }
        left.is_some()
    }

    /// What `inputs` holds in the action: what is given, over the defaults.
    fn inputs(
        &mut self,
        name: &str,
        uses: &Entry,
        action: &Action,
        given: IndexMap<String, (String, std::ops::Range<usize>)>,
    ) -> IndexMap<String, String> {
        let mut inputs = IndexMap::new();
        for (key, (value, span)) in given {
            let Some(input) = action.inputs.keys().find(|known| known.eq_ignore_ascii_case(&key)) else {
                let known = || action.inputs.keys().map(String::as_str);
                let help = did_you_mean(&key, known()).unwrap_or_else(|| format!("it has {}", listed(known())));
                self.findings.error(Code::UnknownKey, &span, format!("`{name}` has no input `{key}`"), Some(help));
                continue;
            };
            inputs.insert(input.clone(), value);
        }
        for (input, Input { required, default }) in &action.inputs {
            if inputs.contains_key(input) {
                continue;
            }
            if *required && default.is_none() {
                let message = format!("`{name}` needs the input `{input}`");
                let help = Some(format!("add it: `with: {{ {input}: ... }}`"));
                self.findings.error(Code::MissingKey, &uses.value.span, message, help);
            }
            inputs.insert(input.clone(), default.clone().unwrap_or_default());
        }
        inputs
    }

    /// An action's file. `tainted`: the inputs that an outsider fills, in lower case.
    fn composite(&mut self, root: &Node, tainted: &BTreeMap<String, bool>) -> Option<Action> {
        let head = root.entries().first().map_or(root.span.clone(), |entry| entry.key_span.clone());
        if !self.keys(root, "an action", &ACTION) {
            return None;
        }
        for key in ["name", "description", "author"] {
            root.get(key).and_then(|node| self.text(node, key));
        }
        let mut inputs = IndexMap::new();
        let mut known = IndexMap::new();
        let mut scope = Scope::default();
        for entry in root.get("inputs").map_or(&[][..], |node| self.entries(node, "inputs")) {
            self.identifier(&entry.key, &entry.key_span, "an input");
            let input = self.input(&entry.value, &mut scope);
            let by_default = input.default.as_deref().is_some_and(|default| scope.is_untrusted_text(default));
            let outside = tainted.get(&entry.key.to_lowercase()).copied().unwrap_or(by_default);
            known.insert(entry.key.clone(), outside);
            inputs.insert(entry.key.clone(), input);
        }
        scope.action_inputs = Some(Rc::new(known));
        let Some(runs) = root.get("runs") else {
            self.missing("runs", "the action", &head, "add `runs: { using: composite, steps: [...] }`");
            return None;
        };
        if !self.keys(runs, "`runs`", &RUNS) {
            return None;
        }
        match runs.get("using") {
            None => self.missing("using", "`runs`", &runs.span, "write `using: composite`"),
            Some(using) => {
                if let Some(kind) = self.plain(using, "using").filter(|kind| kind != "composite") {
                    let message = format!("`using: {kind}` is no kind of action that is known here");
                    let help = "write `using: composite`, with the steps that do it";
                    self.findings.error(Code::InvalidValue, &using.span, message, Some(help.into()));
                }
            }
        }
        let steps = match runs.entry("steps") {
            Some(steps) => self.steps(steps, &RunDefaults::default(), true, &mut scope),
            None => {
                self.missing("steps", "`runs`", &runs.span, "add `steps:` with at least one `run` or `uses`");
                Vec::new()
            }
        };
        let outputs = self.action_outputs(root, &mut scope);
        Some(Action { inputs, outputs, steps })
    }

    fn input(&mut self, node: &Node, scope: &mut Scope) -> Input {
        if node.is_null() {
            return Input::default();
        }
        if !self.keys(node, "an input", &INPUT) {
            return Input::default();
        }
        let required = node.get("required").and_then(|node| self.boolean(node, "required")).unwrap_or(false);
        let default = node.get("default").and_then(|node| self.template(node, "default", &ACTION_DEFAULT, scope));
        Input { required, default }
    }

    fn action_outputs(&mut self, root: &Node, scope: &mut Scope) -> IndexMap<String, String> {
        let mut outputs = IndexMap::new();
        for entry in root.get("outputs").map_or(&[][..], |node| self.entries(node, "outputs")) {
            self.identifier(&entry.key, &entry.key_span, "an output");
            if !self.keys(&entry.value, "an output", &OUTPUT) {
                continue;
            }
            match entry.value.get("value") {
                None => {
                    let what = format!("the output `{}`", entry.key);
                    let help = "say what it is: `value: ${{ steps.ID.outputs.NAME }}`";
                    self.missing("value", &what, &entry.key_span, help);
                }
                Some(value) => {
                    if let Some(value) = self.template(value, "value", &STEP, scope) {
                        outputs.insert(entry.key.clone(), value);
                    }
                }
            }
        }
        outputs
    }
}

/// An action's file, read.
struct Action {
    inputs: IndexMap<String, Input>,
    outputs: IndexMap<String, String>,
    steps: Vec<StepPlan>,
}

#[derive(Default)]
struct Input {
    required: bool,
    default: Option<String>,
}

/// Reads an action within the calls around it, which are given back.
fn inner(
    findings: &mut Findings<'_>,
    mut calls: Calls,
    name: &str,
    tainted: &BTreeMap<String, bool>,
) -> (Option<Action>, Calls) {
    let Some(root) = root(findings) else { return (None, calls) };
    calls.stack.push(name.to_owned());
    let mut reader = Reader { findings, calls };
    let action = reader.composite(&root, tainted);
    let mut calls = reader.calls;
    calls.stack.pop();
    (action, calls)
}

fn root(findings: &mut Findings<'_>) -> Option<Rc<Node>> {
    match document::parse(findings) {
        Some(root) if !root.is_null() => Some(root),
        _ => {
            if !findings.has_errors() {
                let help = "an action has at least `runs: { using: composite, steps: [...] }`";
                findings.error(Code::EmptyDocument, &(0..0), "the action's file is empty", Some(help.into()));
            }
            None
        }
    }
}
