//! `on`.

use serde_json::{Value, json};

use super::shapes::{Key, definition, described, key, one_of, or_nothing, reference, texts};
use crate::pipeline::{EVENTS, PULL_REQUEST_TYPES};

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
        key("workflow_dispatch", "Started by a person.", or_nothing(reference("workflow_dispatch"))),
    ];
    vec![
        definition("on", "on", described("What starts the pipeline.", events, &[])),
        definition("push", "on.push", described("Which pushes start it.", push(), &[])),
        definition("pull_request", "on.pull_request", described("Which pull requests start it.", pull_request(), &[])),
        definition("workflow_dispatch", "on.workflow_dispatch", described("Started by a person.", vec![], &[])),
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
    ]
}
