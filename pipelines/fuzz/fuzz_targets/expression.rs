//! Any text is an expression with a value, or an error that lies within it; the same each time.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use segue_pipelines::expr::{
    Contexts, ExprError, MAX_TEXT_BYTES, StatusFunctions, Value, calls, evaluate, evaluate_condition,
    evaluate_with_status, references, uses_status_function,
};
use serde_json::json;

static CONTEXTS: LazyLock<Contexts> = LazyLock::new(|| {
    Contexts::new()
        .with("github", json!({"ref": "refs/heads/main", "event": {"labels": [{"name": "bug"}, {"id": 3}, null]}}))
        .with("matrix", json!({"os": ["linux", "mac"], "nested": {"a": {"v": 1}, "b": {"v": [2, 3]}}}))
        .with("env", json!({"WORD": "Straße", "EMPTY": ""}))
        .with("steps", json!({}))
        .with_hash_files(|patterns| if patterns.is_empty() { Err("none".into()) } else { Ok(patterns.join("+")) })
});

fuzz_target!(|text: &str| {
    let value = evaluate(text, &CONTEXTS);
    match &value {
        Ok(value) => sound(value),
        Err(error) => lies_within(error, text),
    }
    assert_eq!(value, evaluate(text, &CONTEXTS), "the same text, another value");
    // what can be evaluated can be looked into, and the other way round as far as names go
    match (references(text), calls(text)) {
        (Ok(references), Ok(calls)) => {
            let spans = references.iter().map(|reference| &reference.span).chain(calls.iter().map(|call| &call.span));
            for span in spans {
                assert!(text.get(span.clone()).is_some_and(|part| !part.is_empty()), "{span:?} of {text:?}");
            }
            assert!(uses_status_function(text).is_ok());
        }
        (Err(error), Err(_)) => {
            lies_within(&error, text);
            assert!(value.is_err(), "a value of what has no tree");
        }
        _ => panic!("references and calls disagree about {text:?}"),
    }
    let failed = StatusFunctions { success: false, failure: true, cancelled: false };
    if let Err(error) = evaluate_with_status(text, &CONTEXTS, failed) {
        lies_within(&error, text);
    }
    if let Err(error) = evaluate_condition(Some(text), &CONTEXTS, StatusFunctions::SUCCESS) {
        lies_within(&error, text);
    }
});

fn sound(value: &Value) {
    let json = value.to_json();
    assert_eq!(serde_json::to_value(value).expect("a value is JSON"), json, "two forms of one value");
    if let Value::String(text) = value {
        assert!(text.len() <= 4 * MAX_TEXT_BYTES, "a text of {} bytes", text.len());
    }
    assert!(value.to_text().len() <= 4 * MAX_TEXT_BYTES);
}

fn lies_within(error: &ExprError, text: &str) {
    assert!(text.get(error.span.clone()).is_some(), "{error:?} lies beside {text:?}");
    assert!(!error.message.is_empty());
}
