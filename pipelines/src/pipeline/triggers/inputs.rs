//! `inputs` of `workflow_dispatch` and `workflow_call`: what they may be given.

use indexmap::IndexMap;
use serde_json::Value;

use crate::{
    diagnostic::Code,
    document::{Content, Entry, Node, ScalarKind},
    inputs::{Input, InputKind, MAX_INPUTS},
    nearest::did_you_mean,
    pipeline::reader::{Keys, Reader},
};

pub(crate) const TYPES: [&str; 5] = ["string", "boolean", "number", "choice", "environment"];

/// What inputs can have, and which types.
pub(super) struct Rules {
    pub keys: Keys,
    pub types: &'static [&'static str],
}

/// Those of a person.
pub(super) const BY_HAND: Rules = Rules {
    keys: Keys { known: &["description", "required", "default", "type", "options", "deprecationMessage"], later: &[] },
    types: &TYPES,
};

impl Reader<'_, '_> {
    /// `inputs:` of `owner`; a text where it says no type.
    pub(super) fn typed_inputs(&mut self, owner: &Node, rules: &Rules) -> IndexMap<String, Input> {
        let mut inputs = IndexMap::new();
        let Some(entry) = owner.entry("inputs") else { return inputs };
        let entries = self.entries(&entry.value, "inputs");
        if entries.len() > MAX_INPUTS {
            let message = format!("there are {} inputs, and {MAX_INPUTS} are the limit", entries.len());
            self.findings.error(Code::TooMany, &entry.key_span, message, None);
            return inputs;
        }
        for entry in entries {
            self.identifier(&entry.key, &entry.key_span, "an input");
            if let Some(input) = self.typed_input(entry, rules) {
                inputs.insert(entry.key.clone(), input);
            }
        }
        inputs
    }

    fn typed_input(&mut self, entry: &Entry, rules: &Rules) -> Option<Input> {
        let node = &*entry.value;
        let what = format!("the input `{}`", entry.key);
        if node.is_null() {
            return Some(Input::default());
        }
        if !self.keys(node, &what, &rules.keys) {
            return None;
        }
        let kind = self.input_kind(entry, &what, rules.types)?;
        let description = node.get("description").and_then(|node| self.text(node, "description"));
        let required = node.get("required").and_then(|node| self.boolean(node, "required")).unwrap_or(false);
        let default = match node.get("default") {
            Some(node) if !node.is_null() => Some(self.default(node, &kind)?),
            _ => None,
        };
        Some(Input { kind, description: description.unwrap_or_default(), required, default })
    }

    fn input_kind(&mut self, entry: &Entry, what: &str, types: &[&str]) -> Option<InputKind> {
        let node = &*entry.value;
        let kind = match node.get("type") {
            None => "string".to_owned(),
            Some(kind) => {
                let name = self.plain(kind, "type")?;
                if !types.contains(&name.as_str()) {
                    let help = did_you_mean(&name, types.iter().copied());
                    let help = help.unwrap_or_else(|| format!("types: {}", types.join(", ")));
                    let message = format!("`{name}` is no type of an input here");
                    self.findings.error(Code::InvalidValue, &kind.span, message, Some(help));
                    return None;
                }
                name
            }
        };
        let options = node.entry("options");
        if kind != "choice"
            && let Some(options) = options
        {
            let help = Some("write `type: choice`".into());
            let message = format!("`options` of {what} means nothing, as its type is {kind}");
            self.findings.error(Code::Conflict, &options.key_span, message, help);
            return None;
        }
        Some(match kind.as_str() {
            "boolean" => InputKind::Boolean,
            "number" => InputKind::Number,
            "environment" => InputKind::Environment,
            "choice" => {
                let listed = options.map(|options| self.plain_list(&options.value, "options")).unwrap_or_default();
                if listed.is_empty() {
                    let place = options.map_or(&entry.key_span, |options| &options.key_span);
                    self.missing("options", what, place, "name at least one: `options: [debug, release]`");
                    return None;
                }
                InputKind::Choice { options: listed.into_iter().map(|(option, _)| option).collect() }
            }
            _ => InputKind::Text,
        })
    }

    /// A default of the input's own type.
    fn default(&mut self, node: &Node, kind: &InputKind) -> Option<Value> {
        if let Content::Mapping(_) | Content::Sequence(_) = node.content {
            self.wrong_type(node, "`default`", &format!("{} is", kind.article()));
            return None;
        }
        let written = self.text(node, "default")?;
        let scalar = node.scalar().map(|scalar| scalar.kind);
        let quoted = matches!((kind, scalar), (InputKind::Boolean | InputKind::Number, Some(ScalarKind::String)));
        let read = if quoted && !written.contains("${{") {
            Err(format!("it is a text, not {}; write it without quotes", kind.article()))
        } else if written.contains("${{") {
            Err("it cannot be an expression".into())
        } else {
            kind.read(&written)
        };
        match read {
            Ok(value) => Some(value),
            Err(problem) => {
                let message = format!("`default` does not fit: {problem}");
                self.findings.error(Code::InvalidValue, &node.span, message, None);
                None
            }
        }
    }
}
