//! `schemas/json/pipeline.json` and the reader of pipelines know the same keys.

use std::{collections::BTreeSet, fs, path::Path};

use jsonschema::Validator;
use segue_pipelines::{
    actions,
    diagnostic::{Code, Diagnostic},
    json_schema,
    pipeline::{self, ActionFiles, check_action},
};
use serde_json::Value;

use super::repository_file;

/// No key of the language, nor like one.
const STRANGER: &str = "qqq9";

/// A mapping for each definition of the schema, at `@`, as far as the reader looks into it.
const PROBES: &[(&str, &str)] = &[
    ("pipeline", "@\n"),
    ("on", "on: { @ }\n"),
    ("push", "on: { push: { @ } }\n"),
    ("pull_request", "on: { pull_request: { @ } }\n"),
    ("schedule", "on: { schedule: [{ @ }] }\n"),
    ("workflow_dispatch", "on: { workflow_dispatch: { @ } }\n"),
    ("input", "on: { workflow_dispatch: { inputs: { a: { @ } } } }\n"),
    ("workflow_call", "on: { workflow_call: { @ } }\n"),
    ("call-input", "on: { workflow_call: { inputs: { a: { @ } } } }\n"),
    ("call-output", "on: { workflow_call: { outputs: { a: { @ } } } }\n"),
    ("call-secret", "on: { workflow_call: { secrets: { a: { @ } } } }\n"),
    ("repository_dispatch", "on: { repository_dispatch: { @ } }\n"),
    ("issue_comment", "on: { issue_comment: { @ } }\n"),
    ("defaults", "on: push\ndefaults: { @ }\n"),
    ("defaults-run", "on: push\ndefaults: { run: { @ } }\n"),
    ("job", "on: push\njobs: { a: { @ } }\n"),
    ("strategy", "on: push\njobs: { a: { strategy: { @ } } }\n"),
    ("runs-on", "on: push\njobs: { a: { runs-on: { @ } } }\n"),
    ("concurrency", "on: push\nconcurrency: { @ }\n"),
    ("retry", "on: push\njobs: { a: { retry: { @ } } }\n"),
    ("container", "on: push\njobs: { a: { container: { @ } } }\n"),
    ("credentials", "on: push\njobs: { a: { container: { image: x, credentials: { @ } } } }\n"),
    ("resources", "on: push\njobs: { a: { container: { image: x, resources: { @ } } } }\n"),
    ("job-resources", "on: push\njobs: { a: { resources: { @ } } }\n"),
    ("gpus", "on: push\njobs: { a: { resources: { gpus: { @ } } } }\n"),
    ("environment", "on: push\njobs: { a: { environment: { @ } } }\n"),
    ("step", "on: push\njobs: { a: { steps: [{ @ }] } }\n"),
    ("step-retry", "on: push\njobs: { a: { steps: [{ run: x, retry: { @ } }] } }\n"),
];

/// The same for actions.
const ACTION_PROBES: &[(&str, &str)] = &[
    ("action", "@\n"),
    ("action-input", "inputs: { a: { @ } }\n"),
    ("action-output", "runs: { using: composite, steps: [{ run: x }] }\noutputs: { a: { @ } }\n"),
    ("action-runs", "runs: { @ }\n"),
];

pub fn pipeline_schema() -> Value {
    schema("pipeline.json")
}

fn schema(wanted: &str) -> Value {
    let files = json_schema::files().unwrap();
    let (_, text) = files.iter().find(|(name, _)| *name == wanted).unwrap();
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_committed_schema_is_what_the_language_says() {
    for (name, text) in json_schema::files().unwrap() {
        let committed = repository_file(&format!("schemas/json/{name}"));
        assert!(
            committed == text,
            "schemas/json/{name} is not what pipelines/src/json_schema says; run `just schemas`"
        );
    }
}

#[test]
fn every_mapping_takes_the_keys_that_the_reader_takes() {
    let read = |text: &str| pipeline::parse("x.yml", text).diagnostics;
    agree(&pipeline_schema(), PROBES, read);
}

#[test]
fn every_mapping_of_an_action_takes_the_keys_that_the_reader_takes() {
    let read = |text: &str| check_action(".segue/actions/x/action.yml", text, &ActionFiles::default());
    let mut schema = schema("action.json");
    // steps are those of pipelines
    let definitions = schema["definitions"].as_object_mut().unwrap();
    let steps: Vec<String> = definitions.keys().filter(|name| !name.starts_with("action")).cloned().collect();
    for name in steps {
        assert_eq!(definitions.remove(&name).as_ref(), pipeline_schema()["definitions"].get(&name), "{name}");
    }
    agree(&schema, ACTION_PROBES, read);
}

fn agree(schema: &Value, probes: &[(&str, &str)], reader: impl Fn(&str) -> Vec<Diagnostic>) {
    let definitions = schema["definitions"].as_object().unwrap();
    for name in definitions.keys() {
        assert!(
            probes.iter().any(|(probe, _)| probe == name),
            "the definition `{name}` of pipelines/src/json_schema has no line in PROBES of {}; add one",
            file!()
        );
    }
    for (name, probe) in probes {
        let written: BTreeSet<String> = definitions[*name]["properties"].as_object().unwrap().keys().cloned().collect();
        let read = keys_of_the_reader(probe, &reader);
        let unwritten: Vec<&String> = read.difference(&written).collect();
        assert!(
            unwritten.is_empty(),
            "the reader takes {unwritten:?} in `{name}`, and the schema does not: add each to `{name}` in \
             pipelines/src/json_schema, run `just schemas`, and give it a section in docs/pipelines.md"
        );
        let unread: Vec<&String> = written.difference(&read).collect();
        assert!(unread.is_empty(), "the schema takes {unread:?} in `{name}`, and the reader does not");
    }
}

/// The keys of a mapping, as the reader lists them to who writes one that it does not know.
fn keys_of_the_reader(probe: &str, reader: impl Fn(&str) -> Vec<Diagnostic>) -> BTreeSet<String> {
    let text = probe.replace('@', &format!("{STRANGER}: 1"));
    let diagnostics = reader(&text);
    let told = diagnostics
        .iter()
        .find(|diagnostic| diagnostic.code == Code::UnknownKey && diagnostic.message.contains(STRANGER))
        .unwrap_or_else(|| panic!("the reader does not refuse `{STRANGER}` in {text}: {diagnostics:#?}"));
    let help = told.help.as_deref().unwrap();
    let list = help
        .strip_prefix("known here: ")
        .or_else(|| help.strip_prefix("events: "))
        .unwrap_or_else(|| panic!("the reader does not list the keys that it knows in {text}, but says: {help}"));
    list.split(", ").filter(|key| !key.is_empty()).map(String::from).collect()
}

#[test]
fn what_the_reader_takes_is_valid() {
    let validator = validator("pipeline.json");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/pipeline");
    let mut taken = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let parsed = pipeline::parse("x.yml", &text);
        if parsed.pipeline.is_some() {
            assert_valid(&validator, &text, &path.display().to_string());
            taken += 1;
        } else if parsed
            .diagnostics
            .iter()
            .any(|diagnostic| diagnostic.code == Code::UnknownKey && !diagnostic.message.contains("input"))
        {
            let value = value(&text).unwrap();
            assert!(!validator.is_valid(&value), "{} has an unknown key, and is valid by the schema", path.display());
        }
    }
    assert!(taken >= 8, "only {taken} cases are pipelines");
}

#[test]
fn the_actions_that_ship_are_valid() {
    let validator = validator("action.json");
    for (name, text) in actions::LIBRARY {
        assert_valid(&validator, text, name);
    }
    for text in ["runs: { using: node20, steps: [{ run: x }] }\n", "inputs: { a: { requird: true } }\nruns: {}\n"] {
        assert!(!validator.is_valid(&value(text).unwrap()), "valid by the schema: {text}");
    }
}

#[test]
fn what_cannot_be_read_is_invalid() {
    let validator = validator("pipeline.json");
    for text in [
        "on: push\njobs: {}\n",
        "on: pull_request_target\njobs: { a: { steps: [{ run: x }] } }\n",
        "jobs: { a: { steps: [{ run: x }] } }\n",
        "on: push\njobs: { a: { steps: [{ run: x, uses: segue/checkout }] } }\n",
        "on: push\njobs: { a: { steps: [{ run: x }], timeout-minutes: 0 } }\n",
        "on: push\njobs: { 1a: { steps: [{ run: x }] } }\n",
        "on: push\nenv: { 1A: x }\njobs: { a: { steps: [{ run: x }] } }\n",
        "on: { push: { branches: {} } }\njobs: { a: { steps: [{ run: x }] } }\n",
        "on: { pull_request: { types: [open] } }\njobs: { a: { steps: [{ run: x }] } }\n",
    ] {
        assert!(pipeline::parse("x.yml", text).pipeline.is_none(), "the reader takes {text}");
        assert!(!validator.is_valid(&value(text).unwrap()), "valid by the schema: {text}");
    }
}

/// The validator of a committed schema.
pub fn validator(name: &str) -> Validator {
    let schema: Value = serde_json::from_str(&repository_file(&format!("schemas/json/{name}"))).unwrap();
    jsonschema::validator_for(&schema).unwrap_or_else(|error| panic!("schemas/json/{name} is no schema: {error}"))
}

pub fn assert_valid(validator: &Validator, text: &str, what: &str) {
    let value = value(text).unwrap_or_else(|error| panic!("{what}: {error}"));
    let errors: Vec<String> =
        validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{what} can be read, but is not valid by its schema: {errors:#?}\n{text}");
}

/// A file as an editor sees it: anchors and merge keys resolved.
fn value(text: &str) -> Result<Value, serde_yaml::Error> {
    let mut value: serde_yaml::Value = serde_yaml::from_str(text)?;
    value.apply_merge()?;
    Ok(serde_json::to_value(value).unwrap())
}
