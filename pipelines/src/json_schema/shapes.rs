//! What values look like, as JSON Schema (draft 7).

use serde_json::{Map, Value, json};

/// A key of a mapping: its name, what it is about, and what it takes.
pub(super) struct Key(&'static str, Value);

/// A key with a line for people.
pub(super) fn key(name: &'static str, about: &str, shape: Value) -> Key {
    Key(name, with_description(shape, about))
}

/// A mapping that takes these keys and no others.
pub(super) fn described(about: &str, keys: Vec<Key>, required: &[&str]) -> Value {
    let properties: Map<String, Value> = keys.into_iter().map(|Key(name, shape)| (name.into(), shape)).collect();
    let mut schema =
        json!({ "description": about, "type": "object", "additionalProperties": false, "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// A definition: its name, and as its title where it stands in a file (`jobs.<id>.steps[*]`), which begins the headings of
/// its keys in `docs/pipelines.md`.
pub(super) fn definition(name: &'static str, place: &str, mut schema: Value) -> (&'static str, Value) {
    schema["title"] = place.into();
    (name, schema)
}

/// A definition by its name.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/definitions/{name}") })
}

/// A text; numbers and booleans are taken as they are written.
pub(super) fn text() -> Value {
    json!({ "type": ["string", "number", "boolean"] })
}

/// A text with at least one character.
pub(super) fn some_text() -> Value {
    json!({ "type": ["string", "number", "boolean"], "minLength": 1 })
}

/// One of these words.
pub(super) fn one_of(words: &[&str]) -> Value {
    json!({ "enum": words })
}

/// A text or a list of texts.
pub(super) fn texts() -> Value {
    json!({ "anyOf": [some_text(), { "type": "array", "items": some_text() }] })
}

/// `true` or `false`.
pub(super) fn boolean() -> Value {
    json!({ "type": "boolean" })
}

/// A text with an expression in it.
pub(super) fn expression() -> Value {
    json!({ "type": "string", "pattern": "[$][{][{]" })
}

/// `true`, `false`, or an expression that says it.
pub(super) fn setting() -> Value {
    json!({ "anyOf": [boolean(), expression()] })
}

/// A whole number from 1 on, or an expression that says it.
pub(super) fn whole_number() -> Value {
    json!({ "anyOf": [{ "type": "integer", "minimum": 1 }, expression()] })
}

/// Names and texts.
pub(super) fn variables() -> Value {
    json!({
        "type": ["object", "null"],
        "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
        "additionalProperties": { "type": ["string", "number", "boolean", "null"] },
    })
}

/// What this takes, or nothing at all.
pub(super) fn or_nothing(shape: Value) -> Value {
    json!({ "anyOf": [shape, { "type": "null" }] })
}

/// Minutes, at most 30 days.
pub(super) fn minutes() -> Value {
    json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 43_200 })
}

/// A name for expressions.
pub(super) fn identifier() -> Value {
    json!({ "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_-]*$", "maxLength": 100 })
}

/// In draft 7 nothing counts beside `$ref`, so a reference with a description goes into `allOf`.
fn with_description(shape: Value, about: &str) -> Value {
    let mut shape = if shape.get("$ref").is_some() { json!({ "allOf": [shape] }) } else { shape };
    shape["description"] = about.into();
    shape
}
