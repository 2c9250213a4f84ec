//! The files by which a step speaks to the runner: `SEGUE_OUTPUT`, `SEGUE_ENV`, `SEGUE_PATH` and `SEGUE_STEP_SUMMARY`, and the
//! same under GitHub's names.
//!
//! A line `name=value`, or over several lines `name<<DELIMITER`, lines, `DELIMITER`:
//! <https://docs.github.com/actions/reference/workflow-commands-for-github-actions#multiline-strings>.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::{context::RESERVED, error::StepError, state::JobState, workspace::Workspace};

/// Most bytes of a command file.
pub const MAX_BYTES: u64 = 1024 * 1024;

/// Why a command file can't be read. `line` counts from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandFileError {
    /// A line that is neither of the two forms.
    #[error("line {line} of ${file}: `{text}` is neither `name=value` nor `name<<DELIMITER`")]
    Malformed {
        /// The file's variable.
        file: &'static str,
        /// Which line.
        line: usize,
        /// Its beginning.
        text: String,
    },
    /// A value whose end is missing.
    #[error("line {line} of ${file}: the value of `{name}` never ends; a line with `{delimiter}` alone is missing")]
    Unterminated {
        /// The file's variable.
        file: &'static str,
        /// Which line.
        line: usize,
        /// The name.
        name: String,
        /// What would have ended it.
        delimiter: String,
    },
}

/// Parses names and values. The last of equal names counts.
///
/// # Errors
/// [`CommandFileError`]; nothing of such a file is taken.
pub fn parse(file: &'static str, text: &str) -> Result<IndexMap<String, String>, CommandFileError> {
    let mut values = IndexMap::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        let line_number = number + 1;
        let malformed =
            || CommandFileError::Malformed { file, line: line_number, text: line.chars().take(80).collect() };
        let equals = line.find('=').unwrap_or(usize::MAX);
        let heredoc = line.find("<<").unwrap_or(usize::MAX);
        if equals == usize::MAX && heredoc == usize::MAX {
            return Err(malformed());
        }
        if equals < heredoc {
            let (name, value) = (line[..equals].trim(), &line[equals + 1..]);
            if name.is_empty() {
                return Err(malformed());
            }
            values.insert(name.to_owned(), value.to_owned());
            continue;
        }
        let (name, delimiter) = (line[..heredoc].trim(), &line[heredoc + 2..]);
        if name.is_empty() || delimiter.is_empty() {
            return Err(malformed());
        }
        let mut value = Vec::new();
        let mut ended = false;
        for (_, line) in lines.by_ref() {
            if line == delimiter {
                ended = true;
                break;
            }
            value.push(line);
        }
        if !ended {
            let (name, delimiter) = (name.to_owned(), delimiter.to_owned());
            return Err(CommandFileError::Unterminated { file, line: line_number, name, delimiter });
        }
        values.insert(name.to_owned(), value.join("\n"));
    }
    Ok(values)
}

/// The files that a step speaks to the runner by.
pub struct CommandFiles {
    output: PathBuf,
    env: PathBuf,
    path: PathBuf,
    summary: PathBuf,
}

/// What a step wrote into them.
#[derive(Debug, Default)]
pub struct Written {
    /// Its outputs.
    pub outputs: IndexMap<String, String>,
    /// Its summary, in Markdown.
    pub summary: String,
    /// Why its summary can't be taken.
    pub summary_problem: Option<StepError>,
    env: IndexMap<String, String>,
    path: Vec<String>,
}

impl CommandFiles {
    /// Makes them, empty.
    ///
    /// # Errors
    /// [`StepError::Infrastructure`] naming the file.
    pub fn make(workspace: &Workspace, index: usize) -> Result<Self, StepError> {
        let file = |name: &str| workspace.command_file(&format!("step-{index}.{name}"), b"");
        Ok(Self { output: file("output")?, env: file("env")?, path: file("path")?, summary: file("summary")? })
    }

    /// The names of their variables, after `SEGUE_` and `GITHUB_`.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, &Path); 4] {
        [("OUTPUT", &self.output), ("ENV", &self.env), ("PATH", &self.path), ("STEP_SUMMARY", &self.summary)]
    }

    /// Reads what the step wrote, also after it failed.
    ///
    /// # Errors
    /// [`StepError::Configuration`] naming the file, and the line in it; a summary that is too large is none.
    pub fn read(&self, workspace: &Workspace) -> Result<Written, StepError> {
        let read = |path: &Path| workspace.read_command_file(path, MAX_BYTES);
        let wrong = |error: CommandFileError| StepError::Configuration(error.to_string());
        let (summary, summary_problem) = match read(&self.summary) {
            Ok(summary) => (summary, None),
            Err(problem) => (String::new(), Some(problem)),
        };
        let path = read(&self.path)?;
        Ok(Written {
            outputs: parse("SEGUE_OUTPUT", &read(&self.output)?).map_err(wrong)?,
            env: parse("SEGUE_ENV", &read(&self.env)?).map_err(wrong)?,
            path: path.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect(),
            summary,
            summary_problem,
        })
    }
}

impl Written {
    /// Hands variables and path on to the steps after; the variables that belong to the runner are left out, and given back.
    pub fn apply(&self, state: &mut JobState) -> Vec<String> {
        let mut refused = Vec::new();
        for (name, value) in &self.env {
            if RESERVED.iter().any(|reserved| name.starts_with(reserved)) {
                refused.push(name.clone());
            } else {
                state.env.insert(name.clone(), value.clone());
            }
        }
        for line in &self.path {
            state.path.retain(|known| known != line);
            state.path.push(line.clone());
        }
        refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, &str)]) {
        let found = parse("SEGUE_OUTPUT", text).unwrap();
        let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn both_forms_are_read() {
        check("", &[]);
        check("a=1\n\nb=x = y\r\n", &[("a", "1"), ("b", "x = y")]);
        check("a=\n", &[("a", "")]);
        check("a=1\na=2\n", &[("a", "2")]);
        check("a=x<<y\n", &[("a", "x<<y")]);
        check("a<<EOF\nline 1\n\nb=2\nEOF\nc=3", &[("a", "line 1\n\nb=2"), ("c", "3")]);
        check("a<<E=F\nx\nE=F\n", &[("a", "x")]);
        check("a<<EOF\nEOF\n", &[("a", "")]);
        check("a<<EOF\n\nx\n\nEOF\n", &[("a", "\nx\n")]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, expected) in [
            ("a=1\nnonsense\n", "line 2 of $SEGUE_OUTPUT: `nonsense` is neither"),
            ("=1\n", "line 1 of"),
            ("a<<\nx\n", "line 1 of"),
            (
                "a=1\nb<<EOF\nx\n",
                "line 2 of $SEGUE_OUTPUT: the value of `b` never ends; a line with `EOF` alone is missing",
            ),
        ] {
            let error = parse("SEGUE_OUTPUT", text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
