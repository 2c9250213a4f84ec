//! GitHub workflow files, `.github/workflows/*.yml`: what of them would run here.
//!
//! Comes in: a file's name and text. Goes out: a diagnostic for each key: it runs as it is, has another name here, or has no
//! equivalent. What is refused is decided by the reader of pipelines, so that this report says what a pipeline would be told.
//! Never here: changing files, reading them.

mod names;
mod walk;

use crate::{
    diagnostic::{Code, Diagnostic, Findings, Severity, Source},
    document, pipeline,
};

/// The most keys that are told of.
const MAX_NOTES: usize = 5_000;

/// What each key of a workflow would do here, in the order of its lines; what is wrong with it as YAML, where it is none.
#[must_use]
pub fn report(path: &str, text: &str) -> Vec<Diagnostic> {
    let mut findings = Findings::new(Source::new(path, text));
    let root = document::parse(&mut findings);
    let Some(root) = root.filter(|root| !root.is_null()) else {
        if !findings.has_errors() {
            findings.error(Code::EmptyDocument, &(0..0), "the workflow file is empty", None);
        }
        return findings.finish();
    };
    let source = Source::new(path, text);
    let mut report = Report { source: &source, told: Vec::new(), problems: pipeline::parse(path, text).diagnostics };
    report.place();
    report.root(&root);
    report.finish()
}

/// What was found so far.
struct Report<'s> {
    source: &'s Source<'s>,
    told: Vec<Diagnostic>,
    /// What the reader of pipelines says of the file and is not told yet.
    problems: Vec<Diagnostic>,
}

impl Report<'_> {
    /// Workflows lie in a folder of GitHub's.
    fn place(&mut self) {
        let name = self.source.file.rsplit('/').next().unwrap_or_default();
        let message = format!("pipelines lie in another folder: `.segue/pipelines/{name}`");
        let help = "move the file there; `segue validate` then reads it as a pipeline";
        self.tell(Severity::Warning, Code::AnotherName, &(0..0), message, Some(help.into()));
    }

    fn runs(&mut self, path: &str, span: &std::ops::Range<usize>) {
        self.tell(Severity::Note, Code::RunsAsIs, span, format!("`{path}` runs as it is"), None);
    }

    fn renamed(&mut self, path: &str, span: &std::ops::Range<usize>, what: &str, help: &str) {
        let message = format!("`{path}`: {what}");
        self.tell(Severity::Warning, Code::AnotherName, span, message, Some(help.into()));
    }

    fn missing(&mut self, path: &str, span: &std::ops::Range<usize>, what: &str, help: Option<String>) {
        self.tell(Severity::Error, Code::NoEquivalent, span, format!("`{path}`: {what}"), help);
    }

    fn tell(
        &mut self,
        severity: Severity,
        code: Code,
        span: &std::ops::Range<usize>,
        message: String,
        help: Option<String>,
    ) {
        if self.told.len() < MAX_NOTES {
            self.told.push(self.source.diagnostic(severity, code, span, message, help));
        }
    }

    /// Takes what the reader says of a part of the file.
    fn take(&mut self, part: &std::ops::Range<usize>) -> Vec<Diagnostic> {
        let (taken, left) = std::mem::take(&mut self.problems)
            .into_iter()
            .partition(|problem| part.start <= problem.span.start && problem.span.start < part.end.max(part.start + 1));
        self.problems = left;
        taken
    }

    /// Tells what the reader says of a key: a word that it does not know, or not yet, has no equivalent; all else must be
    /// mended as in any pipeline.
    fn tell_problem(&mut self, path: &str, problem: Diagnostic) {
        let unknown = matches!(problem.code, Code::UnknownKey | Code::NotSupportedYet | Code::UnknownAction);
        if unknown && (problem.severity == Severity::Error || problem.code == Code::NotSupportedYet) {
            self.missing(path, &problem.span, &problem.message, problem.help);
        } else if self.told.len() < MAX_NOTES {
            self.told.push(Diagnostic { message: format!("`{path}`: {}", problem.message), ..problem });
        }
    }

    fn finish(mut self) -> Vec<Diagnostic> {
        let left = std::mem::take(&mut self.problems);
        self.told.extend(left);
        self.told.sort_by_key(|diagnostic| diagnostic.span.start);
        self.told.dedup();
        self.told
    }
}
