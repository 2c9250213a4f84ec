//! `on.workflow_call`: what a pipeline takes where another one calls it, and what it gives back.
//! <https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax#onworkflow_call>

use indexmap::IndexMap;

use super::inputs::Rules;
use crate::{
    document::Node,
    pipeline::{
        expressions::{CALL_OUTPUT, Scope},
        model::Callable,
        reader::{Keys, Reader},
    },
};

/// What an input may be.
pub(crate) const TYPES: [&str; 3] = ["string", "boolean", "number"];
const BY_CALL: Rules =
    Rules { keys: Keys { known: &["description", "required", "default", "type"], later: &[] }, types: &TYPES };
const CALL: Keys = Keys { known: &["inputs", "outputs", "secrets"], later: &[] };
const OUTPUT: Keys = Keys { known: &["description", "value"], later: &[] };
const SECRET: Keys = Keys { known: &["description", "required"], later: &[] };

impl Reader<'_, '_> {
    /// `on.workflow_call`; its outputs are read by [`Self::call_outputs`], once the jobs are known.
    pub(super) fn workflow_call(&mut self, node: &Node) -> Callable {
        if node.is_null() || !self.keys(node, "`workflow_call`", &CALL) {
            return Callable::default();
        }
        let mut secrets = IndexMap::new();
        for entry in node.get("secrets").map_or(&[][..], |node| self.entries(node, "secrets")) {
            self.identifier(&entry.key, &entry.key_span, "a secret");
            let mut required = false;
            if !entry.value.is_null() && self.keys(&entry.value, "a secret", &SECRET) {
                entry.value.get("description").and_then(|node| self.text(node, "description"));
                required = entry.value.get("required").and_then(|node| self.boolean(node, "required")).unwrap_or(false);
            }
            secrets.insert(entry.key.clone(), required);
        }
        Callable { inputs: self.typed_inputs(node, &BY_CALL), secrets, outputs: IndexMap::new() }
    }

    /// `outputs` of `on.workflow_call`: what the caller sees of the jobs.
    pub(in crate::pipeline) fn call_outputs(&mut self, root: &Node, scope: &mut Scope) -> IndexMap<String, String> {
        let mut outputs = IndexMap::new();
        let declared = root.get("on").and_then(|on| on.get("workflow_call")).and_then(|call| call.get("outputs"));
        for entry in declared.map_or(&[][..], |node| self.entries(node, "outputs")) {
            self.identifier(&entry.key, &entry.key_span, "an output");
            if !self.keys(&entry.value, "an output", &OUTPUT) {
                continue;
            }
            entry.value.get("description").and_then(|node| self.text(node, "description"));
            match entry.value.get("value") {
                None => {
                    let what = format!("the output `{}`", entry.key);
                    let help = "say what it is: `value: ${{ jobs.ID.outputs.NAME }}`";
                    self.missing("value", &what, &entry.key_span, help);
                }
                Some(value) => {
                    if let Some(value) = self.template(value, "value", &CALL_OUTPUT, scope) {
                        outputs.insert(entry.key.clone(), value);
                    }
                }
            }
        }
        outputs
    }
}
