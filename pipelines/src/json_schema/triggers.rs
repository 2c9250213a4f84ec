//! `on`.

use serde_json::{Value, json};

use super::shapes::{
    Key, boolean, definition, described, identifier, key, one_of, or_nothing, reference, some_text, text, texts,
};
use crate::pipeline::{CALL_TYPES, COMMENT_TYPES, EVENTS, INPUT_TYPES, PULL_REQUEST_TYPES};

/// What `on` takes.
pub(super) fn on() -> Value {
    json!({ "anyOf": [
        one_of(&EVENTS),
        { "type": "array", "items": one_of(&EVENTS), "minItems": 1 },
        reference("on"),
    ] })
}

pub(super) fn definitions() -> Vec<(&'static str, Value)> {
    let events = vec![
        key("push", "A push of a branch or a tag.", or_nothing(reference("push"))),
        key("pull_request", "Something happened to a pull request.", or_nothing(reference("pull_request"))),
        key(
            "schedule",
            "Times that come again, of the default branch.",
            json!({ "type": "array", "items": reference("schedule"), "minItems": 1, "maxItems": 20 }),
        ),
        key("workflow_dispatch", "Started by a person.", or_nothing(reference("workflow_dispatch"))),
        key("workflow_call", "Called by a job of another pipeline.", or_nothing(reference("workflow_call"))),
        key("repository_dispatch", "Asked for from outside.", or_nothing(reference("repository_dispatch"))),
        key(
            "issue_comment",
            "A comment was written; read, and starts nothing yet.",
            or_nothing(reference("issue_comment")),
        ),
    ];
    vec![
        definition("on", "on", described("What starts the pipeline.", events, &[])),
        definition("push", "on.push", described("Which pushes start it.", push(), &[])),
        definition("pull_request", "on.pull_request", described("Which pull requests start it.", pull_request(), &[])),
        definition("schedule", "on.schedule[*]", described("A time that comes again.", schedule(), &["cron"])),
        definition("workflow_dispatch", "on.workflow_dispatch", described("Started by a person.", dispatch(), &[])),
        definition("input", "on.workflow_dispatch.inputs.<name>", described("An input.", input(), &[])),
        definition(
            "workflow_call",
            "on.workflow_call",
            described("Called by a job of another pipeline.", workflow_call(), &[]),
        ),
        definition("call-input", "on.workflow_call.inputs.<name>", described("An input.", call_input(), &[])),
        definition(
            "call-output",
            "on.workflow_call.outputs.<name>",
            described("An output.", call_output(), &["value"]),
        ),
        definition("call-secret", "on.workflow_call.secrets.<name>", described("A secret.", call_secret(), &[])),
        definition(
            "repository_dispatch",
            "on.repository_dispatch",
            described(
                "Asked for from outside.",
                vec![key("types", "The types of requests. Left out: any.", texts())],
                &[],
            ),
        ),
        definition("issue_comment", "on.issue_comment", described("A comment was written.", issue_comment(), &[])),
    ]
}

fn push() -> Vec<Key> {
    vec![
        key("branches", "Patterns of branches, of which one must match; `!` takes out again.", texts()),
        key("branches-ignore", "Patterns of branches, of which none may match.", texts()),
        key("tags", "Patterns of tags, of which one must match; `!` takes out again.", texts()),
        key("tags-ignore", "Patterns of tags, of which none may match.", texts()),
        key("paths", "Patterns of paths: one changed file must match one.", texts()),
        key("paths-ignore", "Patterns of paths: not all changed files may match.", texts()),
    ]
}

fn pull_request() -> Vec<Key> {
    let types = json!({ "anyOf": [one_of(&PULL_REQUEST_TYPES), { "type": "array", "items": one_of(&PULL_REQUEST_TYPES), "minItems": 1 }] });
    vec![
        key("types", "What must have happened. Left out: opened, synchronize, reopened.", types),
        key("branches", "Patterns of the branches that it goes to, of which one must match.", texts()),
        key("branches-ignore", "Patterns of the branches that it goes to, of which none may match.", texts()),
        key("paths", "Patterns of paths: one changed file must match one.", texts()),
        key("paths-ignore", "Patterns of paths: not all changed files may match.", texts()),
        key("repeat-push", "Run although a push of the same commit has run it.", boolean()),
    ]
}

fn schedule() -> Vec<Key> {
    vec![
        key("cron", "Minute, hour, day of the month, month, day of the week.", some_text()),
        key("timezone", "Whose clocks count: a name of IANA's list. Left out: UTC.", some_text()),
    ]
}

fn dispatch() -> Vec<Key> {
    let inputs = json!({
        "type": ["object", "null"], "maxProperties": 25, "propertyNames": identifier(),
        "additionalProperties": or_nothing(reference("input")),
    });
    vec![key("inputs", "What it can be given, by name.", inputs)]
}

fn input() -> Vec<Key> {
    vec![
        key("description", "For people.", or_nothing(text())),
        key("required", "Whether it must be given, where it has no default.", boolean()),
        key("default", "What it is where it is left out.", or_nothing(text())),
        key("type", "What it may be. Left out: string.", one_of(&INPUT_TYPES)),
        key("options", "What a choice may be.", texts()),
        key("deprecationMessage", "For people: what to use instead.", or_nothing(text())),
    ]
}

fn workflow_call() -> Vec<Key> {
    let named = |what: Value| json!({ "type": ["object", "null"], "propertyNames": identifier(), "additionalProperties": what });
    vec![
        key("inputs", "What it can be given, by name.", named(or_nothing(reference("call-input")))),
        key("outputs", "What the caller sees as `needs.<id>.outputs`.", named(reference("call-output"))),
        key("secrets", "The secrets that it can be given, by name.", named(or_nothing(reference("call-secret")))),
    ]
}

fn call_input() -> Vec<Key> {
    vec![
        key("description", "For people.", or_nothing(text())),
        key("required", "Whether it must be given, where it has no default.", boolean()),
        key("default", "What it is where it is left out.", or_nothing(text())),
        key("type", "What it may be. Left out: string.", one_of(&CALL_TYPES)),
    ]
}

fn call_output() -> Vec<Key> {
    vec![
        key("description", "For people.", or_nothing(text())),
        key("value", "What it is: `${{ jobs.<id>.outputs.<name> }}`.", text()),
    ]
}

fn call_secret() -> Vec<Key> {
    vec![
        key("description", "For people.", or_nothing(text())),
        key("required", "Whether the caller must pass it.", boolean()),
    ]
}

fn issue_comment() -> Vec<Key> {
    let types = json!({ "anyOf": [one_of(&COMMENT_TYPES), { "type": "array", "items": one_of(&COMMENT_TYPES), "minItems": 1 }] });
    vec![key("types", "What must have happened. Left out: any of them.", types)]
}
