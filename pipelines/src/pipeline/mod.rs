//! Pipeline files, `.segue/pipelines/*.yml`.
//!
//! Comes in: a file's name and text. Goes out: the pipeline as a model in which every name is resolved and every expression
//! follows the grammar, and all that is wrong with the file, located. Never here: events, what would run, reading files.

mod call;
mod composite;
pub(crate) mod containers;
mod expressions;
mod graph;
mod jobs;
mod model;
mod permissions;
mod reader;
mod repeat;
mod settings;
mod steps;
mod strategy;
mod triggers;
mod untrusted;

use crate::{
    diagnostic::{Code, Diagnostic, Findings, Source},
    document,
    service::file_stem,
};
pub use model::{
    Call, Callable, CommentFilter, Dispatch, Job, PassedSecrets, Pipeline, PullRequestFilter, PushFilter, RefFilter,
    RepositoryDispatchFilter, Triggers,
};
pub(crate) use permissions::SCOPES;

pub use composite::{ActionFiles, check_action};
pub(crate) use triggers::{CALL_TYPES, COMMENT_TYPES, EVENTS, INPUT_TYPES, TYPES as PULL_REQUEST_TYPES};

use composite::Calls;
use reader::Reader;

/// What a pipeline file says.
#[derive(Debug)]
pub struct Parsed {
    /// Its name, also where the rest is broken: `name:`, or the file's stem.
    pub name: String,
    /// What starts it, where that much could be read.
    pub triggers: Option<Triggers>,
    /// The pipeline; `None` where anything in the file is wrong.
    pub pipeline: Option<Pipeline>,
    /// Everything found, in the order of its lines; errors where there is no pipeline, otherwise warnings at most.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads a pipeline file that uses no action of the repository.
#[must_use]
pub fn parse(path: &str, text: &str) -> Parsed {
    parse_with(path, text, &ActionFiles::default())
}

/// Reads a pipeline file, with the actions that it may use. What is wrong with one of those is among the diagnostics, located
/// in the action's file.
#[must_use]
pub fn parse_with(path: &str, text: &str, actions: &ActionFiles) -> Parsed {
    let mut findings = Findings::new(Source::new(path, text));
    let mut in_actions = Vec::new();
    let mut parsed =
        Parsed { name: file_stem(path).to_owned(), triggers: None, pipeline: None, diagnostics: Vec::new() };
    match document::parse(&mut findings) {
        Some(root) if !root.is_null() => {
            let mut reader = Reader::new(&mut findings, Calls::new(path, actions));
            let pipeline = reader.pipeline(&root, &mut parsed);
            in_actions = reader.calls.finish();
            parsed.pipeline = pipeline.filter(|_| !findings.has_errors());
        }
        _ if findings.has_errors() => {}
        _ => {
            let help = "a pipeline has at least `on:` and `jobs:`";
            findings.error(Code::EmptyDocument, &(0..0), "the pipeline file is empty", Some(help.into()));
        }
    }
    parsed.diagnostics = findings.finish();
    parsed.diagnostics.extend(in_actions);
    parsed
}
