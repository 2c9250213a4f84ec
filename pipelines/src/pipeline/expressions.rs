//! Expressions in their places: which contexts and functions each place has, and whether what is read exists.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    rc::Rc,
};

use indexmap::IndexMap;

use super::{
    reader::Reader,
    untrusted::{is_untrusted, variable_for},
};
use crate::{
    diagnostic::Code,
    document::{Node, locate},
    expr::{self, ExprError, Reference, equal_ignoring_case},
    nearest::{did_you_mean, listed},
    plan::GITHUB_CONTEXT_KEYS,
};

/// A place where expressions stand.
pub(super) struct Place {
    /// The contexts that it has.
    contexts: &'static [&'static str],
    /// Whether `success()` and its like are known.
    status: bool,
    /// Whether there is a workspace to hash files of.
    hash_files: bool,
    /// Whether the value is run by a shell.
    script: bool,
}

const fn place(contexts: &'static [&'static str]) -> Place {
    Place { contexts, status: false, hash_files: false, script: false }
}

const IN_STEPS: &[&str] =
    &["github", "env", "vars", "inputs", "needs", "strategy", "matrix", "steps", "job", "runner", "secrets"];
const WITHOUT_SECRETS: &[&str] =
    &["github", "env", "vars", "inputs", "needs", "strategy", "matrix", "steps", "job", "runner"];
/// What GitHub gives to most keys of a job: <https://docs.github.com/actions/reference/workflows-and-actions/contexts#context-availability>.
const IN_JOB: &[&str] = &["github", "vars", "inputs", "needs", "strategy", "matrix"];
pub(super) const PIPELINE_ENV: Place = place(&["github", "vars", "inputs", "secrets"]);
pub(super) const PIPELINE_CONCURRENCY: Place = place(&["github", "vars", "inputs"]);
pub(super) const CONTAINER_ENV: Place =
    place(&["github", "env", "vars", "inputs", "needs", "strategy", "matrix", "job", "runner", "secrets"]);
pub(super) const CREDENTIALS: Place =
    place(&["github", "env", "vars", "inputs", "needs", "strategy", "matrix", "secrets"]);
pub(super) const JOB_SETTING: Place = place(IN_JOB);
pub(super) const STRATEGY: Place = place(&["github", "vars", "inputs", "needs"]);
pub(super) const JOB_IF: Place = Place { status: true, ..place(&["github", "vars", "inputs", "needs"]) };
pub(super) const JOB_ENV: Place = place(&["github", "vars", "inputs", "needs", "strategy", "matrix", "secrets"]);
pub(super) const JOB_OUTPUT: Place = place(IN_STEPS);
/// Evaluated where the job's end is stored, so without what only its worker knew.
pub(super) const ENVIRONMENT_URL: Place =
    place(&["github", "vars", "inputs", "needs", "strategy", "matrix", "steps", "job"]);
pub(super) const STEP_IF: Place = Place { status: true, hash_files: true, ..place(WITHOUT_SECRETS) };
pub(super) const STEP: Place = Place { hash_files: true, ..place(IN_STEPS) };
pub(super) const ACTION_DEFAULT: Place = place(&["github", "job", "runner"]);
/// Outputs of a pipeline that is called.
pub(super) const CALL_OUTPUT: Place = place(&["github", "vars", "inputs", "jobs"]);
/// A secret for a pipeline that is called.
pub(super) const PASSED_SECRET: Place = place(&["secrets"]);
pub(super) const STEP_RUN: Place = Place { hash_files: true, script: true, ..place(IN_STEPS) };

/// The most secrets that one job can name.
const MAX_SECRETS: usize = 256;

/// The jobs of the file by key. Read before anything else, as `needs` may point down the file.
pub(super) type Jobs = IndexMap<String, Outline>;

/// What other jobs can name of a job.
#[derive(Debug, Clone, Default)]
pub(super) struct Outline {
    /// The names of its outputs.
    pub outputs: Vec<String>,
    /// Whether only a file that cannot be read knows them; then nothing is said about them.
    pub is_unknown: bool,
    /// Whether it runs once for each combination of a matrix.
    pub has_matrix: bool,
}

/// What is known of a job's matrix before it runs.
#[derive(Debug, Clone, Default)]
pub(super) struct MatrixScope {
    /// Its variables; `None` where only the run will know them.
    pub names: Option<Vec<String>>,
    /// Whether an outsider chooses any of its values.
    pub is_untrusted: bool,
}

/// What expressions can name where reading stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    /// The jobs of the file.
    pub jobs: Rc<Jobs>,
    /// What the job needs.
    pub needs: Vec<String>,
    /// The job's matrix, if it has one.
    pub matrix: Option<MatrixScope>,
    /// The ids of the steps so far.
    pub steps: Vec<String>,
    /// Whether a step so far has an id that could not be read; then nothing is said about ids.
    pub steps_unknown: bool,
    /// What is known of the variables of `env`.
    variables: Rc<Variables>,
    /// The secrets used so far.
    pub secrets: BTreeSet<String>,
    /// Within a composite action: its inputs, and whether an outsider chooses the value.
    pub action_inputs: Option<Rc<IndexMap<String, bool>>>,
    /// The inputs that the pipeline takes, and whether an outsider chooses the value.
    pub inputs: Rc<IndexMap<String, bool>>,
}

/// The variables of one `env`, over those around it.
#[derive(Debug, Clone, Default)]
struct Variables {
    /// Whether an outsider chooses the value, by name.
    untrusted: HashMap<String, bool>,
    /// Whether that is so for any of them, or of those around.
    any_untrusted: bool,
    around: Option<Rc<Self>>,
}

impl Variables {
    fn is_untrusted(&self, name: &str) -> bool {
        match (self.untrusted.get(name), &self.around) {
            (Some(untrusted), _) => *untrusted,
            (None, Some(around)) => around.is_untrusted(name),
            (None, None) => false,
        }
    }
}

impl Scope {
    /// Begins an `env` within the one around.
    pub(super) fn enter(&mut self) {
        let around = Rc::clone(&self.variables);
        let any_untrusted = around.any_untrusted;
        self.variables = Rc::new(Variables { untrusted: HashMap::new(), any_untrusted, around: Some(around) });
    }

    /// Ends what [`Self::enter`] began.
    pub(super) fn leave(&mut self) {
        if let Some(around) = self.variables.around.clone() {
            self.variables = around;
        }
    }

    /// Notes a variable of `env`; one that takes the place of another takes over its trust as well.
    pub(super) fn note_variable(&mut self, name: &str, value: &str) {
        let untrusted = self.is_untrusted_text(value);
        let variables = Rc::make_mut(&mut self.variables);
        variables.any_untrusted |= untrusted;
        variables.untrusted.insert(name.to_owned(), untrusted);
    }

    /// Whether a text reads what an outsider chooses.
    pub(super) fn is_untrusted_text(&self, value: &str) -> bool {
        expr::template_references(value).unwrap_or_default().iter().any(|reference| self.is_untrusted(reference))
    }

    fn is_untrusted(&self, reference: &Reference) -> bool {
        is_untrusted(reference)
            || (reference.is_in("inputs") && {
                let inputs = self.action_inputs.as_ref().unwrap_or(&self.inputs);
                match reference.name(0) {
                    Some(name) => inputs.iter().any(|(known, tainted)| *tainted && equal_ignoring_case(known, name)),
                    None => inputs.values().any(|tainted| *tainted),
                }
            })
            || (reference.is_in("matrix") && self.matrix.as_ref().is_some_and(|matrix| matrix.is_untrusted))
            || (reference.is_in("env")
                && match reference.name(0) {
                    Some(name) => self.variables.is_untrusted(name),
                    None => self.variables.any_untrusted,
                })
    }
}

impl Reader<'_, '_> {
    /// A text that may hold `${{ }}`, checked. Numbers and booleans are taken as written.
    pub(super) fn template(&mut self, node: &Node, what: &str, place: &Place, scope: &mut Scope) -> Option<String> {
        let text = self.text(node, what)?;
        match expr::template_expressions(&text) {
            Ok(expressions) => {
                for (source, offset) in expressions {
                    self.check_expression(node, source, offset, place, scope);
                }
            }
            Err(error) => self.refuse_expression(node, &error, 0),
        }
        Some(text)
    }

    /// An `if`: one expression, given back without its `${{ }}`.
    pub(super) fn condition(&mut self, node: &Node, place: &Place, scope: &mut Scope) -> Option<String> {
        let text = self.text(node, "if")?;
        if text.trim().is_empty() {
            return None;
        }
        match expr::condition_source(&text) {
            Ok((source, offset)) => {
                self.check_expression(node, source, offset, place, scope);
                Some(source.trim().to_owned())
            }
            Err(error) => {
                self.refuse_expression(node, &error, 0);
                None
            }
        }
    }

    /// Where a part of a scalar's text stands in the file.
    pub(super) fn within(&self, node: &Node, part: &Range<usize>) -> Range<usize> {
        let written = self.findings.source.text.get(node.span.clone()).unwrap_or_default();
        let text = node.scalar().map_or("", |scalar| scalar.text.as_str());
        locate(text, part, written, node.span.start)
    }

    fn check_expression(&mut self, node: &Node, source: &str, offset: usize, place: &Place, scope: &mut Scope) {
        if self.findings.is_full() {
            return;
        }
        let (references, calls) = match (expr::references(source), expr::calls(source)) {
            (Ok(references), Ok(calls)) => (references, calls),
            (Err(error), _) | (_, Err(error)) => return self.refuse_expression(node, &error, offset),
        };
        for call in calls {
            let hash_files = call.function == "hashFiles";
            if (call.is_status() && !place.status) || (hash_files && !place.hash_files) {
                let span = self.within(node, &shifted(&call.span, offset));
                let home = if hash_files { "in steps, where there is a workspace" } else { "in `if`" };
                let message = format!("`{}` is only known {home}", call.function);
                self.findings.error(Code::UnknownFunction, &span, message, None);
            }
        }
        for reference in references {
            let problem = action_problem(&reference, scope)
                .or_else(|| context_problem(&reference, place))
                .or_else(|| existence_problem(&reference, scope))
                .or_else(|| secret_problem(&reference, scope))
                .or_else(|| if place.script { script_problem(&reference, source, scope) } else { None });
            if let Some((code, message, help)) = problem {
                let span = self.within(node, &shifted(&reference.span, offset));
                self.findings.error(code, &span, message, help);
            } else if let Some(key) = missing_github_key(&reference) {
                let span = self.within(node, &shifted(&reference.span, offset));
                let help = did_you_mean(key, GITHUB_CONTEXT_KEYS)
                    .unwrap_or_else(|| format!("known: {}", GITHUB_CONTEXT_KEYS.join(", ")));
                let message = format!("`github.{key}` does not exist here, so this is always empty");
                self.findings.warning(Code::UnknownReference, &span, message, Some(help));
            }
        }
    }

    fn refuse_expression(&mut self, node: &Node, error: &ExprError, offset: usize) {
        let span = self.within(node, &shifted(&error.span, offset));
        self.findings.error(Code::of_expression(error.kind), &span, error.to_string(), error.help.clone());
    }
}

type Problem = (Code, String, Option<String>);

/// What a composite action cannot see, although a step of a job can.
fn action_problem(reference: &Reference, scope: &Scope) -> Option<Problem> {
    let inputs = scope.action_inputs.as_ref()?;
    if let Some(context) = ["needs", "secrets", "vars"].into_iter().find(|context| reference.is_in(context)) {
        let message = format!("the context `{context}` is not available in an action");
        let help = "give the action an input for it, and let the step that uses it fill that in".to_owned();
        return Some((Code::UnknownContext, message, Some(help)));
    }
    let name = reference.name(0).filter(|_| reference.is_in("inputs"))?;
    if inputs.keys().any(|known| equal_ignoring_case(known, name)) {
        return None;
    }
    let known: Vec<String> = inputs.keys().cloned().collect();
    let help = suggestion(name, &known, "it has", "it has no `inputs`");
    Some((Code::UnknownReference, format!("the action has no input `{name}`"), Some(help)))
}

fn context_problem(reference: &Reference, place: &Place) -> Option<Problem> {
    if place.contexts.iter().any(|context| reference.is_in(context)) {
        return None;
    }
    let name = &reference.context;
    let known = expr::CONTEXT_NAMES.iter().any(|context| reference.is_in(context));
    let here = format!("available here: {}", place.contexts.join(", "));
    Some(if known {
        (Code::UnknownContext, format!("the context `{name}` is not available here"), Some(here))
    } else {
        let help = expr::call_it(name)
            .or_else(|| did_you_mean(name, place.contexts.iter().copied()))
            .unwrap_or_else(|| format!("{here}; a text stands in single quotes: `'{name}'`"));
        (Code::UnknownContext, format!("there is no context `{name}`"), Some(help))
    })
}

/// `needs.x` and `steps.x` that lead nowhere.
fn existence_problem(reference: &Reference, scope: &Scope) -> Option<Problem> {
    let first = reference.name(0)?;
    let unknown = |message: String, help: String| Some((Code::UnknownReference, message, Some(help)));
    let has = |list: &[String], name: &str| list.iter().any(|known| equal_ignoring_case(known, name));
    if reference.is_in("needs") {
        if !has(&scope.needs, first) {
            return if scope.jobs.keys().any(|key| equal_ignoring_case(key, first)) {
                let help = format!("add it to this job's `needs`: `needs: [{first}]`");
                unknown(format!("this job does not need `{first}`, so nothing is known of it"), help)
            } else {
                let help = suggestion(first, &scope.needs, "this job needs", "this job needs no other");
                unknown(format!("there is no job `{first}`"), help)
            };
        }
        return needed_problem(reference, first, scope);
    }
    if reference.is_in("matrix") {
        return matrix_problem(first, scope);
    }
    if reference.is_in("inputs") && !scope.inputs.is_empty() {
        let inputs: Vec<String> = scope.inputs.keys().cloned().collect();
        if !has(&inputs, first) {
            let help = suggestion(first, &inputs, "it takes", "it takes none");
            return unknown(format!("the pipeline takes no input `{first}`"), help);
        }
    }
    if reference.is_in("jobs") {
        if scope.jobs.keys().any(|key| equal_ignoring_case(key, first)) {
            return needed_problem(reference, first, scope);
        }
        let jobs: Vec<String> = scope.jobs.keys().cloned().collect();
        let help = suggestion(first, &jobs, "the jobs are", "there is none");
        return unknown(format!("there is no job `{first}`"), help);
    }
    if reference.is_in("steps") && !scope.steps_unknown {
        if !has(&scope.steps, first) {
            let help =
                suggestion(first, &scope.steps, "the steps before it have the ids", "no step before it has an `id`");
            return unknown(format!("no step before this one has the id `{first}`"), help);
        }
        const KEYS: [&str; 3] = ["outputs", "outcome", "conclusion"];
        let key = reference.name(1)?;
        if !KEYS.contains(&key) {
            let help = did_you_mean(key, KEYS).unwrap_or_else(|| format!("it has {}", KEYS.join(", ")));
            return unknown(format!("a step has no `{key}`"), help);
        }
    }
    None
}

/// `needs.JOB.x` or `jobs.JOB.x` that the job does not have.
fn needed_problem(reference: &Reference, job: &str, scope: &Scope) -> Option<Problem> {
    let unknown = |message: String, help: String| Some((Code::UnknownReference, message, Some(help)));
    let Outline { outputs, has_matrix, is_unknown } = scope.jobs.get(job)?;
    let context = if reference.is_in("jobs") { "jobs" } else { "needs" };
    let missing_output = |name: &str| {
        let help = suggestion(name, outputs, "it has", "it has no `outputs`");
        let exists = outputs.iter().any(|known| equal_ignoring_case(known, name));
        if exists || *is_unknown { None } else { unknown(format!("the job `{job}` has no output `{name}`"), help) }
    };
    match (reference.name(1)?, has_matrix) {
        ("result", _) => None,
        ("outputs", true) => {
            let output = reference.name(2).unwrap_or("NAME");
            unknown(
                format!(
                    "the job `{job}` runs once for each combination of its matrix, so there is more than one `{output}`"
                ),
                format!(
                    "name the combination: `{context}.{job}.matrix['LABEL'].outputs.{output}`, where LABEL is what stands in parentheses \
                     behind the job's name; or read all of them: `{context}.{job}.matrix.*.outputs.{output}`"
                ),
            )
        }
        ("matrix", true) => match (reference.name(3)?, reference.name(4)) {
            ("result" | "matrix", _) => None,
            ("outputs", output) => output.and_then(missing_output),
            (other, _) => unknown(
                format!("a combination has no `{other}`"),
                did_you_mean(other, ["result", "outputs", "matrix"])
                    .unwrap_or_else(|| "it has `result`, `outputs` and `matrix`".into()),
            ),
        },
        ("outputs", false) => reference.name(2).and_then(missing_output),
        (other, _) => {
            let known = if *has_matrix { ["result", "matrix"] } else { ["result", "outputs"] };
            unknown(
                format!("a needed job has no `{other}`"),
                did_you_mean(other, known).unwrap_or_else(|| format!("it has `{}` and `{}`", known[0], known[1])),
            )
        }
    }
}

fn matrix_problem(variable: &str, scope: &Scope) -> Option<Problem> {
    let (message, help) = match &scope.matrix {
        None => {
            let help = "give it one: `strategy: { matrix: { NAME: [...] } }`".to_owned();
            (format!("this job has no matrix, so `matrix.{variable}` is nothing"), help)
        }
        Some(MatrixScope { names: Some(names), .. })
            if !names.iter().any(|known| equal_ignoring_case(known, variable)) =>
        {
            let help = suggestion(variable, names, "it has", "it names none");
            (format!("the matrix has no variable `{variable}`"), help)
        }
        Some(_) => return None,
    };
    Some((Code::UnknownReference, message, Some(help)))
}

/// Secrets come with the claim of a job, by name; so each must be named in the text. Notes those that are.
fn secret_problem(reference: &Reference, scope: &mut Scope) -> Option<Problem> {
    if !reference.is_in("secrets") {
        return None;
    }
    if let Some(name) = reference.name(0) {
        if scope.secrets.len() >= MAX_SECRETS && !scope.secrets.contains(name) {
            let message = format!("the job names more than {MAX_SECRETS} secrets");
            return Some((Code::TooMany, message, Some("name only those that it needs, or split the job".into())));
        }
        scope.secrets.insert(name.to_owned());
        return None;
    }
    let message = "a secret must be named: a job gets only those that its text names".to_owned();
    Some((Code::UnnamedSecret, message, Some("write `secrets.NAME` for each that is needed".into())))
}

fn script_problem(reference: &Reference, source: &str, scope: &Scope) -> Option<Problem> {
    if !scope.is_untrusted(reference) {
        return None;
    }
    let written = source.get(reference.span.clone()).unwrap_or_default();
    let help = if reference.is_in("env") {
        match reference.name(0) {
            Some(name) => format!("it is in the environment of the script already: write `\"${name}\"`"),
            None => "read the variables in the script: `\"$NAME\"`".into(),
        }
    } else {
        let name = variable_for(reference);
        let whole = source.split_whitespace().collect::<Vec<_>>().join(" ");
        format!("give the step `env: {{ {name}: \"${{{{ {whole} }}}}\" }}` and write `\"${name}\"` in the script")
    };
    let message = format!("`{written}` is chosen by whoever makes the event; pasted into a script, it would be run");
    Some((Code::UntrustedValue, message, Some(help)))
}

fn missing_github_key(reference: &Reference) -> Option<&str> {
    let key = reference.name(0).filter(|_| reference.is_in("github"))?;
    (!GITHUB_CONTEXT_KEYS.iter().any(|known| known.eq_ignore_ascii_case(key))).then_some(key)
}

fn suggestion(name: &str, known: &[String], sentence: &str, none: &str) -> String {
    did_you_mean(name, known.iter().map(String::as_str)).unwrap_or_else(|| {
        let names = known.iter().map(String::as_str);
        if known.is_empty() { none.to_owned() } else { format!("{sentence} {}", listed(names)) }
    })
}

fn shifted(span: &Range<usize>, offset: usize) -> Range<usize> {
    span.start + offset..span.end + offset
}
