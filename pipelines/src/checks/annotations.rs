//! What is shown beside lines of files: what steps said of them, and what is wrong with a pipeline's file.

use segue_schemas::{
    annotation::{Annotation, AnnotationLevel},
    worker_api::StepReport,
};
use serde::Serialize;

use super::markdown;

/// Characters of a message, and of a title.
const MESSAGE_CHARS: usize = 15_000;
const TITLE_CHARS: usize = 255;
/// Annotations of one check.
const MOST: usize = 500;

/// One annotation, in GitHub's words. <https://docs.github.com/en/rest/checks/runs#create-a-check-run>
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckAnnotation {
    /// From the repository's root.
    pub path: String,
    /// From 1.
    pub start_line: u32,
    /// Not before the first.
    pub end_line: u32,
    /// From 1; only where it is about one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_column: Option<u32>,
    /// From 1; only where it is about one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_column: Option<u32>,
    /// How bad it is.
    pub annotation_level: Level,
    /// What it says.
    pub message: String,
    /// Its title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
}

/// How bad it is, in GitHub's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// `notice`
    Notice,
    /// `warning`
    Warning,
    /// `failure`
    Failure,
}

/// What steps said: of files, and (as a line of Markdown each) of nothing in particular, or of what is no file of the repository.
pub(super) fn of_steps(steps: &[StepReport]) -> (Vec<CheckAnnotation>, Vec<String>) {
    let (mut of_files, mut others) = (Vec::new(), Vec::new());
    for annotation in steps.iter().flat_map(|step| &step.annotations) {
        match of_file(annotation) {
            Some(annotation) if of_files.len() < MOST => of_files.push(annotation),
            _ => others.push(in_words(annotation)),
        }
    }
    (of_files, others)
}

fn of_file(annotation: &Annotation) -> Option<CheckAnnotation> {
    let path = annotation.file.as_deref()?.trim_start_matches("./");
    let is_inside = !path.is_empty() && !path.starts_with('/') && path.split('/').all(|part| part != "..");
    if !is_inside || annotation.message.trim().is_empty() {
        return None;
    }
    let start_line = annotation.line.unwrap_or(1).max(1);
    let end_line = annotation.end_line.unwrap_or(start_line).max(start_line);
    let columns = if start_line == end_line { (annotation.column, annotation.end_column) } else { (None, None) };
    let start_column = columns.0.filter(|column| *column > 0);
    let end_column = columns.1.filter(|end| start_column.is_some_and(|start| start <= *end));
    Some(CheckAnnotation {
        path: path.to_owned(),
        start_line,
        end_line,
        start_column,
        end_column,
        annotation_level: level(annotation.level),
        message: cut(&annotation.message, MESSAGE_CHARS),
        title: annotation
            .title
            .as_deref()
            .filter(|title| !title.trim().is_empty())
            .map(|title| cut(title, TITLE_CHARS)),
    })
}

fn in_words(annotation: &Annotation) -> String {
    let title = annotation.title.as_ref().map(|title| format!("{title}: ")).unwrap_or_default();
    let file = annotation.file.as_ref().map(|file| format!("{file}: ")).unwrap_or_default();
    format!("{}: {}", annotation.level.as_str(), markdown::cell(&format!("{title}{file}{}", annotation.message)))
}

/// The places that diagnostics name, as [`crate::diagnostic::render`] writes them: a heading `error[code]: text`, then ` --> file:line:column`.
pub(super) fn of_diagnostics(text: &str) -> Vec<CheckAnnotation> {
    let mut found = Vec::new();
    let mut heading: Option<(Level, &str)> = None;
    for line in text.lines() {
        if let Some(place) = line.trim_start().strip_prefix("--> ") {
            if let Some(((annotation_level, message), (path, start_line, column))) = heading.take().zip(placed(place)) {
                found.push(CheckAnnotation {
                    path,
                    start_line,
                    end_line: start_line,
                    start_column: Some(column),
                    end_column: None,
                    annotation_level,
                    message: cut(message, MESSAGE_CHARS),
                    title: None,
                });
            }
        } else if let Some(known) = read_heading(line) {
            heading = Some(known);
        }
        if found.len() == MOST {
            break;
        }
    }
    found
}

fn read_heading(line: &str) -> Option<(Level, &str)> {
    let words = [("error", Level::Failure), ("warning", Level::Warning), ("note", Level::Notice)];
    words.into_iter().find_map(|(word, level)| {
        let rest = line.strip_prefix(word)?.strip_prefix('[')?;
        let (_, message) = rest.split_once("]: ")?;
        Some((level, message))
    })
}

fn placed(place: &str) -> Option<(String, u32, u32)> {
    let (rest, column) = place.trim().rsplit_once(':')?;
    let (path, line) = rest.rsplit_once(':')?;
    Some((path.to_owned(), line.parse().ok()?, column.parse().ok()?))
}

fn level(level: AnnotationLevel) -> Level {
    match level {
        AnnotationLevel::Error => Level::Failure,
        AnnotationLevel::Warning => Level::Warning,
        AnnotationLevel::Notice => Level::Notice,
    }
}

fn cut(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}
