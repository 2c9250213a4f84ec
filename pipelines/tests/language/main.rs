//! The language as people meet it: JSON Schemas, the reference and the diagnostics' pages say what the readers do.

#![expect(clippy::disallowed_methods, reason = "these tests read what is committed")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod diagnostics_page;
mod page;
mod reference_page;
mod schema;

use std::{fs, path::PathBuf};

use segue_pipelines::{
    config,
    diagnostic::Diagnostic,
    pipeline::{self, ActionFiles, check_action},
    service, workflow,
};

/// A file of the repository.
fn repository_file(path: &str) -> String {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()))
}

/// What a fenced example is read as: the first words after its three backticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `yaml`: a whole pipeline.
    Pipeline,
    /// `yaml on`: a pipeline without its jobs.
    On,
    /// `yaml job`: what stands below a job's name.
    Job,
    /// `yaml step`: the items of a list of steps.
    Step,
    /// `yaml service`.
    Service,
    /// `yaml config`.
    Config,
    /// `yaml action`: the action `x` of the repository.
    Action,
    /// `yaml workflow`: a workflow of GitHub's.
    Workflow,
}

/// The actions that examples may use and the pipelines that they may call, and that any may stand beside.
fn actions() -> ActionFiles {
    ActionFiles::among([
        (".segue/actions/broken/action.yml", "runs: { using: node20, steps: [{ run: make }] }\n"),
        (
            ".segue/pipelines/build.yml",
            "on:
  workflow_call:
    inputs: { target: { required: true }, fast: { type: boolean } }
    secrets: { TOKEN: { required: true } }
    outputs: { version: { value: '${{ jobs.build.outputs.version }}' } }
jobs: { build: { outputs: { version: '1' }, steps: [{ run: make }] } }
",
        ),
        (".segue/actions/x/action.yml", "runs: { using: composite, steps: [{ run: make }] }\n"),
        (
            ".segue/actions/greet/action.yml",
            "inputs: { who: { required: true } }\nruns: { using: composite, steps: [{ run: make }] }\n",
        ),
    ])
}

impl Kind {
    fn of(info: &str) -> Option<Self> {
        let mut words = info.split_whitespace();
        if words.next() != Some("yaml") {
            return None;
        }
        Some(match words.find(|word| !word.contains('=')) {
            None => Self::Pipeline,
            Some("on") => Self::On,
            Some("job") => Self::Job,
            Some("step") => Self::Step,
            Some("service") => Self::Service,
            Some("config") => Self::Config,
            Some("action") => Self::Action,
            Some("workflow") => Self::Workflow,
            Some(other) => panic!("`{other}` is no kind of example"),
        })
    }

    /// The example within what it leaves out.
    fn whole(self, example: &str) -> String {
        let indented = |depth: usize| -> String {
            example
                .lines()
                .map(|line| format!("{}{line}\n", " ".repeat(if line.is_empty() { 0 } else { depth })))
                .collect()
        };
        let has = |key: &str| example.lines().any(|line| line.starts_with(key));
        match self {
            Self::Pipeline | Self::Service | Self::Config | Self::Action | Self::Workflow => example.to_owned(),
            Self::On => format!("{example}jobs:\n  a:\n    steps:\n      - run: make\n"),
            Self::Job => {
                let steps = if has("steps:") || has("uses:") { "" } else { "    steps:\n      - run: make\n" };
                format!(
                    "on: push\njobs:\n  before:\n    outputs: {{ version: '1' }}\n    steps:\n      - run: make\n  a:\n{}{steps}",
                    indented(4)
                )
            }
            Self::Step => format!("on: push\njobs:\n  a:\n    environment: staging\n    steps:\n{}", indented(6)),
        }
    }

    /// What is wrong with it.
    fn diagnostics(self, text: &str) -> Vec<Diagnostic> {
        match self {
            Self::Service => service::parse(".segue/services/api.yml", text).err().unwrap_or_default(),
            Self::Config => config::parse("segue.yaml", text).err().unwrap_or_default(),
            Self::Workflow => workflow::report(".github/workflows/x.yml", text),
            Self::Action => check_action(".segue/actions/x/action.yml", text, &actions()),
            _ => {
                let mut found = pipeline::parse_with(".segue/pipelines/x.yml", text, &actions()).diagnostics;
                // what is wrong in the action is told beside its use
                found.retain(|diagnostic| diagnostic.file == ".segue/pipelines/x.yml");
                found
            }
        }
    }

    /// The file under `schemas/json/` that it must be valid by.
    const fn schema(self) -> &'static str {
        match self {
            Self::Service => "service.json",
            Self::Config => "config.json",
            Self::Action => "action.json",
            _ => "pipeline.json",
        }
    }
}
