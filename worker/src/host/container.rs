//! Service containers: watched by the engine's own word, looked at anew whenever that breaks off, ended by a signal, and removed. What
//! they print is written into their instance's output file as it comes.
//!
//! An engine that is away or hangs is waited for, and never taken for the end of a container.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use indexmap::IndexMap;
use segue_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncWriteExt as _,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{output, running::Cleared};
use crate::engine::docker::{Docker, DockerError, InstanceSeen, Say};

/// Pauses before an engine that does not answer is asked again, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long the last words of a container may take after its end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long a container at an engine elsewhere may be silent until what it prints is asked for over another connection.
const SILENCE: Duration = Duration::from_secs(300);

/// How often its removal is tried before that is left to the sweep.
const REMOVALS: u32 = 3;

/// Lines that are written at once.
const LINES_AT_ONCE: usize = 64;

/// How a container ended that is not there any more.
const REMOVED: &str = "its container is gone";
/// How one ended that runs again.
const MOVED: &str = "its container was started again by somebody else, and is reached elsewhere";

/// What a container is found by, and what it was started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its number at the engine.
    pub container: String,
    /// Where its service listens.
    pub address: SocketAddr,
    /// Its first process on this machine.
    pub pid: Option<u32>,
    /// The signal that asks it to end.
    pub stop_signal: String,
    /// What it was seen to run with when it was started.
    pub facts: IndexMap<String, String>,
}

/// A container that runs, as far as is known.
#[derive(Debug)]
pub struct Container {
    /// Who it is.
    pub record: ContainerRecord,
    docker: Arc<Docker>,
    /// Where what it prints is written; `None`: somebody else carries that.
    output: Option<PathBuf>,
    /// The time of the last line that was written, as the engine writes it: text that sorts as the times do.
    written: Arc<Mutex<String>>,
    follower: Option<JoinHandle<()>>,
}

impl Container {
    /// One that was just started: all that it prints is new.
    #[must_use]
    pub fn started(docker: Arc<Docker>, record: ContainerRecord, output: PathBuf) -> Self {
        Self { record, docker, output: Some(output), written: Arc::default(), follower: None }
    }

    /// One whose streams somebody else carries.
    #[must_use]
    pub fn piped(docker: Arc<Docker>, record: ContainerRecord) -> Self {
        Self { record, docker, output: None, written: Arc::default(), follower: None }
    }

    /// One that was started by an earlier host: what is in its output file is not written again. Whether it still runs is seen when
    /// it is waited for.
    #[must_use]
    pub fn adopted(docker: Arc<Docker>, record: ContainerRecord, output: PathBuf) -> Self {
        let written = Arc::new(Mutex::new(last_written(&output)));
        Self { record, docker, output: Some(output), written, follower: None }
    }

    /// Waits for its end; says how it ended.
    pub async fn ended(&mut self) -> String {
        let mut pause = PAUSES.0;
        loop {
            match self.docker.look_at(&self.record.container).await {
                Ok(Some(InstanceSeen { is_running: false, exit, .. })) => return exit,
                Ok(None) => return REMOVED.to_owned(),
                Ok(Some(seen)) => {
                    if self.is_moved(&seen) {
                        return MOVED.to_owned();
                    }
                    self.follow();
                    self.docker.until_change(&self.record.container).await;
                    // an engine that breaks off at once is not asked in a circle
                    sleep(pause.min(Duration::from_millis(20))).await;
                    pause = PAUSES.0;
                }
                Err(error) => {
                    tracing::warn!(container = self.record.container, %error, "it can't be looked at, and is taken to run on");
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// Its stop signal, and KILL when it has not ended after `patience`.
    pub async fn terminate(&mut self, patience: Duration) -> String {
        let signal = self.record.stop_signal.clone();
        self.signal(&signal).await;
        match timeout(patience, self.ended()).await {
            Ok(exit) => exit,
            Err(_) => {
                self.signal("KILL").await;
                self.ended().await
            }
        }
    }

    /// Removes it, with what goes with it.
    pub async fn remove(&mut self) -> Cleared {
        let mut is_read = false;
        if let Some(mut follower) = self.follower.take() {
            is_read = timeout(LAST_WORDS, &mut follower).await.is_ok();
            if !is_read {
                follower.abort();
                let _ = follower.await;
            }
        }
        // one that ended while nobody could follow it: after this its words are nowhere
        if let Some(output) = self.output.as_ref().filter(|_| !is_read) {
            read_rest(&self.docker, &self.record.container, output, &self.written).await;
        }
        let mut pause = PAUSES.0;
        for _ in 0..REMOVALS {
            match self.docker.remove_instance(&self.record.container).await {
                Ok(true) => return Cleared::Done,
                Ok(false) => return Cleared::ByOthers,
                Err(error) => tracing::warn!(container = self.record.container, %error, "it can't be removed yet"),
            }
            sleep(pause).await;
            pause *= 2;
        }
        Cleared::Left
    }

    /// Sends a signal, as soon as the engine takes it.
    async fn signal(&self, signal: &str) {
        let mut pause = PAUSES.0;
        while let Err(error) = self.docker.signal(&self.record.container, signal).await {
            tracing::warn!(container = self.record.container, signal, %error, "it can't be told yet");
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Whether it runs where it is reached at another address than the one that is recorded.
    fn is_moved(&self, seen: &InstanceSeen) -> bool {
        let known = self.record.address;
        let now = self.docker.reached(seen, known.port());
        self.docker.is_elsewhere() && !known.ip().is_unspecified() && now.is_some_and(|now| now != known)
    }

    /// Has what it prints written down, unless somebody does already.
    fn follow(&mut self) {
        if self.follower.as_ref().is_some_and(|follower| !follower.is_finished()) {
            return;
        }
        let Some(output) = self.output.clone() else { return };
        let (docker, id) = (self.docker.clone(), self.record.container.clone());
        let written = self.written.clone();
        self.follower = Some(tokio::spawn(async move {
            let mut pause = PAUSES.0;
            loop {
                let before = last_of(&written);
                let done = write_down(&docker, &id, &output, &written, true).await;
                // a connection that breaks off ends as a container's output does: what came meanwhile is asked for again
                match docker.look_at(&id).await {
                    Ok(Some(seen)) if !seen.is_running => {
                        read_rest(&docker, &id, &output, &written).await;
                        return;
                    }
                    Ok(None) => return,
                    Ok(Some(_)) | Err(_) => {}
                }
                if let Err(error) = done {
                    tracing::warn!(container = id, %error, "what it prints can't be written down yet");
                }
                if last_of(&written) != before {
                    pause = PAUSES.0;
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }));
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Some(follower) = &self.follower {
            follower.abort();
        }
    }
}

/// Writes down what a container that has ended printed, as far as that is not in its output file, before it is removed.
pub(super) async fn write_rest(docker: &Docker, id: &str, output: &Path) {
    read_rest(docker, id, output, &Mutex::new(last_written(output))).await;
}

async fn read_rest(docker: &Docker, id: &str, output: &Path, written: &Mutex<String>) {
    let rest = timeout(docker.patience(), write_down(docker, id, output, written, false)).await;
    let why = match rest {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no end within {} s", docker.patience().as_secs()),
    };
    tracing::warn!(container = id, why, "its last words can't be written down");
}

/// `follow`: until it ends, or an engine elsewhere says nothing for long; else what is there.
async fn write_down(
    docker: &Docker,
    id: &str,
    path: &Path,
    written: &Mutex<String>,
    follow: bool,
) -> Result<(), DockerError> {
    let own = |error: std::io::Error| DockerError::Own(format!("{}: {error}", path.display()));
    let since = seconds_of(&last_of(written));
    let mut lines = Box::pin(docker.output(id, since, follow).await?).ready_chunks(LINES_AT_ONCE);
    let marked = output::open(path).map_err(own)?;
    let mut file = tokio::fs::File::from_std(marked.try_clone().map_err(own)?);
    let mut known = last_of(written);
    loop {
        let next = lines.next();
        let several = if docker.is_elsewhere() { timeout(SILENCE, next).await.unwrap_or_default() } else { next.await };
        let Some(several) = several else { return Ok(()) };
        let mut block = Vec::new();
        for line in several {
            let Some(end) = line.iter().position(|byte| *byte == b' ') else { continue };
            let at = String::from_utf8_lossy(&line[..end]).into_owned();
            if at > known {
                block.extend_from_slice(&line[end + 1..]);
                known = at;
            }
        }
        file.write_all(&block).await.map_err(own)?;
        file.flush().await.map_err(own)?;
        // by the engine's clock, which need not be this machine's: the next host goes on from there
        if let Some(at) = time_of(&known) {
            let _ = marked.set_modified(at);
        }
        written.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&known);
    }
}

fn last_of(written: &Mutex<String>) -> String {
    written.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A time as the engine writes it, to the nanosecond.
fn time_of(text: &str) -> Option<SystemTime> {
    let second: Timestamp = format!("{}Z", text.get(..19)?).parse().ok()?;
    let nanos: u64 = text.get(20..29)?.parse().ok()?;
    let seconds = u64::try_from(second.0 / 1000).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanos))
}

/// When a file was last written to, as the engine writes times.
fn last_written(path: &Path) -> String {
    let at = std::fs::metadata(path).and_then(|found| found.modified()).ok();
    let since = at.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let Some(since) = since else { return String::new() };
    let at = Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)).as_chrono();
    format!("{}.{:09}Z", at.format("%Y-%m-%dT%H:%M:%S"), since.subsec_nanos())
}

/// The second of a time as the engine writes it; 0: none.
fn seconds_of(text: &str) -> i32 {
    let at: Option<Timestamp> = text.parse().ok();
    at.and_then(|at| i32::try_from(at.0 / 1000).ok()).unwrap_or_default()
}

/// Says what is done for an instance in its output file.
pub(super) struct ToOutput(pub(super) PathBuf);

#[async_trait]
impl Say for ToOutput {
    async fn say(&self, line: String) {
        let Ok(file) = output::open(&self.0) else { return };
        let mut file = tokio::fs::File::from_std(file);
        let _ = file.write_all(format!("segue: {line}\n").as_bytes()).await;
        let _ = file.flush().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_last_line_is_kept_with_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "2026-11-22T23:59:58.012345678Z";
        file.as_file().set_modified(time_of(text).unwrap()).unwrap();
        assert_eq!(last_written(file.path()), text);
        assert_eq!(seconds_of(text), 1_795_391_998);
        for wrong in ["", "now", "2026-11-22", "2026-11-22T23:59:58Z", "äääääääääääääääääääääääääää"]
        {
            assert_eq!(time_of(wrong), None, "{wrong}");
        }
    }
}
