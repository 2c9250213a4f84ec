//! The rollout that brings data of one environment to another, as a person or a step asks for it.

use segue_pipelines::sync;
use segue_schemas::{
    deploy::{RolloutSpec, Strategy},
    id::{JobId, RolloutId, RunId},
    sync::{StepSync, SyncFrom},
    worker_api::CreatedRollout,
};

use super::rollouts::next_id;
use crate::store::{
    Bell, Result, Store, StoreError, Tx,
    tables::{
        jobs, releases,
        rollouts::{self, StoredRollout},
        runs,
    },
};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The environment that the data are from.
    pub from: String,
    /// The one that they come to.
    pub to: String,
    /// Whose they are.
    pub service: String,
    /// Which.
    pub data: SyncFrom,
    /// Who asks.
    pub by: String,
}

/// The step that waits for it, with the repository that its service must be of.
struct OfStep {
    run: RunId,
    job: JobId,
    step: usize,
    repository: String,
}

impl Store {
    /// Makes the rollout that brings data of another environment, by the rules of the release that serves there.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: the environment does not take them, or the files of the service do not say how.
    /// [`StoreError::Conflict`]: another rollout of the service is on its way.
    pub async fn create_sync(&self, asked: Asked) -> Result<RolloutId> {
        let store = self.clone();
        self.write(move |tx| Box::pin(async move { create(&store, tx, asked, None).await })).await
    }

    /// The same for a step, to the environment of its job; the job is to wait for it.
    ///
    /// # Errors
    /// As above, and where the run is of code from outside the repository, or the service another repository's.
    pub async fn step_sync(&self, job: JobId, ask: StepSync) -> Result<CreatedRollout> {
        let store = self.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let held = jobs::load_held(&mut tx.conn, job, ask.epoch).await?.record;
                if let Some(known) = rollouts::of_step(&mut tx.conn, job, ask.step).await? {
                    let release = known.record.rollout.spec.release.clone();
                    return Ok(CreatedRollout { rollout: known.id(), release, url: None });
                }
                let Some(to) = held.plan.environment else {
                    return Err(StoreError::Refused("the job names no `environment` for data to come to".into()));
                };
                let run = runs::load(&mut tx.conn, held.run).await?.record;
                if !run.trusted {
                    let text = format!("code from outside the repository brings no data of `{}` anywhere", ask.from);
                    return Err(StoreError::Refused(text));
                }
                let asked = Asked { from: ask.from, to, service: ask.service, data: ask.data, by: run.actor };
                let step = OfStep { run: run.id, job, step: ask.step, repository: run.repository };
                let id = create(&store, tx, asked, Some(step)).await?;
                tx.ring(Bell::Run(run.id));
                let release = rollouts::load(&mut tx.conn, id).await?.record.rollout.spec.release;
                Ok(CreatedRollout { rollout: id, release, url: None })
            })
        })
        .await
    }
}

async fn create(store: &Store, tx: &mut Tx, asked: Asked, step: Option<OfStep>) -> Result<RolloutId> {
    let Asked { from, to, service, data, by } = asked;
    let settings = store.environment(&to);
    sync::allowed(&from, &to, &settings).map_err(StoreError::Refused)?;
    let mut served = Vec::new();
    for environment in [&from, &to] {
        let serving = releases::serving(&mut tx.conn, environment, &service).await?.ok_or_else(|| {
            StoreError::Refused(format!("nothing of `{service}` serves in `{environment}`: deploy it there first"))
        })?;
        if let Some(step) = step.as_ref().filter(|step| step.repository != serving.current.repository) {
            let text = format!("`{service}` in `{environment}` is another repository's than {}", step.repository);
            return Err(StoreError::Conflict(text));
        }
        let known = rollouts::last_spec(&mut tx.conn, environment, &serving.current).await?;
        let known = known.ok_or_else(|| {
            StoreError::Refused(format!(
                "how `{service}` was deployed to `{environment}` is not known any more: deploy it again"
            ))
        })?;
        served.push((serving.current, known.service));
    }
    let (Some((current, target)), Some((release, source))) = (served.pop(), served.pop()) else {
        return Err(StoreError::Refused(format!("nothing of `{service}` serves")));
    };
    if current.repository != release.repository {
        return Err(StoreError::Conflict(format!(
            "`{service}` is of {} in `{from}`, and of {} in `{to}`",
            release.repository, current.repository
        )));
    }
    let hosts = store.environment(&from).hosts;
    let wanted = sync::wanted((&from, &release, &source), (&to, &target), hosts, data).map_err(StoreError::Refused)?;
    let open = rollouts::open_of_pair(&mut tx.conn, &to, &service).await?;
    // what serves stays the same where a host is only brought to it: this comes after it
    if let Some(open) = open.iter().find(|open| open.record.rollout.spec.repair.is_none()) {
        return Err(StoreError::Conflict(format!(
            "rollout {} of `{service}` to `{to}` is on its way: wait for its end (`segue rollout show {0} --watch`), or abort it",
            open.id()
        )));
    }
    let spec = RolloutSpec {
        release: current.clone(),
        service: target,
        environment: to,
        hosts: settings.hosts,
        strategy: Strategy::Sync(Box::new(wanted)),
        previous: Some(current),
        is_rollback: false,
        variables: settings.variables,
        sleep_after: None,
        data: None,
        repair: None,
    };
    let mut rollout = StoredRollout::new(next_id(tx).await?, spec, by, tx.now);
    if let Some(OfStep { run, job, step, .. }) = step {
        rollout.record.rollout.run = Some(run);
        rollout.record.job = Some(job);
        rollout.record.step = Some(step);
    }
    rollouts::insert(&mut tx.conn, &rollout).await?;
    tx.ring(Bell::Rollouts);
    Ok(rollout.id())
}
