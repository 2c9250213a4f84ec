//! `jobs.<id>.steps[*]`.

use serde_json::{Value, json};

use super::shapes::{Key, boolean, definition, described, identifier, key, minutes, some_text, text, variables};

pub(super) fn definitions() -> Vec<(&'static str, Value)> {
    let mut step = described("A step: `run` or `uses`.", step(), &[]);
    step["oneOf"] = json!([{ "required": ["run"] }, { "required": ["uses"] }]);
    vec![definition("step", "jobs.<id>.steps[*]", step)]
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
        key("continue-on-error", "Whether the job goes on after it failed.", boolean()),
        key("timeout-minutes", "How long it may run.", minutes()),
    ]
}

fn inputs() -> Value {
    json!({ "type": ["object", "null"], "additionalProperties": { "type": ["string", "number", "boolean", "null"] } })
}
