//! The client of the worker's API ([`segue_schemas::worker_api`]).
//!
//! One method per request, one try per call, each under its own time limit. What may be tried again is told apart by
//! type: [`ControlPlaneError::Unreachable`] says nothing about whether the server did it, and every call is made so
//! that doing it again changes nothing, so [`retry`] repeats exactly those, for as long as its caller allows.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    net::IpAddr,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::StreamExt;
use rand::Rng;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, header};
use secrecy::{ExposeSecret, SecretString};
use segue_schemas::{
    artifact::Artifact,
    host_api::{ArtifactSource, HostState},
    id::{Digest, Epoch, JobId, RolloutId, WorkerId},
    machine::{AskMachine, MachineAnswer, ReleaseMachine},
    provenance::{AskProvenance, Envelope},
    strategy::NEWER,
    sync::StepSync,
    worker_api::{
        AskEnded, AttachArtifact, CacheEntry, CacheSaved, ClaimRequest, CreateRollout, CreatedRollout, DRAINING,
        EndedJobs, ErrorBody, FindCache, Finished, JobClaim, JobFinish, JobHandBack, JobLost, JobReport, JobWait,
        KeepSnapshot, LogAck, Register, Registered, Renew, Renewed, Reported, RolloutClaim, RolloutHandBack,
        RolloutRenewed, RolloutReport, SaveCache, Serving, StepNotice, StepRollback,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use uuid::Uuid;

use crate::options::WorkerOptions;

/// Time limit for a connection to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Time limit of a call that the server answers as fast as it can.
const CALL_LIMIT: Duration = Duration::from_secs(15);
/// Added to the wait of a long poll.
const POLL_SLACK: Duration = Duration::from_secs(10);
/// An artifact's transfer is given up when it is slower than this.
const SLOWEST_TRANSFER_BYTES_PER_SECOND: u64 = 256 * 1024;
/// Bytes of an error's body that are kept.
const MAX_ERROR_BODY: usize = 8 * 1024;
/// Pauses between tries grow from the first to the second of these.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// The lease is another's by now: whatever this worker does for it must stop, and nothing was changed.
    #[error("{call}: the lease has ended ({message}); its work stops here")]
    StaleEpoch {
        /// Method and path.
        call: String,
        /// The server's words.
        message: String,
    },
    /// The token does not open the server.
    #[error(
        "{call}: the server at {server} does not accept this worker's token ({message}); give it a token that the server knows (segue worker token create)"
    )]
    Unauthorized {
        /// Method and path.
        call: String,
        /// The server's address.
        server: String,
        /// The server's words.
        message: String,
    },
    /// No answer, or one that says that the server can't at the moment. Whether it was done is unknown; trying again is safe.
    #[error("{call}: the server at {server} can't be reached: {reason}")]
    Unreachable {
        /// Method and path.
        call: String,
        /// The server's address.
        server: String,
        /// What happened.
        reason: String,
    },
    /// The server understood and said no; trying again changes nothing.
    #[error("{call}: refused by the server ({status}, {code}): {message}")]
    Refused {
        /// Method and path.
        call: String,
        /// The HTTP status.
        status: u16,
        /// The server's word for programs.
        code: String,
        /// The server's words for people.
        message: String,
    },
    /// The answer is not what the API promises: another version, or not a Segue server.
    #[error("{call}: the server's answer can't be read ({reason}); do server and worker have the same version?")]
    Unreadable {
        /// Method and path.
        call: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of this machine could not be read or written.
    #[error("{call}: {reason}")]
    Local {
        /// Method and path.
        call: String,
        /// What happened.
        reason: String,
    },
}

impl ControlPlaneError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether the lease is lost.
    #[must_use]
    pub const fn is_stale_epoch(&self) -> bool {
        matches!(self, Self::StaleEpoch { .. })
    }

    /// The server's word for programs, where it refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }
}

/// Repeats `call` while the server can't be reached, for at most `limit` after the first failure, with growing pauses.
///
/// # Errors
/// The last failure: [`ControlPlaneError::Unreachable`] after `limit`, any other at once.
pub async fn retry<T, F, Fut>(limit: Duration, mut call: F) -> Result<T, ControlPlaneError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, ControlPlaneError>>,
{
    let mut pause = RETRY_PAUSES.0;
    let mut give_up_at: Option<Instant> = None;
    loop {
        match call().await {
            Err(error) if error.is_unreachable() => {
                let left =
                    give_up_at.get_or_insert_with(|| Instant::now() + limit).saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(error);
                }
                tracing::debug!(%error, left_seconds = left.as_secs(), "trying again");
                let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0)).min(left);
                tokio::time::sleep(jittered).await;
                pause = (pause * 2).min(RETRY_PAUSES.1);
            }
            other => return other,
        }
    }
}

/// A server, as one start of one worker sees it. Cheap to clone; connections are shared and kept.
#[derive(Clone)]
pub struct ControlPlane {
    client: Client,
    base: Url,
    token: SecretString,
    /// The tokens of the leases that are held here: what concerns a job is asked for with its own.
    job_tokens: Arc<Mutex<HashMap<JobId, (Epoch, SecretString)>>>,
    /// Whether the last claim that brought nothing was told that the worker is to take nothing new.
    draining: Arc<AtomicBool>,
    worker: WorkerId,
    incarnation: String,
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlPlane").field("base", &self.base.as_str()).field("worker", &self.worker).finish()
    }
}

impl ControlPlane {
    /// A client for `server_url` (`http://127.0.0.1:8080`) under a new incarnation of `worker`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ControlPlaneError::Local`] where the address is none, or no TLS provider is installed.
    pub fn new(server_url: &str, token: SecretString, worker: WorkerId) -> Result<Self, ControlPlaneError> {
        let local =
            |reason: String| ControlPlaneError::Local { call: format!("server address `{server_url}`"), reason };
        let mut base = Url::parse(server_url).map_err(|e| local(format!("{e}; write http://HOST:PORT")))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(local("it must begin with http:// or https://".into()));
        }
        base.set_path(&format!("{}/api/v1/worker/", base.path().trim_end_matches('/')));
        let mut client = Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("segue-worker/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&base) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|e| local(chain(&e)))?;
        let incarnation = Uuid::new_v4().simple().to_string();
        Ok(Self { client, base, token, job_tokens: Arc::default(), draining: Arc::default(), worker, incarnation })
    }

    /// The worker's name.
    #[must_use]
    pub const fn worker(&self) -> &WorkerId {
        &self.worker
    }

    /// Says who this worker is. Must come before anything else, once per start.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn register(&self, options: &WorkerOptions) -> Result<Registered, ControlPlaneError> {
        let body = Register {
            worker: self.worker.clone(),
            incarnation: self.incarnation.clone(),
            labels: options.offered(),
            capacity: options.capacity,
            gpus: options.gpus.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        self.post("register", &body, CALL_LIMIT).await
    }

    /// Asks for a job and waits up to `wait` (at most 30 s) for one.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn claim_job(&self, labels: &[String], wait: Duration) -> Result<Option<JobClaim>, ControlPlaneError> {
        let request = self.claim_request(labels, wait);
        let path = "jobs/claim";
        let asked = self.request(Method::POST, path)?.timeout(wait + POLL_SLACK).json(&request);
        let response = self.send("POST", path, asked).await?;
        let mut claim: Option<JobClaim> = if response.status() == StatusCode::NO_CONTENT {
            self.draining.store(response.headers().contains_key(DRAINING), Ordering::Relaxed);
            None
        } else {
            Some(self.read_json(path, response).await?)
        };
        if let Some(claim) = &mut claim {
            self.keep_token(claim);
        }
        Ok(claim)
    }

    fn keep_token(&self, claim: &mut JobClaim) {
        if let Some(token) = claim.token.take() {
            self.job_tokens().insert(claim.job, (claim.epoch, token.into()));
        }
    }

    /// Whether the server has said that this worker is to take nothing new: then a bell is better taken by another.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Forgets the token of a lease that is over.
    pub fn forget(&self, job: JobId, epoch: Epoch) {
        let mut tokens = self.job_tokens();
        // a newer lease of the same job may be held here already
        if tokens.get(&job).is_some_and(|(of, _)| *of == epoch) {
            tokens.remove(&job);
        }
    }

    fn job_tokens(&self) -> MutexGuard<'_, HashMap<JobId, (Epoch, SecretString)>> {
        self.job_tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which of the jobs have ended; held open up to `wait` while none has.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn ended_jobs(&self, jobs: &[JobId], wait: Duration) -> Result<EndedJobs, ControlPlaneError> {
        let body = AskEnded { jobs: jobs.to_vec(), wait_ms: millis(wait) };
        self.post("jobs/ended", &body, wait + POLL_SLACK).await
    }

    /// Renews a job's lease; the answer is held back up to `wait` while there is no word for the worker.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn renew_job(&self, job: JobId, epoch: Epoch, wait: Duration) -> Result<Renewed, ControlPlaneError> {
        let body = Renew { epoch, wait_ms: millis(wait) };
        self.post(&format!("jobs/{job}/renew"), &body, wait + POLL_SLACK).await
    }

    /// Reports steps that started or ended.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn report(&self, job: JobId, report: &JobReport) -> Result<Reported, ControlPlaneError> {
        self.post(&format!("jobs/{job}/report"), report, CALL_LIMIT).await
    }

    /// Reports a job's end, which may ask for the slot's next job.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn finish(&self, job: JobId, finish: &JobFinish) -> Result<Finished, ControlPlaneError> {
        let path = format!("jobs/{job}/finish");
        if finish.next.is_some() {
            // the lease's token opens no other job
            let request = self.request_as(&self.token, Method::POST, &path)?.timeout(CALL_LIMIT).json(finish);
            match self.send("POST", &path, request).await {
                // the worker's token was revoked meanwhile: what it holds it may end
                Err(ControlPlaneError::Unauthorized { .. }) => {}
                answer => {
                    let mut finished: Finished = self.read_json(&path, answer?).await?;
                    finished.next.iter_mut().for_each(|next| self.keep_token(next));
                    return Ok(finished);
                }
            }
        }
        self.post(&path, &JobFinish { next: None, ..finish.clone() }, CALL_LIMIT).await
    }

    /// What asks for another job at once, as part of a job's end.
    #[must_use]
    pub fn next_request(&self, labels: &[String]) -> ClaimRequest {
        self.claim_request(labels, Duration::ZERO)
    }

    /// Gives a job's slot back while its rollout goes on.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn wait(&self, job: JobId, wait: &JobWait) -> Result<Reported, ControlPlaneError> {
        self.post(&format!("jobs/{job}/wait"), wait, CALL_LIMIT).await
    }

    /// Hands a job back, to be queued again.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn hand_back(&self, job: JobId, hand_back: &JobHandBack) -> Result<Reported, ControlPlaneError> {
        self.post(&format!("jobs/{job}/hand-back"), hand_back, CALL_LIMIT).await
    }

    /// Says that a job's lease could not be renewed, and that it was stopped.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn lost(&self, job: JobId, lost: &JobLost) -> Result<Reported, ControlPlaneError> {
        self.post(&format!("jobs/{job}/lost"), lost, CALL_LIMIT).await
    }

    /// Sends one chunk of a job's log, which begins at `offset` of it. An answer means that it is stored.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn append_log(
        &self,
        job: JobId,
        epoch: Epoch,
        offset: u64,
        chunk: Bytes,
    ) -> Result<LogAck, ControlPlaneError> {
        let path = format!("jobs/{job}/logs?epoch={epoch}&offset={offset}");
        let request = self
            .request(Method::POST, &path)?
            .timeout(CALL_LIMIT * 2)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(chunk);
        self.read_json(&path, self.send("POST", &path, request).await?).await
    }

    /// Whether the server has an artifact.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn has_artifact(&self, digest: &Digest) -> Result<bool, ControlPlaneError> {
        let path = format!("artifacts/{digest}");
        let request = self.request(Method::HEAD, &path)?.timeout(CALL_LIMIT);
        match self.send("HEAD", &path, request).await {
            Ok(_) => Ok(true),
            Err(ControlPlaneError::Refused { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Uploads an artifact, `bytes` long, from `file`. The same content again changes nothing.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn upload_artifact(&self, digest: &Digest, file: &Path, bytes: u64) -> Result<(), ControlPlaneError> {
        let path = format!("artifacts/{digest}");
        let content = tokio::fs::File::open(file).await.map_err(|e| ControlPlaneError::Local {
            call: format!("PUT {path}"),
            reason: format!("{}: {e}", file.display()),
        })?;
        let request = self
            .request(Method::PUT, &path)?
            .timeout(transfer_limit(bytes))
            .header(header::CONTENT_TYPE, "application/zstd")
            .header(header::CONTENT_LENGTH, bytes)
            .body(content);
        self.send("PUT", &path, request).await.map(drop)
    }

    /// Downloads an artifact, `bytes` long, into `into`, and checks that its content is what its name says.
    ///
    /// # Errors
    /// [`ControlPlaneError::Unreadable`] where the content is another; what was written is to be thrown away after any error.
    pub async fn download_artifact(
        &self,
        digest: &Digest,
        bytes: u64,
        into: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), ControlPlaneError> {
        let path = format!("artifacts/{digest}");
        let call = format!("GET {path}");
        let request = self.request(Method::GET, &path)?.timeout(transfer_limit(bytes));
        let mut stream = self.send("GET", &path, request).await?.bytes_stream();
        let mut hash = Sha256::new();
        while let Some(block) = stream.next().await {
            let block = block.map_err(|e| self.unreachable(&call, chain(&e)))?;
            hash.update(&block);
            into.write_all(&block)
                .await
                .map_err(|e| ControlPlaneError::Local { call: call.clone(), reason: e.to_string() })?;
        }
        into.flush().await.map_err(|e| ControlPlaneError::Local { call: call.clone(), reason: e.to_string() })?;
        let found = hex::encode(hash.finalize());
        if found != digest.hex() {
            return Err(ControlPlaneError::Unreadable { call, reason: format!("its content is sha256:{found}") });
        }
        Ok(())
    }

    /// Where a host without access to this machine's files fetches an artifact from.
    #[must_use]
    pub fn artifact_source(&self, digest: &Digest) -> ArtifactSource {
        let url = format!("{}artifacts/{digest}", self.base);
        ArtifactSource::Url { url, token: self.token.expose_secret().to_owned() }
    }

    /// Names an uploaded artifact in the job's run.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn attach_artifact(&self, job: JobId, attach: &AttachArtifact) -> Result<Artifact, ControlPlaneError> {
        self.post(&format!("jobs/{job}/artifacts"), attach, CALL_LIMIT).await
    }

    /// What the server states, signed, of images that a step has pushed.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn state_provenance(&self, job: JobId, ask: &AskProvenance) -> Result<Envelope, ControlPlaneError> {
        self.post(&format!("jobs/{job}/provenance"), ask, CALL_LIMIT).await
    }

    /// Asks for a machine, or for news of it; the answer is held back up to `ask.wait_ms` (at most 30 s) while there is none.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn ask_machine(&self, job: JobId, ask: &AskMachine) -> Result<MachineAnswer, ControlPlaneError> {
        let limit = Duration::from_millis(ask.wait_ms) + POLL_SLACK;
        self.post(&format!("jobs/{job}/machines"), ask, limit).await
    }

    /// Gives a machine of the job's run back.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn release_machine(&self, job: JobId, release: &ReleaseMachine) -> Result<Reported, ControlPlaneError> {
        self.post(&format!("jobs/{job}/machines/release"), release, CALL_LIMIT).await
    }

    /// The artifact that a job of the same attempt named so; `None` where there is none.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn artifact(&self, job: JobId, name: &str) -> Result<Option<Artifact>, ControlPlaneError> {
        let path = format!("jobs/{job}/artifacts/{}", path_segment(name));
        let request = self.request(Method::GET, &path)?.timeout(CALL_LIMIT);
        match self.send("GET", &path, request).await {
            Ok(response) => self.read_json(&path, response).await.map(Some),
            Err(ControlPlaneError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every artifact of the job's attempt.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn artifacts(&self, job: JobId) -> Result<Vec<Artifact>, ControlPlaneError> {
        let path = format!("jobs/{job}/artifacts");
        let request = self.request(Method::GET, &path)?.timeout(CALL_LIMIT);
        let response = self.send("GET", &path, request).await?;
        self.read_json(&path, response).await
    }

    /// Keeps a step's summary; another one of the same step takes its place.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn put_summary(
        &self,
        job: JobId,
        epoch: Epoch,
        step: usize,
        text: &str,
    ) -> Result<Reported, ControlPlaneError> {
        let path = format!("jobs/{job}/steps/{step}/summary?epoch={epoch}");
        let request = self
            .request(Method::PUT, &path)?
            .timeout(CALL_LIMIT)
            .header(header::CONTENT_TYPE, "text/markdown; charset=utf-8")
            .body(text.to_owned());
        let response = self.send("PUT", &path, request).await?;
        self.read_json(&path, response).await
    }

    /// Looks for a cache; `None` where none fits.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn find_cache(&self, job: JobId, find: &FindCache) -> Result<Option<CacheEntry>, ControlPlaneError> {
        self.post_for_work(&format!("jobs/{job}/caches/find"), find, CALL_LIMIT).await
    }

    /// Keeps an uploaded content as a cache.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn save_cache(&self, job: JobId, save: &SaveCache) -> Result<CacheSaved, ControlPlaneError> {
        self.post(&format!("jobs/{job}/caches"), save, CALL_LIMIT).await
    }

    /// Keeps an uploaded content as what a job's directories held before a step.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn keep_snapshot(&self, job: JobId, keep: &KeepSnapshot) -> Result<(), ControlPlaneError> {
        let path = format!("jobs/{job}/snapshots");
        let request = self.request(Method::POST, &path)?.timeout(CALL_LIMIT).json(keep);
        self.send("POST", &path, request).await.map(drop)
    }

    /// What serves as a service in an environment; `None` where nothing does.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn serving(
        &self,
        job: JobId,
        environment: &str,
        service: &str,
    ) -> Result<Option<Serving>, ControlPlaneError> {
        let path = format!("jobs/{job}/serving/{}/{}", path_segment(environment), path_segment(service));
        let request = self.request(Method::GET, &path)?.timeout(CALL_LIMIT);
        match self.send("GET", &path, request).await {
            Ok(response) => self.read_json(&path, response).await.map(Some),
            Err(ControlPlaneError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for the way back to an earlier release; the same step of the same job gets the same rollout.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn step_rollback(&self, job: JobId, ask: &StepRollback) -> Result<CreatedRollout, ControlPlaneError> {
        self.post(&format!("jobs/{job}/rollback"), ask, CALL_LIMIT).await
    }

    /// Asks for data of another environment; the same step of the same job gets the same rollout.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn step_sync(&self, job: JobId, ask: &StepSync) -> Result<CreatedRollout, ControlPlaneError> {
        self.post(&format!("jobs/{job}/sync"), ask, CALL_LIMIT).await
    }

    /// Tells people something; the same step tells once.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn notify(&self, job: JobId, notice: &StepNotice) -> Result<Reported, ControlPlaneError> {
        self.post(&format!("jobs/{job}/notify"), notice, CALL_LIMIT).await
    }

    /// Asks for a rollout; the same step of the same job gets the same one.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn create_rollout(
        &self,
        job: JobId,
        create: &CreateRollout,
    ) -> Result<CreatedRollout, ControlPlaneError> {
        self.post(&format!("jobs/{job}/rollouts"), create, CALL_LIMIT).await
    }

    /// Asks for a rollout to drive and waits up to `wait` (at most 30 s) for one.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn claim_rollout(
        &self,
        labels: &[String],
        wait: Duration,
    ) -> Result<Option<RolloutClaim>, ControlPlaneError> {
        self.post_for_work("rollouts/claim", &self.claim_request(labels, wait), wait + POLL_SLACK).await
    }

    /// Renews a rollout's lease; the answer is held back up to `wait` while there is no command.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn renew_rollout(
        &self,
        rollout: RolloutId,
        epoch: Epoch,
        wait: Duration,
    ) -> Result<RolloutRenewed, ControlPlaneError> {
        let body = Renew { epoch, wait_ms: millis(wait) };
        self.post(&format!("rollouts/{rollout}/renew"), &body, wait + POLL_SLACK).await
    }

    /// Writes to a rollout's journal; durable when it answers.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn journal(&self, rollout: RolloutId, report: &RolloutReport) -> Result<Reported, ControlPlaneError> {
        self.post(&format!("rollouts/{rollout}/journal"), report, CALL_LIMIT).await
    }

    /// Hands a rollout back, to be claimed again at once or after a pause.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn hand_back_rollout(
        &self,
        rollout: RolloutId,
        hand_back: &RolloutHandBack,
    ) -> Result<Reported, ControlPlaneError> {
        self.post(&format!("rollouts/{rollout}/hand-back"), hand_back, CALL_LIMIT).await
    }

    /// Tells what a host carries.
    ///
    /// # Errors
    /// See [`ControlPlaneError`].
    pub async fn tell_host(&self, host: &str, state: &HostState) -> Result<Reported, ControlPlaneError> {
        self.post(&format!("hosts/{}/state", path_segment(host)), state, CALL_LIMIT).await
    }

    fn claim_request(&self, labels: &[String], wait: Duration) -> ClaimRequest {
        ClaimRequest {
            worker: self.worker.clone(),
            incarnation: self.incarnation.clone(),
            labels: labels.to_vec(),
            wait_ms: millis(wait),
            strategies: NEWER.map(Into::into).to_vec(),
        }
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<T, ControlPlaneError> {
        let request = self.request(Method::POST, path)?.timeout(limit).json(body);
        self.read_json(path, self.send("POST", path, request).await?).await
    }

    async fn post_for_work<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<Option<T>, ControlPlaneError> {
        let request = self.request(Method::POST, path)?.timeout(limit).json(body);
        let response = self.send("POST", path, request).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        self.read_json(path, response).await.map(Some)
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, ControlPlaneError> {
        let of_job = path.strip_prefix("jobs/").and_then(|rest| rest.split_once('/')?.0.parse::<JobId>().ok());
        let tokens = self.job_tokens();
        let token = of_job.and_then(|job| tokens.get(&job)).map_or(&self.token, |(_, token)| token);
        self.request_as(token, method, path)
    }

    fn request_as(
        &self,
        token: &SecretString,
        method: Method,
        path: &str,
    ) -> Result<RequestBuilder, ControlPlaneError> {
        let url = self.base.join(path).map_err(|e| ControlPlaneError::Local {
            call: format!("{method} {path}"),
            reason: format!("not an address: {e}"),
        })?;
        Ok(self.client.request(method, url).bearer_auth(token.expose_secret()))
    }

    async fn send(&self, method: &str, path: &str, request: RequestBuilder) -> Result<Response, ControlPlaneError> {
        let call = || format!("{method} {}", path.split('?').next().unwrap_or(path));
        let response = request.send().await.map_err(|e| self.unreachable(&call(), chain(&e)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(self.refusal(call(), status, response).await)
    }

    async fn refusal(&self, call: String, status: StatusCode, response: Response) -> ControlPlaneError {
        let (code, message) = read_error(response).await;
        let server = self.base.origin().ascii_serialization();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                ControlPlaneError::Unauthorized { call, server, message }
            }
            StatusCode::CONFLICT if code == "stale_epoch" => ControlPlaneError::StaleEpoch { call, message },
            // The server is there but can't: its store is full or locked, or it is going down.
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                ControlPlaneError::Unreachable { call, server, reason: format!("it answers {status}: {message}") }
            }
            _ => ControlPlaneError::Refused { call, status: status.as_u16(), code, message },
        }
    }

    async fn read_json<T: DeserializeOwned>(&self, path: &str, response: Response) -> Result<T, ControlPlaneError> {
        let call = path.split('?').next().unwrap_or(path);
        let body = response.bytes().await.map_err(|e| self.unreachable(call, chain(&e)))?;
        serde_json::from_slice(&body)
            .map_err(|e| ControlPlaneError::Unreadable { call: call.to_owned(), reason: e.to_string() })
    }

    fn unreachable(&self, call: &str, reason: String) -> ControlPlaneError {
        let server = self.base.origin().ascii_serialization();
        ControlPlaneError::Unreachable { call: call.to_owned(), server, reason }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        None => false,
    }
}

/// The error's body, read up to a bound: `(code, message)`.
async fn read_error(response: Response) -> (String, String) {
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(Ok(block)) = stream.next().await {
        body.extend_from_slice(&block);
        if body.len() >= MAX_ERROR_BODY {
            break;
        }
    }
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(error) => (error.error.code, error.error.message),
        Err(_) => ("unknown".into(), String::from_utf8_lossy(&body).chars().take(300).collect()),
    }
}

/// The error with its causes; `reqwest` shows the last of them alone.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn transfer_limit(bytes: u64) -> Duration {
    CALL_LIMIT * 2 + Duration::from_secs(bytes / SLOWEST_TRANSFER_BYTES_PER_SECOND)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A text as one segment of a path (RFC 3986 section 3.3): what is not unreserved is percent-encoded.
fn path_segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => segment.push(char::from(byte)),
            b'.' if text != "." && text != ".." => segment.push('.'),
            _ => segment.push_str(&format!("%{byte:02X}")),
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_within_its_segment() {
        assert_eq!(path_segment("app-1.2_x"), "app-1.2_x");
        assert_eq!(path_segment("../../secret"), "..%2F..%2Fsecret");
        assert_eq!(path_segment(".."), "%2E%2E");
        assert_eq!(path_segment("ü?#"), "%C3%BC%3F%23");
    }

    #[tokio::test]
    async fn only_an_unreachable_server_is_tried_again() {
        let unreachable =
            || ControlPlaneError::Unreachable { call: "x".into(), server: "s".into(), reason: "gone".into() };
        let mut calls = 0;
        let answer = retry(Duration::from_secs(5), || {
            calls += 1;
            let result = if calls < 3 { Err(unreachable()) } else { Ok(calls) };
            async move { result }
        })
        .await;
        assert_eq!(answer.unwrap(), 3);

        let mut calls = 0;
        let answer: Result<(), _> = retry(Duration::from_secs(5), || {
            calls += 1;
            async { Err(ControlPlaneError::StaleEpoch { call: "x".into(), message: "2 is newer".into() }) }
        })
        .await;
        assert!(answer.unwrap_err().is_stale_epoch());
        assert_eq!(calls, 1);

        let answer: Result<(), _> = retry(Duration::from_millis(120), || async { Err(unreachable()) }).await;
        assert!(answer.unwrap_err().is_unreachable());
    }
}
