//! Any text is a service, an operator's file and an action, or has errors that lie within it and can be shown.

#![no_main]

use libfuzzer_sys::fuzz_target;
use segue_pipelines::{
    config,
    diagnostic::{Diagnostic, MAX_PER_FILE, Style, render},
    pipeline::{ActionFiles, check_action},
    service,
};

const ACTION: &str = ".segue/actions/x/action.yml";

fuzz_target!(|text: &str| {
    if let Err(diagnostics) = service::parse(".segue/services/x.yml", text) {
        can_be_shown(&diagnostics, text);
    }
    if let Err(diagnostics) = config::parse("segue.yaml", text) {
        can_be_shown(&diagnostics, text);
    }
    let mut found = check_action(ACTION, text, &ActionFiles::among([(ACTION, text)]));
    found.retain(|diagnostic| diagnostic.file == ACTION);
    if !found.is_empty() {
        can_be_shown(&found, text);
    }
});

fn can_be_shown(diagnostics: &[Diagnostic], text: &str) {
    assert!((1..=MAX_PER_FILE).contains(&diagnostics.len()), "{} diagnostics", diagnostics.len());
    for diagnostic in diagnostics {
        assert!(text.get(diagnostic.span.clone()).is_some(), "{diagnostic:?} lies beside the file");
        assert!(render(diagnostic, text, Style::Plain).contains(diagnostic.code.as_str()));
    }
}
