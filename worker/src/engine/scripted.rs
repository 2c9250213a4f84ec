//! A deterministic engine without processes, for tests of what lies above it. A script is a list of commands, one a line:
//!
//! | command | does |
//! | --- | --- |
//! | `print TEXT` | writes the text and a line's end |
//! | `show NAME` | writes an environment variable as `NAME=VALUE` |
//! | `value NAME` | writes the value of an environment variable |
//! | `append NAME TEXT` | appends a line to the file that the environment variable names |
//! | `sleep MS` | takes that long |
//! | `hang` | never ends by itself; heeds a kill |
//! | `ignore-term` | what follows is ended by the grace's end alone |
//! | `exit N` | ends |
//!
//! Other lines are passed over. It runs the last argument of a program as its script.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::Write,
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use segue_schemas::id::JobId;
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use super::{Engine, EngineJob, Exit, SupervisorError, Task, Work};
use crate::supervisor::child::work_on_archive;

const TERM: i32 = 15;
const KILL: i32 = 9;

/// The engine, and what was done with it.
#[derive(Debug, Default, Clone)]
pub struct Scripted {
    history: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    /// What was asked of it so far: `open`, `start DIRECTORY`, `kill`.
    #[must_use]
    pub fn history(&self) -> Vec<String> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, what: String) {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

#[async_trait]
impl Engine for Scripted {
    async fn open(&self, _: JobId) -> Result<Box<dyn EngineJob>, SupervisorError> {
        self.note("open".into());
        let (signal, _) = watch::channel(Signal::None);
        Ok(Box::new(ScriptedJob { engine: self.clone(), signal, running: None }))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    None,
    Term,
    Kill,
}

struct ScriptedJob {
    engine: Scripted,
    signal: watch::Sender<Signal>,
    running: Option<JoinHandle<Exit>>,
}

#[async_trait]
impl EngineJob for ScriptedJob {
    async fn start(
        &mut self,
        task: &Task,
        output: BorrowedFd<'_>,
        archive: Option<BorrowedFd<'_>>,
    ) -> Result<(), SupervisorError> {
        let failed = |error: std::io::Error| SupervisorError::NotStarted(error.to_string());
        self.engine.note(format!("start {}", task.directory));
        let output = File::from(output.try_clone_to_owned().map_err(failed)?);
        let directory = std::path::Path::new(&task.directory);
        let archive = archive.map(|fd| fd.try_clone_to_owned().map(File::from)).transpose().map_err(failed)?;
        self.signal.send_replace(Signal::None);
        self.running = Some(match (&task.work, archive) {
            (Work::Program { argv, env }, _) => {
                let script = std::fs::read_to_string(argv.last().map_or("", String::as_str)).map_err(failed)?;
                let env: HashMap<String, String> = env.iter().cloned().collect();
                tokio::spawn(interpret(script, env, output, self.signal.subscribe()))
            }
            (work, Some(archive)) => {
                let mut output = output;
                let code = work_on_archive(directory, work, archive, &mut output);
                tokio::spawn(async move { Exit::Code(code) })
            }
            (_, None) => {
                return Err(SupervisorError::NotStarted("no archive is given".into()));
            }
        });
        Ok(())
    }

    async fn exited(&mut self) -> Result<Exit, SupervisorError> {
        let Some(running) = &mut self.running else { return Err(SupervisorError::Gone("nothing runs".into())) };
        let exit = running.await.map_err(|error| SupervisorError::Gone(error.to_string()));
        self.running = None;
        exit
    }

    async fn kill(&mut self, grace: Duration) -> Result<Option<Exit>, SupervisorError> {
        self.engine.note("kill".into());
        if self.running.is_none() {
            return Ok(None);
        }
        self.signal.send_replace(Signal::Term);
        if let Ok(exit) = tokio::time::timeout(grace, self.exited()).await {
            return exit.map(Some);
        }
        self.signal.send_replace(Signal::Kill);
        self.exited().await.map(Some)
    }

    fn deadline(&self) -> Arc<dyn Fn(Duration) + Send + Sync> {
        Arc::new(|_| {})
    }
}

impl Drop for ScriptedJob {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

async fn interpret(
    script: String,
    env: HashMap<String, String>,
    mut output: File,
    mut signal: watch::Receiver<Signal>,
) -> Exit {
    let mut term_ends = true;
    for line in script.lines() {
        let (command, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        let pause = match command {
            "print" => {
                let _ = writeln!(output, "{rest}");
                continue;
            }
            "show" => {
                let _ = writeln!(output, "{rest}={}", env.get(rest).map_or("", String::as_str));
                continue;
            }
            "value" => {
                let _ = writeln!(output, "{}", env.get(rest).map_or("", String::as_str));
                continue;
            }
            "append" => {
                let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
                let path = env.get(name).map_or("", String::as_str);
                match OpenOptions::new().append(true).open(path).and_then(|mut file| writeln!(file, "{text}")) {
                    Ok(()) => continue,
                    Err(_) => return Exit::Code(1),
                }
            }
            "exit" => return Exit::Code(rest.parse().unwrap_or(0)),
            "ignore-term" => {
                term_ends = false;
                continue;
            }
            "sleep" => Duration::from_millis(rest.parse().unwrap_or(0)),
            "hang" => Duration::from_secs(86_400),
            _ => continue,
        };
        let ended = signal.wait_for(|signal| *signal == Signal::Kill || (term_ends && *signal == Signal::Term));
        tokio::select! {
            () = sleep(pause) => {}
            signal = ended => match signal.as_deref() {
                Ok(Signal::Kill) => return Exit::Signal(KILL),
                _ => return Exit::Signal(TERM),
            }
        }
    }
    Exit::Code(0)
}
