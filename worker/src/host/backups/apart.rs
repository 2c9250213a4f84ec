//! The command of a backup or a restore of a service that runs as a container: in a container of its own beside it, with the same volumes.
//!
//! An engine that is restarted ends its streams as a container's own end does. So that half is never taken for the whole, what is written
//! closes with a word that nobody knows before, and counts only with that.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use segue_schemas::id::InstanceId;

use super::super::{
    Host,
    container::{Container, ContainerRecord},
    process::SUCCESS,
    state::InstanceRecord,
};
use super::command::{Command, FILE_VARIABLE};
use crate::engine::docker::{Piped, Say, Streams};

/// Runs the line, and says the word once it has ended well.
const SCRIPT: &str = "sh -ec \"$1\" && printf %s \"$2\"";

/// What takes the place of a file's name, for commands that want one: no file of the host is in a container.
const STREAMS: (&str, &str) = ("/dev/stdout", "/dev/stdin");

/// The command of a container's service while it runs.
pub(super) struct Apart {
    container: Container,
    piped: Piped,
    output: PathBuf,
    word: String,
}

impl Host {
    /// Starts a command beside an instance's container. What one before it has left of the same service is ended first.
    pub(super) async fn begin_apart(
        &self,
        id: &InstanceId,
        instance: &InstanceRecord,
        command: &Command<'_>,
        output: File,
        errors: File,
    ) -> Result<Apart, String> {
        let input = command.input.as_ref().map(File::try_clone).transpose();
        let input = input.map_err(|error| format!("what it is to read can't be used: {error}"))?;
        let mut spec = self.command_spec(id, instance, command.name, command.image)?;
        let file = if input.is_some() { STREAMS.1 } else { STREAMS.0 };
        let word = hex::encode(rand::random::<[u8; 16]>());
        spec.env.push(format!("{FILE_VARIABLE}={file}"));
        spec.entrypoint = Some(["sh", "-c"].map(str::to_owned).into());
        spec.command = [SCRIPT, "segue", command.line, &word].map(str::to_owned).into();
        let failed = |error: crate::engine::docker::DockerError| format!("it can't be run as a container: {error}");
        self.clear_commands(&instance.environment, &instance.release.service).await.map_err(failed)?;
        self.docker.have_image(&spec.image, &Untold).await.map_err(failed)?;
        let streams = Streams { input, output, errors };
        let piped = self.docker.start_piped(&spec, streams).await.map_err(failed)?;
        let record = ContainerRecord {
            container: piped.id.clone(),
            address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), spec.port),
            pid: None,
            stop_signal: "TERM".into(),
            facts: [].into(),
        };
        let container = Container::piped(self.docker.clone(), record);
        Ok(Apart { container, piped, output: command.aside.output.clone(), word })
    }
}

impl Apart {
    /// Waits for its end; says how it ended.
    pub(super) async fn ended(&mut self) -> String {
        let exit = self.container.ended().await;
        let carried = self.piped.carried().await;
        if exit != SUCCESS {
            return exit;
        }
        let closed = carried.and_then(|()| {
            let closed = take_word(&self.output, &self.word);
            closed.map_err(|error| format!("{}: {error}", self.output.display()))
        });
        match closed {
            Ok(true) => exit,
            Ok(false) => {
                "its output cut off: the container engine was restarted, or something wrote on behind it".into()
            }
            Err(why) => why,
        }
    }

    /// Asks it to end, kills it where it has not after `patience`, and gives up where the engine does not answer: it is swept away then.
    pub(super) async fn terminate(&mut self, patience: Duration) {
        if tokio::time::timeout(patience * 2, self.container.terminate(patience)).await.is_err() {
            tracing::warn!(container = self.container.record.container, "it can't be ended yet");
        }
    }

    /// Takes away what is left of one that has ended.
    pub(super) async fn clear(&mut self) {
        self.container.remove().await;
    }
}

/// Takes the word off the end of a file; `false`: it is not there.
fn take_word(path: &Path, word: &str) -> io::Result<bool> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let Some(from) = file.metadata()?.len().checked_sub(word.len() as u64) else { return Ok(false) };
    file.seek(SeekFrom::Start(from))?;
    let mut end = String::new();
    // bytes of something else may be no text
    let is_there = file.read_to_string(&mut end).is_ok() && end == word;
    if is_there {
        file.set_len(from)?;
    }
    Ok(is_there)
}

/// That an image comes is told to nobody: it is no instance's.
struct Untold;

#[async_trait]
impl Say for Untold {
    async fn say(&self, line: String) {
        tracing::info!(line, "the image of a backup's command");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_closed_is_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let check = |written: &[u8], closed: bool, left: &[u8]| {
            std::fs::write(file.path(), written).unwrap();
            assert_eq!(take_word(file.path(), "w0rd").unwrap(), closed);
            assert_eq!(std::fs::read(file.path()).unwrap(), left);
        };
        check(b"all of itw0rd", true, b"all of it");
        check(b"\xff\xfe\x00w0rd", true, b"\xff\xfe\x00");
        check(b"w0rd", true, b"");
        check(b"", false, b"");
        check(b"all of itw0r", false, b"all of itw0r");
        check(b"w0rd and more", false, b"w0rd and more");
        check(b"\xc3\x28\xff\xff\xff", false, b"\xc3\x28\xff\xff\xff");
    }
}
