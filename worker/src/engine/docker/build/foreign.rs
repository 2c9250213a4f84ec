//! Builds for a platform that is not the engine's own: what comes of programs that it can't run.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::super::{DockerError, place::Say};

/// What the kernel says of a program for another processor, where nothing emulates that.
const NOT_RUN: &str = "exec format error";

/// Hears whether a build ran a program that can't be run.
pub(super) struct Heard<'a> {
    say: &'a dyn Say,
    is_foreign: AtomicBool,
}

impl<'a> Heard<'a> {
    pub(super) fn new(say: &'a dyn Say) -> Self {
        Self { say, is_foreign: AtomicBool::new(false) }
    }

    /// Why a build for a platform failed, with what to do where a program of it can't be run.
    pub(super) fn explained(&self, platform: &str, error: DockerError) -> DockerError {
        let is_foreign = self.is_foreign.load(Ordering::Relaxed) || error.to_string().to_lowercase().contains(NOT_RUN);
        match error {
            DockerError::Failed(message) if is_foreign => {
                let architecture = platform.split('/').nth(1).unwrap_or(platform);
                DockerError::Failed(format!(
                    "{message}. This engine can't run programs of `{platform}`: have its machine emulate them (`docker run --privileged --rm \
                     tonistiigi/binfmt --install {architecture}`, or Debian's qemu-user-static), use a worker of that platform, or let the Dockerfile \
                     run nothing there (`FROM --platform=$BUILDPLATFORM`, then `COPY --from`)"
                ))
            }
            other => other,
        }
    }
}

#[async_trait]
impl Say for Heard<'_> {
    async fn say(&self, line: String) {
        if line.to_lowercase().contains(NOT_RUN) {
            self.is_foreign.store(true, Ordering::Relaxed);
        }
        self.say.say(line).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    #[async_trait]
    impl Say for Nobody {
        async fn say(&self, _line: String) {}
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_run_is_told_with_its_platform() {
        let failed = || DockerError::Failed("executor failed running [/bin/sh -c make]: exit code: 1".into());
        let heard = Heard::new(&Nobody);
        heard.say("#5 0.2 make: *** error".into()).await;
        assert_eq!(heard.explained("linux/arm64", failed()).to_string(), failed().to_string());
        // as runc has it, through BuildKit
        heard.say("#5 0.103 standard_init_linux.go:228: exec user process caused: exec format error".into()).await;
        let told = heard.explained("linux/arm64", failed()).to_string();
        assert!(told.contains("can't run programs of `linux/arm64`") && told.contains("--install arm64"), "{told}");
        let away = DockerError::away("build the image", &"gone");
        assert_eq!(heard.explained("linux/arm64", away).class(), segue_schemas::status::FailureClass::Infrastructure);
    }
}
