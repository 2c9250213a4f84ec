//! What goes wrong between here and Lambda, as far as it matters what follows.

use std::time::Duration;

/// Why a request came to nothing, or may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LambdaError {
    /// There is no key, or it can't be read.
    #[error("there is no key to Lambda: {0}")]
    NoKey(String),
    /// Lambda does not take the key.
    #[error(
        "Lambda does not take the key ({said}): make another one at https://cloud.lambda.ai/api-keys and put it where `lambda.key-file` says"
    )]
    Key {
        /// What it says.
        said: String,
    },
    /// Lambda refused, and did nothing.
    #[error("Lambda refused: {message} ({code}){}", if suggestion.is_empty() { String::new() } else { format!(". {suggestion}") })]
    Refused {
        /// Lambda's word for it: `global/quota-exceeded`.
        code: String,
        /// What it says.
        message: String,
        /// What it says to do.
        suggestion: String,
    },
    /// Too much was asked of Lambda; it did nothing.
    #[error("Lambda takes no more requests for {} s", pause.as_secs())]
    Busy {
        /// How long nothing is to be asked.
        pause: Duration,
    },
    /// Nothing came to Lambda.
    #[error("Lambda can't be reached at {place}: {problem}")]
    Away {
        /// Its address.
        place: String,
        /// Why.
        problem: String,
    },
    /// What came of the request is not known.
    #[error("Lambda gave no answer that can be used: {problem}")]
    Unanswered {
        /// What came instead.
        problem: String,
    },
}

impl LambdaError {
    /// Whether there is no room for a type in a region now; another may have some.
    #[must_use]
    pub fn is_lack_of_capacity(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "instance-operations/launch/insufficient-capacity")
    }

    /// Whether there is no such object.
    #[must_use]
    pub fn is_not_there(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "global/object-does-not-exist" || code == "global/not-found")
    }
}
