//! The tasks of a job that has a container: scripts go into it, what the worker does for the job stays on the machine.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    Docker as Client,
    query_parameters::{KillContainerOptionsBuilder, LogsOptionsBuilder, WaitContainerOptions},
};
use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep};

use super::{
    Docker, DockerError, Opened,
    call::call,
    exec::{Exec, Script},
    hand_over::hand_over,
    place::Place,
};
use crate::engine::{EngineJob, Exit, SupervisorError, Task, Work};

/// Processes of a container in which nothing of its job's runs: the init, and what waits for the lifeline's end.
const OWN_PROCESSES: usize = 2;
/// Between two looks whether processes that were asked to end have.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Asks everything to end, also what is stopped. The init and what waits for the lifeline's end heed it not.
const ASK: &str = "kill -TERM -1; kill -CONT -1";

/// How everything ends that is killed, with its container or alone.
const KILLED: Exit = Exit::Code(137);
/// How it ends where the program can't be run, or is not there.
const NOT_RUN: [Exit; 2] = [Exit::Code(126), Exit::Code(127)];
/// So long may the engine need to note that a container has ended which had no program to run either.
const NOTED_WITHIN: Duration = Duration::from_millis(500);
/// Bytes of what a container said that are read.
const MAX_WORDS: usize = 1024 * 1024;

/// The tasks of a job with a container.
pub struct ContainerJob {
    host: Box<dyn EngineJob>,
    place: Arc<Place>,
    deadline: Arc<dyn Fn(Duration) + Send + Sync>,
    running: Option<Exec>,
    /// Whether a script was started since nothing was left of all before.
    touched: bool,
    /// Whether a script has run in the container, which has a shell then.
    has_shell: bool,
    state: State,
    /// The engine did not answer when everything was to end: the lifeline was let go, and nothing more is begun there.
    given_up: bool,
    closed: bool,
}

/// How the container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    /// It stands still while something is done on the machine.
    Paused,
    /// All of it was killed; the next script starts it again, with its files as they were.
    Down,
}

impl ContainerJob {
    /// `host` runs what is not for the container; `place` is where the container is made.
    pub async fn new(host: Box<dyn EngineJob>, place: Arc<Place>) -> Self {
        let of_host = host.deadline();
        let of_lifeline = place.lifeline.lock().await.holder().deadline();
        let deadline = Arc::new(move |at| {
            of_host(at);
            of_lifeline(at);
        });
        Self {
            host,
            place,
            deadline,
            running: None,
            touched: false,
            has_shell: false,
            state: State::Up,
            given_up: false,
            closed: false,
        }
    }

    fn docker(&self) -> &Docker {
        &self.place.docker
    }

    fn opened(&self) -> Result<Opened, DockerError> {
        let missing = || DockerError::Own("the job's container was not made".into());
        self.place.opened().cloned().ok_or_else(missing)
    }

    async fn run(&mut self, task: &Task, output: BorrowedFd<'_>) -> Result<(), DockerError> {
        let Work::Program { argv, env } = &task.work else {
            return Err(DockerError::Own("only programs run in a container".into()));
        };
        let opened = self.opened()?;
        if self.given_up {
            return Err(DockerError::Ended("the engine did not answer, and it was given up".into()));
        }
        self.be_up(&opened).await?;
        self.touched = true;
        let script = Script { argv, env, directory: &task.directory, user: opened.user.as_deref() };
        match Exec::start(self.docker(), &opened.id, &script, output).await {
            Ok(exec) => {
                self.running = Some(exec);
                Ok(())
            }
            Err(error) => Err(self.why_down(&opened).await.unwrap_or(error)),
        }
    }

    /// Why the container does not run, where it does not.
    async fn why_down(&self, opened: &Opened) -> Option<DockerError> {
        let (client, limit) = (self.docker().client().await.ok()?, self.docker().config.patience.0);
        let seen = call("look at the container", limit, client.inspect_container(&opened.id, None)).await;
        let state = match seen {
            Ok(seen) => seen.state?,
            Err(error) if error.is_not_found() => return Some(DockerError::Ended("it was removed".into())),
            Err(error) => return Some(error),
        };
        if state.running == Some(true) {
            return None;
        }
        let code = state.exit_code.unwrap_or_default();
        let said = last_words(client, &opened.id, 5, limit).await;
        let said = if said.trim().is_empty() { "it said nothing".into() } else { format!("it said `{}`", said.trim()) };
        Some(match code {
            // as shells have it: there is no such program, or it can't be run
            126 | 127 => {
                DockerError::Asked(format!("the container could not be kept running: {said}; its image needs `sh`"))
            }
            _ if state.oom_killed == Some(true) => DockerError::Ended("it had no memory left".into()),
            _ => DockerError::Ended(format!("exit code {code}; {said}")),
        })
    }

    /// Waits until the engine has noted the container's end, should it be about to.
    async fn note_end(&self, opened: &Opened) {
        if let Ok(client) = self.docker().client().await {
            let mut ends = std::pin::pin!(client.wait_container(&opened.id, None::<WaitContainerOptions>));
            let _ = tokio::time::timeout(NOTED_WITHIN, ends.next()).await;
        }
    }

    async fn be_up(&mut self, opened: &Opened) -> Result<(), DockerError> {
        let (client, limit) = (self.docker().client().await?, self.docker().config.patience.0);
        match self.state {
            State::Up => {}
            State::Paused => {
                call("let the container go on", limit, client.unpause_container(&opened.id)).await?;
                self.state = State::Up;
            }
            State::Down => {
                call("start the container", limit, client.start_container(&opened.id, None)).await?;
                self.state = State::Up;
            }
        }
        Ok(())
    }

    /// Has the container stand still, so that nothing in it changes files while the worker is at them, and makes those the worker's.
    async fn stand_still(&mut self) -> Result<(), DockerError> {
        let Some(opened) = self.place.opened().cloned() else { return Ok(()) };
        if self.touched && self.state == State::Up {
            let (client, limit) = (self.docker().client().await?, self.docker().config.patience.0);
            call("have the container stand still", limit, client.pause_container(&opened.id)).await?;
            self.state = State::Paused;
        }
        if let (workspace, Some(user)) = opened.workspace {
            let handed = tokio::task::spawn_blocking(move || hand_over(&workspace, user)).await;
            let failed = |error: &dyn std::fmt::Display| DockerError::Own(format!("the workspace: {error}"));
            handed.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Ends everything in the container; what it ran last, where that can be told.
    async fn end_all(&mut self, grace: Duration) -> Result<Option<Exit>, DockerError> {
        let Some(opened) = self.place.opened().cloned() else { return Ok(None) };
        if self.given_up || self.state == State::Down || (!self.touched && self.running.is_none()) {
            return Ok(None);
        }
        if self.state == State::Paused {
            self.be_up(&opened).await?;
        }
        let until = Instant::now() + grace;
        let mut left = self.is_any_left(&opened).await?;
        if left && !grace.is_zero() {
            self.ask(&opened).await;
            while left && Instant::now() < until {
                sleep(LOOK_EVERY).await;
                left = self.is_any_left(&opened).await?;
            }
        }
        if left {
            self.kill_container(&opened).await?;
        }
        self.touched = false;
        let exit = match self.running.take() {
            // an engine that has just been told of the end may need a moment to note it
            Some(exec) => tokio::time::timeout(LOOK_EVERY * 4, self.end_of(exec)).await.ok().flatten(),
            None => None,
        };
        Ok(exit)
    }

    async fn end_of(&self, mut exec: Exec) -> Option<Exit> {
        exec.exited(self.docker()).await.ok()
    }

    /// Whether anything of the job's runs in it. An engine that can't list processes leaves it open: then there is. One that does not
    /// answer is given up, and the container ends without it.
    async fn is_any_left(&mut self, opened: &Opened) -> Result<bool, DockerError> {
        let asked = async {
            let (client, limit) = (self.docker().client().await?, self.docker().config.patience.0);
            call("list the container's processes", limit, client.top_processes(&opened.id, None)).await
        };
        match asked.await {
            Ok(top) => Ok(top.processes.map_or(0, |processes| processes.len()) > OWN_PROCESSES),
            Err(error @ DockerError::Refused { .. }) => {
                // one that does not run has none; where there is no `ps` beside the engine, nobody knows
                let down = self.why_down(opened).await.is_some();
                if down {
                    self.state = State::Down;
                }
                tracing::debug!(%error, down, "a container's processes can't be told");
                Ok(!down)
            }
            Err(error) => {
                self.place.lifeline.lock().await.let_go().await;
                self.given_up = true;
                Err(error)
            }
        }
    }

    async fn ask(&self, opened: &Opened) {
        let asked = async {
            let (_unread, writer) = nix::unistd::pipe().map_err(|error| DockerError::Own(error.to_string()))?;
            let argv = ["sh", "-c", ASK].map(str::to_owned);
            // the image's own user may not end what another user runs; where one is forced, there is no other
            let user = opened.user.as_deref().unwrap_or("0");
            let script = Script { argv: &argv, env: &[], directory: "/", user: Some(user) };
            let mut exec = Exec::start(self.docker(), &opened.id, &script, writer.as_fd()).await?;
            exec.exited(self.docker()).await
        };
        if let Err(error) = asked.await {
            tracing::debug!(%error, "the processes of a container can't be asked to end");
        }
    }

    async fn kill_container(&mut self, opened: &Opened) -> Result<(), DockerError> {
        let (client, limit) = (self.docker().client().await?, self.docker().config.patience.0);
        let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
        let killed = call("kill the container", limit, client.kill_container(&opened.id, Some(options))).await;
        let until = Instant::now() + limit;
        loop {
            let seen = call("look at the container", limit, client.inspect_container(&opened.id, None)).await?;
            if seen.state.and_then(|state| state.running) != Some(true) {
                self.state = State::Down;
                return Ok(());
            }
            if Instant::now() >= until {
                killed?;
                return Err(DockerError::Slow { doing: "kill the container", limit });
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

#[async_trait]
impl EngineJob for ContainerJob {
    async fn start(
        &mut self,
        task: &Task,
        output: BorrowedFd<'_>,
        archive: Option<BorrowedFd<'_>>,
    ) -> Result<(), SupervisorError> {
        self.running = None;
        self.stand_still().await?;
        self.host.start(task, output, archive).await
    }

    async fn script(&mut self, task: &Task, output: BorrowedFd<'_>) -> Result<(), SupervisorError> {
        Ok(self.run(task, output).await?)
    }

    async fn exited(&mut self) -> Result<Exit, SupervisorError> {
        let docker = self.place.docker.clone();
        let Some(exec) = &mut self.running else { return self.host.exited().await };
        let exit = exec.exited(&docker).await?;
        let was_run = self.has_shell || !NOT_RUN.contains(&exit);
        if (exit == KILLED || !was_run)
            && let Some(opened) = self.place.opened()
        {
            if !was_run {
                self.note_end(opened).await;
            }
            if let Some(error) = self.why_down(opened).await {
                return Err(error.into());
            }
        }
        self.has_shell = true;
        Ok(exit)
    }

    async fn kill(&mut self, grace: Duration) -> Result<Option<Exit>, SupervisorError> {
        let of_host = self.host.kill(grace).await;
        let of_container = self.end_all(grace).await;
        Ok(of_container?.or(of_host?))
    }

    async fn close(&mut self) -> Result<(), SupervisorError> {
        self.running = None;
        self.closed = true;
        let removed = self.place.remove().await;
        if removed.is_err() {
            self.place.leave();
        }
        Ok(removed?)
    }

    fn deadline(&self) -> Arc<dyn Fn(Duration) + Send + Sync> {
        self.deadline.clone()
    }

    fn done(self: Box<Self>) {}
}

impl Drop for ContainerJob {
    fn drop(&mut self) {
        if !self.closed {
            self.place.leave();
        }
    }
}

/// The end of what a container itself said: its last lines, as far as they come within the limit.
pub(super) async fn last_words(client: &Client, container: &str, lines: usize, limit: Duration) -> String {
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(&lines.to_string()).build();
    let mut stream = client.logs(container, Some(options));
    let mut said = String::new();
    let read = async {
        while let Some(Ok(line)) = stream.next().await {
            said.push_str(&String::from_utf8_lossy(line.as_ref()));
            if said.len() > MAX_WORDS {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(limit, read).await;
    said
}

impl From<DockerError> for SupervisorError {
    fn from(error: DockerError) -> Self {
        Self::Container(error)
    }
}
