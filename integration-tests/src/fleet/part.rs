//! One process of a fleet: started, asked to stop, killed, and what it said.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::{processes, stand::binary};

/// A process of the fleet, whether or not it runs.
pub(super) struct Part {
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Part {
    pub fn new(log: PathBuf, arguments: &[&str]) -> Self {
        Self { arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(), log, child: None }
    }

    /// The sub-command.
    pub fn role(&self) -> &str {
        &self.arguments[0]
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub fn start(&mut self, env: &[(String, String)], home: &Path) -> Result<()> {
        ensure!(self.child.is_none(), "`segue {}` runs already", self.arguments.join(" "));
        let log = fs::File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(binary()?)
            .args(&self.arguments)
            .env("XDG_CONFIG_HOME", home.join("configuration"))
            .env("NO_COLOR", "1")
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start `segue {}`", self.arguments.join(" ")))?;
        self.child = Some(child);
        Ok(())
    }

    /// Its end, if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("`segue {}` does not run", self.role()))?;
        processes::signal(child.id(), signal)
    }

    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().with_context(|| format!("`segue {}` does not run", self.role()))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    pub async fn stop(&mut self, limit: Duration) -> Result<()> {
        let mut child = self.child.take().with_context(|| format!("`segue {}` does not run", self.role()))?;
        processes::signal(child.id(), Signal::SIGTERM)?;
        let begun = Instant::now();
        while child.try_wait()?.is_none() {
            if begun.elapsed() > limit {
                let _ = child.kill();
                let _ = child.wait();
                bail!("`segue {}` did not end within {limit:?} of SIGTERM; it said:\n{}", self.role(), self.said());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The end of what it said.
    pub fn said(&self) -> String {
        const SHOWN: usize = 20_000;
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let from = text.char_indices().rev().nth(SHOWN).map_or(0, |(at, _)| at);
        text[from..].to_owned()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // one that is stopped hears nothing but this
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
