//! The workers' API, as [`segue_schemas::worker_api`] describes it. Claims and renewals are long polls: each listens to its
//! bell from before the first look, so that nothing falls between looking and waiting.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body as StreamBody, BodyDataStream},
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, future::select_all};
use http::{Method, StatusCode, header};
use segue_schemas::{
    artifact::Artifact,
    host_api::HostState,
    id::{Digest, Epoch, JobId, RolloutId},
    machine::{AskMachine, MachineAnswer, ReleaseMachine},
    provenance::{AskProvenance, Envelope},
    sync::StepSync,
    worker_api::{
        AskEnded, AttachArtifact, CacheSaved, ClaimRequest, CreateRollout, CreatedRollout, DRAINING, EndedJobs,
        FindCache, Finished, JobClaim, JobFinish, JobHandBack, JobLost, JobReport, JobWait, KeepSnapshot, LogAck,
        Register, Registered, Renew, Renewed, Reported, RolloutHandBack, RolloutRenewed, RolloutReport, SaveCache,
        Serving, StepNotice, StepRollback,
    },
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    App,
    callers::{Caller, HeldBody, HeldQuery, UnderEpoch, under_epoch},
    error::{ApiError, Result},
    extract::{Body, Path},
    hand_over::{HandOver, apart},
};
use crate::{
    artifact_store::Stored,
    control::MAX_SUMMARY_BYTES,
    mirror::RepositoryName,
    reconcile,
    store::{Bell, Listener, StoreError},
};

/// The longest wait of a long poll.
const WAIT_LIMIT: Duration = Duration::from_secs(30);
/// The largest chunk of log in one request.
const CHUNK_LIMIT: usize = 8 * 1024 * 1024;
/// Log bytes that are gathered before they are written.
const GATHER_BYTES: usize = 256 * 1024;
/// How long a part of a body may take to come in.
const BODY_LIMIT: Duration = Duration::from_secs(60);
/// The largest artifact in bytes.
const ARTIFACT_LIMIT: u64 = 16 << 30;

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/register", post(register))
        .route("/jobs/claim", post(claim_job))
        .route("/jobs/ended", post(ended_jobs))
        .route("/jobs/{job}/renew", post(renew_job))
        .route("/jobs/{job}/report", post(report_steps))
        .route("/jobs/{job}/finish", post(finish_job))
        .route("/jobs/{job}/wait", post(wait_job))
        .route("/jobs/{job}/hand-back", post(hand_back_job))
        .route("/jobs/{job}/lost", post(lost_job))
        .route("/jobs/{job}/logs", post(append_log))
        .route("/jobs/{job}/artifacts", post(attach_artifact).get(job_artifacts))
        .route("/jobs/{job}/artifacts/{name}", get(job_artifact))
        .route("/jobs/{job}/provenance", post(state_provenance))
        .route("/jobs/{job}/steps/{step}/summary", put(put_summary))
        .route("/jobs/{job}/caches/find", post(find_cache))
        .route("/jobs/{job}/caches", post(save_cache))
        .route("/jobs/{job}/machines", post(ask_machine))
        .route("/jobs/{job}/machines/release", post(release_machine))
        .route("/jobs/{job}/snapshots", post(keep_snapshot))
        .route("/jobs/{job}/rollouts", post(create_rollout))
        .route("/jobs/{job}/rollback", post(step_rollback))
        .route("/jobs/{job}/sync", post(step_sync))
        .route("/jobs/{job}/serving/{environment}/{service}", get(serving))
        .route("/jobs/{job}/notify", post(step_notice))
        // GET answers HEAD as well
        .route("/artifacts/{digest}", get(get_artifact).put(put_artifact))
        .route("/rollouts/claim", post(claim_rollout))
        .route("/rollouts/{rollout}/renew", post(renew_rollout))
        .route("/rollouts/{rollout}/journal", post(report_rollout))
        .route("/rollouts/{rollout}/hand-back", post(hand_back_rollout))
        .route("/hosts/{host}/state", post(host_state))
}

async fn register(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(register): Body<Register>,
) -> Result<Json<Registered>> {
    tracing::info!(worker = %register.worker, capacity = register.capacity, "a worker registers");
    let mut registered = app.store.register_worker_with(caller.token(), register).await?;
    if let Some(queue) = &app.queue {
        queue.looks.ask();
    }
    registered.max_log_chunk = registered.max_log_chunk.min(CHUNK_LIMIT as u64);
    Ok(Json(registered))
}

async fn claim_job(State(app): State<Arc<App>>, caller: Caller, Body(request): Body<ClaimRequest>) -> Result<Response> {
    caller.may_claim(&app, &request).await?;
    let mut poll = Poll::new(&app, Bell::Jobs, request.wait_ms);
    let begun = Instant::now();
    loop {
        let held_ms = u64::try_from(begun.elapsed().as_millis()).ok();
        let (asked, wanted) = (app.clone(), request.clone());
        let claimed = apart(async move {
            let Some(claim) = asked.store.claim_job(&wanted).await? else { return Ok::<_, StoreError>(None) };
            Ok(Some(handed_over(&asked, claim, held_ms).await))
        });
        if let Some(claim) = claimed.await?? {
            // there may be more, and others who wait for a bell
            if let Some(queue) = &app.queue {
                queue.looks.ask();
            }
            return claim.into_response();
        }
        if !poll.wait().await {
            return nothing_for(&app, &request).await;
        }
    }
}

/// The answer to whoever gets no job. One who takes nothing new is told, and so takes no bells; the one that it may have taken
/// is rung for another.
async fn nothing_for(app: &App, request: &ClaimRequest) -> Result<Response> {
    let mut answer = StatusCode::NO_CONTENT.into_response();
    if let Some(queue) = &app.queue
        && app.store.is_draining(&request.worker).await?
    {
        queue.looks.ask();
        answer.headers_mut().insert(DRAINING, header::HeaderValue::from_static("yes"));
    }
    Ok(answer)
}

/// Held open until a job has ended of which the worker keeps something.
async fn ended_jobs(State(app): State<Arc<App>>, Body(asked): Body<AskEnded>) -> Result<Json<EndedJobs>> {
    let until = Instant::now() + Duration::from_millis(asked.wait_ms).min(WAIT_LIMIT);
    loop {
        // which runs to listen to is known after a look, and what rang before the listening is seen by another
        let open = app.store.look_at_kept(&asked.jobs).await?.open;
        let mut listeners: Vec<_> = open.into_iter().map(|run| app.store.doorbell().listen(Bell::Run(run))).collect();
        let ended = app.store.look_at_kept(&asked.jobs).await?.ended;
        if !ended.is_empty() || listeners.is_empty() {
            return Ok(Json(EndedJobs { jobs: ended }));
        }
        let rung = select_all(listeners.iter_mut().map(|listener| Box::pin(listener.rung())));
        tokio::select! {
            _ = rung => {}
            () = tokio::time::sleep_until(until) => return Ok(Json(EndedJobs { jobs: Vec::new() })),
            () = app.stopping.cancelled() => return Ok(Json(EndedJobs { jobs: Vec::new() })),
        }
    }
}

/// A job that was leased, on its way to its worker; `held_ms` as [`JobClaim`] has it.
async fn handed_over(app: &App, claim: JobClaim, held_ms: Option<u64>) -> HandOver<JobClaim> {
    let claim = JobClaim { held_ms, ..completed(app, claim).await };
    HandOver::of_job(app.store.clone(), claim)
}

/// Fills in what the store does not know: where the repository lies.
async fn completed(app: &App, mut claim: JobClaim) -> JobClaim {
    if let Ok(repository) = RepositoryName::parse(&claim.repository) {
        // where another server may have planned the run, this one may not have its commit
        let may_lack = app.store.server().is_some();
        if may_lack && !app.mirrors.contains(&repository, &claim.commit).await.unwrap_or(false) {
            return claim;
        }
        claim.mirror = Some(app.mirrors.path(&repository).display().to_string());
    }
    claim
}

async fn renew_job(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldBody(renew): HeldBody<Renew>,
) -> Result<Json<Renewed>> {
    let mut poll = Poll::new(&app, Bell::Job(job), renew.wait_ms);
    let mut cancel = app.store.renew_job(job, renew.epoch).await?.cancel;
    while !cancel && poll.wait().await {
        cancel = app.store.job_cancel_requested(job, renew.epoch).await?;
    }
    Ok(Json(Renewed { cancel }))
}

async fn report_steps(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldBody(report): HeldBody<JobReport>,
) -> Result<Json<Reported>> {
    Ok(Json(app.store.report_steps(job, report).await?))
}

/// The end of a job, which may ask for the next one.
async fn finish_job(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(job): Path<JobId>,
    HeldBody(mut finish): HeldBody<JobFinish>,
) -> Result<Response> {
    let next = match finish.next.take() {
        // who may not claim is told so when it asks for a job alone; the end is taken all the same
        Some(next) => caller.may_claim(&app, &next).await.ok().map(|()| next),
        None => None,
    };
    let Some(next) = next else {
        let Reported { cancel } = app.store.finish_job(job, finish).await?;
        return Ok(Json(Finished { cancel, next: None }).into_response());
    };
    let asked = app.clone();
    let both = apart(async move {
        let (ended, claimed) = asked.store.finish_and_claim(job, finish, &next).await;
        let claimed = match claimed {
            // counted from when the end was sent, which was before this was leased
            Ok(Some(claim)) => Some(handed_over(&asked, claim, Some(0)).await),
            Ok(None) => None,
            Err(error) => {
                // the worker asks again by itself, and is told then
                tracing::debug!(%error, worker = %next.worker, "an end brings no job");
                None
            }
        };
        (ended, claimed)
    });
    let (ended, claimed) = both.await?;
    let Reported { cancel } = ended?;
    let Some(claimed) = claimed else { return Ok(Json(Finished { cancel, next: None }).into_response()) };
    if let Some(queue) = &app.queue {
        queue.looks.ask();
    }
    claimed.within(|next| Finished { cancel, next })
}

async fn wait_job(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldBody(wait): HeldBody<JobWait>,
) -> Result<Json<Reported>> {
    Ok(Json(app.store.wait_job(job, wait).await?))
}

async fn hand_back_job(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldBody(hand_back): HeldBody<JobHandBack>,
) -> Result<Json<Reported>> {
    Ok(Json(app.store.hand_back_job(job, hand_back).await?))
}

async fn lost_job(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldBody(lost): HeldBody<JobLost>,
) -> Result<Json<Reported>> {
    Ok(Json(app.store.lost_job(job, lost).await?))
}

#[derive(Deserialize)]
struct ChunkQuery {
    epoch: Epoch,
    offset: u64,
}

/// Writes the body to the log as it comes in. What was written before the body broke off stays, and is not sent again:
/// the acknowledged offset says how far the log is.
async fn append_log(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldQuery(chunk): HeldQuery<ChunkQuery>,
    body: StreamBody,
) -> Result<Json<LogAck>> {
    let mut parts = Parts::new(body, CHUNK_LIMIT as u64);
    let mut offset = chunk.offset;
    loop {
        let gathered = parts.gather(GATHER_BYTES).await?;
        // an empty body asks how far the log is
        if gathered.is_empty() && offset > chunk.offset {
            return Ok(Json(LogAck { offset }));
        }
        let end = offset + gathered.len() as u64;
        let ack = app.store.append_log(job, chunk.epoch, offset, gathered).await?;
        // a gap, or further than this chunk reaches: the worker goes on from where the log is
        if ack.offset != end || parts.ended {
            return Ok(Json(ack));
        }
        offset = end;
    }
}

async fn attach_artifact(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldBody(attach): HeldBody<AttachArtifact>,
) -> Result<Json<Artifact>> {
    Ok(Json(app.store.attach_artifact(job, attach).await?))
}

async fn state_provenance(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldBody(ask): HeldBody<AskProvenance>,
) -> Result<Json<Envelope>> {
    Ok(Json(app.store.state_provenance(job, ask).await?))
}

/// Asks for a machine, or for news of it: held back while what is known is all that there is to know.
async fn ask_machine(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldBody(ask): HeldBody<AskMachine>,
) -> Result<Json<MachineAnswer>> {
    let mut poll = Poll::new(&app, Bell::Machines, ask.wait_ms);
    let (epoch, number, known) = (ask.epoch, ask.ask, ask.known);
    let mut answer = app.store.ask_machine(job, ask).await?;
    while known == Some(answer.version) && poll.wait().await {
        answer = app.store.machine_of_ask(job, epoch, number).await?;
    }
    Ok(Json(answer))
}

async fn release_machine(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldBody(release): HeldBody<ReleaseMachine>,
) -> Result<Json<Reported>> {
    Ok(Json(app.store.release_machine(job, release).await?))
}

async fn job_artifact(State(app): State<Arc<App>>, Path((job, name)): Path<(JobId, String)>) -> Result<Json<Artifact>> {
    Ok(Json(app.store.job_artifact(job, &name).await?))
}

async fn job_artifacts(State(app): State<Arc<App>>, Path(job): Path<JobId>) -> Result<Json<Vec<Artifact>>> {
    Ok(Json(app.store.job_artifacts(job).await?))
}

#[derive(Deserialize)]
struct EpochQuery {
    epoch: Epoch,
}

under_epoch!(ChunkQuery, EpochQuery);

async fn put_summary(
    State(app): State<Arc<App>>,
    Path((job, step)): Path<(JobId, usize)>,
    HeldQuery(query): HeldQuery<EpochQuery>,
    body: StreamBody,
) -> Result<Json<Reported>> {
    let bytes = Parts::new(body, MAX_SUMMARY_BYTES as u64).gather(MAX_SUMMARY_BYTES + 1).await?;
    let text = String::from_utf8(bytes.into()).map_err(|_| ApiError::bad_request("a summary is a text in UTF-8"))?;
    Ok(Json(app.store.put_summary(job, query.epoch, step, text).await?))
}

async fn find_cache(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldBody(find): HeldBody<FindCache>,
) -> Result<Response> {
    Ok(match app.store.find_cache(job, find).await? {
        Some(found) => Json(found).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

async fn save_cache(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldBody(save): HeldBody<SaveCache>,
) -> Result<Json<CacheSaved>> {
    Ok(Json(app.store.save_cache(job, save).await?))
}

async fn keep_snapshot(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldBody(keep): HeldBody<KeepSnapshot>,
) -> Result<StatusCode> {
    app.store.keep_snapshot(job, keep).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn step_sync(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldBody(ask): HeldBody<StepSync>,
) -> Result<Json<CreatedRollout>> {
    Ok(Json(app.store.step_sync(job, ask).await?))
}

async fn step_rollback(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldBody(ask): HeldBody<StepRollback>,
) -> Result<Json<CreatedRollout>> {
    Ok(Json(app.store.step_rollback(job, ask).await?))
}

async fn serving(
    State(app): State<Arc<App>>,
    Path((job, environment, service)): Path<(JobId, String, String)>,
) -> Result<Json<Serving>> {
    Ok(Json(app.store.serving_for(job, &environment, &service).await?))
}

async fn step_notice(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldBody(notice): HeldBody<StepNotice>,
) -> Result<Json<Reported>> {
    Ok(Json(app.store.step_notice(job, notice).await?))
}

async fn create_rollout(
    State(app): State<Arc<App>>,
    Path(job): Path<JobId>,
    HeldBody(create): HeldBody<CreateRollout>,
) -> Result<Json<CreatedRollout>> {
    Ok(Json(app.store.create_rollout(job, create).await?))
}

async fn put_artifact(State(app): State<Arc<App>>, Path(digest): Path<Digest>, body: StreamBody) -> Result<StatusCode> {
    let mut parts = Parts::new(body, ARTIFACT_LIMIT);
    // from here on it is kept for a while: whoever brings it is about to name it
    let wanted = app.store.artifact_wanted(&digest).await;
    if !matches!(wanted, Ok(None)) {
        parts.discard().await;
        return Ok(wanted.map(|_| StatusCode::OK)?);
    }
    let taken = take(&app, &digest, &mut parts).await;
    if taken.is_err() {
        // so that the sender gets to the answer, which says why
        parts.discard().await;
    }
    Ok(if taken?.new { StatusCode::CREATED } else { StatusCode::OK })
}

async fn take(app: &App, digest: &Digest, parts: &mut Parts) -> Result<Stored> {
    let mut upload = app.store.artifacts().upload(digest, ARTIFACT_LIMIT).await?;
    while let Some(part) = parts.next().await? {
        upload.write(part).await?;
    }
    Ok(app.store.keep_content(digest, upload).await?)
}

async fn get_artifact(State(app): State<Arc<App>>, method: Method, Path(digest): Path<Digest>) -> Result<Response> {
    let absent = || ApiError::not_found(format!("there is no artifact {digest}"));
    // who asks whether it is here is about to name it, and sends nothing if it is
    let (bytes, body) = if method == Method::HEAD {
        (app.store.artifact_wanted(&digest).await?.ok_or_else(absent)?, StreamBody::empty())
    } else {
        let content = app.store.artifacts().read(&digest).await?.ok_or_else(absent)?;
        (content.bytes, StreamBody::from_stream(content.stream))
    };
    let head = [(header::CONTENT_TYPE, "application/zstd".to_owned()), (header::CONTENT_LENGTH, bytes.to_string())];
    Ok((head, body).into_response())
}

async fn claim_rollout(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(request): Body<ClaimRequest>,
) -> Result<Response> {
    caller.may_claim(&app, &request).await?;
    let mut poll = Poll::new(&app, Bell::Rollouts, request.wait_ms);
    loop {
        let (store, request) = (app.store.clone(), request.clone());
        let claimed = apart(async move {
            let claim = store.claim_rollout(&request).await?;
            Ok::<_, StoreError>(claim.map(|claim| HandOver::of_rollout(store, claim)))
        });
        if let Some(claim) = claimed.await?? {
            return claim.into_response();
        }
        if !poll.wait().await {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
}

async fn renew_rollout(
    State(app): State<Arc<App>>,
    Path(rollout): Path<RolloutId>,
    HeldBody(renew): HeldBody<Renew>,
) -> Result<Json<RolloutRenewed>> {
    let mut poll = Poll::new(&app, Bell::Rollout(rollout), renew.wait_ms);
    let mut renewed = app.store.renew_rollout(rollout, renew.epoch).await?;
    while renewed.command.is_none() && poll.wait().await {
        renewed = app.store.rollout_command(rollout, renew.epoch).await?;
    }
    Ok(Json(renewed))
}

async fn report_rollout(
    State(app): State<Arc<App>>,
    Path(rollout): Path<RolloutId>,
    Body(report): Body<RolloutReport>,
) -> Result<Json<Reported>> {
    Ok(Json(app.store.report_rollout(rollout, report).await?))
}

async fn hand_back_rollout(
    State(app): State<Arc<App>>,
    Path(rollout): Path<RolloutId>,
    Body(hand_back): Body<RolloutHandBack>,
) -> Result<Json<Reported>> {
    Ok(Json(app.store.hand_back_rollout(rollout, hand_back).await?))
}

/// What a host carries, told by a worker that has just reached it: what was done there without the server is put on record.
async fn host_state(
    State(app): State<Arc<App>>,
    Path(host): Path<String>,
    Body(state): Body<HostState>,
) -> Result<Json<Reported>> {
    reconcile::host(&app.store, &host, &state).await?;
    Ok(Json(Reported { cancel: false }))
}

/// A long poll: a listener and the time until which it may wait.
struct Poll {
    listener: Listener,
    until: Instant,
    stopping: tokio_util::sync::CancellationToken,
}

impl Poll {
    fn new(app: &App, bell: Bell, wait_ms: u64) -> Self {
        let until = Instant::now() + Duration::from_millis(wait_ms).min(WAIT_LIMIT);
        Self { listener: app.store.doorbell().listen(bell), until, stopping: app.stopping.clone() }
    }

    /// Whether the bell rang before the time was over and before the server stops.
    async fn wait(&mut self) -> bool {
        tokio::select! {
            () = self.listener.rung() => true,
            () = tokio::time::sleep_until(self.until) => false,
            () = self.stopping.cancelled() => false,
        }
    }
}

/// A body part by part, bounded in bytes and in the time of each part.
struct Parts {
    stream: BodyDataStream,
    left: u64,
    limit: u64,
    ended: bool,
}

impl Parts {
    fn new(body: StreamBody, limit: u64) -> Self {
        Self { stream: body.into_data_stream(), left: limit, limit, ended: false }
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let part = tokio::time::timeout(BODY_LIMIT, self.stream.next());
        match part.await.map_err(|_| ApiError::timeout("the body did not come in time"))? {
            None => {
                self.ended = true;
                Ok(None)
            }
            Some(Err(error)) => Err(ApiError::bad_request(format!("the body broke off: {error}"))),
            Some(Ok(part)) => {
                self.left = self.left.checked_sub(part.len() as u64).ok_or(ApiError::too_large(self.limit))?;
                Ok(Some(part))
            }
        }
    }

    /// Reads the rest, so that the sender gets to the answer and the connection can be used again.
    async fn discard(&mut self) {
        while let Ok(Some(_)) = self.next().await {}
    }

    /// The next parts as one, of at least `bytes` unless the body ends before. One that is large enough is not copied.
    async fn gather(&mut self, bytes: usize) -> Result<Bytes> {
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        if first.len() >= bytes {
            return Ok(first);
        }
        let mut gathered = BytesMut::with_capacity(bytes + first.len());
        gathered.extend_from_slice(&first);
        while gathered.len() < bytes {
            match self.next().await? {
                Some(part) => gathered.extend_from_slice(&part),
                None => break,
            }
        }
        Ok(gathered.freeze())
    }
}
