//! The JSON Schemas of pipelines and actions, for editors. They are committed under `schemas/json/`.
//!
//! Comes in: nothing. Goes out: the schemas as text. The reader of pipelines (`crate::pipeline`) does not use them, it has
//! better messages; `tests/language.rs` holds the two together: each mapping here takes the keys that the reader takes, each
//! key has a section in `docs/pipelines.md`, and whatever the reader takes is valid here. Never here: reading files.

mod actions;
mod jobs;
mod settings;
mod shapes;
mod steps;
mod triggers;

use serde_json::{Value, json};

use self::shapes::{definition, described, key, reference, text, variables};

/// Every schema: the name of its file under `schemas/json/`, and its text.
///
/// # Errors
/// A schema that JSON cannot hold; that would be a mistake here.
pub fn files() -> Result<Vec<(&'static str, String)>, serde_json::Error> {
    Ok(vec![
        ("pipeline.json", serde_json::to_string_pretty(&pipeline())? + "\n"),
        ("action.json", serde_json::to_string_pretty(&actions::action())? + "\n"),
    ])
}

/// Pipeline files. Every mapping with keys of its own is a definition, whose title says where it stands.
fn pipeline() -> Value {
    let mut definitions = serde_json::Map::new();
    let parts = [root()]
        .into_iter()
        .chain(triggers::definitions())
        .chain(jobs::definitions())
        .chain(settings::definitions())
        .chain(steps::definitions());
    for (name, definition) in parts {
        definitions.insert(name.into(), definition);
    }
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Segue: .segue/pipelines/*.yml",
        "$ref": "#/definitions/pipeline",
        "definitions": definitions,
    })
}

fn root() -> (&'static str, Value) {
    let keys = vec![
        key("name", "The pipeline's name; the file's, where it is left out.", text()),
        key("on", "What starts it: an event, a list of them, or a mapping with filters.", triggers::on()),
        key("env", "Environment variables of every step.", variables()),
        key("defaults", "What steps do unless they say otherwise.", reference("defaults")),
        key("concurrency", "Of all runs that name the same group, one is at work.", settings::concurrency()),
        key("permissions", "What the repository's token may be used for, by scope.", settings::permissions()),
        key(
            "jobs",
            "The jobs, by name. They run side by side unless `needs` orders them.",
            json!({
                "type": "object", "minProperties": 1, "maxProperties": 1000,
                "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_-]*$", "maxLength": 100 },
                "additionalProperties": reference("job"),
            }),
        ),
    ];
    definition("pipeline", "", described("A pipeline.", keys, &["on", "jobs"]))
}
