//! Any text with `${{ }}` becomes a text, or an error that lies within it; a text without any stays as it is.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use segue_pipelines::expr::{
    Contexts, Value, condition_source, evaluate_template, render_template, template_expressions, template_references,
};
use serde_json::json;

static CONTEXTS: LazyLock<Contexts> = LazyLock::new(|| {
    Contexts::new()
        .with("github", json!({"ref": "refs/heads/main", "event": {"title": "${{ secrets.X }}"}}))
        .with("env", json!({"WORD": "Straße", "EMPTY": ""}))
});

fuzz_target!(|text: &str| {
    let rendered = render_template(text, &CONTEXTS);
    let value = evaluate_template(text, &CONTEXTS);
    if !text.contains("${{") {
        assert_eq!(rendered.as_deref(), Ok(text), "a text without expressions was changed");
    }
    match (&rendered, &value) {
        (Ok(text), Ok(Value::String(same))) => assert_eq!(**text, **same),
        (Ok(text), Ok(value)) => assert_eq!(*text, *value.to_text()),
        (Err(error), _) | (_, Err(error)) => {
            assert!(text.get(error.span.clone()).is_some(), "{error:?} lies beside {text:?}");
        }
    }
    match template_expressions(text) {
        Ok(expressions) => {
            for (source, offset) in expressions {
                assert_eq!(text.get(offset..offset + source.len()), Some(source));
                assert!(text[..offset].ends_with("${{"), "an expression that nothing opens");
            }
        }
        Err(_) => assert!(rendered.is_err()),
    }
    for reference in template_references(text).unwrap_or_default() {
        assert!(text.get(reference.span.clone()).is_some());
    }
    if let Ok((source, offset)) = condition_source(text) {
        assert_eq!(text.get(offset..offset + source.len()), Some(source));
    }
});
