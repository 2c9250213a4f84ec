//! The closed list of what can be wrong.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::expr::ErrorKind;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// The kind of a mistake; each has a stable word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word that is shown and that machines read.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

codes! {
    /// The text is not YAML.
    YamlSyntax = "yaml-syntax",
    /// YAML that has no place in these files: tags, several documents, keys that are no text.
    YamlUnsupported = "yaml-unsupported",
    /// The file is larger, deeper or refers to itself more often than is allowed.
    YamlLimit = "yaml-limit",
    /// More jobs, steps or secrets than are allowed.
    TooMany = "too-many",
    /// A key stands twice in one mapping.
    DuplicateKey = "duplicate-key",
    /// The file holds nothing.
    EmptyDocument = "empty-document",
    /// A key that means nothing here.
    UnknownKey = "unknown-key",
    /// A key that must be there is not.
    MissingKey = "missing-key",
    /// A text where a list must be, and the like.
    WrongType = "wrong-type",
    /// A value that cannot be used.
    InvalidValue = "invalid-value",
    /// A `cron` or `timezone` that names no times.
    InvalidSchedule = "invalid-schedule",
    /// A key or event of GitHub Actions that this version does not act on.
    NotSupportedYet = "not-supported-yet",
    /// Keys that exclude each other, or that need each other.
    Conflict = "conflict",
    /// A `needs` that names no job.
    UnknownNeed = "unknown-need",
    /// Jobs that wait for each other.
    NeedsCycle = "needs-cycle",
    /// Two steps with one id.
    DuplicateId = "duplicate-id",
    /// A `uses` that names no action, or no pipeline.
    UnknownAction = "unknown-action",
    /// A `uses` that names an action or a pipeline whose file is broken.
    BrokenAction = "broken-action",
    /// Actions or pipelines that use each other in a circle, or too deep within each other.
    ActionNesting = "action-nesting",
    /// An expression that does not follow the grammar.
    ExpressionSyntax = "expression-syntax",
    /// An expression that is too long or too deep.
    ExpressionLimit = "expression-limit",
    /// A function that cannot do what it is asked with the values it gets.
    ExpressionValue = "expression-value",
    /// An expression that reads a context which does not exist, or not there.
    UnknownContext = "unknown-context",
    /// An expression that calls a function which does not exist, or not there.
    UnknownFunction = "unknown-function",
    /// An expression that calls a function with too few or too many arguments.
    ArgumentCount = "argument-count",
    /// An expression that reads a job, step or output which does not exist.
    UnknownReference = "unknown-reference",
    /// A value that an outsider chooses, pasted into a script.
    UntrustedValue = "untrusted-value",
    /// A secret that is read other than by its name.
    UnnamedSecret = "unnamed-secret",
    /// A key of a GitHub workflow that would run as it is.
    RunsAsIs = "runs-as-is",
    /// A key or value of a GitHub workflow that has another name here.
    AnotherName = "another-name",
    /// A key or value of a GitHub workflow that has no equivalent here.
    NoEquivalent = "no-equivalent",
}

impl Code {
    /// The code for a mistake in an expression.
    #[must_use]
    pub const fn of_expression(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Syntax => Self::ExpressionSyntax,
            ErrorKind::UnknownContext => Self::UnknownContext,
            ErrorKind::UnknownFunction => Self::UnknownFunction,
            ErrorKind::ArgumentCount => Self::ArgumentCount,
            ErrorKind::Value => Self::ExpressionValue,
            ErrorKind::Limit => Self::ExpressionLimit,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
