//! Hands jobs out. There is no other way for a job to start.

use std::collections::BTreeMap;

use secrecy::ExposeSecret as _;
use segue_pipelines::progress::Gate;
use segue_schemas::{
    gpu,
    id::{Epoch, WorkerId},
    status::{FailureClass, JobStatus, RunStatus},
    worker_api::{ClaimRequest, JobClaim, Restore, Resume},
};

use super::{
    advance::{advance_run, shut},
    concurrency, contexts, gates,
    order::Order,
    snapshots, workers,
};
use crate::{
    auth,
    log_store::LogStore,
    store::{
        Bell, LogRecord, Result, Store, StoreError, Tx,
        sealed::open_secret,
        tables::{
            gpus,
            jobs::{self, Job},
            runs::{self, Run},
        },
    },
};

/// Jobs that a worker which drains looks at before it gives up.
const GOING_ON: u32 = 64;

impl Store {
    /// Leases the best claimable job to a worker: what has begun first, then jobs with an environment, then the repository
    /// with the fewest jobs held, then age. Every gate is evaluated here, in the transaction. `None`: nothing is claimable
    /// now; listen to [`Bell::Jobs`] (from before the call) and ask again.
    ///
    /// `clone_url` is what the configuration or the trigger says, and `mirror` is empty: the server fills in where its mirror
    /// lies.
    ///
    /// # Errors
    /// [`StoreError::StaleWorker`] where the worker must register first.
    pub async fn claim_job(&self, request: &ClaimRequest) -> Result<Option<JobClaim>> {
        self.heard(&request.worker);
        let (store, wanted) = (self.clone(), request.clone());
        let leased = self.write(move |tx| Box::pin(async move { claim(&store, tx, &wanted).await })).await?;
        self.with_log(leased).await
    }

    /// The claim of what was leased, with how far its log is.
    pub(super) async fn with_log(&self, leased: Option<(JobClaim, LogRecord)>) -> Result<Option<JobClaim>> {
        let Some((mut claim, log)) = leased else { return Ok(None) };
        // from here on a chunk of an earlier holder is refused, so the offset stays true
        claim.log_offset = self.logs().begin(claim.job, claim.epoch, &log.path, log.bytes).await?;
        Ok(Some(claim))
    }
}

/// Leases the best claimable job.
pub(super) async fn claim(store: &Store, tx: &mut Tx, request: &ClaimRequest) -> Result<Option<(JobClaim, LogRecord)>> {
    let room = workers::room(tx, &request.worker, &request.incarnation).await?;
    if room.jobs == 0 {
        return Ok(None);
    }
    if room.draining {
        return go_on(store, tx, request).await;
    }
    let mut order = Order::new(tx, request).await?;
    while let Some(job) = order.next(store, tx).await? {
        let claimed = attempt(store, tx, request, job).await?;
        if claimed.is_some() {
            return Ok(claimed);
        }
    }
    Ok(None)
}

/// A worker that drains ends what it has begun: nobody else has the workspaces.
async fn go_on(store: &Store, tx: &mut Tx, request: &ClaimRequest) -> Result<Option<(JobClaim, LogRecord)>> {
    for id in jobs::going_on_at(&mut tx.conn, &request.worker, GOING_ON).await? {
        let Some(job) = jobs::load_queued(&mut tx.conn, id).await? else { continue };
        let claimed = attempt(store, tx, request, job).await?;
        if claimed.is_some() {
            return Ok(claimed);
        }
    }
    Ok(None)
}

/// Leases the job where nothing is against it. What will never be claimable is ended, or shown to wait.
async fn attempt(
    store: &Store,
    tx: &mut Tx,
    request: &ClaimRequest,
    mut job: Job,
) -> Result<Option<(JobClaim, LogRecord)>> {
    let run = runs::load(&mut tx.conn, job.record.run).await?;
    if !has_turn(tx, &job).await? || !fits_workspace(store, tx, &mut job, &request.worker).await? {
        return Ok(None);
    }
    match gates::judge(store, &mut tx.conn, &run, &job, tx.now).await? {
        Gate::Open => {}
        Gate::Closed { .. } => return Ok(None),
        gate => {
            shut(tx, &mut job, gate)?;
            jobs::save(&mut tx.conn, &job).await?;
            advance_run(store, tx, run.record.id).await?;
            return Ok(None);
        }
    }
    let Some(gpus) = gpus_for(tx, &job, &request.worker).await? else { return Ok(None) };
    let needed = match secrets(store, tx, &run, &job).await {
        Ok(secrets) => snapshots::restore(store, tx, &job).await.map(|restore| Needed { secrets, restore, gpus }),
        Err(error) => Err(error),
    };
    match needed {
        Ok(_) if !concurrency::take(tx, &run, &job).await? => Ok(None),
        Ok(needed) => lease(store, tx, request, run, job, needed).await.map(Some),
        Err(error @ (StoreError::Secret(_) | StoreError::Refused(_))) => {
            job.record.failure_class = Some(FailureClass::Configuration);
            job.becomes(JobStatus::Failed, Some(error.to_string()), tx.now)?;
            jobs::save(&mut tx.conn, &job).await?;
            advance_run(store, tx, run.record.id).await?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether the job's matrix may have one more at work. Asked for each, as one that is leased here counts for the next.
async fn has_turn(tx: &mut Tx, job: &Job) -> Result<bool> {
    match job.record.plan.combination.as_ref().and_then(|part| part.max_parallel) {
        Some(most) if job.record.epoch == Epoch(0) => Ok(jobs::at_work_beside(&mut tx.conn, &job.record).await? < most),
        _ => Ok(true),
    }
}

/// A job that goes on needs the workspace that its worker has. While that worker lives, no other gets the job; once it is gone,
/// the job begins anew where that is harmless.
async fn fits_workspace(store: &Store, tx: &mut Tx, job: &mut Job, worker: &WorkerId) -> Result<bool> {
    let Some(owner) = job.record.next_step.and(job.record.worker.clone()).filter(|owner| owner != worker) else {
        return Ok(true);
    };
    let harmless = job.record.plan.environment.is_none() || job.record.plan.idempotent;
    if !harmless || workers::is_alive(store, tx, &owner).await? {
        return Ok(false);
    }
    job.record.next_step = None;
    jobs::forget_steps(&mut tx.conn, job.record.id, 0).await?;
    Ok(true)
}

/// The GPUs of the worker that the job gets; none where it asks for none. `None`: too few are free.
async fn gpus_for(tx: &mut Tx, job: &Job, worker: &WorkerId) -> Result<Option<Vec<String>>> {
    let Some(need) = &job.record.plan.gpus else { return Ok(Some(Vec::new())) };
    let free = gpus::free(&mut tx.conn, worker).await?;
    Ok(gpu::pick(free, need).map(|picked| picked.into_iter().map(|gpu| gpu.uuid).collect()))
}

/// The named secrets, for a job of the repository's own code; those that are not set are left out.
async fn secrets(store: &Store, tx: &mut Tx, run: &Run, job: &Job) -> Result<BTreeMap<String, String>> {
    let mut opened = BTreeMap::new();
    if !run.record.trusted {
        return Ok(opened);
    }
    let plan = &job.record.plan;
    for name in &plan.secrets {
        let (repository, environment) = (&run.record.repository, plan.environment.as_deref());
        let stored = plan.stored_secrets.get(name).unwrap_or(name);
        let secret = open_secret(&mut tx.conn, &store.inner.secrets, repository, environment, stored).await?;
        opened.extend(secret.map(|value| (name.clone(), value.as_str().to_owned())));
    }
    Ok(opened)
}

/// What a job can't begin without.
struct Needed {
    secrets: BTreeMap<String, String>,
    /// What it begins with, where that is not nothing.
    restore: Option<Restore>,
    /// The GPUs that it has to itself.
    gpus: Vec<String>,
}

/// Makes the lease and what the worker needs to know.
async fn lease(
    store: &Store,
    tx: &mut Tx,
    request: &ClaimRequest,
    mut run: Run,
    mut job: Job,
    needed: Needed,
) -> Result<(JobClaim, LogRecord)> {
    let length = store.config().timing.lease.0;
    job.becomes(JobStatus::Leased, None, tx.now)?;
    job.record.epoch = job.record.epoch.next();
    job.record.worker = Some(request.worker.clone());
    job.record.lease_until = Some(tx.now + length);
    job.record.heard_at = Some(tx.now);
    job.record.started_at = job.record.started_at.or(Some(tx.now));
    let token = auth::make_token(&auth::job_prefix(job.record.id))?;
    let token_hash = auth::hash_of(token.expose_secret());
    store.remember(token_hash.clone(), (job.record.id, job.record.epoch));
    job.token_hash = Some(token_hash);
    job.incarnation = Some(request.incarnation.clone());
    job.leased_at = Some(tx.now);
    let left = std::time::Duration::from_secs(job.record.plan.timeout_seconds).saturating_sub(job.ran);
    job.deadline = Some(tx.now + left.saturating_add(length * 2));
    jobs::save(&mut tx.conn, &job).await?;
    if !needed.gpus.is_empty() {
        gpus::give(&mut tx.conn, job.record.id, &needed.gpus).await?;
    }
    // what a rerun carries over makes it run before anything of it has begun
    if run.record.status != RunStatus::Running || run.record.started_at.is_none() {
        run.becomes(RunStatus::Running)?;
        run.record.started_at = run.record.started_at.or(Some(tx.now));
        runs::save(&mut tx.conn, &run.record).await?;
    }
    tx.ring(Bell::Run(run.record.id));
    tx.ring(Bell::Leases);
    let log = log_of(store, tx, &job).await?;
    let mut claim = describe(store, tx, &run, job, needed).await?;
    claim.token = Some(token.expose_secret().to_owned());
    Ok((claim, log))
}

/// Where the job's log lies; chosen at its first claim. One that lies in the database is the new lease's from here on.
async fn log_of(store: &Store, tx: &mut Tx, job: &Job) -> Result<LogRecord> {
    let record = &job.record;
    let is_shared = store.logs().is_shared();
    if record.epoch > Epoch(1)
        && let Some(mut log) = jobs::log(&mut tx.conn, record.id).await?
    {
        if is_shared {
            log.bytes = jobs::take_over_log(&mut tx.conn, record.id, record.epoch).await?;
        }
        return Ok(log);
    }
    let path = LogStore::path_for(record.run, record.attempt, &record.plan.key, record.id, tx.now);
    if is_shared {
        jobs::begin_shared_log(&mut tx.conn, record.id, &path, record.epoch, tx.now).await?;
    } else {
        jobs::insert_log(&mut tx.conn, record.id, &path, tx.now).await?;
    }
    Ok(LogRecord { job: record.id, path, bytes: 0, closed: false, removed: false })
}

async fn describe(
    store: &Store,
    tx: &mut Tx,
    run: &Run,
    job: Job,
    Needed { secrets, restore, gpus }: Needed,
) -> Result<JobClaim> {
    let needs = if job.record.plan.needs.is_empty() {
        Vec::new()
    } else {
        let all = jobs::of_attempt(&mut tx.conn, job.record.run, job.record.attempt).await?;
        all.into_iter().filter(|j| job.record.plan.needs.iter().any(|need| need == j.record.plan.file_key())).collect()
    };
    let next_step = match job.begins.filter(|_| restore.is_some()) {
        Some(begins) => {
            jobs::begin_with_steps(&mut tx.conn, &begins, job.record.id).await?;
            Some(begins.step)
        }
        None => job.record.next_step,
    };
    let resume = match next_step {
        Some(next_step) => Some(Resume { next_step, steps: jobs::steps(&mut tx.conn, job.record.id).await? }),
        None => None,
    };
    let configured = store.config().repositories.get(&run.record.repository).and_then(|r| r.clone_url.clone());
    Ok(JobClaim {
        job: job.record.id,
        run: run.record.id,
        attempt: job.record.attempt,
        epoch: job.record.epoch,
        contexts: contexts::of_job(run, &job, &needs, store.config()),
        pipeline_env: job.record.plan.called.as_ref().map_or_else(|| run.env.clone(), |called| called.env.clone()),
        plan: job.record.plan,
        pipeline: run.record.pipeline.clone(),
        secrets,
        repository: run.record.repository.clone(),
        clone_url: configured.or_else(|| run.trigger.clone_url.clone()).unwrap_or_default(),
        mirror: None,
        commit: run.record.commit.clone(),
        trusted: run.record.trusted,
        log_offset: 0,
        restore,
        gpus,
        debug: run.record.terms.shown.debug,
        resume,
        token: None,
        held_ms: None,
    })
}
