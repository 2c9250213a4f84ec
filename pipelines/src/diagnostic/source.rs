//! A file's text, by bytes, lines and columns.

use std::ops::Range;

use super::{Code, Diagnostic, Severity};

/// A file's name and text.
#[derive(Debug, Clone)]
pub struct Source<'s> {
    /// As it is named to people.
    pub file: &'s str,
    /// All of it.
    pub text: &'s str,
    line_starts: Vec<usize>,
}

impl<'s> Source<'s> {
    /// Splits the text into lines.
    #[must_use]
    pub fn new(file: &'s str, text: &'s str) -> Self {
        let starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(i, _)| i + 1);
        Self { file, text, line_starts: std::iter::once(0).chain(starts).collect() }
    }

    /// The line of a byte, from 1.
    #[must_use]
    pub fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset).max(1)
    }

    /// Line and column (in characters) of a byte, both from 1.
    #[must_use]
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.line(offset);
        let start = self.line_starts[line - 1];
        let before = self.text.get(start..offset).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    /// A diagnostic for a place. A span over several lines is cut to its first: that is where to look.
    pub(crate) fn diagnostic(
        &self,
        severity: Severity,
        code: Code,
        span: &Range<usize>,
        message: String,
        help: Option<String>,
    ) -> Diagnostic {
        let start = span.start.min(self.text.len());
        let marked = self.text.get(start..span.end.clamp(start, self.text.len())).unwrap_or_default();
        let first_line = marked.lines().next().unwrap_or_default().trim_end();
        let (line, column) = self.position(start);
        let span = start..start + first_line.len();
        Diagnostic { file: self.file.to_owned(), line, column, severity, code, message, help, span }
    }
}
