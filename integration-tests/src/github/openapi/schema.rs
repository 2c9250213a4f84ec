//! Schemas of OpenAPI 3.0 as JSON Schema: <https://spec.openapis.org/oas/v3.0.3#schema-object>. References are put in place of
//! themselves, `nullable` becomes a type.

use serde_json::{Map, Value, json};

/// How deep references lead; what is deeper can be anything. Only answers name themselves.
const DEEPEST: usize = 12;

/// What a request must keep.
pub(super) fn strict(whole: &Value, shape: &Value) -> Value {
    converted(whole, shape, 0, false)
}

/// The types of what is there: a stand-in leaves out what nobody asks for.
pub(super) fn lenient(whole: &Value, shape: &Value) -> Value {
    converted(whole, shape, 0, true)
}

/// What a reference points to, which may be another one.
pub(super) fn resolve<'d>(whole: &'d Value, value: &'d Value) -> &'d Value {
    let mut value = value;
    for _ in 0..DEEPEST {
        let Some(pointer) = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) else { break };
        value = whole.pointer(pointer).unwrap_or(&Value::Null);
    }
    value
}

fn converted(whole: &Value, shape: &Value, depth: usize, is_lenient: bool) -> Value {
    if depth > DEEPEST {
        return json!({});
    }
    let Some(members) = resolve(whole, shape).as_object() else { return json!({}) };
    let inner = |shape: &Value| converted(whole, shape, depth + 1, is_lenient);
    let mut made = Map::new();
    for (key, value) in members {
        match (key.as_str(), value) {
            ("example" | "examples" | "nullable" | "format" | "discriminator" | "xml", _) => {}
            ("required" | "minProperties", _) if is_lenient => {}
            ("properties" | "patternProperties", Value::Object(all)) => {
                let all: Map<String, Value> = all.iter().map(|(name, shape)| (name.clone(), inner(shape))).collect();
                made.insert(key.clone(), all.into());
            }
            ("oneOf" | "anyOf" | "allOf", Value::Array(all)) => {
                // with nothing required, more than one of them fits
                let key = if is_lenient && key == "oneOf" { "anyOf" } else { key };
                made.insert(key.into(), all.iter().map(inner).collect());
            }
            ("items" | "additionalProperties" | "not", Value::Object(_)) => {
                made.insert(key.clone(), inner(value));
            }
            _ => {
                made.insert(key.clone(), value.clone());
            }
        }
    }
    if members.get("nullable") == Some(&Value::Bool(true)) {
        return json!({"anyOf": [{"type": "null"}, made]});
    }
    made.into()
}
