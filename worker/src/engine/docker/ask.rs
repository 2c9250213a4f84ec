//! A question to a container that runs: a program of its own is run beside what it does, and what that says is heard. A short one; what an
//! engine can't do is end it, so that whoever asks is told where it goes on.

use std::time::Duration;

use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::{
    Docker, DockerError,
    call::{call, understood},
};

/// Between two looks at a question whose answer is complete: the engine notes the exit code a moment later; and how many there are.
const LOOKS: (Duration, u32) = (Duration::from_millis(20), 50);

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The exit code, and what it printed on either stream.
    Ended(i64, String),
    /// It goes on beyond its time. Its number at the engine.
    GoesOn(String),
    /// The way to the engine broke amid the answer, which says nothing of what was asked: it may go on.
    BrokeOff {
        /// Its number at the engine.
        question: String,
        /// What was seen.
        why: String,
    },
}

impl Docker {
    /// Runs a program in a container, as the user and with the variables that the container has. Of what it says, `most_bytes` are kept.
    ///
    /// # Errors
    /// [`DockerError`]: it can't be run there, or the engine does not say.
    pub async fn ask_within(
        &self,
        container: &str,
        argv: &[&str],
        limit: Duration,
        most_bytes: usize,
    ) -> Result<Answer, DockerError> {
        let (client, patience) = (self.client().await?, self.patience());
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(argv.iter().map(|word| (*word).to_owned()).collect()),
            ..CreateExecOptions::default()
        };
        let id = call("prepare a question", patience, client.create_exec(container, options)).await?.id;
        let started = call("ask a container", patience, client.start_exec(&id, None::<StartExecOptions>)).await?;
        let StartExecResults::Attached { mut output, .. } = started else {
            return Err(DockerError::Own("a question was asked without its answer".into()));
        };
        let mut said = Vec::new();
        let read = async {
            while let Some(part) = output.next().await {
                let part = part.map_err(|error| understood("hand over an answer", limit, &error))?;
                let room = most_bytes.saturating_sub(said.len());
                said.extend(part.as_ref().iter().take(room));
            }
            Ok::<(), DockerError>(())
        };
        let broke_off = |question: String, why: String| Ok(Answer::BrokeOff { question, why });
        match timeout(limit, read).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return broke_off(id, error.to_string()),
            Err(_) => return Ok(Answer::GoesOn(id)),
        }
        for _ in 0..LOOKS.1 {
            match self.answered(&id).await {
                Ok(Some(code)) => return Ok(Answer::Ended(code, String::from_utf8_lossy(&said).into_owned())),
                Ok(None) => tokio::time::sleep(LOOKS.0).await,
                Err(error) => return broke_off(id, error.to_string()),
            }
        }
        broke_off(id, "its answer is over, and the engine says that it goes on: the connection broke".into())
    }

    /// The exit code of a question, where it has ended; one that the engine knows no more has.
    ///
    /// # Errors
    /// [`DockerError`]: the engine does not say.
    pub async fn answered(&self, question: &str) -> Result<Option<i64>, DockerError> {
        let asked = self.client().await?.inspect_exec(question);
        match call("look at a question", self.patience(), asked).await {
            Ok(seen) if seen.running == Some(true) => Ok(None),
            Ok(seen) => Ok(seen.exit_code),
            Err(error) if error.is_not_found() => Ok(Some(-1)),
            Err(error) => Err(error),
        }
    }
}
