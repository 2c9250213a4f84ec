//! What is wrong with a bucket, in words that say what to do.
//! Codes: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#ErrorCodeList>

use std::{error::Error as StdError, fmt};

use object_store::{Error, client::HttpError};

/// The longest part of a store's own words that is shown.
const MAX_WORDS: usize = 300;

/// What is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What sort of thing it is.
    pub kind: TroubleKind,
    problem: String,
}

/// What sort of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleKind {
    /// There is no such bucket.
    NoBucket,
    /// The access key is unknown, its secret another, or it may not do this.
    Refused,
    /// The clocks differ by too much.
    Clock,
    /// The bucket is in another region.
    Region,
    /// The prefix is another server's.
    Taken,
    /// No answer, or not in time.
    Unreachable,
    /// It says that it can't at the moment.
    Busy,
    /// Anything else.
    Other,
}

impl Trouble {
    pub(super) fn new(kind: TroubleKind, problem: String) -> Self {
        Self { kind, problem }
    }

    /// What an error of the client means.
    pub(super) fn of(error: &Error) -> Self {
        let words = words(error);
        let told = told(&words);
        let code = code(&words);
        let (kind, problem) = match code {
            Some("NoSuchBucket") => {
                (TroubleKind::NoBucket, "there is no such bucket: make it, or correct `storage.bucket`")
            }
            Some("InvalidAccessKeyId") => {
                (TroubleKind::Refused, "it does not know the access key: correct what `storage.access-key-file` holds")
            }
            Some("SignatureDoesNotMatch") => (
                TroubleKind::Refused,
                "the access key has another secret: correct what `storage.secret-key-file` holds",
            ),
            Some("AccessDenied" | "AllAccessDisabled" | "AccountProblem") => (
                TroubleKind::Refused,
                "the access key may not do this: allow it s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket and \
                 s3:AbortMultipartUpload",
            ),
            Some("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => (
                TroubleKind::Refused,
                "the session token is no longer good: set a new AWS_SESSION_TOKEN and start again",
            ),
            Some("RequestTimeTooSkewed") => (
                TroubleKind::Clock,
                "its clock and this machine's differ by more than 15 minutes: set the time here (timedatectl set-ntp true)",
            ),
            Some("AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException") => {
                (TroubleKind::Region, "the bucket is in another region: correct `storage.region`")
            }
            Some("SlowDown" | "ServiceUnavailable" | "InternalError" | "RequestTimeout") => {
                (TroubleKind::Busy, "it can't at the moment: try again later")
            }
            _ if words.contains("redirect without LOCATION") => {
                (TroubleKind::Region, "the bucket is in another region: correct `storage.region`")
            }
            _ if is_transport(error) => {
                (TroubleKind::Unreachable, "it can't be reached: does it run, and is `storage.endpoint` its address?")
            }
            _ => match error {
                Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                    (TroubleKind::Refused, "it refuses the access key, and does not say why")
                }
                _ if ["500", "502", "503", "504", "429"]
                    .iter()
                    .any(|s| words.contains(&format!("status code: {s}"))) =>
                {
                    (TroubleKind::Busy, "it can't at the moment: try again later")
                }
                _ => (TroubleKind::Other, "it answers something that is not understood"),
            },
        };
        Self { kind, problem: format!("{problem} ({})", code.map_or(told, str::to_owned)) }
    }

    /// Whether it stays wrong until somebody changes something.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        match self.kind {
            TroubleKind::NoBucket
            | TroubleKind::Refused
            | TroubleKind::Clock
            | TroubleKind::Region
            | TroubleKind::Taken => true,
            TroubleKind::Unreachable | TroubleKind::Busy | TroubleKind::Other => false,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

/// Whether there is no such object, in a bucket that is there.
pub(super) fn is_absent(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. }) && code(&words(error)) != Some("NoSuchBucket")
}

/// Whether a store does not know what was asked for.
pub(super) fn is_not_implemented(error: &Error) -> bool {
    matches!(error, Error::NotImplemented { .. }) || code(&words(error)) == Some("NotImplemented")
}

/// Whether the request or the answer came to nothing on its way: what a store answers, with whatever status, is none of these.
fn is_transport(error: &Error) -> bool {
    chain(error).any(|cause| cause.is::<HttpError>())
}

/// The error with its causes; each says what the one below it does, most of the time.
fn words(error: &Error) -> String {
    let mut words = String::new();
    for cause in chain(error) {
        let said = cause.to_string();
        if !words.contains(&said) {
            if !words.is_empty() {
                words.push_str(": ");
            }
            words.push_str(&said);
        }
    }
    words
}

/// The innermost reason of it all, kept short.
fn told(words: &str) -> String {
    let last = words.rsplit(" - ").next().unwrap_or(words).split_whitespace().collect::<Vec<_>>().join(" ");
    match last.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => format!("{}...", &last[..end]),
        None => last,
    }
}

/// The store's word for what is wrong.
fn code(words: &str) -> Option<&str> {
    let (_, rest) = words.split_once("<Code>")?;
    rest.split_once("</Code>").map(|(code, _)| code)
}

fn chain(error: &Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(Some(error as &(dyn StdError + 'static)), |cause| (*cause).source())
}
