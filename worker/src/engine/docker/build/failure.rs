//! What a build's failure means: the code's, the pipeline's, or the machine's. BuildKit says it in words alone.

use super::super::DockerError;

/// A step of the Dockerfile ended with another code than 0.
const STEP: [&str; 3] =
    ["did not complete successfully: exit code", "executor failed running", "returned a non-zero code"];
/// The machine, or the way to a registry.
const MACHINE: [&str; 17] = [
    "no space left on device",
    "disk quota exceeded",
    "i/o timeout",
    "connection refused",
    "connection reset",
    "network is unreachable",
    "no such host",
    "server misbehaving",
    "temporary failure in name resolution",
    "tls handshake",
    "unexpected eof",
    "transport is closing",
    "context canceled",
    "no active session",
    "too many requests",
    "service unavailable",
    "internal server error",
];
/// What the Dockerfile names and there is not, or may not be had.
const ASKED: [&str; 12] = [
    "dockerfile parse error",
    "failed to parse",
    "unknown instruction",
    "not found",
    "no such file or directory",
    "target stage",
    "failed to reach build target",
    "failed to compute cache key",
    "access denied",
    "authorization failed",
    "unauthorized",
    "invalid reference",
];

/// The error of what the engine said. `disk_was_full`: a step said so before it failed.
pub(super) fn classify(message: &str, status: Option<u16>, disk_was_full: bool) -> DockerError {
    let text = message.trim().to_owned();
    let lower = text.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if says(&STEP) && !disk_was_full {
        DockerError::Failed(text)
    } else if says(&STEP) {
        DockerError::Away { doing: super::BUILD, message: format!("{text} (no space left on device)") }
    } else if says(&MACHINE) {
        DockerError::Away { doing: super::BUILD, message: text }
    } else if says(&ASKED) || status == Some(400) {
        DockerError::Asked(format!("the image can't be built: {text}"))
    } else {
        match status {
            Some(status) => DockerError::Refused { doing: super::BUILD, status, message: text },
            None => DockerError::Failed(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use segue_schemas::status::FailureClass;

    use super::*;

    #[test]
    fn what_a_machine_fails_at_is_told_from_what_the_code_does() {
        for (message, status, class) in [
            ("executor failed running [/bin/sh -c exit 3]: exit code: 3", None, FailureClass::Script),
            (r#"process "/bin/sh -c make" did not complete successfully: exit code: 2"#, None, FailureClass::Script),
            ("The command '/bin/sh -c exit 3' returned a non-zero code: 3", None, FailureClass::Script),
            ("executor failed running [curl]: exit code: 6; no such host", None, FailureClass::Script),
            ("failed to copy files: write /x: no space left on device", None, FailureClass::Infrastructure),
            (
                "failed to do request: Head https://x/: dial tcp: lookup x: no such host",
                None,
                FailureClass::Infrastructure,
            ),
            ("no active sessions", None, FailureClass::Infrastructure),
            ("dockerfile parse error line 2: unknown instruction: FRM", Some(400), FailureClass::Configuration),
            (r#"failed to compute cache key: "/absent" not found: not found"#, None, FailureClass::Configuration),
            ("docker.io/x/y:1: not found", None, FailureClass::Configuration),
            ("something else", Some(500), FailureClass::Infrastructure),
        ] {
            assert_eq!(classify(message, status, false).class(), class, "{message}");
        }
        assert_eq!(
            classify("executor failed running [x]: exit code: 1", None, true).class(),
            FailureClass::Infrastructure
        );
    }
}
