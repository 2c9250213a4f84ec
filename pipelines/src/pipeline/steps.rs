//! `steps` of a job.

use std::time::Duration;

use indexmap::IndexMap;
use segue_schemas::{
    duration::Span,
    plan::{CompositePlan, StepAction, StepPlan, StepRetry},
};

use super::{
    expressions::{STEP, STEP_IF, STEP_RUN, Scope},
    reader::{Keys, Reader, RunDefaults},
};
use crate::{
    actions::{self, Action},
    diagnostic::Code,
    document::{Content, Entry, Node, ScalarKind},
    expr,
    nearest::did_you_mean,
    preview, strategies,
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
        "retry",
    ],
    later: &[],
};
const RETRY: Keys = Keys { known: &["max", "backoff"], later: &[] };

/// The most tries after the first one.
const MAX_RETRIES: i64 = 10;
/// The pause before the second try where none is given.
const DEFAULT_BACKOFF: Duration = Duration::from_secs(1);
/// The longest pause before the second try.
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// The most steps of a job, with those of its actions.
pub(super) const MAX_STEPS: usize = 1_000;

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
            self.findings.error(Code::MissingKey, &entry.key_span, "`steps` holds no step", help);
        }
        if !self.calls.take_steps(items.len()) {
            let message = format!("the job has more than {MAX_STEPS} steps, those of the actions that it uses counted");
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
        let (continue_on_error, continue_on_error_when) = self.continue_on_error(node, scope);
        let timeout_minutes = node
            .get("timeout-minutes")
            .filter(|node| node.scalar().is_some_and(|scalar| scalar.text.contains("${{")))
            .and_then(|node| self.template(node, "timeout-minutes", &STEP, scope));
        let timeout_seconds = if timeout_minutes.is_none() { self.timeout_seconds(node) } else { None };
        let retry = node.get("retry").and_then(|node| self.retry(node));
        let action = self.action(node, defaults, deploys, scope);
        scope.leave();
        let id = self.step_id(node, scope);
        let action = action?;
        if let (Some(uses), Some(condition)) = (action.uses(), &condition) {
            self.warn_of_always(node, uses, condition);
        }
        if let Some(action) = action.uses().and_then(actions::find).filter(|action| action.deploys) {
            self.refuse_for_rollouts(node, action);
        }
        Some(StepPlan {
            id,
            name: name.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| default_name(&action)),
            condition,
            env,
            working_directory,
            timeout_seconds,
            timeout_minutes,
            continue_on_error,
            continue_on_error_when,
            retry,
            action,
            line: self.findings.source.line(node.span.start),
        })
    }

    /// `continue-on-error`: fixed, or a template.
    fn continue_on_error(&mut self, owner: &Node, scope: &mut Scope) -> (bool, Option<String>) {
        const KEY: &str = "continue-on-error";
        match owner.get(KEY) {
            None => (false, None),
            Some(node) if node.scalar().is_some_and(|scalar| scalar.text.contains("${{")) => {
                (false, self.template(node, KEY, &STEP, scope))
            }
            Some(node) => (self.boolean(node, KEY).unwrap_or(false), None),
        }
    }

    /// `retry`: a number of tries after the first, or a mapping of that and the pause.
    fn retry(&mut self, node: &Node) -> Option<StepRetry> {
        let (count, backoff) = match &node.content {
            Content::Mapping(_) => {
                if !self.keys(node, "`retry`", &RETRY) {
                    return None;
                }
                match node.get("max") {
                    Some(count) => (count, node.get("backoff")),
                    None => {
                        self.missing("max", "`retry`", &node.span, "say how often: `retry: { max: 2, backoff: 10s }`");
                        return None;
                    }
                }
            }
            _ => (node, None),
        };
        let max = match count.scalar().map(|scalar| scalar.kind) {
            Some(ScalarKind::Integer(max)) if (1..=MAX_RETRIES).contains(&max) => u32::try_from(max).ok(),
            Some(ScalarKind::Integer(max)) => {
                let message = format!("{max} tries after the first, and 1 to {MAX_RETRIES} are allowed");
                self.findings.error(Code::InvalidValue, &count.span, message, None);
                None
            }
            _ => {
                self.wrong_type(count, "`retry`", "a number of tries after the first, or `{ max: 2, backoff: 10s }`");
                None
            }
        };
        let pause = match backoff {
            None => Some(DEFAULT_BACKOFF),
            Some(node) => self.plain(node, "backoff").and_then(|text| match text.parse::<Span>() {
                Ok(span) if span.0 <= MAX_BACKOFF => Some(span.0),
                Ok(_) => {
                    let message = format!("a pause of {text} is longer than {} s", MAX_BACKOFF.as_secs());
                    self.findings.error(Code::InvalidValue, &node.span, message, None);
                    None
                }
                Err(message) => {
                    self.findings.error(Code::InvalidValue, &node.span, message, None);
                    None
                }
            }),
        };
        Some(StepRetry { max: max?, backoff_ms: u64::try_from(pause?.as_millis()).unwrap_or(u64::MAX) })
    }

    /// A step that waits for a rollout ends with it, at the server: there it is not tried again, and what its failure means must
    /// be known before.
    fn refuse_for_rollouts(&mut self, node: &Node, action: &Action) {
        let name = action.name;
        if let Some(retry) = node.entry("retry") {
            let message = format!("`{name}` is not tried again: a rollout that failed has gone back by itself");
            self.findings.error(Code::Conflict, &retry.key_span, message, Some("remove `retry`".into()));
        }
        let forgiving = node.entry("continue-on-error");
        if let Some(entry) =
            forgiving.filter(|entry| entry.value.scalar().is_some_and(|scalar| scalar.text.contains("${{")))
        {
            let message = format!("`continue-on-error` of `{name}` is `true` or `false`, and no expression");
            self.findings.error(Code::Conflict, &entry.value.span, message, None);
        }
        if self.calls.is_within() {
            let message = format!("`{name}` cannot stand in an action: the job waits for it");
            let help = "use it in the job itself, after the step that uses this action";
            let span = node.get("uses").map_or(node.span.clone(), |uses| uses.span.clone());
            self.findings.error(Code::Conflict, &span, message, Some(help.into()));
        }
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
        if self.calls.knows(&name) {
            return self.call(node, &name, uses, scope).map(StepAction::Composite);
        }
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
        if action.deploys && !deploys && !self.calls.is_within() {
            let message = format!("`{name}` needs to know the environment");
            let environment = if name == preview::ACTION { preview::ENVIRONMENT } else { "staging" };
            let help = Some(format!("give the job one: `environment: {environment}`"));
            self.findings.error(Code::MissingKey, &uses.value.span, message, help);
        }
        Some(StepAction::Uses { uses: name, with })
    }

    fn find_action(&mut self, name: &str, node: &Node) -> Option<&'static Action> {
        let found = actions::find(name);
        if found.is_some() {
            return found;
        }
        let (code, message, help) = if name.starts_with("./") {
            self.calls.missing(name)
        } else {
            let names = || actions::names();
            let bare = name.split('@').next().unwrap_or(name);
            let equivalent = bare.strip_prefix("actions/").map(|action| format!("segue/{action}"));
            let help = match equivalent.filter(|equivalent| names().any(|known| known == equivalent)) {
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
            let help = if action.deploys {
                "`artifact` names what a step `segue/upload-artifact` of this run made, `path` a directory of the workspace"
            } else {
                "`url` is an address, `service` what serves in the job's environment"
            };
            self.findings.error(code, span, message, Some(help.into()));
        }
        // what an expression will say is checked when it is known
        let strategy = with.get(strategies::INPUT).map(String::as_str).filter(|name| !name.trim().is_empty());
        let is_open = strategy.is_some_and(|name| !strategies::NAMES.contains(&name.trim()));
        let gives =
            |input: &str| with.get(input).is_some_and(|value| !value.trim().is_empty() && !value.contains("${{"));
        let knows = action.input(strategies::INPUT).is_some();
        if knows
            && !is_open
            && let Some((input, problem)) = strategies::misplaced(action.name, strategy.map(str::trim), gives)
        {
            let message = format!("the input `{input}` of `{}` does not go with its strategy", action.name);
            self.findings.error(Code::Conflict, span, message, Some(problem));
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
        StepAction::Uses { uses, .. } | StepAction::Composite(CompositePlan { uses, .. }) => uses.clone(),
        StepAction::Run { script, .. } => {
            let line = script.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
            whole_expressions(line.chars().take(LONGEST).collect())
        }
    }
}

/// A name is a template: an expression that was cut, or goes on in the next line, is left out.
fn whole_expressions(mut line: String) -> String {
    while let Some(at) = line.rfind("${{")
        && expr::template_expressions(&line).is_err()
    {
        line.truncate(at);
        line.push('…');
    }
    line
}
