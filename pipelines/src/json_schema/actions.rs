//! Composite actions, `.segue/actions/NAME/action.yml`.

use serde_json::{Map, Value, json};

use super::{
    shapes::{boolean, definition, described, key, reference, text},
    steps,
};

/// Files of actions.
pub(super) fn action() -> Value {
    let parts: Map<String, Value> =
        definitions().into_iter().chain(steps::definitions()).map(|(name, part)| (name.into(), part)).collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Segue: .segue/actions/*/action.yml",
        "$ref": "#/definitions/action",
        "definitions": parts,
    })
}

fn definitions() -> Vec<(&'static str, Value)> {
    let action = vec![
        key("name", "Its name for people.", text()),
        key("description", "What it does.", text()),
        key("author", "Who wrote it.", text()),
        key("inputs", "What a step gives it with `with`.", named("action-input")),
        key("outputs", "What later steps read of it.", named("action-output")),
        key("runs", "What it does.", reference("action-runs")),
    ];
    let input = vec![
        key("description", "What it is for.", text()),
        key("required", "Whether it must be given.", boolean()),
        key("default", "Its value where it is not given.", json!({ "type": ["string", "number", "boolean", "null"] })),
        key("deprecationMessage", "Why it should not be given any more.", text()),
    ];
    let output =
        vec![key("description", "What it is.", text()), key("value", "A template over `steps` and `inputs`.", text())];
    let steps = json!({ "type": "array", "items": reference("step"), "minItems": 1, "maxItems": 1000 });
    let runs = vec![
        key("using", "`composite`.", json!({ "const": "composite" })),
        key("steps", "Its steps, in order.", steps),
    ];
    vec![
        definition("action", "", described("A composite action.", action, &["runs"])),
        definition("action-input", "inputs.<id>", or_empty(described("An input.", input, &[]))),
        definition("action-output", "outputs.<id>", described("An output.", output, &["value"])),
        definition("action-runs", "runs", described("What it does.", runs, &["using", "steps"])),
    ]
}

/// Names of the author's own.
fn named(definition: &str) -> Value {
    json!({ "type": ["object", "null"], "additionalProperties": reference(definition) })
}

/// An input may say nothing of itself.
fn or_empty(mut schema: Value) -> Value {
    schema["type"] = json!(["object", "null"]);
    schema
}
