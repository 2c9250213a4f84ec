//! What is wrong with a file, told to people and machines.
//!
//! Comes in: the findings of every reader of files in this crate. Goes out: located messages, as text with the source line
//! and a caret, coloured or plain, and as JSON. Never here: deciding what is wrong, printing, reading files.

mod code;
mod render;
mod source;

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use code::Code;
pub use render::{Style, render};
pub use source::Source;

/// The most diagnostics that one file gets; who has fixed those will see the rest.
pub const MAX_PER_FILE: usize = 100;

/// One thing that is wrong with a file. As JSON: `{file,line,column,severity,code,message,help}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The file, as it was named to the reader.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How bad it is.
    pub severity: Severity,
    /// What kind of mistake it is.
    pub code: Code,
    /// What is wrong, naming the thing.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// Where, in bytes of the file.
    #[serde(skip)]
    pub span: Range<usize>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file works, but probably not as it was meant.
    Warning,
    /// Nothing is wrong; it is said because it was asked for.
    Note,
}

/// Everything found in one file, in the order of its lines.
#[derive(Debug)]
pub(crate) struct Findings<'s> {
    /// The file.
    pub source: Source<'s>,
    found: Vec<Diagnostic>,
}

impl<'s> Findings<'s> {
    pub(crate) fn new(source: Source<'s>) -> Self {
        Self { source, found: Vec::new() }
    }

    pub(crate) fn error(&mut self, code: Code, span: &Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.add(Severity::Error, code, span, message.into(), help);
    }

    pub(crate) fn warning(
        &mut self,
        code: Code,
        span: &Range<usize>,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.add(Severity::Warning, code, span, message.into(), help);
    }

    fn add(&mut self, severity: Severity, code: Code, span: &Range<usize>, message: String, help: Option<String>) {
        if self.is_full() {
            // an error is never left out for what is less
            let less = self.found.iter().rposition(|found| found.severity != Severity::Error);
            match less {
                Some(at) if severity == Severity::Error => drop(self.found.remove(at)),
                _ => return,
            }
        }
        self.found.push(self.source.diagnostic(severity, code, span, message, help));
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.found.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// How many errors there are so far.
    pub(crate) fn errors(&self) -> usize {
        self.found.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= MAX_PER_FILE
    }

    pub(crate) fn finish(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|diagnostic| diagnostic.span.start);
        self.found.dedup();
        self.found
    }
}
