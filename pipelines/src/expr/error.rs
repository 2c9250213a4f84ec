//! What can be wrong with an expression, and where.

use std::ops::Range;

/// What kind of mistake an expression holds; callers tell them apart by this, never by the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// It does not follow the grammar.
    Syntax,
    /// It names a context that does not exist, or not here.
    UnknownContext,
    /// It calls a function that does not exist, or not here.
    UnknownFunction,
    /// It calls a function with too few or too many arguments.
    ArgumentCount,
    /// It is well formed, but a function cannot do what it is asked with the values it got.
    Value,
    /// It is longer, deeper or makes more than is allowed.
    Limit,
}

impl ErrorKind {
    /// The word by which machines know it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::UnknownContext => "unknown-context",
            Self::UnknownFunction => "unknown-function",
            Self::ArgumentCount => "argument-count",
            Self::Value => "value",
            Self::Limit => "limit",
        }
    }
}

/// A mistake in an expression. `Display` gives the message alone; who has the source shows `span` in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExprError {
    /// What kind of mistake.
    pub kind: ErrorKind,
    /// What is wrong, naming the thing.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Where, in bytes of the text that was given to the function which failed. May be empty, at the end of the text.
    pub span: Range<usize>,
}

impl ExprError {
    pub(super) fn new(kind: ErrorKind, span: Range<usize>, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), help: None, span }
    }

    pub(super) fn syntax(span: Range<usize>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Syntax, span, message)
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same mistake in a text that begins `offset` bytes before.
    pub(super) fn shifted(mut self, offset: usize) -> Self {
        self.span = self.span.start + offset..self.span.end + offset;
        self
    }
}
