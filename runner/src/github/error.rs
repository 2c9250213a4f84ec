//! What can go wrong with GitHub, by what is to be done about it.

use std::time::Duration;

use http::StatusCode;

use crate::auth::AuthError;

/// Why GitHub can't be asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum GitHubError {
    /// The configuration can't be followed.
    #[error("`github.{key}`: {problem}; {remedy}")]
    Configuration {
        /// Which key.
        key: &'static str,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// The key or the token can't be read.
    #[error("`github`: {0}")]
    File(#[from] AuthError),
    /// Nobody answers, or what answers can't now. It may be over in a moment.
    #[error("GitHub at {place} can't be asked now: {problem}")]
    Away {
        /// Host and port.
        place: String,
        /// What happened.
        problem: String,
    },
    /// It was asked too much.
    #[error("GitHub takes nothing more for {wait:?}: {message}")]
    Limited {
        /// How long nothing more may be asked.
        wait: Duration,
        /// Whether it said so itself; where not, the wait is to grow from one time to the next.
        is_told: bool,
        /// What it said.
        message: String,
    },
    /// It does not know the key or the token.
    #[error("GitHub does not take the {what} ({message}): {remedy}")]
    Unauthorized {
        /// `App's key`, `token`.
        what: &'static str,
        /// What it said.
        message: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The App is not installed where the repository is.
    #[error(
        "the GitHub App is not installed for {repository}: install it, from its settings under \"Install App\", for the \
         repository's owner, and choose the repository"
    )]
    NotInstalled {
        /// `owner/name`
        repository: String,
    },
    /// The App or the token may not do it.
    #[error("GitHub refuses {request} ({message}): it needs the permission {needed}; {remedy}")]
    Forbidden {
        /// What was asked.
        request: String,
        /// What it said.
        message: String,
        /// `checks: write`
        needed: String,
        /// What to do.
        remedy: &'static str,
    },
    /// It says no.
    #[error("GitHub refuses {request} with {status}: {message}")]
    Refused {
        /// What was asked.
        request: String,
        /// The status.
        status: StatusCode,
        /// What it said.
        message: String,
    },
}

impl GitHubError {
    /// Whether the same may go well in a moment, with nobody having done anything.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Limited { .. })
    }

    /// What it answered, if it said no.
    #[must_use]
    pub const fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// What an App's owner does about a missing permission.
pub(super) const GRANT_APP: &str =
    "grant it in the App's settings under \"Permissions & events\", and accept it where the App is installed";
/// What a token's owner does.
pub(super) const GRANT_TOKEN: &str = "grant it in the token's settings, and choose the repository there";
