//! A script in a container: started, its output carried on, its end found out. The stream of its output tells of the end at once; what
//! the engine says when it is looked at decides, as a stream may break, or be held open by what the script left in the background.

use std::{
    os::fd::{AsRawFd as _, BorrowedFd},
    time::Duration,
};

use bollard::{
    container::LogOutput,
    errors::Error,
    exec::{CreateExecOptions, StartExecOptions, StartExecResults},
};
use futures_util::StreamExt as _;
use tokio::{
    io::AsyncWriteExt as _,
    net::unix::pipe,
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    Docker, DockerError,
    call::call,
    lines::{Lines, Stream},
};
use crate::engine::Exit;

/// Between two looks at a script that runs and says nothing of its end.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two looks at one whose output has ended: the engine notes the exit code a moment later.
const LOOK_AGAIN: Duration = Duration::from_millis(4);
/// So long does what one stream says wait for the end of the other's line.
const HOLD: Duration = Duration::from_millis(100);
/// Bytes of output that are read at once.
const BLOCK_BYTES: usize = 64 * 1024;

/// A script that was started.
pub(super) struct Exec {
    id: String,
    /// Carries its output on; ended: all of it is in the pipe.
    pump: JoinHandle<()>,
    pump_ended: bool,
}

/// What is to be run.
pub(super) struct Script<'a> {
    pub argv: &'a [String],
    pub env: &'a [(String, String)],
    pub directory: &'a str,
    pub user: Option<&'a str>,
}

impl Exec {
    /// Starts a script in a container.
    pub(super) async fn start(
        docker: &Docker,
        container: &str,
        script: &Script<'_>,
        output: BorrowedFd<'_>,
    ) -> Result<Self, DockerError> {
        let own = |error: std::io::Error| DockerError::Own(format!("the log's pipe: {error}"));
        // an opening of its own, which does not wait: those that processes have keep theirs
        let path = format!("/proc/self/fd/{}", output.as_raw_fd());
        let sink = pipe::OpenOptions::new().open_sender(path).map_err(own)?;
        let (client, limit) = (docker.client().await?, docker.config.patience.0);
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(script.argv.to_vec()),
            env: Some(script.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            user: script.user.map(str::to_owned),
            working_dir: Some(script.directory.to_owned()),
            ..CreateExecOptions::default()
        };
        let id = call("prepare a step", limit, client.create_exec(container, options)).await?.id;
        let how = StartExecOptions { output_capacity: Some(BLOCK_BYTES), ..StartExecOptions::default() };
        let stream = match call("start a step", limit, client.start_exec(&id, Some(how))).await? {
            StartExecResults::Attached { output, .. } => output,
            StartExecResults::Detached => return Err(DockerError::Own("a step was started without its output".into())),
        };
        Ok(Self { id, pump: tokio::spawn(pump(stream, sink)), pump_ended: false })
    }

    /// Waits for its end. May be dropped and asked again.
    pub(super) async fn exited(&mut self, docker: &Docker) -> Result<Exit, DockerError> {
        let mut away_since: Option<Instant> = None;
        let mut pause = LOOK_AGAIN;
        loop {
            if self.pump_ended {
                sleep(pause).await;
                pause = (pause * 2).min(LOOK_EVERY);
            } else {
                tokio::select! {
                    _ = &mut self.pump => self.pump_ended = true,
                    () = sleep(LOOK_EVERY) => {}
                }
            }
            match self.look(docker).await {
                Ok(Some(exit)) => {
                    if !self.pump_ended {
                        // what it left in the background may hold its output open; what one stream said last may still be held back
                        self.pump_ended = timeout(HOLD, &mut self.pump).await.is_ok();
                    }
                    return Ok(exit);
                }
                Ok(None) => away_since = None,
                // the engine was started anew and knows nothing of it: its container was ended with that
                Err(error) if error.is_not_found() => {
                    return Err(DockerError::Ended("the engine has no record of the step".into()));
                }
                Err(error) => {
                    let since = *away_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= docker.config.patience.0 {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// How it ended, where it has.
    pub(super) async fn look(&self, docker: &Docker) -> Result<Option<Exit>, DockerError> {
        let (client, limit) = (docker.client().await?, docker.config.patience.0);
        let seen = call("look at a step", limit, client.inspect_exec(&self.id)).await?;
        if seen.running == Some(true) {
            return Ok(None);
        }
        Ok(seen.exit_code.map(|code| Exit::Code(i32::try_from(code).unwrap_or(i32::MAX))))
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

/// Carries standard output and error on, whole lines of the one between whole lines of the other, until both have ended or the connection
/// breaks.
async fn pump(mut stream: impl futures_util::Stream<Item = Result<LogOutput, Error>> + Unpin, mut sink: pipe::Sender) {
    let (mut lines, mut out) = (Lines::default(), Vec::new());
    let mut let_go_at: Option<Instant> = None;
    loop {
        let output = match let_go_at {
            Some(at) => timeout_at(at, stream.next()).await.ok(),
            None => Some(stream.next().await),
        };
        let is_over = !matches!(output, None | Some(Some(Ok(_))));
        let before = lines.open();
        match output {
            Some(Some(Ok(LogOutput::StdErr { message }))) => lines.take(Stream::Error, &message, &mut out),
            Some(Some(Ok(other))) => lines.take(Stream::Output, other.as_ref(), &mut out),
            // the other line may be one that is never ended
            None | Some(None | Some(Err(_))) => lines.let_go(&mut out),
        }
        // each line that is waited for has its own time
        let same = let_go_at.filter(|_| lines.open() == before);
        let_go_at = lines.is_holding().then(|| same.unwrap_or_else(|| Instant::now() + HOLD));
        if sink.write_all(&out).await.is_err() || is_over {
            return;
        }
        out.clear();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tokio::{io::AsyncReadExt as _, net::unix::pipe};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lines_that_end_soon_are_never_broken_however_long_both_streams_speak() {
        const PIECES: usize = 100;
        let said = stream::unfold(0, |number| async move {
            sleep(HOLD / 4).await;
            let output = match number % 2 {
                0 => LogOutput::StdOut { message: "-out\nout".into() },
                _ => LogOutput::StdErr { message: "-err\nerr".into() },
            };
            (number < PIECES).then_some((Ok(output), number + 1))
        });
        let (sink, mut source) = pipe::pipe().unwrap();
        let mut text = String::new();
        let ((), read) = tokio::join!(pump(Box::pin(said), sink), source.read_to_string(&mut text));
        read.unwrap();
        for line in ["out-out", "err-err"] {
            assert_eq!(text.lines().filter(|known| *known == line).count(), PIECES / 2 - 1, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_a_line_that_does_not_end_comes_after_a_while() {
        let said = stream::unfold(0, |number| async move {
            let output = match number {
                0 => LogOutput::StdOut { message: "is it done?".into() },
                1 => LogOutput::StdErr { message: "no\n".into() },
                _ => {
                    sleep(HOLD * 3).await;
                    return None;
                }
            };
            Some((Ok(output), number + 1))
        });
        let (sink, mut source) = pipe::pipe().unwrap();
        let pumped = tokio::spawn(pump(Box::pin(said), sink));
        sleep(HOLD * 2).await;
        let mut text = [0; 64];
        let count = source.read(&mut text).await.unwrap();
        assert_eq!(std::str::from_utf8(&text[..count]).unwrap(), "is it done?\nno\n");
        pumped.await.unwrap();
    }
}
