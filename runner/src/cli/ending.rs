//! How a command ends: its exit code, and the error that a person reads.

use std::{fmt, process::ExitCode};

use anstyle::{AnsiColor, Style};

/// The exit codes of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: the thing asked about failed, or could not be done.
    Failed,
    /// 2: the command line can't be understood.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
        })
    }
}

/// Why a command could not do what was asked: what is wrong, and what to do about it.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    remedy: Option<String>,
}

impl Failure {
    /// Something asked for could not be done (exit code 1).
    pub fn new(message: impl fmt::Display) -> Self {
        Self { exit: Exit::Failed, message: message.to_string(), remedy: None }
    }

    /// The command line contradicts itself or lacks something (exit code 2).
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { exit: Exit::Usage, message: message.to_string(), remedy: None }
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl fmt::Display) -> Self {
        self.remedy = Some(remedy.to_string());
        self
    }

    /// The exit code that goes with it.
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// Writes it to standard error, in colour where that is a terminal.
    pub fn print(&self) {
        let error = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        let hint = Style::new().bold();
        anstream::eprintln!("{error}error:{error:#} {}", self.message);
        if let Some(remedy) = &self.remedy {
            anstream::eprintln!("{hint}help:{hint:#} {remedy}");
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Attaches what was being done to an error of a library or of the system.
pub trait Explain<T> {
    /// The value, or a failure that reads `<doing>: <error, with its causes>`.
    ///
    /// # Errors
    /// The explained error.
    fn explain(self, doing: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: std::error::Error> Explain<T> for Result<T, E> {
    fn explain(self, doing: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(format_args!("{doing}: {}", with_causes(&error))))
    }
}

/// An error with all its causes, `outer: inner: innermost`, leaving out a cause that the text before it repeats.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}
