//! `steps` of a job.

use indexmap::IndexMap;
use segue_schemas::plan::{StepAction, StepPlan};

use super::{
    expressions::{STEP, STEP_IF, STEP_RUN, Scope},
    reader::{Keys, Reader, RunDefaults},
};
use crate::{
    actions::{self, Action},
    diagnostic::Code,
    document::{Content, Entry, Node},
    expr,
    nearest::did_you_mean,
};

const STEP_KEYS: Keys = Keys {
    known: &[
        "id",
        "name",
        "if",
        "run",
        "uses",
        "with",
        "env",
        "shell",
        "working-directory",
        "continue-on-error",
        "timeout-minutes",
    ],
    later: &["retry"],
};

/// The most steps of a job.
const MAX_STEPS: usize = 1_000;

impl Reader<'_, '_> {
    /// `steps:` of a job. `deploys`: whether the job names an environment.
    pub(super) fn steps(
        &mut self,
        entry: &Entry,
        defaults: &RunDefaults,
        deploys: bool,
        scope: &mut Scope,
    ) -> Vec<StepPlan> {
        let Content::Sequence(items) = &entry.value.content else {
            self.wrong_type(&entry.value, "`steps`", "a list of steps");
            return Vec::new();
        };
        if items.is_empty() {
            let help = Some("add a step: `- run: make test`".into());
            self.findings.error(Code::MissingKey, &entry.key_span, "the job has no step", help);
        }
        if items.len() > MAX_STEPS {
            let message = format!("the job has {} steps, and {MAX_STEPS} are the limit", items.len());
            self.findings.error(Code::TooMany, &entry.key_span, message, Some("split the job".into()));
            return Vec::new();
        }
        items.iter().filter_map(|item| self.step(item, defaults, deploys, scope)).collect()
    }

    fn step(&mut self, node: &Node, defaults: &RunDefaults, deploys: bool, scope: &mut Scope) -> Option<StepPlan> {
        if !self.keys(node, "a step", &STEP_KEYS) {
            return None;
        }
        // variables of a step are its own; the secrets that they name are the job's
        scope.enter();
        let condition = node.get("if").and_then(|node| self.condition(node, &STEP_IF, scope));
        let env = self.env(node, &STEP, scope);
        let name = node.get("name").and_then(|node| self.template(node, "name", &STEP, scope));
        let working_directory = self.working_directory(node, defaults, scope);
        let continue_on_error = node.get("continue-on-error").and_then(|node| self.boolean(node, "continue-on-error"));
        let timeout_seconds = self.timeout_seconds(node);
        let action = self.action(node, defaults, deploys, scope);
        scope.leave();
        let id = self.step_id(node, scope);
        let action = action?;
        if let (StepAction::Uses { uses, .. }, Some(condition)) = (&action, &condition) {
            self.warn_of_always(node, uses, condition);
        }
        Some(StepPlan {
            id,
            name: name.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| default_name(&action)),
            condition,
            env,
            working_directory,
            timeout_seconds,
            continue_on_error: continue_on_error.unwrap_or(false),
            action,
            line: self.findings.source.line(node.span.start),
        })
    }

    fn step_id(&mut self, owner: &Node, scope: &mut Scope) -> Option<String> {
        let node = owner.get("id")?;
        let Some(id) = self.plain(node, "id") else {
            scope.steps_unknown = true;
            return None;
        };
        self.identifier(&id, &node.span, "a step");
        if scope.steps.iter().any(|known| known.eq_ignore_ascii_case(&id)) {
            let message = format!("a step before this one has the id `{id}` already");
            let help = Some("give each step an id of its own; case makes no difference".into());
            self.findings.error(Code::DuplicateId, &node.span, message, help);
        }
        scope.steps.push(id.clone());
        Some(id)
    }

    fn working_directory(&mut self, owner: &Node, defaults: &RunDefaults, scope: &mut Scope) -> Option<String> {
        const KEY: &str = "working-directory";
        match owner.entry(KEY) {
            Some(entry) => {
                if owner.get("uses").is_some() {
                    self.only_with_run(entry);
                }
                self.template(&entry.value, KEY, &STEP, scope)
            }
            None if owner.get("run").is_some() => defaults.working_directory.clone(),
            None => None,
        }
    }

    fn only_with_run(&mut self, entry: &Entry) {
        let message = format!("`{}` has no meaning in a step with `uses`", entry.key);
        self.findings.error(Code::Conflict, &entry.key_span, message, Some("remove it".into()));
    }

    fn action(&mut self, node: &Node, defaults: &RunDefaults, deploys: bool, scope: &mut Scope) -> Option<StepAction> {
        match (node.entry("run"), node.entry("uses")) {
            (Some(_), Some(uses)) => {
                let help = Some("make two steps of it".into());
                self.findings.error(Code::Conflict, &uses.key_span, "a step has either `run` or `uses`", help);
                None
            }
            (None, None) => {
                let head = node.entries().first().map_or(node.span.clone(), |entry| entry.key_span.clone());
                let help = "add `run:` with a script, or `uses:` with an action";
                self.findings.error(Code::MissingKey, &head, "the step does nothing", Some(help.into()));
                None
            }
            (Some(run), None) => self.run(node, run, defaults, scope),
            (None, Some(uses)) => self.uses(node, uses, deploys, scope),
        }
    }

    fn run(&mut self, node: &Node, run: &Entry, defaults: &RunDefaults, scope: &mut Scope) -> Option<StepAction> {
        if let Some(with) = node.entry("with") {
            let help = Some("give values to a script through `env`".into());
            self.findings.error(Code::Conflict, &with.key_span, "`with` has no meaning in a step with `run`", help);
        }
        let shell = match node.get("shell") {
            Some(shell) => self.shell(shell),
            None => Some(defaults.shell.clone().unwrap_or_else(|| "bash".into())),
        };
        let script = self.template(&run.value, "run", &STEP_RUN, scope)?;
        if script.trim().is_empty() {
            self.findings.error(
                Code::InvalidValue,
                &run.key_span,
                "the script is empty",
                Some("write a command".into()),
            );
            return None;
        }
        Some(StepAction::Run { script, shell: shell? })
    }

    fn uses(&mut self, node: &Node, uses: &Entry, deploys: bool, scope: &mut Scope) -> Option<StepAction> {
        if let Some(shell) = node.entry("shell") {
            self.only_with_run(shell);
        }
        let name = self.plain(&uses.value, "uses")?;
        let action = self.find_action(&name, &uses.value);
        let mut with = IndexMap::new();
        for entry in node.get("with").map_or(&[][..], |node| self.entries(node, "with")) {
            let Some(value) = self.template(&entry.value, &entry.key, &STEP, scope) else { continue };
            if let Some(action) = action {
                self.check_input(action, entry, &value);
            }
            with.insert(entry.key.clone(), value);
        }
        let action = action?;
        self.check_inputs(action, uses, &with);
        if action.deploys && !deploys {
            let message = format!("`{name}` needs to know the environment");
            let help = Some("give the job one: `environment: staging`".into());
            self.findings.error(Code::MissingKey, &uses.value.span, message, help);
        }
        Some(StepAction::Uses { uses: name, with })
    }

    fn find_action(&mut self, name: &str, node: &Node) -> Option<&'static Action> {
        let found = actions::find(name);
        if found.is_some() {
            return found;
        }
        let (code, message, help) = if actions::LATER.contains(&name) || name.starts_with("./") {
            (Code::NotSupportedYet, format!("the action `{name}` is not supported yet"), None)
        } else {
            let names = || actions::ACTIONS.iter().map(|action| action.name);
            let bare = name.split('@').next().unwrap_or(name);
            let equivalent = bare.strip_prefix("actions/").map(|action| format!("segue/{action}"));
            let help = match equivalent.filter(|equivalent| actions::find(equivalent).is_some()) {
                Some(equivalent) => format!("write `{equivalent}`, which does the same"),
                None => did_you_mean(bare, names())
                    .unwrap_or_else(|| format!("the actions are {}", names().collect::<Vec<_>>().join(", "))),
            };
            (Code::UnknownAction, format!("there is no action `{name}`"), Some(help))
        };
        self.findings.error(code, &node.span, message, help);
        None
    }

    fn check_input(&mut self, action: &Action, entry: &Entry, value: &str) {
        let name = action.name;
        let Some(input) = action.input(&entry.key) else {
            let known = || action.inputs.iter().map(|input| input.name);
            let help = did_you_mean(&entry.key, known())
                .unwrap_or_else(|| format!("it has {}", known().collect::<Vec<_>>().join(", ")));
            let message = format!("`{name}` has no input `{}`", entry.key);
            self.findings.error(Code::UnknownKey, &entry.key_span, message, Some(help));
            return;
        };
        // what an expression will say is checked when it is known
        if !value.contains("${{")
            && let Err(message) = input.check(value)
        {
            self.findings.error(Code::InvalidValue, &entry.value.span, message, None);
        }
    }

    fn check_inputs(&mut self, action: &Action, uses: &Entry, with: &IndexMap<String, String>) {
        let span = &uses.value.span;
        for input in action.inputs.iter().filter(|input| input.required && !with.contains_key(input.name)) {
            let message = format!("`{}` needs the input `{}`", action.name, input.name);
            let help = Some(format!("add it: `with: {{ {}: ... }}`", input.name));
            self.findings.error(Code::MissingKey, span, message, help);
        }
        let given: Vec<&str> = action.one_of.iter().copied().filter(|input| with.contains_key(*input)).collect();
        if !action.one_of.is_empty() && given.len() != 1 {
            let (code, word) = if given.is_empty() {
                (Code::MissingKey, "needs one of")
            } else {
                (Code::Conflict, "takes only one of")
            };
            let message = format!("`{}` {word} {}", action.name, action.one_of.join(", "));
            let help = "`artifact` names what a step `segue/upload-artifact` of this run made, `path` a directory of the workspace";
            self.findings.error(code, span, message, Some(help.into()));
        }
    }

    /// `always()` deploys even after a cancel, which is hardly ever meant.
    fn warn_of_always(&mut self, node: &Node, uses: &str, condition: &str) {
        let deploys = actions::find(uses).is_some_and(|action| action.deploys);
        let calls = expr::calls(condition).unwrap_or_default();
        if deploys && calls.iter().any(|call| call.function == "always") {
            let span = node.get("if").map_or(node.span.clone(), |node| node.span.clone());
            let message = "with `always()` this deploys even after the run was cancelled";
            self.findings.warning(Code::InvalidValue, &span, message, Some("write `!cancelled()`".into()));
        }
    }
}

fn default_name(action: &StepAction) -> String {
    const LONGEST: usize = 80;
    match action {
        StepAction::Uses { uses, .. } => uses.clone(),
        StepAction::Run { script, .. } => {
            let line = script.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
            line.chars().take(LONGEST).collect()
        }
    }
}
