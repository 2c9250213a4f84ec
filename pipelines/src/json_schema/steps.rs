//! `jobs.<id>.steps[*]`.

use serde_json::{Value, json};

use super::shapes::{
    Key, boolean, definition, described, identifier, key, minutes, reference, some_text, text, variables,
};

pub(super) fn definitions() -> Vec<(&'static str, Value)> {
    let mut step = described("A step: `run` or `uses`.", step(), &[]);
    step["oneOf"] = json!([{ "required": ["run"] }, { "required": ["uses"] }]);
    let retry = described("How it is tried again.", retry(), &["max"]);
    vec![definition("step", "jobs.<id>.steps[*]", step), definition("step-retry", "jobs.<id>.steps[*].retry", retry)]
}

fn retry() -> Vec<Key> {
    vec![
        key("max", "Tries after the first one.", json!({ "type": "integer", "minimum": 1, "maximum": 10 })),
        key("backoff", "The pause before the second try; it doubles. At most 5m.", some_text()),
    ]
}

fn step() -> Vec<Key> {
    vec![
        key("id", "Its name in `steps.<id>` of later steps.", identifier()),
        key("name", "The name that is shown.", text()),
        key("if", "An expression; the step is skipped where it does not hold.", text()),
        key("run", "A script.", some_text()),
        key("uses", "An action.", some_text()),
        key("with", "What the action is given.", inputs()),
        key("env", "Environment variables of this step.", variables()),
        key("shell", "`bash`, `sh`, `python`, or a command in which `{0}` stands for the script's file.", some_text()),
        key("working-directory", "Where the script runs, from the workspace's root.", text()),
        key("continue-on-error", "Whether the job goes on after it failed.", or_template(boolean())),
        key("timeout-minutes", "How long one try may take.", or_template(minutes())),
        key(
            "retry",
            "How often it is tried again after it failed or took too long.",
            json!({ "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 10 }, reference("step-retry")] }),
        ),
    ]
}

/// What this takes, or a template that gives it.
fn or_template(shape: Value) -> Value {
    json!({ "anyOf": [shape, { "type": "string", "pattern": "\\$\\{\\{" }] })
}

fn inputs() -> Value {
    json!({ "type": ["object", "null"], "additionalProperties": { "type": ["string", "number", "boolean", "null"] } })
}
