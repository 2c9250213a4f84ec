//! Times that start pipelines. Comes in: which repositories' default branches may have changed. Goes out: the schedules that
//! these branches hold, in the store, and a delivery for each time that comes. Never here: what a delivery starts.
//!
//! Nothing polls: one timer runs to the next time that there is, and a bell says when that has moved.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use segue_pipelines::pipeline;
use segue_schemas::{
    id::CommitSha,
    trigger::{Event, Trigger},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    mirror::{Mirrors, RefName, RepositoryName, Wanted},
    planner::{PlanError, source},
    store::{Bell, Store},
};

/// Repositories that wait for a look; of more, a look at all of them remembers.
const MAX_WAITING: usize = 10_000;
/// The first pause after a look that failed; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A timer does not run while a machine sleeps, and the clock can be set: after so long the clock is asked again.
const LONGEST_SLEEP: Duration = Duration::from_secs(900);

/// The scheduler of one server.
pub struct Scheduler {
    store: Store,
    mirrors: Arc<Mirrors>,
    /// With the commit to read, where a push named it; else the branch's newest is asked for.
    waiting: Mutex<HashMap<String, Option<CommitSha>>>,
    wanted: Notify,
    /// The default branches that are known; filled at the first look.
    branches: Mutex<HashMap<String, RefName>>,
}

impl Scheduler {
    /// A scheduler that reads from `mirrors`.
    #[must_use]
    pub fn new(store: Store, mirrors: Arc<Mirrors>) -> Self {
        let (waiting, branches) = (Mutex::default(), Mutex::default());
        Self { store, mirrors, waiting, wanted: Notify::new(), branches }
    }

    /// Hears that something was pushed; a push to the default branch, or to one that may be it, is worth a look.
    pub fn pushed(&self, trigger: &Trigger) {
        let Event::Push { r#ref, after, .. } = &trigger.event else { return };
        let commit = match lock(&self.branches).get(&trigger.repository) {
            Some(branch) if branch.as_str() == r#ref => Some(after.clone()),
            Some(_) => return,
            None if r#ref.starts_with("refs/heads/") => None,
            None => return,
        };
        let mut waiting = lock(&self.waiting);
        if waiting.len() < MAX_WAITING {
            waiting.insert(trigger.repository.clone(), commit);
        }
        self.wanted.notify_one();
    }

    /// Reads and fires until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = self.read() => {}
            () = self.fire() => {}
            () = stop.cancelled() => {}
        }
    }

    /// Reads the repositories of the operator's file and those that had schedules, then each one that was pushed to.
    async fn read(&self) {
        let configured = self.store.config().repositories.keys().cloned();
        let scheduled = self.store.scheduled_repositories().await.unwrap_or_default();
        lock(&self.waiting).extend(configured.chain(scheduled).take(MAX_WAITING).map(|name| (name, None)));
        let mut pause = FIRST_PAUSE;
        loop {
            let repositories: Vec<_> = lock(&self.waiting).drain().collect();
            let mut failed = Vec::new();
            for (repository, commit) in repositories {
                if let Err(error) = self.look(&repository, commit).await {
                    tracing::warn!(repository, %error, "the schedules of a repository can't be read yet");
                    failed.push((repository, None));
                }
            }
            if failed.is_empty() {
                pause = FIRST_PAUSE;
                self.wanted.notified().await;
            } else {
                lock(&self.waiting).extend(failed);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Reads the schedules of a repository's default branch, at the commit that was just pushed to it and planned, or as it
    /// stands now, and stores them.
    async fn look(&self, repository: &str, pushed: Option<CommitSha>) -> Result<(), PlanError> {
        let name = RepositoryName::parse(repository)?;
        if let Some(commit) = pushed
            && self.mirrors.contains(&name, &commit).await?
        {
            return self.read_at(&name, repository, &commit).await;
        }
        let source = match source(self.store.config(), repository, None) {
            Ok(source) => source,
            // known by its webhook alone: the mirror remembers the address
            Err(error) => self.mirrors.last_source(&name).await.ok_or(error)?,
        };
        let (branch, commit) = self.mirrors.resolve(&source, None).await?;
        self.mirrors.ensure(&name, &source, &[Wanted { commit: commit.clone(), git_ref: branch.clone() }]).await?;
        lock(&self.branches).insert(repository.to_owned(), branch);
        self.read_at(&name, repository, &commit).await
    }

    async fn read_at(&self, name: &RepositoryName, repository: &str, commit: &CommitSha) -> Result<(), PlanError> {
        let mut schedules = Vec::new();
        for file in self.mirrors.pipelines(name, commit).await? {
            // parsing costs more than asking whether there can be any
            let Some(text) = file.text.ok().filter(|text| text.contains("schedule")) else { continue };
            let triggers = pipeline::parse(&file.path, &text).triggers.unwrap_or_default();
            schedules.extend(triggers.schedule.into_iter().map(|schedule| (file.path.clone(), schedule)));
        }
        self.store.set_schedules(repository, schedules).await?;
        Ok(())
    }

    /// Waits for the next time, and makes its deliveries.
    async fn fire(&self) {
        let mut bell = self.store.doorbell().listen(Bell::Schedules);
        loop {
            let next = match self.store.fire_schedules().await {
                Ok(_) => self.store.next_schedule_due().await,
                Err(error) => Err(error),
            };
            let wait = match next {
                Ok(next) => next.map(|due| due.since(self.store.now()).clamp(Duration::from_millis(5), LONGEST_SLEEP)),
                Err(error) => {
                    tracing::warn!(%error, "what is scheduled can't be read");
                    Some(FIRST_PAUSE)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
                () = bell.rung() => {}
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
