//! From deliveries to runs. Comes in: deliveries that the store has taken up, and what people start by hand. Goes out: runs
//! with their jobs, stored in one transaction, or the reason why there are none. Brings the commit into the mirror, reads
//! the pipelines there and lets `segue_pipelines` plan them. Never here: what a pipeline means.
//!
//! Nothing polls: the store's bell wakes the planner, a timer only where a delivery was put off. What is not planned when
//! the process ends is found again at the next start.

mod again;
mod promote;
mod queue;
mod read;

use std::{sync::Arc, time::Instant};

use segue_schemas::{
    api::{DispatchRequest, RepositoryDispatchRequest},
    config::Config,
    id::{CommitSha, DeliveryId, RunId},
    plan::RunPlan,
    trigger::{Event, Trigger},
};
use uuid::Uuid;

use crate::{
    mirror::{InvalidName, MirrorError, Mirrors, RefName, RepositoryName, Source, Wanted},
    scheduler::Scheduler,
    store::{Delivery, NewRun, PlanOutcome, Planning, RunRecord, Store, StoreError},
    telemetry::Metrics,
    webhook::check_client_payload,
};

/// Tries of a delivery whose commit the repository does not have: a server's copies may lag behind its webhook.
const TRIES_FOR_A_MISSING_COMMIT: u32 = 4;
/// Tries of a delivery whose repository can't be reached: about a quarter of an hour with the store's pauses.
const TRIES: u32 = 11;

/// Why something can't be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The commit or its pipelines can't be had.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// A name can't be used.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The store can't do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody said where the repository is.
    #[error("nothing says where to fetch {repository} from: set `repositories.{repository}.clone-url` in segue.yaml")]
    NoSource {
        /// `owner/name`.
        repository: String,
    },
    /// A person asked for something that would run nothing.
    #[error("{0}")]
    NothingMatches(String),
}

/// The planner of one server.
pub struct Planner {
    store: Store,
    mirrors: Arc<Mirrors>,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    scheduler: Arc<Scheduler>,
}

impl Planner {
    /// A planner that fetches into `mirrors` and stores into `store`.
    #[must_use]
    pub fn new(store: Store, mirrors: Arc<Mirrors>, metrics: Arc<Metrics>, scheduler: Arc<Scheduler>) -> Self {
        let config = store.config().clone();
        Self { store, mirrors, config, metrics, scheduler }
    }

    /// The store that it plans into.
    #[cfg(test)]
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Starts runs of a commit by hand. Durable when this returns.
    ///
    /// # Errors
    /// [`PlanError`]; a pipeline file that can't be read is no error, but a failed run that shows why.
    pub async fn dispatch(
        &self,
        repository: &str,
        request: DispatchRequest,
    ) -> Result<(DeliveryId, Vec<RunRecord>), PlanError> {
        let name = RepositoryName::parse(repository)?;
        let mut trigger = Trigger {
            repository: repository.to_owned(),
            clone_url: None,
            actor: request.by.unwrap_or_else(|| "admin".into()),
            authors: Vec::new(),
            event: Event::WorkflowDispatch {
                r#ref: String::new(),
                commit: CommitSha::zero(),
                pipeline: request.pipeline,
                inputs: request.inputs,
            },
        };
        let source = self.source(&trigger)?;
        let git_ref = request.r#ref.as_deref().map(RefName::parse_branch_or_ref).transpose()?;
        let (git_ref, commit) = match (git_ref, request.commit) {
            (Some(git_ref), Some(commit)) => (git_ref, commit),
            (git_ref, commit) => {
                let (git_ref, newest) = self.mirrors.resolve(&source, git_ref.as_ref()).await?;
                (git_ref, commit.unwrap_or(newest))
            }
        };
        let wanted = Wanted { commit: commit.clone(), git_ref: git_ref.clone() };
        self.mirrors.ensure(&name, &source, &[wanted]).await?;
        trigger.event.locate(git_ref.into_string(), commit);
        self.start_asked(&name, trigger, request.key).await
    }

    /// Starts what a request from outside is for: the pipelines of the default branch with `on: repository_dispatch`. Durable
    /// when this returns.
    ///
    /// # Errors
    /// As [`Self::dispatch`].
    pub async fn repository_dispatch(
        &self,
        repository: &str,
        request: RepositoryDispatchRequest,
    ) -> Result<(DeliveryId, Vec<RunRecord>), PlanError> {
        let name = RepositoryName::parse(repository)?;
        let problem = match request.event_type.chars().count() {
            1..=100 => check_client_payload(&request.client_payload).err(),
            length => Some(format!("`event_type` has {length} characters, and 1 to 100 are allowed")),
        };
        if let Some(problem) = problem {
            return Err(PlanError::NothingMatches(problem));
        }
        let mut trigger = Trigger {
            repository: repository.to_owned(),
            clone_url: None,
            actor: request.by.unwrap_or_else(|| "admin".into()),
            authors: Vec::new(),
            event: Event::RepositoryDispatch {
                r#ref: String::new(),
                commit: CommitSha::zero(),
                action: request.event_type,
                client_payload: request.client_payload,
            },
        };
        self.locate(&name, &mut trigger).await?;
        self.start_asked(&name, trigger, request.key).await
    }

    /// Plans and stores what somebody asked for, whose commit is in the mirror.
    async fn start_asked(
        &self,
        name: &RepositoryName,
        trigger: Trigger,
        key: Option<DeliveryId>,
    ) -> Result<(DeliveryId, Vec<RunRecord>), PlanError> {
        let runs = match self.read(name, &trigger).await? {
            Planning::Runs(runs) | Planning::Located(_, runs) => runs,
            Planning::Ignored(reason) | Planning::Failed(reason) => return Err(PlanError::NothingMatches(reason)),
        };
        let key = key.map_or_else(new_key, Ok)?;
        let outcome = self.store.create_dispatch_run(key.clone(), trigger, runs).await?;
        Ok((key, outcome.runs))
    }

    /// Starts the runs of an event that was made up here, less what `keep` leaves out of each plan. Durable when this returns.
    ///
    /// # Errors
    /// [`PlanError`]; a pipeline file that can't be read is no error, but a failed run that shows why.
    pub async fn start(
        &self,
        trigger: Trigger,
        mut keep: impl FnMut(RunPlan) -> Option<RunPlan>,
    ) -> Result<Vec<RunId>, PlanError> {
        let runs = match self.plan(&trigger).await? {
            Planning::Runs(runs) | Planning::Located(_, runs) => runs,
            Planning::Ignored(reason) | Planning::Failed(reason) => return Err(PlanError::NothingMatches(reason)),
        };
        let runs = runs.into_iter().filter_map(|run| match run {
            NewRun::Planned(plan) => keep(plan).map(NewRun::Planned),
            other @ (NewRun::Broken { .. } | NewRun::Skipped { .. }) => Some(other),
        });
        let outcome = self.store.create_dispatch_run(new_key()?, trigger, runs.collect()).await?;
        Ok(outcome.runs.iter().map(|run| run.id).collect())
    }

    /// Plans one delivery and stores what came of it, or puts it off. An error is the store's own: the delivery stays as
    /// it is.
    async fn settle(&self, delivery: Delivery) -> Result<(), StoreError> {
        let begun = Instant::now();
        let id = delivery.id.clone();
        let planning = match &delivery.trigger {
            Some(trigger) => self.plan(trigger).await,
            None => Ok(Planning::Ignored("it starts nothing".into())),
        };
        let planning = match planning {
            Ok(planning) => planning,
            Err(PlanError::Store(error)) => return Err(error),
            Err(error) if may_pass(&error) && delivery.tries + 1 < tries(&error) => {
                tracing::warn!(delivery = %id, tries = delivery.tries + 1, %error, "a delivery can't be planned yet");
                self.store.defer_delivery(&id, error.to_string()).await?;
                return Ok(());
            }
            Err(error) => failed_run(&error),
        };
        let outcome = self.store.record_planned(&id, planning).await?;
        if let Some(trigger) = &delivery.trigger {
            self.scheduler.pushed(trigger);
        }
        self.metrics.planned(begun.elapsed());
        if let PlanOutcome::Made(runs) = outcome {
            tracing::info!(delivery = %id, runs = runs.len(), took_us = begun.elapsed().as_micros() as u64, "planned");
        }
        Ok(())
    }

    async fn plan(&self, trigger: &Trigger) -> Result<Planning, PlanError> {
        let name = RepositoryName::parse(&trigger.repository)?;
        if trigger.event.commit().is_zero() {
            let mut trigger = trigger.clone();
            self.locate(&name, &mut trigger).await?;
            return Ok(match self.read(&name, &trigger).await? {
                Planning::Runs(runs) => Planning::Located(Box::new(trigger), runs),
                other => other,
            });
        }
        self.mirrors.ensure(&name, &self.source(trigger)?, &wanted(trigger)?).await?;
        self.read(&name, trigger).await
    }

    /// Finds out what an event of the default branch is about, and brings that commit into the mirror.
    async fn locate(&self, name: &RepositoryName, trigger: &mut Trigger) -> Result<(), PlanError> {
        let source = self.source(trigger)?;
        let named = Some(trigger.event.git_ref()).filter(|name| !name.is_empty());
        let named = named.as_deref().map(RefName::parse).transpose()?;
        let (git_ref, commit) = self.mirrors.resolve(&source, named.as_ref()).await?;
        self.mirrors.ensure(name, &source, &[Wanted { commit: commit.clone(), git_ref: git_ref.clone() }]).await?;
        trigger.event.locate(git_ref.into_string(), commit);
        Ok(())
    }

    fn source(&self, trigger: &Trigger) -> Result<Source, PlanError> {
        source(&self.config, &trigger.repository, trigger.clone_url.as_deref())
    }
}

/// Where to fetch from: the operator's word goes before the event's.
pub(crate) fn source(config: &Config, repository: &str, named: Option<&str>) -> Result<Source, PlanError> {
    let configured = config.repositories.get(repository).and_then(|r| r.clone_url.as_deref());
    match configured.or(named) {
        Some(address) => Ok(Source::parse(address)?),
        None => Err(PlanError::NoSource { repository: repository.to_owned() }),
    }
}

/// The commits that planning an event and running it needs.
fn wanted(trigger: &Trigger) -> Result<Vec<Wanted>, InvalidName> {
    let one = |commit: &_, git_ref: &str| {
        RefName::parse(git_ref).map(|git_ref| Wanted { commit: Clone::clone(commit), git_ref })
    };
    match &trigger.event {
        Event::Push { r#ref, after, .. } => Ok(vec![one(after, r#ref)?]),
        // what is not known yet is found out when it is planned
        event if event.commit().is_zero() => Ok(Vec::new()),
        Event::WorkflowDispatch { r#ref, commit, .. }
        | Event::Schedule { r#ref, commit, .. }
        | Event::RepositoryDispatch { r#ref, commit, .. }
        | Event::IssueComment { r#ref, commit, .. } => Ok(vec![one(commit, r#ref)?]),
        Event::PullRequest { number, head, base, base_ref, .. } => {
            Ok(vec![one(head, &format!("refs/pull/{number}/head"))?, one(base, &format!("refs/heads/{base_ref}"))?])
        }
    }
}

/// Whether a later try may go well.
fn may_pass(error: &PlanError) -> bool {
    match error {
        PlanError::Mirror(error) => {
            !matches!(error, MirrorError::TooManyFiles { .. } | MirrorError::TooManyActions { .. })
        }
        PlanError::Store(_) => true,
        PlanError::Name(_) | PlanError::NoSource { .. } | PlanError::NothingMatches(_) => false,
    }
}

fn tries(error: &PlanError) -> u32 {
    if matches!(error, PlanError::Mirror(MirrorError::NoCommit { .. })) { TRIES_FOR_A_MISSING_COMMIT } else { TRIES }
}

/// What a person is to see is a run: one that failed, and says why.
fn failed_run(error: &PlanError) -> Planning {
    Planning::Runs(vec![NewRun::Broken {
        file: ".segue/pipelines".into(),
        pipeline: "planning".into(),
        diagnostics: format!("error: {error}"),
    }])
}

fn new_key() -> Result<DeliveryId, PlanError> {
    Uuid::now_v7().to_string().parse().map_err(|_| PlanError::NothingMatches("no key can be made".into()))
}

#[cfg(test)]
mod tests;
