//! Keys of a job that are one value, fixed or said by an expression.

use segue_schemas::{gpu::GpuNeed, id::is_name, plan::Setting};

use super::{
    expressions::{ENVIRONMENT_URL, JOB_SETTING, Place, Scope},
    reader::{Keys, Reader},
};
use crate::{
    diagnostic::Code,
    document::{self, Content, Node, ScalarKind},
};

const ENVIRONMENT: Keys = Keys { known: &["name", "url"], later: &[] };
const GPUS: Keys = Keys { known: &["count", "memory"], later: &[] };
const RESOURCES: Keys = Keys { known: &["gpus"], later: &[] };
const RUNS_ON: Keys = Keys { known: &["group", "labels"], later: &[] };

/// `timeout-minutes` of a job.
#[derive(Debug, Default)]
pub(super) struct Timeout {
    pub seconds: Option<u64>,
    pub template: Option<String>,
}

impl Reader<'_, '_> {
    /// `true`, `false`, or one expression that says it.
    pub(super) fn setting(
        &mut self,
        node: &Node,
        what: &str,
        place: &Place,
        scope: &mut Scope,
    ) -> Option<Setting<bool>> {
        match node.scalar().map(|scalar| (scalar.kind, scalar.text.contains("${{"))) {
            Some((ScalarKind::Bool(value), _)) => Some(Setting::Fixed(value)),
            Some((_, true)) => self.template(node, what, place, scope).map(Setting::Late),
            _ => {
                self.wrong_type(node, &format!("`{what}`"), "`true` or `false`");
                None
            }
        }
    }

    /// `timeout-minutes` of a job.
    pub(super) fn job_timeout(&mut self, owner: &Node, scope: &mut Scope) -> Timeout {
        const WHAT: &str = "timeout-minutes";
        match owner.get(WHAT) {
            Some(node) if node.scalar().is_some_and(|scalar| scalar.text.contains("${{")) => {
                Timeout { seconds: None, template: self.template(node, WHAT, &JOB_SETTING, scope) }
            }
            _ => Timeout { seconds: self.timeout_seconds(owner), template: None },
        }
    }

    /// `runs-on:`, a label, several, or `{group, labels}`; a group is one more label that the worker must have.
    pub(super) fn runs_on(&mut self, node: &Node, scope: &mut Scope) -> Vec<String> {
        let mut labels = Vec::new();
        if let Content::Mapping(_) = node.content {
            self.keys(node, "`runs-on`", &RUNS_ON);
            for part in ["group", "labels"].into_iter().filter_map(|key| node.get(key)) {
                self.labels(part, scope, &mut labels);
            }
            if node.entries().is_empty() {
                self.missing("labels", "`runs-on`", &node.span, "name the labels: `runs-on: { labels: [linux, gpu] }`");
            }
        } else {
            self.labels(node, scope, &mut labels);
        }
        labels
    }

    fn labels(&mut self, node: &Node, scope: &mut Scope, labels: &mut Vec<String>) {
        match &node.content {
            Content::Sequence(items) => items.iter().for_each(|item| self.label(item, scope, labels)),
            Content::Scalar(_) => self.label(node, scope, labels),
            Content::Mapping(_) => self.wrong_type(node, "`runs-on`", "a text or a list of texts"),
        }
    }

    fn label(&mut self, node: &Node, scope: &mut Scope, labels: &mut Vec<String>) {
        let Some(label) = self.filled_template(node, "runs-on", &JOB_SETTING, scope) else { return };
        // a comma parts labels where they are stored
        if label.contains(',') && !label.contains("${{") {
            let message = format!("`{label}` cannot be a label");
            let help = Some("write a list: `runs-on: [linux, gpu]`".into());
            return self.findings.error(Code::InvalidValue, &node.span, message, help);
        }
        labels.push(label);
    }

    /// `environment:`, a name or `{name, url}`: what it is called, and where it can be seen. The URL is read last, as it may
    /// name steps.
    pub(super) fn environment(&mut self, node: &Node, scope: &mut Scope) -> Option<String> {
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
        let name = self.filled_template(node, "environment", &JOB_SETTING, scope)?;
        if !name.contains("${{") && !is_name(&name) {
            let message = format!("`{name}` cannot name an environment");
            let help = "use 1 to 64 letters, digits, `-`, `_` and `.`, beginning with none of `-` and `.`";
            self.findings.error(Code::InvalidValue, &node.span, message, Some(help.into()));
            return None;
        }
        Some(name)
    }

    /// `environment.url`.
    pub(super) fn environment_url(&mut self, owner: &Node, scope: &mut Scope) -> Option<String> {
        let node = owner.get("environment")?.get("url")?;
        self.template(node, "environment.url", &ENVIRONMENT_URL, scope)
    }

    /// `resources:` of a job: GPUs.
    pub(super) fn job_resources(&mut self, node: &Node) -> Option<GpuNeed> {
        if !self.keys(node, "`resources`", &RESOURCES) {
            return None;
        }
        let Some(node) = node.get("gpus") else {
            self.missing("gpus", "`resources`", &node.span, "say how many: `resources: { gpus: 1 }`");
            return None;
        };
        let errors = self.findings.errors();
        // what services may ask for beside these is for labels here
        if let Content::Mapping(_) = node.content
            && (!self.keys(node, "`gpus`", &GPUS) || self.findings.errors() > errors)
        {
            return None;
        }
        document::deserialize(node, self.findings)
    }

    /// A template that says something.
    pub(super) fn filled_template(
        &mut self,
        node: &Node,
        what: &str,
        place: &Place,
        scope: &mut Scope,
    ) -> Option<String> {
        let text = self.template(node, what, place, scope)?;
        if text.trim().is_empty() {
            self.findings.error(Code::InvalidValue, &node.span, format!("`{what}` is empty"), None);
            return None;
        }
        Some(text)
    }
}
