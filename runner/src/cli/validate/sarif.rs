//! Diagnostics as a SARIF 2.1.0 log (<https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>), which editors and
//! code scanning read. Columns count characters.

use std::collections::BTreeSet;

use segue_pipelines::diagnostic::{Code, Diagnostic, Severity};
use serde_json::{Value, json};

/// The log of one check: each file's text with what was found in it.
pub fn log(found: &[(&str, &[Diagnostic])]) -> Value {
    let codes: BTreeSet<&str> =
        found.iter().flat_map(|(_, diagnostics)| *diagnostics).map(|diagnostic| diagnostic.code.as_str()).collect();
    let rules: Vec<Code> = Code::ALL.iter().copied().filter(|code| codes.contains(code.as_str())).collect();
    let results: Vec<Value> = found
        .iter()
        .flat_map(|(text, diagnostics)| diagnostics.iter().map(|diagnostic| result(diagnostic, text, &rules)))
        .collect();
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "segue validate",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules.iter().map(|code| rule(*code)).collect::<Vec<_>>(),
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn rule(code: Code) -> Value {
    let help = format!("`segue validate --explain {code}` says more");
    json!({ "id": code.as_str(), "help": { "text": help } })
}

fn result(diagnostic: &Diagnostic, text: &str, rules: &[Code]) -> Value {
    let level = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let message = match &diagnostic.help {
        Some(help) => format!("{}; {help}", diagnostic.message),
        None => diagnostic.message.clone(),
    };
    // the marked part never goes beyond its line
    let marked = text.get(diagnostic.span.clone()).unwrap_or_default().chars().count();
    json!({
        "ruleId": diagnostic.code.as_str(),
        "ruleIndex": rules.iter().position(|code| *code == diagnostic.code),
        "level": level,
        "message": { "text": message },
        "locations": [{ "physicalLocation": {
            "artifactLocation": { "uri": uri(&diagnostic.file) },
            "region": {
                "startLine": diagnostic.line,
                "startColumn": diagnostic.column,
                "endLine": diagnostic.line,
                "endColumn": diagnostic.column + marked,
            },
        } }],
    })
}

/// A path as a reference of RFC 3986: what has a meaning in addresses, or no place there, is escaped.
fn uri(path: &str) -> String {
    let mut uri = if path.starts_with('/') { "file://".to_owned() } else { String::new() };
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~') {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use segue_pipelines::pipeline;

    use super::*;

    /// The members that the standard requires, and how they refer to each other.
    #[test]
    fn a_log_has_what_the_standard_requires() {
        let text = "on: push\njobs:\n  ä: { stepz: [] }\n  b: { steps: [{ run: \"${{ github.head_ref }}\" }] }\n";
        let diagnostics = pipeline::parse("a folder/x y.yml", text).diagnostics;
        let log = log(&[(text, &diagnostics), ("", &[])]);
        assert_eq!(log["version"], "2.1.0");
        let run = &log["runs"][0];
        assert!(run["tool"]["driver"]["name"].is_string());
        let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
        let results = run["results"].as_array().unwrap();
        assert_eq!(results.len(), diagnostics.len());
        assert!(results.len() >= 3, "{results:?}");
        for (result, diagnostic) in results.iter().zip(&diagnostics) {
            assert!(result["message"]["text"].as_str().is_some_and(|text| text.contains(&diagnostic.message)));
            assert!(["none", "note", "warning", "error"].contains(&result["level"].as_str().unwrap()));
            let rule = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
            assert_eq!(rules[rule]["id"], result["ruleId"]);
            let place = &result["locations"][0]["physicalLocation"];
            assert_eq!(place["artifactLocation"]["uri"], "a%20folder/x%20y.yml");
            let region = |key: &str| place["region"][key].as_u64().unwrap();
            assert!(region("startLine") >= 1 && region("endLine") >= region("startLine"));
            assert!(region("startColumn") >= 1 && region("endColumn") >= region("startColumn"));
        }
        let ids: BTreeSet<&str> = rules.iter().map(|rule| rule["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), rules.len(), "a rule stands there twice");
    }

    #[test]
    fn a_clean_log_has_an_empty_list_of_results() {
        let log = log(&[("", &[])]);
        assert_eq!(log["runs"][0]["results"], json!([]));
    }
}
