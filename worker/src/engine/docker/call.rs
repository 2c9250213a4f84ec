//! Calls of the engine: none without a time limit, and what their failures mean.

use std::time::Duration;

use bollard::errors::Error;
use segue_schemas::status::FailureClass;

/// What the engine says where an image has nothing to start: no other answer tells it from a fault of the machine's.
const NO_PROGRAM: [&str; 3] = ["executable file not found", "no such file or directory", "permission denied"];
/// The same of images that are not there, or not for this one.
const NO_IMAGE: [&str; 8] = [
    "not found",
    "manifest unknown",
    "access denied",
    "unauthorized",
    "invalid reference",
    NO_LOGIN[0],
    NO_LOGIN[1],
    NO_LOGIN[2],
];
/// The same where nobody is known to the registry.
const NO_LOGIN: [&str; 3] = ["no basic auth credentials", "authentication required", "incorrect username or password"];

/// What the engine says where somebody else listens at the port that a container is to have on its machine.
const PORT_TAKEN: [&str; 2] = ["port is already allocated", "address already in use"];

/// Why the engine did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// It refused.
    #[error("the container engine can't {doing}: {message}{}", login_remedy(doing, message))]
    Refused {
        /// What was asked.
        doing: &'static str,
        /// The HTTP status of its answer.
        status: u16,
        /// Its own words.
        message: String,
    },
    /// It is not there, or broke off.
    #[error("the container engine could not {doing}: {message}{}", remedy(message))]
    Away {
        /// What was asked.
        doing: &'static str,
        /// What was seen.
        message: String,
    },
    /// It did not answer.
    #[error("the container engine did not {doing} within {} s: it hangs, or the machine is overloaded", limit.as_secs())]
    Slow {
        /// What was asked.
        doing: &'static str,
        /// For how long it was waited.
        limit: Duration,
    },
    /// A build ended otherwise than well, by what it does.
    #[error("the image could not be built: {0}")]
    Failed(String),
    /// The container has ended although its job has not.
    #[error("the job's container has ended ({0})")]
    Ended(String),
    /// What the job asks for can't be made.
    #[error("{0}")]
    Asked(String),
    /// The worker's own part of it failed.
    #[error("{0}")]
    Own(String),
}

/// What to do where the engine's own machine did not say: of one elsewhere, the way there names what is wrong with it.
fn remedy(message: &str) -> &'static str {
    if message.starts_with("tcp://") || message.starts_with("ssh://") {
        ""
    } else {
        "; is it running? `segue doctor` looks"
    }
}

/// What to do where a registry wants to know who asks.
fn login_remedy(doing: &str, message: &str) -> &'static str {
    let said = message.to_lowercase();
    let is_login = NO_LOGIN.iter().chain(&["unauthorized", "access denied"]).any(|words| said.contains(words));
    if doing == "pull the image" && is_login {
        "; does the registry know who asks? `docker login` for services, as the user whose host starts them; `container.credentials` for jobs"
    } else {
        ""
    }
}

impl DockerError {
    pub(super) fn away(doing: &'static str, error: &dyn std::fmt::Display) -> Self {
        Self::Away { doing, message: error.to_string() }
    }

    /// Whether there is no such thing at the engine.
    pub(super) const fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether somebody else has the port at which a container was to be reached on the engine's machine.
    #[must_use]
    pub fn is_port_taken(&self) -> bool {
        let is_so = |message: &str| PORT_TAKEN.iter().any(|words| message.contains(words));
        matches!(self, Self::Refused { doing: "start the container", message, .. } if is_so(message))
    }

    /// What kind of failure it is: the pipeline's where it asks for what there is not, else the machine's.
    #[must_use]
    pub fn class(&self) -> FailureClass {
        let is_one_of = |words: &[&str], text: &str| words.iter().any(|word| text.to_lowercase().contains(word));
        match self {
            Self::Failed(_) => FailureClass::Script,
            Self::Asked(_) => FailureClass::Configuration,
            Self::Refused { doing: "pull the image", message, .. } if is_one_of(&NO_IMAGE, message) => {
                FailureClass::Configuration
            }
            Self::Refused { doing: "start the container", message, .. } if is_one_of(&NO_PROGRAM, message) => {
                FailureClass::Configuration
            }
            Self::Refused { status: 400 | 404, .. } => FailureClass::Configuration,
            _ => FailureClass::Infrastructure,
        }
    }
}

/// Makes a call that must be answered within the limit. `doing` completes "the engine can't ...".
pub(super) async fn call<T>(
    doing: &'static str,
    limit: Duration,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, DockerError> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer.map_err(|error| understood(doing, limit, &error)),
        Err(_) => Err(DockerError::Slow { doing, limit }),
    }
}

/// An error of the client's as one of these.
pub(super) fn understood(doing: &'static str, limit: Duration, error: &Error) -> DockerError {
    match error {
        Error::DockerResponseServerError { status_code, message } => {
            DockerError::Refused { doing, status: *status_code, message: message.trim().to_owned() }
        }
        Error::DockerStreamError { error } => {
            DockerError::Refused { doing, status: 500, message: error.trim().to_owned() }
        }
        Error::RequestTimeoutError => DockerError::Slow { doing, limit },
        other => DockerError::away(doing, &with_causes(other)),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_told_from_other_refusals() {
        let refused = |doing, message: &str| DockerError::Refused { doing, status: 500, message: message.into() };
        let start = "start the container";
        for (error, is_taken) in [
            (
                refused(
                    start,
                    "driver failed programming external connectivity on endpoint x: Bind for 10.0.0.5:20001 failed: port is already allocated",
                ),
                true,
            ),
            (refused(start, "failed to bind host port 10.0.0.5:20001/tcp: address already in use"), true),
            (refused(start, "listen tcp4 10.0.0.5:20001: bind: cannot assign requested address"), false),
            (refused("make the network", "address already in use"), false),
            (DockerError::Own("port is already allocated".into()), false),
        ] {
            assert_eq!(error.is_port_taken(), is_taken, "{error}");
        }
    }

    #[test]
    fn what_a_pipeline_asks_wrongly_is_told_from_what_a_machine_fails_at() {
        let refused = |doing, status, message: &str| DockerError::Refused { doing, status, message: message.into() };
        for (error, class) in [
            (refused("pull the image", 404, "manifest for x:1 not found"), FailureClass::Configuration),
            (
                refused("pull the image", 500, "pull access denied for x, repository does not exist"),
                FailureClass::Configuration,
            ),
            (
                refused("pull the image", 500, "Get http://127.0.0.1:5000/v2/x: no basic auth credentials"),
                FailureClass::Configuration,
            ),
            (refused("pull the image", 500, "dial tcp: i/o timeout"), FailureClass::Infrastructure),
            (
                refused("start the container", 400, "exec: \"sh\": executable file not found in $PATH"),
                FailureClass::Configuration,
            ),
            (refused("start the container", 500, "cgroup: no space left on device"), FailureClass::Infrastructure),
            (
                refused("make the network", 500, "all predefined address pools have been fully subnetted"),
                FailureClass::Infrastructure,
            ),
            (DockerError::Slow { doing: "x", limit: Duration::from_secs(1) }, FailureClass::Infrastructure),
            (DockerError::Ended("killed".into()), FailureClass::Infrastructure),
        ] {
            assert_eq!(error.class(), class, "{error}");
        }
    }
}
