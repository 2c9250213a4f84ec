//! Jobs that call another pipeline of the repository: `uses: ./.segue/pipelines/NAME.yml`. The called file is read once more for
//! each job that calls it, so that what an outsider chooses is followed through its inputs into its scripts.
//! <https://docs.github.com/en/actions/how-tos/reuse-automations/reuse-workflows>

use std::{collections::BTreeMap, sync::Arc};

use indexmap::IndexMap;
use segue_schemas::plan::{CallInput, CallInputKind};
use serde_json::Value;

use super::{
    Parsed,
    composite::Calls,
    expressions::{JOB_SETTING, Scope},
    jobs::MAX_JOBS,
    model::{Call, Callable, PassedSecrets, Pipeline},
    reader::Reader,
};
use crate::{
    diagnostic::{Code, Findings, Severity, Source},
    document::{self, Content, Entry, Node, ScalarKind},
    expr,
    inputs::{Input, InputKind},
    nearest::{did_you_mean, listed},
    service::file_stem,
};

/// Pipelines within each other, the caller not counted.
const MAX_DEPTH: usize = 4;
/// Where a repository keeps its pipelines.
const FOLDER: &str = ".segue/pipelines/";
/// What a job that calls a pipeline can have.
const CALLING: [&str; 8] = ["name", "needs", "if", "strategy", "permissions", "uses", "with", "secrets"];

/// The name of a pipeline's file within its folder.
pub(super) fn pipeline_name(path: &str) -> Option<&str> {
    let (before, name) = path.rsplit_once(FOLDER)?;
    let is_one = (name.ends_with(".yml") || name.ends_with(".yaml")) && !name.contains('/');
    (is_one && (before.is_empty() || before.ends_with('/'))).then_some(name)
}

impl Calls {
    /// The called file: its path and text.
    fn pipeline(&self, uses: &str) -> Option<(String, Arc<str>)> {
        self.files.pipelines.get(pipeline_name(uses.strip_prefix("./")?)?).cloned()
    }

    /// The outputs that a called pipeline declares; `None` where nobody can say.
    pub(super) fn declared_outputs(&self, uses: &str) -> Option<Vec<String>> {
        let (path, text) = self.pipeline(uses)?;
        let root = document::parse(&mut Findings::new(Source::new(&path, &text)))?;
        let outputs = root.get("on")?.get("workflow_call")?.get("outputs");
        Some(outputs.map_or(&[][..], Node::entries).iter().map(|entry| entry.key.clone()).collect())
    }
}

impl Reader<'_, '_> {
    /// What a job calls; `None`, with the reason among the findings, where that cannot be.
    pub(super) fn calling(&mut self, entry: &Entry, uses: &Entry, scope: &mut Scope) -> Option<Call> {
        let (key, node) = (&entry.key, &*entry.value);
        for strange in node.entries().iter().filter(|entry| !CALLING.contains(&entry.key.as_str())) {
            let message = format!("`{}` has no place in a job that calls a pipeline", strange.key);
            let help = match strange.key.as_str() {
                "concurrency" => "write it in the jobs of the pipeline that is called".to_owned(),
                _ => format!("such a job can have {}", CALLING.join(", ")),
            };
            self.findings.error(Code::Conflict, &strange.key_span, message, Some(help));
        }
        let name = self.plain(&uses.value, "uses")?;
        let (path, text) = self.called_file(&name, uses)?;
        let mut given = IndexMap::new();
        let mut tainted = BTreeMap::new();
        for entry in node.get("with").map_or(&[][..], |node| self.entries(node, "with")) {
            let Some(text) = self.template(&entry.value, &entry.key, &JOB_SETTING, scope) else { continue };
            tainted.insert(entry.key.to_lowercase(), scope.is_untrusted_text(&text));
            given.insert(entry.key.clone(), (text, entry));
        }
        let pipeline = self.called(&name, &path, &text, uses, tainted)?;
        let Some(callable) = &pipeline.triggers.workflow_call else {
            let message = format!("`{name}` cannot be called: it has no `on: workflow_call`");
            let help = Some("add `workflow_call:` to its `on`".into());
            self.findings.error(Code::InvalidValue, &uses.value.span, message, help);
            return None;
        };
        if pipeline.concurrency.is_some() {
            let message = format!("`{name}` has a `concurrency` of its own, which is not supported where it is called");
            let help = Some("write it in its jobs".into());
            self.findings.error(Code::NotSupportedYet, &uses.value.span, message, help);
        }
        let inputs = self.given_inputs(&name, uses, &callable.inputs, &given);
        let secrets = self.passed_secrets(&name, uses, node, callable, scope);
        let left = self.calls.jobs_left.checked_sub(pipeline.jobs.len());
        self.calls.jobs_left = left.unwrap_or(0);
        if left.is_none() {
            let message = format!("with what `{key}` calls there are more than {MAX_JOBS} jobs");
            self.findings.error(Code::TooMany, &uses.value.span, message, Some("split the pipeline".into()));
            return None;
        }
        let file = format!("{FOLDER}{}", pipeline_name(&path).unwrap_or(&path));
        Some(Call { file, inputs, secrets, pipeline: Box::new(pipeline) })
    }

    fn called_file(&mut self, name: &str, uses: &Entry) -> Option<(String, Arc<str>)> {
        if let Some(found) = self.calls.pipeline(name) {
            return Some(found);
        }
        let (code, message, help) = if name.contains('@') {
            let message = format!("`{name}`: pipelines of other repositories or commits are not supported yet");
            let help = format!("a pipeline of this repository, at the same commit: `./{FOLDER}NAME.yml`");
            (Code::NotSupportedYet, message, help)
        } else {
            let known: Vec<String> =
                self.calls.files.pipelines.keys().map(|name| format!("./{FOLDER}{name}")).collect();
            let names = || known.iter().map(String::as_str);
            let help = did_you_mean(name, names()).unwrap_or_else(|| match known.is_empty() {
                true => format!("a job uses a pipeline of this repository: `./{FOLDER}NAME.yml`"),
                false => format!("the pipelines of the repository are {}", listed(names())),
            });
            (Code::UnknownAction, format!("there is no pipeline `{name}`"), help)
        };
        self.findings.error(code, &uses.value.span, message, Some(help));
        None
    }

    /// The called file, read and checked.
    fn called(
        &mut self,
        name: &str,
        path: &str,
        text: &str,
        uses: &Entry,
        tainted: BTreeMap<String, bool>,
    ) -> Option<Pipeline> {
        if !self.may_call(path, text.len(), uses) {
            return None;
        }
        let mut findings = Findings::new(Source::new(path, text));
        let mut parsed =
            Parsed { name: file_stem(path).to_owned(), triggers: None, pipeline: None, diagnostics: Vec::new() };
        let pipeline = match document::parse(&mut findings) {
            Some(root) if !root.is_null() => {
                let mut calls = std::mem::take(&mut self.calls);
                calls.around.push(path.to_owned());
                let outer = std::mem::replace(&mut calls.tainted, tainted);
                let mut reader = Reader::new(&mut findings, calls);
                let pipeline = reader.pipeline(&root, &mut parsed);
                self.calls = reader.calls;
                self.calls.around.pop();
                self.calls.tainted = outer;
                pipeline
            }
            _ => None,
        };
        let broken = findings.has_errors();
        let found = findings.finish();
        let first = found.iter().find(|diagnostic| diagnostic.severity == Severity::Error).cloned();
        self.calls.found.extend(found);
        let pipeline = pipeline.filter(|_| !broken);
        if pipeline.is_none() {
            let why = first.map_or_else(
                || ": it is empty".into(),
                |d| format!(": {}:{}:{}: {}", d.file, d.line, d.column, d.message),
            );
            let message = format!("the pipeline `{name}` cannot be used{why}");
            self.findings.error(Code::BrokenAction, &uses.value.span, message, None);
        }
        pipeline
    }

    fn may_call(&mut self, path: &str, bytes: usize, uses: &Entry) -> bool {
        let span = &uses.value.span;
        let shown = |path: &str| pipeline_name(path).unwrap_or(path).to_owned();
        let around = &self.calls.around;
        if let Some(first) = around.iter().position(|around| shown(around) == shown(path)) {
            let circle: Vec<String> = around[first..].iter().map(|path| shown(path)).chain([shown(path)]).collect();
            let message = format!("pipelines call each other in a circle: {}", circle.join(" -> "));
            self.findings.error(Code::ActionNesting, span, message, Some("remove one of these calls".into()));
            return false;
        }
        // the outermost one is no call
        if around.len() > MAX_DEPTH {
            let path: Vec<String> = around.iter().map(|path| shown(path)).chain([shown(path)]).collect();
            let message = format!("more than {MAX_DEPTH} levels of calls: {}", path.join(" -> "));
            self.findings.error(Code::ActionNesting, span, message, None);
            return false;
        }
        self.take_bytes(bytes, span)
    }

    fn given_inputs(
        &mut self,
        name: &str,
        uses: &Entry,
        declared: &IndexMap<String, Input>,
        given: &IndexMap<String, (String, &Entry)>,
    ) -> IndexMap<String, CallInput> {
        for (key, (_, entry)) in given.iter().filter(|(key, _)| !declared.contains_key(*key)) {
            let known = || declared.keys().map(String::as_str);
            let help = match declared.is_empty() {
                true => "it takes none".to_owned(),
                false => did_you_mean(key, known()).unwrap_or_else(|| format!("it takes {}", listed(known()))),
            };
            let message = format!("`{name}` takes no input `{key}`");
            self.findings.error(Code::UnknownKey, &entry.key_span, message, Some(help));
        }
        let mut inputs = IndexMap::new();
        for (key, input) in declared {
            let kind = match &input.kind {
                InputKind::Boolean => CallInputKind::Boolean,
                InputKind::Number => CallInputKind::Number,
                InputKind::Text | InputKind::Choice { .. } | InputKind::Environment => CallInputKind::String,
            };
            let value = match given.get(key) {
                Some((text, entry)) => self.given_input(text, entry, &input.kind),
                None => {
                    if input.required && input.default.is_none() {
                        let message = format!("`{name}` needs the input `{key}`, {}", input.kind.article());
                        let help = Some(format!("add it: `with: {{ {key}: ... }}`"));
                        self.findings.error(Code::MissingKey, &uses.value.span, message, help);
                    }
                    Some(input.left_out())
                }
            };
            inputs.extend(value.map(|value| (key.clone(), CallInput { kind, value })));
        }
        inputs
    }

    /// A value for an input: one of its type, or a template that will say one.
    fn given_input(&mut self, text: &str, entry: &Entry, kind: &InputKind) -> Option<Value> {
        if text.contains("${{") {
            return Some(text.into());
        }
        let scalar = entry.value.scalar().map(|scalar| scalar.kind);
        let quoted = matches!((kind, scalar), (InputKind::Boolean | InputKind::Number, Some(ScalarKind::String)));
        let read = match quoted {
            true => Err(format!("it is a text, not {}", kind.article())),
            false => kind.read(text),
        };
        read.map_err(|problem| {
            let message = format!("`{}` does not fit: {problem}", entry.key);
            self.findings.error(Code::InvalidValue, &entry.value.span, message, None);
        })
        .ok()
    }

    /// `secrets:` of a job that calls.
    fn passed_secrets(
        &mut self,
        name: &str,
        uses: &Entry,
        job: &Node,
        callable: &Callable,
        scope: &mut Scope,
    ) -> PassedSecrets {
        let mut passed = IndexMap::new();
        if let Some(node) = job.get("secrets") {
            if let Content::Scalar(_) = node.content
                && !node.is_null()
            {
                if self.plain(node, "secrets").is_some_and(|word| word == "inherit") {
                    return PassedSecrets::All;
                }
                self.wrong_type(node, "`secrets`", "`inherit`, or a mapping from names to `${{ secrets.NAME }}`");
                return PassedSecrets::default();
            }
            for entry in self.entries(node, "secrets") {
                if !callable.secrets.contains_key(&entry.key) {
                    let known = || callable.secrets.keys().map(String::as_str);
                    let help = match callable.secrets.is_empty() {
                        true => {
                            "name it there under `on.workflow_call.secrets`, or write `secrets: inherit`".to_owned()
                        }
                        false => {
                            did_you_mean(&entry.key, known()).unwrap_or_else(|| format!("it takes {}", listed(known())))
                        }
                    };
                    let message = format!("`{name}` takes no secret `{}`", entry.key);
                    self.findings.error(Code::UnknownKey, &entry.key_span, message, Some(help));
                    continue;
                }
                let Some(text) = self.template(&entry.value, &entry.key, &super::expressions::PASSED_SECRET, scope)
                else {
                    continue;
                };
                match secret_named(&text) {
                    Some(secret) => {
                        passed.insert(entry.key.clone(), secret);
                    }
                    None => {
                        let message = format!("the secret `{}` is no other secret", entry.key);
                        let help = Some("write `${{ secrets.NAME }}`; what is no secret is an input".into());
                        self.findings.error(Code::InvalidValue, &entry.value.span, message, help);
                    }
                }
            }
        }
        for (secret, _) in
            callable.secrets.iter().filter(|(secret, required)| **required && !passed.contains_key(*secret))
        {
            let message = format!("`{name}` needs the secret `{secret}`");
            let help =
                Some(format!("add it: `secrets: {{ {secret}: \"${{{{ secrets.NAME }}}}\" }}`, or `secrets: inherit`"));
            self.findings.error(Code::MissingKey, &uses.value.span, message, help);
        }
        PassedSecrets::Named(passed)
    }
}

/// `NAME` of a text that is `${{ secrets.NAME }}` and nothing else.
fn secret_named(text: &str) -> Option<String> {
    let source = text.trim().strip_prefix("${{")?.strip_suffix("}}")?.trim();
    let references = expr::references(source).ok()?;
    let [reference] = references.as_slice() else { return None };
    let name = reference.name(0).filter(|_| reference.is_in("secrets"))?;
    let is_alone = reference.span == (0..source.len()) && reference.name(1).is_none();
    is_alone.then(|| name.to_owned())
}
